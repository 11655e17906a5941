//! A real server as a child process: started on a directory of its own, asked, stopped, killed.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::programs;

const START_PATIENCE: Duration = Duration::from_secs(30);
const STOP_PATIENCE: Duration = Duration::from_secs(10);
const READY: &str = "ready to receive connections on ";
const ENDED: &str = "it ended";
const ADMIN: &str = "metrics and health on http://";
const HTTP_PATIENCE: Duration = Duration::from_secs(10);

/// What a server leaves behind when it ends: its directory, its settings, its log.
#[derive(Debug)]
pub(crate) struct Home {
    binary: PathBuf,
    dir: TempDir,
    log: Arc<Mutex<String>>,
}

/// A running server. It ends when this is dropped.
#[derive(Debug)]
pub(crate) struct ServerProcess {
    child: Child,
    address: SocketAddr,
    admin: SocketAddr,
}

fn text<E: std::fmt::Display>(error: E) -> String {
    error.to_string()
}

impl Home {
    /// A new directory. A setting is a dotted key and a TOML value.
    ///
    /// # Errors
    /// When the directory cannot be made.
    pub(crate) fn new(binary: &Path, settings: &[(&str, &str)]) -> Result<Self, String> {
        let dir = tempfile::Builder::new().prefix("actadb-xtask-").tempdir().map_err(text)?;
        let mut config = format!("dir = {:?}\n", dir.path().join("data"));
        let addresses = [
            ("network.client_address", "\"127.0.0.1:0\""),
            ("network.admin_address", "\"127.0.0.1:0\""),
            // Several, so that the failure of one can be seen to stay its own.
            ("bucket.count", "4"),
        ];
        let ours = |key: &str| settings.iter().any(|(other, _)| *other == key);
        let defaults = addresses.iter().filter(|(key, _)| !ours(key));
        for (key, value) in defaults.chain(settings) {
            let _ = writeln!(config, "{key} = {value}");
        }
        std::fs::write(dir.path().join("actadb.toml"), config).map_err(text)?;
        Ok(Self { binary: binary.to_owned(), dir, log: Arc::default() })
    }

    /// The data directory.
    #[must_use]
    pub(crate) fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// A place for a test's own files.
    #[must_use]
    pub(crate) fn scratch(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The server's binary, without the variables that would configure it.
    #[must_use]
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(&self.binary);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("ACTADB_") {
                command.env_remove(name);
            }
        }
        command
    }

    /// The binary with the settings of this home, as [`start`](Self::start) runs it.
    #[must_use]
    pub(crate) fn serve_command(&self) -> Command {
        let mut command = self.command();
        command.arg("--config").arg(self.dir.path().join("actadb.toml"));
        command
    }

    /// Starts a server and waits until it is ready.
    ///
    /// # Errors
    /// When it ends before, or takes too long.
    pub(crate) fn start(&self) -> Result<ServerProcess, String> {
        self.start_command(self.serve_command())
    }

    /// Runs a command whose end of interest comes before it is ready; its log is kept.
    ///
    /// # Errors
    /// When it cannot be run.
    pub(crate) fn spawn(&self, mut command: Command) -> Result<Child, String> {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|error| format!("{command:?}: {error}"))?;
        // The thread ends with the process; nobody listens to it.
        drop(follow(child.stderr.take(), self.log.clone()));
        Ok(child)
    }

    /// Starts a server from a command that serves, and waits until it is ready.
    ///
    /// # Errors
    /// When it ends before, or takes too long.
    pub(crate) fn start_command(&self, command: Command) -> Result<ServerProcess, String> {
        start(command, &self.log)
    }

    /// A shell that does something and then becomes the server, with the same process id.
    #[must_use]
    pub(crate) fn shell_command(&self, before: &str) -> Command {
        self.serve_command_behind("sh", &["-c", &format!("{before}; exec \"$@\""), "sh"])
    }

    /// A program that becomes the server, which its arguments end with.
    #[must_use]
    pub(crate) fn serve_command_behind(&self, program: &str, arguments: &[&str]) -> Command {
        let serve = self.serve_command();
        let mut command = Command::new(program);
        command.args(arguments);
        command.arg(serve.get_program()).args(serve.get_args());
        for (name, value) in serve.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command
    }

    /// Starts a server that may refuse to: then what it logged.
    ///
    /// # Errors
    /// When it neither ends nor becomes ready.
    pub(crate) fn try_start(&self) -> Result<Result<ServerProcess, String>, String> {
        let before = self.log().len();
        match self.start() {
            Ok(server) => Ok(Ok(server)),
            Err(error) if error.contains(ENDED) => {
                Ok(Err(self.log().get(before..).unwrap_or_default().to_owned()))
            }
            Err(error) => Err(error),
        }
    }

    /// Runs `actadb check` on the stopped database: whether it is sound, and what it prints.
    ///
    /// # Errors
    /// When it cannot be run.
    pub(crate) fn check_output(&self) -> Result<(bool, String), String> {
        let output = self.command().arg("check").arg("--dir").arg(self.data()).output();
        let output = output.map_err(text)?;
        let printed = [output.stdout, output.stderr].concat();
        Ok((output.status.success(), String::from_utf8_lossy(&printed).into_owned()))
    }

    /// Runs `actadb check` on the stopped database.
    ///
    /// # Errors
    /// When it finds anything.
    pub(crate) fn check(&self) -> Result<(), String> {
        programs::output(self.command().arg("check").arg("--dir").arg(self.data()))?;
        Ok(())
    }

    /// Everything that servers in this home have logged.
    #[must_use]
    pub(crate) fn log(&self) -> String {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Passes a result on; an error gets the server's log with it.
    ///
    /// # Errors
    /// The same.
    pub(crate) fn explain<T>(&self, result: Result<T, String>) -> Result<T, String> {
        result.map_err(|error| {
            // The log's thread may still be reading what a dying server wrote.
            thread::sleep(Duration::from_millis(100));
            format!("{error}\n--- the server's log ---\n{}---", self.log())
        })
    }
}

/// Starts a server from a command that serves, and waits until it is ready.
///
/// # Errors
/// When it ends before, or takes too long.
pub(crate) fn start(
    mut command: Command,
    log: &Arc<Mutex<String>>,
) -> Result<ServerProcess, String> {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| format!("{command:?}: {error}"))?;
    let lines = follow(child.stderr.take(), log.clone());
    match addresses(&lines) {
        Ok((address, admin)) => Ok(ServerProcess { child, address, admin }),
        Err(error) => {
            let _ = child.kill();
            let status = child.wait().map_err(text)?;
            Err(format!("the server did not start: {error} ({status})"))
        }
    }
}

/// A thread that keeps the log, and passes its lines on while somebody listens.
fn follow(stderr: Option<impl Read + Send + 'static>, log: Arc<Mutex<String>>) -> Receiver<String> {
    let (sender, lines) = channel();
    thread::spawn(move || {
        let Some(stderr) = stderr else { return };
        for line in BufReader::new(stderr).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).into_owned();
            let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
            log.push_str(&line);
            log.push('\n');
            drop(log);
            let _ = sender.send(line);
        }
    });
    lines
}

fn addresses(lines: &Receiver<String>) -> Result<(SocketAddr, SocketAddr), String> {
    let deadline = Instant::now() + START_PATIENCE;
    let mut admin = None;
    loop {
        let line = match lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(line) => line,
            Err(RecvTimeoutError::Timeout) => return Err("not ready in 30 s".into()),
            Err(RecvTimeoutError::Disconnected) => return Err(ENDED.into()),
        };
        if let Some((_, rest)) = line.split_once(ADMIN) {
            let address = rest.split('/').next().unwrap_or_default();
            admin = Some(address.parse().map_err(|error| format!("{line}: {error}"))?);
        }
        if let Some((_, rest)) = line.split_once(READY) {
            let address = rest.trim().parse().map_err(|error| format!("{line}: {error}"))?;
            let admin = admin.ok_or("no admin address in the log before it was ready")?;
            return Ok((address, admin));
        }
    }
}

impl ServerProcess {
    /// Where clients connect.
    #[must_use]
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its process id.
    #[must_use]
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The id of the thread with a name.
    ///
    /// # Errors
    /// When there is none for a while: a thread names itself, some time after it was started.
    pub(crate) fn thread_id(&self, name: &str) -> Result<u32, String> {
        for _ in 0..100 {
            if let Some(id) = self.find_thread(name)? {
                return Ok(id);
            }
            thread::sleep(Duration::from_millis(20));
        }
        Err(format!("the server has no thread {name}"))
    }

    fn find_thread(&self, name: &str) -> Result<Option<u32>, String> {
        let tasks = format!("/proc/{}/task", self.pid());
        for entry in std::fs::read_dir(&tasks).map_err(|error| format!("{tasks}: {error}"))? {
            let entry = entry.map_err(text)?;
            let found = std::fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
            if found.trim_end() == name {
                return entry.file_name().to_string_lossy().parse().map(Some).map_err(text);
            }
        }
        Ok(None)
    }

    /// Asks the admin listener: status and body.
    ///
    /// # Errors
    /// When it does not answer HTTP.
    pub(crate) fn http(&self, path: &str) -> Result<(u16, String), String> {
        let wrong = |error: std::io::Error| format!("http://{}{path}: {error}", self.admin);
        let mut stream = TcpStream::connect_timeout(&self.admin, HTTP_PATIENCE).map_err(wrong)?;
        stream.set_read_timeout(Some(HTTP_PATIENCE)).map_err(wrong)?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: actadb\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).map_err(wrong)?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).map_err(wrong)?;
        let (head, body) = answer.split_once("\r\n\r\n").ok_or("no HTTP answer")?;
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
        Ok((status.ok_or("no HTTP status")?, body.to_owned()))
    }

    /// The sum of a metric over its labels.
    ///
    /// # Errors
    /// When there is no such metric.
    pub(crate) fn metric(&self, name: &str) -> Result<f64, String> {
        let (_, body) = self.http("/metrics")?;
        let of = |line: &str| {
            let rest = line.strip_prefix(name)?;
            let value = rest.starts_with(['{', ' ']).then(|| rest.rsplit(' ').next())??;
            value.parse::<f64>().ok()
        };
        let values: Vec<f64> = body.lines().filter_map(of).collect();
        if values.is_empty() { Err(format!("no metric {name}")) } else { Ok(values.iter().sum()) }
    }

    /// Stops it with SIGTERM and says how long that took.
    ///
    /// # Errors
    /// When it does not end within 10 s with exit code 0.
    pub(crate) fn terminate(mut self) -> Result<Duration, String> {
        let start = Instant::now();
        programs::signal("TERM", self.pid())?;
        let status = wait(&mut self.child, STOP_PATIENCE)?;
        match status.success() {
            true => Ok(start.elapsed()),
            false => Err(format!("the server ended with {status} after SIGTERM")),
        }
    }

    /// Kills it with SIGKILL.
    ///
    /// # Errors
    /// When it had ended before.
    pub(crate) fn kill(mut self) -> Result<(), String> {
        if let Some(status) = self.child.try_wait().map_err(text)? {
            return Err(format!("the server had ended before it was killed: {status}"));
        }
        self.child.kill().map_err(text)?;
        self.child.wait().map_err(text)?;
        Ok(())
    }
}

/// Waits for a child to end.
///
/// # Errors
/// When it does not within `patience`; it runs on.
pub(crate) fn wait(child: &mut Child, patience: Duration) -> Result<ExitStatus, String> {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(status) = child.try_wait().map_err(text)? {
            return Ok(status);
        }
        if Instant::now() >= deadline {
            return Err(format!("the process did not end within {} s", patience.as_secs()));
        }
        thread::sleep(Duration::from_millis(5));
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}
