//! Work on a bucket's files: what a driver performs where blocking is allowed.

use actadb_log::slots::Known;
use actadb_log::truncate::Truncated;
use actadb_log::writer::FullSegment;
use actadb_model::entry::{Place, Room};
use actadb_model::outcome::ClosedReason;
use actadb_model::probe::{Mistake, made};
use actadb_replica::message::{SlotValues, Work};
use actadb_store::rows::Rows;
use actadb_store::writer::BucketWriter;

/// How a piece of work ended.
#[derive(Clone, Debug)]
pub enum Done {
    /// Entries were written; fewer than asked for when space ran out.
    Written {
        /// Their indexes, where their bodies lie, and what is in them. At least one.
        bodies: Vec<(u64, Place, Rows)>,
        /// Entries up to this one are known to be synced.
        synced_through: u64,
        /// What can be written now.
        room: Room,
        /// The segment it left full.
        full: Option<FullSegment>,
    },
    /// A write found no space; the same write may be made again.
    WriteFoundNoRoom,
    /// Everything written is synced.
    Synced,
    /// Space was allocated.
    Allocated(Room),
    /// There is no space to allocate that much; this is what there is.
    AllocationFailed(Room),
    /// The end of the log is cut off.
    Truncated {
        /// The last entry that stays.
        after: u64,
        /// What was cut.
        truncated: Truncated,
        /// What can be written now.
        room: Room,
    },
    /// The slot is saved.
    SlotSaved,
    /// There was no space even for that; the other slot is good.
    SlotNotSaved,
    /// Final: the disk can no longer be trusted.
    Failed(ClosedReason),
}

/// Performs a piece of work. Blocking.
#[must_use]
pub fn perform(writer: &mut BucketWriter, work: &Work) -> Done {
    let failed = |error: actadb_log::error::LogError| {
        Done::Failed(ClosedReason::DiskFailed(error.to_string()))
    };
    match work {
        Work::Allocate { body_bytes } => match writer.make_room(*body_bytes) {
            Ok(room) => Done::Allocated(room),
            Err(error) if error.is_no_room() => Done::AllocationFailed(writer.room()),
            Err(error) => failed(error),
        },
        Work::Write { entries, sync, settled } => {
            writer.settle(*settled);
            let mut bodies = Vec::with_capacity(entries.len());
            let mut full = None;
            for entry in entries {
                match writer.write(entry) {
                    Ok(written) => {
                        bodies.push((entry.index, written.body, Rows::default()));
                        full = full.or(written.full);
                    }
                    // Those before it are written; it is asked for again.
                    Err(error) if error.is_no_room() && !bodies.is_empty() => break,
                    Err(error) if error.is_no_room() => return Done::WriteFoundNoRoom,
                    Err(error) => return failed(error),
                }
            }
            if *sync
                && !made(Mistake::AnswerBeforeSync)
                && let Err(error) = writer.sync()
                && !(made(Mistake::FailedSyncRetried) && writer.sync().is_ok())
            {
                return failed(error);
            }
            // Behind the sync, which must not wait for it.
            for ((.., rows), entry) in bodies.iter_mut().zip(entries) {
                *rows = Rows::read(writer.identity(), entry);
            }
            let synced_by_roll = full.map_or(0, |full| full.tip.index);
            let last = bodies.last().map_or(0, |(index, ..)| *index);
            let synced_through = if *sync { last } else { synced_by_roll };
            Done::Written { bodies, synced_through, room: writer.room(), full }
        }
        Work::Sync => match writer.sync() {
            Ok(()) => Done::Synced,
            Err(error) => failed(error),
        },
        Work::Truncate { after } => match writer.truncate(*after) {
            Ok(truncated) => Done::Truncated { after: *after, truncated, room: writer.room() },
            Err(error) => failed(error),
        },
        Work::SaveSlot(values) => {
            let SlotValues { term, vote, synced_index, bulk_through } = *values;
            match writer.save(term, vote, Known { synced_index, bulk_through }) {
                Ok(()) => Done::SlotSaved,
                Err(error) if error.is_no_room() => Done::SlotNotSaved,
                Err(error) => failed(error),
            }
        }
    }
}
