//! The cached secret of the guide, and its parser. The checks are JavaScript programs beside this file.

use super::guide::Project;

async fn check(name: &str, text: &str) {
    let project = Project::with_source("environment.js");
    project.write(name, text);
    let (status, output) = project.run(name, &[("NODE_ENV", "production")]).await;
    assert!(status.success(), "{output}");
}

#[tokio::test]
async fn cached_secret_queries_the_source_once_and_outlives_an_outage() {
    check("check.mjs", include_str!("cached.mjs")).await;
}

#[tokio::test]
async fn secrets_are_parsed_as_strictly_as_by_the_package() {
    check("check.mjs", include_str!("parsed.mjs")).await;
}
