//! The servers of a comparison: ActaDB's, which are started for it, and what the system says of
//! any of them.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::BenchError;
use crate::wire_client::{Value, WireClient};

const START_PATIENCE: Duration = Duration::from_secs(30);
/// In front of every entry of the log.
const FRAME_HEADER_BYTES: u64 = 40;
const READY: &str = "ready to receive connections on ";
/// A tick of the times in `/proc`: Linux shows hundredths of a second to everyone.
const TICK_US: u64 = 10_000;

/// A server under measurement.
#[derive(Debug)]
pub(super) struct Server {
    /// Where it listens.
    pub(super) address: String,
    /// Whether it speaks of XADD.
    pub(super) redis: bool,
    pid: u64,
    /// Ours to end.
    child: Option<Child>,
}

/// What a server had used at one moment.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Usage {
    /// CPU time in microseconds.
    pub(super) cpu_us: u64,
    /// Resident memory that no file backs, in bytes.
    pub(super) anon_bytes: u64,
    /// Bytes of its log: the entries' bodies and a header for each, or the append-only file.
    pub(super) log_bytes: u64,
    /// Syncs of its log; Redis does not say.
    pub(super) syncs: Option<u64>,
}

impl Server {
    /// Starts an ActaDB on a new directory, with one setting beside the defaults.
    pub(super) fn start(dir: &Path, setting: Option<(&str, &str)>) -> Result<Self, BenchError> {
        let refused = |what: std::io::Error| BenchError::Server(what.to_string());
        let mut command = Command::new(std::env::current_exe().map_err(refused)?);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("ACTADB_") {
                command.env_remove(name);
            }
        }
        command
            .args(["--client-address", "127.0.0.1:0", "--log", "info", "--dir"])
            .arg(dir)
            .env("ACTADB_NETWORK__ADMIN_ADDRESS", "")
            .envs(setting)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let mut child = command.spawn().map_err(refused)?;
        let log = child.stderr.take();
        let mut server = Self {
            address: String::new(),
            redis: false,
            pid: u64::from(child.id()),
            child: Some(child),
        };
        let (found, ready) = mpsc::channel();
        thread::spawn(move || {
            // Read to its end, so that the server never waits for us.
            let lines = log.map(BufReader::new).into_iter().flat_map(BufRead::lines);
            let mut last = String::new();
            for line in lines.map_while(Result::ok) {
                if let Some((_, address)) = line.split_once(READY) {
                    let _ = found.send(Ok(address.trim().to_owned()));
                }
                last = line;
            }
            let _ = found.send(Err(last));
        });
        server.address = ready
            .recv_timeout(START_PATIENCE)
            .map_err(|_| BenchError::Server("it is not ready after 30 s".into()))?
            .map_err(BenchError::Server)?;
        Ok(server)
    }

    /// A Redis server that runs, made ready: it must keep a log, which it does not rewrite in the
    /// background meanwhile.
    pub(super) async fn redis(address: &str) -> Result<Self, BenchError> {
        let mut client = WireClient::connect(address, None).await?;
        if setting(&mut client, b"appendonly").await?.as_deref() != Some("yes") {
            return Err(BenchError::NoLog(address.into()));
        }
        client.call(&[b"CONFIG", b"SET", b"auto-aof-rewrite-percentage", b"0"]).await?;
        let server = info(&mut client, b"server").await?;
        let pid = number(&server, "process_id").unwrap_or(0);
        Ok(Self { address: address.into(), redis: true, pid, child: None })
    }

    /// Sets when a Redis server syncs: `always` or `everysec`.
    pub(super) async fn sync_redis(&self, when: &str) -> Result<(), BenchError> {
        let mut client = WireClient::connect(&self.address, None).await?;
        let set: [&[u8]; 4] = [b"CONFIG", b"SET", b"appendfsync", when.as_bytes()];
        match client.call(&set).await? {
            Value::Error(text) => Err(BenchError::Preparing(text)),
            _ => Ok(()),
        }
    }

    /// What it has used so far.
    pub(super) async fn usage(&self) -> Result<Usage, BenchError> {
        let mut client = WireClient::connect(&self.address, None).await?;
        let (log_bytes, syncs) = if self.redis {
            let text = info(&mut client, b"persistence").await?;
            (number(&text, "aof_current_size").unwrap_or(0), None)
        } else {
            let buckets = info(&mut client, b"buckets").await?;
            let stats = info(&mut client, b"stats").await?;
            let bytes = sum(&buckets, "bytes") + FRAME_HEADER_BYTES * sum(&buckets, "commits");
            (bytes, number(&stats, "total_syncs"))
        };
        let pid = self.pid.to_string();
        Ok(Usage { cpu_us: cpu_us(&pid), anon_bytes: anon_bytes(&pid), log_bytes, syncs })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        let asked = Pid::from_raw(child.id() as i32).map(|pid| kill_process(pid, Signal::TERM));
        if !matches!(asked, Some(Ok(()))) {
            let _ = child.kill();
        }
        let _ = child.wait();
    }
}

/// A directory that goes with the value.
#[derive(Debug)]
pub(super) struct Scratch(pub(super) PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

async fn setting(client: &mut WireClient, name: &[u8]) -> Result<Option<String>, BenchError> {
    let reply = client.call(&[b"CONFIG", b"GET", name]).await?;
    let name = String::from_utf8_lossy(name);
    Ok(reply.get(&name).and_then(Value::text).map(str::to_owned))
}

async fn info(client: &mut WireClient, section: &[u8]) -> Result<String, BenchError> {
    let reply = client.call(&[b"INFO", section]).await?;
    Ok(reply.text().unwrap_or_default().to_owned())
}

/// The value of a line `name:value`.
fn number(info: &str, name: &str) -> Option<u64> {
    info.lines().find_map(|line| line.trim().strip_prefix(name)?.strip_prefix(':')?.parse().ok())
}

/// The sum of all values `name=value` of a section whose lines are lists.
fn sum(info: &str, name: &str) -> u64 {
    let parts = info.split(['\n', '\r', ',', ':']);
    let values =
        parts.filter_map(|part| part.strip_prefix(name)?.strip_prefix('=')?.parse::<u64>().ok());
    values.sum()
}

/// CPU time of a process in microseconds; 0 where it cannot be known.
pub(super) fn cpu_us(pid: &str) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name of the program, in parentheses, may hold spaces.
    let fields: Vec<&str> = match stat.rsplit_once(')') {
        Some((_, fields)) => fields.split_whitespace().collect(),
        None => Vec::new(),
    };
    let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<u64>().ok()).unwrap_or(0);
    (ticks(11) + ticks(12)) * TICK_US
}

fn anon_bytes(pid: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    let kib = line.and_then(|rest| rest.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_uses_time_and_memory() {
        let mut sum = 0_u64;
        let start = cpu_us("self");
        while cpu_us("self") < start + 2 * TICK_US {
            sum = sum.wrapping_add(1);
        }
        assert!(anon_bytes("self") > 0);
    }

    #[test]
    fn numbers_are_found_in_the_text_of_info() {
        let text = "# Buckets\r\nbucket0:state=open,events=7,bytes=70,commits=3\r\n\
                    bucket1:state=open,events=1,bytes=30,commits=1\r\n";
        assert_eq!((sum(text, "bytes"), sum(text, "commits"), sum(text, "byte")), (100, 4, 0));
        assert_eq!(number("a:1\r\nprocess_id:42\r\n", "process_id"), Some(42));
        assert_eq!(number("process_id:42", "process"), None);
    }
}
