//! Appending frames: one write each, space allocated ahead, a new segment when one is full.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use actadb_disk::disk::{Disk, DiskFile, is_no_room};
use actadb_model::entry::{Entry, Place, Room};
use actadb_model::limits::ALLOCATION_STEP_BYTES;
use actadb_model::probe::{Mistake, made};

use crate::error::{LogError, SYNC};
use crate::format::{
    FRAME_HEADER_BYTES, FrameHeader, LogIdentity, SEGMENT_HEADER_BYTES, SegmentHeader, body_room,
    frame_bytes,
};
use crate::scan::Tip;
use crate::segment::segment_path;
use crate::truncate::Mark;

/// Allocations end at a multiple of this.
const BLOCK_BYTES: u64 = 4096;

/// Where a log lives and how large its segments are.
#[derive(Clone, Debug)]
pub struct LogSettings {
    /// The device.
    pub disk: Arc<dyn Disk>,
    /// The bucket's directory.
    pub dir: PathBuf,
    /// Whose log it is.
    pub identity: LogIdentity,
    /// Size of a segment, fixed for the database's life.
    pub segment_bytes: u64,
    /// A segment is filled with zeros to a multiple of this many bytes ahead of its frames; 0 for
    /// never. See [`LogWriter::write`].
    pub zero_fill_bytes: u64,
}

impl LogSettings {
    /// Path of one of its segments.
    #[must_use]
    pub fn segment_path(&self, number: u64) -> PathBuf {
        segment_path(&self.dir, number)
    }
}

/// A segment being written.
#[derive(Clone, Debug)]
pub(crate) struct OpenSegment {
    pub(crate) number: u64,
    pub(crate) file: Arc<dyn DiskFile>,
    /// Where the next frame goes.
    pub(crate) position: u64,
    /// Bytes of the file that are allocated.
    pub(crate) allocated: u64,
    /// Where blocks begin that were perhaps never written.
    pub(crate) filled: u64,
}

/// A full segment: nothing is written to it any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FullSegment {
    /// Its number.
    pub number: u64,
    /// Index of its first entry.
    pub first_index: u64,
    /// Header checksum of the frame before its first one.
    pub previous_checksum: u32,
    /// Its last frame.
    pub tip: Tip,
    /// Its length in bytes.
    pub bytes: u64,
}

/// What one write did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// Where the body of the entry begins.
    pub body: Place,
    /// The segment that this write left full.
    pub full: Option<FullSegment>,
}

/// Appends frames to a bucket's log. Blocking; lives in one thread.
///
/// Invariants: the tip is the last frame in the file, whether synced or not; all segments but the
/// current one are synced, cut to their frames' end, and named in a synced directory before the
/// next one's header is written. So a segment with a good header proves the ones before it durable.
#[derive(Debug)]
pub struct LogWriter {
    pub(crate) settings: LogSettings,
    pub(crate) tip: Tip,
    pub(crate) current: Option<OpenSegment>,
    /// What the header of the current segment says.
    pub(crate) current_start: (u64, u32),
    /// The segment after the current one: allocated, its header still zeros.
    pub(crate) next: Option<OpenSegment>,
    /// Reported with the next write that succeeds.
    pub(crate) full: Option<FullSegment>,
    /// The frames that may yet be cut off, in order.
    pub(crate) marks: VecDeque<Mark>,
    buffer: Vec<u8>,
}

impl LogWriter {
    pub(crate) fn new(
        settings: LogSettings,
        tip: Tip,
        current: Option<OpenSegment>,
        current_start: (u64, u32),
        marks: VecDeque<Mark>,
    ) -> Self {
        let (next, full, buffer) = (None, None, Vec::new());
        Self { settings, tip, current, current_start, next, full, marks, buffer }
    }

    /// The last entry written.
    #[must_use]
    pub fn tip(&self) -> Tip {
        self.tip
    }

    /// Where and how large it is.
    #[must_use]
    pub fn settings(&self) -> &LogSettings {
        &self.settings
    }

    /// What can be written without allocating.
    #[must_use]
    pub fn room(&self) -> Room {
        let of = |segment: &OpenSegment| body_room(segment.allocated - segment.position);
        Room {
            allocated: self.current.as_ref().map_or(0, of),
            segment: self.current.as_ref().map_or(0, |current| self.rest_of(current)),
            next: self.next.as_ref().map_or(0, of),
        }
    }

    fn rest_of(&self, segment: &OpenSegment) -> u64 {
        // A segment may be longer than it should be, when another size was in force.
        body_room(self.settings.segment_bytes.saturating_sub(segment.position))
    }

    /// Allocates, so that a body of this size fits.
    ///
    /// # Errors
    /// [`LogError::is_no_room`] when there is no space; nothing has changed then.
    pub fn make_room(&mut self, body_bytes: u64) -> Result<(), LogError> {
        let needed = frame_bytes(body_bytes);
        let segment_bytes = self.settings.segment_bytes;
        if let Some(current) = &mut self.current {
            let fits = current.position + needed <= segment_bytes;
            let end = if fits { current.position + needed } else { segment_bytes };
            let path = segment_path(&self.settings.dir, current.number);
            allocate(current, end, segment_bytes, &path)?;
            if fits {
                return Ok(());
            }
        }
        if self.next.is_none() {
            self.next = Some(self.create_next()?);
        }
        let next = self.next.as_mut().expect("made above");
        let path = segment_path(&self.settings.dir, next.number);
        allocate(next, SEGMENT_HEADER_BYTES + needed, segment_bytes, &path)
    }

    /// Makes the file of the next segment: allocated, zeros, its name durable.
    fn create_next(&self) -> Result<OpenSegment, LogError> {
        let LogSettings { disk, dir, segment_bytes, .. } = &self.settings;
        let number = self.current.as_ref().map_or(1, |current| current.number + 1);
        let path = segment_path(dir, number);
        // An earlier attempt may have found no space and left the file; it holds nothing.
        if disk.exists(&path).map_err(LogError::io("look for", &path))? {
            disk.remove(&path).map_err(LogError::io("remove", &path))?;
        }
        let file = disk.create(&path).map_err(LogError::io("create", &path))?;
        let position = SEGMENT_HEADER_BYTES;
        let mut next = OpenSegment { number, file, position, allocated: 0, filled: 0 };
        allocate(&mut next, position, *segment_bytes, &path)?;
        next.file.sync_data().map_err(LogError::io(SYNC, &path))?;
        if !made(Mistake::DirectoryNotSynced) {
            disk.sync_dir(dir).map_err(LogError::io(SYNC, dir))?;
        }
        Ok(next)
    }

    /// Writes an entry behind the last one. Not durable before [`sync`](Self::sync), except that
    /// a full segment is synced before the next one begins.
    ///
    /// The frame that reaches blocks never written carries zeros behind it, which the same sync
    /// makes durable: a sync of blocks that were only allocated changes the file system's map of
    /// the file, too, and takes half as long again. PostgreSQL fills its log for the same reason
    /// (`wal_init_zero`). Zeros mean the end of the log, filled or not.
    ///
    /// # Errors
    /// After [`LogError::is_no_room`] the same call may be made again: it writes the same bytes
    /// to the same place. Any other error is final for this writer.
    ///
    /// # Panics
    /// When the entry does not follow the last one, or is larger than a segment holds: the caller
    /// numbers entries and bounds them.
    pub fn write(&mut self, entry: &Entry) -> Result<Written, LogError> {
        assert_eq!(entry.index, self.tip.index + 1, "an entry out of order");
        let body_bytes = entry.body.len() as u64;
        assert!(
            frame_bytes(body_bytes) <= self.settings.segment_bytes - SEGMENT_HEADER_BYTES,
            "an entry larger than a segment"
        );
        let end = |current: &OpenSegment| current.position + frame_bytes(body_bytes);
        if self.current.as_ref().is_none_or(|current| end(current) > self.settings.segment_bytes) {
            self.roll(entry.index)?;
        }
        let current = self.current.as_mut().expect("there is a segment after a roll");
        let seed = self.settings.identity.checksum_seed();
        let header = FrameHeader::new(
            seed,
            entry.kind,
            entry.term,
            entry.index,
            self.tip.checksum,
            &entry.body,
        );
        self.buffer.clear();
        self.buffer.extend_from_slice(&header.encode());
        self.buffer.extend_from_slice(&entry.body);
        self.buffer.resize(frame_bytes(body_bytes) as usize, 0);
        let path = segment_path(&self.settings.dir, current.number);
        current
            .file
            .write_all_at(&self.buffer, current.position)
            .map_err(LogError::io("write", &path))?;
        let mark = Mark { before: self.tip, segment: current.number, offset: current.position };
        self.marks.push_back(mark);
        let offset = current.position + FRAME_HEADER_BYTES as u64;
        let body = Place { segment: current.number, offset: offset as u32 };
        current.position += self.buffer.len() as u64;
        current.allocated = current.allocated.max(current.position);
        self.tip = Tip { index: entry.index, term: entry.term, checksum: header.checksum };
        fill_ahead(current, self.buffer.len() as u64, self.settings.zero_fill_bytes)
            .map_err(LogError::io("fill", &path))?;
        Ok(Written { body, full: self.full.take() })
    }

    /// Ends the current segment before the frame that does not fit, and begins the next one.
    fn roll(&mut self, first_index: u64) -> Result<(), LogError> {
        if self.next.is_none() {
            self.next = Some(self.create_next()?);
        }
        if let Some(current) = &self.current {
            let path = segment_path(&self.settings.dir, current.number);
            current.file.set_len(current.position).map_err(LogError::io("cut", &path))?;
            current.file.sync_data().map_err(LogError::io(SYNC, &path))?;
        }
        let next = self.next.as_ref().expect("made above");
        let identity = self.settings.identity;
        let header = SegmentHeader::new(identity, next.number, first_index, self.tip.checksum);
        let path = segment_path(&self.settings.dir, next.number);
        next.file.write_all_at(&header.encode(), 0).map_err(LogError::io("write", &path))?;
        let full = self.current.take().map(|current| FullSegment {
            number: current.number,
            first_index: self.current_start.0,
            previous_checksum: self.current_start.1,
            tip: self.tip,
            bytes: current.position,
        });
        self.full = full.or(self.full.take());
        self.current = self.next.take();
        self.current_start = (first_index, self.tip.checksum);
        Ok(())
    }

    /// Makes everything written durable.
    ///
    /// # Errors
    /// Final: what was written since the last success may never reach the medium, and no later
    /// sync would tell.
    pub fn sync(&mut self) -> Result<(), LogError> {
        let Some(current) = &self.current else { return Ok(()) };
        let path = segment_path(&self.settings.dir, current.number);
        current.file.sync_data().map_err(LogError::io(SYNC, &path))
    }
}

/// What is filled with is written in pieces of this size.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// Writes zeros behind a frame that reached blocks never written. A large frame goes without: the
/// disk's bandwidth would pay more for the zeros than the next syncs gain.
fn fill_ahead(segment: &mut OpenSegment, frame_bytes: u64, step: u64) -> io::Result<()> {
    let from = segment.position;
    if from <= segment.filled || frame_bytes > step / 2 {
        return Ok(());
    }
    segment.filled = from.next_multiple_of(step).min(segment.allocated);
    for at in (from..segment.filled).step_by(ZEROS.len()) {
        let count = (segment.filled - at).min(ZEROS.len() as u64);
        match segment.file.write_all_at(&ZEROS[..count as usize], at) {
            // Where space cannot be reserved there may be none; the frames get what there is.
            Err(error) if is_no_room(&error) => return Ok(()),
            done => done?,
        }
    }
    Ok(())
}

/// Extends the allocation to at least `end`, in steps, never past the segment's size.
fn allocate(
    segment: &mut OpenSegment,
    end: u64,
    segment_bytes: u64,
    path: &Path,
) -> Result<(), LogError> {
    if end <= segment.allocated {
        return Ok(());
    }
    let step = end.next_multiple_of(ALLOCATION_STEP_BYTES).min(segment_bytes);
    let exact = end.next_multiple_of(BLOCK_BYTES).min(segment_bytes);
    let from = segment.allocated;
    // The last bytes of a device are as good as any.
    let mut target = step;
    let mut done = segment.file.allocate(from, step - from);
    if done.as_ref().is_err_and(is_no_room) && exact < step {
        target = exact;
        done = segment.file.allocate(from, exact - from);
    }
    done.map_err(LogError::io("allocate", path))?;
    segment.allocated = target;
    Ok(())
}
