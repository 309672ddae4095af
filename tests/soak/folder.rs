//! The events of the files.

use std::path::PathBuf;

use tempfile::TempDir;

use super::observed::Process;
use super::schedule::Schedule;
use super::{Kinds, Source, write};

/// A directory with one secret.
pub(super) struct Folder(TempDir);

#[derive(Debug, Clone, Copy)]
enum Kind {
    /// A new file is renamed to the name of the secret.
    Swap,
    SwapTwice,
    /// The file is emptied, and written later.
    Rewrite,
    /// The file is removed, and created later.
    Absent,
    Weak,
    /// The directory is renamed, and another one takes its place.
    SwapDirectory,
    Revoke,
}

const KINDS: &[Kind] = &[
    Kind::Swap,
    Kind::SwapTwice,
    Kind::Rewrite,
    Kind::Absent,
    Kind::Weak,
    Kind::SwapDirectory,
    Kind::Revoke,
];

impl Folder {
    pub(super) fn new() -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        std::fs::create_dir(folder.path()).unwrap();
        folder
    }

    pub(super) fn path(&self) -> PathBuf {
        self.0.path().join("secrets")
    }

    fn file(&self) -> PathBuf {
        self.path().join("AUTH_SECRET")
    }

    pub(super) fn write_first(&self, source: &Source) {
        source.write(&source.soak.marks.strong(), true, |text| {
            write(&self.file(), text);
        });
    }

    pub(super) async fn run(
        &self,
        source: &Source,
        process: &Process,
        mut schedule: Schedule,
    ) -> Kinds {
        while !source.soak.is_over() {
            let event = schedule.next(KINDS);
            tokio::time::sleep(event.pause).await;
            source.log(format_args!("{:?} for {:?}", event.kind, event.length));
            let strong = source.soak.marks.strong();
            let file = self.file();
            let swap = |text: &str| write(&file, text);
            match event.kind {
                Kind::Swap => source.write(&strong, true, swap),
                Kind::SwapTwice => {
                    source.write(&strong, true, swap);
                    tokio::time::sleep(event.pause / 4).await;
                    source.write(&source.soak.marks.strong(), true, swap);
                }
                Kind::Rewrite => {
                    let rewrite = async {
                        std::fs::write(&file, "").unwrap();
                        tokio::time::sleep(event.length).await;
                        source.write(&strong, true, |text| std::fs::write(&file, text).unwrap());
                    };
                    source.disturbed(rewrite).await;
                    continue;
                }
                Kind::Absent => {
                    source.remove(|| std::fs::remove_file(&file).unwrap());
                    source.recovered().await;
                    tokio::time::sleep(event.length).await;
                    source.write(&strong, true, swap);
                }
                Kind::Weak => {
                    source.write(&source.soak.marks.weak(), false, swap);
                    source.recovered().await;
                    tokio::time::sleep(event.length).await;
                    source.write(&strong, true, swap);
                }
                Kind::SwapDirectory => {
                    source.write(&strong, true, |text| self.swap_directory(text));
                }
                Kind::Revoke => {
                    source.write(&strong, true, swap);
                    source.recovered().await;
                    source.revoke(process).await;
                }
            }
            source.recovered().await;
        }
        schedule.counts(source.name, KINDS)
    }

    /// Replaces the directory, as a deployment does it. For a moment, it does not exist.
    fn swap_directory(&self, text: &str) {
        let at = |name: &str| self.0.path().join(name);
        std::fs::create_dir(at("new")).unwrap();
        write(&at("new").join("AUTH_SECRET"), text);
        std::fs::rename(self.path(), at("old")).unwrap();
        std::fs::rename(at("new"), self.path()).unwrap();
        std::fs::remove_dir_all(at("old")).unwrap();
    }
}
