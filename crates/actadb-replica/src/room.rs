//! Room before numbers: what fits, what waits, what is refused.

use actadb_model::entry::Room;
use actadb_model::limits::{FULL_SEGMENTS_MAX, NO_ROOM_RETRY_NS};
use actadb_model::time::Now;

/// What is known about space.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct RoomKeeper {
    room: Room,
    /// Full segments that wait for their index.
    pub(crate) full_segments: usize,
    /// Whether the last attempt to write an index found no space.
    seal_is_short: bool,
    /// The size an allocation failed for, and when to try again.
    failed: Option<(u64, u64)>,
}

/// What is to be done about a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fit {
    /// It can be written now.
    Now,
    /// Space must be allocated first.
    Allocate,
    /// Full segments must be sealed first.
    AwaitSeal,
    /// There is no space; refuse it.
    Refuse,
}

impl RoomKeeper {
    pub(crate) fn set(&mut self, room: Room) {
        self.room = room;
    }

    pub(crate) fn room(&self) -> Room {
        self.room
    }

    pub(crate) fn allocated(&mut self, room: Room) {
        self.room = room;
        self.failed = None;
    }

    pub(crate) fn failed(&mut self, now: Now, body_bytes: u64, room: Room) {
        self.room = room;
        self.failed = Some((body_bytes, now.mono_ns + NO_ROOM_RETRY_NS));
    }

    pub(crate) fn fit(&self, now: Now, body_bytes: u64) -> Fit {
        let rolls = body_bytes > self.room.segment;
        if rolls && self.full_segments >= FULL_SEGMENTS_MAX {
            // Nobody knows when there will be space: a definite answer is worth more than a wait.
            if self.seal_is_short { Fit::Refuse } else { Fit::AwaitSeal }
        } else if self.room.fits(body_bytes) {
            Fit::Now
        } else if self.failed.is_some_and(|(size, until)| {
            // Less than what failed may still be found.
            now.mono_ns < until && body_bytes >= size
        }) {
            Fit::Refuse
        } else {
            Fit::Allocate
        }
    }

    /// The allocation to try again, when its time has come.
    pub(crate) fn retry(&self, now: Now) -> Option<u64> {
        self.failed.filter(|(_, until)| now.mono_ns >= *until).map(|(body_bytes, _)| body_bytes)
    }

    pub(crate) fn wake_at(&self) -> Option<u64> {
        self.failed.map(|(_, until)| until)
    }

    /// An index was written.
    pub(crate) fn sealed(&mut self) {
        self.full_segments = self.full_segments.saturating_sub(1);
        self.seal_is_short = false;
    }

    /// The log was cut so far back that segments which were full grow again.
    pub(crate) fn reopened(&mut self, segments: usize) {
        self.full_segments = self.full_segments.saturating_sub(segments);
    }

    /// An index could not be written, for want of space or for another reason.
    pub(crate) fn seal_failed(&mut self, no_room: bool) {
        self.seal_is_short = no_room;
    }

    /// Whether allocations fail at present, or indexes that must be written before the next roll.
    pub(crate) fn is_short(&self) -> bool {
        let seals = self.seal_is_short && self.full_segments >= FULL_SEGMENTS_MAX;
        self.failed.is_some() || seals
    }
}
