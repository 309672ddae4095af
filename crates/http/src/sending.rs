//! The one retry loop: from address to address, beside one that is silent, and round again.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use secretwell_core::Error;
use tokio::time::{Instant, sleep_until};

use crate::client::{Outcome, Request, Response, Shared};
use crate::failure::Failure;
use crate::retry::wait;

/// A request on its way.
pub(crate) struct Sending<'a> {
    shared: &'a Shared,
    request: &'a Request,
    end: Instant,
    race: Race<'a>,
    /// The addresses that have not been asked in this round.
    waiting: VecDeque<usize>,
    /// The address that was asked last.
    latest: Option<usize>,
    /// When the next one is asked, unless there is an answer before.
    next: Instant,
    rounds: u32,
    /// An address that answers, and is behind.
    stale_replica: Option<usize>,
    /// Why the latest round brought no answer.
    latest_failure: Option<Error>,
}

impl<'a> Sending<'a> {
    pub(crate) fn new(shared: &'a Shared, request: &'a Request) -> Self {
        let now = Instant::now();
        Self {
            shared,
            request,
            end: now + shared.config.deadline,
            race: Race::default(),
            waiting: shared.order().into(),
            latest: None,
            next: now,
            rounds: 0,
            stale_replica: None,
            latest_failure: None,
        }
    }

    pub(crate) async fn run(mut self) -> Result<Response, Error> {
        loop {
            // At the end those that were asked are waited for, and each gives up by then.
            let now = Instant::now();
            let may_ask = now < self.end || self.race.is_empty();
            // Not left to the timer, which is a millisecond late.
            if may_ask && self.next <= now {
                self.ask_the_next();
            }
            tokio::select! {
                biased;
                (place, outcome) = self.race.next() => {
                    if let Some(response) = self.land(place, outcome)? {
                        return Ok(response);
                    }
                }
                () = sleep_until(self.next), if may_ask && self.next < self.end => {}
            }
        }
    }

    /// Asks the next address, beside those that are still silent.
    fn ask_the_next(&mut self) {
        if let Some(silent) = self.latest.take() {
            self.shared.shun(silent);
        }
        if self.waiting.is_empty() && self.stale_replica.is_none() {
            self.waiting = self.shared.order().into();
            self.waiting.retain(|index| !self.race.includes(*index));
            self.rounds += 1;
        }
        // Rather what is a little old, now, than a wait for a server that did not answer a moment ago.
        if self.stale_replica.is_some() {
            let shared = self.shared;
            self.waiting.retain(|index| !shared.failed_lately(*index));
        }
        let fresh = self.waiting.pop_front().map(|index| (index, false));
        let place = fresh.or_else(|| self.stale_replica.take().map(|index| (index, true)));
        // Without one, every address is being asked.
        if let Some((index, relaxed)) = place {
            let attempt = self.shared.attempt(index, self.request, relaxed, self.end);
            self.race.start(Place { index, relaxed }, Box::pin(attempt));
            self.latest = Some(index);
        }
        let alone = self.request.non_idempotent || self.shared.config.addresses.len() == 1;
        self.next = match alone {
            true => self.end,
            false => (Instant::now() + self.shared.config.hedge).min(self.end),
        };
    }

    /// Takes what came of an attempt: the answer, or what to do next.
    fn land(
        &mut self,
        place: Place,
        outcome: Result<Response, Failure>,
    ) -> Result<Option<Response>, Error> {
        let Place { index, relaxed } = place;
        if self.latest == Some(index) {
            self.latest = None;
        }
        let mut told = None;
        let failure = match outcome {
            Ok(mut response) => match self.shared.protocol.classify(&response) {
                Outcome::Success => {
                    self.shared.answered(index);
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
                    told = Some(wait);
                    error
                }
            },
            Err(broken) => {
                self.shared.shun(index);
                // An attempt that had no time tells less than the round before it.
                if matches!(broken, Failure::Deadline(_))
                    && let Some(failure) = self.latest_failure.take()
                {
                    return Err(failure);
                }
                let final_word = self.request.non_idempotent && !broken.did_nothing()
                    || matches!(broken, Failure::TooLarge(_));
                let addresses = &self.shared.config.addresses;
                let error = broken.into_error(&addresses[index].authority());
                if final_word || !error.is_temporary() && addresses.len() == 1 {
                    return Err(error);
                }
                error
            }
        };
        self.go_on(told, failure)?;
        Ok(None)
    }

    /// When to ask the next address after a failure.
    fn go_on(&mut self, told: Option<Option<Duration>>, failure: Error) -> Result<(), Error> {
        let now = Instant::now();
        if told.is_none() {
            let more =
                !self.waiting.is_empty() || self.stale_replica.is_some() && self.race.is_empty();
            if more && now < self.end {
                self.next = now;
                return Ok(());
            }
            if !self.race.is_empty() {
                return Ok(());
            }
        }
        let again = now + told.flatten().unwrap_or_else(|| wait(self.rounds));
        if again >= self.end {
            return Err(failure);
        }
        tracing::debug!(target: "secretwell::http", event = "request_retried", origin = %self.shared.origin, error = %failure, "the request is sent again");
        self.latest_failure = Some(failure);
        self.race = Race::default();
        self.waiting.clear();
        self.stale_replica = None;
        self.latest = None;
        self.next = again;
        Ok(())
    }
}

/// Where an attempt goes, and whether it is content with a server that is behind.
#[derive(Clone, Copy)]
struct Place {
    index: usize,
    relaxed: bool,
}

type Attempt<'a> = Pin<Box<dyn Future<Output = Result<Response, Failure>> + Send + 'a>>;

/// Attempts side by side.
#[derive(Default)]
struct Race<'a> {
    running: Vec<(Place, Attempt<'a>)>,
}

impl<'a> Race<'a> {
    fn start(&mut self, place: Place, attempt: Attempt<'a>) {
        self.running.push((place, attempt));
    }

    fn includes(&self, index: usize) -> bool {
        self.running.iter().any(|(place, _)| place.index == index)
    }

    fn is_empty(&self) -> bool {
        self.running.is_empty()
    }

    /// The next that ends. Cancelling it cancels none; without any, it never ends.
    async fn next(&mut self) -> (Place, Result<Response, Failure>) {
        poll_fn(|context| {
            for (at, (place, attempt)) in self.running.iter_mut().enumerate() {
                if let Poll::Ready(outcome) = attempt.as_mut().poll(context) {
                    let place = *place;
                    drop(self.running.swap_remove(at));
                    return Poll::Ready((place, outcome));
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

    /// How a server behaves.
    #[derive(Clone, Copy)]
    enum Server {
        IsSilent,
        Answers(&'static str),
    }

    #[derive(Debug)]
    struct Plain;

    impl Protocol for Plain {
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

    /// The address of a server that keeps to `script`, request by request, and then to its end.
    async fn server(script: &'static [Server]) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move {
            let mut open = Vec::new();
            for number in 0.. {
                let (mut stream, _) = listener.accept().await.unwrap();
                let _ = stream.read(&mut [0; 4096]).await;
                if let Server::Answers(status) = script[number.min(script.len() - 1)] {
                    let answer = format!(
                        "HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
                    );
                    let _ = stream.write_all(answer.as_bytes()).await;
                }
                open.push(stream);
            }
        });
        address
    }

    const HOUR: Duration = Duration::from_secs(60 * 60);
    const AT_ONCE: Duration = Duration::from_millis(1);

    /// Sends a request with limits that no test lives to see, so that only company helps.
    async fn send(
        scripts: &[&'static [Server]],
        request: Request,
        hedge: Duration,
    ) -> Result<Response, Error> {
        let mut addresses = Vec::new();
        for script in scripts {
            addresses.push(server(script).await);
        }
        let config = ClientConfig::new(addresses)?
            .deadline(HOUR)
            .attempt_timeout(HOUR)
            .hedge_delay(hedge);
        let client = Client::new(config, Plain, Origin::new("plain", "test"))?;
        client.send(&request).await
    }

    fn get() -> Request {
        Request::new(Method::GET, "/")
    }

    const SILENT: &[Server] = &[Server::IsSilent];
    const GOOD: &[Server] = &[Server::Answers("200 OK")];
    const STARTING: &[Server] = &[
        Server::Answers("503 Starting"),
        Server::Answers("503 Starting"),
        Server::Answers("200 OK"),
    ];

    #[tokio::test]
    async fn a_silent_server_gets_company() {
        let response = send(&[SILENT, SILENT, GOOD], get(), AT_ONCE).await.unwrap();
        assert!(!response.stale);
    }

    #[tokio::test]
    async fn one_that_is_starting_is_asked_again_beside_a_silent_one() {
        send(&[SILENT, STARTING], get(), AT_ONCE).await.unwrap();
        send(&[STARTING], get(), AT_ONCE).await.unwrap();
    }

    #[tokio::test]
    async fn one_that_is_behind_is_good_enough_when_the_others_are_silent() {
        const BEHIND: &[Server] = &[Server::Answers("412 Behind"), Server::Answers("200 OK")];
        let response = send(&[SILENT, BEHIND], get(), AT_ONCE).await.unwrap();
        assert!(response.stale);
        let response = send(&[BEHIND, GOOD], get(), HOUR).await.unwrap();
        assert!(!response.stale);
    }

    #[tokio::test]
    async fn all_that_are_silent_end_with_the_deadline() {
        tokio::time::pause();
        for hedge in [AT_ONCE * 500, HOUR] {
            let sending = send(&[SILENT, SILENT, SILENT], get(), hedge);
            let error = sending.await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
        }
    }

    #[tokio::test]
    async fn a_last_attempt_without_time_hides_no_reason() {
        const THEN_SILENT: &[Server] = &[Server::Answers("503 Starting"), Server::IsSilent];
        tokio::time::pause();
        let error = send(&[THEN_SILENT], get(), HOUR).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    }

    #[tokio::test]
    async fn what_must_not_be_done_twice_gets_no_company() {
        let sending = send(&[SILENT, GOOD], get().non_idempotent(), AT_ONCE);
        let waited = tokio::time::timeout(Duration::from_millis(50), sending).await;
        assert!(waited.is_err(), "{waited:?}");
    }

    #[tokio::test]
    async fn what_must_not_be_done_twice_goes_on_only_from_a_server_that_did_nothing() {
        const FAILED: &[Server] = &[Server::Answers("502 Failed")];
        send(&[FAILED, GOOD], get(), HOUR).await.unwrap();
        let error = send(&[FAILED, GOOD], get().non_idempotent(), HOUR)
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        send(&[STARTING, GOOD], get().non_idempotent(), HOUR)
            .await
            .unwrap();
        const SENDS_ON: &[Server] = &[Server::Answers("307 On\r\nlocation: http://127.0.0.1:1/")];
        send(&[SENDS_ON, GOOD], get().non_idempotent(), HOUR)
            .await
            .unwrap();
    }
}
