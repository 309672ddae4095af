//! Secrets from variables and files, and their rotation in a resolver and in a key ring.

use std::path::PathBuf;

use tempfile::TempDir;

use super::{Allocator, Needles, Program, canary, freed_copies, replace};

/// A folder with a file that contains a secret, and the URL of the source.
pub(super) struct Place {
    _folder: TempDir,
    file: PathBuf,
    pub(super) url: String,
    write: fn(&str) -> String,
}

impl Place {
    /// Creates the file with the name and the content that `write` returns for a secret. A directory of secrets is its
    /// source if `url` is empty.
    pub(super) fn new(name: &str, options: &str, write: fn(&str) -> String) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join(name);
        let path = match name {
            "CANARY" => folder.path(),
            _ => &file,
        };
        let url = format!("file://{}{options}", path.display());
        Self {
            file,
            url,
            write,
            _folder: folder,
        }
    }

    pub(super) fn directory() -> Self {
        Self::new("CANARY", "", |secret| format!("{secret}\n"))
    }

    pub(super) fn write(&self, secret: &str) {
        replace(&self.file, (self.write)(secret).as_bytes());
    }
}

fn places() -> Vec<Place> {
    let env = |secret: &str| format!("OTHER=1\nexport CANARY=\"{secret}\"\nLAST='2'\n");
    let json = |secret: &str| {
        format!(r#"{{"OTHER": 1, "CANARY": "{secret}", "NESTED": {{"CANARY": ["{secret}", 1]}}}}"#)
    };
    vec![
        Place::directory(),
        Place::new(".env", "", env),
        Place::new(".env", "?dialect=strict", env),
        Place::new(".env", "?dialect=node", env),
        Place::new(".env", "?dialect=shell", env),
        Place::new(".env", "?dialect=docker", |secret| {
            format!("OTHER=1\nCANARY={secret}\n")
        }),
        Place::new("secrets.json", "", json),
        Place::new("secrets.json", "", |secret| {
            format!(r#"{{"CANARY": {{"OTHER": "\n", "A": ["{secret}", "{secret}"]}}}}"#)
        }),
        Place::new("secrets.toml", "", |secret| {
            format!("OTHER = 1\nCANARY = \"{secret}\"\n[TABLE]\nCANARY = ['{secret}', 1]\n")
        }),
        Place::new("secrets.yaml", "", |secret| {
            format!("OTHER: 1\nCANARY: {secret}\nTABLE:\n  CANARY: ['{secret}', \"{secret}\"]\n")
        }),
    ]
}

#[test]
#[cfg_attr(not(target_os = "linux"), ignore = "only Linux has /proc/PID/mem")]
fn planted_copies_are_found_in_each_kind_of_memory() {
    let place = Place::directory();
    let secret = canary();
    place.write(&secret);
    let needles = Needles::default().text("secret", &secret);
    let mut program = Program::start(&["plant", &place.url]);
    program.reach("planted");
    let found = needles.find_in(program.child.id());
    for (name, length, mapping) in [
        ("secret", 96, "[stack]"),
        ("secret", 96, "[heap]"),
        ("secret", 96, "a mapping"),
        ("secret", 33, ""),
        ("secret in hex", 192, ""),
        ("secret in base64", 124, ""),
    ] {
        let is_planted = |found: &&super::Found| {
            found.name == name && found.length == length && found.mapping.starts_with(mapping)
        };
        assert!(
            found.iter().any(|found| is_planted(&found)),
            "{name}, {length} in {mapping}: {found:#?}"
        );
    }
    let of_the_process = Needles::default().text("another secret", &canary());
    assert_eq!(of_the_process.find_in(program.child.id()), []);
}

#[test]
#[cfg_attr(not(target_os = "linux"), ignore = "only Linux has /proc/PID/mem")]
fn secrets_of_files_leave_no_copy() {
    for place in places() {
        let secret = canary();
        place.write(&secret);
        let needles = Needles::default().text("secret", &secret);
        let mut program = Program::start(&["read", &place.url]);
        program.reach("alive");
        program.assert_found(&needles, "secret");
        program.go_on("dropped");
        program.assert_clean(&needles, &place.url);
    }
}

/// The parsers of YAML and TOML decode such values in buffers that grow and are not wiped.
#[test]
#[cfg_attr(not(target_os = "linux"), ignore = "only Linux has /proc/PID/mem")]
fn decoded_values_of_yaml_and_toml_remain_in_freed_memory_only() {
    type Write = fn(&str) -> String;
    let documents: [(&str, Write); 6] = [
        ("secrets.toml", |s| format!("CANARY = \"{s}\\\"{s}\"\n")),
        ("secrets.toml", |s| {
            format!("CANARY = \"\"\"{s}\r\n{s}\"\"\"\n")
        }),
        ("secrets.yaml", |s| format!("CANARY: \"{s}\\n{s}\"\n")),
        ("secrets.yaml", |s| format!("CANARY: '{s}''{s}'\n")),
        ("secrets.yaml", |s| format!("CANARY: |\n  {s}\n  {s}\n")),
        ("secrets.yaml", |s| format!("CANARY: {s}\n  {s}\n")),
    ];
    for (name, write) in documents {
        let place = Place::new(name, "", write);
        let secret = canary();
        place.write(&secret);
        let needles = Needles::default().text("secret", &secret);
        freed_copies(&["read", &place.url], &[], &needles);
    }
}

#[test]
#[cfg_attr(not(target_os = "linux"), ignore = "only Linux has /proc/PID/mem")]
fn variables_remain_in_the_environment_of_the_process_only() {
    let secret = canary();
    let needles = Needles::default().text("secret", &secret);
    let variables = [("CANARY", secret.as_str()), ("OTHER", "1")];
    let mut program = Program::with(Allocator::System, &["read", "env://"], &variables);
    program.reach("alive");
    program.assert_found(&needles, "secret");
    program.go_on("dropped");
    let found = program.remaining(&needles);
    let mappings: Vec<&str> = found.iter().map(|found| found.mapping.as_str()).collect();
    assert_eq!(mappings, ["[stack]"], "{found:#?}");
}

#[test]
#[cfg_attr(not(target_os = "linux"), ignore = "only Linux has /proc/PID/mem")]
fn files_that_variables_name_leave_no_copy() {
    let (secret, place) = (canary(), Place::directory());
    place.write(&secret);
    let needles = Needles::default().text("secret", &secret);
    let path = place.file.display().to_string();
    let variables = [("CANARY_FILE", path.as_str())];
    let arguments = ["read", "env://?file_suffix=_FILE"];
    let mut program = Program::with(Allocator::System, &arguments, &variables);
    program.reach("alive");
    program.assert_found(&needles, "secret");
    program.go_on("dropped");
    program.assert_clean(&needles, "a file");
}

#[test]
#[cfg_attr(not(target_os = "linux"), ignore = "only Linux has /proc/PID/mem")]
fn resolver_keeps_no_copy_of_a_replaced_value() {
    let (place, old, new) = (Place::directory(), canary(), canary());
    place.write(&old);
    let needles = Needles::default().text("old", &old);
    let mut program = Program::start(&["rotate", &place.url]);
    program.reach("alive");
    program.assert_found(&needles, "old");
    place.write(&new);
    program.go_on("rotated");
    program.assert_found(&Needles::default().text("new", &new), "new");
    program.assert_clean(&needles, "the replaced value");
}
