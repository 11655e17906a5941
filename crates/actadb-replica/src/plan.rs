//! What the disk must do for the group, in order.
//!
//! Consensus asks for votes to be saved, entries to be cut off and written, and keeps messages
//! back until that is durable. The order in which it asks is the order in which it is done: a vote
//! is on the disk before the entries of its term, and before anyone hears of it.

use std::collections::VecDeque;

use actadb_model::entry::{Entry, EntryKind};
use actadb_model::probe::{Mistake, made};

use crate::consensus::Persist;
use crate::peer::PeerMessage;

/// One thing to do.
#[derive(Debug)]
pub(crate) enum Step {
    /// Save a term and a vote.
    Vote { term: u64, vote: u64 },
    /// Cut off what stands behind this entry.
    Truncate(u64),
    /// Write an entry.
    Write(Entry),
    /// Everything before is durable: tell consensus, and let the messages go.
    Report { number: u64, messages: Vec<PeerMessage> },
}

/// The steps that are left.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    steps: VecDeque<Step>,
}

impl Plan {
    /// Adds what a `Ready` asks for.
    pub(crate) fn add(&mut self, persist: Persist) {
        let Persist { number, vote, keep, entries, messages } = persist;
        let vote = vote.map(|(term, vote)| Step::Vote { term, vote });
        let log = keep.map(Step::Truncate).into_iter();
        let log = log.chain(entries.into_iter().map(Step::Write));
        if made(Mistake::VoteBehindEntries) {
            self.steps.extend(log.chain(vote));
        } else {
            self.steps.extend(vote.into_iter().chain(log));
        }
        self.steps.push_back(Step::Report { number, messages });
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    pub(crate) fn front(&self) -> Option<&Step> {
        self.steps.front()
    }

    pub(crate) fn pop(&mut self) -> Option<Step> {
        self.steps.pop_front()
    }

    /// Whether there is nothing but a vote and entries without content: a replica that votes alone
    /// need not write those before it has something to say.
    pub(crate) fn is_idle_talk(&self) -> bool {
        self.steps.iter().all(|step| match step {
            Step::Vote { .. } => true,
            Step::Write(entry) => entry.kind == EntryKind::Noop,
            Step::Report { messages, .. } => messages.is_empty(),
            Step::Truncate(_) => false,
        })
    }

    /// Whether something at or below this entry is still to be cut off.
    pub(crate) fn cuts_below(&self, index: u64) -> bool {
        self.steps.iter().any(|step| matches!(step, Step::Truncate(after) if *after < index))
    }

    /// All entries in it.
    pub(crate) fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.steps.iter().filter_map(|step| match step {
            Step::Write(entry) => Some(entry),
            _ => None,
        })
    }

    /// The entries that stand next, up to the first step of another kind.
    pub(crate) fn run(&self) -> impl Iterator<Item = &Entry> {
        let entries = self.steps.iter().map_while(|step| match step {
            Step::Write(entry) => Some(Some(entry)),
            Step::Report { .. } => Some(None),
            Step::Vote { .. } | Step::Truncate(_) => None,
        });
        entries.flatten()
    }
}
