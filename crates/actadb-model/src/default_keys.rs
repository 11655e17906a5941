//! The default partition keys of the streams met last.
//!
//! A key is a SHA-1 of the stream's id, which is asked for at every append and for every record
//! that is read: a seventh of what reading a page costs. The streams that are worked on are few, so
//! each thread remembers some.

use std::cell::RefCell;

use uuid::Uuid;

use crate::ids::{PartitionKey, STREAM_NAMESPACE};

/// Streams remembered per thread: with the longest ids some 80 KB.
const PLACES: usize = 256;

/// A stream's id and its key.
type Remembered = (Box<str>, PartitionKey);

thread_local! {
    static REMEMBERED: RefCell<Vec<Option<Remembered>>> = const { RefCell::new(Vec::new()) };
}

/// The UUIDv5 of a stream's id in [`STREAM_NAMESPACE`].
pub(crate) fn default_key(stream: &str) -> PartitionKey {
    let compute = || PartitionKey::new(Uuid::new_v5(&STREAM_NAMESPACE, stream.as_bytes()));
    REMEMBERED.with_borrow_mut(|remembered| {
        if remembered.is_empty() {
            remembered.resize(PLACES, None);
        }
        let place = &mut remembered[place(stream.as_bytes())];
        match place {
            Some((of, key)) if &**of == stream => *key,
            _ => place.insert((Box::from(stream), compute())).1,
        }
    })
}

/// Ids mostly differ in their ends and their lengths. Two with one place take turns.
fn place(stream: &[u8]) -> usize {
    let word = |bytes: &[u8]| bytes.iter().fold(0, |word, byte| (word << 8) | u64::from(*byte));
    let ends = word(&stream[stream.len().saturating_sub(8)..]);
    let starts = word(&stream[..stream.len().min(8)]);
    let mixed = ends ^ starts.rotate_left(17) ^ (stream.len() as u64).rotate_left(40);
    // Fibonacci hashing: Knuth, The Art of Computer Programming, volume 3, 6.4.
    (mixed.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as usize % PLACES
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_right_the_first_time_again_and_after_others() {
        let computed = |stream: &str| Uuid::new_v5(&STREAM_NAMESPACE, stream.as_bytes());
        let names: Vec<String> = (0..2000).map(|n| format!("account-{n}")).collect();
        for round in 0..2 {
            for name in names.iter().map(String::as_str).chain(["", "x", "account-"]) {
                assert_eq!(default_key(name).uuid(), computed(name), "round {round}: {name}");
                assert_eq!(default_key(name).uuid(), computed(name), "again: {name}");
            }
        }
    }

    #[test]
    fn numbered_streams_spread_over_the_places() {
        let mut used = [false; PLACES];
        for n in 0..512 {
            used[place(format!("account-{n:08}").as_bytes())] = true;
        }
        let used = used.iter().filter(|used| **used).count();
        assert!(used > PLACES / 2, "{used} of {PLACES} places are used");
    }
}
