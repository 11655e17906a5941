//! How far a reader has come.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The next position in each stream or partition that is followed: what a projection stores with
/// its own data, and gives to [`Follow::from_checkpoint`](crate::Follow::from_checkpoint) to go on.
///
/// Streams are named by their ids, partitions by their numbers. It can be stored as a whole with
/// serde, or row by row: each [`Delivery`](crate::Delivery) tells which rows it
/// [moves](crate::Delivery::moved). Rows are enough for what began at the start: what has no row
/// begins at 0. What began elsewhere must store the whole once,
/// [before the first delivery](crate::Subscription::checkpoint).
///
/// ```
/// use actadb_client::Checkpoint;
///
/// let mut checkpoint = Checkpoint::start();
/// checkpoint.set("order-1", 5);
/// let stored = serde_json::to_string(&checkpoint).expect("JSON");
/// let restored: Checkpoint = serde_json::from_str(&stored).expect("JSON");
/// assert_eq!((restored.next("order-1"), restored.next("order-2")), (5, 0));
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    positions: BTreeMap<String, u64>,
    rest: u64,
}

impl Checkpoint {
    /// Before the first event of everything.
    #[must_use]
    pub fn start() -> Self {
        Self::default()
    }

    /// At this version or sequence of everything.
    #[must_use]
    pub fn at(position: u64) -> Self {
        Self { positions: BTreeMap::new(), rest: position }
    }

    /// The version or sequence of the next event to read from a stream or partition.
    #[must_use]
    pub fn next(&self, source: &str) -> u64 {
        self.positions.get(source).copied().unwrap_or(self.rest)
    }

    /// Notes the next position of a stream or partition.
    pub fn set(&mut self, source: impl Into<String>, next: u64) {
        self.positions.insert(source.into(), next);
    }

    /// Everything noted: stream or partition, and its next position.
    pub fn iter(&self) -> impl Iterator<Item = (&str, u64)> {
        self.positions.iter().map(|(source, next)| (source.as_str(), *next))
    }

    /// Whether it is at or behind `other` in everything that `other` notes.
    #[must_use]
    pub fn reaches(&self, other: &Self) -> bool {
        other.iter().all(|(source, next)| self.next(source) >= next)
    }
}

/// Rows that were stored; what is not among them begins at 0.
impl<S: Into<String>> FromIterator<(S, u64)> for Checkpoint {
    fn from_iter<I: IntoIterator<Item = (S, u64)>>(rows: I) -> Self {
        let positions = rows.into_iter().map(|(source, next)| (source.into(), next)).collect();
        Self { positions, rest: 0 }
    }
}
