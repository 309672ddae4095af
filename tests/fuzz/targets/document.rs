//! YAML, JSON and TOML documents: no input panics, and no listed key is absent.
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
            // The value of a listed key can be refused.
            assert!(!matches!(document.get(&key), Ok(None)), "{key}");
        }
        document.notices(&KeyPrefix::root()).expect("the top level is a table");
    }
});
