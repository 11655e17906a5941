//! Golden scripts: one file per story in `tests/scripts`. A line that begins with `> ` is an input,
//! the lines below it are all the outputs it gave. `UPDATE_SCRIPTS=1` rewrites the outputs.
//!
//! ```text
//! > start partitions|streams POSITIONS [counts] [window N] [names N,N] [prefix P] [progress N]
//! > begin | moved | passed | tick | ack CURSOR | wait MS | wake | positions
//! > found [SOURCE:POSITION:STREAM:NAME …]
//! ```

use std::fmt::Write as _;

use actadb_model::event::{Event, EventHead, EventSpans};
use actadb_model::ids::{PartitionId, PartitionKey};
use actadb_model::limits::FOLLOW_EVENTS;
use actadb_model::names::EventName;
use actadb_model::time::Now;
use actadb_subscription::core::{Sources, Start, SubscriptionCore};
use actadb_subscription::filter::Filter;
use actadb_subscription::message::{Found, Input, Output};
use bytes::Bytes;
use uuid::Uuid;

fn number(text: &str) -> u64 {
    text.parse().unwrap_or_else(|_| panic!("not a number: {text}"))
}

fn option<'a>(words: &[&'a str], name: &str) -> Option<&'a str> {
    let at = words.iter().position(|word| *word == name)?;
    words.get(at + 1).copied()
}

fn start(words: &[&str]) -> Start {
    let [kind, positions, ..] = words else { panic!("start KIND POSITIONS") };
    let mut filter = Filter::all();
    if let Some(names) = option(words, "names") {
        filter = filter.names(names.split(',').map(|n| EventName::new(n).expect("a name")));
    }
    if let Some(prefix) = option(words, "prefix") {
        filter = filter.prefix(prefix);
    }
    Start {
        sources: if *kind == "streams" { Sources::Streams } else { Sources::Partitions },
        positions: positions.split(',').map(number).collect(),
        counts: words.contains(&"counts"),
        window: option(words, "window").map(|n| number(n) as u32),
        filter,
        progress_events: option(words, "progress").map_or(10_000, number),
    }
}

/// `SOURCE:POSITION:STREAM:NAME`
fn found(word: &str) -> Found {
    let parts: Vec<&str> = word.split(':').collect();
    let [source, position, stream, name] = parts[..] else { panic!("S:P:STREAM:NAME: {word}") };
    let head = EventHead {
        id: Uuid::nil(),
        partition_key: PartitionKey::new(Uuid::nil()),
        partition: PartitionId(0),
        transaction_id: Uuid::nil(),
        sequence: number(position),
        version: number(position),
        timestamp_ns: 0,
    };
    let (s, n) = (stream.len() as u32, name.len() as u32);
    let spans = EventSpans { stream: 0..s, name: s..s + n, metadata: 0..0, payload: 0..0 };
    let event = Event::new(head, Bytes::from(format!("{stream}{name}")), spans);
    Found { source: number(source) as usize, event }
}

fn print(output: &Output) -> String {
    match output {
        Output::Read { max: FOLLOW_EVENTS } => "read".into(),
        Output::Read { max } => format!("read {max}"),
        Output::Wait => "wait for the number".into(),
        Output::Deliver(deliveries) => {
            let shown = deliveries.iter().map(|delivery| {
                let event = &delivery.event;
                format!(
                    "{} {}@{} {}",
                    delivery.cursor,
                    event.stream(),
                    event.version(),
                    event.name()
                )
            });
            format!("deliver {}", shown.collect::<Vec<_>>().join(", "))
        }
        Output::Progress { cursor, positions } => {
            let positions = positions.iter().map(|(source, next)| format!("{source}={next}"));
            format!("progress {cursor}: {}", positions.collect::<Vec<_>>().join(" "))
        }
        Output::Acked => "acked".into(),
        Output::AckRefused { last } => format!("ack refused, last {last:?}"),
    }
}

fn run(script: &str) -> String {
    let mut core = None;
    let mut text = String::new();
    let mut now = Now { mono_ns: 0, unix_ns: 0 };
    for line in script.lines() {
        if line.starts_with('#') || line.is_empty() {
            writeln!(text, "{line}").expect("a string grows");
        }
        let Some(command) = line.strip_prefix("> ") else { continue };
        writeln!(text, "{line}").expect("a string grows");
        let words: Vec<&str> = command.split_whitespace().collect();
        if words[0] == "start" {
            core = Some(SubscriptionCore::new(start(&words[1..])));
            continue;
        }
        let core = core.as_mut().expect("a start comes first");
        let input = match words.as_slice() {
            ["begin"] => Input::Begin,
            ["moved"] => Input::Moved,
            ["passed"] => Input::Passed,
            ["tick"] => Input::Tick,
            ["ack", cursor] => Input::Ack(number(cursor)),
            ["found", events @ ..] => Input::Found(events.iter().map(|w| found(w)).collect()),
            ["wait", ms] => {
                now.mono_ns += number(ms) * 1_000_000;
                continue;
            }
            ["wake"] => {
                let wake = core.wake_at().map(|at| (at.saturating_sub(now.mono_ns)) / 1_000_000);
                let wake = wake.map_or("sleeps".into(), |ms| format!("wakes in {ms} ms"));
                writeln!(text, "{wake}").expect("a string grows");
                continue;
            }
            ["positions"] => {
                writeln!(text, "{:?}", core.positions()).expect("a string grows");
                continue;
            }
            _ => panic!("no such input: {line}"),
        };
        let mut out = Vec::new();
        core.step(now, input, &mut out);
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

#[test]
#[should_panic(expected = "goes on without a gap")]
fn a_gap_in_what_is_found_stops_the_subscription() {
    run("> start partitions 0\n> begin\n> found 0:0:s:n 0:2:s:n\n");
}
