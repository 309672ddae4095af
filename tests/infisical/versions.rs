//! The differences between the versions of the server that the fake knows.
//!
//! The responses of 2024 were recorded on real servers. Those of the newest server follow its public source and
//! its acceptance tests.

use std::time::Duration;

use secretwell_testkit::infisical::{FakeInfisical, FakeResponse, Identity, Personality, Role};
use serde_json::{Value, json};

use crate::support::secs;

const PROJECT: &str = "00000000-0000-4000-8000-000000000245";
const PERSONALITIES: [Personality; 3] = [
    Personality::July2024,
    Personality::October2024,
    Personality::Newest,
];

/// The identities of the fake, with their client secrets.
const ADMIN: &str = "admin";
/// A viewer that may not read `/auth` in `prod`.
const VIEWER: &str = "viewer";
const MEMBER: &str = "member";

/// A fake with the secrets that the requests below read.
struct Fixture {
    fake: FakeInfisical,
    personality: Personality,
}

impl Fixture {
    fn new(personality: Personality) -> Self {
        let fake = FakeInfisical::offline_as(personality);
        fake.project_with_id(PROJECT, "demo");
        for environment in ["dev", "prod"] {
            fake.environment(PROJECT, environment);
        }
        fake.set(PROJECT, "prod", "/auth", "X", "of prod");
        for (path, name, value) in [
            ("/api", "KEY", "value"),
            ("/api-gateway", "GATEWAY", "value"),
            ("/denied", "GOOD", "good"),
            ("/denied", "REFERENCE", "${prod.auth.X}"),
            ("/empty", "EMPTY", ""),
            ("/empty", "TO_EMPTY", "[${EMPTY}]"),
            ("/padded", "LEAF", "leaf"),
            ("/padded", "PADDED", "${ LEAF }"),
            ("/dollar", "PW", "pa$$word"),
            ("/dollar", "URL", "pg://u:${PW}@h"),
            ("/lines", "PEM", "line1\nline2"),
            ("/lines", "PEM_REF", "${PEM}"),
            ("/missing", "TO_MISSING", "${prod.nope.X}"),
            ("/parent/child", "OWN", "value"),
            ("/shared", "SHARED", "value"),
            ("/imported", "URL", "at-${HOST}"),
            ("/imported", "HOST", "source"),
            ("/importer", "HOST", "importer"),
        ] {
            fake.set(PROJECT, "dev", path, name, value);
        }
        fake.skip_multiline_encoding(PROJECT, "dev", "/lines", "PEM_REF");
        fake.import(PROJECT, ("dev", "/parent/child"), ("dev", "/shared"));
        fake.import(PROJECT, ("dev", "/importer"), ("dev", "/imported"));
        for (name, role) in [
            (ADMIN, Role::Admin),
            (VIEWER, Role::Viewer),
            (MEMBER, Role::NoAccess),
        ] {
            let identity = Identity::new()
                .member(PROJECT, role)
                .token_max_ttl(secs(90));
            let identity = identity.token_ttl(secs(60)).credentials(name, name);
            let created = fake.identity(identity);
            if name == VIEWER {
                fake.deny(&created.identity_id, "prod", "/auth");
            }
        }
        Self { fake, personality }
    }

    /// Logs in and returns the response.
    fn log_in(&self, client_id: &str, client_secret: &str) -> FakeResponse {
        let body = json!({"clientId": client_id, "clientSecret": client_secret}).to_string();
        let target = "/api/v1/auth/universal-auth/login";
        self.fake.respond("POST", target, &[], body.as_bytes())
    }

    fn token(&self, identity: &str) -> String {
        access_token(&self.log_in(identity, identity))
    }

    /// Sends a `GET` request with the token of an identity.
    fn get(&self, identity: &str, target: &str) -> FakeResponse {
        let authorization = format!("Bearer {}", self.token(identity));
        let headers = [("authorization", authorization.as_str())];
        self.fake.respond("GET", target, &headers, b"")
    }

    #[track_caller]
    fn assert_response(&self, what: &str, response: &FakeResponse, expected: (u16, &str)) {
        let (status, text) = expected;
        assert!(
            response.status == status && response.body.contains(text),
            "{what}, {:?}: expected {status} with `{text}`, got {} {}",
            self.personality,
            response.status,
            response.body
        );
    }
}

fn access_token(response: &FakeResponse) -> String {
    let body: Value = serde_json::from_str(&response.body).unwrap();
    body["accessToken"].as_str().unwrap().to_owned()
}

/// Returns the target of a list in version 3 of the API. `query` has further parameters.
fn list(environment: &str, path: &str, query: &str) -> String {
    format!(
        "/api/v3/secrets/raw?workspaceId={PROJECT}&environment={environment}&secretPath={path}{query}"
    )
}

fn single(path: &str, name: &str, query: &str) -> String {
    format!(
        "/api/v3/secrets/raw/{name}?workspaceId={PROJECT}&environment=dev&secretPath={path}{query}"
    )
}

/// A request, and the response of each version.
struct Row {
    what: &'static str,
    identity: &'static str,
    target: String,
    /// The status and a part of the body, in the order of [`PERSONALITIES`].
    expected: [(u16, &'static str); 3],
}

#[test]
fn each_version_has_its_own_responses() {
    let expand = "&expandSecretReferences=true";
    let recursive = "&recursive=true";
    let imports = format!("{expand}&include_imports=true");
    let folders = format!("/api/v1/folders?workspaceId={PROJECT}&path=/&environment");
    let same = |expected| [expected; 3];
    let newest = |older: (u16, &'static str), newest| [older, older, newest];
    let row = |what, identity, target, expected| Row {
        what,
        identity,
        target,
        expected,
    };
    let rows = [
        row(
            "a missing folder",
            ADMIN,
            list("dev", "/nope", ""),
            newest((200, r#""secrets":[]"#), (404, "SecretPathNotFound")),
        ),
        row(
            "a missing environment",
            ADMIN,
            list("qa", "/", ""),
            newest((200, r#""secrets":[]"#), (404, "SecretPathNotFound")),
        ),
        row(
            "a missing environment, recursive",
            ADMIN,
            list("qa", "/", recursive),
            [
                (500, "'qa' environment not found in project"),
                (404, "Environment with slug 'qa' in project with ID"),
                (404, "Environment with slug 'qa' in project with ID"),
            ],
        ),
        row(
            "folders of a missing environment",
            ADMIN,
            format!("{folders}=qa"),
            [
                (400, "Environment not found"),
                (404, "Environment with slug 'qa' not found"),
                (404, "Environment with slug 'qa' not found"),
            ],
        ),
        row(
            "an unknown slug",
            ADMIN,
            "/api/v2/workspace/nope".to_owned(),
            newest((500, "Something went wrong"), (404, "NotFound")),
        ),
        row(
            "folders for a member without rights",
            MEMBER,
            format!("{folders}=dev"),
            same((200, "api-gateway")),
        ),
        row(
            "a project for a member without rights",
            MEMBER,
            "/api/v2/workspace/demo".to_owned(),
            same((200, PROJECT)),
        ),
        row(
            "a recursive list for a member without rights",
            MEMBER,
            list("dev", "/", recursive),
            same((200, r#""secrets":[]"#)),
        ),
        row(
            "a list for a member without rights",
            MEMBER,
            list("dev", "/api", ""),
            [
                (401, "PermissionDenied"),
                (403, "PermissionDenied"),
                (403, r#""details":[]"#),
            ],
        ),
        row(
            "a repeated parameter",
            ADMIN,
            list("dev", "/api", "&environment=prod"),
            [
                (403, "ValidationFailure"),
                (401, "ValidationFailure"),
                (422, "ValidationFailure"),
            ],
        ),
        row(
            "a read without an environment",
            ADMIN,
            format!("/api/v3/secrets/raw/KEY?workspaceId={PROJECT}&secretPath=/api"),
            same((400, "Missing environment")),
        ),
        row(
            "imports of the folders below",
            ADMIN,
            list("dev", "/parent", "&recursive=true&include_imports=true"),
            same((200, "SHARED")),
        ),
        row(
            "a reference that may not be read, in a list",
            VIEWER,
            list("dev", "/denied", expand),
            newest(
                (200, "${prod.auth.X}"),
                (403, "Failed to expand one or more secret references"),
            ),
        ),
        row(
            "a reference that may not be read",
            VIEWER,
            single("/denied", "REFERENCE", expand),
            newest(
                (403, "You are attempting to reference secret named"),
                (403, "You do not have permission to read"),
            ),
        ),
        row(
            "another secret of that folder",
            VIEWER,
            single("/denied", "GOOD", expand),
            same((200, "good")),
        ),
        row(
            "a reference to a missing folder",
            ADMIN,
            single("/missing", "TO_MISSING", expand),
            newest((500, "Something went wrong"), (200, "${prod.nope.X}")),
        ),
        row(
            "a reference to an empty secret",
            ADMIN,
            single("/empty", "TO_EMPTY", expand),
            newest((200, "[${EMPTY}]"), (200, r#""[]""#)),
        ),
        row(
            "a reference with blanks",
            ADMIN,
            single("/padded", "PADDED", expand),
            newest((200, r#""leaf""#), (200, "${ LEAF }")),
        ),
        row(
            "dollar signs in a referenced value",
            ADMIN,
            single("/dollar", "URL", expand),
            newest((200, "pg://u:pa$word@h"), (200, "pg://u:pa$$word@h")),
        ),
        row(
            "a reference of an imported secret, in a list",
            ADMIN,
            list("dev", "/importer", &imports),
            newest((200, "at-source"), (200, "at-importer")),
        ),
        row(
            "a reference of an imported secret",
            ADMIN,
            single("/importer", "URL", &imports),
            same((200, "at-source")),
        ),
        row(
            "a hidden value",
            ADMIN,
            format!(
                "/api/v4/secrets/KEY?projectId={PROJECT}&environment=dev&secretPath=/api&viewSecretValue=false"
            ),
            newest((404, "Not Found"), (200, r#""secretValueHidden":true"#)),
        ),
        row(
            "lines in a referenced value",
            ADMIN,
            single("/lines", "PEM_REF", expand),
            same((200, r#""\"line1\\nline2\"""#)),
        ),
        row(
            "the same without expansion",
            ADMIN,
            single("/lines", "PEM_REF", "&expandSecretReferences=false"),
            same((200, r#""${PEM}""#)),
        ),
        row(
            "version 4",
            ADMIN,
            format!("/api/v4/secrets?projectId={PROJECT}&environment=dev&secretPath=/api"),
            newest((404, "Route GET:/api/v4/secrets"), (200, r#""imports":[]"#)),
        ),
        row(
            "version 4 expands references by default",
            ADMIN,
            format!("/api/v4/secrets/URL?projectId={PROJECT}&environment=dev&secretPath=/dollar"),
            newest((404, "Not Found"), (200, "pg://u:pa$$word@h")),
        ),
    ];
    for (index, personality) in PERSONALITIES.into_iter().enumerate() {
        let fixture = Fixture::new(personality);
        for row in &rows {
            let response = fixture.get(row.identity, &row.target);
            fixture.assert_response(row.what, &response, row.expected[index]);
        }
        let recursive = fixture.get(ADMIN, &list("dev", "/api", recursive));
        let has_sibling = recursive.body.contains("GATEWAY");
        assert_eq!(
            has_sibling,
            personality != Personality::Newest,
            "{personality:?}"
        );
        let has_id = fixture.get(ADMIN, "/api/v3/nope").body.contains("reqId");
        assert_eq!(
            has_id,
            personality == Personality::Newest,
            "{personality:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn each_version_has_its_own_logins_and_tokens() {
    for (personality, unknown, dead, renewed) in [
        (
            Personality::July2024,
            (404, "No identity with specified client ID"),
            (
                500,
                r#"{"error":"Internal Server Error","message":"jwt expired"}"#,
            ),
            (200, "accessToken"),
        ),
        (
            Personality::October2024,
            (404, "No identity with specified client ID"),
            (403, "TokenError"),
            (200, "accessToken"),
        ),
        (
            Personality::Newest,
            (401, "Invalid credentials"),
            (403, "TokenError"),
            (200, r#""expiresIn":60"#),
        ),
    ] {
        let fixture = Fixture::new(personality);
        fixture.assert_response("an unknown client", &fixture.log_in("nobody", "x"), unknown);

        let token = fixture.token(ADMIN);
        let renew = |token: &str| {
            let body = json!({"accessToken": token}).to_string();
            let target = "/api/v1/auth/token/renew";
            fixture.fake.respond("POST", target, &[], body.as_bytes())
        };
        tokio::time::advance(secs(10)).await;
        let response = renew(&token);
        fixture.assert_response("a renewal", &response, renewed);
        let is_new = access_token(&response) != token;
        assert_eq!(
            is_new,
            personality == Personality::Newest,
            "{personality:?}"
        );
        // Near the maximum lifetime, an older server revokes the token, and the newest one shortens the next one.
        tokio::time::advance(secs(40)).await;
        let response = renew(&access_token(&response));
        let expected = match personality {
            Personality::Newest => (200, r#""expiresIn":40"#),
            Personality::July2024 => (403, "past its Max TTL expiration"),
            _ => (401, "past its Max TTL expiration"),
        };
        fixture.assert_response("a late renewal", &response, expected);

        tokio::time::advance(secs(50)).await;
        let authorization = format!("Bearer {token}");
        let headers = [("authorization", authorization.as_str())];
        let target = list("dev", "/api", "");
        let response = fixture.fake.respond("GET", &target, &headers, b"");
        fixture.assert_response("a dead token", &response, dead);
    }
}

#[tokio::test(start_paused = true)]
async fn the_newest_server_locks_a_login_after_three_failures() {
    const LOCK: Duration = Duration::from_secs(300);
    let fixture = Fixture::new(Personality::Newest);
    for _ in 0..3 {
        let response = fixture.log_in(VIEWER, "wrong");
        fixture.assert_response("a wrong secret", &response, (401, "Invalid credentials"));
    }
    let locked = (401, "temporarily locked");
    fixture.assert_response("a lock", &fixture.log_in(VIEWER, VIEWER), locked);
    // Attempts during the lock are not counted.
    tokio::time::advance(LOCK - secs(1)).await;
    fixture.assert_response("a lock", &fixture.log_in(VIEWER, VIEWER), locked);
    tokio::time::advance(secs(1)).await;
    let accepted = (200, "accessToken");
    fixture.assert_response("after it", &fixture.log_in(VIEWER, VIEWER), accepted);
    // Failures that are more than 30 s apart are forgotten.
    for _ in 0..5 {
        fixture.log_in(VIEWER, "wrong");
        tokio::time::advance(secs(31)).await;
    }
    fixture.assert_response("slow failures", &fixture.log_in(VIEWER, VIEWER), accepted);
}

#[tokio::test(start_paused = true)]
async fn the_standalone_image_of_2024_responds_with_a_page_to_unknown_routes() {
    let fixture = Fixture::new(Personality::October2024);
    fixture.fake.use_web_application();
    let response = fixture.get(ADMIN, &format!("/api/v4/secrets?projectId={PROJECT}"));
    assert_eq!(
        (response.status, response.header("content-type")),
        (404, Some("text/html; charset=utf-8"))
    );
    let response = fixture.get(ADMIN, &list("dev", "/api", ""));
    fixture.assert_response("a known route", &response, (200, "KEY"));
}
