//! What no token may do, and what each may.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use secretwell_core::{MemoryProvider, SecretValue};
use secretwell_resolver::Resolver;
use serde_json::{Map, Value, json};

use super::*;
use crate::{BuildContext, LazyAuth};

fn ring() -> KeyRing {
    KeyRing::new("the secret of the tests, long enough")
}

fn both() -> [SessionTokens; 2] {
    [
        SessionTokens::v5("authjs.session-token", &ring()).unwrap(),
        SessionTokens::v4(&ring()).unwrap(),
    ]
}

const HOUR: Duration = Duration::from_secs(60 * 60);

proptest! {
    #[test]
    fn what_is_encoded_is_decoded(claims in claims()) {
        for tokens in both() {
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
    fn nothing_that_anybody_writes_is_a_token(text in any::<Vec<u8>>(), parts in "[A-Za-z0-9_.=+-]{0,200}") {
        for tokens in both() {
            for text in [&*String::from_utf8_lossy(&text), &parts] {
                prop_assert!(tokens.decode::<Value>(text).is_err());
            }
        }
    }

    #[test]
    fn no_change_of_a_header_passes(header in claims()) {
        use base64::Engine;
        use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;

        for tokens in both() {
            let token = tokens.encode(&json!({}), HOUR).unwrap();
            let (before, rest) = token.split_once('.').unwrap();
            let mut changed: Map<String, Value> =
                serde_json::from_slice(&BASE64.decode(before).unwrap()).unwrap();
            changed.extend(header.clone());
            let changed = BASE64.encode(serde_json::to_vec(&changed).unwrap());
            let judged = tokens.decode::<Value>(&format!("{changed}.{rest}"));
            prop_assert!(judged.is_err() || changed == before);
        }
    }
}

/// Claims without those about time, which are ours to say.
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
fn what_it_says_of_its_times_is_ours_to_say() {
    for tokens in both() {
        let claims = json!({"exp": 1, "jti": "mine"});
        let token = tokens.encode(&claims, HOUR).unwrap();
        let session = tokens.decode::<Map<String, Value>>(&token).unwrap();
        assert_ne!(session.claims["jti"], "mine");
        assert!(tokens.encode(&json!("no object"), HOUR).is_err());
    }
}

#[test]
fn times_beyond_2038_are_times() {
    let late = UNIX_EPOCH + Duration::from_secs(2_147_483_649);
    for tokens in both() {
        let token = tokens.encode_at(&json!({}), HOUR, late).unwrap();
        let session = tokens.decode_at::<Value>(&token, late).unwrap();
        assert_eq!(session.expires, Some(late + HOUR));
        let over = tokens.decode_at::<Value>(&token, late + HOUR + Duration::from_secs(15));
        assert_eq!(over.unwrap_err(), TokenError::Expired);
    }
}

#[test]
fn a_rotation_leaves_the_tokens_of_before_good() {
    let (old, new) = (
        "an old secret, long enough for it",
        "a new secret, long enough for it",
    );
    let before = SessionTokens::v5("session", &KeyRing::new(old)).unwrap();
    let after = SessionTokens::v5("session", &KeyRing::new(new).with_previous(old)).unwrap();
    let token = before.encode(&json!({"sub": "1"}), HOUR).unwrap();
    assert!(after.decode::<Value>(&token).is_ok());
    let renewed = after.encode(&json!({"sub": "1"}), HOUR).unwrap();
    assert_eq!(
        before.decode::<Value>(&renewed).unwrap_err(),
        TokenError::Forged
    );
    let revoked = SessionTokens::v5("session", &KeyRing::new(new)).unwrap();
    assert_eq!(
        revoked.decode::<Value>(&token).unwrap_err(),
        TokenError::Forged
    );
    assert!(revoked.decode::<Value>(&renewed).is_ok());
}

#[test]
fn no_change_of_a_single_bit_passes() {
    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;

    for tokens in both() {
        let token = tokens.encode(&json!({"sub": "42"}), HOUR).unwrap();
        let parts: Vec<Vec<u8>> = token
            .split('.')
            .map(|part| BASE64.decode(part).unwrap())
            .collect();
        for (place, part) in parts.iter().enumerate() {
            for bit in 0..part.len() * 8 {
                let mut changed = parts.clone();
                changed[place][bit / 8] ^= 1 << (bit % 8);
                let changed: Vec<String> = changed.iter().map(|part| BASE64.encode(part)).collect();
                let judged = tokens.decode::<Value>(&changed.join("."));
                assert!(judged.is_err(), "bit {bit} of part {place}");
            }
        }
    }
}

#[test]
fn no_part_of_a_token_is_a_token() {
    for tokens in both() {
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

/// Whoever could tell bad padding from a bad tag could read a token without its key.
#[test]
fn nothing_is_decrypted_before_its_tag_is_right_and_bad_padding_is_told_to_nobody() {
    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;

    let [tokens, _] = both();
    let token = tokens.encode(&json!({"sub": "42"}), HOUR).unwrap();
    let parts: Vec<&str> = token.split('.').collect();
    let iv = BASE64.decode(parts[2]).unwrap();
    let text = BASE64.decode(parts[3]).unwrap();
    let judge = |text: &[u8], tag: &[u8]| {
        let before = jwe::DECRYPTIONS.get();
        let [text, tag] = [text, tag].map(|part| BASE64.encode(part));
        let changed = format!("{}..{}.{text}.{tag}", parts[0], parts[2]);
        let error = tokens.decode::<Value>(&changed).unwrap_err();
        (error, jwe::DECRYPTIONS.get() - before)
    };
    let tag = |text: &[u8]| {
        let keys = Keys::of(&ring(), Format::V5, "authjs.session-token").unwrap();
        jwe::cbc_tag(&keys[0], parts[0], &iv, text).unwrap()
    };
    let half_a_block = &text[..text.len() - 8];
    let mut bad_padding = text.clone();
    *bad_padding.last_mut().unwrap() ^= 1;
    for text in [&text, half_a_block, &bad_padding, &[]] {
        assert_eq!(judge(text, &[0; 32]), (TokenError::Forged, 0));
        assert_eq!(judge(text, &tag(text)[..31]), (TokenError::Forged, 0));
    }
    for text in [half_a_block, &bad_padding, &[]] {
        assert_eq!(judge(text, &tag(text)), (TokenError::Forged, 1));
    }
}

#[test]
fn nothing_shows_a_key() {
    let secret = "the secret of the tests, long enough";
    let shown = format!("{:?} {:?}", both(), TokenError::Forged);
    assert!(!shown.contains(secret), "{shown}");
    let keys = Keys::of(&ring(), Format::V4, "").unwrap();
    let key: String = keys[0].gcm.iter().map(|byte| format!("{byte}, ")).collect();
    assert!(!shown.contains(key.trim_end_matches(", ")), "{shown}");
}

#[test]
fn a_csrf_cookie_of_any_list_that_the_packages_had_counts() {
    let secrets = ["three", "two", "one", "zero"];
    let ring = KeyRing::merge(secrets.map(KeyRing::new)).unwrap();
    let tokens = CsrfTokens::new(&ring);
    let cookie_of = |list: &str| CsrfTokens::new(&KeyRing::new(list)).generate().unwrap();
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
        let (token, cookie) = cookie_of(list);
        assert_eq!(tokens.verify_post(&cookie, Some(&token)), status, "{list}");
    }
}

#[test]
fn a_csrf_cookie_of_a_long_list_counts() {
    let secrets = ["five", "four", "three", "two", "one"];
    let ring = KeyRing::merge(secrets.map(KeyRing::new)).unwrap();
    let (token, cookie) = CsrfTokens::new(&KeyRing::new("five,four,three,two,one"))
        .generate()
        .unwrap();
    for tokens in [CsrfTokens::new(&ring), CsrfTokens::new(&ring).list_only()] {
        assert_eq!(tokens.verify_post(&cookie, Some(&token)), Csrf::Verified);
    }
}

/// The packages' list begins with the secret that they sign with.
#[tokio::test(start_paused = true)]
async fn a_csrf_cookie_of_a_staged_rotation_counts_and_is_made_as_the_packages_do() {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "SCREAMING_SNAKE_CASE")]
    #[expect(dead_code, reason = "the ring is what the test looks at")]
    struct Secrets {
        auth_secret: String,
    }
    let memory = MemoryProvider::from_iter([("AUTH_SECRET", "old")]);
    let auth = LazyAuth::new(
        Resolver::new(memory.clone()),
        |_: Secrets, context: BuildContext| async move { Ok(SecretOrder::AuthCore.ring(&context)?) },
    );
    auth.get().await.unwrap();
    memory.set("AUTH_SECRET", "new").unwrap();
    let ring = auth.rebuild().await.unwrap();
    let newest = ring.iter().next().unwrap();
    assert_ne!(newest, ring.primary(), "the new one waits");

    let list_only = CsrfTokens::new(&ring).list_only();
    let of_list = |list: &str| CsrfTokens::new(&KeyRing::new(list));
    for list in ["old,new", "new,old"] {
        let (token, cookie) = of_list(list).generate().unwrap();
        for tokens in [&CsrfTokens::new(&ring), &list_only] {
            assert_eq!(tokens.verify_post(&cookie, Some(&token)), Csrf::Verified);
        }
    }
    let (token, cookie) = list_only.generate().unwrap();
    let theirs = of_list("old,new").verify_post(&cookie, Some(&token));
    assert_eq!(theirs, Csrf::Verified);
}

#[test]
fn an_empty_csrf_token_is_one_as_with_the_packages() {
    use sha2::{Digest, Sha256};

    let tokens = CsrfTokens::new(&KeyRing::new("secret"));
    let cookie = format!("|{}", hex(&Sha256::digest("secret")));
    assert_eq!(tokens.verify_post(&cookie, Some("")), Csrf::Verified);
    assert_eq!(tokens.verify_post(&cookie, None), Csrf::CookieOnly);
    assert_eq!(tokens.verify_post("|", Some("")), Csrf::Rejected);
}

#[test]
fn a_csrf_cookie_is_named_written_and_found_as_by_the_packages() {
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
            CsrfCookie::v5(Scheme::Http).with_name("__Secure-csrf"),
            "__Secure-csrf",
            "; Secure",
        ),
    ] {
        assert_eq!(cookie.name(), name);
        assert_eq!(
            cookie.set("a|b"),
            format!("{name}=a%7Cb; Path=/; HttpOnly{secure}; SameSite=Lax")
        );
        for value in ["a%7Cb", "a%7cb", "a|b"] {
            let header = format!("x=y; {name}={value}; {name}=c%7Cd");
            assert_eq!(cookie.find(&header).as_deref(), Some("a|b"));
        }
        assert_eq!(cookie.find(&format!("{name}=; x{name}=a")), None);
    }
}

#[tokio::test]
async fn the_orders_of_the_secrets_are_those_of_the_packages() {
    use SecretOrder::{AuthCore, NextAuth4, NextAuth5};

    #[derive(serde::Deserialize)]
    #[serde(rename_all = "SCREAMING_SNAKE_CASE")]
    #[expect(dead_code, reason = "the ring is what the test looks at")]
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
        (&vec![("AUTH_SECRET", ""), NEXT], NextAuth5, Some("next")),
    ] {
        let memory = MemoryProvider::from_iter(secrets.iter().copied());
        let auth = LazyAuth::new(
            Resolver::new(memory),
            move |_: Secrets, context: BuildContext| async move { Ok(order.ring(&context)?) },
        );
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
