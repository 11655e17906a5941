//! The bytes of a sealed index. `docs/FORMAT.md` has the tables.
//!
//! The file is a sequence of blocks of 4 KiB, each with its own checksum in the last four bytes.
//! Block 0 is the header; behind it lie five sections, each beginning at a block: lanes, places of
//! each lane, postings sorted by (group and lane, version), keys sorted, terms. No entry crosses a
//! block.

use uuid::Uuid;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Format version of sealed indexes and filters. What is not known is written anew.
pub const FORMAT_VERSION: u16 = 1;
/// Bytes of a block.
pub const BLOCK_BYTES: usize = 4096;
/// Bytes of a block before its checksum.
pub const BLOCK_PAYLOAD: usize = BLOCK_BYTES - 4;

pub(crate) const MAGIC: [u8; 8] = *b"ACTAIDX\n";

/// The segment an index describes, as far as the index must vouch for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Described {
    /// Database the segment belongs to.
    pub database: Uuid,
    /// Bucket the segment belongs to.
    pub bucket: u16,
    /// Number of the segment.
    pub segment: u64,
    /// Length of the segment in bytes.
    pub segment_bytes: u64,
    /// First entry in it.
    pub first_index: u64,
    /// Last entry in it.
    pub last_index: u64,
    /// Term of the last entry.
    pub last_term: u64,
    /// Time of the last batch, in nanoseconds since 1970.
    pub last_time_ns: u64,
    /// Checksum of the frame before the first one.
    pub previous_checksum: u32,
    /// Checksum of the last frame.
    pub last_checksum: u32,
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy)]
#[repr(C)]
pub(crate) struct RawHeader {
    pub(crate) magic: [u8; 8],
    pub(crate) version: U16,
    pub(crate) bucket: U16,
    pub(crate) lane_count: U32,
    pub(crate) database: [u8; 16],
    pub(crate) segment: U64,
    pub(crate) segment_bytes: U64,
    pub(crate) first_index: U64,
    pub(crate) last_index: U64,
    pub(crate) last_term: U64,
    pub(crate) last_time_ns: U64,
    pub(crate) previous_checksum: U32,
    pub(crate) last_checksum: U32,
    pub(crate) posting_count: U32,
    pub(crate) posting_block: U32,
    pub(crate) key_count: U32,
    pub(crate) key_block: U32,
    pub(crate) block_count: U32,
    pub(crate) term_count: U32,
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy)]
#[repr(C)]
pub(crate) struct RawTerm {
    pub(crate) first_index: U64,
    pub(crate) term: U64,
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy)]
#[repr(C)]
pub(crate) struct RawLane {
    pub(crate) lane: U16,
    pub(crate) zero: U16,
    pub(crate) count: U32,
    pub(crate) first: U64,
    pub(crate) block: U32,
    pub(crate) zero_2: U32,
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy)]
#[repr(C)]
pub(crate) struct RawPosting {
    pub(crate) group_lane: U64,
    pub(crate) version: U64,
    pub(crate) place: U32,
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy)]
#[repr(C)]
pub(crate) struct RawKey {
    pub(crate) key: U64,
    pub(crate) place: U32,
}

const _: () = assert!(size_of::<RawHeader>() == 112);
const _: () = assert!(size_of::<RawLane>() == 24);
const _: () = assert!(size_of::<RawPosting>() == 20);
const _: () = assert!(size_of::<RawKey>() == 12);
const _: () = assert!(size_of::<RawTerm>() == 16);

/// Entries of type `T` in one block.
pub(crate) const fn per_block<T>() -> usize {
    BLOCK_PAYLOAD / size_of::<T>()
}

/// Blocks that `count` entries of type `T` take.
pub(crate) const fn blocks_for<T>(count: usize) -> usize {
    count.div_ceil(per_block::<T>())
}

/// A group's upper 48 bits with the lane below: postings of one group lie together, and within it
/// those of one lane.
#[must_use]
pub fn group_lane(group: u64, lane: u16) -> u64 {
    (group & !0xffff) | u64::from(lane)
}

/// What the checksums of an index's blocks start from: a block of another database's, bucket's or
/// segment's index is bad here.
pub(crate) fn index_seed(database: Uuid, bucket: u16, segment: u64) -> u32 {
    let seed = crc32c::crc32c(database.as_bytes());
    let seed = crc32c::crc32c_append(seed, &bucket.to_le_bytes());
    crc32c::crc32c_append(seed, &segment.to_le_bytes())
}

/// The same for the filter over segments `first` to `last`.
pub(crate) fn filter_seed(database: Uuid, bucket: u16, first: u64, last: u64) -> u32 {
    let seed = crc32c::crc32c_append(index_seed(database, bucket, first), b"filter");
    crc32c::crc32c_append(seed, &last.to_le_bytes())
}

/// Checksum of block `number`: seeded with its number, so that a block in the wrong place is bad.
pub(crate) fn block_checksum(seed: u32, number: u64, payload: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c_append(seed, &number.to_le_bytes()), payload)
}
