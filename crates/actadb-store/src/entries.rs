//! Reading entries again by their index, for replicas that are behind. Committed entries only.
//!
//! No index leads from an entry's index to its place: a segment is read from its beginning. Who
//! catches up reads on, so the places where the last answers ended are kept.

use std::collections::VecDeque;

use actadb_log::error::{Damage, LogError};
use actadb_log::format::{FORMAT_VERSION, SEGMENT_HEADER_BYTES, SegmentHeader};
use actadb_log::scan::{Found, Scanner, Tip};
use actadb_log::segment::read_header;
use actadb_model::entry::Entry;

use crate::error::ReadError;
use crate::reader::Reader;
use crate::walk::entry_of;

/// Places that are kept: for as many replicas as may be behind at once, and some more.
const PLACES: usize = 8;

/// A reader of committed entries that goes on where it ended.
#[derive(Debug)]
pub struct EntryReader {
    reader: Reader,
    /// Where answers ended, the last one first.
    ends: VecDeque<Position>,
}

/// Where a frame begins, and what is before it.
#[derive(Clone, Copy, Debug)]
struct Position {
    segment: u64,
    offset: u64,
    before: Tip,
}

impl EntryReader {
    /// A reader that has read nothing.
    #[must_use]
    pub fn new(reader: Reader) -> Self {
        Self { reader, ends: VecDeque::with_capacity(PLACES) }
    }

    /// Entries from `first` on, before `end`, up to `max_bytes` of bodies, or one that is larger.
    /// All of them must be published. Blocking.
    ///
    /// # Errors
    /// Damage, or what the device says.
    pub fn read(&mut self, first: u64, end: u64, max_bytes: u64) -> Result<Vec<Entry>, ReadError> {
        // It stays: what was lost on the way is asked for again.
        let mut at = match self.ends.iter().find(|at| at.before.index + 1 == first) {
            Some(at) => *at,
            None => self.segment_of(first)?,
        };
        let (mut entries, mut bytes) = (Vec::new(), 0);
        // What one read of the file saw of a frame may be less than what is there now, so each
        // answer looks again.
        let mut scanner = self.scanner(at)?;
        while at.before.index + 1 < end {
            let path = self.reader.segment_path(at.segment);
            match scanner.step().map_err(LogError::io("read", &path))? {
                Found::Frame(frame) => {
                    let (entry, _) = entry_of(at.segment, frame);
                    if entry.index >= first {
                        bytes += entry.body.len() as u64;
                        if !entries.is_empty() && bytes > max_bytes {
                            break;
                        }
                        entries.push(entry);
                    }
                    at = Position { offset: scanner.offset(), before: scanner.tip(), ..at };
                }
                Found::End => {
                    let (segment, offset) = (at.segment + 1, SEGMENT_HEADER_BYTES);
                    at = Position { segment, offset, ..at };
                    scanner = self.scanner(at)?;
                }
                Found::Bad(what) => return Err(Damage::new(&path, at.offset, what).into()),
                Found::Newer(found) => {
                    let known = FORMAT_VERSION;
                    return Err(LogError::NewerFormat { path, found, known }.into());
                }
            }
        }
        self.ends.truncate(PLACES - 1);
        self.ends.push_front(at);
        Ok(entries)
    }

    fn scanner(&self, at: Position) -> Result<Scanner, ReadError> {
        let path = self.reader.segment_path(at.segment);
        let file = self.reader.segment_file(at.segment)?;
        let seed = self.reader.identity().checksum_seed();
        let scanner = Scanner::new(file, seed, at.before).map_err(LogError::io("read", &path))?;
        Ok(scanner.resume(at.offset))
    }

    /// The beginning of the segment that holds an entry.
    fn segment_of(&self, index: u64) -> Result<Position, ReadError> {
        let numbers = self.reader.segment_numbers();
        // The last segment that begins at or before the entry lies in this range.
        let (mut low, mut high) = (0, numbers.len());
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            let starts = self.header(numbers[middle])?.first_index;
            *(if starts <= index { &mut low } else { &mut high }) = middle;
        }
        let segment = numbers.get(low).copied().unwrap_or(1);
        let SegmentHeader { first_index, previous_checksum: checksum, .. } =
            self.header(segment)?;
        let before = Tip { index: first_index - 1, term: 0, checksum };
        Ok(Position { segment, offset: SEGMENT_HEADER_BYTES, before })
    }

    fn header(&self, number: u64) -> Result<SegmentHeader, ReadError> {
        let path = self.reader.segment_path(number);
        let header =
            read_header(&*self.reader.segment_file(number)?, &path, self.reader.identity())?;
        Ok(header.ok_or_else(|| Damage::new(&path, 0, "the segment has no header"))?)
    }
}
