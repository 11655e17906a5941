//! SIGKILL while the server recovers from SIGKILL, at random moments and at chosen system calls.

use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use super::crash::SMALL_SEGMENTS;
use super::load::{Ledger, Load, until};
use super::resp::said;
use super::strace::Strace;
use crate::dice::Dice;
use crate::programs;
use crate::server_process::{Home, wait};

/// Restarts that a timer kills, and restarts that die in a chosen system call.
const BY_TIMER: u64 = 12;
const BY_CALL: u64 = 12;

/// The calls with which a recovery changes files, and which of a thread's calls may be the last.
/// (strace counts for each thread apart.)
const CALLS: [(&str, u64); 5] =
    [("pwrite64", 12), ("fdatasync", 8), ("fsync", 4), ("rename", 4), ("unlink", 2)];

pub(super) fn kill_again_and_again(binary: &Path, dice: &mut Dice) -> Result<String, String> {
    let home = Home::new(binary, &[SMALL_SEGMENTS])?;
    home.explain(rounds(&home, dice))
}

fn rounds(home: &Home, dice: &mut Dice) -> Result<String, String> {
    let mut ledger = Ledger::default();
    let mut told = Vec::new();
    let (mut all_early, mut all_calls) = (0, 0);
    for round in 1..=2 {
        let server = home.start()?;
        let load = Load::start(server.address(), round);
        thread::sleep(Duration::from_millis(dice.between(200, 500)));
        server.kill()?;
        load.join(&mut ledger)?;

        let longest = one_recovery(home, dice)?;
        let (mut early, mut calls) = (0, Vec::new());
        for _ in 0..BY_TIMER {
            lose_indexes(home, dice, 2)?;
            early += u64::from(killed_by_timer(home, dice, longest)?);
        }
        for _ in 0..BY_CALL {
            lose_indexes(home, dice, 3)?;
            calls.extend(killed_by_call(home, dice)?);
        }
        (all_early, all_calls) = (all_early + early, all_calls + calls.len());
        println!(
            "  round {round}: a start takes {} ms; {early} of {BY_TIMER} timers were earlier; of \
             {BY_CALL} starts under strace it died in {}",
            longest.as_millis(),
            calls.join(", ")
        );
        home.check().map_err(|error| format!("round {round}, before the restart: {error}"))?;
        let server = home.start()?;
        let result = ledger.audit(server.address());
        told.push(result.map_err(|error| format!("round {round}, after all: {error}"))?);
        server.terminate()?;
        home.check().map_err(|error| format!("round {round}, after the restart: {error}"))?;
    }
    if all_early == 0 || all_calls == 0 {
        return Err(format!("{all_early} timers were early, {all_calls} calls were the last"));
    }
    Ok(format!(
        "killed {all_early} times by a timer, {all_calls} times in a call; {}",
        told.pop().unwrap_or_default()
    ))
}

/// How long a start takes that rebuilds all indexes, on a copy, as the recovery must stay to do.
fn one_recovery(home: &Home, dice: &mut Dice) -> Result<Duration, String> {
    let aside = home.scratch("aside");
    programs::run(std::process::Command::new("cp").arg("-a").arg(home.data()).arg(&aside))?;
    lose_indexes(home, dice, 1)?;
    let start = Instant::now();
    let server = home.start()?;
    let took = start.elapsed();
    server.kill()?;
    std::fs::remove_dir_all(home.data()).map_err(said)?;
    std::fs::rename(aside, home.data()).map_err(said)?;
    Ok(took)
}

/// Removes one index of so many, as a loss of power could: more work for the next recovery.
fn lose_indexes(home: &Home, dice: &mut Dice, one_of: u64) -> Result<(), String> {
    for path in files(&home.data())? {
        let is_index = path.extension().is_some_and(|end| end == "index");
        if is_index && dice.between(1, one_of) == 1 {
            std::fs::remove_file(path).map_err(said)?;
        }
    }
    Ok(())
}

/// The files of all buckets, in order.
fn files(data: &Path) -> Result<Vec<PathBuf>, String> {
    let mut files = Vec::new();
    for bucket in std::fs::read_dir(data).map_err(said)?.flatten() {
        if bucket.path().is_dir() {
            let entries = std::fs::read_dir(bucket.path()).map_err(said)?;
            files.extend(entries.flatten().map(|entry| entry.path()));
        }
    }
    files.sort();
    Ok(files)
}

/// Starts it and kills it a random time later; says whether it was not ready yet.
fn killed_by_timer(home: &Home, dice: &mut Dice, longest: Duration) -> Result<bool, String> {
    let before = home.log().len();
    let mut child = home.spawn(home.serve_command())?;
    thread::sleep(Duration::from_micros(dice.between(0, longest.as_micros() as u64)));
    let ended = child.try_wait().map_err(said)?;
    child.kill().map_err(said)?;
    child.wait().map_err(said)?;
    match ended {
        Some(status) => Err(format!("a start ended by itself: {status}")),
        None => Ok(!became_ready(home, before)),
    }
}

fn became_ready(home: &Home, before: usize) -> bool {
    // The log's thread may still be reading.
    thread::sleep(Duration::from_millis(10));
    home.log().get(before..).is_some_and(|log| log.contains("ready to receive"))
}

/// Starts it under a strace that kills it at the k-th call of one kind that a thread makes; says
/// which, if it came to that before it was ready.
fn killed_by_call(home: &Home, dice: &mut Dice) -> Result<Option<String>, String> {
    let before = home.log().len();
    let (call, most) = CALLS[dice.below(CALLS.len())];
    let k = dice.between(1, most);
    // It stops itself, so that strace can attach before it does anything.
    let mut child = home.spawn(home.shell_command("kill -STOP $$"))?;
    let stat = format!("/proc/{}/stat", child.id());
    let stopped = until(Duration::from_secs(5), || {
        std::fs::read_to_string(&stat).is_ok_and(|stat| stat.contains(") T "))
    });
    let trace = format!("trace={call}");
    let inject = format!("inject={call}:signal=KILL:when={k}");
    let options = ["-f", "-y", "-e", &trace, "-e", &inject];
    let strace = stopped.and_then(|_| {
        let strace = Strace::attach(&options, child.id(), &home.scratch("recovery.strace"))?;
        programs::signal("CONT", child.id())?;
        Ok(strace)
    });
    let died = until(Duration::from_secs(20), || {
        !matches!(child.try_wait(), Ok(None)) || became_ready(home, before)
    });
    let ended = child.try_wait().map_err(said)?;
    let _ = child.kill();
    wait(&mut child, Duration::from_secs(10))?;
    drop(strace?);
    died.map_err(|error| format!("dead at {call} {k}, or ready: {error}"))?;
    match ended {
        None => Ok(None),
        Some(status) if std::os::unix::process::ExitStatusExt::signal(&status) == Some(9) => {
            Ok(Some(format!("{call} {k}")))
        }
        Some(status) => Err(format!("a start that {call} {k} should kill ended: {status}")),
    }
}
