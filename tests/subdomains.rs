//! An application at `app.example.test` and a service at `api.example.test`, as a browser sees them.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::{COOKIE, SET_COOKIE};
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::response::{AppendHeaders, IntoResponse};
use axum::{Router, middleware};
use secretwell::auth::sessions::Scheme;
use serde_json::{Value, json};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use crate::chromium::{Page, User};
use crate::vault::tls::{Authority, acceptor};

/// The two origins. Servers behind them end when this is dropped.
pub(crate) struct Subdomains {
    /// The origin of the application, such as `http://app.example.test:1234`.
    pub(crate) app: String,
    /// The origin of the service.
    pub(crate) api: String,
    listeners: [Option<TcpListener>; 2],
    has_tls: bool,
    tasks: JoinSet<()>,
}

/// The page whose script sends a request to the service.
#[derive(Debug, Clone, Copy)]
pub(crate) enum From {
    Service,
    Application,
}

impl Subdomains {
    pub(crate) async fn new(scheme: Scheme) -> Self {
        let listeners = [listen().await, listen().await];
        let has_tls = scheme == Scheme::Https;
        let prefix = if has_tls { "https" } else { "http" };
        let origin = |name: &str, listener: &TcpListener| {
            let port = listener.local_addr().unwrap().port();
            format!("{prefix}://{name}.example.test:{port}")
        };
        Self {
            app: origin("app", &listeners[0]),
            api: origin("api", &listeners[1]),
            listeners: listeners.map(Some),
            has_tls,
            tasks: JoinSet::new(),
        }
    }

    /// Makes a server the application. Its address is such as `http://127.0.0.1:1234`.
    pub(crate) fn set_application(&mut self, address: &str) {
        let target = address.trim_start_matches("http://").to_owned();
        self.forward(0, target);
    }

    /// Starts the service. Scripts of the application can send requests with cookies to it.
    pub(crate) async fn start_service(&mut self, service: Router) {
        let origin: Arc<str> = self.app.clone().into();
        let service = service.layer(middleware::from_fn_with_state(origin, allow));
        let listener = listen().await;
        let target = listener.local_addr().unwrap().to_string();
        self.tasks
            .spawn(async { axum::serve(listener, service).await.unwrap() });
        self.forward(1, target);
    }

    fn forward(&mut self, origin: usize, target: String) {
        let listener = self.listeners[origin].take().unwrap();
        let tls = self.has_tls.then(|| {
            let authority = Authority::new("Test");
            let identity = authority.sign(&["app.example.test", "api.example.test"], |_| ());
            acceptor(&identity, &[b"http/1.1"])
        });
        self.tasks.spawn(forward(listener, target, tls));
    }

    /// Sends a request to the service by a script of a page. `page` is a page of the application.
    pub(crate) async fn send_to_service(
        &self,
        user: &User<'_>,
        (from, page): (From, &str),
        method: &str,
        path: &str,
    ) -> String {
        let url = format!("{}{path}", self.api);
        let page = match from {
            From::Service => format!("{}/me", self.api),
            From::Application => format!("{}{page}", self.app),
        };
        let page = user.fetch(&page, &url, json!({"method": method})).await;
        assert_eq!(page.status, 200, "{page:?}");
        page.body
    }

    /// Sends a request to the application by a script of one of its pages.
    pub(crate) async fn send_to_application(
        &self,
        user: &User<'_>,
        page: &str,
        path: &str,
        init: Value,
    ) -> Page {
        let [page, url] = [page, path].map(|path| format!("{}{path}", self.app));
        user.fetch(&page, &url, init).await
    }
}

async fn listen() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").await.unwrap()
}

/// Forwards connections to `target`, and ends TLS before.
pub(crate) async fn forward(listener: TcpListener, target: String, tls: Option<TlsAcceptor>) {
    let mut connections = JoinSet::new();
    loop {
        let (mut client, _) = listener.accept().await.unwrap();
        let (tls, target) = (tls.clone(), target.clone());
        connections.spawn(async move {
            let mut server = TcpStream::connect(target).await?;
            match tls {
                Some(tls) => {
                    let mut client = tls.accept(client).await?;
                    copy_bidirectional(&mut client, &mut server).await
                }
                None => copy_bidirectional(&mut client, &mut server).await,
            }
        });
        while connections.try_join_next().is_some() {}
    }
}

/// Adds the headers with which scripts of `origin` can send requests with cookies.
async fn allow(
    State(origin): State<Arc<str>>,
    request: Request,
    next: middleware::Next,
) -> impl IntoResponse {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    let origin = HeaderValue::from_str(&origin).unwrap();
    headers.insert("access-control-allow-origin", origin);
    let yes = HeaderValue::from_static("true");
    headers.insert("access-control-allow-credentials", yes);
    response
}

/// Returns the cookies of a request.
pub(crate) fn cookies(headers: &HeaderMap) -> String {
    let all = headers.get_all(COOKIE).into_iter();
    let all: Vec<_> = all.map(|value| value.to_str().unwrap()).collect();
    all.join("; ")
}

/// Returns a response that sets these cookies.
pub(crate) fn set(cookies: Vec<String>) -> AppendHeaders<Vec<(HeaderName, String)>> {
    AppendHeaders(cookies.into_iter().map(|set| (SET_COOKIE, set)).collect())
}
