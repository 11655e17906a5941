//! Proposals that wait for an entry: taken only when their numbers are next.

use std::collections::{BTreeMap, VecDeque};

use actadb_model::entry::Proposal;
use actadb_model::ids::PartitionId;

use crate::room::Fit;

/// What is refused: each partition with the first sequence.
pub(crate) type From = BTreeMap<PartitionId, u64>;

/// What becomes of the queue's front.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// So many proposals make an entry.
    Take(usize),
    /// There must be room for a body of so many bytes first.
    Allocate(u64),
    /// It waits: for a seal, or because nothing is there.
    Wait,
    /// Some of it is to be refused.
    Refuse,
}

/// The queue of proposals, and what each partition must propose next.
#[derive(Debug, Default)]
pub(crate) struct Admission {
    next_sequences: BTreeMap<PartitionId, u64>,
    queue: VecDeque<Proposal>,
    bytes: usize,
}

impl Admission {
    /// Begins anew, from these sequences on.
    pub(crate) fn reset(&mut self, next_sequences: impl IntoIterator<Item = (PartitionId, u64)>) {
        self.queue.clear();
        self.bytes = 0;
        self.next_sequences = next_sequences.into_iter().collect();
    }

    /// Takes a proposal, if it is the next one of its partition. What was proposed behind
    /// something refused is not; its partition core knows, or will when it reads the refusal.
    pub(crate) fn admit(&mut self, proposal: Proposal) {
        let next = self.next_sequences.get_mut(&proposal.partition);
        let next = next.expect("a partition of this bucket");
        if proposal.first_sequence != *next {
            return;
        }
        *next += u64::from(proposal.count);
        self.bytes += proposal.record.len();
        self.queue.push_back(proposal);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.queue.len()
    }

    /// Bytes of all records that wait.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// How many of the proposals make the next entry: what `fit`s behind `head` bytes, up to
    /// `target`, or one that is larger.
    pub(crate) fn next(&self, head: u64, target: u64, fit: impl Fn(u64) -> Fit) -> Next {
        let (mut bytes, mut taken) = (head, 0);
        for proposal in &self.queue {
            let longer = bytes + proposal.record.len() as u64;
            match fit(longer) {
                Fit::Now if taken == 0 || longer <= target => {}
                _ if taken > 0 => break,
                Fit::Now | Fit::Allocate => return Next::Allocate(longer),
                Fit::AwaitSeal => return Next::Wait,
                Fit::Refuse => return Next::Refuse,
            }
            bytes = longer;
            taken += 1;
        }
        if taken == 0 { Next::Wait } else { Next::Take(taken) }
    }

    /// Takes the first `count` out, for an entry.
    pub(crate) fn take(&mut self, count: usize) -> Vec<Proposal> {
        let taken: Vec<Proposal> = self.queue.drain(..count).collect();
        self.bytes -= taken.iter().map(|proposal| proposal.record.len()).sum::<usize>();
        taken
    }

    /// Everything that is in no entry: what waits here, and what would have come behind it.
    pub(crate) fn all(&self) -> From {
        let mut from = self.next_sequences.clone();
        for proposal in self.queue.iter().rev() {
            from.insert(proposal.partition, proposal.first_sequence);
        }
        from
    }

    /// Takes out what cannot be written, with all that the same partitions proposed behind it.
    pub(crate) fn refuse(&mut self, cannot: impl Fn(u64) -> bool) -> From {
        let mut refused = From::new();
        let mut kept = VecDeque::new();
        for proposal in std::mem::take(&mut self.queue) {
            let size = proposal.record.len();
            if refused.contains_key(&proposal.partition) || cannot(size as u64) {
                refused.entry(proposal.partition).or_insert(proposal.first_sequence);
                self.bytes -= size;
            } else {
                kept.push_back(proposal);
            }
        }
        self.queue = kept;
        self.next_sequences.extend(refused.iter().map(|(partition, from)| (*partition, *from)));
        refused
    }
}
