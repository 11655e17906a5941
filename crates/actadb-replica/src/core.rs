//! The replica core: gathers proposals into entries, keeps one piece of disk work in flight, and
//! says what is committed.

use actadb_model::entry::{Entry, Room};
use actadb_model::limits::{
    ELECTION_TICKS, ENTRY_TARGET_BYTES, GATHER_MAX_PROPOSALS, NO_ROOM_RETRY_NS, NODES_MAX,
    SLOT_SAVE_IDLE_NS, STUCK_NS, TICK_NS,
};
use actadb_model::outcome::{ClosedReason, RefusedReason};
use actadb_model::probe::{Mistake, made};
use actadb_model::time::Now;
use bytes::Bytes;

use crate::admission::{self, Admission};
use crate::consensus::{Consensus, Group, Ready};
use crate::message::{FsyncMode, Input, Output, SlotValues};
use crate::peer::PeerKind;
use crate::plan::{Plan, Step};
use crate::reads::Reads;
use crate::room::RoomKeeper;

/// What the core must know of the bytes in an entry's body, which it does not read itself.
#[derive(Clone, Copy, Debug)]
pub struct BodyFormat {
    /// Bytes of a batch's head.
    pub batch_head_bytes: u64,
    /// Largest body that a segment holds.
    pub max_body_bytes: u64,
    /// Bytes that a body of this size takes in a segment.
    pub frame_bytes: fn(body_bytes: u64) -> u64,
    /// Puts a batch's head (time in ns, highest durable index) before its records.
    pub encode_batch: fn(time_ns: u64, durable: u64, records: &[Vec<u8>]) -> Bytes,
    /// The highest index that an entry says was durable when it was closed.
    pub durable: fn(entry: &Entry) -> u64,
}

/// What a core must know to begin with.
#[derive(Clone, Debug)]
pub struct Start {
    /// The group, as the log and the slots tell it.
    pub group: Group,
    /// What the slots hold, to be kept when something else is saved.
    pub saved: SlotValues,
    /// Time of the last batch, in nanoseconds since 1970; batches never go back behind it.
    pub last_time_ns: u64,
    /// When to sync.
    pub fsync: FsyncMode,
    /// The layout of bodies.
    pub format: BodyFormat,
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
    /// Highest entry known to be committed.
    pub committed: u64,
    /// Current term.
    pub term: u64,
    /// The replica that leads, 0 when none is known to.
    pub leader: u64,
    /// Whether that is this one.
    pub leads: bool,
    /// What it had at its start is published again: it may have shown that before.
    pub serves: bool,
    /// Of a leader: the last entry that each other replica is known to have, by replica from 1.
    pub matched: [Option<u64>; NODES_MAX as usize],
}

/// What the writer thread is doing.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Busy {
    Idle,
    Allocating {
        body_bytes: u64,
    },
    Writing {
        last: u64,
        sync: bool,
    },
    /// A write that found no space, to be made again at this time.
    Blocked {
        until: u64,
    },
    Syncing,
    Truncating {
        after: u64,
    },
    Saving {
        values: SlotValues,
        /// The first step of the plan asked for it.
        planned: bool,
    },
}

/// Everything that was proposed is to be written, and then the bucket stops.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stopping {
    /// Until when it waits for another replica to take the lead.
    pub(crate) patience: Option<u64>,
}

/// One bucket's replica.
///
/// Invariants: `synced <= written`; one piece of work is out at a time; a proposal is either
/// queued, or in an entry, or refused, never two of them; nothing committed is ever cut off.
#[derive(Debug)]
pub struct ReplicaCore {
    pub(crate) consensus: Consensus,
    pub(crate) fsync: FsyncMode,
    pub(crate) format: BodyFormat,
    /// The term in which this replica leads and takes proposals.
    pub(crate) epoch: Option<u64>,
    /// It said that it leads; `epoch` follows with the answer.
    pub(crate) leads: bool,
    pub(crate) admission: Admission,
    pub(crate) reads: Reads,
    /// A question may have been dropped.
    pub(crate) ask_again: bool,
    /// Proposals in the last entry.
    pub(crate) last_batch: usize,
    pub(crate) plan: Plan,
    pub(crate) room: RoomKeeper,
    pub(crate) busy: Busy,
    pub(crate) last_time_ns: u64,
    pub(crate) written: u64,
    pub(crate) synced: u64,
    /// The end of the log at the start: perhaps shown to readers then.
    pub(crate) serves_from: u64,
    pub(crate) saved: SlotValues,
    /// Highest entry that somebody waits to see synced.
    pub(crate) durable_wanted: u64,
    pub(crate) last_sync_ns: u64,
    pub(crate) last_write_ns: u64,
    pub(crate) bytes_since_save: u64,
    pub(crate) save_wanted: bool,
    /// Since when the work that is out is out.
    pub(crate) busy_since_ns: Option<u64>,
    /// Since when the disk has no space for what comes next.
    short_since_ns: Option<u64>,
    pub(crate) next_tick_ns: Option<u64>,
    pub(crate) stopping: Option<Stopping>,
    pub(crate) closed: Option<ClosedReason>,
    /// Commits to be told once the next write is under way; kept for its memory.
    pub(crate) committed: Vec<Entry>,
}

impl ReplicaCore {
    /// A core over an open log; it follows until it leads.
    #[must_use]
    pub fn new(start: Start) -> Self {
        let last_index = start.group.terms.last_index();
        Self {
            consensus: Consensus::new(start.group),
            fsync: start.fsync,
            format: start.format,
            epoch: None,
            leads: false,
            admission: Admission::default(),
            reads: Reads::default(),
            ask_again: false,
            last_batch: 0,
            plan: Plan::default(),
            room: RoomKeeper::default(),
            busy: Busy::Idle,
            last_time_ns: start.last_time_ns,
            written: last_index,
            synced: last_index,
            serves_from: last_index,
            saved: start.saved,
            durable_wanted: 0,
            last_sync_ns: 0,
            last_write_ns: 0,
            bytes_since_save: 0,
            save_wanted: false,
            busy_since_ns: None,
            short_since_ns: None,
            next_tick_ns: None,
            stopping: None,
            closed: None,
            committed: Vec::new(),
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
        let proposed = matches!(input, Input::Propose(_));
        let blocked = matches!(self.busy, Busy::Blocked { .. });
        let gathers = self.take(now, input, out);
        if proposed && !gathers && !blocked {
            // It waits for the entry that comes next; nothing else has changed.
            return;
        }
        if matches!(self.busy, Busy::Idle) {
            self.busy_since_ns = None;
        }
        self.settle(now, gathers, out);
        if !matches!(self.busy, Busy::Idle) {
            self.busy_since_ns.get_or_insert(now.mono_ns);
        }
        match self.is_short() {
            true => _ = self.short_since_ns.get_or_insert(now.mono_ns),
            false => self.short_since_ns = None,
        }
    }

    /// Takes an input in; answers whether the queue may now become an entry.
    fn take(&mut self, now: Now, input: Input, out: &mut Vec<Output>) -> bool {
        match input {
            Input::Start { room, full_segments } => {
                self.room.set(room);
                self.room.full_segments = full_segments;
                if self.consensus.is_alone() {
                    self.consensus.campaign();
                } else {
                    self.next_tick_ns = Some(now.mono_ns + TICK_NS);
                }
            }
            // Who has no space takes no lead: it would only hand it on.
            Input::Peer(message) if message.kind == PeerKind::TimeoutNow && self.is_short() => {}
            Input::Peer(message) => self.consensus.receive(message),
            Input::Unreachable(replica) => self.consensus.unreachable(replica),
            Input::HandOver(replica) => _ = self.consensus.hand_over_to(replica),
            Input::Numbered { next_sequences, time_ns } => {
                self.last_time_ns = self.last_time_ns.max(time_ns);
                self.epoch = self.leads.then(|| self.consensus.term());
                self.admission.reset(next_sequences);
            }
            Input::Fetched { first, entries } => self.consensus.fetched(first, entries),
            Input::ReadIndex(token) => {
                self.reads.add(token);
                return false;
            }
            Input::Propose(proposal) => {
                let trusting = made(Mistake::OldProposalTaken) && self.epoch.is_some();
                if self.epoch != Some(proposal.epoch) && !trusting {
                    return false;
                }
                self.admission.admit(proposal);
                if matches!(self.busy, Busy::Blocked { .. }) {
                    // Behind a write that finds no space nothing is admitted; what is in no entry
                    // can be refused for certain.
                    self.refuse(|_| true, out);
                }
                return self.admission.bytes() >= ENTRY_TARGET_BYTES;
            }
            Input::WantSync => self.durable_wanted = self.durable_wanted.max(self.written),
            Input::Flush => {}
            Input::Tick => self.tick(now),
            Input::Written { index, synced_through, room, filled } => {
                self.room.set(room);
                self.written_through(now, index, synced_through, filled);
                return !self.may_gather();
            }
            Input::WriteFoundNoRoom => {
                self.busy = Busy::Blocked { until: now.mono_ns + NO_ROOM_RETRY_NS };
                self.refuse(|_| true, out);
            }
            Input::Synced => {
                self.busy = Busy::Idle;
                self.synced = self.written;
                self.last_sync_ns = now.mono_ns;
                out.push(Output::Synced);
            }
            Input::Allocated(room) => {
                self.room.allocated(room);
                self.busy = Busy::Idle;
            }
            Input::AllocationFailed(room) => {
                if let Busy::Allocating { body_bytes } = self.busy {
                    self.room.failed(now, body_bytes, room);
                }
                self.busy = Busy::Idle;
            }
            Input::SlotSaved => self.slot_saved(),
            Input::SlotNotSaved => self.slot_not_saved(now, out),
            Input::Truncated { room, reopened } => self.truncated(room, reopened),
            Input::Sealed => self.room.sealed(),
            Input::SealFailed { no_room } => self.room.seal_failed(no_room),
            Input::Failed(reason) => self.close(reason, out),
            Input::Stop => self.stop(out),
        }
        true
    }

    /// When [`Input::Tick`] is due, by the monotonic clock.
    #[must_use]
    pub fn wake_at(&self) -> Option<u64> {
        if self.closed.is_some() {
            return None;
        }
        let work = match self.busy {
            Busy::Blocked { until } => Some(until),
            Busy::Idle => self.idle_wake_at(),
            _ => None,
        };
        work.into_iter().chain(self.next_tick_ns).min()
    }

    fn idle_wake_at(&self) -> Option<u64> {
        let sync = match self.fsync {
            FsyncMode::Interval(ns) if self.written > self.synced => Some(self.last_sync_ns + ns),
            _ => None,
        };
        let unsaved = self.settled() > self.saved.synced_index;
        let save = unsaved.then(|| self.last_write_ns + SLOT_SAVE_IDLE_NS);
        [sync, save, self.room.wake_at()].into_iter().flatten().min()
    }

    /// Whether proposals wait that are fewer than the last entry had: whoever is about to append
    /// may well join them. A large entry shares its sync among enough of them as it is.
    #[must_use]
    pub fn may_gather(&self) -> bool {
        let few = self.admission.len() < self.last_batch.min(GATHER_MAX_PROPOSALS);
        few && !self.admission.is_empty() && matches!(self.busy, Busy::Idle)
    }

    /// Whether the disk has no space for what comes next.
    fn is_short(&self) -> bool {
        self.room.is_short() || matches!(self.busy, Busy::Blocked { .. })
    }

    /// What an operator wants to see.
    #[must_use]
    pub fn stats(&self) -> Stats {
        Stats {
            queued: self.admission.len(),
            room: self.room.room(),
            no_room: self.is_short(),
            full_segments: self.room.full_segments,
            written: self.written,
            synced: self.synced,
            committed: self.consensus.committed(),
            term: self.consensus.term(),
            leader: self.consensus.leader(),
            leads: self.epoch.is_some(),
            serves: self.consensus.applied() >= self.serves_from
                || made(Mistake::ServedBeforeCaughtUp),
            matched: self.consensus.matched(),
        }
    }

    /// Entries up to this one are on this disk for good: synced, and committed.
    pub(crate) fn settled(&self) -> u64 {
        self.synced.min(self.consensus.settled())
    }

    fn tick(&mut self, now: Now) {
        let Some(at) = self.next_tick_ns else { return };
        if now.mono_ns >= at {
            // However long it slept: time that nobody counted must not end anyone's term.
            self.next_tick_ns = Some(now.mono_ns + TICK_NS);
            self.consensus.tick();
            self.ask_again = true;
            // A leader whose disk does not answer, or is full, holds up those whose disks are not.
            let since = [self.busy_since_ns, self.short_since_ns].into_iter().flatten().min();
            let stuck = since.is_some_and(|since| now.mono_ns - since > STUCK_NS);
            if stuck && self.consensus.takes_proposals() && self.consensus.hand_over() {
                self.begin_patience();
            }
        }
    }

    /// A leader that has just begun, or has just tried to hand over, gives its disk time again: the
    /// others may be no better off.
    fn begin_patience(&mut self) {
        (self.busy_since_ns, self.short_since_ns) = (None, None);
    }

    /// Carries out what consensus asks for, until it asks for nothing.
    fn settle(&mut self, now: Now, gathers: bool, out: &mut Vec<Output>) {
        while self.closed.is_none() {
            if let Some(question) = self.reads.ask(std::mem::take(&mut self.ask_again)) {
                self.consensus.read_index(question);
            }
            self.drain(out);
            let free = matches!(self.busy, Busy::Idle | Busy::Blocked { .. });
            if free && self.work(now, gathers, out) {
                continue;
            }
            // The next write runs while these are published and answered.
            for entry in std::mem::take(&mut self.committed) {
                out.push(Output::Commit { synced: self.synced >= entry.index, entry });
            }
            let answered = self.reads.published(self.consensus.applied()).into_iter();
            out.extend(answered.map(Output::ReadAt));
            self.change_roles(out);
            let fetches = self.consensus.wanted().into_iter();
            out.extend(fetches.map(|(first, end)| Output::Fetch { first, end }));
            if !self.end_stop(now, out) {
                return;
            }
        }
    }

    fn drain(&mut self, out: &mut Vec<Output>) {
        self.report(out);
        while let Some(ready) = self.consensus.ready() {
            let Ready { messages, mut persist, committed, reads } = ready;
            if made(Mistake::MessagesBeforeSync) {
                out.extend(persist.messages.drain(..).map(Output::Send));
            }
            for (question, index) in reads {
                self.reads.answered(question, index);
            }
            out.extend(messages.into_iter().map(Output::Send));
            self.plan.add(persist);
            self.committed.extend(committed);
            self.report(out);
        }
    }

    fn change_roles(&mut self, out: &mut Vec<Output>) {
        let leads = self.consensus.is_leader() && self.closed.is_none();
        // Another term of its own may have come between two looks.
        let stale = self.epoch.is_some_and(|epoch| epoch != self.consensus.term());
        if self.leads && (!leads || stale) {
            self.leads = false;
            // What is in no entry cannot be appended any more: its clients may ask the new leader.
            self.refuse_from(self.admission.all(), RefusedReason::NotLeader, out);
            self.epoch = None;
            self.admission.reset([]);
            out.push(Output::Follow);
        }
        if leads && !self.leads {
            self.leads = true;
            self.begin_patience();
            let (epoch, tail) = (self.consensus.term(), self.consensus.tail());
            out.push(Output::Lead { epoch, tail, shared: !self.consensus.is_alone() });
        }
    }

    /// Steps of the plan that need no work: what is written, and reports of what is durable.
    fn report(&mut self, out: &mut Vec<Output>) {
        let mut written = None;
        while let Some(step) = self.plan.front() {
            match step {
                Step::Write(entry) if entry.index <= self.written => {
                    written = Some((entry.index, entry.term));
                }
                Step::Report { .. } => {}
                _ => break,
            }
            if let Some(Step::Report { number, messages }) = self.plan.pop() {
                // What is to be cut off must not count, though the group may have the same entries
                // again behind the cut: the report behind that tells. Its messages are of a leader
                // of before.
                if !self.plan.cuts_below(self.written) {
                    self.consensus.persisted(number);
                    out.extend(messages.into_iter().map(Output::Send));
                }
                written = None;
            }
        }
        let written = written.filter(|(index, _)| !self.plan.cuts_below(*index));
        // Part of what was asked for: it may be committed, and must not wait for the rest, which
        // may wait for it to be sealed.
        if let Some((index, term)) = written {
            self.consensus.written(index, term);
        }
    }

    pub(crate) fn propose(&mut self, now: Now, count: usize) {
        let batch = self.admission.take(count);
        self.last_batch = batch.len();
        if batch.iter().any(|proposal| proposal.durable) {
            self.durable_wanted = self.consensus.last_index() + 1;
        }
        let records: Vec<Vec<u8>> = batch.into_iter().map(|proposal| proposal.record).collect();
        self.last_time_ns = self.last_time_ns.max(now.unix_ns);
        let body = (self.format.encode_batch)(self.last_time_ns, self.settled(), &records);
        self.consensus.propose(body);
    }

    /// Refuses what cannot be written, with all that the same partitions proposed behind it.
    pub(crate) fn refuse(&mut self, cannot: impl Fn(u64) -> bool, out: &mut Vec<Output>) {
        let refused = self.admission.refuse(cannot);
        self.refuse_from(refused, RefusedReason::NoRoom, out);
    }

    fn refuse_from(&self, refused: admission::From, reason: RefusedReason, out: &mut Vec<Output>) {
        let Some(epoch) = self.epoch else { return };
        for (partition, from) in refused {
            out.push(Output::Refused { partition, epoch, from, reason });
        }
    }

    fn stop(&mut self, out: &mut Vec<Output>) {
        self.stopping.get_or_insert(Stopping { patience: None });
        if matches!(self.busy, Busy::Blocked { .. }) {
            // Nobody knows when there will be space; the write's outcome stays unknown.
            self.stopped(out);
        }
    }

    /// Ends a stop when everything is done, and another replica leads if one can. Answers whether
    /// consensus was asked for that.
    fn end_stop(&mut self, now: Now, out: &mut Vec<Output>) -> bool {
        let Some(stopping) = self.stopping else { return false };
        if !matches!(self.busy, Busy::Idle) || !self.admission.is_empty() {
            return false;
        }
        let leads = !self.consensus.is_alone() && self.consensus.is_leader();
        match stopping.patience {
            None if leads => {
                let until = now.mono_ns + ELECTION_TICKS as u64 * TICK_NS;
                self.stopping = Some(Stopping { patience: Some(until) });
                self.consensus.hand_over()
            }
            // Nobody may have been known to be there at that moment: each follower is doubted at
            // every check of the quorum until it answers the next heartbeat.
            Some(until) if leads && now.mono_ns < until => {
                self.consensus.takes_proposals() && self.consensus.hand_over()
            }
            _ => {
                self.stopped(out);
                false
            }
        }
    }

    pub(crate) fn stopped(&mut self, out: &mut Vec<Output>) {
        self.closed = Some(ClosedReason::Stopping);
        out.push(Output::Closed(ClosedReason::Stopping));
        out.push(Output::Stopped);
    }

    fn close(&mut self, reason: ClosedReason, out: &mut Vec<Output>) {
        self.admission.reset([]);
        self.closed = Some(reason.clone());
        out.push(Output::Closed(reason));
        if self.stopping.is_some() {
            out.push(Output::Stopped);
        }
    }
}
