//! One bucket's writer: consensus and publishing, with one piece of disk work in flight.

use std::collections::{BTreeSet, HashMap};
use std::fmt::Display;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};

use actadb_bucket::writer_side::{WriterInput, WriterOutput, WriterSide};
use actadb_model::entry::Proposal;
use actadb_model::ids::PartitionId;
use actadb_model::limits::{PEER_MESSAGE_BYTES, READS_WAITING};
use actadb_model::outcome::ClosedReason;
use actadb_model::time::Now;
use actadb_partition::message::FromReplica;
use actadb_replica::peer::PeerMessage;
use actadb_store::entries::EntryReader;
use actadb_store::publisher::SealTask;
use kameo::error::Infallible;
use kameo::mailbox::Signal;
use kameo::prelude::*;
use tokio::sync::{mpsc, oneshot};
use tokio::time::sleep_until;

use crate::bells::Bells;
use crate::clock::Clock;
use crate::cluster::links::Links;
use crate::cluster::topology_actor::FromPeer;
use crate::executor::{Command, Executor, WriterThread};
use crate::status::BucketBoard;

/// How many turns of the runtime an entry that is smaller than the last one waits: in one the
/// sockets are looked at, in the next the connections read, then the partitions decide, and in the
/// fourth their proposals are here.
const GATHER_TURNS: usize = 4;

/// Decided transactions of one partition, in order.
#[derive(Debug)]
pub(crate) struct Proposals(pub(crate) Vec<Proposal>);

/// Sync what is written: a retry waits for it.
#[derive(Debug)]
pub(crate) struct WantSync;

/// Does this replica lead still? A refusal of the partition waits for the answer.
#[derive(Debug)]
pub(crate) struct Confirm(pub(crate) PartitionId, pub(crate) u64);

/// Close the bucket for good.
#[derive(Debug)]
pub(crate) struct Close(pub(crate) ClosedReason);

/// Write what is there, sync, save; the sender is told (or dropped) when that is done.
#[derive(Debug)]
pub(crate) struct Stop(pub(crate) oneshot::Sender<()>);

#[cfg(feature = "fault-injection")]
#[derive(Debug)]
pub(crate) enum Panic {
    Actor,
    Thread,
}

/// What a segment writer actor is made of.
#[derive(Debug)]
pub(crate) struct SegmentWriterActor {
    pub(crate) side: WriterSide,
    pub(crate) clock: Clock,
    pub(crate) executor: Executor,
    pub(crate) board: Arc<BucketBoard>,
    pub(crate) bells: Arc<Bells>,
    pub(crate) thread: WriterThread,
    pub(crate) thread_gone: bool,
    /// Others had their turn since the last entry was begun.
    pub(crate) gathered: bool,
    pub(crate) partitions: HashMap<PartitionId, mpsc::Sender<FromReplica>>,
    pub(crate) sealed: (mpsc::Sender<WriterInput>, mpsc::Receiver<WriterInput>),
    /// The way to the other replicas; `None` of a node that is alone.
    pub(crate) peers: Option<Peers>,
    pub(crate) stopping: Vec<oneshot::Sender<()>>,
    /// Kept for its memory.
    pub(crate) outputs: Vec<WriterOutput>,
}

/// The other replicas of a bucket.
#[derive(Debug)]
pub(crate) struct Peers {
    pub(crate) links: Arc<Links>,
    pub(crate) inbox: mpsc::Receiver<FromPeer>,
    /// Questions for what is committed in the group.
    pub(crate) reads: mpsc::Receiver<oneshot::Sender<()>>,
    /// Those who go with the next question; one is under way at a time.
    pub(crate) waiting: Vec<oneshot::Sender<()>>,
    /// Those who wait for the one under way.
    pub(crate) asked: Vec<oneshot::Sender<()>>,
    /// Reads old entries for those that are behind.
    pub(crate) entries: Arc<Mutex<EntryReader>>,
    /// Replicas that a message did not reach.
    pub(crate) unreachable: BTreeSet<u64>,
}

impl SegmentWriterActor {
    fn step(&mut self, input: WriterInput) {
        self.step_at(self.clock.now(), input);
    }

    fn step_at(&mut self, now: Now, input: WriterInput) {
        self.step_once(now, input);
        self.ask_waiting(now);
        while let Some(replica) = self.peers.as_mut().and_then(|p| p.unreachable.pop_first()) {
            self.step_once(now, WriterInput::Unreachable(replica));
        }
    }

    /// Puts the next question, when none is under way.
    fn ask_waiting(&mut self, now: Now) {
        let Some(peers) = &mut self.peers else { return };
        if peers.asked.is_empty() && !peers.waiting.is_empty() {
            peers.asked = std::mem::take(&mut peers.waiting);
            self.step_once(now, WriterInput::Read(0));
        }
    }

    fn take_read(&mut self, reader: oneshot::Sender<()>) {
        let Some(peers) = &mut self.peers else { return };
        // Without a majority nobody is answered: those who gave up make room.
        if peers.waiting.len() >= READS_WAITING {
            peers.waiting.retain(|reader| !reader.is_closed());
        }
        peers.waiting.push(reader);
        self.ask_waiting(self.clock.now());
    }

    fn step_once(&mut self, now: Now, input: WriterInput) {
        let mut outputs = std::mem::take(&mut self.outputs);
        let done = matches!(input, WriterInput::Done(_));
        self.side.step(now, input, &mut outputs);
        let told = done || !outputs.is_empty();
        for output in outputs.drain(..) {
            match output {
                WriterOutput::Work(work) => {
                    // One piece is out at a time; a thread that is gone is seen by `done`.
                    let _ = self.thread.work.try_send(Command::Work(work));
                }
                WriterOutput::Seal(task) => self.seal(task),
                WriterOutput::Send(message) => self.send(&message),
                WriterOutput::Fetch { first, end } => self.fetch_entries(first, end),
                WriterOutput::ReadAt(_) => {
                    for reader in self.peers.iter_mut().flat_map(|peers| peers.asked.drain(..)) {
                        let _ = reader.send(());
                    }
                }
                WriterOutput::ToPartition(partition, message) => {
                    self.tell_partition(partition, message);
                }
                WriterOutput::Moved { partitions, streams } => {
                    self.bells.ring(&partitions, &streams);
                }
                WriterOutput::Closed(reason) => self.board.close(&reason),
                WriterOutput::Stopped => {
                    for stopped in self.stopping.drain(..) {
                        let _ = stopped.send(());
                    }
                }
            }
        }
        self.outputs = outputs;
        if told {
            self.board.set_writer(self.side.totals(), self.side.stats());
        }
    }

    fn tell_partition(&self, partition: PartitionId, message: FromReplica) {
        let Some(sender) = self.partitions.get(&partition) else { return };
        match sender.try_send(message) {
            Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => {}
            Err(mpsc::error::TrySendError::Full(_)) => {
                panic!("the queue to partition {partition} is sized by the permits")
            }
        }
    }

    fn send(&mut self, message: &PeerMessage) {
        let Some(peers) = &mut self.peers else { return };
        if !peers.links.send_replica(self.board.bucket, message) {
            peers.unreachable.insert(message.to);
        }
    }

    fn fetch_entries(&self, first: u64, end: u64) {
        let Some(peers) = &self.peers else { return };
        let (entries, links) = (peers.entries.clone(), peers.links.clone());
        let answer = self.sealed.0.clone();
        let bucket = self.board.bucket.0;
        let read = move || {
            let mut reader = entries.lock().unwrap_or_else(PoisonError::into_inner);
            match reader.read(first, end, PEER_MESSAGE_BYTES) {
                Ok(entries) => {
                    links.catch_up.spend(entries.iter().map(|e| e.body.len() as u64).sum());
                    WriterInput::Fetched { first, entries }
                }
                Err(error) => {
                    let what = "entries for another node cannot be read";
                    tracing::error!(bucket, first, %error, "{what}");
                    let again = WriterInput::Fetched { first, entries: Vec::new() };
                    error.closes().map_or(again, WriterInput::Close)
                }
            }
        };
        let job = move || {
            // One that panics must not keep the question open for ever.
            let panicked = |_| WriterInput::Fetched { first, entries: Vec::new() };
            let input = catch_unwind(AssertUnwindSafe(read)).unwrap_or_else(panicked);
            let _ = answer.try_send(input);
        };
        let (executor, answer) = (self.executor.clone(), self.sealed.0.clone());
        let submit = move || {
            if !executor.submit(job) {
                let _ = answer.try_send(WriterInput::Fetched { first, entries: Vec::new() });
            }
        };
        match peers.links.catch_up.wait_until() {
            None => submit(),
            // Those who serve need the disk and the network, too.
            Some(at) => drop(tokio::spawn(async move {
                sleep_until(at).await;
                submit();
            })),
        }
    }

    fn seal(&self, task: SealTask) {
        let answer = self.sealed.0.clone();
        let bucket = self.board.bucket.0;
        let taken = self.executor.submit_long(move || {
            let (segment, again) = (task.segment(), task.clone());
            let behind = task.clone();
            let sealed = catch_unwind(AssertUnwindSafe(|| task.run()));
            let failed = |error: &dyn Display, no_room: bool| {
                let what = "an index could not be written; again soon";
                tracing::warn!(bucket, segment, %error, what);
                WriterInput::SealFailed { task: again, no_room }
            };
            let input = match sealed {
                Ok(Ok(index)) => WriterInput::Sealed(index),
                Ok(Err(error)) => failed(&error, error.is_no_room()),
                Err(_panic) => failed(&"it panicked", false),
            };
            let is_sealed = matches!(input, WriterInput::Sealed(_));
            // Sized for all segments that may wait.
            let _ = answer.try_send(input);
            if is_sealed
                && let Ok(Err(error)) = catch_unwind(AssertUnwindSafe(|| behind.extend_filters()))
            {
                let what = "a filter could not be built; again behind the next seal";
                tracing::warn!(bucket, segment, %error, what);
            }
        });
        assert!(taken, "the pool's queue has room for the seals");
    }
}

/// What concerns the group.
enum Heard {
    Peer(FromPeer),
    Read(oneshot::Sender<()>),
}

/// What another replica says next, or who asks for the group; never, of a node that is alone.
async fn hear(peers: &mut Option<Peers>) -> Option<Heard> {
    let Some(peers) = peers else { return std::future::pending().await };
    tokio::select! {
        biased;
        Some(from) = peers.inbox.recv() => Some(Heard::Peer(from)),
        Some(reader) = peers.reads.recv() => Some(Heard::Read(reader)),
        else => std::future::pending().await,
    }
}

impl Actor for SegmentWriterActor {
    type Args = Self;
    type Error = Infallible;

    async fn on_start(mut args: Self, _: ActorRef<Self>) -> Result<Self, Infallible> {
        args.step(WriterInput::Start);
        Ok(args)
    }

    async fn next(
        &mut self,
        _: WeakActorRef<Self>,
        mailbox: &mut MailboxReceiver<Self>,
    ) -> Result<Option<Signal<Self>>, Infallible> {
        loop {
            if mailbox.is_empty() && !self.gathered && self.side.may_gather() {
                // Whoever is ready to append joins this entry. It costs microseconds, a sync of
                // its own many.
                self.gathered = true;
                for _ in 0..GATHER_TURNS {
                    tokio::task::yield_now().await;
                }
            }
            if mailbox.is_empty() {
                self.gathered = false;
                self.step(WriterInput::Flush);
            }
            if !mailbox.is_empty() {
                // What waits joins the entry that begins when the writer is done.
                return Ok(mailbox.recv().await);
            }
            let wake = self.side.wake_at().map(|at| self.clock.at(at));
            let tick = async {
                match wake {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                done = self.thread.done.recv(), if !self.thread_gone => match done {
                    Some(done) => self.step(WriterInput::Done(done)),
                    None => {
                        self.thread_gone = true;
                        let reason = ClosedReason::Panicked("the writer thread".into());
                        self.step(WriterInput::Close(reason));
                    }
                },
                Some(input) = self.sealed.1.recv() => self.step(input),
                Some(heard) = hear(&mut self.peers) => match heard {
                    Heard::Peer(FromPeer::Message(message)) => {
                        self.step(WriterInput::Peer(message));
                    }
                    Heard::Peer(FromPeer::Lost(replica)) => {
                        self.step(WriterInput::Unreachable(replica));
                    }
                    Heard::Peer(FromPeer::HandOver(replica)) => {
                        self.step(WriterInput::HandOver(replica));
                    }
                    Heard::Read(reader) => self.take_read(reader),
                },
                signal = mailbox.recv() => return Ok(signal),
                () = tick => self.step(WriterInput::Tick),
            }
        }
    }
}

impl Message<Proposals> for SegmentWriterActor {
    type Reply = ();

    async fn handle(&mut self, Proposals(proposals): Proposals, _: &mut Context<Self, ()>) {
        let now = self.clock.now();
        for proposal in proposals {
            self.step_at(now, WriterInput::Propose(proposal));
        }
    }
}

impl Message<WantSync> for SegmentWriterActor {
    type Reply = ();

    async fn handle(&mut self, _: WantSync, _: &mut Context<Self, ()>) {
        self.step(WriterInput::WantSync);
    }
}

impl Message<Confirm> for SegmentWriterActor {
    type Reply = ();

    async fn handle(&mut self, question: Confirm, _: &mut Context<Self, ()>) {
        let Confirm(partition, number) = question;
        self.step(WriterInput::Confirm(partition, number));
    }
}

impl Message<Close> for SegmentWriterActor {
    type Reply = ();

    async fn handle(&mut self, Close(reason): Close, _: &mut Context<Self, ()>) {
        self.step(WriterInput::Close(reason));
    }
}

impl Message<Stop> for SegmentWriterActor {
    type Reply = ();

    async fn handle(&mut self, Stop(stopped): Stop, _: &mut Context<Self, ()>) {
        self.stopping.push(stopped);
        self.step(WriterInput::Stop);
    }
}

#[cfg(feature = "fault-injection")]
impl Message<Panic> for SegmentWriterActor {
    type Reply = ();

    async fn handle(&mut self, panic: Panic, _: &mut Context<Self, ()>) {
        match panic {
            Panic::Actor => panic!("injected into the segment writer"),
            Panic::Thread => {
                let _ = self.thread.work.try_send(Command::Panic);
            }
        }
    }
}
