//! What an append answers: positions, a definite refusal, or an unknown outcome.
//!
//! The difference matters to whoever retries. After a [`Refusal`] nothing was and nothing will be
//! appended. After [`Unknown`] it may have been: retry with the same event ids.

use std::fmt;
use uuid::Uuid;

use crate::ids::{PartitionId, PartitionKey};
use crate::names::StreamId;
use crate::version::{CurrentVersion, ExpectedVersion};

/// Where one event of an append landed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppendedEvent {
    /// Its id, given or generated.
    pub id: Uuid,
    /// Its stream.
    pub stream: StreamId,
    /// Its version in the stream.
    pub version: u64,
    /// Nanoseconds since 1970.
    pub timestamp_ns: u64,
}

/// Where a transaction landed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Appended {
    /// The key it was appended under.
    pub partition_key: PartitionKey,
    /// Its partition.
    pub partition: PartitionId,
    /// The transaction's id; of a single event it is the event's id.
    pub transaction_id: Uuid,
    /// Sequence of the first event; the others follow without gaps.
    pub first_sequence: u64,
    /// Its events in the order given, at least one.
    pub events: Vec<AppendedEvent>,
}

impl Appended {
    /// Sequence of the last event.
    #[must_use]
    pub fn last_sequence(&self) -> u64 {
        self.first_sequence + self.events.len() as u64 - 1
    }
}

/// Why a bucket takes no appends until the process is restarted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClosedReason {
    /// A write or a sync failed; the disk can no longer be trusted.
    DiskFailed(String),
    /// Recovery found damage to what was acknowledged.
    Corrupt(String),
    /// The device said no while it was opened; nothing of it is served.
    NotOpened(String),
    /// A part of the bucket panicked.
    Panicked(String),
    /// The database is being stopped.
    Stopping,
}

impl ClosedReason {
    /// A word for metrics and health.
    #[must_use]
    pub fn label(&self) -> &'static str {
        match self {
            Self::DiskFailed(_) => "disk_failed",
            Self::Corrupt(_) => "corrupt",
            Self::NotOpened(_) => "not_opened",
            Self::Panicked(_) => "panicked",
            Self::Stopping => "stopping",
        }
    }
}

impl fmt::Display for ClosedReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DiskFailed(what) => write!(f, "the disk failed: {what}"),
            Self::Corrupt(what) => write!(f, "acknowledged data is damaged: {what}"),
            Self::NotOpened(what) => write!(f, "it could not be opened: {what}"),
            Self::Panicked(what) => write!(f, "a part of it panicked: {what}"),
            Self::Stopping => f.write_str("the database is stopping"),
        }
    }
}

/// Why a replica core refused proposals that it had not yet put into an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusedReason {
    /// No space could be allocated.
    NoRoom,
    /// It does not lead.
    NotLeader,
}

/// Nothing was appended and nothing will be. Definite by construction: a core builds one only
/// when no part of the transaction can reach the log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The stream is not where the writer expected it.
    #[error(
        "current stream version is {} but expected {expected} for partition key {partition_key} \
         and stream id {stream}",
        CurrentVersion(*.current)
    )]
    WrongVersion {
        /// The stream.
        stream: StreamId,
        /// The key it was asked under.
        partition_key: PartitionKey,
        /// What was expected.
        expected: ExpectedVersion,
        /// The latest version, `None` when the stream has no events.
        current: Option<u64>,
    },
    /// An event id is taken, and this is not a retry of the append that took it.
    #[error("{id} is version {version} of stream {stream}")]
    Duplicate {
        /// The id.
        id: Uuid,
        /// The stream that has it.
        stream: StreamId,
        /// The version that has it.
        version: u64,
    },
    /// The stream's first event was appended under another partition key.
    #[error("stream {stream} has PARTITION_KEY {actual}, got {given}")]
    OtherPartitionKey {
        /// The stream.
        stream: StreamId,
        /// The key given.
        given: PartitionKey,
        /// The stream's key.
        actual: PartitionKey,
    },
    /// `append.strict_versioning` wants a number or `empty`.
    #[error(
        "EXPECTED_VERSION must be a number or empty (append.strict_versioning is on), \
         got '{expected}' for stream {stream}"
    )]
    NotStrict {
        /// The stream.
        stream: StreamId,
        /// What was given.
        expected: ExpectedVersion,
    },
    /// A version or sequence would not fit into 64 bits.
    #[error("stream {stream} is at its last version")]
    Exhausted {
        /// The stream.
        stream: StreamId,
    },
    /// The transaction exceeds `append.max_transaction_bytes`.
    #[error("the transaction takes {size_bytes} bytes, the limit is {limit_bytes}")]
    TooLarge {
        /// What it takes.
        size_bytes: u64,
        /// The limit.
        limit_bytes: u64,
    },
    /// No space could be allocated for it.
    #[error("no space left for the log of this bucket; reads go on, appends resume with space")]
    NoRoom,
    /// Too many appends of the bucket were in flight for too long.
    #[error("the bucket is busy; try again")]
    Busy,
    /// This replica does not lead its bucket.
    #[error("this node does not lead the bucket; try again")]
    NotLeader,
    /// No leader of the bucket was found in time.
    #[error("no majority of the nodes answers: nothing was appended; try again")]
    NoQuorum,
    /// What the decision needs could not be read.
    #[error("{0}")]
    ReadFailed(String),
    /// The bucket takes no appends any more.
    #[error("{}{}", .0, what_of_reads(.0))]
    Closed(ClosedReason),
    /// The server is on its way out.
    #[error("the server is stopping")]
    Stopping,
}

impl From<RefusedReason> for Refusal {
    fn from(reason: RefusedReason) -> Self {
        match reason {
            RefusedReason::NoRoom => Self::NoRoom,
            RefusedReason::NotLeader => Self::NotLeader,
        }
    }
}

/// A bucket with damage may not even have opened, and one that did not open serves nothing.
fn what_of_reads(reason: &ClosedReason) -> &'static str {
    let silent = matches!(reason, ClosedReason::Corrupt(_) | ClosedReason::NotOpened(_));
    if silent { "" } else { "; reads go on" }
}

/// The append may or may not have happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unknown {
    /// A failure struck while the append was under way.
    #[error("the outcome is unknown; retry with the same event id")]
    Uncertain,
    /// No answer came within `append.timeout_ms`.
    #[error("no answer in time, the outcome is unknown; retry with the same event id")]
    Timeout,
}

/// Why an append did not answer positions.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// Nothing was appended.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Unknown.
    #[error(transparent)]
    Unknown(#[from] Unknown),
}

/// The outcome of one transaction.
pub type AppendResult = Result<Appended, AppendError>;
