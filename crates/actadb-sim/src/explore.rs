//! Many worlds, and what became of them.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use actadb_model::probe::{self, Mistake};

use crate::trace::Trace;
use crate::world::{Outcome, run};

/// Operations of a world when nothing else is asked for.
pub const OPERATIONS: u64 = 500;

/// A rule that did not hold.
#[derive(Clone, Debug)]
pub struct Violation {
    /// The seed of the world.
    pub seed: u64,
    /// Its operations.
    pub operations: u64,
    /// Its hosts.
    pub hosts: u8,
    /// Which rule.
    pub what: String,
}

/// Hosts of the world of a seed when nothing else is asked for: half of them are alone.
#[must_use]
pub fn hosts_of(seed: u64) -> u8 {
    [1, 3, 1, 5][(seed % 4) as usize]
}

/// Runs one world, with a mistake put back or without.
///
/// # Errors
/// The rule that did not hold.
pub fn world(
    seed: u64,
    operations: u64,
    hosts: u8,
    mistake: Option<Mistake>,
    trace: Trace,
) -> Result<Outcome, Violation> {
    probe::make(mistake);
    let ended = catch_unwind(AssertUnwindSafe(|| run(seed, operations, hosts, trace)));
    probe::make(None);
    probe::look_in(None);
    ended.map_err(|panic| Violation { seed, operations, hosts, what: words(&*panic) })
}

/// What a panic said.
fn words(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("a panic without words").to_owned()
}

/// Looks for a mistake in the worlds of `seeds`; answers the first one that catches it.
#[must_use]
pub fn hunt(mistake: Mistake, seeds: std::ops::Range<u64>) -> Option<Violation> {
    let caught = |seed| world(seed, OPERATIONS, hosts_of(seed), Some(mistake), Trace::Off).err();
    seeds.into_iter().find_map(caught)
}
