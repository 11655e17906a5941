//! Events as they are read, and as they are appended.

use actadb_model::ids::{PartitionId, PartitionKey, with_hash16};
use actadb_model::limits::EVENT_OVERHEAD_BYTES;
use actadb_model::names::EventName;
use actadb_model::version::ExpectedVersion;
use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use uuid::Uuid;

use crate::error::Error;
use crate::names::StreamRef;

/// An event that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Its id.
    pub id: Uuid,
    /// Its stream.
    pub stream: String,
    /// What happened.
    pub name: String,
    /// Its version within the stream: 0, 1, 2 … without gaps.
    pub version: u64,
    /// Its partition.
    pub partition: PartitionId,
    /// Its sequence within the partition: 0, 1, 2 … without gaps.
    pub sequence: u64,
    /// Milliseconds since 1970.
    pub timestamp_ms: u64,
    /// Content.
    pub payload: Bytes,
    /// Content beside the content.
    pub metadata: Bytes,
    /// The key that picked the partition.
    pub partition_key: PartitionKey,
    /// What it was appended with; of a single event its own id.
    pub transaction_id: Uuid,
}

impl Event {
    /// The payload, read as JSON.
    ///
    /// # Errors
    /// [`Error::Json`]; it names the event.
    pub fn payload_json<T: DeserializeOwned>(&self) -> Result<T, Error> {
        self.json("payload", &self.payload)
    }

    /// The metadata, read as JSON.
    ///
    /// # Errors
    /// [`Error::Json`]; it names the event.
    pub fn metadata_json<T: DeserializeOwned>(&self) -> Result<T, Error> {
        self.json("metadata", &self.metadata)
    }

    fn json<T: DeserializeOwned>(&self, part: &str, bytes: &[u8]) -> Result<T, Error> {
        serde_json::from_slice(bytes).map_err(|source| {
            let Self { name, version, stream, .. } = self;
            Error::Json { what: format!("{part} of {name}, version {version} of {stream}"), source }
        })
    }
}

/// An event to append.
///
/// ```
/// use actadb_client::{ExpectedVersion, NewEvent};
///
/// let event = NewEvent::new("order-1", "Shipped")
///     .expect(ExpectedVersion::Exact(3))
///     .payload(r#"{"carrier":"pigeon"}"#);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewEvent {
    pub(crate) stream: StreamRef,
    pub(crate) name: String,
    pub(crate) id: Option<Uuid>,
    pub(crate) expected: ExpectedVersion,
    pub(crate) timestamp_ms: Option<u64>,
    pub(crate) payload: Bytes,
    pub(crate) metadata: Bytes,
    pub(crate) durable: bool,
}

impl NewEvent {
    /// An event without content and condition. Stream ids and event names are 1 to 255 bytes
    /// without control characters; that is checked when it is appended.
    #[must_use]
    pub fn new(stream: impl Into<StreamRef>, name: impl Into<String>) -> Self {
        Self {
            stream: stream.into(),
            name: name.into(),
            id: None,
            expected: ExpectedVersion::Any,
            timestamp_ms: None,
            payload: Bytes::new(),
            metadata: Bytes::new(),
            durable: false,
        }
    }

    /// The same with this payload.
    #[must_use]
    pub fn payload(mut self, payload: impl Into<Bytes>) -> Self {
        self.payload = payload.into();
        self
    }

    /// The same with a payload written as JSON.
    ///
    /// # Errors
    /// [`Error::Json`]
    pub fn payload_json<T: Serialize + ?Sized>(mut self, payload: &T) -> Result<Self, Error> {
        self.payload = self.json("payload", payload)?;
        Ok(self)
    }

    /// The same with this metadata.
    #[must_use]
    pub fn metadata(mut self, metadata: impl Into<Bytes>) -> Self {
        self.metadata = metadata.into();
        self
    }

    /// The same with metadata written as JSON.
    ///
    /// # Errors
    /// [`Error::Json`]
    pub fn metadata_json<T: Serialize + ?Sized>(mut self, metadata: &T) -> Result<Self, Error> {
        self.metadata = self.json("metadata", metadata)?;
        Ok(self)
    }

    /// The same, appended only if the stream is like that before.
    #[must_use]
    pub fn expect(mut self, expected: ExpectedVersion) -> Self {
        self.expected = expected;
        self
    }

    /// The same with an id of the caller's. The 16 bits that name the partition are put into it
    /// ([`id_in`](Self::id_in) tells how it looks then).
    ///
    /// Appending an event again, with the same id and content, answers where it is and appends
    /// nothing: so an id derived from what caused the event makes a whole job repeatable.
    #[must_use]
    pub fn id(mut self, id: Uuid) -> Self {
        self.id = Some(id);
        self
    }

    /// The same with a time of its own, in milliseconds since 1970.
    #[must_use]
    pub fn timestamp_ms(mut self, timestamp_ms: u64) -> Self {
        self.timestamp_ms = Some(timestamp_ms);
        self
    }

    /// The same, answered only when it is synced to disk, whatever the server's `fsync.mode`. In a
    /// transaction this holds for all of its events.
    #[must_use]
    pub fn durable(mut self) -> Self {
        self.durable = true;
        self
    }

    /// An id as it is stored under a partition key.
    #[must_use]
    pub fn id_in(id: Uuid, key: PartitionKey) -> Uuid {
        with_hash16(id, key.hash16())
    }

    pub(crate) fn check(&self) -> Result<(), Error> {
        self.stream.check()?;
        EventName::new(&self.name).map(drop).map_err(Error::invalid)
    }

    /// What it counts against the server's limit of a transaction.
    pub(crate) fn size_bytes(&self) -> u64 {
        let variable =
            self.stream.id.len() + self.name.len() + self.payload.len() + self.metadata.len();
        variable as u64 + EVENT_OVERHEAD_BYTES
    }

    fn json<T: Serialize + ?Sized>(&self, part: &str, value: &T) -> Result<Bytes, Error> {
        let written = serde_json::to_vec(value).map(Bytes::from);
        written.map_err(|source| {
            let what = format!("{part} of a new {} in {}", self.name, self.stream.id);
            Error::Json { what, source }
        })
    }
}

/// Where an event was appended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Appended {
    /// The event's id.
    pub event_id: Uuid,
    /// Its stream.
    pub stream: String,
    /// Its version within the stream.
    pub version: u64,
    /// The key that picked the partition.
    pub partition_key: PartitionKey,
    /// Its partition.
    pub partition: PartitionId,
    /// Its sequence within the partition.
    pub sequence: u64,
    /// Its time, in milliseconds since 1970.
    pub timestamp_ms: u64,
}
