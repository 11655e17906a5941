//! Hash maps that grow a piece at a time.
//!
//! A hash map that is full moves all of itself, and its new memory is first touched then: a map of
//! a million keys stops everyone for 50 to 90 ms where a page costs a virtual machine its first
//! touch. Sixteen of them grow on their own, and one that is not needed any more gives its memory
//! to the next, which the system has touched already.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// Maps, by the upper bits of their keys.
const SHARDS: usize = 16;
/// Memory is used again for as few as a quarter of the keys that it has room for.
const ROOM_MAX: usize = 4;
/// More memory than this is not kept for the next index.
const KEPT_MAX_BYTES: usize = 32 << 20;

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
    /// An empty map, in the memory of this one unless that is very much, or far too much for as
    /// many keys as `like` has.
    pub(crate) fn emptied(mut self, like: &Self) -> Self {
        let room: usize = self.0.iter().map(Shard::capacity).sum();
        if room * size_of::<(u64, V)>() > KEPT_MAX_BYTES {
            return Self::default();
        }
        for (map, like) in self.0.iter_mut().zip(&*like.0) {
            map.clear();
            if map.capacity() > ROOM_MAX * like.len() {
                *map = Shard::default();
            }
        }
        self
    }

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

    fn keys(count: u64) -> Shards<u64> {
        let mut shards = Shards::default();
        for n in 0..count {
            let key = n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            shards.of_mut(key).insert(key, n);
        }
        shards
    }

    fn room(shards: &Shards<u64>) -> usize {
        shards.0.iter().map(Shard::capacity).sum()
    }

    #[test]
    fn keys_are_found_where_they_were_put() {
        let shards = keys(10_000);
        assert!(shards.0.iter().all(|map| map.len() > 500), "hashes are spread over all maps");
        assert_eq!(shards.iter().count(), 10_000);
        for n in 0..10_000 {
            let key = u64::wrapping_mul(n, 0x9e37_79b9_7f4a_7c15);
            assert_eq!(shards.of(key).get(&key), Some(&n));
        }
    }

    #[test]
    fn memory_is_used_again_where_it_fits() {
        let used = keys(9_000);
        let before = room(&used);
        let emptied = used.emptied(&keys(10_000));
        assert_eq!((emptied.iter().count(), room(&emptied)), (0, before));

        let emptied = keys(10_000).emptied(&keys(100));
        assert_eq!(room(&emptied), 0, "far too much is given back");
        let many = keys(2_000_000);
        let emptied = many.clone().emptied(&many);
        assert_eq!(room(&emptied), 0, "and so is very much");
    }
}
