//! How a node finds its cluster.

use std::net::SocketAddr;
use std::sync::Arc;

pub use actadb_transport::handshake::{SECRET_MIN_BYTES, Secret};
#[cfg(feature = "libp2p")]
pub use actadb_transport::libp2p_peers::Libp2p;
pub use actadb_transport::peers::Network;
pub use actadb_transport::sockets::{Sockets, SystemSockets};
pub use actadb_transport::tcp_peers::Tcp;

/// Default of `cluster.catch_up_bytes_per_second`: what a disk and a network of today can spare.
pub const CATCH_UP_BYTES_PER_SECOND_DEFAULT: u64 = 100 << 20;

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
    /// How many bytes a second this node reads from its disk for nodes that are behind, all
    /// together; 0: as many as it can.
    pub catch_up_bytes_per_second: u64,
    /// What carries messages between nodes; the same kind on every node.
    pub network: Arc<dyn Network>,
}
