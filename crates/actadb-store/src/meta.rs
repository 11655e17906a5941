//! Whose directory it is: the database's meta file, and the lock.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use actadb_disk::disk::{Disk, DiskLock};
use actadb_disk::handles::Handles;
use actadb_index::block_cache::BlockCache;
use actadb_log::error::{Damage, LogError, SYNC};
use actadb_log::format::{FORMAT_VERSION, LogIdentity};
use actadb_log::segment::segment_numbers;
use actadb_log::slots::{SlotState, Slots};
use actadb_log::writer::LogSettings;
use actadb_model::ids::{BucketId, Partitioning};
use actadb_model::limits::{
    INDEX_CACHE_DEFAULT_BYTES, OPEN_FILES_DEFAULT, SEGMENT_MAX_BYTES, ZERO_FILL_DEFAULT_BYTES,
};
use uuid::Uuid;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::error::OpenError;

const MAGIC: [u8; 8] = *b"ACTADB\n\0";
const BUCKET_PREFIX: &str = "bucket-";
const _: () = assert!(size_of::<RawMeta>() == 56);

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy)]
#[repr(C)]
struct RawMeta {
    magic: [u8; 8],
    version: U16,
    partitions: U16,
    buckets: U16,
    zero: U16,
    database: [u8; 16],
    segment_bytes: U64,
    zero_2: U64,
    checksum: U32,
    zero_3: U32,
}

/// Smaller segments than an operator may choose are for tests.
const SEGMENT_LEAST_BYTES: u64 = 16 << 10;

/// What is fixed for a database's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Meta {
    /// The database's id, drawn when it was made.
    pub database: Uuid,
    /// Counts of partitions and buckets.
    pub partitioning: Partitioning,
    /// Size of a segment in bytes.
    pub segment_bytes: u64,
}

/// A node's place in the groups of a database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seat {
    /// The id of its replicas, never 0.
    pub replica: u64,
    /// The replicas that vote.
    pub voters: Vec<u64>,
    /// Names its storage: drawn once, so that a copy is known for one.
    pub storage: Uuid,
}

impl Seat {
    /// The place of a node that is alone.
    #[must_use]
    pub fn single(database: Uuid) -> Self {
        Self { replica: 1, voters: vec![1], storage: database }
    }
}

/// An open database directory: locked, and known to be a database.
#[derive(Debug)]
pub struct Directory {
    disk: Arc<dyn Disk>,
    root: PathBuf,
    meta: Meta,
    zero_fill_bytes: u64,
    handles: Handles,
    index_cache: BlockCache,
    _lock: Box<dyn DiskLock>,
}

impl Directory {
    /// Locks a directory and reads its meta file; `wanted` describes the database that is made
    /// when there is none, and must agree with the one that is there.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open_or_create(
        disk: Arc<dyn Disk>,
        root: &Path,
        wanted: Meta,
    ) -> Result<Self, OpenError> {
        Self::open_or_create_seat(disk, root, wanted, &Seat::single(wanted.database))
    }

    /// The same, where a database that is made is a node of several.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open_or_create_seat(
        disk: Arc<dyn Disk>,
        root: &Path,
        wanted: Meta,
        seat: &Seat,
    ) -> Result<Self, OpenError> {
        // The directory may be left of an attempt that died before these syncs; with a meta file,
        // which comes last, they were made.
        if !disk.exists(&meta_path(root)).map_err(LogError::io("look for", root))? {
            disk.create_dir_all(root).map_err(LogError::io("create", root))?;
            // Any of the directories above may be as new as this one.
            for parent in root.ancestors().skip(1) {
                let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
                disk.sync_dir(parent).map_err(LogError::io(SYNC, parent))?;
            }
        }
        let lock = lock(&*disk, root)?;
        let meta = match read(&*disk, root)? {
            Some(found) => {
                agree(&wanted, &found)?;
                // Its name may be no older than the crash of a process that had not synced it.
                disk.sync_dir(root).map_err(LogError::io(SYNC, root))?;
                found
            }
            None => {
                if holds_segments(&*disk, root)? {
                    return Err(OpenError::NoMeta(root.display().to_string()));
                }
                // The meta file comes last: with it, whatever is missing was there once.
                for bucket in wanted.partitioning.all_buckets() {
                    create_bucket(&*disk, root, wanted.database, seat, bucket)?;
                }
                disk.sync_dir(root).map_err(LogError::io(SYNC, root))?;
                create(&*disk, root, &wanted)?;
                wanted
            }
        };
        Ok(Self::new(disk, root, meta, lock))
    }

    /// Locks an existing database; for tools on a stopped one.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open_existing(disk: Arc<dyn Disk>, root: &Path) -> Result<Self, OpenError> {
        if !disk.exists(&meta_path(root)).map_err(LogError::io("look for", root))? {
            let name = root.display().to_string();
            let there = disk.exists(root).map_err(LogError::io("look for", root))?;
            return Err(match there && holds_segments(&*disk, root)? {
                true => OpenError::NoMeta(name),
                false => OpenError::NotADatabase(name),
            });
        }
        let lock = lock(&*disk, root)?;
        let meta = read(&*disk, root)?
            .ok_or_else(|| OpenError::NotADatabase(root.display().to_string()))?;
        Ok(Self::new(disk, root, meta, lock))
    }

    fn new(disk: Arc<dyn Disk>, root: &Path, meta: Meta, lock: Box<dyn DiskLock>) -> Self {
        let (root, zero_fill_bytes) = (root.to_owned(), ZERO_FILL_DEFAULT_BYTES);
        let index_cache = BlockCache::new(INDEX_CACHE_DEFAULT_BYTES);
        let handles = Handles::new(disk.clone(), OPEN_FILES_DEFAULT);
        Self { disk, root, meta, zero_fill_bytes, handles, index_cache, _lock: lock }
    }

    /// Logs opened from here on are filled with zeros this far ahead: see
    /// [`LogSettings::zero_fill_bytes`].
    #[must_use]
    pub fn with_zero_fill(mut self, bytes: u64) -> Self {
        self.zero_fill_bytes = bytes;
        self
    }

    /// Buckets opened from here on keep up to so many bytes of their sealed indexes in memory, all
    /// together.
    #[must_use]
    pub fn with_index_cache(mut self, bytes: usize) -> Self {
        self.index_cache = BlockCache::new(bytes);
        self
    }

    /// Buckets opened from here on keep so many files open to read, all together.
    #[must_use]
    pub fn with_open_files(mut self, limit: usize) -> Self {
        self.handles = Handles::new(self.disk.clone(), limit);
        self
    }

    /// The files that are open to read.
    #[must_use]
    pub fn handles(&self) -> &Handles {
        &self.handles
    }

    /// Blocks of sealed indexes in memory.
    #[must_use]
    pub fn index_cache(&self) -> &BlockCache {
        &self.index_cache
    }

    /// What is fixed for its life.
    #[must_use]
    pub fn meta(&self) -> &Meta {
        &self.meta
    }

    /// The device.
    #[must_use]
    pub fn disk(&self) -> &Arc<dyn Disk> {
        &self.disk
    }

    /// The directory.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where the log of a bucket lies.
    #[must_use]
    pub fn log_settings(&self, bucket: BucketId) -> LogSettings {
        LogSettings {
            disk: self.disk.clone(),
            dir: bucket_dir(&self.root, bucket),
            identity: LogIdentity::new(self.meta.database, bucket),
            segment_bytes: self.meta.segment_bytes,
            zero_fill_bytes: self.zero_fill_bytes,
        }
    }
}

/// Directory of a bucket.
#[must_use]
pub fn bucket_dir(root: &Path, bucket: BucketId) -> PathBuf {
    root.join(format!("{BUCKET_PREFIX}{:03}", bucket.0))
}

fn meta_path(root: &Path) -> PathBuf {
    root.join("meta")
}

/// Takes a data directory for this process, until the lock is dropped.
///
/// # Errors
/// [`OpenError::Locked`] when another process has it.
pub fn lock(disk: &dyn Disk, root: &Path) -> Result<Box<dyn DiskLock>, OpenError> {
    let path = root.join("LOCK");
    let lock = disk.lock(&path).map_err(LogError::io("lock", &path))?;
    lock.ok_or_else(|| OpenError::Locked(root.display().to_string()))
}

fn agree(wanted: &Meta, found: &Meta) -> Result<(), OpenError> {
    let (w, f) = (wanted.partitioning, found.partitioning);
    let pairs = [
        ("partition.count", u64::from(w.partitions()), u64::from(f.partitions())),
        ("bucket.count", u64::from(w.buckets()), u64::from(f.buckets())),
        ("segment.size_bytes", wanted.segment_bytes, found.segment_bytes),
    ];
    match pairs.into_iter().find(|(_, wanted, found)| wanted != found) {
        Some((key, wanted, found)) => Err(OpenError::Fixed { key, wanted, found }),
        None => Ok(()),
    }
}

/// Whether any bucket has a segment.
fn holds_segments(disk: &dyn Disk, root: &Path) -> Result<bool, LogError> {
    for name in disk.list(root).map_err(LogError::io("list", root))? {
        let dir = root.join(&name);
        if name.starts_with(BUCKET_PREFIX) && !segment_numbers(disk, &dir)?.is_empty() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The slots of a bucket that has no entries. It has voted for nobody; one that votes alone votes
/// for itself.
pub(crate) fn first_slots(seat: &Seat, bucket: BucketId) -> SlotState {
    SlotState {
        term: 1,
        vote: if seat.voters.len() == 1 { seat.replica } else { 0 },
        synced_index: 0,
        voters: seat.voters.clone(),
        replica_id: seat.replica,
        storage_id: Uuid::new_v5(&seat.storage, &bucket.0.to_le_bytes()),
        boot_counter: 0,
        bulk_through: 0,
    }
}

/// Makes a bucket's directory with its slots; what a crash left of an earlier attempt is replaced.
fn create_bucket(
    disk: &dyn Disk,
    root: &Path,
    database: Uuid,
    seat: &Seat,
    bucket: BucketId,
) -> Result<(), LogError> {
    let dir = bucket_dir(root, bucket);
    disk.create_dir_all(&dir).map_err(LogError::io("create", &dir))?;
    let state = first_slots(seat, bucket);
    Slots::create(disk, &dir, LogIdentity::new(database, bucket), state).map(|_| ())
}

fn create(disk: &dyn Disk, root: &Path, meta: &Meta) -> Result<(), LogError> {
    let mut raw = RawMeta {
        magic: MAGIC,
        version: FORMAT_VERSION.into(),
        partitions: meta.partitioning.partitions().into(),
        buckets: meta.partitioning.buckets().into(),
        zero: 0.into(),
        database: *meta.database.as_bytes(),
        segment_bytes: meta.segment_bytes.into(),
        zero_2: 0.into(),
        checksum: 0.into(),
        zero_3: 0.into(),
    };
    raw.checksum = crc32c::crc32c(&raw.as_bytes()[..48]).into();
    let path = meta_path(root);
    let temporary = root.join("meta-new");
    if disk.exists(&temporary).map_err(LogError::io("look for", &temporary))? {
        disk.remove(&temporary).map_err(LogError::io("remove", &temporary))?;
    }
    let file = disk.create(&temporary).map_err(LogError::io("create", &temporary))?;
    file.write_all_at(raw.as_bytes(), 0).map_err(LogError::io("write", &temporary))?;
    file.sync_data().map_err(LogError::io(SYNC, &temporary))?;
    disk.rename(&temporary, &path).map_err(LogError::io("rename", &path))?;
    disk.sync_dir(root).map_err(LogError::io(SYNC, root))
}

fn read(disk: &dyn Disk, root: &Path) -> Result<Option<Meta>, OpenError> {
    let path = meta_path(root);
    if !disk.exists(&path).map_err(LogError::io("look for", &path))? {
        return Ok(None);
    }
    let file = disk.open_read(&path).map_err(LogError::io("open", &path))?;
    let mut bytes = [0; size_of::<RawMeta>()];
    let n = file.read_full_at(&mut bytes, 0).map_err(LogError::io("read", &path))?;
    let damaged = || Damage::new(&path, 0, "not a good meta file; restore it from a backup");
    let raw = RawMeta::read_from_bytes(&bytes[..n]).map_err(|_| damaged())?;
    if raw.magic != MAGIC || raw.checksum.get() != crc32c::crc32c(&raw.as_bytes()[..48]) {
        return Err(damaged().into());
    }
    if raw.version.get() > FORMAT_VERSION {
        let found = raw.version.get();
        return Err(LogError::NewerFormat { path, found, known: FORMAT_VERSION }.into());
    }
    let partitioning =
        Partitioning::new(raw.partitions.get(), raw.buckets.get()).map_err(|_| damaged())?;
    if !(SEGMENT_LEAST_BYTES..=SEGMENT_MAX_BYTES).contains(&raw.segment_bytes.get()) {
        return Err(damaged().into());
    }
    Ok(Some(Meta {
        database: Uuid::from_bytes(raw.database),
        partitioning,
        segment_bytes: raw.segment_bytes.get(),
    }))
}
