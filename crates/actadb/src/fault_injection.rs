//! Breaking parts of a bucket on purpose, for tests of what a panic does.

use actadb_model::ids::PartitionId;

use crate::database::Database;
use crate::subscriptions::Subscription;

/// Which part of a bucket to break.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The actor of a partition.
    Partition(PartitionId),
    /// The segment writer actor of the bucket of a partition.
    SegmentWriter(PartitionId),
    /// The writer thread of the bucket of a partition.
    WriterThread(PartitionId),
}

impl Database {
    /// Makes a part panic.
    ///
    /// # Panics
    /// When there is no such part; the part itself panics in its own task or thread.
    pub async fn inject_panic(&self, part: Part) {
        use crate::segment_writer_actor::Panic;
        let writer = |partition| {
            let parts = self.bucket_of(partition).parts.as_ref();
            parts.map(|parts| parts.writer.clone()).unwrap_or_else(|| panic!("no such bucket"))
        };
        match part {
            Part::Partition(partition) => {
                let door = self.inner.doors[usize::from(partition.0)].as_ref();
                let actor = door.map(|door| door.actor.clone());
                let actor = actor.unwrap_or_else(|| panic!("no such partition"));
                let _ = actor.tell(crate::partition_actor::Panic).await;
            }
            Part::SegmentWriter(partition) => {
                let _ = writer(partition).tell(Panic::Actor).await;
            }
            Part::WriterThread(partition) => {
                let _ = writer(partition).tell(Panic::Thread).await;
            }
        }
    }
}

impl Subscription {
    /// Makes its actor panic.
    pub async fn inject_panic(&self) {
        let _ = self.handle.actor.tell(crate::subscription_actor::Panic).await;
    }
}
