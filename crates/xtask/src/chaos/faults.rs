//! Disks that fail: a sync answers EIO once, writes find no space for a while.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use super::resp::{Client, Position, Value, appended, said};
use super::small_disk::cut_short;
use super::strace::Strace;
use crate::programs;
use crate::server_process::{Home, ServerProcess};

const BUCKETS: u64 = 4;
/// Appends that are sent while there is no space.
const WAITING: usize = 12;

/// What the parts here do all the time: appends to a stream of each bucket, and what they heard.
struct Writer {
    connection: Client,
    /// A stream in each bucket.
    streams: Vec<String>,
    sent: u64,
    acknowledged: Vec<(String, Position)>,
    /// Payloads whose outcome nobody knows.
    unknown: Vec<String>,
}

impl Writer {
    /// Connects, and finds a stream for each bucket by appending to some.
    fn start(server: &ServerProcess) -> Result<Self, String> {
        let connection = Client::connect(server.address()).map_err(said)?;
        let (acknowledged, unknown) = (Vec::new(), Vec::new());
        let streams = vec![String::new(); BUCKETS as usize];
        let mut writer = Self { connection, streams, sent: 0, acknowledged, unknown };
        for n in 0..200 {
            let stream = format!("stream-{n}");
            if let Some((_, position)) = writer.append(&stream, "")?.1 {
                let bucket = (position.partition % BUCKETS) as usize;
                if let Some(place) = writer.streams.get_mut(bucket) {
                    *place = stream;
                }
            }
            if writer.streams.iter().all(|stream| !stream.is_empty()) {
                return Ok(writer);
            }
        }
        Err("200 streams do not fill 4 buckets".into())
    }

    /// One append; its answer, and where it landed if it was accepted.
    fn append(
        &mut self,
        stream: &str,
        padding: &str,
    ) -> Result<(Value, Option<(String, Position)>), String> {
        self.sent += 1;
        let payload = format!("event {}{padding}", self.sent);
        let command = ["EAPPEND", stream, "E", "PAYLOAD", &payload];
        let value = self.connection.call(&command).map_err(said)?;
        let accepted = appended(&value).map(|position| (payload.clone(), position));
        match &accepted {
            Some(accepted) => self.acknowledged.push(accepted.clone()),
            None if matches!(value.code(), Some("UNCERTAIN" | "TIMEOUT")) => {
                self.unknown.push(payload);
            }
            None => {}
        }
        Ok((value, accepted))
    }

    fn append_to_bucket(&mut self, bucket: usize) -> Result<Value, String> {
        self.append_padded(bucket, "")
    }

    fn append_padded(&mut self, bucket: usize, padding: &str) -> Result<Value, String> {
        let stream = self.streams.get(bucket).ok_or("no such bucket")?.clone();
        Ok(self.append(&stream, padding)?.0)
    }

    /// Appends that must be accepted, to every bucket but one.
    fn append_to_others(&mut self, but: usize) -> Result<(), String> {
        for bucket in (0..BUCKETS as usize).filter(|bucket| *bucket != but) {
            let value = self.append_to_bucket(bucket)?;
            if appended(&value).is_none() {
                return Err(format!("bucket {bucket}, whose disk works, answered {value:?}"));
            }
        }
        Ok(())
    }

    /// Everything acknowledged can be read by its id.
    fn read_all(&mut self) -> Result<(), String> {
        for (payload, position) in &self.acknowledged {
            let value = self.connection.call(&["EGET", &position.id]).map_err(said)?;
            if value.field("payload").and_then(Value::text) != Some(payload) {
                return Err(format!("EGET {} of {payload}: {value:?}", position.id));
            }
        }
        Ok(())
    }

    /// Scans everything on a server: what was acknowledged is there once, where it was said to
    /// be; of the rest only what nobody knows the outcome of, at most once.
    fn audit(&self, server: &ServerProcess) -> Result<String, String> {
        let mut connection = Client::connect(server.address()).map_err(said)?;
        let mut events = Vec::new();
        for partition in 0..32 {
            events.extend(connection.partition(partition)?);
        }
        for (payload, position) in &self.acknowledged {
            let mut of = events.iter().filter(|event| event.payload == payload.as_bytes());
            match (of.next(), of.next()) {
                (Some(event), None) if event.position == *position => {}
                other => return Err(format!("{payload}, told {position:?}, is {other:?}")),
            }
        }
        let told: Vec<&str> = self.acknowledged.iter().map(|(payload, _)| &**payload).collect();
        let mut rest: Vec<String> =
            events.iter().map(|event| String::from_utf8_lossy(&event.payload).into()).collect();
        rest.retain(|payload| !told.contains(&payload.as_str()));
        let count = rest.len();
        rest.sort();
        rest.dedup();
        if count != rest.len() || rest.iter().any(|payload| !self.unknown.contains(payload)) {
            return Err(format!("these are there and should not be, or twice: {rest:?}"));
        }
        Ok(format!(
            "all {} acknowledged are there once, {count} of {} with unknown outcome",
            told.len(),
            self.unknown.len()
        ))
    }
}

fn health(server: &ServerProcess, status: u16, words: &[&str]) -> Result<String, String> {
    let (code, body) = server.http("/health/ready")?;
    if code == status && words.iter().all(|word| body.contains(word)) {
        return Ok(body.trim().to_owned());
    }
    Err(format!("/health/ready answered {code} {body}, expected {status} and {words:?}"))
}

pub(super) fn failed_sync(binary: &Path) -> Result<String, String> {
    let home = Home::new(binary, &[])?;
    home.explain(eio(&home))
}

fn eio(home: &Home) -> Result<String, String> {
    let bucket = 2;
    let server = home.start()?;
    let mut writer = Writer::start(&server)?;
    let thread = server.thread_id(&format!("acta-write-{bucket}"))?;
    let options = ["-y", "-e", "trace=fdatasync", "-e", "inject=fdatasync:error=EIO:when=3"];
    let strace = Strace::attach(&options, thread, &home.scratch("eio.strace"))?;
    // Without a pause: an idle bucket would save its slots, and the failure would hit that sync.
    let mut accepted = 0;
    let failed = loop {
        let value = writer.append_to_bucket(bucket)?;
        if appended(&value).is_none() {
            break value;
        }
        accepted += 1;
        if accepted > 50 {
            return Err("50 appends were accepted over a sync that failed".into());
        }
    };
    if failed.code() != Some("UNCERTAIN") {
        return Err(format!("the append whose sync failed was answered {failed:?}"));
    }
    // From here on syncs succeed again: nothing may come of that.
    for _ in 0..20 {
        let value = writer.append_to_bucket(bucket)?;
        if value.code() != Some("READONLY") {
            return Err(format!("an append behind the failed sync was answered {value:?}"));
        }
        writer.append_to_others(bucket)?;
    }
    writer.read_all()?;
    let ready = health(&server, 200, &["degraded", "bucket 2"])?;
    let lines = strace.detach()?;
    let injected = lines.iter().position(|line| line.injected).ok_or("strace injected nothing")?;
    let after = lines.iter().skip(injected + 1).filter(|line| line.file.ends_with(".segment"));
    let after = after.count();
    if after > 0 {
        return Err(format!("{after} more fdatasyncs of a segment after the one that failed"));
    }
    server.terminate()?;
    home.check()?;
    let server = home.start()?;
    let told = writer.audit(&server)?;
    health(&server, 200, &["\"degraded\":[]"])?;
    let mut again = Client::connect(server.address()).map_err(said)?;
    for stream in &writer.streams {
        again.append(stream, "after the restart")?;
    }
    server.terminate()?;
    Ok(format!("UNCERTAIN, then READONLY 20 times; {ready}; after a restart {told}"))
}

pub(super) fn disk_full(binary: &Path) -> Result<String, String> {
    let home = Home::new(binary, &[])?;
    home.explain(enospc(&home))
}

fn enospc(home: &Home) -> Result<String, String> {
    let bucket = 1;
    let server = home.start()?;
    let mut writer = Writer::start(&server)?;
    let stream = writer.streams.get(bucket).ok_or("no such bucket")?.clone();
    let thread = server.thread_id(&format!("acta-write-{bucket}"))?;
    let options = ["-y", "-e", "trace=pwrite64", "-e", "inject=pwrite64:error=ENOSPC"];
    let strace = Strace::attach(&options, thread, &home.scratch("enospc.strace"))?;

    // Some are in an entry when its write fails, or stand behind it: they wait for space. What
    // comes later may be refused.
    let clients: Vec<_> = (0..WAITING)
        .map(|n| {
            thread::sleep(Duration::from_millis(50));
            let (address, stream) = (server.address(), stream.clone());
            thread::spawn(move || one_append(address, &stream, &format!("without space {n}")))
        })
        .collect();
    for _ in 0..20 {
        writer.append_to_others(bucket)?;
        thread::sleep(Duration::from_millis(100));
    }
    writer.read_all()?;
    let ready = health(&server, 200, &["degraded", "bucket 1"])?;
    let waiting = clients.iter().filter(|client| !client.is_finished()).count();
    let lines = strace.detach()?;
    let tries = lines.iter().filter(|line| line.injected).count();
    if tries < 2 {
        return Err(format!("the write was tried {tries} times: no retry"));
    }

    let mut refused = 0;
    for client in clients {
        let (payload, value) = client.join().map_err(|_| "a client panicked")??;
        match (appended(&value), value.code()) {
            (Some(position), _) => writer.acknowledged.push((payload, position)),
            (None, Some("DISKFULL")) => refused += 1,
            _ => return Err(format!("{payload}: {value:?}")),
        }
    }
    if waiting == 0 || refused + waiting < WAITING {
        return Err(format!("of {WAITING} appends {waiting} waited, {refused} were refused"));
    }
    for _ in 0..20 {
        let value = writer.append_to_bucket(bucket)?;
        if appended(&value).is_none() {
            return Err(format!("with space again, an append was answered {value:?}"));
        }
    }
    health(&server, 200, &["\"degraded\":[]"])?;
    writer.audit(&server)?;
    server.terminate()?;
    home.check()?;
    let server = home.start()?;
    let told = writer.audit(&server)?;
    server.terminate()?;
    Ok(format!(
        "of {WAITING} appends {refused} were answered DISKFULL, {waiting} waited for space; the \
         write was tried {tries} times; {ready}; then appends succeed; after a restart {told}"
    ))
}

pub(super) fn no_allocation(binary: &Path) -> Result<String, String> {
    let home = Home::new(binary, &[("segment.size_bytes", "1048576")])?;
    home.explain(no_next_segment(&home))
}

/// The way in which a disk is full mostly: the file system gives no more blocks.
fn no_next_segment(home: &Home) -> Result<String, String> {
    let bucket = 3;
    let server = home.start()?;
    let mut writer = Writer::start(&server)?;
    let thread = server.thread_id(&format!("acta-write-{bucket}"))?;
    let options = ["-e", "trace=fallocate", "-e", "inject=fallocate:error=ENOSPC"];
    let strace = Strace::attach(&options, thread, &home.scratch("fallocate.strace"))?;
    let padding = "x".repeat(100_000);
    let (mut accepted, mut refused) = (0, 0);
    for _ in 0..60 {
        let value = writer.append_padded(bucket, &padding)?;
        match (appended(&value), value.code()) {
            (Some(_), _) if refused == 0 => accepted += 1,
            (None, Some("DISKFULL")) => refused += 1,
            _ => return Err(format!("after {accepted} appends and {refused} refused: {value:?}")),
        }
    }
    if refused == 0 {
        return Err(format!("{accepted} appends of 100 kB fit a full disk"));
    }
    writer.append_to_others(bucket)?;
    writer.read_all()?;
    let ready = health(&server, 200, &["degraded", "bucket 3"])?;
    drop(strace.detach()?);
    // The allocation is tried again every second.
    thread::sleep(Duration::from_millis(2500));
    for _ in 0..30 {
        let value = writer.append_padded(bucket, &padding)?;
        if appended(&value).is_none() {
            return Err(format!("with space again, an append was answered {value:?}"));
        }
    }
    health(&server, 200, &["\"degraded\":[]"])?;
    server.terminate()?;
    home.check()?;
    let server = home.start()?;
    let told = writer.audit(&server)?;
    server.terminate()?;
    Ok(format!(
        "{accepted} appends fit what was allocated, {refused} were answered DISKFULL at once; \
         {ready}; then appends succeed; after a restart {told}"
    ))
}

/// Bytes behind the end of the log that the file may still grow, and those of the next append.
const ROOM: usize = 30_000;
const TOO_MUCH: usize = 100_000;

pub(super) fn torn_write(binary: &Path) -> Result<String, String> {
    let home = Home::new(binary, &[])?;
    home.explain(torn(&home))
}

/// A write that is cut short and cannot go on: the kernel writes up to `RLIMIT_FSIZE` and then
/// says EFBIG, which is no lack of space. What it has written lies there, torn.
fn torn(home: &Home) -> Result<String, String> {
    let bucket = 2;
    // The limit's signal would end the process before it sees the error.
    let server = home.start_command(home.shell_command("trap '' XFSZ"))?;
    let mut writer = Writer::start(&server)?;
    let segment = home.data().join("bucket-002/000000000001.segment");
    let bytes = std::fs::read(&segment).map_err(said)?;
    let end = bytes.iter().rposition(|byte| *byte != 0).ok_or("nothing was written")?;
    let thread = server.thread_id(&format!("acta-write-{bucket}"))?;
    let options = ["-y", "-e", "trace=pwrite64"];
    let strace = Strace::attach(&options, thread, &home.scratch("torn.strace"))?;
    let limit = |bytes: &str| {
        let mut prlimit = Command::new("prlimit");
        // The soft limit only: it can be raised again.
        prlimit.args(["--pid", &server.pid().to_string(), &format!("--fsize={bytes}:")]);
        programs::output(&mut prlimit).map(drop)
    };
    limit(&(end + ROOM).to_string())?;
    let value = writer.append_padded(bucket, &"x".repeat(TOO_MUCH))?;
    limit("unlimited")?;
    let short = cut_short(&strace.detach()?);
    let [(asked, got)] = short.as_slice() else {
        return Err(format!("not one write was cut short, but {short:?}; answered {value:?}"));
    };
    if value.code() != Some("UNCERTAIN") {
        return Err(format!("the append whose write was torn was answered {value:?}"));
    }
    // The limit is gone: nothing may come of that.
    for _ in 0..5 {
        let value = writer.append_to_bucket(bucket)?;
        if value.code() != Some("READONLY") {
            return Err(format!("an append behind the torn write was answered {value:?}"));
        }
        writer.append_to_others(bucket)?;
    }
    writer.read_all()?;
    health(&server, 200, &["degraded", "bucket 2", "File too large"])?;
    server.kill()?;
    home.check()?;
    let server = home.start()?;
    let told = writer.audit(&server)?;
    if !home.log().contains("cut a torn tail") {
        return Err("the log does not tell of the torn tail".into());
    }
    server.terminate()?;
    home.check()?;
    Ok(format!(
        "{got} of {asked} bytes were written, then EFBIG: UNCERTAIN, then READONLY; after SIGKILL \
         the torn tail is cut, {told}"
    ))
}

fn one_append(address: SocketAddr, stream: &str, payload: &str) -> Result<(String, Value), String> {
    let mut connection = Client::connect(address).map_err(said)?;
    let value = connection.call(&["EAPPEND", stream, "E", "PAYLOAD", payload]).map_err(said)?;
    Ok((payload.to_owned(), value))
}
