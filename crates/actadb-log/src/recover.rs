//! Where the log ends after a crash, and making what is kept durable before anyone sees it.
//!
//! The rule: a bad frame is *damage* when anything proves that it was durable once (the meta slot,
//! the head of any later batch, the header of a later segment); otherwise it is the torn end of
//! what was never acknowledged, and is cut, even if whole frames follow: several may have been
//! unsynced. What remains may still lie in the system's cache only, and after a failed sync it
//! lies there marked clean; so every frame above the slot's synced index is written again in place
//! and synced. Every step may be interrupted and run again.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;

use actadb_disk::disk::DiskFile;
use actadb_model::probe::{Mistake, made};

use crate::error::{Damage, LogError, SYNC};
use crate::format::{BatchHead, SEGMENT_HEADER_BYTES, SegmentHeader};
use crate::scan::{Found, Frame, Scanner, Tip};
use crate::segment::{read_header, segment_numbers, segment_path};
use crate::slots::Known;
use crate::truncate::{Mark, settle};
use crate::writer::{FullSegment, LogSettings, LogWriter, OpenSegment};

const REWRITE_BYTES: usize = 1 << 20;

/// What was cut off the end of a log. It was never acknowledged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TornTail {
    /// The file.
    pub file: PathBuf,
    /// Where the cut begins.
    pub offset: u64,
    /// Bytes from there to the end of what was written.
    pub bytes: u64,
    /// What stood there.
    pub what: &'static str,
}

/// One segment of the log being recovered.
#[derive(Debug)]
struct Scanned {
    number: u64,
    file: Arc<dyn DiskFile>,
    first_index: u64,
    previous_checksum: u32,
    end: u64,
}

/// Part of a segment that may not be on the medium.
#[derive(Debug)]
struct Unsynced {
    path: PathBuf,
    file: Arc<dyn DiskFile>,
    header: SegmentHeader,
    /// From this frame on, behind this tip.
    from: u64,
    before: Tip,
    end: u64,
}

/// A segment file whose first write was never synced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unused {
    /// The file.
    pub path: PathBuf,
    /// What its header and the frames in it prove durable.
    pub durable: u64,
    /// Where what was written to it ends; 0 when it was only allocated.
    pub end: u64,
}

/// Walks the segments of a bucket in order; the caller says which ones an index vouches for.
#[derive(Debug)]
pub struct Recovery {
    settings: LogSettings,
    known: Known,
    numbers: Vec<u64>,
    /// Position in `numbers`.
    at: usize,
    tip: Tip,
    last: Option<Scanned>,
    unsynced: Vec<Unsynced>,
    /// Frames that nothing yet says are settled.
    marks: VecDeque<Mark>,
    cut: Option<(TornTail, Arc<dyn DiskFile>)>,
    /// Last segments that were not begun, the newest first.
    unused: Vec<Unused>,
}

/// A log ready for appends.
#[derive(Debug)]
pub struct Recovered {
    /// Its writer.
    pub writer: LogWriter,
    /// What was cut off.
    pub torn: Vec<TornTail>,
}

impl Recovery {
    /// Lists the segments. A last one without a header or a first frame was allocated and not yet
    /// begun, or its first write was torn: it is left out, and [`finish`](Self::finish) removes it
    /// unless something in it proves that it held what was acknowledged.
    ///
    /// # Errors
    /// A gap in the numbers, or what the device says.
    pub fn start(settings: LogSettings, known: Known) -> Result<Self, LogError> {
        let mut numbers = segment_numbers(&*settings.disk, &settings.dir)?;
        for (number, expected) in numbers.iter().zip(1..) {
            if *number != expected {
                let path = segment_path(&settings.dir, expected);
                return Err(Damage::new(&path, 0, "the segment is missing").into());
            }
        }
        // A power loss may take the header of the newest segment and keep the file that was
        // allocated behind it.
        let mut unused = Vec::new();
        while let Some(last) = numbers.last().copied()
            && let Some(found) = unused_segment(&settings, last, known)?
        {
            unused.push(found);
            numbers.pop();
        }
        Ok(Self {
            settings,
            known,
            numbers,
            at: 0,
            tip: Tip::default(),
            last: None,
            unsynced: Vec::new(),
            marks: VecDeque::new(),
            cut: None,
            unused,
        })
    }

    /// Numbers of the segments that hold the log, ascending.
    #[must_use]
    pub fn numbers(&self) -> &[u64] {
        &self.numbers
    }

    /// The segment to go on with; `None` at the end.
    #[must_use]
    pub fn next_segment(&self) -> Option<u64> {
        self.numbers.get(self.at).copied()
    }

    /// Whether the next segment is the one that is still being written.
    #[must_use]
    pub fn is_last(&self) -> bool {
        self.at + 1 >= self.numbers.len()
    }

    /// The last frame passed.
    #[must_use]
    pub fn tip(&self) -> Tip {
        self.tip
    }

    /// Passes a full segment on the word of its sealed index, reading only its length. Answers
    /// `false`, and stays, when the two do not fit: one of them is wrong, and reading the segment
    /// tells which.
    ///
    /// # Errors
    /// What the device says.
    ///
    /// # Panics
    /// When there is no next segment.
    pub fn skip_sealed(&mut self, sealed: &FullSegment) -> Result<bool, LogError> {
        let number = self.next_segment().expect("the caller asked for the next segment");
        let path = segment_path(&self.settings.dir, number);
        let file = self.settings.disk.open_read(&path).map_err(LogError::io("open", &path))?;
        let bytes = file.len().map_err(LogError::io("measure", &path))?;
        let fits = sealed.number == number
            && sealed.first_index == self.tip.index + 1
            && sealed.previous_checksum == self.tip.checksum
            && sealed.bytes == bytes;
        if fits {
            self.tip = sealed.tip;
            self.at += 1;
            self.last = None;
        }
        Ok(fits)
    }

    /// Reads the next segment frame by frame. Changes nothing yet.
    ///
    /// # Errors
    /// Damage, or what the device or the visitor says.
    pub fn scan<E: From<LogError>>(
        &mut self,
        mut visit: impl FnMut(u64, Frame) -> Result<(), E>,
    ) -> Result<FullSegment, E> {
        let number = self.next_segment().expect("the caller asked for the next segment");
        let path = segment_path(&self.settings.dir, number);
        let file = self.settings.disk.open(&path).map_err(LogError::io("open", &path))?;
        let header = read_header(&*file, &path, self.settings.identity)?
            .ok_or_else(|| LogError::from(Damage::new(&path, 0, "the segment has no header")))?;
        if header.first_index != self.tip.index + 1 || header.previous_checksum != self.tip.checksum
        {
            let what = format!(
                "does not continue the segment before it (first index {}, expected {})",
                header.first_index,
                self.tip.index + 1
            );
            return Err(LogError::from(Damage::new(&path, 0, what)).into());
        }
        let seed = self.settings.identity.checksum_seed();
        let read = LogError::io("read", &path);
        let mut scanner = Scanner::new(file.clone(), seed, self.tip).map_err(read)?;
        let mut unsynced_from = None;
        let mut before = self.tip;
        let what = loop {
            match scanner.step().map_err(LogError::io("read", &path))? {
                Found::Frame(frame) => {
                    if frame.header.index > self.known.synced_index {
                        unsynced_from.get_or_insert((frame.offset, before));
                    }
                    self.mark(&frame, number, before);
                    before = scanner.tip();
                    visit(number, frame)?;
                }
                Found::End => break None,
                Found::Bad(what) => break Some(what),
                Found::Newer(found) => {
                    let known = crate::format::FORMAT_VERSION;
                    return Err(LogError::NewerFormat { path, found, known }.into());
                }
            }
        };
        if let Some(what) = what {
            let torn = self.judge(&mut scanner, &path, what)?;
            self.cut = Some((torn, file.clone()));
        }
        self.tip = scanner.tip();
        let scanned = Scanned {
            number,
            file: file.clone(),
            first_index: header.first_index,
            previous_checksum: header.previous_checksum,
            end: scanner.offset(),
        };
        // The header may be as little synced as the frames behind it, and of a segment whose
        // first frame was lost it is all there is.
        if unsynced_from.is_some() || self.known.synced_index < header.first_index {
            let (from, before) = unsynced_from.unwrap_or((scanned.end, self.tip));
            self.unsynced.push(Unsynced { path, file, header, from, before, end: scanned.end });
        }
        let full = FullSegment {
            number,
            first_index: scanned.first_index,
            previous_checksum: scanned.previous_checksum,
            tip: self.tip,
            bytes: scanned.end,
        };
        self.last = Some(scanned);
        self.at += 1;
        Ok(full)
    }

    /// Notes a frame that may yet be cut off.
    fn mark(&mut self, frame: &Frame, segment: u64, before: Tip) {
        if frame.header.index > self.known.synced_index {
            self.marks.push_back(Mark { before, segment, offset: frame.offset });
        }
        if let Some(head) = BatchHead::decode(frame.header.kind, &frame.body) {
            settle(&mut self.marks, head.durable);
        }
    }

    /// Whether a bad frame is the torn end of the log, or damage.
    fn judge(
        &self,
        scanner: &mut Scanner,
        path: &std::path::Path,
        what: &'static str,
    ) -> Result<TornTail, LogError> {
        let (offset, index) = (scanner.offset(), scanner.tip().index + 1);
        let damaged = |proof: &str| {
            let what = format!("{what}, entry {index} expected; {proof}");
            Err(Damage::new(path, offset, what).into())
        };
        let trusting = made(Mistake::CutAtFirstBadChecksum);
        if !self.is_last() {
            return damaged("a later segment proves that it was synced");
        }
        if self.known.synced_index >= index && !trusting {
            return damaged("the meta slot says that it was synced");
        }
        let read = LogError::io("read", path);
        let durable = scanner.durable_behind(offset, self.known.bulk_through).map_err(read)?;
        if durable >= index && !trusting {
            return damaged("a later frame proves that it was synced");
        }
        let end = scanner.written_end(offset).map_err(LogError::io("read", path))?;
        Ok(TornTail { file: path.to_owned(), offset, bytes: end - offset, what })
    }

    /// Cuts what is torn, makes the rest durable and hands out the writer.
    ///
    /// # Errors
    /// Damage when the log ends before the synced index; what the device says.
    ///
    /// # Panics
    /// When segments are left that were neither skipped nor scanned, or the last one was skipped:
    /// it is full only when a later one exists.
    pub fn finish(self) -> Result<Recovered, LogError> {
        assert!(self.next_segment().is_none(), "segments are left");
        assert!(self.last.is_some() || self.numbers.is_empty(), "the last segment was skipped");
        let LogSettings { disk, dir, .. } = &self.settings;
        if self.tip.index < self.known.synced_index && !made(Mistake::CutAtFirstBadChecksum) {
            let (path, offset) = match self.unused.iter().rev().find(|unused| unused.end > 0) {
                // Its header is gone, or what it says; the log goes on in it.
                Some(unused) => (unused.path.clone(), 0),
                None => {
                    let end = self.last.as_ref().map_or(0, |last| last.end);
                    (segment_path(dir, self.numbers.len().max(1) as u64), end)
                }
            };
            let what = format!(
                "the log ends with entry {}, the meta slot says that {} was synced",
                self.tip.index, self.known.synced_index
            );
            return Err(Damage::new(&path, offset, what).into());
        }
        for Unused { path, durable, .. } in &self.unused {
            if *durable > self.tip.index {
                let what = format!("not begun, yet it proves that entry {durable} was synced");
                return Err(Damage::new(path, 0, what).into());
            }
        }
        if let Some((torn, file)) = &self.cut {
            zero(&**file, torn.offset, torn.bytes).map_err(LogError::io("cut", &torn.file))?;
            file.sync_data().map_err(LogError::io(SYNC, &torn.file))?;
        }
        let unsynced = self.unsynced.iter().filter(|_| !made(Mistake::UnsyncedFramesServed));
        for unsynced in unsynced {
            rewrite(unsynced, self.settings.identity.checksum_seed())?;
        }
        // The newest first, each durable before the next: a loss of power between two must not
        // leave a gap in the numbers.
        for Unused { path, .. } in &self.unused {
            disk.remove(path).map_err(LogError::io("remove", path))?;
            disk.sync_dir(dir).map_err(LogError::io(SYNC, dir))?;
        }
        disk.sync_dir(dir).map_err(LogError::io(SYNC, dir))?;

        let current_start =
            self.last.as_ref().map_or((0, 0), |last| (last.first_index, last.previous_checksum));
        let current = match self.last {
            Some(last) => {
                let path = segment_path(dir, last.number);
                let length = last.file.len().map_err(LogError::io("measure", &path))?;
                // What lies past the segment's size was allocated under no rule of ours.
                let allocated = length.max(last.end).min(self.settings.segment_bytes.max(last.end));
                Some(OpenSegment {
                    number: last.number,
                    file: last.file,
                    position: last.end,
                    allocated,
                    filled: last.end,
                })
            }
            None => None,
        };
        let mut torn: Vec<TornTail> = self.cut.map(|(torn, _)| torn).into_iter().collect();
        torn.extend(self.unused.into_iter().filter(|unused| unused.end > 0).map(|unused| {
            let what = "a segment whose first write was never synced";
            TornTail { file: unused.path, offset: 0, bytes: unused.end, what }
        }));
        let writer = LogWriter::new(self.settings, self.tip, current, current_start, self.marks);
        Ok(Recovered { writer, torn })
    }
}

/// A segment without a header or without its first frame: allocated and not begun, or begun and not
/// synced. `None` when it has both. Without its first frame it is as if it had not been begun: what
/// is written next may fit into the segment before.
///
/// # Errors
/// A newer or foreign header, or what the device says.
pub fn unused_segment(
    settings: &LogSettings,
    number: u64,
    known: Known,
) -> Result<Option<Unused>, LogError> {
    let path = settings.segment_path(number);
    let read = |source| LogError::Io { what: "read", path: path.clone(), source };
    let file = settings.disk.open_read(&path).map_err(LogError::io("open", &path))?;
    let header = read_header(&*file, &path, settings.identity)?;
    let seed = settings.identity.checksum_seed();
    let before = header.map_or(Tip::default(), |header| Tip {
        index: header.first_index.saturating_sub(1),
        term: 0,
        checksum: header.previous_checksum,
    });
    let mut scanner = Scanner::new(file, seed, before).map_err(read)?;
    // The first segment of all has none before it.
    let begun = header.is_some()
        && (number == 1 || !matches!(scanner.step().map_err(read)?, Found::Bad(_) | Found::End));
    if begun {
        return Ok(None);
    }
    let durable = scanner.durable_behind(SEGMENT_HEADER_BYTES, known.bulk_through).map_err(read)?;
    let end = scanner.written_end(SEGMENT_HEADER_BYTES).map_err(read)?;
    let torn = header.is_none() || end > SEGMENT_HEADER_BYTES;
    let end = if torn { scanner.written_end(0).map_err(read)? } else { 0 };
    // A header is written when all before it is durable.
    Ok(Some(Unused { path, durable: durable.max(before.index), end }))
}

pub(crate) fn zero(file: &dyn DiskFile, offset: u64, bytes: u64) -> std::io::Result<()> {
    let zeros = vec![0; REWRITE_BYTES.min(bytes as usize)];
    let mut done = 0;
    while done < bytes {
        let n = zeros.len().min((bytes - done) as usize);
        file.write_all_at(&zeros[..n], offset + done)?;
        done += n as u64;
    }
    Ok(())
}

/// Writes a segment's header and frames again in place and syncs them. What is read back is
/// checked again: a page that was clean and not durable may have been dropped from the cache.
fn rewrite(unsynced: &Unsynced, seed: u32) -> Result<(), LogError> {
    let Unsynced { path, file, header, from, before, end } = unsynced;
    let write = |bytes: &[u8], offset| {
        file.write_all_at(bytes, offset).map_err(LogError::io("rewrite", path))
    };
    write(&header.encode(), 0)?;
    let scanner = Scanner::new(file.clone(), seed, *before).map_err(LogError::io("read", path))?;
    let mut scanner = scanner.resume(*from);
    while scanner.offset() < *end {
        let Found::Frame(frame) = scanner.step().map_err(LogError::io("read", path))? else {
            let what = "a frame has changed since it was read: the device lost it";
            return Err(Damage::new(path, scanner.offset(), what).into());
        };
        let mut bytes = frame.header.encode().to_vec();
        bytes.extend_from_slice(&frame.body);
        bytes.resize((frame.end() - frame.offset) as usize, 0);
        write(&bytes, frame.offset)?;
    }
    file.sync_data().map_err(LogError::io(SYNC, path))
}
