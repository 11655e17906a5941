//! The partition core: one `step`, no waiting.

use std::sync::Arc;

use actadb_model::ids::PartitionId;
use actadb_model::keys::{Facts, Keys};
use actadb_model::names::StreamId;
use actadb_model::numbered::Numbered;
use actadb_model::outcome::{AppendResult, ClosedReason, Refusal, RefusedReason};
use actadb_model::probe::{Mistake, made};
use actadb_model::time::Now;
use actadb_model::transaction::Transaction;
use smallvec::{SmallVec, smallvec};
use uuid::Uuid;

use crate::decide::{Position, decide};
use crate::heads::Heads;
use crate::held::{Decided, Held, HeldMessage};
use crate::id_generator::IdGenerator;
use crate::message::{FetchId, FromReplica, Input, Output, Token};
use crate::parking::{Message, Parking};

/// Rules of appends that a configuration sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Refuse `any`, `exists` and absence as an expected version.
    pub strict_versioning: bool,
    /// Largest transaction, as its `size_bytes` counts.
    pub max_transaction_bytes: u64,
    /// Committed heads kept in memory.
    pub cached_heads: usize,
}

/// What a core must know to begin with.
#[derive(Clone, Copy, Debug)]
pub struct Start {
    /// Its partition.
    pub partition: PartitionId,
    /// The rules of appends.
    pub rules: Rules,
    /// Generated ids are later than this, in nanoseconds since 1970.
    pub id_floor_ns: u64,
    /// Seed of the random bits in generated ids.
    pub seed: u64,
}

/// What an operator wants to see of a partition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Messages whose answer waits for a commit or a sync.
    pub held: usize,
    /// When the oldest of them came, by the monotonic clock.
    pub oldest_held_ns: Option<u64>,
    /// Messages that wait for facts.
    pub parked: usize,
    /// Heads in memory.
    pub heads: usize,
    /// Whether it numbers appends.
    pub leads: bool,
}

#[derive(Debug)]
enum Role {
    Following,
    Leading,
    /// Refused from here on: nothing is decided until all below is committed.
    Pausing {
        from: u64,
        reason: RefusedReason,
    },
    Closed(ClosedReason),
}

/// One partition's decisions.
///
/// Invariants: `committed <= next_sequence`; every sequence from `committed` to `next_sequence` is
/// in the heads as uncommitted; nothing is answered before what it rests on is committed.
#[derive(Debug)]
pub struct PartitionCore {
    partition: PartitionId,
    rules: Rules,
    role: Role,
    epoch: u64,
    next_sequence: u64,
    /// The sequence behind the last committed one.
    committed: u64,
    /// The sequence behind the last synced one.
    synced: u64,
    /// Raised whenever the heads are forgotten; makes facts of before stale.
    generation: u64,
    last_decided_ns: u64,
    heads: Heads,
    ids: IdGenerator,
    parking: Parking,
    held: Held,
}

impl PartitionCore {
    /// A core that follows until it is told to lead.
    #[must_use]
    pub fn new(start: Start) -> Self {
        Self {
            partition: start.partition,
            rules: start.rules,
            role: Role::Following,
            epoch: 0,
            next_sequence: 0,
            committed: 0,
            synced: 0,
            generation: 0,
            last_decided_ns: start.id_floor_ns,
            heads: Heads::new(start.rules.cached_heads),
            ids: IdGenerator::new(start.id_floor_ns, start.seed),
            parking: Parking::default(),
            held: Held::default(),
        }
    }

    /// Takes one input and says what to do. Every output may be performed at once, in order.
    pub fn step(&mut self, now: Now, input: Input, out: &mut Vec<Output>) {
        match input {
            Input::Append { token, connection, transactions } => {
                self.append(now, token, connection, transactions, out);
            }
            Input::Facts { fetch, facts } => self.facts(now, fetch, facts, out),
            Input::Replica(message) => self.replica(message, out),
        }
    }

    /// What an operator wants to see.
    #[must_use]
    pub fn stats(&self) -> Stats {
        Stats {
            held: self.held.len(),
            oldest_held_ns: self.held.oldest_ns(),
            parked: self.parking.len(),
            heads: self.heads.cached(),
            leads: matches!(self.role, Role::Leading | Role::Pausing { .. }),
        }
    }

    fn append(
        &mut self,
        now: Now,
        token: Token,
        connection: u64,
        transactions: Vec<Transaction>,
        out: &mut Vec<Output>,
    ) {
        match &self.role {
            Role::Following => {
                out.push(refuse_all(token, &transactions, &Refusal::NotLeader));
            }
            Role::Closed(reason) => {
                let refusal = Refusal::Closed(reason.clone());
                out.push(refuse_all(token, &transactions, &refusal));
            }
            // What is below may take its time on a full disk: a definite answer now is worth more
            // than a place in a queue.
            Role::Pausing { reason, .. } => {
                out.push(refuse_all(token, &transactions, &(*reason).into()));
            }
            // Nearly always nobody waits, and nothing is lacking.
            Role::Leading if self.parking.is_empty() && self.heads.knows_all(&transactions) => {
                self.decide_message(now, token, now.mono_ns, transactions, out);
            }
            Role::Leading => {
                let message = Message::new(token, connection, now.mono_ns, transactions);
                if self.parking.blocks(&message) || self.lacks(&message) {
                    let ticket = self.parking.park(message);
                    self.advance(now, smallvec![ticket], out);
                } else {
                    let Message { since_ns, transactions, .. } = message;
                    self.decide_message(now, token, since_ns, transactions, out);
                }
            }
        }
    }

    /// Whether the core does not know all that a message needs.
    fn lacks(&self, message: &Message) -> bool {
        message.streams.iter().any(|stream| !self.heads.knows_stream(stream))
            || message.event_ids.iter().any(|id| !self.heads.knows_id(*id))
    }

    /// What a message needs and the core does not know.
    fn lacking(&self, message: &Message) -> Keys {
        let streams = message.streams.iter().filter(|s| !self.heads.knows_stream(s));
        let ids = message.event_ids.iter().filter(|id| !self.heads.knows_id(**id));
        Keys { streams: streams.cloned().collect(), event_ids: ids.copied().collect() }
    }

    /// Decides the parked messages that can be, and asks for what the others lack; then looks at
    /// those that stood behind them.
    fn advance(&mut self, now: Now, mut tickets: SmallVec<[u64; 4]>, out: &mut Vec<Output>) {
        while let Some(ticket) = tickets.pop() {
            if !self.parking.is_next(ticket) {
                continue;
            }
            let Some(message) = self.parking.get(ticket) else { continue };
            let keys = self.lacking(message);
            if !keys.is_empty() {
                self.parking.set_asking(ticket, true);
                let fetch = FetchId { generation: self.generation, ticket };
                out.push(Output::Fetch { fetch, keys });
                continue;
            }
            if let Some((message, behind)) = self.parking.take(ticket) {
                let Message { token, since_ns, transactions, streams, event_ids, .. } = message;
                self.decide_message(now, token, since_ns, transactions, out);
                self.forget_fetched(&streams, &event_ids);
                // The earliest is looked at first: it is popped last-in first-out.
                tickets.extend(behind.into_iter().rev());
            }
        }
    }

    fn facts(
        &mut self,
        now: Now,
        fetch: FetchId,
        facts: Result<Facts, String>,
        out: &mut Vec<Output>,
    ) {
        let stale = fetch.generation != self.generation && !made(Mistake::StaleFetchUsed);
        if stale || !matches!(self.role, Role::Leading) {
            return;
        }
        self.parking.set_asking(fetch.ticket, false);
        match facts {
            Ok(facts) => {
                for (stream, fact) in facts.streams {
                    self.heads.learn_stream(stream, fact);
                }
                for (id, owner) in facts.event_ids {
                    self.heads.learn_id(id, owner);
                }
                self.advance(now, smallvec![fetch.ticket], out);
            }
            Err(error) => {
                if let Some((message, behind)) = self.parking.take(fetch.ticket) {
                    let refusal = Refusal::ReadFailed(error);
                    out.push(refuse_all(message.token, &message.transactions, &refusal));
                    self.forget_fetched(&message.streams, &message.event_ids);
                    self.advance(now, behind.into_iter().rev().collect(), out);
                }
            }
        }
    }

    /// Decides a message whole, in order.
    fn decide_message(
        &mut self,
        now: Now,
        token: Token,
        since_ns: u64,
        transactions: Vec<Transaction>,
        out: &mut Vec<Output>,
    ) {
        let mut results = SmallVec::with_capacity(transactions.len());
        for transaction in transactions {
            self.last_decided_ns = self.last_decided_ns.max(now.unix_ns);
            let position = Position {
                partition: self.partition,
                next_sequence: self.next_sequence,
                decided_ns: self.last_decided_ns,
            };
            let result =
                decide(&self.rules, &mut self.heads, &mut self.ids, &position, now, transaction);
            if let Decided::Proposed(numbered) = &result.decided {
                self.propose(numbered, result.durable, out);
            }
            results.push(result);
        }
        let held = HeldMessage { token, since_ns, results };
        self.held.hold(held, self.committed, self.synced, out);
    }

    fn propose(&mut self, numbered: &Arc<Numbered>, durable: bool, out: &mut Vec<Output>) {
        self.next_sequence = numbered.last_sequence() + 1;
        self.heads.fold(numbered);
        out.push(Output::Propose { epoch: self.epoch, numbered: numbered.clone(), durable });
    }

    fn replica(&mut self, message: FromReplica, out: &mut Vec<Output>) {
        if matches!(self.role, Role::Closed(_)) {
            return;
        }
        match message {
            FromReplica::Lead { epoch, next_sequence, time_ns, tail, shared } => {
                self.last_decided_ns = self.last_decided_ns.max(time_ns);
                self.ids.raise(time_ns);
                self.lead(epoch, next_sequence, &tail, out);
                self.held.confirms = shared;
            }
            FromReplica::Refused { epoch, from, reason } if epoch == self.epoch => {
                self.refused(from, reason, out);
            }
            FromReplica::Refused { .. } => {}
            FromReplica::Committed { through, synced } => {
                self.committed = self.committed.max(through + 1);
                if synced {
                    self.synced = self.synced.max(through + 1);
                }
                self.heads.commit(self.committed);
                self.evict();
                self.held.release(self.committed, self.synced, out);
                self.resume();
            }
            FromReplica::Synced { through } => {
                self.synced = self.synced.max(through + 1);
                self.held.release(self.committed, self.synced, out);
            }
            FromReplica::Confirmed { number } => self.held.confirmed(number, out),
            FromReplica::Follow => {
                self.role = Role::Following;
                self.abandon(&Refusal::NotLeader, out);
            }
            FromReplica::Closed(reason) => {
                self.abandon(&Refusal::Closed(reason.clone()), out);
                self.role = Role::Closed(reason);
            }
        }
    }

    fn lead(
        &mut self,
        epoch: u64,
        next_sequence: u64,
        tail: &[Arc<Numbered>],
        out: &mut Vec<Output>,
    ) {
        // A leader that is told to lead again lost the lead in between.
        self.abandon(&Refusal::NotLeader, out);
        self.epoch = epoch;
        self.next_sequence = next_sequence;
        self.committed = tail.first().map_or(next_sequence, |first| first.first_sequence);
        self.synced = self.committed;
        for numbered in tail {
            self.heads.fold(numbered);
        }
        self.role = Role::Leading;
    }

    fn refused(&mut self, from: u64, reason: RefusedReason, out: &mut Vec<Output>) {
        assert!(
            from >= self.committed && from <= self.next_sequence,
            "refused from {from}, committed {}, next {}",
            self.committed,
            self.next_sequence
        );
        self.next_sequence = from;
        self.heads.refuse(from);
        self.refuse_parked(&reason.into(), out);
        self.held.refuse(from, reason, self.committed, self.synced, out);
        if made(Mistake::NumberReusedAfterRefusal) {
            return;
        }
        if reason == RefusedReason::NotLeader {
            // What would be decided before the lead is taken away would be in no entry either.
            self.role = Role::Following;
            return;
        }
        self.role = Role::Pausing { from, reason };
        self.resume();
    }

    /// Goes on after a refusal, once everything below it is committed.
    fn resume(&mut self) {
        let Role::Pausing { from, .. } = self.role else { return };
        if self.committed < from {
            return;
        }
        self.forget();
        self.role = Role::Leading;
    }

    /// Forgets what only one decision needed.
    fn forget_fetched(&mut self, streams: &[StreamId], ids: &[Uuid]) {
        self.heads.forget_fetched(streams, ids);
        self.evict();
    }

    fn evict(&mut self) {
        let parking = &self.parking;
        self.heads.evict(&|stream| parking.needs_stream(stream));
    }

    /// Forgets heads and ids; facts that are on their way are stale.
    fn forget(&mut self) {
        self.heads.clear();
        self.generation += 1;
    }

    fn refuse_parked(&mut self, refusal: &Refusal, out: &mut Vec<Output>) {
        for ticket in self.parking.tickets() {
            if let Some((message, _)) = self.parking.take(ticket) {
                out.push(refuse_all(message.token, &message.transactions, refusal));
            }
        }
    }

    /// Answers everything that is parked or held.
    fn abandon(&mut self, refusal: &Refusal, out: &mut Vec<Output>) {
        self.refuse_parked(refusal, out);
        self.held.abandon(refusal, self.committed, self.synced, out);
        self.forget();
    }
}

/// Answers a message with one refusal for all of it.
fn refuse_all(token: Token, transactions: &[Transaction], refusal: &Refusal) -> Output {
    let results: Vec<AppendResult> =
        transactions.iter().map(|_| Err(refusal.clone().into())).collect();
    Output::Answer { token, results }
}
