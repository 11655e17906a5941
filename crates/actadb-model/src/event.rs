//! A committed event: borrowed for encoding, shared for keeping.

use std::fmt;
use std::ops::Range;

use bytes::Bytes;
use uuid::Uuid;

use crate::ids::{PartitionId, PartitionKey};

/// UTF-8 that was checked when it was appended, and when its record was read. Most of it is only
/// copied or compared, and need not be checked once more for that.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Text<'a>(&'a [u8]);

impl<'a> Text<'a> {
    /// Its bytes.
    #[must_use]
    pub fn as_bytes(self) -> &'a [u8] {
        self.0
    }

    /// The text.
    ///
    /// # Panics
    /// When it is of an event that was put together from spans that nobody checked.
    #[must_use]
    pub fn as_str(self) -> &'a str {
        std::str::from_utf8(self.0).expect("the decoder checked the text")
    }
}

impl<'a> From<&'a str> for Text<'a> {
    fn from(text: &'a str) -> Self {
        Self(text.as_bytes())
    }
}

impl PartialEq<str> for Text<'_> {
    fn eq(&self, text: &str) -> bool {
        self.0 == text.as_bytes()
    }
}

impl fmt::Debug for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.as_str())
    }
}

/// A borrowed view of one committed event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventRef<'a> {
    /// Its id.
    pub id: Uuid,
    /// The key its transaction was appended under.
    pub partition_key: PartitionKey,
    /// Its partition.
    pub partition: PartitionId,
    /// The transaction it belongs to.
    pub transaction_id: Uuid,
    /// Its sequence in the partition.
    pub sequence: u64,
    /// Its version in the stream.
    pub version: u64,
    /// Nanoseconds since 1970.
    pub timestamp_ns: u64,
    /// Its stream.
    pub stream: Text<'a>,
    /// Its name.
    pub name: Text<'a>,
    /// Its metadata.
    pub metadata: &'a [u8],
    /// Its payload.
    pub payload: &'a [u8],
}

/// What an [`Event`] keeps of an event by value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventHead {
    /// Its id.
    pub id: Uuid,
    /// The key its transaction was appended under.
    pub partition_key: PartitionKey,
    /// Its partition.
    pub partition: PartitionId,
    /// The transaction it belongs to.
    pub transaction_id: Uuid,
    /// Its sequence in the partition.
    pub sequence: u64,
    /// Its version in the stream.
    pub version: u64,
    /// Nanoseconds since 1970.
    pub timestamp_ns: u64,
}

/// Where the variable parts of an event lie in its record's bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventSpans {
    /// The stream id, checked UTF-8.
    pub stream: Range<u32>,
    /// The name, checked UTF-8.
    pub name: Range<u32>,
    /// The metadata.
    pub metadata: Range<u32>,
    /// The payload.
    pub payload: Range<u32>,
}

/// One committed event that shares the bytes it was read from.
///
/// A clone costs a reference count. An event keeps the whole buffer it was read from alive (its
/// record, what was read of a file in one go, or all that was committed with it, some megabytes):
/// [detach](Self::detached) what you keep for long.
#[derive(Clone, Debug)]
pub struct Event {
    head: EventHead,
    record: Bytes,
    spans: EventSpans,
}

impl Event {
    /// Puts an event together from the bytes of its record. Every span must lie inside of
    /// `record`, and those of text must be UTF-8: the decoder checks both.
    #[must_use]
    pub fn new(head: EventHead, record: Bytes, spans: EventSpans) -> Self {
        Self { head, record, spans }
    }

    /// The event, borrowed.
    #[must_use]
    pub fn as_ref(&self) -> EventRef<'_> {
        EventRef {
            id: self.head.id,
            partition_key: self.head.partition_key,
            partition: self.head.partition,
            transaction_id: self.head.transaction_id,
            sequence: self.head.sequence,
            version: self.head.version,
            timestamp_ns: self.head.timestamp_ns,
            stream: self.text(&self.spans.stream),
            name: self.text(&self.spans.name),
            metadata: self.metadata(),
            payload: self.payload(),
        }
    }

    fn part(&self, span: &Range<u32>) -> &[u8] {
        &self.record[span.start as usize..span.end as usize]
    }

    fn text(&self, span: &Range<u32>) -> Text<'_> {
        Text(self.part(span))
    }

    /// A copy that keeps nothing alive but itself: for whoever may hold it for long, where the
    /// buffer it was read from may be a whole batch of large transactions.
    #[must_use]
    pub fn detached(&self) -> Self {
        let mut bytes = Vec::with_capacity(self.size_bytes());
        let mut copy = |span: &Range<u32>| {
            let start = bytes.len() as u32;
            bytes.extend_from_slice(&self.record[span.start as usize..span.end as usize]);
            start..bytes.len() as u32
        };
        let EventSpans { stream, name, metadata, payload } = &self.spans;
        let spans = EventSpans {
            stream: copy(stream),
            name: copy(name),
            metadata: copy(metadata),
            payload: copy(payload),
        };
        Self { head: self.head, record: Bytes::from(bytes), spans }
    }

    /// Bytes of its variable parts; what a page's size is counted in.
    #[must_use]
    pub fn size_bytes(&self) -> usize {
        let EventSpans { stream, name, metadata, payload } = &self.spans;
        [stream, name, metadata, payload].iter().map(|span| span.len()).sum()
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> Uuid {
        self.head.id
    }

    /// The key its transaction was appended under.
    #[must_use]
    pub fn partition_key(&self) -> PartitionKey {
        self.head.partition_key
    }

    /// Its partition.
    #[must_use]
    pub fn partition(&self) -> PartitionId {
        self.head.partition
    }

    /// The transaction it belongs to.
    #[must_use]
    pub fn transaction_id(&self) -> Uuid {
        self.head.transaction_id
    }

    /// Its sequence in the partition.
    #[must_use]
    pub fn sequence(&self) -> u64 {
        self.head.sequence
    }

    /// Its version in the stream.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.head.version
    }

    /// Nanoseconds since 1970.
    #[must_use]
    pub fn timestamp_ns(&self) -> u64 {
        self.head.timestamp_ns
    }

    /// Its stream.
    #[must_use]
    pub fn stream(&self) -> &str {
        self.text(&self.spans.stream).as_str()
    }

    /// Whether it is an event of this stream.
    #[must_use]
    pub fn is_of(&self, stream: &str) -> bool {
        self.text(&self.spans.stream) == *stream
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.text(&self.spans.name).as_str()
    }

    /// Its metadata.
    #[must_use]
    pub fn metadata(&self) -> &[u8] {
        self.part(&self.spans.metadata)
    }

    /// Its payload.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        self.part(&self.spans.payload)
    }
}
