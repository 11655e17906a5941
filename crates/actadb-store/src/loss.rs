//! What damage costs. The log of a bucket has no gaps, so it must end before the first damage:
//! everything behind it, readable or not, is lost to readers.

use std::collections::{BTreeMap, BTreeSet};

use actadb_index::sealed::SealedIndex;
use actadb_log::error::LogError;
use actadb_log::format::{FRAME_HEADER_BYTES, LogIdentity, frame_bytes};
use actadb_log::scan::Tip;
use actadb_log::segment::segment_numbers;
use actadb_log::writer::{FullSegment, LogSettings};
use actadb_model::entry::{Entry, Place};
use actadb_model::ids::PartitionId;

use crate::open::index_path;
use crate::record::Record;
use crate::records::records;
use crate::verify::FrameContent;

/// The good beginning of a damaged log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Keep {
    /// The segment that would be the last one; 0 when none is left.
    pub segment: u64,
    /// Where it would end, in bytes.
    pub bytes: u64,
    /// Whether its file goes on behind that, and must be cut.
    pub cut: bool,
    /// Index of the last entry.
    pub last_entry: u64,
    /// Term of the last entry.
    pub term: u64,
}

/// Sequences of one partition that can no longer be served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LostSequences {
    /// The partition.
    pub partition: PartitionId,
    /// The first one lost.
    pub from: u64,
    /// The last one that is known to have been there.
    pub to: u64,
}

/// What a repair must give up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Loss {
    /// What would be left.
    pub keep: Keep,
    /// Whether both slots are gone: what they said of the end of the log is lost.
    pub slots: bool,
    /// Whether the log is damaged, and not the slots only.
    pub log: bool,
    /// The last entry that is known to have been there.
    pub last_entry: u64,
    /// Sequences lost, by partition, ascending.
    pub partitions: Vec<LostSequences>,
    /// Whether no event can have been lost that `partitions` does not name.
    pub exact: bool,
    /// Entries behind the damage that can be read now.
    pub readable_entries: u64,
    /// Events that can be read now: in these, and in damaged entries.
    pub readable_events: u64,
}

impl Loss {
    /// The entries that can no longer be served, first and last; `None` when there are none.
    #[must_use]
    pub fn entries(&self) -> Option<(u64, u64)> {
        let first = self.keep.last_entry + 1;
        (first <= self.last_entry).then_some((first, self.last_entry))
    }
}

/// Notes during a walk where the good beginning ends, and what comes behind.
#[derive(Debug, Default)]
pub(crate) struct LossTracker {
    broken: bool,
    keep: Keep,
    /// The sequence behind the last good one.
    kept: BTreeMap<PartitionId, u64>,
    behind: BTreeMap<PartitionId, u64>,
    readable: (u64, u64),
    last_entry: u64,
    /// Segments of which not everything could be read.
    unread: BTreeSet<u64>,
    tail_lost: bool,
}

impl LossTracker {
    /// A frame, and whether all in it is good.
    pub(crate) fn frame(&mut self, entry: &Entry, body: Place, content: &FrameContent, good: bool) {
        let begin = u64::from(body.offset) - FRAME_HEADER_BYTES as u64;
        self.last_entry = self.last_entry.max(entry.index);
        if !good {
            self.unread.insert(body.segment);
            self.broken(Some(body.segment));
        }
        if self.broken {
            self.readable.0 += u64::from(good);
            self.readable.1 += content.events;
            self.behind.extend(&content.next);
        } else {
            let bytes = begin + frame_bytes(entry.body.len() as u64);
            self.keep_through(body.segment, bytes, entry.index, entry.term);
            self.kept.extend(&content.next);
        }
    }

    /// A bad frame behind the damage, or the damage itself: its good records can be read.
    pub(crate) fn rotten(&mut self, identity: LogIdentity, entry: &Entry) {
        self.last_entry = self.last_entry.max(entry.index);
        for (_, record) in records(identity, entry) {
            if let Ok(Record::Transaction(transaction)) = record {
                self.readable.1 += transaction.events.len() as u64;
                self.behind.insert(transaction.partition, transaction.next_sequence());
            }
        }
    }

    pub(crate) fn segment_end(&mut self, segment: &FullSegment) {
        if !self.broken {
            let Tip { index, term, .. } = segment.tip;
            self.keep_through(segment.number, segment.bytes, index, term);
        }
    }

    fn keep_through(&mut self, segment: u64, bytes: u64, last_entry: u64, term: u64) {
        self.keep = Keep { segment, bytes, cut: false, last_entry, term };
    }

    /// Damage in a segment, or at the end of the log.
    pub(crate) fn bad(&mut self, segment: Option<u64>) {
        match segment {
            Some(number) => {
                self.unread.insert(number);
            }
            None => self.tail_lost = true,
        }
        self.broken(segment);
    }

    fn broken(&mut self, segment: Option<u64>) {
        if !self.broken {
            self.broken = true;
            self.keep.cut = segment == Some(self.keep.segment);
        }
    }

    /// What is lost, if anything. `proven` is the highest entry that slots prove to have been
    /// there, `None` when they are lost; the indexes of the segments concerned are asked, too.
    pub(crate) fn finish(
        mut self,
        settings: &LogSettings,
        proven: Option<u64>,
    ) -> Result<Option<Loss>, LogError> {
        let slots = proven.is_none();
        if !self.broken && !slots {
            return Ok(None);
        }
        let mut indexed = 0;
        if self.broken {
            self.last_entry = self.last_entry.max(proven.unwrap_or(0));
            indexed = self.ask_indexes(settings)?;
        }
        let lost = self.behind.iter().filter_map(|(partition, next)| {
            let from = self.kept.get(partition).copied().unwrap_or(0);
            let to = next.checked_sub(1).filter(|to| *to >= from)?;
            Some(LostSequences { partition: *partition, from, to })
        });
        Ok(Some(Loss {
            partitions: lost.collect(),
            // Without slots nothing tells where the log ended.
            exact: !slots
                && !self.tail_lost
                && self.unread.last().is_none_or(|last| *last <= indexed),
            keep: self.keep,
            slots,
            log: self.broken,
            last_entry: self.last_entry.max(self.keep.last_entry),
            readable_entries: self.readable.0,
            readable_events: self.readable.1,
        }))
    }

    /// Good indexes know how far their segments went, whatever became of these. Answers the number
    /// of the newest one.
    fn ask_indexes(&mut self, settings: &LogSettings) -> Result<u64, LogError> {
        let (disk, dir) = (&*settings.disk, &settings.dir);
        let mut newest = 0;
        let there = disk.exists(dir).map_err(LogError::io("look for", dir))?;
        let numbers = if there { segment_numbers(disk, dir)? } else { Vec::new() };
        for number in numbers.into_iter().chain(self.unread.clone()) {
            let path = index_path(settings, number);
            let (database, bucket) = (settings.identity.database(), settings.identity.bucket().0);
            let index = SealedIndex::open(disk, &path, database, bucket, number);
            let Some(index) = index.ok().filter(|_| number >= self.keep.segment) else { continue };
            newest = newest.max(number);
            self.last_entry = self.last_entry.max(index.described().last_index);
            for lane in index.lanes() {
                let next = self.behind.entry(PartitionId(lane.lane)).or_default();
                *next = (*next).max(lane.next());
            }
        }
        Ok(newest)
    }
}
