//! A small service whose users log in with a token that an `AUTH_SECRET` signs.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use axum::extract::Extension;
use axum::routing::{get, post};
use axum::{Json, Router};
use http::header::AUTHORIZATION;
use http::request::Parts;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation, decode, encode};
use secretwell::auth::{
    Answer, Auth, BuildContext, BuildError, LazyAuth, LazyAuthBuilder, Principal,
};
use secretwell::{SecretString, SecretValue};
use serde::{Deserialize, Serialize};

/// The secrets that the service needs. The field's name is the key.
#[derive(Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(crate) struct Secrets {
    #[expect(
        dead_code,
        reason = "the key ring holds it, together with those before it"
    )]
    auth_secret: SecretString,
}

/// What is built from them: signs tokens and verifies them.
pub(crate) struct Tokens {
    signing: EncodingKey,
    verifying: Vec<DecodingKey>,
}

#[derive(Serialize, Deserialize)]
struct Claims {
    sub: String,
    exp: u64,
}

impl Tokens {
    pub(crate) fn new(context: &BuildContext) -> Result<Self, BuildError> {
        let ring = context.key_ring("AUTH_SECRET")?;
        let decoding = |secret: &SecretValue| DecodingKey::from_secret(secret.expose_bytes());
        Ok(Self {
            signing: EncodingKey::from_secret(ring.signing().expose_bytes()),
            verifying: ring.verifying().map(decoding).collect(),
        })
    }

    pub(crate) fn issue(&self, user: &str) -> Result<String, jsonwebtoken::errors::Error> {
        let in_an_hour = SystemTime::now() + Duration::from_secs(3600);
        let exp = in_an_hour
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default()
            .as_secs();
        encode(
            &Header::new(Algorithm::HS256),
            &Claims {
                sub: user.to_owned(),
                exp,
            },
            &self.signing,
        )
    }

    fn user(&self, token: &str) -> Option<String> {
        let rules = Validation::new(Algorithm::HS256);
        let claims = self
            .verifying
            .iter()
            .find_map(|key| decode::<Claims>(token, key, &rules).ok())?;
        Some(claims.claims.sub)
    }
}

/// A user who showed a good token.
#[derive(Serialize)]
pub(crate) struct User {
    name: String,
}

impl Principal for User {
    type Authenticator = Tokens;

    fn authenticate(tokens: &Tokens, request: &Parts) -> Option<Self> {
        let header = request.headers.get(AUTHORIZATION)?.to_str().ok()?;
        tokens
            .user(header.strip_prefix("Bearer ")?)
            .map(|name| Self { name })
    }
}

async fn me(Auth(user): Auth<User>) -> Json<User> {
    Json(user)
}

/// Hands a token to anybody: logging in is not what this example is about.
async fn login(Extension(auth): Extension<LazyAuth<Tokens>>) -> Result<String, Answer> {
    let tokens = auth.get().await.map_err(|failure| Answer::from(&failure))?;
    tokens.issue("ada").map_err(|_| Answer::misconfigured())
}

/// The auth, not built yet, and the count of its builds.
pub(crate) fn auth(builder: LazyAuthBuilder) -> (LazyAuth<Tokens>, Arc<AtomicUsize>) {
    let builds = Arc::new(AtomicUsize::new(0));
    let count = builds.clone();
    let auth = builder.build(move |_: Secrets, context| {
        count.fetch_add(1, Ordering::SeqCst);
        async move { Tokens::new(&context) }
    });
    (auth, builds)
}

pub(crate) fn router(auth: &LazyAuth<Tokens>) -> Router {
    Router::new()
        .route("/me", get(me))
        .route("/login", post(login))
        .layer(auth.layer())
}
