//! What nodes tell of themselves, and what is fixed when a cluster is born. All are JSON on the
//! wire and on disk: fields may be added, and are ignored by who does not know them.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Version of the protocol between nodes.
pub const PROTOCOL_VERSION: u16 = 1;

/// What must be the same on all nodes, for the database's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shape {
    /// Nodes of the cluster.
    pub nodes: u8,
    /// `partition.count`.
    pub partitions: u16,
    /// `bucket.count`.
    pub buckets: u16,
    /// `segment.size_bytes`.
    pub segment_bytes: u64,
}

/// A node introduces itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Version of the protocol it speaks.
    pub protocol: u16,
    /// Version of its program, for people.
    pub version: String,
    /// Its number, from 0.
    pub node: u8,
    /// What it was told about the cluster.
    pub shape: Shape,
    /// Names its storage; drawn when its directory was made.
    pub storage: Uuid,
    /// Raised at each start.
    pub boot: u64,
    /// Drawn at each start.
    pub process: u64,
    /// What was drawn at the last starts of this storage, up to [`HISTORY_MAX`] of them, this one
    /// last: shows that it descends from a start that somebody saw.
    #[serde(default)]
    pub history: Vec<u64>,
    /// The cluster it belongs to, if it has been formed as far as this node knows.
    pub cluster: Option<Uuid>,
    /// Where clients reach it.
    pub client_address: String,
}

/// Starts that a node remembers.
pub const HISTORY_MAX: usize = 64;

/// A start of a node that another one has seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Start {
    /// Which one; 0 of a node that was never seen.
    pub boot: u64,
    /// What it had drawn.
    pub process: u64,
}

/// What is fixed when a cluster is born.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The cluster's id: the id of its database.
    pub cluster: Uuid,
    /// What all nodes share.
    pub shape: Shape,
    /// The storage of each node, by number.
    pub storages: Vec<Uuid>,
}
