//! One bucket's consensus and group commit. Pure: no IO, no clock, nothing waits.
//!
//! The [core](core::ReplicaCore) takes proposals, closes them into entries, and asks for
//! [work](message::Work) on the disk, one piece at a time: what arrives meanwhile is the next
//! entry. Group commit needs no timer. [Consensus](consensus) says who leads and what is committed,
//! and what the [replicas of a group](peer) say to each other; the group of a single node has one
//! voter, whose own disk is the quorum, on the same path.

mod admission;
pub mod consensus;
pub mod core;
pub mod message;
pub mod peer;
mod plan;
mod reads;
mod room;
pub mod terms;
mod work;
