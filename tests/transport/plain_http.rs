//! Plain HTTP to other machines: an option or a variable allows it, and a warning names it.

use secretwell::vault::{Credential, VaultAuth, VaultProvider};
use secretwell::{ErrorKind, infisical};
use secretwell_testkit::CanaryLog;

#[test]
fn unencrypted_provider_is_warned_about_once() {
    let log = CanaryLog::install();
    let auth = || VaultAuth::token(Credential::value("token"));
    let builder = VaultProvider::builder(["http://vault:8200"], auth()).unwrap();
    let error = builder.clone().build().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidConfig);
    assert!(error.to_string().contains("allow_http=true"), "{error}");
    let warnings = || log.lines_with("unencrypted").len();
    assert_eq!(warnings(), 0);
    builder
        .client(secretwell::vault::ClientConfig::danger_allow_http)
        .build()
        .unwrap();
    assert_eq!(warnings(), 1, "{}", log.text());
    assert!(log.contains("http://vault:8200"), "{}", log.text());
    // No warning if nothing leaves this machine, or if it is encrypted.
    for address in ["http://127.0.0.1:8200", "https://vault:8200"] {
        let builder = VaultProvider::builder([address], auth()).unwrap();
        builder.build().unwrap();
    }
    let url = "infisical+http://infisical:8080/project/dev?auth=token&token_file=/x";
    let error = infisical::InfisicalProvider::from_url(url).unwrap_err();
    assert!(error.to_string().contains("unencrypted"), "{error}");
    infisical::InfisicalProvider::from_url(&format!("{url}&allow_http=true")).unwrap();
    assert_eq!(warnings(), 2, "{}", log.text());
}
