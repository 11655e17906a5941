//! Ends that the server does not choose: SIGKILL and SIGTERM under load, and a second process.

use std::path::Path;
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use super::load::{Ledger, Load};
use super::resp::{Client, said};
use crate::dice::Dice;
use crate::server_process::{Home, wait};

const ROUNDS: u64 = 5;

/// Small segments, so that every round rolls and seals many.
pub(super) const SMALL_SEGMENTS: (&str, &str) = ("segment.size_bytes", "1048576");

pub(super) fn kill_under_load(binary: &Path, dice: &mut Dice) -> Result<String, String> {
    let home = Home::new(binary, &[SMALL_SEGMENTS])?;
    home.explain(kill_rounds(&home, dice))
}

fn kill_rounds(home: &Home, dice: &mut Dice) -> Result<String, String> {
    let mut ledger = Ledger::default();
    let mut told = String::new();
    for round in 1..=ROUNDS {
        let before = ledger.acknowledged();
        let server = home.start()?;
        let load = Load::start(server.address(), round);
        let delay = dice.between(100, 600);
        thread::sleep(Duration::from_millis(delay));
        server.kill()?;
        load.join(&mut ledger)?;
        let gained = ledger.acknowledged() - before;
        if gained == 0 {
            return Err(format!("round {round}: nothing was acknowledged: {:?}", ledger.errors));
        }
        home.check().map_err(|error| format!("round {round}, before the restart: {error}"))?;
        let server = home.start()?;
        told = ledger
            .audit(server.address())
            .map_err(|error| format!("round {round}, after SIGKILL: {error}"))?;
        println!("  round {round}: killed after {delay} ms, {gained} more acknowledged; {told}");
        server.terminate()?;
        home.check().map_err(|error| format!("round {round}, after the restart: {error}"))?;
    }
    let segments = segments(&home.data());
    if segments < 10 {
        return Err(format!("only {segments} segments: the load is too small to test anything"));
    }
    Ok(format!("{told}; check finds nothing in {segments} segments"))
}

/// How many segment files there are.
pub(super) fn segments(dir: &Path) -> usize {
    let Ok(entries) = std::fs::read_dir(dir) else { return 0 };
    let of = |path: &Path| usize::from(path.extension().is_some_and(|end| end == "segment"));
    let entries = entries.flatten().map(|entry| entry.path());
    entries.map(|path| if path.is_dir() { segments(&path) } else { of(&path) }).sum()
}

pub(super) fn terminate_under_load(binary: &Path) -> Result<String, String> {
    let home = Home::new(binary, &[SMALL_SEGMENTS])?;
    home.explain(terminate(&home))
}

fn terminate(home: &Home) -> Result<String, String> {
    let mut ledger = Ledger::default();
    let server = home.start()?;
    let load = Load::start(server.address(), 1);
    thread::sleep(Duration::from_millis(800));
    let took = server.terminate()?;
    load.join(&mut ledger)?;
    home.check()?;
    let server = home.start()?;
    let told = ledger.audit(server.address())?;
    server.terminate()?;
    let errors = &ledger.errors;
    if let Some(code) = errors.keys().find(|code| *code != "TRYAGAIN") {
        return Err(format!("while stopping, appends were answered {code}: {errors:?}"));
    }
    Ok(format!("exit code 0 after {:.2} s; errors {errors:?}; {told}", took.as_secs_f64()))
}

pub(super) fn two_processes(binary: &Path) -> Result<String, String> {
    let home = Home::new(binary, &[])?;
    home.explain(second_process(&home))
}

fn second_process(home: &Home) -> Result<String, String> {
    let first = home.start()?;
    let mut connection = Client::connect(first.address()).map_err(said)?;
    connection.append("s", "before")?;
    let mut second = home.serve_command();
    second.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut second = second.spawn().map_err(said)?;
    let ended = wait(&mut second, Duration::from_secs(10));
    if ended.is_err() {
        let _ = second.kill();
    }
    let output = second.wait_with_output().map_err(said)?;
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    if ended?.success() {
        return Err("the second process ended with exit code 0".into());
    }
    let reason = words.lines().find(|line| line.contains("in use") || line.contains("another"));
    let reason = reason.ok_or_else(|| format!("the second does not say why: {words}"))?;
    connection.append("s", "after")?;
    first.terminate()?;
    let reason = reason.split_once("ERROR").map_or(reason, |(_, reason)| reason.trim());
    Ok(format!("the second: {reason}; the first goes on"))
}
