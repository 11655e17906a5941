//! Holding records against each other and against the index of their segment. Check and scrub
//! verify with this; nothing else does.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use actadb_index::audit::{Audit, Digest};
use actadb_index::error::IndexError;
use actadb_index::sealed::SealedIndex;
use actadb_log::error::Damage;
use actadb_log::format::{BatchHead, LogIdentity};
use actadb_log::writer::FullSegment;
use actadb_model::entry::{Entry, Place};
use actadb_model::ids::{PartitionId, Partitioning, hash16};

use crate::hashes::{event_id_hash, stream_hash, stream_key};
use crate::open::described_segment;
use crate::record::{BadRecord, Record, Transaction};
use crate::records::records;

/// How many good records and events a frame has, and how far each partition came.
#[derive(Clone, Debug, Default)]
pub struct FrameContent {
    /// Good records.
    pub records: u64,
    /// Events in them.
    pub events: u64,
    /// The sequence behind the last one, of each partition in the frame.
    pub next: BTreeMap<PartitionId, u64>,
}

/// What is wrong with frames.
#[derive(Clone, Debug, Default)]
pub struct Findings {
    /// What a start, or a reader, refuses.
    pub damage: Vec<Damage>,
    /// Good records that do not fit each other, and are served all the same.
    pub disagreements: Vec<Damage>,
    /// The first record that only a newer program can read.
    pub newer: Option<Damage>,
}

/// What a segment was found to hold: what its index must say.
#[derive(Clone, Debug)]
pub struct Expected {
    segment: FullSegment,
    last_time_ns: u64,
    /// For each partition its first sequence, if that is known, and how many it has.
    lanes: BTreeMap<PartitionId, (Option<u64>, u32)>,
    terms: Vec<(u64, u64)>,
    digest: Digest,
}

/// Verifies the records of a bucket in the order of its log.
#[derive(Debug)]
pub struct Verifier {
    identity: LogIdentity,
    partitioning: Partitioning,
    /// The sequence behind the last one of each partition; `None` behind a gap.
    next: BTreeMap<PartitionId, Option<u64>>,
    /// The version behind the last one of each stream, where versions are followed. By hash:
    /// there may be very many streams, and their names are long.
    versions: Option<HashMap<u128, u64>>,
    /// Whether the log was read from its beginning without a gap.
    complete: bool,
    last_time_ns: u64,
    lanes: BTreeMap<PartitionId, (Option<u64>, u32)>,
    terms: Vec<(u64, u64)>,
    digest: Digest,
}

impl Verifier {
    /// Begins with the first entry of a bucket. Following the versions of all streams takes
    /// memory for each stream.
    #[must_use]
    pub fn new(identity: LogIdentity, partitioning: Partitioning, follow_versions: bool) -> Self {
        let partitions = partitioning.partitions_of(identity.bucket());
        let mut verifier = Self {
            identity,
            partitioning,
            next: partitions.map(|p| (p, Some(0))).collect(),
            versions: follow_versions.then(HashMap::new),
            complete: true,
            last_time_ns: 0,
            lanes: BTreeMap::new(),
            terms: Vec::new(),
            digest: Digest::default(),
        };
        verifier.begin_segment();
        verifier
    }

    fn begin_segment(&mut self) {
        self.lanes = self.next.iter().map(|(p, next)| (*p, (*next, 0))).collect();
        self.terms = Vec::new();
        self.digest = Digest::default();
    }

    /// Something could not be read: what follows is taken at its word, once.
    pub fn skip(&mut self) {
        self.complete = false;
        self.next.values_mut().for_each(|next| *next = None);
        if let Some(versions) = &mut self.versions {
            versions.clear();
        }
        self.begin_segment();
    }

    /// Takes the next frame; what is wrong in it is added to `findings`.
    pub fn frame(
        &mut self,
        path: &Path,
        entry: &Entry,
        body: Place,
        findings: &mut Findings,
    ) -> FrameContent {
        if self.terms.last().is_none_or(|(_, term)| *term != entry.term) {
            self.terms.push((entry.index, entry.term));
        }
        if let Some(head) = BatchHead::decode(entry.kind, &entry.body) {
            if head.time_ns < self.last_time_ns {
                let damage = Damage::new(path, body.offset.into(), "the time of a batch fell");
                findings.disagreements.push(damage);
            }
            self.last_time_ns = self.last_time_ns.max(head.time_ns);
        }
        let mut content = FrameContent::default();
        for (at, record) in records(self.identity, entry) {
            let place = body.offset + at;
            let damage = |what: String| Damage::new(path, place.into(), what);
            match record {
                Ok(Record::Transaction(transaction)) => {
                    let outcome =
                        self.transaction(&transaction, place, &mut content, &mut |what| {
                            findings.disagreements.push(damage(what));
                        });
                    findings.damage.extend(outcome.err().map(damage));
                }
                Ok(Record::Other(_)) => {}
                Err(error @ BadRecord::Unsupported) => {
                    findings.newer.get_or_insert(damage(error.to_string()));
                    // It is of some partition, and moves it.
                    self.next.values_mut().for_each(|next| *next = None);
                }
                Err(error) => findings.damage.push(damage(error.to_string())),
            }
        }
        content
    }

    /// Tells `odd` what is served all the same, and answers what a start refuses.
    fn transaction(
        &mut self,
        transaction: &Transaction,
        place: u32,
        content: &mut FrameContent,
        odd: &mut dyn FnMut(String),
    ) -> Result<(), String> {
        content.records += 1;
        let partition = transaction.partition;
        let Some(next) = self.next.get_mut(&partition) else {
            return Err(format!("a record of partition {partition}"));
        };
        let found = transaction.first_sequence;
        let gap = next.filter(|next| *next != found).map(|next| {
            format!("partition {partition} goes on at sequence {next}, the record has {found}")
        });
        // Goes on from what is there, so that one gap is told once.
        *next = Some(transaction.next_sequence());
        content.next.insert(partition, transaction.next_sequence());
        let lane = self.lanes.entry(partition).or_default();
        lane.0.get_or_insert(found);
        for event in &transaction.events {
            let event = event.as_ref();
            let stream = event.stream.as_str();
            content.events += 1;
            lane.1 += 1;
            if let Some(versions) = &mut self.versions {
                let key = stream_key(partition, transaction.namespace, stream);
                // The last version there can be is followed by none.
                let known = versions.insert(key, event.version.wrapping_add(1));
                let next = known.or(self.complete.then_some(0));
                if let Some(next) = next.filter(|next| *next != event.version) {
                    let found = event.version;
                    odd(format!(
                        "stream {stream} goes on at version {next}, the record has {found}"
                    ));
                }
            }
            if self.partitioning.partition_of_hash(hash16(event.id)) != partition {
                odd(format!("event id {} belongs to another partition", event.id));
            }
            let group = stream_hash(transaction.namespace, stream);
            self.digest.add_place(partition.0, event.sequence, place);
            self.digest.add_posting(group, partition.0, event.version, place);
            self.digest.add_key(event_id_hash(transaction.namespace, event.id), place);
        }
        gap.map_or(Ok(()), Err)
    }

    /// Ends a segment and begins the next one. Answers what the index of the ended one must say.
    pub fn segment_end(&mut self, segment: FullSegment) -> Expected {
        let expected = Expected {
            segment,
            last_time_ns: self.last_time_ns,
            lanes: std::mem::take(&mut self.lanes),
            terms: std::mem::take(&mut self.terms),
            digest: self.digest,
        };
        self.begin_segment();
        expected
    }
}

/// How far an [`IndexCheck`] came.
#[derive(Debug)]
pub enum IndexStep {
    /// A block was read; there are more.
    More,
    /// The whole index was read, or damage was found.
    Done(Option<Damage>),
}

/// Holds an index against what its segment was found to hold, both ways, a block at a time.
#[derive(Debug)]
pub struct IndexCheck {
    expected: Expected,
    /// Begun when the header has been compared.
    audit: Option<Audit>,
}

impl IndexCheck {
    /// Nothing read yet.
    #[must_use]
    pub fn new(expected: Expected) -> Self {
        Self { expected, audit: None }
    }

    /// Reads one block.
    ///
    /// # Errors
    /// What the device says; damage is answered.
    pub fn step(&mut self, index: &SealedIndex) -> Result<IndexStep, IndexError> {
        let bad = |(offset, what): (u64, String)| {
            let what = format!("the index disagrees with its segment: {what}");
            IndexStep::Done(Some(Damage::new(index.path(), offset, what)))
        };
        if self.audit.is_none()
            && let Some(what) = self.expected.header_difference(index)
        {
            return Ok(bad((0, what)));
        }
        let audit = self.audit.get_or_insert_default();
        match audit.step(index) {
            Ok(true) => Ok(IndexStep::More),
            Ok(false) => {
                let difference = audit.difference(index, &self.expected.digest);
                Ok(difference.map_or(IndexStep::Done(None), bad))
            }
            Err(IndexError::Damaged { path, offset, what }) => {
                Ok(IndexStep::Done(Some(Damage::new(&path, offset, what))))
            }
            Err(error) => Err(error),
        }
    }

    /// Reads the index to its end.
    ///
    /// # Errors
    /// As [`step`](Self::step).
    pub fn run(mut self, index: &SealedIndex) -> Result<Option<Damage>, IndexError> {
        loop {
            if let IndexStep::Done(found) = self.step(index)? {
                return Ok(found);
            }
        }
    }
}

impl Expected {
    /// What the first block and the lanes say otherwise.
    fn header_difference(&self, index: &SealedIndex) -> Option<String> {
        let described = described_segment(index);
        if described != self.segment {
            return Some(format!(
                "it tells of entries {} to {} in {} bytes, the segment has {} to {} in {}",
                described.first_index,
                described.tip.index,
                described.bytes,
                self.segment.first_index,
                self.segment.tip.index,
                self.segment.bytes
            ));
        }
        if index.described().last_time_ns != self.last_time_ns {
            return Some("it tells of another time of the last batch".to_owned());
        }
        if index.terms() != self.terms {
            return Some("it tells of other terms".to_owned());
        }
        let lanes = index.lanes();
        let same = lanes.len() == self.lanes.len()
            && lanes.iter().zip(&self.lanes).all(|(lane, (partition, (first, count)))| {
                lane.lane == partition.0
                    && lane.count == *count
                    && first.is_none_or(|first| lane.first == first)
            });
        (!same).then(|| "its partitions have other sequences".to_owned())
    }
}
