//! Cutting entries off the end of a log: what one leader wrote and another never heard of.
//!
//! Only a replica among several does this, and only to entries that are not committed. The cut is
//! durable before anything is written in its place. A crash in the middle leaves a log that ends
//! somewhere between the cut and the old end: every entry of it is one that this replica held.

use std::collections::VecDeque;

use crate::error::{Damage, LogError, SYNC};
use crate::format::SEGMENT_HEADER_BYTES;
use crate::recover::zero;
use crate::scan::Tip;
use crate::segment::{read_header, segment_path};
use crate::writer::{LogWriter, OpenSegment};

/// Where a frame begins that may yet be cut off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    /// The frame before it.
    pub(crate) before: Tip,
    /// Its segment.
    pub(crate) segment: u64,
    /// Its first byte there.
    pub(crate) offset: u64,
}

/// What a cut did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Truncated {
    /// The segment that is written now.
    pub segment: u64,
    /// Segments that were full and are not any more.
    pub reopened: usize,
}

/// Forgets the marks of frames that will never be cut off.
pub(crate) fn settle(marks: &mut VecDeque<Mark>, index: u64) {
    while marks.front().is_some_and(|mark| mark.before.index < index) {
        marks.pop_front();
    }
}

impl LogWriter {
    /// Entries up to this one will never be cut off.
    pub fn settle(&mut self, index: u64) {
        settle(&mut self.marks, index);
    }

    /// Cuts off what stands behind an entry, durably.
    ///
    /// # Errors
    /// Final, as for [`write`](Self::write).
    ///
    /// # Panics
    /// When an entry behind it is settled, or there is none.
    pub fn truncate(&mut self, after: u64) -> Result<Truncated, LogError> {
        let at = self.marks.iter().position(|mark| mark.before.index == after);
        let at = at.expect("what is cut off is not settled");
        let mark = self.marks[at];
        let (disk, dir) = (self.settings.disk.clone(), self.settings.dir.clone());
        let newest = self.current.as_ref().map_or(0, |current| current.number);
        // What comes in its place may fit into the segment before.
        let begins_segment = mark.offset == SEGMENT_HEADER_BYTES && mark.segment > 1;
        let segment = mark.segment - u64::from(begins_segment);
        // The newest first, each durable before the next: a loss of power between two must not
        // leave a gap in the numbers.
        let next = self.next.take().map(|next| next.number);
        for number in next.into_iter().chain((segment + 1..=newest).rev()) {
            let path = segment_path(&dir, number);
            disk.remove(&path).map_err(LogError::io("remove", &path))?;
            disk.sync_dir(&dir).map_err(LogError::io(SYNC, &dir))?;
        }
        if newest != segment {
            self.reopen(segment)?;
        }
        let path = segment_path(&dir, segment);
        let current = self.current.as_mut().expect("a marked frame lies in a segment");
        if !begins_segment {
            let written = current.position - mark.offset;
            zero(&*current.file, mark.offset, written).map_err(LogError::io("cut", &path))?;
            current.file.sync_data().map_err(LogError::io(SYNC, &path))?;
            current.position = mark.offset;
        }
        self.tip = mark.before;
        self.marks.truncate(at);
        // A roll that was not reported yet.
        let unreported = self.full.take_if(|full| full.number >= segment).is_some();
        let reopened = (newest - segment) as usize - usize::from(unreported);
        Ok(Truncated { segment, reopened })
    }

    /// Goes back to a segment that was full.
    fn reopen(&mut self, number: u64) -> Result<(), LogError> {
        let path = segment_path(&self.settings.dir, number);
        let file = self.settings.disk.open(&path).map_err(LogError::io("open", &path))?;
        let length = file.len().map_err(LogError::io("measure", &path))?;
        let header = read_header(&*file, &path, self.settings.identity)?;
        let header = header.ok_or_else(|| Damage::new(&path, 0, "the segment has no header"))?;
        self.current_start = (header.first_index, header.previous_checksum);
        let (position, allocated, filled) = (length, length, length);
        self.current = Some(OpenSegment { number, file, position, allocated, filled });
        Ok(())
    }
}
