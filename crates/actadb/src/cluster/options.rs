//! How a node finds its cluster.

use std::net::SocketAddr;
use std::sync::Arc;

pub use actadb_transport::handshake::{SECRET_MIN_BYTES, Secret};
#[cfg(feature = "libp2p")]
pub use actadb_transport::libp2p_peers::Libp2p;
pub use actadb_transport::peers::Network;
pub use actadb_transport::sockets::{Sockets, SystemSockets};
pub use actadb_transport::tcp_peers::Tcp;

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
    /// What carries messages between nodes; the same kind on every node.
    pub network: Arc<dyn Network>,
}
