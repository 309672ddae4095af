//! The configured servers, and single attempts to send a request to them.

use std::env;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::header::LOCATION;
use secretwell_core::Error;
use tokio::time::{Instant, timeout_at};

use crate::config::{Address, ClientConfig};
use crate::endpoint::{Endpoint, Route, Settings, lock};
use crate::error::invalid;
use crate::failure::Failure;
use crate::names::{NameService, Site, system};
use crate::proxy::Proxy;
use crate::request::Request;
use crate::response::Response;
use crate::tls::Tls;

#[cfg(test)]
pub(crate) mod tests;

/// The time after a response during which its server is expected to respond to the next request.
const RESPONSIVE_FOR: Duration = Duration::from_secs(1);

/// The servers of one client, with their connections.
pub(crate) struct Servers {
    settings: Arc<Settings>,
    /// One for each configured address.
    sites: Vec<Arc<Site>>,
    /// The server that responded last, and when.
    preferred: Mutex<Option<(Arc<Endpoint>, Instant)>>,
    /// The last failure of all servers, and when.
    last_failure: Mutex<Option<(Error, Instant)>>,
}

impl Servers {
    /// Checks the settings, and reads the certificates. Opens no connection.
    pub(crate) fn new(config: ClientConfig) -> Result<Self, Error> {
        Self::with_name_service(config, system())
    }

    pub(crate) fn with_name_service(
        config: ClientConfig,
        names: NameService,
    ) -> Result<Self, Error> {
        config.check()?;
        let tls = Tls::new(&config.tls)?;
        let settings = Arc::new(Settings { config, tls });
        let addresses = settings.config.addresses.iter().enumerate();
        let sites = addresses
            .map(|(index, address)| {
                let route = route(&settings.config, address)?;
                let base = base(&settings.config, address, route.as_ref())?;
                let (settings, names) = (Arc::clone(&settings), Arc::clone(&names));
                Site::new(index, address, base, route, settings, names).map(Arc::new)
            })
            .collect::<Result<_, Error>>()?;
        Ok(Self {
            sites,
            settings,
            preferred: Mutex::new(None),
            last_failure: Mutex::new(None),
        })
    }

    pub(crate) fn config(&self) -> &ClientConfig {
        &self.settings.config
    }

    /// Returns whether there is only one server.
    pub(crate) fn is_single(&self) -> bool {
        matches!(&*self.sites, [site] if site.is_single())
    }

    /// Returns the servers in the order of the next attempts. The server that responded last is the first, and
    /// those that failed recently are at the end.
    pub(crate) fn order(&self) -> Vec<Arc<Endpoint>> {
        let mut order = Vec::new();
        for site in &self.sites {
            site.add_endpoints(&mut order);
        }
        if let Some((preferred, _)) = &*lock(&self.preferred) {
            let first = order.iter().position(|it| Arc::ptr_eq(it, preferred));
            order.rotate_left(first.unwrap_or_default());
        }
        // The key of an endpoint can change meanwhile.
        order.sort_by_cached_key(|endpoint| endpoint.failed_recently());
        order
    }

    pub(crate) fn mark_responsive(&self, endpoint: &Arc<Endpoint>) {
        endpoint.mark_responsive();
        *lock(&self.preferred) = Some((Arc::clone(endpoint), Instant::now()));
    }

    /// Returns whether the first server in the [order](Self::order) is expected to respond.
    pub(crate) fn is_responsive(&self) -> bool {
        lock(&self.preferred)
            .as_ref()
            .is_some_and(|(endpoint, at)| {
                at.elapsed() < RESPONSIVE_FOR && !endpoint.failed_recently()
            })
    }

    /// Notes that no server has responded. Names are then looked up again.
    pub(crate) fn mark_all_failed(&self) {
        for site in &self.sites {
            site.mark_failed();
        }
    }

    /// Records why all servers have failed.
    pub(crate) fn record_failure(&self, error: &Error) {
        *lock(&self.last_failure) = Some((error.clone(), Instant::now()));
    }

    /// Returns the last failure of all servers since `since`, unless a server has responded after it.
    pub(crate) fn failure_since(&self, since: Instant) -> Option<Error> {
        let (error, at) = lock(&self.last_failure).clone()?;
        let has_responded = lock(&self.preferred)
            .as_ref()
            .is_some_and(|(_, responded)| at < *responded);
        (since <= at && !has_responded).then_some(error)
    }

    /// Looks up the names of the addresses that have no current result. Waits only if no server can be used, and for
    /// a short time. The lookups then continue in the background.
    pub(crate) async fn look_up_names(&self, deadline: Instant) {
        let due: Vec<_> = self.sites.iter().filter(|site| site.is_due()).collect();
        due.iter().for_each(|site| site.start_lookup());
        if due.is_empty() || self.sites.iter().any(|site| site.is_usable()) {
            return;
        }
        let config = self.config();
        let limit = match self.sites.iter().any(|site| site.is_resolved()) {
            true => config.hedge.min(config.connect),
            false => config.connect,
        };
        let all = async {
            for site in &due {
                site.looked_up().await;
            }
        };
        let until = deadline.min(Instant::now() + limit);
        if timeout_at(until, all).await.is_err() {
            due.iter()
                .filter(|site| site.is_resolved())
                .for_each(|site| site.mark_looked_up(false));
        }
    }

    /// Sends `request` to the server `endpoint` and follows at most one redirect. Returns the server that responded or
    /// failed. Ends at `deadline`, and each exchange also after the attempt timeout. If `relaxed`, the consistency
    /// header is omitted.
    pub(crate) async fn attempt(
        &self,
        endpoint: Arc<Endpoint>,
        request: &Request,
        relaxed: bool,
        deadline: Instant,
    ) -> (Arc<Endpoint>, Result<Response, Failure>) {
        let response = match self.exchange(&endpoint, request, relaxed, deadline).await {
            Ok(response) => response,
            failed => return (endpoint, failed),
        };
        match self.redirect(&endpoint, &response, request) {
            Ok(None) => (endpoint, Ok(response)),
            Err(failure) => (endpoint, Err(failure)),
            Ok(Some(other)) => {
                let result = Box::pin(self.exchange(&other, request, relaxed, deadline)).await;
                (other, result)
            }
        }
    }

    /// Waits for a permit of `endpoint`, and sends `request` to it.
    async fn exchange(
        &self,
        endpoint: &Endpoint,
        request: &Request,
        relaxed: bool,
        deadline: Instant,
    ) -> Result<Response, Failure> {
        let _permit = endpoint.permit(deadline).await?;
        let now = Instant::now();
        let remaining = deadline.saturating_duration_since(now);
        let limit = self.config().attempt.filter(|limit| *limit <= remaining);
        let end = now + limit.unwrap_or(remaining);
        match (endpoint.exchange(request, relaxed, now, end).await, limit) {
            (Ok(result), _) => result,
            (Err(_), Some(limit)) => Err(Failure::Timeout(limit)),
            (Err(_), None) => Err(Failure::Deadline(remaining)),
        }
    }

    /// Returns the server at the configured address that `response` redirects to. A redirect is followed only for the same
    /// path and query, so that a token never reaches another server.
    fn redirect(
        &self,
        from: &Endpoint,
        response: &Response,
        request: &Request,
    ) -> Result<Option<Arc<Endpoint>>, Failure> {
        // Other 3xx statuses, such as 304, are not redirects.
        if !matches!(response.status.as_u16(), 301 | 302 | 303 | 307 | 308) {
            return Ok(None);
        }
        let target = response
            .headers
            .get(LOCATION)
            .and_then(|value| value.to_str().ok())
            .and_then(|text| reqwest::Url::parse(text).ok())
            .ok_or(Failure::Redirect)?;
        let addresses = &self.config().addresses;
        let known = addresses.iter().position(|address| {
            let url = address.url(request.path());
            address.is_server_of(&target)
                && url.path() == target.path()
                && url.query() == target.query()
        });
        match known {
            Some(known) => {
                let mut order = self.order().into_iter();
                Ok(order.find(|endpoint| endpoint.index() == known))
            }
            None if addresses[from.index()].is_upgraded_by(&target) => Err(Failure::RedirectToTls),
            None => Err(Failure::Redirect),
        }
    }
}

/// Returns how the server at `address` is reached. `None` if its host must be looked up first.
fn route(config: &ClientConfig, address: &Address) -> Result<Option<Route>, Error> {
    if let Some(path) = &config.unix_socket {
        return Ok(Some(Route::Socket(path.clone())));
    }
    if !address.uses_tls() || address.is_loopback() {
        return Ok(None);
    }
    let variable = |name: &str| env::var(name).ok();
    let proxy = Proxy::choose(&config.proxy, address.host(), address.port(), &variable)?;
    Ok(proxy.map(Route::Proxy))
}

/// Returns `address` with the configured server name as its host. The HTTP library then verifies the
/// certificate for that name and sends it in the handshake.
fn base(config: &ClientConfig, address: &Address, route: Option<&Route>) -> Result<Address, Error> {
    match &config.tls.server_name {
        Some(name) if address.uses_tls() && name != address.host() => {
            if matches!(route, Some(Route::Proxy(_))) {
                return Err(
                    invalid("an expected server name cannot be combined with a proxy")
                        .with_hint("use that name in the address, or add `proxy=none` to the URL"),
                );
            }
            match name.parse::<IpAddr>() {
                Ok(_) => Ok(address.clone()),
                Err(_) => address.with_host(name),
            }
        }
        _ => Ok(address.clone()),
    }
}
