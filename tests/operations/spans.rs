//! The spans of fetches, logins and builds: their names, fields, parents and ends.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex};

use secretwell::Resolver;
use secretwell::auth::{BuildError, LazyAuth, Mode};
use secretwell_testkit::{Action, Canary, CanaryLog};
use tracing::field::{Field, Visit};
use tracing::instrument::WithSubscriber;
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::DefaultGuard;
use tracing::{Instrument, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;

use super::{Remote, Secrets, quoted};
use crate::support::{denied, down, faulty_source, pass, secs, settle};

#[derive(Debug, Clone, Default)]
struct Recorded {
    name: &'static str,
    target: &'static str,
    /// The declared fields, and the values that were recorded.
    declared: BTreeSet<&'static str>,
    values: BTreeMap<&'static str, String>,
    is_root: bool,
    follows: Vec<Id>,
    is_closed: bool,
}

impl Visit for Recorded {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.values.insert(field.name(), format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.values.insert(field.name(), value.to_owned());
    }
}

/// All spans of the current thread, by their ids.
#[derive(Clone, Default)]
struct Spans(Arc<Mutex<Vec<(Id, Recorded)>>>);

impl Spans {
    /// Records the spans of this thread until the guards are dropped.
    fn install() -> (Self, (CanaryLog, DefaultGuard)) {
        // With the log, `tracing` checks for each subscriber whether it is interested in a span.
        let log = CanaryLog::install();
        let spans = Self::default();
        let subscriber = tracing_subscriber::registry().with(spans.clone());
        (spans, (log, tracing::subscriber::set_default(subscriber)))
    }

    fn change(&self, id: &Id, change: impl FnOnce(&mut Recorded)) {
        let mut spans = self.0.lock().unwrap();
        // An id can be used again after its span has closed.
        let span = spans.iter_mut().rev().find(|(other, _)| other == id);
        change(&mut span.unwrap().1);
    }

    fn named(&self, name: &str) -> Vec<Recorded> {
        let spans = self.0.lock().unwrap();
        let spans = spans.iter().map(|(_, span)| span.clone());
        spans.filter(|span| span.name == name).collect()
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Spans {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let metadata = attributes.metadata();
        let mut span = Recorded {
            name: metadata.name(),
            target: metadata.target(),
            declared: metadata.fields().iter().map(|field| field.name()).collect(),
            is_root: context.span(id).unwrap().parent().is_none(),
            ..Recorded::default()
        };
        attributes.record(&mut span);
        self.0.lock().unwrap().push((id.clone(), span));
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, _: Context<'_, S>) {
        self.change(id, |span| values.record(span));
    }

    fn on_follows_from(&self, id: &Id, follows: &Id, _: Context<'_, S>) {
        self.change(id, |span| span.follows.push(follows.clone()));
    }

    fn on_close(&self, id: Id, _: Context<'_, S>) {
        self.change(&id, |span| span.is_closed = true);
    }
}

/// Returns the documented spans: the name, the target and the fields.
fn documented() -> Vec<(&'static str, &'static str, BTreeSet<&'static str>)> {
    let page = include_str!("../../docs/logging.md");
    let rows = page
        .lines()
        .filter(|line| line.starts_with("| `secretwell."));
    rows.map(|line| {
        let cells: Vec<Vec<&str>> = line.split('|').map(quoted).collect();
        (cells[1][0], cells[2][0], cells[3].iter().copied().collect())
    })
    .collect()
}

#[tokio::test]
async fn spans_of_a_service_are_the_documented_ones_and_contain_no_secret() {
    let (spans, _guards) = Spans::install();
    let (remote, next) = (Remote::new().await, Canary::new("next secret"));
    let provider = Arc::new(remote.provider());
    let resolver = Resolver::new(provider.clone());
    let auth = LazyAuth::builder(resolver.clone())
        .name("sessions")
        .mode(Mode::Production)
        .build(|_: Secrets, _| async { Ok::<_, BuildError>(()) });
    auth.get().await.unwrap();
    remote.set(&next);
    auth.rebuild().await.unwrap();
    resolver.get("ABSENT").await.unwrap_err();
    provider.push(Action::Fail(denied()));
    resolver.get("FAILED").await.unwrap_err();
    remote
        .place
        .write_client_secret(Canary::new("wrong").text());
    let other = Resolver::new(remote.provider());
    other.get("REFUSED").await.unwrap_err();
    drop((auth, resolver, other));
    settle().await;

    let documented = documented();
    assert_eq!(documented.len(), 3);
    for (name, target, fields) in &documented {
        let found = spans.named(name);
        assert!(!found.is_empty(), "{name}");
        for span in found {
            assert_eq!((&span.target, &span.declared), (target, fields), "{name}");
            assert!(span.is_root && span.is_closed, "{span:?}");
        }
    }
    let value = |span: &Recorded, field| span.values.get(field).cloned().unwrap_or_default();

    let fetches = spans.named("secretwell.fetch");
    let good = &fetches[0];
    assert_eq!(value(good, "keys"), "1");
    assert_eq!(value(good, "error.type"), "");
    assert!(
        value(good, "origin").starts_with("infisical://"),
        "{good:?}"
    );
    let errors: Vec<String> = fetches
        .iter()
        .map(|span| value(span, "error.type"))
        .collect();
    assert_eq!(errors, ["", "", "", "denied", "unauthenticated"]);
    assert_eq!(value(&fetches[3], "otel.status_code"), "ERROR");

    let logins = spans.named("secretwell.login");
    assert_eq!(value(&logins[0], "error.type"), "");
    assert_eq!(
        value(logins.last().unwrap(), "error.type"),
        "unauthenticated"
    );
    assert!(logins.iter().all(|login| login.follows.len() == 1));

    let builds = spans.named("secretwell.build");
    let generations: Vec<String> = builds
        .iter()
        .map(|span| value(span, "generation"))
        .collect();
    assert!(
        generations.starts_with(&["1".into(), "2".into()]),
        "{builds:?}"
    );
    assert_eq!(value(&builds[0], "name"), "sessions");

    let text = format!("{:?}", spans.0.lock().unwrap());
    for canary in [&remote.secret, &next, &remote.client_secret()] {
        canary.assert_not_in(&text, "the spans");
    }
}

#[tokio::test(start_paused = true)]
async fn span_of_a_request_closes_although_the_fetch_that_it_has_started_hangs() {
    let (spans, _guards) = Spans::install();
    let (_, faulty) = faulty_source(&[("A", "a")]);
    faulty.always(Action::Hang);
    let resolver = Resolver::new(faulty);
    let request = tracing::info_span!("request");
    let id = request.id().unwrap();
    let read = async { tokio::time::timeout(secs(1), resolver.get("A")).await };
    assert!(read.instrument(request).await.is_err());

    assert!(spans.named("request")[0].is_closed);
    let fetch = spans.named("secretwell.fetch").pop().unwrap();
    assert!(fetch.is_root && !fetch.is_closed, "{fetch:?}");
    assert_eq!(fetch.follows, [id]);
    pass(secs(40)).await;
    let fetch = spans.named("secretwell.fetch").remove(0);
    assert_eq!(fetch.values["error.type"], "timeout");
    assert!(fetch.is_closed);
}

#[tokio::test(start_paused = true)]
async fn callers_that_share_a_fetch_share_its_span_and_a_failure_is_recorded() {
    let (spans, _guards) = Spans::install();
    let (_, faulty) = faulty_source(&[("A", "a")]);
    let resolver = Resolver::new(faulty.clone());
    let mut callers = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let resolver = resolver.clone();
        callers.spawn(async move { resolver.get("A").await }.with_current_subscriber());
    }
    assert!(callers.join_all().await.iter().all(Result::is_ok));
    assert_eq!(spans.named("secretwell.fetch").len(), 1);

    for (error, kind) in [(down(), "unavailable"), (denied(), "denied")] {
        faulty.push(Action::Fail(error));
        resolver.refresh(["A"]).await;
        let fetch = spans.named("secretwell.fetch").pop().unwrap();
        assert_eq!(fetch.values["error.type"], kind);
        assert_eq!(fetch.values["otel.status_code"], "ERROR");
        pass(secs(2)).await;
    }
    resolver.get("ABSENT").await.unwrap_err();
    let fetch = spans.named("secretwell.fetch").pop().unwrap();
    assert!(!fetch.values.contains_key("error.type"), "{fetch:?}");
    assert_eq!(fetch.values["failed"], "1");
}
