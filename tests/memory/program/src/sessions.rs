//! Sessions of Auth.js and Better Auth. The name of the user is the text that the tests search for.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use secretwell::auth::KeyRing;
use secretwell::auth::sessions::Scheme;
use secretwell::auth::sessions::authjs::{Session, SessionCookie, Sessions};
use secretwell::auth::sessions::betterauth::{
    self, BetterAuthSecrets, CacheStrategy, SessionCache, SessionRow, TokenSigner,
};
use secretwell::{ExposeSecret, Resolver, SecretProvider, SecretString};
use serde::{Deserialize, Serialize, Serializer};

use crate::{KEY, step};

const HOUR: Duration = Duration::from_secs(60 * 60);

/// Claims whose text the program wipes itself.
#[derive(Deserialize, Serialize)]
struct User {
    id: String,
    email: String,
    #[serde(serialize_with = "expose")]
    name: SecretString,
    /// A long text, for which buffers grow.
    biography: String,
}

fn expose<S: Serializer>(text: &SecretString, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(text.expose_secret())
}

/// Decodes the token in `cookies`, and encodes its claims again.
pub(crate) async fn authjs(provider: Arc<dyn SecretProvider>, cookies: &str) {
    let secret = Resolver::new(provider).get(KEY).await.unwrap().value;
    let ring = KeyRing::new(secret).unwrap();
    let sessions = Sessions::new(SessionCookie::v5(Scheme::Http), &ring).unwrap();
    drop(ring);
    let mut found = Vec::new();
    for _ in 0..20 {
        let session: Session<User> = sessions.find(cookies).unwrap().unwrap();
        let started = sessions.start(&session.claims, "").unwrap();
        let renewed = sessions.renew(cookies, 100 * HOUR).unwrap();
        let csrf = sessions.csrf_token("").unwrap();
        found.push((session, started, renewed, csrf));
    }
    step("alive");
    drop(found);
    step("claims dropped");
    drop(sessions);
    step("dropped");
}

/// Decodes the cache `cache` in the strategy `jwe`, and encodes its content again.
pub(crate) async fn betterauth(provider: Arc<dyn SecretProvider>, cache: &str) {
    let secret = Resolver::new(provider).get(KEY).await.unwrap().value;
    let secrets = BetterAuthSecrets::new(secret).unwrap();
    let caches = SessionCache::new(CacheStrategy::Jwe, &secrets).unwrap();
    let tokens = TokenSigner::new(&secrets).unwrap();
    drop(secrets);
    let signed = tokens.sign("token of the session").unwrap();
    let token = tokens.verify(signed.expose()).unwrap();
    let mut found = Vec::new();
    for _ in 0..20 {
        let session: betterauth::CachedSession<User> = caches.decode(cache, &token).unwrap();
        let row = SessionRow::new("1", "2", "token of the session", SystemTime::now() + HOUR);
        let encoded = caches.encode(&row, &session.user, HOUR).unwrap();
        let renewed = caches.refresh(cache, &token, HOUR).unwrap();
        found.push((session, encoded, renewed));
    }
    step("alive");
    drop(found);
    step("claims dropped");
    drop((caches, tokens));
    step("dropped");
}
