//! Key to place, for one segment: [open](open::OpenIndex) in memory while the segment grows,
//! [sealed](sealed::SealedIndex) in a file when it is full.
//!
//! Keys are opaque: three kinds of them cover what a store asks.
//!
//! | kind | key | answers |
//! |---|---|---|
//! | lane | lane, sequence | the place; sequences of a lane have no gaps |
//! | posting | group, lane, version | places of a version, or of the versions next to it |
//! | key | 64 bits | places |
//!
//! Groups and keys are hashes: two different things may share one, so every answer is a list of
//! *candidates*, to be compared with what stands at the place. An index is never the truth: it can
//! be deleted and is rebuilt from its segment.

pub mod audit;
pub mod block_cache;
mod blocks;
pub mod error;
pub mod filter;
pub mod format;
pub mod open;
pub mod sealed;
mod shards;
