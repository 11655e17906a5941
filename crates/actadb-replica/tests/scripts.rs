//! Golden scripts: one file per story in `tests/scripts`. A line that begins with `> ` is an input,
//! the lines below it are all the outputs it gave. `UPDATE_SCRIPTS=1` rewrites the outputs.
//!
//! ```text
//! > start ALLOCATED SEGMENT NEXT [full N]
//! > propose PARTITION SEQUENCE COUNT BYTES [durable] [epoch N]
//! > flush | tick | stop | written INDEX [synced N] [filled] [room A S N] | noroom
//! > synced | allocated A S N | allocation-failed [room A S N] | saved | not-saved | failed
//! > sealed | seal-failed | seal-noroom | want-sync | wait MS | wake | may-gather
//! ```

use std::fmt::Write as _;

use actadb_model::entry::{Proposal, Room};
use actadb_model::ids::PartitionId;
use actadb_model::outcome::ClosedReason;
use actadb_model::time::Now;
use actadb_replica::core::{ReplicaCore, Start};
use actadb_replica::message::{FsyncMode, Input, Output, Work};
use bytes::Bytes;

fn number(text: &str) -> u64 {
    text.parse().unwrap_or_else(|_| panic!("not a number: {text}"))
}

/// The words behind `name`, as numbers.
fn option<const N: usize>(words: &[&str], name: &str) -> Option<[u64; N]> {
    let at = words.iter().position(|word| *word == name)?;
    let found: Vec<u64> = words[at + 1..][..N].iter().map(|word| number(word)).collect();
    found.try_into().ok()
}

fn room([allocated, segment, next]: [u64; 3]) -> Room {
    Room { allocated, segment, next }
}

fn input(line: &str) -> Input {
    let words: Vec<&str> = line.split_whitespace().collect();
    match words.as_slice() {
        ["start", a, s, n, ..] => Input::Start {
            room: room([number(a), number(s), number(n)]),
            full_segments: option::<1>(&words, "full").map_or(0, |[n]| n as usize),
        },
        ["propose", partition, sequence, count, bytes, ..] => Input::Propose(Proposal {
            epoch: option::<1>(&words, "epoch").map_or(1, |[n]| n),
            partition: PartitionId(number(partition) as u16),
            first_sequence: number(sequence),
            count: number(count) as u32,
            durable: words.contains(&"durable"),
            record: Bytes::from(vec![0; number(bytes) as usize]),
        }),
        ["flush"] => Input::Flush,
        ["tick"] => Input::Tick,
        ["stop"] => Input::Stop,
        ["written", index, ..] => Input::Written {
            index: number(index),
            synced_through: option::<1>(&words, "synced").map_or(0, |[n]| n),
            room: option::<3>(&words, "room").map_or(room([1 << 30, 1 << 30, 0]), room),
            filled: words.contains(&"filled"),
        },
        ["noroom"] => Input::WriteFoundNoRoom,
        ["synced"] => Input::Synced,
        ["allocated", a, s, n] => Input::Allocated(room([number(a), number(s), number(n)])),
        ["allocation-failed", ..] => {
            let left = option::<3>(&words, "room").map_or(Room::default(), room);
            Input::AllocationFailed(left)
        }
        ["want-sync"] => Input::WantSync,
        ["not-saved"] => Input::SlotNotSaved,
        ["saved"] => Input::SlotSaved,
        ["failed"] => Input::Failed(ClosedReason::DiskFailed("sync: EIO".into())),
        ["sealed"] => Input::Sealed,
        ["seal-failed"] => Input::SealFailed { no_room: false },
        ["seal-noroom"] => Input::SealFailed { no_room: true },
        _ => panic!("no such input: {line}"),
    }
}

fn print(output: &Output) -> String {
    match output {
        Output::Work(Work::Write { entry, sync }) => {
            let body = String::from_utf8_lossy(&entry.body);
            let sync = if *sync { " and sync" } else { "" };
            format!("write {} term {} [{body}]{sync}", entry.index, entry.term)
        }
        Output::Work(Work::Allocate { body_bytes }) => format!("allocate {body_bytes}"),
        Output::Work(Work::Sync) => "sync".into(),
        Output::Work(Work::SaveSlot { synced_index }) => format!("save slot {synced_index}"),
        Output::Commit { entry, synced } => {
            format!("commit {}{}", entry.index, if *synced { " synced" } else { "" })
        }
        Output::Refused { partition, epoch, from, reason } => {
            format!("refused partition {partition} epoch {epoch} from {from} {reason:?}")
        }
        Output::Lead { epoch } => format!("lead {epoch}"),
        Output::Synced => "all synced".into(),
        Output::Closed(reason) => format!("closed: {reason}"),
        Output::Stopped => "stopped".into(),
    }
}

fn run(script: &str) -> String {
    let fsync = if script.contains("# fsync interval") {
        FsyncMode::Interval(100_000_000)
    } else if script.contains("# fsync never") {
        FsyncMode::Never
    } else {
        FsyncMode::Always
    };
    let mut core = ReplicaCore::new(Start {
        term: 1,
        last_index: 0,
        last_time_ns: 5,
        next_sequences: vec![(PartitionId(0), 0), (PartitionId(1), 0)],
        fsync,
        batch_head_bytes: 16,
        max_body_bytes: 4000,
        encode_batch: |time_ns, durable, records| {
            let sizes: Vec<String> = records.iter().map(|r| r.len().to_string()).collect();
            Bytes::from(format!("time {time_ns} durable {durable} records {}", sizes.join(" ")))
        },
    });
    let mut text = String::new();
    let mut now = Now { mono_ns: 0, unix_ns: 0 };
    for line in script.lines() {
        if line.starts_with('#') || line.is_empty() {
            writeln!(text, "{line}").expect("a string grows");
        }
        let Some(command) = line.strip_prefix("> ") else { continue };
        writeln!(text, "{line}").expect("a string grows");
        if let Some(ms) = command.strip_prefix("wait ") {
            now.mono_ns += number(ms) * 1_000_000;
            now.unix_ns += number(ms);
            continue;
        }
        if command == "wake" {
            let wake =
                core.wake_at().map(|at| format!("wakes in {} ms", (at - now.mono_ns) / 1_000_000));
            writeln!(text, "{}", wake.unwrap_or("sleeps".into())).expect("a string grows");
            continue;
        }
        if command == "may-gather" {
            let answer = if core.may_gather() { "yes" } else { "no" };
            writeln!(text, "{answer}").expect("a string grows");
            continue;
        }
        let mut out = Vec::new();
        core.step(now, input(command), &mut out);
        for output in &out {
            writeln!(text, "{}", print(output)).expect("a string grows");
        }
    }
    text
}

#[test]
fn every_script_gives_what_it_says() {
    actadb_golden::check(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/scripts"), run);
}
