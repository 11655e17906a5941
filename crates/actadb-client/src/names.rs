//! How callers name streams and partitions.

use actadb_model::ids::{PartitionId, PartitionKey};
use actadb_model::names::StreamId;

use crate::error::Error;

/// A stream: its id, and its partition key if that is not the default one.
///
/// ```
/// use actadb_client::{PartitionKey, StreamRef, Uuid};
///
/// let by_default_key = StreamRef::from("order-1");
/// let customer = PartitionKey::new(Uuid::from_u128(7));
/// let beside_its_customer = StreamRef::from(("order-1", customer));
/// assert_ne!(by_default_key, beside_its_customer);
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct StreamRef {
    /// The stream's id.
    pub id: String,
    /// The partition key it was written under; `None` for the default one.
    pub partition_key: Option<PartitionKey>,
}

impl StreamRef {
    /// The key that picks the stream's partition.
    #[must_use]
    pub fn key(&self) -> PartitionKey {
        self.partition_key.unwrap_or_else(|| PartitionKey::of_stream(&self.id))
    }

    pub(crate) fn check(&self) -> Result<(), Error> {
        StreamId::new(&self.id).map(drop).map_err(Error::invalid)
    }
}

impl From<&str> for StreamRef {
    fn from(id: &str) -> Self {
        Self { id: id.to_owned(), partition_key: None }
    }
}

impl From<String> for StreamRef {
    fn from(id: String) -> Self {
        Self { id, partition_key: None }
    }
}

impl From<&String> for StreamRef {
    fn from(id: &String) -> Self {
        id.as_str().into()
    }
}

impl<S: Into<String>> From<(S, PartitionKey)> for StreamRef {
    fn from((id, key): (S, PartitionKey)) -> Self {
        Self { id: id.into(), partition_key: Some(key) }
    }
}

/// A partition, by its number or by a key that lies in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PartitionRef {
    /// The number.
    Id(PartitionId),
    /// A key.
    Key(PartitionKey),
}

impl PartitionRef {
    /// As the wire wants it.
    pub(crate) fn argument(self) -> String {
        match self {
            Self::Id(id) => id.to_string(),
            Self::Key(key) => key.to_string(),
        }
    }

    /// The number, in a database of so many partitions.
    pub(crate) fn id(self, partitions: u16) -> PartitionId {
        match self {
            Self::Id(id) => id,
            Self::Key(key) => PartitionId(key.hash16() % partitions.max(1)),
        }
    }
}

impl From<u16> for PartitionRef {
    fn from(id: u16) -> Self {
        Self::Id(PartitionId(id))
    }
}

impl From<PartitionId> for PartitionRef {
    fn from(id: PartitionId) -> Self {
        Self::Id(id)
    }
}

impl From<PartitionKey> for PartitionRef {
    fn from(key: PartitionKey) -> Self {
        Self::Key(key)
    }
}
