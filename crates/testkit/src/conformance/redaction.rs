//! The test that no output contains a secret.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use secretwell_core::{Error, KeyPrefix, SecretKey, SecretProvider, Version};

use super::{Outcome, key, valid_keys, within};
use crate::{Canary, CanaryLog, ForeignResponse, Harness};

/// No debug output, error, error source or log record contains a value or a token of the login. The test
/// calls every method of the provider, with every fault that the harness supports.
///
/// It records the log of the calling thread, so run it in a current-thread runtime.
pub async fn redaction(h: &dyn Harness) -> Outcome {
    let log = CanaryLog::install();
    let [first, second] = valid_keys(h);
    let canaries = [Canary::new("value"), Canary::new("other value")];
    let check = Check {
        h,
        provider: h.provider(),
        keys: [first, second, key("NEVER_WRITTEN")],
        canaries,
    };
    for (key, canary) in check.keys.iter().zip(&check.canaries) {
        h.seed(key, canary.text().as_bytes()).await;
    }
    check.call_all().await;
    check.call_all_with_faults().await;
    log.assert_clean(&check.canaries().iter().collect::<Vec<_>>());
    Outcome::Passed
}

struct Check<'a> {
    h: &'a dyn Harness,
    provider: Arc<dyn SecretProvider>,
    keys: [SecretKey; 3],
    canaries: [Canary; 2],
}

impl Check<'_> {
    /// Returns canaries for the values and for all tokens that exist so far.
    fn canaries(&self) -> Vec<Canary> {
        let mut canaries = self.canaries.to_vec();
        for token in self.h.tokens() {
            canaries.push(Canary::from_text(token).with_label("token"));
        }
        canaries
    }

    async fn call_all_with_faults(&self) {
        let (h, supports) = (self.h, self.h.supports());
        if supports.token_expiry {
            h.expire_token().await;
            self.call_all().await;
        }
        if supports.network {
            h.break_network().await;
            self.call_all().await;
            h.clear_faults().await;
        }
        if supports.rate_limit {
            h.rate_limit(Duration::from_secs(90)).await;
            self.call_all().await;
            h.clear_faults().await;
        }
        if supports.corrupt_responses {
            h.corrupt_responses().await;
            self.call_all().await;
            h.clear_faults().await;
        }
        if supports.foreign_responses {
            // An error page can repeat what it was given.
            let page = ForeignResponse::new("error page", 404, self.canaries[0].text());
            h.respond_with(&page.with_header("content-type", "text/plain"))
                .await;
            self.call_all().await;
            h.clear_faults().await;
        }
        if supports.stall {
            h.stall().await;
            self.call_all().await;
            h.clear_faults().await;
        }
        if supports.deny {
            h.deny(&self.keys[0]).await;
            self.call_all().await;
        }
        if supports.login {
            h.revoke_login().await;
            self.call_all().await;
            h.restore_login().await;
            self.call_all().await;
        }
        h.delete(&self.keys[1]).await;
        self.call_all().await;
    }

    /// Calls every method of the provider and checks its output.
    async fn call_all(&self) {
        let provider = &self.provider;
        let stream = provider.watch();
        let mut versions = vec![Version::numbered(1), Version::numbered(999_999)];
        for key in &self.keys {
            let result = within("a read", provider.get(key)).await;
            versions.extend(result.as_ref().ok().and_then(|s| s.version.clone()));
            self.check_output(&result);
        }
        for result in within("a batch read", provider.get_many(&self.keys)).await {
            self.check_output(&result);
        }
        for version in &versions {
            let pinned = provider.get_version(&self.keys[0], version);
            self.check_output(&within("a read of a version", pinned).await);
        }
        self.check_output(&within("a list", provider.list(&KeyPrefix::root())).await);
        self.check_output(&within("a health check", provider.health()).await);
        for canary in self.canaries() {
            canary.assert_hidden(provider);
            canary.assert_hidden(&stream);
            canary.assert_hidden(&versions);
            canary.assert_not_in(provider.origin().as_str(), "the origin");
        }
    }

    fn check_output<T: fmt::Debug>(&self, result: &Result<T, Error>) {
        for canary in self.canaries() {
            canary.assert_hidden(result);
            if let Err(error) = result {
                canary.assert_hidden_error(error);
            }
        }
    }
}
