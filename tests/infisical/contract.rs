//! The contract of a provider, for both versions of the API.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use secretwell::infisical::{ApiVersion, InfisicalProvider};
use secretwell::{SecretKey, SecretProvider};
use secretwell_testkit::{Calls, Fault, FaultProxy, GARBAGE, Harness, Supports, conformance_tests};

use super::place::Place;

conformance_tests!(v3, Folder::new(ApiVersion::V3).await);
conformance_tests!(v4, Folder::new(ApiVersion::V4).await);

/// A folder behind a proxy, if a proxy can be there.
struct Folder {
    place: Place,
    proxy: Option<FaultProxy>,
    provider: Arc<InfisicalProvider>,
    wait: Mutex<Option<Duration>>,
}

impl Folder {
    async fn new(api: ApiVersion) -> Self {
        let place = Place::new(api).await;
        let proxy = match place.address() {
            Some(address) => Some(FaultProxy::start(address).await),
            None => None,
        };
        Self {
            provider: Arc::new(provider(&place, proxy.as_ref())),
            place,
            proxy,
            wait: Mutex::default(),
        }
    }

    fn set(&self, fault: Fault) {
        self.proxy.as_ref().unwrap().set(fault);
    }
}

fn provider(place: &Place, proxy: Option<&FaultProxy>) -> InfisicalProvider {
    let builder = match proxy {
        Some(proxy) => place.provider_at(&format!("http://{}", proxy.address())),
        None => place.provider(),
    };
    let builder = builder.api(place.api);
    let quick = |client: secretwell::infisical::ClientConfig| {
        client
            .deadline(Duration::from_millis(2500))
            .attempt_timeout(Duration::from_secs(2))
    };
    // Some of the values look like references.
    let builder = builder.without_reference_expansion().client(quick);
    builder.build().unwrap()
}

#[async_trait]
impl Harness for Folder {
    fn provider(&self) -> Arc<dyn SecretProvider> {
        self.provider.clone()
    }

    async fn seed(&self, key: &SecretKey, value: &[u8]) {
        let text = std::str::from_utf8(value).unwrap();
        self.place.write(key.prefix(), key.name(), text).await;
    }

    async fn delete(&self, key: &SecretKey) {
        self.place.delete(key.prefix(), key.name()).await;
    }

    fn another(&self) -> Option<Arc<dyn SecretProvider>> {
        let another = provider(&self.place, self.proxy.as_ref());
        Some(Arc::new(another))
    }

    /// A real server takes nothing away on command.
    fn supports(&self) -> Supports {
        let (fake, proxy) = (self.place.fake.is_some(), self.proxy.is_some());
        Supports {
            empty_values: true,
            trims_values: true,
            network: proxy,
            throttle: proxy,
            garble: proxy,
            stall: proxy,
            calls: proxy,
            deny: fake,
            login: fake,
            expire: fake,
            ..Supports::default()
        }
    }

    async fn break_network(&self) {
        self.set(Fault::Cut);
    }

    /// The wait that was told holds for whatever the provider asks, so it is over first.
    async fn heal(&self) {
        self.set(Fault::None);
        let wait = self.wait.lock().unwrap().take();
        if let Some(wait) = wait {
            tokio::time::pause();
            tokio::time::advance(wait).await;
            tokio::time::resume();
        }
    }

    async fn deny(&self, key: &SecretKey) {
        let (place, folder) = (&self.place, self.place.folder_path(key.prefix()));
        let fake = place.as_fake();
        fake.deny(&place.identity, &place.environment, &folder);
    }

    async fn revoke_login(&self) {
        let fake = self.place.as_fake();
        fake.revoke_client_secret(&self.place.identity);
        fake.revoke_tokens();
    }

    async fn fix_login(&self) {
        let secret = self
            .place
            .as_fake()
            .renew_client_secret(&self.place.identity);
        self.place.write_client_secret(&secret);
    }

    async fn expire_token(&self) {
        self.place.as_fake().revoke_tokens();
    }

    async fn throttle(&self, wait: Duration) {
        let answer = format!(
            "HTTP/1.1 429 Too Many Requests\r\nretry-after: {}\r\nconnection: close\r\n\r\n\
             {{\"statusCode\":429,\"message\":\"Rate limit exceeded\",\"error\":\"RateLimitExceeded\"}}",
            wait.as_secs()
        );
        self.set(Fault::Respond(answer.into()));
        *self.wait.lock().unwrap() = Some(wait);
    }

    async fn garble(&self) {
        let body = format!("<html>{GARBAGE}</html>");
        let answer = format!(
            "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
            body.len()
        );
        self.set(Fault::Respond(answer.into()));
    }

    async fn stall(&self) {
        self.set(Fault::Stall);
    }

    fn calls(&self) -> Calls {
        let count = |start| self.proxy.as_ref().map_or(0, |proxy| proxy.count(start));
        Calls {
            reads: count("GET /api/v3/secrets") + count("GET /api/v4/secrets"),
            logins: count("POST /api/v1/auth/universal-auth/login"),
        }
    }

    fn tokens(&self) -> Vec<String> {
        vec![self.place.client_secret()]
    }

    /// Each in a folder of its own: the fake allows or denies folders.
    fn good_keys(&self) -> Vec<&'static str> {
        vec!["one/A", "two/AUTH_SECRET", "db/PASSWORD", "odd-1/a.b-c"]
    }
}
