//! Partition keys, partitions, buckets, and how an id names its partition.

use std::fmt;

use sha1::{Digest, Sha1};
use uuid::{Builder, Uuid};

use crate::limits::{BUCKETS_MAX, PARTITIONS_MAX};
use crate::names::StreamId;

/// Namespace of the UUIDv5 that is a stream's default partition key (the value SierraDB uses, so
/// that its clients compute the same keys).
pub const STREAM_NAMESPACE: Uuid = Uuid::from_u128(0x219bd637_e279_53e9_9e2b_eabe5d9120cc);

/// Position of the embedded hash: the sixteen bits below the variant of a UUID.
const HASH_SHIFT: u32 = 46;

/// The 16 bits of a UUID that choose its partition.
///
/// ```
/// let key = actadb_model::ids::PartitionKey::of_stream("s");
/// assert_eq!(actadb_model::ids::hash16(key.uuid()), 38700);
/// ```
#[must_use]
pub fn hash16(id: Uuid) -> u16 {
    ((id.as_u128() >> HASH_SHIFT) & 0xffff) as u16
}

/// `id` with its embedded hash replaced by `hash`.
#[must_use]
pub fn with_hash16(id: Uuid, hash: u16) -> Uuid {
    let mask = 0xffff_u128 << HASH_SHIFT;
    Uuid::from_u128((id.as_u128() & !mask) | (u128::from(hash) << HASH_SHIFT))
}

/// The UUID whose embedded hash picks the partition of a transaction.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PartitionKey(Uuid);

impl PartitionKey {
    /// Any UUID is a partition key.
    #[must_use]
    pub const fn new(uuid: Uuid) -> Self {
        Self(uuid)
    }

    /// The default key of a stream: the UUIDv5 of its id in [`STREAM_NAMESPACE`].
    #[must_use]
    pub fn of_stream(stream: &str) -> Self {
        let namespace = STREAM_NAMESPACE.as_bytes();
        let hash = Sha1::new().chain_update(namespace).chain_update(stream).finalize();
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&hash[..16]);
        Self(Builder::from_sha1_bytes(bytes).into_uuid())
    }

    /// The key as a UUID.
    #[must_use]
    pub const fn uuid(self) -> Uuid {
        self.0
    }

    /// The bits that choose the partition.
    #[must_use]
    pub fn hash16(self) -> u16 {
        hash16(self.0)
    }

    /// Whether this is the default key of `stream`.
    #[must_use]
    pub fn is_default_of(self, stream: &StreamId) -> bool {
        self == Self::of_stream(stream.as_str())
    }
}

impl fmt::Display for PartitionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for PartitionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Number of a partition, 0 to the partition count less one.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct PartitionId(pub u16);

impl fmt::Display for PartitionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Number of a bucket, 0 to the bucket count less one.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct BucketId(pub u16);

impl fmt::Display for BucketId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// How keys map to partitions and partitions to buckets; fixed for a database's life.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Partitioning {
    partitions: u16,
    buckets: u16,
}

/// Counts that no database can have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadPartitioning {
    /// The partition count is out of range.
    #[error("partition.count must be 1 to {PARTITIONS_MAX}, got {0}")]
    Partitions(u16),
    /// The bucket count is out of range.
    #[error(
        "bucket.count must be 1 to {BUCKETS_MAX} and at most partition.count ({partitions}), \
         got {buckets}"
    )]
    Buckets {
        /// The count of buckets asked for.
        buckets: u16,
        /// The count of partitions asked for.
        partitions: u16,
    },
}

impl Partitioning {
    /// Checks the counts.
    ///
    /// # Errors
    /// When a count is 0 or too large, or there are more buckets than partitions.
    pub fn new(partitions: u16, buckets: u16) -> Result<Self, BadPartitioning> {
        if partitions == 0 || partitions > PARTITIONS_MAX {
            return Err(BadPartitioning::Partitions(partitions));
        }
        if buckets == 0 || buckets > BUCKETS_MAX || buckets > partitions {
            return Err(BadPartitioning::Buckets { buckets, partitions });
        }
        Ok(Self { partitions, buckets })
    }

    /// Number of partitions.
    #[must_use]
    pub fn partitions(self) -> u16 {
        self.partitions
    }

    /// Number of buckets.
    #[must_use]
    pub fn buckets(self) -> u16 {
        self.buckets
    }

    /// The partition a hash falls into.
    #[must_use]
    pub fn partition_of_hash(self, hash: u16) -> PartitionId {
        PartitionId(hash % self.partitions)
    }

    /// The partition of a key.
    #[must_use]
    pub fn partition_of(self, key: PartitionKey) -> PartitionId {
        self.partition_of_hash(key.hash16())
    }

    /// The bucket that holds a partition.
    #[must_use]
    pub fn bucket_of(self, partition: PartitionId) -> BucketId {
        BucketId(partition.0 % self.buckets)
    }

    /// Whether the partition exists.
    #[must_use]
    pub fn contains(self, partition: PartitionId) -> bool {
        partition.0 < self.partitions
    }

    /// All partitions of one bucket, ascending.
    pub fn partitions_of(self, bucket: BucketId) -> impl Iterator<Item = PartitionId> {
        (bucket.0..self.partitions).step_by(usize::from(self.buckets)).map(PartitionId)
    }

    /// All buckets, ascending.
    pub fn all_buckets(self) -> impl Iterator<Item = BucketId> {
        (0..self.buckets).map(BucketId)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_key_of_s_is_the_documented_one() {
        let key = PartitionKey::of_stream("s");
        assert_eq!(key.to_string(), "b5caaf75-d5ce-5289-a5cb-29de88f7c202");
        assert_eq!(key.hash16(), 38700);
        let layout = Partitioning::new(32, 4).expect("valid");
        assert_eq!(layout.partition_of(key), PartitionId(12));
        assert_eq!(layout.bucket_of(PartitionId(12)), BucketId(0));
    }

    #[test]
    fn default_keys_are_uuids_of_version_five() {
        for stream in ["", "x", "account-4711", &"ä".repeat(100)] {
            let wanted = Uuid::new_v5(&STREAM_NAMESPACE, stream.as_bytes());
            assert_eq!(PartitionKey::of_stream(stream).uuid(), wanted, "{stream}");
        }
    }

    #[test]
    fn a_hash_put_in_is_read_back_and_nothing_else_changes() {
        let id = Uuid::from_u128(u128::MAX);
        let changed = with_hash16(id, 0x1234);
        assert_eq!(hash16(changed), 0x1234);
        assert_eq!(with_hash16(changed, 0xffff), id);
    }

    #[test]
    fn counts_out_of_range_are_refused() {
        assert!(Partitioning::new(0, 1).is_err());
        assert!(Partitioning::new(4, 8).is_err());
        assert!(Partitioning::new(4, 0).is_err());
        assert!(Partitioning::new(4097, 1).is_err());
    }

    #[test]
    fn every_partition_is_in_exactly_one_bucket() {
        let layout = Partitioning::new(32, 5).expect("valid");
        let mut seen: Vec<u16> =
            layout.all_buckets().flat_map(|b| layout.partitions_of(b)).map(|p| p.0).collect();
        seen.sort_unstable();
        assert_eq!(seen, (0..32).collect::<Vec<_>>());
    }
}
