//! Tests of [`FileProvider`] against the file system.

use std::fs;
use std::path::Path;
use std::time::Duration;

use secretwell_core::backend::{Change, ChangeStream};
use secretwell_core::{Error, ErrorKind, KeyPrefix, Secret, SecretKey, SecretProvider};
use tempfile::TempDir;

use crate::{FileProvider, Format};

mod places;
mod rewrites;
#[cfg(unix)]
mod volumes;

/// The time limit for a change notification, much longer than one needs.
const TIME_LIMIT: Duration = Duration::from_secs(30);

fn folder(files: &[(&str, &[u8])]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, bytes) in files {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        write(&path, bytes);
    }
    folder
}

/// Writes a file that only its owner may read.
fn write(path: &Path, bytes: &[u8]) {
    fs::write(path, bytes).unwrap();
    #[cfg(unix)]
    fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
}

async fn get(provider: &FileProvider, key: &str) -> Result<Secret, Error> {
    provider.get(&SecretKey::parse(key)?).await
}

async fn text(provider: &FileProvider, key: &str) -> String {
    get(provider, key)
        .await
        .unwrap()
        .value
        .expose_text()
        .unwrap()
        .to_owned()
}

async fn kind(provider: &FileProvider, key: &str) -> ErrorKind {
    get(provider, key).await.unwrap_err().kind()
}

#[tokio::test]
async fn one_trailing_newline_is_removed_by_default() {
    let files: &[(&str, &[u8])] = &[
        ("A", b"a\n"),
        ("B", b"b\r\n"),
        ("C", b"c\n\n"),
        ("D", b"d"),
        ("E", b"\n"),
        ("F", b"f\r"),
    ];
    let folder = folder(files);
    let trimmed = FileProvider::directory(folder.path());
    for (key, value) in [
        ("A", "a"),
        ("B", "b"),
        ("C", "c\n"),
        ("D", "d"),
        ("E", ""),
        ("F", "f\r"),
    ] {
        assert_eq!(text(&trimmed, key).await, value);
    }
    let kept = trimmed.keep_trailing_newline();
    for (key, bytes) in files {
        assert_eq!(get(&kept, key).await.unwrap().value.expose_bytes(), *bytes);
    }
}

#[tokio::test]
async fn values_are_returned_unchanged_up_to_the_size_limit() {
    let big = vec![0xff_u8; 65_536];
    let folder = folder(&[("BIG", &big), ("OVER", &[b'x'; 101]), ("AT", &[b'x'; 100])]);
    let provider = FileProvider::directory(folder.path());
    assert_eq!(
        get(&provider, "BIG").await.unwrap().value.expose_bytes(),
        big
    );
    let limited = provider.max_bytes(100);
    assert_eq!(text(&limited, "AT").await.len(), 100);
    assert_eq!(kind(&limited, "OVER").await, ErrorKind::TooLarge);
    let unlimited = limited.max_bytes(u64::MAX);
    assert_eq!(text(&unlimited, "OVER").await.len(), 101);
}

#[tokio::test]
async fn default_limit_is_1_mib_for_a_secret_and_16_mib_for_a_document() {
    let folder = folder(&[("A", b""), ("a.env", b"A=a\n#")]);
    let directory = FileProvider::directory(folder.path());
    let document = FileProvider::new(folder.path().join("a.env"));
    for (name, provider, limit) in [("A", directory, 1 << 20), ("a.env", document, 16 << 20)] {
        let file = fs::File::options()
            .write(true)
            .open(folder.path().join(name))
            .unwrap();
        file.set_len(limit).unwrap();
        assert!(get(&provider, "A").await.is_ok(), "{name}");
        file.set_len(limit + 1).unwrap();
        assert_eq!(kind(&provider, "A").await, ErrorKind::TooLarge, "{name}");
    }
}

#[tokio::test]
async fn all_forms_of_absence_are_not_found() {
    let folder = folder(&[("A", b"a")]);
    let provider = FileProvider::directory(folder.path());
    for key in ["B", "none/B", "A/below"] {
        assert_eq!(kind(&provider, key).await, ErrorKind::NotFound, "{key}");
    }
    let missing = FileProvider::directory(folder.path().join("later"));
    let error = get(&missing, "A").await.unwrap_err();
    assert!(
        error.is_not_found() && error.message().contains("does not exist"),
        "{error}"
    );
    assert!(missing.list(&KeyPrefix::root()).await.unwrap().is_empty());
    assert_eq!(
        missing.health().await.unwrap_err().kind(),
        ErrorKind::NotFound
    );
    assert!(provider.health().await.is_ok());

    let document = FileProvider::document(folder.path().join("later.json"));
    assert_eq!(kind(&document, "A").await, ErrorKind::NotFound);
    let unknown = FileProvider::document(folder.path().join("A"));
    assert_eq!(kind(&unknown, "A").await, ErrorKind::InvalidConfig);
}

#[tokio::test]
async fn the_file_name_or_the_option_determines_the_format() {
    let folder = folder(&[
        (".env", b"DB_PORT=1"),
        ("a.json", b"{\"DB\":{\"PORT\":2}}"),
        ("a.yml", b"DB:\n  PORT: 3"),
        ("a.toml", b"[DB]\nPORT = 4"),
        ("plain", b"DB_PORT=5"),
    ]);
    for (name, port) in [
        (".env", "1"),
        ("a.json", "2"),
        ("a.yml", "3"),
        ("a.toml", "4"),
    ] {
        let provider = FileProvider::new(folder.path().join(name));
        assert_eq!(text(&provider, "DB/PORT").await, port);
        assert_eq!(kind(&provider, "DB/NONE").await, ErrorKind::NotFound);
    }
    let explicit = FileProvider::document(folder.path().join("plain")).format(Format::Env);
    assert_eq!(text(&explicit, "DB/PORT").await, "5");
    let keys = FileProvider::new(folder.path().join("a.json"))
        .list(&KeyPrefix::root())
        .await
        .unwrap();
    assert_eq!(keys, [SecretKey::parse("DB/PORT").unwrap()]);
}

#[tokio::test]
async fn health_fails_when_the_document_cannot_be_read() {
    let folder = folder(&[
        ("good.json", b"{\"A\":1}"),
        ("bad.json", b"{"),
        ("plain", b"A=1"),
    ]);
    let at = |name: &str| FileProvider::document(folder.path().join(name));
    assert!(at("good.json").health().await.is_ok());
    for (provider, kind) in [
        (at("bad.json"), ErrorKind::Malformed),
        (at("plain"), ErrorKind::InvalidConfig),
        (at("none.json"), ErrorKind::NotFound),
        (at("good.json").max_bytes(3), ErrorKind::TooLarge),
    ] {
        let error = provider.health().await.unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert_eq!(error.origin(), Some(provider.origin()));
        assert_eq!(get(&provider, "A").await.unwrap_err().kind(), kind);
    }
}

#[tokio::test]
async fn error_of_a_malformed_document_names_the_line_and_no_content() {
    let folder = folder(&[("a.json", b"{\n\"a\": \"c4n4ry")]);
    let error = get(&FileProvider::new(folder.path().join("a.json")), "a")
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Malformed);
    assert!(error.message().starts_with("line 2"), "{error}");
    assert!(!format!("{error} {error:?}").contains("c4n4ry"));
}

#[tokio::test]
async fn list_contains_only_readable_keys() {
    let folder = folder(&[
        ("A", b""),
        ("db/USER", b""),
        ("db/deep/er", b""),
        (".hidden", b""),
        (" x", b""),
    ]);
    let provider = FileProvider::directory(folder.path());
    let listed = |prefix: &'static str| {
        let provider = provider.clone();
        async move {
            let keys = provider
                .list(&KeyPrefix::parse(prefix).unwrap())
                .await
                .unwrap();
            keys.iter().map(ToString::to_string).collect::<Vec<_>>()
        }
    };
    assert_eq!(listed("").await, ["A", "db/USER", "db/deep/er"]);
    assert_eq!(listed("db").await, ["db/USER", "db/deep/er"]);
    assert!(listed("none").await.is_empty());
}

#[cfg(unix)]
mod unix {
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[tokio::test]
    async fn each_kind_of_special_file_has_its_own_error() {
        let folder = folder(&[("root/A", b"a"), ("outside", b"c4n4ry")]);
        let root = folder.path().join("root");
        fs::create_dir(root.join("DIR")).unwrap();
        symlink("../outside", root.join("OUT")).unwrap();
        symlink(folder.path().join("outside"), root.join("ABSOLUTE")).unwrap();
        symlink("LOOP", root.join("LOOP")).unwrap();
        symlink("A", root.join("LINK")).unwrap();
        symlink("/dev/zero", root.join("DEVICE")).unwrap();
        let cwd = rustix::fs::CWD;
        let fifo = rustix::fs::FileType::Fifo;
        rustix::fs::mknodat(cwd, root.join("FIFO"), fifo, 0o600.into(), 0).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(root.join("SOCKET")).unwrap();

        let provider = FileProvider::directory(&root);
        assert_eq!(text(&provider, "LINK").await, "a");
        for (key, kind, message) in [
            ("DIR", ErrorKind::Malformed, "a directory"),
            ("FIFO", ErrorKind::Malformed, "a named pipe"),
            ("SOCKET", ErrorKind::Malformed, "a socket"),
            ("LOOP", ErrorKind::Malformed, "loop"),
            ("OUT", ErrorKind::Denied, "out of the directory"),
            ("ABSOLUTE", ErrorKind::Denied, "out of the directory"),
            ("DEVICE", ErrorKind::Denied, "out of the directory"),
            ("..data", ErrorKind::InvalidKey, "reserved for the volume"),
        ] {
            let error = get(&provider, key).await.unwrap_err();
            assert_eq!(error.kind(), kind, "{key}");
            assert!(error.to_string().contains(message), "{key}: {error}");
        }
        let device = FileProvider::document("/dev/zero").format(Format::Env);
        for error in [get(&device, "A").await.err(), device.health().await.err()] {
            assert!(error.unwrap().message().contains("a device"));
        }
    }

    #[tokio::test]
    async fn list_does_not_leave_the_root() {
        let folder = folder(&[
            ("root/..v1/A", b"a"),
            ("root/db/B", b"b"),
            ("outside/C", b"c"),
        ]);
        let root = folder.path().join("root");
        symlink("..v1", root.join("..data")).unwrap();
        symlink("..data/A", root.join("A")).unwrap();
        symlink("db", root.join("inside")).unwrap();
        symlink("../outside", root.join("out")).unwrap();
        symlink("../../outside", root.join("db/out")).unwrap();
        symlink(folder.path().join("outside/C"), root.join("C")).unwrap();

        let provider = FileProvider::directory(&root);
        let list = |prefix| {
            let (provider, prefix) = (provider.clone(), KeyPrefix::parse(prefix).unwrap());
            async move { provider.list(&prefix).await }
        };
        for (prefix, keys) in [
            ("", vec!["A", "db/B"]),
            ("db", vec!["db/B"]),
            ("inside", vec!["inside/B"]),
        ] {
            let listed = list(prefix).await.unwrap();
            let texts: Vec<&str> = listed.iter().map(SecretKey::as_str).collect();
            assert_eq!(texts, keys, "below {prefix:?}");
            for key in &keys {
                assert!(get(&provider, key).await.is_ok(), "{key}");
            }
        }
        for (prefix, kind) in [
            ("out", ErrorKind::Denied),
            ("db/out", ErrorKind::Denied),
            ("..data", ErrorKind::InvalidKey),
            ("db/..data", ErrorKind::InvalidKey),
        ] {
            assert_eq!(list(prefix).await.unwrap_err().kind(), kind, "{prefix}");
        }
    }

    #[tokio::test]
    async fn open_permissions_are_denied_only_with_strict_permissions() {
        let folder = folder(&[("A", b"a")]);
        let provider = FileProvider::directory(folder.path());
        let strict = provider.clone().strict_permissions();
        assert_eq!(text(&strict, "A").await, "a");
        for mode in [0o640, 0o604, 0o644] {
            fs::set_permissions(folder.path().join("A"), fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(text(&provider, "A").await, "a");
            let error = get(&strict, "A").await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Denied);
            assert!(error.to_string().contains(&format!("{mode:o}")), "{error}");
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_file_replaced_during_a_read_is_never_a_mix() {
        let folder = folder(&[("A", b"")]);
        let path = folder.path().join("A");
        let values = ["a".repeat(50_000), "b".repeat(60_000)];
        write(&path, values[0].as_bytes());
        let done = Arc::new(AtomicBool::new(false));
        let writer = std::thread::spawn({
            let (path, values, done) = (path.clone(), values.clone(), done.clone());
            move || {
                let temporary = path.with_extension("new");
                for value in values.iter().cycle() {
                    if done.load(Ordering::Relaxed) {
                        return;
                    }
                    write(&temporary, value.as_bytes());
                    fs::rename(&temporary, &path).unwrap();
                }
            }
        });
        let provider = FileProvider::directory(folder.path());
        for _ in 0..300 {
            let value = text(&provider, "A").await;
            assert!(
                values.contains(&value),
                "{} bytes, from {:?}",
                value.len(),
                value.chars().next()
            );
        }
        done.store(true, Ordering::Relaxed);
        writer.join().unwrap();
    }

    /// Writes a new version of a Kubernetes volume and swaps the link to it, as the kubelet does.
    fn swap_volume(volume: &Path, version: &str, value: &str) {
        let data = volume.join(format!("..{version}"));
        fs::create_dir(&data).unwrap();
        write(&data.join("AUTH_SECRET"), value.as_bytes());
        symlink(format!("..{version}"), volume.join("..data_tmp")).unwrap();
        fs::rename(volume.join("..data_tmp"), volume.join("..data")).unwrap();
        let link = volume.join("AUTH_SECRET");
        if !link.is_symlink() {
            symlink("..data/AUTH_SECRET", link).unwrap();
        }
    }

    #[tokio::test]
    async fn a_swap_of_a_kubernetes_volume_is_reported() {
        let volume = tempfile::tempdir().unwrap();
        swap_volume(volume.path(), "2026_01", "one");
        let provider = FileProvider::directory(volume.path()).strict_permissions();
        let mut changes = provider.watch().unwrap();
        assert_eq!(text(&provider, "AUTH_SECRET").await, "one");
        let keys = provider.list(&KeyPrefix::root()).await.unwrap();
        assert_eq!(keys, [SecretKey::parse("AUTH_SECRET").unwrap()]);

        swap_volume(volume.path(), "2026_02", "two");
        wait_until(&mut changes, &provider, "AUTH_SECRET", "two").await;
    }
}

/// Reads `key` after each change notification until it has `value`.
async fn wait_until(changes: &mut ChangeStream, provider: &FileProvider, key: &str, value: &str) {
    let notified = async {
        loop {
            assert_eq!(changes.next().await.unwrap().unwrap(), Change::All);
            let read = get(provider, key).await;
            if read.is_ok_and(|secret| secret.value.expose_bytes() == value.as_bytes()) {
                return;
            }
        }
    };
    tokio::time::timeout(TIME_LIMIT, notified)
        .await
        .expect("a change is reported within the time limit");
}

#[tokio::test]
async fn a_replaced_document_is_reported() {
    let folder = folder(&[("app.json", b"{\"A\":\"one\"}")]);
    let provider = FileProvider::new(folder.path().join("app.json"));
    let mut changes = provider.watch().unwrap();
    write(&folder.path().join("new"), b"{\"A\":\"two\"}");
    fs::rename(folder.path().join("new"), folder.path().join("app.json")).unwrap();
    wait_until(&mut changes, &provider, "A", "two").await;
}

#[tokio::test(start_paused = true)]
async fn a_directory_that_is_created_removed_and_recreated_is_reported() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("later");
    let provider = FileProvider::directory(&path);
    let mut changes = provider.watch().unwrap();
    for value in ["one", "two"] {
        fs::create_dir(&path).unwrap();
        write(&path.join("A"), value.as_bytes());
        wait_until(&mut changes, &provider, "A", value).await;
        fs::remove_dir_all(&path).unwrap();
        while get(&provider, "A").await.is_ok() {
            changes.next().await.unwrap().unwrap();
        }
    }
}

#[tokio::test]
async fn provider_works_after_its_change_stream_is_dropped() {
    let folder = folder(&[("A", b"a")]);
    let provider = FileProvider::directory(folder.path());
    drop(provider.watch());
    assert_eq!(text(&provider, "A").await, "a");
}
