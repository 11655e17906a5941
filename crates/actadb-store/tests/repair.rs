//! Repair and scrub on a device that forgets what was not synced.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use actadb_disk::disk::Disk;
use actadb_disk::sim::SimDisk;
use actadb_log::error::Damage;
use actadb_log::format::BatchHead;
use actadb_log::slots::Slots;
use actadb_model::dice::SplitMix64;
use actadb_model::entry::{Entry, EntryKind};
use actadb_model::event::Event;
use actadb_model::ids::{BucketId, PartitionId, PartitionKey, Partitioning, with_hash16};
use actadb_model::names::{EventName, StreamId};
use actadb_model::numbered::{Numbered, NumberedEvent};
use actadb_store::check::{BucketReport, check_bucket};
use actadb_store::error::OpenError;
use actadb_store::meta::{Directory, Meta, bucket_dir};
use actadb_store::open::{OpenedBucket, open_bucket};
use actadb_store::reader::Scan;
use actadb_store::record;
use actadb_store::repair::{Mended, repair_bucket};
use actadb_store::scrub::Scrub;
use bytes::Bytes;
use uuid::Uuid;

const BUCKET: BucketId = BucketId(0);
const PARTITIONS: [PartitionId; 2] = [PartitionId(0), PartitionId(1)];

/// Bytes of each frame.
const FRAME: usize = 4136;

/// Where frame `n` of a segment begins, counted from 0.
fn frame(n: usize) -> usize {
    4096 + n * FRAME
}

fn root() -> &'static Path {
    Path::new("/db")
}

fn segment(number: u64) -> PathBuf {
    bucket_dir(root(), BUCKET).join(format!("{number:012}.segment"))
}

fn index(number: u64) -> PathBuf {
    segment(number).with_extension("index")
}

fn slots() -> PathBuf {
    Slots::path(&bucket_dir(root(), BUCKET))
}

fn directory(disk: &SimDisk) -> Result<Directory, OpenError> {
    let meta = Meta {
        database: Uuid::from_u128(5),
        partitioning: Partitioning::new(2, 1).expect("valid"),
        segment_bytes: 64 << 10,
    };
    Directory::open_or_create(Arc::new(disk.clone()), root(), meta)
}

/// One event per entry, all of one size: fourteen to a segment.
fn append(directory: &Directory, bucket: &mut OpenedBucket) {
    append_to(directory, bucket, true);
}

fn append_to(directory: &Directory, bucket: &mut OpenedBucket, sync: bool) {
    let identity = directory.log_settings(BUCKET).identity;
    let index = bucket.writer.tip().index + 1;
    let partition = PARTITIONS[usize::from(index.is_multiple_of(3))];
    let first_sequence = bucket.publisher.next_sequence(partition);
    let id = with_hash16(Uuid::from_u128(u128::from(index)), partition.0);
    let event = NumberedEvent {
        id,
        stream: StreamId::new(&format!("s{}", partition.0)).expect("ok"),
        version: first_sequence,
        name: EventName::new("Happened").expect("ok"),
        timestamp_ns: 1,
        payload: Bytes::from(vec![index as u8; 4000]),
        metadata: Bytes::new(),
    };
    let transaction = Numbered {
        partition,
        partition_key: PartitionKey::new(with_hash16(Uuid::from_u128(50), partition.0)),
        key_is_default: false,
        transaction_id: id,
        first_sequence,
        decided_ns: 1,
        events: vec![event],
    };
    let mut body = BatchHead { time_ns: index, durable: index - 1 }.encode().to_vec();
    body.extend_from_slice(&record::encode(identity, &transaction));
    let entry = Entry { term: 1, index, kind: EntryKind::Batch, body: Bytes::from(body) };
    bucket.writer.make_room(entry.body.len() as u64).expect("room");
    let written = bucket.writer.write(&entry).expect("write");
    if sync {
        bucket.writer.sync().expect("sync");
    }
    if let Some(full) = written.full {
        bucket.publisher.segment_full(full);
    }
    let (_, seal) = bucket.publisher.publish(&entry, written.body).expect("publish");
    if let Some(task) = seal {
        let index = task.run().expect("seals");
        bucket.publisher.sealed(index);
    }
}

/// Fifty entries in four segments: 1 to 14, 15 to 28, 29 to 42, 43 to 50.
fn filled(saved: u64) -> SimDisk {
    let disk = SimDisk::new();
    let directory = directory(&disk).expect("opens");
    let mut bucket = open_bucket(&directory, BUCKET).expect("opens");
    for _ in 0..50 {
        append(&directory, &mut bucket);
    }
    bucket.writer.save_synced(saved).expect("saves");
    drop((bucket, directory));
    disk.power_loss(&mut SplitMix64::new(1));
    disk
}

fn check(disk: &SimDisk) -> BucketReport {
    check_bucket(&directory(disk).expect("opens"), BUCKET).expect("checks")
}

fn repair(disk: &SimDisk, name: &str) -> Result<BucketReport, OpenError> {
    repair_told(disk, name).0
}

/// And what it says it did.
fn repair_told(disk: &SimDisk, name: &str) -> (Result<BucketReport, OpenError>, Vec<Mended>) {
    let mut done = Vec::new();
    let mut run = || {
        let directory = directory(disk)?;
        let report = check_bucket(&directory, BUCKET)?;
        repair_bucket(&directory, BUCKET, &report, &root().join(name), &mut done)?;
        Ok(report)
    };
    (run(), done)
}

/// Every event that readers get.
fn events(disk: &SimDisk) -> Vec<Event> {
    let directory = directory(disk).expect("opens");
    let bucket = open_bucket(&directory, BUCKET).expect("opens");
    let reader = bucket.publisher.reader();
    let all = Scan { from: 0, to: u64::MAX, count: 1000, reverse: false };
    let pages = PARTITIONS.map(|p| reader.read_partition(p, all).expect("reads").events);
    pages.into_iter().flatten().collect()
}

/// All files, but for the ones that a start may change.
fn files(disk: &SimDisk) -> BTreeMap<PathBuf, Vec<u8>> {
    let paths = disk.files().into_iter().filter(|path| !path.ends_with("LOCK"));
    paths.map(|path| (path.clone(), disk.contents(&path).expect("there"))).collect()
}

fn flip(disk: &SimDisk, path: &Path, offset: usize) {
    disk.damage(path, |bytes| bytes[offset] ^= 0x10);
}

/// After a repair: sound, opens, goes on, and stays sound.
fn assert_mended(disk: &SimDisk, kept: usize) {
    let report = check(disk);
    assert!(report.is_sound() && report.mendable.is_empty(), "{report:?}");
    assert_eq!(events(disk).len(), kept);
    let directory = directory(disk).expect("opens");
    let mut bucket = open_bucket(&directory, BUCKET).expect("opens");
    for _ in 0..40 {
        append(&directory, &mut bucket);
    }
    drop((bucket, directory));
    let report = check(disk);
    assert!(report.is_sound(), "{report:?}");
    assert_eq!(report.events, kept as u64 + 40);
}

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

/// An index of segment 2 that was built from something else, with good checksums.
fn plant(disk: &SimDisk, change: fn(&mut actadb_index::open::OpenIndex, u64, u32)) {
    use actadb_index::open::OpenIndex;
    use actadb_index::sealed::SealedIndex;
    let found = SealedIndex::open(disk, &index(2), Uuid::from_u128(5), 0, 2).expect("good");
    let described = *found.described();
    let lanes: Vec<_> = found.lanes().iter().map(|lane| (lane.lane, lane.first)).collect();
    let mut open = OpenIndex::new(lanes);
    let bucket = directory(disk).expect("opens");
    actadb_store::walk::walk(&bucket.log_settings(BUCKET), Some(50), &mut |step| {
        if let actadb_store::walk::Step::Frame { entry, body } = step
            && body.segment == 2
        {
            let place = body.offset + 16;
            change(&mut open, entry.index, place);
        }
    })
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
        let group = stream_hash(0, &format!("s{}", partition.0));
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
    let mut round = Scrub::new(&bucket.publisher.reader());
    let mut found = Vec::new();
    for _ in 0..10_000 {
        let step = round.step(5000);
        assert!(step.bytes <= 5000 + 64 * 1024, "a small step");
        found.extend(step.found);
        if step.ended {
            return found;
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
