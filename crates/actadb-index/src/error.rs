//! Why an index could not answer.

use std::io;
use std::path::{Path, PathBuf};

/// Why a sealed index could not answer, or could not be made.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    /// The device said no.
    #[error("{what} {}: {source}", path.display())]
    Io {
        /// The attempt, as a verb.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What the device said.
        source: io::Error,
    },
    /// The file is not a good index: it must be rebuilt from its segment.
    #[error("{} at byte {offset}: {what}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Byte in the file.
        offset: u64,
        /// What is wrong.
        what: &'static str,
    },
}

impl IndexError {
    /// Whether the read was made [without waiting](actadb_disk::no_wait) and would have to wait.
    #[must_use]
    pub fn would_wait(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::WouldBlock)
    }

    /// What the device said to an attempt, given as a verb.
    pub fn io(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { what, path, source }
    }
}
