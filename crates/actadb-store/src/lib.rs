//! One bucket on disk.
//!
//! - [`record`] alone knows how a transaction lies in an entry.
//! - [`rows`] are what an index must know of an entry.
//! - [`writer::BucketWriter`] holds the files; it blocks and lives in the writer thread.
//! - [`publisher::Publisher`] is memory: it puts committed entries into the tail and the open
//!   index, and only then moves the watermarks.
//! - [`reader::Reader`] is cloneable and blocking; it answers from the tail, the indexes and the
//!   segment files, never above a watermark.
//! - [`open`] puts the three together from a directory, [`meta`] knows whose directory it is, and
//!   [`check`] walks a stopped store; [`repair`] mends it; [`scrub`] reads a running one again.
//!   What is verified is in [`verify`], once for all of them.
//!
//! Nothing here knows versions' rules, replicas or threads.

pub mod check;
pub mod entries;
pub mod error;
pub mod facts;
mod fetch;
mod filters;
pub mod follow;
pub mod hashes;
pub mod loss;
pub mod meta;
pub mod open;
pub mod publisher;
pub mod reader;
pub mod record;
pub mod records;
pub mod repair;
pub mod rows;
pub mod scrub;
pub mod segments;
pub mod tail;
mod varint;
pub mod verify;
pub mod walk;
pub mod writer;
