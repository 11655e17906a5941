//! Why the store could not open or read.

use actadb_disk::disk::is_no_room;
pub use actadb_index::error::IndexError;
use actadb_log::error::{Damage, LogError};
use actadb_model::outcome::ClosedReason;

/// Why a database directory could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The log, a slot or the meta file.
    #[error(transparent)]
    Log(#[from] LogError),
    /// A newer program wrote a record.
    #[error("{0}")]
    NewerRecord(Damage),
    /// An index could not be written.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// Another process has the directory.
    #[error("{0} is in use by another process")]
    Locked(String),
    /// The directory was made with other counts.
    #[error(
        "{key} is {wanted} in the configuration, but this database was made with {found}: \
         it is fixed for a database's life"
    )]
    Fixed {
        /// The configuration key.
        key: &'static str,
        /// What the configuration wants.
        wanted: u64,
        /// What the database has.
        found: u64,
    },
    /// Segments without the file that says whose they are.
    #[error("{0} holds data but no meta file; restore it from a backup of the directory")]
    NoMeta(String),
    /// The directory does not hold a database.
    #[error("{0} holds no database")]
    NotADatabase(String),
}

impl OpenError {
    /// Whether a newer program has written what cannot be read.
    #[must_use]
    pub fn is_newer_format(&self) -> bool {
        matches!(self, Self::Log(LogError::NewerFormat { .. }) | Self::NewerRecord(_))
    }

    /// Whether what was acknowledged is not as it was; else the device said no.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        match self {
            Self::Log(LogError::Io { .. }) | Self::NewerRecord(_) => false,
            Self::Index(error) => !matches!(error, IndexError::Io { .. }),
            _ => true,
        }
    }

    /// Whether the device only lacked space.
    #[must_use]
    pub fn is_no_room(&self) -> bool {
        match self {
            Self::Log(error) => error.is_no_room(),
            Self::Index(IndexError::Io { source, .. }) => is_no_room(source),
            _ => false,
        }
    }
}

impl From<Damage> for OpenError {
    fn from(damage: Damage) -> Self {
        Self::Log(damage.into())
    }
}

/// Why a read could not be answered. Never a shorter answer.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// A record is damaged.
    #[error("{0}; reads of the rest go on; run `actadb check`")]
    Damaged(Damage),
    /// An index is damaged or cannot be read.
    #[error("{0}; stop the server, delete the index file and start: it is rebuilt")]
    Index(#[from] IndexError),
    /// The device said no.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The event ids asked for belong to more than is loaded at once.
    #[error(
        "the event ids belong to transactions of more than {limit_bytes} bytes together; \
         send fewer appends at once"
    )]
    TooManyOwners {
        /// What is loaded at once.
        limit_bytes: usize,
    },
    /// The index and the log tell different things.
    #[error("index and log of bucket {bucket} disagree: {what}; run `actadb check`")]
    Disagree {
        /// The bucket.
        bucket: u16,
        /// About what.
        what: String,
    },
}

impl ReadError {
    /// Whether the read was made [without waiting](actadb_disk::no_wait) and would have to wait.
    #[must_use]
    pub fn would_wait(&self) -> bool {
        match self {
            Self::Index(error) => error.would_wait(),
            Self::Log(LogError::Io { source, .. }) => {
                source.kind() == std::io::ErrorKind::WouldBlock
            }
            _ => false,
        }
    }

    /// Why a bucket that cannot read what it has committed must close: what others hold it can
    /// neither lead nor vouch for. `None` when the process lacked something and the next read may
    /// go well.
    #[must_use]
    pub fn closes(&self) -> Option<ClosedReason> {
        use std::io::ErrorKind::{Interrupted, OutOfMemory, WouldBlock};
        let what = self.to_string();
        match self {
            Self::Log(LogError::Io { source, .. }) | Self::Index(IndexError::Io { source, .. }) => {
                let passes = matches!(source.kind(), Interrupted | OutOfMemory | WouldBlock)
                    || is_no_room(source);
                (!passes).then_some(ClosedReason::DiskFailed(what))
            }
            Self::TooManyOwners { .. } => None,
            _ => Some(ClosedReason::Corrupt(what)),
        }
    }
}

impl From<Damage> for ReadError {
    fn from(damage: Damage) -> Self {
        Self::Damaged(damage)
    }
}
