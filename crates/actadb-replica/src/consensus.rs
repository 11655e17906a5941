//! Who decides that an entry is committed.
//!
//! A group with one voter: it leads from the start, in the term its slot remembers, and its own
//! disk is the quorum. Entries carry term and index all the same, so that a consensus engine among
//! several voters replaces this file and no format.

use actadb_model::entry::{Entry, EntryKind};
use bytes::Bytes;

#[derive(Debug)]
pub(crate) struct Consensus {
    term: u64,
    last_index: u64,
    committed: u64,
    /// Commit at the write instead of the sync.
    commit_when_written: bool,
}

impl Consensus {
    /// Takes over a log of which everything is durable, and therefore committed.
    pub(crate) fn new(term: u64, last_index: u64, commit_when_written: bool) -> Self {
        Self { term, last_index, committed: last_index, commit_when_written }
    }

    pub(crate) fn term(&self) -> u64 {
        self.term
    }

    /// Puts a body into the next entry.
    pub(crate) fn append(&mut self, kind: EntryKind, body: Bytes) -> Entry {
        self.last_index += 1;
        Entry { term: self.term, index: self.last_index, kind, body }
    }

    /// Whether an entry that is written, and synced or not, is committed now and was not before.
    pub(crate) fn commits(&mut self, index: u64, synced: bool) -> bool {
        let newly = (synced || self.commit_when_written) && index > self.committed;
        if newly {
            assert_eq!(index, self.committed + 1, "entries commit in order");
            self.committed = index;
        }
        newly
    }
}
