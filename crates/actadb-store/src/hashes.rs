//! Hashes of stream ids and event ids, as the indexes keep them: XXH3, which has a published
//! definition and therefore may stand on disk.

use actadb_model::ids::PartitionId;
use uuid::Uuid;
use xxhash_rust::xxh3::{xxh3_64_with_seed, xxh3_128_with_seed};

/// The only namespace until there are several; part of every key.
pub const DEFAULT_NAMESPACE: u32 = 0;

/// Hash of a stream id: a group of the index. Its low 16 bits are not used there.
#[must_use]
pub fn stream_hash(namespace: u32, stream: impl AsRef<[u8]>) -> u64 {
    xxh3_64_with_seed(stream.as_ref(), u64::from(namespace))
}

/// Hash that stands in memory for a stream of a partition: no two of a database have the same.
#[must_use]
pub(crate) fn stream_key(partition: PartitionId, namespace: u32, stream: &str) -> u128 {
    let seed = u64::from(partition.0) << 32 | u64::from(namespace);
    xxh3_128_with_seed(stream.as_bytes(), seed)
}

/// Hash of an event id: a key of the index.
#[must_use]
pub fn event_id_hash(namespace: u32, id: Uuid) -> u64 {
    xxh3_64_with_seed(id.as_bytes(), u64::from(namespace))
}
