//! What the rest of the house knows of the network.

use std::fmt::Debug;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use actadb_membership::record::{Hello, Record};
use tokio::sync::mpsc;

use crate::frame::Frame;
use crate::handshake::Secret;
use crate::lane::LaneKind;

/// Sends to other nodes.
pub trait PeerTransport: Send + Sync + Debug {
    /// Hands a frame to a lane of a node; answers `false`, and drops it, when there is no
    /// connection or no place. Frames of one lane arrive in order.
    #[must_use]
    fn send(&self, node: u8, lane: LaneKind, frame: Frame) -> bool;

    /// Whether every frame that was handed to lanes of this kind is on its way, or was dropped.
    fn is_idle(&self, lane: LaneKind) -> bool;

    /// Closes all lanes, both ways, and opens none any more.
    fn close(&self);

    /// Whether there is a connection to a node.
    fn is_connected(&self, node: u8) -> bool;

    /// How far a node's clock is ahead of this one's, in milliseconds, as it said last: too little
    /// by the time that took to arrive. `None` without a connection.
    fn clock_ahead_ms(&self, node: u8) -> Option<i64>;
}

/// A kind of network: libp2p for servers, plain TCP for tests, measurements and simulated networks.
pub trait Network: Send + Sync + Debug {
    /// A new key, to be kept: it is who a node is. Empty where nodes have none.
    fn new_identity(&self) -> Vec<u8>;

    /// Listens, and connects to every other node, again and again.
    fn start(&self, settings: Settings) -> Starting;
}

/// A network that is being started.
pub type Starting = Pin<Box<dyn Future<Output = Result<Started, StartError>> + Send>>;

/// A network that runs until `peers` is dropped.
#[derive(Debug)]
pub struct Started {
    /// The other nodes.
    pub peers: Arc<dyn PeerTransport>,
    /// What comes from them.
    pub events: mpsc::Receiver<PeerEvent>,
    /// Where this node listens: the port is known now, if it was 0.
    pub listens_on: SocketAddr,
}

/// How to reach the others, and how to be reached.
#[derive(Debug)]
pub struct Settings {
    /// This node's key, as [`Network::new_identity`] made it.
    pub identity: Vec<u8>,
    /// This node's number.
    pub node: u8,
    /// Where to listen.
    pub listen: SocketAddr,
    /// `host:port` of every node, by number; this node's own is not used.
    pub peers: Vec<String>,
    /// What every node of the cluster knows.
    pub secret: Secret,
    /// Who is let in.
    pub admission: Arc<dyn Admission>,
}

/// Why the network could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The key is not one.
    #[error("the node's key is damaged: {0}")]
    Identity(String),
    /// The address cannot be listened on.
    #[error("cannot listen for other nodes on {address}: {what}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        what: String,
    },
}

/// Who is let in. Asked for each lane, of both sides.
pub trait Admission: Send + Sync + Debug {
    /// How this node introduces itself now.
    fn introduce(&self) -> (Hello, Option<Record>);

    /// Another node introduces itself.
    ///
    /// # Errors
    /// Why it is not let in, in words for an operator of either node.
    fn admit(&self, hello: &Hello, record: Option<&Record>) -> Result<(), String>;
}

/// What comes from the network.
#[derive(Debug)]
pub enum PeerEvent {
    /// A node's introduction was taken; frames to it may be sent.
    Connected(u8),
    /// A lane to it broke; frames to it are dropped until it is connected again.
    Lost(u8),
    /// A frame from a node that was let in.
    Frame(u8, Frame),
}
