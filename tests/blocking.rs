//! Blocking reads of real sources: sockets, files and background refresh in the runtime of blocking calls.

use std::time::Duration;

use secretwell::auth::{LazyAuth, State};
use secretwell::blocking::{self, Resolver};
use secretwell::file::FileProvider;
use secretwell::{ErrorKind, SecretValue};
use secretwell_testkit::infisical::FakeInfisical;
use serde::Deserialize;
use tokio::runtime::Runtime;

const LONG: Duration = Duration::from_secs(60);

#[derive(Deserialize)]
struct Secrets {
    token: SecretValue,
}

fn auth(resolver: &Resolver) -> LazyAuth<SecretValue> {
    let resolver = resolver.as_async().clone();
    LazyAuth::infallible(resolver, |secrets: Secrets, _| secrets.token)
}

#[test]
fn remote_source_is_read_through_an_outage_and_a_rotation() {
    // The server has a runtime of its own. The calls below are outside of it.
    let server = Runtime::new().unwrap();
    let project = server.block_on(FakeInfisical::with([("token", "first")]));
    let provider = secretwell::from_url(&project.source_url()).unwrap();
    let resolver = Resolver::new(provider);
    let auth = auth(&resolver);
    assert_eq!(*auth.blocking_get().unwrap(), SecretValue::from("first"));
    let absent = resolver.get("absent").unwrap_err();
    assert_eq!(absent.kind(), ErrorKind::NotFound);

    project.fail_source();
    assert_eq!(*auth.blocking_get().unwrap(), SecretValue::from("first"));

    project.restore_source();
    project.set("token", "second");
    let rebuilt = blocking::block_on(auth.rebuild()).unwrap().unwrap();
    assert_eq!(*rebuilt, SecretValue::from("second"));
    assert_eq!(*auth.blocking_get().unwrap(), SecretValue::from("second"));
}

#[test]
fn change_of_a_file_is_followed_without_a_call() {
    let directory = tempfile::tempdir().unwrap();
    let write = |value: &str| {
        let mut file = tempfile::NamedTempFile::new_in(directory.path()).unwrap();
        std::io::Write::write_all(&mut file, value.as_bytes()).unwrap();
        file.persist(directory.path().join("token")).unwrap();
    };
    write("first");
    let auth = auth(&Resolver::new(FileProvider::directory(directory.path())));
    assert_eq!(*auth.blocking_get().unwrap(), SecretValue::from("first"));
    let mut states = auth.watch_state();
    write("second");
    let second = |state: &State| state.generation() > Some(1);
    let changed = blocking::block_on_within(LONG, states.wait_for(second)).unwrap();
    assert!(changed.is_some());
    assert_eq!(*auth.blocking_get().unwrap(), SecretValue::from("second"));
}
