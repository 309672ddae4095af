//! The servers at a configured address: one for each network address of its host.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use secretwell_core::Error;
use tokio::net::lookup_host;
use tokio::time::Instant;

use crate::config::Address;
use crate::endpoint::{Endpoint, Route, Settings};

/// The time after which a name is looked up again.
const MAX_AGE: Duration = Duration::from_secs(10);
/// The time after which it is looked up again if that failed, or if no server has responded.
const MIN_AGE: Duration = Duration::from_secs(1);
/// The maximum number of addresses of a name that are used.
const MAX_ADDRESSES: usize = 16;

type Looking = Pin<Box<dyn Future<Output = io::Result<Vec<SocketAddr>>> + Send>>;
/// A name service. Its arguments are a name and a port.
pub(crate) type NameService = Arc<dyn Fn(String, u16) -> Looking + Send + Sync>;

/// Returns the name service of the operating system.
pub(crate) fn system() -> NameService {
    Arc::new(|name, port| Box::pin(async move { Ok(lookup_host((name, port)).await?.collect()) }))
}

/// A configured address with its servers.
pub(crate) struct Site {
    index: usize,
    authority: Arc<str>,
    base: Address,
    settings: Arc<Settings>,
    /// The name that is looked up, with the port. `None` if there is nothing to look up.
    name: Option<(String, u16)>,
    names: NameService,
    /// Held during a lookup. Only one runs at a time.
    lookup: Arc<tokio::sync::Mutex<()>>,
    known: Mutex<Known>,
}

struct Known {
    endpoints: Vec<Arc<Endpoint>>,
    looked_up: Option<Instant>,
    /// Whether the last lookup has returned addresses in time.
    is_current: bool,
    /// Whether no server has responded since then.
    all_failed: bool,
}

impl Site {
    /// Creates the servers at `address`. Requests use `base`, whose host is the expected server name. Without
    /// a `route`, the host is an IP address or a name that is looked up.
    pub(crate) fn new(
        index: usize,
        address: &Address,
        base: Address,
        route: Option<Route>,
        settings: Arc<Settings>,
        names: NameService,
    ) -> Result<Self, Error> {
        let port = address.port();
        let ip = address.host().parse::<IpAddr>().ok();
        let direct = ip.map(|ip| Route::Direct(SocketAddr::new(ip, port)));
        let route = route.or(direct);
        let mut site = Self {
            index,
            authority: address.authority().into(),
            base,
            settings,
            name: route.is_none().then(|| (address.host().to_owned(), port)),
            names,
            lookup: Arc::default(),
            known: Mutex::new(Known {
                endpoints: Vec::new(),
                looked_up: None,
                is_current: false,
                all_failed: false,
            }),
        };
        let endpoint = site.endpoint(route.unwrap_or(Route::Unresolved))?;
        let known = site.known.get_mut();
        let known = known.unwrap_or_else(PoisonError::into_inner);
        known.endpoints.push(Arc::new(endpoint));
        Ok(site)
    }

    /// Adds the servers to `endpoints`.
    pub(crate) fn add_endpoints(&self, endpoints: &mut Vec<Arc<Endpoint>>) {
        endpoints.extend_from_slice(&self.known().endpoints);
    }

    /// Returns whether there is only one server.
    pub(crate) fn is_single(&self) -> bool {
        self.known().endpoints.len() == 1
    }

    /// Returns whether a network address is known, or needs not be known.
    pub(crate) fn is_resolved(&self) -> bool {
        self.name.is_none() || self.known().endpoints[0].socket().is_some()
    }

    /// Returns whether requests can be sent to a server without another lookup.
    pub(crate) fn is_usable(&self) -> bool {
        self.is_resolved() && !self.known().all_failed
    }

    /// Returns whether the name must be looked up now.
    pub(crate) fn is_due(&self) -> bool {
        let known = self.known();
        let max_age = match known.is_current && !known.all_failed {
            true => MAX_AGE,
            false => MIN_AGE,
        };
        self.name.is_some() && known.looked_up.is_none_or(|at| at.elapsed() >= max_age)
    }

    /// Requires a lookup before the next round, because no server has responded.
    pub(crate) fn mark_failed(&self) {
        self.known().all_failed = true;
    }

    /// Starts to look the name up, unless that is under way. If it fails, the servers stay the same.
    ///
    /// The lookup is a task of its own, because a caller that does not wait for a slow name service must not end it.
    pub(crate) fn start_lookup(self: &Arc<Self>) {
        let Some((name, port)) = self.name.clone() else {
            return;
        };
        let Ok(lookup) = Arc::clone(&self.lookup).try_lock_owned() else {
            return;
        };
        let site = Arc::clone(self);
        tokio::spawn(async move {
            let found = (site.names)(name, port).await;
            let is_current = site.replace(found.unwrap_or_default());
            site.mark_looked_up(is_current);
            drop(lookup);
        });
    }

    /// Waits until no lookup is under way.
    pub(crate) async fn looked_up(&self) {
        drop(self.lookup.lock().await);
    }

    /// Requires no lookup for a while, a short one unless the addresses are known to be current.
    pub(crate) fn mark_looked_up(&self, is_current: bool) {
        let mut known = self.known();
        known.is_current = is_current;
        known.looked_up = Some(Instant::now());
        known.all_failed = false;
    }

    /// Keeps the servers at the addresses `found`, with their connections, and adds the missing ones. Without any, the
    /// servers stay the same. Returns whether there are any.
    fn replace(&self, found: Vec<SocketAddr>) -> bool {
        let before = self.known().endpoints.clone();
        let mut endpoints: Vec<Arc<Endpoint>> = Vec::new();
        for socket in alternating(found) {
            let is = |endpoint: &&Arc<Endpoint>| endpoint.socket() == Some(socket);
            if endpoints.len() == MAX_ADDRESSES || endpoints.iter().any(|known| is(&known)) {
                continue;
            }
            let endpoint = match before.iter().find(is) {
                Some(known) => Ok(Arc::clone(known)),
                None => self.endpoint(Route::Direct(socket)).map(Arc::new),
            };
            // The settings were valid before, so this is not an error.
            endpoints.extend(endpoint);
        }
        let is_found = !endpoints.is_empty();
        if is_found {
            self.known().endpoints = endpoints;
        }
        is_found
    }

    fn endpoint(&self, route: Route) -> Result<Endpoint, Error> {
        Endpoint::new(
            self.index,
            Arc::clone(&self.authority),
            self.base.clone(),
            route,
            Arc::clone(&self.settings),
        )
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Orders addresses so that IPv6 and IPv4 alternate, beginning with the family of the first one. One of them might
/// not be reachable.
fn alternating(found: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let starts_with_v6 = found.first().is_some_and(SocketAddr::is_ipv6);
    let (first, second): (Vec<_>, Vec<_>) = found
        .into_iter()
        .partition(|address| address.is_ipv6() == starts_with_v6);
    let length = first.len().max(second.len());
    (0..length)
        .flat_map(|index| [first.get(index), second.get(index)])
        .flatten()
        .copied()
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_of_addresses_alternate() {
        let ordered = |texts: &[&str]| {
            let addresses = texts.iter().map(|text| text.parse().unwrap());
            let ordered = alternating(addresses.collect()).into_iter();
            ordered.map(|it| it.to_string()).collect::<Vec<_>>()
        };
        let v6 = ["[::1]:1", "[::2]:1", "[::3]:1"];
        let all = [&v6[..], &["1.1.1.1:1"]].concat();
        assert_eq!(ordered(&all), [v6[0], "1.1.1.1:1", v6[1], v6[2]]);
        assert_eq!(ordered(&["1.1.1.1:1", v6[0]]), ["1.1.1.1:1", v6[0]]);
        assert!(ordered(&[]).is_empty());
    }
}
