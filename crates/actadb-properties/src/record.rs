//! Records: read back as they were written, any flipped bit noticed, any bytes survived.

use std::collections::HashMap;

use actadb_log::format::{BatchHead, LogIdentity};
use actadb_model::entry::{Entry, EntryKind};
use actadb_model::event::Event;
use actadb_model::ids::{BucketId, PartitionId, PartitionKey};
use actadb_model::names::{EventName, StreamId};
use actadb_model::numbered::{Numbered, NumberedEvent};
use actadb_store::record::{BadRecord, Record, Transaction, decode, encode};
use actadb_store::records::records;
use bytes::Bytes;
use uuid::Uuid;

use crate::script::Script;

const STREAMS: [&str; 5] = ["s", "stream-b", "ü", "a much longer stream id than others", "t"];
/// Length, checksum, kind, flags, partition, time: the part without varints.
const FIXED_BYTES: usize = 20;

fn identity() -> LogIdentity {
    LogIdentity::new(Uuid::from_u128(1), BucketId(0))
}

/// Checks records with bytes that are anything, or records with a few bits flipped.
///
/// # Panics
/// When the property does not hold.
pub fn check(data: &[u8]) {
    let mut script = Script::new(data);
    match script.below(4) {
        0 => any_bytes(&Bytes::copy_from_slice(script.rest())),
        1 => {
            let known_flags = script.byte() & 0x0e;
            let mut bytes = script.rest().to_vec();
            make_record(&mut bytes, known_flags);
            any_bytes(&Bytes::from(bytes));
        }
        2 => {
            // A record with some bytes changed and the checksum made good again.
            let changes: Vec<(u16, u8)> =
                (0..script.below(4) + 1).map(|_| (script.pair(), script.byte())).collect();
            let mut bytes = encode(identity(), &numbered(&mut script, 0));
            for (at, byte) in changes {
                let at = 9 + usize::from(at) % (bytes.len() - 9);
                bytes[at] = byte;
            }
            let flags = bytes[9];
            make_record(&mut bytes, flags);
            any_bytes(&Bytes::from(bytes));
        }
        _ => written(&mut script),
    }
}

/// Gives bytes the length, the kind and the checksum of a record.
fn make_record(bytes: &mut [u8], flags: u8) {
    if bytes.len() < FIXED_BYTES {
        return;
    }
    let length = bytes.len() as u32;
    bytes[..4].copy_from_slice(&length.to_le_bytes());
    bytes[8] = 1;
    bytes[9] = flags;
    let checksum = crc32c::crc32c_append(identity().checksum_seed(), &bytes[8..]);
    bytes[4..8].copy_from_slice(&checksum.to_le_bytes());
}

fn any_bytes(bytes: &Bytes) {
    let decoded = decode(identity(), bytes);
    if let Ok(Record::Transaction(transaction)) = &decoded {
        sound(transaction);
        // What lies behind a record is none of its business.
        let longer = [bytes, &b"behind"[..]].concat();
        let again = decode(identity(), &Bytes::from(longer)).expect("still good");
        let Record::Transaction(again) = again else { panic!("another kind") };
        assert_eq!(again.to_numbered(), transaction.to_numbered());
    }
    // The walk over a body goes forward, and ends.
    let body = [&BatchHead { time_ns: 1, durable: 0 }.encode()[..], bytes].concat();
    let entry = Entry { term: 1, index: 1, kind: EntryKind::Batch, body: Bytes::from(body) };
    let all: Vec<_> = records(identity(), &entry).map(|(at, _)| at).collect();
    assert!(all.is_sorted_by(|one, next| one < next) && all.len() <= bytes.len());
}

/// A transaction that was read from bytes whose checksum holds, whoever wrote them.
fn sound(transaction: &Transaction) {
    let events = &transaction.events;
    assert!(!events.is_empty());
    let mut sequence = transaction.first_sequence;
    for event in events {
        assert_eq!(event.sequence(), sequence);
        assert_eq!(event.partition(), transaction.partition);
        let parts = event.as_ref();
        let texts = parts.stream.as_bytes().len() + parts.name.as_bytes().len();
        assert_eq!(event.size_bytes(), texts + parts.metadata.len() + parts.payload.len());
        sequence += 1;
    }
    assert_eq!(transaction.next_sequence(), sequence);
    let Some(read) = transaction.to_numbered() else { return };
    let again = decode(identity(), &encode(identity(), &read).into());
    let Ok(Record::Transaction(again)) = again else { panic!("what was read is not written") };
    if is_regular(&read) {
        assert_eq!(again.to_numbered(), Some(read));
    }
}

/// Whether a transaction is one that a partition could have numbered.
fn is_regular(numbered: &Numbered) -> bool {
    let mut next: HashMap<&StreamId, Option<u64>> = HashMap::new();
    let rising = numbered.events.iter().all(|event| {
        let expected = next.insert(&event.stream, event.version.checked_add(1));
        expected.is_none_or(|expected| expected == Some(event.version))
    });
    let first = &numbered.events[0];
    rising
        && numbered.key_is_default == numbered.partition_key.is_default_of(&first.stream)
        && (numbered.events.len() > 1 || numbered.transaction_id == first.id)
}

fn written(script: &mut Script<'_>) {
    let count = script.below(3) + 1;
    let mut body = BatchHead { time_ns: 5, durable: 0 }.encode().to_vec();
    let mut sent = Vec::new();
    for n in 0..count {
        let wanted = numbered(script, n as u64 * 1000);
        let bytes = Bytes::from(encode(identity(), &wanted));
        let Ok(Record::Transaction(found)) = decode(identity(), &bytes) else {
            panic!("not decoded")
        };
        assert_eq!(found.to_numbered().as_ref(), Some(&wanted));
        let refs: Vec<_> = found.events.iter().map(Event::as_ref).collect();
        assert_eq!(refs, wanted.event_refs().collect::<Vec<_>>());
        sent.push((body.len() as u32, bytes.len(), wanted));
        body.extend_from_slice(&bytes);
    }
    let read = |body: Vec<u8>| {
        let body = Bytes::from(body);
        let entry = Entry { term: 1, index: 1, kind: EntryKind::Batch, body };
        let whole = |record: Result<Record, BadRecord>| match record {
            Ok(Record::Transaction(transaction)) => Ok(transaction.to_numbered()),
            Ok(Record::Other(kind)) => panic!("kind {kind}"),
            Err(bad) => Err(bad),
        };
        let all = records(identity(), &entry).map(|(at, record)| (at, whole(record)));
        all.collect::<Vec<_>>()
    };
    let good: Vec<_> = sent.iter().map(|(at, _, n)| (*at, Ok(Some(n.clone())))).collect();
    assert_eq!(read(body.clone()), good);

    // A record ends where its last event ends, whatever its checksum says.
    let mut longer = encode(identity(), &sent[0].2);
    longer.push(script.byte());
    let flags = longer[9];
    make_record(&mut longer, flags);
    assert_eq!(decode(identity(), &Bytes::from(longer)).err(), Some(BadRecord::Malformed));

    let hit = script.below(count);
    let (at, length, _) = sent[hit];
    let start = at as usize;
    if script.coin() {
        // Up to three bits of one record: CRC-32C notices as many.
        let mut bits: Vec<usize> =
            (0..script.below(3) + 1).map(|_| usize::from(script.pair()) % (length * 8)).collect();
        bits.sort_unstable();
        bits.dedup();
        for bit in bits {
            body[start + bit / 8] ^= 1 << (bit % 8);
        }
    } else {
        body.truncate(start + 1 + usize::from(script.pair()) % (length - 1));
    }
    let read = read(body);
    assert_eq!(read[..hit], good[..hit]);
    assert!(read[hit].1.is_err(), "damage was not noticed");
    // Behind a bad record the length it tells may lead on, to good ones or nowhere.
    for record in &read[hit + 1..] {
        assert!(record.1.is_err() || good.contains(record), "a record that nobody wrote");
    }
}

fn numbered(script: &mut Script<'_>, first_sequence: u64) -> Numbered {
    let mut versions = [(); STREAMS.len()].map(|()| script.number().min(u64::MAX - 100));
    let decided_ns = script.number();
    let mut event = |script: &mut Script<'_>| {
        let stream = script.below(STREAMS.len());
        let version = versions[stream];
        versions[stream] += 1;
        let (name, metadata, payload) = (script.below(9), script.below(9), script.below(40));
        NumberedEvent {
            id: Uuid::from_u128(script.number().into()),
            stream: StreamId::new(STREAMS[stream]).expect("a stream id"),
            version,
            name: EventName::new(&"Renamed it"[..=name]).expect("a name"),
            timestamp_ns: script.number(),
            payload: Bytes::copy_from_slice(script.bytes(payload)),
            metadata: Bytes::copy_from_slice(script.bytes(metadata)),
        }
    };
    let events: Vec<_> = (0..script.below(6) + 1).map(|_| event(script)).collect();
    let default = PartitionKey::of_stream(events[0].stream.as_str());
    let other = PartitionKey::new(Uuid::from_u128(7));
    let partition_key = if script.coin() { default } else { other };
    Numbered {
        partition: PartitionId(script.pair()),
        partition_key,
        key_is_default: partition_key == default,
        transaction_id: match events.as_slice() {
            [only] => only.id,
            _ => Uuid::from_u128(9),
        },
        first_sequence: first_sequence + script.number() % (1 << 62),
        decided_ns,
        events,
    }
}
