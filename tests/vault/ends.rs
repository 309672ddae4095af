//! No server outlives the tests, however they end.

use std::path::Path;
use std::time::Duration;

use super::server::{Bao, shared};
use crate::process::{CHILD, child};

const NAME: &str = "vault::ends::no_server_outlives_its_test_or_the_process";

async fn assert_gone(id: &str) {
    let place = Path::new("/proc").join(id);
    for _ in 0..600 {
        if !place.exists() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("process {id} is left behind");
}

#[tokio::test]
async fn no_server_outlives_its_test_or_the_process() {
    if std::env::var_os(CHILD).is_some() {
        let bao = shared().await;
        println!("\nserver {}", bao.process_id());
        // Nothing is dropped, and nobody is told.
        std::process::abort();
    }
    let output = child(NAME, &[]);
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    let id = printed
        .lines()
        .find_map(|line| line.strip_prefix("server "));
    assert_gone(id.unwrap_or_else(|| panic!("{printed}"))).await;

    let bao = Bao::on_disk().await;
    let id = bao.process_id().to_owned();
    assert!(Path::new("/proc").join(&id).exists());
    drop(bao);
    assert_gone(&id).await;
}
