//! An imitation of AWS that checks signatures, and a server in front of a backend that uses it for logins.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::State;
use axum::http::{Method, Response, StatusCode};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::Client;
use secretwell::vault::{AwsCredentials, AwsKeys};
use serde_json::Value;
use tokio::task::JoinSet;

use crate::support::{secs, tool};

/// The number of requests without a signature that create the user.
const UNSIGNED: &str = "2";

/// The identity service of AWS, imitated by moto. It checks each signature with the official SDK for Python.
struct Sts {
    process: Child,
    address: SocketAddr,
    client: Client,
}

impl Drop for Sts {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Sts {
    async fn start() -> Self {
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = free.local_addr().unwrap();
        drop(free);
        let process = Command::new(tool("moto/bin/moto_server"))
            .args(["-H", "127.0.0.1", "-p", &address.port().to_string()])
            .env("INITIAL_NO_AUTH_ACTION_COUNT", UNSIGNED)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let sts = Self {
            process,
            address,
            client: Client::new(),
        };
        let ready = async {
            while tokio::net::TcpStream::connect(address).await.is_err() {
                tokio::time::sleep(secs(1) / 10).await;
            }
        };
        tokio::time::timeout(secs(60), ready).await.unwrap();
        sts
    }

    /// Creates a user, and returns its keys.
    async fn user(&self) -> AwsKeys {
        // It names the service for which moto has no host name here.
        const SCOPE: &str = "AWS4-HMAC-SHA256 Credential=none/20260101/us-east-1/iam/aws4_request, \
                             SignedHeaders=host, Signature=none";
        let iam = async |action: &str| {
            let request = self
                .client
                .post(format!("http://{}/", self.address))
                .header("authorization", SCOPE)
                .body(format!("Action={action}&UserName=app&Version=2010-05-08"))
                .header("content-type", "application/x-www-form-urlencoded");
            let response = request.send().await.unwrap();
            assert_eq!(response.status(), StatusCode::OK, "{action}");
            response.text().await.unwrap()
        };
        iam("CreateUser").await;
        let created = iam("CreateAccessKey").await;
        let field = |name: &str| {
            let (_, rest) = created.split_once(&format!("<{name}>")).unwrap();
            rest.split_once('<').unwrap().0
        };
        AwsKeys::new(field("AccessKeyId"), field("SecretAccessKey"))
    }

    /// Sends a signed request that a login contains. Returns whether AWS accepts it and knows the user.
    async fn accepts(&self, headers: &str, body: &str) -> bool {
        let text = |encoded: &str| String::from_utf8(STANDARD.decode(encoded).unwrap()).unwrap();
        let headers: BTreeMap<String, String> = serde_json::from_str(&text(headers)).unwrap();
        let mut request = self.client.post(format!("http://{}/", self.address));
        for (name, value) in headers {
            request = request.header(name, value);
        }
        let response = request.body(text(body)).send().await.unwrap();
        let is_accepted = response.status() == StatusCode::OK;
        let response = response.text().await.unwrap();
        assert_eq!(
            is_accepted,
            response.contains(":user/app</Arn>"),
            "{response}"
        );
        is_accepted
    }
}

/// A server that accepts logins with an AWS identity, and forwards all other requests to a backend.
pub(crate) struct Front {
    pub(crate) address: SocketAddr,
    /// The credentials of a user that AWS knows.
    pub(crate) credentials: AwsCredentials,
    logins: Arc<Mutex<Vec<Value>>>,
    _serving: JoinSet<()>,
}

/// What a login sends, and the responses to it.
pub(crate) struct AwsLogin {
    pub(crate) path: &'static str,
    /// The fields with the headers and the body of the signed request.
    pub(crate) fields: [&'static str; 2],
    /// The response to an accepted login. `None` forwards the login to the backend.
    pub(crate) accepted: Option<Value>,
    /// The status and the body of the response to another login.
    pub(crate) refused: (u16, Value),
}

struct Shared {
    sts: Sts,
    backend: SocketAddr,
    login: AwsLogin,
    logins: Arc<Mutex<Vec<Value>>>,
    client: Client,
}

impl Front {
    pub(crate) async fn start(backend: SocketAddr, login: AwsLogin) -> Self {
        let sts = Sts::start().await;
        let credentials = AwsCredentials::keys(sts.user().await);
        let logins = Arc::default();
        let shared = Shared {
            sts,
            backend,
            login,
            logins: Arc::clone(&logins),
            client: Client::new(),
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new().fallback(serve).with_state(Arc::new(shared));
        let mut serving = JoinSet::new();
        serving.spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self {
            address,
            credentials,
            logins,
            _serving: serving,
        }
    }

    /// Returns the bodies of all logins.
    pub(crate) fn logins(&self) -> Vec<Value> {
        self.logins.lock().unwrap().clone()
    }
}

async fn serve(
    State(shared): State<Arc<Shared>>,
    request: axum::http::Request<Body>,
) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let body = to_bytes(body, usize::MAX).await.unwrap();
    let Shared { login, .. } = &*shared;
    let respond = |status: u16, body: &Value| {
        Response::builder()
            .status(status)
            .header("content-type", "application/json")
            .body(Body::from(body.to_string()))
            .unwrap()
    };
    if parts.method == Method::POST && parts.uri.path() == login.path {
        let sent: Value = serde_json::from_slice(&body).unwrap();
        shared.logins.lock().unwrap().push(sent.clone());
        let [headers, body] = login.fields.map(|name| sent[name].as_str().unwrap());
        if !shared.sts.accepts(headers, body).await {
            return respond(login.refused.0, &login.refused.1);
        }
        if let Some(accepted) = &login.accepted {
            return respond(200, accepted);
        }
    }
    let url = format!("http://{}{}", shared.backend, parts.uri);
    let mut headers = parts.headers;
    headers.remove("host");
    let request = shared.client.request(parts.method, url).headers(headers);
    let response = request.body(body).send().await.unwrap();
    let mut forwarded = Response::builder().status(response.status());
    for (name, value) in response.headers() {
        if name != "transfer-encoding" && name != "connection" {
            forwarded = forwarded.header(name, value);
        }
    }
    forwarded
        .body(Body::from(response.bytes().await.unwrap()))
        .unwrap()
}
