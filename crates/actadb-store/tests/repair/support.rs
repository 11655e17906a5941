//! A small database on a device that forgets what was not synced.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use actadb_disk::sim::SimDisk;
use actadb_log::error::Damage;
use actadb_log::format::BatchHead;
use actadb_log::slots::Known;
use actadb_log::slots::Slots;
use actadb_model::dice::SplitMix64;
use actadb_model::entry::{Entry, EntryKind};
use actadb_model::event::Event;
use actadb_model::ids::{BucketId, PartitionId, PartitionKey, Partitioning, with_hash16};
use actadb_model::names::{EventName, StreamId};
use actadb_model::numbered::{Numbered, NumberedEvent};
use actadb_store::check::{BucketReport, check_bucket};
use actadb_store::error::OpenError;
use actadb_store::meta::{Directory, Meta, bucket_dir};
use actadb_store::open::{OpenedBucket, open_bucket};
use actadb_store::reader::Scan;
use actadb_store::record;
use actadb_store::repair::{Mended, repair_bucket};
use actadb_store::rows::Rows;
use bytes::Bytes;
use uuid::Uuid;

pub(crate) const BUCKET: BucketId = BucketId(0);
pub(crate) const PARTITIONS: [PartitionId; 2] = [PartitionId(0), PartitionId(1)];

/// Bytes of each frame.
pub(crate) const FRAME: usize = 4136;

/// Where frame `n` of a segment begins, counted from 0.
pub(crate) fn frame(n: usize) -> usize {
    4096 + n * FRAME
}

pub(crate) fn root() -> &'static Path {
    Path::new("/db")
}

pub(crate) fn segment(number: u64) -> PathBuf {
    bucket_dir(root(), BUCKET).join(format!("{number:012}.segment"))
}

pub(crate) fn index(number: u64) -> PathBuf {
    segment(number).with_extension("index")
}

pub(crate) fn slots() -> PathBuf {
    Slots::path(&bucket_dir(root(), BUCKET))
}

pub(crate) fn directory(disk: &SimDisk) -> Result<Directory, OpenError> {
    let meta = Meta {
        database: Uuid::from_u128(5),
        partitioning: Partitioning::new(2, 1).expect("valid"),
        segment_bytes: 64 << 10,
    };
    Directory::open_or_create(Arc::new(disk.clone()), root(), meta)
}

/// One event per entry, all of one size: fourteen to a segment.
pub(crate) fn append(directory: &Directory, bucket: &mut OpenedBucket) {
    append_to(directory, bucket, true);
}

pub(crate) fn append_to(directory: &Directory, bucket: &mut OpenedBucket, sync: bool) {
    append_changed(directory, bucket, sync, |_, _| {}, |_| {}).expect("publishes");
}

/// With another transaction, or another body; answers what publishing says.
pub(crate) fn append_changed(
    directory: &Directory,
    bucket: &mut OpenedBucket,
    sync: bool,
    change: impl FnOnce(&mut Numbered, &mut BatchHead),
    change_body: impl FnOnce(&mut Vec<u8>),
) -> Result<(), Damage> {
    let identity = directory.log_settings(BUCKET).identity;
    let index = bucket.writer.tip().index + 1;
    let partition = PARTITIONS[usize::from(index.is_multiple_of(3))];
    let first_sequence = bucket.publisher.next_sequence(partition);
    let id = with_hash16(Uuid::from_u128(u128::from(index)), partition.0);
    let event = NumberedEvent {
        id,
        stream: StreamId::new(&format!("s{}", partition.0)).expect("ok"),
        version: first_sequence,
        name: EventName::new("Happened").expect("ok"),
        timestamp_ns: 1,
        payload: Bytes::from(vec![index as u8; 4000]),
        metadata: Bytes::new(),
    };
    let mut transaction = Numbered {
        partition,
        partition_key: PartitionKey::new(with_hash16(Uuid::from_u128(50), partition.0)),
        key_is_default: false,
        transaction_id: id,
        first_sequence,
        decided_ns: 1,
        events: vec![event],
    };
    let mut head = BatchHead { time_ns: index, durable: index - 1 };
    change(&mut transaction, &mut head);
    let mut body = head.encode().to_vec();
    body.extend_from_slice(&record::encode(identity, &transaction));
    change_body(&mut body);
    let entry = Entry { term: 1, index, kind: EntryKind::Batch, body: Bytes::from(body) };
    bucket.writer.make_room(entry.body.len() as u64).expect("room");
    let written = bucket.writer.write(&entry).expect("write");
    if sync {
        bucket.writer.sync().expect("sync");
    }
    if let Some(full) = written.full {
        bucket.publisher.segment_full(full);
    }
    let rows = Rows::read(bucket.publisher.identity(), &entry);
    let seal = bucket.publisher.publish(&entry, written.body, &rows)?.seal;
    if let Some(task) = seal {
        let index = task.run().expect("seals");
        bucket.publisher.sealed(index);
    }
    Ok(())
}

/// Fifty entries in four segments: 1 to 14, 15 to 28, 29 to 42, 43 to 50.
pub(crate) fn filled(saved: u64) -> SimDisk {
    let disk = SimDisk::new();
    let directory = directory(&disk).expect("opens");
    let mut bucket = open_bucket(&directory, BUCKET).expect("opens");
    for _ in 0..50 {
        append(&directory, &mut bucket);
    }
    let known = Known { synced_index: saved, bulk_through: 0 };
    bucket.writer.save(1, 1, known).expect("saves");
    drop((bucket, directory));
    disk.power_loss(&mut SplitMix64::new(1));
    disk
}

pub(crate) fn check(disk: &SimDisk) -> BucketReport {
    check_bucket(&directory(disk).expect("opens"), BUCKET).expect("checks")
}

pub(crate) fn repair(disk: &SimDisk, name: &str) -> Result<BucketReport, OpenError> {
    repair_told(disk, name).0
}

/// And what it says it did.
pub(crate) fn repair_told(
    disk: &SimDisk,
    name: &str,
) -> (Result<BucketReport, OpenError>, Vec<Mended>) {
    let mut done = Vec::new();
    let mut run = || {
        let directory = directory(disk)?;
        let report = check_bucket(&directory, BUCKET)?;
        repair_bucket(&directory, BUCKET, &report, &root().join(name), &mut done)?;
        Ok(report)
    };
    (run(), done)
}

/// Every event that readers get.
pub(crate) fn events(disk: &SimDisk) -> Vec<Event> {
    let directory = directory(disk).expect("opens");
    let bucket = open_bucket(&directory, BUCKET).expect("opens");
    let reader = bucket.publisher.reader();
    let all = Scan { from: 0, to: u64::MAX, count: 1000, reverse: false };
    let pages = PARTITIONS.map(|p| reader.read_partition(p, all).expect("reads").events);
    pages.into_iter().flatten().collect()
}

/// All files, but for the ones that a start may change.
pub(crate) fn files(disk: &SimDisk) -> BTreeMap<PathBuf, Vec<u8>> {
    let paths = disk.files().into_iter().filter(|path| !path.ends_with("LOCK"));
    paths.map(|path| (path.clone(), disk.contents(&path).expect("there"))).collect()
}

pub(crate) fn flip(disk: &SimDisk, path: &Path, offset: usize) {
    disk.damage(path, |bytes| bytes[offset] ^= 0x10);
}

/// After a repair: sound, opens, goes on, and stays sound.
pub(crate) fn assert_mended(disk: &SimDisk, kept: usize) {
    let report = check(disk);
    assert!(report.is_sound() && report.mendable.is_empty(), "{report:?}");
    assert_eq!(events(disk).len(), kept);
    let directory = directory(disk).expect("opens");
    let mut bucket = open_bucket(&directory, BUCKET).expect("opens");
    for _ in 0..40 {
        append(&directory, &mut bucket);
    }
    drop((bucket, directory));
    let report = check(disk);
    assert!(report.is_sound(), "{report:?}");
    assert_eq!(report.events, kept as u64 + 40);
}
