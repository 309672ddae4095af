//! `.env` documents of a service: chains, single lines and URLs.

use std::process::Command;

use secretwell::backend::NoticeKind;
use secretwell::file::{Dialect, FileProvider};
use secretwell::{
    ErrorKind, KeyPrefix, MemoryProvider, Resolver, SecretProvider, SecretProviderExt,
};
use secretwell_testkit::Canary;

use crate::support::{key, text};

fn document(content: &str) -> (tempfile::TempDir, FileProvider) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(".env");
    std::fs::write(&path, content).unwrap();
    (folder, FileProvider::document(path))
}

/// A weaker source must not replace a secret whose line cannot be read.
#[tokio::test]
async fn malformed_line_does_not_fall_through_to_the_next_source() {
    for line in [
        "AUTH_SECRET=a#b",
        "AUTH_SECRET",
        "AUTH_SECRET: strong",
        "AUTH_SECRET+=x",
        "export AUTH_SECRET",
    ] {
        let (_folder, file) = document(&format!("OTHER=other\n{line}\n"));
        let memory: MemoryProvider = [("AUTH_SECRET", "weak")].into_iter().collect();
        let resolver = Resolver::new(file.or_else(memory));
        let error = resolver.get("AUTH_SECRET").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Malformed, "{line}");
        assert!(error.to_string().contains("line 2"), "{error}");
        assert_eq!(text(&resolver, "OTHER").await, "other");
    }
}

#[tokio::test]
async fn unreadable_and_unusable_lines_are_reported() {
    let (_folder, file) = document("GOOD=1\nBAD=a#b\nA/B=2\nHOSTVAR\nDOLLAR='a$b'\n");
    let notices = file.notices(&KeyPrefix::root()).await.unwrap();
    let found: Vec<_> = notices
        .iter()
        .map(|it| (it.kind, &*it.name, it.key.clone()))
        .collect();
    assert_eq!(
        found[..4],
        [
            (NoticeKind::Unreadable, "BAD", Some(key("BAD"))),
            (NoticeKind::NotAKey, "A/B", None),
            (NoticeKind::Unreadable, "HOSTVAR", Some(key("HOSTVAR"))),
            (NoticeKind::ReadDifferently, "DOLLAR", Some(key("DOLLAR"))),
        ]
    );
    let keys = file.list(&KeyPrefix::root()).await.unwrap();
    assert_eq!(keys, [key("DOLLAR"), key("GOOD")]);
    assert_eq!(
        file.get(&key("A_B")).await.unwrap_err().kind(),
        ErrorKind::NotFound
    );
}

#[tokio::test]
async fn notices_contain_no_value() {
    let canary = Canary::new("dotenv");
    let secret = canary.text();
    let (_folder, file) = document(&format!(
        "{secret}\nK={secret}#x\nexport {secret}\nK2='{secret}$b'\n{secret}: {secret}\n{secret} {secret}=x\n; {secret}\nK3=\"{secret}\\t\"\n"
    ));
    let notices = file.notices(&KeyPrefix::root()).await.unwrap();
    assert!(notices.len() > 4);
    canary.assert_hidden(&notices);
}

#[tokio::test]
async fn dialect_is_an_option_of_the_url() {
    let (folder, _) = document("K=`a`#b\n");
    let path = folder.path().join(".env");
    for (dialect, value) in [("node", "a"), ("docker", "`a`#b")] {
        let provider =
            FileProvider::from_url(&format!("file://{}?dialect={dialect}", path.display()))
                .unwrap();
        let secret = provider.get(&key("K")).await.unwrap();
        assert_eq!(secret.value.expose_text().unwrap(), value);
    }
    for url in [
        "file:///a/.env?dialect=bash",
        "file:///a.json?dialect=node",
        "file:///a?dialect=strict",
    ] {
        let error = FileProvider::from_url(url).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{url}");
    }
}

/// What Python's `shlex.quote` and the `printf %q` of bash write is read.
#[tokio::test]
async fn lines_written_by_shlex_and_printf_are_read() {
    let values = [
        "it's",
        "two words",
        "a\"b'c",
        "$HOME `id` \\n",
        "'",
        "a;b|c&d",
        "tab\there",
        "line\nbreak'",
    ];
    let script = "import shlex, sys; print('K=' + shlex.quote(sys.argv[1]))";
    for value in values {
        let output = Command::new("python3")
            .args(["-c", script, value])
            .output()
            .unwrap();
        let written = String::from_utf8(output.stdout).unwrap();
        for dialect in [Dialect::Strict, Dialect::Shell] {
            let (_folder, file) = document(&written);
            let secret = file.dialect(dialect).get(&key("K")).await.unwrap();
            assert_eq!(secret.value.expose_text().unwrap(), value, "{written}");
        }
        let printf = ["-c", "printf 'K=%q\\n' \"$1\"", "bash", value];
        let output = Command::new("bash").args(printf).output().unwrap();
        let written = String::from_utf8(output.stdout).unwrap();
        // bash writes `$'…'` for control characters, which other shells do not read.
        if !written.contains("$'") {
            let (_folder, file) = document(&written);
            let secret = file.dialect(Dialect::Shell).get(&key("K")).await.unwrap();
            assert_eq!(secret.value.expose_text().unwrap(), value, "{written}");
        }
    }
}

#[tokio::test]
async fn pem_with_crlf_keeps_its_line_ends() {
    let pem = "-----BEGIN PRIVATE KEY-----\r\nAAAA\r\n-----END PRIVATE KEY-----";
    let (_folder, file) = document(&format!("K=\"{pem}\"\r\n"));
    let secret = file.get(&key("K")).await.unwrap();
    assert_eq!(secret.value.expose_text().unwrap(), pem);
    let notices = file.notices(&KeyPrefix::root()).await.unwrap();
    assert_eq!(notices[0].kind, NoticeKind::ReadDifferently);
}
