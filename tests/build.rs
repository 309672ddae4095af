//! Writes the Rust code of `docs/guides/better-auth.md` to a file, so that the tests compile the text of the guide.

use std::path::PathBuf;
use std::{env, fs};

const GUIDE: &str = "../docs/guides/better-auth.md";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed={GUIDE}");
    let guide = fs::read_to_string(GUIDE)?;
    let (_, block) = guide.split_once("```rust\n").ok_or("no Rust code")?;
    let (code, _) = block.split_once("\n```").ok_or("no end of the Rust code")?;
    let lines = code
        .lines()
        .map(|line| line.strip_prefix("# ").unwrap_or(line));
    let code = lines.collect::<Vec<_>>().join("\n");
    let file = PathBuf::from(env::var("OUT_DIR")?).join("better_auth_guide.rs");
    fs::write(file, code)?;
    Ok(())
}
