//! How to open a database.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use actadb_disk::disk::Disk;
use actadb_disk::os::OsDisk;
use actadb_model::ids::Partitioning;
use actadb_model::limits;
pub use actadb_replica::message::FsyncMode;

use crate::cluster::options::ClusterOptions;
use crate::error::OpenError;

/// Default of `bucket.count`, chosen by measurement: see `docs/BENCHMARKS.md`.
pub const BUCKETS_DEFAULT: u16 = 1;

/// Default of `scrub.bytes_per_second`: little beside what a disk gives, and a terabyte in three
/// days.
pub const SCRUB_BYTES_PER_SECOND_DEFAULT: u64 = 4 << 20;

/// Default of `scrub.interval_hours`: a week.
pub const SCRUB_INTERVAL_HOURS_DEFAULT: u64 = 168;

/// How to open a database. Plain values: nothing is opened before
/// [`Database::open_with`](crate::database::Database::open_with).
#[derive(Clone, Debug)]
pub struct Options {
    /// The data directory; made when it is missing.
    pub dir: PathBuf,
    /// Number of partitions, 1 to 4096. Fixed for the database's life.
    pub partitions: u16,
    /// Number of buckets, 1 to 256 and at most the number of partitions. Fixed for the database's
    /// life.
    pub buckets: u16,
    /// Size of a segment file in bytes, 1 MiB to 2 GiB. Fixed for the database's life.
    pub segment_bytes: u64,
    /// How far ahead of what is written a segment is filled with zeros, in bytes; 0 for never,
    /// which is right for file systems that never write in place.
    pub zero_fill_bytes: u64,
    /// When an append counts as committed, and when the disk is synced.
    pub fsync: FsyncMode,
    /// Refuse appends that do not name one expected version.
    pub strict_versioning: bool,
    /// Largest transaction in bytes; at most a quarter of a segment whatever this says.
    pub max_transaction_bytes: u64,
    /// How long an append waits for its answer.
    pub append_timeout: Duration,
    /// Bytes of appends in flight per bucket; more wait at the door.
    pub permit_bytes: u64,
    /// Stream heads kept in memory, over all partitions.
    pub cached_heads: usize,
    /// Segments and indexes kept open to read.
    pub open_files: usize,
    /// Bytes of sealed indexes kept in memory.
    pub index_cache_bytes: usize,
    /// Threads that read.
    pub read_threads: usize,
    /// How fast sealed segments are read again to find rot, in bytes per second; 0 for never.
    pub scrub_bytes_per_second: u64,
    /// From the beginning of one such round to the beginning of the next; the first one begins
    /// at the start.
    pub scrub_interval: Duration,
    /// The cluster this node belongs to; `None` for a node that is alone.
    pub cluster: Option<ClusterOptions>,
    /// Where jobs run.
    pub execution: Execution,
    /// The device.
    pub disk: Arc<dyn Disk>,
}

/// Where work on the disk runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Execution {
    /// A writer thread per bucket and a bounded pool of threads that read.
    Threads,
    /// In the tasks of the runtime: for current-thread runtimes and tests on virtual time.
    Inline,
}

impl Options {
    /// The defaults for a directory.
    pub fn new(dir: impl AsRef<Path>) -> Self {
        Self {
            dir: dir.as_ref().to_owned(),
            partitions: limits::PARTITIONS_DEFAULT,
            buckets: BUCKETS_DEFAULT,
            segment_bytes: limits::SEGMENT_DEFAULT_BYTES,
            zero_fill_bytes: limits::ZERO_FILL_DEFAULT_BYTES,
            fsync: FsyncMode::Always,
            strict_versioning: false,
            max_transaction_bytes: limits::TRANSACTION_MAX_BYTES,
            append_timeout: Duration::from_secs(10),
            permit_bytes: limits::PERMIT_BYTES_DEFAULT,
            cached_heads: 262_144,
            open_files: limits::OPEN_FILES_DEFAULT,
            index_cache_bytes: limits::INDEX_CACHE_DEFAULT_BYTES,
            read_threads: 4,
            scrub_bytes_per_second: SCRUB_BYTES_PER_SECOND_DEFAULT,
            scrub_interval: Duration::from_secs(SCRUB_INTERVAL_HOURS_DEFAULT * 3600),
            cluster: None,
            execution: Execution::Threads,
            disk: Arc::new(OsDisk),
        }
    }

    /// Checks the values against each other, without looking at the directory.
    ///
    /// # Errors
    /// [`OpenError::Options`], whose text begins with the configuration key.
    pub fn check(&self) -> Result<(), OpenError> {
        self.partitioning().map(drop)
    }

    /// Checks the values against each other.
    pub(crate) fn partitioning(&self) -> Result<Partitioning, OpenError> {
        let range = limits::SEGMENT_MIN_BYTES..=limits::SEGMENT_MAX_BYTES;
        if !range.contains(&self.segment_bytes) || !self.segment_bytes.is_multiple_of(4096) {
            return Err(OpenError::Options(format!(
                "segment.size_bytes must be a multiple of 4096 from {} to {}, got {}",
                limits::SEGMENT_MIN_BYTES,
                limits::SEGMENT_MAX_BYTES,
                self.segment_bytes
            )));
        }
        let fill = self.zero_fill_bytes;
        if fill > limits::ZERO_FILL_MAX_BYTES || !fill.is_multiple_of(4096) {
            return Err(OpenError::Options(format!(
                "segment.zero_fill_bytes must be a multiple of 4096 up to {}, got {fill}",
                limits::ZERO_FILL_MAX_BYTES
            )));
        }
        let least = self.transaction_limit();
        if self.permit_bytes < least || self.permit_bytes > u64::from(u32::MAX >> 3) {
            return Err(OpenError::Options(format!(
                "append.permit_bytes must be at least the largest transaction ({least}) and at \
                 most {}, got {}",
                u32::MAX >> 3,
                self.permit_bytes
            )));
        }
        Partitioning::new(self.partitions, self.buckets)
            .map_err(|bad| OpenError::Options(bad.to_string()))
    }

    /// The largest transaction these options allow.
    pub(crate) fn transaction_limit(&self) -> u64 {
        self.max_transaction_bytes.min(self.segment_bytes / limits::SEGMENT_TRANSACTION_FRACTION)
    }
}
