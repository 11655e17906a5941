//! Is an append synced before it is answered, and is a sync shared? strace tells.

use std::path::Path;

use super::resp::{Client, appended, encode, said};
use super::strace::{Line, Strace};
use crate::server_process::{Home, ServerProcess};

const APPENDS: usize = 500;
const PIPELINE: u64 = 1000;
const PIPELINE_SYNCS_MAX: usize = 50;
/// A pipeline may begin a segment, whose file is synced before the first write: no sync of an
/// append, and not counted as one by the metric.
const OTHER_SYNCS_MAX: usize = 2;

const RECEIVES: [&str; 4] = ["recvfrom", "read", "readv", "recvmsg"];
const SENDS: [&str; 4] = ["sendto", "write", "writev", "sendmsg"];

const OPTIONS: [&str; 5] = [
    "-f",
    "-y",
    "-ttt",
    "-e",
    "trace=fdatasync,fsync,pwrite64,recvfrom,sendto,read,write,readv,writev,recvmsg,sendmsg",
];

pub(super) fn before_every_answer(binary: &Path) -> Result<String, String> {
    let home = Home::new(binary, &[])?;
    home.explain(one_by_one(&home))
}

fn one_by_one(home: &Home) -> Result<String, String> {
    let server = home.start()?;
    let mut connection = Client::connect(server.address()).map_err(said)?;
    connection.call(&["PING"]).map_err(said)?;
    let strace = Strace::attach(&OPTIONS, server.pid(), &home.scratch("one-by-one.strace"))?;
    for n in 0..APPENDS {
        // Several streams, so that all buckets are seen.
        connection.append(&format!("s{}", n % 20), &format!("payload {n}"))?;
    }
    let lines = strace.detach()?;
    server.terminate()?;
    let mut watch = Watch::default();
    for line in &lines {
        watch.see(line)?;
    }
    if watch.synced != APPENDS {
        let of = watch.answered;
        return Err(format!("{} synced of {of} answers, expected {APPENDS}", watch.synced));
    }
    Ok(format!(
        "{} of {APPENDS} answers were sent after a pwrite64 and then a completed fdatasync of one \
         segment file ({} lines of trace)",
        watch.synced,
        lines.len()
    ))
}

/// What happened since the last request was received.
#[derive(Debug, Default)]
struct Watch {
    /// The socket that an append was received on and not yet answered.
    waiting: Option<String>,
    written: Vec<String>,
    syncing: Vec<String>,
    is_synced: bool,
    answered: usize,
    synced: usize,
}

impl Watch {
    fn see(&mut self, line: &Line) -> Result<(), String> {
        let call = line.call.as_str();
        let on_segment = line.file.ends_with(".segment");
        if RECEIVES.contains(&call) && line.arguments.contains("EAPPEND") {
            if line.returned.is_some_and(|bytes| bytes > 0) {
                if self.waiting.is_some() {
                    return Err(format!("a request before the last one's answer: {line:?}"));
                }
                let (answered, synced) = (self.answered, self.synced);
                let waiting = Some(line.file.clone());
                *self = Self { waiting, answered, synced, ..Self::default() };
            }
        } else if call == "pwrite64" && on_segment {
            if line.returned.is_some_and(|bytes| bytes > 0) {
                self.written.push(line.file.clone());
            }
        } else if call == "fdatasync" && on_segment {
            if line.begins && self.written.contains(&line.file) {
                self.syncing.push(line.file.clone());
            }
            self.is_synced |= line.returned == Some(0) && self.syncing.contains(&line.file);
        } else if SENDS.contains(&call) && line.begins && self.waiting == Some(line.file.clone()) {
            self.answered += 1;
            self.synced += usize::from(self.is_synced);
            self.waiting = None;
        }
        Ok(())
    }
}

pub(super) fn shared_by_a_pipeline(binary: &Path) -> Result<String, String> {
    let home = Home::new(binary, &[])?;
    home.explain(pipeline(&home))
}

fn pipeline(home: &Home) -> Result<String, String> {
    let server = home.start()?;
    let mut connection = Client::connect(server.address()).map_err(said)?;
    connection.append("pipeline", "warm")?;
    let counted = counted_syncs(&server)?;
    let strace = Strace::attach(&OPTIONS, server.pid(), &home.scratch("pipeline.strace"))?;
    let mut bytes = Vec::new();
    for n in 0..PIPELINE {
        encode(&["EAPPEND", "pipeline", "E", "PAYLOAD", &n.to_string()], &mut bytes);
    }
    connection.send(&bytes).map_err(said)?;
    for n in 0..PIPELINE {
        let value = connection.read().map_err(said)?;
        let version = appended(&value).map(|position| position.version);
        if version != Some(n + 1) {
            return Err(format!("answer {n} of the pipeline: {value:?}"));
        }
    }
    let lines = strace.detach()?;
    let counted = counted_syncs(&server)? - counted;
    server.terminate()?;
    let ended = |line: &&Line| line.call == "fdatasync" && line.returned == Some(0);
    let traced = lines.iter().filter(ended).filter(|line| line.file.ends_with(".segment")).count();
    let told = format!(
        "{PIPELINE} appends in one pipeline took {traced} fdatasyncs of segments by strace, \
         {counted} by actadb_fsync_seconds_count"
    );
    if traced == 0 || traced > PIPELINE_SYNCS_MAX {
        return Err(format!("{told}; at most {PIPELINE_SYNCS_MAX} are expected, and one at least"));
    }
    if counted > traced || traced - counted > OTHER_SYNCS_MAX {
        return Err(format!("{told}: the metric is wrong"));
    }
    Ok(told)
}

fn counted_syncs(server: &ServerProcess) -> Result<usize, String> {
    Ok(server.metric("actadb_fsync_seconds_count")? as usize)
}
