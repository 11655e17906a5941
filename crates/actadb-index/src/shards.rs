//! Hash maps that grow a piece at a time.
//!
//! A hash map that is full moves all of itself, and its new memory is first touched then: a map of
//! a million keys stops everyone for 50 to 90 ms where first touches cost a virtual machine much,
//! and so does one that is made as large at once. Sixteen of them grow each on its own.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// Maps, by the upper bits of their keys.
const SHARDS: usize = 16;

/// Keys are hashes already: their bits are used as they are.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Identity(u64);

impl Hasher for Identity {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _bytes: &[u8]) {
        unreachable!("only 64-bit keys are hashed");
    }

    fn write_u64(&mut self, key: u64) {
        // The table takes its bucket from the low bits, where a group has its lane.
        self.0 = key.rotate_left(32) ^ key;
    }
}

type Shard<V> = HashMap<u64, V, BuildHasherDefault<Identity>>;

/// A hash map over hashes.
#[derive(Clone, Debug)]
pub(crate) struct Shards<V>(Box<[Shard<V>; SHARDS]>);

impl<V> Default for Shards<V> {
    fn default() -> Self {
        Self(Box::new(std::array::from_fn(|_| Shard::default())))
    }
}

impl<V> Shards<V> {
    /// The map that a key belongs to.
    pub(crate) fn of(&self, key: u64) -> &Shard<V> {
        &self.0[place(key)]
    }

    /// The map that a key belongs to.
    pub(crate) fn of_mut(&mut self, key: u64) -> &mut Shard<V> {
        &mut self.0[place(key)]
    }

    /// All keys, in no order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&u64, &V)> {
        self.0.iter().flatten()
    }
}

fn place(key: u64) -> usize {
    (key >> (u64::BITS - SHARDS.ilog2())) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_found_where_they_were_put() {
        let key = |n: u64| n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut shards = Shards::default();
        for n in 0..10_000 {
            shards.of_mut(key(n)).insert(key(n), n);
        }
        assert!(shards.0.iter().all(|map| map.len() > 500), "hashes are spread over all maps");
        assert_eq!(shards.iter().count(), 10_000);
        for n in 0..10_000 {
            assert_eq!(shards.of(key(n)).get(&key(n)), Some(&n));
        }
    }
}
