//! The few words about a bucket that are not in its log, kept in two slots with checksums.
//!
//! A save of the synced index alone overwrites the older slot: losing it costs a little more work
//! at the next start. A save that changes the term, the vote or the voters writes both, one after
//! the other, each synced: one rotten slot must not make a replica forget its vote.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use actadb_disk::disk::{Disk, DiskFile};
use uuid::Uuid;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::error::{Damage, LogError, SYNC};
use crate::format::{FORMAT_VERSION, LogIdentity};

const SLOT_BYTES: u64 = 4096;
const MAGIC: [u8; 8] = *b"ACTASLOT";
const VOTERS_MAX: usize = 16;

const _: () = assert!(size_of::<RawSlot>() == 224);

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy)]
#[repr(C)]
struct RawSlot {
    magic: [u8; 8],
    version: U16,
    voter_count: U16,
    checksum: U32,
    counter: U64,
    term: U64,
    vote: U64,
    synced_index: U64,
    replica_id: U64,
    boot_counter: U64,
    storage_id: [u8; 16],
    voters: [U64; VOTERS_MAX],
    bulk_through: U64,
    zero: U64,
}

/// What a bucket must remember apart from its log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotState {
    /// Current consensus term.
    pub term: u64,
    /// The replica voted for in this term, 0 for none.
    pub vote: u64,
    /// Entries up to this index were synced when the slot was saved.
    pub synced_index: u64,
    /// The replicas that vote.
    pub voters: Vec<u64>,
    /// This replica's id, never reused.
    pub replica_id: u64,
    /// Names this storage: a copy of it has the same.
    pub storage_id: Uuid,
    /// Raised at each start.
    pub boot_counter: u64,
    /// Entries behind `synced_index` and up to this one may have been written in one go, behind
    /// one sync: what their heads call durable is so elsewhere, and need not be here.
    pub bulk_through: u64,
}

impl SlotState {
    /// What it proves about the log.
    #[must_use]
    pub fn known(&self) -> Known {
        Known { synced_index: self.synced_index, bulk_through: self.bulk_through }
    }
}

/// What the slots prove about the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// See [`SlotState::synced_index`].
    pub synced_index: u64,
    /// See [`SlotState::bulk_through`].
    pub bulk_through: u64,
}

/// The file with the two slots.
#[derive(Debug)]
pub struct Slots {
    file: Arc<dyn DiskFile>,
    path: PathBuf,
    seed: u32,
    counter: u64,
    saved: SlotState,
    /// Byte of the slot that was not good when the file was opened.
    bad: Option<u64>,
}

impl Slots {
    /// Path of the slots in a bucket's directory.
    #[must_use]
    pub fn path(dir: &Path) -> PathBuf {
        dir.join("slots")
    }

    /// Makes the file with both slots, synced, and its directory.
    ///
    /// # Errors
    /// What the device says.
    pub fn create(
        disk: &dyn Disk,
        dir: &Path,
        identity: LogIdentity,
        state: SlotState,
    ) -> Result<Self, LogError> {
        let path = Self::path(dir);
        // A crash may have left an empty or half-written file of a bucket that was never used.
        let file = if disk.exists(&path).map_err(LogError::io("look for", &path))? {
            disk.open(&path)
        } else {
            disk.create(&path)
        }
        .map_err(LogError::io("create", &path))?;
        let mut slots = Self {
            file,
            path,
            seed: identity.checksum_seed(),
            counter: 0,
            saved: state.clone(),
            bad: None,
        };
        slots.save_both(state)?;
        disk.sync_dir(dir).map_err(LogError::io(SYNC, dir))?;
        Ok(slots)
    }

    /// Opens the file; `None` when neither slot was ever written.
    ///
    /// # Errors
    /// When the file is there but neither slot is good, or the device says no.
    pub fn open(
        disk: &dyn Disk,
        dir: &Path,
        identity: LogIdentity,
    ) -> Result<Option<Self>, LogError> {
        let path = Self::path(dir);
        if !disk.exists(&path).map_err(LogError::io("look for", &path))? {
            return Ok(None);
        }
        let file = disk.open(&path).map_err(LogError::io("open", &path))?;
        let seed = identity.checksum_seed();
        let mut bytes = vec![0; 2 * SLOT_BYTES as usize];
        let n = file.read_full_at(&mut bytes, 0).map_err(LogError::io("read", &path))?;
        bytes.truncate(n);
        let blank = bytes.iter().all(|byte| *byte == 0);
        bytes.resize(2 * SLOT_BYTES as usize, 0);
        let mut newest: Option<(u64, SlotState)> = None;
        let mut bad = None;
        for (slot, offset) in bytes.chunks(SLOT_BYTES as usize).zip([0, SLOT_BYTES]) {
            match decode(seed, slot) {
                SlotRead::Good(counter, state) => {
                    if newest.as_ref().is_none_or(|(newest, _)| counter > *newest) {
                        newest = Some((counter, state));
                    }
                }
                SlotRead::Newer(found) => {
                    return Err(LogError::NewerFormat { path, found, known: FORMAT_VERSION });
                }
                SlotRead::Bad => bad = Some(offset),
            }
        }
        match newest {
            Some((counter, saved)) => Ok(Some(Self { file, path, seed, counter, saved, bad })),
            None if blank => Ok(None),
            None => Err(Damage::new(&path, 0, "neither of the two slots is good").into()),
        }
    }

    /// What was saved last.
    #[must_use]
    pub fn state(&self) -> &SlotState {
        &self.saved
    }

    /// Byte of the one slot that was not good when the file was opened.
    #[must_use]
    pub fn bad(&self) -> Option<u64> {
        self.bad
    }

    /// Saves and syncs; both slots when more than the indexes changed.
    ///
    /// # Errors
    /// What the device says.
    pub fn save(&mut self, state: SlotState) -> Result<(), LogError> {
        let Known { synced_index, bulk_through } = self.saved.known();
        if (SlotState { synced_index, bulk_through, ..state.clone() }) == self.saved {
            self.write(&state)?;
            self.saved = state;
            Ok(())
        } else {
            self.save_both(state)
        }
    }

    fn save_both(&mut self, state: SlotState) -> Result<(), LogError> {
        self.write(&state)?;
        self.write(&state)?;
        self.saved = state;
        Ok(())
    }

    fn write(&mut self, state: &SlotState) -> Result<(), LogError> {
        let counter = self.counter + 1;
        let bytes = encode(self.seed, counter, state);
        let offset = (counter % 2) * SLOT_BYTES;
        self.file.write_all_at(&bytes, offset).map_err(LogError::io("write", &self.path))?;
        self.file.sync_data().map_err(LogError::io(SYNC, &self.path))?;
        self.counter = counter;
        Ok(())
    }
}

fn encode(seed: u32, counter: u64, state: &SlotState) -> Vec<u8> {
    assert!(state.voters.len() <= VOTERS_MAX, "more voters than a slot holds");
    let mut voters = [U64::new(0); VOTERS_MAX];
    for (slot, voter) in voters.iter_mut().zip(&state.voters) {
        *slot = (*voter).into();
    }
    let mut raw = RawSlot {
        magic: MAGIC,
        version: FORMAT_VERSION.into(),
        voter_count: (state.voters.len() as u16).into(),
        checksum: 0.into(),
        counter: counter.into(),
        term: state.term.into(),
        vote: state.vote.into(),
        synced_index: state.synced_index.into(),
        replica_id: state.replica_id.into(),
        boot_counter: state.boot_counter.into(),
        storage_id: *state.storage_id.as_bytes(),
        voters,
        bulk_through: state.bulk_through.into(),
        zero: 0.into(),
    };
    raw.checksum = crc32c::crc32c_append(seed, raw.as_bytes()).into();
    let mut block = vec![0; SLOT_BYTES as usize];
    block[..size_of::<RawSlot>()].copy_from_slice(raw.as_bytes());
    block
}

enum SlotRead {
    Good(u64, SlotState),
    Newer(u16),
    Bad,
}

fn decode(seed: u32, block: &[u8]) -> SlotRead {
    let Ok((mut raw, _)) = RawSlot::read_from_prefix(block) else { return SlotRead::Bad };
    let checksum = std::mem::replace(&mut raw.checksum, 0.into()).get();
    let voter_count = usize::from(raw.voter_count.get());
    let sound = raw.magic == MAGIC && checksum == crc32c::crc32c_append(seed, raw.as_bytes());
    if sound && raw.version.get() > FORMAT_VERSION {
        return SlotRead::Newer(raw.version.get());
    }
    if !sound || voter_count > VOTERS_MAX {
        return SlotRead::Bad;
    }
    let state = SlotState {
        term: raw.term.get(),
        vote: raw.vote.get(),
        synced_index: raw.synced_index.get(),
        voters: raw.voters.iter().take(voter_count).map(|voter| voter.get()).collect(),
        replica_id: raw.replica_id.get(),
        storage_id: Uuid::from_bytes(raw.storage_id),
        boot_counter: raw.boot_counter.get(),
        bulk_through: raw.bulk_through.get(),
    };
    SlotRead::Good(raw.counter.get(), state)
}

#[cfg(test)]
mod tests {
    use super::*;
    use actadb_disk::sim::SimDisk;
    use actadb_model::dice::SplitMix64;
    use actadb_model::ids::BucketId;

    fn identity() -> LogIdentity {
        LogIdentity::new(Uuid::from_u128(9), BucketId(0))
    }

    fn state(synced_index: u64) -> SlotState {
        SlotState {
            term: 1,
            vote: 1,
            synced_index,
            voters: vec![1],
            replica_id: 1,
            storage_id: Uuid::from_u128(4),
            boot_counter: 1,
            bulk_through: 0,
        }
    }

    #[test]
    fn a_slot_torn_at_any_byte_leaves_the_other_one() {
        let dir = Path::new("/b");
        for cut in 0..SLOT_BYTES as usize {
            let disk = SimDisk::new();
            disk.create_dir_all(dir).expect("dir");
            let mut slots = Slots::create(&disk, dir, identity(), state(0)).expect("create");
            slots.save(state(10)).expect("save");
            let before = disk.contents(&Slots::path(dir)).expect("there");
            slots.save(state(20)).expect("save");
            let after = disk.contents(&Slots::path(dir)).expect("there");
            let start = if before[..4096] == after[..4096] { 4096 } else { 0 };
            disk.damage(&Slots::path(dir), |bytes| {
                bytes[start + cut..start + 4096]
                    .copy_from_slice(&before[start + cut..start + 4096]);
            });
            let opened = Slots::open(&disk, dir, identity()).expect("open").expect("there");
            assert!([10, 20].contains(&opened.state().synced_index), "cut at {cut}");
        }
    }

    #[test]
    fn both_slots_rotten_is_damage_and_a_power_loss_is_not() {
        let dir = Path::new("/b");
        for seed in 0..50 {
            let disk = SimDisk::new();
            disk.create_dir_all(dir).expect("dir");
            let mut slots = Slots::create(&disk, dir, identity(), state(0)).expect("create");
            disk.stop_after(seed % 5);
            let _ = slots.save(SlotState { term: 2, ..state(7) });
            disk.power_loss(&mut SplitMix64::new(seed));
            let opened = Slots::open(&disk, dir, identity()).expect("open").expect("there");
            assert!([1, 2].contains(&opened.state().term));
            disk.damage(&Slots::path(dir), |bytes| {
                bytes[20] ^= 1;
                bytes[4096 + 20] ^= 1;
            });
            assert!(matches!(Slots::open(&disk, dir, identity()), Err(LogError::Damaged(_))));
        }
    }
}
