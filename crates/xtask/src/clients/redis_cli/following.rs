//! Following with redis-cli: a loop of reads with BLOCK, and pushes printed while it waits.

use std::io::{BufRead, BufReader, Lines, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::RedisCli;

/// Both ways, without and with RESP3.
pub(super) fn check(cli: &RedisCli<'_>) -> Result<(), String> {
    for (stream, option) in [("cli-follow", "-2"), ("cli-follow3", "-3")] {
        blocking(cli, stream, option)?;
    }
    patience(cli)?;
    pushes(cli)
}

/// Every read is a connection of its own and goes on where the last one ended.
fn blocking(cli: &RedisCli<'_>, stream: &str, option: &str) -> Result<(), String> {
    let append = |number: u64| format!("EAPPEND {stream} E PAYLOAD {number}\n");
    let history: String = (0..30).map(append).collect();
    cli.feed(&[], history.as_bytes())?;
    let mut seen = Vec::new();
    thread::scope(|scope| {
        let writer = scope.spawn(|| -> Result<(), String> {
            for number in 30..60 {
                cli.feed(&[], append(number).as_bytes())?;
            }
            Ok(())
        });
        while seen.len() < 60 {
            let next = seen.len().to_string();
            let read = [option, "ESCAN", stream, &next, "+", "COUNT", "7", "BLOCK", "10000"];
            let page = as_map(&cli.json(&read)?);
            let events: Vec<_> =
                page["events"].as_array().into_iter().flatten().map(as_map).collect();
            if events.is_empty() {
                return Err(format!("redis-cli: no event after {next}: {page}"));
            }
            seen.extend(events);
        }
        writer.join().unwrap_or_else(|_| Err("the writer panicked".into()))
    })?;
    let in_order = seen.iter().zip(0_u64..).all(|(event, number)| {
        event["stream_version"] == number
            && event["payload"].as_str().and_then(|text| text.parse().ok()) == Some(number)
    });
    let right = in_order && seen.len() == 60;
    right.then_some(()).ok_or_else(|| format!("redis-cli {option}: followed {seen:?}"))
}

/// A map of RESP3 is an object, one of RESP2 a flat array.
fn as_map(value: &Value) -> Value {
    let Some(flat) = value.as_array() else { return value.clone() };
    let pairs = flat.chunks_exact(2).map(|pair| (pair[0].as_str().unwrap_or_default(), &pair[1]));
    pairs.map(|(key, value)| (key.to_owned(), value.clone())).collect()
}

fn patience(cli: &RedisCli<'_>) -> Result<(), String> {
    let begun = Instant::now();
    let page = cli.json(&["ESCAN", "cli-quiet", "0", "+", "BLOCK", "150"])?;
    let waited = begun.elapsed();
    let is_empty = page["events"].as_array().is_some_and(Vec::is_empty);
    if is_empty && waited >= Duration::from_millis(150) {
        return Ok(());
    }
    Err(format!("redis-cli: BLOCK 150 answered {page} after {waited:?}"))
}

/// redis-cli prints pushes while it waits for an answer, so a read that waits lets them come.
fn pushes(cli: &RedisCli<'_>) -> Result<(), String> {
    let append = |number: u64| format!("EAPPEND cli-pushed E PAYLOAD {number}\n");
    let history: String = (0..8).map(append).collect();
    cli.feed(&[], history.as_bytes())?;
    let mut session = Session::start(cli)?;
    // Pushes may come as soon as the id is told.
    let mut first = session.ask("ESUB cli-pushed FROM 0 WINDOW 5")?;
    let id = first.first().cloned().unwrap_or_default();
    first.extend(session.ask("ESCAN cli-nobody - + BLOCK 200")?);
    expect_payloads(&first, 0..5)?;
    let mut second = session.ask(&format!("EACK {id} 4"))?;
    // Two more come while it waits.
    second.extend(thread::scope(|scope| {
        let writer = scope.spawn(|| {
            thread::sleep(Duration::from_millis(100));
            cli.feed(&[], [append(8), append(9)].concat().as_bytes())
        });
        let told = session.ask("ESCAN cli-nobody - + BLOCK 1000");
        writer.join().unwrap_or_else(|_| Err("the writer panicked".into()))?;
        told
    })?);
    expect_payloads(&second, 5..10)?;
    let gone = session.ask(&format!("EUNSUB {id}"))?;
    cli.feed(&[], append(10).as_bytes())?;
    let nothing = session.ask("ESCAN cli-nobody - + BLOCK 50")?;
    expect_payloads(&nothing, 0..0)?;
    session.end()?;
    if gone == ["OK"] { Ok(()) } else { Err(format!("redis-cli: EUNSUB said {gone:?}")) }
}

fn expect_payloads(lines: &[String], wanted: std::ops::Range<u64>) -> Result<(), String> {
    let found = lines.iter().filter_map(|line| line.strip_prefix("payload "));
    let found: Vec<Option<u64>> = found.map(|number| number.parse().ok()).collect();
    if found.iter().copied().eq(wanted.clone().map(Some)) {
        return Ok(());
    }
    Err(format!("redis-cli: pushes {found:?}, expected {wanted:?}, in {lines:?}"))
}

/// One redis-cli that is asked again and again.
struct Session {
    child: Child,
    stdin: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
    asked: u32,
}

impl Session {
    fn start(cli: &RedisCli<'_>) -> Result<Self, String> {
        let inner = cli.command(&["-3", "--show-pushes", "yes"]);
        // Into a pipe it writes in blocks; and it must not wait for ever.
        let mut command = Command::new("timeout");
        command.args(["60", "stdbuf", "-oL"]).arg(inner.get_program()).args(inner.get_args());
        for (name, value) in inner.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().map_err(|error| format!("{command:?}: {error}"))?;
        match (child.stdin.take(), child.stdout.take()) {
            (Some(stdin), Some(stdout)) => {
                Ok(Self { child, stdin, lines: BufReader::new(stdout).lines(), asked: 0 })
            }
            _ => Err("redis-cli has no pipes".into()),
        }
    }

    /// What it prints until it has answered.
    fn ask(&mut self, line: &str) -> Result<Vec<String>, String> {
        self.asked += 1;
        let end = format!("answered {}", self.asked);
        let wrong = |error: std::io::Error| format!("redis-cli: {line}: {error}");
        write!(self.stdin, "{line}\nECHO \"{end}\"\n").map_err(wrong)?;
        let mut told = Vec::new();
        for printed in self.lines.by_ref() {
            let printed = printed.map_err(wrong)?;
            if printed == end {
                return Ok(told);
            }
            told.push(printed);
        }
        Err(format!("redis-cli: {line}: it ended after {told:?}"))
    }

    fn end(self) -> Result<(), String> {
        let Self { mut child, stdin, .. } = self;
        drop(stdin);
        let status = child.wait().map_err(|error| format!("redis-cli: {error}"))?;
        if status.success() { Ok(()) } else { Err(format!("redis-cli ended with {status}")) }
    }
}
