//! Repair and scrub on a device that forgets what was not synced.

mod scrub;
mod support;

use std::path::PathBuf;

use actadb_disk::disk::Disk;
use actadb_disk::sim::SimDisk;
use actadb_log::format::{BATCH_HEAD_BYTES, BatchHead};
use actadb_model::dice::SplitMix64;
use actadb_model::ids::with_hash16;
use actadb_model::numbered::Numbered;
use actadb_store::check::check_bucket;
use actadb_store::meta::bucket_dir;
use actadb_store::open::open_bucket;

use crate::support::*;

/// A way to hurt the database, and the entries that are left then.
type Hurt = (&'static str, fn(&SimDisk), u64);

const HURTS: &[Hurt] = &[
    ("a frame in a full segment", |disk| flip(disk, &segment(2), frame(4) + 500), 18),
    ("the first frame of a segment", |disk| flip(disk, &segment(3), frame(0) + 50), 28),
    ("the first frame of all", |disk| flip(disk, &segment(1), frame(0) + 50), 0),
    ("a frame of the last segment", |disk| flip(disk, &segment(4), frame(0) + 50), 42),
    ("a header", |disk| flip(disk, &segment(2), 20), 14),
    ("a segment lost", |disk| disk.remove(&segment(2)).expect("removes"), 14),
    ("the last segment lost", |disk| disk.remove(&segment(4)).expect("removes"), 42),
    ("the first segment lost", |disk| disk.remove(&segment(1)).expect("removes"), 0),
    ("a segment cut", |disk| disk.damage(&segment(2), |bytes| bytes.truncate(frame(6) + 9)), 20),
    (
        "an older segment",
        |disk| {
            let other = disk.contents(&segment(1)).expect("there");
            disk.damage(&segment(3), |bytes| *bytes = other);
        },
        28,
    ),
    (
        "both slots",
        |disk| {
            flip(disk, &slots(), 20);
            flip(disk, &slots(), 4096 + 20);
        },
        50,
    ),
    ("no slots", |disk| disk.remove(&slots()).expect("removes"), 50),
    (
        "slots and a frame",
        |disk| {
            disk.remove(&slots()).expect("removes");
            flip(disk, &segment(2), frame(4) + 500);
        },
        18,
    ),
];

#[test]
fn damage_is_told_exactly_and_given_up_only_behind_its_place() {
    for (name, hurt, kept) in HURTS {
        let disk = filled(50);
        hurt(&disk);
        let before = files(&disk);
        let report = check(&disk);
        assert_eq!(files(&disk), before, "{name}: a check changes nothing");
        assert!(!report.is_sound(), "{name}");
        let loss = report.loss.clone().expect("told");
        assert_eq!(loss.keep.last_entry, *kept, "{name}: {loss:?}");
        assert_eq!(loss.entries(), (*kept < 50).then_some((kept + 1, 50)), "{name}: {loss:?}");
        // Entry n is of partition 1 when 3 divides it.
        for lost in &loss.partitions {
            let of = |n: u64| if lost.partition.0 == 1 { n / 3 } else { n - n / 3 };
            assert_eq!(lost.from, of(*kept), "{name}: {loss:?}");
            assert!(lost.to < of(50) && (!loss.exact || lost.to == of(50) - 1), "{name}: {loss:?}");
        }

        repair(&disk, "damaged-1").expect("repairs");
        let after = files(&disk);
        let aside = bucket_dir(&root().join("damaged-1"), BUCKET);
        for (path, bytes) in &before {
            let moved = aside.join(path.file_name().expect("a name"));
            let gone = after.get(path) != Some(bytes);
            let is_index = path.extension().is_some_and(|e| e == "index");
            assert!(!gone || after.get(&moved) == Some(bytes) || is_index, "{name}: {path:?}");
        }
        assert!(after.keys().all(|path| path.extension().is_none_or(|e| e != "copy")));
        assert_mended(&disk, *kept as usize);
    }
}

#[test]
fn what_is_behind_the_damage_is_counted_and_its_sequences_are_named() {
    let disk = filled(50);
    flip(&disk, &segment(2), frame(4) + 500);
    let loss = check(&disk).loss.expect("told");
    // Entry 19 is unreadable, the nine behind it in the same segment are not.
    assert_eq!((loss.entries(), loss.readable_entries), (Some((19, 50)), 31));
    assert_eq!(loss.readable_events, 31);
    assert!(loss.exact, "an index behind the damage tells");
    let named: Vec<_> = loss.partitions.iter().map(|l| (l.partition.0, l.from, l.to)).collect();
    assert_eq!(named, [(0, 12, 33), (1, 6, 15)]);

    // A frame whose head is rotten: its record is whole.
    let disk = filled(50);
    flip(&disk, &segment(2), frame(4) + 42);
    let loss = check(&disk).loss.expect("told");
    assert_eq!((loss.readable_entries, loss.readable_events), (31, 32));

    // Frames need no header to be read.
    let disk = filled(50);
    flip(&disk, &segment(2), 20);
    flip(&disk, &segment(2), frame(0) + 500);
    let report = check(&disk);
    assert_eq!(report.damage.len(), 1, "{:?}", report.damage);
    let loss = report.loss.expect("told");
    assert_eq!((loss.entries(), loss.readable_entries), (Some((15, 50)), 35));

    // No index tells what the last frames of the growing segment held.
    let disk = filled(50);
    flip(&disk, &segment(4), frame(7) + 200);
    let loss = check(&disk).loss.expect("told");
    assert_eq!((loss.entries(), loss.readable_entries, loss.exact), (Some((50, 50)), 0, false));
}

#[test]
fn a_repair_that_loses_power_at_any_step_is_run_again() {
    for (name, hurt, kept) in HURTS {
        // With slots that lag they prove nothing while the repair is under way.
        for saved in [50, 3] {
            let disk = filled(saved);
            hurt(&disk);
            if check(&disk).is_sound() {
                continue;
            }
            let original = files(&disk);
            for stop in 0.. {
                let disk = SimDisk::new();
                disk.create_dir_all(&bucket_dir(root(), BUCKET)).expect("dir");
                for (path, bytes) in &original {
                    let file = disk.create(path).expect("creates");
                    file.write_all_at(bytes, 0).expect("writes");
                    file.sync_data().expect("syncs");
                    disk.sync_dir(path.parent().expect("a directory")).expect("syncs");
                }
                disk.stop_after(stop);
                let mut dice = SplitMix64::new(stop);
                let (outcome, done) = repair_told(&disk, "damaged-1");
                let stopped = outcome.is_err();
                let aside = |path: &PathBuf| path.starts_with(root().join("damaged-1"));
                let finished = |path: &&PathBuf| path.extension().is_none_or(|e| e != "copy");
                let moved = disk.files().into_iter().filter(aside).collect::<Vec<_>>();
                // The last one may be there, and its sync have failed.
                let told = done.len() + 1 >= moved.iter().filter(finished).count();
                assert!(told, "{name}: stopped after {stop}: {done:?} {moved:?}");
                disk.power_loss(&mut dice);
                let found = check(&disk);
                if stopped && !found.is_sound() {
                    disk.stop_after(dice.below(20));
                    let _ = repair(&disk, "damaged-2");
                    disk.power_loss(&mut dice);
                    repair(&disk, "damaged-3").unwrap_or_else(|e| panic!("{name} {stop}: {e}"));
                }
                let left = files(&disk);
                for (path, bytes) in &original {
                    let is_index = path.extension().is_some_and(|e| e == "index");
                    let kept = is_index || left.values().any(|found| found == bytes);
                    let slots = path.ends_with("slots");
                    assert!(kept || slots, "{name}: stopped after {stop}: {path:?} is gone");
                }
                let report = check(&disk);
                assert!(report.is_sound(), "{name}: stopped after {stop}: {report:?}");
                assert_eq!(events(&disk).len() as u64, *kept, "{name}: stopped after {stop}");
                if !stopped {
                    assert!(stop > 10, "{name}: a repair takes steps");
                    break;
                }
            }
        }
    }
}

#[test]
fn a_gap_before_files_made_ahead_is_damage_and_one_range_is_one_place() {
    for (number, words) in [(6, "is missing"), (999_999_999_999, "5 to 999999999998 are missing")] {
        let disk = filled(50);
        // Made ahead, never begun.
        let file = disk.create(&segment(number)).expect("creates");
        file.write_all_at(&[0; 8192], 0).expect("writes");
        file.sync_data().expect("syncs");
        disk.sync_dir(&bucket_dir(root(), BUCKET)).expect("syncs");
        let opened = directory(&disk).expect("opens");
        let error = open_bucket(&opened, BUCKET).expect_err("a start refuses it").to_string();
        drop(opened);
        assert!(error.contains("000000000005.segment"), "{error}");
        let report = check(&disk);
        assert_eq!(report.damage.len(), 1, "{:?}", report.damage);
        assert_eq!(report.damage[0].file, segment(5));
        assert!(report.damage[0].what.contains(words), "{:?}", report.damage);
        assert_eq!(report.loss.expect("told").keep.last_entry, 50);
        repair(&disk, "damaged-1").expect("repairs");
        assert_mended(&disk, 50);
    }
}

#[test]
fn what_a_repair_without_slots_keeps_is_durable() {
    for seed in 0..20 {
        let disk = filled(50);
        let opened = directory(&disk).expect("opens");
        let mut bucket = open_bucket(&opened, BUCKET).expect("opens");
        for _ in 0..4 {
            append_to(&opened, &mut bucket, false);
        }
        drop((bucket, opened));
        // The frames are in the system's cache, and nowhere else.
        disk.process_crash();
        disk.remove(&slots()).expect("removes");
        repair(&disk, "damaged-1").expect("repairs");
        disk.power_loss(&mut SplitMix64::new(seed));
        let report = check(&disk);
        assert!(report.is_sound() && report.mendable.is_empty(), "{seed}: {report:?}");
        assert_eq!(report.events, 54, "{seed}");
    }
}

#[test]
fn without_slots_a_bad_end_is_damage_and_is_kept_aside() {
    type End = (&'static str, fn(&SimDisk), u64);
    let ends: [End; 3] = [
        ("the last frame", |disk| flip(disk, &segment(4), frame(7) + 200), 49),
        // Each frame proves the one before it, so all that prove 43 go, too.
        (
            "the last frames",
            |disk| {
                disk.damage(&segment(4), |bytes| {
                    for n in 0..8 {
                        bytes[frame(n) + 200] ^= 1;
                    }
                })
            },
            42,
        ),
        (
            "the newest header",
            |disk| {
                disk.damage(&segment(4), |bytes| {
                    bytes[..4096].fill(0);
                    for n in 1..8 {
                        bytes[frame(n) + 200] ^= 1;
                    }
                })
            },
            42,
        ),
    ];
    for (name, hurt, kept) in ends {
        let disk = filled(3);
        hurt(&disk);
        let original = disk.contents(&segment(4)).expect("there");
        // With slots that lag, the same is torn, and mended at the next start.
        let report = check(&disk);
        assert!(report.is_sound() && report.mendable.len() == 1, "{name}: {report:?}");
        disk.remove(&slots()).expect("removes");
        let report = check(&disk);
        assert!(report.damage.len() >= 2 && report.mendable.is_empty(), "{name}: {report:?}");
        let loss = report.loss.expect("told");
        assert!(loss.log && loss.slots && !loss.exact, "{name}: {loss:?}");
        assert_eq!(loss.keep.last_entry, kept, "{name}: {loss:?}");
        repair(&disk, "damaged-1").expect("repairs");
        let aside = bucket_dir(&root().join("damaged-1"), BUCKET).join("000000000004.segment");
        assert_eq!(disk.contents(&aside), Some(original), "{name}");
        assert_mended(&disk, kept as usize);
    }
}

#[test]
fn what_costs_nothing_is_mended_and_nothing_is_set_aside() {
    let disk = filled(50);
    // A torn tail, a lost index, a rotten block inside an index, an index of another segment,
    // one bad slot.
    let end = frame(8);
    disk.damage(&segment(4), |bytes| bytes[end..end + 100].fill(7));
    disk.remove(&index(1)).expect("removes");
    flip(&disk, &index(2), 3 * 4096 + 1);
    let other = disk.contents(&index(1).with_file_name("000000000002.index")).expect("there");
    disk.damage(&index(3), |bytes| *bytes = other);
    flip(&disk, &slots(), 20);
    let report = check(&disk);
    assert!(report.damage.is_empty() && report.loss.is_none(), "{report:?}");
    assert_eq!(report.bad_indexes.len(), 1, "{report:?}");
    assert_eq!(report.bad_indexes[0].offset, 3 * 4096);
    assert_eq!(report.mendable.len(), 4, "{report:?}");
    repair(&disk, "damaged-1").expect("repairs");
    assert!(disk.files().iter().all(|path| !path.starts_with(root().join("damaged-1"))));
    assert_eq!(check(&disk).indexes, 3);
    assert_mended(&disk, 50);
    // A repair of a sound database does nothing.
    let before = files(&disk);
    repair(&disk, "damaged-2").expect("repairs");
    assert_eq!(files(&disk), before);
}

#[test]
fn what_only_a_newer_program_reads_is_refused_and_left_alone() {
    let disk = filled(50);
    let opened = directory(&disk).expect("opens");
    let mut bucket = open_bucket(&opened, BUCKET).expect("opens");
    let seed = opened.log_settings(BUCKET).identity.checksum_seed();
    let newer = |body: &mut Vec<u8>| {
        let record = &mut body[BATCH_HEAD_BYTES..];
        record[9] |= 0x80;
        let checksum = crc32c::crc32c_append(seed, &record[8..]);
        record[4..8].copy_from_slice(&checksum.to_le_bytes());
    };
    append_changed(&opened, &mut bucket, true, |_, _| {}, newer).expect_err("is not read");
    drop((bucket, opened));
    // Not even other damage is touched.
    flip(&disk, &segment(2), frame(4) + 500);
    let before = files(&disk);
    let opened = directory(&disk).expect("opens");
    let error = check_bucket(&opened, BUCKET).expect_err("a newer program wrote it");
    drop(opened);
    assert!(error.is_newer_format(), "{error:?}");
    assert!(error.to_string().contains("000000000004.segment at byte"), "{error}");
    assert!(error.to_string().contains("use a newer actadb"), "{error}");
    repair(&disk, "damaged-1").expect_err("nothing is repaired");
    assert_eq!(files(&disk), before);
}

#[test]
fn good_records_that_disagree_are_told_and_cost_nothing() {
    let disk = filled(50);
    let opened = directory(&disk).expect("opens");
    let mut bucket = open_bucket(&opened, BUCKET).expect("opens");
    let odd: [fn(&mut Numbered, &mut BatchHead); 3] = [
        |transaction, _| transaction.events[0].version += 5,
        |_, head| head.time_ns = 3,
        |transaction, _| transaction.events[0].id = with_hash16(transaction.events[0].id, 77),
    ];
    for change in odd {
        append_changed(&opened, &mut bucket, true, change, |_| {}).expect("publishes");
    }
    for _ in 0..40 {
        append(&opened, &mut bucket);
    }
    // The last version there can be.
    let last = |transaction: &mut Numbered, _: &mut BatchHead| {
        transaction.events[0].version = u64::MAX;
    };
    append_changed(&opened, &mut bucket, true, last, |_| {}).expect("publishes");
    drop((bucket, opened));
    let before = files(&disk);
    let report = check(&disk);
    let what: Vec<_> = report.disagreements.iter().map(|damage| &damage.what).collect();
    assert_eq!(what.len(), 5, "{report:?}");
    assert!(what[0].contains("goes on at version"), "{what:?}");
    assert!(report.damage.is_empty() && report.loss.is_none(), "{report:?}");
    assert!(!report.is_sound() && !report.can_be_mended(), "{report:?}");
    repair(&disk, "damaged-1").expect("has nothing to do");
    assert_eq!(files(&disk), before);
    assert_eq!(events(&disk).len(), 94);
}
