//! Tests of directories whose files are replaced together, as in a volume of Kubernetes.

use std::os::unix::fs::symlink;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;

const KEYS: [&str; 8] = ["A", "B", "C", "D", "E", "F", "G", "deep/H"];

fn keys(names: &[&str]) -> Vec<SecretKey> {
    names
        .iter()
        .map(|name| SecretKey::parse(name).unwrap())
        .collect()
}

/// Writes a generation of a volume, swaps the link to it and removes the previous one, as the kubelet does.
fn publish(volume: &Path, generation: usize, names: &[&str]) {
    let directory = volume.join(format!("..{generation}"));
    for name in names {
        let path = directory.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        write(&path, generation.to_string().as_bytes());
    }
    let previous = fs::read_link(volume.join("..data"));
    symlink(format!("..{generation}"), volume.join("..data_tmp")).unwrap();
    fs::rename(volume.join("..data_tmp"), volume.join("..data")).unwrap();
    for name in names {
        let first = name.split('/').next().unwrap();
        if !volume.join(first).is_symlink() {
            symlink(format!("..data/{first}"), volume.join(first)).unwrap();
        }
    }
    if let Ok(previous) = previous {
        fs::remove_dir_all(volume.join(previous)).unwrap();
    }
}

/// Swaps generations, `count` times, while `is_swapping`.
fn swap(
    count: usize,
    is_swapping: &Arc<AtomicBool>,
    mut swap: impl FnMut(usize) + Send + 'static,
) -> std::thread::JoinHandle<()> {
    let is_swapping = is_swapping.clone();
    std::thread::spawn(move || {
        (2..count).for_each(&mut swap);
        is_swapping.store(false, Ordering::Relaxed);
    })
}

/// Reads batches while `is_swapping`, and asserts that each of them is of one generation. A volume that is replaced
/// faster than it can be read is a temporary error. Returns the number of complete batches.
async fn read_batches(provider: FileProvider, names: &[&str], is_swapping: &AtomicBool) -> usize {
    let keys = keys(names);
    let mut complete = 0;
    while is_swapping.load(Ordering::Relaxed) || complete == 0 {
        let mut values = Vec::new();
        for result in provider.get_many(&keys).await {
            match result {
                Ok(secret) => values.push(secret.value.expose_text().unwrap().to_owned()),
                Err(error) => assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}"),
            }
        }
        complete += usize::from(values.len() == keys.len());
        values.dedup();
        assert!(values.len() <= 1, "{values:?}");
    }
    complete
}

#[tokio::test(flavor = "multi_thread")]
async fn batch_during_swaps_has_one_generation() {
    let volume = tempfile::tempdir().unwrap();
    publish(volume.path(), 1, &KEYS);
    let is_swapping = Arc::new(AtomicBool::new(true));
    let path = volume.path().to_owned();
    let swaps = swap(300, &is_swapping, move |generation| {
        publish(&path, generation, &KEYS);
    });
    let readers: Vec<_> = (0..4)
        .map(|_| {
            let provider = FileProvider::directory(volume.path());
            let is_swapping = is_swapping.clone();
            tokio::spawn(async move { read_batches(provider, &KEYS, &is_swapping).await })
        })
        .collect();
    for reader in readers {
        assert!(reader.await.unwrap() > 0);
    }
    swaps.join().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn nested_volumes_and_swapped_roots_are_read_from_one_generation() {
    let folder = tempfile::tempdir().unwrap();
    let volume = folder.path().join("root/volume");
    publish(&volume, 1, &KEYS);
    let publish_root = {
        let folder = folder.path().to_owned();
        move |generation: usize| {
            let version = format!("v{generation}");
            for name in ["A", "B"] {
                let path = folder.join(&version).join(name);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                write(&path, generation.to_string().as_bytes());
            }
            symlink(&version, folder.join("next")).unwrap();
            fs::rename(folder.join("next"), folder.join("current")).unwrap();
            let _ = fs::remove_dir_all(folder.join(format!("v{}", generation - 1)));
        }
    };
    publish_root(1);
    let nested = KEYS.map(|key| format!("volume/{key}"));
    let nested = nested.each_ref().map(String::as_str);
    let is_swapping = Arc::new(AtomicBool::new(true));
    let swaps = swap(300, &is_swapping, move |generation| {
        publish(&volume, generation, &KEYS);
    });
    let provider = FileProvider::directory(folder.path().join("root"));
    read_batches(provider, &nested, &is_swapping).await;
    swaps.join().unwrap();

    let is_swapping = Arc::new(AtomicBool::new(true));
    let swaps = swap(300, &is_swapping, publish_root);
    let provider = FileProvider::directory(folder.path().join("current"));
    read_batches(provider, &["A", "B"], &is_swapping).await;
    swaps.join().unwrap();
}

#[tokio::test]
async fn list_shows_one_generation_and_no_internal_names() {
    let volume = tempfile::tempdir().unwrap();
    publish(volume.path(), 1, &KEYS);
    write(&volume.path().join("PLAIN"), b"plain");
    let provider = FileProvider::directory(volume.path());
    let listed = provider.list(&KeyPrefix::root()).await.unwrap();
    let expected = keys(&["A", "B", "C", "D", "E", "F", "G", "PLAIN", "deep/H"]);
    assert_eq!(listed, expected);
    let below = provider
        .list(&KeyPrefix::parse("deep").unwrap())
        .await
        .unwrap();
    assert_eq!(below, keys(&["deep/H"]));
    assert!(
        provider
            .notices(&KeyPrefix::root())
            .await
            .unwrap()
            .is_empty()
    );
    for result in provider.get_many(&listed).await {
        assert!(result.is_ok());
    }

    // The link of a new file is created after the generation, and the link of an old one is removed later.
    publish(volume.path(), 2, &["A", "NEW"]);
    fs::remove_file(volume.path().join("NEW")).unwrap();
    assert_eq!(text(&provider, "NEW").await, "2");
    let listed = provider.list(&KeyPrefix::root()).await.unwrap();
    assert_eq!(listed, keys(&["A", "NEW", "PLAIN"]));
    assert_eq!(kind(&provider, "B").await, ErrorKind::NotFound);
}

#[tokio::test(start_paused = true)]
async fn new_generation_counts_as_a_whole_at_once() {
    let volume = tempfile::tempdir().unwrap();
    publish(volume.path(), 1, &["A", "B", "C"]);
    let provider = FileProvider::directory(volume.path());
    let keys = keys(&["A", "B", "C"]);
    assert!(provider.get_many(&keys).await.iter().all(Result::is_ok));
    // The second generation empties one secret and removes another one.
    let start = tokio::time::Instant::now();
    let next = volume.path().join("..2");
    fs::create_dir(&next).unwrap();
    write(&next.join("A"), b"2");
    write(&next.join("B"), b"");
    symlink("..2", volume.path().join("..data_tmp")).unwrap();
    fs::rename(
        volume.path().join("..data_tmp"),
        volume.path().join("..data"),
    )
    .unwrap();
    let [a, b, c] = provider.get_many(&keys).await.try_into().unwrap();
    assert_eq!(a.unwrap().value.expose_bytes(), b"2");
    assert_eq!(b.unwrap().value.expose_bytes(), b"");
    assert_eq!(c.unwrap_err().kind(), ErrorKind::NotFound);
    assert!(start.elapsed() <= Duration::from_millis(300));
}

#[tokio::test]
async fn key_below_a_volume_cannot_leave_the_root() {
    let folder = folder(&[("outside", b"c4n4ry"), ("root/shared", b"shared")]);
    let root = folder.path().join("root");
    publish(&root, 1, &["A"]);
    symlink("../../outside", root.join("..1/OUT")).unwrap();
    symlink("../shared", root.join("..1/SHARED")).unwrap();
    for name in ["OUT", "SHARED"] {
        symlink(format!("..data/{name}"), root.join(name)).unwrap();
    }
    symlink("..data/../../outside", root.join("UP")).unwrap();
    // A volume whose link leads nowhere is like any other directory.
    fs::create_dir(root.join("broken")).unwrap();
    symlink("..nowhere", root.join("broken/..data")).unwrap();
    symlink("..data/A", root.join("broken/A")).unwrap();
    write(&root.join("broken/B"), b"plain");
    let provider = FileProvider::directory(&root);
    assert_eq!(text(&provider, "SHARED").await, "shared");
    assert_eq!(text(&provider, "broken/B").await, "plain");
    assert_eq!(kind(&provider, "broken/A").await, ErrorKind::NotFound);
    for key in ["OUT", "UP"] {
        assert_eq!(kind(&provider, key).await, ErrorKind::Denied, "{key}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn list_during_swaps_is_complete() {
    let volume = tempfile::tempdir().unwrap();
    publish(volume.path(), 1, &KEYS);
    let is_swapping = Arc::new(AtomicBool::new(true));
    let path = volume.path().to_owned();
    let swaps = swap(300, &is_swapping, move |generation| {
        publish(&path, generation, &KEYS);
    });
    let expected = keys(&KEYS);
    while is_swapping.load(Ordering::Relaxed) {
        let provider = FileProvider::directory(volume.path());
        match provider.list(&KeyPrefix::root()).await {
            Ok(listed) => assert_eq!(listed, expected),
            Err(error) => assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}"),
        }
        match provider.notices(&KeyPrefix::root()).await {
            Ok(notices) => assert_eq!(notices, []),
            Err(error) => assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}"),
        }
    }
    swaps.join().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn first_read_of_a_document_in_a_volume_during_swaps_finds_it() {
    let folder = tempfile::tempdir().unwrap();
    let volume = folder.path().join("volume");
    publish(&volume, 1, &["app.env"]);
    let is_swapping = Arc::new(AtomicBool::new(true));
    let path = volume.clone();
    let swaps = swap(300, &is_swapping, move |generation| {
        publish(&path, generation, &["app.env"]);
    });
    while is_swapping.load(Ordering::Relaxed) {
        let provider = FileProvider::new(volume.join("app.env"));
        let health = provider.health().await;
        assert!(
            !health.as_ref().is_err_and(Error::is_not_found),
            "{health:?}"
        );
    }
    swaps.join().unwrap();
}

#[test]
fn volume_that_is_published_during_a_batch_has_moved() {
    let volume = tempfile::tempdir().unwrap();
    let mut tree = crate::volume::Tree::open(volume.path()).unwrap();
    assert!(tree.open_file(Path::new("A")).is_err() && !tree.has_moved());
    publish(volume.path(), 1, &["A", "B"]);
    assert!(tree.open_file(Path::new("B")).is_ok() && tree.has_moved());
    // A link that leads nowhere is not a change.
    fs::remove_dir_all(volume.path().join("..1")).unwrap();
    let mut tree = crate::volume::Tree::open(volume.path()).unwrap();
    assert!(tree.open_file(Path::new("A")).is_err() && !tree.has_moved());
}
