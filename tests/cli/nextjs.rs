//! The rotation of the guide `docs/guides/nextjs.md` with `run --watch`: no user is logged out.

use tokio::process::Command;

use super::Secrets;
use crate::authjs::site::Application;

const OLD: &str = "the old secret, thirty-two bytes or more";
const NEW: &str = "the new secret, thirty-two bytes or more";

#[tokio::test]
async fn rotation_by_the_command_logs_nobody_out_of_the_application_of_the_guide() {
    // Both secrets exist, so that each step is one restart.
    let secrets = Secrets::new(&[("AUTH_SECRET", OLD), ("AUTH_SECRET_PREVIOUS", OLD)]);
    let command = Command::from(secrets.run(&["--watch"], &["node"]));
    let variables = [("GUIDE", "next-auth-5-await".to_owned())];
    let mut application = Application::start_by(command, &variables).await;
    let ada = application.site("api/auth").log_in("Ada").await;

    secrets.write("AUTH_SECRET_PREVIOUS", NEW.as_bytes());
    application.wait_for_restart().await;
    let site = application.site("api/auth");
    assert_eq!(site.name(&ada).await.as_deref(), Some("Ada"));
    let bob = site.log_in("Bob").await;

    // The command waits until no secret has changed for half a second.
    secrets.write("AUTH_SECRET_PREVIOUS", OLD.as_bytes());
    secrets.write("AUTH_SECRET", NEW.as_bytes());
    application.wait_for_restart().await;
    let site = application.site("api/auth");
    let cleo = site.log_in("Cleo").await;
    for (browser, name) in [(&ada, "Ada"), (&bob, "Bob"), (&cleo, "Cleo")] {
        assert_eq!(site.name(browser).await.as_deref(), Some(name));
    }

    // A deleted secret would be kept for one day, so the new secret replaces the old one.
    secrets.write("AUTH_SECRET_PREVIOUS", NEW.as_bytes());
    application.wait_for_restart().await;
    let site = application.site("api/auth");
    assert_eq!(site.name(&ada).await, None);
    assert_eq!(site.name(&cleo).await.as_deref(), Some("Cleo"));
}
