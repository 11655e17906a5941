//! Event ids for clients that bring none: UUIDv7 with the partition's hash inside.

use actadb_model::dice::SplitMix64;
use uuid::Uuid;

/// Makes ids that rise within a partition: 48 bits of milliseconds, a 12-bit counter (RFC 9562,
/// section 6.2, method 1), 16 bits of hash, 46 random bits.
#[derive(Debug)]
pub(crate) struct IdGenerator {
    millisecond: u64,
    counter: u64,
    dice: SplitMix64,
}

impl IdGenerator {
    /// Ids are later than `floor_ns`, nanoseconds since 1970.
    pub(crate) fn new(floor_ns: u64, seed: u64) -> Self {
        Self { millisecond: floor_ns / 1_000_000 + 1, counter: 0, dice: SplitMix64::new(seed) }
    }

    /// Ids from here on are later than this, nanoseconds since 1970.
    pub(crate) fn raise(&mut self, floor_ns: u64) {
        let least = floor_ns / 1_000_000 + 1;
        if least > self.millisecond {
            self.millisecond = least;
            self.counter = 0;
        }
    }

    pub(crate) fn next(&mut self, unix_ns: u64, hash: u16) -> Uuid {
        let now = unix_ns / 1_000_000;
        if now > self.millisecond {
            self.millisecond = now;
            self.counter = 0;
        } else {
            self.counter += 1;
            if self.counter > 0xfff {
                // More than 4,096 in a millisecond, or a clock that stands: borrow from the next.
                self.millisecond += 1;
                self.counter = 0;
            }
        }
        let random = self.dice.draw() & ((1 << 46) - 1);
        let high = (self.millisecond & 0xffff_ffff_ffff) << 16 | 0x7000 | self.counter;
        let low = 0b10 << 62 | u64::from(hash) << 46 | random;
        Uuid::from_u64_pair(high, low)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use actadb_model::ids::hash16;

    #[test]
    fn ids_rise_carry_the_hash_and_are_version_seven() {
        let mut ids = IdGenerator::new(5_000_000_000, 1);
        let mut last = Uuid::nil();
        for n in 0..10_000 {
            // The clock stands, then falls back.
            let unix_ns = if n < 9_000 { 4_000_000_000 } else { 1 };
            let id = ids.next(unix_ns, 0xabcd);
            assert!(id > last);
            assert_eq!(hash16(id), 0xabcd);
            assert_eq!(id.get_version_num(), 7);
            assert_eq!(id.get_variant(), uuid::Variant::RFC4122);
            last = id;
        }
    }
}
