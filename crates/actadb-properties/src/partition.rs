//! The partition core: whatever appends, facts and messages of a replica come in whatever order
//! the contracts allow, appends are numbered without gaps and as they asked, answered once, and
//! not before what the answer rests on is committed (and synced, where asked). When all that is
//! under way has arrived, everybody has an answer.

mod replica;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use actadb_model::ids::{PartitionId, PartitionKey, hash16, with_hash16};
use actadb_model::keys::{Facts, Keys};
use actadb_model::names::{EventName, StreamId};
use actadb_model::numbered::Numbered;
use actadb_model::outcome::{
    AppendError, AppendResult, Appended, ClosedReason, Refusal, RefusedReason,
};
use actadb_model::time::Now;
use actadb_model::transaction::{NewEvent, Transaction};
use actadb_model::version::ExpectedVersion;
use actadb_partition::core::{PartitionCore, Rules, Start};
use actadb_partition::message::{FetchId, FromReplica, Input, Output, Token};
use bytes::Bytes;
use uuid::Uuid;

use crate::script::Script;
use replica::{Replica, ToReplica};

pub(crate) const PARTITION: PartitionId = PartitionId(3);
/// The hash in all ids and keys.
const HASH: u16 = 3;
/// The last ones are not where they are asked for, see [`Replica::fact`].
const STREAMS: [&str; 7] = ["a", "b", "c", "d", "old", "last", "elsewhere"];
const STEPS_MAX: usize = 400;

pub(crate) fn key(number: usize) -> PartitionKey {
    PartitionKey::new(with_hash16(Uuid::from_u128(number as u128 + 1), HASH))
}

/// Ids that clients choose are few, so that they are chosen again.
pub(crate) fn id(number: usize) -> Uuid {
    with_hash16(Uuid::from_u128(number as u128 + 100), HASH)
}

pub(crate) fn stream(number: usize) -> StreamId {
    StreamId::new(STREAMS[number % STREAMS.len()]).expect("a stream id")
}

/// Plays a script of appends, facts and replica messages.
///
/// # Panics
/// When the property does not hold.
pub fn check(data: &[u8]) {
    let mut script = Script::new(data);
    let rules = Rules {
        strict_versioning: script.one_in(8),
        max_transaction_bytes: 2000,
        cached_heads: [100, 3, 1, 0][script.below(4)],
    };
    let mut world = World::new(rules);
    if !script.one_in(8) {
        world.replica.lead(&mut Script::new(&[]));
        world.deliver();
    }
    for _ in 0..STEPS_MAX {
        if script.is_empty() {
            break;
        }
        world.step(&mut script);
    }
    world.settle();
    world.close();
}

/// A message that waits for its answer.
struct Sent {
    /// Each with the number that its events carry as their timestamp.
    transactions: Vec<(u64, Transaction)>,
}

struct Question {
    fetch: FetchId,
    keys: Keys,
    /// Read from the committed state of some moment, and on their way since.
    facts: Option<Facts>,
}

/// What the core may do, as far as it has been told.
#[derive(PartialEq, Eq)]
enum Role {
    Following,
    Leading,
    Pausing(u64),
    Closed,
}

struct World {
    core: PartitionCore,
    rules: Rules,
    now: Now,
    replica: Replica,
    to_replica: std::collections::VecDeque<ToReplica>,
    questions: Vec<Question>,
    sent: BTreeMap<Token, Sent>,
    next_token: u64,
    next_tag: u64,
    /// What was sent, for retries.
    history: Vec<Transaction>,
    /// Which connection sent what carries this number.
    connections: BTreeMap<u64, u64>,
    /// The last number of each connection that the log took.
    last_taken: BTreeMap<u64, u64>,
    /// Numbers of transactions that were refused for certain.
    refused: BTreeSet<u64>,
    role: Role,
    epoch: u64,
    /// The next sequence that may be proposed.
    next: u64,
    /// Sequences behind the last ones that the core knows committed and synced.
    committed: u64,
    synced: u64,
    decided_ns: u64,
    /// Whether this step may leave outcomes unknown.
    losing: bool,
    /// Tokens below this one were sent before the replica last refused something or lost the lead.
    refused_below: u64,
}

impl World {
    fn new(rules: Rules) -> Self {
        let start = Start { partition: PARTITION, rules, id_floor_ns: 0, seed: 1 };
        Self {
            core: PartitionCore::new(start),
            rules,
            now: Now { mono_ns: 0, unix_ns: 1_700_000_000_000_000_000 },
            replica: Replica::new(),
            to_replica: Default::default(),
            questions: Vec::new(),
            sent: BTreeMap::new(),
            next_token: 0,
            next_tag: 1,
            history: Vec::new(),
            connections: BTreeMap::new(),
            last_taken: BTreeMap::new(),
            refused: BTreeSet::new(),
            role: Role::Following,
            epoch: 0,
            next: 0,
            committed: 0,
            synced: 0,
            decided_ns: 0,
            losing: false,
            refused_below: 0,
        }
    }

    fn step(&mut self, script: &mut Script<'_>) {
        match script.byte() % 32 {
            0..=8 => self.append(script),
            9..=13 => self.deliver(),
            14..=18 => self.propose(),
            19..=21 => self.read_facts(script.byte().into()),
            22..=24 => self.answer_question(script.byte().into()),
            25 => self.fail_question(script.byte().into()),
            26..=27 => {
                let (entries, synced) = (script.below(3) + 1, script.coin());
                self.replica.commit(entries, synced);
            }
            28 => self.replica.sync(),
            29 => self.replica.refuse(script.byte().into()),
            30 => {
                self.replica.lead(script);
            }
            _ => {
                // Clocks may jump, and the one that orders may not.
                self.now.unix_ns = match script.byte() {
                    back @ 0..=127 => self.now.unix_ns - u64::from(back) * 1_000_000,
                    on => self.now.unix_ns + u64::from(on) * 1_000_000,
                };
            }
        }
    }

    fn append(&mut self, script: &mut Script<'_>) {
        let connection = script.below(3) as u64;
        let mut transactions = Vec::new();
        for _ in 0..[1, 1, 1, 2, 3][script.below(5)] {
            let retry = script.byte();
            let made = match self.history.len() {
                sent @ 1.. if retry >= 200 => Some(self.history[usize::from(retry) % sent].clone()),
                _ => transaction(script),
            };
            if let Some(made) = made {
                self.history.push(made.clone());
                let tag = self.next_tag;
                self.next_tag += 1;
                self.connections.insert(tag, connection);
                transactions.push((tag, tagged(made, tag)));
            }
        }
        if transactions.is_empty() {
            return;
        }
        let token = Token(self.next_token);
        self.next_token += 1;
        let given = transactions.iter().map(|(_, transaction)| transaction.clone()).collect();
        self.sent.insert(token, Sent { transactions });
        self.input(Input::Append { token, connection, transactions: given });
    }

    /// The core is told what the replica said next.
    fn deliver(&mut self) {
        let Some(message) = self.replica.to_partition.pop_front() else { return };
        match &message {
            FromReplica::Lead { epoch, next_sequence, tail, .. } => {
                let committed = tail.first().map_or(*next_sequence, |first| first.first_sequence);
                (self.committed, self.synced) = (committed, committed);
                (self.epoch, self.next, self.role) = (*epoch, *next_sequence, Role::Leading);
                self.losing = true;
            }
            FromReplica::Refused { epoch, from, reason } if *epoch == self.epoch => {
                let role = match reason {
                    RefusedReason::NoRoom => Role::Pausing(*from),
                    RefusedReason::NotLeader => Role::Following,
                };
                (self.next, self.role) = (*from, role);
                self.refused_below = self.next_token;
            }
            FromReplica::Refused { .. } | FromReplica::Confirmed { .. } => {}
            FromReplica::Committed { through, synced } => {
                self.committed = self.committed.max(through + 1);
                if *synced {
                    self.synced = self.synced.max(through + 1);
                }
            }
            FromReplica::Synced { through } => self.synced = self.synced.max(through + 1),
            FromReplica::Follow => (self.role, self.losing) = (Role::Following, true),
            FromReplica::Closed(_) => (self.role, self.losing) = (Role::Closed, true),
        }
        if let Role::Pausing(from) = self.role
            && self.committed >= from
        {
            self.role = Role::Leading;
        }
        if self.losing {
            self.refused_below = self.next_token;
        }
        self.input(Input::Replica(message));
        self.losing = false;
    }

    /// The replica takes the next proposal, or passes over it.
    fn propose(&mut self) {
        match self.to_replica.pop_front() {
            Some(ToReplica::WantSync) => self.replica.sync_wanted = true,
            Some(ToReplica::Propose { epoch, numbered, transaction, durable }) => {
                if !self.replica.accepts(epoch, &numbered) {
                    return;
                }
                let tag = tag_of(&numbered);
                assert!(!self.refused.contains(&tag), "what was refused is appended");
                let connection = self.connections[&tag];
                let before = self.last_taken.insert(connection, tag);
                assert!(before.is_none_or(|before| before < tag), "a connection lost its order");
                self.replica.take(numbered, &transaction, durable);
            }
            None => {}
        }
    }

    fn read_facts(&mut self, which: usize) {
        let mut unread = self.questions.iter_mut().filter(|question| question.facts.is_none());
        let count = unread.by_ref().count();
        let mut unread = self.questions.iter_mut().filter(|question| question.facts.is_none());
        if let Some(question) = unread.nth(which % count.max(1)) {
            question.facts = Some(self.replica.facts(&question.keys));
        }
    }

    fn answer_question(&mut self, which: usize) {
        let read = |question: &Question| question.facts.is_some();
        let all: Vec<usize> =
            (0..self.questions.len()).filter(|n| read(&self.questions[*n])).collect();
        let Some(at) = all.get(which % all.len().max(1)) else { return };
        let Question { fetch, facts, .. } = self.questions.remove(*at);
        let facts = Ok(facts.expect("those that were read"));
        self.input(Input::Facts { fetch, facts });
    }

    fn fail_question(&mut self, which: usize) {
        if self.questions.is_empty() {
            return;
        }
        let Question { fetch, .. } = self.questions.remove(which % self.questions.len());
        self.input(Input::Facts { fetch, facts: Err("the device said no".into()) });
    }

    fn input(&mut self, input: Input) {
        self.now.mono_ns += 1;
        let mut out = Vec::new();
        self.core.step(self.now, input, &mut out);
        for output in out {
            match output {
                Output::Fetch { fetch, keys } => self.asked(fetch, keys),
                Output::Propose { epoch, numbered, durable } => {
                    self.proposed(epoch, numbered, durable);
                }
                Output::Confirm { .. } => panic!("nobody else votes here"),
                Output::WantSync => self.to_replica.push_back(ToReplica::WantSync),
                Output::Answer { token, results } => self.answered(token, results),
            }
        }
    }

    fn asked(&mut self, fetch: FetchId, keys: Keys) {
        assert!(self.role == Role::Leading && !keys.is_empty());
        // A question may be asked again when its answer is here; not while it is out.
        let out = |question: &Question| question.fetch == fetch;
        assert!(!self.questions.iter().any(out), "{fetch} is asked twice");
        let distinct: BTreeSet<_> = keys.streams.iter().collect();
        assert_eq!(distinct.len(), keys.streams.len());
        self.questions.push(Question { fetch, keys, facts: None });
    }

    fn proposed(&mut self, epoch: u64, numbered: Arc<Numbered>, durable: bool) {
        assert!(self.role == Role::Leading, "numbered without the lead");
        assert_eq!((epoch, numbered.first_sequence), (self.epoch, self.next), "a gap");
        self.next = numbered.last_sequence() + 1;
        assert!(numbered.decided_ns >= self.decided_ns, "time fell");
        self.decided_ns = numbered.decided_ns;
        assert_eq!(numbered.partition, PARTITION);
        assert_eq!(hash16(numbered.transaction_id), HASH);
        let tag = tag_of(&numbered);
        let sent = self.sent.values().flat_map(|sent| &sent.transactions);
        let sent = sent.into_iter().find(|(of, _)| *of == tag);
        let (_, transaction) = sent.expect("proposed before it is answered");
        assert_eq!(durable, transaction.is_durable());
        let transaction = transaction.clone();
        self.to_replica.push_back(ToReplica::Propose { epoch, numbered, transaction, durable });
    }

    fn answered(&mut self, token: Token, results: Vec<AppendResult>) {
        let Some(sent) = self.sent.remove(&token) else { panic!("{token:?} is answered twice") };
        assert_eq!(results.len(), sent.transactions.len());
        for ((tag, transaction), result) in sent.transactions.iter().zip(results) {
            match result {
                Ok(appended) => self.is_true(&appended, transaction),
                Err(AppendError::Unknown(_)) => {
                    assert!(self.losing, "unknown, and nothing was lost");
                }
                Err(AppendError::Refused(refusal)) => {
                    assert!(!self.replica.has_tag(*tag), "{refusal}: but it is appended");
                    self.refused.insert(*tag);
                    self.is_justified(&refusal, token);
                }
            }
        }
    }

    /// Positions are those of a committed transaction that is what was asked for.
    fn is_true(&self, appended: &Appended, asked: &Transaction) {
        let last = appended.last_sequence();
        assert!(last < self.committed, "answered before it is committed");
        assert!(!asked.is_durable() || last < self.synced, "answered before it is synced");
        let stored = self.replica.at(appended.first_sequence).expect("it is in the log");
        assert_eq!(stored.transaction_id, appended.transaction_id);
        assert_eq!(stored.partition_key, appended.partition_key);
        let told = appended.events.iter().map(|e| (e.id, &e.stream, e.version, e.timestamp_ns));
        let events = stored.events.iter();
        assert!(told.eq(events.map(|e| (e.id, &e.stream, e.version, e.timestamp_ns))));
        assert_eq!(stored.events.len(), asked.events().len());
        for (stored, asked) in stored.events.iter().zip(asked.events()) {
            assert!(asked.id.is_none_or(|id| id == stored.id));
            let same = (&stored.stream, &stored.name, &stored.payload);
            assert_eq!(same, (&asked.stream, &asked.name, &asked.payload));
        }
    }

    /// What a refusal tells of the log is committed; facts may know more than the core was told.
    fn is_justified(&self, refusal: &Refusal, token: Token) {
        let committed = |stream: &StreamId, version: u64| {
            let is_committed = self.replica.is_committed(stream, version);
            assert!(is_committed, "{refusal}: not committed");
        };
        match refusal {
            Refusal::WrongVersion { stream, current: Some(version), .. } => {
                committed(stream, *version);
            }
            Refusal::Duplicate { stream, version, id } => {
                committed(stream, *version);
                assert!(self.replica.has_id(*id));
            }
            // Perhaps the last version was given to an event before, in the same transaction.
            Refusal::Exhausted { stream } => committed(stream, u64::MAX - 1),
            Refusal::NotStrict { .. } => assert!(self.rules.strict_versioning),
            Refusal::NotLeader | Refusal::NoRoom => {
                // One of several transactions may have been refused long before the answer.
                assert!(token.0 < self.refused_below || self.role != Role::Leading);
            }
            Refusal::Closed(_) => assert!(self.role == Role::Closed),
            _ => {}
        }
    }

    /// Everything that is under way arrives; then everybody has an answer.
    fn settle(&mut self) {
        if !self.replica.leads() {
            self.replica.lead(&mut Script::new(&[]));
        }
        for _ in 0..10_000 {
            let quiet =
                self.to_replica.is_empty() && self.questions.is_empty() && self.replica.is_quiet();
            if quiet {
                break;
            }
            self.deliver();
            self.propose();
            self.read_facts(0);
            self.answer_question(0);
            self.replica.commit(1, false);
            // Nobody syncs unless somebody waits for it.
            if self.replica.sync_wanted && self.to_replica.is_empty() {
                self.replica.sync();
            }
        }
        let open: Vec<_> = self.sent.keys().collect();
        assert!(open.is_empty(), "never answered: {open:?}");
        let stats = self.core.stats();
        assert_eq!((stats.held, stats.parked), (0, 0));
        assert!(stats.heads <= self.rules.cached_heads, "{} heads are kept", stats.heads);
    }

    fn close(&mut self) {
        let reason = ClosedReason::DiskFailed("sync".into());
        self.replica.to_partition.push_back(FromReplica::Closed(reason));
        self.deliver();
        // It is answered, and there is no way back.
        self.append(&mut Script::new(&[0, 0, 0, 1, 0, 0]));
        self.replica.lead(&mut Script::new(&[]));
        while let Some(message) = self.replica.to_partition.pop_front() {
            self.input(Input::Replica(message));
        }
        self.append(&mut Script::new(&[0, 0, 0, 1, 0, 0]));
        assert!(self.sent.is_empty());
    }
}

/// The number that a transaction of ours carries in its first event's timestamp.
fn tag_of(numbered: &Numbered) -> u64 {
    numbered.events[0].timestamp_ns / 1_000_000
}

fn tagged(transaction: Transaction, tag: u64) -> Transaction {
    let (key, durable) = (transaction.partition_key(), transaction.is_durable());
    let mut events = transaction.into_events();
    events[0].timestamp_ms = Some(tag);
    Transaction::new(key, events).expect("only a timestamp changed").durable(durable)
}

fn transaction(script: &mut Script<'_>) -> Option<Transaction> {
    let count = [1, 1, 2, 3][script.below(4)];
    let under = if script.one_in(8) { 1 } else { 0 };
    let durable = script.byte() % 4 == 3;
    let events = (0..count).map(|_| {
        let choice = script.byte();
        let mut event = NewEvent::new(
            stream(usize::from(choice)),
            EventName::new(if choice >= 250 { "Other" } else { "N" }).expect("a name"),
        );
        event.expected = match script.byte() {
            0..=127 => ExpectedVersion::Any,
            128..=150 => ExpectedVersion::Exists,
            151..=190 => ExpectedVersion::Empty,
            edge @ 191..=195 => ExpectedVersion::Exact(u64::MAX - u64::from(edge - 191)),
            exact => ExpectedVersion::Exact(u64::from(exact - 196) % 8),
        };
        match script.byte() {
            given @ 0..=99 => event.id = Some(id(usize::from(given % 6))),
            100..=102 => event.payload = Bytes::from_static(&[7; 2500]),
            103..=120 => event.payload = Bytes::from_static(b"p"),
            _ => {}
        }
        event
    });
    // An id may be twice in one transaction; that one cannot exist.
    let made = Transaction::new(key(under), events.collect()).ok()?;
    Some(made.durable(durable))
}
