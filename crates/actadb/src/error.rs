//! Why the embedded API could not do what was asked.

use actadb_model::outcome::ClosedReason;
use actadb_store::error::ReadError as StoreError;

/// Why a database could not be opened. Damage in one bucket does not keep the others from opening:
/// see [`Status`](crate::status::Status).
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Options that contradict each other or a limit.
    #[error("{0}")]
    Options(String),
    /// The directory.
    #[error(transparent)]
    Store(#[from] actadb_store::error::OpenError),
    /// This node cannot be one of its cluster.
    #[error("{0}")]
    Cluster(String),
    /// A thread could not be started.
    #[error("cannot start a thread: {0}")]
    Thread(std::io::Error),
}

/// Why a read was not answered. Never a shorter answer instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// There is no such partition.
    #[error("partition {partition} does not exist (0 to {last})")]
    NoSuchPartition {
        /// The number asked for.
        partition: u16,
        /// The highest there is.
        last: u16,
    },
    /// Stored data is damaged.
    #[error("{0}")]
    Corrupt(String),
    /// The device said no.
    #[error("{0}")]
    Failed(String),
    /// The database is being stopped.
    #[error("the server is stopping")]
    Stopping,
    /// A majority of the nodes did not answer in time.
    #[error("no majority of the nodes answers; try again")]
    NoQuorum,
    /// This node does not yet know what it had shown before its start, or what it told a client
    /// since.
    #[error("this node is catching up; try again")]
    CatchingUp,
    /// The bucket did not open.
    #[error("bucket {bucket} is closed: {reason}")]
    Closed {
        /// The bucket.
        bucket: u16,
        /// Why.
        reason: ClosedReason,
    },
}

impl From<StoreError> for ReadError {
    fn from(error: StoreError) -> Self {
        let text = error.to_string();
        match error {
            StoreError::Damaged(_) | StoreError::Disagree { .. } => Self::Corrupt(text),
            StoreError::Index(actadb_store::error::IndexError::Damaged { .. }) => {
                Self::Corrupt(text)
            }
            StoreError::Index(_) | StoreError::Log(_) | StoreError::TooManyOwners { .. } => {
                Self::Failed(text)
            }
        }
    }
}
