//! Hooks for the simulator: mistakes that can be put back, and a point where it looks in.
//!
//! A test harness that finds nothing proves nothing until it has been seen to find something. So
//! mistakes that databases have made are kept here by name, and the code that avoids each of them
//! asks [`made`] whether to make it. Without the feature `probe`, which only the simulator turns
//! on, the answer is a constant and the questions compile to nothing.

/// A mistake that the simulator must catch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mistake {
    /// An append is answered before its entry is synced.
    AnswerBeforeSync,
    /// Recovery cuts the log at the first bad checksum, whatever proves that more was there.
    CutAtFirstBadChecksum,
    /// After a crash of the process, frames that were written and not synced count as durable.
    UnsyncedFramesServed,
    /// A new segment's name is not made durable before the segment is used.
    DirectoryNotSynced,
    /// A conflict is answered before what it rests on is committed.
    ConflictBeforeCommit,
    /// The watermark rises before what lies below it can be found.
    WatermarkBeforePublication,
    /// A look-up that began before the heads were forgotten is used after.
    StaleFetchUsed,
    /// After a refusal the numbers go on from heads that hold what was refused.
    NumberReusedAfterRefusal,
    /// Blocks of an index are used without a look at their checksum.
    IndexTrusted,
    /// A reader returns events that no watermark covers yet.
    ReadAboveWatermark,
    /// A sync that failed is tried again, and believed when it succeeds.
    FailedSyncRetried,
    /// An append whose event ids are taken is appended again.
    RetryAppendedAgain,
    /// A subscription that has read everything goes on at the watermark, not where it read to.
    SkipAtHandOver,
    /// A subscription's window counts events that its filter does not take.
    WindowBeforeFilter,
    /// A replica's messages leave before what they tell is on its disk.
    MessagesBeforeSync,
    /// A replica writes the entries of a term before it saves the term and its vote.
    VoteBehindEntries,
    /// What a leader of before told of a stream is told without asking whether it leads still.
    ConflictNotConfirmed,
    /// What was numbered under an earlier lead is appended under a later one.
    OldProposalTaken,
    /// A linearizable read is answered by a replica that did not ask the others.
    ReadNotConfirmed,
    /// A follower that begins to lead forgets what stands in its log and is not committed.
    TailForgotten,
    /// A node whose disk was wiped is let in as the node that it was.
    WipedDiskAdmitted,
    /// After a start a replica answers before it knows again what it had shown.
    ServedBeforeCaughtUp,
    /// A subscription looks at the number it waits for after its read instead of before.
    WakeUpLost,
}

impl Mistake {
    /// All of them.
    pub const ALL: [Self; 23] = [
        Self::AnswerBeforeSync,
        Self::CutAtFirstBadChecksum,
        Self::UnsyncedFramesServed,
        Self::DirectoryNotSynced,
        Self::ConflictBeforeCommit,
        Self::WatermarkBeforePublication,
        Self::StaleFetchUsed,
        Self::NumberReusedAfterRefusal,
        Self::IndexTrusted,
        Self::ReadAboveWatermark,
        Self::FailedSyncRetried,
        Self::RetryAppendedAgain,
        Self::SkipAtHandOver,
        Self::WindowBeforeFilter,
        Self::WakeUpLost,
        Self::MessagesBeforeSync,
        Self::VoteBehindEntries,
        Self::ConflictNotConfirmed,
        Self::OldProposalTaken,
        Self::ReadNotConfirmed,
        Self::TailForgotten,
        Self::WipedDiskAdmitted,
        Self::ServedBeforeCaughtUp,
    ];
}

#[cfg(feature = "probe")]
mod hooks {
    use super::Mistake;
    use std::cell::{Cell, RefCell};

    type Look = Box<dyn FnMut()>;

    // One simulated world per thread, so worlds side by side make their own mistakes.
    thread_local! {
        static MISTAKE: Cell<Option<Mistake>> = const { Cell::new(None) };
        static LOOK: RefCell<Option<Look>> = const { RefCell::new(None) };
    }

    /// Makes a mistake on this thread from now on, or none.
    pub fn make(mistake: Option<Mistake>) {
        MISTAKE.set(mistake);
    }

    /// Whether to make this mistake.
    #[must_use]
    pub fn made(mistake: Mistake) -> bool {
        MISTAKE.get() == Some(mistake)
    }

    /// What is called on this thread at [`half_published`].
    pub fn look_in(look: Option<Look>) {
        LOOK.set(look);
    }

    /// Between the two steps that make an entry visible: what readers on other threads may see.
    pub fn half_published() {
        // Taken out while it runs: it may well come back here.
        if let Some(mut look) = LOOK.take() {
            look();
            LOOK.set(Some(look));
        }
    }
}

#[cfg(feature = "probe")]
pub use hooks::{half_published, look_in, made, make};

/// Whether to make this mistake: never, but in the simulator.
#[cfg(not(feature = "probe"))]
#[inline]
#[must_use]
pub const fn made(_: Mistake) -> bool {
    false
}

/// Between the two steps that make an entry visible: the simulator reads here, as other threads
/// may.
#[cfg(not(feature = "probe"))]
#[inline]
pub const fn half_published() {}
