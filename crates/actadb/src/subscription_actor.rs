//! One subscription: reads on for its core and passes on what the core delivers.

use std::collections::VecDeque;
use std::future::pending;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use actadb_model::ids::PartitionId;
use actadb_model::names::StreamId;
use actadb_store::error::ReadError as StoreError;
use actadb_store::follow::{Follower, FoundEvents, Reach, Source};
use actadb_subscription::core::SubscriptionCore;
use actadb_subscription::message::{Found, Input, Output};
use kameo::error::Infallible;
use kameo::mailbox::Signal;
use kameo::prelude::*;
use tokio::sync::mpsc::{self, OwnedPermit};
use tokio::sync::watch;
use tokio::time::sleep_until;
use uuid::Uuid;

use crate::bells::{Bell, HungBell};
use crate::clock::Clock;
use crate::error::ReadError;
use crate::executor::Executor;
use crate::subscriptions::{AheadOfSent, Counted, Counts, EndReason, Notice, Outlet};

/// Acknowledge everything up to a cursor.
#[derive(Debug)]
pub(crate) struct Ack(pub(crate) u64);

/// What a job brings back: the follower, and what it found.
type Job = Pin<Box<dyn Future<Output = Option<JobDone>> + Send>>;
type JobDone = (Follower, Result<FoundEvents, StoreError>);

/// Tells the reader that the subscription has ended, however it did.
#[derive(Debug)]
pub(crate) struct Ending {
    pub(crate) id: Uuid,
    pub(crate) ends: mpsc::Sender<(Uuid, EndReason)>,
    /// `None` while it runs: a drop is a panic then.
    pub(crate) reason: Option<EndReason>,
    /// The reader has ended it, and wants to hear nothing.
    pub(crate) dropped: Arc<AtomicBool>,
}

impl Drop for Ending {
    fn drop(&mut self) {
        if self.dropped.load(Ordering::Acquire) {
            return;
        }
        let reason = self.reason.take().unwrap_or(EndReason::Panicked);
        // There is room for every subscription of a reader; a reader that is gone needs no word.
        let _ = self.ends.try_send((self.id, reason));
    }
}

/// The actor. What it is made of lies apart: an actor is moved through the futures that run it, and
/// each of them would have room for it, ten thousand times.
#[derive(Debug)]
pub(crate) struct SubscriptionActor(pub(crate) Box<Parts>);

/// What a subscription actor is made of.
pub(crate) struct Parts {
    pub(crate) core: SubscriptionCore,
    pub(crate) names: Names,
    /// One per bucket; a job has its own away.
    pub(crate) followers: VecDeque<Follower>,
    pub(crate) buckets: usize,
    pub(crate) bell: Arc<Bell>,
    /// Where the bell hangs, as long as this lives.
    pub(crate) _hung: Vec<HungBell>,
    pub(crate) executor: Executor,
    pub(crate) clock: Clock,
    pub(crate) outlet: Outlet,
    pub(crate) stopping: watch::Receiver<bool>,
    pub(crate) ending: Ending,
    pub(crate) counts: Arc<Counts>,
    pub(crate) _counted: Counted,
    pub(crate) work: Work,
    pub(crate) queue: VecDeque<Notice>,
    /// A place for a notice. It is taken before a read, so that no more is read for a reader than
    /// its queue has places, however many subscriptions it has.
    pub(crate) permit: Option<OwnedPermit<(Uuid, Notice)>>,
    /// The bell's number before the last read.
    pub(crate) seen: u64,
    pub(crate) acked: Result<(), AheadOfSent>,
}

/// What the sources are, by the index that the core knows them by. Small: ten thousand
/// subscriptions may each follow all partitions.
pub(crate) enum Names {
    /// Partitions.
    Partitions(Box<[PartitionId]>),
    /// Streams, each with its partition.
    Streams(Box<[(StreamId, PartitionId)]>),
}

impl Names {
    pub(crate) fn of(sources: &[Source]) -> Self {
        let stream = |source: &Source| match source {
            Source::Stream(stream, partition) => Some((stream.clone(), *partition)),
            Source::Partition(_) => None,
        };
        match sources.iter().map(stream).collect() {
            Some(streams) => Self::Streams(streams),
            None => Self::Partitions(sources.iter().map(Source::partition).collect()),
        }
    }

    fn source(&self, at: usize) -> Source {
        match self {
            Self::Partitions(partitions) => Source::Partition(partitions[at]),
            Self::Streams(streams) => Source::Stream(streams[at].0.clone(), streams[at].1),
        }
    }
}

/// What it is doing for its core.
pub(crate) enum Work {
    /// Nothing: the core waits for something else.
    Idle,
    /// Read so many events, asking so many followers more.
    Read(usize, usize),
    /// A job is out, for what a `Read` was to do.
    Job(Job, usize, usize),
    /// Wait for the bell.
    Wait,
}

impl std::fmt::Debug for Parts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Subscription({})", self.ending.id)
    }
}

impl Parts {
    fn step(&mut self, input: Input) {
        let mut outputs = Vec::new();
        self.core.step(self.clock.now(), input, &mut outputs);
        for output in outputs {
            match output {
                Output::Read { max } => {
                    self.seen = self.bell.number();
                    self.work = Work::Read(max, self.buckets);
                }
                Output::Wait => self.work = Work::Wait,
                Output::Deliver(deliveries) => {
                    self.work = Work::Idle;
                    self.counts.delivered.fetch_add(deliveries.len() as u64, Ordering::Relaxed);
                    self.queue.push_back(Notice::Events(deliveries));
                }
                Output::Progress { cursor, positions } => {
                    let named =
                        positions.into_iter().map(|(at, next)| (self.names.source(at), next));
                    let positions = named.collect();
                    self.queue.push_back(Notice::Progress { cursor, positions });
                }
                Output::Acked => self.acked = Ok(()),
                Output::AckRefused { last } => self.acked = Err(AheadOfSent { last }),
            }
        }
    }

    /// Reads what is in memory at once, and sends a job for the rest. Answers why it must end.
    fn read(&mut self, max: usize, left: usize) -> Result<(), StoreError> {
        self.work = Work::Idle;
        let Some(mut follower) = self.followers.pop_front() else { return Ok(()) };
        match follower.read(self.core.positions(), max, Reach::Memory)? {
            Some(found) => self.found(follower, found, max, left),
            None => {
                let positions = self.core.positions().to_vec();
                let executor = self.executor.clone();
                let job = async move {
                    let read = move || {
                        let found = follower.read(&positions, max, Reach::Device);
                        (follower, found.map(Option::unwrap_or_default))
                    };
                    executor.read(read).await
                };
                self.work = Work::Job(Box::pin(job), max, left);
            }
        }
        Ok(())
    }

    /// Takes what one follower found; when that is nothing, the next bucket's is asked.
    fn found(&mut self, follower: Follower, found: FoundEvents, max: usize, left: usize) {
        self.followers.push_back(follower);
        if found.is_empty() && left > 1 {
            self.work = Work::Read(max, left - 1);
            return;
        }
        let found = found.into_iter().map(|(source, event)| Found { source, event });
        self.step(Input::Found(found.collect()));
    }

    fn job_done(
        &mut self,
        done: Option<JobDone>,
        max: usize,
        left: usize,
    ) -> Result<(), EndReason> {
        self.work = Work::Idle;
        let (follower, found) = done.ok_or(EndReason::Panicked)?;
        let found = found.map_err(|error| EndReason::Read(ReadError::from(error)))?;
        self.found(follower, found, max, left);
        Ok(())
    }

    /// Passes on the first notice.
    fn pass_on(&mut self, permit: OwnedPermit<(Uuid, Notice)>) {
        let Some(notice) = self.queue.pop_front() else { return };
        permit.send((self.ending.id, notice));
        if self.queue.is_empty() {
            self.step(Input::Passed);
        }
    }

    /// Works until there is a message; `None` when the subscription has ended by itself.
    async fn next(
        &mut self,
        mailbox: &mut MailboxReceiver<SubscriptionActor>,
    ) -> Option<Signal<SubscriptionActor>> {
        let reason = loop {
            if !self.queue.is_empty() {
                if let Some(permit) = self.permit.take() {
                    self.pass_on(permit);
                    continue;
                }
            } else if let Work::Read(max, left) = self.work {
                if self.permit.is_some() {
                    // Reading from memory never waits; others want their turn all the same.
                    tokio::task::consume_budget().await;
                    match self.read(max, left) {
                        Ok(()) => continue,
                        Err(error) => break EndReason::Read(error.into()),
                    }
                }
            } else if !matches!(self.work, Work::Job(..)) {
                self.permit = None;
            }
            let wake = self.core.wake_at().map(|at| self.clock.at(at));
            let tick = async {
                match wake {
                    Some(at) => sleep_until(at).await,
                    None => pending().await,
                }
            };
            let waits = matches!(self.work, Work::Wait);
            let wants_place = self.permit.is_none()
                && (!self.queue.is_empty() || matches!(self.work, Work::Read(..)));
            tokio::select! {
                biased;
                signal = mailbox.recv() => return signal,
                () = stop(&mut self.stopping) => break EndReason::Stopping,
                permit = place(&self.outlet), if wants_place => self.permit = Some(permit),
                (done, max, left) = job(&mut self.work) => {
                    if let Err(reason) = self.job_done(done, max, left) {
                        break reason;
                    }
                }
                () = self.bell.moved_from(self.seen), if waits => self.step(Input::Moved),
                () = tick => self.step(Input::Tick),
            }
        };
        self.ending.reason = Some(reason);
        None
    }
}

/// A place in the reader's queue.
async fn place(outlet: &Outlet) -> OwnedPermit<(Uuid, Notice)> {
    match outlet.notices.clone().reserve_owned().await {
        Ok(permit) => permit,
        // The reader is gone: it ends this subscription by dropping its handle.
        Err(_closed) => pending().await,
    }
}

async fn stop(stopping: &mut watch::Receiver<bool>) {
    let _ = stopping.wait_for(|stopping| *stopping).await;
}

/// Ends by itself when the future of a job does.
async fn job(work: &mut Work) -> (Option<JobDone>, usize, usize) {
    match work {
        Work::Job(job, max, left) => (job.await, *max, *left),
        _ => pending().await,
    }
}

impl Actor for SubscriptionActor {
    type Args = Self;
    type Error = Infallible;

    async fn on_start(mut args: Self, _: ActorRef<Self>) -> Result<Self, Infallible> {
        args.0.step(Input::Begin);
        Ok(args)
    }

    async fn next(
        &mut self,
        _: WeakActorRef<Self>,
        mailbox: &mut MailboxReceiver<Self>,
    ) -> Result<Option<Signal<Self>>, Infallible> {
        Ok(self.0.next(mailbox).await)
    }
}

impl Message<Ack> for SubscriptionActor {
    type Reply = Result<(), AheadOfSent>;

    async fn handle(
        &mut self,
        Ack(cursor): Ack,
        _: &mut Context<Self, Self::Reply>,
    ) -> Self::Reply {
        self.0.step(Input::Ack(cursor));
        self.0.acked
    }
}

#[cfg(feature = "fault-injection")]
#[derive(Debug)]
pub(crate) struct Panic;

#[cfg(feature = "fault-injection")]
impl Message<Panic> for SubscriptionActor {
    type Reply = ();

    async fn handle(&mut self, _: Panic, _: &mut Context<Self, ()>) {
        panic!("injected into subscription {}", self.0.ending.id);
    }
}
