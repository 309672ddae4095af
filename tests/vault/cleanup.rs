//! Servers end with their test, even if the test process aborts.

use std::path::Path;
use std::time::Duration;

use super::server::{Bao, shared};
use crate::process::{CHILD, run_child};

const NAME: &str = "vault::cleanup::servers_end_with_their_test_or_process";

async fn assert_gone(id: &str) {
    let path = Path::new("/proc").join(id);
    for _ in 0..600 {
        if !path.exists() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("process {id} is still running");
}

#[tokio::test]
async fn servers_end_with_their_test_or_process() {
    if std::env::var_os(CHILD).is_some() {
        let bao = shared().await;
        println!("\nserver {}", bao.process_id());
        // An abort runs no destructors.
        std::process::abort();
    }
    let output = run_child(NAME, &[]);
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
