//! Files of a stopped database that are missing, cut, older, or of another place.

use std::path::{Path, PathBuf};

use super::damage::{BUCKETS, Case, Expect, Files, Grounds, dir};
use super::layout::{BLOCK, frames};
use crate::dice::Dice;
use crate::server_process::Home;

pub(super) fn run(binary: &Path, dice: &mut Dice) -> Result<String, String> {
    let mut grounds = Grounds::build(binary)?;
    let bucket = dice.between(0, BUCKETS - 1);
    let mut cases = Vec::new();
    meta(&grounds, binary, &mut cases)?;
    bucket_files(&grounds, dice, bucket, &mut cases)?;
    full_segments(&grounds, dice, bucket, &mut cases)?;
    last_segment(&grounds, dice, bucket, &mut cases)?;
    for case in &cases {
        grounds.try_case(case);
    }
    grounds.result()
}

fn one(
    bucket: u64,
    what: &str,
    name: impl Into<PathBuf>,
    content: Option<Vec<u8>>,
    expect: Expect,
) -> Case {
    let name = name.into();
    Case::one(bucket, format!("{} {what}", name.display()), name, content, expect)
}

fn cut(content: &[u8], bytes: usize) -> Option<Vec<u8>> {
    Some(content.iter().take(bytes).copied().collect())
}

fn older<'a>(files: &'a Files, name: &Path) -> Result<&'a Vec<u8>, String> {
    files.get(name).ok_or_else(|| format!("no older {}", name.display()))
}

fn meta(grounds: &Grounds, binary: &Path, cases: &mut Vec<Case>) -> Result<(), String> {
    let sound = grounds.file(Path::new("meta"))?;
    let other = Home::new(binary, &[super::crash::SMALL_SEGMENTS])?;
    other.start()?.terminate()?;
    let foreign = std::fs::read(other.data().join("meta")).map_err(super::resp::said)?;
    let missing = one(0, "missing", "meta", None, Expect::Refused);
    let another = one(0, "of another database", "meta", Some(foreign), Expect::Foreign);
    cases.extend([
        missing,
        another,
        one(0, "cut to 30 bytes", "meta", cut(sound, 30), Expect::Refused),
        one(0, "empty", "meta", cut(sound, 0), Expect::Refused),
        one(0, "missing", "LOCK", None, Expect::Served),
    ]);
    Ok(())
}

fn bucket_files(
    grounds: &Grounds,
    dice: &mut Dice,
    bucket: u64,
    cases: &mut Vec<Case>,
) -> Result<(), String> {
    let of = dir(bucket);
    let name = Path::new(&of).join("slots");
    let sound = grounds.file(&name)?;
    let before = older(&grounds.older, &name)?.clone();
    let others = grounds.file(&Path::new(&dir((bucket + 1) % BUCKETS)).join("slots"))?.clone();
    // Each slot says what was synced when it was saved, so one of them, or older ones, are true.
    cases.extend([
        one(bucket, "missing", &name, None, Expect::Refused),
        one(bucket, "empty", &name, cut(sound, 0), Expect::Refused),
        one(bucket, "cut to 60 bytes", &name, cut(sound, 60), Expect::Refused),
        one(bucket, "cut to one slot", &name, cut(sound, BLOCK), Expect::Served),
        one(bucket, "older", &name, Some(before), Expect::Served),
        one(bucket, "of another bucket", &name, Some(others), Expect::Refused),
    ]);
    let all = grounds.sound.keys().filter(|name| name.starts_with(&of));
    let changes = all.map(|name| (name.clone(), None)).collect();
    let what = format!("{of} missing");
    let (expect, also) = (Expect::Refused, Vec::new());
    cases.push(Case { what, bucket, changes, expect, also });

    let (names, ahead) = grounds.segments(bucket);
    let index = names[dice.below(names.len() - 1)].with_extension("index");
    let content = grounds.file(&index)?;
    let half = dice.below(content.len());
    let first = names[0].with_extension("index");
    let second = names[1].with_extension("index");
    let another = grounds.file(&first)?.clone();
    cases.extend([
        one(bucket, "missing", &index, None, Expect::Served),
        one(bucket, "empty", &index, cut(content, 0), Expect::Served),
        one(bucket, &format!("cut to {half} bytes"), &index, cut(content, half), Expect::Served),
        one(bucket, "of another segment", second, Some(another), Expect::Served),
    ]);
    if let Some(ahead) = ahead {
        let half = cut(grounds.file(&ahead)?, 5000);
        cases.push(one(bucket, "missing (made ahead)", &ahead, None, Expect::Served));
        cases.push(one(bucket, "cut (made ahead)", &ahead, half, Expect::Served));
    }
    Ok(())
}

/// Segments behind which another begins: that proves all of them.
fn full_segments(
    grounds: &Grounds,
    dice: &mut Dice,
    bucket: u64,
    cases: &mut Vec<Case>,
) -> Result<(), String> {
    let (names, _) = grounds.segments(bucket);
    let full = &names[..names.len() - 1];
    let name = &full[dice.below(full.len())];
    let content = grounds.file(name)?;
    let all = frames(content);
    let half = all[dice.between(1, all.len() as u64 - 1) as usize].at;
    // One that was still growing earlier in the life of the database.
    let grown = full.iter().find(|name| grounds.older.get(*name) != grounds.sound.get(*name));
    let grown = grown.ok_or("no segment has grown since the older copy")?;
    let before = older(&grounds.older, grown)?.clone();
    let foreign =
        Path::new(&dir((bucket + 1) % BUCKETS)).join(name.file_name().unwrap_or_default());
    let foreign = grounds.file(&foreign)?.clone();
    for is_index_lost in [false, true] {
        let mut some = vec![
            one(bucket, "missing", name, None, Expect::Refused),
            one(bucket, &format!("cut to {half} bytes"), name, cut(content, half), Expect::Refused),
            one(bucket, "empty", name, cut(content, 0), Expect::Refused),
            one(bucket, "older", grown, Some(before.clone()), Expect::Refused),
        ];
        for case in &mut some {
            // What is missing at the end of a segment is told by those that fit no more.
            let place = names.iter().position(|name| *name == case.changes[0].0).unwrap_or(0);
            case.also.push(names[place].with_extension("index").display().to_string());
            case.also.push(names[place + 1].display().to_string());
        }
        if is_index_lost {
            let foreign = Some(foreign.clone());
            some.push(one(bucket, "of another bucket", name, foreign, Expect::Refused));
            for case in &mut some {
                let index = case.changes[0].0.with_extension("index");
                case.changes.push((index, None));
                case.what += ", its index missing";
            }
        }
        cases.append(&mut some);
    }
    Ok(())
}

/// The segment that grows: only the slots prove what is in it.
fn last_segment(
    grounds: &Grounds,
    dice: &mut Dice,
    bucket: u64,
    cases: &mut Vec<Case>,
) -> Result<(), String> {
    let (names, _) = grounds.segments(bucket);
    let (last, full) = names.split_last().ok_or("no segments")?;
    let content = grounds.file(last)?;
    let all = frames(content);
    let frame = all[dice.below(all.len())];
    // As it was before this frame was written.
    let mut before = content.clone();
    before[frame.at..].fill(0);
    let torn = frame.at + dice.below(frame.bytes);
    let mut some = vec![
        one(bucket, "missing (the last)", last, None, Expect::Refused),
        one(bucket, "empty (the last)", last, cut(content, 0), Expect::Refused),
        one(bucket, &format!("cut to {torn} bytes"), last, cut(content, torn), Expect::Refused),
        one(bucket, &format!("older, up to {}", frame.at), last, Some(before), Expect::Refused),
    ];
    // A log that just ends early is told by the file that it ends in.
    if let Some(previous) = full.last() {
        for case in &mut some {
            case.also.push(previous.display().to_string());
        }
    }
    cases.append(&mut some);
    Ok(())
}
