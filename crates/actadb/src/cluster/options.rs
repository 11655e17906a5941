//! How a node finds its cluster.

use std::net::SocketAddr;

pub use actadb_transport::handshake::{SECRET_MIN_BYTES, Secret};

/// A node of a static cluster. The same on every node, but for `node` and the addresses.
#[derive(Clone, Debug)]
pub struct ClusterOptions {
    /// This node's number, from 0.
    pub node: u8,
    /// `host:port` of every node for the other nodes, by number; as many as there are nodes, at
    /// least 2.
    pub peers: Vec<String>,
    /// Where this node listens for the others.
    pub listen: SocketAddr,
    /// What every node knows and nobody else.
    pub secret: Secret,
    /// Where clients reach this node, as the others tell it.
    pub client_address: String,
}
