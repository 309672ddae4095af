//! Both modes, all that can happen to a secret, four backends: what a request is answered, the state, and
//! the log, compared with a table that is written down by hand.

mod place;
mod table;

use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::routing::get;
use http::{HeaderMap, Request};
use secretwell::SecretString;
use secretwell::auth::authjs::{Scheme, SecretOrder, Session, SessionCookie, Sessions};
use secretwell::auth::{Auth, BuildContext, BuildError, KeyRing, LazyAuth, Mode, State};
use secretwell_testkit::{Canary, CanaryLog};
use serde::Deserialize;
use serde_json::json;
use tower_service::Service as _;

use crate::support::secs;
use place::Place;
use table::{Backend, MODES, Situation, Step, list, situations};

/// How long anything is waited for, in seconds. No good run comes near it.
const LIMIT: u64 = 30;

/// How a situation went in one mode on one backend.
struct Played {
    situation: usize,
    mode: Mode,
    backend: Backend,
    /// What was otherwise than the table has it, and at which step.
    deviations: Vec<(usize, String)>,
}

#[test]
fn whatever_happens_to_a_secret_is_answered_and_logged_as_the_table_says() {
    // A log hears one thread, so each mode on each backend has a thread.
    let players: Vec<_> = MODES
        .into_iter()
        .flat_map(|mode| Backend::ALL.map(|backend| (mode, backend)))
        .map(|(mode, backend)| thread::spawn(move || play_all(mode, backend)))
        .collect();
    let played: Vec<Played> = players
        .into_iter()
        .flat_map(|player| player.join().unwrap())
        .collect();
    let situations = situations();
    print(&situations, &played);
    let name = |played: &Played| situations[played.situation].name;
    let cases: HashSet<_> = played
        .iter()
        .map(|it| (name(it), it.mode, it.backend))
        .collect();
    assert_eq!((cases.len(), played.len()), (9 * 2 * 4, 9 * 2 * 4));
    let otherwise = played.iter().filter(|it| !it.deviations.is_empty()).count();
    assert_eq!(otherwise, 0, "cases went otherwise than the table has it");
}

/// Plays what the table has for this mode and backend, one after the other.
fn play_all(mode: Mode, backend: Backend) -> Vec<Played> {
    let here =
        |it: &(usize, Situation)| it.1.modes.contains(&mode) && it.1.backends.contains(&backend);
    let played = |(situation, it): (usize, Situation)| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let playing = AssertUnwindSafe(|| runtime.block_on(play(&it, mode, backend)));
        Played {
            situation,
            mode,
            backend,
            deviations: catch_unwind(playing).unwrap_or_else(|_| vec![(0, "it panicked".into())]),
        }
    };
    situations()
        .into_iter()
        .enumerate()
        .filter(here)
        .map(played)
        .collect()
}

async fn play(situation: &Situation, mode: Mode, backend: Backend) -> Vec<(usize, String)> {
    let log = CanaryLog::install();
    let mut service = Service::new(mode, backend).await;
    let mut deviations = Vec::new();
    let mut heard = 0;
    for (number, step) in situation.steps.iter().enumerate() {
        let mut expect = |what: &str, is_good: bool, expected: &str, seen: &str| {
            if !is_good {
                deviations.push((
                    number,
                    format!("{what}: expected `{expected}`, seen `{seen}`"),
                ));
            }
        };
        for act in list(step.acts) {
            service.act(act).await;
        }
        // The first request starts it. Afterwards it changes by itself, and is asked when it has.
        if number > 0 {
            service.settle(backend, step).await;
        }
        let answers = service.ask_all(step).await;
        expect("answers", answers == step.answers, step.answers, &answers);
        let state = service.settle(backend, step).await;
        expect("state", step.has_state(backend, &state), step.state, &state);
        let lines = events(&log);
        let new = &lines[heard..];
        expect("log", step.has_log(backend, new), step.log, &new.join("\n"));
        heard = lines.len();
    }
    service.told += &log.text();
    let leaks = service.secrets.iter().filter_map(|(name, secret)| {
        let form = secret.found_in(&service.told)?;
        Some((0, format!("`{name}` has leaked: {form}")))
    });
    deviations.extend(leaks);
    deviations
}

/// What was logged from the level INFO on, by the resolver and the auth: the level, the message, and then all
/// of the line. What a backend says of its login is left to the tests of that backend.
fn events(log: &CanaryLog) -> Vec<String> {
    let event = |line: String| {
        let (level, rest) = line.split_once(' ')?;
        let message = rest.split_once("message=")?.1;
        let ours = ["secretwell_core", "secretwell_auth"]
            .iter()
            .any(|target| rest.starts_with(target));
        let counts = ours && ["ERROR", "WARN", "INFO"].contains(&level);
        counts.then(|| format!("{level} {message} {rest}"))
    };
    log.lines().into_iter().filter_map(event).collect()
}

#[derive(Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
struct Secrets {
    #[expect(dead_code, reason = "the ring holds it")]
    auth_secret: SecretString,
}

#[derive(Deserialize)]
struct User {
    name: String,
}

async fn me(Auth(session): Auth<Session<User>>) -> String {
    session.claims.name
}

/// A service whose secret something happens to.
struct Service {
    place: Place,
    auth: LazyAuth<Sessions>,
    app: Router,
    secrets: [(&'static str, Canary); 3],
    /// The cookie of a session that the service has started.
    own: Option<String>,
    /// All that was told in answers and in debug output.
    told: String,
}

impl Service {
    async fn new(mode: Mode, backend: Backend) -> Self {
        let place = Place::new(backend).await;
        let auth = LazyAuth::builder(place.resolver())
            .mode(mode)
            .deadline(secs(LIMIT))
            .activation_delay(secs(60 * 60))
            .build(|_: Secrets, context: BuildContext| async move {
                let ring = SecretOrder::AuthCore.ring(&context)?;
                Ok::<_, BuildError>(Sessions::new(SessionCookie::v5(Scheme::Http), &ring)?)
            });
        let weak = Canary::new("weak").text()[..16].to_owned();
        Self {
            app: Router::new()
                .route("/me", get(me))
                .layer(auth.session_layer()),
            place,
            auth,
            secrets: [
                ("good", Canary::new("good")),
                ("next", Canary::new("next")),
                ("weak", Canary::from_text(weak)),
            ],
            own: None,
            told: String::new(),
        }
    }

    fn secret(&self, name: &str) -> &str {
        let secret = self.secrets.iter().find(|(known, _)| *known == name);
        match name {
            "empty" => "",
            "blank" => " \n",
            _ => secret
                .unwrap_or_else(|| panic!("no secret is `{name}`"))
                .1
                .text(),
        }
    }

    async fn act(&mut self, act: &str) {
        match act.split_once(' ') {
            Some(("write", name)) => self.place.write(self.secret(name)).await,
            _ if act == "break" => self.place.set_down(true),
            _ if act == "mend" => self.place.set_down(false),
            _ if act == "rebuild" => {
                let rebuilt = self.auth.rebuild().await.map(drop);
                self.told += &format!("{rebuilt:#?}\n");
            }
            _ => panic!("nobody can `{act}`"),
        }
    }

    /// Waits for the state that is expected, and returns that of now if it does not come.
    async fn settle(&mut self, backend: Backend, step: &Step) -> String {
        let mut watch = self.auth.watch_state();
        let settled = watch.wait_for(|state| step.has_state(backend, &text(state)));
        let state = match tokio::time::timeout(secs(LIMIT), settled).await {
            Ok(Some(state)) => state,
            _ => self.auth.state(),
        };
        self.told += &format!(
            "{state:?}\n{state:#?}\n{:?}\n{:?}\n",
            self.auth,
            self.auth.resolver()
        );
        text(&state)
    }

    /// Asks with each cookie that an answer is expected for.
    async fn ask_all(&mut self, step: &Step) -> String {
        let mut answers = Vec::new();
        for expected in list(step.answers) {
            let name = expected.split(' ').next().unwrap_or_default();
            answers.push(format!("{name} {}", self.ask(name).await));
        }
        answers.join(", ")
    }

    async fn ask(&mut self, name: &str) -> String {
        let request = Request::get("/me").header("cookie", self.cookie(name));
        let request = request.body(Body::empty()).unwrap();
        let (head, body) = self.app.call(request).await.unwrap().into_parts();
        let body = to_bytes(body, 1 << 16).await.unwrap();
        let body = String::from_utf8(body.into()).unwrap();
        self.told += &format!("{head:?} {body}\n");
        let status = head.status.as_u16();
        match is_whole(status, &head.headers, &body) {
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
            "nobody" => String::new(),
            "own" => {
                let own = || start(&self.auth.peek().unwrap());
                self.own.get_or_insert_with(own).clone()
            }
            _ => {
                let ring = KeyRing::new(self.secret(name));
                start(&Sessions::new(SessionCookie::v5(Scheme::Http), &ring).unwrap())
            }
        }
    }
}

/// Whether an answer has the body and the headers that belong to its status.
fn is_whole(status: u16, headers: &HeaderMap, body: &str) -> bool {
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let wait = header("retry-after").map(|seconds| seconds.parse::<u64>().unwrap());
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
        && wait.is_some() == (status == 503)
        && wait.is_none_or(|seconds| seconds > 0)
}

/// `degraded 1: not found: …`
fn text(state: &State) -> String {
    let number = state
        .generation()
        .map_or_else(String::new, |it| format!(" {it}"));
    let name = state.name();
    match state {
        State::Failed { failure } | State::Degraded { failure, .. } => {
            let problem = &failure.problems()[0];
            format!("{name}{number}: {}: {}", problem.kind(), problem.message())
        }
        _ => format!("{name}{number}"),
    }
}

/// Prints the table with the backends as its last columns, and then all that was otherwise.
#[expect(clippy::print_stdout, reason = "for whoever runs the test")]
fn print(situations: &[Situation], played: &[Played]) {
    let line = |cells: [&str; 4], marks: [&str; 4]| {
        let [acts, answers, state, log] = cells;
        let [memory, file, vault, infisical] = marks;
        println!(
            "{acts:22} {answers:22} {state:20} {log:42} {memory:7}{file:7}{vault:7}{infisical}"
        );
    };
    let names = Backend::ALL.map(Backend::name);
    line(["", "answers", "state", "log"], names);
    for (index, situation) in situations.iter().enumerate() {
        for mode in &situation.modes {
            println!("{}, {mode}", situation.name);
            for (number, step) in situation.steps.iter().enumerate() {
                let marks = Backend::ALL.map(|backend| {
                    let mut here = played.iter().filter(|it| {
                        (it.situation, it.mode, it.backend) == (index, *mode, backend)
                    });
                    match here.next() {
                        None => "",
                        Some(it) if it.deviations.iter().any(|(at, _)| *at == number) => "NO",
                        Some(_) => "ok",
                    }
                });
                line(
                    [
                        &format!("  {}", step.acts),
                        step.answers,
                        step.state,
                        step.log,
                    ],
                    marks,
                );
            }
        }
    }
    for it in played {
        let situation = &situations[it.situation];
        for (number, deviation) in &it.deviations {
            let (name, backend) = (situation.name, it.backend.name());
            println!(
                "\n{name}, {}, {backend}, step {}: {deviation}",
                it.mode,
                number + 1
            );
        }
    }
}
