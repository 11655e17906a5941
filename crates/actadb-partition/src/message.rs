//! What goes into a partition core and what comes out.

use std::sync::Arc;

use actadb_model::keys::{Facts, Keys};
use actadb_model::numbered::Numbered;
use actadb_model::outcome::{AppendResult, ClosedReason, RefusedReason};
use actadb_model::transaction::Transaction;

/// Names one message from a door; the shell keeps the way back under it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(pub u64);

/// Names one question for facts. Answers to questions of an earlier generation are stale.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FetchId {
    pub(crate) generation: u64,
    pub(crate) ticket: u64,
}

impl std::fmt::Display for FetchId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.generation, self.ticket)
    }
}

impl FetchId {
    /// A question by its numbers, for tests that play the shell.
    #[must_use]
    pub fn new(generation: u64, ticket: u64) -> Self {
        Self { generation, ticket }
    }
}

/// From the replica core, in order.
#[derive(Clone, Debug)]
pub enum FromReplica {
    /// The partition core numbers from here on.
    Lead {
        /// The epoch proposals must carry.
        epoch: u64,
        /// The next sequence, behind the tail.
        next_sequence: u64,
        /// Time of the last batch in the log, in nanoseconds since 1970: nothing is decided before
        /// it.
        time_ns: u64,
        /// What stands in the log above the committed part, in order.
        tail: Vec<Arc<Numbered>>,
        /// Whether others vote, too. A conflict must be confirmed then: another replica may lead by
        /// now, and know better.
        shared: bool,
    },
    /// Nothing from this sequence on was or will be appended.
    Refused {
        /// The epoch of what is refused.
        epoch: u64,
        /// The first sequence that is refused.
        from: u64,
        /// Why.
        reason: RefusedReason,
    },
    /// Committed and visible through this sequence.
    Committed {
        /// The last one.
        through: u64,
        /// Whether it is synced as well.
        synced: bool,
    },
    /// Synced through this sequence.
    Synced {
        /// The last one.
        through: u64,
    },
    /// The answer to [`Output::Confirm`]: this replica led until now.
    Confirmed {
        /// Which question.
        number: u64,
    },
    /// Another replica leads.
    Follow,
    /// No appends any more.
    Closed(ClosedReason),
}

/// What a partition core is told.
#[derive(Debug)]
pub enum Input {
    /// Appends of one connection, to be decided in order and answered together.
    Append {
        /// Names the message.
        token: Token,
        /// The connection: its messages are decided in order.
        connection: u64,
        /// At least one.
        transactions: Vec<Transaction>,
    },
    /// The answer to a [`Output::Fetch`].
    Facts {
        /// Which question.
        fetch: FetchId,
        /// The facts, or why they could not be read.
        facts: Result<Facts, String>,
    },
    /// From the replica core.
    Replica(FromReplica),
}

/// What a partition core wants done.
#[derive(Debug)]
pub enum Output {
    /// Look these up in the committed state.
    Fetch {
        /// Names the question.
        fetch: FetchId,
        /// What is asked.
        keys: Keys,
    },
    /// Hand this to the replica core.
    Propose {
        /// The epoch it was numbered under.
        epoch: u64,
        /// The decided transaction.
        numbered: Arc<Numbered>,
        /// Whether its answer waits for the disk in every fsync mode.
        durable: bool,
    },
    /// Sync what is written: somebody waits for it who proposed nothing.
    WantSync,
    /// Ask whether this replica leads still.
    Confirm {
        /// Names the question.
        number: u64,
    },
    /// Answer a message: one result per transaction, in order.
    Answer {
        /// The message.
        token: Token,
        /// The results.
        results: Vec<AppendResult>,
    },
}
