//! Messages between nodes.
//!
//! Nodes find each other by static addresses. Each node opens two [lanes](lane) to every other one,
//! long-lived streams that begin with a [handshake](handshake) and then carry [frames](frame) one
//! way: one for entries, and one for what must not wait behind them. A lane is bounded in bytes;
//! what finds no place is dropped, and the sender is told. Nothing is repeated here: consensus
//! repeats what matters, and everything else has a deadline.
//!
//! The lanes are those of the `mesh`, whatever carries them: libp2p for servers (the feature
//! `libp2p`, on by default: TCP, encrypted and authenticated by noise, multiplexed by yamux), or
//! plain TCP.
//!
//! Nothing is decided here either: who is let in is asked of [`Admission`](peers::Admission).
#![warn(missing_docs)]

pub mod frame;
pub mod handshake;
pub mod lane;
#[cfg(feature = "libp2p")]
pub mod libp2p_peers;
mod mesh;
mod patient;
pub mod peers;
pub mod sockets;
pub mod tcp_peers;
