//! What filters promise: never "no" for what is there, seldom "perhaps" for what is not, and no
//! word about other segments.

use std::path::Path;
use std::sync::Arc;

use actadb_disk::disk::Disk;
use actadb_disk::handles::Handles;
use actadb_disk::sim::SimDisk;
use actadb_index::block_cache::BlockCache;
use actadb_index::error::IndexError;
use actadb_index::filter::{Covered, Filter, Sought};
use actadb_index::format::Described;
use actadb_index::open::OpenIndex;
use actadb_index::sealed::SealedIndex;
use actadb_model::dice::SplitMix64;
use uuid::Uuid;

const FILTER: &str = "/b/1-2.filter";

fn covered() -> Covered {
    Covered {
        database: Uuid::from_u128(3),
        bucket: 1,
        first: 1,
        last: 2,
        last_index: 9,
        last_checksum: 5,
    }
}

/// Two sealed indexes with so many keys and a tenth of it groups each; a filter over both.
fn filtered(disk: &SimDisk, keys: u32) -> (Vec<u64>, Vec<u64>) {
    disk.create_dir_all(Path::new("/b")).expect("dir");
    let mut dice = SplitMix64::new(keys.into());
    let (mut all_keys, mut all_groups, mut indexes) = (Vec::new(), Vec::new(), Vec::new());
    for segment in 1..=2 {
        let mut open = OpenIndex::new([(0, 0), (7, 0)]);
        let groups: Vec<u64> = (0..keys.div_ceil(10)).map(|_| dice.draw()).collect();
        for place in 0..keys {
            let (key, group) = (dice.draw(), groups[(place / 10) as usize]);
            open.add_key(key, place);
            open.add_posting(group, (place % 2 * 7) as u16, u64::from(place), place);
            all_keys.push(key);
        }
        all_groups.extend(groups);
        let described = Described {
            database: Uuid::from_u128(3),
            bucket: 1,
            segment,
            segment_bytes: 100,
            first_index: 1,
            last_index: 9,
            last_term: 1,
            last_time_ns: 77,
            previous_checksum: 0,
            last_checksum: 5,
        };
        let path = format!("/b/{segment}.index");
        SealedIndex::build(disk, Path::new(&path), &described, &open).expect("build");
        let database = Uuid::from_u128(3);
        indexes.push(SealedIndex::open(disk, Path::new(&path), database, 1, segment).expect("ok"));
    }
    Filter::build(disk, Path::new(FILTER), &covered(), indexes.iter()).expect("build");
    (all_keys, all_groups)
}

fn open(disk: &SimDisk, covered: &Covered) -> Result<Filter, IndexError> {
    let handles = Handles::new(Arc::new(disk.clone()), 8);
    Filter::open(&handles, &BlockCache::new(2 * 4096), Path::new(FILTER), covered)
}

#[test]
fn no_is_certain_and_perhaps_seldom_wrong() {
    for keys in [1, 300, 20_000] {
        let disk = SimDisk::new();
        let (keys, groups) = filtered(&disk, keys);
        let filter = open(&disk, &covered()).expect("a good filter");
        assert_eq!(filter.covered(), &covered());
        for key in &keys {
            assert!(filter.may_have(Sought::key(*key)).expect("reads"), "key {key} is there");
        }
        for group in &groups {
            // The lower bits are the lane's.
            for group in [*group, group & !0xffff, group | 0xffff] {
                assert!(filter.may_have(Sought::group(group)).expect("reads"), "group {group}");
            }
        }
        let mut dice = SplitMix64::new(99);
        let mut wrong = 0;
        for _ in 0..20_000 {
            wrong += u32::from(filter.may_have(Sought::key(dice.draw())).expect("reads"));
            wrong += u32::from(filter.may_have(Sought::group(dice.draw())).expect("reads"));
        }
        assert!(wrong < 400, "{wrong} of 40,000 are wrong, of {} keys", keys.len());
    }
}

#[test]
fn keys_and_groups_are_told_apart() {
    let disk = SimDisk::new();
    let (keys, _) = filtered(&disk, 300);
    let filter = open(&disk, &covered()).expect("a good filter");
    let groups = keys.iter().filter(|key| filter.may_have(Sought::group(**key)).expect("reads"));
    assert!(groups.count() < 20);
}

#[test]
fn filters_of_other_segments_and_damaged_ones_are_refused() {
    let disk = SimDisk::new();
    let (keys, _) = filtered(&disk, 3000);
    for other in [
        Covered { database: Uuid::from_u128(4), ..covered() },
        Covered { bucket: 2, ..covered() },
        Covered { first: 2, ..covered() },
        Covered { last: 3, ..covered() },
        Covered { last_index: 10, ..covered() },
        Covered { last_checksum: 6, ..covered() },
    ] {
        assert!(matches!(open(&disk, &other), Err(IndexError::Damaged { .. })), "{other:?}");
    }
    let good = disk.contents(Path::new(FILTER)).expect("there");
    for bit in (0..good.len() * 8).step_by(997) {
        disk.damage(Path::new(FILTER), |bytes| bytes[bit / 8] ^= 1 << (bit % 8));
        let refused = match open(&disk, &covered()) {
            Err(IndexError::Damaged { .. }) => true,
            Err(error) => panic!("{error}"),
            // One block is bad: those whose bits lie there are answered by nobody.
            Ok(filter) => keys.iter().any(|key| filter.may_have(Sought::key(*key)).is_err()),
        };
        assert!(refused, "bit {bit}");
        disk.damage(Path::new(FILTER), |bytes| bytes.copy_from_slice(&good));
    }
    disk.damage(Path::new(FILTER), |bytes| bytes.truncate(good.len() - 4096));
    assert!(matches!(open(&disk, &covered()), Err(IndexError::Damaged { .. })));
}
