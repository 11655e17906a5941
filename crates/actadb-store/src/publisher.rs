//! Making committed entries visible: tail and index first, the watermarks after.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use actadb_index::format::Described;
use actadb_index::open::OpenIndex;
use actadb_index::sealed::SealedIndex;
use actadb_log::error::Damage;
use actadb_log::format::BatchHead;
use actadb_log::writer::{FullSegment, LogSettings};
use actadb_model::entry::{Entry, Place};
use actadb_model::ids::PartitionId;

use crate::error::OpenError;
use crate::hashes::{event_id_hash, stream_hash};
use crate::reader::Reader;
use crate::record::{Record, records_for_index};
use crate::segments::{Segment, SegmentIndex, Shared};

/// A full segment whose entries are all published: its index can be written.
#[derive(Debug, Clone)]
pub struct SealTask {
    settings: LogSettings,
    described: Described,
    segment: Arc<Segment>,
}

impl SealTask {
    /// Number of the segment.
    #[must_use]
    pub fn segment(&self) -> u64 {
        self.described.segment
    }

    /// Writes the index file and opens it. Blocking, and long: not for the writer thread.
    ///
    /// # Errors
    /// What the device says.
    pub fn run(&self) -> Result<SealedIndex, OpenError> {
        let path = self.segment.path().with_extension("index");
        let SegmentIndex::Open(index) = self.segment.index() else {
            unreachable!("a task holds the open form of its segment")
        };
        let disk = &*self.settings.disk;
        // Nothing is added any more; readers read on.
        let index = crate::segments::read(index);
        SealedIndex::build(disk, &path, &self.described, &index)?;
        let Described { database, bucket, segment, .. } = self.described;
        Ok(SealedIndex::open(disk, &path, database, bucket, segment)?)
    }
}

/// A partition that an entry moved: its last committed sequence, and how many events it got.
pub type Moved = (PartitionId, u64, u64);

/// Publishes the entries of one bucket, in order. Memory only.
#[derive(Debug)]
pub struct Publisher {
    shared: Arc<Shared>,
    /// The open segment that new entries go to.
    active: Option<Arc<Segment>>,
    /// The segment that the log left full, until the first entry behind it is published.
    full: Option<FullSegment>,
    published: u64,
    last_time_ns: u64,
}

impl Publisher {
    pub(crate) fn new(shared: Arc<Shared>, published: u64, last_time_ns: u64) -> Self {
        Self { shared, active: None, full: None, published, last_time_ns }
    }

    /// A reader of what is published.
    #[must_use]
    pub fn reader(&self) -> Reader {
        Reader::new(self.shared.clone())
    }

    /// Time of the last batch published, in nanoseconds since 1970.
    #[must_use]
    pub fn last_time_ns(&self) -> u64 {
        self.last_time_ns
    }

    /// The sequence behind the last committed one.
    #[must_use]
    pub fn next_sequence(&self, partition: PartitionId) -> u64 {
        self.shared.next_sequence(partition)
    }

    /// Notes that the log left a segment full.
    pub fn segment_full(&mut self, full: FullSegment) {
        self.full = Some(full);
    }

    /// Publishes the next entry, whose body lies at `body`: index and tail, then watermarks.
    /// Answers the partitions it moved, each with its last committed sequence and the number of
    /// events, and the segment that can now be sealed. Publishing an entry twice does nothing.
    ///
    /// # Errors
    /// When a record cannot be read or does not continue its partition: a bug, or damage between
    /// two reads. The bucket must stop.
    pub fn publish(
        &mut self,
        entry: &Entry,
        body: Place,
    ) -> Result<(Vec<Moved>, Option<SealTask>), Damage> {
        if entry.index <= self.published {
            return Ok((Vec::new(), None));
        }
        let seal = self.begin_segment(body.segment);
        let active = self.active.as_ref().expect("a segment was begun");
        let moved = self.index_entry(active, entry, body)?;
        self.shared
            .tail
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .push(body, entry.body.clone());
        let mut through = Vec::with_capacity(moved.len());
        for (partition, next) in moved {
            through.push((partition, next - 1, next - self.shared.next_sequence(partition)));
            self.shared.raise(partition, next);
        }
        if let Some(head) = BatchHead::decode(entry.kind, &entry.body) {
            self.last_time_ns = self.last_time_ns.max(head.time_ns);
        }
        self.published = entry.index;
        Ok((through, seal))
    }

    /// Puts an entry's events into the index; answers the sequences behind the last ones.
    fn index_entry(
        &self,
        active: &Segment,
        entry: &Entry,
        body: Place,
    ) -> Result<BTreeMap<PartitionId, u64>, Damage> {
        let identity = self.shared.settings.identity;
        let SegmentIndex::Open(index) = active.index() else {
            return Err(Damage::new(active.path(), 0, "an entry behind a sealed index"));
        };
        let mut moved = BTreeMap::new();
        let mut index = index.write().unwrap_or_else(PoisonError::into_inner);
        for (at, record) in records_for_index(identity, entry) {
            let place = body.offset + at;
            let damaged = |what: String| Damage::new(active.path(), place.into(), what);
            let transaction = match record.map_err(|bad| damaged(bad.to_string()))? {
                Record::Transaction(transaction) => transaction,
                Record::Other(_) => continue,
            };
            let partition = transaction.partition;
            if !self.shared.partitioning.contains(partition)
                || self.shared.partitioning.bucket_of(partition) != identity.bucket
            {
                return Err(damaged(format!("a record of partition {partition}")));
            }
            let next =
                *moved.entry(partition).or_insert_with(|| self.shared.next_sequence(partition));
            if transaction.first_sequence != next {
                let found = transaction.first_sequence;
                return Err(damaged(format!(
                    "partition {partition} goes on at sequence {next}, the record has {found}"
                )));
            }
            for event in &transaction.events {
                let event = event.as_ref();
                let group = stream_hash(transaction.namespace, event.stream);
                index.push_lane(partition.0, event.sequence, place);
                index.add_posting(group, partition.0, event.version, place);
                index.add_key(event_id_hash(transaction.namespace, event.id), place);
            }
            moved.insert(partition, transaction.next_sequence());
        }
        Ok(moved)
    }

    /// Opens a segment for the entries to come; answers the one before it, ready to be sealed.
    fn begin_segment(&mut self, number: u64) -> Option<SealTask> {
        if self.active.as_ref().is_some_and(|active| active.number() == number) {
            return None;
        }
        let settings = &self.shared.settings;
        let partitions = self.shared.partitioning.partitions_of(settings.identity.bucket);
        let lanes = partitions.map(|p| (p.0, self.shared.next_sequence(p)));
        let index = match self.active.as_ref().map(|active| active.index()) {
            Some(SegmentIndex::Open(index)) => crate::segments::read(index).new_after(lanes),
            _ => OpenIndex::new(lanes),
        };
        let index = SegmentIndex::Open(RwLock::new(index));
        let segment = Arc::new(Segment::new(settings, number, index));
        let mut list = Vec::clone(&self.shared.list.load());
        list.push(segment.clone());
        self.shared.list.store(Arc::new(list));

        let previous = self.active.replace(segment)?;
        let full = self.full.take()?;
        Some(self.seal_task(full, previous))
    }

    fn seal_task(&self, full: FullSegment, segment: Arc<Segment>) -> SealTask {
        assert_eq!(full.number, segment.number(), "segments fill in order");
        let settings = &self.shared.settings;
        SealTask {
            settings: settings.clone(),
            described: Described {
                database: settings.identity.database,
                bucket: settings.identity.bucket.0,
                segment: full.number,
                segment_bytes: full.bytes,
                first_index: full.first_index,
                last_index: full.tip.index,
                last_term: full.tip.term,
                last_time_ns: self.last_time_ns,
                previous_checksum: full.previous_checksum,
                last_checksum: full.tip.checksum,
            },
            segment,
        }
    }

    /// Takes over a full segment on the word of its index, while a bucket is opened.
    pub(crate) fn pass_sealed(&mut self, index: SealedIndex) {
        self.published = index.described().last_index;
        self.last_time_ns = self.last_time_ns.max(index.described().last_time_ns);
        self.sealed(index);
    }

    /// The task that rebuilds the index of a full segment which was published anew, while a
    /// bucket is opened.
    pub(crate) fn seal_rebuilt(&mut self, full: FullSegment) -> Option<SealTask> {
        let segment = self.active.take()?;
        Some(self.seal_task(full, segment))
    }

    /// Lets readers use a sealed index instead of the memory.
    pub fn sealed(&mut self, index: SealedIndex) {
        let number = index.described().segment;
        let segment = Segment::new(&self.shared.settings, number, SegmentIndex::Sealed(index));
        let mut list = Vec::clone(&self.shared.list.load());
        match list.iter_mut().find(|segment| segment.number() == number) {
            Some(slot) => *slot = Arc::new(segment),
            None => {
                list.push(Arc::new(segment));
                list.sort_by_key(|segment| segment.number());
            }
        }
        self.shared.list.store(Arc::new(list));
    }
}
