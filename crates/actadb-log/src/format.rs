//! The bytes of segments and frames. No file handle here; `docs/FORMAT.md` has the tables.

use actadb_model::entry::EntryKind;
use actadb_model::ids::BucketId;
use uuid::Uuid;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Format version of everything in a data directory but the indexes. What version 1 has written
/// must open for ever.
pub const FORMAT_VERSION: u16 = 1;

/// Frames begin here: the header of a segment has a block of its own, never rewritten by a frame.
pub const SEGMENT_HEADER_BYTES: u64 = 4096;
/// Bytes before the body of a frame.
pub const FRAME_HEADER_BYTES: usize = size_of::<RawFrame>();
/// Frames begin at multiples of this, so that a search for later frames has few candidates.
pub const FRAME_ALIGN: u64 = 8;
/// Bytes at the head of a batch's body.
pub const BATCH_HEAD_BYTES: usize = size_of::<RawBatchHead>();

const SEGMENT_MAGIC: [u8; 8] = *b"ACTASEG\n";
const FRAME_MAGIC: [u8; 4] = *b"AFRM";

const _: () = assert!(size_of::<RawSegment>() == 64);
const _: () = assert!(FRAME_HEADER_BYTES == 40);
const _: () = assert!(BATCH_HEAD_BYTES == 16);

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy)]
#[repr(C)]
struct RawSegment {
    magic: [u8; 8],
    version: U16,
    bucket: U16,
    zero: U32,
    database: [u8; 16],
    number: U64,
    first_index: U64,
    previous_checksum: U32,
    zero_2: U32,
    checksum: U32,
    zero_3: U32,
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy)]
#[repr(C)]
struct RawFrame {
    magic: [u8; 4],
    version: u8,
    kind: u8,
    zero: U16,
    body_bytes: U32,
    body_checksum: U32,
    term: U64,
    index: U64,
    previous_checksum: U32,
    checksum: U32,
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy)]
#[repr(C)]
struct RawBatchHead {
    time_ns: U64,
    durable: U64,
}

/// Whose bytes these are. Seeds every frame's checksums, so that a frame inside somebody's payload
/// is not one of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogIdentity {
    database: Uuid,
    bucket: BucketId,
    seed: u32,
}

impl LogIdentity {
    /// The identity of a bucket of a database.
    #[must_use]
    pub fn new(database: Uuid, bucket: BucketId) -> Self {
        let seed =
            crc32c::crc32c_append(crc32c::crc32c(database.as_bytes()), &bucket.0.to_le_bytes());
        Self { database, bucket, seed }
    }

    /// Id of the database.
    #[must_use]
    pub fn database(self) -> Uuid {
        self.database
    }

    /// The bucket.
    #[must_use]
    pub fn bucket(self) -> BucketId {
        self.bucket
    }

    /// The start value of the checksums of frames and records.
    #[must_use]
    pub fn checksum_seed(self) -> u32 {
        self.seed
    }
}

impl std::fmt::Display for LogIdentity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "database {} bucket {}", self.database, self.bucket)
    }
}

/// The first block of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    /// Whose segment it is.
    pub identity: LogIdentity,
    /// Counts the segments of a bucket from 1.
    pub number: u64,
    /// Index of its first entry.
    pub first_index: u64,
    /// Header checksum of the last frame before it, 0 in the first segment.
    pub previous_checksum: u32,
    /// The format version it was written in, and what was written as zero and is not looked at:
    /// kept, because recovery writes the headers again that it has read.
    version: u16,
    zeros: [u32; 3],
}

/// What the first bytes of a segment turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderRead {
    /// A good header.
    Good(SegmentHeader),
    /// A good header of a version this program does not know.
    Newer(u16),
    /// Not a header.
    Bad,
}

impl SegmentHeader {
    /// The header of a new segment.
    #[must_use]
    pub fn new(
        identity: LogIdentity,
        number: u64,
        first_index: u64,
        previous_checksum: u32,
    ) -> Self {
        let (version, zeros) = (FORMAT_VERSION, [0; 3]);
        Self { identity, number, first_index, previous_checksum, version, zeros }
    }

    /// The header's bytes; the rest of its block is zeros.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut raw = RawSegment {
            magic: SEGMENT_MAGIC,
            version: self.version.into(),
            bucket: self.identity.bucket().0.into(),
            zero: self.zeros[0].into(),
            database: *self.identity.database().as_bytes(),
            number: self.number.into(),
            first_index: self.first_index.into(),
            previous_checksum: self.previous_checksum.into(),
            zero_2: self.zeros[1].into(),
            checksum: 0.into(),
            zero_3: self.zeros[2].into(),
        };
        raw.checksum = crc32c::crc32c(&raw.as_bytes()[..56]).into();
        let mut block = vec![0; SEGMENT_HEADER_BYTES as usize];
        block[..size_of::<RawSegment>()].copy_from_slice(raw.as_bytes());
        block
    }

    /// Reads a header. Its checksum is not seeded: a segment of another database must be told
    /// from a damaged one.
    #[must_use]
    pub fn decode(block: &[u8]) -> HeaderRead {
        let Ok((raw, _)) = RawSegment::read_from_prefix(block) else { return HeaderRead::Bad };
        if raw.magic != SEGMENT_MAGIC || raw.checksum.get() != crc32c::crc32c(&raw.as_bytes()[..56])
        {
            return HeaderRead::Bad;
        }
        if raw.version.get() > FORMAT_VERSION {
            return HeaderRead::Newer(raw.version.get());
        }
        HeaderRead::Good(Self {
            identity: LogIdentity::new(Uuid::from_bytes(raw.database), BucketId(raw.bucket.get())),
            number: raw.number.get(),
            first_index: raw.first_index.get(),
            previous_checksum: raw.previous_checksum.get(),
            version: raw.version.get(),
            zeros: [raw.zero.get(), raw.zero_2.get(), raw.zero_3.get()],
        })
    }
}

/// What the first bytes of a frame turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameRead {
    /// A good header of this log.
    Good(FrameHeader),
    /// A good header of a version this program does not know.
    Newer(u16),
    /// Not a header of this log.
    Bad,
}

/// The head of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    /// What the body is.
    pub kind: EntryKind,
    /// Bytes of the body.
    pub body_bytes: u32,
    /// Seeded checksum of the body.
    pub body_checksum: u32,
    /// Consensus term.
    pub term: u64,
    /// Index of the entry.
    pub index: u64,
    /// Header checksum of the frame before.
    pub previous_checksum: u32,
    /// Seeded checksum of this header, and with it of all the rest: what the next frame chains to.
    pub checksum: u32,
    /// The format version it was written in, and what was written as zero and is not looked at:
    /// kept, because the checksum covers them and recovery writes the headers again that it has
    /// read.
    version: u8,
    zero: u16,
}

impl FrameHeader {
    /// The header for a body.
    #[must_use]
    pub fn new(
        seed: u32,
        kind: EntryKind,
        term: u64,
        index: u64,
        previous_checksum: u32,
        body: &[u8],
    ) -> Self {
        let mut header = Self {
            kind,
            body_bytes: u32::try_from(body.len()).expect("a body is smaller than a segment"),
            body_checksum: crc32c::crc32c_append(seed, body),
            term,
            index,
            previous_checksum,
            checksum: 0,
            version: FORMAT_VERSION as u8,
            zero: 0,
        };
        header.checksum = crc32c::crc32c_append(seed, &header.raw().as_bytes()[..36]);
        header
    }

    fn raw(&self) -> RawFrame {
        RawFrame {
            magic: FRAME_MAGIC,
            version: self.version,
            kind: self.kind as u8,
            zero: self.zero.into(),
            body_bytes: self.body_bytes.into(),
            body_checksum: self.body_checksum.into(),
            term: self.term.into(),
            index: self.index.into(),
            previous_checksum: self.previous_checksum.into(),
            checksum: self.checksum.into(),
        }
    }

    /// The header's bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; FRAME_HEADER_BYTES] {
        self.raw().as_bytes().try_into().expect("the size is asserted")
    }

    /// Reads a header. One whose checksum is good, but whose version or kind is not known, was
    /// written by a newer ActaDB: it must not be taken for a torn one.
    #[must_use]
    pub fn decode(seed: u32, bytes: &[u8]) -> FrameRead {
        let Ok((raw, _)) = RawFrame::read_from_prefix(bytes) else { return FrameRead::Bad };
        let sound = raw.magic == FRAME_MAGIC
            && raw.checksum.get() == crc32c::crc32c_append(seed, &raw.as_bytes()[..36]);
        if !sound {
            return FrameRead::Bad;
        }
        let version = u16::from(raw.version);
        let kind = EntryKind::from_u8(raw.kind);
        let (false, Some(kind)) = (version > FORMAT_VERSION, kind) else {
            return FrameRead::Newer(version.max(FORMAT_VERSION + 1));
        };
        FrameRead::Good(Self {
            kind,
            body_bytes: raw.body_bytes.get(),
            body_checksum: raw.body_checksum.get(),
            term: raw.term.get(),
            index: raw.index.get(),
            previous_checksum: raw.previous_checksum.get(),
            checksum: raw.checksum.get(),
            version: raw.version,
            zero: raw.zero.get(),
        })
    }

    /// Whether a body is the one this header was made for.
    #[must_use]
    pub fn matches(&self, seed: u32, body: &[u8]) -> bool {
        body.len() == self.body_bytes as usize
            && crc32c::crc32c_append(seed, body) == self.body_checksum
    }
}

/// Bytes a frame takes in a segment, padding included.
#[must_use]
pub fn frame_bytes(body_bytes: u64) -> u64 {
    (FRAME_HEADER_BYTES as u64 + body_bytes).next_multiple_of(FRAME_ALIGN)
}

/// Largest body that fits into `bytes` of a segment.
#[must_use]
pub fn body_room(bytes: u64) -> u64 {
    (bytes - bytes % FRAME_ALIGN).saturating_sub(FRAME_HEADER_BYTES as u64)
}

/// What stands before the records of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchHead {
    /// When the batch was closed, in nanoseconds since 1970; never falls within a log.
    pub time_ns: u64,
    /// Highest index known to be durable when the batch was closed.
    pub durable: u64,
}

impl BatchHead {
    /// The head's bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; BATCH_HEAD_BYTES] {
        let raw = RawBatchHead { time_ns: self.time_ns.into(), durable: self.durable.into() };
        raw.as_bytes().try_into().expect("the size is asserted")
    }

    /// Reads the head of a batch; `None` of another kind of entry.
    #[must_use]
    pub fn decode(kind: EntryKind, body: &[u8]) -> Option<Self> {
        if kind != EntryKind::Batch {
            return None;
        }
        let (raw, _) = RawBatchHead::read_from_prefix(body).ok()?;
        Some(Self { time_ns: raw.time_ns.get(), durable: raw.durable.get() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> LogIdentity {
        LogIdentity::new(Uuid::from_u128(5), BucketId(3))
    }

    #[test]
    fn a_segment_header_is_read_back_and_any_flipped_bit_is_seen() {
        let header = SegmentHeader::new(identity(), 7, 99, 1234);
        let bytes = header.encode();
        assert_eq!(SegmentHeader::decode(&bytes), HeaderRead::Good(header));
        for bit in 0..60 * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(SegmentHeader::decode(&damaged), HeaderRead::Bad, "bit {bit}");
        }
    }

    #[test]
    fn a_frame_header_is_ours_only() {
        let seed = identity().checksum_seed();
        let header = FrameHeader::new(seed, EntryKind::Batch, 1, 2, 3, b"body");
        assert_eq!(FrameHeader::decode(seed, &header.encode()), FrameRead::Good(header));
        assert!(header.matches(seed, b"body"));
        assert!(!header.matches(seed, b"bodi"));
        let other = LogIdentity::new(Uuid::from_u128(5), BucketId(4));
        assert_eq!(FrameHeader::decode(other.checksum_seed(), &header.encode()), FrameRead::Bad);
    }

    #[test]
    fn a_frame_header_that_was_read_is_written_as_the_same_bytes() {
        let seed = identity().checksum_seed();
        let mut raw = FrameHeader::new(seed, EntryKind::Batch, 1, 2, 3, b"body").raw();
        // A later program may give a meaning to what this one ignores.
        raw.zero = 0x0102.into();
        raw.checksum = crc32c::crc32c_append(seed, &raw.as_bytes()[..36]).into();
        let FrameRead::Good(header) = FrameHeader::decode(seed, raw.as_bytes()) else {
            panic!("readers ignore what is written as zero")
        };
        assert_eq!(header.encode(), raw.as_bytes());
    }

    #[test]
    fn room_and_size_agree() {
        for bytes in 40..200 {
            assert!(frame_bytes(body_room(bytes)) <= bytes.max(40));
            assert!(frame_bytes(body_room(bytes) + 8) > bytes);
        }
    }
}
