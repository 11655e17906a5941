//! The actor that hears the other nodes, and carries what they say to where it belongs.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use actadb_membership::balance::hand_over;
use actadb_membership::report::Report;
use actadb_model::limits::FORWARDED_MAX;
use actadb_model::outcome::{AppendResult, Refusal};
use actadb_replica::peer::PeerMessage;
use actadb_store::meta::Directory;
use actadb_transport::frame::{Frame, FrameKind};
use actadb_transport::peers::PeerEvent;
use bytes::Bytes;
use kameo::error::Infallible;
use kameo::mailbox::Signal;
use kameo::prelude::*;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, Interval};

use crate::cluster::links::{Links, node_of, replica_of};
use crate::cluster::wire::{AppendRequest, AppendResponse};
use crate::door::PartitionDoor;
use crate::executor::Executor;
use crate::status::BucketBoard;

/// What a bucket hears from the other nodes.
#[derive(Debug)]
pub(crate) enum FromPeer {
    /// From a replica of its group.
    Message(PeerMessage),
    /// The connection to a replica was lost.
    Lost(u64),
    /// Hand the lead over to this replica, if this one has it.
    HandOver(u64),
}

/// What the topology actor is made of.
#[derive(Debug)]
pub(crate) struct TopologyActor {
    pub(crate) links: Arc<Links>,
    pub(crate) events: mpsc::Receiver<PeerEvent>,
    /// By number of the bucket; `None` where it did not open.
    pub(crate) buckets: Vec<Option<mpsc::Sender<FromPeer>>>,
    pub(crate) boards: Vec<Arc<BucketBoard>>,
    /// When the leads are looked at, and the other nodes told how this one is doing.
    pub(crate) balance: Interval,
    /// Events that were committed in each bucket at the last report, and when that was.
    pub(crate) counted: (Instant, Vec<u64>),
    /// How much space there is, and who asks.
    pub(crate) free: Arc<FreeSpace>,
    pub(crate) directory: Arc<Directory>,
    pub(crate) executor: Executor,
    /// The lead that was handed over last, to keep leads even.
    pub(crate) handed: Option<(usize, u8)>,
    /// Nodes that did not keep a lead, their disks being full perhaps: they get none until then.
    pub(crate) unfit: BTreeMap<u8, Instant>,
    /// By number of the partition.
    pub(crate) doors: Vec<Option<PartitionDoor>>,
    /// Appends of other nodes that are under way here.
    pub(crate) forwarded: JoinSet<()>,
}

/// Free space that is not known.
const UNKNOWN: u64 = u64::MAX;

/// Space on the disk, as it was found last.
#[derive(Debug)]
pub(crate) struct FreeSpace {
    bytes: AtomicU64,
    /// A job is under way that asks.
    asked: AtomicBool,
}

impl Default for FreeSpace {
    fn default() -> Self {
        Self { bytes: AtomicU64::new(UNKNOWN), asked: AtomicBool::new(false) }
    }
}

/// How often the leads are looked at, and reports are sent.
pub(crate) const BALANCE_EVERY: Duration = Duration::from_secs(5);
/// How long a node gets no lead that did not keep the last one.
const UNFIT_FOR: Duration = Duration::from_secs(60);

/// Hand the lead of a bucket over to a node.
#[derive(Debug)]
pub(crate) struct HandOver(pub(crate) usize, pub(crate) u8);

impl TopologyActor {
    /// Tells the other nodes how this one is doing.
    fn report(&mut self) {
        let events: Vec<u64> = self.boards.iter().map(|board| board.events()).collect();
        let (before, counted) = std::mem::replace(&mut self.counted, (Instant::now(), events));
        let led = self.boards.iter().zip(&self.counted.1).zip(counted);
        let led = led.filter(|((board, _), _)| node_of(board.leader()) == Some(self.links.node));
        let new: u64 = led.map(|((_, now), before)| now.saturating_sub(before)).sum();
        let seconds = self.counted.0.duration_since(before).as_secs_f64().max(1.0);
        let stuck = self.boards.iter().filter(|b| b.no_room() || b.closed().is_some());
        let report = Report {
            events_per_second: (new as f64 / seconds) as u64,
            free_bytes: self.free_bytes(),
            stuck_buckets: stuck.map(|board| board.bucket.0).collect(),
        };
        if let Ok(body) = serde_json::to_vec(&report) {
            let body = Bytes::from(body);
            for node in 0..self.links.door.members().hello().shape.nodes {
                // One that is not there hears the next one.
                let _ = self.links.send(node, FrameKind::Report, 0, body.clone());
            }
        }
        self.links.reported(self.links.node, report);
    }

    /// What was found last: a disk that hangs must not keep this actor from hearing.
    fn free_bytes(&self) -> Option<u64> {
        let (free, directory) = (self.free.clone(), self.directory.clone());
        if !free.asked.swap(true, Ordering::Relaxed) {
            let asks = free.clone();
            let submitted = self.executor.submit(move || {
                let found = directory.disk().free_bytes(directory.root());
                asks.bytes.store(found.unwrap_or(UNKNOWN), Ordering::Relaxed);
                asks.asked.store(false, Ordering::Relaxed);
            });
            if !submitted {
                free.asked.store(false, Ordering::Relaxed);
            }
        }
        Some(free.bytes.load(Ordering::Relaxed)).filter(|bytes| *bytes != UNKNOWN)
    }

    fn balance(&mut self) {
        let leaders: Vec<_> = self.boards.iter().map(|board| node_of(board.leader())).collect();
        let now = Instant::now();
        self.unfit.retain(|_, until| *until > now);
        if let Some((bucket, node)) = self.handed.take()
            && leaders.get(bucket).copied().flatten().is_some_and(|leader| leader != node)
        {
            self.unfit.insert(node, now + UNFIT_FOR);
        }
        let nodes = self.links.door.members().hello().shape.nodes;
        let may_lead = |node| self.links.report_of(node).is_none_or(|report| report.may_lead());
        let fit = |node: &u8| {
            self.links.is_connected(*node) && !self.unfit.contains_key(node) && may_lead(*node)
        };
        let others: Vec<u8> = (0..nodes).filter(fit).collect();
        if let Some((bucket, to)) = hand_over(&leaders, self.links.node, &others) {
            self.handed = Some((bucket, to));
            self.hand_over(bucket, to);
        }
    }

    fn hand_over(&self, bucket: usize, node: u8) {
        if let Some(Some(inbox)) = self.buckets.get(bucket) {
            tracing::info!(bucket, node, "handing the lead over");
            let _ = inbox.try_send(FromPeer::HandOver(replica_of(node)));
        }
    }

    fn hear(&mut self, event: PeerEvent) {
        match event {
            // It may have introduced itself before the cluster was formed.
            PeerEvent::Connected(node) => self.links.tell_formed(node),
            PeerEvent::Lost(node) => {
                self.links.lost(node);
                for bucket in self.buckets.iter().flatten() {
                    let _ = bucket.try_send(FromPeer::Lost(replica_of(node)));
                }
            }
            PeerEvent::Frame(node, frame) => self.frame(node, frame),
        }
    }

    fn frame(&mut self, node: u8, frame: Frame) {
        let Frame { kind, group, body } = frame;
        match kind {
            FrameKind::Replica => match PeerMessage::decode(body) {
                // Nobody speaks for another. What finds no place is lost: it is said again.
                Ok(message) if message.from == replica_of(node) => {
                    if let Some(Some(bucket)) = self.buckets.get(usize::from(group)) {
                        let _ = bucket.try_send(FromPeer::Message(message));
                    }
                }
                Ok(_) => tracing::warn!(node, "a message in another node's name is dropped"),
                Err(error) => tracing::warn!(node, %error, "a message is dropped"),
            },
            FrameKind::Append => match AppendRequest::decode(body) {
                Some(request) => self.append(node, group, request),
                None => tracing::warn!(node, "a forwarded append cannot be read"),
            },
            FrameKind::Appended => match AppendResponse::decode(body) {
                Some(response) => self.links.answered(node, response),
                None => tracing::warn!(node, "the answer to an append cannot be read"),
            },
            FrameKind::Report => match serde_json::from_slice(&body) {
                Ok(report) => self.links.reported(node, report),
                Err(error) => tracing::warn!(node, %error, "a report cannot be read"),
            },
            FrameKind::Formed | FrameKind::Hello | FrameKind::Beat => {}
        }
    }

    /// An append that another node took from a client. It is not forwarded again.
    fn append(&mut self, node: u8, group: u16, request: AppendRequest) {
        self.links.asked();
        let AppendRequest { token, partition, connection, transactions } = request;
        let links = self.links.clone();
        let answer = move |results: Vec<AppendResult>| {
            let body = AppendResponse { token, results }.encode();
            // Lost with the connection: the other node does not know the outcome then.
            let _ = links.send(node, FrameKind::Appended, group, body);
        };
        let count = transactions.len();
        let refuse = |refusal: Refusal| vec![Err(refusal.into()); count];
        let Some(Some(door)) = self.doors.get(usize::from(partition.0)).cloned() else {
            return answer(refuse(Refusal::NotLeader));
        };
        if self.forwarded.len() >= FORWARDED_MAX {
            return answer(refuse(Refusal::Busy));
        }
        self.forwarded.spawn(async move {
            answer(door.append(connection, transactions, None).await);
        });
    }
}

impl Actor for TopologyActor {
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
            tokio::select! {
                event = self.events.recv() => match event {
                    Some(event) => self.hear(event),
                    None => return Ok(mailbox.recv().await),
                },
                Some(_ended) = self.forwarded.join_next() => {}
                _ = self.balance.tick() => {
                    self.links.door.save_starts(&self.executor);
                    self.report();
                    self.balance();
                }
                signal = mailbox.recv() => return Ok(signal),
            }
        }
    }

    async fn on_link_died(
        &mut self,
        _: WeakActorRef<Self>,
        _: ActorId,
        _: ActorStopReason,
    ) -> Result<ControlFlow<ActorStopReason>, Infallible> {
        Ok(ControlFlow::Continue(()))
    }
}

impl Message<HandOver> for TopologyActor {
    type Reply = ();

    async fn handle(&mut self, HandOver(bucket, node): HandOver, _: &mut Context<Self, ()>) {
        self.hand_over(bucket, node);
    }
}
