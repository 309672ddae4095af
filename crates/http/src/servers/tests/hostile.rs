//! Servers that try to get a token for another server, or to fill the memory.

use super::*;

/// Responds to each request with `response`, and returns the number of requests.
fn responding(listener: TcpListener, response: String) -> Arc<AtomicUsize> {
    accept(listener, move |mut stream| {
        let response = response.clone();
        async move {
            if read_head(&mut stream).await.is_some() {
                // The client might close the connection before the end of a large response.
                let _ = stream.write_all(response.as_bytes()).await;
            }
        }
    })
}

/// The configured server cannot send a request with its token to another server, nor to another path of its own.
#[tokio::test]
async fn redirect_to_another_address_or_path_is_not_followed() {
    let (other, other_address) = bind("127.0.0.1:0").await;
    let stolen = accept(other, |stream| serve_http1(stream, usize::MAX));
    let mut sends = JoinSet::new();
    for status in [301, 302, 303, 307, 308] {
        for form in 0..6 {
            let (listener, address) = bind("127.0.0.1:0").await;
            let target = match form {
                0 => format!("http://{other_address}/"),
                1 => format!("http://{address}@{other_address}/"),
                2 => format!("//{other_address}/"),
                3 => format!("http://{address}/other"),
                4 => format!("http://{address}/?other"),
                _ => "/other".to_owned(),
            };
            let head = format!("HTTP/1.1 {status} Moved\r\nlocation: {target}\r\n");
            let received = responding(
                listener,
                head + "content-length: 0\r\nconnection: close\r\n\r\n",
            );
            sends.spawn(async move {
                let config = ClientConfig::new([format!("http://{address}")]).unwrap();
                let servers = Servers::new(config.deadline(secs(20))).unwrap();
                let error = send(&servers, &get()).await.unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Unavailable, "{target}: {error}");
                assert!(received.load(Ordering::SeqCst) > 0);
            });
        }
    }
    sends.join_all().await;
    assert_eq!(stolen.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn body_above_the_limit_is_refused_with_and_without_its_length() {
    const LIMIT: usize = 1024;
    let chunk = format!("{LIMIT:x}\r\n{}\r\n", "a".repeat(LIMIT));
    let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n";
    let length = |length: usize, body: &str| {
        format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}")
    };
    for (response, accepted) in [
        (length(LIMIT, &"a".repeat(LIMIT)), true),
        (format!("{chunked}{chunk}0\r\n\r\n"), true),
        (length(LIMIT + 1, &"a".repeat(LIMIT + 1)), false),
        (length(usize::MAX / 2, ""), false),
        (format!("{chunked}{chunk}{chunk}"), false),
    ] {
        let (listener, address) = bind("127.0.0.1:0").await;
        responding(listener, response);
        let config = ClientConfig::new([format!("http://{address}")]).unwrap();
        let servers = Servers::new(config.max_bytes(LIMIT).deadline(secs(5))).unwrap();
        match send(&servers, &get()).await {
            Ok(response) => assert!(accepted && response.body.len() == LIMIT),
            Err(error) => assert!(!accepted && error.kind() == ErrorKind::TooLarge, "{error}"),
        }
    }
}
