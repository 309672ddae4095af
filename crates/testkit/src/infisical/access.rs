//! Who may ask: machine identities, their logins and tokens.

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use tokio::time::Instant;

use super::response::FakeResponse;

/// What an identity may do in a project.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Role {
    /// Read and write.
    Admin,
    /// Read.
    Viewer,
    /// Nothing, though it is a member.
    NoAccess,
}

/// A machine identity to be made: its memberships, and how long its tokens live.
#[derive(Debug, Clone)]
pub struct Identity {
    pub(super) client_id: Option<String>,
    pub(super) client_secret: Option<String>,
    roles: HashMap<String, Role>,
    token_ttl: Duration,
    token_max_ttl: Duration,
    token_uses: Option<u64>,
    secret_uses: Option<u64>,
}

impl Identity {
    /// One without a project, whose tokens live for 30 days, as servers have it by default.
    #[allow(clippy::new_without_default)]
    pub fn new() -> Self {
        const DEFAULT: Duration = Duration::from_secs(30 * 24 * 60 * 60);
        Self {
            client_id: None,
            client_secret: None,
            roles: HashMap::new(),
            token_ttl: DEFAULT,
            token_max_ttl: DEFAULT,
            token_uses: None,
            secret_uses: None,
        }
    }

    /// Makes it a member of a project.
    #[must_use]
    pub fn member(mut self, project: &str, role: Role) -> Self {
        self.roles.insert(project.to_owned(), role);
        self
    }

    /// How long its tokens live unless they are renewed.
    #[must_use]
    pub fn token_ttl(mut self, ttl: Duration) -> Self {
        self.token_ttl = ttl;
        self
    }

    /// How long its tokens live at most.
    #[must_use]
    pub fn token_max_ttl(mut self, ttl: Duration) -> Self {
        self.token_max_ttl = ttl;
        self
    }

    /// How often one of its tokens may be used.
    #[must_use]
    pub fn token_uses(mut self, uses: u64) -> Self {
        self.token_uses = Some(uses);
        self
    }

    /// How often its client secret may be used.
    #[must_use]
    pub fn secret_uses(mut self, uses: u64) -> Self {
        self.secret_uses = Some(uses);
        self
    }

    /// With this client id and secret, instead of ones that are made up.
    #[must_use]
    pub fn credentials(mut self, client_id: &str, client_secret: &str) -> Self {
        self.client_id = Some(client_id.to_owned());
        self.client_secret = Some(client_secret.to_owned());
        self
    }
}

/// The credentials of a machine identity of the fake.
#[derive(Clone)]
#[non_exhaustive]
pub struct FakeIdentity {
    /// For logins by a token of somebody else's.
    pub identity_id: String,
    /// For Universal Auth.
    pub client_id: String,
    /// For Universal Auth.
    pub client_secret: String,
}

/// Without the client secret.
impl fmt::Debug for FakeIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FakeIdentity")
            .field("identity_id", &self.identity_id)
            .field("client_id", &self.client_id)
            .finish_non_exhaustive()
    }
}

/// A machine identity that was made.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) id: String,
    pub(super) client_id: String,
    /// None once it is used up or revoked.
    pub(super) client_secret: Option<String>,
    pub(super) made: Identity,
    /// What it may not read in spite of its role: environments and paths.
    pub(super) denied: Vec<(String, String)>,
    /// Whether it sees no values.
    pub(super) values_hidden: bool,
    /// The tokens of others that it may log in with, by the name of the login.
    pub(super) jwts: Vec<(String, String)>,
}

#[derive(Debug)]
struct Token {
    identity: usize,
    login: Instant,
    expires: Instant,
    uses: u64,
    is_gone: bool,
}

/// All identities and tokens.
#[derive(Debug, Default)]
pub(super) struct Access {
    pub(super) identities: Vec<Known>,
    tokens: HashMap<String, Token>,
}

impl Known {
    pub(super) fn role(&self, project: &str) -> Option<Role> {
        self.made.roles.get(project).copied()
    }

    pub(super) fn may_read(&self, project: &str, environment: &str, path: &str) -> bool {
        let denied = |(e, p): &(String, String)| e == environment && p == path;
        matches!(self.role(project), Some(Role::Admin | Role::Viewer))
            && !self.denied.iter().any(denied)
    }
}

impl Access {
    pub(super) fn identity_mut(&mut self, id: &str) -> Option<&mut Known> {
        self.identities.iter_mut().find(|known| known.id == id)
    }

    pub(super) fn revoke_tokens(&mut self) {
        self.tokens
            .values_mut()
            .for_each(|token| token.is_gone = true);
    }

    /// The answer to a login by client id and secret.
    pub(super) fn log_in(&mut self, client_id: &str, client_secret: &str) -> FakeResponse {
        let (client_id, client_secret) = (client_id.trim(), client_secret.trim());
        let found = |known: &Known| known.client_id == client_id;
        let Some(at) = self.identities.iter().position(found) else {
            let text = "No identity with specified client ID was found";
            return FakeResponse::failure(404, "NotFound", text);
        };
        let known = &mut self.identities[at];
        if known.client_secret.as_deref() != Some(client_secret) {
            return FakeResponse::failure(401, "UnauthorizedError", "Invalid credentials");
        }
        match &mut known.made.secret_uses {
            Some(0) => {
                known.client_secret = None;
                let text = "Access denied due to client secret usage limit reached";
                return FakeResponse::failure(401, "UnauthorizedError", text);
            }
            Some(uses) => *uses -= 1,
            None => {}
        }
        self.grant(at)
    }

    /// The answer to a login by somebody else's token.
    pub(super) fn log_in_by(&mut self, method: &str, identity: &str, jwt: &str) -> FakeResponse {
        let title = match method {
            "kubernetes-auth" => "Kubernetes",
            "azure-auth" => "Azure",
            "aws-auth" => "AWS",
            "jwt-auth" => "JWT",
            // The server's own slip, for OIDC.
            _ => "GCP",
        };
        let missing = || {
            let end = if title == "Azure" {
                "Azure Auth"
            } else {
                &format!("{title} auth")
            };
            let text =
                format!("{title} auth method not found for identity, did you configure {end}?");
            FakeResponse::failure(404, "NotFound", &text)
        };
        let found = |known: &Known| known.id == identity;
        let Some(at) = self.identities.iter().position(found) else {
            return missing();
        };
        let jwts: Vec<_> = self.identities[at]
            .jwts
            .iter()
            .filter(|(m, _)| m == method)
            .collect();
        if jwts.is_empty() {
            return missing();
        }
        if jwts.iter().any(|(_, known)| known == jwt.trim()) {
            return self.grant(at);
        }
        match method {
            "kubernetes-auth" => {
                FakeResponse::failure(401, "KubernetesTokenReviewError", "invalid bearer token")
            }
            _ => FakeResponse::failure(401, "UnauthorizedError", "Access denied: issuer mismatch"),
        }
    }

    fn grant(&mut self, at: usize) -> FakeResponse {
        let made = &self.identities[at].made;
        let token = format!("eyJ{}.{}.{}", random(16), random(64), random(43));
        let now = Instant::now();
        let answer = granted(made, &token);
        let expires = now + made.token_ttl;
        self.tokens.insert(
            token,
            Token {
                identity: at,
                login: now,
                expires,
                uses: 0,
                is_gone: false,
            },
        );
        answer
    }

    /// The answer to a renewal. One that would end beyond the maximum destroys the token.
    pub(super) fn renew(&mut self, text: &str) -> FakeResponse {
        if let Err(answer) = self.check(text, false) {
            return answer;
        }
        let now = Instant::now();
        let token = self.tokens.get_mut(text).unwrap();
        let made = &self.identities[token.identity].made;
        if now + made.token_ttl >= token.login + made.token_max_ttl {
            token.is_gone = true;
            let text = "Failed to renew MI access token past its Max TTL expiration";
            return FakeResponse::failure(401, "UnauthorizedError", text);
        }
        token.expires = now + made.token_ttl;
        granted(made, text)
    }

    pub(super) fn revoke(&mut self, text: &str) -> FakeResponse {
        if let Err(answer) = self.check(text, false) {
            return answer;
        }
        self.tokens.get_mut(text).unwrap().is_gone = true;
        FakeResponse::json(
            200,
            serde_json::json!({"message": "Successfully revoked access token"}),
        )
    }

    /// Whose token this is, if it is good; the answer if it is not.
    pub(super) fn check(&mut self, text: &str, counts: bool) -> Result<usize, FakeResponse> {
        let unauthorized = |text: &str| Err(FakeResponse::failure(401, "UnauthorizedError", text));
        let malformed = |text: &str| Err(FakeResponse::failure(403, "TokenError", text));
        let now = Instant::now();
        let Some(token) = self.tokens.get_mut(text) else {
            let parts: Vec<&str> = text.split('.').collect();
            return match parts[..] {
                [""] => malformed("jwt must be provided"),
                ["st", id, ..] => {
                    let text = format!("Service token with ID '{id}' not found");
                    Err(FakeResponse::failure(404, "NotFound", &text))
                }
                [_, _, ""] => malformed("jwt signature is required"),
                [_, _, _] => malformed("invalid signature"),
                _ => malformed(
                    "The provided access token is malformed. Please use a valid token or generate \
                     a new one and try again.",
                ),
            };
        };
        let made = &self.identities[token.identity].made;
        if now >= token.login + made.token_max_ttl {
            return malformed("Your token has expired. Please re-authenticate.");
        }
        if token.is_gone {
            return unauthorized("No identity access token found");
        }
        if now >= token.expires {
            token.is_gone = true;
            return unauthorized("Failed to renew MI access token due to TTL expiration");
        }
        if counts {
            if made.token_uses.is_some_and(|most| token.uses >= most) {
                let text = "Unable to renew because access token number of uses limit reached";
                return unauthorized(text);
            }
            token.uses += 1;
        }
        Ok(token.identity)
    }
}

fn granted(made: &Identity, token: &str) -> FakeResponse {
    FakeResponse::json(
        200,
        serde_json::json!({
            "accessToken": token,
            "expiresIn": made.token_ttl.as_secs(),
            "accessTokenMaxTTL": made.token_max_ttl.as_secs(),
            "tokenType": "Bearer",
        }),
    )
}

/// So many hexadecimal digits, never the same twice.
pub(super) fn random(digits: usize) -> String {
    (0..digits).map(|_| fastrand::digit(16)).collect()
}
