//! Tests of misplaced files, lists, notices, permissions, watches and URLs.

use secretwell_core::backend::NoticeKind;

use super::*;
use crate::Dialect;

/// Returns the error of each operation on a misplaced source.
async fn errors(provider: &FileProvider) -> Vec<Error> {
    let root = KeyPrefix::root();
    vec![
        get(provider, "A").await.unwrap_err(),
        provider.list(&root).await.unwrap_err(),
        provider.notices(&root).await.unwrap_err(),
        provider.health().await.unwrap_err(),
    ]
}

#[tokio::test]
async fn regular_file_in_place_of_a_directory_is_a_misconfiguration() {
    let folder = folder(&[
        ("env.list", b"A=c4n4ry\n"),
        ("secrets.env.txt", b"A=c4n4ry\n"),
        ("values.yml.j2", b"A: c4n4ry\n"),
        ("list", b"{\"A\": \"c4n4ry\"}"),
        ("PASSWORD", b"c4n4ry\n"),
    ]);
    for (name, hint) in [
        ("env.list", "`?format=env`"),
        ("secrets.env.txt", "`?format=env`"),
        ("values.yml.j2", "`?format=yaml`"),
        ("list", "`?format=json`"),
        ("PASSWORD", "the directory that contains it"),
    ] {
        for error in errors(&FileProvider::new(folder.path().join(name))).await {
            assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{error}");
            let text = error.to_string();
            assert!(
                text.contains("is a regular file, not a directory"),
                "{text}"
            );
            assert!(text.contains(hint), "{text}");
            assert!(!format!("{error:?}{text}").contains("c4n4ry"));
        }
    }
}

#[tokio::test]
async fn directory_in_place_of_a_document_is_a_misconfiguration() {
    let folder = folder(&[(".env/A", b"a"), ("a.yaml/A", b"a")]);
    for name in [".env", "a.yaml"] {
        for error in errors(&FileProvider::new(folder.path().join(name))).await {
            assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{error}");
            assert!(error.to_string().contains("`?format=directory`"), "{error}");
        }
    }
}

#[tokio::test]
async fn parent_that_is_a_file_is_a_misconfiguration() {
    let folder = folder(&[("file", b"a"), ("a.json", b"{}")]);
    for (path, message) in [
        ("file/secrets", "file` is a regular file, not a directory"),
        (
            "file/below/secrets",
            "file` is a regular file, not a directory",
        ),
        ("file/.env", "file` is a regular file, not a directory"),
        ("a.json/", "remove the `/`"),
    ] {
        for error in errors(&FileProvider::new(folder.path().join(path))).await {
            assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{error}");
            assert!(error.to_string().contains(message), "{error}");
        }
    }
}

#[tokio::test]
async fn missing_path_and_null_are_the_only_absences() {
    let folder = folder(&[("a.json", b"{\"A\":null}"), ("root/B", b"b")]);
    let at = |path: &str| FileProvider::new(folder.path().join(path));
    for provider in [
        at("a.json"),
        at("root"),
        at("none"),
        at("none.yaml"),
        at("none/below"),
        at("none/.env"),
    ] {
        let error = get(&provider, "A").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
        assert!(provider.list(&KeyPrefix::root()).await.is_ok());
    }
    assert_eq!(kind(&at("root"), "B/below").await, ErrorKind::NotFound);
}

#[test]
fn each_builder_method_has_a_url_option() {
    let config = |url: &str| {
        let provider = FileProvider::from_url(url).unwrap();
        format!("{provider:?}")
    };
    let directory = || FileProvider::directory("/d");
    let document = || FileProvider::document("/d.env");
    for (url, provider) in [
        ("file:///d", directory()),
        (
            "file:///d?newline=keep",
            directory().keep_trailing_newline(),
        ),
        (
            "file:///d?permissions=strict",
            directory().strict_permissions(),
        ),
        ("file:///d?max_bytes=7", directory().max_bytes(7)),
        ("file:///%64", directory()),
        (
            "file:///d.env?format=directory",
            FileProvider::directory("/d.env"),
        ),
        ("file:///d.env?format=env", document().format(Format::Env)),
        (
            "file:///d.env?dialect=node",
            document().dialect(Dialect::Node),
        ),
        ("file:///d.env?dialect=strict", document()),
        (
            "file:///d.env?rewrite_grace=90s",
            document().rewrite_grace(Duration::from_secs(90)),
        ),
        (
            "file:///d.env?rewrite_grace=1h",
            document().rewrite_grace(Duration::MAX),
        ),
        (
            "file:///d.env?rewrite_grace=0ms",
            document().rewrite_grace(Duration::ZERO),
        ),
        (
            "file:///d?dialect=docker&max_bytes=9&format=env",
            FileProvider::document("/d")
                .format(Format::Env)
                .dialect(Dialect::Docker)
                .max_bytes(9),
        ),
    ] {
        assert_eq!(config(url), format!("{provider:?}"), "{url}");
    }
    for (url, message) in [
        ("file:///d?newline=trim", "use keep"),
        (
            "file:///d?format=ini",
            "use env, json, yaml, toml or directory",
        ),
        (
            "file:///d.env?dialect=compose",
            "use strict, node, docker or shell",
        ),
        ("file:///d?rewrite_grace=30", "such as `30s`"),
        ("file:///d?rewrite_grace=61m", "at most 1 h"),
        (
            "file:///d?rewrite_grace=99999999999999999999h",
            "at most 1 h",
        ),
        ("file:///d?max_bytes=-1", "a number of bytes"),
        ("file:///%+4", "hexadecimal"),
        ("file:///%4", "hexadecimal"),
        ("file:///d?permissions=lax", "use strict"),
        ("file:///d?dialect=node", "a `.env` document only"),
        ("file:///d.json?dialect=node", "a `.env` document only"),
        ("file:///d.json?newline=keep", "a directory only"),
        ("file:///d?max_bytes=1&max_bytes=2", "given twice"),
        ("file:///d?colour", "`rewrite_grace`"),
        ("file:///d?", "`rewrite_grace`"),
    ] {
        let error = FileProvider::from_url(url).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig);
        assert!(error.to_string().contains(message), "{url}: {error}");
    }
}

#[tokio::test]
async fn names_that_are_not_keys_are_noticed_and_not_listed() {
    let folder = folder(&[
        ("root/A", b""),
        ("root/ x", b""),
        ("root/db/B ", b""),
        ("root/.hidden", b""),
    ]);
    let deep = "d/".repeat(18);
    fs::create_dir_all(folder.path().join("root").join(deep)).unwrap();
    let provider = FileProvider::directory(folder.path().join("root"));
    let keys = provider.list(&KeyPrefix::root()).await.unwrap();
    assert_eq!(keys, [SecretKey::parse("A").unwrap()]);
    let notices = provider.notices(&KeyPrefix::root()).await.unwrap();
    let found: Vec<_> = notices
        .iter()
        .map(|it| (it.name.as_str(), it.kind))
        .collect();
    let deepest = "d/".repeat(17) + "d";
    let deepest = &deepest[..deepest.len() - 2];
    let expected = [
        (" x", NoticeKind::NotAKey),
        (deepest, NoticeKind::Unreadable),
        ("db/B ", NoticeKind::NotAKey),
    ];
    assert_eq!(found, expected);
    let below = provider
        .notices(&KeyPrefix::parse("db").unwrap())
        .await
        .unwrap();
    assert_eq!(below.len(), 1);
}

#[tokio::test]
async fn many_notices_are_counted() {
    let folder = tempfile::tempdir().unwrap();
    for number in 0..1_010 {
        write(&folder.path().join(format!(" {number}")), b"");
    }
    let provider = FileProvider::directory(folder.path());
    let notices = provider.notices(&KeyPrefix::root()).await.unwrap();
    assert_eq!(notices.len(), 1_000);
    let last = notices.last().unwrap().to_string();
    assert_eq!(last, "11 further entries cannot be read");
}

#[cfg(unix)]
mod unix {
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[tokio::test]
    async fn links_and_special_files_in_the_place_are_named() {
        let folder = folder(&[]);
        let at = |path: &str| folder.path().join(path);
        let cwd = rustix::fs::CWD;
        let fifo = rustix::fs::FileType::Fifo;
        rustix::fs::mknodat(cwd, at("fifo"), fifo, 0o600.into(), 0).unwrap();
        symlink("later", at("late")).unwrap();
        symlink("later.json", at("late.json")).unwrap();
        symlink("loop", at("loop")).unwrap();
        symlink("loop.json", at("loop.json")).unwrap();
        for (path, kind, message) in [
            (
                "fifo",
                ErrorKind::InvalidConfig,
                "is a named pipe, not a directory",
            ),
            ("late", ErrorKind::NotFound, "`later`, does not exist"),
            (
                "late.json",
                ErrorKind::NotFound,
                "`later.json`, does not exist",
            ),
            ("loop", ErrorKind::Malformed, "loop"),
            ("loop.json", ErrorKind::Malformed, "loop"),
            ("loop/below", ErrorKind::Malformed, "loop"),
        ] {
            let provider = FileProvider::new(at(path));
            for error in [
                get(&provider, "A").await.unwrap_err(),
                provider.health().await.unwrap_err(),
            ] {
                assert_eq!(error.kind(), kind, "{error}");
                assert!(error.to_string().contains(message), "{error}");
            }
        }
    }

    #[tokio::test]
    async fn entries_that_cannot_be_read_are_noticed() {
        let folder = folder(&[("root/A", b"a"), ("outside", b"c4n4ry")]);
        let root = folder.path().join("root");
        symlink("../outside", root.join("OUT")).unwrap();
        symlink("nowhere", root.join("DANGLING")).unwrap();
        symlink("LOOP", root.join("LOOP")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(root.join("SOCKET")).unwrap();
        write(&root.join(std::ffi::OsStr::from_bytes(b"\xff")), b"");

        let provider = FileProvider::directory(&root);
        let keys = provider.list(&KeyPrefix::root()).await.unwrap();
        assert_eq!(keys, [SecretKey::parse("A").unwrap()]);
        let notices = provider.notices(&KeyPrefix::root()).await.unwrap();
        let found = |name: &str| notices.iter().find(|it| it.name == name).unwrap();
        for (name, message) in [
            ("OUT", "out of the directory"),
            ("DANGLING", "`nowhere`, does not exist"),
            ("LOOP", "loop"),
            ("SOCKET", "a socket"),
        ] {
            let notice = found(name);
            assert_eq!(notice.kind, NoticeKind::Unreadable);
            assert!(notice.message.contains(message), "{notice}");
            let key = notice.key.as_ref().unwrap();
            assert!(provider.get(key).await.is_err(), "{name}");
        }
        assert_eq!(found("\u{fffd}").kind, NoticeKind::NotAKey);
        assert_eq!(notices.len(), 5);
    }

    /// Drops the capabilities with which root ignores file permissions, for the current thread and the
    /// threads that it starts.
    #[cfg(target_os = "linux")]
    fn drop_root_capabilities() {
        use rustix::thread::{CapabilitySet, capabilities, set_capabilities};

        let bypass = CapabilitySet::DAC_OVERRIDE | CapabilitySet::DAC_READ_SEARCH;
        let mut sets = capabilities(None).unwrap();
        for set in [&mut sets.effective, &mut sets.permitted] {
            set.remove(bypass);
        }
        set_capabilities(None, sets).unwrap();
    }

    /// Runs a future as a user who is bound to file permissions.
    #[cfg(target_os = "linux")]
    fn as_ordinary_user(future: impl Future<Output = ()> + Send + 'static) {
        let reader = std::thread::spawn(|| {
            drop_root_capabilities();
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_time()
                .build();
            runtime.unwrap().block_on(future);
        });
        reader.join().unwrap();
    }

    fn set_mode(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn unreadable_files_are_denied_and_unhealthy() {
        let folder = folder(&[("A", b"a"), ("a.json", b"{}"), ("closed/A", b"a")]);
        for name in ["A", "a.json", "closed"] {
            set_mode(&folder.path().join(name), 0o000);
        }
        let path = folder.path().to_owned();
        as_ordinary_user(async move {
            let directory = FileProvider::directory(&path);
            assert_eq!(kind(&directory, "A").await, ErrorKind::Denied);
            for refused in [
                FileProvider::new(path.join("a.json")),
                FileProvider::directory(path.join("closed")),
            ] {
                assert_eq!(kind(&refused, "A").await, ErrorKind::Denied);
                let error = refused.health().await.unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
            }
        });
        set_mode(&folder.path().join("closed"), 0o700);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn list_of_an_unsearchable_directory_is_denied() {
        for mode in [0o600, 0o300, 0o000] {
            let folder = folder(&[("root/A", b"a"), ("root/db/B", b"b")]);
            let root = folder.path().join("root");
            for closed in [root.clone(), root.join("db")] {
                set_mode(&closed, mode);
                let root = root.clone();
                as_ordinary_user(async move {
                    let provider = FileProvider::directory(root);
                    for error in [
                        provider.list(&KeyPrefix::root()).await.unwrap_err(),
                        provider.notices(&KeyPrefix::root()).await.unwrap_err(),
                    ] {
                        assert_eq!(error.kind(), ErrorKind::Denied, "{mode:o}: {error}");
                    }
                });
                set_mode(&closed, 0o700);
            }
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn unreadable_file_is_listed_and_denied() {
        let folder = folder(&[("A", b"a")]);
        set_mode(&folder.path().join("A"), 0o000);
        let path = folder.path().to_owned();
        as_ordinary_user(async move {
            let provider = FileProvider::directory(path);
            let keys = provider.list(&KeyPrefix::root()).await.unwrap();
            assert_eq!(keys, [SecretKey::parse("A").unwrap()]);
            assert_eq!(kind(&provider, "A").await, ErrorKind::Denied);
        });
    }
}

#[tokio::test(start_paused = true)]
async fn watch_of_a_large_directory_is_set_up_off_the_runtime() {
    let folder = tempfile::tempdir().unwrap();
    for number in 0..1_500 {
        fs::create_dir(folder.path().join(number.to_string())).unwrap();
    }
    let provider = FileProvider::directory(folder.path());
    let mut changes = provider.watch().unwrap();
    // A change before the first snapshot could have been missed, so everything is reported once.
    assert_eq!(changes.next().await.unwrap().unwrap(), Change::All);
    write(&folder.path().join("0/A"), b"one");
    wait_until(&mut changes, &provider, "0/A", "one").await;
}
