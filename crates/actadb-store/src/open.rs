//! From a bucket's directory to a writer, a publisher and a reader.
//!
//! Full segments with a good index are passed on its word; only the newest segment is read, so
//! opening does not depend on the size of the database. An index that is missing or wrong is
//! rebuilt from its segment before the bucket is served, and said so.

use std::io;
use std::path::PathBuf;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, RwLock};

use actadb_disk::disk::Disk;
use actadb_index::error::IndexError;
use actadb_index::sealed::SealedIndex;
use actadb_log::error::{Damage, LogError};
use actadb_log::format::BatchHead;
use actadb_log::recover::{Recovery, TornTail};
use actadb_log::slots::{SlotState, Slots};
use actadb_log::writer::{FullSegment, LogSettings};
use actadb_model::entry::{Entry, Place};
use actadb_model::ids::BucketId;
use actadb_model::limits::TAIL_BYTES;
use arc_swap::ArcSwap;

use crate::error::OpenError;
use crate::filters::{self, Filters};
use crate::meta::{Directory, Seat};
use crate::publisher::{Publisher, SealTask};
use crate::rows::Rows;
use crate::segments::Shared;
use crate::tail::Tail;
use crate::walk::entry_of;
use crate::writer::BucketWriter;

/// A bucket, open.
#[derive(Debug)]
pub struct OpenedBucket {
    /// Its files.
    pub writer: BucketWriter,
    /// Its memory; [`Publisher::reader`] makes readers.
    pub publisher: Publisher,
    /// What the log says of the group, all of it durable.
    pub log: OpenedLog,
    /// What was cut off the end of the log. Never acknowledged.
    pub torn: Vec<TornTail>,
    /// Indexes that were missing or wrong and have been rebuilt.
    pub rebuilt: Vec<PathBuf>,
    /// Indexes that found no room on the disk; until they are written they are in memory.
    pub unsealed: Vec<SealTask>,
}

impl OpenedBucket {
    /// The same, if its slots say that it has this node's place in the group.
    ///
    /// # Errors
    /// When they do not: a replica of another number, or of other voters, must not vote here.
    pub fn seated(self, seat: &Seat) -> Result<Self, OpenError> {
        let SlotState { replica_id, voters, .. } = self.writer.slot_state();
        if *replica_id == seat.replica && *voters == seat.voters {
            return Ok(self);
        }
        let what = format!(
            "the slots are those of replica {replica_id} among {voters:?}, and this node is \
             replica {} among {:?}",
            seat.replica, seat.voters
        );
        Err(Damage::new(&self.writer.slots_path(), 0, what).into())
    }
}

/// What consensus goes on from.
#[derive(Clone, Debug, Default)]
pub struct OpenedLog {
    /// Index of the last entry.
    pub last_index: u64,
    /// Entries up to this one are known to be committed, and are published. Of a replica that votes
    /// alone that is the whole log.
    pub committed: u64,
    /// Where terms begin: first index and term.
    pub terms: Vec<(u64, u64)>,
    /// The entries that are not known to be committed, and where their bodies lie.
    pub tail: Vec<(Entry, Place)>,
}

/// Publishes what is known to be committed while a log is read, and keeps the rest.
#[derive(Default)]
struct Reading {
    alone: bool,
    log: OpenedLog,
    /// Full segments behind which something is committed: they will not grow any more.
    seals: Vec<SealTask>,
}

impl Reading {
    /// Takes the next entry.
    fn take(&mut self, publisher: &mut Publisher, entry: Entry, body: Place) -> Result<(), Damage> {
        self.note_term(entry.index, entry.term);
        self.log.last_index = entry.index;
        let head = BatchHead::decode(entry.kind, &entry.body);
        let committed = if self.alone { entry.index } else { head.map_or(0, |head| head.durable) };
        self.log.tail.push((entry, body));
        self.publish(publisher, committed)
    }

    /// Entries up to this one are known to be committed.
    fn publish(&mut self, publisher: &mut Publisher, committed: u64) -> Result<(), Damage> {
        self.log.committed = self.log.committed.max(committed).min(self.log.last_index);
        let known = self.log.tail.partition_point(|(e, _)| e.index <= self.log.committed);
        for (entry, body) in self.log.tail.drain(..known) {
            let rows = Rows::read(publisher.identity(), &entry);
            self.seals.extend(publisher.publish(&entry, body, &rows)?.seal);
        }
        Ok(())
    }

    fn note_term(&mut self, index: u64, term: u64) {
        if self.log.terms.last().is_none_or(|(_, last)| *last != term) {
            self.log.terms.push((index, term));
        }
    }

    /// Passes a sealed segment: only what is committed is sealed.
    fn pass(&mut self, index: &SealedIndex) {
        index.terms().iter().for_each(|(index, term)| self.note_term(*index, *term));
        self.log.last_index = index.described().last_index;
        self.log.committed = self.log.last_index;
    }
}

/// Opens a bucket of a database that was made with [`Directory::open_or_create`].
///
/// # Errors
/// Damage to what was acknowledged, a newer format, or what the device says.
pub fn open_bucket(directory: &Directory, bucket: BucketId) -> Result<OpenedBucket, OpenError> {
    let settings = directory.log_settings(bucket);
    let mut slots = open_slots(&settings)?;
    let mut recovery = Recovery::start(settings.clone(), slots.state().known())?;
    let alone = slots.state().voters.len() <= 1;
    let mut reading = Reading { alone, ..Reading::default() };

    let partitioning = directory.meta().partitioning;
    let partition_count = partitioning.partitions_of(bucket).count();
    let shared = Arc::new(Shared {
        settings: settings.clone(),
        partitioning,
        list: ArcSwap::from_pointee(Vec::new()),
        tail: RwLock::new(Tail::new(TAIL_BYTES)),
        filters: ArcSwap::from_pointee(Filters::default()),
        handles: directory.handles().clone(),
        index_cache: directory.index_cache().clone(),
        watermarks: (0..partition_count).map(|_| AtomicU64::new(0)).collect(),
    });
    let mut publisher = Publisher::new(shared.clone(), 0, 0);
    let mut rebuilt = Vec::new();
    let mut unsealed = Vec::new();
    while let Some(number) = recovery.next_segment() {
        if !recovery.is_last()
            && let Some(index) = good_index(&settings, number)?
            && recovery.skip_sealed(&described_segment(&index))?
        {
            // What is behind this one is committed, and so is all before.
            let committed = index.described().first_index - 1;
            reading.publish(&mut publisher, committed)?;
            reading.seals.extend(publisher.seal_active());
            for lane in index.lanes() {
                shared.raise(actadb_model::ids::PartitionId(lane.lane), lane.next());
            }
            reading.pass(&index);
            publisher.pass_sealed(index);
        } else {
            // The index of the newest segment, if there is one, was written before a crash took
            // back what followed it; the segment grows again.
            let last = recovery.is_last();
            remove_index(&settings, number, last)?;
            let full = recovery.scan::<OpenError>(|segment, frame| {
                let (entry, body) = entry_of(segment, frame);
                reading.take(&mut publisher, entry, body)?;
                Ok(())
            })?;
            // What the slots say was synced was committed, too.
            reading.publish(&mut publisher, slots.state().synced_index)?;
            if !last {
                publisher.segment_full(full);
            }
        }
        for task in std::mem::take(&mut reading.seals) {
            filters::remove_over(&settings, task.segment())?;
            match task.run() {
                Ok(index) => {
                    rebuilt.push(index.path().to_owned());
                    publisher.sealed(index);
                }
                // A full disk keeps nobody from reading: the index stays in memory until there
                // is room for it.
                Err(error) if error.is_no_room() => unsealed.push(task),
                Err(error) => return Err(error),
            }
        }
    }
    let last_term = reading.log.terms.last().map_or(0, |(_, term)| *term);
    if !alone && slots.state().term < last_term {
        let what = format!(
            "the slots remember term {}, the log has entries of term {last_term}",
            slots.state().term
        );
        return Err(Damage::new(&Slots::path(&settings.dir), 0, what).into());
    }
    filters::open(&shared);
    let recovered = recovery.finish()?;
    let state = SlotState {
        synced_index: reading.log.committed,
        bulk_through: 0,
        boot_counter: slots.state().boot_counter + 1,
        ..slots.state().clone()
    };
    match slots.save(state) {
        // A full disk keeps nobody from reading; the other slot is good, and the next save comes.
        Err(error) if error.is_no_room() => {}
        other => other?,
    }
    Ok(OpenedBucket {
        writer: BucketWriter::new(recovered.writer, slots),
        publisher,
        log: reading.log,
        torn: recovered.torn,
        rebuilt,
        unsealed,
    })
}

/// Opens the slots, which were made with the database.
fn open_slots(settings: &LogSettings) -> Result<Slots, OpenError> {
    let (disk, dir) = (&*settings.disk, &settings.dir);
    let opened = match disk.exists(dir).map_err(LogError::io("look for", dir))? {
        true => Slots::open(disk, dir, settings.identity)?,
        false => None,
    };
    opened.ok_or_else(|| {
        let path = Slots::path(dir);
        Damage::new(&path, 0, "the bucket's slots are missing; restore the whole directory").into()
    })
}

pub(crate) fn index_path(settings: &LogSettings, number: u64) -> PathBuf {
    settings.segment_path(number).with_extension("index")
}

/// The index of a segment; `None` when it is missing or bad, and must be rebuilt.
fn good_index(settings: &LogSettings, number: u64) -> Result<Option<SealedIndex>, OpenError> {
    let path = index_path(settings, number);
    let (database, bucket) = (settings.identity.database(), settings.identity.bucket());
    match SealedIndex::open(&*settings.disk, &path, database, bucket.0, number) {
        Ok(index) => Ok(Some(index)),
        Err(IndexError::Damaged { .. }) => Ok(None),
        Err(IndexError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
        // Too many open files, say: no reason to take the index for missing.
        Err(error) => Err(error.into()),
    }
}

/// What a sealed index says about its segment.
pub(crate) fn described_segment(index: &SealedIndex) -> FullSegment {
    let described = index.described();
    FullSegment {
        number: described.segment,
        first_index: described.first_index,
        previous_checksum: described.previous_checksum,
        tip: actadb_log::scan::Tip {
            index: described.last_index,
            term: described.last_term,
            checksum: described.last_checksum,
        },
        bytes: described.segment_bytes,
    }
}

fn remove_index(settings: &LogSettings, number: u64, last: bool) -> Result<(), LogError> {
    let path = index_path(settings, number);
    let disk: &dyn Disk = &*settings.disk;
    if last && disk.exists(&path).map_err(LogError::io("look for", &path))? {
        disk.remove(&path).map_err(LogError::io("remove", &path))?;
    }
    Ok(())
}
