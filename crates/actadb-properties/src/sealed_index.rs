//! Sealed indexes: of a good file every answer is the open index's; of a damaged one it is that,
//! or an error; of any bytes there is no panic.

use std::collections::BTreeMap;
use std::path::Path;

use actadb_disk::disk::Disk;
use actadb_disk::sim::SimDisk;
use actadb_index::audit::{Audit, Digest};
use actadb_index::error::IndexError;
use actadb_index::format::{BLOCK_BYTES, BLOCK_PAYLOAD, Described, FORMAT_VERSION};
use actadb_index::open::OpenIndex;
use actadb_index::sealed::SealedIndex;
use uuid::Uuid;

use crate::script::Script;

const DATABASE: Uuid = Uuid::from_u128(3);
const BUCKET: u16 = 1;
const SEGMENT: u64 = 7;
/// Lanes that are written to, and one that is not.
const LANES: u16 = 4;
/// Streams; each two of them share a hash, and the last ones share its upper 48 bits.
const GROUPS: [u64; 6] = [1 << 32, 2 << 32, 3 << 32, u64::MAX, u64::MAX - 5, 5];

fn path() -> &'static Path {
    Path::new("/b/000000000007.index")
}

fn described() -> Described {
    Described {
        database: DATABASE,
        bucket: BUCKET,
        segment: SEGMENT,
        segment_bytes: 100,
        first_index: 1,
        last_index: 9,
        last_term: 1,
        last_time_ns: 77,
        previous_checksum: 0,
        last_checksum: 5,
    }
}

/// Checks an index that was sealed, damaged, forged, or is anything.
///
/// # Panics
/// When the property does not hold.
pub fn check(data: &[u8]) {
    let mut script = Script::new(data);
    let disk = SimDisk::new();
    disk.create_dir_all(Path::new("/b")).expect("no faults");
    match script.below(4) {
        0 => any_bytes(&disk, script.rest().to_vec(), &[]),
        1 => {
            let mut bytes = script.rest().to_vec();
            make_index(&mut bytes, true);
            any_bytes(&disk, bytes, &[]);
        }
        2 => {
            let (open, keys, _) = fill(&mut script);
            seal(&disk, &open);
            let mut bytes = disk.contents(path()).expect("sealed");
            while !script.is_empty() {
                // Mostly in the header and the lanes, which say where the rest is.
                let at = usize::from(script.pair());
                let at = match at % 4 {
                    0 => 80 + at / 4 % 24,
                    1 => BLOCK_BYTES + at / 4 % 72,
                    _ => at / 4 % bytes.len(),
                };
                if script.coin() {
                    bytes[at] = script.byte();
                } else if let Some(number) = bytes.get_mut(at & !7..(at & !7) + 8) {
                    number.copy_from_slice(&script.number().to_le_bytes());
                }
            }
            make_index(&mut bytes, false);
            any_bytes(&disk, bytes, &keys);
        }
        _ => sealed(&disk, &mut script),
    }
}

fn seal(disk: &SimDisk, open: &OpenIndex) -> SealedIndex {
    SealedIndex::build(disk, path(), &described(), open).expect("no faults");
    reopen(disk).expect("just written")
}

fn reopen(disk: &SimDisk) -> Result<SealedIndex, IndexError> {
    SealedIndex::open(disk, path(), DATABASE, BUCKET, SEGMENT)
}

/// Makes whole blocks with good checksums of any bytes, and of the first one a header whose
/// length is right; with `anew`, also the magic and the words that say whose index it is.
fn make_index(bytes: &mut Vec<u8>, anew: bool) {
    bytes.resize(bytes.len().div_ceil(BLOCK_BYTES).max(1) * BLOCK_BYTES, 0);
    let blocks = (bytes.len() / BLOCK_BYTES) as u32;
    if anew {
        bytes[..8].copy_from_slice(b"ACTAIDX\n");
        bytes[8..10].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        bytes[10..12].copy_from_slice(&BUCKET.to_le_bytes());
        bytes[16..32].copy_from_slice(DATABASE.as_bytes());
        bytes[32..40].copy_from_slice(&SEGMENT.to_le_bytes());
        // Counts of any size would only end at the end of the file.
        for high in [14, 15, 90, 91, 98, 99] {
            bytes[high] = 0;
        }
    }
    bytes[104..108].copy_from_slice(&blocks.to_le_bytes());
    let seed = crc32c::crc32c(DATABASE.as_bytes());
    let seed = crc32c::crc32c_append(seed, &BUCKET.to_le_bytes());
    let seed = crc32c::crc32c_append(seed, &SEGMENT.to_le_bytes());
    for (number, block) in bytes.chunks_mut(BLOCK_BYTES).enumerate() {
        let seed = crc32c::crc32c_append(seed, &(number as u64).to_le_bytes());
        let checksum = crc32c::crc32c_append(seed, &block[..BLOCK_PAYLOAD]);
        block[BLOCK_PAYLOAD..].copy_from_slice(&checksum.to_le_bytes());
    }
}

/// Asks everything of a file that is anything: no answer panics or takes more than its limit.
fn any_bytes(disk: &SimDisk, bytes: Vec<u8>, keys: &[u64]) {
    if disk.contents(path()).is_none() {
        disk.create(path()).expect("a new file");
    }
    disk.damage(path(), |file| *file = bytes);
    let Ok(index) = reopen(disk) else { return };
    if let Ok(audit) = audited(&index) {
        let _ = audit.difference(&index, &Digest::default());
    }
    let lanes: Vec<u16> = index.lanes().iter().map(|lane| lane.lane).collect();
    for lane in index.lanes() {
        let _ = lane.next();
    }
    for lane in lanes.iter().copied().chain([0, 1, u16::MAX]).take(8) {
        for sequence in [0, 1, index.lane(lane).map_or(9, |lane| lane.first), u64::MAX] {
            for limit in [1, 2000] {
                if let Ok(found) = index.lane_places(lane, sequence, limit) {
                    assert!(found.len() <= limit);
                }
            }
        }
        for group in GROUPS {
            for version in [0, 7, u64::MAX] {
                for found in [
                    index.postings_from(group, lane, version, 2000),
                    index.postings_before(group, lane, version, 2000),
                ] {
                    assert!(found.is_err() || found.is_ok_and(|found| found.len() <= 2000));
                }
            }
        }
    }
    for group in GROUPS {
        let _ = index.lanes_of_group(group);
    }
    for key in keys.iter().copied().take(20).chain([0, 1, u64::MAX]) {
        let _ = index.key_places(key);
    }
}

/// Reads all blocks.
fn audited(index: &SealedIndex) -> Result<Audit, IndexError> {
    let mut audit = Audit::default();
    while audit.step(index)? {}
    Ok(audit)
}

/// An open index of what the script says, its keys, and all of it summed up.
fn fill(script: &mut Script<'_>) -> (OpenIndex, Vec<u64>, Digest) {
    let mut digest = Digest::default();
    let firsts = [(); LANES as usize - 1].map(|()| script.number() % (1 << 62));
    let mut open = OpenIndex::new([(0, firsts[0]), (1, firsts[1]), (2, firsts[2])]);
    let mut sequences: BTreeMap<u16, u64> = (0..).zip(firsts).collect();
    let mut versions: BTreeMap<(usize, u16), u64> = BTreeMap::new();
    let mut keys = Vec::new();
    // Some events come many times over: they make tables of several blocks.
    let mut place = 0;
    for _ in 0..script.below(24) {
        let (stream, lane) = (script.below(GROUPS.len() * 2), script.below(3) as u16);
        let times = if script.one_in(8) { 120 } else { 1 };
        let key = script.number();
        for n in 0..times {
            let version =
                versions.entry((stream, lane)).or_insert_with(|| script.number() % (1 << 63));
            open.add_posting(GROUPS[stream / 2], lane, *version, place);
            digest.add_posting(GROUPS[stream / 2], lane, *version, place);
            *version += 1;
            let sequence = sequences.entry(lane).or_default();
            open.push_lane(lane, *sequence, place);
            digest.add_place(lane, *sequence, place);
            *sequence += 1;
            let key = key.wrapping_add(n / 2);
            open.add_key(key, place);
            digest.add_key(key, place);
            keys.push(key);
            place += 1;
        }
    }
    keys.sort_unstable();
    keys.dedup();
    (open, keys, digest)
}

fn sealed(disk: &SimDisk, script: &mut Script<'_>) {
    let (open, keys, digest) = fill(script);
    let index = seal(disk, &open);
    assert_eq!(index.described(), &described());
    let audit = audited(&index).expect("a good file");
    assert_eq!(audit.difference(&index, &digest), None, "built otherwise than filled");
    let questions = questions(script, &keys);
    for question in &questions {
        let wanted = question.of_open(&open);
        assert_eq!(question.of_sealed(&index).expect("a good file"), wanted, "{question:?}");
    }

    // Up to three bits of one block: its checksum notices as many.
    let length = disk.contents(path()).expect("sealed").len();
    let block = script.below(256) % (length / BLOCK_BYTES) * BLOCK_BYTES;
    let mut bits: Vec<usize> =
        (0..script.below(3) + 1).map(|_| usize::from(script.pair()) % (BLOCK_BYTES * 8)).collect();
    bits.sort_unstable();
    bits.dedup();
    disk.damage(path(), |bytes| {
        for bit in &bits {
            bytes[block + bit / 8] ^= 1 << (bit % 8);
        }
    });
    assert!(audited(&index).is_err(), "bits {bits:?} of the block at {block}");
    assert!(block > 0 || reopen(disk).is_err());
    for index in [Ok(index), reopen(disk)].into_iter().flatten() {
        for question in &questions {
            if let Ok(answer) = question.of_sealed(&index) {
                assert_eq!(answer, question.of_open(&open), "{question:?}");
            }
        }
    }
}

#[derive(Debug)]
enum Question {
    Lane(u16, u64, usize),
    From(u64, u16, u64, usize),
    Before(u64, u16, u64, usize),
    Lanes(u64),
    Key(u64),
}

fn questions(script: &mut Script<'_>, keys: &[u64]) -> Vec<Question> {
    let mut all = Vec::new();
    let (version, few) = (script.number(), script.below(300));
    for lane in 0..LANES {
        all.push(Question::Lane(lane, 0, few));
        all.push(Question::Lane(lane, version, usize::MAX));
        for group in GROUPS {
            all.push(Question::From(group, lane, 0, usize::MAX));
            all.push(Question::From(group, lane, version, few));
            all.push(Question::Before(group, lane, u64::MAX, usize::MAX));
            all.push(Question::Before(group, lane, version, few));
        }
    }
    all.extend(GROUPS.map(Question::Lanes));
    all.extend(keys.iter().take(40).chain(&[0, version]).map(|key| Question::Key(*key)));
    all
}

type Answer = Vec<(u64, u32)>;

impl Question {
    fn of_open(&self, open: &OpenIndex) -> Answer {
        match *self {
            Self::Lane(lane, from, limit) => places(open.lane_places(lane, from, limit)),
            Self::From(group, lane, version, limit) => {
                open.postings_from(group, lane, version, limit)
            }
            Self::Before(group, lane, version, limit) => {
                open.postings_before(group, lane, version, limit)
            }
            Self::Lanes(group) => lanes(&open.lanes_of_group(group)),
            Self::Key(key) => places(&open.key_places(key)),
        }
    }

    fn of_sealed(&self, index: &SealedIndex) -> Result<Answer, IndexError> {
        Ok(match *self {
            Self::Lane(lane, from, limit) => places(&index.lane_places(lane, from, limit)?),
            Self::From(group, lane, version, limit) => {
                index.postings_from(group, lane, version, limit)?
            }
            Self::Before(group, lane, version, limit) => {
                index.postings_before(group, lane, version, limit)?
            }
            Self::Lanes(group) => lanes(&index.lanes_of_group(group)?),
            Self::Key(key) => places(&index.key_places(key)?),
        })
    }
}

fn places(places: &[u32]) -> Answer {
    places.iter().map(|place| (0, *place)).collect()
}

fn lanes(lanes: &[u16]) -> Answer {
    lanes.iter().map(|lane| (u64::from(*lane), 0)).collect()
}
