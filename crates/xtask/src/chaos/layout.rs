//! As much of docs/FORMAT.md as it takes to aim at a byte, and to forge a newer version.
//!
//! It shares no code with the server: a mistake of the server's must not be repeated here.

/// Bytes of a block: a segment's header, a slot, a block of an index.
pub(super) const BLOCK: usize = 4096;
/// Bytes of the structures that a checksum covers, itself included.
pub(super) const META: usize = 52;
pub(super) const SEGMENT_HEADER: usize = 60;
pub(super) const SLOT: usize = 224;
pub(super) const FRAME_HEADER: usize = 40;
/// Bytes of the head of a batch, behind which there are only records.
const BATCH_HEAD: usize = 16;
/// The kind of a frame that holds a batch; others hold no records.
const BATCH: u8 = 1;

/// CRC-32C, continued from another.
pub(super) fn crc32c(bytes: &[u8], before: u32) -> u32 {
    let shift = |crc: u32, _| (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg());
    let step = |crc: u32, byte: &u8| (0..8).fold(crc ^ u32::from(*byte), shift);
    !bytes.iter().fold(!before, step)
}

/// A frame: where it begins, and its header and body without the padding.
#[derive(Clone, Copy, Debug)]
pub(super) struct Frame {
    pub(super) at: usize,
    pub(super) bytes: usize,
    is_batch: bool,
}

impl Frame {
    /// Where the records of a batch begin, and their bytes; a frame of another kind has none.
    pub(super) fn records(&self) -> Option<(usize, usize)> {
        let heads = FRAME_HEADER + BATCH_HEAD;
        self.is_batch.then(|| (self.at + heads, self.bytes - heads))
    }
}

/// The frames of a segment's file.
pub(super) fn frames(segment: &[u8]) -> Vec<Frame> {
    let (mut frames, mut at) = (Vec::new(), BLOCK);
    while segment.get(at..at + 4) == Some(b"AFRM") {
        let bytes = FRAME_HEADER + u32_at(segment, at + 8) as usize;
        frames.push(Frame { at, bytes, is_batch: segment[at + 5] == BATCH });
        at += bytes.next_multiple_of(8);
    }
    frames
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut value = [0; 4];
    value.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(value)
}

fn put(bytes: &mut [u8], at: usize, checksum: u32) {
    bytes[at..at + 4].copy_from_slice(&checksum.to_le_bytes());
}

/// The seed of a bucket's checksums. `meta` is the database's meta file.
fn log_seed(meta: &[u8], bucket: u16) -> u32 {
    crc32c(&bucket.to_le_bytes(), crc32c(&meta[16..32], 0))
}

/// A version of both formats that this ActaDB does not know.
pub(super) const NEWER: u8 = 2;

/// A newer version for a meta file.
pub(super) fn newer_meta(bytes: &mut [u8]) {
    bytes[8] = NEWER;
    let checksum = crc32c(&bytes[..48], 0);
    put(bytes, 48, checksum);
}

/// A newer version for a segment's header.
pub(super) fn newer_segment(bytes: &mut [u8]) {
    bytes[8] = NEWER;
    let checksum = crc32c(&bytes[..56], 0);
    put(bytes, 56, checksum);
}

/// A newer version for one slot of a bucket.
pub(super) fn newer_slot(bytes: &mut [u8], slot: usize, meta: &[u8], bucket: u16) {
    let slot = &mut bytes[slot * BLOCK..slot * BLOCK + SLOT];
    slot[8] = NEWER;
    put(slot, 12, 0);
    let checksum = crc32c(slot, log_seed(meta, bucket));
    put(slot, 12, checksum);
}

/// A newer version, or another kind, for the last frame of a segment.
pub(super) fn newer_frame(bytes: &mut [u8], is_kind: bool, meta: &[u8], bucket: u16) -> bool {
    let Some(frame) = frames(bytes).pop() else { return false };
    let header = &mut bytes[frame.at..frame.at + FRAME_HEADER];
    if is_kind {
        header[5] = 9;
    } else {
        header[4] = NEWER;
    }
    let checksum = crc32c(&header[..36], log_seed(meta, bucket));
    put(header, 36, checksum);
    true
}

/// A newer version for a sealed index.
pub(super) fn newer_index(bytes: &mut [u8], meta: &[u8], bucket: u16, segment: u64) {
    bytes[8] = NEWER;
    let seed = crc32c(&segment.to_le_bytes(), log_seed(meta, bucket));
    let seed = crc32c(&0_u64.to_le_bytes(), seed);
    let checksum = crc32c(&bytes[..BLOCK - 4], seed);
    put(bytes, BLOCK - 4, checksum);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_those_of_the_document() {
        assert_eq!(crc32c(b"123456789", 0), 0xe306_9283);
        let id = 0x0011_2233_4455_4677_8899_aabb_ccdd_eeff_u128.to_be_bytes();
        let meta = [&[0; 16][..], &id].concat();
        assert_eq!(log_seed(&meta, 0), 0x8436_36ea);
    }
}
