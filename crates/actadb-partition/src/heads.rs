//! What the core knows about streams and event ids.
//!
//! Uncommitted heads and ids are never forgotten: they are nowhere else. Committed heads are a
//! cache, bounded, with a second chance for those that were used since they came.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use actadb_model::ids::PartitionKey;
use actadb_model::keys::StreamFact;
use actadb_model::names::StreamId;
use actadb_model::numbered::Numbered;
use actadb_model::transaction::Transaction;
use foldhash::fast::RandomState;
use uuid::Uuid;

/// What is known about one stream.
#[derive(Clone, Debug)]
pub(crate) struct Head {
    pub(crate) fact: StreamFact,
    /// The sequence behind the last uncommitted event of the stream, 0 when all is committed.
    pub(crate) uncommitted_until: u64,
    used: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Heads {
    /// Hashed by foldhash, seeded at random: quick, and no worse against ids that somebody chose to
    /// collide than the indexes, whose hash stands in `docs/FORMAT.md`.
    streams: HashMap<StreamId, Head, RandomState>,
    /// Committed heads in the order they came, for eviction.
    order: VecDeque<StreamId>,
    limit: usize,
    uncommitted_ids: HashMap<Uuid, Arc<Numbered>, RandomState>,
    /// Facts about ids, for the parked append that asked.
    fetched_ids: HashMap<Uuid, Option<Arc<Numbered>>, RandomState>,
    /// Proposed and not committed, in order.
    uncommitted: VecDeque<Arc<Numbered>>,
}

impl Heads {
    pub(crate) fn new(limit: usize) -> Self {
        Self { limit, ..Self::default() }
    }

    pub(crate) fn knows_stream(&self, stream: &StreamId) -> bool {
        self.streams.contains_key(stream)
    }

    /// Whether all that these need is known.
    pub(crate) fn knows_all(&self, transactions: &[Transaction]) -> bool {
        transactions.iter().flat_map(Transaction::events).all(|event| {
            self.knows_stream(&event.stream) && event.id.is_none_or(|id| self.knows_id(id))
        })
    }

    pub(crate) fn knows_id(&self, id: Uuid) -> bool {
        self.uncommitted_ids.contains_key(&id) || self.fetched_ids.contains_key(&id)
    }

    pub(crate) fn head(&mut self, stream: &StreamId) -> Option<&Head> {
        let head = self.streams.get_mut(stream)?;
        head.used = true;
        Some(head)
    }

    /// The transaction that has an id, uncommitted or committed.
    pub(crate) fn owner_of(&self, id: Uuid) -> Option<&Arc<Numbered>> {
        self.uncommitted_ids.get(&id).or_else(|| self.fetched_ids.get(&id)?.as_ref())
    }

    pub(crate) fn learn_stream(&mut self, stream: StreamId, fact: StreamFact) {
        if self.streams.contains_key(&stream) {
            return;
        }
        self.order.push_back(stream.clone());
        self.streams.insert(stream, Head { fact, uncommitted_until: 0, used: false });
    }

    pub(crate) fn learn_id(&mut self, id: Uuid, owner: Option<Arc<Numbered>>) {
        self.fetched_ids.insert(id, owner);
    }

    /// Forgets what only one decision needed.
    pub(crate) fn forget_fetched(&mut self, streams: &[StreamId], ids: &[Uuid]) {
        for id in ids {
            self.fetched_ids.remove(id);
        }
        // In reverse, so that what came last is still at the end of the order.
        for stream in streams.iter().rev() {
            // That a stream is absent, or elsewhere, may change without this core's doing.
            if self.streams.get(stream).is_some_and(|h| !matches!(h.fact, StreamFact::Head { .. }))
            {
                self.streams.remove(stream);
                if self.order.back() == Some(stream) {
                    self.order.pop_back();
                }
            }
        }
    }

    /// Folds in a transaction that is proposed and not committed.
    pub(crate) fn fold(&mut self, numbered: &Arc<Numbered>) {
        let until = numbered.last_sequence() + 1;
        for event in &numbered.events {
            let given = numbered.partition_key;
            let head = match self.streams.get_mut(&event.stream) {
                Some(known) => known,
                None => {
                    self.order.push_back(event.stream.clone());
                    let absent = StreamFact::Absent;
                    let new = Head { fact: absent, uncommitted_until: 0, used: true };
                    self.streams.entry(event.stream.clone()).or_insert(new)
                }
            };
            head.fact =
                StreamFact::Head { version: event.version, partition_key: key_of(head, given) };
            head.uncommitted_until = until;
            self.uncommitted_ids.insert(event.id, numbered.clone());
        }
        self.uncommitted.push_back(numbered.clone());
    }

    /// Everything below `committed` is committed: it may be forgotten.
    pub(crate) fn commit(&mut self, committed: u64) {
        while let Some(first) = self.uncommitted.front() {
            if first.last_sequence() >= committed {
                break;
            }
            for event in &first.events {
                if let Some(head) = self.streams.get_mut(&event.stream)
                    && head.uncommitted_until <= committed
                {
                    head.uncommitted_until = 0;
                }
                self.uncommitted_ids.remove(&event.id);
            }
            self.uncommitted.pop_front();
        }
    }

    /// Drops what was proposed from `from` on. The heads are wrong from now on; the core takes no
    /// decision until it has [cleared](Self::clear) them.
    pub(crate) fn refuse(&mut self, from: u64) {
        while self.uncommitted.back().is_some_and(|last| last.first_sequence >= from) {
            self.uncommitted.pop_back();
        }
    }

    pub(crate) fn clear(&mut self) {
        let limit = self.limit;
        *self = Self::new(limit);
    }

    /// Forgets committed heads beyond the limit, except those that are `pinned`.
    pub(crate) fn evict(&mut self, pinned: &dyn Fn(&StreamId) -> bool) {
        // A bounded number of looks: most candidates go at the first.
        let mut looks = 64 + self.order.len().saturating_sub(self.limit) * 2;
        while self.order.len() > self.limit && looks > 0 {
            looks -= 1;
            let Some(stream) = self.order.pop_front() else { break };
            let Some(head) = self.streams.get_mut(&stream) else { continue };
            if head.uncommitted_until > 0 || head.used || pinned(&stream) {
                head.used = false;
                self.order.push_back(stream);
            } else {
                self.streams.remove(&stream);
            }
        }
    }

    pub(crate) fn cached(&self) -> usize {
        self.streams.len()
    }
}

fn key_of(head: &Head, given: PartitionKey) -> PartitionKey {
    match head.fact {
        StreamFact::Head { partition_key, .. } => partition_key,
        StreamFact::Absent | StreamFact::Elsewhere { .. } => given,
    }
}
