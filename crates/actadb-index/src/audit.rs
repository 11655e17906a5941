//! Comparing an index file with what it should say, in constant memory: both are summed up entry
//! by entry, and the sums must be equal. An entry that one side lacks changes a sum.

use crate::blocks::{Block, Entry, RawPlace, Table, entries};
use crate::error::IndexError;
use crate::format::{BLOCK_BYTES, RawKey, RawPosting, blocks_for, group_lane, per_block};
use crate::sealed::SealedIndex;

/// The entries of one section: how many, and the sum of a hash of each. Order does not matter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Sum {
    count: u64,
    sum: u64,
}

impl Sum {
    fn add(&mut self, words: [u64; 3]) {
        // SplitMix64's finalizer over each word: one changed bit changes half of the hash.
        let mut hash = 0;
        for word in words {
            let mut z = word.wrapping_add(hash).wrapping_add(0x9e37_79b9_7f4a_7c15);
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            hash = z ^ (z >> 31);
        }
        self.count += 1;
        self.sum = self.sum.wrapping_add(hash);
    }
}

/// What an index says, summed up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Digest {
    places: Sum,
    postings: Sum,
    keys: Sum,
}

impl Digest {
    /// Adds the place of a sequence of a lane.
    pub fn add_place(&mut self, lane: u16, sequence: u64, place: u32) {
        self.places.add([u64::from(lane), sequence, u64::from(place)]);
    }

    /// Adds a version of a group in a lane.
    pub fn add_posting(&mut self, group: u64, lane: u16, version: u64, place: u32) {
        self.postings.add([group_lane(group, lane), version, u64::from(place)]);
    }

    /// Adds a place of a key.
    pub fn add_key(&mut self, key: u64, place: u32) {
        self.keys.add([key, u64::from(place), 0]);
    }
}

/// A way through all blocks of an index file.
#[derive(Clone, Debug, Default)]
pub struct Audit {
    next_block: u64,
    digest: Digest,
    last_posting: Option<(u64, u64, u32)>,
    last_key: Option<(u64, u32)>,
}

impl Audit {
    /// Reads the next block: its checksum, and the order of what is in it. Answers `false` behind
    /// the last one.
    ///
    /// # Errors
    /// A bad block, or what the device says.
    pub fn step(&mut self, index: &SealedIndex) -> Result<bool, IndexError> {
        let number = self.next_block;
        if number >= index.blocks()? {
            return Ok(false);
        }
        let block = index.block(number)?;
        self.next_block += 1;
        for lane in index.lanes() {
            let table = lane.table();
            let first = rows::<RawPlace>(table, number).unwrap_or(0) as u64;
            for (n, raw) in here::<RawPlace>(&block, table, number).enumerate() {
                self.digest.add_place(lane.lane, lane.first + first + n as u64, raw.0.get());
            }
        }
        let out_of_order = || IndexError::Damaged {
            path: index.path().to_owned(),
            offset: number * BLOCK_BYTES as u64,
            what: "the entries of the block are out of order",
        };
        for raw in here::<RawPosting>(&block, index.postings, number) {
            let row = (raw.group_lane.get(), raw.version.get(), raw.place.get());
            if self.last_posting.replace(row).is_some_and(|last| last > row) {
                return Err(out_of_order());
            }
            self.digest.postings.add([row.0, row.1, u64::from(row.2)]);
        }
        for raw in here::<RawKey>(&block, index.keys, number) {
            let row = (raw.key.get(), raw.place.get());
            if self.last_key.replace(row).is_some_and(|last| last > row) {
                return Err(out_of_order());
            }
            self.digest.add_key(row.0, row.1);
        }
        Ok(true)
    }

    /// Where the index, read to its end, says something else than `expected`: the section's first
    /// byte, and how the two differ.
    #[must_use]
    pub fn difference(&self, index: &SealedIndex, expected: &Digest) -> Option<(u64, String)> {
        let first_place = index.lanes().first().map_or(1, |lane| lane.table().block);
        let sections = [
            ("sequences", first_place, self.digest.places, expected.places),
            ("stream versions", index.postings.block, self.digest.postings, expected.postings),
            ("event ids", index.keys.block, self.digest.keys, expected.keys),
        ];
        let (name, block, found, wanted) =
            sections.into_iter().find(|(_, _, found, wanted)| found != wanted)?;
        let what = match (found.count, wanted.count) {
            (a, b) if a == b => format!("its places of {name} are not those of the segment"),
            (a, b) => format!("it has {a} entries of {name}, the segment gives {b}"),
        };
        Some((block * BLOCK_BYTES as u64, what))
    }
}

/// The first row of a table that lies in a block; `None` when the block is none of the table's.
fn rows<T: Entry>(table: Table, block: u64) -> Option<usize> {
    let at = usize::try_from(block.checked_sub(table.block)?).ok()?;
    (at < blocks_for::<T>(table.count)).then(|| at * per_block::<T>())
}

/// The rows of a table that lie in a block.
fn here<T: Entry>(block: &Block, table: Table, number: u64) -> impl Iterator<Item = &T> {
    rows::<T>(table, number).into_iter().flat_map(move |at| entries::<T>(block, table, at))
}
