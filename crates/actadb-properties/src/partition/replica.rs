//! A replica as a partition core sees one: a log of one partition, with its committed and synced
//! parts, and messages to the core in order. It says only what the contract allows, and checks
//! what it is given against its log.

use std::collections::VecDeque;
use std::sync::Arc;

use actadb_model::ids::PartitionKey;
use actadb_model::keys::{Facts, Keys, StreamFact};
use actadb_model::names::{EventName, StreamId};
use actadb_model::numbered::{Numbered, NumberedEvent};
use actadb_model::outcome::RefusedReason;
use actadb_model::transaction::Transaction;
use bytes::Bytes;
use uuid::Uuid;

use super::{PARTITION, id, key, stream, tag_of};
use crate::script::Script;
use actadb_model::ids::PartitionId;
use actadb_partition::message::FromReplica;

/// What the core sends.
pub(super) enum ToReplica {
    Propose { epoch: u64, numbered: Arc<Numbered>, transaction: Transaction, durable: bool },
    WantSync,
}

/// Timestamps of what no script sent: numbers that no transaction of ours carries.
const FOREIGN_TAG: u64 = 1 << 40;

pub(super) struct Replica {
    /// Everything accepted, in order: first what is committed, then what is not yet.
    log: Vec<Arc<Numbered>>,
    /// Entries of the log.
    committed: usize,
    synced: usize,
    epoch: u64,
    leading: bool,
    /// Somebody waits for a sync.
    pub(super) sync_wanted: bool,
    pub(super) to_partition: VecDeque<FromReplica>,
}

impl Replica {
    /// One that follows, with a log of two events.
    pub(super) fn new() -> Self {
        let mut replica = Self {
            log: Vec::new(),
            committed: 0,
            synced: 0,
            epoch: 0,
            leading: false,
            sync_wanted: false,
            to_partition: VecDeque::new(),
        };
        replica.add_foreign(stream(4), 7, id(0));
        // A stream with room for one event more.
        replica.add_foreign(stream(5), u64::MAX - 1, id(50));
        replica.committed = replica.log.len();
        replica.synced = replica.committed;
        replica
    }

    pub(super) fn leads(&self) -> bool {
        self.leading
    }

    /// Whether nothing is on its way to the core, or waits for a commit or a wanted sync.
    pub(super) fn is_quiet(&self) -> bool {
        self.to_partition.is_empty() && self.committed == self.log.len() && !self.sync_wanted
    }

    fn next(&self) -> u64 {
        self.log.last().map_or(0, |last| last.last_sequence() + 1)
    }

    fn events(&self) -> impl DoubleEndedIterator<Item = (&Numbered, &NumberedEvent, u64)> {
        self.log.iter().flat_map(|numbered| {
            let events = numbered.events.iter().enumerate();
            events.map(|(n, event)| (&**numbered, event, numbered.first_sequence + n as u64))
        })
    }

    pub(super) fn at(&self, first_sequence: u64) -> Option<&Arc<Numbered>> {
        self.log.iter().find(|numbered| numbered.first_sequence == first_sequence)
    }

    pub(super) fn has_tag(&self, tag: u64) -> bool {
        self.log.iter().any(|numbered| tag_of(numbered) == tag)
    }

    pub(super) fn has_id(&self, id: Uuid) -> bool {
        self.events().any(|(_, event, _)| event.id == id)
    }

    pub(super) fn is_committed(&self, stream: &StreamId, version: u64) -> bool {
        let committed = self.log[..self.committed].iter().flat_map(|numbered| &numbered.events);
        committed.into_iter().any(|event| event.stream == *stream && event.version == version)
    }

    /// Latest version and key of a stream among the first events of the log.
    fn head(&self, stream: &StreamId, entries: usize) -> Option<(u64, PartitionKey)> {
        let behind = self.log.get(entries).map_or(u64::MAX, |next| next.first_sequence);
        let of =
            |(_, event, at): &(_, &NumberedEvent, u64)| event.stream == *stream && *at < behind;
        let version = self.events().rev().find(of)?.1.version;
        let key = self.events().find(of)?.0.partition_key;
        Some((version, key))
    }

    /// Whether a proposal continues the log of the current epoch.
    pub(super) fn accepts(&self, epoch: u64, numbered: &Numbered) -> bool {
        self.leading && epoch == self.epoch && numbered.first_sequence == self.next()
    }

    /// Appends what [`accepts`](Self::accepts): it must be right.
    pub(super) fn take(&mut self, numbered: Arc<Numbered>, asked: &Transaction, durable: bool) {
        assert_eq!(numbered.events.len(), asked.events().len());
        assert_eq!(numbered.partition_key, asked.partition_key());
        assert_eq!(numbered.key_is_default, asked.key_is_default());
        let mut before: Vec<(&StreamId, u64)> = Vec::new();
        for (event, asked) in numbered.events.iter().zip(asked.events()) {
            assert_eq!((&event.stream, &event.name), (&asked.stream, &asked.name));
            assert_eq!((&event.payload, &event.metadata), (&asked.payload, &asked.metadata));
            assert!(asked.id.is_none_or(|id| id == event.id));
            assert!(!self.has_id(event.id), "{} is appended twice", event.id);
            let head = self.head(&event.stream, self.log.len());
            if let Some((_, key)) = head {
                assert_eq!(key, numbered.partition_key, "a stream under two keys");
            }
            let inside = before.iter().rev().find(|(stream, _)| **stream == event.stream);
            let current = inside.map(|(_, version)| *version).or(head.map(|(version, _)| version));
            assert!(asked.expected.holds(current), "{} at {current:?}", asked.expected);
            let next = current.map_or(Some(0), |version| version.checked_add(1));
            assert_eq!(Some(event.version), next, "a gap in stream {}", event.stream);
            before.push((&event.stream, event.version));
        }
        self.sync_wanted |= durable;
        self.log.push(numbered);
    }

    /// Commits up to so many entries; in the mode `always` they are synced as well.
    pub(super) fn commit(&mut self, entries: usize, synced: bool) {
        let committed = self.log.len().min(self.committed + entries);
        if !self.leading || committed == self.committed {
            return;
        }
        self.committed = committed;
        if synced {
            self.synced = committed;
        }
        let through = self.log[committed - 1].last_sequence();
        self.to_partition.push_back(FromReplica::Committed { through, synced });
    }

    pub(super) fn sync(&mut self) {
        // An entry is not committed later than it is written, and synced later than both.
        if self.committed == self.log.len() {
            self.sync_wanted = false;
        }
        if self.leading && self.synced < self.committed {
            self.synced = self.committed;
            let through = self.log[self.committed - 1].last_sequence();
            self.to_partition.push_back(FromReplica::Synced { through });
        }
    }

    /// Refuses what is in no entry yet: some of what is not committed, from its place on.
    pub(super) fn refuse(&mut self, which: usize) {
        let uncommitted = self.log.len() - self.committed;
        if !self.leading || uncommitted == 0 {
            return;
        }
        let from = self.committed + which % uncommitted;
        let first = self.log[from].first_sequence;
        self.log.truncate(from);
        let reason = [RefusedReason::NoRoom, RefusedReason::NotLeader][which % 2];
        let epoch = self.epoch;
        self.to_partition.push_back(FromReplica::Refused { epoch, from: first, reason });
        if reason == RefusedReason::NotLeader {
            self.leading = false;
            self.to_partition.push_back(FromReplica::Follow);
        }
    }

    /// Loses the lead, or gets it: some of what was not committed is gone, and somebody else may
    /// have appended and committed something meanwhile.
    pub(super) fn lead(&mut self, script: &mut Script<'_>) {
        if self.leading && script.coin() {
            self.leading = false;
            self.to_partition.push_back(FromReplica::Follow);
            return;
        }
        let kept = self.committed + script.below(8).min(self.log.len() - self.committed);
        self.log.truncate(kept);
        for _ in 0..script.below(3) {
            let stream = stream(script.below(5));
            let given = id(script.below(6));
            let given = if self.has_id(given) { id(1000 + self.log.len()) } else { given };
            let version = self.head(&stream, self.log.len()).map_or(0, |(version, _)| version + 1);
            self.add_foreign(stream, version, given);
        }
        self.committed += script.below(4).min(self.log.len() - self.committed);
        // What a leader begins with is durable.
        self.synced = self.committed;
        self.epoch += 1;
        self.leading = true;
        self.to_partition.push_back(FromReplica::Lead {
            epoch: self.epoch,
            next_sequence: self.next(),
            time_ns: 0,
            shared: false,
            tail: self.log[self.committed..].to_vec(),
        });
    }

    fn add_foreign(&mut self, stream: StreamId, version: u64, id: Uuid) {
        let under = self.head(&stream, self.log.len()).map_or(key(0), |(_, key)| key);
        let first_sequence = self.next();
        self.log.push(Arc::new(Numbered {
            partition: PARTITION,
            partition_key: under,
            key_is_default: false,
            transaction_id: id,
            first_sequence,
            decided_ns: 0,
            events: vec![NumberedEvent {
                id,
                stream,
                version,
                name: EventName::new("N").expect("a name"),
                timestamp_ns: (FOREIGN_TAG + first_sequence) * 1_000_000,
                payload: Bytes::new(),
                metadata: Bytes::new(),
            }],
        }));
    }

    /// What the committed state says now.
    pub(super) fn facts(&self, keys: &Keys) -> Facts {
        let owner = |id: &Uuid| {
            let of = |numbered: &&Arc<Numbered>| numbered.events.iter().any(|e| e.id == *id);
            self.log[..self.committed].iter().find(of).cloned()
        };
        Facts {
            streams: keys.streams.iter().map(|s| (s.clone(), self.fact(s))).collect(),
            event_ids: keys.event_ids.iter().map(|id| (*id, owner(id))).collect(),
        }
    }

    fn fact(&self, of: &StreamId) -> StreamFact {
        if *of == stream(6) {
            let partition_key = key(8);
            return StreamFact::Elsewhere { partition: PartitionId(9), partition_key };
        }
        match self.head(of, self.committed) {
            Some((version, partition_key)) => StreamFact::Head { version, partition_key },
            None => StreamFact::Absent,
        }
    }
}
