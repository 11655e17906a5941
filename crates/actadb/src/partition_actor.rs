//! One partition: its inbox is the only door for appends.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use actadb_bucket::partition_side::{PartitionOutput, PartitionSide};
use actadb_model::entry::Proposal;
use actadb_model::ids::PartitionId;
use actadb_model::keys::{Facts, Keys};
use actadb_model::limits::INLINE_KEYS;
use actadb_model::outcome::ClosedReason;
use actadb_model::time::Now;
use actadb_partition::message::{FetchId, FromReplica, Input};
use actadb_store::error::ReadError;
use actadb_store::facts::facts;
use actadb_store::reader::Reader;
use kameo::error::Infallible;
use kameo::mailbox::Signal;
use kameo::prelude::*;
use tokio::sync::mpsc;

use crate::clock::Clock;
use crate::executor::{Executor, read_here};
use crate::inbox::{Append, InboxOwner};
use crate::segment_writer_actor::{Confirm, Proposals, SegmentWriterActor, WantSync};
use crate::status::BucketBoard;
use crate::waiting::{Waiter, Waiting};

/// Look-ups and proposals are gathered until the inbox is empty, or until there are this many.
const TOGETHER_MAX: usize = 64;
/// Room for appends that arrive together, kept for the next.
const ARRIVED_KEPT: usize = 256;

/// There are appends in the inbox.
#[derive(Debug)]
pub(crate) struct Arrived;

#[cfg(feature = "fault-injection")]
#[derive(Debug)]
pub(crate) struct Panic;

type FactsAnswer = (FetchId, Result<Facts, String>);

/// What a partition actor is made of.
#[derive(Debug)]
pub(crate) struct PartitionActor {
    pub(crate) partition: PartitionId,
    pub(crate) side: PartitionSide,
    pub(crate) clock: Clock,
    /// When what is being taken was found; read once for all of it.
    pub(crate) now: Option<Now>,
    pub(crate) executor: Executor,
    pub(crate) board: Arc<BucketBoard>,
    pub(crate) writer: ActorRef<SegmentWriterActor>,
    /// From the writer side, in order; looked at before each append, if not enough waits already.
    pub(crate) from_writer: mpsc::Receiver<FromReplica>,
    pub(crate) facts: (mpsc::Sender<FactsAnswer>, mpsc::Receiver<FactsAnswer>),
    pub(crate) reader: Reader,
    /// The readers of the node's other buckets.
    pub(crate) others: Arc<Vec<Reader>>,
    pub(crate) inbox: InboxOwner,
    /// Taken from the inbox; kept for its memory.
    pub(crate) arrived: Vec<Append>,
    pub(crate) waiting: Waiting,
    /// Asked by the core, and not yet looked up.
    pub(crate) lookups: Vec<(FetchId, Keys)>,
    /// Decided, and not yet handed to the writer.
    pub(crate) proposals: Vec<Proposal>,
    /// Whether the board does not show the last step.
    pub(crate) moved: bool,
    pub(crate) writer_gone: bool,
    /// Kept for its memory.
    pub(crate) outputs: Vec<PartitionOutput>,
}

impl PartitionActor {
    fn step(&mut self, input: Input) {
        let mut outputs = std::mem::take(&mut self.outputs);
        let now = *self.now.get_or_insert_with(|| self.clock.now());
        self.side.step(now, input, &mut outputs);
        for output in outputs.drain(..) {
            match output {
                PartitionOutput::Propose(proposal) => self.proposals.push(proposal),
                PartitionOutput::WantSync => {
                    self.hand_over();
                    // Full or gone: the retry is answered by its timeout, and asks again.
                    let _ = self.writer.tell(WantSync).try_send();
                }
                PartitionOutput::Confirm(number) => {
                    // As above.
                    let _ = self.writer.tell(Confirm(self.partition, number)).try_send();
                }
                PartitionOutput::Fetch { fetch, keys } => self.lookups.push((fetch, keys)),
                PartitionOutput::Answer { token, results } => self.waiting.answer(token, results),
            }
        }
        self.outputs = outputs;
        self.waiting.give_back();
        self.moved = true;
    }

    /// Gives the writer what was decided.
    fn hand_over(&mut self) {
        if self.proposals.is_empty() {
            return;
        }
        let proposals = std::mem::take(&mut self.proposals);
        // Sized by the permits: full cannot happen, and a writer that is gone closes us below.
        match self.writer.tell(Proposals(proposals)).try_send() {
            Ok(()) | Err(SendError::ActorNotRunning(_) | SendError::ActorStopped) => {}
            Err(error) => panic!("the writer's mailbox is sized by the permits: {error}"),
        }
    }

    /// Behind what was taken: looks up what it asked for, hands over what was decided, and shows
    /// how the partition is doing.
    fn settle(&mut self) {
        self.look_up();
        self.hand_over();
        self.now = None;
        if std::mem::take(&mut self.moved) {
            self.board.set_partition(self.partition, self.side.stats());
        }
    }

    /// Takes what the writer and the look-ups have said, until there is enough to settle.
    fn hear(&mut self) {
        while !self.is_enough()
            && let Ok(message) = self.from_writer.try_recv()
        {
            self.step(Input::Replica(message));
        }
        while !self.is_enough()
            && let Ok((fetch, facts)) = self.facts.1.try_recv()
        {
            self.step(Input::Facts { fetch, facts });
        }
    }

    /// Whether what waits to be looked up or handed over should wait no longer.
    fn is_enough(&self) -> bool {
        self.proposals.len() + self.lookups.len() >= TOGETHER_MAX
    }

    /// Looks up what was asked, and decides what waited for it, which may let another one ask.
    /// All of one kind is done together: looking up and deciding in turn, each would push the
    /// other out of the processor's cache.
    fn look_up(&mut self) {
        let lookups = std::mem::take(&mut self.lookups);
        let found: Vec<_> =
            lookups.into_iter().filter_map(|(fetch, keys)| self.fetch(fetch, keys)).collect();
        for (fetch, facts) in found {
            self.step(Input::Facts { fetch, facts });
        }
    }

    /// Answers a question, or has it answered where the device may be waited for.
    fn fetch(&self, fetch: FetchId, keys: Keys) -> Option<FactsAnswer> {
        let (reader, others) = (self.reader.clone(), self.others.clone());
        let partition = self.partition;
        let few = keys.streams.len() + keys.event_ids.len() <= INLINE_KEYS;
        let look = move || facts(&reader, &others, partition, &keys);
        if few && let Some(found) = read_here(&look) {
            return Some((fetch, told(found)));
        }
        let answer = self.facts.0.clone();
        let taken = self.executor.submit(move || {
            let found = catch_unwind(AssertUnwindSafe(look)).ok();
            // Sized by the permits, as every parked append holds one.
            let _ = answer.try_send((fetch, told(found)));
        });
        assert!(taken, "the pool's queue is sized by the permits");
        None
    }

    fn writer_died(&mut self) {
        self.writer_gone = true;
        let reason = self.board.closed();
        let reason = reason.unwrap_or(ClosedReason::Panicked("the segment writer".into()));
        self.step(Input::Replica(FromReplica::Closed(reason)));
    }
}

/// A look-up that panics must not leave its append waiting.
fn told(found: Option<Result<Facts, ReadError>>) -> Result<Facts, String> {
    let panicked = || Err("the look-up of stream heads and event ids panicked".into());
    found.map_or_else(panicked, |found| found.map_err(|error| error.to_string()))
}

impl Actor for PartitionActor {
    type Args = Self;
    type Error = Infallible;

    async fn on_start(args: Self, _: ActorRef<Self>) -> Result<Self, Infallible> {
        Ok(args)
    }

    async fn next(
        &mut self,
        _: WeakActorRef<Self>,
        mailbox: &mut MailboxReceiver<Self>,
    ) -> Result<Option<Signal<Self>>, Infallible> {
        loop {
            self.settle();
            while !self.lookups.is_empty() {
                // As many may have waited for one another as connections append to one stream.
                tokio::task::coop::consume_budget().await;
                self.hear();
                self.settle();
            }
            tokio::select! {
                biased;
                message = self.from_writer.recv(), if !self.writer_gone => match message {
                    Some(message) => self.step(Input::Replica(message)),
                    None => self.writer_died(),
                },
                Some((fetch, facts)) = self.facts.1.recv() => {
                    self.step(Input::Facts { fetch, facts });
                    self.hear();
                }
                signal = mailbox.recv() => return Ok(signal),
                () = self.waiting.tick(), if !self.waiting.is_empty() => self.waiting.expire(),
            }
        }
    }
}

impl Message<Arrived> for PartitionActor {
    type Reply = ();

    async fn handle(&mut self, _: Arrived, _: &mut Context<Self, ()>) {
        let mut arrived = std::mem::take(&mut self.arrived);
        let until = self.waiting.until(self.inbox.take(&mut arrived));
        for Append { connection, transactions, reply, permit, deadline } in arrived.drain(..) {
            // Others have their turn, however many came.
            tokio::task::coop::consume_budget().await;
            if !self.from_writer.is_empty() || !self.facts.1.is_empty() {
                self.hear();
            }
            let (count, deadline) = (transactions.len(), deadline.unwrap_or(until));
            let token = self.waiting.add(Waiter { reply: Some(reply), permit, count, deadline });
            self.step(Input::Append { token, connection, transactions });
            if self.is_enough() {
                self.settle();
            }
        }
        // Many come together rarely.
        arrived.shrink_to(ARRIVED_KEPT);
        self.arrived = arrived;
    }
}

#[cfg(feature = "fault-injection")]
impl Message<Panic> for PartitionActor {
    type Reply = ();

    async fn handle(&mut self, _: Panic, _: &mut Context<Self, ()>) {
        panic!("injected into partition {}", self.partition);
    }
}
