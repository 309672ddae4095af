//! The retry loop of a call: it tries one address after another, hedges slow ones, and backs off.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use secretwell_core::Error;
use tokio::time::{Instant, sleep_until};

use crate::client::{Outcome, Request, Response, Shared};
use crate::failure::Failure;
use crate::retry::backoff;

/// The state of one call of [`Client::send`](crate::Client::send).
pub(crate) struct SendLoop<'a> {
    shared: &'a Shared,
    request: &'a Request,
    deadline: Instant,
    in_flight: InFlight<'a>,
    /// The addresses that were not tried in this round.
    untried: VecDeque<usize>,
    /// The address of the newest attempt, until that attempt ends or the next one starts.
    latest: Option<usize>,
    /// When the next attempt starts, unless a response arrives earlier.
    next_attempt: Instant,
    rounds: u32,
    /// An address that responded in this round, but with stale data.
    stale_replica: Option<usize>,
    /// The last failure before this attempt, which is more specific than reaching the deadline.
    latest_failure: Option<Error>,
}

impl<'a> SendLoop<'a> {
    pub(crate) fn new(shared: &'a Shared, request: &'a Request) -> Self {
        let now = Instant::now();
        Self {
            shared,
            request,
            deadline: now + shared.config.deadline,
            in_flight: InFlight::default(),
            untried: shared.address_order().into(),
            latest: None,
            next_attempt: now,
            rounds: 0,
            stale_replica: None,
            latest_failure: None,
        }
    }

    pub(crate) async fn run(mut self) -> Result<Response, Error> {
        loop {
            // After the deadline, only in-flight attempts are awaited. Each of them ends by then.
            let now = Instant::now();
            let can_start = now < self.deadline || self.in_flight.is_empty();
            // Checked here because tokio's timer is up to a millisecond late.
            if can_start && self.next_attempt <= now {
                self.start_attempt();
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

    /// Starts an attempt at the next address, in parallel to the running ones.
    fn start_attempt(&mut self) {
        if let Some(slow) = self.latest.take() {
            self.shared.mark_failed(slow);
        }
        if self.untried.is_empty() && self.stale_replica.is_none() {
            self.untried = self.shared.address_order().into();
            self.untried
                .retain(|index| !self.in_flight.includes(*index));
            self.rounds += 1;
        }
        // A slightly stale response now is better than waiting for a server that failed recently.
        if self.stale_replica.is_some() {
            let shared = self.shared;
            self.untried.retain(|index| !shared.failed_recently(*index));
        }
        let untried = self.untried.pop_front().map(|index| (index, false));
        let target = untried.or_else(|| self.stale_replica.take().map(|index| (index, true)));
        // Without a target, an attempt is running at every address.
        if let Some((index, relaxed)) = target {
            let attempt = self
                .shared
                .attempt(index, self.request, relaxed, self.deadline);
            self.in_flight
                .start(Target { index, relaxed }, Box::pin(attempt));
            self.latest = Some(index);
        }
        let no_hedging = self.request.non_idempotent || self.shared.config.addresses.len() == 1;
        self.next_attempt = match no_hedging {
            true => self.deadline,
            false => (Instant::now() + self.shared.config.hedge).min(self.deadline),
        };
    }

    /// Handles the result of an attempt. Returns the response if the call has succeeded, and `None` if it
    /// continues.
    fn finish_attempt(
        &mut self,
        target: Target,
        result: Result<Response, Failure>,
    ) -> Result<Option<Response>, Error> {
        let Target { index, relaxed } = target;
        if self.latest == Some(index) {
            self.latest = None;
        }
        let mut rate_limit = None;
        let failure = match result {
            Ok(mut response) => match self.shared.protocol.classify(&response) {
                Outcome::Success => {
                    self.shared.mark_responsive(index);
                    response.stale = relaxed;
                    return Ok(Some(response));
                }
                Outcome::Fatal(error) => return Err(error),
                Outcome::NextEndpoint(error)
                    if self.request.non_idempotent
                        && !self.shared.protocol.did_nothing(&response) =>
                {
                    return Err(error);
                }
                Outcome::NextEndpoint(error) => error,
                Outcome::StaleReplica(error) => {
                    self.stale_replica.get_or_insert(index);
                    error
                }
                Outcome::RetryAfter(wait, error) => {
                    rate_limit = Some(wait);
                    error
                }
            },
            Err(failure) => {
                self.shared.mark_failed(index);
                // If the deadline ended this attempt, the previous round's failure is more specific.
                if matches!(failure, Failure::Deadline(_))
                    && let Some(earlier) = self.latest_failure.take()
                {
                    return Err(earlier);
                }
                let is_final = self.request.non_idempotent && !failure.did_nothing()
                    || matches!(failure, Failure::TooLarge(_));
                let addresses = &self.shared.config.addresses;
                let error = failure.into_error(&addresses[index].authority());
                if is_final || !error.is_temporary() && addresses.len() == 1 {
                    return Err(error);
                }
                error
            }
        };
        self.schedule_next(rate_limit, failure)?;
        Ok(None)
    }

    /// Schedules the next attempt after `failure`. `rate_limit` is set if the request was rate limited; its
    /// inner value is the wait that the server stated.
    ///
    /// # Errors
    /// Returns `failure` if the next attempt would start after the deadline.
    fn schedule_next(
        &mut self,
        rate_limit: Option<Option<Duration>>,
        failure: Error,
    ) -> Result<(), Error> {
        let now = Instant::now();
        if rate_limit.is_none() {
            let more = !self.untried.is_empty()
                || self.stale_replica.is_some() && self.in_flight.is_empty();
            if more && now < self.deadline {
                self.next_attempt = now;
                return Ok(());
            }
            if !self.in_flight.is_empty() {
                return Ok(());
            }
        }
        let next_round = now + rate_limit.flatten().unwrap_or_else(|| backoff(self.rounds));
        if next_round >= self.deadline {
            return Err(failure);
        }
        tracing::debug!(target: "secretwell::http", event = "request_retried", origin = %self.shared.origin, error = %failure, "the request is retried");
        self.latest_failure = Some(failure);
        self.in_flight = InFlight::default();
        self.untried.clear();
        self.stale_replica = None;
        self.latest = None;
        self.next_attempt = next_round;
        Ok(())
    }
}

/// The address that an attempt is sent to, and which responses it accepts.
#[derive(Clone, Copy)]
struct Target {
    index: usize,
    /// Whether the attempt accepts a stale replica.
    relaxed: bool,
}

type Attempt<'a> = Pin<Box<dyn Future<Output = Result<Response, Failure>> + Send + 'a>>;

/// The attempts that run in parallel.
#[derive(Default)]
struct InFlight<'a> {
    attempts: Vec<(Target, Attempt<'a>)>,
}

impl<'a> InFlight<'a> {
    fn start(&mut self, target: Target, attempt: Attempt<'a>) {
        self.attempts.push((target, attempt));
    }

    fn includes(&self, index: usize) -> bool {
        self.attempts
            .iter()
            .any(|(target, _)| target.index == index)
    }

    fn is_empty(&self) -> bool {
        self.attempts.is_empty()
    }

    /// Returns the result of the next attempt that ends. Without attempts, this never completes.
    ///
    /// # Cancellation
    /// Dropping the future does not cancel the attempts.
    async fn next(&mut self) -> (Target, Result<Response, Failure>) {
        poll_fn(|context| {
            for (position, (target, attempt)) in self.attempts.iter_mut().enumerate() {
                if let Poll::Ready(result) = attempt.as_mut().poll(context) {
                    let target = *target;
                    drop(self.attempts.swap_remove(position));
                    return Poll::Ready((target, result));
                }
            }
            Poll::Pending
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use http::{Method, StatusCode};
    use secretwell_core::{ErrorKind, Origin};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;
    use crate::{Client, ClientConfig, Protocol};

    /// What a test server does with one request.
    #[derive(Clone, Copy)]
    enum Reaction {
        Hang,
        Respond(&'static str),
    }

    #[derive(Debug)]
    struct TestProtocol;

    impl Protocol for TestProtocol {
        fn classify(&self, response: &Response) -> Outcome {
            let error = Error::new(ErrorKind::Unavailable, "not now");
            match response.status {
                StatusCode::OK => Outcome::Success,
                StatusCode::PRECONDITION_FAILED => Outcome::StaleReplica(error),
                _ => Outcome::NextEndpoint(error),
            }
        }

        fn did_nothing(&self, response: &Response) -> bool {
            response.status == StatusCode::SERVICE_UNAVAILABLE
        }
    }

    /// Starts a server with one reaction for each request; the last one is repeated. Returns its address.
    async fn server(reactions: &'static [Reaction]) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move {
            let mut open = Vec::new();
            for number in 0.. {
                let (mut stream, _) = listener.accept().await.unwrap();
                let _ = stream.read(&mut [0; 4096]).await;
                if let Reaction::Respond(status) = reactions[number.min(reactions.len() - 1)] {
                    let response = format!(
                        "HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
                    );
                    let _ = stream.write_all(response.as_bytes()).await;
                }
                open.push(stream);
            }
        });
        address
    }

    const HOUR: Duration = Duration::from_secs(60 * 60);
    const IMMEDIATELY: Duration = Duration::from_millis(1);

    /// Sends a request with a deadline and an attempt timeout of an hour, so that only hedging helps
    /// against a server that hangs.
    async fn send(
        servers: &[&'static [Reaction]],
        request: Request,
        hedge: Duration,
    ) -> Result<Response, Error> {
        let mut addresses = Vec::new();
        for reactions in servers {
            addresses.push(server(reactions).await);
        }
        let config = ClientConfig::new(addresses)?
            .deadline(HOUR)
            .attempt_timeout(HOUR)
            .hedge_delay(hedge);
        let client = Client::new(config, TestProtocol, Origin::new("plain", "test"))?;
        client.send(&request).await
    }

    fn get() -> Request {
        Request::new(Method::GET, "/")
    }

    const HANGING: &[Reaction] = &[Reaction::Hang];
    const HEALTHY: &[Reaction] = &[Reaction::Respond("200 OK")];
    const STARTING: &[Reaction] = &[
        Reaction::Respond("503 Starting"),
        Reaction::Respond("503 Starting"),
        Reaction::Respond("200 OK"),
    ];

    #[tokio::test]
    async fn hanging_servers_are_hedged() {
        let response = send(&[HANGING, HANGING, HEALTHY], get(), IMMEDIATELY)
            .await
            .unwrap();
        assert!(!response.stale);
    }

    #[tokio::test]
    async fn starting_server_is_retried_while_another_hangs() {
        send(&[HANGING, STARTING], get(), IMMEDIATELY)
            .await
            .unwrap();
        send(&[STARTING], get(), IMMEDIATELY).await.unwrap();
    }

    #[tokio::test]
    async fn stale_replica_is_accepted_if_the_others_hang() {
        const STALE: &[Reaction] = &[Reaction::Respond("412 Stale"), Reaction::Respond("200 OK")];
        let response = send(&[HANGING, STALE], get(), IMMEDIATELY).await.unwrap();
        assert!(response.stale);
        let response = send(&[STALE, HEALTHY], get(), HOUR).await.unwrap();
        assert!(!response.stale);
    }

    #[tokio::test]
    async fn call_times_out_if_all_servers_hang() {
        tokio::time::pause();
        for hedge in [IMMEDIATELY * 500, HOUR] {
            let call = send(&[HANGING, HANGING, HANGING], get(), hedge);
            let error = call.await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
        }
    }

    #[tokio::test]
    async fn attempt_cut_short_by_the_deadline_does_not_hide_the_earlier_failure() {
        const THEN_HANGING: &[Reaction] = &[Reaction::Respond("503 Starting"), Reaction::Hang];
        tokio::time::pause();
        let error = send(&[THEN_HANGING], get(), HOUR).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    }

    #[tokio::test]
    async fn non_idempotent_request_is_not_hedged() {
        let call = send(&[HANGING, HEALTHY], get().non_idempotent(), IMMEDIATELY);
        let result = tokio::time::timeout(Duration::from_millis(50), call).await;
        assert!(result.is_err(), "{result:?}");
    }

    #[tokio::test]
    async fn non_idempotent_request_is_retried_only_if_the_server_did_nothing() {
        const FAILED: &[Reaction] = &[Reaction::Respond("502 Failed")];
        send(&[FAILED, HEALTHY], get(), HOUR).await.unwrap();
        let error = send(&[FAILED, HEALTHY], get().non_idempotent(), HOUR)
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        send(&[STARTING, HEALTHY], get().non_idempotent(), HOUR)
            .await
            .unwrap();
        const REDIRECTING: &[Reaction] = &[Reaction::Respond(
            "307 Redirect\r\nlocation: http://127.0.0.1:1/",
        )];
        send(&[REDIRECTING, HEALTHY], get().non_idempotent(), HOUR)
            .await
            .unwrap();
    }
}
