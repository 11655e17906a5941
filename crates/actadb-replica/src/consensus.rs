//! Who leads and what is committed: Raft, by the engine `raft` (raft-rs). The only file that names
//! it.
//!
//! The engine is a state machine without IO, clock or threads; [`Consensus`] keeps it so: ticks are
//! counted by the caller, election timeouts are drawn from a seed, and what the engine wants done
//! comes out of [`ready`](Consensus::ready) with its conditions attached. The group of a single
//! node has one voter and runs the same path: its own disk is the quorum.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};

use actadb_model::dice::SplitMix64;
use actadb_model::entry::{Entry, EntryKind};
use actadb_model::limits::{
    ELECTION_TICKS, HEARTBEAT_TICKS, NODES_MAX, PEER_IN_FLIGHT, PEER_KEPT_BYTES, PEER_MESSAGE_BYTES,
};
use bytes::Bytes;
use raft::eraftpb::{self, ConfState, EntryType, HardState, Message, MessageType, Snapshot};
use raft::{
    Config, Error, GetEntriesContext, NO_LIMIT, RaftState, RawNode, StateRole, Storage,
    StorageError,
};

use raft::Progress;

use crate::peer::{PeerKind, PeerMessage};
use crate::reads::Question;
use crate::terms::Terms;

/// A follower that lacks no more entries than this takes over in no time.
const NEAR: u64 = 1000;

/// What a replica remembers of its group.
#[derive(Clone, Debug)]
pub struct Group {
    /// This replica's id, never 0 and never reused.
    pub replica: u64,
    /// The replicas that vote.
    pub voters: Vec<u64>,
    /// The term the slot remembers.
    pub term: u64,
    /// Whom it voted for in that term, 0 for nobody.
    pub vote: u64,
    /// Entries up to this one are known to be committed; they are published.
    pub committed: u64,
    /// The terms of the whole log.
    pub terms: Terms,
    /// The entries behind `committed`, all durable here.
    pub tail: Vec<Entry>,
    /// Seed of the election timeouts.
    pub seed: u64,
}

/// What must be on the disk, and what may leave when it is.
#[derive(Debug)]
pub(crate) struct Persist {
    /// Names it for [`Consensus::persisted`].
    pub(crate) number: u64,
    /// A new term and vote, to be saved before the entries.
    pub(crate) vote: Option<(u64, u64)>,
    /// What stands behind this entry is to be cut off first.
    pub(crate) keep: Option<u64>,
    /// Entries to write, in order.
    pub(crate) entries: Vec<Entry>,
    /// To be sent once all this, and all before it, is durable.
    pub(crate) messages: Vec<PeerMessage>,
}

/// What the engine wants done now.
#[derive(Debug)]
pub(crate) struct Ready {
    /// To be sent at once: a leader's disk works beside its followers'.
    pub(crate) messages: Vec<PeerMessage>,
    /// For the disk.
    pub(crate) persist: Persist,
    /// Committed, in order.
    pub(crate) committed: Vec<Entry>,
    /// Questions that are answered: entries up to the index were committed when each was asked.
    pub(crate) reads: Vec<(Question, u64)>,
}

/// One replica's side of a group.
pub(crate) struct Consensus {
    raft: RawNode<Memory>,
    dice: SplitMix64,
    /// Tells the questions of this life from those of earlier ones, whose answers may come yet.
    life: u64,
    /// The election timeout in ticks, and the term and role it was drawn for.
    timeout: usize,
    drawn_for: (u64, StateRole),
    /// The follower that the lead was offered last.
    offered: u64,
}

impl std::fmt::Debug for Consensus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let raft = &self.raft.raft;
        f.debug_struct("Consensus")
            .field("replica", &raft.id)
            .field("term", &raft.term)
            .field("role", &raft.state)
            .field("log", &raft.raft_log.to_string())
            .finish_non_exhaustive()
    }
}

impl Consensus {
    /// A follower, until an election says otherwise.
    pub(crate) fn new(group: Group) -> Self {
        let Group { replica, voters, term, vote, committed, terms, tail, seed } = group;
        assert_eq!(terms.last_index(), committed + tail.len() as u64, "the tail is the log's end");
        let last_term = terms.get(terms.last_index()).unwrap_or(0);
        assert!(term >= last_term, "the slot remembers term {term}, the log has {last_term}");
        let config = Config {
            id: replica,
            election_tick: ELECTION_TICKS,
            heartbeat_tick: HEARTBEAT_TICKS,
            applied: committed,
            max_size_per_msg: PEER_MESSAGE_BYTES,
            max_inflight_msgs: PEER_IN_FLIGHT,
            check_quorum: true,
            pre_vote: true,
            max_uncommitted_size: NO_LIMIT,
            ..Config::default()
        };
        let kept_bytes = if voters.len() > 1 { PEER_KEPT_BYTES } else { 0 };
        let mut memory = Memory {
            hard_state: HardState { term, vote, commit: committed, ..HardState::default() },
            voters,
            terms,
            first: committed + 1,
            entries: VecDeque::new(),
            bytes: 0,
            kept_bytes,
            wanted: RefCell::default(),
            fetched: BTreeMap::new(),
        };
        for entry in tail {
            memory.keep(to_engine(entry));
        }
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let raft = RawNode::new(&config, memory, &logger).expect("a good configuration");
        let drawn_for = (term, StateRole::Leader);
        let mut dice = SplitMix64::new(seed);
        let life = dice.draw();
        let timeout = ELECTION_TICKS;
        let mut consensus = Self { raft, dice, life, timeout, drawn_for, offered: 0 };
        consensus.pin_timeout(false);
        consensus
    }

    /// The engine draws its timeouts from the thread's dice; ours are drawn from the seed, and put
    /// in their place after every call that may have drawn.
    fn pin_timeout(&mut self, again: bool) {
        let raft = &mut self.raft.raft;
        let key = (raft.term, raft.state);
        if again || key != self.drawn_for {
            self.drawn_for = key;
            let ticks = ELECTION_TICKS as u64;
            self.timeout = (ticks + self.dice.below(ticks)) as usize;
        }
        raft.set_randomized_election_timeout(self.timeout);
    }

    pub(crate) fn is_alone(&self) -> bool {
        self.raft.store().voters.len() == 1
    }

    pub(crate) fn term(&self) -> u64 {
        self.raft.raft.term
    }

    pub(crate) fn is_leader(&self) -> bool {
        self.raft.raft.state == StateRole::Leader
    }

    /// Whether a proposal would be taken: not while the lead is handed over.
    pub(crate) fn takes_proposals(&self) -> bool {
        self.is_leader() && self.raft.raft.lead_transferee.is_none()
    }

    /// Who leads, 0 when nobody is known to.
    pub(crate) fn leader(&self) -> u64 {
        self.raft.raft.leader_id
    }

    /// Committed, as far as this replica knows; the entry itself may not be on its disk yet.
    pub(crate) fn committed(&self) -> u64 {
        self.raft.raft.raft_log.committed
    }

    /// Committed, and on this disk: what stands there will never be cut off. Old entries that the
    /// group has replaced may lie above.
    pub(crate) fn settled(&self) -> u64 {
        let log = &self.raft.raft.raft_log;
        log.committed.min(log.persisted)
    }

    /// The last entry that [`ready`](Self::ready) called committed.
    pub(crate) fn applied(&self) -> u64 {
        self.raft.raft.raft_log.applied
    }

    pub(crate) fn last_index(&self) -> u64 {
        self.raft.raft.raft_log.last_index()
    }

    /// The entries behind the last one that [`ready`](Self::ready) called committed.
    pub(crate) fn tail(&self) -> Vec<Entry> {
        let applied = self.applied();
        let memory = self.raft.store();
        memory.entries.iter().filter(|e| e.index > applied).cloned().map(from_engine).collect()
    }

    /// Begins an election at once.
    pub(crate) fn campaign(&mut self) {
        // It fails only for a configuration change that is not applied; the next timeout tries
        // again.
        let _ = self.raft.campaign();
        self.pin_timeout(true);
    }

    /// One tick of time has passed.
    pub(crate) fn tick(&mut self) {
        let elected = self.raft.tick();
        self.pin_timeout(elected);
    }

    /// A message from another replica.
    pub(crate) fn receive(&mut self, message: PeerMessage) {
        // Messages of replicas that are not of this group are dropped by the engine.
        let _ = self.raft.step(message_to_engine(message));
        self.pin_timeout(false);
    }

    /// A message to a replica was lost.
    pub(crate) fn unreachable(&mut self, replica: u64) {
        self.raft.report_unreachable(replica);
        self.pin_timeout(false);
    }

    /// Hands the lead to a follower, when it has all of the log; given up after an election
    /// timeout. Answers whether that was begun.
    pub(crate) fn hand_over_to(&mut self, replica: u64) -> bool {
        let raft = &self.raft.raft;
        let near = |progress: &Progress| {
            // One that is far behind, or silent, would only keep everybody waiting.
            progress.recent_active && progress.matched + NEAR >= raft.raft_log.last_index()
        };
        if !self.is_leader() || !raft.prs().get(replica).is_some_and(near) {
            return false;
        }
        self.offered = replica;
        self.raft.transfer_leader(replica);
        self.pin_timeout(false);
        true
    }

    /// Hands the lead to the follower that has most of the log, and of equals not to the one that
    /// was asked last: it may have had its reasons. Answers whether that was begun.
    pub(crate) fn hand_over(&mut self) -> bool {
        let raft = &self.raft.raft;
        let ours = raft.id;
        let others = self.raft.store().voters.iter().filter(|voter| **voter != ours);
        let matched = |voter: &u64| {
            let progress = raft.prs().get(*voter)?;
            let other = *voter != self.offered;
            progress.recent_active.then_some((progress.matched, other, *voter))
        };
        let Some((.., best)) = others.filter_map(matched).max() else { return false };
        self.hand_over_to(best)
    }

    /// Of a leader: the last entry that each other replica is known to have, by replica from 1.
    pub(crate) fn matched(&self) -> [Option<u64>; NODES_MAX as usize] {
        let (mut matched, raft) = ([None; NODES_MAX as usize], &self.raft.raft);
        let others = self.raft.store().voters.iter().filter(|voter| **voter != raft.id);
        for voter in others.filter(|_| self.is_leader()) {
            let slot = voter.checked_sub(1).and_then(|at| matched.get_mut(at as usize));
            if let Some(slot) = slot {
                *slot = raft.prs().get(*voter).map(|progress| progress.matched);
            }
        }
        matched
    }

    /// Puts a body into the next entry. Only when proposals are taken.
    pub(crate) fn propose(&mut self, body: Bytes) {
        let entry = eraftpb::Entry { data: body, ..eraftpb::Entry::default() };
        let mut message = Message::default();
        message.set_msg_type(MessageType::MsgPropose);
        message.from = self.raft.raft.id;
        message.set_entries(vec![entry].into());
        self.raft.raft.step(message).expect("the caller asked whether proposals are taken");
        self.pin_timeout(false);
    }

    /// Asks the group what is committed.
    pub(crate) fn read_index(&mut self, question: Question) {
        self.raft.read_index([self.life, question].map(u64::to_le_bytes).concat());
        self.pin_timeout(false);
    }

    /// What `ready` asked for under this number, and all before it, is durable.
    pub(crate) fn persisted(&mut self, number: u64) {
        self.raft.on_persist_ready(number);
        self.pin_timeout(false);
    }

    /// Entries up to this one are durable; more of what `ready` asked for is to follow.
    pub(crate) fn written(&mut self, index: u64, term: u64) {
        self.raft.raft.on_persist_entries(index, term);
        self.pin_timeout(false);
    }

    /// What is to be done now; `None` when nothing is.
    pub(crate) fn ready(&mut self) -> Option<Ready> {
        if !self.raft.has_ready() {
            return None;
        }
        let before = {
            let hard = &self.raft.store().hard_state;
            (hard.term, hard.vote)
        };
        let mut ready = self.raft.ready();
        let peers = |messages: Vec<Message>| messages.into_iter().filter_map(from_message);
        let messages = peers(ready.take_messages()).collect();
        // Answers to heartbeats, too: each lets the leader send more, so a follower whose disk
        // hangs must be silent, or it would have to keep all of that in memory.
        let persisted_messages = peers(ready.take_persisted_messages()).collect();
        let committed: Vec<Entry> =
            ready.take_committed_entries().into_iter().map(from_engine).collect();
        let life = self.life.to_le_bytes();
        let number = |context: &[u8]| {
            let question = context.strip_prefix(&life)?.try_into().ok()?;
            Some(u64::from_le_bytes(question))
        };
        let reads = ready.take_read_states().into_iter();
        let reads = reads.filter_map(|read| Some((number(&read.request_ctx)?, read.index)));
        let reads = reads.collect();
        let entries = ready.take_entries();
        let vote = ready.hs().map(|hard| (hard.term, hard.vote)).filter(|vote| *vote != before);
        let memory = self.raft.mut_store();
        if let Some((term, vote)) = vote {
            (memory.hard_state.term, memory.hard_state.vote) = (term, vote);
        }
        let last = memory.terms.last_index();
        let keep = entries.first().map(|first| first.index - 1).filter(|keep| *keep < last);
        if let Some(keep) = keep {
            memory.truncate(keep);
        }
        for entry in &entries {
            memory.push(entry.clone());
        }
        let number = ready.number();
        self.raft.advance_append_async(ready);
        self.raft.advance_apply();
        let applied = self.applied();
        self.raft.mut_store().trim(applied);
        self.pin_timeout(false);
        let entries = entries.into_iter().map(from_engine).collect();
        let persist = Persist { number, vote, keep, entries, messages: persisted_messages };
        Some(Ready { messages, persist, committed, reads })
    }

    /// Ranges of old entries that followers lack and memory has not: first index, and the one
    /// behind the last. Each is asked for once.
    pub(crate) fn wanted(&mut self) -> Vec<(u64, u64)> {
        let mut wanted = self.raft.store().wanted.borrow_mut();
        let ask = wanted.iter_mut().filter(|(_, want)| !want.asked);
        ask.map(|(first, want)| {
            want.asked = true;
            (*first, want.end)
        })
        .collect()
    }

    /// Old entries were read, from the first one asked for; none when they could not be.
    pub(crate) fn fetched(&mut self, first: u64, entries: Vec<Entry>) {
        let memory = self.raft.mut_store();
        let Some(want) = memory.wanted.borrow_mut().remove(&first) else { return };
        if entries.is_empty() {
            // The next heartbeat's answer makes the engine ask again.
            return;
        }
        memory.fetched.insert(first, entries.into_iter().map(to_engine).collect());
        for context in want.contexts {
            self.raft.on_entries_fetched(context);
        }
        self.raft.mut_store().fetched.remove(&first);
        self.pin_timeout(false);
    }
}

/// A range that is being read from the disk.
struct Want {
    end: u64,
    asked: bool,
    contexts: Vec<GetEntriesContext>,
}

/// The log as far as the engine needs it: all entries that are not applied, the newest ones that
/// are, and the terms of all.
struct Memory {
    hard_state: HardState,
    voters: Vec<u64>,
    terms: Terms,
    /// Index of the first entry here.
    first: u64,
    entries: VecDeque<eraftpb::Entry>,
    bytes: usize,
    /// So many bytes of applied entries are kept for followers that are a little behind.
    kept_bytes: usize,
    wanted: RefCell<BTreeMap<u64, Want>>,
    fetched: BTreeMap<u64, Vec<eraftpb::Entry>>,
}

impl Memory {
    fn push(&mut self, entry: eraftpb::Entry) {
        self.terms.push(entry.index, entry.term);
        self.keep(entry);
    }

    fn keep(&mut self, entry: eraftpb::Entry) {
        self.bytes += entry.data.len();
        self.entries.push_back(entry);
    }

    fn truncate(&mut self, keep: u64) {
        assert!(keep + 1 >= self.first, "what is applied is never cut");
        self.terms.truncate(keep);
        while self.entries.back().is_some_and(|last| last.index > keep) {
            let last = self.entries.pop_back();
            self.bytes -= last.map_or(0, |last| last.data.len());
        }
    }

    fn trim(&mut self, applied: u64) {
        while self.first <= applied && (self.bytes > self.kept_bytes || self.kept_bytes == 0) {
            let Some(oldest) = self.entries.pop_front() else { return };
            self.bytes -= oldest.data.len();
            self.first += 1;
        }
    }
}

/// As many of the entries as fit into `max` bytes, one at the least.
fn bounded<'a>(
    entries: impl Iterator<Item = &'a eraftpb::Entry>,
    max: Option<u64>,
) -> Vec<eraftpb::Entry> {
    let (mut bytes, max) = (0, max.unwrap_or(NO_LIMIT));
    let mut taken = Vec::new();
    for entry in entries {
        bytes += entry.data.len() as u64;
        if !taken.is_empty() && bytes > max {
            break;
        }
        taken.push(entry.clone());
    }
    taken
}

impl Storage for Memory {
    fn initial_state(&self) -> raft::Result<RaftState> {
        let conf_state = ConfState { voters: self.voters.clone(), ..ConfState::default() };
        Ok(RaftState { hard_state: self.hard_state.clone(), conf_state })
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        context: GetEntriesContext,
    ) -> raft::Result<Vec<eraftpb::Entry>> {
        let max = max_size.into();
        if low >= self.first {
            let (skip, count) = ((low - self.first) as usize, (high - low) as usize);
            return Ok(bounded(self.entries.iter().skip(skip).take(count), max));
        }
        if let Some(fetched) = self.fetched.get(&low) {
            let inside = fetched.iter().take_while(|entry| entry.index < high);
            return Ok(bounded(inside, max));
        }
        assert!(context.can_async(), "what is not applied is in memory");
        let mut wanted = self.wanted.borrow_mut();
        let end = high.min(self.first);
        let want = Want { end, asked: false, contexts: Vec::new() };
        let want = wanted.entry(low).or_insert(want);
        // A follower asks again with every heartbeat.
        if want.contexts.len() < self.voters.len() {
            want.contexts.push(context);
        }
        Err(Error::Store(StorageError::LogTemporarilyUnavailable))
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        self.terms.get(index).ok_or(Error::Store(StorageError::Unavailable))
    }

    /// Nothing is ever purged.
    fn first_index(&self) -> raft::Result<u64> {
        Ok(1)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.terms.last_index())
    }

    /// There are none: a follower is brought up to date by the log itself.
    fn snapshot(&self, _: u64, _: u64) -> raft::Result<Snapshot> {
        Err(Error::Store(StorageError::SnapshotTemporarilyUnavailable))
    }
}

fn from_engine(entry: eraftpb::Entry) -> Entry {
    let kind = match entry.get_entry_type() {
        EntryType::EntryNormal if entry.data.is_empty() => EntryKind::Noop,
        EntryType::EntryNormal => EntryKind::Batch,
        EntryType::EntryConfChange | EntryType::EntryConfChangeV2 => EntryKind::Conf,
    };
    Entry { term: entry.term, index: entry.index, kind, body: entry.data }
}

fn to_engine(entry: Entry) -> eraftpb::Entry {
    let kind = match entry.kind {
        EntryKind::Batch | EntryKind::Noop => EntryType::EntryNormal,
        EntryKind::Conf => EntryType::EntryConfChangeV2,
    };
    let Entry { term, index, body: data, .. } = entry;
    eraftpb::Entry { entry_type: kind, term, index, data, ..eraftpb::Entry::default() }
}

/// The kinds of messages on both sides.
const KINDS: [(PeerKind, MessageType); 12] = [
    (PeerKind::Append, MessageType::MsgAppend),
    (PeerKind::AppendResponse, MessageType::MsgAppendResponse),
    (PeerKind::Vote, MessageType::MsgRequestVote),
    (PeerKind::VoteResponse, MessageType::MsgRequestVoteResponse),
    (PeerKind::PreVote, MessageType::MsgRequestPreVote),
    (PeerKind::PreVoteResponse, MessageType::MsgRequestPreVoteResponse),
    (PeerKind::Heartbeat, MessageType::MsgHeartbeat),
    (PeerKind::HeartbeatResponse, MessageType::MsgHeartbeatResponse),
    (PeerKind::TimeoutNow, MessageType::MsgTimeoutNow),
    (PeerKind::TransferLeader, MessageType::MsgTransferLeader),
    (PeerKind::ReadIndex, MessageType::MsgReadIndex),
    (PeerKind::ReadIndexResponse, MessageType::MsgReadIndexResp),
];

/// `None` for what is never sent: there are no snapshots.
fn from_message(mut message: Message) -> Option<PeerMessage> {
    let kind = KINDS.iter().find(|(_, engine)| *engine == message.get_msg_type())?.0;
    let entries = message.take_entries().into_iter().map(from_engine).collect();
    Some(PeerMessage {
        kind,
        from: message.from,
        to: message.to,
        term: message.term,
        log_term: message.log_term,
        index: message.index,
        commit: message.commit,
        commit_term: message.commit_term,
        reject: message.reject,
        reject_hint: message.reject_hint,
        context: message.context,
        entries,
    })
}

fn message_to_engine(peer: PeerMessage) -> Message {
    let kind = KINDS.iter().find(|(kind, _)| *kind == peer.kind).expect("all kinds are there").1;
    let mut message = Message {
        from: peer.from,
        to: peer.to,
        term: peer.term,
        log_term: peer.log_term,
        index: peer.index,
        commit: peer.commit,
        commit_term: peer.commit_term,
        reject: peer.reject,
        reject_hint: peer.reject_hint,
        context: peer.context,
        ..Message::default()
    };
    message.set_msg_type(kind);
    message.set_entries(peer.entries.into_iter().map(to_engine).collect::<Vec<_>>().into());
    message
}
