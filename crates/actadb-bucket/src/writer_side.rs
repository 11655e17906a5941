//! The writer's half of a bucket: consensus, and making visible what is committed.
//!
//! The order that matters stands here once: an entry is published to index and tail, then the
//! watermarks move, and only then do the partitions hear of it and let their answers go.

use std::collections::{BTreeMap, VecDeque};

use actadb_index::sealed::SealedIndex;
use actadb_log::format::{BATCH_HEAD_BYTES, BatchHead, SEGMENT_HEADER_BYTES, body_room};
use actadb_model::entry::{Entry, Place, Proposal, Room};
use actadb_model::ids::PartitionId;
use actadb_model::limits::NO_ROOM_RETRY_NS;
use actadb_model::outcome::ClosedReason;
use actadb_model::time::Now;
use actadb_partition::message::FromReplica;
use actadb_replica::core::{ReplicaCore, Start, Stats};
use actadb_replica::message::{FsyncMode, Input, Output, Work};
use actadb_store::publisher::{Published, Publisher, SealTask};
use actadb_store::reader::Reader;
use bytes::Bytes;

use crate::job::Done;

/// What a writer side is told.
#[derive(Debug)]
pub enum WriterInput {
    /// Begin to lead.
    Start,
    /// From a partition.
    Propose(Proposal),
    /// From a partition: sync what is written.
    WantSync,
    /// No proposal is waiting.
    Flush,
    /// The work that was out has ended.
    Done(Done),
    /// The index of a full segment is there.
    Sealed(SealedIndex),
    /// It could not be written; try again later.
    SealFailed {
        /// What to try again.
        task: SealTask,
        /// It failed for want of space.
        no_room: bool,
    },
    /// Time has passed.
    Tick,
    /// Something that cannot go on: close the bucket.
    Close(ClosedReason),
    /// Write what is there, sync, save, and say so.
    Stop,
}

/// What a writer side wants done.
#[derive(Debug)]
pub enum WriterOutput {
    /// Work for the writer thread. Only one piece is out at a time.
    Work(Work),
    /// An index to write, where a long time does not matter.
    Seal(SealTask),
    /// For a partition, in order.
    ToPartition(PartitionId, FromReplica),
    /// These have new events to read: whoever waits for one of them may look.
    Moved {
        /// The partitions.
        partitions: Vec<PartitionId>,
        /// The streams, by hash, each once.
        streams: Vec<(PartitionId, u64)>,
    },
    /// The bucket takes no appends any more.
    Closed(ClosedReason),
    /// Everything is written, synced and saved.
    Stopped,
}

/// What a bucket did so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Entries committed.
    pub entries: u64,
    /// Bytes of their bodies.
    pub bytes: u64,
    /// Events in them.
    pub events: u64,
    /// Proposals taken from partitions.
    pub proposals: u64,
}

/// What a writer side must know to begin with.
#[derive(Debug)]
pub struct WriterStart {
    /// The bucket's partitions.
    pub partitions: Vec<PartitionId>,
    /// Index and term of the last entry, all of it durable.
    pub last: (u64, u64),
    /// The term the slot remembers.
    pub term: u64,
    /// Size of a segment.
    pub segment_bytes: u64,
    /// When to sync.
    pub fsync: FsyncMode,
    /// What can be written without allocating.
    pub room: Room,
    /// Full segments whose index is still to be written.
    pub unsealed: Vec<SealTask>,
}

/// One bucket's writer: its replica core and its publisher.
#[derive(Debug)]
pub struct WriterSide {
    core: ReplicaCore,
    publisher: Publisher,
    partitions: Vec<PartitionId>,
    room: Room,
    /// Where written entries lie that are not committed.
    places: VecDeque<(u64, Place)>,
    /// Partitions with committed sequences that are not synced, each with its last.
    unsynced: BTreeMap<PartitionId, u64>,
    /// Seals that failed, and when to try them again.
    seals: VecDeque<(u64, SealTask)>,
    closed: bool,
    totals: Totals,
    outputs: Vec<Output>,
}

fn encode_batch(time_ns: u64, durable: u64, records: &[Bytes]) -> Bytes {
    let size = BATCH_HEAD_BYTES + records.iter().map(Bytes::len).sum::<usize>();
    let mut body = Vec::with_capacity(size);
    body.extend_from_slice(&BatchHead { time_ns, durable }.encode());
    for record in records {
        body.extend_from_slice(record);
    }
    Bytes::from(body)
}

impl WriterSide {
    /// A side over an open bucket.
    #[must_use]
    pub fn new(start: WriterStart, publisher: Publisher) -> Self {
        let next = |p: &PartitionId| (*p, publisher.next_sequence(*p));
        let core = ReplicaCore::new(Start {
            term: start.term.max(start.last.1),
            last_index: start.last.0,
            last_time_ns: publisher.last_time_ns(),
            next_sequences: start.partitions.iter().map(next).collect(),
            fsync: start.fsync,
            batch_head_bytes: BATCH_HEAD_BYTES as u64,
            max_body_bytes: body_room(start.segment_bytes - SEGMENT_HEADER_BYTES),
            encode_batch,
        });
        Self {
            core,
            publisher,
            partitions: start.partitions,
            room: start.room,
            places: VecDeque::new(),
            unsynced: BTreeMap::new(),
            seals: start.unsealed.into_iter().map(|task| (0, task)).collect(),
            closed: false,
            totals: Totals::default(),
            outputs: Vec::new(),
        }
    }

    /// A reader of what is committed.
    #[must_use]
    pub fn reader(&self) -> Reader {
        self.publisher.reader()
    }

    /// What the bucket did so far.
    #[must_use]
    pub fn totals(&self) -> Totals {
        self.totals
    }

    /// What an operator wants to see.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.core.stats()
    }

    /// Whether a flush should wait for those that are about to append.
    #[must_use]
    pub fn may_gather(&self) -> bool {
        self.core.may_gather()
    }

    /// When [`WriterInput::Tick`] is due, by the monotonic clock.
    #[must_use]
    pub fn wake_at(&self) -> Option<u64> {
        let seal = self.seals.front().map(|(at, _)| *at);
        self.core.wake_at().into_iter().chain(seal).min()
    }

    /// Takes one input and says what to do, in order.
    pub fn step(&mut self, now: Now, input: WriterInput, out: &mut Vec<WriterOutput>) {
        match input {
            WriterInput::Start => {
                let full_segments = self.seals.len();
                self.core_step(now, Input::Start { room: self.room, full_segments }, out);
            }
            WriterInput::Propose(proposal) => {
                self.totals.proposals += 1;
                self.core_step(now, Input::Propose(proposal), out);
            }
            WriterInput::WantSync => self.core_step(now, Input::WantSync, out),
            WriterInput::Flush => self.core_step(now, Input::Flush, out),
            WriterInput::Done(done) => self.done(now, done, out),
            WriterInput::Sealed(index) => {
                self.publisher.sealed(index);
                self.core_step(now, Input::Sealed, out);
            }
            WriterInput::SealFailed { task, no_room } => {
                self.seals.push_back((now.mono_ns + NO_ROOM_RETRY_NS, task));
                self.core_step(now, Input::SealFailed { no_room }, out);
            }
            WriterInput::Tick => {
                while self.seals.front().is_some_and(|(at, _)| *at <= now.mono_ns) {
                    if let Some((_, task)) = self.seals.pop_front() {
                        out.push(WriterOutput::Seal(task));
                    }
                }
                self.core_step(now, Input::Tick, out);
            }
            WriterInput::Close(reason) => self.core_step(now, Input::Failed(reason), out),
            WriterInput::Stop => self.core_step(now, Input::Stop, out),
        }
    }

    fn done(&mut self, now: Now, done: Done, out: &mut Vec<WriterOutput>) {
        // Work may end after the bucket has closed; nothing follows from it any more.
        if self.closed {
            return;
        }
        let input = match done {
            Done::Written { index, body, synced_through, room, full } => {
                self.places.push_back((index, body));
                if let Some(full) = full {
                    self.publisher.segment_full(full);
                }
                Input::Written { index, synced_through, room, filled: full.is_some() }
            }
            Done::WriteFoundNoRoom => Input::WriteFoundNoRoom,
            Done::Synced => Input::Synced,
            Done::Allocated(room) => Input::Allocated(room),
            Done::AllocationFailed(room) => Input::AllocationFailed(room),
            Done::SlotSaved => Input::SlotSaved,
            Done::SlotNotSaved => Input::SlotNotSaved,
            Done::Failed(reason) => Input::Failed(reason),
        };
        self.core_step(now, input, out);
    }

    fn core_step(&mut self, now: Now, input: Input, out: &mut Vec<WriterOutput>) {
        let mut outputs = std::mem::take(&mut self.outputs);
        self.core.step(now, input, &mut outputs);
        for output in outputs.drain(..) {
            self.carry_out(now, output, out);
        }
        self.outputs = outputs;
    }

    fn carry_out(&mut self, now: Now, output: Output, out: &mut Vec<WriterOutput>) {
        match output {
            Output::Lead { epoch } => {
                for partition in &self.partitions {
                    let next_sequence = self.publisher.next_sequence(*partition);
                    let lead = FromReplica::Lead { epoch, next_sequence, tail: Vec::new() };
                    out.push(WriterOutput::ToPartition(*partition, lead));
                }
            }
            Output::Work(work) => out.push(WriterOutput::Work(work)),
            Output::Commit { entry, synced } => self.commit(now, &entry, synced, out),
            Output::Synced => {
                for (partition, through) in std::mem::take(&mut self.unsynced) {
                    let synced = FromReplica::Synced { through };
                    out.push(WriterOutput::ToPartition(partition, synced));
                }
            }
            Output::Refused { partition, epoch, from, reason } => {
                let refused = FromReplica::Refused { epoch, from, reason };
                out.push(WriterOutput::ToPartition(partition, refused));
            }
            Output::Closed(reason) => {
                self.closed = true;
                for partition in &self.partitions {
                    let closed = FromReplica::Closed(reason.clone());
                    out.push(WriterOutput::ToPartition(*partition, closed));
                }
                out.push(WriterOutput::Closed(reason));
            }
            Output::Stopped => out.push(WriterOutput::Stopped),
        }
    }

    fn commit(&mut self, now: Now, entry: &Entry, synced: bool, out: &mut Vec<WriterOutput>) {
        let place = self.places.pop_front();
        let (index, body) = place.expect("what is committed was written");
        assert_eq!(index, entry.index, "entries commit in order");
        let Published { moved, streams, seal } = match self.publisher.publish(entry, body) {
            Ok(published) => published,
            Err(damage) => {
                let reason = ClosedReason::Corrupt(damage.to_string());
                self.core_step(now, Input::Failed(reason), out);
                return;
            }
        };
        self.totals.entries += 1;
        self.totals.bytes += entry.body.len() as u64;
        let mut partitions = Vec::with_capacity(moved.len());
        for (partition, through, events) in moved {
            partitions.push(partition);
            self.totals.events += events;
            if !synced {
                self.unsynced.insert(partition, through);
            }
            let committed = FromReplica::Committed { through, synced };
            out.push(WriterOutput::ToPartition(partition, committed));
        }
        out.push(WriterOutput::Moved { partitions, streams });
        out.extend(seal.map(WriterOutput::Seal));
    }
}
