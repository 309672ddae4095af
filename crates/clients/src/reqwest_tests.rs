//! Requests to servers on the loopback interface.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use http::header::AUTHORIZATION;
use reqwest_middleware::ClientWithMiddleware;
use secretwell::{ExposeSecret, Resolver, SecretString};
use secretwell_testkit::{Canary, CanaryLog, Fixture};
use serde::Deserialize;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;

use super::*;
use crate::testing::Polled;

/// A server that returns scripted responses and then 204. It closes each connection after one response.
#[derive(Clone)]
struct Server {
    address: SocketAddr,
    responses: Arc<Mutex<VecDeque<String>>>,
    /// The heads and bodies of the requests.
    requests: Arc<Mutex<Vec<String>>>,
}

impl Server {
    async fn start(responses: &[&str]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = Self {
            address: listener.local_addr().unwrap(),
            responses: Arc::new(Mutex::new(
                responses.iter().map(|it| (*it).into()).collect(),
            )),
            requests: Arc::default(),
        };
        let serving = server.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let mut stream = BufReader::new(stream);
                let mut request = String::new();
                while !request.ends_with("\r\n\r\n") {
                    if stream.read_line(&mut request).await.unwrap() == 0 {
                        break;
                    }
                }
                let length = request
                    .lines()
                    .find_map(|line| line.strip_prefix("content-length: "));
                let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
                stream.read_exact(&mut body).await.unwrap();
                request += &String::from_utf8(body).unwrap();
                serving.requests.lock().unwrap().push(request);
                let next = serving.responses.lock().unwrap().pop_front();
                let head = next.unwrap_or("204 Yes".into());
                let response =
                    format!("HTTP/1.1 {head}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
                stream.write_all(response.as_bytes()).await.unwrap();
            }
        });
        server
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}/{path}", self.address)
    }

    fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }

    /// Returns how many requests contain `text`.
    fn count(&self, text: &str) -> usize {
        let requests = self.requests();
        requests.iter().filter(|it| it.contains(text)).count()
    }
}

#[derive(Deserialize)]
struct Secrets {
    token: SecretString,
}

fn header(resolver: Resolver) -> LazyAuth<HeaderValue> {
    LazyAuth::new(resolver, |secrets: Secrets, _| async move {
        let token = secrets.token.expose_secret();
        Ok(HeaderValue::try_from(format!("Bearer {token}"))?)
    })
}

fn client(name: HeaderName, value: &LazyAuth<HeaderValue>) -> ClientWithMiddleware {
    let builder = reqwest::Client::builder().no_proxy();
    client_with_header(builder, name, value.clone())
        .unwrap()
        .build()
}

#[tokio::test]
async fn each_request_has_the_newest_secret() {
    let server = Server::start(&[]).await;
    let fixture = Fixture::with([("token", "first")]);
    let auth = header(fixture.resolver());
    let client = client(AUTHORIZATION, &auth);
    client.get(server.url("")).send().await.unwrap();
    drop(fixture.rotate(&auth, "token", "second").await);
    let own = client.get(server.url("")).bearer_auth("of the request");
    own.send().await.unwrap();
    let requests = server.requests();
    assert!(requests[0].contains("authorization: Bearer first\r\n"));
    assert!(requests[1].contains("authorization: Bearer second\r\n"));
    assert_eq!(requests[1].matches("authorization").count(), 1);
}

#[tokio::test]
async fn rejection_is_reported_and_the_request_is_repeated_once_with_its_body() {
    let server = Server::start(&["401 No", "401 No"]).await;
    let polled = Polled::with([("token", "first")]);
    let auth = header(polled.resolver.clone());
    let client = client(HeaderName::from_static("x-api-key"), &auth);
    drop(auth.get().await.unwrap());
    polled.set("token", "second");
    let response = client
        .post(server.url("orders"))
        .body("one order")
        .send()
        .await
        .unwrap();
    assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
    let requests = server.requests();
    let [first, second] = &requests[..] else {
        panic!("{} requests", requests.len())
    };
    assert!(first.contains("x-api-key: Bearer first\r\n"));
    assert!(second.contains("x-api-key: Bearer second\r\n"));
    for request in [first, second] {
        assert!(request.starts_with("POST /orders") && request.ends_with("\r\n\r\none order"));
    }
    assert_eq!(polled.source.discarded().len(), 1);
}

#[tokio::test]
async fn request_with_an_unchanged_secret_is_not_repeated() {
    let server = Server::start(&["401 No"; 5]).await;
    let polled = Polled::with([("token", "first")]);
    let client = client(AUTHORIZATION, &header(polled.resolver.clone()));
    for _ in 0..3 {
        let response = client.get(server.url("")).send().await.unwrap();
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
    }
    assert_eq!(server.requests().len(), 3);
    assert!(!polled.source.discarded().is_empty());
}

#[tokio::test]
async fn concurrent_rejections_share_one_read_of_the_source() {
    let server = Server::start(&["401 No"; 10]).await;
    let polled = Polled::with([("token", "first")]);
    let auth = header(polled.resolver.clone());
    let client = client(AUTHORIZATION, &auth);
    drop(auth.get().await.unwrap());
    polled.set("token", "second");
    let requests = (0..10).map(|_| {
        let request = client.get(server.url("")).send();
        tokio::spawn(async move { request.await.unwrap().status() })
    });
    for request in requests.collect::<Vec<_>>() {
        assert_eq!(request.await.unwrap(), StatusCode::NO_CONTENT);
    }
    assert_eq!(server.count("Bearer second"), 10);
    assert_eq!(polled.source.discarded().len(), 1);
}

#[tokio::test]
async fn redirect_to_another_origin_is_returned_and_not_followed() {
    let other = Server::start(&[]).await;
    let location = format!("307 Go\r\nlocation: {}", other.url("steal"));
    let within = "302 Go\r\nlocation: /next";
    // A redirect within the origin is followed with the header.
    let server = Server::start(&[within, &location]).await;
    let fixture = Fixture::with([("token", "first")]);
    let client = client(
        HeaderName::from_static("x-api-key"),
        &header(fixture.resolver()),
    );
    let response = client.get(server.url("")).send().await.unwrap();
    assert_eq!(response.status(), StatusCode::TEMPORARY_REDIRECT);
    assert_eq!(response.url().path(), "/next");
    assert_eq!(server.count("x-api-key: Bearer first\r\n"), 2);
    assert_eq!(other.requests().len(), 0);
}

#[tokio::test]
async fn redirects_without_an_end_are_an_error() {
    let server = Server::start(&["302 Go\r\nlocation: /"; 20]).await;
    let fixture = Fixture::with([("token", "first")]);
    let client = client(AUTHORIZATION, &header(fixture.resolver()));
    let error = client.get(server.url("")).send().await.unwrap_err();
    assert!(error.is_redirect(), "{error}");
}

#[tokio::test]
async fn request_without_a_build_is_not_sent() {
    let server = Server::start(&[]).await;
    let fixture = Fixture::default();
    let auth = header(fixture.resolver());
    let client = client(AUTHORIZATION, &auth);
    let error = client.get(server.url("")).send().await.unwrap_err();
    let Error::Middleware(error) = error else {
        panic!("{error}")
    };
    assert!(error.is::<secretwell_auth::NotReady>(), "{error}");
    assert_eq!(server.requests().len(), 0);

    // A line break would start another header.
    fixture.set("token", "a\r\nx-admin: yes");
    assert!(client.get(server.url("")).send().await.is_err());
    assert_eq!(server.requests().len(), 0);
}

#[tokio::test]
async fn source_that_fails_does_not_affect_requests() {
    let server = Server::start(&["204 Yes", "401 No"]).await;
    let fixture = Fixture::with([("token", "first")]);
    let client = client(AUTHORIZATION, &header(fixture.resolver()));
    client.get(server.url("")).send().await.unwrap();
    fixture.fail_source();
    let response = client.get(server.url("")).send().await.unwrap();
    assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
    let response = client.get(server.url("")).send().await.unwrap();
    assert_eq!(response.status(), StatusCode::NO_CONTENT);
    assert_eq!(server.count("Bearer first"), 3);
}

/// Prints all that a middleware after the secret header sees.
struct Printer(Arc<Mutex<String>>);

#[async_trait]
impl Middleware for Printer {
    async fn handle(
        &self,
        request: Request,
        extensions: &mut Extensions,
        next: Next<'_>,
    ) -> Result<Response> {
        let mut text = format!("{request:?} {:?}", request.headers());
        let response = next.run(request, extensions).await;
        text += &format!("{response:?}");
        self.0.lock().unwrap().push_str(&text);
        response
    }
}

#[tokio::test]
async fn secret_is_in_no_debug_output_error_or_log() {
    let (canary, log) = (Canary::new("token"), CanaryLog::install());
    let server = Server::start(&["401 No"]).await;
    let fixture = Fixture::with([("token", canary.text())]);
    let auth = header(fixture.resolver());
    let printed = Arc::new(Mutex::new(String::new()));
    let builder = reqwest::Client::builder().no_proxy();
    let client = client_with_header(builder, AUTHORIZATION, auth.clone())
        .unwrap()
        .with(Printer(printed.clone()))
        .build();
    client.get(server.url("")).send().await.unwrap();
    let address = {
        let closed = TcpListener::bind("127.0.0.1:0").await.unwrap();
        closed.local_addr().unwrap()
    };
    let unsent = client.get(format!("http://{address}/")).send();
    canary.assert_hidden_error(&unsent.await.unwrap_err());
    canary.assert_not_in(&printed.lock().unwrap(), "what a middleware prints");
    assert!(printed.lock().unwrap().contains("authorization"));
    canary.assert_hidden(&client);
    canary.assert_hidden(&auth);
    log.assert_clean(&[&canary]);
}
