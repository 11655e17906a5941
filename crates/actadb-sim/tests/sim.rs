//! Worlds that every test run simulates.

use std::fs;
use std::path::Path;

use actadb_model::probe::Mistake;
use actadb_sim::explore::{OPERATIONS, hosts_of, hunt, world};
use actadb_sim::trace::Trace;

fn holds(seed: u64, operations: u64, hosts: u8) {
    println!("replay with: cargo xtask sim --seed {seed} --ops {operations} --hosts {hosts}");
    let outcome = world(seed, operations, hosts, None, Trace::Off);
    let outcome = outcome.unwrap_or_else(|v| panic!("seed {seed}: {}", v.what));
    assert!(outcome.operations >= operations);
}

#[test]
fn what_clients_were_told_is_what_is_there() {
    let (mut acknowledged, mut reads, mut deliveries, mut crashes, mut rotten) = (0, 0, 0, 0, 0);
    for seed in 0..50 {
        println!("replay with: cargo xtask sim --seed {seed}");
        let outcome = world(seed, OPERATIONS, hosts_of(seed), None, Trace::Off);
        let outcome = outcome.unwrap_or_else(|v| panic!("seed {seed}: {}", v.what));
        acknowledged += outcome.acknowledged;
        reads += outcome.reads;
        deliveries += outcome.deliveries;
        crashes += outcome.crashes;
        rotten += outcome.rotten;
    }
    // Worlds must have done something, or they prove nothing.
    assert!(acknowledged > 50 * 50, "{acknowledged} acknowledged");
    assert!(reads > 50 * 20, "{reads} reads");
    assert!(deliveries > 50 * 50, "{deliveries} deliveries");
    assert!(crashes > 50 * 3 && rotten > 10, "{crashes} crashes, {rotten} rotten");
}

#[test]
fn a_world_is_the_same_to_the_byte_every_time() {
    for seed in [1, 7, 13] {
        let trace = || {
            let outcome = world(seed, OPERATIONS, hosts_of(seed), None, Trace::Kept(String::new()));
            outcome.unwrap_or_else(|v| panic!("seed {seed}: {}", v.what)).trace
        };
        let (first, second) = (trace(), trace());
        assert!(first.lines().count() > 500, "a trace of {} lines", first.lines().count());
        // Not `assert_eq`: nobody wants to read both.
        let differ = first.lines().zip(second.lines()).find(|(a, b)| a != b);
        assert!(differ.is_none() && first.len() == second.len(), "seed {seed}: {differ:?}");
    }
}

#[test]
fn seeds_that_failed_once_hold() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds");
    let mut kept = 0;
    for entry in fs::read_dir(dir).expect("the kept seeds").flatten() {
        let text = fs::read_to_string(entry.path()).expect("a kept seed");
        let Some(first) = text.lines().next().filter(|line| line.starts_with("seed ")) else {
            continue;
        };
        let words: Vec<&str> = first.split_whitespace().collect();
        let number = |at: usize| words.get(at).and_then(|word| word.parse().ok());
        let (seed, operations) = number(1).zip(number(3)).expect("seed N ops N");
        let hosts = number(5).unwrap_or(1) as u8;
        holds(seed, operations, hosts);
        kept += 1;
    }
    assert!(kept > 0, "no seed is kept");
}

/// Those that are caught at once, so that no test run trusts a blind harness; `cargo xtask sim
/// --mistakes` hunts all of them.
#[test]
fn a_mistake_that_is_put_back_is_caught() {
    let quick = [
        Mistake::AnswerBeforeSync,
        Mistake::UnsyncedFramesServed,
        Mistake::DirectoryNotSynced,
        Mistake::WatermarkBeforePublication,
        Mistake::ReadAboveWatermark,
        Mistake::RetryAppendedAgain,
        Mistake::SkipAtHandOver,
        Mistake::MessagesBeforeSync,
        Mistake::ReadNotConfirmed,
        Mistake::TailForgotten,
    ];
    for mistake in quick {
        assert!(hunt(mistake, 0..200).is_some(), "{mistake:?} is not caught");
    }
}
