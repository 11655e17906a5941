//! One host: the real bucket over a device that forgets, alive or dead.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use actadb_bucket::job::Done;
use actadb_bucket::partition_side::PartitionSide;
use actadb_bucket::writer_side::{WriterSide, WriterStart};
use actadb_disk::sim::SimDisk;
use actadb_log::format::BatchHead;
use actadb_log::slots::Known;
use actadb_membership::record::{Hello, PROTOCOL_VERSION, Shape};
use actadb_model::dice::SplitMix64;
use actadb_model::entry::Place;
use actadb_model::ids::{BucketId, PartitionId, Partitioning};
use actadb_model::probe;
use actadb_partition::core::{Rules, Start};
use actadb_replica::message::{FsyncMode, SlotValues, Work};
use actadb_store::entries::EntryReader;
use actadb_store::error::OpenError;
use actadb_store::meta::{Directory, Meta, Seat};
use actadb_store::open::open_bucket;
use actadb_store::reader::Reader;
use actadb_store::writer::BucketWriter;
use uuid::Uuid;

use crate::auditor::Auditor;
use crate::faults::{Rot, rot};

/// The partitions of the one bucket.
pub const PARTITIONS: [PartitionId; 3] = [PartitionId(0), PartitionId(1), PartitionId(2)];
/// Small, so that logs roll and seal many times in one world.
pub const SEGMENT_BYTES: u64 = 32 << 10;
/// Fewer heads than there are streams: many appends must ask the disk.
const CACHED_HEADS: usize = 3;

/// The cluster, if there are several hosts: the id of the database.
pub const CLUSTER: Uuid = Uuid::from_u128(1);

/// The storage that a host has until its disk is wiped.
#[must_use]
pub fn first_storage(number: u8) -> Uuid {
    Uuid::from_u128(u128::from(number) + 1)
}

/// The open bucket of a living host.
pub struct Life {
    /// Its directory, held for its lock.
    pub directory: Directory,
    /// Its files.
    pub writer: BucketWriter,
    /// Its writer's half.
    pub writer_side: WriterSide,
    /// Its partitions.
    pub sides: Vec<PartitionSide>,
    /// Reads what is published.
    pub reader: Reader,
    /// The bucket takes no appends any more.
    pub closed: bool,
    /// Proposals that were sent to the writer and have not arrived.
    pub proposals_coming: u64,
    /// A flush is due.
    pub flushing: bool,
    /// When the next tick is due.
    pub tick_ns: Option<u64>,
    /// Reads old entries for replicas that are behind.
    pub entries: EntryReader,
}

/// A machine with a disk.
pub struct Host {
    /// Its number, from 0; the id of its replica is one more.
    pub number: u8,
    /// How many hosts there are.
    pub group: u8,
    /// Nothing happens on it before this time.
    pub paused_until_ns: u64,
    /// Its disk does nothing before this time.
    pub disk_hangs_until_ns: u64,
    /// Names what survives it.
    pub storage: Uuid,
    /// The others do not let it in any more: it stays down.
    pub is_gone: bool,
    /// What survives it.
    pub disk: SimDisk,
    /// When it syncs.
    pub fsync: FsyncMode,
    /// `None` while it is down.
    pub life: Option<Life>,
    /// Counts its lives: a message of an earlier one is lost.
    pub lives: u64,
    /// Where the entries lie, and what each says was durable when it was begun.
    places: Vec<(u64, Place, u64)>,
    /// The last entry that a power loss leaves alone.
    synced: u64,
    /// What the slots prove.
    saved: Known,
    /// Nothing is damaged and the disk runs: reads must succeed.
    pub calm: Rc<Cell<bool>>,
    /// What is damaged on its disk.
    pub rot: Option<Rot>,
    /// The last loss of power may have taken back acknowledgements.
    pub taken_back: bool,
    /// The sequence behind the last event of each partition that it has shown, in any life.
    pub shown: BTreeMap<PartitionId, u64>,
}

impl Host {
    /// A host with an empty disk, down.
    #[must_use]
    pub fn new(number: u8, group: u8, fsync: FsyncMode) -> Self {
        Self {
            number,
            group,
            paused_until_ns: 0,
            disk_hangs_until_ns: 0,
            storage: first_storage(number),
            is_gone: false,
            disk: SimDisk::new(),
            fsync,
            life: None,
            lives: 0,
            places: Vec::new(),
            synced: 0,
            saved: Known::default(),
            calm: Rc::new(Cell::new(true)),
            rot: None,
            taken_back: false,
            shown: BTreeMap::new(),
        }
    }

    /// Starts it: recovery runs whole, or until the disk stops.
    ///
    /// # Errors
    /// Why the bucket does not open.
    pub fn open(&mut self, dice: &mut SplitMix64) -> Result<Reader, OpenError> {
        let partitioning = Partitioning::new(3, 1).expect("good counts");
        let meta = Meta { database: CLUSTER, partitioning, segment_bytes: SEGMENT_BYTES };
        let disk = Arc::new(self.disk.clone());
        let seat = Seat {
            replica: u64::from(self.number) + 1,
            voters: (1..=u64::from(self.group)).collect(),
            storage: self.storage,
        };
        let directory = Directory::open_or_create_seat(disk, Path::new("/db"), meta, &seat)?;
        // So small that blocks come and go, and that rot is met.
        let directory = directory.with_index_cache(3 * 4096).with_open_files(3);
        let bucket = open_bucket(&directory, BucketId(0))?;
        let last_index = bucket.log.last_index;
        self.places.retain(|(index, ..)| *index <= last_index);
        self.synced = last_index;
        self.saved = bucket.writer.slot_state().known();
        let start = WriterStart {
            partitions: PARTITIONS.to_vec(),
            slot: bucket.writer.slot_state().clone(),
            log: bucket.log,
            seed: dice.draw(),
            segment_bytes: SEGMENT_BYTES,
            fsync: self.fsync,
            room: bucket.writer.room(),
            unsealed: bucket.unsealed,
        };
        let id_floor_ns = bucket.publisher.last_time_ns();
        let identity = directory.log_settings(BucketId(0)).identity;
        let side = |partition| {
            let rules = Rules {
                strict_versioning: false,
                max_transaction_bytes: SEGMENT_BYTES / 4,
                cached_heads: CACHED_HEADS,
            };
            PartitionSide::new(identity, Start { partition, rules, id_floor_ns, seed: dice.draw() })
        };
        let reader = bucket.publisher.reader();
        self.life = Some(Life {
            sides: PARTITIONS.into_iter().map(side).collect(),
            writer: bucket.writer,
            writer_side: WriterSide::new(start, bucket.publisher),
            reader: reader.clone(),
            closed: false,
            proposals_coming: 0,
            flushing: false,
            tick_ns: None,
            entries: EntryReader::new(reader.clone()),
            directory,
        });
        let (calm, disk) = (self.calm.clone(), self.disk.clone());
        let look = reader.clone();
        probe::look_in(Some(Box::new(move || {
            if calm.get() && !disk.has_stopped() {
                for partition in PARTITIONS {
                    Auditor::check_half_published(&look, partition);
                }
            }
        })));
        Ok(reader)
    }

    /// The disk has ended some work.
    pub fn worked(&mut self, work: &Work, done: &Done) {
        match (work, done) {
            (Work::Write { entries, .. }, Done::Written { bodies, synced_through, .. }) => {
                for (entry, (index, body, _)) in entries.iter().zip(bodies) {
                    let head = BatchHead::decode(entry.kind, &entry.body);
                    let claim = head.filter(|_| *index > self.saved.bulk_through);
                    self.places.push((*index, *body, claim.map_or(0, |head| head.durable)));
                }
                self.synced = self.synced.max(*synced_through);
            }
            (Work::SaveSlot(values), Done::SlotSaved) => {
                let SlotValues { synced_index, bulk_through, .. } = *values;
                self.saved = Known { synced_index, bulk_through };
                for (index, _, claim) in &mut self.places {
                    *claim = if *index <= bulk_through { 0 } else { *claim };
                }
            }
            (_, Done::Truncated { after, .. }) => {
                self.places.retain(|(index, ..)| index <= after);
                self.synced = self.synced.min(*after);
            }
            (_, Done::Synced) => {
                self.synced = self.places.last().map_or(self.synced, |(index, ..)| *index);
            }
            _ => {}
        }
    }

    /// Whether a read may fail.
    #[must_use]
    pub fn is_excused(&self) -> bool {
        self.rot.is_some() || self.disk.has_stopped()
    }

    /// Damages something; answers whether it did.
    pub fn decay(&mut self, dice: &mut SplitMix64) -> bool {
        let safe = self.places.iter().filter(|(index, ..)| *index <= self.synced);
        let proof = safe.map(|(.., claim)| *claim).max().unwrap_or(0);
        let proof = proof.max(self.saved.synced_index);
        let proven = self.places.iter().filter(|(index, ..)| *index <= proof);
        let proven: Vec<Place> = proven.map(|(_, place, _)| *place).collect();
        self.rot = rot(&self.disk, &proven, dice);
        self.calm.set(self.rot.is_none());
        self.rot.is_some()
    }

    /// An operator puts back what rotted and frees space; answers whether something had rotted.
    pub fn restore(&mut self) -> bool {
        self.disk.set_capacity(None);
        let Some(rot) = self.rot.take() else { return false };
        rot.restore(&self.disk);
        self.calm.set(true);
        true
    }

    /// How it introduces itself to the others.
    #[must_use]
    pub fn hello(&self) -> Hello {
        Hello {
            protocol: PROTOCOL_VERSION,
            version: String::new(),
            node: self.number,
            shape: Shape {
                nodes: self.group,
                partitions: PARTITIONS.len() as u16,
                buckets: 1,
                segment_bytes: SEGMENT_BYTES,
            },
            storage: self.storage,
            boot: self.lives,
            process: self.lives,
            history: Vec::new(),
            // A disk that was wiped knows no cluster.
            cluster: (!self.is_wiped()).then_some(CLUSTER),
            client_address: String::new(),
        }
    }

    /// Whether its disk is another one than at the beginning.
    #[must_use]
    pub fn is_wiped(&self) -> bool {
        self.storage != first_storage(self.number)
    }

    /// It is down, and gets an empty disk.
    pub fn wipe(&mut self, storage: u64) {
        self.storage = Uuid::from_u128(u128::from(storage) << 8);
        self.disk = SimDisk::new();
        self.rot = None;
        self.calm.set(true);
        (self.places, self.synced, self.saved) = (Vec::new(), 0, Known::default());
    }

    /// It dies where it stands. `power`: its cache goes with it.
    pub fn crash(&mut self, power: bool, dice: &mut SplitMix64) {
        probe::look_in(None);
        self.life = None;
        self.lives += 1;
        if power {
            self.disk.power_loss(dice);
        } else {
            self.disk.process_crash();
        }
    }
}
