//! A server that accepts chosen passwords, and connections to it.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex as StdMutex, MutexGuard};

use redis::{AsyncCommands, IntoConnectionInfo, RedisConnectionInfo};
use secretwell::auth::State;
use secretwell::{ExposeSecret, SecretString};
use secretwell_testkit::{Canary, CanaryLog, Fixture};
use serde::Deserialize;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

use super::*;
use crate::testing::{Polled, until};

const WRONG: &str = "-WRONGPASS invalid username-password pair or user is disabled.\r\n";
const UNAUTHENTICATED: &str = "-NOAUTH Authentication required.\r\n";

/// What the server has received and how it responds.
#[derive(Default)]
struct Server {
    accepted: HashSet<String>,
    connections: usize,
    open: usize,
    /// The number of the connection and the command, with its arguments.
    log: Vec<(usize, String)>,
    /// A login is not answered before this.
    hold: Option<Arc<Notify>>,
    /// Repeats the arguments of each login, as servers do for commands that they do not know.
    repeats_arguments: bool,
    /// The next command loses its login.
    forgets_login: bool,
    /// Ends all connections.
    kill: Arc<Notify>,
}

#[derive(Clone, Default)]
struct Fake(Arc<StdMutex<Server>>);

impl Fake {
    async fn start(accepted: &[&str]) -> (Self, SocketAddr) {
        let fake = Self::default();
        fake.accept(accepted);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let accepting = fake.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let fake = accepting.clone();
                tokio::spawn(async move { fake.serve(stream).await });
            }
        });
        (fake, address)
    }

    fn lock(&self) -> MutexGuard<'_, Server> {
        self.0.lock().unwrap()
    }

    fn accept(&self, passwords: &[&str]) {
        self.lock().accepted = passwords.iter().map(|text| (*text).to_owned()).collect();
    }

    fn count(&self, command: &str) -> usize {
        let server = self.lock();
        let commands = server.log.iter().map(|(_, text)| text);
        commands.filter(|text| text.starts_with(command)).count()
    }

    async fn serve(self, stream: TcpStream) {
        let number = {
            let mut server = self.lock();
            server.connections += 1;
            server.open += 1;
            server.connections
        };
        let kill = self.lock().kill.clone();
        let (reader, mut writer) = stream.into_split();
        let mut reader = BufReader::new(reader);
        let mut is_logged_in = false;
        let talk = async {
            while let Some(command) = read_command(&mut reader).await {
                self.lock().log.push((number, command.join(" ")));
                let hold = self.lock().hold.clone();
                if let ("AUTH", Some(hold)) = (command[0].as_str(), hold) {
                    hold.notified().await;
                }
                let response = self.respond(&command, &mut is_logged_in);
                if writer.write_all(response.as_bytes()).await.is_err() {
                    return;
                }
            }
        };
        tokio::select! {
            () = talk => {}
            () = kill.notified() => {}
        }
        self.lock().open -= 1;
    }

    fn respond(&self, command: &[String], is_logged_in: &mut bool) -> String {
        let mut server = self.lock();
        let password = command.last().unwrap();
        if std::mem::take(&mut server.forgets_login) {
            *is_logged_in = false;
        }
        match command[0].as_str() {
            "AUTH" if server.repeats_arguments => {
                format!("-ERR unknown command `AUTH`, with args beginning with: `{password}`\r\n")
            }
            "AUTH" if server.accepted.contains(password) => {
                *is_logged_in = true;
                "+OK\r\n".into()
            }
            "AUTH" => WRONG.into(),
            _ if !*is_logged_in => UNAUTHENTICATED.into(),
            "PING" => "+PONG\r\n".into(),
            "GET" => "$1\r\n1\r\n".into(),
            _ => "+OK\r\n".into(),
        }
    }
}

async fn read_command(reader: &mut (impl AsyncBufReadExt + Unpin)) -> Option<Vec<String>> {
    let count = read_number(reader, '*').await?;
    let mut words = Vec::new();
    for _ in 0..count {
        let length = read_number(reader, '$').await?;
        let mut word = vec![0; length + 2];
        reader.read_exact(&mut word).await.ok()?;
        word.truncate(length);
        words.push(String::from_utf8(word).unwrap());
    }
    Some(words)
}

async fn read_number(reader: &mut (impl AsyncBufReadExt + Unpin), start: char) -> Option<usize> {
    let mut line = String::new();
    reader.read_line(&mut line).await.ok()?;
    line.trim().strip_prefix(start)?.parse().ok()
}

#[derive(Deserialize)]
struct Secrets {
    password: SecretString,
}

fn auth(resolver: secretwell::Resolver, address: SocketAddr) -> LazyAuth<Client> {
    LazyAuth::new(resolver, move |secrets: Secrets, _| async move {
        let login = RedisConnectionInfo::default()
            .set_username("app")
            .set_password(secrets.password.expose_secret());
        let server = format!("redis://{address}").into_connection_info()?;
        Ok(Client::open(server.set_redis_settings(login))?)
    })
}

fn connection(auth: &LazyAuth<Client>) -> RedisConnection {
    // Only a busy machine needs as long.
    let limit = Some(Duration::from_secs(30));
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(limit)
        .set_response_timeout(limit);
    RedisConnection::new(auth.clone(), config)
}

async fn get(connection: &RedisConnection) -> RedisResult<u8> {
    connection.clone().get("key").await
}

#[tokio::test]
async fn open_connection_logs_in_again_after_each_rotation() {
    let (server, address) = Fake::start(&["first", "second", "third"]).await;
    let fixture = Fixture::with([("password", "first")]);
    let auth = auth(fixture.resolver(), address);
    let connection = connection(&auth);
    assert_eq!(server.lock().connections, 0);
    assert_eq!(get(&connection).await.unwrap(), 1);
    for (logins, password) in [(2, "second"), (3, "third")] {
        fixture.set("password", password);
        until(|| server.count("AUTH") == logins).await;
        assert_eq!(get(&connection).await.unwrap(), 1);
    }
    let server = server.lock();
    assert_eq!((server.connections, server.open), (1, 1));
    assert!(server.log.contains(&(1, "AUTH app third".into())));
}

#[tokio::test]
async fn rotation_during_the_login_is_followed_on_the_same_connection() {
    let (server, address) = Fake::start(&["first", "second"]).await;
    let hold = Arc::new(Notify::new());
    server.lock().hold = Some(hold.clone());
    let fixture = Fixture::with([("password", "first")]);
    let auth = auth(fixture.resolver(), address);
    let connection = connection(&auth);
    let command = tokio::spawn(async move { (get(&connection).await, connection) });
    until(|| server.count("AUTH app first") == 1).await;
    drop(fixture.rotate(&auth, "password", "second").await);
    server.lock().hold = None;
    hold.notify_one();
    let (response, _connection) = command.await.unwrap();
    assert_eq!(response.unwrap(), 1);
    until(|| server.count("AUTH app second") == 1).await;
    assert_eq!(server.lock().connections, 1);
}

#[tokio::test]
async fn rejected_login_is_reported_once_and_repeated_once() {
    let (server, address) = Fake::start(&["second"]).await;
    let polled = Polled::with([("password", "first")]);
    let auth = auth(polled.resolver.clone(), address);
    drop(auth.get().await.unwrap());
    polled.set("password", "second");
    let connection = connection(&auth);
    let commands = (0..20).map(|_| {
        let connection = connection.clone();
        tokio::spawn(async move { get(&connection).await })
    });
    for command in commands.collect::<Vec<_>>() {
        assert_eq!(command.await.unwrap().unwrap(), 1);
    }
    assert_eq!(server.count("AUTH app first"), 1);
    assert_eq!(server.count("AUTH app second"), 1);
    assert_eq!(polled.source.discarded().len(), 1);
}

#[tokio::test]
async fn login_that_stays_rejected_is_not_repeated() {
    let (server, address) = Fake::start(&[]).await;
    let polled = Polled::with([("password", "first")]);
    let auth = auth(polled.resolver.clone(), address);
    let connection = connection(&auth);
    let error = get(&connection).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AuthenticationFailed, "{error}");
    assert_eq!(server.count("AUTH"), 1);
    assert_eq!(polled.source.discarded().len(), 1);
    until(|| server.lock().open == 0).await;
}

#[tokio::test]
async fn connection_stays_in_use_while_the_server_rejects_the_new_login() {
    let (server, address) = Fake::start(&["first"]).await;
    let fixture = Fixture::with([("password", "first")]);
    let auth = auth(fixture.resolver(), address);
    let connection = connection(&auth);
    assert_eq!(get(&connection).await.unwrap(), 1);
    fixture.set("password", "second");
    until(|| server.count("AUTH app second") == 1).await;
    assert_eq!(get(&connection).await.unwrap(), 1);
    // The server learns the password later. The next attempt is a second later.
    server.accept(&["second"]);
    until(|| server.count("AUTH app second") == 2).await;
    assert_eq!(get(&connection).await.unwrap(), 1);
    assert_eq!(server.lock().connections, 1);
}

#[tokio::test]
async fn source_that_fails_does_not_affect_a_connection() {
    let (server, address) = Fake::start(&["first"]).await;
    let fixture = Fixture::with([("password", "first")]);
    let auth = auth(fixture.resolver(), address);
    let connection = connection(&auth);
    assert_eq!(get(&connection).await.unwrap(), 1);
    fixture.fail_source();
    assert!(auth.rebuild().await.is_err());
    assert!(matches!(auth.state(), State::Degraded { .. }));
    assert_eq!(get(&connection).await.unwrap(), 1);
    assert_eq!(server.lock().connections, 1);
}

#[tokio::test]
async fn lost_connection_is_replaced_by_the_next_command_with_the_newest_login() {
    let (server, address) = Fake::start(&["first", "second"]).await;
    let fixture = Fixture::with([("password", "first")]);
    let auth = auth(fixture.resolver(), address);
    let connection = connection(&auth);
    assert_eq!(get(&connection).await.unwrap(), 1);
    server.lock().kill.notify_waiters();
    until(|| server.lock().open == 0).await;
    drop(fixture.rotate(&auth, "password", "second").await);
    // The loss might be noticed by the login of the rotation or by a command.
    if let Err(error) = get(&connection).await {
        assert!(error.is_connection_dropped(), "{error}");
        assert_eq!(get(&connection).await.unwrap(), 1);
    }
    let server = server.lock();
    assert_eq!((server.connections, server.open), (2, 1));
    assert!(server.log.contains(&(2, "AUTH app second".into())));
}

#[tokio::test]
async fn connection_that_was_lost_while_idle_does_not_fail_a_command() {
    let (server, address) = Fake::start(&["first"]).await;
    let fixture = Fixture::with([("password", "first")]);
    let connection = connection(&auth(fixture.resolver(), address));
    assert_eq!(get(&connection).await.unwrap(), 1);
    server.lock().kill.notify_waiters();
    until(|| server.lock().open == 0).await;
    tokio::time::pause();
    tokio::time::advance(MAX_IDLE + Duration::from_millis(1)).await;
    tokio::time::resume();
    assert_eq!(get(&connection).await.unwrap(), 1);
    assert_eq!(server.lock().connections, 2);
}

#[tokio::test]
async fn request_is_repeated_if_the_server_has_forgotten_the_login() {
    let get = || redis::cmd("GET").arg("key").clone();
    let mut pipeline = redis::pipe();
    pipeline.add_command(get()).add_command(get());
    // Without optimization, redis 1.8.1 panics in a task and loses the connection if `MULTI` fails, so a transaction is
    // not part of this test.
    for pipeline in [None, Some(pipeline)] {
        let (server, address) = Fake::start(&["first", "second"]).await;
        let polled = Polled::with([("password", "first")]);
        let auth = auth(polled.resolver.clone(), address);
        let connection = connection(&auth);
        let send = async || match &pipeline {
            None => get().exec_async(&mut connection.clone()).await,
            Some(pipeline) => pipeline.exec_async(&mut connection.clone()).await,
        };
        send().await.unwrap();
        server.accept(&["second"]);
        server.lock().forgets_login = true;
        polled.set("password", "second");
        send().await.unwrap();
        server.lock().forgets_login = true;
        // The same login again. The source has no newer one, so the error is returned.
        send().await.unwrap_err();
        send().await.unwrap();
        assert_eq!(server.lock().connections, 3);
    }
}

#[tokio::test]
async fn build_with_another_address_drains_the_connection() {
    let (old, old_address) = Fake::start(&["first"]).await;
    let (new, new_address) = Fake::start(&["first"]).await;
    let fixture = Fixture::with([("server", old_address.to_string())]);
    #[derive(Deserialize)]
    struct Server {
        server: String,
    }
    let auth = LazyAuth::new(fixture.resolver(), |secrets: Server, _| async move {
        Ok(Client::open(format!(
            "redis://app:first@{}",
            secrets.server
        ))?)
    });
    let connection = connection(&auth);
    assert_eq!(get(&connection).await.unwrap(), 1);
    drop(
        fixture
            .rotate(&auth, "server", new_address.to_string())
            .await,
    );
    let link = connection.0.current.load_full().unwrap();
    until(|| !link.login.is_usable()).await;
    assert_eq!(get(&connection).await.unwrap(), 1);
    assert_eq!((old.lock().open, new.lock().open), (1, 1));
    // The last user of the old connection closes it.
    drop(link);
    until(|| old.lock().open == 0).await;
}

#[tokio::test]
async fn cancelled_connect_is_continued_by_the_next_caller_and_nothing_stays_open() {
    let (server, address) = Fake::start(&["first"]).await;
    let hold = Arc::new(Notify::new());
    server.lock().hold = Some(hold.clone());
    let fixture = Fixture::with([("password", "first")]);
    let connection = connection(&auth(fixture.resolver(), address));
    let callers = (0..3).map(|_| {
        let connection = connection.clone();
        tokio::spawn(async move { get(&connection).await })
    });
    let callers: Vec<_> = callers.collect();
    until(|| server.count("AUTH") == 1).await;
    callers[0].abort();
    until(|| server.count("AUTH") == 2).await;
    server.lock().hold = None;
    hold.notify_waiters();
    for caller in callers.into_iter().skip(1) {
        assert_eq!(caller.await.unwrap().unwrap(), 1);
    }
    drop(connection);
    until(|| server.lock().open == 0).await;
    assert_eq!(server.lock().connections, 2);
}

#[tokio::test]
async fn callers_share_the_failure_of_one_attempt() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let fixture = Fixture::with([("password", "first")]);
    let connection = connection(&auth(fixture.resolver(), address));
    let callers = (0..20).map(|_| {
        let connection = connection.clone();
        tokio::spawn(async move { get(&connection).await })
    });
    let callers: Vec<_> = callers.collect();
    let (mut first, _) = listener.accept().await.unwrap();
    // All callers wait for the same attempt.
    until(|| callers.iter().all(|caller| !caller.is_finished())).await;
    tokio::task::yield_now().await;
    first.shutdown().await.unwrap();
    drop(first);
    for caller in callers {
        assert!(caller.await.unwrap().is_err());
    }
    let more = tokio::time::timeout(Duration::ZERO, listener.accept()).await;
    assert!(more.is_err(), "one attempt for all callers");
}

#[tokio::test]
async fn command_without_a_build_fails_with_the_reason() {
    let (server, address) = Fake::start(&["first"]).await;
    let fixture = Fixture::default();
    let connection = connection(&auth(fixture.resolver(), address));
    let error = get(&connection).await.unwrap_err();
    assert!(error.to_string().contains("password"), "{error}");
    assert_eq!(server.lock().connections, 0);
    assert_eq!(connection.get_db(), 0);
}

#[tokio::test]
async fn password_that_the_server_repeats_is_in_no_error_and_no_log() {
    let log = CanaryLog::install();
    let (first, second) = (
        Canary::new("first password"),
        Canary::new("second password"),
    );
    let (server, address) = Fake::start(&[first.text()]).await;
    let fixture = Fixture::with([("password", first.text())]);
    let auth = auth(fixture.resolver(), address);
    let connection = connection(&auth);
    assert_eq!(get(&connection).await.unwrap(), 1);
    first.assert_hidden(&connection);
    first.assert_hidden(&auth);

    // An open connection logs in.
    server.lock().repeats_arguments = true;
    fixture.set("password", second.text());
    until(|| log.contains("redis_login_failed")).await;
    assert_eq!(get(&connection).await.unwrap(), 1);
    // A new connection logs in, with both versions of the protocol.
    for protocol in ["resp2", "resp3"] {
        let url = format!("redis://app@{address}?protocol={protocol}");
        let password = second.text().to_owned();
        let client = LazyAuth::new(fixture.resolver(), move |_: Secrets, _| {
            let (url, password) = (url.clone(), password.clone());
            async move {
                let server = url.as_str().into_connection_info()?;
                let login = server.redis_settings().clone().set_password(password);
                Ok(Client::open(server.set_redis_settings(login))?)
            }
        });
        let error = get(&self::connection(&client)).await.unwrap_err();
        second.assert_hidden_error(&error);
        second.assert_hidden(&error);
    }
    log.assert_clean(&[&first, &second]);
}

#[test]
fn beginning_of_a_long_password_is_removed() {
    let password = "8c3e1f".repeat(50);
    let login = RedisConnectionInfo::default().set_password(password.as_str());
    let server = "redis://localhost".into_connection_info().unwrap();
    let client = Client::open(server.set_redis_settings(login)).unwrap();
    let response = format!(
        "unknown command 'AUTH', with args beginning with: '{}'",
        &password[..100]
    );
    let error: RedisError = (ErrorKind::Client, "ERR", response).into();
    let text = without_login(error, &client).to_string();
    assert!(!text.contains(&password[..8]), "{text}");
}

#[test]
fn build_without_a_password_needs_another_connection() {
    let client = |password: Option<&str>| {
        let login = RedisConnectionInfo::default();
        let login = match password {
            Some(password) => login.set_password(password),
            None => login,
        };
        let server = "redis://localhost".into_connection_info().unwrap();
        Client::open(server.set_redis_settings(login)).unwrap()
    };
    let (none, one, two) = (client(None), client(Some("one")), client(Some("two")));
    for (old, new, is_same) in [
        (&one, &two, true),
        (&none, &one, true),
        (&none, &none, true),
        (&one, &none, false),
    ] {
        assert_eq!(has_same_endpoint(old, new), is_same);
    }
}
