//! Who belongs to a cluster. Pure: no IO, no clock, nothing waits.
//!
//! A [static cluster](members::Members) is born once: node 0 waits until it has heard of every
//! other node, draws the cluster's id and writes down the storage of each
//! ([`record::Record`]) before any of them takes an entry. From then on a storage that is not the
//! one written down is refused: a wiped disk has forgotten its votes and what it acknowledged, and
//! must never come back as the replica it was. Each start raises a counter and draws a number, and
//! who has seen a higher start, or one that is not in the history of the present one, refuses. That
//! tells two processes from one, and an old directory from a new one; a copy that was made after
//! the last start, and is started in the node's place, looks like the node itself.
#![warn(missing_docs)]

pub mod balance;
pub mod members;
pub mod record;
pub mod report;
