//! A transaction with its place in history: sequences, versions, ids and times are decided.

use bytes::Bytes;
use uuid::Uuid;

use crate::event::EventRef;
use crate::ids::{PartitionId, PartitionKey};
use crate::names::{EventName, StreamId};

/// One event of a [`Numbered`] transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NumberedEvent {
    /// Its id.
    pub id: Uuid,
    /// Its stream.
    pub stream: StreamId,
    /// Its version in the stream.
    pub version: u64,
    /// Its name.
    pub name: EventName,
    /// Nanoseconds since 1970.
    pub timestamp_ns: u64,
    /// Its payload.
    pub payload: Bytes,
    /// Its metadata.
    pub metadata: Bytes,
}

/// A transaction as the partition core decided it and as the log keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Numbered {
    /// The partition it belongs to.
    pub partition: PartitionId,
    /// The key it was appended under.
    pub partition_key: PartitionKey,
    /// Whether that is the default key of the first event's stream.
    pub key_is_default: bool,
    /// Names the transaction; of a single event it is the event's id.
    pub transaction_id: Uuid,
    /// Sequence of its first event; the others follow without gaps.
    pub first_sequence: u64,
    /// When it was decided, in nanoseconds since 1970.
    pub decided_ns: u64,
    /// Its events, at least one.
    pub events: Vec<NumberedEvent>,
}

impl Numbered {
    /// Sequence of its last event.
    #[must_use]
    pub fn last_sequence(&self) -> u64 {
        self.first_sequence + self.events.len() as u64 - 1
    }

    /// Its events with their sequences, as readers see them.
    pub fn event_refs(&self) -> impl Iterator<Item = EventRef<'_>> {
        self.events.iter().zip(self.first_sequence..).map(|(event, sequence)| EventRef {
            id: event.id,
            partition_key: self.partition_key,
            partition: self.partition,
            transaction_id: self.transaction_id,
            sequence,
            version: event.version,
            timestamp_ns: event.timestamp_ns,
            stream: event.stream.as_str().into(),
            name: event.name.as_str().into(),
            metadata: &event.metadata,
            payload: &event.payload,
        })
    }
}
