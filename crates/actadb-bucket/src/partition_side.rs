//! A partition's half of a bucket: decisions, and the bytes of what was decided.

use actadb_log::format::LogIdentity;
use actadb_model::entry::Proposal;
use actadb_model::ids::PartitionId;
use actadb_model::keys::Keys;
use actadb_model::outcome::AppendResult;
use actadb_model::time::Now;
use actadb_partition::core::{PartitionCore, Start, Stats};
use actadb_partition::message::{FetchId, Input, Output, Token};
use actadb_store::record;

/// What a partition side wants done.
#[derive(Debug)]
pub enum PartitionOutput {
    /// Look these up in the committed state and bring the facts back.
    Fetch {
        /// Names the question.
        fetch: FetchId,
        /// What is asked.
        keys: Keys,
    },
    /// For the writer side.
    Propose(Proposal),
    /// For the writer side: sync what is written.
    WantSync,
    /// For the writer side: does this replica lead still?
    Confirm(u64),
    /// The answer to a message.
    Answer {
        /// The message.
        token: Token,
        /// One result per transaction.
        results: Vec<AppendResult>,
    },
}

/// One partition: its core, and the encoding of its records.
#[derive(Debug)]
pub struct PartitionSide {
    core: PartitionCore,
    partition: PartitionId,
    identity: LogIdentity,
    outputs: Vec<Output>,
}

impl PartitionSide {
    /// A side that follows until it is told to lead.
    #[must_use]
    pub fn new(identity: LogIdentity, start: Start) -> Self {
        let partition = start.partition;
        Self { core: PartitionCore::new(start), partition, identity, outputs: Vec::new() }
    }

    /// Takes one input and says what to do, in order.
    pub fn step(&mut self, now: Now, input: Input, out: &mut Vec<PartitionOutput>) {
        self.core.step(now, input, &mut self.outputs);
        for output in self.outputs.drain(..) {
            out.push(match output {
                Output::Fetch { fetch, keys } => PartitionOutput::Fetch { fetch, keys },
                Output::Propose { epoch, numbered, durable } => {
                    PartitionOutput::Propose(Proposal {
                        epoch,
                        partition: self.partition,
                        first_sequence: numbered.first_sequence,
                        count: numbered.events.len() as u32,
                        durable,
                        record: record::encode(self.identity, &numbered),
                    })
                }
                Output::WantSync => PartitionOutput::WantSync,
                Output::Confirm { number } => PartitionOutput::Confirm(number),
                Output::Answer { token, results } => PartitionOutput::Answer { token, results },
            });
        }
    }

    /// What an operator wants to see.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.core.stats()
    }
}
