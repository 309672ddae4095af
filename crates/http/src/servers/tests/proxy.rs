//! Requests through a proxy.

use std::sync::atomic::AtomicBool;

use tokio::io::copy_bidirectional;

use super::*;

/// A proxy that sends each tunnel to one server.
struct TestProxy {
    address: SocketAddr,
    /// The heads of all requests.
    heads: Arc<Mutex<Vec<String>>>,
    refuses: Arc<AtomicBool>,
}

impl TestProxy {
    async fn start(server: SocketAddr) -> Self {
        let (listener, address) = bind("127.0.0.1:0").await;
        let heads = Arc::<Mutex<Vec<String>>>::default();
        let refuses = Arc::<AtomicBool>::default();
        let (log, is_refusing) = (Arc::clone(&heads), Arc::clone(&refuses));
        accept(listener, move |mut stream| {
            let (log, is_refusing) = (Arc::clone(&log), Arc::clone(&is_refusing));
            async move {
                let Some(head) = read_head(&mut stream).await else {
                    return;
                };
                log.lock().unwrap().push(head);
                let status = match is_refusing.load(Ordering::SeqCst) {
                    true => "407 Proxy Authentication Required",
                    false => "200 OK",
                };
                let response = format!("HTTP/1.1 {status}\r\n\r\n");
                stream.write_all(response.as_bytes()).await.unwrap();
                if status == "200 OK" {
                    let mut server = TcpStream::connect(server).await.unwrap();
                    let _ = copy_bidirectional(&mut stream, &mut server).await;
                }
            }
        });
        Self {
            address,
            heads,
            refuses,
        }
    }

    fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap().clone()
    }
}

#[tokio::test]
async fn tls_through_a_proxy_is_end_to_end() {
    let (listener, address) = bind("127.0.0.1:0").await;
    let (acceptor, pem) = tls_server("vault.example.invalid", b"http/1.1");
    accept(listener, move |stream| {
        let acceptor = acceptor.clone();
        async move { serve_http1(acceptor.accept(stream).await.unwrap(), usize::MAX).await }
    });
    let proxy = TestProxy::start(address).await;
    let url = format!("http://me:hunter%402@{}", proxy.address);
    // Only the proxy knows this name.
    let config = ClientConfig::new(["https://vault.example.invalid:8200"]).unwrap();
    let config = config.certificate_authority(pem).proxy(url);
    let shown = format!("{config:?}");
    assert!(!shown.contains("hunter"), "{shown}");
    let unknown: NameService = Arc::new(|name, _| panic!("{name} was looked up"));
    let servers = Servers::with_name_service(config.clone(), Arc::clone(&unknown)).unwrap();
    send(&servers, &get()).await.unwrap();
    let heads = proxy.heads();
    assert_eq!(heads.len(), 1);
    assert!(
        heads[0].starts_with("CONNECT vault.example.invalid:8200 HTTP/1.1\r\n"),
        "{heads:?}"
    );
    // The base64 encoding of `me:hunter@2`.
    let credentials = "proxy-authorization: basic bwu6ahvudgvyqdi=\r\n";
    assert!(heads[0].to_lowercase().contains(credentials), "{heads:?}");

    proxy.refuses.store(true, Ordering::SeqCst);
    let servers = Servers::with_name_service(config.deadline(secs(1)), unknown).unwrap();
    let error = send(&servers, &get()).await.unwrap_err();
    let text = format!("{error} {error:?}");
    let expected = format!(
        "cannot be reached through the proxy `{}`, which requires credentials (status 407)",
        proxy.address
    );
    assert!(text.contains(&expected), "{text}");
    assert!(!text.contains("hunter"), "{text}");
    assert!(error.is_temporary());
}

#[tokio::test]
async fn failure_of_a_proxy_names_what_it_did() {
    let (refusing, forbidding) = (bind("127.0.0.1:0").await, bind("127.0.0.1:0").await);
    drop(refusing.0);
    accept(forbidding.0, |mut stream| async move {
        let _ = read_head(&mut stream).await;
        let _ = stream.write_all(b"HTTP/1.1 403 Forbidden\r\n\r\n").await;
    });
    for (proxy, problem) in [
        (refusing.1, "which refuses connections"),
        (forbidding.1, "which refuses to connect to it"),
    ] {
        let config = ClientConfig::new(["https://vault.example.invalid:8200"]).unwrap();
        let config = config.proxy(format!("http://{proxy}")).deadline(secs(1));
        let servers = Servers::new(config).unwrap();
        let error = send(&servers, &get()).await.unwrap_err();
        assert!(error.to_string().contains(problem), "{error}");
    }
}

#[tokio::test]
async fn loopback_is_never_proxied() {
    let (listener, address) = bind("127.0.0.1:0").await;
    let (acceptor, pem) = tls_server("localhost", b"http/1.1");
    accept(listener, move |stream| {
        let acceptor = acceptor.clone();
        async move { serve_http1(acceptor.accept(stream).await.unwrap(), usize::MAX).await }
    });
    let proxy = TestProxy::start(address).await;
    let config = ClientConfig::new([format!("https://localhost:{}", address.port())]).unwrap();
    let config = config
        .certificate_authority(pem)
        .proxy(format!("http://{}", proxy.address));
    let servers = Servers::new(config).unwrap();
    send(&servers, &get()).await.unwrap();
    assert_eq!(proxy.heads(), [""; 0]);
}

#[test]
fn proxy_cannot_be_combined_with_a_server_name() {
    let config = ClientConfig::new(["https://192.0.2.1"]).unwrap();
    let config = config
        .proxy("http://127.0.0.1:1")
        .server_name("vault.internal");
    let error = Servers::new(config).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::InvalidConfig);
    assert!(error.to_string().contains("proxy=none"), "{error}");
}
