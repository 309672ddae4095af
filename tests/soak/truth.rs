//! What a source has contained at which time, and the rules for the responses of a service that reads it.

use std::collections::VecDeque;
use std::time::Duration;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use tokio::time::Instant;

use crate::support::secs;

pub(super) const TTL: Duration = secs(2);
pub(super) const MAX_STALE: Duration = secs(30);
pub(super) const ACTIVATION_DELAY: Duration = secs(3);
pub(super) const GRACE_PERIOD: Duration = secs(30);
/// The time in which a service notices a change at a source that works, in addition to the ttl.
pub(super) const NOTICE: Duration = secs(20);
/// A value is dated by the end of its call, which a stopped process notices late.
const CALL: Duration = secs(12);
/// A secret that is replaced so soon after a revocation has no grace period if the clock of the service is ahead of that
/// of the source. It can be, and the clock of the fake Infisical is always behind. The service must have read the secrets
/// when 90 s and the ttl have passed, which an outage delays.
const REVOCATION: Duration = secs(240);
/// The delay of a timer on a busy machine.
const TIMER: Duration = secs(10);
/// Older tokens have lost their grace period long ago.
const MAX_TOKENS: usize = 4_000;

/// The time from the start of a request to its response.
pub(super) type Span = (Instant, Instant);

/// A value that the source has had, or an absence.
#[derive(Debug)]
struct Version {
    text: Option<String>,
    is_strong: bool,
    /// The start and the end of the write.
    begun: Instant,
    complete: Option<Instant>,
    /// The start and the end of the revocation.
    revoked: Option<(Instant, Option<Instant>)>,
    /// The time at which a newer secret was first seen to sign.
    replaced: Option<Instant>,
}

/// A message with its MAC.
#[derive(Debug, Clone)]
pub(super) struct Token {
    pub(super) message: String,
    pub(super) mac: String,
    version: usize,
}

/// What a service has last been seen to use.
#[derive(Debug, Clone, Copy)]
struct Seen {
    version: usize,
    is_fresh: bool,
    start: Instant,
}

#[derive(Debug, Default)]
pub(super) struct Truth {
    versions: Vec<Version>,
    /// The times in which the source might not respond, from the first fault to the recovery.
    disturbances: Vec<(Instant, Option<Instant>)>,
    /// The newest version that a response was seen to use.
    newest_value: usize,
    newest_signer: usize,
    value: Option<Seen>,
    signer: Option<Seen>,
    /// The start of the last query of the database with the credentials of this source.
    query: Option<Instant>,
    tokens: VecDeque<Token>,
    revocations: Vec<Instant>,
    /// The longest time for which a replaced value was used.
    pub(super) longest_staleness: Duration,
    pub(super) values: usize,
    pub(super) signed: usize,
    pub(super) verified: usize,
    pub(super) rejected: usize,
    pub(super) absent: usize,
    pub(super) unavailable: usize,
}

/// A deviation from a rule.
pub(super) type Violation = String;

impl Truth {
    /// Begins a write of the source.
    pub(super) fn begin(&mut self, text: Option<&str>, is_strong: bool) {
        self.begin_at(Instant::now(), text, is_strong);
    }

    fn begin_at(&mut self, begun: Instant, text: Option<&str>, is_strong: bool) {
        self.versions.push(Version {
            text: text.map(str::to_owned),
            is_strong,
            begun,
            complete: None,
            revoked: None,
            replaced: None,
        });
    }

    /// Ends the write of the newest version.
    pub(super) fn complete(&mut self) {
        self.complete_at(Instant::now());
    }

    fn complete_at(&mut self, at: Instant) {
        if let Some(version) = self.versions.last_mut() {
            version.complete = Some(at);
        }
    }

    /// Begins a disturbance, and returns its number.
    pub(super) fn disturb(&mut self) -> usize {
        self.disturbances.push((Instant::now(), None));
        self.disturbances.len() - 1
    }

    /// Ends a disturbance.
    pub(super) fn end(&mut self, disturbance: usize) {
        self.disturbances[disturbance].1 = Some(Instant::now());
    }

    /// Begins a revocation of all versions but the newest one.
    pub(super) fn begin_revocation(&mut self) {
        let now = Instant::now();
        self.revocations.push(now);
        let older = self.versions.len() - 1;
        for version in &mut self.versions[..older] {
            version.revoked.get_or_insert((now, None));
        }
    }

    pub(super) fn complete_revocation(&mut self) {
        let now = Instant::now();
        for version in &mut self.versions {
            if let Some((_, end @ None)) = &mut version.revoked {
                *end = Some(now);
            }
        }
    }

    /// Returns whether a request after `since` was served with what the source contains.
    pub(super) fn is_up_to_date(&self, since: Instant) -> bool {
        let newest = self.versions.len() - 1;
        let is_value = self
            .value
            .is_some_and(|seen| seen.version == newest && seen.is_fresh && seen.start >= since);
        let strong = self.versions.iter().rposition(|version| version.is_strong);
        let is_signer = self
            .signer
            .is_some_and(|seen| Some(seen.version) == strong && seen.start >= since);
        let has_queried = self.query.is_none_or(|start| start >= since);
        is_value && is_signer && has_queried
    }

    /// Records a query that has succeeded.
    pub(super) fn queried(&mut self, start: Instant) {
        self.query = self.query.max(Some(start));
    }

    /// Returns the newest versions that responses may not go behind: of a value, and of a signer.
    pub(super) fn newest(&self) -> (usize, usize) {
        (self.newest_value, self.newest_signer)
    }

    /// Returns the number of strong secrets after the first one.
    pub(super) fn rotations(&self) -> usize {
        let strong = self.versions.iter().filter(|version| version.is_strong);
        strong.count().saturating_sub(1)
    }

    /// Returns a token that was signed before.
    pub(super) fn token(&self, random: usize) -> Option<Token> {
        let length = self.tokens.len().max(1);
        self.tokens.get(random % length).cloned()
    }

    /// Checks a value, or an absence.
    pub(super) fn check_value(
        &mut self,
        span: Span,
        newest: usize,
        mac: Option<(&str, &str)>,
        is_fresh: bool,
    ) -> Result<(), Violation> {
        let (start, end) = span;
        let version = self.identify(mac)?;
        match mac {
            Some(_) => self.values += 1,
            None => self.absent += 1,
        }
        if version < newest {
            return Err(format!("value {version} after value {newest}"));
        }
        self.newest_value = self.newest_value.max(version);
        if self.value.is_none_or(|seen| seen.start <= start) {
            self.value = Some(Seen {
                version,
                is_fresh,
                start,
            });
        }
        let Some(next) = self.versions.get(version + 1) else {
            return Ok(());
        };
        let Some(complete) = next.complete else {
            return Ok(());
        };
        let staleness = end.saturating_duration_since(complete);
        self.longest_staleness = self.longest_staleness.max(staleness);
        if start > complete + TTL + MAX_STALE + CALL {
            return Err(format!(
                "value {version} is older than allowed: {staleness:?}"
            ));
        }
        self.check_noticed(start, complete + TTL, "value", version)
    }

    /// Checks a response without a value, because the source is not available.
    pub(super) fn check_unavailable(&mut self, (start, end): Span) -> Result<(), Violation> {
        self.unavailable += 1;
        match self.disturbed_since((start, end)) {
            Some(since) if end + secs(1) >= since + MAX_STALE => Ok(()),
            Some(since) => Err(format!(
                "refused {:?} after the start of a disturbance, with a value within max_stale",
                end.saturating_duration_since(since)
            )),
            None => Err("refused although the source is available".to_owned()),
        }
    }

    /// Checks which secret has signed, and keeps the token.
    pub(super) fn check_signer(
        &mut self,
        span: Span,
        newest: usize,
        message: &str,
        mac: &str,
    ) -> Result<(), Violation> {
        let (start, end) = span;
        self.signed += 1;
        let version = self.identify(Some((message, mac)))?;
        if !self.versions[version].is_strong {
            return Err(format!("signed with the weak secret {version}"));
        }
        if matches!(self.versions[version].revoked, Some((_, Some(at))) if at < start) {
            return Err(format!("signed with the revoked secret {version}"));
        }
        if version < newest {
            return Err(format!(
                "signed with secret {version} after secret {newest}"
            ));
        }
        for older in &mut self.versions[..version] {
            older.replaced.get_or_insert(end);
        }
        self.newest_signer = self.newest_signer.max(version);
        if self.signer.is_none_or(|seen| seen.start <= start) {
            self.signer = Some(Seen {
                version,
                is_fresh: true,
                start,
            });
        }
        self.tokens.push_back(Token {
            message: message.to_owned(),
            mac: mac.to_owned(),
            version,
        });
        if self.tokens.len() > MAX_TOKENS {
            self.tokens.pop_front();
        }
        match self.next_strong(version).and_then(|next| next.complete) {
            Some(complete) => {
                let from = complete + TTL + ACTIVATION_DELAY;
                self.check_noticed(start, from, "signer", version)
            }
            None => Ok(()),
        }
    }

    /// Checks whether a token may be accepted or rejected.
    pub(super) fn check_verification(
        &mut self,
        (start, end): Span,
        token: &Token,
        is_accepted: bool,
    ) -> Result<(), Violation> {
        match is_accepted {
            true => self.verified += 1,
            false => self.rejected += 1,
        }
        let version = &self.versions[token.version];
        if let Some((begun, complete)) = version.revoked
            && end >= begun
        {
            return match is_accepted && complete.is_some_and(|complete| complete < start) {
                true => Err(format!("revoked secret {} verifies", token.version)),
                false => Ok(()),
            };
        }
        let in_grace = match self.next_strong(token.version) {
            Some(next) => {
                let is_soon = |at: &Instant| *at <= next.begun && next.begun <= *at + REVOCATION;
                end < next.begun + GRACE_PERIOD && !self.revocations.iter().any(is_soon)
            }
            None => true,
        };
        let is_expired = version
            .replaced
            .is_some_and(|at| start > at + GRACE_PERIOD + TIMER);
        match is_accepted {
            false if in_grace => Err(format!(
                "a token of secret {} is rejected in its grace period",
                token.version
            )),
            true if is_expired => Err(format!(
                "a token of secret {} is accepted after its grace period",
                token.version
            )),
            _ => Ok(()),
        }
    }

    /// Returns the start of the disturbances during a request, and of those that overlap with them. It is possible
    /// that no read of the source has succeeded since then.
    pub(super) fn disturbed_since(&self, (start, end): Span) -> Option<Instant> {
        let first_since = |from: Instant| {
            let during = |disturbance: &&(Instant, Option<Instant>)| {
                disturbance.0 <= end && disturbance.1.is_none_or(|until| until >= from)
            };
            let disturbances = self.disturbances.iter().filter(during);
            disturbances.map(|disturbance| disturbance.0).min()
        };
        let mut since = first_since(start)?;
        while let Some(earlier) = first_since(since).filter(|earlier| *earlier < since) {
            since = earlier;
        }
        Some(since)
    }

    /// Checks that a replaced version is not used long after `due`, if the source works.
    fn check_noticed(
        &self,
        start: Instant,
        due: Instant,
        what: &str,
        version: usize,
    ) -> Result<(), Violation> {
        if self.disturbed_since((start, start)).is_some() {
            return Ok(());
        }
        let recovered = self.disturbances.iter().filter_map(|(_, end)| *end);
        let from = recovered
            .filter(|end| *end <= start)
            .fold(due, Instant::max);
        match start > from + NOTICE {
            true => Err(format!(
                "{what} {version} is used {:?} after its successor was due",
                start.saturating_duration_since(from)
            )),
            false => Ok(()),
        }
    }

    fn next_strong(&self, version: usize) -> Option<&Version> {
        let mut later = self.versions[version + 1..].iter();
        later.find(|version| version.is_strong)
    }

    /// Returns the version that has made this MAC, or the newest absence.
    fn identify(&self, mac: Option<(&str, &str)>) -> Result<usize, Violation> {
        let found =
            self.versions
                .iter()
                .rposition(|version| match (version.text.as_deref(), mac) {
                    (Some(text), Some((message, mac))) => hmac(text, message) == mac,
                    (None, None) => true,
                    _ => false,
                });
        found.ok_or_else(|| match mac {
            Some(_) => "a value of another source".to_owned(),
            None => "absent, although the source has always had a value".to_owned(),
        })
    }
}

fn hmac(secret: &str, message: &str) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).unwrap();
    mac.update(message.as_bytes());
    let bytes = mac.finalize().into_bytes();
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A source whose value `0` is replaced by `1` at this time.
    fn rotated() -> (Truth, Instant) {
        let start = Instant::now() + secs(1_000);
        let mut truth = Truth::default();
        truth.begin_at(start, Some("zero"), true);
        truth.complete_at(start);
        let at = start + secs(100);
        truth.begin_at(at, Some("one"), true);
        truth.complete_at(at);
        (truth, at)
    }

    fn value(truth: &mut Truth, at: Instant, text: &str) -> Result<(), Violation> {
        let (newest, _) = truth.newest();
        truth.check_value((at, at), newest, Some(("m", &hmac(text, "m"))), true)
    }

    fn sign(truth: &mut Truth, at: Instant, text: &str) -> Result<(), Violation> {
        let (_, newest) = truth.newest();
        truth.check_signer((at, at), newest, "m", &hmac(text, "m"))
    }

    fn verify(truth: &mut Truth, at: Instant, is_accepted: bool) -> Result<(), Violation> {
        let token = truth.token(0).unwrap();
        truth.check_verification((at, at), &token, is_accepted)
    }

    #[track_caller]
    fn assert_violates(result: Result<(), Violation>, part: &str) {
        let violation = result.expect_err(part);
        assert!(violation.contains(part), "{violation}");
    }

    #[test]
    fn weaker_source_and_weak_secret_are_violations() {
        let (mut truth, at) = rotated();
        assert_violates(value(&mut truth, at, "fallback"), "another source");
        truth.begin_at(at, Some("weak"), false);
        value(&mut truth, at, "weak").unwrap();
        assert_violates(sign(&mut truth, at, "weak"), "weak secret");
    }

    #[test]
    fn version_that_goes_back_is_a_violation() {
        let (mut truth, at) = rotated();
        value(&mut truth, at, "zero").unwrap();
        value(&mut truth, at, "one").unwrap();
        assert_violates(value(&mut truth, at, "zero"), "value 0 after value 1");
        sign(&mut truth, at, "zero").unwrap();
        sign(&mut truth, at, "one").unwrap();
        assert_violates(sign(&mut truth, at, "zero"), "secret 0 after secret 1");
    }

    #[test]
    fn replaced_value_of_a_working_source_is_a_violation_after_the_ttl() {
        let (mut truth, at) = rotated();
        value(&mut truth, at + TTL + NOTICE, "zero").unwrap();
        let late = at + TTL + NOTICE + secs(1);
        assert_violates(value(&mut truth, late, "zero"), "successor was due");
        sign(&mut truth, late, "zero").unwrap();
        let late = late + ACTIVATION_DELAY;
        assert_violates(sign(&mut truth, late, "zero"), "successor was due");
    }

    #[test]
    fn disturbance_delays_the_notice_until_max_stale_only() {
        let (mut truth, at) = rotated();
        truth.disturbances.push((at, None));
        let late = at + TTL + MAX_STALE;
        value(&mut truth, late, "zero").unwrap();
        let late = late + CALL + secs(1);
        assert_violates(value(&mut truth, late, "zero"), "older than allowed");
        sign(&mut truth, late, "zero").unwrap();
        truth.disturbances[0].1 = Some(late);
        sign(&mut truth, late + NOTICE, "zero").unwrap();
        let late = late + NOTICE + secs(1);
        assert_violates(sign(&mut truth, late, "zero"), "successor was due");
    }

    /// A service that is stopped does not read, so its value is older than a disturbance that begins meanwhile.
    #[test]
    fn disturbances_that_overlap_count_from_the_first_one() {
        let (mut truth, at) = rotated();
        let second = at + secs(5);
        truth.disturbances.push((second, None));
        truth.disturbances.push((at, Some(second - secs(1))));
        let now = at + MAX_STALE;
        assert_violates(truth.check_unavailable((now, now)), "within max_stale");
        truth.disturbances[1].1 = Some(second + secs(1));
        truth.check_unavailable((now, now)).unwrap();
    }

    #[test]
    fn refusal_is_a_violation_until_max_stale_after_the_start_of_a_disturbance() {
        let (mut truth, at) = rotated();
        let refuse = |truth: &mut Truth, at| truth.check_unavailable((at, at));
        assert_violates(refuse(&mut truth, at), "is available");
        truth.disturbances.push((at, None));
        let early = at + MAX_STALE - secs(2);
        assert_violates(refuse(&mut truth, early), "within max_stale");
        refuse(&mut truth, at + MAX_STALE).unwrap();
        truth.disturbances[0].1 = Some(at + MAX_STALE);
        let later = at + MAX_STALE + secs(1);
        assert_violates(refuse(&mut truth, later), "is available");
        assert_violates(
            truth.check_value((at, at), 0, None, true),
            "always had a value",
        );
    }

    #[test]
    fn token_is_accepted_in_its_grace_period_only() {
        let (mut truth, at) = rotated();
        sign(&mut truth, at, "zero").unwrap();
        let rejected = verify(&mut truth, at + GRACE_PERIOD - secs(1), false);
        assert_violates(rejected, "rejected in its grace period");
        verify(&mut truth, at + secs(1_000), true).unwrap();
        sign(&mut truth, at + secs(4), "one").unwrap();
        let end = at + secs(4) + GRACE_PERIOD;
        verify(&mut truth, end, true).unwrap();
        verify(&mut truth, end, false).unwrap();
        let accepted = verify(&mut truth, end + TIMER + secs(1), true);
        assert_violates(accepted, "accepted after its grace period");
    }

    #[test]
    fn revoked_secret_is_a_violation_after_the_revocation() {
        let (mut truth, at) = rotated();
        sign(&mut truth, at, "zero").unwrap();
        truth.versions[0].revoked = Some((at + secs(2), None));
        let during = at + secs(3);
        verify(&mut truth, during, true).unwrap();
        verify(&mut truth, during, false).unwrap();
        truth.versions[0].revoked = Some((at + secs(2), Some(at + secs(4))));
        let after = at + secs(5);
        assert_violates(verify(&mut truth, after, true), "revoked secret 0 verifies");
        verify(&mut truth, after, false).unwrap();
        assert_violates(sign(&mut truth, after, "zero"), "revoked secret 0");
    }
}
