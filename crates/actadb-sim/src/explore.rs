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
    /// Which rule.
    pub what: String,
}

/// Runs one world, with a mistake put back or without.
///
/// # Errors
/// The rule that did not hold.
pub fn world(
    seed: u64,
    operations: u64,
    mistake: Option<Mistake>,
    trace: Trace,
) -> Result<Outcome, Violation> {
    probe::make(mistake);
    let ended = catch_unwind(AssertUnwindSafe(|| run(seed, operations, trace)));
    probe::make(None);
    probe::look_in(None);
    ended.map_err(|panic| Violation { seed, operations, what: words(&*panic) })
}

/// What a panic said.
fn words(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("a panic without words").to_owned()
}

/// Looks for a mistake in the worlds of `seeds`; answers the first one that catches it.
#[must_use]
pub fn hunt(mistake: Mistake, seeds: std::ops::Range<u64>) -> Option<Violation> {
    seeds.into_iter().find_map(|seed| world(seed, OPERATIONS, Some(mistake), Trace::Off).err())
}
