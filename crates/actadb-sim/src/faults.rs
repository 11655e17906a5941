//! What goes wrong, and how it is put right again.

use std::path::PathBuf;

use actadb_disk::sim::{SECTOR_BYTES, SimDisk};
use actadb_model::dice::SplitMix64;
use actadb_model::entry::Place;

/// A fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The process dies; what it wrote stays in the system's cache.
    ProcessCrash,
    /// The power fails; of what was not synced any part may be gone.
    PowerLoss,
    /// The machine stops after so many more changes of the disk.
    StopAfter(u64),
    /// The sync after so many more fails, and loses what it should have written.
    FailSync(u64),
    /// The write after so many more finds no space.
    FailWrite(u64),
    /// The disk is full when so many more bytes are on it.
    Full(u64),
    /// The disk has space again.
    Space,
    /// Bytes of a file change behind everyone's back.
    Rot,
    /// The wall clock jumps by so many nanoseconds.
    ClockJump(i64),
}

/// Draws a fault; `tight`: mostly about space.
pub fn draw(dice: &mut SplitMix64, tight: bool) -> Fault {
    if tight && !dice.one_in(4) {
        return match dice.below(4) {
            0 => Fault::FailWrite(dice.below(4)),
            1 => Fault::Space,
            _ => Fault::Full(dice.below(20_000)),
        };
    }
    match dice.below(20) {
        0..3 => Fault::ProcessCrash,
        3..6 => Fault::PowerLoss,
        6..9 => Fault::StopAfter(dice.below(40)),
        9 | 10 => Fault::FailSync(dice.below(5)),
        11 => Fault::FailWrite(dice.below(4)),
        12..15 => Fault::Full(dice.below(50_000)),
        15 => Fault::Space,
        16..19 => Fault::Rot,
        _ => Fault::ClockJump(dice.below(20_000_000_000) as i64 - 10_000_000_000),
    }
}

/// A piece of a file that changed, and what it was. An operator puts it back later.
#[derive(Debug)]
pub struct Rot {
    /// The file.
    pub path: PathBuf,
    /// Where the piece begins.
    pub offset: usize,
    before: Vec<u8>,
    after: Vec<u8>,
}

/// Damages a segment, an index, or the slots. Of the segments only what something on the medium
/// proves durable (`proven`: where those entries lie, in order) and the segments before them: of
/// anything else nobody can tell rot from a torn write.
pub fn rot(disk: &SimDisk, proven: &[Place], dice: &mut SplitMix64) -> Option<Rot> {
    let files = disk.files();
    let ending =
        |end: &'static str| files.iter().filter(move |path| path.to_string_lossy().ends_with(end));
    let segment = |number: u64| {
        ending(".segment").find(|path| {
            let stem = path.file_stem().map(|stem| stem.to_string_lossy().into_owned());
            stem.is_some_and(|stem| stem.parse() == Ok(number))
        })
    };
    let anywhere = |path: &PathBuf, dice: &mut SplitMix64| {
        let length = disk.contents(path)?.len();
        Some((path.clone(), dice.below(length as u64) as usize))
    };
    let (path, offset) = match dice.below(4) {
        0 => {
            let full = proven.last()?.segment - 1;
            (full > 0).then_some(())?;
            anywhere(segment(1 + dice.below(full))?, dice)?
        }
        1 => {
            let indexes: Vec<_> = ending(".index").collect();
            anywhere(indexes.get(dice.below(indexes.len() as u64) as usize)?, dice)?
        }
        2 => anywhere(ending("slots").next()?, dice)?,
        _ => {
            let place = proven.get(dice.below(proven.len() as u64) as usize)?;
            // A sector that the log still grows into could not be put back.
            let sector_end = (place.offset as usize / SECTOR_BYTES + 1) * SECTOR_BYTES;
            let last = proven.last()?;
            let grown = place.segment < last.segment || sector_end <= last.offset as usize;
            grown.then_some(())?;
            (segment(place.segment)?.clone(), place.offset as usize)
        }
    };
    let bytes = disk.contents(&path)?;
    let offset = offset / SECTOR_BYTES * SECTOR_BYTES;
    let end = (offset + SECTOR_BYTES).min(bytes.len());
    let before = bytes.get(offset..end)?.to_vec();
    let mut after = before.clone();
    match dice.below(3) {
        // A bit flips.
        0 => {
            let at = dice.below(after.len() as u64) as usize;
            *after.get_mut(at)? ^= 1 << dice.below(8);
        }
        // A sector is lost.
        1 => after.fill(0),
        // A write went astray: the sector holds what belongs elsewhere.
        _ => {
            let other = dice.below(bytes.len() as u64) as usize / SECTOR_BYTES * SECTOR_BYTES;
            let other = bytes.get(other..(other + after.len()).min(bytes.len()))?;
            after.get_mut(..other.len())?.copy_from_slice(other);
        }
    }
    if before == after {
        return None;
    }
    let rot = Rot { path, offset, before, after };
    rot.put(disk, &rot.after);
    Some(rot)
}

impl Rot {
    fn put(&self, disk: &SimDisk, bytes: &[u8]) {
        disk.damage(&self.path, |file| {
            file[self.offset..self.offset + bytes.len()].copy_from_slice(bytes);
        });
    }

    /// Puts the piece back, unless the file was made anew meanwhile.
    pub fn restore(&self, disk: &SimDisk) {
        let there = disk.contents(&self.path);
        let there = there.as_deref().and_then(|file| file.get(self.offset..));
        if there.is_some_and(|there| there.starts_with(&self.after)) {
            self.put(disk, &self.before);
        }
    }
}
