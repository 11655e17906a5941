//! The index of a full segment: a file of sorted tables, read block by block.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use actadb_disk::disk::{Disk, DiskFile};
use actadb_disk::handles::{Handle, Handles};
use smallvec::SmallVec;
use uuid::Uuid;
use zerocopy::FromBytes;

use crate::block_cache::{BlockCache, FileNumber};
use crate::blocks::{
    Block, Entry, RawPlace, Table, entries, put_rows, replace_file, verified_block,
};
use crate::error::IndexError;
use crate::filter::Sought;
use crate::format::{
    BLOCK_BYTES, Described, FORMAT_VERSION, MAGIC, RawHeader, RawKey, RawLane, RawPosting, RawTerm,
    blocks_for, group_lane, index_seed, per_block,
};
use crate::open::OpenIndex;

/// What a sealed index says about one lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SealedLane {
    /// The lane.
    pub lane: u16,
    /// First sequence in the segment; the next one to come when there is none.
    pub first: u64,
    /// Number of sequences in the segment.
    pub count: u32,
    block: u32,
}

impl SealedLane {
    /// The sequence behind the last one.
    #[must_use]
    pub fn next(&self) -> u64 {
        self.first + u64::from(self.count)
    }

    pub(crate) fn table(&self) -> Table {
        Table { block: self.block.into(), count: self.count as usize }
    }
}

/// Where blocks are read.
#[derive(Debug)]
enum Source {
    /// From a file that stays open.
    File(Arc<dyn DiskFile>),
    /// From one that is open while it is used.
    Handle(Handle),
}

impl Source {
    fn file(&self) -> io::Result<Arc<dyn DiskFile>> {
        match self {
            Self::File(file) => Ok(file.clone()),
            Self::Handle(handle) => handle.file(),
        }
    }
}

/// An index file, open. Lookups read blocks and check them.
#[derive(Debug)]
pub struct SealedIndex {
    file: Source,
    path: PathBuf,
    seed: u32,
    number: FileNumber,
    cache: BlockCache,
    described: Described,
    lanes: Vec<SealedLane>,
    pub(crate) postings: Table,
    pub(crate) keys: Table,
    terms: Vec<(u64, u64)>,
}

impl SealedIndex {
    /// Writes an index file: a temporary one, synced, renamed, its directory synced.
    ///
    /// # Errors
    /// What the device says; a temporary file may be left behind.
    pub fn build(
        disk: &dyn Disk,
        path: &Path,
        described: &Described,
        open: &OpenIndex,
    ) -> Result<(), IndexError> {
        replace_file(disk, path, &encode(described, open))
    }

    /// Opens the index of a segment, reading its header and its lanes.
    ///
    /// # Errors
    /// When it is not a good index of a known version, or the device says no.
    pub fn open(
        disk: &dyn Disk,
        path: &Path,
        database: Uuid,
        bucket: u16,
        segment: u64,
    ) -> Result<Self, IndexError> {
        let file = disk.open_read(path).map_err(IndexError::io("open", path))?;
        let damaged = |what| IndexError::Damaged { path: path.to_owned(), offset: 0, what };
        let seed = index_seed(database, bucket, segment);
        let mut index = Self {
            file: Source::File(file.clone()),
            path: path.to_owned(),
            seed,
            number: FileNumber::next(),
            cache: BlockCache::new(0),
            described: Described {
                database,
                bucket: 0,
                segment: 0,
                segment_bytes: 0,
                first_index: 0,
                last_index: 0,
                last_term: 0,
                last_time_ns: 0,
                previous_checksum: 0,
                last_checksum: 0,
            },
            lanes: Vec::new(),
            postings: Table { block: 0, count: 0 },
            keys: Table { block: 0, count: 0 },
            terms: Vec::new(),
        };
        let block = index.block(0)?;
        let (header, _) = RawHeader::read_from_prefix(&*block).map_err(|_| damaged("no header"))?;
        if header.magic != MAGIC || header.version.get() > FORMAT_VERSION {
            return Err(damaged("not an index of a known version"));
        }
        let length = file.len().map_err(IndexError::io("measure", path))?;
        if length != u64::from(header.block_count.get()) * BLOCK_BYTES as u64 {
            return Err(damaged("the file has another length than its header says"));
        }
        let ours = header.database == *database.as_bytes()
            && header.bucket.get() == bucket
            && header.segment.get() == segment;
        if !ours {
            return Err(damaged("the index of another segment"));
        }
        index.described = Described {
            database: Uuid::from_bytes(header.database),
            bucket: header.bucket.get(),
            segment: header.segment.get(),
            segment_bytes: header.segment_bytes.get(),
            first_index: header.first_index.get(),
            last_index: header.last_index.get(),
            last_term: header.last_term.get(),
            last_time_ns: header.last_time_ns.get(),
            previous_checksum: header.previous_checksum.get(),
            last_checksum: header.last_checksum.get(),
        };
        index.postings = Table {
            block: header.posting_block.get().into(),
            count: header.posting_count.get() as usize,
        };
        index.keys =
            Table { block: header.key_block.get().into(), count: header.key_count.get() as usize };
        let lanes = Table { block: 1, count: header.lane_count.get() as usize };
        let mut at = 0;
        while at < lanes.count {
            let block = index.block(lanes.block + (at / per_block::<RawLane>()) as u64)?;
            for raw in entries::<RawLane>(&block, lanes, at) {
                let lane = SealedLane {
                    lane: raw.lane.get(),
                    first: raw.first.get(),
                    count: raw.count.get(),
                    block: raw.block.get(),
                };
                // What is decided by these numbers must not rest on a checksum alone.
                let behind_the_last = index.lanes.last().is_none_or(|last| last.lane < lane.lane);
                let fits = lane.first.checked_add(lane.count.into()).is_some();
                if !behind_the_last || !fits {
                    return Err(damaged("its lanes make no sense"));
                }
                index.lanes.push(lane);
                at += 1;
            }
        }
        let term_count = header.term_count.get() as usize;
        let blocks = blocks_for::<RawTerm>(term_count) as u64;
        let first = u64::from(header.block_count.get()).checked_sub(blocks);
        let first = first.ok_or_else(|| damaged("more terms than the file has room for"))?;
        let terms = Table { block: first, count: term_count };
        while index.terms.len() < terms.count {
            let at = index.terms.len();
            let block = index.block(terms.block + (at / per_block::<RawTerm>()) as u64)?;
            for raw in entries::<RawTerm>(&block, terms, at) {
                let start = (raw.first_index.get(), raw.term.get());
                let ascend = |last: &(u64, u64)| last.0 < start.0 && last.1 < start.1;
                if !index.terms.last().is_none_or(ascend) {
                    return Err(damaged("its terms make no sense"));
                }
                index.terms.push(start);
            }
        }
        Ok(index)
    }

    /// Where terms begin in the segment: first index and term, ascending. The first is that of its
    /// first entry.
    #[must_use]
    pub fn terms(&self) -> &[(u64, u64)] {
        &self.terms
    }

    /// Lookups find blocks that were read before in `cache`.
    #[must_use]
    pub fn cached_in(mut self, cache: &BlockCache) -> Self {
        self.cache = cache.clone();
        self
    }

    /// The file is open only while it is used, as `handles` will have it.
    #[must_use]
    pub fn opened_by(mut self, handles: &Handles) -> Self {
        self.file = Source::Handle(handles.handle(&self.path));
        self
    }

    /// Path of the file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The segment it describes.
    #[must_use]
    pub fn described(&self) -> &Described {
        &self.described
    }

    /// All lanes the bucket knew when the segment was full, ascending.
    #[must_use]
    pub fn lanes(&self) -> &[SealedLane] {
        &self.lanes
    }

    /// One lane.
    #[must_use]
    pub fn lane(&self, lane: u16) -> Option<&SealedLane> {
        let at = self.lanes.binary_search_by_key(&lane, |entry| entry.lane).ok()?;
        self.lanes.get(at)
    }

    /// Number of postings and of keys in the file.
    #[must_use]
    pub fn counts(&self) -> (usize, usize) {
        (self.postings.count, self.keys.count)
    }

    /// Up to `limit` places from `sequence` on.
    ///
    /// # Errors
    /// A bad block, or what the device says.
    pub fn lane_places(
        &self,
        lane: u16,
        sequence: u64,
        limit: usize,
    ) -> Result<Vec<u32>, IndexError> {
        let Some(lane) = self.lane(lane) else { return Ok(Vec::new()) };
        let Some(start) = sequence.checked_sub(lane.first) else { return Ok(Vec::new()) };
        let table = lane.table();
        let mut at = usize::try_from(start).unwrap_or(usize::MAX).min(table.count);
        let end = at.saturating_add(limit).min(table.count);
        let mut places = Vec::with_capacity(end - at);
        while at < end {
            let block = self.block_of::<RawPlace>(table, at)?;
            let before = places.len();
            let found = entries::<RawPlace>(&block, table, at).iter().take(end - at);
            places.extend(found.map(|raw| raw.0.get()));
            at += places.len() - before;
        }
        Ok(places)
    }

    /// As [`OpenIndex::postings_from`].
    ///
    /// # Errors
    /// A bad block, or what the device says.
    pub fn postings_from(
        &self,
        group: u64,
        lane: u16,
        version: u64,
        limit: usize,
    ) -> Result<Vec<(u64, u32)>, IndexError> {
        let wanted = group_lane(group, lane);
        let mut at = self.lower_bound::<RawPosting>(self.postings, wanted, &|raw| {
            (raw.group_lane.get(), raw.version.get()) < (wanted, version)
        })?;
        let mut found = Vec::new();
        while at < self.postings.count && found.len() < limit {
            let block = self.block_of::<RawPosting>(self.postings, at)?;
            for raw in entries::<RawPosting>(&block, self.postings, at) {
                if raw.group_lane.get() != wanted || found.len() == limit {
                    return Ok(found);
                }
                found.push((raw.version.get(), raw.place.get()));
                at += 1;
            }
        }
        Ok(found)
    }

    /// As [`OpenIndex::postings_before`].
    ///
    /// # Errors
    /// A bad block, or what the device says.
    pub fn postings_before(
        &self,
        group: u64,
        lane: u16,
        version: u64,
        limit: usize,
    ) -> Result<Vec<(u64, u32)>, IndexError> {
        let wanted = group_lane(group, lane);
        let mut end = self.lower_bound::<RawPosting>(self.postings, wanted, &|raw| {
            (raw.group_lane.get(), raw.version.get()) <= (wanted, version)
        })?;
        let mut found = Vec::new();
        while end > 0 && found.len() < limit {
            let start = (end - 1) / per_block::<RawPosting>() * per_block::<RawPosting>();
            let block = self.block_of::<RawPosting>(self.postings, start)?;
            let inside = entries::<RawPosting>(&block, self.postings, start);
            for raw in inside.iter().take(end - start).rev() {
                if raw.group_lane.get() != wanted || found.len() == limit {
                    return Ok(found);
                }
                found.push((raw.version.get(), raw.place.get()));
            }
            end = start;
        }
        Ok(found)
    }

    /// As [`OpenIndex::lanes_of_group`].
    ///
    /// # Errors
    /// A bad block, or what the device says.
    pub fn lanes_of_group(&self, group: u64) -> Result<SmallVec<[u16; 2]>, IndexError> {
        let mut found = SmallVec::new();
        let mut from = Some(group_lane(group, 0));
        while let Some(wanted) = from {
            let at = self.lower_bound::<RawPosting>(self.postings, wanted, &|raw| {
                raw.group_lane.get() < wanted
            })?;
            if at >= self.postings.count {
                break;
            }
            let block = self.block_of::<RawPosting>(self.postings, at)?;
            let row = entries::<RawPosting>(&block, self.postings, at).first();
            let Some(row) = row.map(|row| row.group_lane.get()) else { break };
            if row & !0xffff != group & !0xffff {
                break;
            }
            found.push((row & 0xffff) as u16);
            from = row.checked_add(1).filter(|next| next & !0xffff == group & !0xffff);
        }
        Ok(found)
    }

    /// As [`OpenIndex::key_places`].
    ///
    /// # Errors
    /// A bad block, or what the device says.
    pub fn key_places(&self, key: u64) -> Result<SmallVec<[u32; 2]>, IndexError> {
        let mut at = self.lower_bound::<RawKey>(self.keys, key, &|raw| raw.key.get() < key)?;
        let mut found = SmallVec::new();
        while at < self.keys.count {
            let block = self.block_of::<RawKey>(self.keys, at)?;
            for raw in entries::<RawKey>(&block, self.keys, at) {
                if raw.key.get() != key {
                    return Ok(found);
                }
                found.push(raw.place.get());
                at += 1;
            }
        }
        Ok(found)
    }

    /// Blocks of the file.
    ///
    /// # Errors
    /// What the device says.
    pub fn blocks(&self) -> Result<u64, IndexError> {
        let file = self.file.file().map_err(IndexError::io("open", &self.path))?;
        let length = file.len().map_err(IndexError::io("measure", &self.path))?;
        Ok(length / BLOCK_BYTES as u64)
    }

    /// First entry for which `less` is false; `less` holds for a prefix of the table, which is
    /// sorted by hashes first. Hashes are spread evenly, so the search begins where `hash` should
    /// lie, and doubles its steps from there (exponential search: Bentley and Yao, "An almost
    /// optimal algorithm for unbounded searching", 1976).
    fn lower_bound<T: Entry>(
        &self,
        table: Table,
        hash: u64,
        less: &dyn Fn(&T) -> bool,
    ) -> Result<usize, IndexError> {
        let blocks = blocks_for::<T>(table.count);
        let mut last_less = None;
        let mut begins_less = |number: usize| -> Result<bool, IndexError> {
            let start = number * per_block::<T>();
            let block = self.block_of::<T>(table, start)?;
            let is_less = entries::<T>(&block, table, start).first().is_some_and(less);
            if is_less {
                last_less = Some((start, block));
            }
            Ok(is_less)
        };
        // The answer lies in the last block whose first entry is less, or right behind it; there
        // are at least `low` such blocks, of which the last was looked at, and at most `high`.
        let (mut low, mut high, mut step) = (0, blocks, 1);
        let mut probe = ((u128::from(hash) * blocks as u128) >> 64) as usize;
        let upwards = probe < blocks && begins_less(probe)?;
        if upwards {
            low = probe + 1;
        } else {
            high = probe;
        }
        while low < high {
            probe = if upwards { low - 1 + step } else { high.saturating_sub(step) };
            if probe >= blocks {
                break;
            }
            let less = begins_less(probe)?;
            if less {
                low = probe + 1;
            } else {
                high = probe;
            }
            if less != upwards {
                break;
            }
            step *= 2;
        }
        while low < high {
            let middle = low.midpoint(high);
            if begins_less(middle)? {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        let Some((start, block)) = last_less else { return Ok(0) };
        Ok(start + entries::<T>(&block, table, start).partition_point(less))
    }

    /// The block with an entry of a table, out of the cache or verified.
    fn block_of<T: Entry>(&self, table: Table, at: usize) -> Result<Arc<Block>, IndexError> {
        let number = table.block + (at / per_block::<T>()) as u64;
        if let Some(block) = self.cache.get(self.number, number) {
            return Ok(block);
        }
        let block: Arc<Block> = Arc::from(self.block(number)?);
        self.cache.insert(self.number, number, &block);
        Ok(block)
    }

    /// A block as the file has it now, verified.
    pub(crate) fn block(&self, number: u64) -> Result<Box<Block>, IndexError> {
        let file = self.file.file().map_err(IndexError::io("open", &self.path))?;
        verified_block(&*file, &self.path, self.seed, number)
    }

    /// Shows everything that can be sought here, groups more than once perhaps. Reads the whole
    /// file past the cache.
    ///
    /// # Errors
    /// A bad block, or what the device says.
    pub fn for_each_sought(&self, visit: &mut dyn FnMut(Sought)) -> Result<(), IndexError> {
        let mut last_group = None;
        self.for_each_entry::<RawPosting>(self.postings, &mut |raw| {
            let group = raw.group_lane.get() & !0xffff;
            if last_group.replace(group) != Some(group) {
                visit(Sought::group(group));
            }
        })?;
        self.for_each_entry::<RawKey>(self.keys, &mut |raw| visit(Sought::key(raw.key.get())))
    }

    fn for_each_entry<T: Entry>(
        &self,
        table: Table,
        visit: &mut dyn FnMut(&T),
    ) -> Result<(), IndexError> {
        for block in 0..blocks_for::<T>(table.count) {
            let bytes = self.block(table.block + block as u64)?;
            entries::<T>(&bytes, table, block * per_block::<T>()).iter().for_each(&mut *visit);
        }
        Ok(())
    }
}

/// Lays the tables out in blocks with checksums.
fn encode(described: &Described, open: &OpenIndex) -> Vec<u8> {
    let postings = open.sorted_postings();
    let keys = open.sorted_keys();
    let lanes: Vec<_> = open.lanes().collect();

    let mut next_block = 1 + blocks_for::<RawLane>(lanes.len());
    let raw_lanes: Vec<RawLane> = lanes
        .iter()
        .map(|(lane, data)| {
            let block = next_block;
            next_block += blocks_for::<RawPlace>(data.places.len());
            RawLane {
                lane: (*lane).into(),
                zero: 0.into(),
                count: (data.places.len() as u32).into(),
                first: data.first.into(),
                block: (block as u32).into(),
                zero_2: 0.into(),
            }
        })
        .collect();
    let posting_block = next_block;
    let key_block = posting_block + blocks_for::<RawPosting>(postings.len());
    let term_block = key_block + blocks_for::<RawKey>(keys.len());
    let block_count = term_block + blocks_for::<RawTerm>(open.terms().len());
    let header = RawHeader {
        magic: MAGIC,
        version: FORMAT_VERSION.into(),
        bucket: described.bucket.into(),
        lane_count: (lanes.len() as u32).into(),
        database: *described.database.as_bytes(),
        segment: described.segment.into(),
        segment_bytes: described.segment_bytes.into(),
        first_index: described.first_index.into(),
        last_index: described.last_index.into(),
        last_term: described.last_term.into(),
        last_time_ns: described.last_time_ns.into(),
        previous_checksum: described.previous_checksum.into(),
        last_checksum: described.last_checksum.into(),
        posting_count: (postings.len() as u32).into(),
        posting_block: (posting_block as u32).into(),
        key_count: (keys.len() as u32).into(),
        key_block: (key_block as u32).into(),
        block_count: (block_count as u32).into(),
        term_count: (open.terms().len() as u32).into(),
    };

    let mut bytes = Vec::with_capacity(block_count * BLOCK_BYTES);
    let seed = index_seed(described.database, described.bucket, described.segment);
    put_rows(&mut bytes, seed, std::iter::once(&header));
    put_rows(&mut bytes, seed, raw_lanes.iter());
    for (_, data) in &lanes {
        let raw: Vec<RawPlace> =
            data.places.iter().map(|place| RawPlace((*place).into())).collect();
        put_rows(&mut bytes, seed, raw.iter());
    }
    let raw: Vec<RawPosting> = postings
        .iter()
        .map(|(group_lane, version, place)| RawPosting {
            group_lane: (*group_lane).into(),
            version: (*version).into(),
            place: (*place).into(),
        })
        .collect();
    put_rows(&mut bytes, seed, raw.iter());
    let raw: Vec<RawKey> = keys
        .iter()
        .map(|(key, place)| RawKey { key: (*key).into(), place: (*place).into() })
        .collect();
    put_rows(&mut bytes, seed, raw.iter());
    let raw: Vec<RawTerm> = open
        .terms()
        .iter()
        .map(|(index, term)| RawTerm { first_index: (*index).into(), term: (*term).into() })
        .collect();
    put_rows(&mut bytes, seed, raw.iter());
    debug_assert_eq!(bytes.len(), block_count * BLOCK_BYTES);
    bytes
}
