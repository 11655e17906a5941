//! Every property with bytes that are drawn, and with every input that a fuzzer found worth
//! keeping (`fuzz/corpus`). A failure names its seed; `PROPTEST_RNG_SEED=n` sets another one, and
//! `PROPTEST_CASES=n` the number of cases.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use actadb_properties::{command, frame, framer, partition, record, recovery, sealed_index};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngSeed, TestRunner};

const SEED: u64 = 0x00ac_7adb;

/// Pieces that mean something to one format or another.
const PIECES: &[&[u8]] = &[
    b"*3\r\n$7\r\nEAPPEND\r\n$1\r\ns\r\n$1\r\nn\r\n",
    b"*1\r\n$4\r\nPING\r\n",
    b"PING \"a\\x41\" 'b'\r\n",
    b"*0\r\n*-1\r\n",
    b"$0\r\n\r\n",
    b"\r\n",
    b"AFRM\x00\x01\x00\x00\x10\x00\x00\x00",
    b"ACTASEG\n",
    b"ACTAIDX\n",
    b"\x01\x00\x00\x00\x00\x00\x00\x00",
    b"\xff\xff\xff\xff\xff\xff\xff\xff",
    b"\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01",
    b"\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00",
];

/// A first byte that says what is done with the rest, and the rest: drawn byte by byte, or pieces.
fn scripts(manners: u8, longest: usize) -> impl Strategy<Value = Vec<u8>> {
    let drawn = vec(any::<u8>(), 0..longest);
    let piece = prop_oneof![
        2 => prop::sample::select(PIECES).prop_map(<[u8]>::to_vec),
        1 => vec(any::<u8>(), 0..12),
        1 => (any::<u8>(), 0..60_usize).prop_map(|(byte, times)| vec![byte; times]),
    ];
    let pieces = vec(piece, 0..longest / 12).prop_map(|pieces| pieces.concat());
    let small = vec(0..40_u8, 0..longest);
    (0..manners, prop_oneof![3 => drawn, 2 => pieces, 2 => small])
        .prop_map(|(manner, rest)| [&[manner], &rest[..]].concat())
}

/// Steps of a partition's script, each whole: bytes alone seldom bring an append to its commit.
fn partition_scripts() -> impl Strategy<Value = Vec<u8>> {
    // A message of a connection with one transaction: key, durability, event; or a retry.
    let append = (0..3_u8, vec(any::<u8>(), 5)).prop_map(|(connection, event)| {
        let event = [0, event[0], event[1], event[2] % 5, event[3], event[4]];
        [&[0, connection, 0, 0][..], &event[..]].concat()
    });
    let retry = (0..3_u8, 200..=255_u8).prop_map(|(connection, sent)| vec![0, connection, 0, sent]);
    let with = |step: u8, arguments: usize| {
        vec(any::<u8>(), arguments).prop_map(move |rest| [&[step], &rest[..]].concat())
    };
    let step = prop_oneof![
        16 => append,
        2 => retry,
        10 => Just(vec![9]),
        16 => Just(vec![14]),
        12 => with(19, 1),
        14 => with(22, 1),
        1 => with(25, 1),
        6 => with(26, 2),
        1 => Just(vec![28]),
        1 => with(29, 1),
        // The lead is lost, and soon had again.
        1 => (vec(any::<u8>(), 0..4), with(30, 6)).prop_map(|(between, lead)| {
            [&[30, 0, 9][..], &between, &lead, &[9, 9]].concat()
        }),
        1 => with(31, 1),
        1 => vec(any::<u8>(), 1..12),
    ];
    (vec(0..9_u8, 3), vec(step, 0..120)).prop_map(|(rules, steps)| [rules, steps.concat()].concat())
}

fn hold(name: &str, check: fn(&[u8]), cases: u32, scripts: impl Strategy<Value = Vec<u8>>) {
    corpus(name, check);
    let mut config = Config { failure_persistence: None, ..Config::default() };
    if std::env::var_os("PROPTEST_CASES").is_none() {
        config.cases = cases;
    }
    if config.rng_seed == RngSeed::Random {
        config.rng_seed = RngSeed::Fixed(SEED);
    }
    let seed = config.rng_seed;
    let outcome = TestRunner::new(config).run(&scripts, |script| {
        check(&script);
        Ok(())
    });
    if let Err(failure) = outcome {
        panic!("{name}: seed {seed}: {failure}");
    }
}

/// What a fuzzer has found once is checked every time.
fn corpus(name: &str, check: fn(&[u8])) {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(name);
    let files = std::fs::read_dir(&dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
    let mut paths: Vec<_> = files.map(|file| file.expect("a file").path()).collect();
    paths.sort();
    assert!(!paths.is_empty(), "{} is empty", dir.display());
    for path in paths {
        let input = std::fs::read(&path).expect("readable");
        let held = catch_unwind(AssertUnwindSafe(|| check(&input)));
        assert!(held.is_ok(), "{name}: {} fails", path.display());
    }
}

#[test]
fn requests_do_not_depend_on_how_bytes_are_cut_and_are_the_oracles() {
    hold("framer", framer::check, 3000, (0..3_u8, scripts(6, 300)).prop_map(with_first));
}

#[test]
fn a_command_written_again_is_parsed_to_the_same_and_errors_are_one_line() {
    hold("command", command::check, 3000, scripts(255, 120));
}

#[test]
fn frames_are_read_back_and_flipped_bits_noticed() {
    hold("frame", frame::check, 3000, scripts(3, 400));
}

#[test]
fn records_are_read_back_and_flipped_bits_noticed() {
    hold("record", record::check, 8000, scripts(4, 300));
}

#[test]
fn a_log_opens_to_a_prefix_of_what_was_written_or_is_refused() {
    hold("recovery", recovery::check, 400, scripts(3, 300));
}

#[test]
fn a_sealed_index_answers_as_the_open_one_or_says_that_it_is_damaged() {
    hold("sealed_index", sealed_index::check, 400, scripts(4, 300));
}

#[test]
fn appends_are_numbered_without_gaps_and_answered_once_after_their_commit() {
    let scripts = prop_oneof![1 => scripts(255, 400), 9 => partition_scripts()];
    hold("partition", partition::check, 2000, scripts);
}

fn with_first((first, rest): (u8, Vec<u8>)) -> Vec<u8> {
    [&[first], &rest[..]].concat()
}
