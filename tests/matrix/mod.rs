//! Matrix test: every change of a secret, in both modes, on four backends.
//!
//! For each step, the HTTP responses, the state and the log are compared with a handwritten table.

mod source;
mod table;

use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::routing::get;
use http::{HeaderMap, Request};
use secretwell::SecretString;
use secretwell::auth::sessions::Scheme;
use secretwell::auth::sessions::authjs::{SecretOrder, Session, SessionCookie, Sessions};
use secretwell::auth::{Auth, BuildContext, BuildError, KeyRing, LazyAuth, Mode, State};
use secretwell_testkit::{Canary, CanaryLog};
use serde::Deserialize;
use serde_json::json;
use tower_service::Service as _;

use crate::support::secs;
use source::Source;
use table::{Backend, MODES, Scenario, Step, list, scenarios};

/// Time limit for each wait, in seconds. A successful run stays far below it.
const LIMIT: u64 = 30;

/// Result of one scenario in one mode on one backend.
struct CaseResult {
    /// Index into [`scenarios`].
    scenario: usize,
    mode: Mode,
    backend: Backend,
    /// Differences from the table, each with the index of its step.
    deviations: Vec<(usize, String)>,
}

#[test]
fn responses_states_and_logs_match_the_table() {
    // A `CanaryLog` records one thread, so each mode on each backend has its own thread.
    let threads: Vec<_> = MODES
        .into_iter()
        .flat_map(|mode| Backend::ALL.map(|backend| (mode, backend)))
        .map(|(mode, backend)| thread::spawn(move || run_all(mode, backend)))
        .collect();
    let results: Vec<CaseResult> = threads
        .into_iter()
        .flat_map(|thread| thread.join().unwrap())
        .collect();
    let scenarios = scenarios();
    print(&scenarios, &results);
    let name = |result: &CaseResult| scenarios[result.scenario].name;
    let cases: HashSet<_> = results
        .iter()
        .map(|it| (name(it), it.mode, it.backend))
        .collect();
    let expected = 9 * 2 * 4 + 2 * 3;
    assert_eq!((cases.len(), results.len()), (expected, expected));
    let deviating = results
        .iter()
        .filter(|it| !it.deviations.is_empty())
        .count();
    assert_eq!(
        deviating, 0,
        "number of cases that deviate from the table; see the output"
    );
}

/// Runs all scenarios of the table for this mode and backend, one after the other.
fn run_all(mode: Mode, backend: Backend) -> Vec<CaseResult> {
    let is_selected =
        |it: &(usize, Scenario)| it.1.modes.contains(&mode) && it.1.backends.contains(&backend);
    let result = |(scenario, it): (usize, Scenario)| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let case = AssertUnwindSafe(|| runtime.block_on(run(&it, mode, backend)));
        CaseResult {
            scenario,
            mode,
            backend,
            deviations: catch_unwind(case)
                .unwrap_or_else(|_| vec![(0, "the case panicked".into())]),
        }
    };
    scenarios()
        .into_iter()
        .enumerate()
        .filter(is_selected)
        .map(result)
        .collect()
}

/// Runs one scenario and returns its deviations from the table.
async fn run(scenario: &Scenario, mode: Mode, backend: Backend) -> Vec<(usize, String)> {
    let log = CanaryLog::install();
    let mut service = Service::new(mode, backend).await;
    let mut deviations = Vec::new();
    let mut checked_lines = 0;
    for (number, step) in scenario.steps.iter().enumerate() {
        let mut expect = |what: &str, is_expected: bool, expected: &str, actual: &str| {
            if !is_expected {
                deviations.push((
                    number,
                    format!("{what}: expected `{expected}`, got `{actual}`"),
                ));
            }
        };
        for action in list(step.actions) {
            service.perform(action).await;
        }
        // The first request starts the build. In later steps the state changes without a request,
        // so the requests are sent after the change.
        if number > 0 {
            service.settle(backend, step).await;
        }
        let responses = service.send_all(step).await;
        expect(
            "responses",
            responses == step.responses,
            step.responses,
            &responses,
        );
        let state = service.settle(backend, step).await;
        expect("state", step.has_state(backend, &state), step.state, &state);
        let lines = events(&log);
        let new = &lines[checked_lines..];
        expect("log", step.has_log(backend, new), step.log, &new.join("\n"));
        checked_lines = lines.len();
    }
    service.output += &log.text();
    let leaks = service.secrets.iter().filter_map(|(name, secret)| {
        let form = secret.found_in(&service.output)?;
        Some((0, format!("`{name}` has leaked: {form}")))
    });
    deviations.extend(leaks);
    deviations
}

/// Returns the events of the resolver and of the auth with level INFO or higher: the level, the
/// message and then the whole line. The tests of the backends cover the events of their logins.
fn events(log: &CanaryLog) -> Vec<String> {
    let event = |line: String| {
        let (level, rest) = line.split_once(' ')?;
        let message = rest.split_once("message=")?.1;
        let has_target = ["secretwell::resolver", "secretwell::auth"]
            .iter()
            .any(|target| rest.starts_with(target));
        let is_relevant = has_target && ["ERROR", "WARN", "INFO"].contains(&level);
        is_relevant.then(|| format!("{level} {message} {rest}"))
    };
    log.lines().into_iter().filter_map(event).collect()
}

#[derive(Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
struct Secrets {
    #[expect(dead_code, reason = "the service uses the key ring")]
    auth_secret: SecretString,
}

#[derive(Deserialize)]
struct User {
    name: String,
}

async fn me(Auth(session): Auth<Session<User>>) -> String {
    session.claims.name
}

/// The service under test.
struct Service {
    source: Source,
    auth: LazyAuth<Sessions>,
    app: Router,
    secrets: [(&'static str, Canary); 3],
    /// The cookie of a session that the service itself has issued.
    own: Option<String>,
    /// All responses and all debug output, which must not contain a secret.
    output: String,
}

impl Service {
    async fn new(mode: Mode, backend: Backend) -> Self {
        let source = Source::new(backend).await;
        let auth = LazyAuth::builder(source.resolver())
            .mode(mode)
            .deadline(secs(LIMIT))
            .activation_delay(secs(60 * 60))
            .build(|_: Secrets, context: BuildContext| async move {
                let ring = SecretOrder::AuthCore.key_ring(&context)?;
                Ok::<_, BuildError>(Sessions::new(SessionCookie::v5(Scheme::Http), &ring)?)
            });
        let weak = Canary::new("weak").text()[..16].to_owned();
        Self {
            app: Router::new()
                .route("/me", get(me))
                .layer(auth.session_layer()),
            source,
            auth,
            secrets: [
                ("good", Canary::new("good")),
                ("next", Canary::new("next")),
                ("weak", Canary::from_text(weak)),
            ],
            own: None,
            output: String::new(),
        }
    }

    /// Returns the secret with this name in the table.
    fn secret(&self, name: &str) -> &str {
        let secret = self.secrets.iter().find(|(known, _)| *known == name);
        match name {
            "empty" => "",
            "blank" => " \n",
            _ => secret
                .unwrap_or_else(|| panic!("the table uses an unknown secret `{name}`"))
                .1
                .text(),
        }
    }

    async fn perform(&mut self, action: &str) {
        match action.split_once(' ') {
            Some(("write", name)) => self.source.write(self.secret(name)).await,
            _ if action == "break" => self.source.set_down(true),
            _ if action == "restore" => self.source.set_down(false),
            _ if action == "rebuild" => {
                let rebuilt = self.auth.rebuild().await.map(drop);
                self.output += &format!("{rebuilt:#?}\n");
            }
            _ => panic!("the table uses an unknown action `{action}`"),
        }
    }

    /// Waits for the expected state and returns it. After the time limit, returns the current
    /// state.
    async fn settle(&mut self, backend: Backend, step: &Step) -> String {
        let mut watch = self.auth.watch_state();
        let settled = watch.wait_for(|state| step.has_state(backend, &text(state)));
        let state = match tokio::time::timeout(secs(LIMIT), settled).await {
            Ok(Some(state)) => state,
            _ => self.auth.state(),
        };
        self.output += &format!(
            "{state:?}\n{state:#?}\n{:?}\n{:?}\n",
            self.auth,
            self.auth.resolver()
        );
        text(&state)
    }

    /// Sends one request for each cookie of the step.
    async fn send_all(&mut self, step: &Step) -> String {
        let mut responses = Vec::new();
        for expected in list(step.responses) {
            let name = expected.split(' ').next().unwrap_or_default();
            responses.push(format!("{name} {}", self.send(name).await));
        }
        responses.join(", ")
    }

    /// Returns the status of the response, or the whole response if it is not well-formed.
    async fn send(&mut self, name: &str) -> String {
        let request = Request::get("/me").header("cookie", self.cookie(name));
        let request = request.body(Body::empty()).unwrap();
        let (head, body) = self.app.call(request).await.unwrap().into_parts();
        let body = to_bytes(body, 1 << 16).await.unwrap();
        let body = String::from_utf8(body.into()).unwrap();
        self.output += &format!("{head:?} {body}\n");
        let status = head.status.as_u16();
        match is_well_formed(status, &head.headers, &body) {
            true => status.to_string(),
            false => format!("{head:?} {body}"),
        }
    }

    fn cookie(&mut self, name: &str) -> String {
        let start = |sessions: &Sessions| {
            let set = sessions.start(&json!({"name": "Ada"}), "").unwrap();
            set[0].split(';').next().unwrap().to_owned()
        };
        match name {
            "none" => String::new(),
            "own" => {
                let own = || start(&self.auth.peek().unwrap());
                self.own.get_or_insert_with(own).clone()
            }
            _ => {
                let ring = KeyRing::new(self.secret(name)).unwrap();
                start(&Sessions::new(SessionCookie::v5(Scheme::Http), &ring).unwrap())
            }
        }
    }
}

/// Returns whether the response has the body and the headers that belong to its status.
fn is_well_formed(status: u16, headers: &HeaderMap, body: &str) -> bool {
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let retry_after = header("retry-after").map(|seconds| seconds.parse::<u64>().unwrap());
    let expected = match status {
        200 => "Ada",
        401 => r#"{"error":"unauthorized"}"#,
        500 => r#"{"error":"server configuration"}"#,
        503 => r#"{"error":"temporarily unavailable"}"#,
        _ => return false,
    };
    body == expected
        && header("cache-control").is_some_and(|value| value.contains("no-store"))
        && header("set-cookie").is_none()
        && retry_after.is_some() == (status == 503)
        && retry_after.is_none_or(|seconds| seconds > 0)
}

/// Formats a state as in the table: `degraded 1: not found: …`.
fn text(state: &State) -> String {
    let generation = state
        .generation()
        .map_or_else(String::new, |it| format!(" {it}"));
    let name = state.name();
    match state {
        State::Failed { failure } | State::Degraded { failure, .. } => {
            let problem = &failure.problems()[0];
            format!(
                "{name}{generation}: {}: {}",
                problem.kind(),
                problem.message()
            )
        }
        _ => format!("{name}{generation}"),
    }
}

/// Prints the table with the backends as its last columns, followed by all deviations.
#[expect(
    clippy::print_stdout,
    reason = "the output explains a failure of the test"
)]
fn print(scenarios: &[Scenario], results: &[CaseResult]) {
    let line = |cells: [&str; 4], marks: [&str; 4]| {
        let [actions, responses, state, log] = cells;
        let [memory, file, vault, infisical] = marks;
        println!(
            "{actions:22} {responses:22} {state:20} {log:42} {memory:7}{file:7}{vault:7}{infisical}"
        );
    };
    let names = Backend::ALL.map(Backend::name);
    line(["", "responses", "state", "log"], names);
    for (index, scenario) in scenarios.iter().enumerate() {
        for mode in &scenario.modes {
            println!("{}, {mode}", scenario.name);
            for (number, step) in scenario.steps.iter().enumerate() {
                let marks = Backend::ALL.map(|backend| {
                    let mut matching = results
                        .iter()
                        .filter(|it| (it.scenario, it.mode, it.backend) == (index, *mode, backend));
                    match matching.next() {
                        None => "",
                        Some(it) if it.deviations.iter().any(|(at, _)| *at == number) => "NO",
                        Some(_) => "ok",
                    }
                });
                line(
                    [
                        &format!("  {}", step.actions),
                        step.responses,
                        step.state,
                        step.log,
                    ],
                    marks,
                );
            }
        }
    }
    for it in results {
        let scenario = &scenarios[it.scenario];
        for (number, deviation) in &it.deviations {
            let (name, backend) = (scenario.name, it.backend.name());
            println!(
                "\n{name}, {}, {backend}, step {}: {deviation}",
                it.mode,
                number + 1
            );
        }
    }
}
