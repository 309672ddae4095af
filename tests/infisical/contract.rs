//! Conformance tests of the provider, for both versions of the API.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use secretwell::infisical::{ApiVersion, InfisicalProvider};
use secretwell::{SecretKey, SecretProvider};
use secretwell_testkit::{
    CORRUPT_MARKER, Calls, Fault, FaultProxy, ForeignResponse, Harness, Supports, conformance_tests,
};

use super::place::Place;

conformance_tests!(v3, InfisicalHarness::new(ApiVersion::V3).await);
conformance_tests!(v4, InfisicalHarness::new(ApiVersion::V4).await);

/// A test folder, with a proxy in front of the server if its address allows one.
struct InfisicalHarness {
    place: Place,
    proxy: Option<FaultProxy>,
    provider: Arc<InfisicalProvider>,
    /// The wait of the last 429.
    retry_after: Mutex<Option<Duration>>,
}

impl InfisicalHarness {
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
            retry_after: Mutex::default(),
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
    let short_deadline = |client: secretwell::infisical::ClientConfig| {
        client
            .deadline(Duration::from_millis(2500))
            .attempt_timeout(Duration::from_secs(2))
    };
    // Some of the test values contain `${…}`, which must not be expanded.
    let builder = builder.without_reference_expansion().client(short_deadline);
    builder.build().unwrap()
}

#[async_trait]
impl Harness for InfisicalHarness {
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

    fn second_provider(&self) -> Option<Arc<dyn SecretProvider>> {
        let provider = provider(&self.place, self.proxy.as_ref());
        Some(Arc::new(provider))
    }

    /// A test cannot revoke permissions or logins on a real server, so only the fake supports these.
    fn supports(&self) -> Supports {
        let (fake, proxy) = (self.place.fake.is_some(), self.proxy.is_some());
        Supports {
            empty_values: true,
            trims_whitespace: true,
            network: proxy,
            rate_limit: proxy,
            corrupt_responses: proxy,
            foreign_responses: proxy,
            stall: proxy,
            call_counts: proxy,
            deny: fake,
            login: fake,
            token_expiry: fake,
            ..Supports::default()
        }
    }

    async fn break_network(&self) {
        self.set(Fault::Close);
    }

    /// Also advances the clock by the wait of a 429, because the provider sends no request before its end.
    async fn clear_faults(&self) {
        self.set(Fault::None);
        let wait = self.retry_after.lock().unwrap().take();
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

    async fn restore_login(&self) {
        let secret = self
            .place
            .as_fake()
            .rotate_client_secret(&self.place.identity);
        self.place.write_client_secret(&secret);
    }

    async fn expire_token(&self) {
        self.place.as_fake().revoke_tokens();
    }

    async fn rate_limit(&self, wait: Duration) {
        let response = format!(
            "HTTP/1.1 429 Too Many Requests\r\nretry-after: {}\r\nconnection: close\r\n\r\n\
             {{\"statusCode\":429,\"message\":\"Rate limit exceeded\",\"error\":\"RateLimitExceeded\"}}",
            wait.as_secs()
        );
        self.set(Fault::Respond(response.into()));
        *self.retry_after.lock().unwrap() = Some(wait);
    }

    /// Corrupts only reads, because a login has a response of another shape.
    async fn corrupt_responses(&self) {
        let body = format!("{{\"secrets\":\"{CORRUPT_MARKER}\"}}");
        let response = ForeignResponse::new("corrupt", 200, body)
            .with_header("content-type", "application/json");
        let proxy = self.proxy.as_ref().unwrap();
        proxy.set_for("GET ", Fault::Foreign(response));
    }

    async fn respond_with(&self, response: &ForeignResponse) {
        self.set(Fault::Foreign(response.clone()));
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

    /// Each key is in its own folder, because the fake denies whole folders.
    fn valid_keys(&self) -> Vec<&'static str> {
        vec!["one/A", "two/AUTH_SECRET", "db/PASSWORD", "odd-1/a.b-c"]
    }
}
