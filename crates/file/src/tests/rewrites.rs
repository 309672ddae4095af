//! Tests of files that are rewritten while they are read.

use std::path::PathBuf;

use tokio::time::{Instant, sleep};

use super::*;

const OLD: &str = "the old secret";
const NEW: &str = "the new secret";

/// How a writer brings a file to its new content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Writer {
    /// Truncates the file, waits and writes it.
    Truncate,
    /// Truncates the file, writes a part, waits and writes the rest.
    Append,
    /// Removes the file, waits and creates it.
    Recreate,
    /// Removes the file, creates it empty, waits and writes it.
    Create,
    Rename,
    #[cfg(unix)]
    SwapLink,
}

/// A source with one secret, and a file with the content for a value.
struct Source {
    folder: TempDir,
    name: &'static str,
}

impl Source {
    fn new(name: &'static str) -> Self {
        let source = Self {
            folder: tempfile::tempdir().unwrap(),
            name,
        };
        write(&source.path(), source.content(OLD).as_bytes());
        source
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join(self.name)
    }

    fn provider(&self) -> FileProvider {
        match self.name {
            "A" => FileProvider::directory(self.folder.path()),
            _ => FileProvider::document(self.path()),
        }
    }

    fn content(&self, value: &str) -> String {
        match self.name {
            "A" => value.to_owned(),
            "a.json" => format!("{{\"FIRST\": \"1\",\n\"A\": \"{value}\"}}\n"),
            "a.yaml" | "a.yml" => format!("FIRST: x\nA: {value}\n"),
            "a.toml" => format!("FIRST = 'x'\nA = '{value}'\n"),
            _ => format!("FIRST=x\nA='{value}'\n"),
        }
    }

    /// Writes the new content, with a pause of `gap` in which the file is not complete.
    async fn rewrite(&self, writer: Writer, gap: Duration) {
        let (path, content) = (self.path(), self.content(NEW));
        let beside = self.folder.path().join(".beside");
        match writer {
            Writer::Truncate => {
                write(&path, b"");
                sleep(gap).await;
                write(&path, content.as_bytes());
            }
            Writer::Append => {
                let first_line = content.find('\n').map_or(0, |end| end + 1);
                write(&path, &content.as_bytes()[..first_line]);
                sleep(gap).await;
                write(&path, content.as_bytes());
            }
            Writer::Recreate => {
                fs::remove_file(&path).unwrap();
                sleep(gap).await;
                write(&path, content.as_bytes());
            }
            Writer::Create => {
                fs::remove_file(&path).unwrap();
                write(&path, b"");
                sleep(gap).await;
                write(&path, content.as_bytes());
            }
            Writer::Rename => {
                write(&beside, content.as_bytes());
                sleep(gap).await;
                fs::rename(&beside, &path).unwrap();
            }
            #[cfg(unix)]
            Writer::SwapLink => {
                let target = self.folder.path().join(".target");
                write(&target, content.as_bytes());
                std::os::unix::fs::symlink(".target", &beside).unwrap();
                sleep(gap).await;
                fs::rename(&beside, &path).unwrap();
            }
        }
    }
}

const NAMES: [&str; 6] = [".env", "a.json", "a.yaml", "a.yml", "a.toml", "A"];

#[tokio::test(start_paused = true)]
async fn rewritten_file_is_never_absent_or_half_read() {
    let writers = [
        Writer::Truncate,
        Writer::Append,
        Writer::Recreate,
        Writer::Create,
        Writer::Rename,
        #[cfg(unix)]
        Writer::SwapLink,
    ];
    for name in NAMES {
        for writer in writers {
            for gap in [0, 5, 20, 30, 240, 1_000] {
                // A file that is missing for longer is absent.
                if writer == Writer::Recreate && gap > 250 {
                    continue;
                }
                let source = Source::new(name);
                let provider = source.provider();
                assert_eq!(text(&provider, "A").await, OLD);
                let end = Instant::now() + Duration::from_secs(4);
                let read = async {
                    let mut values = Vec::new();
                    while Instant::now() < end {
                        match get(&provider, "A").await {
                            Ok(secret) => {
                                values.push(secret.value.expose_text().unwrap().to_owned())
                            }
                            Err(error) => {
                                assert!(error.is_temporary(), "{name} {writer:?} {gap}: {error}");
                                assert_eq!(error.backoff_limit(), Some(Duration::from_secs(1)));
                            }
                        }
                        sleep(Duration::from_millis(19)).await;
                    }
                    values
                };
                let rewrite = source.rewrite(writer, Duration::from_millis(gap));
                let (values, ()) = tokio::join!(read, rewrite);
                let place = format!("{name} {writer:?} {gap} ms");
                assert!(
                    values.iter().all(|it| it == OLD || it == NEW),
                    "{place}: {values:?}"
                );
                assert_eq!(values.last().map(String::as_str), Some(NEW), "{place}");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn emptied_document_is_absent_after_the_grace_only() {
    for name in &NAMES[..5] {
        for by_rename in [false, true] {
            let source = Source::new(name);
            let provider = source.provider();
            assert_eq!(text(&provider, "A").await, OLD);
            if by_rename {
                write(&source.folder.path().join(".new"), b" \n");
                fs::rename(source.folder.path().join(".new"), source.path()).unwrap();
            } else {
                write(&source.path(), b"");
            }
            let start = Instant::now();
            let root = KeyPrefix::root();
            while start.elapsed() < Duration::from_secs(60) {
                assert_eq!(kind(&provider, "A").await, ErrorKind::Unavailable);
                let listed = provider.list(&root).await.unwrap_err();
                assert_eq!(listed.kind(), ErrorKind::Unavailable);
                assert!(provider.health().await.is_err());
                sleep(Duration::from_secs(7)).await;
            }
            sleep(Duration::from_secs(5)).await;
            let listed = provider.list(&root).await;
            match name.ends_with(".json") {
                // Nothing is never valid JSON.
                true => {
                    assert_eq!(kind(&provider, "A").await, ErrorKind::Malformed);
                    assert_eq!(listed.unwrap_err().kind(), ErrorKind::Malformed);
                }
                false => {
                    assert_eq!(kind(&provider, "A").await, ErrorKind::NotFound);
                    assert!(listed.unwrap().is_empty());
                }
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn rewrite_grace_is_configurable() {
    let source = Source::new(".env");
    let provider = source.provider().rewrite_grace(Duration::ZERO);
    assert_eq!(text(&provider, "A").await, OLD);
    write(&source.path(), b"");
    assert_eq!(kind(&provider, "A").await, ErrorKind::NotFound);
}

#[tokio::test(start_paused = true)]
async fn key_removed_in_place_is_absent_after_the_grace_only() {
    for (name, rest) in [
        (".env", "FIRST=x\n"),
        ("a.json", "{\"FIRST\": \"x\"}"),
        ("a.yaml", "FIRST: x\n"),
        ("a.toml", "FIRST = 'x'\n"),
    ] {
        let source = Source::new(name);
        let provider = source.provider();
        assert!(get(&provider, "FIRST").await.is_ok());
        write(&source.path(), rest.as_bytes());
        // The key was never read, and yet it is known.
        assert_eq!(kind(&provider, "A").await, ErrorKind::Unavailable, "{name}");
        assert_eq!(text(&provider, "FIRST").await, "x");
        assert_eq!(kind(&provider, "NEVER").await, ErrorKind::NotFound);
        let listed = provider.list(&KeyPrefix::root()).await.unwrap_err();
        assert_eq!(listed.kind(), ErrorKind::Unavailable);
        assert!(provider.health().await.is_ok());
        sleep(Duration::from_secs(61)).await;
        assert_eq!(kind(&provider, "A").await, ErrorKind::NotFound, "{name}");
        assert_eq!(provider.list(&KeyPrefix::root()).await.unwrap().len(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn document_that_is_damaged_in_place_is_malformed_after_the_grace_only() {
    let source = Source::new("a.json");
    let provider = source.provider();
    assert_eq!(text(&provider, "A").await, OLD);
    write(&source.path(), b"{\"A\": \"the old");
    assert_eq!(kind(&provider, "A").await, ErrorKind::Unavailable);
    sleep(Duration::from_secs(61)).await;
    assert_eq!(kind(&provider, "A").await, ErrorKind::Malformed);
}

#[tokio::test(start_paused = true)]
async fn document_replaced_by_rename_counts_at_once() {
    let source = Source::new("a.yaml");
    let provider = source.provider();
    assert_eq!(text(&provider, "A").await, OLD);
    let start = Instant::now();
    source.rewrite(Writer::Rename, Duration::ZERO).await;
    assert_eq!(text(&provider, "A").await, NEW);
    let new = source.folder.path().join(".new");
    write(&new, b"FIRST: x\n");
    fs::rename(new, source.path()).unwrap();
    assert_eq!(kind(&provider, "A").await, ErrorKind::NotFound);
    // The absence from a file that is so young is confirmed once.
    assert!(start.elapsed() <= Duration::from_millis(300));
}

#[tokio::test(start_paused = true)]
async fn empty_json_document_is_malformed() {
    for content in ["", " \n", "\u{feff}"] {
        let folder = folder(&[("a.json", content.as_bytes())]);
        let provider = FileProvider::new(folder.path().join("a.json"));
        assert_eq!(kind(&provider, "A").await, ErrorKind::Malformed);
        let listed = provider.list(&KeyPrefix::root()).await;
        assert_eq!(listed.unwrap_err().kind(), ErrorKind::Malformed);
        assert!(provider.health().await.is_err());
    }
}

#[tokio::test(start_paused = true)]
async fn first_read_of_an_empty_document_is_empty() {
    let folder = folder(&[(".env", b""), ("a.yaml", b" "), ("dir/A", b"")]);
    for name in [".env", "a.yaml"] {
        let provider = FileProvider::new(folder.path().join(name));
        assert_eq!(kind(&provider, "A").await, ErrorKind::NotFound);
        assert!(provider.list(&KeyPrefix::root()).await.unwrap().is_empty());
        assert!(provider.health().await.is_ok());
    }
    let directory = FileProvider::directory(folder.path().join("dir"));
    assert_eq!(text(&directory, "A").await, "");
}

#[tokio::test(start_paused = true)]
async fn removed_file_is_absent_after_a_second_look() {
    for name in ["A", ".env"] {
        let source = Source::new(name);
        let provider = source.provider();
        assert_eq!(text(&provider, "A").await, OLD);
        fs::remove_file(source.path()).unwrap();
        let start = Instant::now();
        assert!(provider.list(&KeyPrefix::root()).await.unwrap().is_empty());
        assert!(start.elapsed() >= Duration::from_millis(250), "{name}");
        assert_eq!(kind(&provider, "A").await, ErrorKind::NotFound);
        assert!(start.elapsed() < Duration::from_millis(500), "{name}");
    }
}

#[cfg(unix)]
#[tokio::test(start_paused = true)]
async fn file_that_is_created_before_its_permissions_is_not_denied() {
    use std::os::unix::fs::PermissionsExt;

    let source = Source::new(".env");
    let provider = source.provider().strict_permissions();
    assert_eq!(text(&provider, "A").await, OLD);
    let set_mode =
        |mode| fs::set_permissions(source.path(), fs::Permissions::from_mode(mode)).unwrap();
    set_mode(0o644);
    let correct = async {
        sleep(Duration::from_millis(100)).await;
        set_mode(0o600);
    };
    let (value, ()) = tokio::join!(text(&provider, "A"), correct);
    assert_eq!(value, OLD);
    set_mode(0o644);
    assert_eq!(kind(&provider, "A").await, ErrorKind::Denied);
}

#[tokio::test(start_paused = true)]
async fn other_files_of_a_directory_are_read_during_a_rewrite() {
    let folder = folder(&[("A", b"a"), ("B", b"b")]);
    let provider = FileProvider::directory(folder.path());
    let keys = ["A", "B"].map(|key| SecretKey::parse(key).unwrap());
    assert!(provider.get_many(&keys).await.iter().all(Result::is_ok));
    write(&folder.path().join("A"), b"");
    for is_first in [true, false] {
        let start = Instant::now();
        let [a, b] = provider.get_many(&keys).await.try_into().unwrap();
        assert_eq!(a.unwrap_err().kind(), ErrorKind::Unavailable);
        assert_eq!(b.unwrap().value.expose_bytes(), b"b");
        let waited = start.elapsed();
        assert_eq!(waited >= Duration::from_secs(1), is_first, "{waited:?}");
        sleep(Duration::from_secs(1)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn clones_share_what_is_known_of_a_file() {
    let source = Source::new(".env");
    let provider = source.provider();
    assert_eq!(text(&provider.clone(), "A").await, OLD);
    write(&source.path(), b"");
    assert_eq!(kind(&provider.clone(), "A").await, ErrorKind::Unavailable);
}

/// Writes the rest of a document 100 ms after the start.
async fn complete(path: &Path, content: &str) {
    sleep(Duration::from_millis(100)).await;
    write(path, content.as_bytes());
}

#[tokio::test(start_paused = true)]
async fn half_of_a_new_document_is_not_taken_for_the_whole() {
    for (name, half, whole) in [
        (".env", "FIRST=x\n", "FIRST=x\nA=v\n"),
        ("a.yaml", "FIRST: x\n", "FIRST: x\nA: v\n"),
        ("a.toml", "FIRST = 'x'\n", "FIRST = 'x'\nA = 'v'\n"),
    ] {
        let folder = folder(&[(name, half.as_bytes())]);
        let path = folder.path().join(name);
        let (read, listed) = [(); 2].map(|()| FileProvider::new(&path)).into();
        // The content counts for one key, which proves nothing about another one.
        assert_eq!(text(&read, "FIRST").await, "x");
        assert_eq!(text(&listed, "FIRST").await, "x");
        let root = KeyPrefix::root();
        let all = async { tokio::join!(text(&read, "A"), listed.list(&root)) };
        let ((value, keys), ()) = tokio::join!(all, complete(&path, whole));
        assert_eq!(value, "v", "{name}");
        assert_eq!(keys.unwrap().len(), 2, "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn last_value_of_a_new_document_is_not_cut() {
    for (name, half, whole) in [
        (".env", "A=the new", "A=the new secret\n"),
        ("a.yaml", "A: the new", "A: the new secret\n"),
        ("a.toml", "N = 1\nA = 12", "N = 1\nA = 123\n"),
    ] {
        let folder = folder(&[(name, half.as_bytes())]);
        let path = folder.path().join(name);
        let provider = FileProvider::new(&path);
        let (value, ()) = tokio::join!(text(&provider, "A"), complete(&path, whole));
        assert!(
            whole.contains(&value) && value.len() > 2 && value != "the new",
            "{name}: {value}"
        );
    }
}

#[cfg(unix)]
#[tokio::test(start_paused = true)]
async fn document_that_was_unreadable_is_not_forgotten() {
    use std::os::unix::fs::PermissionsExt;

    let source = Source::new(".env");
    let provider = source.provider().strict_permissions();
    assert_eq!(text(&provider, "A").await, OLD);
    let mode = |mode| fs::set_permissions(source.path(), fs::Permissions::from_mode(mode)).unwrap();
    mode(0o644);
    for _ in 0..3 {
        let start = Instant::now();
        assert_eq!(kind(&provider, "A").await, ErrorKind::Denied);
        assert!(start.elapsed() <= Duration::from_millis(250));
        sleep(Duration::from_secs(20)).await;
    }
    write(&source.path(), b"");
    mode(0o600);
    assert_eq!(kind(&provider, "A").await, ErrorKind::Unavailable);
    sleep(Duration::from_secs(61)).await;
    assert_eq!(kind(&provider, "A").await, ErrorKind::NotFound);
}

/// Sets a modification time that no earlier write has, because the clock of a file system is coarse.
fn set_distinct_time(path: &Path) {
    let file = fs::File::options().append(true).open(path).unwrap();
    let modified = file.metadata().unwrap().modified().unwrap();
    file.set_modified(modified + Duration::from_millis(1))
        .unwrap();
}

#[tokio::test(start_paused = true)]
async fn each_write_starts_the_grace_again() {
    // A document that was malformed for long is corrected in two steps.
    let source = Source::new("a.json");
    let provider = source.provider();
    assert_eq!(text(&provider, "A").await, OLD);
    write(&source.path(), b"{");
    assert_eq!(kind(&provider, "A").await, ErrorKind::Unavailable);
    sleep(Duration::from_secs(61)).await;
    assert_eq!(kind(&provider, "A").await, ErrorKind::Malformed);
    write(&source.path(), b"");
    assert_eq!(kind(&provider, "A").await, ErrorKind::Unavailable);

    // The writes between two reads are not seen, apart from the last one.
    for (rest, name) in [("", "A"), ("FIRST=x\n", "A")] {
        let source = Source::new(".env");
        let provider = source.provider();
        assert_eq!(text(&provider, name).await, OLD);
        for _ in 0..3 {
            write(&source.path(), source.content(NEW).as_bytes());
            write(&source.path(), rest.as_bytes());
            set_distinct_time(&source.path());
            assert_eq!(
                kind(&provider, name).await,
                ErrorKind::Unavailable,
                "{rest:?}"
            );
            sleep(Duration::from_secs(61)).await;
        }
        assert_eq!(kind(&provider, name).await, ErrorKind::NotFound, "{rest:?}");
    }
}
