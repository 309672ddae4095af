//! Every response of [`gateway_responses`] on both backends, with both kinds of login, for a service that has
//! the secret and for one that starts.

use std::sync::Arc;
use std::time::Duration;

use secretwell_testkit::{Fault, ForeignResponse, gateway_responses};
use tokio::task::JoinSet;

use super::service::{Backend, Login, RECOVERY, Service, Source, wait_for_state};

/// Prints the table of the documentation if it is set.
const PRINT: &str = "SECRETWELL_PRINT_TABLE";

/// What a service returns while another program responds: a resolver and a chain, and the state of an auth.
const IN_USE: &str = "stale: unavailable, degraded: unavailable";
const FIRST_USE: &str = "unavailable";

/// Whether the service has the secret when another program starts to respond.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Start {
    Warm,
    Cold,
}

struct Case {
    response: usize,
    backend: Backend,
    login: Login,
    start: Start,
    results: String,
    /// The time until everything is fresh, or what is not fresh.
    recovery: Result<Duration, String>,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn responses_of_gateways_mean_nothing_about_secrets_and_logins() {
    let responses = gateway_responses();
    let mut cases = Vec::new();
    for backend in [Backend::Vault, Backend::Infisical] {
        let source = Arc::new(Source::new(backend).await);
        let mut running = JoinSet::new();
        for (number, response) in responses.iter().enumerate() {
            for login in [Login::Token, Login::Credential] {
                for start in [Start::Warm, Start::Cold] {
                    let (source, response) = (source.clone(), response.clone());
                    running.spawn(async move {
                        let (results, recovery) = run(&source, login, start, &response).await;
                        Case {
                            response: number,
                            backend,
                            login,
                            start,
                            results,
                            recovery,
                        }
                    });
                }
            }
        }
        cases.extend(running.join_all().await);
    }
    if std::env::var_os(PRINT).is_some() {
        print(&responses, &cases);
    }
    assert_eq!(cases.len(), responses.len() * 8);
    let deviations: Vec<String> = cases
        .iter()
        .filter(|case| !case.is_expected())
        .map(|case| {
            let name = responses[case.response].name;
            format!(
                "{name}: {:?}, {:?}, {:?}: {}; recovery {:?}",
                case.backend, case.login, case.start, case.results, case.recovery
            )
        })
        .collect();
    assert!(
        deviations.is_empty(),
        "{} of {} cases deviate:\n{}",
        deviations.len(),
        cases.len(),
        deviations.join("\n")
    );
}

/// Returns the results while another program responds, and the time until everything is fresh after that.
async fn run(
    source: &Source,
    login: Login,
    start: Start,
    response: &ForeignResponse,
) -> (String, Result<Duration, String>) {
    let service = Service::new(source, login).await;
    match start {
        Start::Warm => {
            service.start().await;
            service.interrupt(response).await;
            wait_for_state(&service, "degraded: unavailable").await;
        }
        Start::Cold => service.proxy.set(Fault::Foreign(response.clone())),
    }
    let results = service.results().await;
    (results, service.recover().await)
}

impl Case {
    fn is_expected(&self) -> bool {
        let expected = match self.start {
            Start::Warm => IN_USE,
            Start::Cold => FIRST_USE,
        };
        self.results == expected && matches!(self.recovery, Ok(time) if time <= RECOVERY)
    }
}

/// Prints the rows of the table in `docs/reliability.md`.
#[expect(clippy::print_stdout, reason = "the output is for the documentation")]
fn print(responses: &[ForeignResponse], cases: &[Case]) {
    for (number, response) in responses.iter().enumerate() {
        let results = |start| {
            let matching = cases
                .iter()
                .filter(|case| case.response == number && case.start == start);
            let mut results: Vec<_> = matching.map(|case| case.results.as_str()).collect();
            results.sort_unstable();
            results.dedup();
            results.join("; ")
        };
        let recovery = |backend| {
            let matching = cases
                .iter()
                .filter(|case| case.response == number && case.backend == backend);
            let times: Result<Vec<Duration>, _> =
                matching.map(|case| case.recovery.clone()).collect();
            match times.unwrap_or_default().into_iter().max() {
                Some(longest) => format!("{:.1} s", longest.as_secs_f64()),
                None => "no".to_owned(),
            }
        };
        println!(
            "| {} | {} | {} | {} | {} | {} | {} |",
            response.name,
            response.status,
            body(response),
            results(Start::Warm),
            results(Start::Cold),
            recovery(Backend::Vault),
            recovery(Backend::Infisical),
        );
    }
}

/// Returns the kind of the body, in one or two words.
fn body(response: &ForeignResponse) -> &'static str {
    match response.header("content-type").unwrap_or_default() {
        _ if response.body.is_empty() => "empty",
        text if text.starts_with("text/html") => "HTML",
        text if text.starts_with("text/plain") => "text",
        "application/octet-stream" => "binary",
        _ => "JSON",
    }
}
