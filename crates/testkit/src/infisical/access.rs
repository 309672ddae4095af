//! Access control of the fake: machine identities, logins and tokens.

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use tokio::time::Instant;

use super::personality::Behaviour;
use super::response::FakeResponse;

/// The number of failed logins that locks an identity, if each follows the one before it within
/// [`FAILURE_WINDOW`].
const MAX_FAILED_LOGINS: usize = 3;
const FAILURE_WINDOW: Duration = Duration::from_secs(30);
/// The time that an identity is locked.
const LOCK: Duration = Duration::from_secs(300);

/// The role of an identity in a project.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Role {
    /// The identity can read and write secrets.
    Admin,
    /// The identity can read secrets.
    Viewer,
    /// The identity is a member of the project, but has no permission.
    NoAccess,
}

/// The configuration of a machine identity: its memberships, and the lifetime of its tokens.
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
    /// Creates the configuration of an identity that is not a member of any project. Its tokens expire after
    /// 30 days, which is the default of a real server.
    #[allow(clippy::new_without_default)]
    pub fn new() -> Self {
        const DEFAULT_TTL: Duration = Duration::from_secs(30 * 24 * 60 * 60);
        Self {
            client_id: None,
            client_secret: None,
            roles: HashMap::new(),
            token_ttl: DEFAULT_TTL,
            token_max_ttl: DEFAULT_TTL,
            token_uses: None,
            secret_uses: None,
        }
    }

    /// Makes the identity a member of a project.
    #[must_use]
    pub fn member(mut self, project: &str, role: Role) -> Self {
        self.roles.insert(project.to_owned(), role);
        self
    }

    /// Sets the lifetime of a token until its next renewal.
    #[must_use]
    pub fn token_ttl(mut self, ttl: Duration) -> Self {
        self.token_ttl = ttl;
        self
    }

    /// Sets the maximum lifetime of a token, including renewals.
    #[must_use]
    pub fn token_max_ttl(mut self, ttl: Duration) -> Self {
        self.token_max_ttl = ttl;
        self
    }

    /// Sets how often a token can be used. Default: no limit.
    #[must_use]
    pub fn token_uses(mut self, uses: u64) -> Self {
        self.token_uses = Some(uses);
        self
    }

    /// Sets how often the client secret can be used. Default: no limit.
    #[must_use]
    pub fn secret_uses(mut self, uses: u64) -> Self {
        self.secret_uses = Some(uses);
        self
    }

    /// Sets the client id and the client secret. By default both are generated.
    #[must_use]
    pub fn credentials(mut self, client_id: &str, client_secret: &str) -> Self {
        self.client_id = Some(client_id.to_owned());
        self.client_secret = Some(client_secret.to_owned());
        self
    }
}

/// The credentials of a machine identity of the fake. `Debug` does not print the client secret.
#[derive(Clone)]
#[non_exhaustive]
pub struct FakeIdentity {
    /// The id that the identity sends in logins with a JWT, and that [`deny`](super::FakeInfisical::deny) and
    /// similar methods take.
    pub identity_id: String,
    /// The client id that the identity sends in logins with Universal Auth.
    pub client_id: String,
    /// The client secret that the identity sends in logins with Universal Auth.
    pub client_secret: String,
}

impl fmt::Debug for FakeIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FakeIdentity")
            .field("identity_id", &self.identity_id)
            .field("client_id", &self.client_id)
            .finish_non_exhaustive()
    }
}

/// A machine identity that exists on the fake.
#[derive(Debug)]
pub(super) struct RegisteredIdentity {
    pub(super) id: String,
    pub(super) client_id: String,
    /// `None` after the secret was used up or revoked.
    pub(super) client_secret: Option<String>,
    pub(super) config: Identity,
    /// Environments and paths that the identity cannot read although its role allows it.
    pub(super) denied_folders: Vec<(String, String)>,
    pub(super) values_hidden: bool,
    /// Login methods and JWTs that the identity can log in with.
    pub(super) accepted_jwts: Vec<(String, String)>,
    /// The times of the failed logins before a lock. If there are [`MAX_FAILED_LOGINS`], the identity is locked.
    pub(super) failed_logins: Vec<Instant>,
}

#[derive(Debug)]
struct Token {
    /// Index of the identity.
    identity: usize,
    login_at: Instant,
    expires_at: Instant,
    uses: u64,
    revoked: bool,
    /// The project, the environment and the folder of a service token.
    scope: Option<[String; 3]>,
}

/// All identities and tokens.
#[derive(Debug)]
pub(super) struct Access {
    behaviour: &'static Behaviour,
    pub(super) identities: Vec<RegisteredIdentity>,
    tokens: HashMap<String, Token>,
}

impl RegisteredIdentity {
    /// Returns whether too many logins have failed. Attempts during the lock do not extend it.
    fn is_locked(&mut self) -> bool {
        let now = Instant::now();
        let last = self.failed_logins.last().copied();
        let is_locked = self.failed_logins.len() >= MAX_FAILED_LOGINS;
        let kept = if is_locked { LOCK } else { FAILURE_WINDOW };
        if last.is_some_and(|last| now >= last + kept) {
            self.failed_logins.clear();
        }
        self.failed_logins.len() >= MAX_FAILED_LOGINS
    }

    pub(super) fn role(&self, project: &str) -> Option<Role> {
        self.config.roles.get(project).copied()
    }

    pub(super) fn can_read(&self, project: &str, environment: &str, path: &str) -> bool {
        let is_denied = |(e, p): &(String, String)| e == environment && p == path;
        matches!(self.role(project), Some(Role::Admin | Role::Viewer))
            && !self.denied_folders.iter().any(is_denied)
    }
}

impl Access {
    pub(super) fn new(behaviour: &'static Behaviour) -> Self {
        Self {
            behaviour,
            identities: Vec::new(),
            tokens: HashMap::new(),
        }
    }

    pub(super) fn identity_mut(&mut self, id: &str) -> Option<&mut RegisteredIdentity> {
        self.identities
            .iter_mut()
            .find(|identity| identity.id == id)
    }

    pub(super) fn revoke_tokens(&mut self) {
        self.tokens
            .values_mut()
            .for_each(|token| token.revoked = true);
    }

    /// Returns the response to a login with a client id and a client secret.
    pub(super) fn log_in(&mut self, client_id: &str, client_secret: &str) -> FakeResponse {
        let (client_id, client_secret) = (client_id.trim(), client_secret.trim());
        let matches = |identity: &RegisteredIdentity| identity.client_id == client_id;
        let unauthorized = |text| FakeResponse::failure(401, "UnauthorizedError", text);
        let Some(index) = self.identities.iter().position(matches) else {
            if self.behaviour.hides_unknown_clients {
                return unauthorized("Invalid credentials");
            }
            let text = "No identity with specified client ID was found";
            return FakeResponse::failure(404, "NotFound", text);
        };
        let identity = &mut self.identities[index];
        if self.behaviour.locks_out && identity.is_locked() {
            return unauthorized(
                "This identity auth method is temporarily locked, please try again later",
            );
        }
        if identity.client_secret.as_deref() != Some(client_secret) {
            identity.failed_logins.push(Instant::now());
            return unauthorized("Invalid credentials");
        }
        identity.failed_logins.clear();
        match &mut identity.config.secret_uses {
            Some(0) => {
                identity.client_secret = None;
                let text = "Access denied due to client secret usage limit reached";
                return FakeResponse::failure(401, "UnauthorizedError", text);
            }
            Some(uses) => *uses -= 1,
            None => {}
        }
        self.issue_token(index)
    }

    /// Returns the response to a login with a JWT.
    pub(super) fn log_in_with_jwt(
        &mut self,
        method: &str,
        identity: &str,
        jwt: &str,
    ) -> FakeResponse {
        let title = match method {
            "kubernetes-auth" => "Kubernetes",
            "azure-auth" => "Azure",
            "aws-auth" => "AWS",
            "jwt-auth" => "JWT",
            // For OIDC, the real server's message names GCP by mistake.
            _ => "GCP",
        };
        let not_configured = || {
            let end = if title == "Azure" {
                "Azure Auth"
            } else {
                &format!("{title} auth")
            };
            let text =
                format!("{title} auth method not found for identity, did you configure {end}?");
            FakeResponse::failure(404, "NotFound", &text)
        };
        let matches = |registered: &RegisteredIdentity| registered.id == identity;
        let Some(index) = self.identities.iter().position(matches) else {
            return not_configured();
        };
        let accepted: Vec<_> = self.identities[index]
            .accepted_jwts
            .iter()
            .filter(|(m, _)| m == method)
            .collect();
        if accepted.is_empty() {
            return not_configured();
        }
        if accepted.iter().any(|(_, accepted)| accepted == jwt.trim()) {
            return self.issue_token(index);
        }
        match method {
            "kubernetes-auth" => {
                FakeResponse::failure(401, "KubernetesTokenReviewError", "invalid bearer token")
            }
            _ => FakeResponse::failure(401, "UnauthorizedError", "Access denied: issuer mismatch"),
        }
    }

    fn issue_token(&mut self, identity: usize) -> FakeResponse {
        self.issue_token_of_login(identity, Instant::now())
    }

    /// Issues a token that ends at the latest when the maximum lifetime since the login is over.
    fn issue_token_of_login(&mut self, identity: usize, login_at: Instant) -> FakeResponse {
        let config = &self.identities[identity].config;
        let (header, payload, signature) = (random_hex(16), random_hex(64), random_hex(43));
        let token = format!("eyJ{header}.{payload}.{signature}");
        let now = Instant::now();
        let rest = (login_at + config.token_max_ttl).saturating_duration_since(now);
        let lifetime = config.token_ttl.min(rest);
        let response = token_response(config, lifetime, &token);
        let expires_at = now + lifetime;
        self.tokens.insert(
            token,
            Token {
                identity,
                login_at,
                expires_at,
                uses: 0,
                revoked: false,
                scope: None,
            },
        );
        response
    }

    /// Issues a service token with the permissions of an identity.
    pub(super) fn issue_service_token(
        &mut self,
        identity: &str,
        scope: [&str; 3],
    ) -> Option<String> {
        let matches = |registered: &RegisteredIdentity| registered.id == identity;
        let identity = self.identities.iter().position(matches)?;
        let now = Instant::now();
        let token = Token {
            identity,
            login_at: now,
            expires_at: now + self.identities[identity].config.token_ttl,
            uses: 0,
            revoked: false,
            scope: Some(scope.map(str::to_owned)),
        };
        let text = format!("st.{}.{}", random_hex(24), random_hex(32));
        self.tokens.insert(text.clone(), token);
        Some(text)
    }

    /// Returns the project, the environment and the folder of a service token.
    pub(super) fn scope(&self, token: &str) -> Option<&[String; 3]> {
        self.tokens.get(token)?.scope.as_ref()
    }

    /// Returns the response to a renewal. On a server of 2024, a renewal that would end after the maximum
    /// lifetime revokes the token.
    pub(super) fn renew(&mut self, text: &str) -> FakeResponse {
        if let Err(response) = self.check(text, Use::Unlimited) {
            return response;
        }
        let now = Instant::now();
        let token = self.tokens.get_mut(text).unwrap();
        if self.behaviour.renewal_issues_token {
            let (identity, login_at) = (token.identity, token.login_at);
            return self.issue_token_of_login(identity, login_at);
        }
        let config = &self.identities[token.identity].config;
        if now + config.token_ttl >= token.login_at + config.token_max_ttl {
            token.revoked = true;
            let text = "Failed to renew MI access token past its Max TTL expiration";
            return FakeResponse::failure(401, "UnauthorizedError", text);
        }
        token.expires_at = now + config.token_ttl;
        token_response(config, config.token_ttl, text)
    }

    /// Returns the response to a revocation.
    pub(super) fn revoke(&mut self, text: &str) -> FakeResponse {
        if let Err(response) = self.check(text, Use::Unlimited) {
            return response;
        }
        self.tokens.get_mut(text).unwrap().revoked = true;
        FakeResponse::json(
            200,
            serde_json::json!({"message": "Successfully revoked access token"}),
        )
    }

    /// Returns the index of the identity that a token belongs to, or the response to an invalid token.
    pub(super) fn check(&mut self, text: &str, usage: Use) -> Result<usize, FakeResponse> {
        let unauthorized = |text: &str| Err(FakeResponse::failure(401, "UnauthorizedError", text));
        let is_internal = self.behaviour.token_errors_are_internal;
        let malformed = |text: &str| {
            Err(match (is_internal, text) {
                (false, _) => FakeResponse::failure(403, "TokenError", text),
                (true, EXPIRED) => FakeResponse::unhandled_error("jwt expired"),
                (true, MALFORMED) => FakeResponse::unhandled_error("jwt malformed"),
                (true, text) => FakeResponse::unhandled_error(text),
            })
        };
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
                _ => malformed(MALFORMED),
            };
        };
        let config = &self.identities[token.identity].config;
        if now >= token.login_at + config.token_max_ttl {
            return malformed(EXPIRED);
        }
        if token.revoked {
            return unauthorized("No identity access token found");
        }
        if now >= token.expires_at {
            token.revoked = true;
            return unauthorized("Failed to renew MI access token due to TTL expiration");
        }
        if usage == Use::Counted {
            if config.token_uses.is_some_and(|limit| token.uses >= limit) {
                let text = "Unable to renew because access token number of uses limit reached";
                return match is_internal {
                    true => Err(FakeResponse::failure(400, "BadRequest", text)),
                    false => unauthorized(text),
                };
            }
            token.uses += 1;
        }
        Ok(token.identity)
    }
}

const EXPIRED: &str = "Your token has expired. Please re-authenticate.";
const MALFORMED: &str = "The provided access token is malformed. Please use a valid token or generate a new \
     one and try again.";

/// Whether a request counts against the usage limit of its token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    Counted,
    Unlimited,
}

fn token_response(config: &Identity, lifetime: Duration, token: &str) -> FakeResponse {
    FakeResponse::json(
        200,
        serde_json::json!({
            "accessToken": token,
            "expiresIn": lifetime.as_secs(),
            "accessTokenMaxTTL": config.token_max_ttl.as_secs(),
            "tokenType": "Bearer",
        }),
    )
}

/// Returns this number of random hexadecimal digits.
pub(super) fn random_hex(digits: usize) -> String {
    (0..digits).map(|_| fastrand::digit(16)).collect()
}
