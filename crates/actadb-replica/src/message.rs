//! What goes into a replica core and what comes out.

use actadb_model::entry::{Entry, Proposal, Room};
use actadb_model::ids::PartitionId;
use actadb_model::outcome::{ClosedReason, RefusedReason};

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
    /// Begin to lead: the log is open, all of it durable.
    Start {
        /// What can be written without allocating.
        room: Room,
        /// Full segments without an index.
        full_segments: usize,
    },
    /// A decided transaction.
    Propose(Proposal),
    /// Sync what is written, for a retry that waits for the disk.
    WantSync,
    /// No proposal is waiting in the mailbox: what has gathered may become an entry.
    Flush,
    /// The write in flight was handed to the system.
    Written {
        /// Index of the entry.
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
    /// Write an entry, and sync it if asked.
    Write {
        /// The entry.
        entry: Entry,
        /// Sync before reporting.
        sync: bool,
    },
    /// Sync everything written.
    Sync,
    /// Save the synced index to the slots.
    SaveSlot {
        /// The index.
        synced_index: u64,
    },
}

/// What a replica core wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Tell every partition that this bucket leads from its committed state on.
    Lead {
        /// The epoch.
        epoch: u64,
    },
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
