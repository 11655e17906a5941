//! Property tests that draw the same cases in every run.

use proptest::strategy::Strategy;
use proptest::test_runner::{Config, RngSeed, TestCaseResult, TestRunner};

const SEED: u64 = 0x00ac_7adb;

/// Runs `test` on so many drawn values. A failure names its seed; `PROPTEST_RNG_SEED` sets another.
pub(crate) fn check<S: Strategy>(
    cases: u32,
    values: &S,
    test: impl Fn(S::Value) -> TestCaseResult,
) {
    let mut config = Config { cases, failure_persistence: None, ..Config::default() };
    if config.rng_seed == RngSeed::Random {
        config.rng_seed = RngSeed::Fixed(SEED);
    }
    let seed = config.rng_seed;
    if let Err(failure) = TestRunner::new(config).run(values, test) {
        panic!("seed {seed}: {failure}");
    }
}
