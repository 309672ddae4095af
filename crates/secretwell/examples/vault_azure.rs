//! A login to Vault with the managed identity of a virtual machine of Azure, as a custom login.
//!
//! The metadata server of the machine returns a token of the managed identity, and a description of the machine.
//! Vault checks the token with the keys of Azure, and the machine with Azure's API.
//!
//! This example is compiled, but not tested against the real service.
//!
//! ```text
//! cargo run --example vault_azure -- https://vault:8200 ROLE KEY
//! ```

// The example prints its result.
#![allow(clippy::print_stdout)]

use std::time::Duration;

use reqwest::Client;
use secretwell::vault::{VaultAuth, VaultProvider, json_object};
use secretwell::{Error, ErrorKind, Resolver, SecretString, SecretValue};
use serde::Deserialize;
use serde::de::DeserializeOwned;

/// The address of the metadata server.
const METADATA: &str = "http://169.254.169.254/metadata";
/// The route of the token. Its `resource` must be the setting `resource` of the login method.
const TOKEN: &str =
    "identity/oauth2/token?api-version=2018-02-01&resource=https%3A%2F%2Fmanagement.azure.com%2F";
const INSTANCE: &str = "instance?api-version=2021-02-01";

#[derive(Deserialize)]
struct Token {
    access_token: SecretString,
}

#[derive(Deserialize)]
struct Instance {
    compute: Machine,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Machine {
    subscription_id: String,
    resource_group_name: String,
    name: String,
    /// Empty for a machine outside of a scale set.
    vm_scale_set_name: String,
}

/// Logs in to Vault as `role` of the login method `azure`.
fn azure_login(role: &str) -> Result<VaultAuth, Error> {
    let client = metadata_client()?;
    let role = role.to_owned();
    Ok(VaultAuth::custom("azure", move || {
        let (client, role) = (client.clone(), role.clone());
        async move { login_body(&client, &role).await }
    }))
}

/// The metadata server is on the machine, so a proxy cannot reach it.
fn metadata_client() -> Result<Client, Error> {
    let client = Client::builder().no_proxy().timeout(Duration::from_secs(5));
    client.build().map_err(unavailable)
}

async fn login_body(client: &Client, role: &str) -> Result<SecretValue, Error> {
    let token: Token = metadata(client, TOKEN).await?;
    let Instance { compute } = metadata(client, INSTANCE).await?;
    let jwt = SecretValue::from(token.access_token);
    let machine = match compute.vm_scale_set_name.as_str() {
        "" => ("vm_name", compute.name.as_str()),
        scale_set => ("vmss_name", scale_set),
    };
    json_object(&[
        ("role", role),
        ("jwt", jwt.expose_text()?),
        ("subscription_id", &compute.subscription_id),
        ("resource_group_name", &compute.resource_group_name),
        machine,
    ])
}

async fn metadata<T: DeserializeOwned>(client: &Client, route: &str) -> Result<T, Error> {
    let url = format!("{METADATA}/{route}");
    let request = client.get(url).header("Metadata", "true");
    let response = request.send().await.map_err(unavailable)?;
    let response = response.error_for_status().map_err(unavailable)?;
    response.json().await.map_err(unavailable)
}

/// The next login can succeed, so the error is temporary.
fn unavailable(error: reqwest::Error) -> Error {
    Error::new(
        ErrorKind::Unavailable,
        "the metadata server did not return a token",
    )
    .with_hint("check that this is a virtual machine of Azure with a managed identity")
    .with_source(error)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [address, role, key] = &arguments[..] else {
        return Err("usage: vault_azure ADDRESS ROLE KEY".into());
    };
    let provider = VaultProvider::builder([address], azure_login(role)?)?.build()?;
    let secret = Resolver::new(provider).get(key).await?;
    println!("{key} has {} bytes", secret.value.len());
    Ok(())
}
