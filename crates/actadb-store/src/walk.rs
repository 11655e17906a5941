//! Walking the segments of a stopped bucket, frame by frame, changing nothing.

use actadb_log::error::{Damage, LogError};
use actadb_log::format::FRAME_HEADER_BYTES;
use actadb_log::recover::unused_segment;
use actadb_log::scan::{Found, Frame, Scanner, Tip};
use actadb_log::segment::{read_header, segment_numbers};
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
    /// The end of a segment.
    SegmentEnd {
        /// What the segment turned out to be.
        segment: FullSegment,
        /// Whether it is the newest one.
        last: bool,
        /// Whether everything in it could be read.
        whole: bool,
    },
    /// Something that is not right. The walk goes on behind it where it can.
    Bad {
        /// What and where.
        damage: Damage,
        /// Whether recovery would cut it as a torn tail.
        torn: bool,
    },
}

/// Shows `visit` everything from the first segment to the last.
///
/// # Errors
/// A newer format, a foreign segment, or what the device says; damage is shown, not returned.
pub fn walk(
    settings: &LogSettings,
    synced_index: u64,
    visit: &mut dyn FnMut(Step<'_>),
) -> Result<Tip, LogError> {
    let (disk, dir) = (&*settings.disk, &settings.dir);
    if !disk.exists(dir).map_err(LogError::io("look for", dir))? {
        let damage = Damage::new(dir, 0, "the bucket's directory is missing");
        visit(Step::Bad { damage, torn: false });
        return Ok(Tip::default());
    }
    let mut numbers = segment_numbers(disk, dir)?;
    // Files allocated ahead, or begun and never synced, are no part of the log.
    let mut unused = Vec::new();
    while let Some(last) = numbers.last().copied()
        && let Some(found) = unused_segment(settings, last)?
    {
        unused.push(found);
        numbers.pop();
    }
    let seed = settings.identity.checksum_seed();
    let mut tip = Tip::default();
    let mut expected = 1;
    for number in &numbers {
        let path = settings.segment_path(*number);
        while expected < *number {
            let missing = settings.segment_path(expected);
            visit(Step::Bad {
                damage: Damage::new(&missing, 0, "the segment is missing"),
                torn: false,
            });
            expected += 1;
        }
        expected = number + 1;
        let last = Some(number) == numbers.last();
        let file = settings.disk.open_read(&path).map_err(LogError::io("open", &path))?;
        let header = match read_header(&*file, &path, settings.identity) {
            Ok(header) => header,
            Err(LogError::Damaged(damage)) => {
                visit(Step::Bad { damage, torn: false });
                continue;
            }
            Err(error) => return Err(error),
        };
        let read = LogError::io("read", &path);
        let Some(header) = header else {
            let damage = Damage::new(&path, 0, "the segment has no header");
            visit(Step::Bad { damage, torn: false });
            continue;
        };
        if header.first_index != tip.index + 1 || header.previous_checksum != tip.checksum {
            let what = "does not continue the segment before it";
            visit(Step::Bad { damage: Damage::new(&path, 0, what), torn: false });
            tip = Tip {
                index: header.first_index.saturating_sub(1),
                term: 0,
                checksum: header.previous_checksum,
            };
        }
        let mut scanner = Scanner::new(file, seed, tip).map_err(read)?;
        let mut whole = true;
        loop {
            match scanner.step().map_err(LogError::io("read", &path))? {
                Found::Frame(frame) => show(*number, frame, visit),
                Found::End => break,
                Found::Bad(what) => {
                    let index = scanner.tip().index + 1;
                    let offset = scanner.offset();
                    let durable =
                        scanner.durable_behind(offset).map_err(LogError::io("read", &path))?;
                    let proven = unused.iter().map(|unused| unused.durable).max();
                    let proven = durable.max(synced_index).max(proven.unwrap_or(0));
                    let torn = last && proven < index;
                    let what = format!("{what}, entry {index} expected");
                    visit(Step::Bad { damage: Damage::new(&path, offset, what), torn });
                    whole = torn;
                    break;
                }
                Found::Newer(found) => {
                    let known = actadb_log::format::FORMAT_VERSION;
                    return Err(LogError::NewerFormat { path, found, known });
                }
            }
        }
        tip = scanner.tip();
        let segment = FullSegment {
            number: *number,
            first_index: header.first_index,
            previous_checksum: header.previous_checksum,
            tip,
            bytes: scanner.offset(),
        };
        visit(Step::SegmentEnd { segment, last, whole });
    }
    for file in unused.into_iter().filter(|file| file.end > 0) {
        let torn = file.durable <= tip.index;
        let damage = Damage::new(&file.path, 0, "a segment whose header was never synced");
        visit(Step::Bad { damage, torn });
    }
    if tip.index < synced_index {
        let path = settings.segment_path(numbers.last().copied().unwrap_or(1));
        let what = format!(
            "the log ends with entry {}, the meta slot says that {synced_index} was synced",
            tip.index
        );
        visit(Step::Bad { damage: Damage::new(&path, 0, what), torn: false });
    }
    Ok(tip)
}

fn show(number: u64, frame: Frame, visit: &mut dyn FnMut(Step<'_>)) {
    let offset = frame.offset as u32 + FRAME_HEADER_BYTES as u32;
    let entry = Entry {
        term: frame.header.term,
        index: frame.header.index,
        kind: frame.header.kind,
        body: frame.body,
    };
    visit(Step::Frame { entry: &entry, body: Place { segment: number, offset } });
}
