//! Properties that must apply to every signed token and every cache.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE, URL_SAFE_NO_PAD};
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::mac::COMPARISONS;
use super::*;
use crate::sessions::{TokenError, jwe};

const SECRET: &str = "the secret of the tests: long enough";
const PREVIOUS: &str = "the previous secret: long enough too";
const TOKEN: &str = "tOkEnAbCdEfGhIjKlMnOpQrStUvWx0123";
const MINUTES: Duration = Duration::from_secs(5 * 60);
const WEEK: Duration = Duration::from_secs(7 * 24 * 60 * 60);
const STRATEGIES: [CacheStrategy; 3] = [
    CacheStrategy::Compact,
    CacheStrategy::Jwt,
    CacheStrategy::Jwe,
];

fn secrets() -> BetterAuthSecrets {
    BetterAuthSecrets::new(SECRET).unwrap()
}

fn rotated() -> BetterAuthSecrets {
    let list = format!("2:{SECRET},1:{PREVIOUS}");
    BetterAuthSecrets::from_list(list).unwrap()
}

fn signer(secrets: &BetterAuthSecrets) -> TokenSigner {
    TokenSigner::new(secrets).unwrap()
}

fn verified(token: &str) -> VerifiedToken {
    let signer = signer(&secrets());
    signer.verify(signer.sign(token).unwrap().expose()).unwrap()
}

fn caches(secrets: &BetterAuthSecrets) -> [SessionCache; 3] {
    STRATEGIES.map(|strategy| SessionCache::new(strategy, secrets).unwrap())
}

fn row(now: SystemTime) -> SessionRow {
    SessionRow::new("session-1", "user-1", TOKEN, now + WEEK)
}

fn ada() -> Value {
    json!({"id": "user-1", "email": "ada@example.test", "name": "Ada"})
}

fn error(result: Result<CachedSession<Value>, TokenError>) -> TokenError {
    result.map(|_| ()).unwrap_err()
}

/// Generates the further fields of a user or a session.
fn fields() -> impl Strategy<Value = Map<String, Value>> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (-(1i64 << 53) + 1..1 << 53).prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
        "[0-9]{4}-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-5][0-9]:[0-5][0-9]Z".prop_map(Value::from),
        "x{3000,5000}".prop_map(Value::from),
    ];
    let value = leaf.prop_recursive(3, 12, 3, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..3).prop_map(Value::from),
            btree_map("[a-z0-9]{0,3}|[^a-z]{1,5}", inner, 0..4)
                .prop_map(|map| map.into_iter().collect()),
        ]
    });
    let fields = btree_map("x[a-zA-Z0-9]{0,8}|[0-9]{1,3}", value, 0..5);
    fields.prop_map(|map| map.into_iter().collect())
}

proptest! {
    #[test]
    fn signed_token_is_verified(token in "[^.]{1,40}(\\.[^.]{0,9}){0,2}", other in "[ -~]{32,50}") {
        let signer = signer(&secrets());
        let signed = signer.sign(&token).unwrap();
        let verified = signer.verify(signed.expose()).unwrap();
        prop_assert_eq!(verified.expose(), &token);
        prop_assert!(!verified.has_previous_signature());

        let other = TokenSigner::new(&BetterAuthSecrets::new(other).unwrap()).unwrap();
        prop_assert_eq!(other.verify(signed.expose()).unwrap_err(), TokenError::UnknownKey);
    }

    #[test]
    fn arbitrary_text_is_neither_a_token_nor_a_cache(
        bytes in any::<Vec<u8>>(),
        parts in "[A-Za-z0-9_.=+/{}\":,-]{0,200}",
        json in "\\{\"session\":\\{[a-z\":,{}]{0,40}\\},\"expiresAt\":[0-9.]{0,9},\"signature\":\"[A-Za-z0-9_-]{43}\"\\}",
    ) {
        let token = verified(TOKEN);
        for text in [&*String::from_utf8_lossy(&bytes), &parts, &URL_SAFE_NO_PAD.encode(json)] {
            prop_assert!(signer(&rotated()).accept_previous_tokens().verify(text).is_err());
            for cache in caches(&rotated()) {
                let cache = cache.accept_previous_caches();
                prop_assert!(cache.decode::<Value>(text, &token).is_err());
            }
        }
    }

    #[test]
    fn encoded_cache_is_decoded(user in fields(), session in fields()) {
        let now = SystemTime::now();
        let token = verified(TOKEN);
        let mut written = row(now);
        written.additional = session;
        written.ip_address = Some("::1".to_owned());
        let mut expected: Value = user.into_iter().collect();
        for (name, value) in ada().as_object().unwrap() {
            expected[name] = value.clone();
        }
        prop_assert_eq!(json::from_members(&expected.to_string()), json::stringify(&expected));
        for cache in caches(&secrets()) {
            let text = cache.encode_at(&written, &expected, MINUTES, now).unwrap();
            let read = cache.decode_at::<Value>(&text, &token, now).unwrap();
            let mut user = read.user;
            prop_assert_eq!(user.as_object_mut().unwrap().remove("emailVerified"), Some(json!(false)));
            // Dates are written like the package writes them, and numbers as 64-bit floats.
            prop_assert_eq!(json::stringify(&user), json::stringify(&expected));
            prop_assert_eq!(
                json::stringify(&Value::Object(read.session.additional.clone())),
                json::stringify(&Value::Object(written.additional.clone()))
            );
            prop_assert_eq!(read.session.expose_token(), TOKEN);
            prop_assert_eq!(read.session.ip_address.as_deref(), Some("::1"));
            let left = read.cache_expires.duration_since(now).unwrap();
            prop_assert!(left <= MINUTES && left > MINUTES - Duration::from_secs(2), "{:?}", left);

            let refreshed = cache.refresh(&text, &token, WEEK).unwrap();
            let again = cache.decode::<Value>(&refreshed, &token).unwrap();
            prop_assert_eq!(again.session.expires, read.session.expires);
            prop_assert_eq!(again.user["id"].as_str(), Some("user-1"));
        }
    }
}

/// Every other character in each place. Neither may be accepted with a changed content or a second encoding.
#[test]
fn text_with_one_changed_character_is_refused() {
    let now = SystemTime::now();
    let token = verified(TOKEN);
    let signer = signer(&secrets());
    let signed = signer.sign(TOKEN).unwrap();
    for changed in changes(signed.expose()) {
        assert!(signer.verify(&changed).is_err(), "{changed}");
    }
    for cache in caches(&secrets()) {
        let text = cache.encode_at(&row(now), &ada(), MINUTES, now).unwrap();
        for changed in changes(&text) {
            let decoded = cache.decode_at::<Value>(&changed, &token, now);
            assert!(decoded.is_err(), "{changed}");
        }
    }
}

/// Returns `text` without each of its characters, with others in their place, and its beginnings.
fn changes(text: &str) -> impl Iterator<Item = String> + '_ {
    (0..text.len()).flat_map(move |index| {
        let (before, after) = (&text[..index], &text[index + 1..]);
        let others = ["", "A", "g", "_", "/", "=", ".", "é"];
        let replaced = others
            .into_iter()
            .map(move |other| format!("{before}{other}{after}"));
        let inserted = ["=", " ", "A"].map(|other| format!("{before}{other}{}", &text[index..]));
        replaced
            .chain(inserted)
            .chain([before.to_owned()])
            .filter(move |changed| changed != text)
    })
}

#[test]
fn token_and_cache_have_one_encoding_each() {
    let now = SystemTime::now();
    let token = verified(TOKEN);
    let signer = signer(&secrets());
    let signed = signer.sign(TOKEN).unwrap();
    let (value, signature) = signed.expose().rsplit_once('.').unwrap();
    let bytes = STANDARD.decode(signature).unwrap();
    let signatures = [
        URL_SAFE.encode(&bytes).replace(['-', '_'], "~"),
        signature.trim_end_matches('=').to_owned(),
        format!("{signature}="),
        format!("{signature} "),
        format!("{}=", &signature[..43].to_lowercase()),
    ];
    for other in signatures.iter().filter(|other| *other != signature) {
        assert!(
            signer.verify(&format!("{value}.{other}")).is_err(),
            "{other}"
        );
    }
    // An unsigned token is not accepted, although the bearer plugin signs it.
    for unsigned in [
        TOKEN,
        "",
        ".",
        &format!("{TOKEN}."),
        &format!(".{signature}"),
    ] {
        assert_eq!(signer.verify(unsigned).unwrap_err(), TokenError::Malformed);
    }
    for cache in caches(&secrets()) {
        let text = cache.encode_at(&row(now), &ada(), MINUTES, now).unwrap();
        for other in [
            format!("{text}="),
            format!("{text}=="),
            format!(" {text}"),
            format!("{text}\n"),
            format!("{text}."),
            text.replace('.', ".."),
        ] {
            assert!(other == text || cache.decode_at::<Value>(&other, &token, now).is_err());
        }
    }
}

#[test]
fn members_of_a_compact_cache_cannot_be_added_or_exchanged() {
    let now = SystemTime::now();
    let token = verified(TOKEN);
    let [cache, ..] = caches(&secrets());
    let text = cache.encode_at(&row(now), &ada(), MINUTES, now).unwrap();
    let json = String::from_utf8(URL_SAFE_NO_PAD.decode(&text).unwrap()).unwrap();
    let expires = json.find(r#","expiresAt":1"#).unwrap();
    let (before, after) = json.split_at(expires);
    for changed in [
        json.replacen('{', r#"{"session":{},"#, 1),
        format!(r#"{before},"expiresAt":9999999999999{after}"#),
        format!(
            "{before}{}",
            after.replacen("expiresAt\":", "expiresAt\":9", 1)
        ),
        format!(
            "{before}{}",
            after.replacen("expiresAt\":", "expiresAt\":0", 1)
        ),
        format!(
            "{before}{}",
            after.replacen("expiresAt\":", "expiresAt\":\"\",\"x\":", 1)
        ),
        json.replacen("Ada", "Eve", 1),
        json.replacen(r#"{"session":{"#, r#"{"session":{"user":{},"#, 1),
        json.replacen("},", "} ,", 1),
        json.replacen(r#""signature""#, r#""Signature""#, 1),
        format!("{json} "),
        format!("\u{feff}{json}"),
        String::new(),
        "{}".to_owned(),
        r#"{"session":}"#.to_owned(),
    ] {
        assert_ne!(changed, json);
        let decoded = cache.decode_at::<Value>(&URL_SAFE_NO_PAD.encode(&changed), &token, now);
        assert!(decoded.is_err(), "{changed}");
    }
}

#[test]
fn cache_of_another_session_is_refused_beside_a_valid_token() {
    let now = SystemTime::now();
    for cache in caches(&secrets()) {
        let text = cache.encode_at(&row(now), &ada(), MINUTES, now).unwrap();
        for other in ["another-token", "true", &TOKEN.to_lowercase(), &TOKEN[1..]] {
            let decoded = cache.decode_at::<Value>(&text, &verified(other), now);
            assert_eq!(error(decoded), TokenError::OtherToken);
        }
    }
}

#[test]
fn ids_that_differ_in_unpaired_surrogates_never_become_one() {
    let now = SystemTime::now();
    let token = verified(TOKEN);
    for cache in caches(&secrets()) {
        for (column, is_accepted) in [("name", true), ("id", false)] {
            let mut user = ada();
            user[column] = "x\u{fffd}".into();
            let text = cache.encode_at(&row(now), &user, MINUTES, now);
            assert_eq!(text.is_ok(), is_accepted, "{column}");
        }
        let session = SessionRow::new("s", "u\u{fffd}", TOKEN, now + WEEK);
        assert!(cache.encode_at(&session, &ada(), MINUTES, now).is_err());
    }
    // The package writes an unpaired surrogate as an escape, which is read as U+FFFD.
    let [_, jwt, _] = caches(&secrets());
    let text = jwt.encode_at(&row(now), &ada(), MINUTES, now).unwrap();
    let claims = URL_SAFE_NO_PAD.decode(text.split('.').nth(1).unwrap());
    let claims = String::from_utf8(claims.unwrap()).unwrap();
    let id = ada()["id"].to_string();
    let with = |id: &str| {
        super::jwt::seal(
            id.as_bytes(),
            &super::mac::MacKeys::new(&secrets()).unwrap(),
        )
    };
    let decode = |text: &str| jwt.decode_at::<Value>(text, &token, now).is_ok();
    assert!(decode(&with(&claims)));
    let other = claims.replace(&format!(r#""id":{id}"#), r#""id":"\ud83d""#);
    assert_ne!(other, claims);
    assert!(!decode(&with(&other)));
}

#[test]
fn cache_of_another_strategy_is_refused() {
    let now = SystemTime::now();
    let token = verified(TOKEN);
    for (index, writer) in caches(&secrets()).iter().enumerate() {
        let text = writer.encode_at(&row(now), &ada(), MINUTES, now).unwrap();
        for (other, reader) in caches(&secrets()).iter().enumerate() {
            let decoded = reader.decode_at::<Value>(&text, &token, now);
            assert_eq!(decoded.is_ok(), index == other, "{index} {other}");
        }
    }
}

#[test]
fn signature_of_one_kind_of_text_is_not_valid_for_another() {
    let now = SystemTime::now();
    let token = verified(TOKEN);
    let signer = signer(&secrets());
    let [compact, jwt, _] = caches(&secrets());
    // The signed text of a cache, as the value of a token.
    let text = jwt.encode_at(&row(now), &ada(), MINUTES, now).unwrap();
    let (signed, signature) = text.rsplit_once('.').unwrap();
    let bytes = URL_SAFE_NO_PAD.decode(signature).unwrap();
    let as_token = signer
        .verify(&format!("{signed}.{}", STANDARD.encode(bytes)))
        .unwrap();
    // It is a token of no session: the cache of the person does not belong to it.
    let decoded = jwt.decode_at::<Value>(&text, &as_token, now);
    assert_eq!(error(decoded), TokenError::OtherToken);

    // A token whose value looks like a cache or like the parts of a JWT.
    let claims = json!({"session": {}, "user": {}, "updatedAt": 1, "exp": 9_999_999_999u64});
    let value = format!(
        "{}.{}",
        URL_SAFE_NO_PAD.encode(r#"{"alg":"HS256"}"#),
        URL_SAFE_NO_PAD.encode(claims.to_string())
    );
    let signed = signer.sign(&value).unwrap();
    let (_, signature) = signed.expose().rsplit_once('.').unwrap();
    let signature = URL_SAFE_NO_PAD.encode(STANDARD.decode(signature).unwrap());
    for cache in [jwt, compact] {
        let decoded = cache.decode_at::<Value>(&format!("{value}.{signature}"), &token, now);
        assert_eq!(error(decoded), TokenError::Malformed);
    }
}

#[test]
fn algorithm_of_a_jwt_is_not_taken_from_its_header() {
    let now = SystemTime::now();
    let token = verified(TOKEN);
    let [_, cache, _] = caches(&secrets());
    let text = cache.encode_at(&row(now), &ada(), MINUTES, now).unwrap();
    let claims = text.split('.').nth(1).unwrap();
    let keys = mac::MacKeys::new(&secrets()).unwrap();
    for (header, is_accepted) in [
        (r#"{"alg":"HS256"}"#, true),
        (r#"{"alg":"HS256","typ":"JWT"}"#, true),
        (r#"{"alg":"HS512"}"#, false),
        (r#"{"alg":"none"}"#, false),
        (r#"{"alg":"EdDSA"}"#, false),
        (r#"{"alg":"HS256","crit":["b64"],"b64":false}"#, false),
        (r#"{"alg":["HS256"]}"#, false),
        ("{}", false),
        ("", false),
    ] {
        let signed = format!("{}.{claims}", URL_SAFE_NO_PAD.encode(header));
        let signature = URL_SAFE_NO_PAD.encode(keys.sign(&[signed.as_bytes()]));
        let decoded = cache.decode_at::<Value>(&format!("{signed}.{signature}"), &token, now);
        assert_eq!(decoded.is_ok(), is_accepted, "{header}");
        let unsigned = cache.decode_at::<Value>(&format!("{signed}."), &token, now);
        assert!(unsigned.is_err(), "{header}");
    }
}

#[test]
fn cache_ends_with_its_own_end_and_with_that_of_the_session() {
    let now = UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    let second = Duration::from_secs(1);
    let token = verified(TOKEN);
    for cache in caches(&secrets()) {
        let text = cache.encode_at(&row(now), &ada(), MINUTES, now).unwrap();
        let at = |now| cache.decode_at::<Value>(&text, &token, now);
        assert!(at(now + MINUTES - second).is_ok());
        assert_eq!(error(at(now + MINUTES + second)), TokenError::Expired);
        let text = cache.encode_at(&row(now), &ada(), 2 * WEEK, now).unwrap();
        let at = |now| cache.decode_at::<Value>(&text, &token, now);
        assert!(at(now + WEEK).is_ok());
        assert_eq!(
            error(at(now + WEEK + Duration::from_millis(1))),
            TokenError::Expired
        );
    }
}

#[test]
fn times_after_2038_are_supported() {
    let late = UNIX_EPOCH + Duration::from_secs(2_147_483_649);
    let token = verified(TOKEN);
    for cache in caches(&secrets()) {
        let text = cache.encode_at(&row(late), &ada(), MINUTES, late).unwrap();
        let read = cache.decode_at::<Value>(&text, &token, late).unwrap();
        assert_eq!(read.cache_expires, late + MINUTES);
        assert_eq!(read.session.expires, late + WEEK);
    }
}

#[test]
fn cache_of_another_version_is_refused() {
    let now = SystemTime::now();
    let token = verified(TOKEN);
    for (first, second) in caches(&secrets()).into_iter().zip(caches(&secrets())) {
        let second = second.with_version("2");
        let text = first.encode_at(&row(now), &ada(), MINUTES, now).unwrap();
        let decoded = second.decode_at::<Value>(&text, &token, now);
        assert_eq!(error(decoded), TokenError::OtherVersion);
        let text = second.encode_at(&row(now), &ada(), MINUTES, now).unwrap();
        assert!(second.decode_at::<Value>(&text, &token, now).is_ok());
        let decoded = first.decode_at::<Value>(&text, &token, now);
        assert_eq!(error(decoded), TokenError::OtherVersion);
    }
}

#[test]
fn previous_secrets_are_accepted_as_in_the_package_or_by_option() {
    let now = SystemTime::now();
    let before = BetterAuthSecrets::new(PREVIOUS).unwrap();
    let signed = signer(&before).sign(TOKEN).unwrap();
    let refused = signer(&rotated()).verify(signed.expose());
    assert_eq!(refused.unwrap_err(), TokenError::UnknownKey);
    let signer = signer(&rotated()).accept_previous_tokens();
    let token = signer.verify(signed.expose()).unwrap();
    assert!(token.has_previous_signature());
    let again = signer.sign(token.expose()).unwrap();
    assert!(
        !signer
            .verify(again.expose())
            .unwrap()
            .has_previous_signature()
    );

    for (writer, reader) in caches(&before).iter().zip(caches(&rotated())) {
        let text = writer.encode_at(&row(now), &ada(), MINUTES, now).unwrap();
        let is_jwe = reader.strategy() == CacheStrategy::Jwe;
        let decoded = reader.decode_at::<Value>(&text, &token, now);
        assert_eq!(decoded.is_ok(), is_jwe, "{reader:?}");
        let reader = reader.accept_previous_caches();
        assert!(reader.decode_at::<Value>(&text, &token, now).is_ok());
        let other = BetterAuthSecrets::new(SECRET).unwrap();
        let other = SessionCache::new(reader.strategy(), &other).unwrap();
        let decoded = other.decode_at::<Value>(&text, &token, now);
        assert_eq!(error(decoded), TokenError::UnknownKey);
    }
}

#[test]
fn cache_that_the_package_would_refuse_is_not_written() {
    let now = SystemTime::now();
    for cache in caches(&secrets()) {
        let encode = |row: &SessionRow, user: Value| cache.encode_at(row, &user, MINUTES, now);
        for (field, value) in [
            ("id", json!(1)),
            ("email", Value::Null),
            ("name", json!("2027-01-22T08:00:00Z")),
            ("emailVerified", json!("yes")),
            ("createdAt", json!("yesterday")),
            ("image", json!(1)),
        ] {
            let mut user = ada();
            user[field] = value;
            let refused = encode(&row(now), user);
            assert_eq!(refused, Err(TokenError::Malformed), "{field}");
        }
        assert!(encode(&row(now), json!("Ada")).is_err());
        let late = SessionRow::new("s", "u", TOKEN, now + 4_000_000 * WEEK / 7);
        assert!(encode(&late, ada()).is_err());
    }
}

#[test]
fn user_of_another_type_is_an_error_that_names_the_field_and_no_value() {
    #[derive(Debug, Deserialize)]
    struct Admin {
        #[expect(dead_code, reason = "only its absence matters")]
        role: String,
    }
    let now = SystemTime::now();
    for cache in caches(&secrets()) {
        let text = cache.encode_at(&row(now), &ada(), MINUTES, now).unwrap();
        let error = cache
            .decode_at::<Admin>(&text, &verified(TOKEN), now)
            .unwrap_err();
        let TokenError::Claims(claims) = &error else {
            panic!("{error:?}")
        };
        assert_eq!(claims.field.as_deref(), Some("user.role"));
        assert!(!format!("{error:?} {error}").contains("ada"));
    }
}

#[test]
fn debug_output_has_no_secrets_tokens_and_addresses() {
    let now = SystemTime::now();
    let mut row = row(now);
    row.ip_address = Some("192.0.2.1".to_owned());
    let signed = signer(&secrets()).sign(TOKEN).unwrap();
    let sessions = Sessions::stateless(
        SessionCookies::new(crate::sessions::Scheme::Http),
        &rotated(),
    );
    let texts = format!(
        "{:?} {:?} {row:?} {signed:?} {:?} {:?}",
        rotated(),
        sessions.unwrap(),
        verified(TOKEN),
        caches(&rotated()),
    );
    for secret in [SECRET, PREVIOUS, TOKEN, "192.0.2.1", &signed.expose()[40..]] {
        assert!(!texts.contains(secret), "{secret} in {texts}");
    }
}

/// The number of comparisons does not depend on the text, so the time does not show which part is wrong.
#[test]
fn number_of_comparisons_and_decryptions_does_not_depend_on_the_text() {
    let now = SystemTime::now();
    let token = verified(TOKEN);
    let list = format!("3:{SECRET},2:{PREVIOUS},1:the first secret: which is long enough");
    let list = BetterAuthSecrets::from_list(list).unwrap();
    let signer = signer(&list).accept_previous_tokens();
    let comparisons = |check: &dyn Fn() -> bool| {
        let before = COMPARISONS.get();
        let is_valid = check();
        (is_valid, COMPARISONS.get() - before)
    };
    let signed = signer.sign(TOKEN).unwrap();
    let (value, signature) = signed.expose().rsplit_once('.').unwrap();
    let mut last = STANDARD.decode(signature).unwrap();
    last[31] ^= 1;
    let mut first = STANDARD.decode(signature).unwrap();
    first[0] ^= 1;
    assert_eq!(
        comparisons(&|| signer.verify(signed.expose()).is_ok()),
        (true, 3)
    );
    for wrong in [&last, &first, &vec![0; 32]] {
        let text = format!("{value}.{}", STANDARD.encode(wrong));
        assert_eq!(comparisons(&|| signer.verify(&text).is_ok()), (false, 3));
    }
    for cache in caches(&list) {
        let cache = cache.accept_previous_caches();
        let text = cache.encode_at(&row(now), &ada(), MINUTES, now).unwrap();
        let decode = |text: &str| cache.decode_at::<Value>(text, &token, now).is_ok();
        let expected = match cache.strategy() {
            CacheStrategy::Jwe => 0,
            _ => 3,
        };
        assert_eq!(comparisons(&|| decode(&text)), (true, expected));
        let forged = forge(&cache, &text);
        let before = jwe::DECRYPTIONS.get();
        assert_eq!(comparisons(&|| decode(&forged)), (false, expected));
        assert_eq!(
            jwe::DECRYPTIONS.get(),
            before,
            "nothing is decrypted before its tag is checked"
        );
    }
}

/// Returns the cache with another first byte of the signature or tag.
fn forge(cache: &SessionCache, text: &str) -> String {
    let change = |signature: &str| {
        let mut bytes = URL_SAFE_NO_PAD.decode(signature).unwrap();
        bytes[0] ^= 1;
        URL_SAFE_NO_PAD.encode(bytes)
    };
    if cache.strategy() != CacheStrategy::Compact {
        let (signed, signature) = text.rsplit_once('.').unwrap();
        return format!("{signed}.{}", change(signature));
    }
    let json = String::from_utf8(URL_SAFE_NO_PAD.decode(text).unwrap()).unwrap();
    let (before, signature) = json.split_at(json.len() - 45);
    let forged = format!("{before}{}\"}}", change(&signature[..43]));
    URL_SAFE_NO_PAD.encode(forged)
}
