//! What clients do: appends with every kind of expectation, transactions, retries, reads.

use actadb_model::dice::SplitMix64;
use actadb_model::ids::{PartitionId, PartitionKey, with_hash16};
use actadb_model::names::{EventName, StreamId};
use actadb_model::transaction::{NewEvent, Transaction};
use actadb_model::version::ExpectedVersion;
use actadb_store::reader::Scan;
use uuid::Uuid;

use crate::auditor::{Asked, Auditor, Read, payload};

/// Clients of a world; each has a connection of its own.
pub const CLIENTS: u64 = 4;
/// Streams of a partition: more than the cores keep heads of.
const STREAMS: u64 = 8;

/// What a client sends.
#[derive(Debug)]
pub enum Request {
    /// Appends for one partition, by the numbers of their operations.
    Append(PartitionId, Vec<usize>),
    /// A read.
    Read(Read),
}

/// One of the streams of a partition.
pub fn stream(partition: PartitionId, n: u64) -> StreamId {
    StreamId::new(&format!("p{partition}-s{n}")).expect("a good id")
}

/// Draws what a client does next.
pub fn draw(
    dice: &mut SplitMix64,
    auditor: &mut Auditor,
    partitions: &[PartitionId],
    payload_max: u64,
) -> Request {
    let partition = partitions[dice.below(partitions.len() as u64) as usize];
    if dice.one_in(3) {
        return Request::Read(draw_read(dice, auditor, partition));
    }
    let mut numbers: Vec<usize> = Vec::new();
    for _ in 0..=dice.below(3) {
        let old = dice.below(auditor.operations().len() as u64) as usize;
        // The newest operations are the likeliest to be on their way still.
        let recent = auditor.operations().len().saturating_sub(1 + dice.below(12) as usize);
        let old = if dice.one_in(2) { old } else { recent };
        let again = dice.one_in(3) && can_retry(auditor, old, partition) && !numbers.contains(&old);
        numbers.push(match again {
            true => old,
            false => {
                let number = auditor.operations().len();
                let transaction = draw_append(dice, partition, number, payload_max);
                auditor.begin(partition, transaction)
            }
        });
    }
    Request::Append(partition, numbers)
}

/// An append that must succeed when nothing is wrong.
pub fn draw_plain(
    dice: &mut SplitMix64,
    auditor: &mut Auditor,
    partitions: &[PartitionId],
) -> Request {
    let partition = partitions[dice.below(partitions.len() as u64) as usize];
    let number = auditor.operations().len();
    let event = NewEvent::new(stream(partition, dice.below(STREAMS)), name(number))
        .payload(payload(number, 0, 10));
    let transaction = Transaction::new(key(partition), vec![event]).expect("a good transaction");
    Request::Append(partition, vec![auditor.begin(partition, transaction)])
}

/// Only operations with ids on all events may be sent again.
fn can_retry(auditor: &Auditor, number: usize, partition: PartitionId) -> bool {
    auditor.operations().get(number).is_some_and(|operation| {
        let with_ids = operation.transaction.events().iter().all(|event| event.id.is_some());
        !operation.open && operation.partition == partition && with_ids
    })
}

fn key(partition: PartitionId) -> PartitionKey {
    PartitionKey::new(with_hash16(Uuid::from_u128(77), partition.0))
}

/// Names of events, all of one length.
pub const NAMES: [&str; 3] = ["Renamed", "Retimed", "Removed"];

fn name(number: usize) -> EventName {
    EventName::new(NAMES[number % 3]).expect("a good name")
}

fn draw_append(
    dice: &mut SplitMix64,
    partition: PartitionId,
    number: usize,
    payload_max: u64,
) -> Transaction {
    let with_ids = dice.one_in(2);
    let count = if dice.one_in(4) { 2 + dice.below(3) } else { 1 };
    let mut event = |at: u64| {
        let expected = match dice.below(8) {
            0 => ExpectedVersion::Empty,
            1 => ExpectedVersion::Exists,
            2 | 3 => ExpectedVersion::Exact(dice.below(12)),
            _ => ExpectedVersion::Any,
        };
        let fill = dice.below(payload_max) as usize;
        let event = NewEvent::new(stream(partition, dice.below(STREAMS)), name(number))
            .expected(expected)
            .metadata(vec![b'm'; dice.below(8) as usize])
            .payload(payload(number, at as usize, fill));
        let id = Uuid::from_u128((number as u128) << 64 | u128::from(at));
        if with_ids { event.id(with_hash16(id, partition.0)) } else { event }
    };
    let events = (0..count).map(&mut event).collect();
    Transaction::new(key(partition), events).expect("a good transaction").durable(dice.one_in(5))
}

fn draw_read(dice: &mut SplitMix64, auditor: &Auditor, partition: PartitionId) -> Read {
    let stream = stream(partition, dice.below(STREAMS));
    let kind = dice.below(5);
    let mut scan = || {
        let from = if dice.one_in(2) { 0 } else { dice.below(40) };
        let to = if dice.one_in(2) { u64::MAX } else { from + dice.below(40) };
        Scan { from, to, count: 1 + dice.below(30) as usize, reverse: dice.one_in(2) }
    };
    let asked = match kind {
        0 => {
            let number = dice.below(auditor.operations().len() as u64) as usize;
            match auditor.operations().get(number) {
                Some(operation) if operation.partition == partition => auditor.ask_event(number),
                _ => None,
            }
        }
        1 => Some(Asked::Stream(stream, scan())),
        2 => Some(Asked::Partition(scan())),
        3 => Some(Asked::Version(stream)),
        _ => None,
    };
    auditor.read(partition, asked.unwrap_or(Asked::Sequence))
}
