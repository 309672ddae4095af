//! A service as a process, with its secrets in a directory.

use std::fmt::Debug;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// The longest wait for anything, on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A process, which is killed when it is dropped. Its standard error is collected.
pub(crate) struct Process {
    pub(crate) child: Child,
    log: Arc<Mutex<String>>,
}

impl Process {
    pub(crate) fn start(command: &mut Command) -> Self {
        let piped = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = piped.env_remove("RUST_LOG").spawn().unwrap();
        let log: Arc<Mutex<String>> = Arc::default();
        collect(child.stderr.take().unwrap(), log.clone());
        Self { child, log }
    }

    /// Returns the standard output, once.
    pub(crate) fn stdout(&mut self) -> BufReader<ChildStdout> {
        BufReader::new(self.child.stdout.take().unwrap())
    }

    /// Collects the rest of the standard output.
    pub(crate) fn collect(&self, stdout: impl Read + Send + 'static) {
        collect(stdout, self.log.clone());
    }

    pub(crate) fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// Sends a signal with the `kill` of the shell, because a separate `kill` program might not be installed.
    pub(crate) fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        let kill = ["-c", "kill -s \"$0\" \"$1\"", name, &id];
        assert!(Command::new("sh").args(kill).status().unwrap().success());
    }

    /// Sends SIGTERM, and requires that the process ends with the exit status 0 and has logged no secret.
    pub(crate) fn end(mut self) {
        self.signal("TERM");
        let status = self.wait();
        assert!(status.success(), "{status}: {}", self.log());
        for secret in [crate::FIRST, crate::SECOND] {
            assert!(!self.log().contains(secret), "{}", self.log());
        }
    }

    fn wait(&mut self) -> ExitStatus {
        eventually("the process ends", || self.child.try_wait().unwrap())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A service that listens on a free port.
pub(crate) struct Service {
    pub(crate) process: Process,
    pub(crate) address: String,
    pub(crate) secrets: Secrets,
}

impl Service {
    pub(crate) fn start(program: &str) -> Self {
        let secrets = Secrets::new();
        let mut command = Command::new(program);
        command
            .env("SECRETWELL_FROM", secrets.url())
            .env("ADDRESS", "127.0.0.1:0");
        let mut process = Process::start(&mut command);
        let mut stdout = process.stdout();
        let mut line = String::new();
        let address = loop {
            line.clear();
            let length = stdout.read_line(&mut line).unwrap();
            assert_ne!(length, 0, "the service has ended: {}", process.log());
            if let Some((_, address)) = line.trim().split_once("listening on ") {
                break address.to_owned();
            }
        };
        process.collect(stdout);
        Self {
            process,
            address,
            secrets,
        }
    }

    /// Returns the status and the body of the response to a request.
    pub(crate) fn get(&self, path: &str, key: Option<&str>) -> (u16, String) {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let key = key
            .map(|key| format!("x-api-key: {key}\r\n"))
            .unwrap_or_default();
        let request =
            format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{key}\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        let mut response = String::new();
        stream.read_to_string(&mut response).unwrap();
        let (head, body) = response.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, body.to_owned())
    }
}

/// A directory of secrets.
pub(crate) struct Secrets(TempDir);

impl Secrets {
    pub(crate) fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    pub(crate) fn url(&self) -> String {
        format!("file://{}?permissions=strict", self.0.path().display())
    }

    /// Replaces a secret at once.
    pub(crate) fn set(&self, name: &str, value: &str) {
        use std::os::unix::fs::PermissionsExt;

        let path = self.0.path().join(format!(".{name}"));
        fs::write(&path, value).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        fs::rename(path, self.0.path().join(name)).unwrap();
    }
}

/// Waits until `check` returns a value.
pub(crate) fn eventually<T>(what: &str, mut check: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(value) = check() {
            return value;
        }
        assert!(started.elapsed() < PATIENCE, "{what}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// Waits until `read` returns `expected`.
pub(crate) fn await_value<T: PartialEq + Debug>(expected: T, mut read: impl FnMut() -> T) {
    let mut last = None;
    let started = Instant::now();
    while started.elapsed() < PATIENCE {
        let value = read();
        if value == expected {
            return;
        }
        last = Some(value);
        thread::sleep(Duration::from_millis(20));
    }
    panic!("expected {expected:?}, got {last:?}");
}

fn collect(mut output: impl Read + Send + 'static, log: Arc<Mutex<String>>) {
    thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(length @ 1..) = output.read(&mut buffer) {
            log.lock()
                .unwrap()
                .push_str(&String::from_utf8_lossy(&buffer[..length]));
        }
    });
}
