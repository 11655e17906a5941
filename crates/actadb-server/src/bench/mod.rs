//! `actadb bench`: a load generator for ActaDB and, for comparison, for Redis streams.
//!
//! The closed loop (default) keeps `--depth` operations outstanding on every connection. The open
//! loop (`--rate`) sends on a schedule and measures from the moment an operation was due, so that
//! a server that stalls is charged for all that it delayed ("coordinated omission", Gil Tene).

mod commands;
mod compare;
mod follow;
mod load;
mod pace;
mod report;
mod servers;
mod streams;

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use actadb::model::limits::{PAGE_MAX_EVENTS, TRANSACTION_MAX_EVENTS};
use clap::{Args, Subcommand, ValueEnum};

use crate::wire_client::{ClientError, WireClient};
use commands::Commands;
use compare::CompareArgs;
use follow::FollowArgs;
use load::{Lane, Plan, Tallies};
use pace::Pace;
use report::Report;
use streams::Streams;

/// Measured for this long when neither `--seconds` nor `--operations` is given.
const SECONDS_DEFAULT: f64 = 5.0;
/// From connected to the first operation: lets every task start.
const START_DELAY: Duration = Duration::from_millis(20);

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// Append events: EAPPEND, EMAPPEND with --batch; XADD, MULTI XADD EXEC with --redis
    Append,
    /// Read pages at random places: ESCAN; XRANGE with --redis
    Read,
    /// Read single events at random places by their id: EGET
    Get,
    /// PING
    Ping,
}

impl Mode {
    /// Its name on the command line.
    fn word(self) -> &'static str {
        match self {
            Self::Append => "append",
            Self::Read => "read",
            Self::Get => "get",
            Self::Ping => "ping",
        }
    }
}

/// Arguments of `actadb bench`.
#[derive(Clone, Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct Bench {
    #[command(flatten)]
    load: Option<BenchArgs>,
    #[command(subcommand)]
    other: Option<Other>,
}

/// What is measured otherwise than by a load of equal operations.
#[derive(Clone, Debug, Subcommand)]
enum Other {
    /// Catch up with a subscription, then hear of what is appended: EPSUB, ESUB; XREAD with --redis
    Subscribe(FollowArgs),
    /// All loads on servers of its own and on a Redis server, in turn: a table with the ratios
    Compare(CompareArgs),
}

/// Arguments of a load of equal operations.
#[derive(Clone, Debug, Args)]
pub struct BenchArgs {
    /// What to measure
    #[arg(value_enum)]
    pub mode: Mode,
    /// Address of the server
    #[arg(long, default_value = "127.0.0.1:9090", value_name = "HOST:PORT")]
    pub address: String,
    /// Password of the server
    #[arg(long)]
    pub password: Option<String>,
    /// Connections, all used at once
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub connections: usize,
    /// Operations outstanding on each connection at most
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub depth: usize,
    /// Events of one append; more than 1 are appended together or not at all
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub batch: usize,
    /// Bytes of an event's payload
    #[arg(long, default_value_t = 256, value_name = "N")]
    pub payload_bytes: usize,
    /// How long to measure [default: 5]
    #[arg(long, value_name = "S", conflicts_with = "operations")]
    pub seconds: Option<f64>,
    /// How many operations to measure, instead of how long
    #[arg(long, value_name = "N")]
    pub operations: Option<u64>,
    /// How long to run before measuring [default: 1, with --operations 0]
    #[arg(long, value_name = "S")]
    pub warmup_seconds: Option<f64>,
    /// Streams in use [default: one per connection]
    #[arg(long, value_name = "N")]
    pub streams: Option<usize>,
    /// Send the exact EXPECTED_VERSION with every event
    #[arg(long)]
    pub expected: bool,
    /// Drive a Redis server with the same load
    #[arg(long)]
    pub redis: bool,
    /// Operations per second of all connections together: an open loop
    #[arg(long, value_name = "N")]
    pub rate: Option<f64>,
    /// Events of a page that is read
    #[arg(long, default_value_t = 100, value_name = "N")]
    pub count: usize,
    /// Events that a stream has at least before it is read [default: 1000 or --count]
    #[arg(long, value_name = "N")]
    pub stream_events: Option<u64>,
    /// Print one JSON object instead of a table
    #[arg(long)]
    pub json: bool,
}

/// Why nothing was measured.
#[derive(Debug, thiserror::Error)]
enum BenchError {
    #[error("{option} must be {wanted}, got {got}")]
    Option { option: &'static str, wanted: &'static str, got: String },
    #[error("--expected needs at least one stream per connection: use --streams {connections}")]
    SharedStreams { connections: usize },
    #[error("Redis streams know no expected version: leave out --expected or --redis")]
    RedisExpected,
    #[error("Redis streams know no ids of events: measure `read --count 1` with --redis")]
    RedisGet,
    #[error("--rows names {0:?}, which is no row; rows are {1}")]
    NoRow(String, String),
    #[error("a server for the comparison does not start: {0}")]
    Server(String),
    #[error("{0} keeps no log (appendonly no): start it with --appendonly yes --save ''")]
    NoLog(String),
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("preparing the streams failed: {0}")]
    Preparing(String),
    #[error("a sync of the disk cannot be measured: {0}")]
    Disk(#[source] std::io::Error),
    #[error(
        "no operation was sent after the warm-up and answered: use a smaller --depth or --count, \
         or more --seconds"
    )]
    Nothing,
    #[error("no histogram of these bounds: {0}")]
    Histogram(#[from] hdrhistogram::CreationError),
    #[error("no thread for the schedule: {0}")]
    Thread(#[source] std::io::Error),
}

/// Runs `actadb bench` and prints what was measured; exit code 1 when there were errors.
pub async fn run(bench: Bench) -> ExitCode {
    match bench {
        Bench { other: Some(Other::Subscribe(args)), .. } => follow(&args).await,
        Bench { other: Some(Other::Compare(args)), .. } => match compare::run(&args).await {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("actadb bench compare: {error}");
                ExitCode::FAILURE
            }
        },
        Bench { load: Some(args), .. } => load(&args).await,
        Bench { .. } => {
            eprintln!(
                "actadb bench: say what to measure: append, read, get, ping, subscribe or compare"
            );
            ExitCode::from(2)
        }
    }
}

async fn follow(args: &FollowArgs) -> ExitCode {
    match follow::measure(args).await {
        Ok(report) => {
            println!("{}", if args.json { report.json() } else { report.table() });
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("actadb bench subscribe: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn load(args: &BenchArgs) -> ExitCode {
    match measure(args).await {
        Ok(report) => {
            println!("{}", if args.json { report.json() } else { report.table() });
            if report.errors == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            eprintln!("actadb bench: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn measure(args: &BenchArgs) -> Result<Report, BenchError> {
    check(args)?;
    let connect = || WireClient::connect(&args.address, args.password.as_deref());
    let mut first = connect().await?;
    let streams = Streams::prepare(args, &mut first).await?;
    let mut clients = vec![first];
    while clients.len() < args.connections {
        clients.push(connect().await?);
    }

    let tallies = Arc::new(Tallies::new(args.connections)?);
    let plan = Arc::new(plan(args));
    let template = Arc::new(commands::template(args, &streams));
    let pacer = match &plan.pace {
        Some(_) => Some(pace::spawn(plan.clone()).map_err(BenchError::Thread)?),
        None => None,
    };
    let lanes: Vec<_> = clients
        .into_iter()
        .enumerate()
        .map(|(number, client)| {
            let commands = Commands::new(template.clone(), &streams, number, args.connections);
            let lane = Lane::new(number, client, commands, plan.clone(), tallies.clone());
            tokio::spawn(lane.run())
        })
        .collect();
    for lane in lanes {
        if let Err(panic) = lane.await {
            tallies.failed(0, &panic.to_string(), 1);
        }
    }
    if let Some(pace) = &plan.pace {
        pace.stop();
    }
    if let Some(Err(_)) = pacer.map(std::thread::JoinHandle::join) {
        tallies.failed(0, "the thread of the schedule panicked", 1);
    }
    if args.redis && args.mode == Mode::Append {
        // ActaDB cannot forget events; what Redis keeps in memory is given back.
        streams.remove(&mut connect().await?).await?;
    }
    let total = tallies.total()?;
    if total.operations == 0 && total.errors == 0 {
        return Err(BenchError::Nothing);
    }
    Ok(Report::new(args, streams.len(), &plan, total))
}

fn plan(args: &BenchArgs) -> Plan {
    let start = Instant::now() + START_DELAY;
    let warmup = args.warmup_seconds.unwrap_or(if args.operations.is_some() { 0.0 } else { 1.0 });
    let from = start + Duration::from_secs_f64(warmup);
    let seconds = args.seconds.unwrap_or(SECONDS_DEFAULT);
    Plan {
        depth: args.depth,
        start,
        from,
        until: args.operations.is_none().then(|| from + Duration::from_secs_f64(seconds)),
        tickets: args.operations.map(AtomicU64::new),
        pace: args.rate.map(|rate| Pace::new(start, rate, args.connections)),
    }
}

fn check(args: &BenchArgs) -> Result<(), BenchError> {
    let counts = [
        ("--connections", args.connections, 65_535, "1 to 65535"),
        ("--depth", args.depth, 1 << 20, "1 to 1048576"),
        ("--batch", args.batch, TRANSACTION_MAX_EVENTS, "1 to 65536"),
        ("--count", args.count, PAGE_MAX_EVENTS, "1 to 10000"),
        ("--streams", args.streams.unwrap_or(1), streams::STREAMS_MAX, "1 to 10000000"),
    ];
    for (option, got, most, wanted) in counts {
        if got == 0 || got > most {
            return Err(BenchError::Option { option, wanted, got: got.to_string() });
        }
    }
    if args.operations == Some(0) {
        let (option, got) = ("--operations", "0".to_owned());
        return Err(BenchError::Option { option, wanted: "at least 1", got });
    }
    let spans = [
        ("--seconds", args.seconds, 0.001, "a number of seconds above 0"),
        ("--warmup-seconds", args.warmup_seconds, 0.0, "a number of seconds"),
        ("--rate", args.rate, 0.001, "operations per second, above 0"),
    ];
    for (option, got, least, wanted) in spans {
        if let Some(got) = got.filter(|got| !(least..=1e9).contains(got)) {
            return Err(BenchError::Option { option, wanted, got: got.to_string() });
        }
    }
    if args.expected && args.redis {
        return Err(BenchError::RedisExpected);
    }
    if args.mode == Mode::Get && args.redis {
        return Err(BenchError::RedisGet);
    }
    if args.expected && args.streams.is_some_and(|streams| streams < args.connections) {
        return Err(BenchError::SharedStreams { connections: args.connections });
    }
    Ok(())
}

/// Arguments as the command line would give them.
#[cfg(test)]
fn arguments(line: &str) -> BenchArgs {
    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: BenchArgs,
    }
    let words = std::iter::once("bench").chain(line.split_whitespace());
    <Line as clap::Parser>::try_parse_from(words).unwrap().args
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_out_of_range_are_refused_by_name() {
        for (line, word) in [
            ("append --depth 0", "--depth"),
            ("read --count 10001", "--count"),
            ("ping --seconds 0", "--seconds"),
            ("ping --seconds NaN", "--seconds"),
            ("ping --rate -1", "--rate"),
            ("append --operations 0", "--operations"),
            ("append --expected --redis", "--expected"),
            ("get --redis", "read --count 1"),
            ("append --expected --connections 4 --streams 3", "--streams 4"),
        ] {
            let line = line.replace("--rate -1", "--rate=-1");
            let error = check(&arguments(&line)).unwrap_err().to_string();
            assert!(error.contains(word), "{line}: {error}");
        }
        assert!(check(&arguments("append --batch 100 --connections 8 --expected")).is_ok());
    }
}
