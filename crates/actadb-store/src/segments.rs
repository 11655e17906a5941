//! The segments of a bucket as readers see them: open in memory, or sealed.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use actadb_disk::disk::DiskFile;
use actadb_disk::handles::{Handle, Handles};
use actadb_index::block_cache::BlockCache;
use actadb_index::error::IndexError;
use actadb_index::open::OpenIndex;
use actadb_index::sealed::SealedIndex;
use actadb_log::error::LogError;
use actadb_log::writer::LogSettings;
use actadb_model::ids::{PartitionId, Partitioning};
use arc_swap::ArcSwap;

use crate::filters::Filters;
use crate::tail::Tail;

/// One segment with its index.
#[derive(Debug)]
pub struct Segment {
    number: u64,
    path: PathBuf,
    handle: Handle,
    index: SegmentIndex,
}

/// Where the index of a segment lies.
#[derive(Debug)]
pub enum SegmentIndex {
    /// In memory; only the publisher writes to it.
    Open(RwLock<OpenIndex>),
    /// In a file.
    Sealed(SealedIndex),
}

impl Segment {
    pub(crate) fn new(shared: &Shared, number: u64, index: SegmentIndex) -> Self {
        let path = shared.settings.segment_path(number);
        let handle = shared.handles.handle(&path);
        Self { number, path, handle, index }
    }

    /// Its number.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Its index.
    #[must_use]
    pub fn index(&self) -> &SegmentIndex {
        &self.index
    }

    /// Path of its file.
    #[must_use]
    pub fn path(&self) -> &PathBuf {
        &self.path
    }

    /// Its file, opened when it is not.
    pub(crate) fn file(&self) -> Result<Arc<dyn DiskFile>, LogError> {
        self.handle.file().map_err(LogError::io("open", &self.path))
    }

    /// Time of its last batch; the highest there is while the segment is not sealed.
    pub(crate) fn last_time_ns(&self) -> u64 {
        match &self.index {
            SegmentIndex::Open(_) => u64::MAX,
            SegmentIndex::Sealed(index) => index.described().last_time_ns,
        }
    }

    /// First sequence of a partition in this segment, and the one behind its last.
    #[must_use]
    pub fn lane(&self, partition: PartitionId) -> Option<(u64, u64)> {
        match &self.index {
            SegmentIndex::Open(index) => {
                let index = index.read().unwrap_or_else(PoisonError::into_inner);
                let lane = index.lane(partition.0)?;
                Some((lane.first, lane.first + lane.places.len() as u64))
            }
            SegmentIndex::Sealed(index) => {
                index.lane(partition.0).map(|lane| (lane.first, lane.next()))
            }
        }
    }

    /// See [`OpenIndex::lane_places`].
    pub(crate) fn lane_places(
        &self,
        partition: PartitionId,
        sequence: u64,
        limit: usize,
    ) -> Result<Vec<u32>, IndexError> {
        match &self.index {
            SegmentIndex::Open(index) => {
                Ok(read(index).lane_places(partition.0, sequence, limit).to_vec())
            }
            SegmentIndex::Sealed(index) => index.lane_places(partition.0, sequence, limit),
        }
    }

    /// See [`OpenIndex::postings_from`] and [`OpenIndex::postings_before`].
    pub(crate) fn postings(
        &self,
        group: u64,
        partition: PartitionId,
        version: u64,
        limit: usize,
        reverse: bool,
    ) -> Result<Vec<(u64, u32)>, IndexError> {
        match (&self.index, reverse) {
            (SegmentIndex::Open(index), false) => {
                Ok(read(index).postings_from(group, partition.0, version, limit))
            }
            (SegmentIndex::Open(index), true) => {
                Ok(read(index).postings_before(group, partition.0, version, limit))
            }
            (SegmentIndex::Sealed(index), false) => {
                index.postings_from(group, partition.0, version, limit)
            }
            (SegmentIndex::Sealed(index), true) => {
                index.postings_before(group, partition.0, version, limit)
            }
        }
    }

    /// See [`OpenIndex::lanes_of_group`].
    pub(crate) fn partitions_of(&self, group: u64) -> Result<Vec<PartitionId>, IndexError> {
        let lanes = match &self.index {
            SegmentIndex::Open(index) => read(index).lanes_of_group(group),
            SegmentIndex::Sealed(index) => index.lanes_of_group(group)?,
        };
        Ok(lanes.into_iter().map(PartitionId).collect())
    }

    /// See [`OpenIndex::key_places`].
    pub(crate) fn key_places(&self, key: u64) -> Result<Vec<u32>, IndexError> {
        let places = match &self.index {
            SegmentIndex::Open(index) => read(index).key_places(key),
            SegmentIndex::Sealed(index) => index.key_places(key)?,
        };
        Ok(places.into_vec())
    }
}

/// The publisher never leaves an index half changed where it could panic, so a poisoned lock is
/// still readable: reads go on when a bucket has closed.
pub(crate) fn read(index: &RwLock<OpenIndex>) -> std::sync::RwLockReadGuard<'_, OpenIndex> {
    index.read().unwrap_or_else(PoisonError::into_inner)
}

/// What the publisher writes and readers read.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) settings: LogSettings,
    pub(crate) partitioning: Partitioning,
    /// Ascending by number.
    pub(crate) list: ArcSwap<Vec<Arc<Segment>>>,
    pub(crate) tail: RwLock<Tail>,
    /// What ranges of sealed segments do not have.
    pub(crate) filters: ArcSwap<Filters>,
    /// Files that are read.
    pub(crate) handles: Handles,
    /// Blocks of sealed indexes.
    pub(crate) index_cache: BlockCache,
    /// For each partition of the bucket, the sequence behind its last committed one.
    pub(crate) watermarks: Vec<AtomicU64>,
}

impl Shared {
    fn slot(&self, partition: PartitionId) -> &AtomicU64 {
        let bucket = self.settings.identity.bucket();
        assert_eq!(self.partitioning.bucket_of(partition), bucket, "a partition of another bucket");
        &self.watermarks[usize::from(partition.0 / self.partitioning.buckets())]
    }

    /// The sequence behind the last committed one.
    pub(crate) fn next_sequence(&self, partition: PartitionId) -> u64 {
        self.slot(partition).load(Ordering::Acquire)
    }

    pub(crate) fn raise(&self, partition: PartitionId, next: u64) {
        self.slot(partition).store(next, Ordering::Release);
    }
}
