//! The phases of the simulation, and what must hold in each of them.

use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::fleet::{Counts, Fleet, Reached, SWEEP};
use crate::instance::{Instance, TTL};
use crate::report::{BUCKET, Phase, Promise, Report};
use crate::server::MAX_LAG;

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
/// The time for a request, a build and the next check.
const MARGIN: Duration = Duration::from_secs(2);

/// Runs all phases.
pub(crate) async fn run(instances: usize, seed: u64) -> Report {
    let mut simulation = Simulation {
        fleet: Fleet::new(seed),
        report: Report {
            instances,
            seed,
            interval: BUCKET,
            ..Report::default()
        },
        phase: ("", 0),
        steady_rate: 0.0,
    };
    simulation.start(instances).await;
    simulation.steady("steady state", 1.5).await;
    simulation.deploy().await;
    simulation.rotate().await;
    simulation.revoke().await;
    simulation.outage().await;
    simulation.recover().await;
    simulation
        .steady("steady state after the recovery", 1.5)
        .await;
    simulation.emergency(false).await;
    simulation.emergency(true).await;
    // Instances that a lagging replica has served are a second wave.
    simulation
        .steady("steady state after a notification", 2.0)
        .await;
    simulation.rotate_before_outage().await;
    simulation.report.requests = sums(&simulation.fleet.server.requests());
    simulation.report
}

struct Simulation {
    fleet: Fleet,
    report: Report,
    /// The name of the phase, and its start in seconds.
    phase: (&'static str, usize),
    /// The mean number of requests per second in the steady state.
    steady_rate: f64,
}

impl Simulation {
    fn begin(&mut self, name: &'static str) {
        self.phase = (name, self.fleet.server.second());
        self.fleet.counts = Counts::default();
    }

    /// Ends the phase. Returns the number of requests in each of its intervals.
    ///
    /// In each phase, instances that have started serve, tokens are signed, and all instances verify some of them.
    fn end(&mut self) -> Vec<u32> {
        let ((name, start), end) = (self.phase, self.fleet.server.second());
        let intervals = sums(&self.fleet.server.requests()[start..end]);
        let counts = std::mem::take(&mut self.fleet.counts);
        let phase = Phase {
            name,
            start,
            end,
            mean: mean(&intervals),
            peak: peak(&intervals),
            signed: counts.signed,
            verified: counts.verified,
            unverified: counts.unverified,
            verified_later: counts.verified_later.load(Ordering::Relaxed),
            started: counts.started,
        };
        self.report.phases.push(phase);
        self.promise(
            "requests to an instance without a build",
            counts.unserved,
            counts.unserved == 0,
        );
        let seconds = (end - start) as u64;
        let sweeps = seconds / SWEEP.as_secs() / 2;
        let expected = (sweeps * self.report.instances as u64, seconds / 2);
        self.promise(
            format!(
                "more than {} verifications of {} tokens",
                expected.0, expected.1
            ),
            format!("{} of {}", counts.verified, counts.signed),
            counts.verified > expected.0 && counts.signed > expected.1,
        );
        intervals
    }

    fn promise(&mut self, name: impl Into<String>, value: impl ToString, is_kept: bool) {
        self.report.promises.push(Promise {
            name: format!("{}: {}", self.phase.0, name.into()),
            value: value.to_string(),
            is_kept,
        });
    }

    /// Promises that all instances have reached a state within `limit`.
    fn promise_within(&mut self, name: &'static str, reached: &Reached, limit: Duration) {
        let is_kept = reached.last.is_some_and(|last| last <= limit);
        self.promise(
            format!("{name} within {} s", limit.as_secs()),
            seconds(reached.last),
            is_kept,
        );
    }

    fn promise_all_tokens_verify(&mut self) {
        let unverified = self.fleet.counts.unverified;
        self.promise(
            "tokens that an instance did not verify",
            unverified,
            unverified == 0,
        );
    }

    /// Promises that no interval has more than `factor` times the requests of `mean`. In a small fleet, chance alone
    /// exceeds that, so five standard deviations are allowed.
    fn promise_peak(&mut self, intervals: &[u32], mean: f64, factor: f64) {
        let per_interval = mean * BUCKET as f64;
        let noise = 1.0 + 5.0 / per_interval.sqrt();
        let ratio = peak(intervals) / mean;
        self.promise(
            format!("peak over mean below {:.2}", factor.max(noise)),
            format!("{ratio:.2}"),
            ratio < factor.max(noise),
        );
    }

    fn measure(&mut self, name: &'static str, value: String) {
        self.report.measured.push((name, value));
    }

    async fn start(&mut self, instances: usize) {
        self.begin("all instances start at once");
        for _ in 0..instances {
            let instance = self.fleet.start();
            self.fleet.instances.push(instance);
        }
        let longest = self.fleet.await_starts(MINUTE).await;
        let is_fast = longest.is_some_and(|longest| longest < Duration::from_secs(1));
        self.promise("all are ready within 1 s", seconds(longest), is_fast);
        let requests = self.fleet.server.total();
        self.promise(
            "one request for each instance",
            requests,
            requests == instances as u64,
        );
        self.fleet.pass(TTL).await;
        self.promise_all_tokens_verify();
        self.end();
    }

    async fn steady(&mut self, name: &'static str, factor: f64) {
        self.begin(name);
        self.fleet.pass(HOUR).await;
        self.promise_all_tokens_verify();
        let intervals = self.end();
        let mean = mean(&intervals);
        if self.steady_rate == 0.0 {
            self.steady_rate = mean;
        }
        // Each instance refreshes its secrets between 3/4 and 7/8 of the ttl.
        let rate = self.report.instances as f64 / TTL.as_secs_f64();
        let is_expected = (rate / 0.9..rate / 0.74).contains(&mean);
        self.promise(
            "one request of each instance in 3/4 to 7/8 of the ttl",
            format!("{mean:.1}/s"),
            is_expected,
        );
        self.promise_peak(&intervals, mean, factor);
    }

    /// Replaces all instances, 1 % at a time.
    async fn deploy(&mut self) {
        self.begin("rolling deployment");
        let instances = self.report.instances;
        self.replace(instances, Duration::from_secs(600)).await;
        self.fleet.pass(TTL).await;
        self.promise_all_tokens_verify();
        let started = self.fleet.counts.started;
        let ready = self.fleet.count(&Instance::is_started);
        self.promise(
            "all instances are replaced",
            started,
            started == instances as u64 && ready == instances,
        );
        self.end();
    }

    /// Replaces the first `count` instances within `time`.
    async fn replace(&mut self, count: usize, time: Duration) {
        let step = count.div_ceil(100);
        let steps = u32::try_from(count.div_ceil(step)).unwrap();
        for first in (0..count).step_by(step) {
            for index in first..count.min(first + step) {
                self.fleet.replace(index);
            }
            self.fleet.pass(time / steps).await;
        }
    }

    /// A new secret verifies everywhere before it signs anywhere. Some instances start in between.
    async fn rotate(&mut self) {
        self.begin("staged rotation");
        self.fleet.rotate();
        let secret = self.fleet.newest();
        let knows = |instance: &Instance| instance.sessions().is_some_and(|it| it.accepts(&secret));
        let signs =
            |instance: &Instance| instance.sessions().is_some_and(|it| it.signs_with(&secret));
        let checks = [&knows as _, &signs as _];
        let [early_known, early_signed] = self.fleet.observe(TTL / 2, false, checks).await;
        let some = self.report.instances / 20;
        self.replace(some, TTL / 6).await;
        let offset = TTL / 2 + TTL / 6;
        let [known, signed] = self.fleet.observe(TTL * 2, true, checks).await;
        let later = |time: Option<Duration>| time.map(|time| time + offset);
        let first_known = early_known.first.or(later(known.first));
        let (last_known, last_signed) = (later(known.last), later(signed.last));
        let first_signed = early_signed.first.or(later(signed.first));
        self.measure(
            "staged rotation: the new secret verifies on the first and on all instances after",
            format!("{}, {}", seconds(first_known), seconds(last_known)),
        );
        self.measure(
            "staged rotation: it signs on the first and on all instances after",
            format!("{}, {}", seconds(first_signed), seconds(last_signed)),
        );
        self.promise(
            "it verifies on all instances before it signs on one",
            format!("{} before {}", seconds(last_known), seconds(first_signed)),
            last_known.is_some() && last_known < first_signed,
        );
        let all_sign = Reached {
            first: first_signed,
            last: last_signed,
        };
        self.promise_within("it signs on all instances", &all_sign, TTL * 2 + MARGIN);
        self.fleet.pass(TTL).await;
        self.promise_all_tokens_verify();
        self.end();
    }

    /// The secret before the last rotation is revoked: on one instance by a call, on all of them by its time.
    async fn revoke(&mut self) {
        self.begin("revocation of the previous secret");
        let previous = self.fleet.previous();
        let leaked = self.fleet.forge(&previous);
        let all = self.report.instances;
        let accepted = self
            .fleet
            .count(&|instance| accepts_token(instance, &leaked));
        self.promise("all instances accept it before", accepted, accepted == all);
        let called = self.fleet.instances[0].auth.revoke_previous().await.is_ok();
        let revoked = called && !accepts_token(&self.fleet.instances[0], &leaked);
        self.promise(
            "the call of one instance revokes it there",
            revoked,
            revoked,
        );
        self.fleet.revoke_previous();
        let dead = self.await_death(&previous, &leaked).await;
        self.measure(
            "revocation of the previous secret, without notifications: dead everywhere after",
            seconds(dead.last),
        );
        self.promise_within("it is dead everywhere", &dead, poll_limit());
        self.fleet.pass(TTL).await;
        self.promise_dead(&leaked).await;
        self.promise_all_tokens_verify();
        self.end();
    }

    /// The signing secret has leaked: it is replaced and revoked at once.
    async fn emergency(&mut self, notifies: bool) {
        self.begin(match notifies {
            false => "emergency revocation",
            true => "emergency revocation with notifications",
        });
        let secret = self.fleet.newest();
        let leaked = self.fleet.forge(&secret);
        let all = self.report.instances;
        let accepted = self
            .fleet
            .count(&|instance| accepts_token(instance, &leaked));
        self.promise("all instances accept it before", accepted, accepted == all);
        self.fleet.rotate_and_revoke();
        if notifies {
            self.fleet.server.notify();
        }
        let dead = self.await_death(&secret, &leaked).await;
        let name = match notifies {
            false => "emergency revocation, without notifications: dead everywhere after",
            true => "emergency revocation, with notifications: dead everywhere after",
        };
        self.measure(name, seconds(dead.last));
        self.promise_within("it is dead everywhere", &dead, poll_limit());
        let unverified = self.fleet.counts.unverified;
        self.fleet.pass(TTL).await;
        let later = self.fleet.counts.unverified - unverified;
        self.promise(
            "tokens that an instance did not verify afterwards",
            later,
            later == 0,
        );
        self.promise_dead(&leaked).await;
        self.end();
    }

    async fn await_death(&mut self, secret: &str, leaked: &(String, u64)) -> Reached {
        let dead = |instance: &Instance| {
            let sessions = instance.sessions();
            sessions.is_some_and(|sessions| !sessions.accepts(secret))
        };
        let [dead] = self.fleet.observe(TTL * 2, true, [&dead]).await;
        let accepted = self
            .fleet
            .count(&|instance| accepts_token(instance, leaked));
        self.promise(
            "instances that accept a leaked token then",
            accepted,
            accepted == 0,
        );
        dead
    }

    /// Promises that no instance accepts a token of a revoked secret, also after some were replaced.
    async fn promise_dead(&mut self, leaked: &(String, u64)) {
        let some = self.report.instances / 20;
        self.replace(some, MINUTE).await;
        let all = self.report.instances;
        let ready = self.fleet.count(&Instance::is_started);
        let accepted = self
            .fleet
            .count(&|instance| accepts_token(instance, leaked));
        self.promise(
            "instances that accept a leaked token later, and after a start",
            format!("{accepted} of {ready}"),
            accepted == 0 && ready == all,
        );
    }

    async fn outage(&mut self) {
        self.begin("outage of one hour");
        self.fleet.server.set_down(true);
        self.fleet.pass(HOUR / 2).await;
        let some = self.report.instances / 100;
        for index in 0..some {
            self.fleet.replace(index);
        }
        self.fleet.pass(HOUR / 2).await;
        let all = self.report.instances;
        let serving = self.fleet.count(&|instance| instance.sessions().is_some());
        let started = self.fleet.count(&Instance::is_started);
        self.promise(
            "all instances serve, except the ones that start",
            format!("{serving} of {all}, {some} start"),
            serving == all - some && started == serving,
        );
        let fresh = self.fleet.count(&Instance::is_fresh);
        self.promise("no instance has a fresh secret", fresh, fresh == 0);
        self.promise_all_tokens_verify();
        self.end();
    }

    async fn recover(&mut self) {
        self.begin("recovery");
        self.fleet.server.set_down(false);
        let before = self.fleet.server.total();
        let [fresh, ready] = self
            .fleet
            .observe(
                HOUR / 2,
                false,
                [&Instance::is_fresh, &Instance::is_started],
            )
            .await;
        self.measure(
            "recovery: all instances have fresh secrets after",
            seconds(fresh.last),
        );
        self.measure(
            "recovery: instances that were started in the outage are ready after",
            seconds(ready.last),
        );
        // The longest wait is 7 min, with a jitter of 10 %.
        let limit = Duration::from_secs(7 * 66) + MARGIN;
        self.promise_within("all instances have fresh secrets", &fresh, limit);
        let requests = self.fleet.server.total() - before;
        self.promise(
            "each instance has sent a request",
            requests,
            requests >= self.report.instances as u64,
        );
        self.promise_all_tokens_verify();
        let intervals = self.end();
        self.promise_peak(&intervals, self.steady_rate, 3.0);
    }
}

impl Simulation {
    /// An outage begins when only some instances have read a new secret. They sign with it after the activation delay,
    /// and the others cannot read it. This is a known limit, so nothing is promised until the outage has ended.
    async fn rotate_before_outage(&mut self) {
        self.begin("rotation one minute before an outage");
        self.fleet.rotate();
        self.fleet.pass(MINUTE).await;
        self.fleet.server.set_down(true);
        self.fleet.pass(TTL * 2).await;
        self.fleet.server.set_down(false);
        self.fleet.pass(MINUTE * 2).await;
        let unverified = self.fleet.counts.unverified;
        self.fleet.pass(TTL * 2).await;
        let later = self.fleet.counts.unverified - unverified;
        self.promise(
            "tokens that an instance did not verify after it",
            later,
            later == 0,
        );
        self.end();
    }
}

/// The longest time until an instance that polls has the newest secret.
fn poll_limit() -> Duration {
    TTL * 7 / 8 + MAX_LAG + MARGIN
}

fn accepts_token(instance: &Instance, (token, user): &(String, u64)) -> bool {
    let sessions = instance.sessions();
    sessions.is_some_and(|sessions| sessions.verify(token, *user).is_ok())
}

/// Returns the number of requests in each whole interval.
fn sums(seconds: &[u32]) -> Vec<u32> {
    let intervals = seconds.chunks_exact(BUCKET);
    intervals.map(|interval| interval.iter().sum()).collect()
}

/// Returns the mean number of requests per second.
fn mean(intervals: &[u32]) -> f64 {
    let sum: u32 = intervals.iter().sum();
    f64::from(sum) / (intervals.len() * BUCKET) as f64
}

/// Returns the number of requests per second in the interval with the most requests.
fn peak(intervals: &[u32]) -> f64 {
    f64::from(intervals.iter().copied().max().unwrap_or_default()) / BUCKET as f64
}

fn seconds(time: Option<Duration>) -> String {
    time.map_or("never".to_owned(), |time| {
        format!("{:.1} s", time.as_secs_f64())
    })
}
