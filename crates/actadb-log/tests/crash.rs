//! Crash properties of the log on a device that forgets what was not synced.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use actadb_disk::disk::Disk;
use actadb_disk::sim::SimDisk;
use actadb_log::error::LogError;
use actadb_log::format::{BatchHead, LogIdentity};
use actadb_log::recover::{Recovered, Recovery};
use actadb_log::segment::segment_path;
use actadb_log::slots::Known;
use actadb_log::writer::{LogSettings, LogWriter};
use actadb_model::dice::SplitMix64;
use actadb_model::entry::{Entry, EntryKind};
use actadb_model::ids::BucketId;
use bytes::Bytes;
use uuid::Uuid;

const SEGMENT_BYTES: u64 = 64 << 10;

fn dir() -> PathBuf {
    PathBuf::from("/bucket")
}

fn settings(disk: &SimDisk) -> LogSettings {
    LogSettings {
        disk: Arc::new(disk.clone()),
        dir: dir(),
        identity: LogIdentity::new(Uuid::from_u128(1), BucketId(2)),
        segment_bytes: SEGMENT_BYTES,
        zero_fill_bytes: 16 << 10,
    }
}

fn body(index: u64, durable: u64, extra: usize) -> Bytes {
    let mut body = BatchHead { time_ns: index, durable }.encode().to_vec();
    body.extend((0..extra).map(|i| (index as usize * 31 + i) as u8));
    Bytes::from(body)
}

fn recover(disk: &SimDisk, synced_index: u64) -> Result<(Recovered, Vec<(u64, Bytes)>), LogError> {
    let mut found = Vec::new();
    let mut recovery = Recovery::start(settings(disk), synced(synced_index))?;
    while recovery.next_segment().is_some() {
        recovery.scan::<LogError>(|_, frame| {
            found.push((frame.header.index, frame.body));
            Ok(())
        })?;
    }
    Ok((recovery.finish()?, found))
}

fn synced(synced_index: u64) -> Known {
    Known { synced_index, bulk_through: 0 }
}

fn new_log() -> (SimDisk, LogWriter) {
    let disk = SimDisk::new();
    disk.create_dir_all(&dir()).expect("dir");
    let (recovered, found) = recover(&disk, 0).expect("an empty log opens");
    assert!(found.is_empty());
    (disk, recovered.writer)
}

/// Writes with a draw of syncs; answers (written bodies, last index that was synced).
fn write_some(
    writer: &mut LogWriter,
    dice: &mut SplitMix64,
    count: u64,
    bodies: &mut Vec<Bytes>,
    synced: &mut u64,
) -> Result<(), LogError> {
    for _ in 0..count {
        let index = writer.tip().index + 1;
        let body = body(index, *synced, dice.below(9000) as usize);
        writer.make_room(body.len() as u64)?;
        assert!(writer.room().fits(body.len() as u64), "room was made");
        let entry = Entry { term: 1, index, kind: EntryKind::Batch, body: body.clone() };
        bodies.truncate(index as usize - 1);
        bodies.push(body);
        writer.write(&entry)?;
        if dice.one_in(3) {
            // Ahead of need: the next segment's file is there before this one's header is synced.
            writer.make_room(20_000 + dice.below(40_000))?;
        }
        if dice.one_in(2) {
            writer.sync()?;
            *synced = index;
        }
    }
    Ok(())
}

fn check_prefix(found: &[(u64, Bytes)], bodies: &[Bytes], synced: u64, seed: u64) {
    assert!(found.len() as u64 >= synced, "seed {seed}: a synced entry is gone");
    assert!(found.len() <= bodies.len(), "seed {seed}: more than was written");
    for (n, (index, body)) in found.iter().enumerate() {
        assert_eq!(*index, n as u64 + 1, "seed {seed}");
        assert_eq!(body, &bodies[n], "seed {seed}: entry {index} changed");
    }
}

#[test]
fn power_loss_keeps_every_synced_entry_and_never_a_torn_one() {
    for seed in 0..300 {
        let mut dice = SplitMix64::new(seed);
        let (disk, mut writer) = new_log();
        let (mut bodies, mut synced) = (Vec::new(), 0);
        disk.stop_after(5 + dice.below(120));
        for _ in 0..4 {
            let died = write_some(&mut writer, &mut dice, 40, &mut bodies, &mut synced).is_err();
            assert!(died || !disk.has_stopped());
            if dice.one_in(3) {
                disk.process_crash();
            } else {
                disk.power_loss(&mut dice);
            }
            // Recovery dies, too, several times, with a power loss between.
            let mut tries = 0;
            let (recovered, found) = loop {
                if tries < 3 {
                    disk.stop_after(dice.below(12));
                }
                match recover(&disk, 0) {
                    Ok(done) => break done,
                    Err(error) => assert!(disk.has_stopped(), "seed {seed}: {error}"),
                }
                disk.power_loss(&mut dice);
                tries += 1;
            };
            check_prefix(&found, &bodies, synced, seed);
            // What recovery shows is durable, whatever happens next.
            synced = found.len() as u64;
            disk.power_loss(&mut dice);
            drop(recovered);
            let (again, found) = recover(&disk, 0).expect("recovered once, recovered twice");
            check_prefix(&found, &bodies, synced, seed);
            writer = again.writer;
            disk.stop_after(20 + dice.below(200));
        }
    }
}

#[test]
fn torn_write_at_every_byte_of_a_frame_is_cut() {
    let (disk, mut writer) = new_log();
    let (mut bodies, mut synced) = (Vec::new(), 0);
    for (index, extra) in [(1, 100), (2, 333)] {
        let body = body(index, index - 1, extra);
        writer.make_room(body.len() as u64).expect("room");
        writer
            .write(&Entry { term: 1, index, kind: EntryKind::Batch, body: body.clone() })
            .expect("write");
        bodies.push(body);
        synced += 1;
    }
    let path = segment_path(&dir(), 1);
    let whole = disk.contents(&path).expect("there");
    let start = 4096 + actadb_log::format::frame_bytes(bodies[0].len() as u64) as usize;
    let end = start + 40 + bodies[1].len();
    for cut in start..end {
        disk.damage(&path, |bytes| {
            bytes.copy_from_slice(&whole);
            bytes[cut..].fill(0);
        });
        let (recovered, found) = recover(&disk, 1).expect("a torn tail is no damage");
        let kept = found.len();
        // The last bytes of a body may be zeros by chance; the frame is whole then.
        assert!(kept == 1 || (kept == 2 && whole[cut..end].iter().all(|byte| *byte == 0)));
        assert_eq!(!recovered.torn.is_empty(), kept == 1 && cut > start, "cut at {cut}");
    }
    assert_eq!(synced, 2);
}

#[test]
fn damage_below_a_proof_is_refused_by_name_and_nothing_is_changed() {
    let (disk, mut writer) = new_log();
    for index in 1..=40 {
        let body = body(index, index - 1, 4000);
        writer.make_room(body.len() as u64).expect("room");
        writer.write(&Entry { term: 1, index, kind: EntryKind::Batch, body }).expect("write");
        writer.sync().expect("sync");
    }
    assert!(writer.tip().index == 40);
    for (segment, offset) in [(1, 4096 + 10), (1, 9000), (2, 4096), (3, 30), (3, 5000)] {
        let path = segment_path(&dir(), segment);
        let whole = disk.contents(&path).expect("there");
        disk.damage(&path, |bytes| bytes[offset] ^= 0x10);
        let before: Vec<_> = disk.files().iter().map(|path| disk.contents(path)).collect();
        let error = recover(&disk, 0).expect_err("damage is refused");
        assert!(error.to_string().contains(&path.display().to_string()), "{error}");
        assert!(matches!(error, LogError::Damaged(_)), "{error}");
        let after: Vec<_> = disk.files().iter().map(|path| disk.contents(path)).collect();
        assert!(before == after, "a refused log was changed");
        disk.damage(&path, |bytes| bytes.copy_from_slice(&whole));
    }
    recover(&disk, 40).expect("the undamaged log opens");
}

#[test]
fn the_last_frame_flipped_is_damage_when_the_slot_says_it_was_synced() {
    let (disk, mut writer) = new_log();
    for index in 1..=3 {
        let body = body(index, index - 1, 50);
        writer.make_room(body.len() as u64).expect("room");
        writer.write(&Entry { term: 1, index, kind: EntryKind::Batch, body }).expect("write");
        writer.sync().expect("sync");
    }
    disk.damage(&segment_path(&dir(), 1), |bytes| bytes[4096 + 2 * 112 + 41] ^= 1);
    assert!(matches!(recover(&disk, 3), Err(LogError::Damaged(_))));
    let (recovered, found) = recover(&disk, 2).expect("without the slot it is a torn tail");
    assert_eq!(found.len(), 2);
    assert!(!recovered.torn.is_empty());
}

#[test]
fn segments_missing_truncated_foreign_or_newer_are_refused_by_name() {
    let build = || {
        let (disk, mut writer) = new_log();
        for index in 1..=40 {
            let body = body(index, index - 1, 4000);
            writer.make_room(body.len() as u64).expect("room");
            writer.write(&Entry { term: 1, index, kind: EntryKind::Batch, body }).expect("write");
            writer.sync().expect("sync");
        }
        disk
    };
    let refused = |disk: &SimDisk, word: &str| {
        let error = recover(disk, 40).expect_err("refused").to_string();
        assert!(error.contains(word), "{error}");
    };
    let disk = build();
    disk.remove(&segment_path(&dir(), 2)).expect("remove");
    refused(&disk, "000000000002.segment at byte 0: the segment is missing");

    let disk = build();
    disk.remove(&segment_path(&dir(), 3)).expect("remove");
    refused(&disk, "the log ends with entry");

    let disk = build();
    disk.damage(&segment_path(&dir(), 1), |bytes| bytes.truncate(20_000));
    refused(&disk, "000000000001.segment");

    let disk = build();
    let other = disk.contents(&segment_path(&dir(), 1)).expect("there");
    disk.damage(&segment_path(&dir(), 2), |bytes| *bytes = other);
    refused(&disk, "the file holds segment 1");

    let disk = build();
    let mut foreign = settings(&disk);
    foreign.identity = LogIdentity::new(Uuid::from_u128(77), foreign.identity.bucket());
    let error = Recovery::start(foreign, synced(0))
        .and_then(|mut recovery| recovery.scan::<LogError>(|_, _| Ok(())));
    assert!(matches!(error, Err(LogError::Foreign { .. })));

    let disk = build();
    disk.damage(&segment_path(&dir(), 3), |bytes| {
        bytes[8] = 9;
        let checksum = crc32c_of(&bytes[..56]);
        bytes[56..60].copy_from_slice(&checksum.to_le_bytes());
    });
    refused(&disk, "format version 9");
}

fn crc32c_of(bytes: &[u8]) -> u32 {
    // Bitwise, so that the test does not lean on the crate under test.
    let mut crc = !0_u32;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0x82f6_3b78 } else { crc >> 1 };
        }
    }
    !crc
}

#[test]
fn torn_creation_of_a_segment_at_every_byte_is_forgiven() {
    let (disk, mut writer) = new_log();
    let first = body(1, 0, 100);
    writer.make_room(first.len() as u64).expect("room");
    writer.write(&Entry { term: 1, index: 1, kind: EntryKind::Batch, body: first }).expect("write");
    let path = segment_path(&dir(), 1);
    let whole = disk.contents(&path).expect("there");
    for cut in 0..64 {
        disk.damage(&path, |bytes| {
            bytes.copy_from_slice(&whole);
            bytes[cut..].fill(0);
        });
        let (recovered, found) = recover(&disk, 0).expect("nothing was acknowledged");
        assert!(found.is_empty());
        drop(recovered);
        if !disk.exists(&path).expect("asked") {
            let file = disk.create(&path).expect("put it back for the next cut");
            file.write_all_at(&whole, 0).expect("write");
        }
    }
}

#[test]
fn a_full_device_loses_nothing_and_the_same_write_succeeds_later() {
    let (disk, mut writer) = new_log();
    let body = body(1, 0, 3000);
    disk.set_capacity(Some(2000));
    assert!(writer.make_room(body.len() as u64).expect_err("full").is_no_room());
    disk.set_capacity(None);
    writer.make_room(body.len() as u64).expect("room again");
    disk.fail_write_after(0, std::io::ErrorKind::StorageFull);
    let entry = Entry { term: 1, index: 1, kind: EntryKind::Batch, body };
    assert!(writer.write(&entry).expect_err("full").is_no_room());
    writer.write(&entry).expect("the same bytes at the same place");
    writer.sync().expect("sync");
    let (_, found) = recover(&disk, 1).expect("opens");
    assert_eq!(found, vec![(1, entry.body)]);
}

#[test]
fn a_failed_sync_is_not_trusted_by_the_recovery_that_follows() {
    let (disk, mut writer) = new_log();
    let body = body(1, 0, 3000);
    writer.make_room(body.len() as u64).expect("room");
    let entry = Entry { term: 1, index: 1, kind: EntryKind::Batch, body: body.clone() };
    writer.write(&entry).expect("write");
    disk.fail_sync_after(0);
    assert!(writer.sync().is_err());
    disk.process_crash();
    let (_, found) = recover(&disk, 0).expect("opens");
    assert_eq!(found.len(), 1, "the cache still shows it");
    disk.power_loss(&mut SplitMix64::new(3));
    let (_, found) = recover(&disk, 1).expect("what recovery showed is durable");
    assert_eq!(found, vec![(1, body)]);
}

#[test]
fn rolling_is_a_function_of_the_log() {
    let contents = |pauses: u64| {
        let (disk, mut writer) = new_log();
        let mut dice = SplitMix64::new(4);
        for index in 1..=60 {
            let body = body(index, 0, dice.below(9000) as usize);
            if pauses > 0 && index % pauses == 0 {
                writer = recover(&disk, 0).expect("opens").0.writer;
            }
            writer.make_room(body.len() as u64).expect("room");
            writer.write(&Entry { term: 1, index, kind: EntryKind::Batch, body }).expect("write");
        }
        let last = actadb_log::segment::segment_numbers(&disk, Path::new("/bucket"))
            .expect("list")
            .pop()
            .expect("some");
        (1..last).map(|number| disk.contents(&segment_path(&dir(), number))).collect::<Vec<_>>()
    };
    let steady = contents(0);
    assert!(steady.len() > 3);
    assert_eq!(steady, contents(7));
}

#[test]
fn a_segment_longer_than_it_should_be_is_left_for_the_next_one() {
    let (disk, mut writer) = new_log();
    let long = body(1, 0, 40_000);
    writer.make_room(long.len() as u64).expect("room");
    writer.write(&Entry { term: 1, index: 1, kind: EntryKind::Batch, body: long }).expect("write");
    drop(writer);
    // As after a restore under a meta file that says another size.
    let smaller = LogSettings { segment_bytes: 16 << 10, ..settings(&disk) };
    let mut recovery = Recovery::start(smaller, synced(0)).expect("opens");
    recovery.scan::<LogError>(|_, _| Ok(())).expect("a good segment");
    let mut writer = recovery.finish().expect("opens").writer;
    assert_eq!(writer.room().segment, 0);
    let next = body(2, 1, 100);
    writer.make_room(next.len() as u64).expect("room");
    assert!(writer.room().fits(next.len() as u64));
    let entry = Entry { term: 1, index: 2, kind: EntryKind::Batch, body: next };
    assert_eq!(writer.write(&entry).expect("write").body.segment, 2);
}

#[test]
fn a_recovery_that_loses_power_while_it_removes_segments_leaves_no_gap() {
    for stop in 0..12 {
        for seed in 0..16 {
            let (disk, mut writer) = new_log();
            let first = body(1, 0, 100);
            writer.make_room(first.len() as u64).expect("room");
            let entry = Entry { term: 1, index: 1, kind: EntryKind::Batch, body: first };
            writer.write(&entry).expect("write");
            writer.sync().expect("sync");
            drop(writer);
            // Made ahead, their headers lost with the power.
            for number in [2, 3, 4] {
                disk.create(&settings(&disk).segment_path(number)).expect("create");
            }
            disk.sync_dir(&dir()).expect("sync");
            disk.stop_after(stop);
            let _ = recover(&disk, 1);
            disk.power_loss(&mut SplitMix64::new(seed));
            let recovered = recover(&disk, 1);
            assert!(recovered.is_ok(), "stop {stop} seed {seed}: {:?}", recovered.err());
        }
    }
}

fn entry_of(index: u64, extra: usize) -> Entry {
    Entry { term: 1, index, kind: EntryKind::Batch, body: body(index, 0, extra) }
}

#[test]
fn frames_that_reach_new_blocks_carry_zeros_and_the_others_do_not() {
    // Fills of 16 KiB, frames of some 1 KiB: each write is a step of the disk, each fill another.
    let (disk, mut writer) = new_log();
    writer.make_room(60_000).expect("room");
    writer.write(&entry_of(1, 900)).expect("the header, the frame, and zeros behind it");
    let mut fills = 0;
    for index in 2..=40 {
        let before = disk.steps();
        writer.write(&entry_of(index, 900)).expect("write");
        fills += disk.steps() - before - 1;
    }
    assert_eq!(fills, 2, "at 16 and at 32 KiB");

    let before = disk.steps();
    writer.write(&entry_of(41, 9_000)).expect("write");
    assert_eq!(disk.steps() - before, 1, "a frame larger than half a fill goes without");

    let bytes = disk.contents(&segment_path(&dir(), 1)).expect("a segment");
    let never = LogSettings { zero_fill_bytes: 0, ..settings(&SimDisk::new()) };
    never.disk.create_dir_all(&dir()).expect("dir");
    let plain = never.disk.clone();
    let mut writer =
        Recovery::start(never, synced(0)).expect("opens").finish().expect("opens").writer;
    writer.make_room(60_000).expect("room");
    for index in 1..=40 {
        writer.write(&entry_of(index, 900)).expect("write");
    }
    writer.write(&entry_of(41, 9_000)).expect("write");
    let file = plain.open_read(&segment_path(&dir(), 1)).expect("open");
    let mut without = vec![0; file.len().expect("length") as usize];
    file.read_exact_at(&mut without, 0).expect("read");
    assert_eq!(bytes, without, "filled or not, the same bytes");
}

#[test]
fn zeros_that_find_no_space_cost_no_append_and_zeros_that_fail_are_final() {
    let (disk, mut writer) = new_log();
    writer.make_room(60_000).expect("room");
    // The header of the segment, the frame; the fill is the third write.
    disk.fail_write_after(2, std::io::ErrorKind::StorageFull);
    writer.write(&entry_of(1, 900)).expect("the frame is there");
    assert_eq!(disk.injected_failures(), 1, "the fill was the one to fail");
    writer.write(&entry_of(2, 900)).expect("and so is the next");
    writer.sync().expect("sync");
    let (_, found) = recover(&disk, 2).expect("opens");
    assert_eq!(found.len(), 2);

    let (disk, mut writer) = new_log();
    writer.make_room(60_000).expect("room");
    disk.fail_write_after(2, std::io::ErrorKind::Other);
    let failed = writer.write(&entry_of(1, 900)).expect_err("as any write that fails");
    assert!(!failed.is_no_room());
}
