//! The retry loop of a call: it tries one address after another, hedges slow ones, and backs off.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use secretwell_core::{Error, Origin};
use tokio::time::{Instant, sleep_until};

use crate::endpoint::Endpoint;
use crate::failure::Failure;
use crate::protocol::{Outcome, Protocol};
use crate::recognition::judge;
use crate::request::Request;
use crate::response::Response;
use crate::retry::{MAX_RETRY_AFTER, backoff};
use crate::servers::Servers;

#[cfg(test)]
mod tests;

/// The maximum number of rounds. In each round, every server is tried once.
const MAX_ROUNDS: u32 = 32;
/// The maximum number of rounds in which all failures are unexplained. Such a failure might be permanent.
const MAX_UNEXPLAINED_ROUNDS: u32 = 3;

/// The state of one call of [`Client::send`](crate::Client::send).
pub(crate) struct SendLoop<'a> {
    servers: &'a Servers,
    protocol: &'a dyn Protocol,
    origin: &'a Origin,
    request: &'a Request,
    deadline: Instant,
    in_flight: InFlight<'a>,
    /// The servers that were not tried in this round.
    untried: VecDeque<Arc<Endpoint>>,
    /// The server of the newest attempt, until that attempt ends or the next one starts.
    latest: Option<Arc<Endpoint>>,
    /// When the next attempt starts, unless a response arrives earlier.
    next_attempt: Instant,
    /// Whether the request only looks for a server that responds, so that one round is enough.
    is_probe: bool,
    /// The number of rounds before this one.
    rounds: u32,
    /// The number of rounds before this one in which all failures were unexplained.
    unexplained_rounds: u32,
    /// Whether all failures of this round are unexplained.
    is_unexplained: bool,
    /// Whether all failures of this round are permanent.
    is_permanent: bool,
    /// The earliest start of the next round.
    next_round: Instant,
    /// A server that responded in this round, but with stale data.
    stale_replica: Option<Arc<Endpoint>>,
    /// The rate limit that a server stated in this round.
    rate_limit: Option<Error>,
    /// The last failure before this attempt, which is more specific than reaching the deadline.
    latest_failure: Option<Error>,
}

/// How a call continues after a failed attempt.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Retry {
    /// The server is not available.
    NextServer,
    /// The server failed for an unknown reason, or another program responded.
    Unexplained,
    /// The server cannot be used until a certificate or the configuration changes.
    Permanent,
    /// The request was rate limited. The duration is the wait that the server stated.
    RateLimited(Option<Duration>),
}

impl<'a> SendLoop<'a> {
    pub(crate) fn new(
        servers: &'a Servers,
        protocol: &'a dyn Protocol,
        origin: &'a Origin,
        request: &'a Request,
        deadline: Instant,
    ) -> Self {
        let now = Instant::now();
        Self {
            servers,
            protocol,
            origin,
            request,
            deadline,
            in_flight: InFlight::default(),
            untried: VecDeque::new(),
            latest: None,
            next_attempt: now,
            is_probe: false,
            rounds: 0,
            unexplained_rounds: 0,
            is_unexplained: true,
            is_permanent: true,
            next_round: now,
            stale_replica: None,
            rate_limit: None,
            latest_failure: None,
        }
    }

    /// Sends the request until a server responds, or until the deadline.
    pub(crate) async fn run(&mut self) -> Result<Response, Error> {
        self.servers.look_up_names(self.deadline).await;
        let is_sent_once = !self.request.is_idempotent() && !self.servers.is_single();
        if is_sent_once && !self.servers.is_responsive() {
            // It is rare, and large.
            Box::pin(self.find_responsive_server()).await;
        }
        self.run_rounds().await
    }

    /// Sends a probe to one server after the other. One that hangs is then the last in the order.
    ///
    /// The failure of the probe says nothing about the request: a gateway might allow only the request, and a server
    /// might be slow. At least half of the deadline is left for the request.
    async fn find_responsive_server(&mut self) {
        let Some(request) = self.protocol.probe() else {
            return;
        };
        let servers = u32::try_from(self.servers.order().len()).unwrap_or(u32::MAX);
        let config = self.servers.config();
        let patience = config
            .hedge
            .saturating_mul(servers)
            .min(config.deadline / 2);
        let deadline = self.deadline.min(Instant::now() + patience);
        let mut probe = SendLoop::new(self.servers, self.protocol, self.origin, &request, deadline);
        probe.is_probe = true;
        let _ = probe.run_rounds().await;
    }

    async fn run_rounds(&mut self) -> Result<Response, Error> {
        self.untried = self.servers.order().into();
        loop {
            // After the deadline, only in-flight attempts are awaited. Each of them ends by then.
            let mut now = Instant::now();
            let can_start = now < self.deadline || self.in_flight.is_empty();
            // Checked here because tokio's timer is up to a millisecond late.
            if can_start && self.next_attempt <= now {
                if self.in_flight.is_empty() && self.untried.is_empty() {
                    self.servers.look_up_names(self.deadline).await;
                    now = Instant::now();
                }
                self.start_attempt(now);
            }
            tokio::select! {
                biased;
                (target, result) = self.in_flight.next() => {
                    if let Some(response) = self.finish_attempt(target, result)? {
                        return Ok(response);
                    }
                }
                () = sleep_until(self.next_attempt), if can_start && self.next_attempt < self.deadline => {}
            }
        }
    }

    /// Starts an attempt at the next server, in parallel to the running ones.
    fn start_attempt(&mut self, now: Instant) {
        if let Some(slow) = self.latest.take() {
            slow.mark_failed();
        }
        if self.untried.is_empty() && self.stale_replica.is_none() {
            // Attempts of the previous round can still be running, so its wait might not be over.
            let earliest = match self.can_start_round() {
                true => self.next_round,
                false => self.deadline,
            };
            if !self.in_flight.is_empty() && now < earliest {
                self.next_attempt = earliest.min(self.deadline);
                return;
            }
            self.start_round();
        }
        // A slightly stale response now is better than waiting for a server that failed recently.
        if self.stale_replica.is_some() {
            self.untried.retain(|endpoint| !endpoint.failed_recently());
        }
        let untried = self.untried.pop_front().map(|endpoint| (endpoint, false));
        let stale = || Some((self.stale_replica.take()?, true));
        // Without a target, an attempt is running at every server.
        if let Some((endpoint, relaxed)) = untried.or_else(stale) {
            let server = Arc::clone(&endpoint);
            self.latest = Some(Arc::clone(&endpoint));
            let (request, deadline) = (self.request, self.deadline);
            let attempt = Box::pin(self.servers.attempt(server, request, relaxed, deadline));
            self.in_flight.start(Target { endpoint, relaxed }, attempt);
        }
        let can_hedge = self.request.is_idempotent() && !self.servers.is_single();
        self.next_attempt = match can_hedge {
            true => (now + self.servers.config().hedge).min(self.deadline),
            false => self.deadline,
        };
    }

    /// Returns whether another round is allowed after this one.
    fn can_start_round(&self) -> bool {
        let is_last_unexplained =
            self.is_unexplained && self.unexplained_rounds + 1 >= MAX_UNEXPLAINED_ROUNDS;
        !self.is_probe && self.rounds + 1 < MAX_ROUNDS && !is_last_unexplained
    }

    /// Starts a round with all servers at which no attempt is running.
    fn start_round(&mut self) {
        self.untried = self.servers.order().into();
        self.untried
            .retain(|endpoint| !self.in_flight.includes(endpoint));
        if !self.untried.is_empty() {
            self.rounds += 1;
            self.unexplained_rounds += u32::from(self.is_unexplained);
            self.is_unexplained = true;
            self.is_permanent = true;
            self.rate_limit = None;
        }
    }

    /// Handles the result of an attempt. Returns the response if the call has succeeded, and `None` if it
    /// continues.
    fn finish_attempt(
        &mut self,
        target: Target,
        (sender, result): Answer,
    ) -> Result<Option<Response>, Error> {
        let Target { endpoint, relaxed } = target;
        self.latest.take_if(|latest| Arc::ptr_eq(latest, &endpoint));
        let (retry, failure) = match result {
            Ok(mut response) => match judge(self.protocol, self.request, &mut response) {
                Outcome::Success => {
                    self.servers.mark_responsive(&sender);
                    response.stale = relaxed;
                    return Ok(Some(response));
                }
                Outcome::Fatal(error) => return Err(error),
                Outcome::NextEndpoint(error) | Outcome::ServerError(error)
                    if !self.can_repeat_after(&response) =>
                {
                    return Err(error);
                }
                Outcome::NextEndpoint(error) => (Retry::NextServer, error),
                Outcome::ServerError(error) => (Retry::Unexplained, error),
                Outcome::StaleReplica(error) => {
                    self.stale_replica.get_or_insert(endpoint);
                    (Retry::NextServer, error)
                }
                Outcome::RetryAfter(wait, error) => (Retry::RateLimited(wait), error),
            },
            Err(failure) => {
                sender.mark_failed();
                // If the deadline ended this attempt, the previous round's failure is more specific.
                if matches!(failure, Failure::Deadline(_))
                    && let Some(earlier) = self.rate_limit.take().or(self.latest_failure.take())
                {
                    return Err(earlier);
                }
                let is_final = !self.request.is_idempotent() && !failure.did_nothing()
                    || matches!(failure, Failure::TooLarge(_));
                let is_last = self.untried.is_empty() && self.in_flight.is_empty();
                // Waiting here would only move the queue.
                let is_final = is_final || is_last && matches!(failure, Failure::Overloaded(_));
                let is_unexplained = matches!(failure, Failure::Redirect | Failure::Proxy(..));
                let error = failure.into_error(sender.authority());
                if is_final {
                    return Err(error);
                }
                let retry = match error.is_temporary() {
                    true if is_unexplained => Retry::Unexplained,
                    true => Retry::NextServer,
                    false => Retry::Permanent,
                };
                (retry, error)
            }
        };
        self.schedule_next(retry, failure)?;
        Ok(None)
    }

    /// Returns whether the request can be sent again after a failed attempt with this response.
    fn can_repeat_after(&self, response: &Response) -> bool {
        let request = self.request;
        request.is_idempotent()
            || response.is_recognized() && self.protocol.did_nothing(request, response)
    }

    /// Schedules the next attempt after `failure`.
    ///
    /// # Errors
    /// Returns `failure` if too many rounds have failed, or if the next attempt would start after the
    /// deadline.
    fn schedule_next(&mut self, retry: Retry, failure: Error) -> Result<(), Error> {
        let now = Instant::now();
        let stated = match retry {
            Retry::RateLimited(wait) => wait,
            Retry::NextServer | Retry::Unexplained | Retry::Permanent => failure.retry_after(),
        };
        let stated = stated.unwrap_or_default().min(MAX_RETRY_AFTER);
        self.next_round = self.next_round.max(now + stated.max(backoff(self.rounds)));
        self.is_unexplained &= retry == Retry::Unexplained;
        self.is_permanent &= retry == Retry::Permanent;
        if matches!(retry, Retry::RateLimited(_)) {
            // No other attempt starts during the wait. Those that are running can still succeed.
            self.untried.clear();
            self.stale_replica = None;
            if !self.in_flight.is_empty() {
                self.rate_limit = Some(failure);
                self.next_attempt = self.next_round.min(self.deadline);
                return Ok(());
            }
        } else {
            let more = !self.untried.is_empty()
                || self.stale_replica.is_some() && self.in_flight.is_empty();
            if more && now < self.deadline {
                self.next_attempt = now;
                return Ok(());
            }
            if !self.in_flight.is_empty() {
                return Ok(());
            }
            if self.rate_limit.is_none() {
                self.servers.mark_all_failed();
            }
        }
        let failure = self.rate_limit.take().unwrap_or(failure);
        self.servers.record_failure(&failure);
        if self.is_permanent || !self.can_start_round() || self.next_round >= self.deadline {
            return Err(failure);
        }
        tracing::debug!(target: "secretwell::http", event = "request_retried", origin = %self.origin, error = %failure, "the request is retried");
        self.latest_failure = Some(failure);
        self.in_flight = InFlight::default();
        self.untried.clear();
        self.stale_replica = None;
        self.latest = None;
        self.next_attempt = self.next_round;
        Ok(())
    }
}

/// The server that an attempt is sent to, and which responses it accepts.
#[derive(Clone)]
struct Target {
    endpoint: Arc<Endpoint>,
    /// Whether the attempt accepts a stale replica.
    relaxed: bool,
}

/// The result of an attempt with the server that it is from, which differs from the target after a redirect.
type Answer = (Arc<Endpoint>, Result<Response, Failure>);
type Attempt<'a> = Pin<Box<dyn Future<Output = Answer> + Send + 'a>>;

/// The attempts that run in parallel.
#[derive(Default)]
struct InFlight<'a> {
    attempts: Vec<(Target, Attempt<'a>)>,
}

impl<'a> InFlight<'a> {
    fn start(&mut self, target: Target, attempt: Attempt<'a>) {
        self.attempts.push((target, attempt));
    }

    fn includes(&self, endpoint: &Arc<Endpoint>) -> bool {
        self.attempts
            .iter()
            .any(|(target, _)| Arc::ptr_eq(&target.endpoint, endpoint))
    }

    fn is_empty(&self) -> bool {
        self.attempts.is_empty()
    }

    /// Returns the result of the next attempt that ends. Without attempts, this never completes.
    ///
    /// # Cancellation
    /// Dropping the future does not cancel the attempts.
    async fn next(&mut self) -> (Target, Answer) {
        poll_fn(|context| {
            for (position, (_, attempt)) in self.attempts.iter_mut().enumerate() {
                if let Poll::Ready(result) = attempt.as_mut().poll(context) {
                    let (target, _) = self.attempts.swap_remove(position);
                    return Poll::Ready((target, result));
                }
            }
            Poll::Pending
        })
        .await
    }
}
