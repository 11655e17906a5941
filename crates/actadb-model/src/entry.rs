//! Proposals and entries: how decided transactions become the log of a bucket.

use bytes::Bytes;

use crate::ids::PartitionId;

/// A decided transaction on its way from a partition core to its bucket's replica core.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proposal {
    /// The epoch (consensus term) the partition core works under.
    pub epoch: u64,
    /// The partition.
    pub partition: PartitionId,
    /// Sequence of its first event.
    pub first_sequence: u64,
    /// Number of its events.
    pub count: u32,
    /// Whether its answer waits for the disk in every fsync mode.
    pub durable: bool,
    /// The encoded transaction.
    pub record: Vec<u8>,
}

/// What an entry holds. The numbers are on disk: they never change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum EntryKind {
    /// Records, behind a batch head.
    Batch = 1,
    /// Nothing: consensus needs an entry of its own term.
    Noop = 2,
    /// A change of the group's members.
    Conf = 3,
}

impl EntryKind {
    /// The kind behind a number on disk.
    #[must_use]
    pub fn from_u8(value: u8) -> Option<Self> {
        match value {
            1 => Some(Self::Batch),
            2 => Some(Self::Noop),
            3 => Some(Self::Conf),
            _ => None,
        }
    }
}

/// One group commit of one bucket: in memory an entry, on disk a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Consensus term; 1 on a single node.
    pub term: u64,
    /// Counts the entries of a bucket from 1. Never a public number.
    pub index: u64,
    /// What the body is.
    pub kind: EntryKind,
    /// Opaque to the log, except for the head of a batch.
    pub body: Bytes,
}

/// Where something begins: a segment and the byte inside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// Number of the segment, from 1.
    pub segment: u64,
    /// Byte in the segment's file.
    pub offset: u32,
}

/// What the log has room for without asking the file system: body bytes of the next entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Room {
    /// Largest body that fits into allocated bytes of the current segment.
    pub allocated: u64,
    /// Largest body that fits into the rest of the current segment, allocated or not.
    pub segment: u64,
    /// Largest body that fits into the allocated bytes of the segment after it; 0 when that has
    /// not been made.
    pub next: u64,
}

impl Room {
    /// Whether a body of this size can be written without allocating. What does not fit into the
    /// current segment goes to the next one.
    #[must_use]
    pub fn fits(&self, body_bytes: u64) -> bool {
        if body_bytes <= self.segment {
            body_bytes <= self.allocated
        } else {
            body_bytes <= self.next
        }
    }
}
