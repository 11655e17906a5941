//! What can go wrong with a log, told apart by what an operator does about it.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// Damage to what was acknowledged, with its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The file.
    pub file: PathBuf,
    /// Byte in the file.
    pub offset: u64,
    /// What is wrong there.
    pub what: String,
}

impl Damage {
    /// Damage at a place.
    #[must_use]
    pub fn new(file: &Path, offset: u64, what: impl Into<String>) -> Self {
        Self { file: file.to_owned(), offset, what: what.into() }
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at byte {}: {}", self.file.display(), self.offset, self.what)
    }
}

/// The attempt whose failure is always final.
pub const SYNC: &str = "sync";

/// Why a log operation failed.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The device said no.
    #[error("{what} {}: {source}", path.display())]
    Io {
        /// The attempt, as a verb: `write`, `sync` …
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What the device said.
        source: io::Error,
    },
    /// What was acknowledged is damaged.
    #[error("{0}")]
    Damaged(Damage),
    /// Part of the file was written by a newer ActaDB.
    #[error(
        "{} has format version {found}; this actadb reads up to version {known}: \
         use a newer actadb", path.display()
    )]
    NewerFormat {
        /// The file.
        path: PathBuf,
        /// The version it has.
        found: u16,
        /// The newest version this program knows.
        known: u16,
    },
    /// The file belongs to another database or bucket.
    #[error("{} belongs to {found}, expected {expected}", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// Whose it is.
        found: String,
        /// Whose it should be.
        expected: String,
    },
}

impl LogError {
    /// Wraps what the device said about a file.
    pub fn io(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { what, path, source }
    }

    /// Whether the device only lacked space: the same operation may succeed later. Never of a
    /// sync: whatever it says, what was written may be lost, and no later sync would tell.
    #[must_use]
    pub fn is_no_room(&self) -> bool {
        matches!(
            self,
            Self::Io { what, source, .. }
                if *what != SYNC && actadb_disk::disk::is_no_room(source)
        )
    }
}

impl From<Damage> for LogError {
    fn from(damage: Damage) -> Self {
        Self::Damaged(damage)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_may_be_tried_again_and_a_failed_sync_never() {
        let full = |what| LogError::Io {
            what,
            path: PathBuf::from("f"),
            source: io::ErrorKind::StorageFull.into(),
        };
        assert!(full("write").is_no_room());
        assert!(full("allocate").is_no_room());
        assert!(!full(SYNC).is_no_room());
    }
}
