//! What a node tells the others of itself, again and again: nothing is decided by it but who gets
//! a lead.

use serde::{Deserialize, Serialize};

/// How a node is doing. JSON on the wire: fields may be added, and are ignored by who does not
/// know them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Report {
    /// Events per second that were committed in the buckets it leads.
    pub events_per_second: u64,
    /// Bytes that can still be allocated where its data lies, if that can be asked.
    pub free_bytes: Option<u64>,
    /// Its buckets that are closed or find no space: it can lead none of them.
    pub stuck_buckets: Vec<u16>,
}

impl Report {
    /// Whether it may be given a lead.
    #[must_use]
    pub fn may_lead(&self) -> bool {
        self.stuck_buckets.is_empty()
    }
}
