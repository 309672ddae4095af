//! Documents that `secretwell export` writes, read by the programs that their formats are for.

use std::collections::BTreeMap;

use super::readers::Readers;
use crate::cli::secretwell;

/// Values that all readers of `.env` documents can read.
const SHARED: [&str; 18] = [
    "plain",
    "",
    "two words # no comment",
    "$HOME `id` $(id) \\n",
    "-----BEGIN\nline\n-----END\n",
    "ß €",
    "{\"json\": [1, null]}",
    "a=b==",
    "==",
    "'",
    "''",
    " both ends ",
    "\t#a",
    "!history !! *",
    "%s %% \\0 \\c",
    "\n",
    "C:\\new\\dir",
    "say \"hi\"",
];
/// Values that only shells and Secretwell can read.
const FOR_SHELLS: [&str; 4] = ["it's \"quoted\" $HOME `id`", "${HOME}", "\\", "it's $HOME"];

fn variables<'a>(values: impl IntoIterator<Item = &'a str>) -> BTreeMap<String, String> {
    let values = values.into_iter().enumerate();
    values
        .map(|(index, value)| (format!("V{index}"), value.to_owned()))
        .collect()
}

fn export(format: &str, variables: &BTreeMap<String, String>) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("secrets.json");
    std::fs::write(&path, serde_json::to_vec(variables).unwrap()).unwrap();
    let from = format!("file://{}", path.display());
    let arguments = ["export", "--from", &from, "--format", format];
    let output = secretwell(arguments).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn readers_of_env_documents_read_exported_values() {
    let shared = variables(SHARED);
    let all = variables(SHARED.into_iter().chain(FOR_SHELLS));
    let readers = Readers::run(&[export("env", &shared), export("env", &all)]);
    for reader in readers.iter() {
        // This format has its own test below.
        if reader.name == "docker --env-file" {
            continue;
        }
        let read = reader.results[0].as_ref().expect(reader.name);
        for (name, value) in &shared {
            let expands = reader.name == "Next.js" && value.contains('$');
            assert!(
                expands || read.get(name) == Some(value),
                "{} reads {value:?} as {:?}",
                reader.name,
                read.get(name)
            );
        }
        match reader.name {
            "sh" => assert_eq!(reader.results[1].as_ref(), Some(&all)),
            "Docker Compose" => assert!(reader.results[1].is_none()),
            _ => {}
        }
    }
}

#[test]
fn docker_reads_exported_lines_literally() {
    let values = SHARED.into_iter().chain(FOR_SHELLS);
    let lines = variables(values.filter(|value| !value.contains('\n')));
    // Compose needs a document that it accepts without `format: raw`.
    let readers = Readers::run(&[export("docker", &lines), "A=1\n".to_owned()]);
    let docker = readers
        .iter()
        .find(|reader| reader.name == "docker --env-file");
    assert_eq!(docker.unwrap().results[0].as_ref(), Some(&lines));
}
