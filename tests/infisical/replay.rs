//! Replay of exchanges that were recorded on a real server of October 2024. The fake must respond to each
//! recorded request as the real server did.

use std::collections::HashMap;
use std::time::Duration;

use secretwell_testkit::infisical::{FakeInfisical, FakeResponse, Identity, Role};
use serde::Deserialize;
use serde_json::Value;

use crate::support::secs;

const EXCHANGES: &str = include_str!("../fixtures/infisical.jsonl");
const PROJECT: &str = "00000000-0000-4000-8000-000000000004";
const OTHER_PROJECT: &str = "00000000-0000-4000-8000-000000000245";
const KEY: &str =
    "-----BEGIN EXAMPLE TEXT-----\nMIIEvQIBADANBg\nline3\n-----END EXAMPLE TEXT-----\n";

/// The prefixes of the exchanges that cannot be replayed, with the reason.
const NOT_REPLAYED: &[(&str, &str)] = &[
    (
        "infra.",
        "the fake has no PostgreSQL and no Redis that could fail",
    ),
    ("personal.create.as-user", "the fake has no users"),
    ("personal.get.as-user", "the fake has no users"),
    ("personal.list.as-user", "the fake has no users"),
    ("personal.delete.as-user", "the fake has no users"),
];

/// The exchanges whose responses have fewer fields on the fake. It omits fields that neither a client nor
/// a provider reads.
const SUBSET: &[&str] = &[
    "project.by-slug",
    "project.by-id",
    "folders.list",
    "imports.list",
    "status",
];

#[derive(Deserialize)]
struct Exchange {
    name: String,
    method: String,
    target: String,
    headers: HashMap<String, String>,
    body: String,
    status: u16,
    /// The response body.
    #[serde(rename = "answer")]
    response: Value,
    /// The placeholder of the token in the response body.
    token: Option<String>,
    etag: Option<String>,
    retry_after: Option<String>,
}

/// Creates a fake with the projects of the recorded server.
fn fake_with_projects() -> FakeInfisical {
    let fake = FakeInfisical::offline();
    fake.project_with_id(PROJECT, "demo-app");
    fake.project_with_id(OTHER_PROJECT, "other");
    for (environment, secret) in [("dev", "dev"), ("staging", "staging"), ("prod", "prod")] {
        fake.environment(PROJECT, environment);
        let set = |path: &str, name: &str, value: &str| {
            fake.set(PROJECT, environment, path, name, value);
        };
        let database = format!("postgres://app:pw-{secret}@db.internal:5432/app");
        set("/", "DATABASE_URL", &database);
        set(
            "/",
            "AUTH_SECRET",
            &format!("{secret}-auth-secret-xxxxxxxxxxxxxxxx"),
        );
        let comment = "Auth.js signing secret";
        fake.set_metadata(PROJECT, environment, "/", "AUTH_SECRET", comment, &[]);
        let prefix = if environment == "dev" { "dev" } else { secret };
        set("/auth", "AUTH_GITHUB_ID", &format!("{prefix}-gh-id"));
        set("/auth", "X", &format!("{prefix}-auth-x"));
        set("/auth/keys", "SIGNING_KEY", KEY);
    }
    for (name, value) in [
        ("REF_MISSING", "m-${NOPE}-end"),
        ("REF_PROD", "p-${prod.auth.X}"),
        ("REF_LOCAL", "pre-${OTHER}-post"),
        ("MULTILINE", "line1\nline2\n\nline4"),
        ("MULTILINE_NOENC", "a\nb\n"),
        ("SPACES", "  padded value  "),
        ("DUP_IN_IMPORT", "from-dev-root"),
        ("REF_DEEP", "d-${dev.auth.keys.SIGNING_KEY}"),
        ("CYCLE_A", "${CYCLE_B}"),
        ("CYCLE_B", "${CYCLE_A}"),
        ("REF_CHAIN", "c-${REF_LOCAL}"),
        ("lower.case-key", "odd-name"),
        ("OTHER", "other-value"),
        ("UNICODE", "pässwörd-日本語-🔐--x"),
        ("EMPTY", ""),
        ("TRAILING_NL", "value\n"),
        ("REF_ABS", "abs-${dev.auth.X}"),
    ] {
        fake.set(PROJECT, "dev", "/", name, value);
    }
    for number in 0..200 {
        let value = format!("bulk-value-{number}-vvvvvvvvvvvvvvvvvvvv");
        fake.set(
            PROJECT,
            "dev",
            "/bulk",
            &format!("BULK_{number:03}"),
            &value,
        );
    }
    fake.set(PROJECT, "dev", "/shared", "SHARED_ONE", "shared-1");
    fake.set(PROJECT, "dev", "/shared", "DUP_IN_IMPORT", "from-shared");
    fake.folder(PROJECT, "dev", "/empty");
    fake.import(PROJECT, ("dev", "/"), ("dev", "/shared"));
    fake.import(PROJECT, ("staging", "/"), ("prod", "/auth"));
    fake
}

/// Creates the folder `/refs`, which was added before the last recordings.
fn create_references(fake: &FakeInfisical) {
    for (name, value) in [
        ("REF_EMPTY", "e-${EMPTY}-end"),
        ("REF_UP", "${dev.OTHER}"),
        ("TOP", "t-${MID}"),
        ("MID", "m-${LEAF}"),
        ("LEAF", "leaf"),
        ("REF_SPACES", "${ LEAF }"),
        ("EMPTY", ""),
        ("REF_BAD_ENV", "b-${nope.X}"),
    ] {
        fake.set(PROJECT, "dev", "/refs", name, value);
    }
}

/// Creates the identities with the client ids of the recordings. Their client secrets are the recorded
/// placeholders. Returns the tokens for the placeholders of logins that were not recorded.
fn create_identities(fake: &FakeInfisical) -> HashMap<String, String> {
    let viewer = || Identity::new().member(PROJECT, Role::Viewer);
    let id = |number| format!("00000000-0000-4000-8000-000000000{number:03}");
    for (number, name, identity) in [
        (1, "viewer", viewer()),
        (3, "useLimit1", viewer().secret_uses(1)),
        (
            5,
            "ttl5",
            viewer().token_ttl(secs(5)).token_max_ttl(secs(3600)),
        ),
        (
            6,
            "ttl5max12",
            viewer().token_ttl(secs(5)).token_max_ttl(secs(12)),
        ),
        (7, "tokenUses2", viewer().token_uses(2)),
        (
            8,
            "maxTtl0",
            viewer().token_ttl(secs(60)).token_max_ttl(secs(60)),
        ),
        (
            243,
            "noAccess",
            Identity::new().member(PROJECT, Role::NoAccess),
        ),
        (244, "notMember", Identity::new()),
    ] {
        let secret = format!("<client-secret-{name}>");
        fake.identity(identity.credentials(&id(number), &secret));
    }
    let admin = Identity::new().member(PROJECT, Role::Admin);
    fake.identity(admin.credentials("admin", "admin"));

    let log_in = |client_id: &str, client_secret: &str| {
        let body = serde_json::json!({"clientId": client_id, "clientSecret": client_secret});
        let target = "/api/v1/auth/universal-auth/login";
        let response = fake.respond("POST", target, &[], body.to_string().as_bytes());
        let body: Value = serde_json::from_str(&response.body).unwrap();
        body["accessToken"].as_str().unwrap().to_owned()
    };
    let viewer_token = log_in(&id(1), "<client-secret-viewer>");
    [
        ("<token-1>", viewer_token.clone()),
        ("<token-2>", log_in("admin", "admin")),
        ("<token-901>", viewer_token.clone()),
        ("<token-911>", viewer_token),
        ("<jwt>", "eyJ.eyJ.forged".to_owned()),
        ("<alg-none-token>", "eyJ.eyJ.".to_owned()),
    ]
    .map(|(placeholder, token)| (placeholder.to_owned(), token))
    .into()
}

impl Exchange {
    /// Returns the time that passed before the exchange was recorded.
    fn wait(&self) -> Duration {
        match self.name.as_str() {
            "list.expired-ttl5-token" => secs(13),
            "token.renew.ttl5.at+3s" | "get.ttl5.at+6s-after-renew" => secs(3),
            _ => Duration::ZERO,
        }
    }

    /// Sends the request to the fake. `replacements` maps recorded tokens and ETags to those of the fake.
    fn replay(&self, fake: &FakeInfisical, replacements: &HashMap<String, String>) -> FakeResponse {
        let replace = |text: &str| {
            let mut text = text.to_owned();
            for (recorded, ours) in replacements {
                text = text.replace(recorded, ours);
            }
            text
        };
        let headers: Vec<_> = self
            .headers
            .iter()
            .map(|(k, v)| (k.as_str(), replace(v)))
            .collect();
        let headers: Vec<_> = headers.iter().map(|(k, v)| (*k, v.as_str())).collect();
        fake.respond(
            &self.method,
            &self.target,
            &headers,
            replace(&self.body).as_bytes(),
        )
    }

    /// Returns the difference between the fake's response and the recorded one, if there is one.
    fn difference(&self, found: &FakeResponse) -> Option<String> {
        if found.status != self.status {
            return Some(format!("status {}: {}", found.status, found.body));
        }
        if self.retry_after.as_deref() != found.header("retry-after") {
            return Some("another retry-after header".into());
        }
        let body = serde_json::from_str(&found.body).unwrap_or(Value::String(found.body.clone()));
        let (found, recorded) = (normalize(body), normalize(self.response.clone()));
        let is_equal = match SUBSET.contains(&self.name.as_str()) {
            true => is_subset(&found, &recorded),
            false => found == recorded,
        };
        (!is_equal).then(|| format!("\n  found    {found}\n  recorded {recorded}"))
    }
}

/// Removes the values that differ between servers: ids, times, tokens, and the order of lists.
fn normalize(value: Value) -> Value {
    const IGNORED: &[&str] = &[
        "id",
        "_id",
        "createdAt",
        "updatedAt",
        "folderId",
        "accessToken",
        "date",
        // A display setting of the web editor. The fake does not store it.
        "skipMultilineEncoding",
    ];
    match value {
        Value::Object(fields) => fields
            .into_iter()
            .filter(|(name, _)| !IGNORED.contains(&name.as_str()))
            .map(|(name, value)| (name, normalize(value)))
            .collect(),
        Value::Array(items) => {
            let mut items: Vec<_> = items.into_iter().map(normalize).collect();
            items.sort_by_key(Value::to_string);
            Value::Array(items)
        }
        other => other,
    }
}

/// Returns whether `more` contains all fields and items of `less`.
fn is_subset(less: &Value, more: &Value) -> bool {
    match (less, more) {
        (Value::Object(less), Value::Object(more)) => less
            .iter()
            .all(|(name, value)| more.get(name).is_some_and(|other| is_subset(value, other))),
        (Value::Array(less), Value::Array(more)) => {
            less.len() == more.len()
                && less
                    .iter()
                    .all(|item| more.iter().any(|other| is_subset(item, other)))
        }
        _ => less == more,
    }
}

#[tokio::test(start_paused = true)]
async fn fake_responds_like_the_recorded_server() {
    let fake = fake_with_projects();
    let mut replacements = create_identities(&fake);
    let (mut equal, mut skipped, mut different) = (0, 0, Vec::new());
    for line in EXCHANGES.lines() {
        let exchange: Exchange = serde_json::from_str(line).unwrap();
        if let Some((_, reason)) = NOT_REPLAYED
            .iter()
            .find(|(start, _)| exchange.name.starts_with(start))
        {
            println!("not replayed: {}: {reason}", exchange.name);
            skipped += 1;
            continue;
        }
        tokio::time::advance(exchange.wait()).await;
        fake.rate_limit((exchange.name == "ratelimit.secrets.429").then_some(0));
        if exchange.name == "refs.get.TOP.expanded" {
            create_references(&fake);
        }
        let found = exchange.replay(&fake, &replacements);
        if let Some(token) = &exchange.token {
            let body: Value = serde_json::from_str(&found.body).unwrap_or_default();
            let new_token = body["accessToken"].as_str().unwrap_or_default();
            if token.starts_with("<token-") {
                replacements.insert(token.clone(), new_token.to_owned());
            }
        }
        if let (Some(recorded), Some(found)) = (&exchange.etag, found.header("etag")) {
            let unquoted = |etag: &str| etag.trim_matches('"').to_owned();
            replacements.insert(unquoted(recorded), unquoted(found));
        }
        match exchange.difference(&found) {
            None => equal += 1,
            Some(difference) => different.push(format!("{}: {difference}", exchange.name)),
        }
    }
    println!(
        "{equal} equal, {skipped} not replayed, {} different",
        different.len()
    );
    assert!(different.is_empty(), "{}", different.join("\n"));
    assert_eq!(equal + skipped, EXCHANGES.lines().count());
}
