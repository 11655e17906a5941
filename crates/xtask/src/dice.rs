//! Random choices that a seed repeats.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::programs;

/// Takes `--seed N` out of the arguments, or a seed that nobody had before, short enough to be
/// copied by hand.
///
/// # Errors
/// When it is no number.
pub(crate) fn seed(args: &mut Vec<String>) -> Result<u64, String> {
    match programs::option(args, "--seed")? {
        Some(text) => text.parse().map_err(|error| format!("--seed {text}: {error}")),
        None => Ok(SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |time| u64::from(time.subsec_nanos()) / 100 % 1_000_000)),
    }
}

/// SplitMix64: small, and the same everywhere.
#[derive(Clone, Debug)]
pub(crate) struct Dice(u64);

impl Dice {
    /// Dice of one part: they fall the same whatever other parts run.
    pub(crate) fn new(seed: u64, part: &str) -> Self {
        let mut dice = Self(seed);
        for byte in part.bytes() {
            dice.0 ^= u64::from(byte);
            dice.next();
        }
        dice
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number of `from..=to`.
    pub(crate) fn between(&mut self, from: u64, to: u64) -> u64 {
        from + self.next() % (to - from + 1)
    }

    /// A place below `len`, which is not 0.
    pub(crate) fn below(&mut self, len: usize) -> usize {
        self.between(0, len as u64 - 1) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_repeats_and_another_does_not() {
        let throws = |seed, part| {
            let mut dice = Dice::new(seed, part);
            (0..50).map(|_| dice.between(3, 900)).collect::<Vec<_>>()
        };
        assert_eq!(throws(1, "kill"), throws(1, "kill"));
        assert_ne!(throws(1, "kill"), throws(2, "kill"));
        assert_ne!(throws(1, "kill"), throws(1, "rot"));
        assert!(throws(9, "pause").iter().all(|throw| (3..=900).contains(throw)));
    }
}
