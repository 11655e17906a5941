//! Servers for tests: inside this process, or the real binary. All listen on ports of their own.

use std::io::{BufRead, BufReader, Lines};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;

use actadb_server::server::Server;
use actadb_server::settings::Settings;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, Value};

/// Settings for a directory, on free ports.
pub(crate) fn settings(dir: &Path) -> Settings {
    let mut settings = Settings { dir: dir.join("data"), ..Settings::default() };
    settings.network.client_address = "127.0.0.1:0".into();
    settings.network.admin_address = "127.0.0.1:0".into();
    settings.segment.size_bytes = 1 << 20;
    settings.bucket.count = 4;
    settings
}

/// A connection of redis-rs with a protocol.
pub(crate) async fn connect(server: &Server, protocol: u8) -> MultiplexedConnection {
    connect_to(&format!("redis://{}/?protocol={protocol}", server.client_address())).await
}

/// A connection of redis-rs to a URL.
pub(crate) async fn connect_to(url: &str) -> MultiplexedConnection {
    let client = Client::open(url).expect("a URL");
    let config = AsyncConnectionConfig::new().set_response_timeout(None);
    client.get_multiplexed_async_connection_with_config(&config).await.expect("connects")
}

/// The value of a key in a map reply, in both protocols.
pub(crate) fn field<'a>(value: &'a Value, key: &str) -> &'a Value {
    let is_key = |k: &Value| matches!(k, Value::SimpleString(text) if text == key);
    match value {
        Value::Map(pairs) => {
            &pairs.iter().find(|(k, _)| is_key(k)).unwrap_or_else(|| panic!("no {key}")).1
        }
        Value::Array(flat) => {
            let at = flat.iter().step_by(2).position(is_key);
            &flat[2 * at.unwrap_or_else(|| panic!("no {key}")) + 1]
        }
        other => panic!("no map: {other:?}"),
    }
}

/// A number of a map reply.
pub(crate) fn number(value: &Value, key: &str) -> u64 {
    match field(value, key) {
        Value::Int(number) => *number as u64,
        other => panic!("{key} is {other:?}"),
    }
}

/// Text of a map reply, simple or bulk.
pub(crate) fn text(value: &Value, key: &str) -> String {
    match field(value, key) {
        Value::SimpleString(text) => text.clone(),
        Value::BulkString(bytes) => String::from_utf8(bytes.clone()).expect("text"),
        other => panic!("{key} is {other:?}"),
    }
}

/// The events of a page, and whether there are more.
pub(crate) fn page(value: &Value) -> (Vec<Value>, bool) {
    let Value::Array(events) = field(value, "events") else { panic!("no events: {value:?}") };
    let has_more = match field(value, "has_more") {
        Value::Boolean(more) => *more,
        Value::Int(more) => *more == 1,
        other => panic!("has_more is {other:?}"),
    };
    (events.clone(), has_more)
}

/// How long a process may take to be ready.
const START: Duration = Duration::from_secs(60);

/// The real binary, serving.
pub(crate) struct Process {
    child: Child,
    /// Where clients connect.
    pub(crate) address: String,
}

impl Process {
    /// Starts it and waits until a line of its log has these words instead of being ready; then it
    /// is killed.
    pub(crate) fn says(dir: &Path, environment: &[(&str, &str)], words: &str) {
        let (mut child, mut lines) = spawn(dir, environment);
        let mut seen = Vec::new();
        while let Some(Ok(line)) = lines.next() {
            seen.push(line);
            if seen.last().is_some_and(|line| line.contains(words)) {
                let _ = child.kill();
                let _ = child.wait();
                return;
            }
        }
        panic!("no '{words}' in {seen:#?}");
    }

    /// Starts it on a directory and waits until it is ready.
    pub(crate) fn start(dir: &Path) -> Self {
        Self::start_with(dir, &[])
    }

    /// The same with variables in its environment.
    pub(crate) fn start_with(dir: &Path, environment: &[(&str, &str)]) -> Self {
        let (child, mut lines) = spawn(dir, environment);
        let mut process = Self { child, address: String::new() };
        // One that waits for ever for others ends, and the test with it.
        let (starting, started) = std::sync::mpsc::channel::<()>();
        let pid = process.child.id().to_string();
        std::thread::spawn(move || {
            if started.recv_timeout(START) == Err(RecvTimeoutError::Timeout) {
                let _ = Command::new("kill").args(["-KILL", &pid]).status();
            }
        });
        let mut seen = Vec::new();
        process.address = loop {
            let Some(Ok(line)) = lines.next() else { panic!("no ready line in {seen:#?}") };
            if let Some((_, address)) = line.split_once("ready to receive connections on ") {
                break address.trim().to_owned();
            }
            seen.push(line);
        };
        drop(starting);
        // Somebody must read on, or the server would block on a full pipe.
        std::thread::spawn(move || lines.for_each(drop));
        process
    }

    /// SIGKILL.
    pub(crate) fn kill(mut self) {
        self.child.kill().expect("killed");
        self.child.wait().expect("gone");
    }

    /// SIGTERM; answers whether it ended with success.
    pub(crate) fn terminate(mut self) -> bool {
        let pid = self.child.id().to_string();
        Command::new("kill").args(["-TERM", &pid]).status().expect("kill runs");
        self.child.wait().expect("gone").success()
    }
}

/// Ports that nobody else is given: below those that the system gives away by itself, where
/// another test would be as likely to get one.
pub(crate) fn free_ports(count: usize) -> Vec<SocketAddr> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let first = std::process::id().wrapping_mul(97);
    let mut free = Vec::new();
    while free.len() < count {
        let next = first.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % 20_000;
        let address = SocketAddr::from(([127, 0, 0, 1], 11_000 + next as u16));
        if std::net::TcpListener::bind(address).is_ok() {
            free.push(address);
        }
    }
    free
}

/// Starts the binary; answers it and the lines of its log.
fn spawn(dir: &Path, environment: &[(&str, &str)]) -> (Child, Lines<BufReader<ChildStderr>>) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_actadb"))
        .args(["--client-address", "127.0.0.1:0", "--dir"])
        .arg(dir)
        .env("ACTADB_NETWORK__ADMIN_ADDRESS", "")
        .env("ACTADB_BUCKET__COUNT", "4")
        .envs(environment.iter().copied())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    let lines = BufReader::new(child.stderr.take().expect("piped")).lines();
    (child, lines)
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs the binary with arguments; answers (exit code, stdout, stderr).
pub(crate) fn actadb(arguments: &[&str]) -> (i32, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_actadb"))
        .args(arguments)
        .output()
        .expect("the binary runs");
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    (output.status.code().unwrap_or(-1), text(output.stdout), text(output.stderr))
}
