//! Concurrent callers of one list: cancellation, deadlines and shared failures.

use std::sync::Arc;
use std::time::Duration;

use secretwell::infisical::{ApiVersion, ClientConfig, InfisicalProvider};
use secretwell::{Error, ErrorKind, SecretProvider};
use secretwell_testkit::{Fault, FaultProxy};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::place::Place;
use crate::support::{keys, response, secs, settle};

/// Starts a read of the secrets `A` and `B`.
fn start_reading(provider: &Arc<InfisicalProvider>) -> JoinHandle<Result<(), Error>> {
    let provider = provider.clone();
    tokio::spawn(async move {
        let results = provider.get_many(&keys(&["A", "B"])).await;
        results.into_iter().try_for_each(|result| result.map(drop))
    })
}

/// Returns a provider that sends its requests through a proxy. The proxy has sent no list yet.
async fn listing_provider(
    place: &Place,
    change: impl FnOnce(ClientConfig) -> ClientConfig,
) -> (Arc<InfisicalProvider>, FaultProxy) {
    for name in ["A", "B"] {
        place.write(None, name, "value").await;
    }
    let proxy = FaultProxy::start(place.address().unwrap()).await;
    let provider = place
        .provider_at(&format!("http://{}", proxy.address()))
        .api(ApiVersion::V4)
        .client(change)
        .build()
        .unwrap();
    provider.health().await.unwrap();
    (Arc::new(provider), proxy)
}

const LIST: &str = "GET /api/v4/secrets?";

#[tokio::test]
async fn cancelled_list_is_continued_for_the_other_callers() {
    let place = Place::fake(ApiVersion::V4).await;
    let (provider, proxy) = listing_provider(&place, |client| client).await;
    let before = proxy.count(LIST);
    proxy.set_for(LIST, Fault::Stall);
    let first = start_reading(&provider);
    while proxy.count(LIST) == before {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let others: Vec<_> = (0..5).map(|_| start_reading(&provider)).collect();
    settle().await;
    proxy.set(Fault::None);
    let started = Instant::now();
    first.abort();
    for other in others {
        other.await.unwrap().unwrap();
    }
    assert!(started.elapsed() < secs(5), "{:?}", started.elapsed());
    // The others have shared one list.
    assert_eq!(proxy.count(LIST) - before, 2);
}

#[tokio::test]
async fn deadline_of_the_first_caller_does_not_end_the_list_for_later_ones() {
    let place = Place::fake(ApiVersion::V4).await;
    let short = |client: ClientConfig| client.deadline(secs(1));
    let (provider, proxy) = listing_provider(&place, short).await;
    proxy.set_for(LIST, Fault::Stall);
    let first = start_reading(&provider);
    tokio::time::sleep(Duration::from_millis(500)).await;
    let others: Vec<_> = (0..5).map(|_| start_reading(&provider)).collect();
    settle().await;
    proxy.set(Fault::None);
    let error = first.await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
    for other in others {
        other.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn callers_at_the_same_time_share_a_failed_list_and_later_ones_do_not() {
    let place = Place::fake(ApiVersion::V4).await;
    let (provider, proxy) = listing_provider(&place, |client| client).await;
    let body = r#"{"statusCode":403,"error":"PermissionDenied","message":"not allowed"}"#;
    proxy.set_for(LIST, response("403 Forbidden", body));
    let before = proxy.count(LIST);
    let callers: Vec<_> = (0..50).map(|_| start_reading(&provider)).collect();
    for caller in callers {
        let error = caller.await.unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
    }
    let lists = proxy.count(LIST) - before;
    assert!(lists <= 6, "{lists} lists");
    proxy.set(Fault::None);
    start_reading(&provider).await.unwrap().unwrap();
}
