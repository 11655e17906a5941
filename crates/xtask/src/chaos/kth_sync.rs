//! EIO on the k-th sync of a bucket's writer, and of the thread that seals, under load.

use std::path::Path;
use std::time::Duration;

use super::crash::SMALL_SEGMENTS;
use super::load::{Ledger, Load, until};
use super::resp::said;
use super::strace::{Line, Strace};
use crate::dice::Dice;
use crate::server_process::{Home, ServerProcess};

const ROUNDS: u64 = 3;
/// Enough for syncs and rolls; more would only make the audits long.
const REST: Duration = Duration::from_millis(10);
const PATIENCE: Duration = Duration::from_secs(20);

pub(super) fn run(binary: &Path, dice: &mut Dice) -> Result<String, String> {
    let home = Home::new(binary, &[SMALL_SEGMENTS])?;
    home.explain(rounds(&home, dice))
}

fn rounds(home: &Home, dice: &mut Dice) -> Result<String, String> {
    let mut ledger = Ledger::default();
    let mut told = String::new();
    for round in 1..=ROUNDS {
        let (bucket, k) = (dice.between(0, 3), dice.between(1, 150));
        let server = home.start()?;
        let load = Load::paced(server.address(), round, REST);
        let thread = server.thread_id(&format!("acta-write-{bucket}"))?;
        let failed = fail(home, &server, &load, thread, k)?;
        let file = failed.file.rsplit('/').next().unwrap_or_default();
        // The others go on, and a whole second is enough for a retry that must not come.
        load.accept_more(1000, PATIENCE)?;
        let closed = format!("bucket {bucket} takes no appends: the disk failed");
        let (status, body) = server.http("/health/ready")?;
        if status != 200 || !body.contains(&closed) {
            return Err(format!("after sync {k} of {file} failed: {status} {body}"));
        }
        load.join(&mut ledger)?;
        if !ledger.broken.is_empty() {
            return Err(format!("connections broke: {:?}", ledger.broken));
        }
        audited(&ledger, home, server, &mut told)
            .map_err(|error| format!("round {round}, sync {k} of bucket {bucket}: {error}"))?;
        println!("  EIO on sync {k} of bucket {bucket}, of {file}: closed, others go on; {told}");
    }
    for code in ledger.errors.keys() {
        if !["UNCERTAIN", "READONLY"].contains(&code.as_str()) {
            return Err(format!("clients heard {:?}", ledger.errors));
        }
    }

    // An index can be made anew from its segment: this failure closes nothing.
    let k = dice.between(1, 3);
    let errors = std::mem::take(&mut ledger.errors);
    let server = home.start()?;
    let load = Load::paced(server.address(), ROUNDS + 1, REST);
    let failed = fail(home, &server, &load, server.thread_id("acta-seal")?, k)?;
    load.accept_more(3000, PATIENCE)?;
    let (status, body) = server.http("/health/ready")?;
    load.join(&mut ledger)?;
    ledger.heard_only(&[]).map_err(|error| format!("a seal's sync {k} failed: {error}"))?;
    if status != 200 || !body.contains("\"degraded\":[]") {
        return Err(format!("a seal's sync {k} failed: {status} {body}"));
    }
    audited(&ledger, home, server, &mut told)?;
    let file = failed.file.rsplit('/').next().unwrap_or_default();
    println!("  EIO on sync {k} of the seals, of {file}: nothing closed; {told}");
    Ok(format!("errors {errors:?}; {told}"))
}

/// Lets the k-th sync of a thread fail, and gives the line that did.
fn fail(
    home: &Home,
    server: &ServerProcess,
    load: &Load,
    thread: u32,
    k: u64,
) -> Result<Line, String> {
    let out = home.scratch("kth.strace");
    let inject = format!("inject=fdatasync:error=EIO:when={k}");
    let options = ["-y", "-e", "trace=fdatasync", "-e", &inject];
    let strace = Strace::attach(&options, thread, &out)?;
    until(PATIENCE, || std::fs::read_to_string(&out).is_ok_and(|text| text.contains("INJECTED")))
        .map_err(|error| format!("sync {k} of thread {thread}: {error}"))?;
    // Attached a little longer: a sync of the same file would be a retry.
    load.accept_more(1000, PATIENCE)?;
    std::thread::sleep(Duration::from_millis(1200));
    let lines = strace.detach()?;
    let place = lines.iter().position(|line| line.injected).ok_or("strace injected nothing")?;
    let failed = lines.get(place).cloned().ok_or("no such line")?;
    let again = lines.iter().skip(place + 1).filter(|line| line.file == failed.file);
    let retried = failed.file.ends_with(".segment") && again.count() > 0;
    let alive = server.http("/health/live").map_err(said)?.0 == 200;
    if retried || !alive {
        return Err(format!("retried: {retried}, alive: {alive}: {lines:?}"));
    }
    Ok(failed)
}

/// Stops the server, checks, starts it again and audits.
fn audited(
    ledger: &Ledger,
    home: &Home,
    server: ServerProcess,
    told: &mut String,
) -> Result<(), String> {
    server.terminate()?;
    home.check()?;
    let server = home.start()?;
    *told = ledger.audit(server.address())?;
    server.terminate()?;
    home.check()
}
