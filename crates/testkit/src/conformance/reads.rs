//! What is read: values, names and absences.

use secretwell_core::{Error, ErrorKind, SecretKey};

use super::{
    Outcome, assert_error, assert_fails, assert_reads, assert_value, good_keys, key, read, within,
};
use crate::Harness;

/// A key that no test writes.
const ABSENT: &str = "NEVER_WRITTEN";

/// A key that exists is read with exactly the bytes that were written, and with a version where the
/// provider claims versions.
pub async fn get_existing(h: &dyn Harness) -> Outcome {
    let provider = h.provider();
    let [key] = good_keys(h);
    let versions = provider.capabilities().versions;
    for value in [
        "value",
        "with a newline at its end\n",
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
        if h.supports().trims_values && is_trimmed(value) {
            continue;
        }
        h.seed(&key, value.as_bytes()).await;
        let answer = read(&provider, &key).await;
        assert_value(&answer, &key, value.as_bytes());
        assert!(
            !versions || answer.is_ok_and(|secret| secret.version.is_some()),
            "the provider claims versions, and answers without one"
        );
    }
    Outcome::Passed
}

/// Whether a source that trims would hold another value, by whatever it takes for white space.
fn is_trimmed(value: &str) -> bool {
    let blank = |c: char| c.is_whitespace() || c == '\u{feff}';
    value
        .strip_suffix('\n')
        .unwrap_or(value)
        .trim_matches(blank)
        != value.trim_end_matches('\n')
}

/// A key that was never written is `NotFound`, which is permanent and, where calls are counted, costs
/// one call, or two where the source has to confirm it.
pub async fn get_missing(h: &dyn Harness) -> Outcome {
    let provider = h.provider();
    let [there] = good_keys(h);
    for seeded in [false, true] {
        if seeded {
            h.seed(&there, b"there").await;
        }
        let why = if seeded {
            "a key that is absent from a source with others"
        } else {
            "a key that is absent from an empty source"
        };
        let before = h.calls().reads;
        assert_fails(&provider, &key(ABSENT), ErrorKind::NotFound, why).await;
        let cost = h.calls().reads - before;
        assert!(cost <= 2, "{why} must not be asked for {cost} times");
    }
    Outcome::Passed
}

/// Several keys are read at once with one result each, in order, equal to those of single reads; one
/// that is absent leaves the others as they are. Where the provider claims batches and calls are
/// counted, many keys cost few calls.
pub async fn get_many(h: &dyn Harness) -> Outcome {
    let provider = h.provider();
    let keys: Vec<SecretKey> = (0..8).map(|n| key(&format!("MANY_{n}"))).collect();
    for key in &keys {
        h.seed(key, key.as_str().as_bytes()).await;
    }
    let asked = [
        keys[3].clone(),
        key(ABSENT),
        keys[0].clone(),
        keys[3].clone(),
        keys[7].clone(),
    ];
    let answers = within("a read of many", provider.get_many(&asked)).await;
    assert!(
        answers.len() == asked.len(),
        "{} keys must have as many results, and have {}",
        asked.len(),
        answers.len()
    );
    for (key, answer) in asked.iter().zip(&answers) {
        match answer {
            Err(error) if key.as_str() == ABSENT => {
                assert_error(
                    error,
                    Some(key),
                    ErrorKind::NotFound,
                    "an absent key of many",
                );
            }
            _ => {
                assert_value(answer, key, key.as_str().as_bytes());
                let (one, many) = (read(&provider, key).await, answer.as_ref());
                assert!(
                    one.is_ok_and(|one| many.is_ok_and(|many| one.version == many.version)),
                    "`{key}` must have the same version alone and among many"
                );
            }
        }
    }
    let none = within("a read of no keys", provider.get_many(&[])).await;
    assert!(none.is_empty(), "no keys must have no results");

    if provider.capabilities().batch && h.supports().calls {
        let before = h.calls().reads;
        within("a read of many", provider.get_many(&keys)).await;
        let cost = h.calls().reads - before;
        assert!(
            cost * 2 <= keys.len(),
            "the provider claims batches, and {} keys cost {cost} calls",
            keys.len()
        );
    }
    Outcome::Passed
}

/// Values of 64 KiB and values of any bytes come back as they were written; one beyond the limit, if
/// the harness has one, is `TooLarge`.
pub async fn binary_and_big_values(h: &dyn Harness) -> Outcome {
    let provider = h.provider();
    let [key, other] = good_keys(h);
    let limit = h.max_value();
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
        let why = "a value beyond the limit";
        assert_fails(&provider, &other, ErrorKind::TooLarge, why).await;
    }
    Outcome::Passed
}

/// Every name that the harness calls good holds a value of its own. Any other key either does, too,
/// or is `InvalidKey`; none is read as if it were another.
pub async fn odd_names(h: &dyn Harness) -> Outcome {
    let provider = h.provider();
    let good: Vec<SecretKey> = h.good_keys().into_iter().map(key).collect();
    for key in &good {
        h.seed(key, format!("value of {key}").as_bytes()).await;
    }
    let mut odd = odd_keys(h, &good);
    odd.retain(|key| !good.contains(key));
    odd.sort();
    odd.dedup();
    for key in &odd {
        let held = match read(&provider, key).await {
            Err(error) => is_holdable(&error, key),
            Ok(_) => panic!("`{key}` was never written, and is read as if it were another key"),
        };
        if held {
            let value = format!("value of {key}");
            h.seed(key, value.as_bytes()).await;
            assert_reads(&provider, key, value.as_bytes()).await;
            h.delete(key).await;
        }
    }
    for key in &good {
        assert_reads(&provider, key, format!("value of {key}").as_bytes()).await;
    }
    Outcome::Passed
}

/// Whether the source says that it could hold such a key. Anything else than yes or no is a failure.
#[track_caller]
fn is_holdable(error: &Error, key: &SecretKey) -> bool {
    let why = "an odd key that was never written";
    if error.kind() != ErrorKind::InvalidKey {
        assert_error(error, Some(key), ErrorKind::NotFound, why);
        return true;
    }
    assert_error(error, Some(key), ErrorKind::InvalidKey, why);
    false
}

fn odd_keys(h: &dyn Harness, good: &[SecretKey]) -> Vec<SecretKey> {
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
    for name in good.iter().map(SecretKey::as_str) {
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

/// Every kind of absence is `NotFound` with a reason: never written, deleted, in a folder that does
/// not exist, below a key that is no folder. A source without folders may call the latter two
/// `InvalidKey`.
pub async fn absent_in_all_forms(h: &dyn Harness) -> Outcome {
    let provider = h.provider();
    let [gone, there] = good_keys(h);
    h.seed(&there, b"there").await;
    h.seed(&gone, b"gone").await;
    h.delete(&gone).await;
    assert_fails(
        &provider,
        &key(ABSENT),
        ErrorKind::NotFound,
        "a key never written",
    )
    .await;
    assert_fails(&provider, &gone, ErrorKind::NotFound, "a deleted key").await;
    for name in [
        "no-such-folder/KEY".to_owned(),
        "no/such/folder/KEY".to_owned(),
        format!("{there}/KEY"),
    ] {
        let key = key(&name);
        match read(&provider, &key).await {
            Err(error) => is_holdable(&error, &key),
            Ok(_) => panic!("`{key}` was never written, and is read"),
        };
    }
    h.delete(&there).await;
    assert_fails(
        &provider,
        &there,
        ErrorKind::NotFound,
        "the last key, deleted",
    )
    .await;
    Outcome::Passed
}

/// An empty value is a value of no bytes, not an absence.
pub async fn empty_value(h: &dyn Harness) -> Outcome {
    if !h.supports().empty_values {
        return Outcome::NotApplicable("the source holds no empty values");
    }
    let [key] = good_keys(h);
    h.seed(&key, b"").await;
    assert_reads(&h.provider(), &key, b"").await;
    Outcome::Passed
}

/// Numbers, booleans and objects of a JSON source come as their compact JSON text, a string as its
/// characters; bytes that are no text come as bytes.
pub async fn non_text_values(h: &dyn Harness) -> Outcome {
    let supports = h.supports();
    if !supports.json_values && !supports.binary_values {
        return Outcome::NotApplicable("the source holds text only");
    }
    let provider = h.provider();
    let [key] = good_keys(h);
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
        let answer = read(&provider, &key).await;
        assert_value(&answer, &key, &bytes);
        let text = answer.map(|secret| secret.value.expose_text().is_ok());
        assert!(
            matches!(text, Ok(false)),
            "bytes that are no text must not pass for text"
        );
    }
    Outcome::Passed
}
