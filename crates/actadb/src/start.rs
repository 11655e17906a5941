//! Starting a database: its actors over the buckets that were opened.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};

use actadb_bucket::partition_side::PartitionSide;
use actadb_bucket::writer_side::{WriterSide, WriterStart};
use actadb_model::ids::{BucketId, PartitionId};
use actadb_model::limits::{BUCKET_INBOX, FULL_SEGMENTS_MAX, PERMIT_MIN_BYTES, READS_WAITING};
use actadb_model::outcome::ClosedReason;
use actadb_partition::core::{Rules, Start};
use actadb_store::entries::EntryReader;
use actadb_store::meta::{Directory, Meta};
use actadb_store::open::OpenedBucket;
use actadb_store::reader::Reader;
use kameo::prelude::*;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, interval};
use uuid::Uuid;

use crate::bells::Bells;
use crate::clock::Clock;
use crate::cluster::join::Joined;
use crate::cluster::links::Links;
use crate::cluster::topology_actor::{BALANCE_EVERY, FromPeer, TopologyActor};
use crate::database::{BucketHandle, BucketParts, Database, FETCHES_MAX, Inner};
use crate::door::PartitionDoor;
use crate::error::OpenError;
use crate::executor::Executor;
use crate::inbox::new_inbox;
use crate::options::Options;
use crate::partition_actor::PartitionActor;
use crate::scrub_actor::start_scrub;
use crate::segment_writer_actor::{Peers, SegmentWriterActor};
use crate::status::BucketBoard;
use crate::supervisor::{
    NodeSupervisor, StartBucket, StartPartition, StartSubscriptions, StartTopology, StartWriter,
};
use crate::waiting::Waiting;

/// Messages that can be in flight in a bucket: every one holds a permit of at least the minimum.
pub(crate) fn queue_size(options: &Options) -> usize {
    // Twice: after a refusal permits come back while stale proposals still lie in a mailbox, and
    // an append may be told both committed and synced. Beside them: lead, closed, stop.
    2 * (options.permit_bytes / PERMIT_MIN_BYTES) as usize + 64
}

/// What is needed to start the actors.
pub(crate) struct Starter {
    pub(crate) options: Options,
    pub(crate) meta: Meta,
    pub(crate) clock: Clock,
    pub(crate) executor: Executor,
    pub(crate) queue: usize,
    pub(crate) supervisor: ActorRef<NodeSupervisor>,
    /// The cluster, if there is one.
    pub(crate) joined: Option<Joined>,
}

/// What the actors of a bucket share with others.
struct Around<'a> {
    board: &'a Arc<BucketBoard>,
    bells: &'a Arc<Bells>,
    /// Readers of the other buckets.
    others: Arc<Vec<Reader>>,
    /// The other replicas of the bucket, if there are any, and what they say.
    peers: Option<(Arc<Links>, mpsc::Receiver<FromPeer>)>,
}

pub(crate) type Opened = (BucketId, Option<Result<OpenedBucket, actadb_store::error::OpenError>>);

impl Starter {
    pub(crate) async fn start(
        mut self,
        directory: Arc<Directory>,
        opened: Vec<Opened>,
    ) -> Result<Database, OpenError> {
        let partitioning = self.meta.partitioning;
        let readers: Vec<(BucketId, Reader)> = opened
            .iter()
            .filter_map(|(bucket, outcome)| {
                let Some(Ok(bucket_parts)) = outcome else { return None };
                Some((*bucket, bucket_parts.publisher.reader()))
            })
            .collect();
        let mut buckets = Vec::new();
        let mut inboxes = Vec::new();
        let joined = self.joined.take();
        let links = joined.as_ref().map(|joined| joined.links.clone());
        let mut doors = vec![None; usize::from(partitioning.partitions())];
        for (bucket, outcome) in opened {
            let partitions: Vec<PartitionId> = partitioning.partitions_of(bucket).collect();
            let board = Arc::new(BucketBoard::new(bucket, &partitions));
            let bells = Arc::new(Bells::default());
            let parts = match outcome {
                Some(Ok(found)) => {
                    report(bucket, &found);
                    let others = readers.iter().filter(|(b, _)| *b != bucket);
                    let others = Arc::new(others.map(|(_, reader)| reader.clone()).collect());
                    let (inbox, messages) = mpsc::channel(BUCKET_INBOX);
                    inboxes.push(Some(inbox));
                    let peers = links.clone().map(|links| (links, messages));
                    let around = Around { board: &board, bells: &bells, others, peers };
                    Some(self.start_bucket(found, &directory, around, &mut doors).await?)
                }
                // Whatever keeps one bucket from opening is no reason to stop the others.
                Some(Err(error)) => {
                    let damaged = error.is_damage();
                    let what = format!("{error}; run `actadb check`; the other buckets go on");
                    board.close(&match damaged {
                        true => ClosedReason::Corrupt(what),
                        false => ClosedReason::NotOpened(what),
                    });
                    inboxes.push(None);
                    None
                }
                None => {
                    board.close(&ClosedReason::Panicked("opening the bucket".into()));
                    inboxes.push(None);
                    None
                }
            };
            buckets.push(BucketHandle { board, bells, parts });
        }
        let scrub = start_scrub(&self.options, &self.executor, &self.supervisor, readers).await;
        let lost = |_| OpenError::Options("the supervisor is gone".into());
        let subscriptions = self.supervisor.ask(StartSubscriptions).await.map_err(|_| lost(()))?;
        let mut topology_actor = None;
        if let Some(Joined { links, events, .. }) = joined {
            let topology = TopologyActor {
                links,
                events,
                buckets: inboxes,
                boards: buckets.iter().map(|bucket| bucket.board.clone()).collect(),
                balance: interval(BALANCE_EVERY),
                counted: (Instant::now(), vec![0; buckets.len()]),
                free: Arc::default(),
                directory: directory.clone(),
                executor: self.executor.clone(),
                handed: None,
                unfit: BTreeMap::new(),
                doors: doors.clone(),
                forwarded: JoinSet::new(),
            };
            let start = StartTopology(Box::new(topology));
            topology_actor = Some(self.supervisor.ask(start).await.map_err(|_| lost(()))?);
        }
        let inner = Inner {
            meta: self.meta,
            options: self.options,
            directory,
            clock: self.clock,
            executor: self.executor,
            buckets,
            doors,
            subscriptions,
            counts: Arc::default(),
            supervisor: self.supervisor,
            scrub,
            links,
            topology: topology_actor,
            stopping: watch::Sender::new(false),
            reads: AtomicU64::new(0),
            read_events: AtomicU64::new(0),
            next_connection: AtomicU64::new(0),
        };
        Ok(Database { inner: Arc::new(inner) })
    }

    async fn start_bucket(
        &self,
        opened: OpenedBucket,
        directory: &Arc<Directory>,
        Around { board, bells, others, peers }: Around<'_>,
        doors: &mut [Option<PartitionDoor>],
    ) -> Result<BucketParts, OpenError> {
        let options = &self.options;
        let bucket = board.bucket;
        let partitions: Vec<PartitionId> = self.meta.partitioning.partitions_of(bucket).collect();
        let unsealed = opened.unsealed.len();
        let identity = opened.writer.identity();
        let id_floor_ns = opened.publisher.last_time_ns();
        let start = WriterStart {
            partitions: partitions.clone(),
            slot: opened.writer.slot_state().clone(),
            log: opened.log,
            seed: Uuid::new_v4().as_u64_pair().0,
            segment_bytes: self.meta.segment_bytes,
            fsync: options.fsync,
            room: opened.writer.room(),
            unsealed: opened.unsealed,
        };
        let reader = opened.publisher.reader();
        let thread = self
            .executor
            .writer(opened.writer, board.clone(), directory.clone())
            .map_err(OpenError::Thread)?;
        let mut to_partitions = HashMap::new();
        let mut from_writer = Vec::new();
        for partition in partitions {
            let (sender, receiver) = mpsc::channel(self.queue);
            to_partitions.insert(partition, sender);
            from_writer.push((partition, receiver));
        }
        let (reads, reads_in) = mpsc::channel(READS_WAITING);
        let reads = peers.is_some().then_some(reads);
        let writer = SegmentWriterActor {
            side: WriterSide::new(start, opened.publisher),
            clock: self.clock,
            executor: self.executor.clone(),
            board: board.clone(),
            bells: bells.clone(),
            thread,
            thread_gone: false,
            gathered: false,
            partitions: to_partitions,
            sealed: mpsc::channel(FULL_SEGMENTS_MAX + unsealed + FETCHES_MAX),
            peers: peers.map(|(links, inbox)| Peers {
                links,
                inbox,
                reads: reads_in,
                waiting: Vec::new(),
                asked: Vec::new(),
                entries: Arc::new(Mutex::new(EntryReader::new(reader.clone()))),
                unreachable: BTreeSet::new(),
            }),
            stopping: Vec::new(),
            outputs: Vec::new(),
        };
        let lost = |_| OpenError::Options("the supervisor is gone".into());
        let supervisor =
            self.supervisor.ask(StartBucket(board.clone())).await.map_err(|_| lost(()))?;
        let writer = supervisor
            .ask(StartWriter(Box::new(writer), self.queue))
            .await
            .map_err(|_| lost(()))?;
        // Partitions must hear that they lead before anyone can send them an append.
        writer.wait_for_startup().await;
        let permits = Arc::new(Semaphore::new(options.permit_bytes as usize));
        let rules = Rules {
            strict_versioning: options.strict_versioning,
            max_transaction_bytes: options.transaction_limit(),
            cached_heads: options.cached_heads / usize::from(options.partitions),
        };
        for (partition, from_writer) in from_writer {
            // Only for the random bits of generated ids.
            let seed = Uuid::new_v4().as_u64_pair().0;
            let start = Start { partition, rules, id_floor_ns, seed };
            let (inbox, owner) = new_inbox();
            let actor = PartitionActor {
                partition,
                inbox: owner,
                arrived: Vec::new(),
                side: PartitionSide::new(identity, start),
                clock: self.clock,
                now: None,
                executor: self.executor.clone(),
                board: board.clone(),
                writer: writer.clone(),
                from_writer,
                facts: mpsc::channel(self.queue),
                reader: reader.clone(),
                others: others.clone(),
                waiting: Waiting::new(options.append_timeout),
                lookups: Vec::new(),
                proposals: Vec::new(),
                moved: true,
                writer_gone: false,
                outputs: Vec::new(),
            };
            let actor = supervisor
                .ask(StartPartition(Box::new(actor), self.queue))
                .await
                .map_err(|_| lost(()))?;
            doors[usize::from(partition.0)] = Some(PartitionDoor {
                actor,
                inbox,
                permits: permits.clone(),
                permit_bytes: options.permit_bytes,
                transaction_limit: options.transaction_limit(),
                timeout: options.append_timeout,
                board: board.clone(),
            });
        }
        Ok(BucketParts { reader, writer, reads, permits })
    }
}

fn report(bucket: BucketId, opened: &OpenedBucket) {
    for torn in &opened.torn {
        tracing::warn!(
            bucket = bucket.0,
            file = %torn.file.display(),
            offset = torn.offset,
            bytes = torn.bytes,
            "cut a torn tail that was never acknowledged"
        );
    }
    for index in &opened.rebuilt {
        tracing::warn!(bucket = bucket.0, file = %index.display(), "rebuilt an index");
    }
    tracing::debug!(bucket = bucket.0, last_entry = opened.log.last_index, "bucket open");
}
