//! What the rest of the house knows of the network.

use std::fmt::Debug;

use actadb_membership::record::{Hello, Record};

use crate::frame::Frame;

/// Sends to other nodes. Implemented by libp2p for servers.
pub trait PeerTransport: Send + Sync + Debug {
    /// Hands a frame to the lane of a node; answers `false`, and drops it, when there is no
    /// connection or no place.
    #[must_use]
    fn send(&self, node: u8, frame: Frame) -> bool;

    /// Whether there is a connection to a node.
    fn is_connected(&self, node: u8) -> bool;
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
    /// Its lane broke; frames to it are dropped until it is connected again.
    Lost(u8),
    /// A frame from a node that was let in.
    Frame(u8, Frame),
}
