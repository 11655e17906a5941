//! Time that is lost: a stopped process, and syncs that take long.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use super::crash::SMALL_SEGMENTS;
use super::load::{Ledger, Load};
use super::resp::{Client, Value, said};
use super::strace::Strace;
use crate::dice::Dice;
use crate::programs;
use crate::server_process::{Home, ServerProcess};

const PATIENCE: Duration = Duration::from_secs(10);
const SYNC_DELAY: Duration = Duration::from_millis(250);
/// Reads wait for no sync, and strace stops no thread but those that sync. A busy machine may
/// still keep one in a hundred waiting.
const READ_MAX: Duration = Duration::from_millis(100);

pub(super) fn pause(binary: &Path, dice: &mut Dice) -> Result<String, String> {
    // Shorter than the second pause: deadlines pass while nobody can look at a clock.
    let home = Home::new(binary, &[SMALL_SEGMENTS, ("append.timeout_ms", "1500")])?;
    home.explain(paused(&home, dice))
}

/// Lets the process go on whatever happens here: a stopped one could not even be terminated.
pub(super) struct Stopped(u32);

impl Stopped {
    /// Stops it with SIGSTOP.
    ///
    /// # Errors
    /// When it is gone.
    pub(super) fn stop(server: &ServerProcess) -> Result<Self, String> {
        programs::signal("STOP", server.pid())?;
        Ok(Self(server.pid()))
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        let _ = programs::signal("CONT", self.0);
    }
}

fn paused(home: &Home, dice: &mut Dice) -> Result<String, String> {
    let mut ledger = Ledger::default();
    let server = home.start()?;
    let load = Load::paced(server.address(), 1, Duration::from_millis(5));
    let mut pauses = Vec::new();
    for ms in [dice.between(200, 900), dice.between(1800, 3000)] {
        load.accept_more(2000, PATIENCE)?;
        thread::sleep(Duration::from_millis(dice.between(0, 200)));
        let stopped = Stopped::stop(&server)?;
        // What was sent before may still be read by the clients.
        thread::sleep(Duration::from_millis(100));
        let accepted = load.accepted();
        thread::sleep(Duration::from_millis(ms));
        if load.accepted() != accepted {
            return Err("appends were accepted by a stopped process".into());
        }
        drop(stopped);
        let resumed = load.accept_more(1000, PATIENCE)?;
        pauses.push(format!("{} ms, 1000 more {} ms after", ms + 100, resumed.as_millis()));
    }
    load.join(&mut ledger)?;
    ledger.heard_only(&["TIMEOUT"])?;
    ledger.audit(server.address()).map_err(|error| format!("before the restart: {error}"))?;
    let (status, body) = server.http("/health/ready")?;
    if status != 200 || !body.contains("\"degraded\":[]") {
        return Err(format!("after the pauses, /health/ready answers {status} {body}"));
    }
    server.terminate()?;
    home.check()?;
    let server = home.start()?;
    let told = ledger.audit(server.address())?;
    server.terminate()?;
    Ok(format!(
        "paused for {}; every command was answered, errors {:?}; {told}",
        pauses.join(", then "),
        ledger.errors
    ))
}

pub(super) fn slow_sync(binary: &Path) -> Result<String, String> {
    let home = Home::new(binary, &[SMALL_SEGMENTS])?;
    home.explain(delayed(&home))
}

fn delayed(home: &Home) -> Result<String, String> {
    let mut ledger = Ledger::default();
    let server = home.start()?;
    let mut reader = Client::connect(server.address()).map_err(said)?;
    let known = reader.append("known", "known")?;
    let load = Load::start(server.address(), 1);
    load.accept_more(3000, PATIENCE)?;
    let mut threads = vec![server.thread_id("acta-seal")?];
    for bucket in 0..4 {
        threads.push(server.thread_id(&format!("acta-write-{bucket}"))?);
    }
    let delay = format!("inject=fdatasync,fsync:delay_enter={}", SYNC_DELAY.as_micros());
    let options = ["-y", "-e", "trace=fdatasync,fsync", "-e", &delay];
    let attach =
        |thread| Strace::attach(&options, thread, &home.scratch(&format!("slow-{thread}.strace")));
    let straces = threads.into_iter().map(attach).collect::<Result<Vec<_>, _>>()?;

    let (before, start) = (load.accepted(), Instant::now());
    let mut reads = Vec::new();
    while start.elapsed() < Duration::from_secs(3) {
        let asked = Instant::now();
        let value = reader.call(&["EGET", &known.id]).map_err(said)?;
        reads.push(asked.elapsed());
        if value.field("payload").and_then(Value::text) != Some("known") {
            return Err(format!("EGET while syncs are slow: {value:?}"));
        }
        thread::sleep(Duration::from_millis(5));
    }
    let accepted = load.accepted() - before;
    load.join(&mut ledger)?;
    let mut syncs = 0;
    for strace in straces {
        let lines = strace.detach()?;
        syncs += lines.iter().filter(|line| line.returned == Some(0)).count();
    }
    ledger.heard_only(&[])?;
    reads.sort();
    let (count, slowest) = (reads.len(), reads.last().copied().unwrap_or_default());
    let most = reads.get(count * 99 / 100).copied().unwrap_or_default();
    if accepted == 0 || syncs == 0 || most > READ_MAX {
        return Err(format!(
            "{accepted} appends, {syncs} syncs; of {count} reads 99 % took up to {most:?}"
        ));
    }
    server.terminate()?;
    home.check()?;
    let server = home.start()?;
    reader = Client::connect(server.address()).map_err(said)?;
    ledger.expect_also(known, "known");
    let told = ledger.audit(server.address())?;
    drop(reader);
    server.terminate()?;
    Ok(format!(
        "in 3 s with {syncs} syncs of {} ms {accepted} commands were accepted, none refused; the \
         slowest of {count} reads took {} ms; {told}",
        SYNC_DELAY.as_millis(),
        slowest.as_millis()
    ))
}
