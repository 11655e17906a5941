//! Work on a bucket's files: what a driver performs where blocking is allowed.

use actadb_log::writer::FullSegment;
use actadb_model::entry::{Place, Room};
use actadb_model::outcome::ClosedReason;
use actadb_model::probe::{Mistake, made};
use actadb_replica::message::Work;
use actadb_store::writer::BucketWriter;

/// How a piece of work ended.
#[derive(Clone, Debug)]
pub enum Done {
    /// An entry was written.
    Written {
        /// Its index.
        index: u64,
        /// Where its body lies.
        body: Place,
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
        Work::Write { entry, sync } => {
            let written = match writer.write(entry) {
                Ok(written) => written,
                Err(error) if error.is_no_room() => return Done::WriteFoundNoRoom,
                Err(error) => return failed(error),
            };
            if *sync
                && !made(Mistake::AnswerBeforeSync)
                && let Err(error) = writer.sync()
                && !(made(Mistake::FailedSyncRetried) && writer.sync().is_ok())
            {
                return failed(error);
            }
            let synced_by_roll = written.full.map_or(0, |full| full.tip.index);
            Done::Written {
                index: entry.index,
                body: written.body,
                synced_through: if *sync { entry.index } else { synced_by_roll },
                room: writer.room(),
                full: written.full,
            }
        }
        Work::Sync => match writer.sync() {
            Ok(()) => Done::Synced,
            Err(error) => failed(error),
        },
        Work::SaveSlot { synced_index } => match writer.save_synced(*synced_index) {
            Ok(()) => Done::SlotSaved,
            Err(error) if error.is_no_room() => Done::SlotNotSaved,
            Err(error) => failed(error),
        },
    }
}
