//! `actadb bench compare`: the same loads on ActaDB and on Redis, in turn, in one run.
//!
//! A ratio is worth something only when both sides were measured on the same machine in the same
//! minutes; so every round runs every row on both, the order turned by one each round, and a row's
//! numbers are those of the round with the median rate.

use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;

use super::follow::{self, FollowArgs, sync_p50};
use super::report::whole;
use super::servers::{Scratch, Server, Usage, cpu_us};
use super::{BenchArgs, BenchError, Mode};

/// Before each measurement, so that one does not pay for what another left.
const PAUSE: std::time::Duration = std::time::Duration::from_millis(200);
const WARMUP_SECONDS: f64 = 0.3;
/// Events that a subscriber catches up with.
const CATCH_UP_EVENTS: u64 = 1_000_000;

/// Arguments of `actadb bench compare`.
#[derive(Clone, Debug, Args)]
pub(super) struct CompareArgs {
    /// A Redis server to compare with, started with --appendonly yes --save ''; its appendfsync
    /// and auto-aof-rewrite-percentage are set. Without it only ActaDB is measured
    #[arg(long, value_name = "HOST:PORT")]
    redis: Option<String>,
    /// Where ActaDB's servers get their directories: best on the disk that Redis uses
    #[arg(long, default_value = ".", value_name = "DIR")]
    dir: PathBuf,
    /// Rounds; the median counts
    #[arg(long, default_value_t = 3, value_name = "N")]
    rounds: usize,
    /// How long each load is measured
    #[arg(long, default_value_t = 2.0, value_name = "S")]
    seconds: f64,
    /// Rows to measure, by the first letters of their names [default: all]
    #[arg(long, value_name = "NAME,...", value_delimiter = ',')]
    rows: Vec<String>,
    /// Print one JSON object instead of a table
    #[arg(long)]
    json: bool,
}

/// What a row does.
#[derive(Clone, Copy, Debug)]
enum Load {
    Ping {
        connections: usize,
    },
    Append {
        connections: usize,
        depth: usize,
        batch: usize,
    },
    /// Exact expected versions over so many streams; Redis knows none.
    Versions {
        streams: usize,
    },
    /// Synced each second.
    Interval {
        connections: usize,
    },
    Read {
        connections: usize,
        count: usize,
    },
    Get {
        connections: usize,
    },
    Follow,
}

#[derive(Clone, Copy, Debug)]
struct Row {
    name: &'static str,
    what: &'static str,
    load: Load,
}

const fn row(name: &'static str, what: &'static str, load: Load) -> Row {
    Row { name, what, load }
}

const ROWS: [Row; 20] = [
    row("ping-1", "PING", Load::Ping { connections: 1 }),
    row("ping-16", "PING, 16 connections", Load::Ping { connections: 16 }),
    row("ping-64", "PING, 64 connections", Load::Ping { connections: 64 }),
    row("ping-256", "PING, 256 connections", Load::Ping { connections: 256 }),
    row("append-1", "append", Load::Append { connections: 1, depth: 1, batch: 1 }),
    row(
        "append-16",
        "append, 16 connections",
        Load::Append { connections: 16, depth: 1, batch: 1 },
    ),
    row(
        "append-64",
        "append, 64 connections",
        Load::Append { connections: 64, depth: 1, batch: 1 },
    ),
    row(
        "append-256",
        "append, 256 connections",
        Load::Append { connections: 256, depth: 1, batch: 1 },
    ),
    row(
        "append-8x64",
        "append, 8 connections, 64 deep",
        Load::Append { connections: 8, depth: 64, batch: 1 },
    ),
    row(
        "batch-100",
        "batches of 100, 8 connections",
        Load::Append { connections: 8, depth: 1, batch: 100 },
    ),
    row(
        "versions-10k",
        "expected versions, 10,000 streams, 64 connections",
        Load::Versions { streams: 10_000 },
    ),
    row(
        "versions-1m",
        "expected versions, 1,000,000 streams, 64 connections",
        Load::Versions { streams: 1_000_000 },
    ),
    row(
        "interval-64",
        "append, synced each second, 64 connections",
        Load::Interval { connections: 64 },
    ),
    row("read-100", "pages of 100", Load::Read { connections: 1, count: 100 }),
    row("read-1000", "pages of 1,000", Load::Read { connections: 1, count: 1000 }),
    row("read-16x100", "pages of 100, 16 connections", Load::Read { connections: 16, count: 100 }),
    row(
        "read-1",
        "pages of 1 (XRANGE for EGET), 16 connections",
        Load::Read { connections: 16, count: 1 },
    ),
    row("get-1", "EGET", Load::Get { connections: 1 }),
    row("get-16", "EGET, 16 connections", Load::Get { connections: 16 }),
    row("follow", "catch up with 1,000,000; live at 1,000 events/s", Load::Follow),
];

/// One side of a row.
#[derive(Clone, Copy, Debug, Serialize)]
struct Side {
    /// Operations per second; events per second where pages or a subscription are read.
    per_second: f64,
    p50_ms: f64,
    p99_ms: f64,
    /// CPU per operation or event, of the server and of the load generator, in microseconds.
    server_cpu_us: f64,
    client_cpu_us: f64,
    /// Resident memory at the end that no file backs.
    anon_mb: f64,
    /// What the log grew by per event that was appended.
    log_bytes: Option<f64>,
    syncs: Option<f64>,
}

#[derive(Debug, Serialize)]
struct Line {
    row: &'static str,
    what: &'static str,
    actadb: Option<Side>,
    redis: Option<Side>,
    /// ActaDB's rate by that of Redis.
    ratio: Option<f64>,
    /// The same of the medians of all latencies.
    p50_ratio: Option<f64>,
    /// ActaDB's rate by that of its PING with as many connections.
    of_ping: Option<f64>,
}

#[derive(Debug, Serialize)]
struct Comparison {
    rounds: usize,
    seconds: f64,
    /// One 4 KiB write and sync of a file that was written before: the median, in milliseconds,
    /// and in each round.
    sync_p50_ms: Vec<f64>,
    lines: Vec<Line>,
}

/// The servers of a comparison.
struct Servers {
    always: Server,
    interval: Option<Server>,
    redis: Option<Server>,
    _scratch: Scratch,
}

/// Runs the comparison and prints it.
pub(super) async fn run(args: &CompareArgs) -> Result<(), BenchError> {
    let rows = rows(&args.rows)?;
    let scratch = Scratch(args.dir.join(format!("actadb-compare-{}", std::process::id())));
    std::fs::create_dir(&scratch.0).map_err(BenchError::Disk)?;
    let wants_interval = rows.iter().any(|row| matches!(row.load, Load::Interval { .. }));
    let mut servers = Servers {
        always: Server::start(&scratch.0.join("always"), None)?,
        interval: None,
        redis: None,
        _scratch: scratch,
    };
    if wants_interval {
        let setting = Some(("ACTADB_FSYNC__MODE", "interval"));
        servers.interval = Some(Server::start(&servers._scratch.0.join("interval"), setting)?);
    }
    if let Some(address) = &args.redis {
        servers.redis = Some(Server::redis(address).await?);
    }
    let comparison = compare(args, &rows, &servers).await?;
    match args.json {
        true => println!("{}", serde_json::to_string(&comparison).unwrap_or_default()),
        false => println!("{}", table(&comparison)),
    }
    Ok(())
}

fn rows(wanted: &[String]) -> Result<Vec<Row>, BenchError> {
    let unknown = wanted.iter().find(|name| !ROWS.iter().any(|row| row.name.starts_with(*name)));
    if let Some(name) = unknown {
        let names: Vec<&str> = ROWS.iter().map(|row| row.name).collect();
        return Err(BenchError::NoRow(name.clone(), names.join(", ")));
    }
    let named = |row: &&Row| {
        wanted.is_empty() || wanted.iter().any(|name| row.name.starts_with(name.as_str()))
    };
    Ok(ROWS.iter().filter(named).copied().collect())
}

async fn compare(
    args: &CompareArgs,
    rows: &[Row],
    servers: &Servers,
) -> Result<Comparison, BenchError> {
    let mut sides: Vec<[Vec<Side>; 2]> = rows.iter().map(|_| Default::default()).collect();
    let mut sync_p50_ms = Vec::new();
    for round in 0..args.rounds.max(1) {
        sync_p50_ms.push(sync_p50(&args.dir).map_err(BenchError::Disk)?);
        for (row, sides) in rows.iter().zip(&mut sides) {
            for turn in 0..2 {
                let redis = (round + turn) % 2 == 1;
                let server = match (&row.load, redis) {
                    (_, true) => servers.redis.as_ref(),
                    (Load::Interval { .. }, false) => servers.interval.as_ref(),
                    (_, false) => Some(&servers.always),
                };
                let Some(server) = server else { continue };
                if redis && matches!(row.load, Load::Versions { .. } | Load::Get { .. }) {
                    continue;
                }
                eprintln!(
                    "round {} of {}: {} on {}",
                    round + 1,
                    args.rounds,
                    row.name,
                    word(redis)
                );
                sides[usize::from(redis)].push(side(args, row.load, server).await?);
            }
        }
    }
    Ok(Comparison {
        rounds: args.rounds.max(1),
        seconds: args.seconds,
        sync_p50_ms,
        lines: lines(rows, &sides),
    })
}

fn word(redis: bool) -> &'static str {
    if redis { "redis" } else { "actadb" }
}

/// Measures one row on one server.
async fn side(args: &CompareArgs, load: Load, server: &Server) -> Result<Side, BenchError> {
    if server.redis {
        let when = if matches!(load, Load::Interval { .. }) { "everysec" } else { "always" };
        server.sync_redis(when).await?;
    }
    rustix::fs::sync();
    tokio::time::sleep(PAUSE).await;
    if let Load::Follow = load {
        return followed(server, &args.dir).await;
    }
    let load = bench_args(args, load, server);
    // What a load prepares (streams to read) is not measured: so once for nothing.
    if matches!(load.mode, Mode::Read | Mode::Get) {
        super::measure(&BenchArgs { seconds: Some(0.1), ..load.clone() }).await?;
    }
    let (before, client) = (server.usage().await?, cpu_us("self"));
    let report = super::measure(&load).await?;
    let (after, client) = (server.usage().await?, cpu_us("self") - client);
    if let Some(error) = report.first_error {
        return Err(BenchError::Preparing(error));
    }
    let reads = load.mode == Mode::Read;
    let per_second = if reads { report.events_per_second } else { report.operations_per_second };
    // The CPU's times and the log hold the warm-up as well.
    let share = report.seconds / (report.seconds + WARMUP_SECONDS);
    let count = if reads { report.events } else { report.operations } as f64 / share;
    let appended = (load.mode == Mode::Append).then_some(report.events as f64 / share);
    Ok(Side {
        per_second,
        p50_ms: report.p50_ms,
        p99_ms: report.p99_ms,
        ..used(before, after, client, count, appended)
    })
}

fn used(before: Usage, after: Usage, client_us: u64, count: f64, appended: Option<f64>) -> Side {
    let grown = (after.log_bytes.saturating_sub(before.log_bytes)) as f64;
    let syncs = after.syncs.zip(before.syncs).map(|(after, before)| (after - before) as f64);
    Side {
        per_second: 0.0,
        p50_ms: 0.0,
        p99_ms: 0.0,
        server_cpu_us: (after.cpu_us - before.cpu_us) as f64 / count,
        client_cpu_us: client_us as f64 / count,
        anon_mb: after.anon_bytes as f64 / 1e6,
        log_bytes: appended.map(|events| grown / events),
        syncs: appended.and_then(|events| Some(syncs? / events)),
    }
}

async fn followed(server: &Server, dir: &Path) -> Result<Side, BenchError> {
    let args = FollowArgs {
        address: server.address.clone(),
        password: None,
        events: CATCH_UP_EVENTS,
        payload_bytes: 256,
        rate: 1000.0,
        seconds: 3.0,
        sync_dir: Some(dir.to_owned()),
        redis: server.redis,
        json: false,
    };
    let (before, client) = (server.usage().await?, cpu_us("self"));
    let report = follow::measure(&args).await?;
    let (after, client) = (server.usage().await?, cpu_us("self") - client);
    Ok(Side {
        per_second: report.catch_up_events_per_second,
        p50_ms: report.live_p50_ms,
        p99_ms: report.live_p99_ms,
        ..used(before, after, client, report.catch_up_events as f64, None)
    })
}

fn bench_args(args: &CompareArgs, load: Load, server: &Server) -> BenchArgs {
    let (mode, connections, depth, batch, count, streams) = match load {
        Load::Ping { connections } => (Mode::Ping, connections, 1, 1, 100, None),
        Load::Append { connections, depth, batch } => {
            (Mode::Append, connections, depth, batch, 100, None)
        }
        Load::Versions { streams } => (Mode::Append, 64, 1, 1, 100, Some(streams)),
        Load::Interval { connections } => (Mode::Append, connections, 1, 1, 100, None),
        Load::Read { connections, count } => (Mode::Read, connections, 1, 1, count, Some(64)),
        Load::Get { connections } => (Mode::Get, connections, 1, 1, 100, Some(64)),
        Load::Follow => unreachable!("measured otherwise"),
    };
    BenchArgs {
        mode,
        address: server.address.clone(),
        password: None,
        connections,
        depth,
        batch,
        payload_bytes: 256,
        seconds: Some(args.seconds),
        operations: None,
        warmup_seconds: Some(WARMUP_SECONDS),
        streams,
        expected: matches!(load, Load::Versions { .. }),
        redis: server.redis,
        rate: None,
        count,
        stream_events: Some(1000),
        json: false,
    }
}

fn median(sides: &[Side]) -> Option<Side> {
    let mut sorted = sides.to_vec();
    sorted.sort_by(|a, b| a.per_second.total_cmp(&b.per_second));
    sorted.get(sorted.len() / 2).copied()
}

fn lines(rows: &[Row], sides: &[[Vec<Side>; 2]]) -> Vec<Line> {
    let connections = |load: Load| match load {
        Load::Ping { connections }
        | Load::Append { connections, depth: 1, batch: 1 }
        | Load::Interval { connections }
        | Load::Get { connections } => Some(connections),
        Load::Versions { .. } => Some(64),
        _ => None,
    };
    let pings: Vec<(usize, f64)> = rows
        .iter()
        .zip(sides)
        .filter(|(row, _)| matches!(row.load, Load::Ping { .. }))
        .filter_map(|(row, sides)| Some((connections(row.load)?, median(&sides[0])?.per_second)))
        .collect();
    let line = |(row, sides): (&Row, &[Vec<Side>; 2])| {
        let (actadb, redis) = (median(&sides[0]), median(&sides[1]));
        let both = actadb.zip(redis);
        let ping = connections(row.load).and_then(|connections| {
            pings.iter().find(|(of, _)| *of == connections).map(|(_, rate)| *rate)
        });
        Line {
            row: row.name,
            what: row.what,
            actadb,
            redis,
            ratio: both.map(|(actadb, redis)| actadb.per_second / redis.per_second),
            p50_ratio: both.map(|(actadb, redis)| actadb.p50_ms / redis.p50_ms),
            of_ping: actadb.zip(ping).map(|(actadb, ping)| actadb.per_second / ping),
        }
    };
    rows.iter().zip(sides).map(line).collect()
}

const COLUMNS: [&str; 12] = [
    "row",
    "ActaDB/s",
    "Redis/s",
    "ratio",
    "of PING",
    "p50 ms",
    "p99 ms",
    "server CPU us",
    "client CPU us",
    "RssAnon MB",
    "log B/event",
    "syncs/event",
];

fn table(comparison: &Comparison) -> String {
    let syncs: Vec<String> = comparison.sync_p50_ms.iter().map(|ms| format!("{ms:.3}")).collect();
    let mut text = format!(
        "Medians of {} rounds of {} s; per second: operations, or events where pages or a \
         subscription are read.\nA 4 KiB write and sync of this disk takes {} ms.\n\n| {} |\n{}|",
        comparison.rounds,
        comparison.seconds,
        syncs.join(", "),
        COLUMNS.join(" | "),
        "|---".repeat(COLUMNS.len()),
    );
    for line in &comparison.lines {
        let ratio = |value: Option<f64>| value.map_or("-".into(), |value| format!("{value:.2}x"));
        let one = |side: Option<Side>, of: &dyn Fn(Side) -> Option<f64>, digits: usize| {
            side.and_then(of).map_or("-".into(), |value| format!("{value:.digits$}"))
        };
        let two = |of: &dyn Fn(Side) -> Option<f64>, digits: usize| {
            format!("{} / {}", one(line.actadb, of, digits), one(line.redis, of, digits))
        };
        let rate = |side: Option<Side>| side.map_or("-".into(), |side| whole(side.per_second));
        let cells: [String; COLUMNS.len()] = [
            line.what.to_owned(),
            rate(line.actadb),
            rate(line.redis),
            ratio(line.ratio),
            ratio(line.of_ping),
            two(&|side| Some(side.p50_ms), 3),
            two(&|side| Some(side.p99_ms), 2),
            two(&|side| Some(side.server_cpu_us), 1),
            two(&|side| Some(side.client_cpu_us), 1),
            two(&|side| Some(side.anon_mb), 0),
            two(&|side| side.log_bytes, 0),
            one(line.actadb, &|side| side.syncs, 4),
        ];
        text.push_str(&format!("\n| {} |", cells.join(" | ")));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn side(per_second: f64) -> Side {
        let used = used(Usage::default(), Usage::default(), 0, 1.0, None);
        Side { per_second, p50_ms: 1.0, ..used }
    }

    #[test]
    fn rows_are_chosen_by_their_first_letters_and_unknown_ones_refused() {
        let names = |words: &[&str]| {
            let words: Vec<String> = words.iter().map(|word| (*word).into()).collect();
            rows(&words).map(|rows| rows.iter().map(|row| row.name).collect::<Vec<_>>())
        };
        assert_eq!(names(&[]).unwrap().len(), ROWS.len());
        assert_eq!(names(&["get", "append-8"]).unwrap(), ["append-8x64", "get-1", "get-16"]);
        let error = names(&["apend"]).unwrap_err().to_string();
        assert!(error.contains("apend") && error.contains("append-64"), "{error}");
    }

    #[test]
    fn ratios_are_of_the_medians() {
        let rows = rows(&["ping-64".into(), "append-64".into()]).unwrap();
        let sides = [
            [vec![side(100.0), side(300.0), side(200.0)], vec![side(100.0)]],
            [vec![side(50.0)], vec![side(40.0)]],
        ];
        let lines = lines(&rows, &sides);
        assert_eq!((lines[0].ratio, lines[0].of_ping), (Some(2.0), Some(1.0)));
        assert_eq!((lines[1].ratio, lines[1].of_ping), (Some(1.25), Some(0.25)));
        let text = table(&Comparison { rounds: 3, seconds: 1.0, sync_p50_ms: vec![0.1], lines });
        assert!(text.contains("| append, 64 connections | 50 | 40 | 1.25x | 0.25x |"), "{text}");
    }
}
