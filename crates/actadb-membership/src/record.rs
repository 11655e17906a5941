//! What nodes tell of themselves, and what is fixed when a cluster is born. Both are JSON on the
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
    /// The cluster it belongs to, if it has been formed as far as this node knows.
    pub cluster: Option<Uuid>,
    /// Where clients reach it.
    pub client_address: String,
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
