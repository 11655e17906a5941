//! The log of one bucket: opaque entries in segment files.
//!
//! One entry is one frame: a header with checksums, chained to the frame before it, and a body
//! this crate does not look into (except for the sixteen bytes at the head of a batch, which say
//! what was known to be durable). Frames lie one behind the other in segment files of a fixed
//! size; zeros mean the end of the log. The layout is in [`format`](mod@format), byte for byte as
//! `docs/FORMAT.md` tells it.
//!
//! - [`writer`] appends frames, allocates ahead and rolls to the next segment.
//! - [`scan`] reads frames back and knows a good one from a bad one.
//! - [`recover`] decides, after a crash, where the log ends, and makes what it keeps durable
//!   before anyone is shown it.
//! - [`truncate`] takes back what was written and is not committed.
//! - [`slots`] keeps the few words about a bucket that are not in its log, twice.

pub mod error;
pub mod format;
pub mod recover;
pub mod scan;
pub mod segment;
pub mod slots;
pub mod truncate;
pub mod writer;
