//! Infisical and OpenBao: secrets, tokens and the credentials of logins.

use secretwell_testkit::infisical::{FakeInfisical, FakeProject};
use serde_json::json;
use tempfile::NamedTempFile;
use tokio::net::TcpListener;

use super::{Needles, canary, freed_copies};
use crate::subdomains::forward;
use crate::vault::server::{Bao, shared, unique};
use crate::vault::tls::{Authority, acceptor, file};

/// Characters that JSON escapes. They are decoded.
const ESCAPED: &str = "\"\\\n";

/// Reads the secret 40 times and drops it. The libraries for HTTP and TLS free buffers of requests and responses without
/// wiping them. No other copy is left.
fn assert_only_freed_buffers_remain(url: &str, variables: &[(&str, &str)], needles: &Needles) {
    for found in freed_copies(&["read", url], variables, needles) {
        assert!(!found.is_alone, "{url}: {found:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(target_os = "linux"), ignore = "only Linux has /proc/PID/mem")]
async fn secrets_of_infisical_remain_in_freed_buffers_only() {
    let (project, needles) = infisical().await;
    assert_only_freed_buffers_remain(&project.source_url(), &[], &needles);
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(target_os = "linux"), ignore = "only Linux has /proc/PID/mem")]
async fn secrets_of_infisical_over_tls_remain_in_freed_buffers_only() {
    let (project, needles) = infisical().await;
    let (server, authority) = with_tls(project.server().address().to_string()).await;
    let address = project.server().address().to_string();
    let url = project.source_url().replace("infisical+http", "infisical");
    let variables = [("SSL_CERT_FILE", authority.path().to_str().unwrap())];
    assert_only_freed_buffers_remain(&url.replace(&address, &server), &variables, &needles);
}

async fn infisical() -> (FakeProject, Needles) {
    let secret = canary();
    let value = format!("{secret}{ESCAPED}");
    let project = FakeInfisical::with([("CANARY", value.as_str()), ("OTHER", "1")]).await;
    let needles = Needles::default()
        .text("secret", &secret)
        .text("client secret", &project.identity().client_secret);
    (project, needles)
}

/// Starts a server that ends TLS in front of `target`. Returns its address and its certificate authority.
async fn with_tls(target: String) -> (String, NamedTempFile) {
    let authority = Authority::new("authority of the tests");
    let tls = acceptor(&authority.sign(&["localhost"], |_| ()), &[b"http/1.1"]);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = format!("localhost:{}", listener.local_addr().unwrap().port());
    tokio::spawn(forward(listener, target, Some(tls)));
    (server, file(&authority.pem()))
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(target_os = "linux"), ignore = "only Linux has /proc/PID/mem")]
async fn secrets_of_vault_remain_in_freed_buffers_only() {
    let bao = shared().await;
    let url = format!("vault+http://{}", bao.address);
    for version in [1, 2] {
        assert_of_vault(bao, &url, &[], version).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(target_os = "linux"), ignore = "only Linux has /proc/PID/mem")]
async fn secrets_of_vault_over_tls_remain_in_freed_buffers_only() {
    let authority = Authority::new("authority of the tests");
    let bao = Bao::with_tls(&authority.sign(&["127.0.0.1"], |_| ())).await;
    let authority = file(&authority.pem());
    let variables = [("VAULT_CACERT", authority.path().to_str().unwrap())];
    let url = format!("vault://{}", bao.address);
    assert_of_vault(&bao, &url, &variables, 2).await;
}

async fn assert_of_vault(bao: &Bao, url: &str, variables: &[(&str, &str)], version: u8) {
    let (secret, mount, token) = (canary(), unique("memory"), file(bao.root_token()));
    bao.mount(&mount, version).await;
    let fields = json!({"CANARY": format!("{secret}{ESCAPED}"), "OTHER": "1"});
    let (path, body) = match version {
        1 => (format!("{mount}/app"), fields),
        _ => (format!("{mount}/data/app"), json!({"data": fields})),
    };
    bao.root("POST", &path, body).await;
    let needles = Needles::default()
        .text("secret", &secret)
        .text("token", bao.root_token());
    let url = format!("{url}/{mount}/app?token_file={}", token.path().display());
    assert_only_freed_buffers_remain(&url, variables, &needles);
}
