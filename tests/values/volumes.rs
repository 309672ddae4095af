//! A volume of Kubernetes that is swapped while a service watches its keys.

use std::collections::HashMap;
use std::path::Path;

use secretwell::Resolver;
use secretwell::file::FileProvider;

use crate::support::{replace, secs};

const KEYS: [&str; 8] = ["A", "B", "C", "D", "E", "F", "G", "H"];

/// Publishes a generation of a volume as the kubelet does, and removes the previous one.
fn publish(volume: &Path, generation: u32) {
    let directory = volume.join(format!("..{generation}"));
    for key in KEYS {
        replace(&directory.join(key), generation.to_string().as_bytes());
    }
    let previous = std::fs::read_link(volume.join("..data"));
    std::os::unix::fs::symlink(format!("..{generation}"), volume.join("..data_tmp")).unwrap();
    std::fs::rename(volume.join("..data_tmp"), volume.join("..data")).unwrap();
    if let Ok(previous) = previous {
        std::fs::remove_dir_all(volume.join(previous)).unwrap();
        return;
    }
    for key in KEYS {
        std::os::unix::fs::symlink(format!("..data/{key}"), volume.join(key)).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watch_delivers_no_set_that_never_existed() {
    const LAST: u32 = 300;
    let volume = tempfile::tempdir().unwrap();
    publish(volume.path(), 1);
    let resolver = Resolver::new(FileProvider::directory(volume.path()));
    let mut watch = resolver.watch(KEYS).unwrap();
    let path = volume.path().to_owned();
    let swaps = tokio::spawn(async move {
        for generation in 2..=LAST {
            publish(&path, generation);
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    });
    // What a consumer has after each delivery.
    let mut current: HashMap<String, String> = HashMap::new();
    let delivered = async {
        loop {
            for update in watch.next().await.unwrap() {
                let resolved = update.result.unwrap();
                let value = resolved.value.expose_text().unwrap().to_owned();
                current.insert(update.key.to_string(), value);
            }
            let generation = &current["A"];
            assert_eq!(current.len(), KEYS.len());
            assert!(current.values().all(|it| it == generation), "{current:?}");
            if *generation == LAST.to_string() {
                return;
            }
        }
    };
    tokio::time::timeout(secs(120), delivered).await.unwrap();
    swaps.await.unwrap();
}
