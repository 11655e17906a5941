//! Many who follow and hear nothing, and one who is slow: what they cost, and that nobody misses an
//! event.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::load::until;
use super::resp::{Client, Value, appended, encode, said};
use crate::server_process::{Home, ServerProcess};

const SUBSCRIPTIONS: usize = 10_000;
const PER_CONNECTION: usize = 100;
const SUBSCRIPTIONS_MB_MAX: f64 = 100.0;
const BLOCKED: usize = 5_000;
const BLOCKED_MB_MAX: f64 = 50.0;
/// How long idleness is watched, and how much CPU of it is none: metrics are asked for meanwhile.
const IDLE: Duration = Duration::from_secs(3);
const IDLE_CPU_MAX: Duration = Duration::from_millis(30);
const PATIENCE: Duration = Duration::from_secs(30);
/// All in one partition.
const KEY: &str = "00000000-0000-4000-8000-000000000000";
/// How long the slow consumer is slow, and the rate it cannot keep up with.
const SLOW: Duration = Duration::from_secs(60);
const RATE: u64 = 1000;
/// How much more memory the server may need meanwhile.
const SLOW_MB_MAX: f64 = 64.0;

/// Memory of the process that is its own, in millions of bytes.
fn anonymous_mb(server: &ServerProcess) -> Result<f64, String> {
    let path = format!("/proc/{}/status", server.pid());
    let text = fs::read_to_string(&path).map_err(said)?;
    let line = text.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse::<f64>().ok());
    kib.map(|kib| kib * 1024.0 / 1e6).ok_or_else(|| format!("{path} has no RssAnon"))
}

/// CPU time of the process; the system counts it in hundredths of a second.
fn cpu(server: &ServerProcess) -> Result<Duration, String> {
    let text = fs::read_to_string(format!("/proc/{}/stat", server.pid())).map_err(said)?;
    let fields = text.rsplit(')').next().unwrap_or_default().split_whitespace();
    let ticks = fields.skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum::<u64>();
    Ok(Duration::from_millis(ticks * 10))
}

fn subscribe(address: SocketAddr) -> Result<Client, String> {
    let mut client = Client::connect(address).map_err(said)?;
    client.call(&["HELLO", "3"]).map_err(said)?;
    Ok(client)
}

fn metric_is(server: &ServerProcess, name: &str, wanted: usize) -> Result<Duration, String> {
    until(PATIENCE, || server.metric(name).is_ok_and(|found| found as usize == wanted))
        .map_err(|error| format!("{name} is {:?}, wanted {wanted}: {error}", server.metric(name)))
}

pub(super) fn idle(binary: &Path) -> Result<String, String> {
    let home = Home::new(binary, &[])?;
    home.explain(
        idle_subscriptions(&home).and_then(|told| Ok(format!("{told}; {}", blocked(&home)?))),
    )
}

fn idle_subscriptions(home: &Home) -> Result<String, String> {
    let server = home.start()?;
    let mut writer = Client::connect(server.address()).map_err(said)?;
    writer.append("warm", "up")?;
    let mut clients = Vec::new();
    for _ in 0..SUBSCRIPTIONS / PER_CONNECTION {
        clients.push(subscribe(server.address())?);
    }
    let before = anonymous_mb(&server)?;
    for (n, client) in clients.iter_mut().enumerate() {
        let mut bytes = Vec::new();
        for at in 0..PER_CONNECTION {
            // Half of them follow a stream, half everything.
            match at % 2 {
                0 => encode(&["ESUB", &format!("quiet-{n}-{at}")], &mut bytes),
                _ => encode(&["EPSUB", "*"], &mut bytes),
            }
        }
        client.send(&bytes).map_err(said)?;
        for _ in 0..PER_CONNECTION {
            let Value::Text(_) = client.read().map_err(said)? else {
                return Err("a subscription was refused".into());
            };
        }
    }
    metric_is(&server, "actadb_subscriptions", SUBSCRIPTIONS)?;
    let more = anonymous_mb(&server)? - before;
    let spent = cpu(&server)?;
    thread::sleep(IDLE);
    let spent = cpu(&server)? - spent;
    let told = format!(
        "{SUBSCRIPTIONS} idle subscriptions take {more:.0} MB and {} ms of CPU in {} s",
        spent.as_millis(),
        IDLE.as_secs()
    );
    if more > SUBSCRIPTIONS_MB_MAX || spent > IDLE_CPU_MAX {
        return Err(told);
    }
    drop(clients);
    let freed = metric_is(&server, "actadb_subscriptions", 0)?;
    server.terminate()?;
    Ok(format!("{told}; all gone {} ms after a disconnect", freed.as_millis()))
}

fn blocked(home: &Home) -> Result<String, String> {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).map_err(said)?;
    let server = home.start()?;
    let mut writer = Client::connect(server.address()).map_err(said)?;
    let others = |writer: &mut Client| -> Result<(), String> {
        for n in 0..200 {
            let stream = format!("busy-{}", n % 10);
            let command = ["EAPPEND", &stream, "E", "PARTITION_KEY", KEY];
            let answer = writer.call(&command).map_err(said)?;
            appended(&answer).ok_or_else(|| format!("not appended: {answer:?}"))?;
        }
        Ok(())
    };
    others(&mut writer)?;
    let before = anonymous_mb(&server)?;
    let mut clients = Vec::new();
    for n in 0..BLOCKED {
        let mut client = Client::connect(server.address()).map_err(said)?;
        let mut bytes = Vec::new();
        let stream = format!("quiet-{n}");
        encode(&["ESCAN", &stream, "-", "+", "PARTITION_KEY", KEY, "BLOCK", "0"], &mut bytes);
        client.send(&bytes).map_err(said)?;
        clients.push(client);
    }
    metric_is(&server, "actadb_blocked_reads", BLOCKED)?;
    let more = anonymous_mb(&server)? - before;
    let told = format!("{BLOCKED} blocked ESCANs take {more:.0} MB");
    if more > BLOCKED_MB_MAX {
        return Err(told);
    }
    // Appends to other streams of the partition wake nobody: no read is made for them.
    let reads = server.metric("actadb_reads_total")?;
    others(&mut writer)?;
    let woken = server.metric("actadb_reads_total")? - reads;
    if woken > 0.0 {
        return Err(format!("{told}; 200 appends to other streams woke {woken} of them"));
    }
    let mut last = clients.pop().ok_or("no client")?;
    let stream = format!("quiet-{}", BLOCKED - 1);
    writer.call(&["EAPPEND", &stream, "E", "PARTITION_KEY", KEY]).map_err(said)?;
    last.read().map_err(said)?;
    drop(clients);
    let freed = metric_is(&server, "actadb_blocked_reads", 0)?;
    server.terminate()?;
    Ok(format!("{told}; all gone {} ms after a disconnect", freed.as_millis()))
}

/// A consumer that takes half of what is appended gets everything, in order, and holds up nobody.
pub(super) fn slow(binary: &Path) -> Result<String, String> {
    let home = Home::new(binary, &[])?;
    home.explain(slow_consumer(&home))
}

fn slow_consumer(home: &Home) -> Result<String, String> {
    let server = home.start()?;
    let mut writer = Client::connect(server.address()).map_err(said)?;
    writer.append("warm", "up")?;
    let mut consumer = subscribe(server.address())?;
    let Value::Text(id) = consumer.call(&["EPSUB", "*", "WINDOW", "100"]).map_err(said)? else {
        return Err("no subscription".into());
    };
    let before = anonymous_mb(&server)?;
    let (mut appended, mut received, mut slowest) = (0_u64, 0_u64, Duration::ZERO);
    let start = Instant::now();
    let mut most = 0.0_f64;
    while start.elapsed() < SLOW || received < appended {
        let due = (start.elapsed().min(SLOW).as_millis() as u64) * RATE / 1000;
        while appended < due {
            let asked = Instant::now();
            writer.append(&format!("s-{}", appended % 50), &format!("{appended}"))?;
            slowest = slowest.max(asked.elapsed());
            appended += 1;
        }
        // Half of what is appended, and all of it when the appends have ended.
        let take = if start.elapsed() < SLOW { (due / 2).saturating_sub(received) } else { 100 };
        for _ in 0..take.min(appended - received) {
            let Value::Array(push) = consumer.read().map_err(said)? else {
                return Err("something else than a push".into());
            };
            let cursor = match push.get(2) {
                Some(Value::Integer(cursor)) => *cursor,
                other => return Err(format!("no cursor: {other:?}")),
            };
            if cursor != received {
                return Err(format!("cursor {cursor} came where {received} was next"));
            }
            received += 1;
            if received.is_multiple_of(50) {
                let mut bytes = Vec::new();
                encode(&["EACK", &id, &cursor.to_string()], &mut bytes);
                consumer.send(&bytes).map_err(said)?;
                // Its answer comes between pushes that are on their way.
                let mut early = Vec::new();
                loop {
                    match consumer.read().map_err(said)? {
                        Value::Text(ok) if ok == "OK" => break,
                        push @ Value::Array(_) => early.push(push),
                        other => return Err(format!("EACK: {other:?}")),
                    }
                }
                consumer.put_back(early);
            }
        }
        most = most.max(anonymous_mb(&server)?);
        thread::sleep(Duration::from_millis(5));
    }
    let more = most - before;
    let told = format!(
        "{appended} events at {RATE}/s, taken at half of that for {} s: all in order; {more:.0} MB \
         more at the most; the slowest append took {} ms",
        SLOW.as_secs(),
        slowest.as_millis()
    );
    if more > SLOW_MB_MAX {
        return Err(told);
    }
    server.terminate()?;
    home.check()?;
    Ok(told)
}
