//! The words of ActaDB as types.
//!
//! Everything above this crate speaks in these types: an [event](event::EventRef) belongs to a
//! [stream](names::StreamId) and lies in a [partition](ids::PartitionId); the events of one append
//! form a [`Transaction`](transaction::Transaction), which cannot be built unless it satisfies
//! every [limit](limits) and every id rule. A partition core turns it into a
//! [`Numbered`](numbered::Numbered) transaction, a replica core puts it into an
//! [`Entry`](entry::Entry) of a bucket's log.
//!
//! This crate knows nothing about bytes on disk, about IO or about a runtime: time is an argument
//! ([`Now`](time::Now)) and identity is a value.
#![warn(missing_docs)]

pub mod dice;
pub mod entry;
pub mod event;
pub mod ids;
pub mod keys;
pub mod limits;
pub mod names;
pub mod numbered;
pub mod outcome;
pub mod probe;
pub mod time;
pub mod transaction;
pub mod version;
