//! Indexes held against their segments, and the scrub of a running bucket.

use actadb_disk::sim::SimDisk;
use actadb_log::error::Damage;
use actadb_log::slots::Known;
use actadb_model::ids::with_hash16;
use actadb_store::open::{OpenedBucket, open_bucket};
use actadb_store::scrub::Scrub;
use uuid::Uuid;

use crate::support::*;

/// An index of segment 2 that was built from something else, with good checksums.
fn plant(disk: &SimDisk, change: fn(&mut actadb_index::open::OpenIndex, u64, u32)) {
    use actadb_index::open::OpenIndex;
    use actadb_index::sealed::SealedIndex;
    let found = SealedIndex::open(disk, &index(2), Uuid::from_u128(5), 0, 2).expect("good");
    let described = *found.described();
    let lanes: Vec<_> = found.lanes().iter().map(|lane| (lane.lane, lane.first)).collect();
    let mut open = OpenIndex::new(lanes);
    let bucket = directory(disk).expect("opens");
    actadb_store::walk::walk(
        &bucket.log_settings(BUCKET),
        Some(Known { synced_index: 50, bulk_through: 0 }),
        &mut |step| {
            if let actadb_store::walk::Step::Frame { entry, body } = step
                && body.segment == 2
            {
                let place = body.offset + 16;
                open.note_term(entry.index, entry.term);
                change(&mut open, entry.index, place);
            }
        },
    )
    .expect("walks");
    SealedIndex::build(disk, &index(2), &described, &open).expect("builds");
}

fn add(open: &mut actadb_index::open::OpenIndex, n: u64, place: u32, parts: [bool; 3]) {
    use actadb_store::hashes::{event_id_hash, stream_hash};
    let partition = PARTITIONS[usize::from(n.is_multiple_of(3))];
    let sequence = if partition.0 == 1 { n / 3 - 1 } else { n - n / 3 - 1 };
    let id = with_hash16(Uuid::from_u128(u128::from(n)), partition.0);
    if parts[0] {
        open.push_lane(partition.0, sequence, place);
    }
    if parts[1] {
        let group = stream_hash(0, format!("s{}", partition.0));
        open.add_posting(group, partition.0, sequence, place);
    }
    if parts[2] {
        open.add_key(event_id_hash(0, id), place);
    }
}

#[test]
fn every_disagreement_of_an_index_with_its_segment_is_found_both_ways_and_mended() {
    type Change = fn(&mut actadb_index::open::OpenIndex, u64, u32);
    let plants: [(Change, &str); 9] = [
        (|open, n, place| add(open, n, place, [true; 3]), ""),
        // The record's events are not in the index.
        (|open, n, place| add(open, n, place, [true, n != 20, true]), "stream versions"),
        (|open, n, place| add(open, n, place, [true, true, n != 20]), "event ids"),
        (|open, n, place| add(open, n, place, [n != 28, true, true]), "other sequences"),
        // They are there with another place.
        (|open, n, place| add(open, n, place + u32::from(n == 20), [true; 3]), "not those"),
        (
            |open, n, place| {
                add(open, n, place, [true, true, false]);
                add(open, n, place + 8 * u32::from(n == 20), [false, false, true]);
            },
            "event ids",
        ),
        // The index has what no record has.
        (
            |open, n, place| {
                add(open, n, place, [true; 3]);
                open.add_key(n << 50, place);
            },
            "event ids",
        ),
        (
            |open, n, place| {
                add(open, n, place, [true; 3]);
                open.add_posting(n << 50, 0, 7, place);
            },
            "stream versions",
        ),
        // Another event in place of the right one.
        (
            |open, n, place| {
                add(open, n, place, [true, true, false]);
                add(open, n + u64::from(n == 20) * 3, place, [false, false, true]);
            },
            "not those of the segment",
        ),
    ];
    for (n, (change, words)) in plants.into_iter().enumerate() {
        let disk = filled(50);
        plant(&disk, change);
        let report = check(&disk);
        if n == 0 {
            assert!(report.is_sound(), "{report:?}");
            continue;
        }
        assert_eq!(report.bad_indexes.len(), 1, "plant {n}: {report:?}");
        let Damage { file, what, .. } = &report.bad_indexes[0];
        assert_eq!(file, &index(2));
        assert!(what.contains(words), "plant {n}: {what}");
        // A scrub of the running bucket sees the same.
        let found = scrub(&disk);
        assert_eq!(found, report.bad_indexes, "plant {n}");
        repair(&disk, "damaged-1").expect("repairs");
        assert_mended(&disk, 50);
    }
}

/// What one round over the running bucket finds.
fn scrub(disk: &SimDisk) -> Vec<Damage> {
    let directory = directory(disk).expect("opens");
    let bucket = open_bucket(&directory, BUCKET).expect("opens");
    scrub_running(&bucket)
}

fn scrub_running(bucket: &OpenedBucket) -> Vec<Damage> {
    let (found, passed_over) = scrub_round(bucket);
    // Every damage keeps the round from something: the index of a bad segment, the rest of a bad
    // index.
    assert_eq!(passed_over, !found.is_empty(), "{found:?}");
    found
}

fn scrub_round(bucket: &OpenedBucket) -> (Vec<Damage>, bool) {
    let mut passed_over = false;
    let mut round = Scrub::new(&bucket.publisher.reader());
    let mut found = Vec::new();
    for _ in 0..10_000 {
        let step = round.step(5000);
        assert!(step.bytes <= 5000 + 64 * 1024, "a small step");
        found.extend(step.found);
        passed_over |= step.passed_over;
        if step.ended {
            return (found, passed_over);
        }
    }
    panic!("the round does not end");
}

#[test]
fn a_scrub_finds_rot_in_any_sealed_file_and_goes_on_behind_it() {
    let disk = filled(50);
    let directory = directory(&disk).expect("opens");
    let mut bucket = open_bucket(&directory, BUCKET).expect("opens");
    assert!(scrub_running(&bucket).is_empty());
    flip(&disk, &segment(1), frame(2) + 900);
    flip(&disk, &segment(1), frame(7) + 900);
    flip(&disk, &index(2), 2 * 4096 + 5);
    flip(&disk, &segment(3), 20);
    let found = scrub_running(&bucket);
    let places: Vec<_> = found.iter().map(|d| (d.file.clone(), d.offset)).collect();
    let expected = [
        (segment(1), frame(2) as u64),
        (segment(1), frame(7) as u64),
        (index(2), 2 * 4096),
        (segment(3), 0),
    ];
    assert_eq!(places, expected, "{found:?}");
    // It closes nothing; a new segment is read in the next round.
    for _ in 0..20 {
        append(&directory, &mut bucket);
    }
    flip(&disk, &segment(4), frame(2) + 900);
    assert_eq!(scrub_running(&bucket).len(), 5);
}

#[test]
fn a_step_ends_with_what_is_wrong_and_counts_what_it_searched() {
    let disk = filled(50);
    let directory = directory(&disk).expect("opens");
    let bucket = open_bucket(&directory, BUCKET).expect("opens");
    // Nothing good is left behind the second frame of 1, nor anything of 2.
    disk.damage(&segment(1), |bytes| bytes[frame(1)..].fill(7));
    disk.damage(&segment(2), |bytes| bytes.truncate(10));
    flip(&disk, &segment(3), frame(2) + 900);
    let length = disk.contents(&segment(1)).expect("there").len() as u64;
    let mut round = Scrub::new(&bucket.publisher.reader());
    let mut wrong = Vec::new();
    loop {
        let step = round.step(u64::MAX);
        assert!(step.bytes > 0 || step.ended, "{step:?}");
        assert!(step.found.len() <= 1, "{step:?}");
        wrong.extend(step.found.iter().map(|damage| (damage.offset, step.bytes)));
        if step.ended {
            break;
        }
    }
    let begin = frame(0) as u64;
    assert_eq!(wrong.len(), 3, "{wrong:?}");
    assert!(wrong[0].0 == frame(1) as u64 && wrong[0].1 >= length - begin, "{wrong:?}");
    assert!(wrong[1].0 == 0 && wrong[1].1 < begin * 2, "{wrong:?}");
    assert_eq!(wrong[2].0, frame(2) as u64, "{wrong:?}");
}
