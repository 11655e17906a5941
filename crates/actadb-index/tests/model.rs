//! Open and sealed indexes against a plain sorted map.

use std::collections::BTreeSet;
use std::path::Path;

use actadb_disk::disk::Disk;
use actadb_disk::sim::SimDisk;
use actadb_index::audit::{Audit, Digest};
use actadb_index::block_cache::BlockCache;
use actadb_index::error::IndexError;
use actadb_index::format::{BLOCK_BYTES, Described};
use actadb_index::open::OpenIndex;
use actadb_index::sealed::SealedIndex;
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use uuid::Uuid;

fn described() -> Described {
    Described {
        database: Uuid::from_u128(3),
        bucket: 1,
        segment: 7,
        segment_bytes: 100,
        first_index: 1,
        last_index: 9,
        last_term: 1,
        last_time_ns: 77,
        previous_checksum: 0,
        last_checksum: 5,
    }
}

fn seal(disk: &SimDisk, open: &OpenIndex) -> SealedIndex {
    disk.create_dir_all(Path::new("/b")).expect("dir");
    let path = Path::new("/b/1.index");
    SealedIndex::build(disk, path, &described(), open).expect("build");
    let index = SealedIndex::open(disk, path, described().database, 1, 7).expect("open");
    // So small that most blocks are pushed out before they are asked for again.
    index.cached_in(&BlockCache::new(3 * BLOCK_BYTES))
}

#[test]
fn a_lookup_among_many_keys_reads_few_blocks() {
    let mut open = OpenIndex::new([(0, 0)]);
    let mut dice = actadb_model::dice::SplitMix64::new(5);
    let keys: Vec<u64> = (0..100_000).map(|_| dice.draw()).collect();
    for (place, key) in keys.iter().enumerate() {
        open.add_key(*key, place as u32);
    }
    let disk = SimDisk::new();
    let (mut blocks, lookups) = (0, 200);
    let index = seal(&disk, &open);
    let path = index.path().to_owned();
    for n in 0..lookups {
        // A cache of its own counts what one lookup reads.
        let cache = BlockCache::new(1 << 20);
        let index = SealedIndex::open(&disk, &path, described().database, 1, 7).expect("open");
        let index = index.cached_in(&cache);
        let (place, absent) = (n * 499, dice.draw());
        match n % 2 {
            0 => assert_eq!(index.key_places(keys[place]).expect("good").to_vec(), [place as u32]),
            _ => assert!(index.key_places(absent).expect("good").is_empty()),
        }
        blocks += cache.bytes() / BLOCK_BYTES;
    }
    // 294 blocks of keys; a binary search reads nine of them.
    assert!(blocks <= 3 * lookups, "{blocks} blocks for {lookups} lookups");
    assert!(blocks >= lookups, "every lookup reads a block");
}

/// Reads all blocks.
fn audited(index: &SealedIndex) -> Result<Audit, IndexError> {
    let mut audit = Audit::default();
    while audit.step(index)? {}
    Ok(audit)
}

/// A stream of postings in which versions of a group and lane rise, and groups collide.
fn operations() -> impl Strategy<Value = Vec<(u8, u16, u8)>> {
    prop::collection::vec((0_u8..12, 0_u16..3, any::<u8>()), 0..2500)
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 24,
        failure_persistence: None,
        // Fixed: a failure is seen again by running it again.
        rng_seed: RngSeed::Fixed(7),
        ..ProptestConfig::default()
    })]

    #[test]
    fn open_and_sealed_answer_what_a_sorted_map_answers(operations in operations()) {
        let mut open = OpenIndex::new([(0, 5), (2, 1)]);
        let mut digest = Digest::default();
        let mut postings = BTreeSet::new();
        let mut keys = BTreeSet::new();
        let mut sequences = [5_u64, 0, 1];
        let mut versions = std::collections::HashMap::new();
        for (n, (member, lane, key)) in operations.iter().enumerate() {
            let place = n as u32;
            // Two members share each group: hash collisions of different streams.
            let group = (u64::from(member / 2) + 1) << 32;
            let version = versions.entry((member, lane)).or_insert(u64::from(*member));
            open.add_posting(group, *lane, *version, place);
            digest.add_posting(group, *lane, *version, place);
            postings.insert((group, *lane, *version, place));
            *version += 1;
            open.push_lane(*lane, sequences[usize::from(*lane)], place);
            digest.add_place(*lane, sequences[usize::from(*lane)], place);
            sequences[usize::from(*lane)] += 1;
            let key = u64::from(*key) << 56;
            open.add_key(key, place);
            digest.add_key(key, place);
            keys.insert((key, place));
        }
        let disk = SimDisk::new();
        let sealed = seal(&disk, &open);
        prop_assert_eq!(sealed.described(), &described());
        let audit = audited(&sealed).expect("all blocks are good");
        prop_assert_eq!(audit.difference(&sealed, &digest), None);
        digest.add_key(1, 1);
        prop_assert!(audit.difference(&sealed, &digest).is_some());

        for member in 0..7_u64 {
            let group = (member + 1) << 32;
            for lane in 0..4_u16 {
                for version in [0, 1, 7, 50, u64::MAX] {
                    for limit in [1, 3, 100_000] {
                        let mut up: Vec<(u64, u32)> = postings
                            .iter()
                            .filter(|p| p.0 == group && p.1 == lane && p.2 >= version)
                            .map(|p| (p.2, p.3))
                            .collect();
                        let mut down: Vec<(u64, u32)> = postings
                            .iter()
                            .filter(|p| p.0 == group && p.1 == lane && p.2 <= version)
                            .map(|p| (p.2, p.3))
                            .rev()
                            .collect();
                        up.truncate(limit);
                        down.truncate(limit);
                        prop_assert_eq!(&open.postings_from(group, lane, version, limit), &up);
                        prop_assert_eq!(&open.postings_before(group, lane, version, limit), &down);
                        let found = sealed.postings_from(group, lane, version, limit);
                        prop_assert_eq!(&found.expect("good"), &up);
                        let found = sealed.postings_before(group, lane, version, limit);
                        prop_assert_eq!(&found.expect("good"), &down);
                    }
                }
            }
        }
        for member in 0..7_u64 {
            let group = (member + 1) << 32;
            let mut lanes: Vec<u16> =
                postings.iter().filter(|p| p.0 == group).map(|p| p.1).collect();
            lanes.dedup();
            prop_assert_eq!(sealed.lanes_of_group(group).expect("good").to_vec(), lanes.clone());
            let open_lanes = open.lanes_of_group(group).to_vec();
            prop_assert_eq!(open_lanes, lanes);
        }
        for key in 0..=255_u64 {
            let wanted: Vec<u32> =
                keys.iter().filter(|k| k.0 == key << 56).map(|k| k.1).collect();
            prop_assert_eq!(open.key_places(key << 56).to_vec(), wanted.clone());
            prop_assert_eq!(sealed.key_places(key << 56).expect("good").to_vec(), wanted);
        }
        for lane in 0..4_u16 {
            for (sequence, limit) in [(0, 3), (5, 1), (6, 10_000), (u64::MAX, 1)] {
                let places = open.lane_places(lane, sequence, limit).to_vec();
                let found = sealed.lane_places(lane, sequence, limit).expect("good");
                prop_assert_eq!(found, places);
            }
            let next = open.lane(lane).map(|l| l.first + l.places.len() as u64);
            prop_assert_eq!(sealed.lane(lane).map(|l| l.next()), next);
        }
    }
}

#[test]
fn a_bit_flipped_in_any_block_is_an_error_and_never_an_answer() {
    let mut open = OpenIndex::default();
    for n in 0..3000_u64 {
        open.push_lane(0, n, n as u32);
        open.add_posting(n << 40, 0, 0, n as u32);
        open.add_key(n << 40, n as u32);
    }
    let disk = SimDisk::new();
    let path = Path::new("/b/1.index");
    let index = seal(&disk, &open);
    let length = disk.contents(path).expect("there").len();
    for block in 0..length / 4096 {
        disk.damage(path, |bytes| bytes[block * 4096 + 3] ^= 4);
        assert!(matches!(audited(&index), Err(IndexError::Damaged { .. })), "block {block}");
        for n in (0..3000_u64).step_by(17) {
            if let Ok(found) = index.key_places(n << 40) {
                assert_eq!(found.to_vec(), vec![n as u32]);
            }
            if let Ok(found) = index.postings_from(n << 40, 0, 0, 5) {
                assert_eq!(found, vec![(0, n as u32)]);
            }
        }
        disk.damage(path, |bytes| bytes[block * 4096 + 3] ^= 4);
    }
    disk.damage(path, |bytes| bytes.truncate(length - 1));
    assert!(SealedIndex::open(&disk, path, described().database, 1, 7).is_err());
    let other = Uuid::from_u128(99);
    assert!(SealedIndex::open(&disk, path, other, 1, 7).is_err(), "another database's index");
    assert!(
        SealedIndex::open(&disk, path, described().database, 1, 8).is_err(),
        "another segment's"
    );
}

#[test]
fn each_kind_of_difference_is_found_and_named() {
    let mut open = OpenIndex::default();
    let digest_without = |left_out: usize, shifted: usize| {
        let mut digest = Digest::default();
        for n in 0..3000_u64 {
            let place = |kind: usize| n as u32 + u32::from(n == 1700 && shifted == kind);
            let there = |kind: usize| n != 1700 || left_out != kind;
            if there(1) {
                digest.add_place(0, n, place(1));
            }
            if there(2) {
                digest.add_posting(n << 40, 0, 0, place(2));
            }
            if there(3) {
                digest.add_key(n << 40, place(3));
            }
        }
        digest
    };
    for n in 0..3000_u64 {
        open.push_lane(0, n, n as u32);
        open.add_posting(n << 40, 0, 0, n as u32);
        open.add_key(n << 40, n as u32);
    }
    let index = seal(&SimDisk::new(), &open);
    let audit = audited(&index).expect("good");
    assert_eq!(audit.difference(&index, &digest_without(0, 0)), None);
    for (kind, name) in [(1, "sequences"), (2, "stream versions"), (3, "event ids")] {
        let (_, what) = audit.difference(&index, &digest_without(kind, 0)).expect("one too many");
        assert!(what.contains(name) && what.contains("3000"), "{what}");
        let (_, what) = audit.difference(&index, &digest_without(0, kind)).expect("elsewhere");
        assert!(what.contains(name) && what.contains("not those"), "{what}");
    }
}

/// A rename makes an index whole or absent; this is what is left when the device does not keep to
/// that: the file ends early, or its end reads as zeros.
#[test]
fn torn_write_at_every_byte_of_an_index_is_an_error_and_never_an_answer() {
    let mut open = OpenIndex::default();
    for n in 0..400_u64 {
        open.push_lane(0, n, 1 + n as u32);
        open.add_posting(n << 40, 0, 0, 1 + n as u32);
        open.add_key(n << 40, 1 + n as u32);
    }
    let disk = SimDisk::new();
    let path = Path::new("/b/1.index");
    seal(&disk, &open);
    let whole = disk.contents(path).expect("there");
    let mut refused = 0;
    for end in 0..whole.len() {
        disk.damage(path, |bytes| bytes.truncate(end));
        let cut = SealedIndex::open(&disk, path, described().database, 1, 7);
        assert!(cut.is_err(), "cut to {end} bytes");
        disk.damage(path, |bytes| bytes.resize(whole.len(), 0));
        // Zeros where zeros were are no damage.
        let harmless = whole[end..].iter().all(|byte| *byte == 0);
        match SealedIndex::open(&disk, path, described().database, 1, 7) {
            Ok(index) => {
                assert_eq!(audited(&index).is_ok(), harmless, "zeros from byte {end} on");
                for n in (0..400_u64).step_by(97) {
                    if let Ok(found) = index.key_places(n << 40) {
                        assert_eq!(found.to_vec(), vec![1 + n as u32], "zeros from {end} on");
                    }
                }
            }
            Err(_) => refused += 1,
        }
        disk.damage(path, |bytes| bytes.clone_from(&whole));
    }
    assert!(refused > 4096, "its first block was never torn");
}

/// Changes a file and makes the checksums of its blocks good again.
fn forge(disk: &SimDisk, path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let Described { database, bucket, segment, .. } = described();
    let seed = crc32c::crc32c(database.as_bytes());
    let seed = crc32c::crc32c_append(seed, &bucket.to_le_bytes());
    let seed = crc32c::crc32c_append(seed, &segment.to_le_bytes());
    disk.damage(path, |bytes| {
        change(bytes);
        for (number, block) in bytes.chunks_mut(4096).enumerate() {
            let seed = crc32c::crc32c_append(seed, &(number as u64).to_le_bytes());
            let checksum = crc32c::crc32c_append(seed, &block[..4092]);
            block[4092..].copy_from_slice(&checksum.to_le_bytes());
        }
    });
}

#[test]
fn lanes_that_make_no_sense_are_refused_though_their_checksum_is_good() {
    let path = Path::new("/b/1.index");
    let mut open = OpenIndex::new([(0, 5), (1, 9)]);
    open.push_lane(0, 5, 50);
    let reopen = |disk: &SimDisk| SealedIndex::open(disk, path, described().database, 1, 7);

    let disk = SimDisk::new();
    seal(&disk, &open);
    forge(&disk, path, |bytes| bytes[4096 + 8..4096 + 16].fill(0xff));
    assert!(matches!(reopen(&disk), Err(IndexError::Damaged { .. })), "a sequence behind the last");

    let disk = SimDisk::new();
    seal(&disk, &open);
    forge(&disk, path, |bytes| bytes[4096] = 1);
    assert!(matches!(reopen(&disk), Err(IndexError::Damaged { .. })), "one lane twice");
}
