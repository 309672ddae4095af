//! YAML, JSON and TOML documents: no input panics, and each listed key has a value.
//!
//! The sources of the parser are included, because it is not a part of the public API.

#![no_main]
#![allow(dead_code)]

use libfuzzer_sys::fuzz_target;

#[path = "../../../crates/file/src/config.rs"]
mod config;
#[path = "../../../crates/file/src/document/mod.rs"]
mod document;
#[path = "../../../crates/file/src/dotenv/mod.rs"]
mod dotenv;

use config::Syntax;
use secretwell_core::KeyPrefix;

fuzz_target!(|data: &[u8]| {
    for syntax in [Syntax::Yaml, Syntax::Json, Syntax::Toml] {
        let Ok(document) = document::parse(syntax, data) else { continue };
        let keys = document.keys(&KeyPrefix::root()).expect("the top level is a table");
        for key in keys {
            assert!(document.get(&key).is_ok_and(|value| value.is_some()), "{key}");
        }
        document.notices(&KeyPrefix::root()).expect("the top level is a table");
    }
});
