//! What goes into a replica core and what comes out.

use actadb_model::entry::{Entry, Proposal, Room};
use actadb_model::ids::PartitionId;
use actadb_model::outcome::{ClosedReason, RefusedReason};

use crate::peer::PeerMessage;

/// When an append counts as committed, and when the disk is synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FsyncMode {
    /// Every entry is synced before it is committed.
    Always,
    /// Committed when written; synced every so many nanoseconds.
    Interval(u64),
    /// Committed when written; synced when a segment is full, and on stop.
    Never,
}

/// What a replica core is told.
#[derive(Clone, Debug)]
pub enum Input {
    /// The log is open, all of it durable. A replica that votes alone begins to lead.
    Start {
        /// What can be written without allocating.
        room: Room,
        /// Full segments without an index.
        full_segments: usize,
    },
    /// From another replica of the group.
    Peer(PeerMessage),
    /// A message to this replica was lost.
    Unreachable(u64),
    /// Hand the lead over to this replica, if this one has it.
    HandOver(u64),
    /// The answer to [`Output::Lead`].
    Numbered {
        /// For each partition of the bucket, the sequence behind its tail.
        next_sequences: Vec<(PartitionId, u64)>,
        /// Time of the last batch in the log, in nanoseconds since 1970.
        time_ns: u64,
    },
    /// The answer to [`Output::Fetch`].
    Fetched {
        /// The first entry that was asked for.
        first: u64,
        /// The entries, as many as fit; none when they could not be read.
        entries: Vec<Entry>,
    },
    /// What is committed in the group at this moment? The number names the question.
    ReadIndex(u64),
    /// A decided transaction.
    Propose(Proposal),
    /// Sync what is written, for a retry that waits for the disk.
    WantSync,
    /// No proposal is waiting in the mailbox: what has gathered may become an entry.
    Flush,
    /// The write in flight was handed to the system.
    Written {
        /// The last entry written; fewer than asked for when space ran out.
        index: u64,
        /// Entries up to this one are known to be synced.
        synced_through: u64,
        /// What can be written now.
        room: Room,
        /// Whether it left a segment full.
        filled: bool,
    },
    /// The write in flight found no space; nothing of it counts.
    WriteFoundNoRoom,
    /// The sync in flight has ended: everything written is on the medium.
    Synced,
    /// The allocation in flight has ended.
    Allocated(Room),
    /// The allocation in flight found no space; this is what there is.
    AllocationFailed(Room),
    /// The slot is saved.
    SlotSaved,
    /// There was no space to save the slot; it is tried again when it is due.
    SlotNotSaved,
    /// The end of the log is cut off.
    Truncated {
        /// What can be written now.
        room: Room,
        /// Full segments that are so no longer.
        reopened: usize,
    },
    /// The work in flight failed for good.
    Failed(ClosedReason),
    /// A full segment has its index.
    Sealed,
    /// The index of a full segment could not be written; it is tried again.
    SealFailed {
        /// For want of space.
        no_room: bool,
    },
    /// Time has passed.
    Tick,
    /// Write what is there, sync, save, and say so.
    Stop,
}

/// One piece of work for the writer thread. Only one is out at a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Work {
    /// Allocate, so that a body of this size fits.
    Allocate {
        /// Size of the body.
        body_bytes: u64,
    },
    /// Write entries, one behind the other, and sync them if asked.
    Write {
        /// The entries.
        entries: Vec<Entry>,
        /// Sync before reporting.
        sync: bool,
        /// Entries up to this one will never be cut off.
        settled: u64,
    },
    /// Sync everything written.
    Sync,
    /// Cut off what stands behind an entry, and make the cut durable.
    Truncate {
        /// The last entry that stays.
        after: u64,
    },
    /// Save to the slots.
    SaveSlot(SlotValues),
}

/// What a replica core saves to the slots.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SlotValues {
    /// Current term.
    pub term: u64,
    /// Whom it voted for in that term, 0 for nobody.
    pub vote: u64,
    /// Entries up to this one are synced here and committed.
    pub synced_index: u64,
    /// Entries behind `synced_index` and up to this one may be written in one go: none of them
    /// proves that another is durable here.
    pub bulk_through: u64,
}

/// What a replica core wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// This replica leads: tell every partition, with what stands in the log above the committed
    /// part, and answer with [`Input::Numbered`]. Proposals are taken from then on.
    Lead {
        /// The epoch.
        epoch: u64,
        /// The entries that are not committed, in order.
        tail: Vec<Entry>,
        /// Whether others vote, too: what it does not know, another leader may.
        shared: bool,
    },
    /// It leads no longer: tell every partition.
    Follow,
    /// Send this to another replica.
    Send(PeerMessage),
    /// Read old entries for a follower that is behind: from `first` on, before `end`.
    Fetch {
        /// The first entry.
        first: u64,
        /// The one behind the last.
        end: u64,
    },
    /// Everything that was committed in the group when this was asked is published here now; and
    /// who was the leader then led until this answer.
    ReadAt(u64),
    /// Work for the writer thread.
    Work(Work),
    /// Publish an entry and tell its partitions.
    Commit {
        /// The entry.
        entry: Entry,
        /// Whether it is synced.
        synced: bool,
    },
    /// Everything committed so far is synced; for the modes that commit before.
    Synced,
    /// Tell a partition that nothing from a sequence on was or will be appended.
    Refused {
        /// The partition.
        partition: PartitionId,
        /// The epoch of the proposals.
        epoch: u64,
        /// The first sequence.
        from: u64,
        /// Why.
        reason: RefusedReason,
    },
    /// Tell every partition that the bucket takes no appends any more.
    Closed(ClosedReason),
    /// Everything is written, synced and saved after a [`Input::Stop`].
    Stopped,
}
