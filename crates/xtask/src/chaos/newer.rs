//! A directory that a newer ActaDB has written: refused, by name, and left as it is.

use std::path::Path;

use super::damage::{BUCKETS, Case, Expect, Grounds, dir};
use super::layout;
use crate::dice::Dice;

pub(super) fn run(binary: &Path, dice: &mut Dice) -> Result<String, String> {
    let mut grounds = Grounds::build(binary)?;
    for case in cases(&grounds, dice)? {
        grounds.try_case(&case);
    }
    grounds.result()
}

fn cases(grounds: &Grounds, dice: &mut Dice) -> Result<Vec<Case>, String> {
    let bucket = dice.between(0, BUCKETS - 1);
    let number = bucket as u16;
    let meta = grounds.file(Path::new("meta"))?;
    let slots = Path::new(&dir(bucket)).join("slots");
    let (names, _) = grounds.segments(bucket);
    let (last, full) = names.split_last().ok_or("no segments")?;
    let chosen = dice.below(full.len());
    let sealed = &full[chosen];
    let index = sealed.with_extension("index");
    let newer = |what: &str, name: &Path, change: &dyn Fn(&mut [u8])| {
        let mut content = grounds.file(name)?.clone();
        change(&mut content);
        if content == *grounds.file(name)? {
            return Err(format!("nothing is changed in {}", name.display()));
        }
        let what = format!("{} of version {}{what}", name.display(), layout::NEWER);
        Ok::<_, String>(Case::one(bucket, what, name.to_owned(), Some(content), Expect::Newer))
    };
    let frame = |is_kind| {
        move |bytes: &mut [u8]| {
            layout::newer_frame(bytes, is_kind, meta, number);
        }
    };
    let slot = |n| move |bytes: &mut [u8]| layout::newer_slot(bytes, n, meta, number);
    let header = layout::newer_segment;
    let mut cases = vec![
        newer("", Path::new("meta"), &layout::newer_meta)?,
        newer(", slot 0", &slots, &slot(0))?,
        newer(", slot 1", &slots, &slot(1))?,
        newer(", header of the last", last, &header)?,
        newer(", last frame", last, &frame(false))?,
        newer(", by an unknown kind of frame", last, &frame(true))?,
        newer(", header, its index lost", sealed, &header)?,
    ];
    if let Some(case) = cases.last_mut() {
        case.changes.push((index.clone(), None));
    }
    // A start does not read a full segment whose index fits; whoever checks, does.
    let mut passed = newer(", header, with its index", sealed, &header)?;
    passed.expect = Expect::Told;
    cases.push(passed);
    // An index can be made anew from its segment, so an older program may.
    let segment = chosen as u64 + 1;
    let change = |bytes: &mut [u8]| layout::newer_index(bytes, meta, number, segment);
    let mut rebuilt = newer("", &index, &change)?;
    rebuilt.expect = Expect::Told;
    cases.push(rebuilt);
    Ok(cases)
}
