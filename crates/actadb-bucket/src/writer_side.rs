//! The writer's half of a bucket: consensus, and making visible what is committed.
//!
//! The order that matters stands here once: an entry is published to index and tail, then the
//! watermarks move, and only then do the partitions hear of it and let their answers go.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use actadb_index::sealed::SealedIndex;
use actadb_log::format::{
    BATCH_HEAD_BYTES, BatchHead, SEGMENT_HEADER_BYTES, body_room, frame_bytes,
};
use actadb_log::slots::SlotState;
use actadb_model::entry::{Entry, Place, Proposal, Room};
use actadb_model::ids::PartitionId;
use actadb_model::limits::NO_ROOM_RETRY_NS;
use actadb_model::numbered::Numbered;
use actadb_model::outcome::ClosedReason;
use actadb_model::probe::{Mistake, made};
use actadb_model::time::Now;
use actadb_partition::message::FromReplica;
use actadb_replica::consensus::Group;
use actadb_replica::core::{self as replica, BodyFormat, ReplicaCore, Stats};
use actadb_replica::message::{FsyncMode, Input, Output, SlotValues, Work};
use actadb_replica::peer::PeerMessage;
use actadb_replica::terms::Terms;
use actadb_store::open::OpenedLog;
use actadb_store::publisher::{Published, Publisher, SealTask};
use actadb_store::reader::Reader;
use actadb_store::record::Record;
use actadb_store::records::records;
use actadb_store::rows::Rows;
use bytes::Bytes;

use crate::job::Done;

/// What a writer side is told.
#[derive(Debug)]
pub enum WriterInput {
    /// Begin: a replica that votes alone leads at once.
    Start,
    /// From another replica of the group.
    Peer(PeerMessage),
    /// A message to this replica was lost.
    Unreachable(u64),
    /// Hand the lead over to this replica, if this one has it.
    HandOver(u64),
    /// Old entries that were asked for; none when they could not be read.
    Fetched {
        /// The first one that was asked for.
        first: u64,
        /// As many as fit.
        entries: Vec<Entry>,
    },
    /// From a partition.
    Propose(Proposal),
    /// From a partition: sync what is written.
    WantSync,
    /// From a partition: does this replica lead still? The number names the question.
    Confirm(PartitionId, u64),
    /// What is committed in the group at this moment? The number names the question.
    Read(u64),
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
    /// A message to another replica.
    Send(PeerMessage),
    /// Old entries to read for a replica that is behind: from `first` on, before `end`.
    Fetch {
        /// The first one.
        first: u64,
        /// The one behind the last.
        end: u64,
    },
    /// An index to write, where a long time does not matter.
    Seal(SealTask),
    /// For a partition, in order.
    ToPartition(PartitionId, FromReplica),
    /// The answer to [`WriterInput::Read`]: all that was committed then is to be read here now.
    ReadAt(u64),
    /// These have new events to read: whoever waits for one of them may look.
    Moved {
        /// The partitions.
        partitions: Vec<PartitionId>,
        /// The streams, by hash, each at least once.
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
    /// What the slots hold.
    pub slot: SlotState,
    /// What the log holds.
    pub log: OpenedLog,
    /// Seed of the election timeouts.
    pub seed: u64,
    /// Size of a segment.
    pub segment_bytes: u64,
    /// When to sync.
    pub fsync: FsyncMode,
    /// What can be written without allocating.
    pub room: Room,
    /// Full segments whose index is still to be written.
    pub unsealed: Vec<SealTask>,
}

/// Who asked what is committed.
#[derive(Clone, Copy, Debug)]
enum Asker {
    Partition(PartitionId, u64),
    Reader(u64),
}

/// One bucket's writer: its replica core and its publisher.
#[derive(Debug)]
pub struct WriterSide {
    core: ReplicaCore,
    publisher: Publisher,
    partitions: Vec<PartitionId>,
    room: Room,
    full_segments: usize,
    /// Where written entries lie that are not committed, and what is in them.
    places: VecDeque<(u64, Place, Rows)>,
    /// Partitions with committed sequences that are not synced, each with its last.
    unsynced: BTreeMap<PartitionId, u64>,
    /// Seals that failed, and when to try them again.
    seals: VecDeque<(u64, SealTask)>,
    /// The partitions number appends.
    leads: bool,
    /// Who asked the replica core under which number.
    asked: BTreeMap<u64, Asker>,
    next_question: u64,
    closed: bool,
    totals: Totals,
    outputs: Vec<Output>,
}

/// What the head of a batch calls durable; nothing, for entries of another kind.
fn durable(entry: &Entry) -> u64 {
    BatchHead::decode(entry.kind, &entry.body).map_or(0, |head| head.durable)
}

fn encode_batch(time_ns: u64, durable: u64, records: &[Vec<u8>]) -> Bytes {
    let size = BATCH_HEAD_BYTES + records.iter().map(Vec::len).sum::<usize>();
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
        let WriterStart { slot, log, .. } = start;
        let identity = publisher.identity();
        let tail = log.tail.iter();
        let places = tail.map(|(e, body)| (e.index, *body, Rows::read(identity, e))).collect();
        let full_segments = start.unsealed.len() + publisher.unpublished_segments();
        let core = ReplicaCore::new(replica::Start {
            saved: SlotValues {
                term: slot.term,
                vote: slot.vote,
                synced_index: slot.synced_index,
                bulk_through: slot.bulk_through,
            },
            group: Group {
                replica: slot.replica_id,
                voters: slot.voters,
                // One that is alone has nobody to ask what it promised.
                term: slot.term.max(log.terms.last().map_or(0, |(_, term)| *term)),
                vote: slot.vote,
                committed: log.committed,
                terms: Terms::new(log.terms, log.last_index),
                tail: log.tail.into_iter().map(|(entry, _)| entry).collect(),
                seed: start.seed,
            },
            last_time_ns: publisher.last_time_ns(),
            fsync: start.fsync,
            format: BodyFormat {
                batch_head_bytes: BATCH_HEAD_BYTES as u64,
                max_body_bytes: body_room(start.segment_bytes - SEGMENT_HEADER_BYTES),
                frame_bytes,
                encode_batch,
                durable,
            },
        });
        Self {
            core,
            publisher,
            partitions: start.partitions,
            room: start.room,
            full_segments,
            places,
            unsynced: BTreeMap::new(),
            seals: start.unsealed.into_iter().map(|task| (0, task)).collect(),
            leads: false,
            asked: BTreeMap::new(),
            next_question: 0,
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
                let (room, full_segments) = (self.room, self.full_segments);
                self.core_step(now, Input::Start { room, full_segments }, out);
            }
            WriterInput::Peer(message) => self.core_step(now, Input::Peer(message), out),
            WriterInput::Unreachable(replica) => {
                self.core_step(now, Input::Unreachable(replica), out);
            }
            WriterInput::HandOver(replica) => self.core_step(now, Input::HandOver(replica), out),
            WriterInput::Fetched { first, entries } => {
                self.core_step(now, Input::Fetched { first, entries }, out);
            }
            WriterInput::Propose(proposal) => {
                self.totals.proposals += 1;
                self.core_step(now, Input::Propose(proposal), out);
            }
            WriterInput::WantSync => self.core_step(now, Input::WantSync, out),
            WriterInput::Confirm(partition, number) => {
                self.ask(now, Asker::Partition(partition, number), out);
            }
            WriterInput::Read(number) => self.ask(now, Asker::Reader(number), out),
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
            Done::Written { bodies, synced_through, room, full } => {
                let index = bodies.last().map_or(0, |(index, ..)| *index);
                self.places.extend(bodies);
                if let Some(full) = full {
                    self.publisher.segment_full(full);
                }
                Input::Written { index, synced_through, room, filled: full.is_some() }
            }
            Done::Truncated { after, truncated, room } => {
                self.places.retain(|(index, ..)| *index <= after);
                self.publisher.segment_reopened(truncated.segment);
                Input::Truncated { room, reopened: truncated.reopened }
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

    fn ask(&mut self, now: Now, asker: Asker, out: &mut Vec<WriterOutput>) {
        self.next_question += 1;
        self.asked.insert(self.next_question, asker);
        self.core_step(now, Input::ReadIndex(self.next_question), out);
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
            Output::Lead { epoch, tail, shared } => self.lead(now, epoch, &tail, shared, out),
            Output::ReadAt(question) => match self.asked.remove(&question) {
                Some(Asker::Partition(partition, number)) => {
                    let confirmed = FromReplica::Confirmed { number };
                    out.push(WriterOutput::ToPartition(partition, confirmed));
                }
                Some(Asker::Reader(number)) => out.push(WriterOutput::ReadAt(number)),
                None => {}
            },
            Output::Follow => {
                self.leads = false;
                for partition in &self.partitions {
                    out.push(WriterOutput::ToPartition(*partition, FromReplica::Follow));
                }
            }
            Output::Send(message) => out.push(WriterOutput::Send(message)),
            Output::Fetch { first, end } => out.push(WriterOutput::Fetch { first, end }),
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

    /// Tells the partitions that they number from here on, behind what is not committed yet.
    fn lead(
        &mut self,
        now: Now,
        epoch: u64,
        tail: &[Entry],
        shared: bool,
        out: &mut Vec<WriterOutput>,
    ) {
        let tail = if made(Mistake::TailForgotten) { &[] } else { tail };
        let mut tails = match self.tails(tail) {
            Ok(tails) => tails,
            Err(what) => {
                self.core_step(now, Input::Failed(ClosedReason::Corrupt(what)), out);
                return;
            }
        };
        self.leads = true;
        let heads = tail.iter().filter_map(|e| BatchHead::decode(e.kind, &e.body));
        let time_ns = heads.map(|head| head.time_ns).max().unwrap_or(0);
        let time_ns = time_ns.max(self.publisher.last_time_ns());
        let mut next_sequences = Vec::with_capacity(self.partitions.len());
        for partition in &self.partitions {
            let tail = tails.remove(partition).unwrap_or_default();
            let next_sequence = tail
                .last()
                .map_or(self.publisher.next_sequence(*partition), |last| last.last_sequence() + 1);
            next_sequences.push((*partition, next_sequence));
            let lead = FromReplica::Lead { epoch, next_sequence, time_ns, tail, shared };
            out.push(WriterOutput::ToPartition(*partition, lead));
        }
        self.core_step(now, Input::Numbered { next_sequences, time_ns }, out);
    }

    /// The transactions of entries that are not committed, by partition.
    fn tails(&self, tail: &[Entry]) -> Result<BTreeMap<PartitionId, Vec<Arc<Numbered>>>, String> {
        let identity = self.publisher.identity();
        let mut tails: BTreeMap<PartitionId, Vec<Arc<Numbered>>> = BTreeMap::new();
        for entry in tail {
            for (_, record) in records(identity, entry) {
                let bad = |what: &str| format!("entry {}, not committed: {what}", entry.index);
                let record = match record.map_err(|error| bad(&error.to_string()))? {
                    Record::Transaction(transaction) => transaction,
                    Record::Other(_) => continue,
                };
                let numbered = record.to_numbered().ok_or_else(|| bad("not a transaction"))?;
                let partition = numbered.partition;
                let before = tails.entry(partition).or_default();
                let next = before
                    .last()
                    .map_or(self.publisher.next_sequence(partition), |t| t.last_sequence() + 1);
                if !self.partitions.contains(&partition) || numbered.first_sequence != next {
                    return Err(bad("its numbers do not follow"));
                }
                before.push(Arc::new(numbered));
            }
        }
        Ok(tails)
    }

    fn commit(&mut self, now: Now, entry: &Entry, synced: bool, out: &mut Vec<WriterOutput>) {
        // Nothing is published over an entry that could not be.
        if self.closed {
            return;
        }
        let place = self.places.pop_front();
        let (index, body, rows) = place.expect("what is committed was written");
        assert_eq!(index, entry.index, "entries commit in order");
        let Published { moved, streams, seal } = match self.publisher.publish(entry, body, &rows) {
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
            if self.leads {
                let committed = FromReplica::Committed { through, synced };
                out.push(WriterOutput::ToPartition(partition, committed));
            }
        }
        out.push(WriterOutput::Moved { partitions, streams });
        out.extend(seal.map(WriterOutput::Seal));
    }
}
