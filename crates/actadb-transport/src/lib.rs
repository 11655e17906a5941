//! Messages between nodes.
//!
//! Nodes find each other by static addresses and speak libp2p: TCP, encrypted and authenticated by
//! noise, multiplexed by yamux. Each node opens one [lane](lane) to every other one, a long-lived
//! stream that begins with a [handshake](handshake) and then carries [frames](frame) one way. A
//! lane is bounded in bytes; what finds no place is dropped, and the sender is told. Nothing is
//! repeated here: consensus repeats what matters, and everything else has a deadline.
//!
//! Nothing is decided here either: who is let in is asked of [`Admission`](peers::Admission).
#![warn(missing_docs)]

pub mod frame;
pub mod handshake;
pub mod lane;
pub mod libp2p_peers;
pub mod peers;
