//! Golden scripts: one file per story in `tests/scripts`. A line that begins with `> ` is an input,
//! the lines below it are all the outputs it gave. `UPDATE_SCRIPTS=1` rewrites the outputs.
//!
//! ```text
//! > lead EPOCH NEXT [tail: SEQ stream@version …]
//! > lead-shared EPOCH NEXT (others vote, too) | confirmed N
//! > append TOKEN CONNECTION [!] [@KEY] stream[:expected][#id][=payload] , … ; …
//! > facts FETCH [stream=absent|head:N|head:N@KEY|elsewhere@KEY]
//!               [#id=absent|SEQ:stream@version=payload]
//! > facts FETCH failed
//! > committed N | committed N unsynced | synced N | refused EPOCH FROM noroom|notleader
//! > follow | closed | stats
//! ```
//! A `!` asks for DURABLE, `;` separates transactions of one message, `,` events of one
//! transaction. Keys and ids are small numbers with the partition's hash put in.

use std::fmt::Write as _;
use std::sync::Arc;

use actadb_model::ids::{PartitionId, PartitionKey, with_hash16};
use actadb_model::keys::{Facts, StreamFact};
use actadb_model::names::{EventName, StreamId};
use actadb_model::numbered::{Numbered, NumberedEvent};
use actadb_model::outcome::{AppendResult, ClosedReason, RefusedReason};
use actadb_model::time::Now;
use actadb_model::transaction::{NewEvent, Transaction};
use actadb_model::version::ExpectedVersion;
use actadb_partition::core::{PartitionCore, Rules, Start};
use actadb_partition::message::{FetchId, FromReplica, Input, Output, Token};
use bytes::Bytes;
use uuid::Uuid;

const HASH: u16 = 7;

fn key(number: u128) -> PartitionKey {
    PartitionKey::new(with_hash16(Uuid::from_u128(number), HASH))
}

fn id(number: u128) -> Uuid {
    with_hash16(Uuid::from_u128(number), HASH)
}

fn name_of(id: Uuid) -> String {
    // Generated ids are version 7; given ones are small numbers.
    if id.get_version_num() == 7 { "#gen".into() } else { format!("#{}", id.as_u128() as u32) }
}

fn stream(text: &str) -> StreamId {
    StreamId::new(text).expect("a stream id")
}

fn number(text: &str) -> u64 {
    text.parse().unwrap_or_else(|_| panic!("not a number: {text}"))
}

/// `stream[:expected][#id][=payload]`
fn event(text: &str) -> NewEvent {
    let (text, payload) = text.split_once('=').unwrap_or((text, ""));
    let (text, given) = text.split_once('#').unwrap_or((text, ""));
    let (text, expected) = text.split_once(':').unwrap_or((text, "any"));
    let expected = match expected {
        "any" => ExpectedVersion::Any,
        "exists" => ExpectedVersion::Exists,
        "empty" => ExpectedVersion::Empty,
        exact => ExpectedVersion::Exact(number(exact)),
    };
    let mut event = NewEvent::new(stream(text), EventName::new("N").expect("ok"))
        .expected(expected)
        .payload(payload.to_owned());
    if !given.is_empty() {
        event = event.id(id(number(given).into()));
    }
    event
}

fn transaction(text: &str) -> Transaction {
    let mut words: Vec<&str> = text.split_whitespace().filter(|word| *word != ",").collect();
    let durable = words.first() == Some(&"!");
    if durable {
        words.remove(0);
    }
    let mut under = key(1);
    if let Some(given) = words.first().and_then(|word| word.strip_prefix('@')) {
        under = key(number(given).into());
        words.remove(0);
    }
    let events = words.into_iter().map(event).collect();
    Transaction::new(under, events).expect("a valid transaction").durable(durable)
}

/// `stream@version=payload`, event id 1000 + sequence unless given.
fn stored(sequence: u64, text: &str, given: Option<Uuid>) -> Arc<Numbered> {
    let (text, payload) = text.split_once('=').unwrap_or((text, ""));
    let (name, version) = text.split_once('@').expect("stream@version");
    let id = given.unwrap_or_else(|| id(1000 + u128::from(sequence)));
    Arc::new(Numbered {
        partition: PartitionId(0),
        partition_key: key(1),
        key_is_default: false,
        transaction_id: id,
        first_sequence: sequence,
        decided_ns: 0,
        events: vec![NumberedEvent {
            id,
            stream: stream(name),
            version: number(version),
            name: EventName::new("N").expect("ok"),
            timestamp_ns: 0,
            payload: Bytes::copy_from_slice(payload.as_bytes()),
            metadata: Bytes::new(),
        }],
    })
}

fn fetch_id(text: &str) -> FetchId {
    let (generation, ticket) = text.split_once('.').expect("generation.ticket");
    FetchId::new(number(generation), number(ticket))
}

fn facts(words: &[&str]) -> Result<Facts, String> {
    if words == ["failed"] {
        return Err("the device said no".into());
    }
    let mut facts = Facts::default();
    for word in words {
        let (name, fact) = word.split_once('=').expect("key=fact");
        if let Some(given) = name.strip_prefix('#') {
            let given = id(number(given).into());
            let owner = (fact != "absent").then(|| {
                let (sequence, rest) = fact.split_once(':').expect("SEQ:stream@version");
                stored(number(sequence), rest, Some(given))
            });
            facts.event_ids.push((given, owner));
            continue;
        }
        let (fact, under) = fact.split_once('@').map_or((fact, 1), |(f, k)| (f, number(k)));
        let partition_key = key(under.into());
        let fact = match fact {
            "absent" => StreamFact::Absent,
            "elsewhere" => StreamFact::Elsewhere { partition: PartitionId(9), partition_key },
            head => {
                let version = number(head.strip_prefix("head:").expect("head:N"));
                StreamFact::Head { version, partition_key }
            }
        };
        facts.streams.push((stream(name), fact));
    }
    Ok(facts)
}

fn input(line: &str) -> Input {
    let (command, rest) = line.split_once(' ').unwrap_or((line, ""));
    let words: Vec<&str> = rest.split_whitespace().collect();
    let replica = match (command, words.as_slice()) {
        ("append", [token, connection, ..]) => {
            let text = rest.splitn(3, ' ').nth(2).expect("a transaction");
            return Input::Append {
                token: Token(number(token)),
                connection: number(connection),
                transactions: text.split(';').map(transaction).collect(),
            };
        }
        ("facts", [fetch, rest @ ..]) => {
            return Input::Facts { fetch: fetch_id(fetch), facts: facts(rest) };
        }
        ("lead" | "lead-shared", [epoch, next, tail @ ..]) => FromReplica::Lead {
            epoch: number(epoch),
            next_sequence: number(next),
            time_ns: 0,
            shared: command == "lead-shared",
            tail: tail
                .iter()
                .zip(number(next) - tail.len() as u64..)
                .map(|(text, sequence)| stored(sequence, text, None))
                .collect(),
        },
        ("committed", [through]) => {
            FromReplica::Committed { through: number(through), synced: true }
        }
        ("committed", [through, "unsynced"]) => {
            FromReplica::Committed { through: number(through), synced: false }
        }
        ("confirmed", [n]) => FromReplica::Confirmed { number: number(n) },
        ("synced", [through]) => FromReplica::Synced { through: number(through) },
        ("refused", [epoch, from, reason]) => FromReplica::Refused {
            epoch: number(epoch),
            from: number(from),
            reason: match *reason {
                "noroom" => RefusedReason::NoRoom,
                "notleader" => RefusedReason::NotLeader,
                other => panic!("no such reason: {other}"),
            },
        },
        ("follow", []) => FromReplica::Follow,
        ("closed", []) => {
            FromReplica::Closed(ClosedReason::DiskFailed("sync: input/output error".into()))
        }
        _ => panic!("no such input: {line}"),
    };
    Input::Replica(replica)
}

fn print_result(result: &AppendResult) -> String {
    match result {
        Ok(appended) => {
            let events = appended
                .events
                .iter()
                .map(|event| format!("{}@{} {}", event.stream, event.version, name_of(event.id)));
            format!("ok {} [{}]", appended.first_sequence, events.collect::<Vec<_>>().join(", "))
        }
        Err(error) => {
            let mut text = error.to_string();
            for n in [1, 2, 3, 7, 8, 9, 1003, 1004] {
                text = text.replace(&key(n).to_string(), &format!("key-{n}"));
            }
            format!("error {text}")
        }
    }
}

fn print(output: &Output) -> String {
    match output {
        Output::Fetch { fetch, keys } => {
            let streams = keys.streams.iter().map(ToString::to_string);
            let ids = keys.event_ids.iter().map(|id| name_of(*id));
            format!("fetch {fetch} {}", streams.chain(ids).collect::<Vec<_>>().join(" "))
        }
        Output::Confirm { number } => format!("confirm {number}"),
        Output::Propose { epoch, numbered, durable } => {
            let events =
                numbered.event_refs().map(|e| format!("{}@{}", e.stream.as_str(), e.version));
            let durable = if *durable { " durable" } else { "" };
            let events = events.collect::<Vec<_>>().join(", ");
            format!(
                "propose epoch {epoch} sequence {} [{events}]{durable}",
                numbered.first_sequence
            )
        }
        Output::WantSync => "want sync".into(),
        Output::Answer { token, results } => {
            let results = results.iter().map(print_result).collect::<Vec<_>>();
            format!("answer {} {}", token.0, results.join(" ; "))
        }
    }
}

fn run(script: &str) -> String {
    let mut core = PartitionCore::new(Start {
        partition: PartitionId(0),
        rules: Rules {
            strict_versioning: script.contains("# strict versioning"),
            max_transaction_bytes: 2000,
            cached_heads: if script.contains("# one cached head") { 1 } else { 100 },
        },
        id_floor_ns: 0,
        seed: 1,
    });
    let mut text = String::new();
    let mut now = Now { mono_ns: 0, unix_ns: 1_700_000_000_000_000_000 };
    for line in script.lines() {
        if line.starts_with('#') || line.is_empty() {
            writeln!(text, "{line}").expect("a string grows");
        }
        let Some(command) = line.strip_prefix("> ") else { continue };
        writeln!(text, "{line}").expect("a string grows");
        if command == "stats" {
            let stats = core.stats();
            writeln!(text, "held {} parked {} heads {}", stats.held, stats.parked, stats.heads)
                .expect("a string grows");
            continue;
        }
        now.mono_ns += 1;
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
