//! Names that are looked up again.

use super::*;

#[tokio::test(start_paused = true)]
async fn failed_or_slow_lookup_is_repeated_after_a_second() {
    let (listener, address) = bind("127.0.0.1:0").await;
    accept(listener, |stream| serve_http1(stream, usize::MAX));
    for slow in [secs(0), secs(20)] {
        let lookups = Arc::new(AtomicUsize::new(0));
        let count = lookups.clone();
        let names: NameService = Arc::new(move |_, _| {
            let number = count.fetch_add(1, Ordering::SeqCst);
            Box::pin(async move {
                match number {
                    1 => sleep(slow).await,
                    _ => return Ok(vec![address]),
                }
                Err(io::ErrorKind::TimedOut.into())
            })
        });
        let url = format!("http://vault.internal:{}", address.port());
        let config = ClientConfig::new([url]).unwrap().danger_allow_http();
        let servers = Servers::with_name_service(config, names).unwrap();
        for _ in 0..10 {
            send(&servers, &get()).await.unwrap();
            sleep(secs(1)).await;
        }
        assert_eq!(lookups.load(Ordering::SeqCst), 1);
        send(&servers, &get()).await.unwrap();
        sleep(slow + secs(1)).await;
        assert_eq!(lookups.load(Ordering::SeqCst), 2);
        for _ in 0..5 {
            send(&servers, &get()).await.unwrap();
            sleep(secs(1)).await;
        }
        assert_eq!(lookups.load(Ordering::SeqCst), 3);
    }
}
