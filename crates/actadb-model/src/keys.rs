//! What a decision needs to know, and what the committed state says about it.

use std::sync::Arc;
use uuid::Uuid;

use crate::ids::{PartitionId, PartitionKey};
use crate::names::StreamId;
use crate::numbered::Numbered;

/// The keys a partition core asks the committed state for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Keys {
    /// Streams whose head is wanted.
    pub streams: Vec<StreamId>,
    /// Event ids that may be taken.
    pub event_ids: Vec<Uuid>,
}

impl Keys {
    /// Whether nothing is asked.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.streams.is_empty() && self.event_ids.is_empty()
    }
}

/// What the committed state says about a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StreamFact {
    /// No partition of this node has it.
    Absent,
    /// It lives in this partition.
    Head {
        /// Its latest version.
        version: u64,
        /// The key of its first event.
        partition_key: PartitionKey,
    },
    /// This partition does not have it, but another one does.
    Elsewhere {
        /// The partition that has it.
        partition: PartitionId,
        /// Its key there.
        partition_key: PartitionKey,
    },
}

/// The answer to [`Keys`], in the same order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// One per stream asked for.
    pub streams: Vec<(StreamId, StreamFact)>,
    /// One per event id asked for: the committed transaction that has it.
    pub event_ids: Vec<(Uuid, Option<Arc<Numbered>>)>,
}
