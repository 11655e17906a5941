//! Frames: read back as they were written, any flipped bit noticed, any bytes survived.

use std::path::Path;
use std::sync::Arc;

use actadb_disk::disk::{Disk, DiskFile};
use actadb_disk::sim::SimDisk;
use actadb_log::format::{
    BatchHead, FRAME_ALIGN, FRAME_HEADER_BYTES, FrameHeader, FrameRead, HeaderRead, LogIdentity,
    SEGMENT_HEADER_BYTES, SegmentHeader, frame_bytes,
};
use actadb_log::scan::{Found, Frame, Scanner, Tip};
use actadb_model::entry::EntryKind;
use actadb_model::ids::BucketId;
use bytes::Bytes;
use uuid::Uuid;

use crate::script::Script;

/// Bytes of a segment's header block that mean something.
const SEGMENT_HEADER_USED: usize = 64;
const KINDS: [EntryKind; 3] = [EntryKind::Batch, EntryKind::Noop, EntryKind::Conf];

pub(crate) fn identity() -> LogIdentity {
    LogIdentity::new(Uuid::from_u128(1), BucketId(2))
}

/// Checks frames with bytes that are anything, or frames with a few bits flipped.
///
/// # Panics
/// When the property does not hold.
pub fn check(data: &[u8]) {
    let mut script = Script::new(data);
    match script.below(3) {
        0 => any_bytes(script.rest()),
        1 => {
            // Checksums that hold, over bytes that are anything.
            let places: Vec<usize> =
                (0..script.below(5) + 1).map(|_| script.below(128) * 8).collect();
            let mut bytes = script.rest().to_vec();
            for place in places {
                make_frame(&mut bytes, place);
            }
            any_bytes(&bytes);
        }
        _ => written(&mut script),
    }
}

/// Gives whatever lies at `at` a magic, a version, a length that fits and good checksums.
pub(crate) fn make_frame(bytes: &mut [u8], at: usize) {
    let seed = identity().checksum_seed();
    let Some(frame) = bytes.get_mut(at..).filter(|rest| rest.len() >= FRAME_HEADER_BYTES) else {
        return;
    };
    let (head, body) = frame.split_at_mut(FRAME_HEADER_BYTES);
    head[..4].copy_from_slice(b"AFRM");
    head[4] %= 32;
    // Versions that are known, and now and then one that is not.
    head[4] = head[4].saturating_sub(29);
    head[5] %= 4;
    let length = usize::from(u16::from_le_bytes([head[8], head[9]])) % (body.len() + 1);
    head[8..12].copy_from_slice(&(length as u32).to_le_bytes());
    let checksum = crc32c::crc32c_append(seed, &body[..length]);
    head[12..16].copy_from_slice(&checksum.to_le_bytes());
    let checksum = crc32c::crc32c_append(seed, &head[..36]);
    head[36..40].copy_from_slice(&checksum.to_le_bytes());
}

/// A segment's file of a block for the header and these bytes.
fn segment(bytes: &[u8]) -> Arc<dyn DiskFile> {
    let disk = SimDisk::new();
    let file = disk.create(Path::new("/1.segment")).expect("a new file");
    file.write_all_at(&vec![0; SEGMENT_HEADER_BYTES as usize], 0).expect("no faults");
    file.write_all_at(bytes, SEGMENT_HEADER_BYTES).expect("no faults");
    file
}

/// All frames up to the first that is none, and what is there instead.
fn scan(bytes: &[u8], tip: Tip) -> (Vec<Frame>, Found) {
    let seed = identity().checksum_seed();
    let mut scanner = Scanner::new(segment(bytes), seed, tip).expect("no faults");
    let mut frames = Vec::new();
    loop {
        match scanner.step().expect("no faults") {
            Found::Frame(frame) => frames.push(frame),
            other => {
                let end = frames.last().map_or(SEGMENT_HEADER_BYTES, Frame::end);
                assert_eq!(scanner.offset(), end);
                return (frames, other);
            }
        }
    }
}

fn any_bytes(bytes: &[u8]) {
    let seed = identity().checksum_seed();
    if let HeaderRead::Good(header) = SegmentHeader::decode(bytes) {
        // Recovery writes the headers it has read again: they must be the same bytes.
        assert_eq!(header.encode()[..SEGMENT_HEADER_USED], bytes[..SEGMENT_HEADER_USED]);
    }
    for kind in KINDS {
        if let Some(head) = BatchHead::decode(kind, bytes) {
            assert_eq!(head.encode(), bytes[..head.encode().len()]);
        }
    }
    let first = FrameHeader::decode(seed, bytes);
    if let FrameRead::Good(header) = first {
        // Recovery writes the headers it has read again: they must be the same bytes.
        assert_eq!(header.encode(), bytes[..FRAME_HEADER_BYTES]);
    }
    // Whatever the first frame is, let it be the next one of a chain.
    let tip = match first {
        FrameRead::Good(header) if header.index > 0 => {
            Tip { index: header.index - 1, term: header.term, checksum: header.previous_checksum }
        }
        _ => Tip::default(),
    };
    let (frames, end) = scan(bytes, tip);
    let mut at = SEGMENT_HEADER_BYTES;
    let mut before = tip;
    for frame in &frames {
        let header = frame.header;
        assert_eq!((frame.offset, header.index), (at, before.index + 1));
        assert_eq!(header.previous_checksum, before.checksum);
        assert!(header.term >= before.term && header.matches(seed, &frame.body));
        before = Tip { index: header.index, term: header.term, checksum: header.checksum };
        at = frame.end();
    }
    let rest = &bytes[(at - SEGMENT_HEADER_BYTES) as usize..];
    assert_eq!(matches!(end, Found::End), rest.iter().all(|byte| *byte == 0));

    let mut scanner = Scanner::new(segment(bytes), seed, tip).expect("no faults");
    scanner.durable_behind(at, 0).expect("no faults");
    let end = scanner.written_end(at).expect("no faults");
    let written = rest.iter().rposition(|byte| *byte != 0).map_or(0, |last| last as u64 + 1);
    assert_eq!(end, at + written);
}

fn written(script: &mut Script<'_>) {
    let seed = identity().checksum_seed();
    let start = Tip {
        index: script.number().min(u64::MAX - 100),
        term: script.number(),
        checksum: script.number() as u32,
    };
    let mut tip = start;
    let (mut bytes, mut bodies) = (Vec::new(), Vec::new());
    for _ in 0..script.below(5) + 1 {
        let kind = KINDS[script.below(3)];
        let wanted = script.below(60);
        let body = Bytes::copy_from_slice(script.bytes(wanted));
        let term = tip.term.saturating_add(u64::from(script.one_in(4)));
        let header = FrameHeader::new(seed, kind, term, tip.index + 1, tip.checksum, &body);
        assert_eq!(FrameHeader::decode(seed, &header.encode()), FrameRead::Good(header));
        let begin = bytes.len();
        bytes.extend_from_slice(&header.encode());
        bytes.extend_from_slice(&body);
        bytes.resize(begin + frame_bytes(body.len() as u64) as usize, 0);
        assert_eq!(bytes.len() % FRAME_ALIGN as usize, 0);
        tip = Tip { index: header.index, term, checksum: header.checksum };
        bodies.push((kind, body, begin));
    }
    let (frames, end) = scan(&bytes, start);
    assert!(matches!(end, Found::End), "{end:?}");
    let found: Vec<_> = frames.iter().map(|f| (f.header.kind, f.body.clone())).collect();
    let sent: Vec<_> = bodies.iter().map(|(kind, body, _)| (*kind, body.clone())).collect();
    assert_eq!(found, sent);

    let hit = script.below(bodies.len());
    let (kind, body, begin) = &bodies[hit];
    if script.one_in(4) {
        // A good frame of another chain, as an earlier life of the log may have left it.
        let FrameHeader { term, index, previous_checksum, .. } = frames[hit].header;
        let other = FrameHeader::new(seed, *kind, term, index, !previous_checksum, body);
        bytes[*begin..begin + FRAME_HEADER_BYTES].copy_from_slice(&other.encode());
        let (frames, end) = scan(&bytes, start);
        assert_eq!(frames.len(), hit, "a frame of another chain was taken");
        assert!(matches!(end, Found::Bad(_)), "{end:?}");
        return;
    }
    // Up to three bits of one frame: CRC-32C notices as many, wherever they are.
    let covered = (FRAME_HEADER_BYTES + body.len()) * 8;
    let mut flipped: Vec<usize> =
        (0..script.below(3) + 1).map(|_| usize::from(script.pair()) % covered).collect();
    flipped.sort_unstable();
    flipped.dedup();
    for bit in &flipped {
        bytes[begin + bit / 8] ^= 1 << (bit % 8);
    }
    let (frames, end) = scan(&bytes, start);
    assert_eq!(frames.len(), hit, "a frame with bits {flipped:?} flipped was taken");
    assert!(matches!(end, Found::Bad(_)), "{end:?}");
    // The header of a damaged body is good and the body is not its own, or the header is bad.
    match FrameHeader::decode(seed, &bytes[*begin..]) {
        FrameRead::Good(header) => {
            let body = &bytes[begin + FRAME_HEADER_BYTES..][..body.len()];
            assert!(!header.matches(seed, body));
        }
        FrameRead::Bad => {}
        FrameRead::Newer(version) => panic!("damage is taken for version {version}"),
    }
}
