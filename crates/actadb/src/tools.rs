//! Looking at a stopped database, and mending it. All take the directory's lock; only a
//! [repair](Repair::mend) changes anything.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use actadb_disk::os::OsDisk;
pub use actadb_log::error::Damage;
use actadb_log::error::LogError;
use actadb_log::slots::Slots;
use actadb_model::ids::BucketId;
pub use actadb_store::check::BucketReport;
use actadb_store::check::check_bucket;
pub use actadb_store::error::OpenError;
pub use actadb_store::loss::{Keep, Loss, LostSequences};
use actadb_store::meta::Directory;
pub use actadb_store::meta::Meta;
pub use actadb_store::record::{BadRecord, Record, Transaction};
use actadb_store::records::records;
pub use actadb_store::repair::Mended;
use actadb_store::repair::repair_bucket;
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
    check_all(&Directory::open_existing(Arc::new(OsDisk), dir)?)
}

fn check_all(directory: &Directory) -> Result<Report, OpenError> {
    let meta = *directory.meta();
    let mut buckets = Vec::new();
    for bucket in meta.partitioning.all_buckets() {
        buckets.push((bucket, check_bucket(directory, bucket)?));
    }
    Ok(Report { meta, buckets })
}

/// A stopped database that was checked and can be mended; locked as long as this lives.
#[derive(Debug)]
pub struct Repair {
    directory: Directory,
    report: Report,
}

/// What a repair did.
#[derive(Debug)]
pub struct Repaired {
    /// One per thing done, in order.
    pub done: Vec<(BucketId, Mended)>,
    /// Where files were set aside, if any were.
    pub aside: Option<PathBuf>,
    /// Buckets that could not be mended, and why; a repair can be run again.
    pub failed: Vec<(BucketId, OpenError)>,
    /// A check after it, if it could be made.
    pub report: Result<Report, OpenError>,
}

impl Repair {
    /// Checks everything; changes nothing.
    ///
    /// # Errors
    /// As [`check`].
    pub fn survey(dir: &Path) -> Result<Self, OpenError> {
        let directory = Directory::open_existing(Arc::new(OsDisk), dir)?;
        let report = check_all(&directory)?;
        Ok(Self { directory, report })
    }

    /// What is wrong, and what mending it costs.
    #[must_use]
    pub fn report(&self) -> &Report {
        &self.report
    }

    /// Whether mending it costs anything that was acknowledged.
    #[must_use]
    pub fn costs(&self) -> bool {
        self.report.buckets.iter().any(|(_, bucket)| bucket.loss.is_some())
    }

    /// Mends everything, giving up what the report says, and checks it again. What is given up
    /// is kept in `damaged-<time>` in the database's directory. A bucket that fails keeps no other
    /// one from being mended, and what was done to it is told all the same.
    ///
    /// # Errors
    /// What the device says before anything is changed.
    pub fn mend(self) -> Result<Repaired, OpenError> {
        let aside = self.aside()?;
        let (mut done, mut failed) = (Vec::new(), Vec::new());
        for (bucket, report) in &self.report.buckets {
            let mut mended = Vec::new();
            let outcome = repair_bucket(&self.directory, *bucket, report, &aside, &mut mended);
            done.extend(mended.into_iter().map(|mended| (*bucket, mended)));
            failed.extend(outcome.err().map(|error| (*bucket, error)));
        }
        let kept = self.directory.disk().exists(&aside).unwrap_or(true);
        let aside = (self.costs() && kept).then_some(aside);
        Ok(Repaired { done, aside, failed, report: check_all(&self.directory) })
    }

    /// A directory that no earlier repair has used.
    fn aside(&self) -> Result<PathBuf, OpenError> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let name = format!("damaged-{}", utc(now));
        let (disk, root) = (self.directory.disk(), self.directory.root());
        let mut path = root.join(&name);
        for n in 2.. {
            if !disk.exists(&path).map_err(LogError::io("look for", &path))? {
                break;
            }
            path = root.join(format!("{name}-{n}"));
        }
        Ok(path)
    }
}

/// Seconds since 1970 as `20261120T214203Z`.
fn utc(seconds: u64) -> String {
    let (mut day, second) = (seconds / 86_400, seconds % 86_400);
    let leap = |y: u64| y.is_multiple_of(4) && (!y.is_multiple_of(100) || y.is_multiple_of(400));
    let (mut year, mut month) = (1970, 1);
    while day >= 365 + u64::from(leap(year)) {
        day -= 365 + u64::from(leap(year));
        year += 1;
    }
    for days in [31, 28 + u64::from(leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if day < days {
            break;
        }
        day -= days;
        month += 1;
    }
    let (hour, minute) = (second / 3600, second / 60 % 60);
    format!("{year:04}{month:02}{:02}T{hour:02}{minute:02}{:02}Z", day + 1, second % 60)
}

/// One thing a dump comes to.
pub enum Dumped<'a> {
    /// A frame, the end of a segment, or damage.
    Step(&'a Step<'a>),
    /// A record of the frame shown last, good or rotten, with its byte in the segment.
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
        let known = slots.ok().flatten().map(|slots| slots.state().known());
        walk(&settings, known, &mut |step| {
            show(bucket, Dumped::Step(&step));
            if let Step::Frame { entry, body } | Step::Rotten { entry, body } = &step {
                for (at, record) in records(settings.identity, entry) {
                    show(bucket, Dumped::Record(body.offset + at, &record));
                }
            }
        })?;
    }
    Ok(meta)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_told_as_a_calendar_does() {
        for (seconds, wanted) in [
            (0, "19700101T000000Z"),
            (951_782_399, "20000228T235959Z"),
            (951_868_799, "20000229T235959Z"),
            (1_735_689_599, "20241231T235959Z"),
            (1_795_211_000, "20261120T214320Z"),
        ] {
            assert_eq!(utc(seconds), wanted);
        }
    }
}
