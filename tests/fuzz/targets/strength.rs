//! The strength of arbitrary values, and refuse lists of arbitrary text.
//!
//! No value causes a panic or takes long. A short value is never accepted. A list contains each of its lines.

#![no_main]

use libfuzzer_sys::fuzz_target;
use secretwell_auth::{RefuseList, SecretPolicy};
use secretwell_core::SecretValue;

fuzz_target!(|data: &[u8]| {
    let value = SecretValue::from(data.to_vec());
    let weakness = SecretPolicy::SigningKey.weakness(&value);
    assert!(data.len() >= 32 || weakness.is_some(), "{data:?}");
    assert_eq!(SecretPolicy::Unchecked.weakness(&value), None);

    let lines = data.split(|byte| *byte == b'\n');
    let lines = lines.map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let entries: Vec<&[u8]> = lines.filter(|line| !line.is_empty()).collect();
    // Blank lists and those of other formats are errors.
    if let Ok(list) = RefuseList::parse(data) {
        assert!(!list.is_empty() && list.len() <= entries.len());
        let has_hash = |line: &[u8]| {
            let mut windows = line.windows(16);
            windows.any(|digits| digits.iter().all(u8::is_ascii_hexdigit))
        };
        let is_entry = |line: &&[u8]| line.iter().any(u8::is_ascii_alphabetic) && !has_hash(line);
        for entry in entries.into_iter().filter(is_entry) {
            assert!(list.contains(entry), "{entry:?}");
            assert!(list.contains(&[entry, b"\n"].concat()), "{entry:?}");
        }
    }
});
