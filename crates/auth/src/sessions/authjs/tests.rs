//! Properties that must apply to every token, and tests of CSRF tokens and secret orders.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hkdf::Hkdf;
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use secretwell_core::{MemoryProvider, SecretValue};
use secretwell_resolver::Resolver;
use serde_json::{Map, Value, json};
use sha2::Sha256;

use super::*;
use crate::hex::hex;
use crate::sessions::keys::{Format, Keys};
use crate::sessions::{Scheme, TokenError, jwe};
use crate::{BuildContext, KeyRing, LazyAuth, Mode};

fn ring() -> KeyRing {
    KeyRing::new("the secret of the tests, long enough").unwrap()
}

fn both_versions() -> [SessionTokens; 2] {
    [
        SessionTokens::v5("authjs.session-token", &ring()).unwrap(),
        SessionTokens::v4(&ring()).unwrap(),
    ]
}

const HOUR: Duration = Duration::from_secs(60 * 60);

proptest! {
    #[test]
    fn encoded_claims_are_decoded(claims in claims()) {
        for tokens in both_versions() {
            let now = SystemTime::now();
            let token = tokens.encode_at(&claims, HOUR, now).unwrap();
            let session = tokens.decode_at::<Map<String, Value>>(&token, now).unwrap();
            for (name, value) in &claims {
                prop_assert_eq!(session.claims.get(name), Some(value));
            }
            let left = session.expires.unwrap().duration_since(now).unwrap();
            prop_assert!(left <= HOUR && left > HOUR - Duration::from_secs(2), "{:?}", left);
        }
    }

    #[test]
    fn arbitrary_text_is_rejected(text in any::<Vec<u8>>(), parts in "[A-Za-z0-9_.=+-]{0,200}") {
        for tokens in both_versions() {
            for text in [&*String::from_utf8_lossy(&text), &parts] {
                prop_assert!(tokens.decode::<Value>(text).is_err());
            }
        }
    }

    #[test]
    fn token_with_changed_header_is_rejected(header in claims()) {
        use base64::Engine;
        use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;

        for tokens in both_versions() {
            let token = tokens.encode(&json!({}), HOUR).unwrap();
            let (original, rest) = token.split_once('.').unwrap();
            let mut changed: Map<String, Value> =
                serde_json::from_slice(&BASE64.decode(original).unwrap()).unwrap();
            changed.extend(header.clone());
            let changed = BASE64.encode(serde_json::to_vec(&changed).unwrap());
            let decoded = tokens.decode::<Value>(&format!("{changed}.{rest}"));
            prop_assert!(decoded.is_err() || changed == original);
        }
    }
}

/// Generates claims whose names do not clash with `iat`, `exp`, `nbf` and `jti`.
fn claims() -> impl Strategy<Value = Map<String, Value>> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
        "x{3000,9000}".prop_map(Value::from),
    ];
    let value = leaf.prop_recursive(4, 16, 4, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Value::from),
            btree_map(any::<String>(), inner, 0..4).prop_map(|map| map.into_iter().collect()),
        ]
    });
    let claims = btree_map("[^eijn].{0,20}", value, 0..6);
    claims.prop_map(|map| map.into_iter().collect())
}

#[test]
fn given_times_and_ids_are_overwritten() {
    for tokens in both_versions() {
        let claims = json!({"exp": 1, "jti": "given"});
        let token = tokens.encode(&claims, HOUR).unwrap();
        let session = tokens.decode::<Map<String, Value>>(&token).unwrap();
        assert_ne!(session.claims["jti"], "given");
        assert!(tokens.encode(&json!("not an object"), HOUR).is_err());
    }
}

#[test]
fn times_after_2038_are_supported() {
    let late = UNIX_EPOCH + Duration::from_secs(2_147_483_649);
    for tokens in both_versions() {
        let token = tokens.encode_at(&json!({}), HOUR, late).unwrap();
        let session = tokens.decode_at::<Value>(&token, late).unwrap();
        assert_eq!(session.expires, Some(late + HOUR));
        let expired = tokens.decode_at::<Value>(&token, late + HOUR + Duration::from_secs(15));
        assert_eq!(expired.unwrap_err(), TokenError::Expired);
    }
}

#[test]
fn tokens_remain_valid_after_a_rotation() {
    let (old, new) = (
        "an old secret, long enough for it",
        "a new secret, long enough for it",
    );
    let before = SessionTokens::v5("session", &KeyRing::new(old).unwrap()).unwrap();
    let after = SessionTokens::v5(
        "session",
        &KeyRing::new(new).unwrap().with_previous(old).unwrap(),
    )
    .unwrap();
    let token = before.encode(&json!({"sub": "1"}), HOUR).unwrap();
    assert!(after.decode::<Value>(&token).is_ok());
    let renewed = after.encode(&json!({"sub": "1"}), HOUR).unwrap();
    assert_eq!(
        before.decode::<Value>(&renewed).unwrap_err(),
        TokenError::UnknownKey
    );
    let revoked = SessionTokens::v5("session", &KeyRing::new(new).unwrap()).unwrap();
    assert_eq!(
        revoked.decode::<Value>(&token).unwrap_err(),
        TokenError::UnknownKey
    );
    assert!(revoked.decode::<Value>(&renewed).is_ok());
}

#[test]
fn token_with_one_changed_bit_is_rejected() {
    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;

    for tokens in both_versions() {
        let token = tokens.encode(&json!({"sub": "42"}), HOUR).unwrap();
        let parts: Vec<Vec<u8>> = token
            .split('.')
            .map(|part| BASE64.decode(part).unwrap())
            .collect();
        for (index, part) in parts.iter().enumerate() {
            for bit in 0..part.len() * 8 {
                let mut changed = parts.clone();
                changed[index][bit / 8] ^= 1 << (bit % 8);
                let changed: Vec<String> = changed.iter().map(|part| BASE64.encode(part)).collect();
                let decoded = tokens.decode::<Value>(&changed.join("."));
                assert!(decoded.is_err(), "bit {bit} of part {index}");
            }
        }
    }
}

#[test]
fn truncated_or_oversized_token_is_rejected() {
    for tokens in both_versions() {
        let token = tokens.encode(&json!({"sub": "42"}), HOUR).unwrap();
        for length in 0..token.len() {
            assert!(tokens.decode::<Value>(&token[..length]).is_err());
        }
        let huge = format!("{}.", "A".repeat(1_000_000));
        assert_eq!(
            tokens.decode::<Value>(&huge).unwrap_err(),
            TokenError::Malformed
        );
    }
}

/// If the error revealed invalid padding, an attacker could decrypt a token without its key (padding
/// oracle).
#[test]
fn tag_is_checked_before_decryption_and_invalid_padding_is_not_reported() {
    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;

    let [tokens, _] = both_versions();
    let token = tokens.encode(&json!({"sub": "42"}), HOUR).unwrap();
    let parts: Vec<&str> = token.split('.').collect();
    let iv = BASE64.decode(parts[2]).unwrap();
    let text = BASE64.decode(parts[3]).unwrap();
    let decode = |text: &[u8], tag: &[u8]| {
        let before = jwe::DECRYPTIONS.get();
        let [text, tag] = [text, tag].map(|part| BASE64.encode(part));
        let changed = format!("{}..{}.{text}.{tag}", parts[0], parts[2]);
        let error = tokens.decode::<Value>(&changed).unwrap_err();
        (error, jwe::DECRYPTIONS.get() - before)
    };
    let tag = |text: &[u8]| {
        let keys = Keys::derive_all(&ring(), Format::V5, "authjs.session-token").unwrap();
        jwe::cbc_tag(&keys[0], parts[0], &iv, text).unwrap()
    };
    let partial_block = &text[..text.len() - 8];
    let mut bad_padding = text.clone();
    *bad_padding.last_mut().unwrap() ^= 1;
    for text in [&text, partial_block, &bad_padding, &[]] {
        assert_eq!(decode(text, &[0; 32]), (TokenError::Forged, 0));
        assert_eq!(decode(text, &tag(text)[..31]), (TokenError::Forged, 0));
    }
    for text in [partial_block, &bad_padding, &[]] {
        assert_eq!(decode(text, &tag(text)), (TokenError::Forged, 1));
    }
}

#[test]
fn debug_output_contains_no_key() {
    let secret = "the secret of the tests, long enough";
    let output = format!("{:?} {:?}", both_versions(), TokenError::Forged);
    assert!(!output.contains(secret), "{output}");
    let mut key = [0_u8; 32];
    let info = b"NextAuth.js Generated Encryption Key";
    let derivation = Hkdf::<Sha256>::new(None, secret.as_bytes());
    derivation.expand(info, &mut key).unwrap();
    let key: String = key.iter().map(|byte| format!("{byte}, ")).collect();
    assert!(!output.contains(key.trim_end_matches(", ")), "{output}");
}

#[test]
fn csrf_cookie_of_consecutive_secrets_is_accepted() {
    let secrets = ["three", "two", "one", "zero"];
    let ring = KeyRing::merge(secrets.map(|secret| KeyRing::new(secret).unwrap())).unwrap();
    let tokens = CsrfTokens::new(&ring);
    let generate = |list: &str| {
        CsrfTokens::new(&KeyRing::new(list).unwrap())
            .generate()
            .unwrap()
    };
    for (list, status) in [
        ("three", Csrf::Verified),
        ("zero", Csrf::Verified),
        ("one,zero", Csrf::Verified),
        ("two,one,zero", Csrf::Verified),
        ("three,two,one,zero", Csrf::Verified),
        ("three,two", Csrf::Verified),
        ("zero,one", Csrf::Rejected),
        ("three,one", Csrf::Rejected),
    ] {
        let (token, cookie) = generate(list);
        assert_eq!(tokens.verify_post(&cookie, Some(&token)), status, "{list}");
    }
}

#[test]
fn csrf_cookie_of_a_long_list_is_accepted() {
    let secrets = ["five", "four", "three", "two", "one"];
    let ring = KeyRing::merge(secrets.map(|secret| KeyRing::new(secret).unwrap())).unwrap();
    let (token, cookie) = CsrfTokens::new(&KeyRing::new("five,four,three,two,one").unwrap())
        .generate()
        .unwrap();
    for tokens in [
        CsrfTokens::new(&ring),
        CsrfTokens::new(&ring).whole_list_only(),
    ] {
        assert_eq!(tokens.verify_post(&cookie, Some(&token)), Csrf::Verified);
    }
}

/// In the list of secrets that a package is configured with, the first secret signs.
#[tokio::test(start_paused = true)]
async fn csrf_cookies_match_the_packages_during_the_activation_delay() {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "SCREAMING_SNAKE_CASE")]
    #[expect(dead_code, reason = "the test reads the secrets from the key ring")]
    struct Secrets {
        auth_secret: String,
    }
    let memory = MemoryProvider::from_iter([("AUTH_SECRET", "old")]);
    // The secrets are shorter than production requires.
    let auth = LazyAuth::builder(Resolver::new(memory.clone()))
        .mode(Mode::Development)
        .build(|_: Secrets, context: BuildContext| async move {
            Ok(SecretOrder::AuthCore.key_ring(&context)?)
        });
    auth.get().await.unwrap();
    memory.set("AUTH_SECRET", "new").unwrap();
    let ring = auth.rebuild().await.unwrap();
    let newest = ring.iter().next().unwrap();
    assert_ne!(
        newest,
        ring.primary(),
        "the new secret must not sign during the activation delay"
    );

    let whole_list_only = CsrfTokens::new(&ring).whole_list_only();
    let tokens_of = |list: &str| CsrfTokens::new(&KeyRing::new(list).unwrap());
    for list in ["old,new", "new,old"] {
        let (token, cookie) = tokens_of(list).generate().unwrap();
        for tokens in [&CsrfTokens::new(&ring), &whole_list_only] {
            assert_eq!(tokens.verify_post(&cookie, Some(&token)), Csrf::Verified);
        }
    }
    let (token, cookie) = whole_list_only.generate().unwrap();
    let status = tokens_of("old,new").verify_post(&cookie, Some(&token));
    assert_eq!(status, Csrf::Verified);
}

#[test]
fn empty_csrf_token_is_accepted_as_by_the_packages() {
    use sha2::{Digest, Sha256};

    let tokens = CsrfTokens::new(&KeyRing::new("secret").unwrap());
    let cookie = format!("|{}", hex(&Sha256::digest("secret")));
    assert_eq!(tokens.verify_post(&cookie, Some("")), Csrf::Verified);
    assert_eq!(tokens.verify_post(&cookie, None), Csrf::CookieOnly);
    assert_eq!(tokens.verify_post("|", Some("")), Csrf::Rejected);
}

#[test]
fn csrf_cookie_has_the_name_and_format_of_the_packages() {
    for (cookie, name, secure) in [
        (CsrfCookie::v5(Scheme::Http), "authjs.csrf-token", ""),
        (
            CsrfCookie::v5(Scheme::Https),
            "__Host-authjs.csrf-token",
            "; Secure",
        ),
        (CsrfCookie::v4(Scheme::Http), "next-auth.csrf-token", ""),
        (
            CsrfCookie::v4(Scheme::Https),
            "__Host-next-auth.csrf-token",
            "; Secure",
        ),
        (
            CsrfCookie::v5(Scheme::Http)
                .with_name("__Secure-csrf")
                .unwrap(),
            "__Secure-csrf",
            "; Secure",
        ),
    ] {
        assert_eq!(cookie.name(), name);
        assert_eq!(
            cookie.set("a|b"),
            format!("{name}=a%7Cb; Path=/; HttpOnly; SameSite=Lax{secure}")
        );
        for value in ["a%7Cb", "a%7cb", "a|b"] {
            let header = format!("x=y; {name}={value}; {name}=c%7Cd");
            assert_eq!(cookie.find(&header).as_deref(), Some("a|b"));
        }
        assert_eq!(cookie.find(&format!("{name}=; x{name}=a")), None);
    }
}

#[tokio::test]
async fn secret_orders_match_the_packages() {
    use SecretOrder::{AuthCore, NextAuth4, NextAuth5};

    #[derive(serde::Deserialize)]
    #[serde(rename_all = "SCREAMING_SNAKE_CASE")]
    #[expect(dead_code, reason = "the test reads the secrets from the key ring")]
    struct Secrets {
        auth_secret: Option<String>,
        auth_secret_1: Option<String>,
        auth_secret_2: Option<String>,
        auth_secret_3: Option<String>,
        nextauth_secret: Option<String>,
    }
    const NUMBERED: [(&str, &str); 3] = [
        ("AUTH_SECRET_1", "one"),
        ("AUTH_SECRET_2", "two"),
        ("AUTH_SECRET_3", "three"),
    ];
    const BASE: (&str, &str) = ("AUTH_SECRET", "base");
    const NEXT: (&str, &str) = ("NEXTAUTH_SECRET", "next");
    let all = [NUMBERED.to_vec(), vec![BASE, NEXT]].concat();
    for (secrets, order, expected) in [
        (&all, AuthCore, Some("three,two,one,base")),
        (&all, NextAuth5, Some("base")),
        (&all, NextAuth4, Some("next")),
        (&NUMBERED.to_vec(), AuthCore, Some("three,two,one")),
        (&NUMBERED.to_vec(), NextAuth5, Some("three,two,one")),
        (&NUMBERED.to_vec(), NextAuth4, None),
        (&vec![NEXT], AuthCore, None),
        (&vec![NEXT], NextAuth5, Some("next")),
        (&vec![BASE], NextAuth4, Some("base")),
        // An empty secret is an error. Only the provider of variables reports an empty value as absent.
        (&vec![("AUTH_SECRET", ""), NEXT], NextAuth5, None),
    ] {
        let memory = MemoryProvider::from_iter(secrets.iter().copied());
        let auth = LazyAuth::builder(Resolver::new(memory))
            .mode(Mode::Development)
            .build(move |_: Secrets, context: BuildContext| async move {
                Ok(order.key_ring(&context)?)
            });
        let ring = auth.get().await;
        let text = |value: &SecretValue| value.expose_text().unwrap().to_owned();
        let found = ring.map(|ring| {
            let all: Vec<_> = ring.iter().map(text).collect();
            assert_eq!(text(ring.primary()), all[0]);
            all.join(",")
        });
        assert_eq!(found.as_deref().ok(), expected, "{order:?} of {secrets:?}");
    }
}
