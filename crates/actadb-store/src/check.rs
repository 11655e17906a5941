//! Checking a stopped bucket: every frame, every record, every index, both ways.

use std::collections::HashMap;

use actadb_index::open::OpenIndex;
use actadb_index::sealed::SealedIndex;
use actadb_log::error::Damage;
use actadb_log::slots::Slots;
use actadb_model::ids::{BucketId, PartitionId};

use crate::error::OpenError;
use crate::hashes::{event_id_hash, stream_hash};
use crate::meta::Directory;
use crate::open::described_segment;
use crate::record::{Record, Transaction, records};
use crate::walk::{Step, walk};

/// What a check counted and found.
#[derive(Clone, Debug, Default)]
pub struct BucketReport {
    /// Segment files with a header.
    pub segments: u64,
    /// Sealed indexes that agree with their segments.
    pub indexes: u64,
    /// Good frames.
    pub frames: u64,
    /// Good records.
    pub records: u64,
    /// Events in them.
    pub events: u64,
    /// Damage: what was acknowledged is not as it was.
    pub damage: Vec<Damage>,
    /// What the next start mends by itself: a torn tail, an index to rebuild.
    pub mendable: Vec<Damage>,
}

struct Checker {
    report: BucketReport,
    bucket: BucketId,
    directory_partitions: actadb_model::ids::Partitioning,
    next_sequences: HashMap<PartitionId, u64>,
    next_versions: HashMap<(PartitionId, u32, String), u64>,
    index: OpenIndex,
    last_time_ns: u64,
}

/// Walks one bucket and compares everything with everything.
///
/// # Errors
/// A newer format, a foreign segment, or what the device says; damage is in the report.
pub fn check_bucket(directory: &Directory, bucket: BucketId) -> Result<BucketReport, OpenError> {
    let settings = directory.log_settings(bucket);
    let mut damage = Vec::new();
    let synced_index = match Slots::open(&*settings.disk, &settings.dir, settings.identity) {
        Ok(Some(slots)) => slots.state().synced_index,
        Ok(None) => {
            let path = Slots::path(&settings.dir);
            damage.push(Damage::new(&path, 0, "the bucket's slots are missing"));
            0
        }
        Err(actadb_log::error::LogError::Damaged(found)) => {
            damage.push(found);
            0
        }
        Err(error) => return Err(error.into()),
    };
    let mut checker = Checker {
        report: BucketReport { damage, ..BucketReport::default() },
        bucket,
        directory_partitions: directory.meta().partitioning,
        next_sequences: HashMap::new(),
        next_versions: HashMap::new(),
        index: OpenIndex::default(),
        last_time_ns: 0,
    };
    checker.begin_segment();
    walk(&settings, synced_index, &mut |step| match step {
        Step::Frame { entry, body } => {
            checker.report.frames += 1;
            if let Some(head) = actadb_log::format::BatchHead::decode(entry.kind, &entry.body) {
                if head.time_ns < checker.last_time_ns {
                    let path = settings.segment_path(body.segment);
                    let what = "the time of a batch fell";
                    checker.report.damage.push(Damage::new(&path, body.offset.into(), what));
                }
                checker.last_time_ns = head.time_ns;
            }
            for (at, record) in records(settings.identity, entry) {
                let place = body.offset + at;
                let path = settings.segment_path(body.segment);
                let bad = |what: String| Damage::new(&path, place.into(), what);
                match record {
                    Ok(Record::Transaction(transaction)) => {
                        checker.transaction(&transaction, place, &bad);
                    }
                    Ok(Record::Other(_)) => {}
                    Err(error) => checker.report.damage.push(bad(error.to_string())),
                }
            }
        }
        Step::SegmentEnd { segment, last, whole } => {
            checker.report.segments += 1;
            // An index must not be blamed, or deleted, for what its segment lost.
            if !last && whole {
                checker.compare_index(&settings, &segment);
            }
            checker.begin_segment();
        }
        Step::Bad { damage, torn: true } => checker.report.mendable.push(damage),
        Step::Bad { damage, torn: false } => checker.report.damage.push(damage),
    })?;
    Ok(checker.report)
}

impl Checker {
    fn begin_segment(&mut self) {
        let partitions = self.directory_partitions.partitions_of(self.bucket);
        let next = |p: &PartitionId| self.next_sequences.get(p).copied().unwrap_or(0);
        self.index = OpenIndex::new(partitions.map(|p| (p.0, next(&p))).collect::<Vec<_>>());
    }

    fn transaction(
        &mut self,
        transaction: &Transaction,
        place: u32,
        bad: &dyn Fn(String) -> Damage,
    ) {
        self.report.records += 1;
        let partition = transaction.partition;
        if !self.directory_partitions.contains(partition)
            || self.directory_partitions.bucket_of(partition) != self.bucket
        {
            self.report.damage.push(bad(format!("a record of partition {partition}")));
            return;
        }
        let next = self.next_sequences.entry(partition).or_default();
        if transaction.first_sequence != *next {
            let found = transaction.first_sequence;
            let what =
                format!("partition {partition} goes on at sequence {next}, the record has {found}");
            self.report.damage.push(bad(what));
            // Go on from what is there, so that one gap is told once.
            let partitions = self.directory_partitions.partitions_of(self.bucket);
            self.next_sequences.insert(partition, transaction.first_sequence);
            let next = |p: &PartitionId| self.next_sequences.get(p).copied().unwrap_or(0);
            self.index = OpenIndex::new(partitions.map(|p| (p.0, next(&p))).collect::<Vec<_>>());
        }
        self.next_sequences.insert(partition, transaction.next_sequence());
        for event in &transaction.events {
            let event = event.as_ref();
            self.report.events += 1;
            let key = (partition, transaction.namespace, event.stream.to_owned());
            let next = self.next_versions.entry(key).or_default();
            if event.version != *next {
                let (stream, found) = (event.stream, event.version);
                let what =
                    format!("stream {stream} goes on at version {next}, the record has {found}");
                self.report.damage.push(bad(what));
            }
            *next = event.version + 1;
            if self.directory_partitions.partition_of_hash(actadb_model::ids::hash16(event.id))
                != partition
            {
                let what = format!("event id {} belongs to another partition", event.id);
                self.report.damage.push(bad(what));
            }
            let group = stream_hash(transaction.namespace, event.stream);
            self.index.push_lane(partition.0, event.sequence, place);
            self.index.add_posting(group, partition.0, event.version, place);
            self.index.add_key(event_id_hash(transaction.namespace, event.id), place);
        }
    }

    /// An index must be, byte for byte, the one its segment gives.
    fn compare_index(
        &mut self,
        settings: &actadb_log::writer::LogSettings,
        segment: &actadb_log::writer::FullSegment,
    ) {
        let path = settings.segment_path(segment.number).with_extension("index");
        let identity = settings.identity;
        let mend = |what: String| Damage::new(&path, 0, what);
        let (database, bucket) = (identity.database, identity.bucket.0);
        let opened = SealedIndex::open(&*settings.disk, &path, database, bucket, segment.number);
        let index = match opened {
            Ok(index) => index,
            Err(error) => {
                let what = format!("no good index, the next start rebuilds it ({error})");
                self.report.mendable.push(mend(what));
                return;
            }
        };
        if described_segment(&index) != *segment {
            let what = "the index describes another segment; delete it, the next start rebuilds it";
            self.report.damage.push(mend(what.to_owned()));
            return;
        }
        match index.equals(&self.index) {
            Ok(true) => self.report.indexes += 1,
            Ok(false) => self.report.damage.push(mend(
                "the index disagrees with its segment; delete it, the next start rebuilds it"
                    .to_owned(),
            )),
            Err(error) => self
                .report
                .damage
                .push(mend(format!("{error}; delete the index, the next start rebuilds it"))),
        }
    }
}
