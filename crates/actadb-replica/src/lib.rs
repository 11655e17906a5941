//! One bucket's consensus and group commit. Pure: no IO, no clock, nothing waits.
//!
//! The [core](core::ReplicaCore) takes proposals, closes them into entries, and asks for
//! [work](message::Work) on the disk, one piece at a time: what arrives meanwhile is the next
//! entry. Group commit needs no timer. An entry is committed when [`consensus`] says so; the group
//! of a single node has one voter, whose own disk is the quorum.

mod consensus;
pub mod core;
pub mod message;
mod room;
