//! Responses of Vault and Infisical, as real servers send them.

use axum::Json;
use serde::Serialize;
use serde_json::{Value, json};

/// The id of the project in Infisical.
pub const PROJECT: &str = "00000000-0000-4000-8000-000000000001";

/// A response of Vault. The names have the order of a real server.
#[derive(Serialize)]
pub struct VaultBody {
    request_id: &'static str,
    lease_id: &'static str,
    renewable: bool,
    lease_duration: u32,
    data: Value,
    wrap_info: (),
    warnings: (),
    auth: (),
}

fn vault_body(data: Value) -> Json<VaultBody> {
    Json(VaultBody {
        request_id: "00000000-0000-0000-0000-000000000000",
        lease_id: "",
        renewable: false,
        lease_duration: 0,
        data,
        wrap_info: (),
        warnings: (),
        auth: (),
    })
}

/// Responds with the fields of a secret of KV version 2.
pub fn vault_secret(fields: Value) -> Json<VaultBody> {
    let metadata = json!({
        "created_time": "2026-01-01T00:00:00.000000000Z",
        "custom_metadata": null,
        "deletion_time": "",
        "destroyed": false,
        "version": 1,
    });
    vault_body(json!({"data": fields, "metadata": metadata}))
}

/// Responds with the description of a token that does not expire.
pub async fn vault_token() -> Json<VaultBody> {
    vault_body(json!({"ttl": 0, "renewable": false}))
}

/// Returns a list of Infisical's API version 3, with secrets that all have the value `value`.
pub fn infisical_list(names: impl Iterator<Item = String>, value: &str) -> Value {
    let secret = |name: String| {
        json!({
            "id": "00000000-0000-4000-8000-000000000002",
            "_id": "00000000-0000-4000-8000-000000000002",
            "workspace": PROJECT,
            "environment": "dev",
            "version": 1,
            "type": "shared",
            "secretKey": name,
            "secretValue": value,
            "secretComment": "",
            "secretReminderNote": null,
            "secretReminderRepeatDays": null,
            "skipMultilineEncoding": false,
            "metadata": null,
            "createdAt": "2026-01-01T00:00:00.000Z",
            "updatedAt": "2026-01-01T00:00:00.000Z",
            "secretPath": "/",
            "tags": [],
        })
    };
    let secrets: Vec<Value> = names.map(secret).collect();
    json!({"secrets": secrets, "imports": []})
}

/// Responds to a login at Infisical.
pub async fn infisical_login() -> Json<Value> {
    Json(json!({
        "accessToken": "token",
        "expiresIn": 2_592_000,
        "accessTokenMaxTTL": 2_592_000,
        "tokenType": "Bearer",
    }))
}
