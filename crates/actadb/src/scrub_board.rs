//! What the scrub found so far, for whoever asks.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use actadb_log::error::Damage;
use actadb_model::ids::BucketId;
use actadb_store::scrub::ScrubStep;

/// The scrub at one moment.
#[derive(Clone, Debug, Default)]
pub struct ScrubStatus {
    /// Bytes read again since the start.
    pub bytes: u64,
    /// Rounds completed since the start.
    pub rounds: u64,
    /// When the last of them ended, in seconds since 1970.
    pub last_round_unix_seconds: Option<u64>,
}

/// Damaged places of one bucket, by file and byte.
#[derive(Debug, Default)]
struct Places {
    /// Found in the last complete round or in this one.
    known: BTreeMap<(PathBuf, u64), Damage>,
    /// Found in this round.
    now: BTreeMap<(PathBuf, u64), Damage>,
    /// Whether this round did not look at everything.
    passed_over: bool,
}

/// Written by the scrub actor, read by anyone.
#[derive(Debug)]
pub(crate) struct ScrubBoard {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    status: ScrubStatus,
    buckets: Vec<(BucketId, Places)>,
}

impl ScrubBoard {
    /// For buckets in the order in which they are scrubbed.
    pub(crate) fn new(buckets: impl IntoIterator<Item = BucketId>) -> Self {
        let buckets = buckets.into_iter().map(|bucket| (bucket, Places::default())).collect();
        Self { state: Mutex::new(State { status: ScrubStatus::default(), buckets }) }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes what one step read and found; a place is told in the log when it is new.
    pub(crate) fn step(&self, at: usize, step: ScrubStep) {
        // A log that is slow to write must not hold up those who ask for the status.
        for (bucket, damage) in self.note(at, step) {
            tracing::error!(
                bucket = bucket.0,
                file = %damage.file.display(),
                offset = damage.offset,
                what = damage.what,
                "the scrub found damage; the bucket goes on; stop it when you can and run \
                 `actadb repair`"
            );
        }
    }

    /// Answers what is new.
    fn note(&self, at: usize, step: ScrubStep) -> Vec<(BucketId, Damage)> {
        let mut new = Vec::new();
        let mut state = self.state();
        state.status.bytes += step.bytes;
        let Some((bucket, places)) = state.buckets.get_mut(at) else { return new };
        places.passed_over |= step.passed_over;
        for damage in step.found {
            let key = (damage.file.clone(), damage.offset);
            places.now.insert(key.clone(), damage.clone());
            if places.known.insert(key, damage.clone()).is_none() {
                new.push((*bucket, damage));
            }
        }
        new
    }

    /// What the round did not find again is damaged no more, if the round looked at everything.
    pub(crate) fn round_ended(&self, unix_seconds: u64) {
        let mut state = self.state();
        state.status.rounds += 1;
        state.status.last_round_unix_seconds = Some(unix_seconds);
        for (_, places) in &mut state.buckets {
            let now = std::mem::take(&mut places.now);
            match std::mem::take(&mut places.passed_over) {
                true => places.known.extend(now),
                false => places.known = now,
            }
        }
    }

    pub(crate) fn status(&self) -> ScrubStatus {
        self.state().status.clone()
    }

    /// What is damaged in a bucket, as far as is known.
    pub(crate) fn damaged(&self, bucket: BucketId) -> Vec<Damage> {
        let state = self.state();
        let places = state.buckets.iter().find(|(number, _)| *number == bucket);
        places.map_or(Vec::new(), |(_, places)| places.known.values().cloned().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_stays_until_a_round_does_not_find_it_again() {
        let board = ScrubBoard::new([BucketId(3)]);
        let damage = |offset| Damage::new(std::path::Path::new("f"), offset, "rotten");
        let step = |found| ScrubStep { bytes: 10, found, ..ScrubStep::default() };
        assert_eq!(board.note(0, step(vec![damage(1)])), [(BucketId(3), damage(1))]);
        assert_eq!(board.note(0, step(vec![damage(1), damage(2)])), [(BucketId(3), damage(2))]);
        assert_eq!(board.damaged(BucketId(3)).len(), 2);
        board.round_ended(77);
        board.step(0, step(vec![damage(2)]));
        assert_eq!(board.damaged(BucketId(3)).len(), 2, "the round is not over");
        board.round_ended(99);
        assert_eq!(board.damaged(BucketId(3)), [damage(2)]);
        let status = board.status();
        assert_eq!((status.bytes, status.rounds), (30, 2));
        assert_eq!(status.last_round_unix_seconds, Some(99));
    }

    #[test]
    fn a_round_that_did_not_look_heals_nothing() {
        let board = ScrubBoard::new([BucketId(3), BucketId(4)]);
        let damage = |offset| Damage::new(std::path::Path::new("f"), offset, "rotten");
        let found = |found| ScrubStep { found, ..ScrubStep::default() };
        board.step(0, found(vec![damage(1)]));
        board.step(1, found(vec![damage(1)]));
        board.round_ended(1);
        board.step(0, ScrubStep { passed_over: true, ..found(vec![damage(2)]) });
        board.step(0, found(Vec::new()));
        board.round_ended(2);
        assert_eq!(board.damaged(BucketId(3)), [damage(1), damage(2)]);
        assert_eq!(board.damaged(BucketId(4)), [], "the other bucket was looked at");
        board.step(0, found(vec![damage(2)]));
        board.round_ended(3);
        assert_eq!(board.damaged(BucketId(3)), [damage(2)], "this one looked at everything");
    }
}
