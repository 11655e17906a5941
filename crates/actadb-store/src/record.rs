//! How one transaction lies in an entry: the only file that knows.
//!
//! A record is all or nothing by construction: one length, one checksum. What a record says once
//! is not repeated per event. `docs/FORMAT.md` has the byte tables.

use std::ops::Range;

use actadb_log::format::LogIdentity;
use actadb_model::event::{Event, EventHead, EventSpans};
use actadb_model::ids::{PartitionId, PartitionKey};
use actadb_model::names::{EventName, StreamId};
use actadb_model::numbered::{Numbered, NumberedEvent};
use bytes::Bytes;
use smallvec::SmallVec;
use uuid::Uuid;

use crate::varint::{self, Cursor};

/// Length and checksum.
const PREFIX_BYTES: usize = 8;
/// Prefix, kind, flags, partition, time of the decision.
pub(crate) const FIXED_BYTES: usize = 20;

/// At most: sequence, count, key, transaction id, count of streams.
const ONCE_BYTES: usize = 10 + 10 + 16 + 16 + 10;
/// At most: the length and first version of a stream.
const STREAM_BYTES: usize = 2 + 10;
/// At most, beside its variable parts: flags, id, ordinal, time, and three lengths of an event.
const EVENT_BYTES: usize = 1 + 16 + 3 + 10 + 2 + 5 + 5;

const KIND_TRANSACTION: u8 = 1;

const FLAG_COMPRESSED: u8 = 1;
const FLAG_PARTITION_KEY: u8 = 1 << 1;
const FLAG_TRANSACTION_ID: u8 = 1 << 2;
const FLAG_NAMESPACE: u8 = 1 << 3;
const KNOWN_FLAGS: u8 = FLAG_PARTITION_KEY | FLAG_TRANSACTION_ID | FLAG_NAMESPACE;

/// An event is followed by optional fields, with their length.
const EVENT_FLAG_EXTRA: u8 = 1;

/// Why bytes are not a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadRecord {
    /// The bytes end before the record does.
    #[error("the record is cut short")]
    Short,
    /// The checksum is wrong.
    #[error("the record's checksum is wrong")]
    Checksum,
    /// The checksum holds, the content makes no sense.
    #[error("the record's content is malformed")]
    Malformed,
    /// A newer ActaDB wrote it.
    #[error("the record uses a feature this actadb does not know: use a newer actadb")]
    Unsupported,
}

/// A record read back.
#[derive(Clone, Debug)]
pub enum Record {
    /// A transaction's events, in order.
    Transaction(Transaction),
    /// A kind this program does not know; readers skip it.
    Other(u8),
}

/// A transaction read back.
#[derive(Clone, Debug)]
pub struct Transaction {
    /// Its partition.
    pub partition: PartitionId,
    /// The namespace of its streams.
    pub namespace: u32,
    /// Sequence of the first event.
    pub first_sequence: u64,
    /// Whether its key is the default one of the first event's stream.
    pub key_is_default: bool,
    /// When it was decided, in nanoseconds since 1970.
    pub decided_ns: u64,
    /// Its events, at least one.
    pub events: SmallVec<[Event; 1]>,
}

impl Transaction {
    /// Sequence behind its last event.
    #[must_use]
    pub fn next_sequence(&self) -> u64 {
        self.first_sequence + self.events.len() as u64
    }

    /// The transaction as the partition core knows it, with bytes of its own.
    #[must_use]
    pub fn to_numbered(&self) -> Option<Numbered> {
        let first = self.events.first()?;
        let copy = |event: &Event| {
            let event = event.as_ref();
            Some(NumberedEvent {
                id: event.id,
                stream: StreamId::from_bytes(event.stream.as_bytes()).ok()?,
                version: event.version,
                name: EventName::from_bytes(event.name.as_bytes()).ok()?,
                timestamp_ns: event.timestamp_ns,
                payload: Bytes::copy_from_slice(event.payload),
                metadata: Bytes::copy_from_slice(event.metadata),
            })
        };
        Some(Numbered {
            partition: self.partition,
            partition_key: first.partition_key(),
            key_is_default: self.key_is_default,
            transaction_id: first.transaction_id(),
            first_sequence: self.first_sequence,
            decided_ns: self.decided_ns,
            events: self.events.iter().map(copy).collect::<Option<_>>()?,
        })
    }
}

/// Writes a transaction as a record.
#[must_use]
pub fn encode(identity: LogIdentity, transaction: &Numbered) -> Vec<u8> {
    let events = &transaction.events;
    let mut streams: SmallVec<[(&StreamId, u64); 1]> = SmallVec::new();
    let mut ordinals: SmallVec<[usize; 1]> = SmallVec::with_capacity(events.len());
    if let [only] = events.as_slice() {
        streams.push((&only.stream, only.version));
        ordinals.push(0);
    } else {
        let mut seen = std::collections::HashMap::new();
        for event in events {
            let ordinal = *seen.entry(&event.stream).or_insert_with(|| {
                streams.push((&event.stream, event.version));
                streams.len() - 1
            });
            ordinals.push(ordinal);
        }
    }

    let of_event = |event: &NumberedEvent| {
        event.payload.len() + event.metadata.len() + event.name.as_str().len() + EVENT_BYTES
    };
    let of_stream = |(stream, _): &(&StreamId, u64)| stream.as_str().len() + STREAM_BYTES;
    let variable = events.iter().map(of_event).chain(streams.iter().map(of_stream));
    let mut out = Vec::with_capacity(FIXED_BYTES + ONCE_BYTES + variable.sum::<usize>());
    let key = transaction.partition_key;
    let mut flags = 0;
    if !transaction.key_is_default {
        flags |= FLAG_PARTITION_KEY;
    }
    if events.len() > 1 {
        flags |= FLAG_TRANSACTION_ID;
    }
    out.extend_from_slice(&[0; PREFIX_BYTES]);
    out.extend_from_slice(&[KIND_TRANSACTION, flags]);
    out.extend_from_slice(&transaction.partition.0.to_le_bytes());
    out.extend_from_slice(&transaction.decided_ns.to_le_bytes());
    varint::put(&mut out, transaction.first_sequence);
    varint::put(&mut out, events.len() as u64);
    if flags & FLAG_PARTITION_KEY != 0 {
        out.extend_from_slice(key.uuid().as_bytes());
    }
    if flags & FLAG_TRANSACTION_ID != 0 {
        out.extend_from_slice(transaction.transaction_id.as_bytes());
    }
    varint::put(&mut out, streams.len() as u64);
    for (stream, first_version) in &streams {
        varint::put(&mut out, stream.as_str().len() as u64);
        out.extend_from_slice(stream.as_str().as_bytes());
        varint::put(&mut out, *first_version);
    }
    for (event, ordinal) in events.iter().zip(ordinals) {
        out.push(0);
        out.extend_from_slice(event.id.as_bytes());
        if streams.len() > 1 {
            varint::put(&mut out, ordinal as u64);
        }
        let offset = event.timestamp_ns.wrapping_sub(transaction.decided_ns) as i64;
        varint::put(&mut out, varint::zigzag(offset));
        varint::put(&mut out, event.name.as_str().len() as u64);
        varint::put(&mut out, event.metadata.len() as u64);
        varint::put(&mut out, event.payload.len() as u64);
        out.extend_from_slice(event.name.as_str().as_bytes());
        out.extend_from_slice(&event.metadata);
        out.extend_from_slice(&event.payload);
    }
    let length = u32::try_from(out.len()).expect("a record is smaller than a segment");
    out[..4].copy_from_slice(&length.to_le_bytes());
    let checksum = crc32c::crc32c_append(identity.checksum_seed(), &out[PREFIX_BYTES..]);
    out[4..8].copy_from_slice(&checksum.to_le_bytes());
    out
}

/// Length of the record that begins here, when enough bytes are there to tell.
#[must_use]
pub fn length(bytes: &[u8]) -> Option<usize> {
    let length = u32::from_le_bytes(bytes.get(..4)?.try_into().ok()?);
    Some(length as usize)
}

/// Reads the record at the front of `bytes`. Events share `bytes`.
///
/// # Errors
/// See [`BadRecord`].
pub fn decode(identity: LogIdentity, bytes: &Bytes) -> Result<Record, BadRecord> {
    Decoder::new(identity).decode(bytes.clone())
}

/// Reads one record after the other.
#[derive(Debug)]
pub(crate) struct Decoder {
    identity: LogIdentity,
    /// A stream and its default key. Neighbours are often of one stream, and the key is a SHA-1.
    known: Option<(SmallVec<[u8; 32]>, PartitionKey)>,
}

impl Decoder {
    pub(crate) fn new(identity: LogIdentity) -> Self {
        Self { identity, known: None }
    }

    /// Reads the record at the front of `bytes`. Events share `bytes`.
    pub(crate) fn decode(&mut self, mut bytes: Bytes) -> Result<Record, BadRecord> {
        let (record, kind) = verified(self.identity, &bytes)?;
        match kind {
            Kind::Transaction { flags } => {
                let length = record.len();
                bytes.truncate(length);
                let transaction = self.transaction(bytes, flags);
                transaction.map(Record::Transaction).ok_or(BadRecord::Malformed)
            }
            Kind::Other(kind) => Ok(Record::Other(kind)),
        }
    }

    fn transaction(&mut self, record: Bytes, flags: u8) -> Option<Transaction> {
        let mut cursor = Cursor::new(&record, 10);
        let mut head = Head::read(&mut cursor, flags, record.len())?;
        let partition_key = match head.key {
            Some(key) => key,
            None => self.default_key(part(&record, &head.streams.first()?.span))?,
        };
        let mut events = SmallVec::with_capacity(head.count);
        let mut last = None;
        for sequence in head.first_sequence..head.first_sequence + head.count as u64 {
            let EventOf { id, version, timestamp_ns, spans } = head.event(&mut cursor)?;
            let event = EventHead {
                id,
                partition_key,
                partition: head.partition,
                transaction_id: head.transaction_id.unwrap_or(id),
                sequence,
                version,
                timestamp_ns,
            };
            if let Some((before, spans)) = last.replace((event, spans)) {
                events.push(Event::new(before, record.clone(), spans));
            }
        }
        if cursor.position() != record.len() {
            return None;
        }
        // The last one, nearly always the only one, takes the bytes without another count.
        let (event, spans) = last?;
        events.push(Event::new(event, record, spans));
        Some(Transaction {
            partition: head.partition,
            namespace: head.namespace,
            first_sequence: head.first_sequence,
            key_is_default: head.key.is_none(),
            decided_ns: head.decided_ns,
            events,
        })
    }

    fn default_key(&mut self, stream: &[u8]) -> Option<PartitionKey> {
        if let Some((known, key)) = &self.known
            && known.as_slice() == stream
        {
            return Some(*key);
        }
        let key = PartitionKey::of_stream(std::str::from_utf8(stream).ok()?);
        let (known, of) = self.known.get_or_insert_with(|| (SmallVec::new(), key));
        known.clear();
        known.extend_from_slice(stream);
        *of = key;
        Some(key)
    }
}

/// What kind of record it is.
#[derive(Clone, Copy)]
enum Kind {
    Transaction { flags: u8 },
    Other(u8),
}

/// The record at the front of `bytes`, its checksum verified.
fn verified(identity: LogIdentity, bytes: &[u8]) -> Result<(&[u8], Kind), BadRecord> {
    let length = length(bytes).ok_or(BadRecord::Short)?;
    if length < FIXED_BYTES {
        return Err(BadRecord::Malformed);
    }
    let record = bytes.get(..length).ok_or(BadRecord::Short)?;
    let stored = u32::from_le_bytes(record[4..8].try_into().map_err(|_| BadRecord::Short)?);
    if stored != crc32c::crc32c_append(identity.checksum_seed(), &record[PREFIX_BYTES..]) {
        return Err(BadRecord::Checksum);
    }
    let (kind, flags) = (record[8], record[9]);
    if kind != KIND_TRANSACTION {
        return Ok((record, Kind::Other(kind)));
    }
    if flags & FLAG_COMPRESSED != 0 || flags & !KNOWN_FLAGS != 0 {
        return Err(BadRecord::Unsupported);
    }
    Ok((record, Kind::Transaction { flags }))
}

struct StreamOf {
    span: Range<u32>,
    next_version: u64,
}

/// What a record says once for all of its events.
struct Head {
    partition: PartitionId,
    decided_ns: u64,
    first_sequence: u64,
    count: usize,
    key: Option<PartitionKey>,
    transaction_id: Option<Uuid>,
    namespace: u32,
    streams: SmallVec<[StreamOf; 1]>,
}

/// What a record says of one event.
struct EventOf {
    id: Uuid,
    version: u64,
    timestamp_ns: u64,
    spans: EventSpans,
}

impl Head {
    fn read(cursor: &mut Cursor<'_>, flags: u8, record_bytes: usize) -> Option<Self> {
        let partition = PartitionId(u16::from_le_bytes(cursor.array()?));
        let decided_ns = u64::from_le_bytes(cursor.array()?);
        let first_sequence = cursor.varint()?;
        // An event takes more than a byte, so a count beyond the record's length is malformed.
        let count = usize::try_from(cursor.varint()?).ok().filter(|n| *n < record_bytes)?;
        let key = match flags & FLAG_PARTITION_KEY {
            0 => None,
            _ => Some(PartitionKey::new(cursor.uuid()?)),
        };
        let transaction_id = match flags & FLAG_TRANSACTION_ID {
            0 => None,
            _ => Some(cursor.uuid()?),
        };
        let namespace = match flags & FLAG_NAMESPACE {
            0 => 0,
            _ => u32::try_from(cursor.varint()?).ok()?,
        };
        let stream_count = usize::try_from(cursor.varint()?).ok().filter(|n| *n <= count)?;
        let mut streams = SmallVec::with_capacity(stream_count);
        for _ in 0..stream_count {
            let length = cursor.length()?;
            let span = text_span(cursor, length)?;
            streams.push(StreamOf { span, next_version: cursor.varint()? });
        }
        if count == 0 || first_sequence.checked_add(count as u64).is_none() {
            return None;
        }
        Some(Self {
            partition,
            decided_ns,
            first_sequence,
            count,
            key,
            transaction_id,
            namespace,
            streams,
        })
    }

    /// The next event.
    fn event(&mut self, cursor: &mut Cursor<'_>) -> Option<EventOf> {
        let event_flags = cursor.byte()?;
        let id = cursor.uuid()?;
        let ordinal = match self.streams.len() {
            0 | 1 => 0,
            _ => usize::try_from(cursor.varint()?).ok()?,
        };
        let offset = varint::unzigzag(cursor.varint()?);
        let name_bytes = cursor.length()?;
        let metadata_bytes = cursor.length()?;
        let payload_bytes = cursor.length()?;
        if event_flags & EVENT_FLAG_EXTRA != 0 {
            let extra = cursor.length()?;
            cursor.take(extra)?;
        }
        let name = text_span(cursor, name_bytes)?;
        let metadata = span(cursor, metadata_bytes)?;
        let payload = span(cursor, payload_bytes)?;
        let stream = self.streams.get_mut(ordinal)?;
        let version = stream.next_version;
        // The last version there can be is followed by none.
        stream.next_version = version.wrapping_add(1);
        let spans = EventSpans { stream: stream.span.clone(), name, metadata, payload };
        let timestamp_ns = self.decided_ns.wrapping_add(offset as u64);
        Some(EventOf { id, version, timestamp_ns, spans })
    }
}

/// A transaction's record as an index needs it.
#[derive(Debug)]
pub(crate) struct Indexed<'a> {
    pub(crate) partition: PartitionId,
    pub(crate) namespace: u32,
    pub(crate) first_sequence: u64,
    /// Its events, in order.
    pub(crate) events: SmallVec<[IndexedEvent<'a>; 1]>,
}

/// One event of it.
#[derive(Debug)]
pub(crate) struct IndexedEvent<'a> {
    pub(crate) id: Uuid,
    pub(crate) stream: &'a [u8],
    pub(crate) version: u64,
}

/// As [`decode`], for an index: only what that needs, and nothing is copied. `None` for a kind of
/// record that this program does not know.
pub(crate) fn decode_indexed(
    identity: LogIdentity,
    bytes: &[u8],
) -> Result<Option<Indexed<'_>>, BadRecord> {
    let (record, kind) = verified(identity, bytes)?;
    let Kind::Transaction { flags } = kind else { return Ok(None) };
    indexed(record, flags).map(Some).ok_or(BadRecord::Malformed)
}

fn indexed(record: &[u8], flags: u8) -> Option<Indexed<'_>> {
    let mut cursor = Cursor::new(record, 10);
    let mut head = Head::read(&mut cursor, flags, record.len())?;
    let mut events = SmallVec::with_capacity(head.count);
    for _ in 0..head.count {
        let EventOf { id, version, spans, .. } = head.event(&mut cursor)?;
        events.push(IndexedEvent { id, stream: part(record, &spans.stream), version });
    }
    let Head { partition, namespace, first_sequence, .. } = head;
    (cursor.position() == record.len()).then_some(Indexed {
        partition,
        namespace,
        first_sequence,
        events,
    })
}

fn part<'a>(record: &'a [u8], span: &Range<u32>) -> &'a [u8] {
    &record[span.start as usize..span.end as usize]
}

fn span(cursor: &mut Cursor<'_>, length: usize) -> Option<Range<u32>> {
    let start = u32::try_from(cursor.position()).ok()?;
    cursor.take(length)?;
    Some(start..u32::try_from(cursor.position()).ok()?)
}

fn text_span(cursor: &mut Cursor<'_>, length: usize) -> Option<Range<u32>> {
    let start = u32::try_from(cursor.position()).ok()?;
    let text = cursor.take(length)?;
    // Nearly always it is ASCII, which is sooner seen.
    if !text.is_ascii() && std::str::from_utf8(text).is_err() {
        return None;
    }
    Some(start..u32::try_from(cursor.position()).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use actadb_model::ids::BucketId;
    use proptest::prelude::*;
    use proptest::test_runner::RngSeed;

    fn identity() -> LogIdentity {
        LogIdentity::new(Uuid::from_u128(1), BucketId(0))
    }

    fn event(stream: &str, version: u64, payload: &[u8], timestamp_ns: u64) -> NumberedEvent {
        NumberedEvent {
            id: Uuid::from_u128(u128::from(version) << 64 | payload.len() as u128),
            stream: StreamId::new(stream).expect("ok"),
            version,
            name: EventName::new("Renamed").expect("ok"),
            timestamp_ns,
            payload: Bytes::copy_from_slice(payload),
            metadata: Bytes::from_static(b"m"),
        }
    }

    fn numbered(events: Vec<NumberedEvent>, key: PartitionKey) -> Numbered {
        Numbered {
            partition: PartitionId(3),
            partition_key: key,
            key_is_default: key.is_default_of(&events[0].stream),
            transaction_id: if events.len() == 1 { events[0].id } else { Uuid::from_u128(9) },
            first_sequence: 70,
            decided_ns: 1_000,
            events,
        }
    }

    #[test]
    fn a_single_event_costs_at_most_sixty_bytes_more_than_its_parts() {
        let stream = "account-4711";
        let one = numbered(
            vec![event(stream, 100_000, &[7; 256], 1_000)],
            PartitionKey::of_stream(stream),
        );
        let parts = stream.len() + "Renamed".len() + 1 + 256;
        assert!(encode(identity(), &one).len() - parts <= 60);
    }

    #[test]
    fn any_flipped_bit_is_seen() {
        let one = numbered(
            vec![event("s", 1, b"payload", 5), event("t", 0, b"", 9)],
            PartitionKey::of_stream("s"),
        );
        let bytes = Bytes::from(encode(identity(), &one));
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.to_vec();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(identity(), &Bytes::from(damaged)).is_err(), "bit {bit}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            failure_persistence: None,
            // Fixed: a failure is seen again by running it again.
            rng_seed: RngSeed::Fixed(7),
            ..ProptestConfig::default()
        })]

        #[test]
        fn what_is_encoded_is_decoded(
            shape in prop::collection::vec(
                (0_usize..4, prop::collection::vec(any::<u8>(), 0..40), any::<u64>()),
                1..20,
            ),
            own_key in any::<bool>(),
        ) {
            let names = ["a", "stream-b", "ü", "d"];
            let mut versions = [0, 5, u64::MAX - 100, 77];
            let events: Vec<NumberedEvent> = shape
                .iter()
                .map(|(stream, payload, timestamp)| {
                    let made = event(names[*stream], versions[*stream], payload, *timestamp);
                    versions[*stream] += 1;
                    made
                })
                .collect();
            let key = if own_key {
                PartitionKey::new(Uuid::from_u128(1234))
            } else {
                PartitionKey::of_stream(events[0].stream.as_str())
            };
            let wanted = numbered(events, key);
            let bytes = Bytes::from(encode(identity(), &wanted));
            let Ok(Record::Transaction(found)) = decode(identity(), &bytes) else {
                panic!("not decoded")
            };
            prop_assert_eq!(found.to_numbered(), Some(wanted.clone()));
            let refs: Vec<_> = found.events.iter().map(Event::as_ref).collect();
            prop_assert_eq!(refs, wanted.event_refs().collect::<Vec<_>>());
        }

        #[test]
        fn arbitrary_bytes_with_a_good_checksum_never_panic(
            mut bytes in prop::collection::vec(any::<u8>(), FIXED_BYTES..200),
        ) {
            let length = bytes.len() as u32;
            bytes[..4].copy_from_slice(&length.to_le_bytes());
            bytes[8] = KIND_TRANSACTION;
            bytes[9] &= KNOWN_FLAGS;
            let checksum = crc32c::crc32c_append(identity().checksum_seed(), &bytes[8..]);
            bytes[4..8].copy_from_slice(&checksum.to_le_bytes());
            let _ = decode(identity(), &Bytes::from(bytes));
        }
    }
}
