//! Checking a stopped bucket: every frame, every record, every index, both ways.

use std::path::PathBuf;

use actadb_index::error::IndexError;
use actadb_index::sealed::SealedIndex;
use actadb_log::error::{Damage, LogError};
use actadb_log::slots::{Known, Slots};
use actadb_log::writer::LogSettings;
use actadb_model::ids::BucketId;

use crate::error::OpenError;
use crate::filters;
use crate::loss::{Loss, LossTracker};
use crate::meta::Directory;
use crate::open::index_path;
use crate::verify::{Expected, Findings, IndexCheck, Verifier};
use crate::walk::{Step, walk};

/// What a check counted and found.
#[derive(Clone, Debug, Default)]
pub struct BucketReport {
    /// Segment files with a header.
    pub segments: u64,
    /// Sealed indexes that agree with their segments.
    pub indexes: u64,
    /// Filters that deny nothing their indexes have.
    pub filters: u64,
    /// Good frames.
    pub frames: u64,
    /// Good records.
    pub records: u64,
    /// Events in them.
    pub events: u64,
    /// Damage: what was acknowledged is not as it was.
    pub damage: Vec<Damage>,
    /// Good records that do not fit each other: everything is served as it is, and a repair
    /// changes nothing.
    pub disagreements: Vec<Damage>,
    /// Indexes and filters that a start would trust and must not. A repair rebuilds the former and
    /// removes the latter.
    pub bad_indexes: Vec<Damage>,
    /// What the next start mends by itself: a torn tail, an index to rebuild, a filter to remove,
    /// one bad slot.
    pub mendable: Vec<Damage>,
    /// What the damage costs.
    pub loss: Option<Loss>,
}

impl BucketReport {
    /// Whether nothing is wrong but what the next start mends by itself.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.damage.is_empty() && self.bad_indexes.is_empty() && self.disagreements.is_empty()
    }

    /// Whether there is anything for a repair to do.
    #[must_use]
    pub fn can_be_mended(&self) -> bool {
        let none = self.damage.is_empty() && self.bad_indexes.is_empty();
        !none || !self.mendable.is_empty()
    }

    fn take(&mut self, findings: &mut Findings) {
        self.damage.append(&mut findings.damage);
        self.disagreements.append(&mut findings.disagreements);
    }
}

/// Walks one bucket and compares everything with everything.
///
/// # Errors
/// A newer format, also of a record, a foreign segment, or what the device says; damage is in the
/// report.
pub fn check_bucket(directory: &Directory, bucket: BucketId) -> Result<BucketReport, OpenError> {
    let settings = directory.log_settings(bucket);
    let mut report = BucketReport::default();
    let known = check_slots(&settings, &mut report)?;
    let mut verifier = Verifier::new(settings.identity, directory.meta().partitioning, true);
    let mut losses = LossTracker::default();
    let mut findings = Findings::default();
    let mut failed = None;
    let places = |report: &BucketReport| report.damage.len() + report.disagreements.len();
    // Found before the segment at hand.
    let mut earlier = places(&report);
    walk(&settings, known, &mut |step| match step {
        Step::Frame { entry, body } => {
            let before = report.damage.len();
            let path = settings.segment_path(body.segment);
            let content = verifier.frame(&path, entry, body, &mut findings);
            report.take(&mut findings);
            report.frames += 1;
            report.records += content.records;
            report.events += content.events;
            losses.frame(entry, body, &content, report.damage.len() == before);
        }
        Step::Rotten { entry, .. } => losses.rotten(settings.identity, entry),
        Step::SegmentEnd { segment, last, whole } => {
            report.segments += 1;
            losses.segment_end(&segment);
            let expected = verifier.segment_end(segment);
            if !last && whole && places(&report) == earlier {
                let compared = compare_index(&settings, segment.number, expected, &mut report);
                failed = failed.take().or(compared.err());
            }
            earlier = places(&report);
        }
        Step::Bad { damage, torn: true, .. } => report.mendable.push(damage),
        Step::Bad { damage, segment, torn: false } => {
            report.damage.push(damage);
            losses.bad(segment);
            verifier.skip();
        }
    })?;
    if let Some(damage) = findings.newer {
        // Not rot: its checksum holds. Nothing that this program knows may be done about it.
        return Err(OpenError::NewerRecord(damage));
    }
    if let Some(error) = failed {
        return Err(error.into());
    }
    let checked = filters::check(&settings)?;
    report.filters = checked.sound;
    report.bad_indexes.extend(checked.bad);
    report.mendable.extend(checked.unused);
    report.loss = losses.finish(&settings, known.map(|known| known.synced_index))?;
    Ok(report)
}

/// Answers the synced index; `None` when the slots are lost.
fn check_slots(
    settings: &LogSettings,
    report: &mut BucketReport,
) -> Result<Option<Known>, LogError> {
    let path = Slots::path(&settings.dir);
    match Slots::open(&*settings.disk, &settings.dir, settings.identity) {
        Ok(Some(slots)) => {
            if let Some(offset) = slots.bad() {
                let what = "the slot is not good; the other one is";
                report.mendable.push(Damage::new(&path, offset, what));
            }
            Ok(Some(slots.state().known()))
        }
        Ok(None) => {
            report.damage.push(Damage::new(&path, 0, "the bucket's slots are missing"));
            Ok(None)
        }
        Err(LogError::Damaged(found)) => {
            report.damage.push(found);
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// An index must say all that its segment gives, and nothing else.
fn compare_index(
    settings: &LogSettings,
    number: u64,
    expected: Expected,
    report: &mut BucketReport,
) -> Result<(), IndexError> {
    let path: PathBuf = index_path(settings, number);
    let (database, bucket) = (settings.identity.database(), settings.identity.bucket().0);
    match SealedIndex::open(&*settings.disk, &path, database, bucket, number) {
        Ok(index) => match IndexCheck::new(expected).run(&index)? {
            Some(damage) => report.bad_indexes.push(damage),
            None => report.indexes += 1,
        },
        Err(error) => {
            let what = format!("no good index, the next start rebuilds it ({error})");
            report.mendable.push(Damage::new(&path, 0, what));
        }
    }
    Ok(())
}
