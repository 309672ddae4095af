//! The programs of the guide in a Next.js application, in production and in development mode.

use std::path::PathBuf;

use serde_json::json;
use tokio::process::Command;

use super::guide::{Project, Server, until};
use super::{FIRST, SECOND};
use crate::authjs::site::Browser;
use crate::support::{replace, tool};

/// Reads the values from a file, so that a test can change them.
const SOURCE: &str = r#"
import { readFile } from "node:fs/promises";
export const load = async () => JSON.parse(await readFile(process.env.VALUES, "utf8"));
"#;

const LAYOUT: &str = "export default ({ children }) => <html><body>{children}</body></html>;\n";

/// Leaves the packages out of the bundles, which takes less time.
const CONFIG: &str = r#"
export default { serverExternalPackages: ["better-auth", "@infisical/sdk"], devIndicators: false };
"#;

/// The eager form at another path.
const EAGER: &str = r#"
import { betterAuth } from "better-auth";
import { toNextJsHandler } from "better-auth/next-js";
import { options } from "../../../../options.js";
const secret = process.env.BETTER_AUTH_SECRET;
export const { GET, POST } = toNextJsHandler(betterAuth({ ...options, basePath: "/api/eager", secret }));
"#;

/// Sets the variable before the application serves requests, if the test wants it.
const INSTRUMENTATION: &str = r#"
export async function register() {
  if (process.env.NEXT_RUNTIME !== "nodejs" || !process.env.REGISTER) return;
  const { load } = await import("./source.js");
  for (;;) {
    try {
      process.env.BETTER_AUTH_SECRET = (await load()).BETTER_AUTH_SECRET;
      return;
    } catch {
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  }
}
"#;

struct Application {
    project: Project,
    values: PathBuf,
}

impl Application {
    fn new() -> Self {
        let project = Project::with_source("source.js");
        for (file, text) in [
            ("source.js", SOURCE),
            ("app/layout.js", LAYOUT),
            ("next.config.mjs", CONFIG),
            ("app/api/eager/[...all]/route.js", EAGER),
            ("instrumentation.js", INSTRUMENTATION),
        ] {
            project.write(file, text);
        }
        project.replace("cached-secret.js", "ttl = 60_000", "ttl = 0");
        project.replace(
            "options.js",
            "options = {\n",
            "options = {\n  rateLimit: { enabled: false },\n",
        );
        let values = project.path().join("values.json");
        Self { project, values }
    }

    fn next(&self, action: &str) -> Command {
        let mut command = Command::new("node");
        command
            .arg(tool("clients/node_modules/next/dist/bin/next"))
            .arg(action)
            .arg(self.project.path())
            .env("VALUES", &self.values)
            .env("NEXT_TELEMETRY_DISABLED", "1")
            .env_remove("NODE_ENV")
            .env_remove("BETTER_AUTH_SECRET")
            .kill_on_drop(true);
        command
    }

    async fn build(&self) {
        let output = self.next("build").output().await.unwrap();
        let text = [output.stdout, output.stderr].concat();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&text)
        );
    }

    async fn start(&self, action: &str, variables: &[(&str, &str)]) -> Server {
        let mut command = self.next(action);
        command
            .args(["--hostname", "127.0.0.1", "--port", "0"])
            .envs(variables.iter().copied());
        let local = |line: &str| {
            line.split_once("Local:")
                .map(|(_, address)| address.trim().to_owned())
        };
        let (server, address) = Server::spawn(command, local).await;
        server.at(&address)
    }

    fn set(&self, list: &str) {
        let first = list.split([':', ',']).nth(1).unwrap();
        let values = json!({"BETTER_AUTH_SECRETS": list, "BETTER_AUTH_SECRET": first});
        replace(&self.values, values.to_string().as_bytes());
    }
}

#[tokio::test]
async fn application_in_next_starts_without_the_secret_and_follows_a_rotation() {
    let application = Application::new();
    application.build().await;
    for (action, eager_status) in [("start", 500), ("dev", 200)] {
        let server = application.start(action, &[]).await;
        let eager = async |server: &Server| {
            let browser = &mut Browser::default();
            server
                .send_to(browser, "/api/eager/get-session", None)
                .await
        };
        assert_eq!(server.status().await, 503, "{action}");
        let (status, body) = eager(&server).await;
        assert_eq!(status, eager_status, "{action}: {body}");
        assert_eq!(body == "", status == 500, "{action}: {body}");

        application.set(&format!("1:{FIRST}"));
        until(async || server.status().await == 200).await;
        assert_eq!(
            eager(&server).await.0,
            eager_status,
            "{action}: the secret has no effect"
        );
        let mut ada = server.sign_up("Ada").await;
        let page = async |browser: &Browser| {
            let (status, body) = server.send_to(&mut browser.clone(), "/", None).await;
            assert_eq!(status, 200, "{body}");
            body.as_str().unwrap().contains("Hello Ada")
        };
        assert!(page(&ada).await, "{action}");
        assert!(!page(&Browser::default()).await, "{action}");

        let before = ada.header();
        application.set(&format!("2:{SECOND},1:{FIRST}"));
        until(async || {
            assert_eq!(
                server.name(&mut ada).await.as_deref(),
                Some("Ada"),
                "{action}"
            );
            assert!(page(&ada).await, "{action}");
            ada.header() != before
        })
        .await;
        let log = server.log();
        for secret in [FIRST, SECOND] {
            assert!(!log.contains(secret), "{log}");
        }
        drop(server);
        std::fs::remove_file(&application.values).unwrap();
    }

    // `register` waits for the secret, and Next.js waits for `register`.
    let server = application.start("start", &[("REGISTER", "1")]).await;
    application.set(&format!("1:{FIRST}"));
    let (status, body) = server
        .send_to(&mut Browser::default(), "/api/eager/get-session", None)
        .await;
    assert_eq!(status, 200, "{body}");
}
