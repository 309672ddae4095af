//! Documents that are rewritten in place, through every consumer: resolver, watch, `LazyAuth` and `run --watch`.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use secretwell::auth::{BuildContext, BuildError, KeyRing, LazyAuth, Mode};
use secretwell::{Freshness, Resolver, SecretProvider, SecretString, from_url};
use serde::Deserialize;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::time::{Instant, sleep, timeout};

use crate::cli::secretwell;
use crate::support::{replace, ring_text, secs};

const STRONG: &str = "a strong secret that is thirty-two bytes long";
const WEAK: &str = "a weak secret that is thirty-two bytes long";

#[derive(Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
struct Secrets {
    #[expect(dead_code, reason = "the ring contains it")]
    auth_secret: SecretString,
}

/// A chain of a document or a directory with the strong secret, and a document with the weak one.
struct Source {
    folder: TempDir,
    name: &'static str,
}

/// The document of each format, and the file of a directory.
const NAMES: [&str; 5] = [
    "live.env",
    "live.json",
    "live.yaml",
    "live.toml",
    "live/AUTH_SECRET",
];

impl Source {
    fn new(name: &'static str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let source = Self { folder, name };
        replace(&source.path(), source.content().as_bytes());
        let weak = format!("AUTH_SECRET='{WEAK}'\n");
        replace(&source.folder.path().join("fallback.env"), weak.as_bytes());
        source
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join(self.name)
    }

    fn url(&self) -> String {
        let folder = self.folder.path().display();
        let name = self.name.split('/').next().unwrap();
        format!("file://{folder}/{name},file://{folder}/fallback.env")
    }

    fn chain(&self) -> Arc<dyn SecretProvider> {
        from_url(&self.url()).unwrap()
    }

    fn content(&self) -> String {
        match self.path().extension().and_then(|it| it.to_str()) {
            Some("env") => format!("FIRST=x\nAUTH_SECRET='{STRONG}'\n"),
            Some("json") => format!("{{\"FIRST\": \"x\",\n\"AUTH_SECRET\": \"{STRONG}\"}}\n"),
            Some("yaml") => format!("FIRST: x\nAUTH_SECRET: {STRONG}\n"),
            Some("toml") => format!("FIRST = 'x'\nAUTH_SECRET = '{STRONG}'\n"),
            _ => STRONG.to_owned(),
        }
    }
}

/// How a writer writes the same content again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Writer {
    Truncate,
    Append,
    Recreate,
    Rename,
    SwapLink,
}

const WRITERS: [Writer; 5] = [
    Writer::Truncate,
    Writer::Append,
    Writer::Recreate,
    Writer::Rename,
    Writer::SwapLink,
];

/// Writes the same content again, with a pause of `gap` in which the file is not complete.
async fn rewrite(source: &Source, writer: Writer, gap: Duration) {
    let (path, content) = (source.path(), source.content());
    let write = |path: &Path, bytes: &[u8]| std::fs::write(path, bytes).unwrap();
    let beside = source.folder.path().join(".beside");
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
            std::fs::remove_file(&path).unwrap();
            sleep(gap).await;
            write(&path, content.as_bytes());
        }
        Writer::Rename => {
            write(&beside, content.as_bytes());
            sleep(gap).await;
            std::fs::rename(&beside, &path).unwrap();
        }
        Writer::SwapLink => {
            let target = path.with_file_name(".target");
            replace(&target, content.as_bytes());
            std::os::unix::fs::symlink(".target", &beside).unwrap();
            sleep(gap).await;
            std::fs::rename(&beside, &path).unwrap();
        }
    }
}

/// Uses a chain in every way while `writing` runs and for `after` more. Asserts that only the strong secret is returned,
/// by every consumer, and that it is never replaced.
async fn assert_unaffected(
    place: &str,
    chain: Arc<dyn SecretProvider>,
    writing: impl Future<Output = ()>,
    after: Duration,
) {
    let resolver = Resolver::new(chain.clone());
    let auth = LazyAuth::builder(Resolver::new(chain))
        .mode(Mode::Production)
        .build(|_: Secrets, context: BuildContext| async move {
            Ok::<KeyRing, BuildError>(context.key_ring("AUTH_SECRET")?)
        });
    let assert_built = |moment: &str| {
        let state = auth.state();
        let generation = state.generation();
        assert_eq!(generation, Some(1), "{place}, {moment}: {state:?}");
        let ring = auth.with(ring_text).unwrap();
        assert_eq!(
            ring,
            (STRONG.to_owned(), STRONG.to_owned()),
            "{place}, {moment}"
        );
    };
    auth.get().await.unwrap();
    let mut watch = resolver.watch(["AUTH_SECRET"]).unwrap();
    let watching = async {
        while let Some(updates) = watch.next().await {
            for update in updates {
                let resolved = update
                    .result
                    .unwrap_or_else(|error| panic!("{place}: {error}"));
                assert_eq!(resolved.value.expose_text().unwrap(), STRONG, "{place}");
            }
        }
    };
    let reading = async {
        loop {
            assert_built("meanwhile");
            let value = resolver
                .get("AUTH_SECRET")
                .await
                .unwrap_or_else(|error| panic!("{place}: {error}"));
            assert_eq!(value.value.expose_text().unwrap(), STRONG, "{place}");
            sleep(Duration::from_millis(17)).await;
        }
    };
    // A forced read meets what the writer has left. It can fail, but not find another secret.
    let forcing = async {
        loop {
            for resolver in [&resolver, auth.resolver()] {
                match resolver.refresh(["AUTH_SECRET"]).await.remove(0) {
                    Ok(value) => assert_eq!(value.value.expose_text().unwrap(), STRONG, "{place}"),
                    Err(error) => assert!(error.is_temporary(), "{place}: {error}"),
                }
            }
            sleep(Duration::from_millis(29)).await;
        }
    };
    let done = async {
        writing.await;
        sleep(after).await;
    };
    tokio::select! {
        () = watching => panic!("{place}: the watch ended"),
        () = reading => {}
        () = forcing => {}
        () = done => {}
    }
    auth.get().await.unwrap();
    assert_built("at the end");
    let is_fresh = async {
        while !matches!(
            resolver.get("AUTH_SECRET").await.unwrap().freshness,
            Freshness::Fresh
        ) {
            sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(secs(30), is_fresh).await.expect(place);
}

#[tokio::test(start_paused = true)]
async fn rewrite_in_place_keeps_the_generation() {
    for name in NAMES {
        for writer in WRITERS {
            for gap in [0, 5, 20, 30, 240, 1_000] {
                // A file that is missing for longer is absent.
                if writer == Writer::Recreate && gap > 250 {
                    continue;
                }
                let source = Source::new(name);
                let place = format!("{name} {writer:?} {gap} ms");
                let writing = async {
                    sleep(Duration::from_millis(50)).await;
                    rewrite(&source, writer, Duration::from_millis(gap)).await;
                };
                assert_unaffected(&place, source.chain(), writing, secs(3)).await;
            }
        }
    }
}

/// The same with the clock and the notifications of the machine, and six edits.
#[tokio::test]
async fn edits_in_place_are_not_seen_by_a_service() {
    let source = Source::new("live.env");
    let writing = async {
        for gap in [30, 30, 30, 20, 20, 1_000] {
            sleep(Duration::from_millis(100)).await;
            rewrite(&source, Writer::Truncate, Duration::from_millis(gap)).await;
        }
    };
    assert_unaffected("live.env", source.chain(), writing, secs(3)).await;
}

#[tokio::test(start_paused = true)]
async fn document_that_stays_empty_is_absent_after_the_grace() {
    let source = Source::new("live.env");
    let resolver = Resolver::new(source.chain());
    let value = async || {
        let resolved = resolver.get("AUTH_SECRET").await.unwrap();
        resolved.value.expose_text().unwrap().to_owned()
    };
    assert_eq!(value().await, STRONG);
    std::fs::write(source.path(), "").unwrap();
    let start = Instant::now();
    while start.elapsed() < secs(60) {
        let _ = resolver.refresh(["AUTH_SECRET"]).await;
        assert_eq!(value().await, STRONG, "after {:?}", start.elapsed());
        sleep(secs(1)).await;
    }
    sleep(secs(5)).await;
    let _ = resolver.refresh(["AUTH_SECRET"]).await;
    assert_eq!(value().await, WEAK);
}

#[tokio::test(start_paused = true)]
async fn document_that_was_malformed_for_long_is_corrected_without_the_fallback() {
    for name in ["live.json", "live.yaml", "live.toml"] {
        let source = Source::new(name);
        let resolver = Resolver::new(source.chain());
        let refreshed = async || resolver.refresh(["AUTH_SECRET"]).await.remove(0);
        assert!(refreshed().await.is_ok());
        std::fs::write(source.path(), "{ \"").unwrap();
        sleep(secs(1)).await;
        let _ = refreshed().await;
        sleep(secs(90)).await;
        let stale = refreshed().await.unwrap().freshness;
        assert!(
            format!("{stale:?}").contains("malformed"),
            "{name}: {stale:?}"
        );
        let correcting = rewrite(&source, Writer::Truncate, secs(1));
        let reading = async {
            for _ in 0..60 {
                if let Ok(value) = refreshed().await {
                    assert_eq!(value.value.expose_text().unwrap(), STRONG, "{name}");
                }
                sleep(Duration::from_millis(29)).await;
            }
        };
        tokio::join!(correcting, reading);
        sleep(secs(3)).await;
        assert!(refreshed().await.is_ok(), "{name}");
    }
}

#[tokio::test]
async fn supervised_program_is_not_restarted_by_a_rewrite() {
    let source = Source::new("live.env");
    let arguments = ["run", "--watch", "--only", "AUTH_SECRET"];
    let urls = source.url();
    let from = urls.split(',').flat_map(|url| ["--from", url]);
    let program = [
        "--",
        "sh",
        "-c",
        "trap 'exit 0' TERM; echo \"$AUTH_SECRET\"; while :; do sleep 0.02; done",
    ];
    let command = secretwell(arguments.into_iter().chain(from).chain(program));
    let mut supervisor = tokio::process::Command::from(command)
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(supervisor.stdout.take().unwrap()).lines();
    let mut started = async || timeout(secs(60), lines.next_line()).await.unwrap().unwrap();
    assert_eq!(started().await.as_deref(), Some(STRONG));
    for gap in [0, 30, 500] {
        rewrite(&source, Writer::Truncate, Duration::from_millis(gap)).await;
        sleep(Duration::from_millis(300)).await;
    }
    let new = "another strong secret, 32 bytes or more";
    replace(&source.path(), format!("AUTH_SECRET='{new}'\n").as_bytes());
    assert_eq!(
        started().await.as_deref(),
        Some(new),
        "the program starts once for each secret"
    );
}
