//! `cargo xtask sim`: replays one seed, explores many, or puts mistakes back.
#![expect(
    clippy::disallowed_methods,
    reason = "runs worlds side by side for a real time; the worlds themselves have neither"
)]

use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use actadb_model::probe::Mistake;
use actadb_sim::explore::{OPERATIONS, Violation, hosts_of, hunt, world};
use actadb_sim::trace::Trace;
use clap::Parser;

/// Every known mistake must be caught within this many seeds; the rarest is by one of 1,500.
const HUNT_SEEDS: u64 = 12_000;

/// Simulated worlds of ActaDB
#[derive(Debug, Parser)]
struct Args {
    /// Replay this seed and print what happens
    #[arg(long, value_name = "N", conflicts_with_all = ["minutes", "seeds", "mistakes"])]
    seed: Option<u64>,
    /// Operations of a world
    #[arg(long, default_value_t = OPERATIONS, value_name = "N")]
    ops: u64,
    /// Hosts of every world; by its seed when not given: 1, 3 or 5
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=9))]
    hosts: Option<u8>,
    /// Explore for so long, from a seed that no run had before
    #[arg(long, value_name = "M", conflicts_with_all = ["seeds", "mistakes"])]
    minutes: Option<f64>,
    /// Run the seeds from 0 to this one
    #[arg(long, value_name = "N", conflicts_with = "mistakes")]
    seeds: Option<u64>,
    /// Put each known mistake back and see that it is caught
    #[arg(long)]
    mistakes: bool,
    /// Put this one back and count the worlds that catch it, of --seeds
    #[arg(long, value_name = "NAME", conflicts_with_all = ["seed", "minutes", "mistakes"])]
    mistake: Option<String>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    if let Some(seed) = args.seed {
        return replay(seed, args.ops, args.hosts.unwrap_or(hosts_of(seed)));
    }
    // A violation is told by us, with its seed.
    std::panic::set_hook(Box::new(|_| {}));
    if args.mistakes {
        return mistakes();
    }
    if let Some(name) = &args.mistake {
        return count(name, args.seeds.unwrap_or(HUNT_SEEDS), args.ops, args.hosts);
    }
    match (args.minutes, args.seeds) {
        (Some(minutes), _) => {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            let from = u64::try_from(now.as_nanos() >> 8).unwrap_or(0);
            explore(from, u64::MAX, Duration::from_secs_f64(minutes * 60.0), args.ops, args.hosts)
        }
        (None, seeds) => explore(0, seeds.unwrap_or(1_000), Duration::MAX, args.ops, args.hosts),
    }
}

fn replay(seed: u64, operations: u64, hosts: u8) -> ExitCode {
    match world(seed, operations, hosts, None, Trace::Printed) {
        Ok(outcome) => {
            println!("seed {seed} holds: {outcome:?}");
            ExitCode::SUCCESS
        }
        Err(violation) => {
            println!("seed {seed} VIOLATES: {}", violation.what);
            ExitCode::FAILURE
        }
    }
}

/// Runs worlds on all cores until one fails or the time is over.
fn explore(from: u64, count: u64, time: Duration, operations: u64, hosts: Option<u8>) -> ExitCode {
    let start = Instant::now();
    let next = AtomicU64::new(0);
    let totals = Mutex::new([0_u64; 5]);
    let found: Mutex<Option<Violation>> = Mutex::new(None);
    let workers = thread::available_parallelism().map_or(1, usize::from);
    let work = || {
        loop {
            let n = next.fetch_add(1, Ordering::Relaxed);
            let over = n >= count || start.elapsed() >= time;
            if over || found.lock().unwrap_or_else(PoisonError::into_inner).is_some() {
                return;
            }
            let seed = from.wrapping_add(n);
            match world(seed, operations, hosts.unwrap_or(hosts_of(seed)), None, Trace::Off) {
                Ok(o) => {
                    let mut totals = totals.lock().unwrap_or_else(PoisonError::into_inner);
                    let more = [1, o.acknowledged, o.reads, o.deliveries, o.crashes];
                    totals.iter_mut().zip(more).for_each(|(total, more)| *total += more);
                }
                Err(violation) => {
                    found.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(violation);
                }
            }
        }
    };
    thread::scope(|scope| (0..workers).for_each(|_| drop(scope.spawn(work))));
    let [worlds, acknowledged, reads, deliveries, crashes] =
        *totals.lock().unwrap_or_else(PoisonError::into_inner);
    let seconds = start.elapsed().as_secs_f64();
    println!(
        "{worlds} worlds of {operations} operations from seed {from} in {seconds:.1} s \
         ({:.0} a minute): {acknowledged} appends acknowledged, {reads} reads, \
         {deliveries} deliveries, {crashes} crashes",
        worlds as f64 / seconds * 60.0
    );
    match found.into_inner().unwrap_or_else(PoisonError::into_inner) {
        None => ExitCode::SUCCESS,
        Some(violation) => {
            keep(&violation);
            ExitCode::FAILURE
        }
    }
}

/// Tells a violation and keeps its seed, so that `cargo test` runs it from now on.
fn keep(violation: &Violation) {
    let Violation { seed, operations, hosts, what } = violation;
    println!("seed {seed} VIOLATES: {what}");
    println!("replay it with: cargo xtask sim --seed {seed} --ops {operations} --hosts {hosts}");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("seeds/{seed}.txt"));
    let text = format!("seed {seed} ops {operations} hosts {hosts}\n{what}\n");
    match std::fs::write(&path, text) {
        Ok(()) => println!("kept in {}", path.display()),
        Err(error) => println!("it could not be kept in {}: {error}", path.display()),
    }
}

/// How many worlds catch a mistake: what tells whether a change made the harness blinder.
fn count(name: &str, seeds: u64, operations: u64, hosts: Option<u8>) -> ExitCode {
    let named = |mistake: &&Mistake| format!("{mistake:?}").eq_ignore_ascii_case(name);
    let Some(mistake) = Mistake::ALL.iter().find(named) else {
        eprintln!("no mistake '{name}' (there are {:?})", Mistake::ALL);
        return ExitCode::from(2);
    };
    let caught = |seed: &u64| {
        let hosts = hosts.unwrap_or(hosts_of(*seed));
        world(*seed, operations, hosts, Some(*mistake), Trace::Off).is_err()
    };
    let count = (0..seeds).filter(caught).count();
    println!("{mistake:?} is caught by {count} of {seeds} worlds");
    if count > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn mistakes() -> ExitCode {
    let next = AtomicU64::new(0);
    let missed = AtomicU64::new(0);
    let workers = thread::available_parallelism().map_or(1, usize::from);
    let work = || {
        while let Some(mistake) = Mistake::ALL.get(next.fetch_add(1, Ordering::Relaxed) as usize) {
            let start = Instant::now();
            match hunt(*mistake, 0..HUNT_SEEDS) {
                Some(Violation { seed, what, .. }) => {
                    let seconds = start.elapsed().as_secs_f64();
                    println!("{mistake:?}: caught by seed {seed} in {seconds:.1} s: {what}");
                }
                None => {
                    missed.fetch_add(1, Ordering::Relaxed);
                    println!("{mistake:?}: NOT CAUGHT within {HUNT_SEEDS} seeds");
                }
            }
        }
    };
    thread::scope(|scope| (0..workers).for_each(|_| drop(scope.spawn(work))));
    match missed.load(Ordering::Relaxed) {
        0 => {
            println!("all {} known mistakes are caught", Mistake::ALL.len());
            ExitCode::SUCCESS
        }
        n => {
            println!("{n} of {} known mistakes are not caught", Mistake::ALL.len());
            ExitCode::FAILURE
        }
    }
}
