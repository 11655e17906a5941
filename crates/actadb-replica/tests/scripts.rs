//! Golden scripts: one file per story in `tests/scripts`. A line that begins with `> ` is an input,
//! the lines below it are all the outputs it gave. `UPDATE_SCRIPTS=1` rewrites the outputs.
//!
//! ```text
//! > start ALLOCATED SEGMENT NEXT [full N]
//! > propose PARTITION SEQUENCE COUNT BYTES [durable] [epoch N]
//! > flush | tick | stop | written INDEX [synced N] [filled] [room A S N] | noroom
//! > synced | allocated A S N | allocation-failed [room A S N] | saved | not-saved | failed
//! > sealed | seal-failed | seal-noroom | want-sync | wait MS | wake | may-gather
//! > truncated [reopened N] [room A S N] | numbered SEQUENCE SEQUENCE | read N
//! > unreachable REPLICA
//! > fetched FIRST [TERM:INDEX…]
//! > peer KIND from F term T [index I] [log T] [commit C] [reject H] [entries TERM:INDEX:DURABLE…]
//! ```
//!
//! `# replica 1 of 3` makes it one of a group; `# log TERM TERM… committed N` is the log it begins
//! with. A replica that votes alone is answered `numbered` at once.

use std::fmt::Write as _;

use actadb_model::entry::{Entry, EntryKind, Proposal, Room};
use actadb_model::ids::PartitionId;
use actadb_model::outcome::ClosedReason;
use actadb_model::time::Now;
use actadb_replica::consensus::Group;
use actadb_replica::core::{BodyFormat, ReplicaCore, Start};
use actadb_replica::message::{FsyncMode, Input, Output, SlotValues, Work};
use actadb_replica::peer::{PeerKind, PeerMessage};
use actadb_replica::terms::Terms;
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

/// `TERM:INDEX` or `TERM:INDEX:DURABLE`, of which the last is what its head calls durable.
fn entry(text: &str) -> Entry {
    let numbers: Vec<u64> = text.split(':').map(number).collect();
    let durable = numbers.get(2).copied().unwrap_or(0);
    let body = Bytes::from(format!("time 0 durable {durable} records 1"));
    Entry { term: numbers[0], index: numbers[1], kind: EntryKind::Batch, body }
}

fn durable(entry: &Entry) -> u64 {
    let text = String::from_utf8_lossy(&entry.body);
    text.split("durable ").nth(1).and_then(|rest| rest.split(' ').next()).map_or(0, number)
}

fn peer(kind: &str, words: &[&str]) -> PeerMessage {
    let kind = PeerKind::ALL.into_iter().find(|known| format!("{known:?}") == kind);
    let field = |name| option::<1>(words, name).map_or(0, |[n]| n);
    let entries = words.iter().position(|word| *word == "entries");
    PeerMessage {
        kind: kind.expect("a kind of message"),
        from: field("from"),
        to: 1,
        term: field("term"),
        log_term: field("log"),
        index: field("index"),
        commit: field("commit"),
        commit_term: 0,
        reject: words.contains(&"reject"),
        reject_hint: field("reject"),
        context: Bytes::new(),
        entries: entries
            .map_or(Vec::new(), |at| words[at + 1..].iter().map(|text| entry(text)).collect()),
    }
}

fn send(message: &PeerMessage) -> String {
    let PeerMessage { kind, to, term, log_term, index, commit, reject, .. } = message;
    let mut text = format!("send {to} {kind:?} term {term} index {index} log {log_term}");
    write!(text, " commit {commit}").expect("a string grows");
    if *reject {
        write!(text, " reject {}", message.reject_hint).expect("a string grows");
    }
    let entries: Vec<String> =
        message.entries.iter().map(|e| format!(" {}:{}", e.term, e.index)).collect();
    text + &entries.concat()
}

fn input(line: &str) -> Input {
    let words: Vec<&str> = line.split_whitespace().collect();
    match words.as_slice() {
        ["start", a, s, n, ..] => Input::Start {
            room: room([number(a), number(s), number(n)]),
            full_segments: option::<1>(&words, "full").map_or(0, |[n]| n as usize),
        },
        ["propose", partition, sequence, count, bytes, ..] => Input::Propose(Proposal {
            epoch: option::<1>(&words, "epoch").map_or(2, |[n]| n),
            partition: PartitionId(number(partition) as u16),
            first_sequence: number(sequence),
            count: number(count) as u32,
            durable: words.contains(&"durable"),
            record: vec![0; number(bytes) as usize],
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
        ["truncated", ..] => Input::Truncated {
            room: option::<3>(&words, "room").map_or(room([1 << 30, 1 << 30, 0]), room),
            reopened: option::<1>(&words, "reopened").map_or(0, |[n]| n as usize),
        },
        ["numbered", a, b] => {
            let next = [(PartitionId(0), number(a)), (PartitionId(1), number(b))];
            Input::Numbered { next_sequences: next.to_vec(), time_ns: 0 }
        }
        ["read", token] => Input::ReadIndex(number(token)),
        ["unreachable", replica] => Input::Unreachable(number(replica)),
        ["fetched", first, entries @ ..] => Input::Fetched {
            first: number(first),
            entries: entries.iter().map(|text| entry(text)).collect(),
        },
        ["peer", kind, ..] => Input::Peer(peer(kind, &words)),
        ["failed"] => Input::Failed(ClosedReason::DiskFailed("sync: EIO".into())),
        ["sealed"] => Input::Sealed,
        ["seal-failed"] => Input::SealFailed { no_room: false },
        ["seal-noroom"] => Input::SealFailed { no_room: true },
        _ => panic!("no such input: {line}"),
    }
}

fn print(output: &Output) -> String {
    match output {
        Output::Work(Work::Write { entries, sync, .. }) => {
            let entry = |entry: &Entry| {
                let body = String::from_utf8_lossy(&entry.body);
                format!("{} term {} [{body}]", entry.index, entry.term)
            };
            let entries: Vec<String> = entries.iter().map(entry).collect();
            let sync = if *sync { " and sync" } else { "" };
            format!("write {}{sync}", entries.join(", "))
        }
        Output::Work(Work::Truncate { after }) => format!("cut behind {after}"),
        Output::Work(Work::Allocate { body_bytes }) => format!("allocate {body_bytes}"),
        Output::Work(Work::Sync) => "sync".into(),
        Output::Work(Work::SaveSlot(SlotValues { term, vote, synced_index, bulk_through })) => {
            let bulk = match bulk_through {
                0 => String::new(),
                through => format!(" bulk {through}"),
            };
            format!("save slot {synced_index} term {term} vote {vote}{bulk}")
        }
        Output::Commit { entry, synced } => {
            format!("commit {}{}", entry.index, if *synced { " synced" } else { "" })
        }
        Output::Refused { partition, epoch, from, reason } => {
            format!("refused partition {partition} epoch {epoch} from {from} {reason:?}")
        }
        Output::Lead { epoch, tail, .. } => {
            let tail: Vec<String> = tail.iter().map(|entry| entry.index.to_string()).collect();
            match tail.as_slice() {
                [] => format!("lead {epoch}"),
                tail => format!("lead {epoch} tail {}", tail.join(" ")),
            }
        }
        Output::Follow => "follow".into(),
        Output::ReadAt(token) => format!("read {token} is answered"),
        Output::Send(message) => send(message),
        Output::Fetch { first, end } => format!("fetch {first} to {end}"),
        Output::Synced => "all synced".into(),
        Output::Closed(reason) => format!("closed: {reason}"),
        Output::Stopped => "stopped".into(),
    }
}

fn group(script: &str) -> Group {
    let line = |name: &str| script.lines().find_map(|line| line.strip_prefix(name));
    let voters = line("# replica 1 of ").map_or(1, number);
    let words: Vec<&str> = line("# log ").unwrap_or("").split(' ').collect();
    let committed = option::<1>(&words, "committed").map_or(0, |[n]| n);
    let terms = words.iter().take_while(|word| **word != "committed").filter(|w| !w.is_empty());
    let terms: Vec<(u64, u64)> = (1..).zip(terms.map(|term| number(term))).collect();
    let last = terms.last().copied().unwrap_or((0, 1));
    let tail = terms.iter().filter(|(index, _)| *index > committed);
    Group {
        replica: 1,
        voters: (1..=voters).collect(),
        term: last.1,
        vote: 0,
        committed,
        tail: tail.map(|(index, term)| entry(&format!("{term}:{index}"))).collect(),
        terms: Terms::new(terms, last.0),
        seed: 1,
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
    let group = group(script);
    let alone = group.voters.len() == 1;
    let mut core = ReplicaCore::new(Start {
        saved: SlotValues {
            term: group.term,
            vote: group.vote,
            synced_index: group.committed,
            bulk_through: 0,
        },
        group,
        last_time_ns: 5,
        fsync,
        format: BodyFormat {
            batch_head_bytes: 16,
            max_body_bytes: 4000,
            frame_bytes: |body_bytes| (40 + body_bytes).next_multiple_of(8),
            encode_batch: |time_ns, durable, records| {
                let sizes: Vec<String> = records.iter().map(|r| r.len().to_string()).collect();
                Bytes::from(format!("time {time_ns} durable {durable} records {}", sizes.join(" ")))
            },
            durable,
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
        if alone && out.iter().any(|output| matches!(output, Output::Lead { .. })) {
            core.step(now, input("numbered 0 0"), &mut out);
        }
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
