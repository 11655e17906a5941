//! The replica core: gathers proposals into entries, keeps one piece of disk work in flight, and
//! says what is committed.

use std::collections::{BTreeMap, VecDeque};

use actadb_model::entry::{Entry, EntryKind, Proposal, Room};
use actadb_model::ids::PartitionId;
use actadb_model::limits::{
    ENTRY_TARGET_BYTES, GATHER_MAX_PROPOSALS, NO_ROOM_RETRY_NS, SLOT_SAVE_BYTES, SLOT_SAVE_IDLE_NS,
};
use actadb_model::outcome::{ClosedReason, RefusedReason};
use actadb_model::time::Now;
use bytes::Bytes;

use crate::consensus::Consensus;
use crate::message::{FsyncMode, Input, Output, Work};
use crate::room::{Fit, RoomKeeper};

/// Puts a batch's head (time in ns, highest durable index) before its records.
pub type EncodeBatch = fn(time_ns: u64, durable: u64, records: &[Bytes]) -> Bytes;

/// What a core must know to begin with.
#[derive(Clone, Debug)]
pub struct Start {
    /// Consensus term; the epoch of proposals.
    pub term: u64,
    /// The last entry of the log; everything up to it is durable.
    pub last_index: u64,
    /// Time of the last batch, in nanoseconds since 1970; batches never go back behind it.
    pub last_time_ns: u64,
    /// For each partition of the bucket, its next sequence.
    pub next_sequences: Vec<(PartitionId, u64)>,
    /// When to sync.
    pub fsync: FsyncMode,
    /// Bytes of a batch's head.
    pub batch_head_bytes: u64,
    /// Largest body that a segment holds.
    pub max_body_bytes: u64,
    /// Lays out a batch.
    pub encode_batch: EncodeBatch,
}

/// What an operator wants to see of a replica.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Proposals that wait for an entry.
    pub queued: usize,
    /// What can be written without allocating.
    pub room: Room,
    /// Whether the file system has no space for the next allocation.
    pub no_room: bool,
    /// Full segments that wait for their index.
    pub full_segments: usize,
    /// Highest entry written and highest entry synced.
    pub written: u64,
    /// See `written`.
    pub synced: u64,
}

/// What the writer thread is doing.
#[derive(Debug)]
enum Busy {
    Idle,
    Allocating {
        body_bytes: u64,
    },
    Writing {
        entry: Entry,
        sync: bool,
        durable: bool,
    },
    /// A write that found no space, to be made again at this time.
    Blocked {
        entry: Entry,
        sync: bool,
        durable: bool,
        until: u64,
    },
    Syncing,
    Saving {
        synced_index: u64,
    },
}

/// One bucket's replica.
///
/// Invariants: `synced <= written`; one piece of work is out at a time; a proposal is either
/// queued, or in an entry, or refused, never two of them.
#[derive(Debug)]
pub struct ReplicaCore {
    start: Start,
    consensus: Consensus,
    next_sequences: BTreeMap<PartitionId, u64>,
    queue: VecDeque<Proposal>,
    queued_bytes: usize,
    /// Proposals in the last entry.
    last_batch: usize,
    room: RoomKeeper,
    busy: Busy,
    last_time_ns: u64,
    written: u64,
    synced: u64,
    saved: u64,
    /// Highest entry with a proposal whose answer waits for the disk.
    durable_wanted: u64,
    last_sync_ns: u64,
    last_write_ns: u64,
    bytes_since_save: u64,
    save_wanted: bool,
    stopping: bool,
    closed: Option<ClosedReason>,
}

impl ReplicaCore {
    /// A core over an open log; it leads after [`Input::Start`].
    #[must_use]
    pub fn new(start: Start) -> Self {
        let commit_when_written = start.fsync != FsyncMode::Always;
        Self {
            consensus: Consensus::new(start.term, start.last_index, commit_when_written),
            next_sequences: start.next_sequences.iter().copied().collect(),
            queue: VecDeque::new(),
            queued_bytes: 0,
            last_batch: 0,
            room: RoomKeeper::default(),
            busy: Busy::Idle,
            last_time_ns: start.last_time_ns,
            written: start.last_index,
            synced: start.last_index,
            saved: start.last_index,
            durable_wanted: 0,
            last_sync_ns: 0,
            last_write_ns: 0,
            bytes_since_save: 0,
            save_wanted: false,
            stopping: false,
            closed: None,
            start,
        }
    }

    /// Takes one input and says what to do. Every output may be performed at once, in order.
    pub fn step(&mut self, now: Now, input: Input, out: &mut Vec<Output>) {
        if self.closed.is_some() {
            if matches!(input, Input::Stop) {
                out.push(Output::Stopped);
            }
            return;
        }
        match input {
            Input::Start { room, full_segments } => {
                self.room.set(room);
                self.room.full_segments = full_segments;
                out.push(Output::Lead { epoch: self.consensus.term() });
            }
            Input::Propose(proposal) => self.propose(now, proposal, out),
            Input::WantSync => {
                self.durable_wanted = self.durable_wanted.max(self.written);
                self.pump(now, out);
            }
            Input::Flush | Input::Tick => self.pump(now, out),
            Input::Written { index, synced_through, room, filled } => {
                self.room.set(room);
                self.written_entry(now, index, synced_through, filled, out);
            }
            Input::WriteFoundNoRoom => {
                self.write_found_no_room(now);
                self.refuse_queued(out);
            }
            Input::Synced => self.synced_all(now, out),
            Input::Allocated(room) => {
                self.room.allocated(room);
                self.busy = Busy::Idle;
                self.pump(now, out);
            }
            Input::AllocationFailed(room) => {
                if let Busy::Allocating { body_bytes } = self.busy {
                    self.room.failed(now, body_bytes, room);
                }
                self.busy = Busy::Idle;
                self.pump(now, out);
            }
            Input::SlotSaved => {
                if let Busy::Saving { synced_index } = self.busy {
                    self.saved = synced_index;
                }
                self.busy = Busy::Idle;
                self.pump(now, out);
            }
            Input::SlotNotSaved => {
                self.busy = Busy::Idle;
                self.last_write_ns = now.mono_ns;
                if self.stopping && self.queue.is_empty() {
                    // The next start does a little more work; that is all a slot is for.
                    self.stopped(out);
                } else {
                    self.pump(now, out);
                }
            }
            Input::Sealed => {
                self.room.sealed();
                self.pump(now, out);
            }
            Input::SealFailed { no_room } => {
                self.room.seal_failed(no_room);
                self.pump(now, out);
            }
            Input::Failed(reason) => {
                self.queue.clear();
                self.queued_bytes = 0;
                self.closed = Some(reason.clone());
                out.push(Output::Closed(reason));
                if self.stopping {
                    out.push(Output::Stopped);
                }
            }
            Input::Stop => {
                self.stopping = true;
                if matches!(self.busy, Busy::Blocked { .. }) {
                    // Nobody knows when there will be space; the write's outcome stays unknown.
                    self.stopped(out);
                } else {
                    self.pump(now, out);
                }
            }
        }
    }

    /// When [`Input::Tick`] is due, by the monotonic clock.
    #[must_use]
    pub fn wake_at(&self) -> Option<u64> {
        if self.closed.is_some() {
            return None;
        }
        match &self.busy {
            Busy::Blocked { until, .. } => return Some(*until),
            Busy::Idle => {}
            _ => return None,
        }
        let sync = match self.start.fsync {
            FsyncMode::Interval(ns) if self.written > self.synced => Some(self.last_sync_ns + ns),
            _ => None,
        };
        let save = (self.synced > self.saved).then(|| self.last_write_ns + SLOT_SAVE_IDLE_NS);
        [sync, save, self.room.wake_at()].into_iter().flatten().min()
    }

    /// Whether proposals wait that are fewer than the last entry had: whoever is about to append
    /// may well join them. A large entry shares its sync among enough of them as it is.
    #[must_use]
    pub fn may_gather(&self) -> bool {
        let few = self.queue.len() < self.last_batch.min(GATHER_MAX_PROPOSALS);
        few && !self.queue.is_empty() && matches!(self.busy, Busy::Idle)
    }

    /// What an operator wants to see.
    #[must_use]
    pub fn stats(&self) -> Stats {
        Stats {
            queued: self.queue.len(),
            room: self.room.room(),
            no_room: self.room.is_short() || matches!(self.busy, Busy::Blocked { .. }),
            full_segments: self.room.full_segments,
            written: self.written,
            synced: self.synced,
        }
    }

    fn propose(&mut self, now: Now, proposal: Proposal, out: &mut Vec<Output>) {
        let next = self.next_sequences.get_mut(&proposal.partition);
        let next = next.expect("a partition of this bucket");
        // What was proposed behind something refused does not fit the numbers any more; its
        // partition core knows, or will when it reads the refusal.
        if proposal.epoch != self.consensus.term() || proposal.first_sequence != *next {
            return;
        }
        *next += u64::from(proposal.count);
        self.queued_bytes += proposal.record.len();
        self.queue.push_back(proposal);
        if matches!(self.busy, Busy::Blocked { .. }) {
            // Behind a write that finds no space nothing is admitted; what is in no entry can be
            // refused for certain.
            self.refuse_queued(out);
            return;
        }
        if self.queued_bytes >= ENTRY_TARGET_BYTES {
            self.pump(now, out);
        }
    }

    /// Starts the next piece of work, if none is out.
    fn pump(&mut self, now: Now, out: &mut Vec<Output>) {
        if let Busy::Blocked { until, .. } = self.busy
            && now.mono_ns >= until
            && let Busy::Blocked { entry, sync, durable, .. } =
                std::mem::replace(&mut self.busy, Busy::Idle)
        {
            out.push(Output::Work(Work::Write { entry: entry.clone(), sync }));
            self.busy = Busy::Writing { entry, sync, durable };
        }
        if !matches!(self.busy, Busy::Idle) {
            return;
        }
        if self.sync_is_due(now) {
            self.busy = Busy::Syncing;
            out.push(Output::Work(Work::Sync));
            return;
        }
        // Both before the next entry: under a load that never pauses they would never come.
        if let Some(body_bytes) = self.allocation_ahead(now) {
            self.allocate(body_bytes, out);
            return;
        }
        if self.save_is_due(now, false) {
            self.save(out);
            return;
        }
        if !self.queue.is_empty() && self.begin_entry(now, out) {
            return;
        }
        if self.save_is_due(now, true) {
            self.save(out);
            return;
        }
        if self.stopping && self.queue.is_empty() {
            self.stopped(out);
        }
    }

    fn stopped(&mut self, out: &mut Vec<Output>) {
        self.closed = Some(ClosedReason::Stopping);
        out.push(Output::Closed(ClosedReason::Stopping));
        out.push(Output::Stopped);
    }

    fn sync_is_due(&self, now: Now) -> bool {
        if self.written == self.synced {
            return false;
        }
        let interval = match self.start.fsync {
            FsyncMode::Interval(ns) => now.mono_ns >= self.last_sync_ns + ns,
            FsyncMode::Always | FsyncMode::Never => false,
        };
        interval || self.durable_wanted > self.synced || (self.stopping && self.queue.is_empty())
    }

    /// `idle`: nothing else is to be done.
    fn save_is_due(&self, now: Now, idle: bool) -> bool {
        let at_rest = self.stopping || now.mono_ns >= self.last_write_ns + SLOT_SAVE_IDLE_NS;
        let due = self.save_wanted || self.bytes_since_save >= SLOT_SAVE_BYTES;
        self.synced > self.saved && (due || (idle && at_rest))
    }

    fn save(&mut self, out: &mut Vec<Output>) {
        self.save_wanted = false;
        self.bytes_since_save = 0;
        self.busy = Busy::Saving { synced_index: self.synced };
        out.push(Output::Work(Work::SaveSlot { synced_index: self.synced }));
    }

    /// A retry of an allocation that failed, or one made before it is needed, so that no entry
    /// waits for it.
    fn allocation_ahead(&self, now: Now) -> Option<u64> {
        if let Some(body_bytes) = self.room.retry(now) {
            return Some(body_bytes);
        }
        let reserve = (ENTRY_TARGET_BYTES as u64).min(self.start.max_body_bytes);
        let used = self.written > 0 && !self.stopping;
        (used && self.room.fit(now, reserve) == Fit::Allocate).then_some(reserve)
    }

    fn allocate(&mut self, body_bytes: u64, out: &mut Vec<Output>) {
        self.busy = Busy::Allocating { body_bytes };
        out.push(Output::Work(Work::Allocate { body_bytes }));
    }

    /// Closes the queue's front into an entry and writes it. Answers whether the writer is busy
    /// now, or must stay idle for a seal.
    fn begin_entry(&mut self, now: Now, out: &mut Vec<Output>) -> bool {
        let mut body_bytes = self.start.batch_head_bytes;
        let mut taken = 0;
        for proposal in &self.queue {
            let longer = body_bytes + proposal.record.len() as u64;
            let fit = self.room.fit(now, longer);
            if taken == 0 {
                match fit {
                    Fit::Now => {}
                    Fit::Allocate => {
                        self.allocate(longer, out);
                        return true;
                    }
                    Fit::AwaitSeal => return false,
                    Fit::Refuse => {
                        self.refuse_what_does_not_fit(now, out);
                        return !self.queue.is_empty() && self.begin_entry(now, out);
                    }
                }
            } else if fit != Fit::Now || longer > ENTRY_TARGET_BYTES as u64 {
                break;
            }
            body_bytes = longer;
            taken += 1;
        }
        let batch: Vec<Proposal> = self.queue.drain(..taken).collect();
        self.write(now, batch, out);
        true
    }

    fn write(&mut self, now: Now, batch: Vec<Proposal>, out: &mut Vec<Output>) {
        self.last_batch = batch.len();
        let durable = batch.iter().any(|proposal| proposal.durable);
        let records: Vec<Bytes> = batch.into_iter().map(|proposal| proposal.record).collect();
        self.queued_bytes -= records.iter().map(Bytes::len).sum::<usize>();
        self.last_time_ns = self.last_time_ns.max(now.unix_ns);
        let body = (self.start.encode_batch)(self.last_time_ns, self.synced, &records);
        let entry = self.consensus.append(EntryKind::Batch, body);
        let sync = self.start.fsync == FsyncMode::Always;
        out.push(Output::Work(Work::Write { entry: entry.clone(), sync }));
        self.busy = Busy::Writing { entry, sync, durable };
    }

    /// Refuses the proposals that do not fit, with all that their partitions proposed behind them.
    fn refuse_what_does_not_fit(&mut self, now: Now, out: &mut Vec<Output>) {
        let mut refused: BTreeMap<PartitionId, u64> = BTreeMap::new();
        let head = self.start.batch_head_bytes;
        let mut kept = VecDeque::new();
        for proposal in std::mem::take(&mut self.queue) {
            let behind = refused.contains_key(&proposal.partition);
            let fit = self.room.fit(now, head + proposal.record.len() as u64);
            if behind || fit == Fit::Refuse {
                refused.entry(proposal.partition).or_insert(proposal.first_sequence);
                self.queued_bytes -= proposal.record.len();
            } else {
                kept.push_back(proposal);
            }
        }
        self.queue = kept;
        self.tell_refused(refused, out);
    }

    /// Refuses everything that is in no entry.
    fn refuse_queued(&mut self, out: &mut Vec<Output>) {
        let mut refused: BTreeMap<PartitionId, u64> = BTreeMap::new();
        for proposal in self.queue.drain(..) {
            refused.entry(proposal.partition).or_insert(proposal.first_sequence);
        }
        self.queued_bytes = 0;
        self.tell_refused(refused, out);
    }

    fn tell_refused(&mut self, refused: BTreeMap<PartitionId, u64>, out: &mut Vec<Output>) {
        for (partition, from) in refused {
            self.next_sequences.insert(partition, from);
            let (epoch, reason) = (self.consensus.term(), RefusedReason::NoRoom);
            out.push(Output::Refused { partition, epoch, from, reason });
        }
    }

    fn written_entry(
        &mut self,
        now: Now,
        index: u64,
        synced_through: u64,
        filled: bool,
        out: &mut Vec<Output>,
    ) {
        let Busy::Writing { entry, sync, durable } = std::mem::replace(&mut self.busy, Busy::Idle)
        else {
            panic!("a write ended that was not begun");
        };
        assert_eq!(entry.index, index, "another write ended than the one in flight");
        self.bytes_since_save += entry.body.len() as u64;
        self.last_write_ns = now.mono_ns;
        if self.written == self.synced {
            // The interval runs from the first write that is not synced.
            self.last_sync_ns = now.mono_ns;
        }
        self.written = index;
        self.synced = self.synced.max(synced_through);
        if filled {
            self.room.full_segments += 1;
            self.save_wanted = true;
        }
        if durable && self.synced < index {
            self.durable_wanted = index;
        }
        assert!(!sync || self.synced == index, "a synced write is synced");
        let synced = self.synced >= index;
        // The next write runs while this entry is published and answered.
        if !self.queue.is_empty() && !self.may_gather() {
            self.pump(now, out);
        }
        if self.consensus.commits(index, synced) {
            out.push(Output::Commit { synced, entry });
        }
    }

    fn write_found_no_room(&mut self, now: Now) {
        let until = now.mono_ns + NO_ROOM_RETRY_NS;
        if let Busy::Writing { entry, sync, durable } =
            std::mem::replace(&mut self.busy, Busy::Idle)
        {
            self.busy = Busy::Blocked { entry, sync, durable, until };
        }
    }

    fn synced_all(&mut self, now: Now, out: &mut Vec<Output>) {
        self.busy = Busy::Idle;
        self.synced = self.written;
        self.last_sync_ns = now.mono_ns;
        out.push(Output::Synced);
        self.pump(now, out);
    }
}
