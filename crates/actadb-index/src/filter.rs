//! What a range of sealed indexes does not have: a Bloom filter in a file, read block by block.
//!
//! Most lookups ask for what is not there: the stream of a first append, a new event's id. Each
//! sealed index answers that with a read or two, which is little for one and much for thousands. A
//! filter answers for many with one block: all bits of a hash lie in the same block of 4 KiB (a
//! blocked Bloom filter: Putze, Sanders, Singler, "Cache-, hash-, and space-efficient Bloom
//! filters", 2007), which is verified and cached as the blocks of an index are. "No" is certain;
//! "perhaps" is wrong once in some three hundred times.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use actadb_disk::disk::Disk;
use actadb_disk::handles::{Handle, Handles};
use uuid::Uuid;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::block_cache::{BlockCache, FileNumber};
use crate::blocks::{Block, replace_file, verified_block};
use crate::error::IndexError;
use crate::format::{BLOCK_BYTES, BLOCK_PAYLOAD, FORMAT_VERSION, block_checksum, filter_seed};
use crate::sealed::SealedIndex;

const MAGIC: [u8; 8] = *b"ACTAFLT\n";
/// Bits spent on a hash.
const BITS_PER_HASH: u64 = 12;
/// Bits set for a hash.
const PROBES: u32 = 7;
const BLOCK_BITS: u64 = BLOCK_PAYLOAD as u64 * 8;
/// Sets hashes of groups apart from keys.
const GROUP_SALT: u64 = 0x6772_6f75_7073;

const _: () = assert!(size_of::<RawHeader>() == 72);

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy)]
#[repr(C)]
struct RawHeader {
    magic: [u8; 8],
    version: U16,
    bucket: U16,
    last_checksum: U32,
    database: [u8; 16],
    first: U64,
    last: U64,
    last_index: U64,
    hashes: U64,
    block_count: U32,
    zero: U32,
}

/// The segments that a filter vouches for. The frames of a log form a chain, so the last one's
/// checksum stands for all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Covered {
    /// Database the segments belong to.
    pub database: Uuid,
    /// Bucket they belong to.
    pub bucket: u16,
    /// Number of the first segment.
    pub first: u64,
    /// Number of the last segment.
    pub last: u64,
    /// Last entry of the last segment.
    pub last_index: u64,
    /// Checksum of its last frame.
    pub last_checksum: u32,
}

/// What is asked for: a key, or a group in any lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sought(u64);

impl Sought {
    /// A key.
    #[must_use]
    pub fn key(key: u64) -> Self {
        Self(mixed(key))
    }

    /// A group: its upper 48 bits count, as in an index.
    #[must_use]
    pub fn group(group: u64) -> Self {
        Self(mixed((group & !0xffff) ^ GROUP_SALT))
    }

    /// Its block, of `blocks`, and its bits in it.
    fn bits(self, blocks: u64) -> (u64, impl Iterator<Item = usize>) {
        let block = (u128::from(self.0) * u128::from(blocks)) >> 64;
        // Double hashing: Kirsch and Mitzenmacher, "Less hashing, same performance", 2006.
        let both = mixed(self.0);
        let (start, step) = (both as u32, (both >> 32) as u32 | 1);
        let place = move |n: u32| u64::from(start.wrapping_add(n.wrapping_mul(step)));
        (block as u64, (0..PROBES).map(move |n| ((place(n) * BLOCK_BITS) >> 32) as usize))
    }
}

/// SplitMix64's finalizer.
fn mixed(word: u64) -> u64 {
    let z = word.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A filter file.
#[derive(Debug)]
pub struct Filter {
    handle: Handle,
    number: FileNumber,
    cache: BlockCache,
    path: PathBuf,
    seed: u32,
    covered: Covered,
    /// Blocks with bits; the header is in front of them.
    blocks: u64,
}

impl Filter {
    /// Writes a filter over what `indexes` have: a temporary file, synced, renamed, its directory
    /// synced. Takes twelve bits of memory for each key and posting.
    ///
    /// # Errors
    /// A bad block, or what the device says.
    pub fn build<'a>(
        disk: &dyn Disk,
        path: &Path,
        covered: &Covered,
        indexes: impl Iterator<Item = &'a SealedIndex> + Clone,
    ) -> Result<(), IndexError> {
        let most: usize = indexes.clone().map(|index| index.counts().0 + index.counts().1).sum();
        let blocks = (most as u64 * BITS_PER_HASH).div_ceil(BLOCK_BITS).max(1);
        let mut bytes = vec![0; (1 + blocks as usize) * BLOCK_BYTES];
        let mut hashes = 0;
        for index in indexes {
            index.for_each_sought(&mut |sought| {
                hashes += 1;
                let (block, bits) = sought.bits(blocks);
                let start = (1 + block as usize) * BLOCK_BYTES;
                for bit in bits {
                    bytes[start + bit / 8] |= 1 << (bit % 8);
                }
            })?;
        }
        let header = RawHeader {
            magic: MAGIC,
            version: FORMAT_VERSION.into(),
            bucket: covered.bucket.into(),
            last_checksum: covered.last_checksum.into(),
            database: *covered.database.as_bytes(),
            first: covered.first.into(),
            last: covered.last.into(),
            last_index: covered.last_index.into(),
            hashes: hashes.into(),
            block_count: (1 + blocks as u32).into(),
            zero: 0.into(),
        };
        bytes[..size_of::<RawHeader>()].copy_from_slice(header.as_bytes());
        let seed = filter_seed(covered.database, covered.bucket, covered.first, covered.last);
        for (number, block) in bytes.chunks_exact_mut(BLOCK_BYTES).enumerate() {
            let checksum = block_checksum(seed, number as u64, &block[..BLOCK_PAYLOAD]);
            block[BLOCK_PAYLOAD..].copy_from_slice(&checksum.to_le_bytes());
        }
        replace_file(disk, path, &bytes)
    }

    /// Opens a filter and reads its header.
    ///
    /// # Errors
    /// When it is not a good filter over just these segments, or the device says no.
    pub fn open(
        handles: &Handles,
        cache: &BlockCache,
        path: &Path,
        covered: &Covered,
    ) -> Result<Self, IndexError> {
        let handle = handles.handle(path);
        let file = handle.file().map_err(IndexError::io("open", path))?;
        let damaged = |what| IndexError::Damaged { path: path.to_owned(), offset: 0, what };
        let seed = filter_seed(covered.database, covered.bucket, covered.first, covered.last);
        let block = verified_block(&*file, path, seed, 0)?;
        let (header, _) = RawHeader::read_from_prefix(&*block).map_err(|_| damaged("no header"))?;
        if header.magic != MAGIC || header.version.get() > FORMAT_VERSION {
            return Err(damaged("not a filter of a known version"));
        }
        let found = Covered {
            database: Uuid::from_bytes(header.database),
            bucket: header.bucket.get(),
            first: header.first.get(),
            last: header.last.get(),
            last_index: header.last_index.get(),
            last_checksum: header.last_checksum.get(),
        };
        if found != *covered {
            return Err(damaged("the filter of other segments"));
        }
        let length = file.len().map_err(IndexError::io("measure", path))?;
        let blocks = u64::from(header.block_count.get());
        if blocks < 2 || length != blocks * BLOCK_BYTES as u64 {
            return Err(damaged("the file has another length than its header says"));
        }
        Ok(Self {
            handle,
            number: FileNumber::next(),
            cache: cache.clone(),
            path: path.to_owned(),
            seed,
            covered: found,
            blocks: blocks - 1,
        })
    }

    /// The segments it vouches for.
    #[must_use]
    pub fn covered(&self) -> &Covered {
        &self.covered
    }

    /// Whether its segments may have what is sought; `false` is certain.
    ///
    /// # Errors
    /// A bad block, or what the device says.
    pub fn may_have(&self, sought: Sought) -> Result<bool, IndexError> {
        let (block, mut bits) = sought.bits(self.blocks);
        let block = self.block(1 + block)?;
        Ok(bits.all(|bit| block[bit / 8] & (1 << (bit % 8)) != 0))
    }

    fn block(&self, number: u64) -> Result<Arc<Block>, IndexError> {
        if let Some(block) = self.cache.get(self.number, number) {
            return Ok(block);
        }
        let file = self.handle.file().map_err(IndexError::io("open", &self.path))?;
        let block: Arc<Block> = Arc::from(verified_block(&*file, &self.path, self.seed, number)?);
        self.cache.insert(self.number, number, &block);
        Ok(block)
    }
}
