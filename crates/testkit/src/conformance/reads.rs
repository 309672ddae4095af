//! Tests of values, keys and absent secrets.

use secretwell_core::backend::join_bounded;
use secretwell_core::{Error, ErrorKind, SecretKey, SecretValue};

use super::{
    Outcome, assert_error, assert_fails, assert_reads, assert_value, key, read, valid_keys, within,
};
use crate::Harness;

/// A key that no test writes.
const ABSENT: &str = "NEVER_WRITTEN";

/// A read returns exactly the bytes that were written. If the provider claims versions, it also returns
/// a version.
pub async fn get_existing(h: &dyn Harness) -> Outcome {
    let provider = h.provider();
    let [key] = valid_keys(h);
    let versions = provider.capabilities().versions;
    for value in [
        "value",
        "ends with a newline\n",
        " surrounded by spaces ",
        "\ttabs\t",
        "two\r\nlines\r\n",
        "-----BEGIN KEY-----\nMIIB\n-----END KEY-----\n",
        "$(id) `id` ${HOME} $HOME %HOME% {{x}}",
        "{\"a\": 1, \"b\": [true, null]}",
        "\"quoted\"",
        "it's # no comment",
        "007",
        "1e3",
        "null",
        "true",
        "\u{feff}starts with a byte order mark",
        "schlüssel ключ 鍵",
    ] {
        if h.supports().trims_whitespace && is_trimmed(value) {
            continue;
        }
        h.seed(&key, value.as_bytes()).await;
        let result = read(&provider, &key).await;
        assert_value(&result, &key, value.as_bytes());
        assert!(
            !versions || result.is_ok_and(|secret| secret.version.is_some()),
            "the provider claims versions, but a result has no version"
        );
    }
    Outcome::Passed
}

/// Returns whether trimming changes `value`, for any definition of white space.
fn is_trimmed(value: &str) -> bool {
    let blank = |c: char| c.is_whitespace() || c == '\u{feff}';
    value
        .strip_suffix('\n')
        .unwrap_or(value)
        .trim_matches(blank)
        != value.trim_end_matches('\n')
}

/// A key that was never written is `NotFound`, which is permanent. If the harness counts calls, it
/// costs one call, or two if the source must confirm it.
pub async fn get_missing(h: &dyn Harness) -> Outcome {
    let provider = h.provider();
    let [present] = valid_keys(h);
    for seeded in [false, true] {
        if seeded {
            h.seed(&present, b"present").await;
        }
        let operation = if seeded {
            "a read of an absent key from a source with other keys"
        } else {
            "a read of an absent key from an empty source"
        };
        let before = h.calls().reads;
        assert_fails(&provider, &key(ABSENT), ErrorKind::NotFound, operation).await;
        let cost = h.calls().reads - before;
        assert!(cost <= 2, "{operation} must not cost {cost} calls");
    }
    Outcome::Passed
}

/// A batch read returns one result for each key, in order, equal to the results of single reads. An
/// absent key does not affect the others. If the provider claims `batch` and the harness counts calls,
/// many keys must cost few calls.
pub async fn get_many(h: &dyn Harness) -> Outcome {
    let provider = h.provider();
    let keys: Vec<SecretKey> = (0..8).map(|n| key(&format!("MANY_{n}"))).collect();
    for key in &keys {
        h.seed(key, key.as_str().as_bytes()).await;
    }
    let requested = [
        keys[3].clone(),
        key(ABSENT),
        keys[0].clone(),
        keys[3].clone(),
        keys[7].clone(),
    ];
    let results = within("a batch read", provider.get_many(&requested)).await;
    assert!(
        results.len() == requested.len(),
        "{} keys must have the same number of results, but have {}",
        requested.len(),
        results.len()
    );
    for (key, result) in requested.iter().zip(&results) {
        match result {
            Err(error) if key.as_str() == ABSENT => {
                assert_error(
                    error,
                    Some(key),
                    ErrorKind::NotFound,
                    "an absent key in a batch",
                );
            }
            _ => {
                assert_value(result, key, key.as_str().as_bytes());
                let (one, many) = (read(&provider, key).await, result.as_ref());
                assert!(
                    one.is_ok_and(|one| many.is_ok_and(|many| one.version == many.version)),
                    "`{key}` must have the same version in a single read and in a batch"
                );
            }
        }
    }
    let empty = within("a batch read of zero keys", provider.get_many(&[])).await;
    assert!(
        empty.is_empty(),
        "a batch of zero keys must have zero results"
    );

    if provider.capabilities().batch && h.supports().call_counts {
        let before = h.calls().reads;
        within("a batch read", provider.get_many(&keys)).await;
        let cost = h.calls().reads - before;
        assert!(
            cost * 2 <= keys.len(),
            "the provider claims batches, but {} keys cost {cost} calls",
            keys.len()
        );
    }
    Outcome::Passed
}

/// Discarding a key, with or without a rejected value, changes nothing that the source has. The next read
/// returns the current value, also if that is the rejected one. Discarding an absent key has no effect.
pub async fn discard(h: &dyn Harness) -> Outcome {
    let provider = h.provider();
    let [present, other] = valid_keys(h);
    let absent = key(ABSENT);
    let (old, new) = (SecretValue::from("old"), SecretValue::from("new"));
    provider.discard(&present, None);
    h.seed(&other, b"other").await;
    for current in [&old, &new] {
        h.seed(&present, current.expose_bytes()).await;
        for rejected in [None, Some(&old), Some(&new)] {
            provider.discard(&present, rejected);
            provider.discard(&absent, rejected);
            assert_reads(&provider, &present, current.expose_bytes()).await;
            assert_reads(&provider, &other, b"other").await;
            let operation = "a read of an absent key after it was discarded";
            assert_fails(&provider, &absent, ErrorKind::NotFound, operation).await;
        }
    }
    // A discard does not wait for a read in progress, and the read still succeeds.
    let reads = join_bounded(4, (0..4).map(|_| provider.get(&present)));
    let discards = async {
        for rejected in [None, Some(&new)] {
            tokio::task::yield_now().await;
            provider.discard(&present, rejected);
        }
    };
    let (results, ()) = within("reads during a discard", async {
        tokio::join!(reads, discards)
    })
    .await;
    for result in &results {
        assert_value(result, &present, new.expose_bytes());
    }
    Outcome::Passed
}

/// Values of 64 KiB and values of any bytes are returned unchanged. If the harness has a size limit, a
/// longer value is `TooLarge`.
pub async fn binary_and_big_values(h: &dyn Harness) -> Outcome {
    let provider = h.provider();
    let [key, other] = valid_keys(h);
    let limit = h.max_value_bytes();
    let size = limit.unwrap_or(usize::MAX).min(64 * 1024);
    let big: Vec<u8> = (b'!'..=b'~').cycle().take(size).collect();
    h.seed(&key, &big).await;
    assert_reads(&provider, &key, &big).await;

    if h.supports().binary_values {
        let bytes: Vec<u8> = (0..=u8::MAX).cycle().take(size).collect();
        h.seed(&key, &bytes).await;
        assert_reads(&provider, &key, &bytes).await;
    }
    if let Some(limit) = limit {
        h.seed(&other, &vec![b'x'; limit]).await;
        assert_reads(&provider, &other, &vec![b'x'; limit]).await;
        h.seed(&other, &vec![b'x'; limit + 1]).await;
        let operation = "a value above the size limit";
        assert_fails(&provider, &other, ErrorKind::TooLarge, operation).await;
    }
    Outcome::Passed
}

/// Every valid key of the harness has its own value. Any other key either works too or is
/// `InvalidKey`. No key returns the value of another key.
pub async fn odd_names(h: &dyn Harness) -> Outcome {
    let provider = h.provider();
    let valid: Vec<SecretKey> = h.valid_keys().into_iter().map(key).collect();
    for key in &valid {
        h.seed(key, format!("value of {key}").as_bytes()).await;
    }
    let mut odd = odd_keys(h, &valid);
    odd.retain(|key| !valid.contains(key));
    odd.sort();
    odd.dedup();
    for key in &odd {
        let storable = match read(&provider, key).await {
            Err(error) => is_storable(&error, key),
            Ok(_) => {
                panic!("`{key}` was never written, but a read returns the value of another key")
            }
        };
        if storable {
            let value = format!("value of {key}");
            h.seed(key, value.as_bytes()).await;
            assert_reads(&provider, key, value.as_bytes()).await;
            h.delete(key).await;
        }
    }
    for key in &valid {
        assert_reads(&provider, key, format!("value of {key}").as_bytes()).await;
    }
    Outcome::Passed
}

/// Returns whether the source can store `key`: `true` for `NotFound`, `false` for `InvalidKey`. Panics
/// for any other error.
#[track_caller]
fn is_storable(error: &Error, key: &SecretKey) -> bool {
    let operation = "an unusual key that was never written";
    if error.kind() != ErrorKind::InvalidKey {
        assert_error(error, Some(key), ErrorKind::NotFound, operation);
        return true;
    }
    assert_error(error, Some(key), ErrorKind::InvalidKey, operation);
    false
}

fn odd_keys(h: &dyn Harness, valid: &[SecretKey]) -> Vec<SecretKey> {
    let mut odd: Vec<String> = [
        "a=b",
        "a b",
        "ключ",
        "鍵",
        "é",
        "e\u{301}",
        "..data",
        "...",
        ".hidden",
        "~",
        "~root",
        "-rf",
        "$HOME",
        "${HOME}",
        "`id`",
        "a;b",
        "a&b",
        "a|b",
        "a*",
        "a?b",
        "a#b",
        "a:b",
        "C:",
        "a,b",
        "a'b",
        "a\"b",
        "<a>",
        "[a]",
        "{a}",
        "(a)",
        "a@b",
        "a%00b",
        "%2e%2e",
        "%2e%2e/a",
        "a+b",
        "CON",
        "http:",
        "a/b/c/d/e/f/g/h",
        "metadata",
        "data",
        "1",
        "0x10",
        "true",
        "null",
        "_",
    ]
    .map(str::to_owned)
    .into();
    odd.push("n".repeat(255));
    for name in valid.iter().map(SecretKey::as_str) {
        odd.push(name.replace('/', "%2F"));
        odd.push(name.replace('/', "%2f"));
        odd.push(format!("{name}?version=1"));
        odd.push(format!("{name}#"));
        odd.push(format!("{name}%00"));
        odd.push(format!("{name}%20"));
        odd.push(format!("{name}="));
        odd.push(format!("{name};"));
        odd.push(format!("%{:02X}{}", name.as_bytes()[0], &name[1..]));
        if !h.supports().case_insensitive {
            odd.push(name.to_ascii_lowercase());
            odd.push(name.to_ascii_uppercase());
        }
    }
    odd.iter().map(|name| key(name)).collect()
}

/// Every form of absence is `NotFound` with a reason. The forms are a key that was never written, a
/// deleted key, a key in a folder that does not exist, and a key below another key. A source without
/// folders may return `InvalidKey` for the last two forms.
pub async fn absent_in_all_forms(h: &dyn Harness) -> Outcome {
    let provider = h.provider();
    let [deleted, present] = valid_keys(h);
    h.seed(&present, b"present").await;
    h.seed(&deleted, b"deleted").await;
    h.delete(&deleted).await;
    assert_fails(
        &provider,
        &key(ABSENT),
        ErrorKind::NotFound,
        "a key that was never written",
    )
    .await;
    assert_fails(&provider, &deleted, ErrorKind::NotFound, "a deleted key").await;
    for name in [
        "no-such-folder/KEY".to_owned(),
        "no/such/folder/KEY".to_owned(),
        format!("{present}/KEY"),
    ] {
        let key = key(&name);
        match read(&provider, &key).await {
            Err(error) => is_storable(&error, &key),
            Ok(_) => panic!("`{key}` was never written, but can be read"),
        };
    }
    h.delete(&present).await;
    assert_fails(
        &provider,
        &present,
        ErrorKind::NotFound,
        "a deleted key that was the last one",
    )
    .await;
    Outcome::Passed
}

/// An empty value is returned as zero bytes, not as `NotFound`.
pub async fn empty_value(h: &dyn Harness) -> Outcome {
    if !h.supports().empty_values {
        return Outcome::NotApplicable("the source has no empty values");
    }
    let [key] = valid_keys(h);
    h.seed(&key, b"").await;
    assert_reads(&h.provider(), &key, b"").await;
    Outcome::Passed
}

/// Numbers, booleans and objects of a JSON source are returned as compact JSON text, and strings as
/// their characters. Bytes that are not UTF-8 are returned as bytes.
pub async fn non_text_values(h: &dyn Harness) -> Outcome {
    let supports = h.supports();
    if !supports.json_values && !supports.binary_values {
        return Outcome::NotApplicable("the source stores only text");
    }
    let provider = h.provider();
    let [key] = valid_keys(h);
    if supports.json_values {
        for (json, value) in [
            ("5432", "5432"),
            ("-0.5", "-0.5"),
            ("18446744073709551615", "18446744073709551615"),
            ("true", "true"),
            ("{\"b\": [1, \"x\"]}", "{\"b\":[1,\"x\"]}"),
            ("[ ]", "[]"),
            ("\"text\"", "text"),
        ] {
            if supports.float_numbers && json.len() > 15 {
                continue;
            }
            h.seed_json(&key, json).await;
            assert_reads(&provider, &key, value.as_bytes()).await;
        }
    }
    if supports.binary_values {
        let bytes = [0xff, 0xfe, 0, b'a', 0xc3];
        h.seed(&key, &bytes).await;
        let result = read(&provider, &key).await;
        assert_value(&result, &key, &bytes);
        let is_text = result.map(|secret| secret.value.expose_text().is_ok());
        assert!(
            matches!(is_text, Ok(false)),
            "bytes that are not UTF-8 must not be exposed as text"
        );
    }
    Outcome::Passed
}
