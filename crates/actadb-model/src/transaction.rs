//! A transaction as a client asks for it: checked, not yet numbered.

use bytes::Bytes;
use std::collections::HashSet;
use uuid::Uuid;

use crate::ids::{PartitionKey, hash16, with_hash16};
use crate::limits::{EVENT_OVERHEAD_BYTES, TIMESTAMP_MAX_MS, TRANSACTION_MAX_EVENTS};
use crate::names::{EventName, StreamId};
use crate::version::ExpectedVersion;

/// One event to append.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewEvent {
    /// The stream it goes to.
    pub stream: StreamId,
    /// What happened.
    pub name: EventName,
    /// Its id, when the client chose one: appends with ids may be retried safely. `None` lets the
    /// partition generate a UUIDv7.
    pub id: Option<Uuid>,
    /// What the stream must look like before the append.
    pub expected: ExpectedVersion,
    /// Milliseconds since 1970; `None` is the time of the decision.
    pub timestamp_ms: Option<u64>,
    /// Any bytes.
    pub payload: Bytes,
    /// Any bytes.
    pub metadata: Bytes,
}

impl NewEvent {
    /// An event without payload, condition or id.
    #[must_use]
    pub fn new(stream: StreamId, name: EventName) -> Self {
        Self {
            stream,
            name,
            id: None,
            expected: ExpectedVersion::Any,
            timestamp_ms: None,
            payload: Bytes::new(),
            metadata: Bytes::new(),
        }
    }

    /// The same event with this payload.
    #[must_use]
    pub fn payload(mut self, payload: impl Into<Bytes>) -> Self {
        self.payload = payload.into();
        self
    }

    /// The same event with this metadata.
    #[must_use]
    pub fn metadata(mut self, metadata: impl Into<Bytes>) -> Self {
        self.metadata = metadata.into();
        self
    }

    /// The same event with this condition.
    #[must_use]
    pub fn expected(mut self, expected: ExpectedVersion) -> Self {
        self.expected = expected;
        self
    }

    /// The same event with an id chosen by the caller. The id must carry the hash of the
    /// partition key: see [`with_hash16`].
    #[must_use]
    pub fn id(mut self, id: Uuid) -> Self {
        self.id = Some(id);
        self
    }

    /// The same event with a timestamp, in milliseconds since 1970.
    #[must_use]
    pub fn timestamp_ms(mut self, timestamp_ms: u64) -> Self {
        self.timestamp_ms = Some(timestamp_ms);
        self
    }

    fn size_bytes(&self) -> u64 {
        let variable = self.stream.as_str().len()
            + self.name.as_str().len()
            + self.payload.len()
            + self.metadata.len();
        variable as u64 + EVENT_OVERHEAD_BYTES
    }
}

/// Why a transaction cannot exist.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidTransaction {
    /// A transaction without events.
    #[error("a transaction needs at least one event")]
    Empty,
    /// More events than the limit.
    #[error("a transaction has at most {TRANSACTION_MAX_EVENTS} events, got {0}")]
    TooManyEvents(usize),
    /// An event id that lies in another partition than its key.
    #[error("EVENT_ID must carry the hash of its partition key: use {corrected}")]
    WrongHash {
        /// The id given.
        given: Uuid,
        /// The same id with the right hash put in.
        corrected: Uuid,
    },
    /// A timestamp that cannot be milliseconds.
    #[error(
        "TIMESTAMP must be milliseconds since 1970 (at most {TIMESTAMP_MAX_MS}), got {0}, \
         which can only be a finer unit"
    )]
    Timestamp(u64),
    /// One event id twice.
    #[error("EVENT_ID {0} is given twice in one transaction")]
    RepeatedId(Uuid),
}

/// Events that are appended together or not at all, in one partition. An unchecked one cannot be
/// built.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transaction {
    partition_key: PartitionKey,
    events: Vec<NewEvent>,
    key_is_default: bool,
    durable: bool,
    size_bytes: u64,
}

impl Transaction {
    /// Checks the events against the limits and the id rules.
    ///
    /// # Errors
    /// See [`InvalidTransaction`]. The size limit is a matter of configuration and checked by the
    /// partition, against [`size_bytes`](Self::size_bytes).
    pub fn new(
        partition_key: PartitionKey,
        events: Vec<NewEvent>,
    ) -> Result<Self, InvalidTransaction> {
        let first = events.first().ok_or(InvalidTransaction::Empty)?;
        let key_is_default = partition_key.is_default_of(&first.stream);
        Self::checked(partition_key, key_is_default, events)
    }

    fn checked(
        partition_key: PartitionKey,
        key_is_default: bool,
        events: Vec<NewEvent>,
    ) -> Result<Self, InvalidTransaction> {
        if events.len() > TRANSACTION_MAX_EVENTS {
            return Err(InvalidTransaction::TooManyEvents(events.len()));
        }
        let hash = partition_key.hash16();
        for event in &events {
            if let Some(id) = event.id
                && hash16(id) != hash
            {
                let corrected = with_hash16(id, hash);
                return Err(InvalidTransaction::WrongHash { given: id, corrected });
            }
            if let Some(ms) = event.timestamp_ms
                && ms > TIMESTAMP_MAX_MS
            {
                return Err(InvalidTransaction::Timestamp(ms));
            }
        }
        if events.len() > 1 {
            let mut seen = HashSet::new();
            if let Some(twice) = events.iter().filter_map(|e| e.id).find(|id| !seen.insert(*id)) {
                return Err(InvalidTransaction::RepeatedId(twice));
            }
        }
        let size_bytes =
            events.iter().map(NewEvent::size_bytes).sum::<u64>() + EVENT_OVERHEAD_BYTES;
        Ok(Self { partition_key, events, key_is_default, durable: false, size_bytes })
    }

    /// One event under its stream's default partition key.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn single(event: NewEvent) -> Result<Self, InvalidTransaction> {
        Self::checked(PartitionKey::of_stream(event.stream.as_str()), true, vec![event])
    }

    /// The same transaction, answered only when it is synced to disk, whatever the fsync mode.
    #[must_use]
    pub fn durable(mut self, durable: bool) -> Self {
        self.durable = durable;
        self
    }

    /// The key that picks the partition.
    #[must_use]
    pub fn partition_key(&self) -> PartitionKey {
        self.partition_key
    }

    /// Whether the key is the default one of the first event's stream; such a key is not stored.
    #[must_use]
    pub fn key_is_default(&self) -> bool {
        self.key_is_default
    }

    /// The events, at least one.
    #[must_use]
    pub fn events(&self) -> &[NewEvent] {
        &self.events
    }

    /// The events, by value.
    #[must_use]
    pub fn into_events(self) -> Vec<NewEvent> {
        self.events
    }

    /// Whether the answer must wait for the disk in every mode.
    #[must_use]
    pub fn is_durable(&self) -> bool {
        self.durable
    }

    /// An upper bound of what the transaction takes in the log, in bytes.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(stream: &str) -> NewEvent {
        NewEvent::new(StreamId::new(stream).expect("ok"), EventName::new("n").expect("ok"))
    }

    #[test]
    fn an_id_of_another_partition_is_refused_with_the_corrected_one() {
        let id = with_hash16(Uuid::from_u128(7), 1);
        let Err(InvalidTransaction::WrongHash { corrected, .. }) =
            Transaction::single(event("s").id(id))
        else {
            panic!("accepted")
        };
        assert!(Transaction::single(event("s").id(corrected)).is_ok());
    }

    #[test]
    fn empty_repeated_and_nanosecond_timestamps_are_refused() {
        let key = PartitionKey::of_stream("s");
        assert_eq!(Transaction::new(key, vec![]), Err(InvalidTransaction::Empty));
        let id = with_hash16(Uuid::from_u128(7), key.hash16());
        let twice = vec![event("s").id(id), event("t").id(id)];
        assert_eq!(Transaction::new(key, twice), Err(InvalidTransaction::RepeatedId(id)));
        let nanoseconds = 1_700_000_000_000_000_000;
        assert_eq!(
            Transaction::single(event("s").timestamp_ms(nanoseconds)),
            Err(InvalidTransaction::Timestamp(nanoseconds))
        );
    }
}
