//! Blocks of sealed indexes that were read and verified before.
//!
//! A lookup in a sealed index reads a few blocks, each a system call and a checksum of 4 KiB; the
//! blocks of what is looked up often, and those that a search passes on its way, stay here.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use quick_cache::sync::Cache;

use crate::blocks::Block;
use crate::format::BLOCK_BYTES;

/// Names an open index file for as long as the process runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct FileNumber(u64);

impl FileNumber {
    /// A number that no other file has.
    pub(crate) fn next() -> Self {
        static LAST: AtomicU64 = AtomicU64::new(0);
        Self(LAST.fetch_add(1, Ordering::Relaxed))
    }
}

type Blocks = Cache<(FileNumber, u64), Arc<Block>>;

/// A cache of blocks, bounded in bytes. Clones share it. Nothing in it ever becomes wrong: an
/// index file never changes, and one that is built again is another file.
#[derive(Clone)]
pub struct BlockCache(Option<Arc<Blocks>>);

impl BlockCache {
    /// A cache that keeps up to so many bytes of blocks; with less than one block none at all.
    #[must_use]
    pub fn new(bytes: usize) -> Self {
        let blocks = bytes / BLOCK_BYTES;
        Self((blocks > 0).then(|| Arc::new(Cache::new(blocks))))
    }

    /// Bytes of the blocks in it.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.0.as_ref().map_or(0, |cache| cache.len() * BLOCK_BYTES)
    }

    pub(crate) fn get(&self, file: FileNumber, block: u64) -> Option<Arc<Block>> {
        self.0.as_ref()?.get(&(file, block))
    }

    pub(crate) fn insert(&self, file: FileNumber, number: u64, block: &Arc<Block>) {
        if let Some(cache) = &self.0 {
            cache.insert((file, number), block.clone());
        }
    }
}

impl std::fmt::Debug for BlockCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "BlockCache({} bytes)", self.bytes())
    }
}
