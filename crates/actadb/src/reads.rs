//! What can be read, as values.

use actadb_model::ids::{PartitionId, PartitionKey};
use actadb_model::limits::PAGE_DEFAULT_EVENTS;
use actadb_model::names::StreamId;
pub use actadb_store::reader::{Page, Scan};

/// A page of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadStream {
    /// The stream.
    pub stream: StreamId,
    /// Its partition key, when it is not the stream's default one.
    pub partition_key: Option<PartitionKey>,
    /// Versions, order and size of the page.
    pub scan: Scan,
}

impl ReadStream {
    /// The first page from version 0 on.
    #[must_use]
    pub fn all(stream: StreamId) -> Self {
        Self { stream, partition_key: None, scan: whole() }
    }

    /// From this version on, inclusive.
    #[must_use]
    pub fn from(mut self, version: u64) -> Self {
        self.scan.from = version;
        self
    }

    /// Up to this version, inclusive.
    #[must_use]
    pub fn to(mut self, version: u64) -> Self {
        self.scan.to = version;
        self
    }

    /// At most this many events, up to 10,000.
    #[must_use]
    pub fn count(mut self, count: usize) -> Self {
        self.scan.count = count;
        self
    }

    /// Newest first.
    #[must_use]
    pub fn reverse(mut self) -> Self {
        self.scan.reverse = true;
        self
    }

    /// Under this partition key.
    #[must_use]
    pub fn partition_key(mut self, key: PartitionKey) -> Self {
        self.partition_key = Some(key);
        self
    }
}

/// A page of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadPartition {
    /// The partition.
    pub partition: PartitionId,
    /// Sequences, order and size of the page.
    pub scan: Scan,
}

impl ReadPartition {
    /// The first page from sequence 0 on.
    #[must_use]
    pub fn all(partition: PartitionId) -> Self {
        Self { partition, scan: whole() }
    }

    /// From this sequence on, inclusive.
    #[must_use]
    pub fn from(mut self, sequence: u64) -> Self {
        self.scan.from = sequence;
        self
    }

    /// Up to this sequence, inclusive.
    #[must_use]
    pub fn to(mut self, sequence: u64) -> Self {
        self.scan.to = sequence;
        self
    }

    /// At most this many events, up to 10,000.
    #[must_use]
    pub fn count(mut self, count: usize) -> Self {
        self.scan.count = count;
        self
    }

    /// Newest first.
    #[must_use]
    pub fn reverse(mut self) -> Self {
        self.scan.reverse = true;
        self
    }
}

fn whole() -> Scan {
    Scan { from: 0, to: u64::MAX, count: PAGE_DEFAULT_EVENTS, reverse: false }
}
