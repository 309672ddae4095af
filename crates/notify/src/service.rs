//! [`NotifyService`]: receives notifications as HTTP requests.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use bytes::Buf;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body::Body;
use secretwell_core::SecretValue;
use secretwell_core::backend::Change;
use tokio::task::coop::consume_budget;
use tokio::time::{Instant, timeout};
use tower_service::Service;

use crate::hub::{NotifyHub, lock};
use crate::infisical::{self, InfisicalScope};
use crate::rejection::Rejection;
use crate::replay::ReplayGuard;
use crate::secret::NotifySecret;
use crate::signature::Signature;
use crate::signed;

/// The maximum length of a body, in bytes.
const MAX_BODY: usize = 64 * 1024;
/// How long the body of a request can take.
const BODY_DEADLINE: Duration = Duration::from_secs(10);
/// The minimum time between two warnings of one kind.
const WARNING_INTERVAL: Duration = Duration::from_secs(60);

/// A tower service that receives signed change notifications and passes them to a [`NotifyHub`].
///
/// It serves every path, so mount it at one path, such as `/notify`. It runs in a tokio runtime. Clones share
/// the memory of received notifications.
///
/// | status | meaning |
/// | --- | --- |
/// | 204 | The notification was accepted, or it is one that changes nothing. |
/// | 400 | The header or the body is malformed, or the header occurs twice. |
/// | 401 | The signature is missing or wrong, or its time differs by more than 5 minutes. |
/// | 405 | The method is not `POST`. |
/// | 408 | The body did not arrive within 10 s. |
/// | 409 | The notification was received before. |
/// | 413 | The body is larger than 64 KiB. |
/// | 429 | More than 10,000 notifications within 5 minutes. None is forgotten, so that none can be replayed. |
/// | 503 | The signing secret cannot be read. |
///
/// A request whose future is dropped before its response changes nothing.
#[derive(Clone)]
pub struct NotifyService {
    shared: Arc<Shared>,
}

struct Shared {
    hub: NotifyHub,
    secret: NotifySecret,
    format: Format,
    replays: Mutex<ReplayGuard>,
    warnings: Throttle,
}

/// How a sender signs and describes a change.
#[derive(Debug)]
enum Format {
    Infisical(InfisicalScope),
    Signed,
}

impl NotifyService {
    /// Creates a service for webhooks of Infisical. `secret` is the secret key of the webhook.
    ///
    /// Each webhook is a change of all keys, because Infisical does not name the changed secrets. Test events
    /// and failed rotations are accepted and ignored.
    pub fn infisical(hub: NotifyHub, secret: impl Into<NotifySecret>) -> Self {
        Self::infisical_in(hub, secret, InfisicalScope::new())
    }

    /// Creates a service for webhooks of Infisical that ignores changes outside of `scope`.
    pub fn infisical_in(
        hub: NotifyHub,
        secret: impl Into<NotifySecret>,
        scope: InfisicalScope,
    ) -> Self {
        Self::new(hub, secret.into(), Format::Infisical(scope))
    }

    /// Creates a service for any sender that can compute an HMAC, such as a CI pipeline or a cloud function.
    ///
    /// - The body is JSON such as `{"keys":["db/PASSWORD"]}`. An empty body or list means all keys, and so do
    ///   more than 1,000 keys. Other members are ignored.
    /// - The header `x-secretwell-signature` is `t=<time>,v1=<code>`. The time is in Unix seconds. The code is the
    ///   HMAC-SHA256 of the time, a dot and the body, in hexadecimal. During a rotation of the secret, a sender
    ///   can send one `v1` for each secret, at most 8.
    ///
    /// The same body can be sent once per second. If several senders use one secret, add a unique member, such
    /// as `id`.
    pub fn signed(hub: NotifyHub, secret: impl Into<NotifySecret>) -> Self {
        Self::new(hub, secret.into(), Format::Signed)
    }

    fn new(hub: NotifyHub, secret: NotifySecret, format: Format) -> Self {
        Self {
            shared: Arc::new(Shared {
                hub,
                secret,
                format,
                replays: Mutex::default(),
                warnings: Throttle::default(),
            }),
        }
    }
}

impl<B> Service<Request<B>> for NotifyService
where
    B: Body + Send + 'static,
{
    type Response = Response<String>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<String>, Infallible>> + Send>>;

    /// The service is always ready.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let shared = self.shared.clone();
        Box::pin(async move { Ok(shared.respond(request).await) })
    }
}

impl Shared {
    async fn respond<B: Body>(&self, request: Request<B>) -> Response<String> {
        match self.receive(request).await {
            Ok(change) => {
                let keys = match &change {
                    Some(Change::Keys(keys)) => keys.len().to_string(),
                    Some(_) => "all".to_owned(),
                    None => "none".to_owned(),
                };
                tracing::debug!(target: "secretwell::notify", event = "notification_accepted", keys, "a change notification was accepted");
                if let Some(change) = change {
                    self.hub.notify(change);
                }
                let mut response = Response::new(String::new());
                *response.status_mut() = StatusCode::NO_CONTENT;
                response
            }
            Err(rejection) => {
                self.log_rejection(rejection);
                rejection.into_response()
            }
        }
    }

    /// Returns the change that a request reports, or `None` if it reports that nothing has changed.
    async fn receive<B: Body>(&self, request: Request<B>) -> Result<Option<Change>, Rejection> {
        let (parts, body) = request.into_parts();
        if parts.method != Method::POST {
            return Err(Rejection::method_not_allowed());
        }
        let signature = self.format.signature(&parts.headers)?;
        // Checked before the body and the secret are read, so that an old request costs little.
        lock(&self.replays).check_time(unix_time(), signature.sent_at)?;
        let body = timeout(BODY_DEADLINE, read_body(body)).await;
        let body = body.map_err(|_| Rejection::body_timeout())??;
        if !signature.is_valid(&body, &self.secrets().await?) {
            return Err(Rejection::unauthorized("the signature is wrong"));
        }
        let change = self.format.change(&signature, &body)?;
        // A replay of what changes nothing changes nothing either. Changes of other places cannot use up the memory.
        if change.is_some() {
            lock(&self.replays).admit(unix_time(), signature.sent_at, signature.digest(&body))?;
        }
        Ok(change)
    }

    async fn secrets(&self) -> Result<Vec<SecretValue>, Rejection> {
        self.secret.read().await.map_err(|error| {
            if self.warnings.is_due("signing_secret_failed") {
                tracing::warn!(target: "secretwell::notify", event = "signing_secret_failed", error, "the signing secret of change notifications cannot be read");
            }
            Rejection::no_secret()
        })
    }

    fn log_rejection(&self, rejection: Rejection) {
        let status = rejection.status.as_u16();
        let reason = rejection.reason;
        match self.warnings.is_due(reason) {
            true => {
                tracing::warn!(target: "secretwell::notify", event = "notification_rejected", status, reason, "a change notification was rejected");
            }
            false => {
                tracing::debug!(target: "secretwell::notify", event = "notification_rejected", status, reason, "a change notification was rejected");
            }
        }
    }
}

/// Limits the warnings. Anyone can send requests, and should neither fill the log nor hide warnings of another kind.
#[derive(Default)]
struct Throttle(Mutex<BTreeMap<&'static str, Instant>>);

impl Throttle {
    /// Returns whether a warning of this kind can be logged now, and if so, counts it as logged.
    fn is_due(&self, kind: &'static str) -> bool {
        let now = Instant::now();
        let mut logged = lock(&self.0);
        let last = logged.get(kind);
        let is_due = last.is_none_or(|last| now.duration_since(*last) >= WARNING_INTERVAL);
        if is_due {
            logged.insert(kind, now);
        }
        is_due
    }
}

impl Format {
    fn signature(&self, headers: &HeaderMap) -> Result<Signature, Rejection> {
        match self {
            Self::Infisical(_) => infisical::signature(headers),
            Self::Signed => signed::signature(headers),
        }
    }

    fn change(&self, signature: &Signature, body: &[u8]) -> Result<Option<Change>, Rejection> {
        match self {
            Self::Infisical(scope) => infisical::change(signature, body, scope),
            Self::Signed => signed::change(body).map(Some),
        }
    }
}

/// Reads a body of limited length.
async fn read_body<B: Body>(body: B) -> Result<Vec<u8>, Rejection> {
    if body.size_hint().lower() > MAX_BODY as u64 {
        return Err(Rejection::too_large());
    }
    let mut body = pin!(body);
    let mut bytes = Vec::new();
    loop {
        // Empty frames that arrive without a pause would otherwise keep the deadline from ending the read.
        consume_budget().await;
        let frame = poll_fn(|context| {
            // The frame is copied here, because it might not be `Send`.
            body.as_mut().poll_frame(context).map(|frame| match frame {
                Some(Ok(frame)) => frame.into_data().map_or(Ok(true), |mut data| {
                    append(&mut bytes, &mut data).map(|()| true)
                }),
                Some(Err(_)) => Err(Rejection::malformed("the body is incomplete")),
                None => Ok(false),
            })
        });
        if !frame.await? {
            return Ok(bytes);
        }
    }
}

fn append(bytes: &mut Vec<u8>, data: &mut impl Buf) -> Result<(), Rejection> {
    if data.remaining() > MAX_BODY - bytes.len() {
        return Err(Rejection::too_large());
    }
    while data.has_remaining() {
        let chunk = data.chunk();
        bytes.extend_from_slice(chunk);
        data.advance(chunk.len());
    }
    Ok(())
}

/// Returns the time in milliseconds since 1970.
fn unix_time() -> u64 {
    let time = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let millis = time.unwrap_or_default().as_millis();
    u64::try_from(millis).unwrap_or(u64::MAX)
}

impl fmt::Debug for NotifyService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NotifyService")
            .field("format", &self.shared.format)
            .field("hub", &self.shared.hub)
            .finish_non_exhaustive()
    }
}
