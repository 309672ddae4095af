//! Nothing secret shows.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use secretwell_core::{Error, KeyPrefix, SecretKey, SecretProvider, Version};

use super::{Outcome, good_keys, key, within};
use crate::{Canary, CanaryLog, Harness};

/// Neither a value nor a token of the login is in any debug output, error, cause or log record,
/// whatever is asked and whatever fails.
///
/// The log is that of the calling thread: run this in a current-thread runtime.
pub async fn redaction(h: &dyn Harness) -> Outcome {
    let log = CanaryLog::install();
    let [first, second] = good_keys(h);
    let canaries = [Canary::new("value"), Canary::new("other value")];
    let scene = Scene {
        h,
        provider: h.provider(),
        keys: [first, second, key("NEVER_WRITTEN")],
        canaries,
    };
    for (key, canary) in scene.keys.iter().zip(&scene.canaries) {
        h.seed(key, canary.text().as_bytes()).await;
    }
    scene.look().await;
    scene.look_at_faults().await;
    log.assert_clean(&scene.all().iter().collect::<Vec<_>>());
    Outcome::Passed
}

struct Scene<'a> {
    h: &'a dyn Harness,
    provider: Arc<dyn SecretProvider>,
    keys: [SecretKey; 3],
    canaries: [Canary; 2],
}

impl Scene<'_> {
    /// The values and all tokens that there are by now.
    fn all(&self) -> Vec<Canary> {
        let mut all = self.canaries.to_vec();
        for token in self.h.tokens() {
            all.push(Canary::from_text(token).with_label("token"));
        }
        all
    }

    async fn look_at_faults(&self) {
        let (h, supports) = (self.h, self.h.supports());
        if supports.expire {
            h.expire_token().await;
            self.look().await;
        }
        if supports.network {
            h.break_network().await;
            self.look().await;
            h.heal().await;
        }
        if supports.throttle {
            h.throttle(Duration::from_secs(90)).await;
            self.look().await;
            h.heal().await;
        }
        if supports.garble {
            h.garble().await;
            self.look().await;
            h.heal().await;
        }
        if supports.stall {
            h.stall().await;
            self.look().await;
            h.heal().await;
        }
        if supports.deny {
            h.deny(&self.keys[0]).await;
            self.look().await;
        }
        if supports.login {
            h.revoke_login().await;
            self.look().await;
            h.fix_login().await;
            self.look().await;
        }
        h.delete(&self.keys[1]).await;
        self.look().await;
    }

    /// Asks for everything and looks at what it says.
    async fn look(&self) {
        let provider = &self.provider;
        let stream = provider.watch();
        let mut versions = vec![Version::numbered(1), Version::numbered(999_999)];
        for key in &self.keys {
            let answer = within("a read", provider.get(key)).await;
            versions.extend(answer.as_ref().ok().and_then(|s| s.version.clone()));
            self.look_at(&answer);
        }
        for answer in within("a read of many", provider.get_many(&self.keys)).await {
            self.look_at(&answer);
        }
        for version in &versions {
            let pinned = provider.get_version(&self.keys[0], version);
            self.look_at(&within("a read of a version", pinned).await);
        }
        self.look_at(&within("a list", provider.list(&KeyPrefix::root())).await);
        self.look_at(&within("a health check", provider.health()).await);
        for canary in self.all() {
            canary.assert_hidden(provider);
            canary.assert_hidden(&stream);
            canary.assert_hidden(&versions);
            canary.assert_not_in(provider.origin().as_str(), "the source");
        }
    }

    fn look_at<T: fmt::Debug>(&self, answer: &Result<T, Error>) {
        for canary in self.all() {
            canary.assert_hidden(answer);
            if let Err(error) = answer {
                canary.assert_hidden_error(error);
            }
        }
    }
}
