//! Walking the segments of a bucket, frame by frame, changing nothing.
//!
//! [`SegmentWalk`] reads one segment; [`walk`] all segments of a stopped bucket. Both go on behind
//! what is bad where they can, so that everything that can be read is shown.

use std::ops::Range;
use std::path::{Path, PathBuf};

use actadb_log::error::{Damage, LogError};
use actadb_log::format::{FORMAT_VERSION, FRAME_HEADER_BYTES};
use actadb_log::recover::{Unused, unused_segment};
use actadb_log::scan::{Found, Frame, Scanner, Tip};
use actadb_log::segment::{read_header, segment_numbers};
use actadb_log::slots::Known;
use actadb_log::writer::{FullSegment, LogSettings};
use actadb_model::entry::{Entry, Place};

/// What the walk came to, in the order of the log.
pub enum Step<'a> {
    /// A good frame.
    Frame {
        /// The entry in it.
        entry: &'a Entry,
        /// Where its body begins.
        body: Place,
    },
    /// A frame that is bad, and was told so, of which parts may be whole: records with good
    /// checksums.
    Rotten {
        /// The entry, as far as it is there.
        entry: &'a Entry,
        /// Where its body begins.
        body: Place,
    },
    /// The end of a segment.
    SegmentEnd {
        /// What the segment turned out to be.
        segment: FullSegment,
        /// Whether it is the newest one.
        last: bool,
        /// Whether everything in it could be read, and what follows continues it.
        whole: bool,
    },
    /// Something that is not right. The walk goes on behind it where it can.
    Bad {
        /// What and where.
        damage: Damage,
        /// The segment it is about; `None` when it is about the end of the log.
        segment: Option<u64>,
        /// Whether recovery would cut it as a torn tail.
        torn: bool,
    },
}

/// What one segment has next.
#[derive(Debug)]
pub enum SegmentStep {
    /// A good frame.
    Frame(Frame),
    /// Something else, expected to be this entry; the words say what.
    Bad(u64, &'static str),
    /// Nothing more.
    End,
}

/// Reads one segment in order.
#[derive(Debug)]
pub struct SegmentWalk {
    path: PathBuf,
    number: u64,
    /// First index and previous checksum, as the header says.
    start: (u64, u32),
    scanner: Scanner,
}

impl SegmentWalk {
    /// Opens a segment. `before` is the last frame before it, `None` when that is not known; a
    /// segment that does not continue it is damage, and can be read all the same. Where the header
    /// is rotten the walk begins with the first good frame of a later entry, if there is one.
    ///
    /// # Errors
    /// A newer format, a foreign segment, or what the device says.
    pub fn open(
        settings: &LogSettings,
        number: u64,
        before: Option<Tip>,
    ) -> Result<(Option<Self>, Option<Damage>), LogError> {
        let path = settings.segment_path(number);
        let file = settings.disk.open_read(&path).map_err(LogError::io("open", &path))?;
        let header = match read_header(&*file, &path, settings.identity) {
            Ok(Some(header)) => header,
            Ok(None) => {
                let damage = Damage::new(&path, 0, "the segment has no header");
                let seed = settings.identity.checksum_seed();
                let tip = before.unwrap_or_default();
                let mut scanner =
                    Scanner::new(file, seed, tip).map_err(LogError::io("read", &path))?;
                let good = scanner.skip_bad().map_err(LogError::io("read", &path))?;
                let tip = scanner.tip();
                let start = (tip.index + 1, tip.checksum);
                let walk = good.then_some(Self { path, number, start, scanner });
                return Ok((walk, Some(damage)));
            }
            Err(LogError::Damaged(damage)) => return Ok((None, Some(damage))),
            Err(error) => return Err(error),
        };
        let start = (header.first_index, header.previous_checksum);
        let follows = |tip: Tip| start == (tip.index + 1, tip.checksum);
        let damage = before.filter(|tip| !follows(*tip)).map(|tip| {
            let what = format!(
                "does not continue the segment before it (first entry {}, expected {})",
                header.first_index,
                tip.index + 1
            );
            Damage::new(&path, 0, what)
        });
        let tip = before.filter(|tip| follows(*tip)).unwrap_or(Tip {
            index: header.first_index.saturating_sub(1),
            term: 0,
            checksum: header.previous_checksum,
        });
        let seed = settings.identity.checksum_seed();
        let scanner = Scanner::new(file, seed, tip).map_err(LogError::io("read", &path))?;
        Ok((Some(Self { path, number, start, scanner }), damage))
    }

    /// Path of its file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where the next frame begins.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.scanner.offset()
    }

    /// Length of the file.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.scanner.length()
    }

    /// The last good frame.
    #[must_use]
    pub fn tip(&self) -> Tip {
        self.scanner.tip()
    }

    /// The next frame; stays where it is when there is none.
    ///
    /// # Errors
    /// A newer format, or what the device says.
    pub fn step(&mut self) -> Result<SegmentStep, LogError> {
        match self.scanner.step().map_err(LogError::io("read", &self.path))? {
            Found::Frame(frame) => Ok(SegmentStep::Frame(frame)),
            Found::End => Ok(SegmentStep::End),
            Found::Bad(what) => Ok(SegmentStep::Bad(self.tip().index + 1, what)),
            Found::Newer(found) => {
                Err(LogError::NewerFormat { path: self.path.clone(), found, known: FORMAT_VERSION })
            }
        }
    }

    /// Goes over what is bad; see [`Scanner::skip_bad`].
    ///
    /// # Errors
    /// What the device says.
    pub fn skip_bad(&mut self) -> Result<bool, LogError> {
        self.scanner.skip_bad().map_err(LogError::io("read", &self.path))
    }

    fn rotten(&mut self) -> Result<Option<Frame>, LogError> {
        self.scanner.rotten().map_err(LogError::io("read", &self.path))
    }

    fn durable_behind(&mut self, bulk_through: u64) -> Result<u64, LogError> {
        let offset = self.offset();
        let behind = self.scanner.durable_behind(offset, bulk_through);
        behind.map_err(LogError::io("read", &self.path))
    }

    /// What has been read of it, as its index would describe it.
    #[must_use]
    pub fn segment(&self) -> FullSegment {
        FullSegment {
            number: self.number,
            first_index: self.start.0,
            previous_checksum: self.start.1,
            tip: self.tip(),
            bytes: self.offset(),
        }
    }
}

/// An entry out of its frame, and where its body lies.
#[must_use]
pub fn entry_of(segment: u64, frame: Frame) -> (Entry, Place) {
    let offset = frame.offset as u32 + FRAME_HEADER_BYTES as u32;
    let entry = Entry {
        term: frame.header.term,
        index: frame.header.index,
        kind: frame.header.kind,
        body: frame.body,
    };
    (entry, Place { segment, offset })
}

/// Shows `visit` everything from the first segment to the last. Answers the last good frame.
/// `known` is `None` when the slots are lost: nothing tells then which bad frames were
/// never acknowledged, so none is taken for torn.
///
/// # Errors
/// A newer format, a foreign segment, or what the device says; damage is shown, not returned.
pub fn walk(
    settings: &LogSettings,
    known: Option<Known>,
    visit: &mut dyn FnMut(Step<'_>),
) -> Result<Tip, LogError> {
    let synced_index = known.map(|known| known.synced_index);
    let bulk_through = known.map_or(0, |known| known.bulk_through);
    let (disk, dir) = (&*settings.disk, &settings.dir);
    if !disk.exists(dir).map_err(LogError::io("look for", dir))? {
        let damage = Damage::new(dir, 0, "the bucket's directory is missing");
        visit(Step::Bad { damage, segment: None, torn: false });
        return Ok(Tip::default());
    }
    let mut numbers = segment_numbers(disk, dir)?;
    // Files allocated ahead, or begun and never synced, are no part of the log.
    let mut unused: Vec<(u64, Unused)> = Vec::new();
    while let Some(last) = numbers.last().copied() {
        match unused_segment(settings, last, known.unwrap_or_default()) {
            Ok(Some(found)) => unused.push((last, found)),
            Ok(None) | Err(LogError::Damaged(_)) => break,
            Err(error) => return Err(error),
        }
        numbers.pop();
    }
    // The highest entry that was durable for certain; all, for what is known without slots.
    let durable = unused.iter().map(|(_, unused)| unused.durable).max().unwrap_or(0);
    let proven = synced_index.map_or(u64::MAX, |synced| synced.max(durable));
    // `None` behind what could not be read: what follows is taken at its word.
    let mut tip = Some(Tip::default());
    let mut highest = Tip::default();
    let mut ended: Option<(FullSegment, bool)> = None;
    let mut expected = 1;
    for number in &numbers {
        let last = Some(number) == numbers.last();
        if expected < *number {
            tip = None;
        }
        let (opened, broken) = SegmentWalk::open(settings, *number, tip)?;
        if let Some((segment, whole)) = ended.take() {
            // An index must not be blamed for what its segment lost.
            let whole = whole && tip.is_some() && broken.is_none();
            visit(Step::SegmentEnd { segment, last: false, whole });
        }
        missing(settings, expected..*number, visit);
        expected = number.saturating_add(1);
        if let Some(damage) = broken {
            visit(Step::Bad { damage, segment: Some(*number), torn: false });
        }
        let Some(mut segment) = opened else {
            tip = None;
            continue;
        };
        let evidence = Evidence { last, proven, bulk_through };
        let whole = walk_segment(&mut segment, evidence, visit)?;
        tip = Some(segment.tip());
        highest = if segment.tip().index > highest.index { segment.tip() } else { highest };
        ended = Some((segment.segment(), whole));
    }
    if let Some((segment, whole)) = ended {
        let last = Some(&segment.number) == numbers.last();
        visit(Step::SegmentEnd { segment, last, whole });
    }
    for (number, file) in unused.into_iter().rev() {
        // Recovery refuses a gap before it looks at what is behind it.
        missing(settings, expected..number, visit);
        expected = number.saturating_add(1);
        if file.end == 0 {
            continue;
        }
        let torn = synced_index.is_some() && file.durable <= highest.index;
        let damage = Damage::new(&file.path, 0, "a segment whose first write was never synced");
        visit(Step::Bad { damage, segment: Some(number), torn });
    }
    if let Some(synced_index) = synced_index.filter(|synced| highest.index < *synced) {
        let path = settings.segment_path(numbers.last().copied().unwrap_or(1));
        let what = format!(
            "the log ends with entry {}, the meta slot says that {synced_index} was synced",
            highest.index
        );
        visit(Step::Bad { damage: Damage::new(&path, 0, what), segment: None, torn: false });
    }
    Ok(highest)
}

/// Shows a range of segments that are missing as one damage: there may be very many.
fn missing(settings: &LogSettings, range: Range<u64>, visit: &mut dyn FnMut(Step<'_>)) {
    let Some(last) = range.end.checked_sub(1).filter(|last| range.start <= *last) else { return };
    let what = match range.start == last {
        true => "the segment is missing".to_owned(),
        false => format!("the segments {} to {last} are missing", range.start),
    };
    let damage = Damage::new(&settings.segment_path(range.start), 0, what);
    // The index of the last one, if it is left, tells for all of them.
    visit(Step::Bad { damage, segment: Some(last), torn: false });
}

/// What tells a torn tail from damage.
#[derive(Clone, Copy)]
struct Evidence {
    /// It is the newest segment.
    last: bool,
    /// Entries up to this one were durable.
    proven: u64,
    /// Entries up to this one prove nothing about others.
    bulk_through: u64,
}

impl Evidence {
    fn calls_torn(self, segment: &mut SegmentWalk, index: u64) -> Result<bool, LogError> {
        let Self { last, proven, bulk_through } = self;
        Ok(last && proven < index && segment.durable_behind(bulk_through)? < index)
    }
}

/// Shows the frames of one segment; answers whether all of it could be read, but for a torn tail.
fn walk_segment(
    segment: &mut SegmentWalk,
    evidence: Evidence,
    visit: &mut dyn FnMut(Step<'_>),
) -> Result<bool, LogError> {
    let mut whole = true;
    loop {
        match segment.step()? {
            SegmentStep::Frame(frame) => {
                let (entry, body) = entry_of(segment.number, frame);
                visit(Step::Frame { entry: &entry, body });
            }
            SegmentStep::End => return Ok(whole),
            SegmentStep::Bad(index, what) => {
                let torn = evidence.calls_torn(segment, index)?;
                let what = format!("{what}, entry {index} expected");
                let damage = Damage::new(segment.path(), segment.offset(), what);
                visit(Step::Bad { damage, segment: Some(segment.number), torn });
                if torn {
                    return Ok(whole);
                }
                whole = false;
                if let Some(frame) = segment.rotten()? {
                    let (entry, body) = entry_of(segment.number, frame);
                    visit(Step::Rotten { entry: &entry, body });
                }
                if !segment.skip_bad()? {
                    return Ok(false);
                }
            }
        }
    }
}
