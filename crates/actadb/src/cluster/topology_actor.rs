//! The actor that hears the other nodes, and carries what they say to where it belongs.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use actadb_model::limits::FORWARDED_MAX;
use actadb_model::outcome::{AppendResult, Refusal};
use actadb_replica::peer::PeerMessage;
use actadb_transport::frame::{Frame, FrameKind};
use actadb_transport::peers::PeerEvent;
use kameo::error::Infallible;
use kameo::mailbox::Signal;
use kameo::prelude::*;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::cluster::links::{Links, replica_of};
use crate::cluster::wire::{AppendRequest, AppendResponse};
use crate::door::PartitionDoor;

/// What a bucket hears from the other nodes.
#[derive(Debug)]
pub(crate) enum FromPeer {
    /// From a replica of its group.
    Message(PeerMessage),
    /// The connection to a replica was lost.
    Lost(u64),
}

/// What the topology actor is made of.
#[derive(Debug)]
pub(crate) struct TopologyActor {
    pub(crate) links: Arc<Links>,
    pub(crate) events: mpsc::Receiver<PeerEvent>,
    /// By number of the bucket; `None` where it did not open.
    pub(crate) buckets: Vec<Option<mpsc::Sender<FromPeer>>>,
    /// By number of the partition.
    pub(crate) doors: Vec<Option<PartitionDoor>>,
    pub(crate) append_timeout: Duration,
    /// Appends of other nodes that are under way here.
    pub(crate) forwarded: JoinSet<()>,
}

impl TopologyActor {
    fn hear(&mut self, event: PeerEvent) {
        match event {
            PeerEvent::Connected(_) => {}
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
                Some(response) => self.links.answered(response),
                None => tracing::warn!(node, "the answer to an append cannot be read"),
            },
            FrameKind::Formed | FrameKind::Hello => {}
        }
    }

    /// An append that another node took from a client. It is not forwarded again.
    fn append(&mut self, node: u8, group: u16, request: AppendRequest) {
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
        let timeout = self.append_timeout;
        self.forwarded.spawn(async move {
            answer(door.append(connection, transactions, timeout).await);
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
