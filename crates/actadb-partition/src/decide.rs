//! One transaction against what is known: the rules of an append, in the order they are checked.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use actadb_model::ids::{PartitionId, PartitionKey};
use actadb_model::keys::StreamFact;
use actadb_model::names::StreamId;
use actadb_model::numbered::{Numbered, NumberedEvent};
use actadb_model::outcome::Refusal;
use actadb_model::probe::{Mistake, made};
use actadb_model::time::Now;
use actadb_model::transaction::{NewEvent, Transaction};
use smallvec::SmallVec;

use crate::core::Rules;
use crate::heads::Heads;
use crate::held::{Decided, HeldResult};
use crate::id_generator::IdGenerator;

/// Where the next event of the partition goes.
pub(crate) struct Position {
    pub(crate) partition: PartitionId,
    pub(crate) next_sequence: u64,
    pub(crate) decided_ns: u64,
}

/// Decides a transaction; all its keys are known. A refusal rests on the uncommitted state of the
/// streams and ids it looked at, and is held until that is committed.
pub(crate) fn decide(
    rules: &Rules,
    heads: &mut Heads,
    ids: &mut IdGenerator,
    position: &Position,
    now: Now,
    transaction: Transaction,
) -> HeldResult {
    let durable = transaction.is_durable();
    // First of all: rules may have become stricter since it was appended, and a retry is told where
    // it is, whatever they say today.
    if let Some(known) = known_ids(heads, &transaction) {
        return HeldResult {
            durable: durable && !matches!(known.decided, Decided::Bad(_)),
            ..known
        };
    }
    if let Some(refusal) = refuse_alone(rules, &transaction) {
        return HeldResult { decided: Decided::Bad(refusal), until: 0, durable: false };
    }
    match number(heads, ids, position, now, transaction) {
        Ok(numbered) => {
            let numbered = Arc::new(numbered);
            let until = numbered.last_sequence() + 1;
            HeldResult { decided: Decided::Proposed(numbered), until, durable }
        }
        Err((refusal, until)) => {
            let until = if made(Mistake::ConflictBeforeCommit) { 0 } else { until };
            HeldResult { decided: Decided::Bad(refusal), until, durable: false }
        }
    }
}

/// Rules that need no facts.
fn refuse_alone(rules: &Rules, transaction: &Transaction) -> Option<Refusal> {
    let (size_bytes, limit_bytes) = (transaction.size_bytes(), rules.max_transaction_bytes);
    if size_bytes > limit_bytes {
        return Some(Refusal::TooLarge { size_bytes, limit_bytes });
    }
    let lax = transaction.events().iter().find(|event| !event.expected.is_strict());
    lax.filter(|_| rules.strict_versioning)
        .map(|event| Refusal::NotStrict { stream: event.stream.clone(), expected: event.expected })
}

/// A transaction whose event ids are taken: a retry of the append that took them, or a duplicate.
/// `None` when none is taken.
fn known_ids(heads: &Heads, transaction: &Transaction) -> Option<HeldResult> {
    if made(Mistake::RetryAppendedAgain) {
        return None;
    }
    let events = transaction.events();
    let taken = events.iter().filter_map(|event| event.id);
    let (id, owner) = taken.filter_map(|id| Some((id, heads.owner_of(id)?))).next()?;
    let same = owner.events.len() == events.len()
        && owner.events.iter().zip(events).all(|(stored, given)| {
            given.id == Some(stored.id)
                && given.stream == stored.stream
                && given.name == stored.name
                && given.payload == stored.payload
                && given.metadata == stored.metadata
        });
    let until = owner.last_sequence() + 1;
    if same {
        return Some(HeldResult {
            decided: Decided::Replayed(owner.clone()),
            until,
            durable: false,
        });
    }
    let stored = owner.events.iter().find(|stored| stored.id == id)?;
    let refusal = Refusal::Duplicate { id, stream: stored.stream.clone(), version: stored.version };
    Some(HeldResult { decided: Decided::Bad(refusal), until, durable: false })
}

/// What is known of a stream, with the versions this transaction has given already.
struct Current {
    /// Before the transaction: what a conflict tells, as the rest of it never was.
    before: Option<u64>,
    version: Option<u64>,
    uncommitted_until: u64,
}

/// Checks keys and versions and numbers the events; a refusal comes with the sequence behind the
/// last one it rests on.
fn number(
    heads: &mut Heads,
    ids: &mut IdGenerator,
    position: &Position,
    now: Now,
    transaction: Transaction,
) -> Result<Numbered, (Refusal, u64)> {
    let partition_key = transaction.partition_key();
    let mut versions: SmallVec<[u64; 1]> = SmallVec::new();
    if let [only] = transaction.events() {
        // Nearly always; it needs no table.
        let mut current = current_of(heads, &only.stream, partition_key)?;
        versions.push(next_version(&mut current, only, partition_key)?);
    } else {
        let mut streams: HashMap<&StreamId, Current> = HashMap::new();
        for event in transaction.events() {
            let current = match streams.entry(&event.stream) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(new) => new.insert(current_of(heads, &event.stream, partition_key)?),
            };
            versions.push(next_version(current, event, partition_key)?);
        }
    }

    let hash = partition_key.hash16();
    let key_is_default = transaction.key_is_default();
    let decided_ns = position.decided_ns;
    let events: Vec<NumberedEvent> = transaction
        .into_events()
        .into_iter()
        .zip(versions)
        .map(|(event, version)| NumberedEvent {
            id: event.id.unwrap_or_else(|| ids.next(now.unix_ns, hash)),
            stream: event.stream,
            version,
            name: event.name,
            timestamp_ns: event.timestamp_ms.map_or(decided_ns, |ms| ms * 1_000_000),
            payload: event.payload,
            metadata: event.metadata,
        })
        .collect();
    let transaction_id = match events.as_slice() {
        [only] => only.id,
        _ => ids.next(now.unix_ns, hash),
    };
    Ok(Numbered {
        partition: position.partition,
        partition_key,
        key_is_default,
        transaction_id,
        first_sequence: position.next_sequence,
        decided_ns,
        events,
    })
}

/// The version an event gets, when its stream is where it expects it.
fn next_version(
    current: &mut Current,
    event: &NewEvent,
    partition_key: PartitionKey,
) -> Result<u64, (Refusal, u64)> {
    if !event.expected.holds(current.version) {
        let refusal = Refusal::WrongVersion {
            stream: event.stream.clone(),
            partition_key,
            expected: event.expected,
            current: current.before,
        };
        return Err((refusal, current.uncommitted_until));
    }
    let version = match current.version {
        None => 0,
        Some(version) => version.checked_add(1).ok_or_else(|| {
            let stream = event.stream.clone();
            (Refusal::Exhausted { stream }, current.uncommitted_until)
        })?,
    };
    current.version = Some(version);
    Ok(version)
}

fn current_of(
    heads: &mut Heads,
    stream: &StreamId,
    given: PartitionKey,
) -> Result<Current, (Refusal, u64)> {
    let head = heads.head(stream).expect("the core decides only what it knows");
    let uncommitted_until = head.uncommitted_until;
    let (version, key) = match head.fact {
        StreamFact::Absent => (None, given),
        StreamFact::Head { version, partition_key } => (Some(version), partition_key),
        StreamFact::Elsewhere { partition_key, .. } => (None, partition_key),
    };
    if key != given {
        let refusal = Refusal::OtherPartitionKey { stream: stream.clone(), given, actual: key };
        return Err((refusal, uncommitted_until));
    }
    Ok(Current { before: version, version, uncommitted_until })
}
