//! Recovery of a bucket's log: whatever lies in its files, opening them is an error or gives a log
//! that holds a prefix of what was written, and all of it that was synced; that goes on; and that
//! opens again with the same content.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use actadb_disk::disk::Disk;
use actadb_disk::sim::SimDisk;
use actadb_log::error::LogError;
use actadb_log::format::{
    BatchHead, FRAME_HEADER_BYTES, FrameHeader, FrameRead, SEGMENT_HEADER_BYTES, SegmentHeader,
    frame_bytes,
};
use actadb_log::recover::{Recovered, Recovery};
use actadb_log::scan::Tip;
use actadb_log::segment::segment_path;
use actadb_log::slots::Known;
use actadb_log::writer::{LogSettings, LogWriter};
use actadb_model::dice::SplitMix64;
use actadb_model::entry::{Entry, EntryKind};
use bytes::Bytes;

use crate::frame::{identity, make_frame};
use crate::script::Script;

/// The smallest that a meta file may name, so that logs roll often.
const SEGMENT_BYTES: u64 = 16 << 10;

type Found = Vec<(u64, EntryKind, Bytes)>;

fn dir() -> &'static Path {
    Path::new("/bucket")
}

fn settings(disk: &SimDisk) -> LogSettings {
    LogSettings {
        disk: Arc::new(disk.clone()),
        dir: dir().to_owned(),
        identity: identity(),
        segment_bytes: SEGMENT_BYTES,
        zero_fill_bytes: 4 << 10,
    }
}

/// Recovers a log that was written and hit by faults, or files of any bytes.
///
/// # Panics
/// When the property does not hold.
pub fn check(data: &[u8]) {
    let mut script = Script::new(data);
    let disk = SimDisk::new();
    disk.create_dir_all(dir()).expect("no faults");
    match script.below(3) {
        0 => {
            any_files(&disk, &mut script);
            let synced = if script.byte() % 4 == 3 { script.byte() } else { 0 };
            opens_again_the_same(&disk, synced.into());
        }
        1 => {
            // A log that was written, with bytes changed and checksums made good again.
            let _ = History::write(&disk, &mut script);
            disk.process_crash();
            forge(&disk, &mut script);
            opens_again_the_same(&disk, 0);
        }
        _ => written(&disk, &mut script),
    }
}

fn recover(disk: &SimDisk, synced_index: u64) -> Result<(Recovered, Found), LogError> {
    let mut found = Vec::new();
    let mut recovery = Recovery::start(settings(disk), Known { synced_index, bulk_through: 0 })?;
    while recovery.next_segment().is_some() {
        recovery.scan::<LogError>(|_, frame| {
            found.push((frame.header.index, frame.header.kind, frame.body));
            Ok(())
        })?;
    }
    Ok((recovery.finish()?, found))
}

fn contents(disk: &SimDisk) -> Vec<(PathBuf, Option<Vec<u8>>)> {
    disk.files().into_iter().map(|path| (path.clone(), disk.contents(&path))).collect()
}

/// Opens a log, writes to it, opens it again after a power loss, and compares.
fn opens_again_the_same(disk: &SimDisk, synced: u64) -> Option<Found> {
    let before = contents(disk);
    let Ok((recovered, found)) = recover(disk, synced) else {
        assert!(before == contents(disk), "a log that was refused was changed");
        return None;
    };
    drop(recovered);
    // What recovery has shown is durable.
    disk.power_loss(&mut SplitMix64::new(synced));
    let synced = found.len() as u64;
    let (recovered, again) = recover(disk, synced).expect("opened once, opened twice");
    assert_eq!(again, found);
    assert!(recovered.torn.is_empty(), "cut twice: {:?}", recovered.torn);

    let mut writer = recovered.writer;
    assert_eq!(writer.tip().index, synced);
    let mut longer = found.clone();
    // The second one rolls.
    for bytes in [100, 9000, 9000] {
        let index = writer.tip().index + 1;
        let body = body(index, index - 1, bytes);
        append(&mut writer, EntryKind::Batch, &body).expect("no faults");
        writer.sync().expect("no faults");
        longer.push((index, EntryKind::Batch, body));
    }
    drop(writer);
    disk.power_loss(&mut SplitMix64::new(synced));
    let (_, again) = recover(disk, longer.len() as u64).expect("what was synced is there");
    assert_eq!(again, longer);
    Some(found)
}

fn body(index: u64, durable: u64, bytes: usize) -> Bytes {
    let mut body = BatchHead { time_ns: index, durable }.encode().to_vec();
    body.extend((0..bytes).map(|n| (index as usize * 31 + n) as u8));
    Bytes::from(body)
}

fn append(writer: &mut LogWriter, kind: EntryKind, body: &Bytes) -> Result<(), LogError> {
    writer.make_room(body.len() as u64)?;
    assert!(writer.room().fits(body.len() as u64), "room was made");
    let tip = writer.tip();
    let entry = Entry { term: tip.term, index: tip.index + 1, kind, body: body.clone() };
    writer.write(&entry).map(|_| ())
}

/// Files of any bytes, with headers and with frames that belong here, or not.
fn any_files(disk: &SimDisk, script: &mut Script<'_>) {
    let files = script.below(3) + 1;
    let mut tip = Tip::default();
    for number in 1..=files as u64 {
        let number = if script.one_in(32) { number + 1 } else { number };
        let mut bytes = Vec::new();
        if !script.one_in(8) {
            let first_index = if script.one_in(8) { script.number() } else { tip.index + 1 };
            bytes = SegmentHeader::new(identity(), number, first_index, tip.checksum).encode();
        }
        let (places, length) = (script.below(6), usize::from(script.pair()) % 300);
        let chained = script.coin();
        let places: Vec<usize> = (0..places).map(|_| script.below(128) * 8).collect();
        // Frames may be longer than a segment should be.
        let zeros = if script.one_in(4) { script.below(65_536) } else { 0 };
        let cut = script.one_in(8).then(|| usize::from(script.pair()));
        let mut frames = script.bytes(length).to_vec();
        frames.resize(frames.len() + zeros, 0);
        if chained {
            tip = make_chain(&mut frames, places.len(), tip);
        } else {
            places.iter().for_each(|place| make_frame(&mut frames, *place));
        }
        bytes.extend(frames);
        if let Some(cut) = cut {
            bytes.truncate(cut % (bytes.len() + 1));
        }
        let path = segment_path(dir(), number);
        if !disk.exists(&path).expect("no faults") {
            disk.create(&path).expect("a new file");
            disk.damage(&path, |file| *file = bytes);
        }
    }
    disk.sync_dir(dir()).expect("no faults");
}

/// Makes some frames that follow each other, of the length and kind that the bytes say.
fn make_chain(frames: &mut [u8], count: usize, mut tip: Tip) -> Tip {
    let mut at = 0;
    for _ in 0..count {
        let Some(head) = frames.get_mut(at..at + FRAME_HEADER_BYTES) else { break };
        head[24..32].copy_from_slice(&(tip.index + 1).to_le_bytes());
        head[32..36].copy_from_slice(&tip.checksum.to_le_bytes());
        make_frame(frames, at);
        let seed = identity().checksum_seed();
        let FrameRead::Good(header) = FrameHeader::decode(seed, &frames[at..]) else { break };
        tip = Tip { index: header.index, term: header.term, checksum: header.checksum };
        at += frame_bytes(header.body_bytes.into()) as usize;
    }
    tip
}

/// Changes bytes of frames and makes their checksums good again, without mending the chain.
fn forge(disk: &SimDisk, script: &mut Script<'_>) {
    let files = disk.files();
    while !script.is_empty() && !files.is_empty() {
        let path = &files[script.below(files.len())];
        let (at, byte) = (usize::from(script.pair()), script.byte());
        let place = script.below(4096) * 8;
        disk.damage(path, |bytes| {
            let header = SEGMENT_HEADER_BYTES as usize;
            if let Some(frames) = bytes.get_mut(header..).filter(|frames| !frames.is_empty()) {
                // Most of what was written lies at the front.
                let written = frames.iter().rposition(|byte| *byte != 0).map_or(1, |last| last + 1);
                frames[at % written] = byte;
                make_frame(frames, place % (written.next_multiple_of(8)));
            }
        });
    }
    disk.sync_dir(dir()).expect("no faults");
}

/// What was written to a log, and how much of it was synced.
#[derive(Default)]
struct History {
    entries: Found,
    synced: u64,
}

impl History {
    /// Writes entries as the script says, until its part ends or a fault strikes.
    fn write(disk: &SimDisk, script: &mut Script<'_>) -> Self {
        let (recovered, found) = recover(disk, 0).expect("an empty log opens");
        assert!(found.is_empty());
        let mut history = Self::default();
        let _ = history.go_on(recovered.writer, script);
        history
    }

    fn go_on(&mut self, mut writer: LogWriter, script: &mut Script<'_>) -> Result<(), LogError> {
        for _ in 0..script.below(16) + 1 {
            let index = writer.tip().index + 1;
            let choice = script.byte();
            let bytes = match choice & 3 {
                0 => 5000 + script.below(6000),
                _ => script.below(256),
            };
            let body = body(index, self.synced.min(index - 1), bytes);
            let kind = if choice & 0x70 == 0x70 { EntryKind::Noop } else { EntryKind::Batch };
            self.entries.truncate(index as usize - 1);
            // Whether a write that failed is found is not known.
            self.entries.push((index, kind, body.clone()));
            append(&mut writer, kind, &body)?;
            if choice & 4 == 4 {
                writer.sync()?;
                self.synced = index;
            }
            if choice & 8 == 8 {
                // The next segment's file is made before it is needed.
                writer.make_room(10_000)?;
            }
        }
        Ok(())
    }

    fn is_prefix(&self, found: &Found) {
        assert!(found.len() <= self.entries.len(), "more than was written");
        assert_eq!(found[..], self.entries[..found.len()], "not what was written");
    }
}

/// Writes a log with faults, and then rot that must be noticed.
fn written(disk: &SimDisk, script: &mut Script<'_>) {
    let mut history = History::default();
    for _ in 0..script.below(3) + 1 {
        // What a slot says is what was synced, or less.
        let slot = history.synced - (u64::from(script.byte()) % 4).min(history.synced);
        let (recovered, found) = recover(disk, slot).expect("no rot yet");
        history.is_prefix(&found);
        assert!(found.len() as u64 >= history.synced, "a synced entry is gone");
        history.entries.truncate(found.len());
        history.synced = found.len() as u64;
        match script.byte() {
            steps @ 0..=99 => disk.stop_after(steps.into()),
            syncs @ 100..=120 => disk.fail_sync_after(u64::from(syncs) - 100),
            _ => {}
        }
        let _ = history.go_on(recovered.writer, script);
        if script.coin() {
            disk.power_loss(&mut SplitMix64::new(script.byte().into()));
        } else {
            disk.process_crash();
        }
    }
    let files = disk.files();
    let slot = history.synced - (u64::from(script.byte()) % 4).min(history.synced);
    if files.is_empty() || script.one_in(4) {
        let found = opens_again_the_same(disk, slot).expect("no rot");
        history.is_prefix(&found);
        assert!(found.len() as u64 >= history.synced, "a synced entry is gone");
        return;
    }
    rot(disk, &files, script);
    // Rot may be refused, or taken for a torn end where nothing proves that there was more.
    if let Some(found) = opens_again_the_same(disk, slot) {
        history.is_prefix(&found);
        assert!(found.len() as u64 >= slot, "what the slot says was synced is gone");
    }
}

/// Damage that checksums must notice: up to three bits, a lost end, zeros, a lost file.
fn rot(disk: &SimDisk, files: &[PathBuf], script: &mut Script<'_>) {
    let path = &files[script.below(files.len())];
    let (manner, from) = (script.below(8), usize::from(script.pair()));
    if manner == 7 {
        disk.remove(path).expect("no faults");
        disk.sync_dir(dir()).expect("no faults");
        return;
    }
    disk.damage(path, |bytes| {
        let written = bytes.iter().rposition(|byte| *byte != 0).map_or(1, |last| last + 1);
        let from = from % written;
        match manner {
            0..=3 if !bytes.is_empty() => {
                for n in 0..=manner.min(2) {
                    let bit = (from * 8 + n * usize::from(script.byte())) % (written * 8);
                    bytes[bit / 8] ^= 1 << (bit % 8);
                }
            }
            4 => bytes.truncate(from),
            5 => bytes[from..].fill(0),
            _ => {
                let end = bytes.len().min(from + script.below(600));
                bytes[from.min(end)..end].fill(0);
            }
        }
    });
}
