//! A login to Vault with the identity of a virtual machine of Google Cloud, as a custom login.
//!
//! The metadata server of the machine signs a token for the role. Vault checks it with the keys of Google.
//!
//! This example is compiled, but not tested against the real service.
//!
//! ```text
//! cargo run --example vault_gcp -- https://vault:8200 ROLE KEY
//! ```

// The example prints its result.
#![allow(clippy::print_stdout)]

use std::time::Duration;

use reqwest::Client;
use secretwell::vault::{VaultAuth, VaultProvider, json_object};
use secretwell::{Error, ErrorKind, Resolver, SecretValue};

/// The metadata server responds with a token for the service account of the machine.
const IDENTITY: &str =
    "http://metadata.google.internal/computeMetadata/v1/instance/service-accounts/default/identity";

/// Logs in to Vault as `role` of the login method `gcp`, whose type must be `gce`.
fn google_login(role: &str) -> Result<VaultAuth, Error> {
    let client = metadata_client()?;
    let role = role.to_owned();
    Ok(VaultAuth::custom("gcp", move || {
        let (client, role) = (client.clone(), role.clone());
        async move {
            let jwt = identity_token(&client, &role).await?;
            json_object(&[("role", &role), ("jwt", jwt.expose_text()?)])
        }
    }))
}

/// The metadata server is on the machine, so a proxy cannot reach it.
fn metadata_client() -> Result<Client, Error> {
    let client = Client::builder().no_proxy().timeout(Duration::from_secs(5));
    client.build().map_err(unavailable)
}

async fn identity_token(client: &Client, role: &str) -> Result<SecretValue, Error> {
    // Vault accepts only a token for the audience `http://vault/ROLE`.
    let url = format!("{IDENTITY}?audience=http%3A%2F%2Fvault%2F{role}&format=full");
    let request = client.get(url).header("Metadata-Flavor", "Google");
    let response = request.send().await.map_err(unavailable)?;
    let response = response.error_for_status().map_err(unavailable)?;
    Ok(response.text().await.map_err(unavailable)?.into())
}

/// The next login can succeed, so the error is temporary.
fn unavailable(error: reqwest::Error) -> Error {
    Error::new(
        ErrorKind::Unavailable,
        "the metadata server did not return an identity token",
    )
    .with_hint("check that this is a virtual machine of Google Cloud with a service account")
    .with_source(error)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [address, role, key] = &arguments[..] else {
        return Err("usage: vault_gcp ADDRESS ROLE KEY".into());
    };
    let provider = VaultProvider::builder([address], google_login(role)?)?.build()?;
    let secret = Resolver::new(provider).get(key).await?;
    println!("{key} has {} bytes", secret.value.len());
    Ok(())
}
