//! Chains, logins and single requests while a gateway responds in the place of the backend.

use std::sync::Arc;

use secretwell::infisical::ApiVersion;
use secretwell::{ErrorKind, Freshness, KeyPrefix};
use secretwell_testkit::{Fault, ForeignResponse, gateway_responses};
use tokio::task::JoinSet;

use super::service::{Backend, KEY, Login, Service, Source, outcome, wait_for_state};
use crate::support::{key, secs};

fn gateway(name: &str) -> ForeignResponse {
    let mut responses = gateway_responses().into_iter();
    responses.find(|response| response.name == name).unwrap()
}

#[tokio::test]
async fn gateway_404_does_not_fall_through() {
    for backend in [Backend::Vault, Backend::Infisical] {
        let source = Source::new(backend).await;
        let service = Service::new(&source, Login::Token).await;
        service.start().await;
        service.interrupt(&gateway("Traefik, no route")).await;
        for resolver in [&service.alone, &service.chain] {
            let resolved = resolver.get(KEY).await.unwrap();
            let Freshness::Stale { reason, .. } = &resolved.freshness else {
                panic!("{backend:?}: the value must be stale");
            };
            let text = reason.to_string();
            assert!(text.contains("did not respond as"), "{text}");
            assert!(
                text.contains("status 404, content type text/plain"),
                "{text}"
            );
            assert_eq!(outcome(Ok(resolved)), "stale: unavailable");
        }
        wait_for_state(&service, "degraded: unavailable").await;
        assert_eq!(service.state(), "degraded: unavailable");
        service.recover().await.unwrap();
        // Neither the fallback nor a second build of the same secret has changed the ring.
        assert_eq!(service.auth.state().generation(), Some(1));
    }
}

#[tokio::test]
async fn gateway_403_locks_no_login_and_purges_nothing() {
    for backend in [Backend::Vault, Backend::Infisical] {
        let source = Source::new(backend).await;
        let service = Service::new(&source, Login::Credential).await;
        service.start().await;
        let logins = || service.proxy.count("POST ");
        let before = logins();
        service.interrupt(&gateway("Cloudflare, firewall")).await;
        assert_eq!(outcome(service.chain.get(KEY).await), "stale: unavailable");
        service.proxy.set(Fault::None);
        // A forced refresh is not held back by a login that counts as refused.
        tokio::time::sleep(secs(1)).await;
        let refreshed = service.chain.refresh([KEY]).await.swap_remove(0);
        assert_eq!(outcome(refreshed), "fresh");
        assert_eq!(logins(), before, "{backend:?}: the token is still good");

        // The same for a service whose login is answered by the gateway.
        let service = Service::new(&source, Login::Credential).await;
        let firewall = Fault::Foreign(gateway("Cloudflare, firewall"));
        service.proxy.set_for("POST ", firewall);
        assert_eq!(service.results().await, "unavailable");
        service.recover().await.unwrap();
    }
}

/// Each request of a provider can be answered by another program, while the backend answers the others.
#[tokio::test]
async fn response_to_any_single_request_decides_nothing() {
    let vault = [
        ("GET /v1/sys/internal/ui/mounts/", true),
        ("GET /v1/auth/token/lookup-self", false),
        ("POST /v1/auth/", true),
        ("GET /v1/gateway", true),
        ("LIST /v1/gateway", false),
        ("HEAD /v1/", false),
    ];
    let infisical = [
        ("POST /api/v1/auth/", true),
        ("GET /api/", true),
        ("GET /api/v1/folders", false),
        ("HEAD /api/", false),
    ];
    let sources = [
        (Source::new(Backend::Vault).await, &vault[..]),
        (Source::infisical(ApiVersion::V3).await, &infisical[..]),
        (Source::infisical(ApiVersion::V4).await, &infisical[..]),
    ];
    let mut running = JoinSet::new();
    for (source, requests) in sources {
        let source = Arc::new(source);
        for (start, is_required) in requests.iter().copied() {
            for name in [
                "Traefik, no route",
                "Istio, policy",
                "Azure API Management",
                "captive portal",
            ] {
                let source = source.clone();
                running.spawn(async move {
                    let has_failed = assert_undecided(&source, start, name).await;
                    assert!(has_failed || !is_required, "{start}, {name}: nothing fails");
                });
            }
        }
    }
    running.join_all().await;
}

/// Responds to the requests whose line starts with `start` like the gateway `name`. Returns whether an operation
/// has failed.
async fn assert_undecided(source: &Source, start: &str, name: &str) -> bool {
    let proxy = source.proxy().await;
    let provider = source.provider(Login::Credential, &proxy);
    proxy.set_for(start, Fault::Foreign(gateway(name)));
    let (present, absent) = (key(KEY), key("ABSENT"));
    let results = [
        provider.get(&present).await.map(drop),
        provider.list(&KeyPrefix::root()).await.map(drop),
        provider.health().await,
    ];
    let has_failed = results.iter().any(Result::is_err);
    for error in results.into_iter().filter_map(Result::err) {
        // On a busy machine, the repeated requests do not end before the deadline.
        let kinds = [ErrorKind::Unavailable, ErrorKind::Timeout];
        assert!(kinds.contains(&error.kind()), "{start}, {name}: {error}");
        assert!(error.is_temporary(), "{start}, {name}: {error}");
    }
    // An absence is reported only by the backend.
    let error = provider.get(&absent).await.unwrap_err();
    let kinds = [
        ErrorKind::NotFound,
        ErrorKind::Unavailable,
        ErrorKind::Timeout,
    ];
    assert!(kinds.contains(&error.kind()), "{start}, {name}: {error}");

    proxy.set(Fault::None);
    tokio::time::sleep(secs(1)).await;
    provider.get(&present).await.unwrap();
    let error = provider.get(&absent).await.unwrap_err();
    assert_eq!(
        error.kind(),
        ErrorKind::NotFound,
        "{start}, {name}: {error}"
    );
    has_failed
}
