//! Who watches whom. Nothing is restarted: an actor that comes back would number from stale heads.
//! A death closes its bucket, and the process goes on with the others.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, PoisonError};

use actadb_model::outcome::ClosedReason;
use kameo::error::Infallible;
use kameo::mailbox;
use kameo::prelude::*;
use kameo::supervision::RestartPolicy;

use crate::cluster::topology_actor::TopologyActor;
use crate::partition_actor::PartitionActor;
use crate::scrub_actor::ScrubActor;
use crate::segment_writer_actor::{Close, SegmentWriterActor};
use crate::status::BucketBoard;

/// Watches the bucket supervisors and the scrub.
#[derive(Debug, Default)]
pub(crate) struct NodeSupervisor {
    buckets: HashMap<ActorId, (ActorRef<BucketSupervisor>, Arc<BucketBoard>)>,
    scrub: Option<ActorId>,
    topology: Option<ActorId>,
}

/// Watches the subscriptions, which are linked to it: it keeps nothing of those that ended.
#[derive(Debug)]
pub(crate) struct SubscriptionSupervisor;

/// Watches one bucket's writer and partitions.
#[derive(Debug)]
pub(crate) struct BucketSupervisor {
    board: Arc<BucketBoard>,
    writer: Option<ActorRef<SegmentWriterActor>>,
    names: HashMap<ActorId, String>,
}

/// Deaths that may wait for the supervisor of the subscriptions.
const LINKS_MAX: usize = 1024;

/// What operators ask of the topology actor at once.
const TOPOLOGY_MAILBOX: usize = 16;

/// Start a bucket's supervisor.
#[derive(Debug)]
pub(crate) struct StartBucket(pub(crate) Arc<BucketBoard>);

/// Start the scrub of all buckets.
#[derive(Debug)]
pub(crate) struct StartScrub(pub(crate) Box<ScrubActor>);

/// Start the actor that hears the other nodes.
#[derive(Debug)]
pub(crate) struct StartTopology(pub(crate) Box<TopologyActor>);

/// Start the supervisor of the subscriptions.
#[derive(Debug)]
pub(crate) struct StartSubscriptions;

/// Start the bucket's writer.
#[derive(Debug)]
pub(crate) struct StartWriter(pub(crate) Box<SegmentWriterActor>, pub(crate) usize);

/// Start one of the bucket's partitions.
#[derive(Debug)]
pub(crate) struct StartPartition(pub(crate) Box<PartitionActor>, pub(crate) usize);

/// Starts a child that is never restarted. Its arguments need not be `Clone`: the factory that
/// kameo wants runs once.
async fn supervise<S: Actor, C: Actor<Args = C>>(
    supervisor: &ActorRef<S>,
    child: C,
    mailbox_size: usize,
) -> ActorRef<C> {
    let once = Mutex::new(Some(child));
    C::supervise_with(supervisor, move || {
        let taken = once.lock().unwrap_or_else(PoisonError::into_inner).take();
        taken.expect("a child that is never restarted is made once")
    })
    .restart_policy(RestartPolicy::Never)
    .spawn_with_mailbox(mailbox::bounded(mailbox_size))
    .await
}

fn how(reason: &ActorStopReason) -> Option<String> {
    match reason {
        ActorStopReason::Normal | ActorStopReason::SupervisorRestart => None,
        ActorStopReason::Panicked(error) => {
            Some(error.with_str(str::to_owned).unwrap_or_else(|| "no message".into()))
        }
        other => Some(format!("{other:?}")),
    }
}

impl Actor for NodeSupervisor {
    type Args = Self;
    type Error = Infallible;

    async fn on_start(args: Self, _: ActorRef<Self>) -> Result<Self, Infallible> {
        Ok(args)
    }

    /// The death of one bucket is not the node's.
    async fn on_link_died(
        &mut self,
        _: WeakActorRef<Self>,
        id: ActorId,
        reason: ActorStopReason,
    ) -> Result<ControlFlow<ActorStopReason>, Infallible> {
        if let Some((_, board)) = self.buckets.remove(&id)
            && let Some(how) = how(&reason)
        {
            board.close(&ClosedReason::Panicked(format!("the bucket's supervisor: {how}")));
        }
        if self.topology == Some(id)
            && let Some(how) = how(&reason)
        {
            tracing::error!(how, "this node hears no others any more: restart the process");
        }
        if self.scrub == Some(id)
            && let Some(how) = how(&reason)
        {
            tracing::error!(how, "the scrub has ended: rot is found by reads only");
        }
        Ok(ControlFlow::Continue(()))
    }
}

impl Message<StartBucket> for NodeSupervisor {
    type Reply = ActorRef<BucketSupervisor>;

    async fn handle(
        &mut self,
        StartBucket(board): StartBucket,
        context: &mut Context<Self, Self::Reply>,
    ) -> Self::Reply {
        let child = BucketSupervisor { board: board.clone(), writer: None, names: HashMap::new() };
        let bucket = supervise(context.actor_ref(), child, 64).await;
        self.buckets.insert(bucket.id(), (bucket.clone(), board));
        bucket
    }
}

impl Message<StartScrub> for NodeSupervisor {
    type Reply = ();

    async fn handle(&mut self, StartScrub(child): StartScrub, context: &mut Context<Self, ()>) {
        self.scrub = Some(supervise(context.actor_ref(), *child, 1).await.id());
    }
}

impl Message<StartTopology> for NodeSupervisor {
    type Reply = ActorRef<TopologyActor>;

    async fn handle(
        &mut self,
        StartTopology(child): StartTopology,
        context: &mut Context<Self, Self::Reply>,
    ) -> Self::Reply {
        let actor = supervise(context.actor_ref(), *child, TOPOLOGY_MAILBOX).await;
        self.topology = Some(actor.id());
        actor
    }
}

impl Message<StartSubscriptions> for NodeSupervisor {
    type Reply = ActorRef<SubscriptionSupervisor>;

    async fn handle(
        &mut self,
        _: StartSubscriptions,
        context: &mut Context<Self, Self::Reply>,
    ) -> Self::Reply {
        supervise(context.actor_ref(), SubscriptionSupervisor, LINKS_MAX).await
    }
}

impl Actor for SubscriptionSupervisor {
    type Args = Self;
    type Error = Infallible;

    async fn on_start(args: Self, _: ActorRef<Self>) -> Result<Self, Infallible> {
        Ok(args)
    }

    /// One reader's trouble is nobody else's. The reader hears of it from what the subscription
    /// leaves behind.
    async fn on_link_died(
        &mut self,
        _: WeakActorRef<Self>,
        _: ActorId,
        reason: ActorStopReason,
    ) -> Result<ControlFlow<ActorStopReason>, Infallible> {
        if let ActorStopReason::Panicked(_) = &reason
            && let Some(how) = how(&reason)
        {
            tracing::error!(how, "a subscription failed inside");
        }
        Ok(ControlFlow::Continue(()))
    }
}

impl Actor for BucketSupervisor {
    type Args = Self;
    type Error = Infallible;

    async fn on_start(args: Self, _: ActorRef<Self>) -> Result<Self, Infallible> {
        Ok(args)
    }

    /// A child that panics closes the bucket: its partitions hear it from the writer, or, when it
    /// was the writer that died, from the queue that closed.
    async fn on_link_died(
        &mut self,
        _: WeakActorRef<Self>,
        id: ActorId,
        reason: ActorStopReason,
    ) -> Result<ControlFlow<ActorStopReason>, Infallible> {
        if let Some(how) = how(&reason)
            && let Some(name) = self.names.get(&id)
        {
            let reason = ClosedReason::Panicked(format!("{name}: {how}"));
            self.board.close(&reason);
            if let Some(writer) = &self.writer {
                let _ = writer.tell(Close(reason)).try_send();
            }
        }
        Ok(ControlFlow::Continue(()))
    }
}

impl Message<StartWriter> for BucketSupervisor {
    type Reply = ActorRef<SegmentWriterActor>;

    async fn handle(
        &mut self,
        StartWriter(child, mailbox_size): StartWriter,
        context: &mut Context<Self, Self::Reply>,
    ) -> Self::Reply {
        let writer = supervise(context.actor_ref(), *child, mailbox_size).await;
        self.names.insert(writer.id(), "the segment writer".into());
        self.writer = Some(writer.clone());
        writer
    }
}

impl Message<StartPartition> for BucketSupervisor {
    type Reply = ActorRef<PartitionActor>;

    async fn handle(
        &mut self,
        StartPartition(child, mailbox_size): StartPartition,
        context: &mut Context<Self, Self::Reply>,
    ) -> Self::Reply {
        let name = format!("partition {}", child.partition);
        let partition = supervise(context.actor_ref(), *child, mailbox_size).await;
        self.names.insert(partition.id(), name);
        partition
    }
}
