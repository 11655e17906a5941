//! Making committed entries visible: tail and index first, the watermarks after.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, PoisonError, RwLock};

use actadb_index::error::IndexError;
use actadb_index::format::Described;
use actadb_index::open::OpenIndex;
use actadb_index::sealed::SealedIndex;
use actadb_log::error::Damage;
use actadb_log::format::{BatchHead, LogIdentity};
use actadb_log::writer::FullSegment;
use actadb_model::entry::{Entry, Place};
use actadb_model::ids::PartitionId;
use actadb_model::probe::{Mistake, half_published, made};

use crate::error::OpenError;
use crate::filters;
use crate::reader::Reader;
use crate::rows::{Row, Rows};
use crate::segments::{Segment, SegmentIndex, Shared};

/// A full segment whose entries are all published: its index can be written.
#[derive(Debug, Clone)]
pub struct SealTask {
    shared: Arc<Shared>,
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
        let disk = &*self.shared.settings.disk;
        // Nothing is added any more; readers read on.
        let index = crate::segments::read(index);
        SealedIndex::build(disk, &path, &self.described, &index)?;
        let Described { database, bucket, segment, .. } = self.described;
        Ok(SealedIndex::open(disk, &path, database, bucket, segment)?)
    }

    /// Builds some of the filters that the segments sealed before lack. Blocking, and longer still;
    /// nobody waits for it. What fails is tried again behind the next seal.
    ///
    /// # Errors
    /// A bad block of an index, or what the device says.
    pub fn extend_filters(&self) -> Result<(), IndexError> {
        filters::extend(&self.shared)
    }
}

/// A partition that an entry moved: its last committed sequence, and how many events it got.
pub type Moved = (PartitionId, u64, u64);

/// What an entry made visible.
#[derive(Debug, Default)]
pub struct Published {
    /// The partitions it moved.
    pub moved: Vec<Moved>,
    /// The streams it moved, by [hash](crate::hashes::stream_hash), each at least once.
    pub streams: Vec<(PartitionId, u64)>,
    /// The segment that can now be sealed.
    pub seal: Option<SealTask>,
}

/// Publishes the entries of one bucket, in order. Memory only.
#[derive(Debug)]
pub struct Publisher {
    shared: Arc<Shared>,
    /// The open segment that new entries go to.
    active: Option<Arc<Segment>>,
    /// Segments that the log left full, in order, until the first entry behind each is published.
    full: VecDeque<FullSegment>,
    published: u64,
    last_time_ns: u64,
}

impl Publisher {
    pub(crate) fn new(shared: Arc<Shared>, published: u64, last_time_ns: u64) -> Self {
        Self { shared, active: None, full: VecDeque::new(), published, last_time_ns }
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
        self.full.push_back(full);
    }

    /// The log was cut: from this segment on none is full.
    pub fn segment_reopened(&mut self, number: u64) {
        self.full.retain(|full| full.number < number);
    }

    /// Full segments whose last entries are not published.
    #[must_use]
    pub fn unpublished_segments(&self) -> usize {
        self.full.len()
    }

    /// Whose bucket it is.
    #[must_use]
    pub fn identity(&self) -> LogIdentity {
        self.shared.settings.identity
    }

    /// Publishes the next entry, whose body lies at `body` and whose events are `rows`: index and
    /// tail, then watermarks. Publishing an entry twice does nothing.
    ///
    /// # Errors
    /// When a record cannot be read or does not continue its partition: a bug, or damage. The
    /// bucket must stop.
    pub fn publish(
        &mut self,
        entry: &Entry,
        body: Place,
        rows: &Rows,
    ) -> Result<Published, Damage> {
        if entry.index <= self.published {
            return Ok(Published::default());
        }
        let seal = self.begin_segment(body.segment);
        let moved = self.check(rows, body)?;
        if made(Mistake::WatermarkBeforePublication) {
            self.raise(&moved);
            half_published();
        }
        self.index_rows(entry, &rows.rows, body)?;
        self.shared
            .tail
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .push(body, entry.body.clone());
        half_published();
        self.raise(&moved);
        if let Some(head) = BatchHead::decode(entry.kind, &entry.body) {
            self.last_time_ns = self.last_time_ns.max(head.time_ns);
        }
        self.published = entry.index;
        let streams = rows.rows.iter().map(|row| (row.partition, row.group));
        let mut streams: Vec<(PartitionId, u64)> = streams.collect();
        streams.dedup();
        Ok(Published { moved, streams, seal })
    }

    fn raise(&self, moved: &[Moved]) {
        for (partition, last, _) in moved {
            self.shared.raise(*partition, last + 1);
        }
    }

    /// Holds the events against the partitions they are of; answers the partitions they move.
    fn check(&self, rows: &Rows, body: Place) -> Result<Vec<Moved>, Damage> {
        let settings = &self.shared.settings;
        let identity = settings.identity;
        let damaged = |at: u32, what: String| {
            let path = settings.segment_path(body.segment);
            Damage::new(&path, (body.offset + at).into(), what)
        };
        // By partition: its next sequence before the entry, and behind it.
        let mut moved: BTreeMap<PartitionId, (u64, u64)> = BTreeMap::new();
        // Events of one partition mostly follow each other.
        for run in rows.rows.chunk_by(|row, next| row.partition == next.partition) {
            let Some(Row { partition, at, .. }) = run.first().copied() else { continue };
            if !self.shared.partitioning.contains(partition)
                || self.shared.partitioning.bucket_of(partition) != identity.bucket()
            {
                return Err(damaged(at, format!("a record of partition {partition}")));
            }
            let first = || {
                let next = self.shared.next_sequence(partition);
                (next, next)
            };
            let (_, next) = moved.entry(partition).or_insert_with(first);
            for row in run {
                if row.sequence != *next {
                    let found = row.sequence;
                    return Err(damaged(
                        row.at,
                        format!(
                            "partition {partition} goes on at sequence {next}, the record has \
                             {found}"
                        ),
                    ));
                }
                *next += 1;
            }
        }
        if let Some((at, bad)) = rows.bad {
            return Err(damaged(at, bad.to_string()));
        }
        let moved = moved.into_iter();
        Ok(moved.map(|(partition, (first, next))| (partition, next - 1, next - first)).collect())
    }

    /// Puts an entry and its events into the index.
    fn index_rows(&self, entry: &Entry, rows: &[Row], body: Place) -> Result<(), Damage> {
        let active = self.active.as_ref().expect("a segment was begun");
        let SegmentIndex::Open(index) = active.index() else {
            return Err(Damage::new(active.path(), 0, "an entry behind a sealed index"));
        };
        let mut index = index.write().unwrap_or_else(PoisonError::into_inner);
        index.note_term(entry.index, entry.term);
        for row in rows {
            let place = body.offset + row.at;
            index.push_lane(row.partition.0, row.sequence, place);
            index.add_posting(row.group, row.partition.0, row.version, place);
            index.add_key(row.key, place);
        }
        Ok(())
    }

    /// Opens a segment for the entries to come; answers the one before it, ready to be sealed.
    fn begin_segment(&mut self, number: u64) -> Option<SealTask> {
        if self.active.as_ref().is_some_and(|active| active.number() == number) {
            return None;
        }
        let settings = &self.shared.settings;
        let partitions = self.shared.partitioning.partitions_of(settings.identity.bucket());
        let lanes = partitions.map(|p| (p.0, self.shared.next_sequence(p)));
        let index = SegmentIndex::Open(RwLock::new(OpenIndex::new(lanes)));
        let segment = Arc::new(Segment::new(&self.shared, number, index));
        let mut list = Vec::clone(&self.shared.list.load());
        list.push(segment.clone());
        self.shared.list.store(Arc::new(list));

        let previous = self.active.replace(segment)?;
        let full = self.full.pop_front()?;
        Some(self.seal_task(full, previous))
    }

    fn seal_task(&self, full: FullSegment, segment: Arc<Segment>) -> SealTask {
        assert_eq!(full.number, segment.number(), "segments fill in order");
        let settings = &self.shared.settings;
        SealTask {
            shared: self.shared.clone(),
            described: Described {
                database: settings.identity.database(),
                bucket: settings.identity.bucket().0,
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

    /// The task that seals the segment published last, if the log left it full, while a bucket is
    /// opened and what is behind it is not published entry by entry.
    pub(crate) fn seal_active(&mut self) -> Option<SealTask> {
        let full = self.full.pop_front()?;
        let segment = self.active.take()?;
        Some(self.seal_task(full, segment))
    }

    /// Lets readers use a sealed index instead of the memory.
    pub fn sealed(&mut self, index: SealedIndex) {
        let number = index.described().segment;
        let Shared { handles, index_cache, .. } = &*self.shared;
        let index = index.opened_by(handles).cached_in(index_cache);
        let segment = Segment::new(&self.shared, number, SegmentIndex::Sealed(index));
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
