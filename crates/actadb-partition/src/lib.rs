//! One partition's decisions. Pure: no IO, no clock, no dice of its own, nothing waits.
//!
//! The [core](core::PartitionCore) takes [inputs](message::Input) and gives
//! [outputs](message::Output); every output is safe to perform the moment it appears. An append is
//! checked against the partition's heads and event ids, numbered and proposed; its answer is
//! [held](held) until the replica core says that it is committed. A *bad* answer is held too when
//! it rests on something that is not yet committed: a version conflict with an event that may
//! still vanish must not be told.
//!
//! What the core does not know (a head that is not cached, an event id that may be taken) it asks
//! for, once per key; the append is [parked](parking) meanwhile, behind earlier appends of its
//! connection and behind any that shares a key with it. Others overtake.

pub mod core;
mod decide;
mod heads;
mod held;
mod id_generator;
pub mod message;
mod parking;
