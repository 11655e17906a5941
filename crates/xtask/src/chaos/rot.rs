//! One bit of a stopped database is flipped, in every kind of file.

use std::path::{Path, PathBuf};

use super::damage::{BUCKETS, Case, Expect, Grounds, dir};
use super::layout::{self, BLOCK, frames};
use crate::dice::Dice;

pub(super) fn run(binary: &Path, dice: &mut Dice) -> Result<String, String> {
    let mut grounds = Grounds::build(binary)?;
    let mut cases = vec![flip(&grounds, dice, 0, "meta", (0, layout::META), Expect::Refused)?];
    let bucket = dice.between(0, BUCKETS - 1);
    slots(&grounds, dice, bucket, &mut cases)?;
    segments(&grounds, dice, bucket, &mut cases)?;
    indexes(&grounds, dice, bucket, &mut cases)?;
    for case in &cases {
        grounds.try_case(case);
    }
    grounds.result()
}

/// Flips a random bit of `bytes` from a place in a file.
fn flip(
    grounds: &Grounds,
    dice: &mut Dice,
    bucket: u64,
    name: impl Into<PathBuf>,
    (from, bytes): (usize, usize),
    expect: Expect,
) -> Result<Case, String> {
    let name = name.into();
    let mut content = grounds.file(&name)?.clone();
    let (at, bit) = (from + dice.below(bytes), dice.below(8));
    let byte = content.get_mut(at).ok_or_else(|| format!("{} has no {at}", name.display()))?;
    *byte ^= 1 << bit;
    let what = format!("{} byte {at} bit {bit}", name.display());
    Ok(Case::one(bucket, what, name, Some(content), expect))
}

fn slots(
    grounds: &Grounds,
    dice: &mut Dice,
    bucket: u64,
    cases: &mut Vec<Case>,
) -> Result<(), String> {
    let name = Path::new(&dir(bucket)).join("slots");
    for slot in [0, BLOCK] {
        let place = (slot, layout::SLOT);
        cases.push(flip(grounds, dice, bucket, &name, place, Expect::Told)?);
    }
    let mut both = grounds.file(&name)?.clone();
    let at = dice.below(layout::SLOT);
    both[at] ^= 1;
    both[BLOCK + at] ^= 1;
    let what = format!("{} bytes {at} and {} bit 0", name.display(), BLOCK + at);
    cases.push(Case::one(bucket, what, name, Some(both), Expect::Refused));
    Ok(())
}

fn segments(
    grounds: &Grounds,
    dice: &mut Dice,
    bucket: u64,
    cases: &mut Vec<Case>,
) -> Result<(), String> {
    let (names, ahead) = grounds.segments(bucket);
    let (last, full) = names.split_last().ok_or("no segments")?;
    let sealed = &full[dice.below(full.len())];

    // A start passes a full segment whose index fits: who reads the damage, meets it.
    let header = (0, layout::SEGMENT_HEADER);
    cases.push(flip(grounds, dice, bucket, sealed, header, Expect::Told)?);
    let all = frames(grounds.file(sealed)?);
    let frame = all[dice.below(all.len())];
    let frame_header = (frame.at, layout::FRAME_HEADER);
    cases.push(flip(grounds, dice, bucket, sealed, frame_header, Expect::Told)?);
    let batches: Vec<_> = all.iter().filter_map(|frame| frame.records()).collect();
    let records = batches[dice.below(batches.len())];
    let mut case = flip(grounds, dice, bucket, sealed, records, Expect::Refused)?;
    case.what += " (a record)";
    cases.push(case);
    // Without its index the segment is scanned, and what follows it proves that it was synced.
    let mut case = flip(grounds, dice, bucket, sealed, (frame.at, frame.bytes), Expect::Refused)?;
    case.changes.push((sealed.with_extension("index"), None));
    case.what += ", its index lost";
    cases.push(case);

    cases.push(flip(grounds, dice, bucket, last, header, Expect::Refused)?);
    let all = frames(grounds.file(last)?);
    // The slots of a stopped server prove all of the last segment.
    for frame in [all.first(), all.get(dice.below(all.len())), all.last()].into_iter().flatten() {
        let place = (frame.at, frame.bytes);
        cases.push(flip(grounds, dice, bucket, last, place, Expect::Refused)?);
    }
    let end = all.last().map_or(BLOCK, |frame| (frame.at + frame.bytes).next_multiple_of(8));
    let rest = grounds.file(last)?.len() - end;
    if rest > 0 {
        let mut case = flip(grounds, dice, bucket, last, (end, rest), Expect::Served)?;
        case.what += " (behind the last frame)";
        cases.push(case);
    }
    if let Some(ahead) = ahead {
        let place = (0, grounds.file(&ahead)?.len());
        let mut case = flip(grounds, dice, bucket, ahead, place, Expect::Served)?;
        case.what += " (made ahead)";
        cases.push(case);
    }
    Ok(())
}

fn indexes(
    grounds: &Grounds,
    dice: &mut Dice,
    bucket: u64,
    cases: &mut Vec<Case>,
) -> Result<(), String> {
    let (names, _) = grounds.segments(bucket);
    let full = names.len() - 1;
    // Header, lanes and terms, each one block here, are read at a start, which then builds it anew.
    for section in ["header", "lanes", "terms"] {
        let index = names[dice.below(full)].with_extension("index");
        let at = match section {
            "header" => 0,
            "lanes" => BLOCK,
            _ => grounds.file(&index)?.len() - BLOCK,
        };
        let mut case = flip(grounds, dice, bucket, index, (at, BLOCK), Expect::Served)?;
        case.what += &format!(" ({section})");
        cases.push(case);
    }
    for _ in 0..3 {
        let index = names[dice.below(full)].with_extension("index");
        let rest = grounds.file(&index)?.len() - 3 * BLOCK;
        cases.push(flip(grounds, dice, bucket, index, (2 * BLOCK, rest), Expect::Refused)?);
    }
    Ok(())
}
