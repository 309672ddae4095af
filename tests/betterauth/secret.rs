//! The cached secret of the guide, and its parser.

use super::guide::{Project, block};

/// `tests/clients/cached-secret.mjs` checks the function.
#[test]
fn cached_secret_is_the_one_of_the_guide_to_next_js() {
    let next = include_str!("../../docs/guides/nextjs.md");
    let ours = block("cached-secret.js");
    assert!(next.contains(&format!("```js\n{ours}```\n")), "{ours}");
}

#[tokio::test]
async fn secrets_are_parsed_as_strictly_as_by_the_package() {
    let project = Project::with_source("environment.js");
    project.write("check.mjs", include_str!("parsed.mjs"));
    let production = [("NODE_ENV", "production")];
    let (status, output) = project.run("check.mjs", &production).await;
    assert!(status.success(), "{output}");
}
