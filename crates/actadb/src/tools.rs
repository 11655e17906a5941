//! Looking at a stopped database: check and dump. Both take the directory's lock and change
//! nothing.

use std::path::Path;
use std::sync::Arc;

use actadb_disk::os::OsDisk;
pub use actadb_log::error::Damage;
use actadb_log::slots::Slots;
use actadb_model::ids::BucketId;
pub use actadb_store::check::BucketReport;
use actadb_store::check::check_bucket;
pub use actadb_store::error::OpenError;
use actadb_store::meta::Directory;
pub use actadb_store::meta::Meta;
use actadb_store::record::records;
pub use actadb_store::record::{BadRecord, Record, Transaction};
pub use actadb_store::walk::Step;
use actadb_store::walk::walk;

/// What a check found, bucket by bucket.
#[derive(Debug)]
pub struct Report {
    /// What is fixed for the database's life.
    pub meta: Meta,
    /// One per bucket.
    pub buckets: Vec<(BucketId, BucketReport)>,
}

/// Checks every frame, record and index of a stopped database.
///
/// # Errors
/// When it cannot be opened: missing, in use, of a newer format. Damage is in the report.
pub fn check(dir: &Path) -> Result<Report, OpenError> {
    let directory = Directory::open_existing(Arc::new(OsDisk), dir)?;
    let meta = *directory.meta();
    let mut buckets = Vec::new();
    for bucket in meta.partitioning.all_buckets() {
        buckets.push((bucket, check_bucket(&directory, bucket)?));
    }
    Ok(Report { meta, buckets })
}

/// One thing a dump comes to.
pub enum Dumped<'a> {
    /// A frame, the end of a segment, or damage.
    Step(&'a Step<'a>),
    /// A record of the frame shown last, with its byte in the segment.
    Record(u32, &'a Result<Record, BadRecord>),
}

/// Shows every frame and record of a stopped database, bucket by bucket, in the order of the log.
///
/// # Errors
/// As [`check`].
pub fn dump(
    dir: &Path,
    only: Option<BucketId>,
    show: &mut dyn FnMut(BucketId, Dumped<'_>),
) -> Result<Meta, OpenError> {
    let directory = Directory::open_existing(Arc::new(OsDisk), dir)?;
    let meta = *directory.meta();
    for bucket in meta.partitioning.all_buckets().filter(|b| only.is_none_or(|o| o == *b)) {
        let settings = directory.log_settings(bucket);
        // Damaged slots are the check's business; the frames are shown all the same.
        let slots = Slots::open(&*settings.disk, &settings.dir, settings.identity);
        let synced_index = slots.ok().flatten().map_or(0, |slots| slots.state().synced_index);
        walk(&settings, synced_index, &mut |step| {
            show(bucket, Dumped::Step(&step));
            if let Step::Frame { entry, body } = &step {
                for (at, record) in records(settings.identity, entry) {
                    show(bucket, Dumped::Record(body.offset + at, &record));
                }
            }
        })?;
    }
    Ok(meta)
}
