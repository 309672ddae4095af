//! `.env` documents: no dialect panics, and each name has at most one reading for the readers that two dialects share.
//!
//! The sources of the parser are included, because it is not a part of the public API.

#![no_main]
#![allow(dead_code)]

use std::collections::HashMap;

use libfuzzer_sys::fuzz_target;

#[path = "../../../crates/file/src/config.rs"]
mod config;
#[path = "../../../crates/file/src/dotenv/mod.rs"]
mod dotenv;

use config::Dialect;
use dotenv::{Entry, Variables, parse};
use secretwell_core::KeyPrefix;

/// Returns the readable values. The last entry of a name counts.
fn values(text: &str, dialect: Dialect) -> HashMap<String, String> {
    let entries = parse(text, dialect).unwrap_or_default();
    let last: HashMap<String, Entry> = entries.into_iter().map(|it| (it.name.clone(), it)).collect();
    let readable = last.into_iter().filter_map(|(name, entry)| Some((name, entry.value.ok()?.to_string())));
    readable.collect()
}

fuzz_target!(|data: &[u8]| {
    let text = String::from_utf8_lossy(data);
    for dialect in [Dialect::Strict, Dialect::Node, Dialect::Docker, Dialect::Shell] {
        let Ok(variables) = Variables::parse(&text, dialect) else { continue };
        for key in variables.keys(&KeyPrefix::root()) {
            assert!(variables.get(&key).unwrap().is_some());
        }
        for notice in variables.notices(&KeyPrefix::root()) {
            assert!(notice.name.len() <= 640);
        }
    }
    // What both dialects accept is the same, except for adjacent quotes and line ends inside of quotes.
    let node = values(&text, Dialect::Node);
    if !text.contains('\r') {
        for (name, value) in values(&text, Dialect::Strict) {
            assert!(node.get(&name).is_none_or(|other| *other == value));
        }
    }
});
