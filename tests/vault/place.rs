//! Where secrets are: mounts, paths and namespaces, and mistakes in them.

use std::net::SocketAddr;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::extract::Request;
use secretwell::vault::{Credential, KvVersion, VaultAuth, VaultProvider};
use secretwell::{Error, ErrorKind, KeyPrefix, SecretProvider, Version};
use secretwell_testkit::{Fault, FaultProxy};
use serde_json::{Value, json};
use tempfile::NamedTempFile;
use tokio::net::TcpListener;
use tokio::time::Instant;

use super::server::{Bao, shared, unique};
use crate::support::{key, keys, response, secs};

/// A provider from a URL, with the file of its token.
struct FromUrl {
    provider: VaultProvider,
    _token: NamedTempFile,
}

impl Deref for FromUrl {
    type Target = VaultProvider;

    fn deref(&self) -> &VaultProvider {
        &self.provider
    }
}

/// Creates a provider from a URL with this path and these options.
fn from_url(bao: &Bao, token: &str, path: &str, options: &str) -> FromUrl {
    let file = NamedTempFile::new().unwrap();
    std::fs::write(file.path(), token).unwrap();
    let (address, token_file) = (bao.address, file.path().display());
    let url = format!("vault+http://{address}/{path}?token_file={token_file}{options}");
    FromUrl {
        provider: VaultProvider::from_url(&url).unwrap(),
        _token: file,
    }
}

async fn write(bao: &Bao, path: &str, value: &str) {
    let secret = json!({"data": {"A": value}});
    bao.root("POST", path, secret).await;
}

async fn read(provider: &VaultProvider) -> String {
    let secret = provider.get(&key("A")).await.unwrap();
    secret.value.expose_text().unwrap().to_owned()
}

/// Creates a token whose policy has these rules.
async fn limited_token(bao: &Bao, name: &str, rules: &str) -> String {
    bao.policy(name, rules).await;
    let settings = json!({"policies": [name]});
    let response = bao.root("POST", "auth/token/create", settings).await;
    let token = response["auth"]["client_token"].as_str();
    token.unwrap().to_owned()
}

#[tokio::test]
async fn mount_prefix_ends_at_a_slash() {
    let bao = shared().await;
    let name = unique("slash");
    bao.mount(&name, 2).await;
    write(bao, &format!("{name}/data/ops/app"), "another").await;
    write(bao, &format!("{name}/data/{name}ops/app"), "named").await;
    let options = format!("&mount={name}");
    for (path, expected) in [
        (format!("{name}ops/app"), "named"),
        (format!("{name}/ops/app"), "another"),
        ("ops/app".to_owned(), "another"),
    ] {
        let provider = from_url(bao, bao.root_token(), &path, &options);
        assert_eq!(read(&provider).await, expected, "{path}");
        assert_eq!(
            provider.list(&KeyPrefix::root()).await.unwrap(),
            keys(&["A"])
        );
    }
}

#[tokio::test]
async fn nested_mount_is_found_without_an_option() {
    let bao = shared().await;
    let team = unique("team");
    for version in [1, 2] {
        let mount = format!("{team}/kv{version}");
        bao.mount(&mount, version).await;
        let data = if version == 2 { "/data" } else { "" };
        let secret = json!({"A": "value", "data": {"A": "value"}});
        bao.root("POST", &format!("{mount}{data}/app"), secret)
            .await;
        let secret = json!({"B": "value", "data": {"B": "value"}});
        bao.root("POST", &format!("{mount}{data}/app/below"), secret)
            .await;
        let rules = format!("path \"{mount}/*\" {{ capabilities = [\"read\", \"list\"] }}");
        let limited = limited_token(bao, &unique("nested"), &rules).await;
        for token in [bao.root_token(), &limited] {
            for options in [String::new(), format!("&kv={version}")] {
                let path = format!("{mount}/app");
                let provider = from_url(bao, token, &path, &options);
                let listed = provider.list(&KeyPrefix::root()).await;
                let expected = keys(&["A", "below/B"]);
                assert!(
                    listed.is_ok_and(|listed| expected.iter().all(|key| listed.contains(key))),
                    "{path} {options}"
                );
                if version == 2 {
                    let provider = from_url(bao, token, &path, &options);
                    let (key, version) = (key("A"), Version::numbered(1));
                    let first = provider.get_version(&key, &version).await.unwrap();
                    assert_eq!(first.value.expose_text().unwrap(), "value");
                }
                let provider = from_url(bao, token, &path, &options);
                assert_eq!(read(&provider).await, "value", "{path} {options}");
                assert_eq!(read(&provider).await, "value", "{path} {options}");
                // The path below the mount can be part of the key.
                let provider = from_url(bao, token, &mount, &options);
                let secret = provider.get(&key("app/A")).await.unwrap();
                assert_eq!(secret.value.expose_text().unwrap(), "value");
            }
        }
    }
    let provider = VaultProvider::builder(
        [format!("http://{}", bao.address)],
        VaultAuth::token(Credential::value(bao.root_token())),
    );
    let provider = provider.unwrap().mount(&team).path("kv2/app").build();
    let error = provider.unwrap().get(&key("A")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{error}");
    assert!(
        error.to_string().contains(&format!("{team}/kv2")),
        "{error}"
    );
}

#[tokio::test]
async fn api_path_gets_a_hint() {
    let bao = shared().await;
    let name = unique("api");
    bao.mount(&name, 2).await;
    write(bao, &format!("{name}/data/app"), "value").await;
    let rules = format!("path \"{name}/data/app\" {{ capabilities = [\"read\"] }}");
    let limited = limited_token(bao, &name, &rules).await;
    for (token, kind) in [
        (bao.root_token(), ErrorKind::NotFound),
        (limited.as_str(), ErrorKind::Denied),
    ] {
        for folder in ["data", "metadata"] {
            let path = format!("{name}/{folder}/app");
            let error = from_url(bao, token, &path, "&kv=2").get(&key("A")).await;
            let error = error.unwrap_err();
            assert_eq!(error.kind(), kind, "{error}");
            let hint = format!("leave out `{folder}/`");
            assert!(error.to_string().contains(&hint), "{error}");
        }
    }
}

#[tokio::test]
async fn missing_namespace_is_a_configuration_error_for_every_request_and_login() {
    let bao = shared().await;
    let builder = |auth| {
        VaultProvider::builder([format!("http://{}", bao.address)], auth)
            .unwrap()
            .path("app")
            .dynamic("db", "database/creds/app")
            .namespace("no-such-team")
    };
    let assert_named = |error: Error, what: &str| {
        assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{what}: {error}");
        let text = error.to_string();
        assert!(text.contains("`no-such-team`"), "{what}: {error}");
    };
    let token = VaultAuth::token(Credential::value(bao.root_token()));
    let secret = || Credential::value("secret");
    for auth in [
        token.clone(),
        VaultAuth::app_role("role", secret()),
        VaultAuth::app_role_wrapped("role", secret()),
        VaultAuth::jwt("role", secret()),
        VaultAuth::kubernetes_with("role", secret()),
        VaultAuth::userpass("user", secret()),
    ] {
        let provider = builder(auth.clone()).build().unwrap();
        let what = format!("{auth:?}");
        assert_named(provider.get(&key("A")).await.unwrap_err(), &what);
        assert_named(provider.get(&key("db/username")).await.unwrap_err(), &what);
        assert_named(provider.list(&KeyPrefix::root()).await.unwrap_err(), &what);
        assert_named(provider.health().await.unwrap_err(), &what);
    }
    // The login is in an existing namespace, but no secret can be read.
    let provider = builder(token).login_namespace("root").build().unwrap();
    assert_named(provider.get(&key("A")).await.unwrap_err(), "read");
    assert_named(
        provider.get(&key("db/username")).await.unwrap_err(),
        "lease",
    );
    assert_named(provider.health().await.unwrap_err(), "health");
}

#[tokio::test]
async fn unknown_404_is_not_an_absence() {
    let bao = shared().await;
    let name = unique("unknown");
    bao.mount(&name, 2).await;
    write(bao, &format!("{name}/data/app"), "value").await;
    let proxy = FaultProxy::start(bao.address).await;
    let token = VaultAuth::token(Credential::value(bao.root_token()));
    let provider = VaultProvider::builder([format!("http://{}", proxy.address())], token)
        .unwrap()
        .mount(&name)
        .path("app")
        .kv_version(KvVersion::V2)
        .client(|client| client.deadline(secs(2)))
        .build()
        .unwrap();
    assert_eq!(read(&provider).await, "value");
    // The token is looked up once, after the first read.
    tokio::time::sleep(secs(2)).await;
    for (status, body) in [
        ("404 Not Found", "404 page not found"),
        ("404 Not Found", r#"{"errors":["a new reason"]}"#),
        ("404 Not Found", r#"{"message":"no Route matched"}"#),
        ("403 Forbidden", "<html>blocked</html>"),
        ("403 Forbidden", r#"{"errors":["a new reason"]}"#),
        ("401 Unauthorized", ""),
        ("200 OK", "<html>sign in</html>"),
    ] {
        proxy.set(response(status, body));
        let error = provider.get(&key("A")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{body}: {error}");
        assert!(error.is_temporary(), "{body}: {error}");
        let error = provider.list(&KeyPrefix::root()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{body}: {error}");
        proxy.set(Fault::None);
        assert_eq!(read(&provider).await, "value");
    }
    let lookups = proxy.count("GET /v1/auth/token/lookup-self");
    assert!(lookups <= 1, "{lookups} lookups");
    let absent = provider.get(&key("none/A")).await.unwrap_err();
    assert!(absent.is_not_found(), "{absent}");
    let mount = format!("sys/mounts/{name}");
    bao.root("DELETE", &mount, Value::Null).await;
    let error = provider.get(&key("A")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{error}");
}

/// Reads until the result is accepted, at most 20 s.
async fn wait_for(provider: &VaultProvider, is_expected: impl Fn(&Result<(), Error>) -> bool) {
    let started = Instant::now();
    loop {
        let result = provider.get(&key("A")).await.map(drop);
        if is_expected(&result) {
            return;
        }
        assert!(started.elapsed() < secs(20), "{result:?}");
        tokio::time::sleep(secs(1)).await;
    }
}

#[tokio::test]
async fn mount_that_is_changed_later_is_detected_again() {
    let bao = shared().await;
    // The version is enabled.
    let name = unique("upgraded");
    bao.mount(&name, 1).await;
    bao.root("POST", &format!("{name}/app"), json!({"A": "value"}))
        .await;
    let detecting = from_url(bao, bao.root_token(), &format!("{name}/app"), "");
    assert_eq!(read(&detecting).await, "value");
    let configured = from_url(bao, bao.root_token(), &format!("{name}/none"), "&kv=2");
    let error = configured.get(&key("A")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{error}");
    let tune = json!({"options": {"version": "2"}});
    bao.root("POST", &format!("sys/mounts/{name}/tune"), tune)
        .await;
    wait_for(&detecting, Result::is_ok).await;
    wait_for(&configured, |result| {
        result.as_ref().is_err_and(Error::is_not_found)
    })
    .await;

    // A mount whose name is longer is created.
    let team = unique("late");
    let rules = format!("path \"{team}/*\" {{ capabilities = [\"read\"] }}");
    let limited = limited_token(bao, &team, &rules).await;
    let providers = ["", "&kv=2"].map(|options| {
        let path = format!("{team}/kv/app");
        [bao.root_token(), &limited].map(|token| from_url(bao, token, &path, options))
    });
    for provider in providers.iter().flatten() {
        provider.get(&key("A")).await.unwrap_err();
    }
    bao.mount(&format!("{team}/kv"), 2).await;
    write(bao, &format!("{team}/kv/data/app"), "value").await;
    for provider in providers.iter().flatten() {
        wait_for(provider, Result::is_ok).await;
    }
}

#[tokio::test]
async fn descriptions_of_a_mount_are_requested_rarely() {
    let bao = shared().await;
    let name = unique("rare");
    bao.mount(&name, 2).await;
    let proxy = FaultProxy::start(bao.address).await;
    let builder = || {
        let token = VaultAuth::token(Credential::value(bao.root_token()));
        let builder = VaultProvider::builder([format!("http://{}", proxy.address())], token);
        builder.unwrap().mount(&name).path("app")
    };
    let providers = [
        builder().build().unwrap(),
        builder().kv_version(KvVersion::V2).build().unwrap(),
    ];
    let assert_one_description = async || {
        for provider in &providers {
            let before = proxy.count("GET /v1/sys/internal");
            for _ in 0..20 {
                let error = provider.get(&key("A")).await.unwrap_err();
                assert!(error.is_not_found(), "{error}");
            }
            assert_eq!(proxy.count("GET /v1/sys/internal") - before, 1);
        }
    };
    assert_one_description().await;
    // The absence of a secret that was read before can have another reason.
    let data = format!("{name}/data/app");
    write(bao, &data, "value").await;
    for provider in &providers {
        assert_eq!(read(provider).await, "value");
    }
    bao.root("DELETE", &data, Value::Null).await;
    assert_one_description().await;
}

/// A gateway that serves OpenBao below `/vault`. It can stop removing this path.
async fn gateway(bao: SocketAddr) -> (SocketAddr, Arc<AtomicBool>) {
    let removes_path = Arc::new(AtomicBool::new(true));
    let removing = removes_path.clone();
    let forward = async move |request: Request| {
        let path = request.uri().path_and_query().unwrap().as_str().to_owned();
        let path = match removing.load(Ordering::SeqCst) {
            true => path.strip_prefix("/vault").unwrap().to_owned(),
            false => path,
        };
        let client = reqwest::Client::new();
        let forwarded = client
            .request(request.method().clone(), format!("http://{bao}{path}"))
            .headers(request.headers().clone());
        let response = forwarded.send().await.unwrap();
        let status = response.status();
        (status, response.bytes().await.unwrap())
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = Router::new().fallback(forward);
    tokio::spawn(async move { axum::serve(listener, router).await });
    (address, removes_path)
}

#[tokio::test]
async fn absence_below_the_path_of_an_address_is_confirmed() {
    let bao = shared().await;
    for version in [KvVersion::V1, KvVersion::V2] {
        let name = unique("gateway");
        let (number, data) = match version {
            KvVersion::V1 => (1, ""),
            _ => (2, "/data"),
        };
        bao.mount(&name, number).await;
        let secret = json!({"A": "value", "data": {"A": "value"}});
        bao.root("POST", &format!("{name}{data}/app"), secret).await;
        let (address, removes_path) = gateway(bao.address).await;
        let builder = || {
            let token = VaultAuth::token(Credential::value(bao.root_token()));
            let builder = VaultProvider::builder([format!("http://{address}/vault")], token);
            builder
                .unwrap()
                .mount(&name)
                .path("app")
                .dynamic("other", format!("{name}{data}/app"))
        };
        let providers = [
            builder().build().unwrap(),
            builder().kv_version(version).build().unwrap(),
        ];
        for provider in &providers {
            removes_path.store(true, Ordering::SeqCst);
            assert_eq!(read(provider).await, "value");
            let absent = provider.get(&key("none/A")).await.unwrap_err();
            assert!(absent.is_not_found(), "{absent}");
            removes_path.store(false, Ordering::SeqCst);
            for name in ["A", "none/A", "other/A"] {
                let error = provider.get(&key(name)).await.unwrap_err();
                assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{name}: {error}");
                assert!(error.to_string().contains("path"), "{error}");
            }
        }
        let unused = builder().kv_version(version).build().unwrap();
        let error = unused.get(&key("A")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{error}");
    }
}
