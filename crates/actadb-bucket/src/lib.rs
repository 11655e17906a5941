//! One bucket's parts put together, for whoever drives them.
//!
//! A bucket has one [`WriterSide`](writer_side::WriterSide) (replica core and publisher) and one
//! [`PartitionSide`](partition_side::PartitionSide) per partition (partition core and record
//! encoding). They talk over two queues, in order each way, and never wait for each other.
//! Whatever has a rule lives here or below: the actor shell and the simulator are two drivers of
//! the same sides, so they cannot disagree. A driver carries messages, performs
//! [jobs](job::perform) on the bucket's files, and has no ordering rule left to get wrong.

pub mod job;
pub mod partition_side;
pub mod writer_side;
