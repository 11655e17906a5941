//! The handle: opens a directory, starts the actors, carries messages to them.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use actadb_model::ids::{BucketId, PartitionId, PartitionKey, Partitioning, hash16};
use actadb_model::limits::FULL_SEGMENTS_MAX;
use actadb_model::names::StreamId;
use actadb_model::outcome::{AppendError, AppendResult, Appended, ClosedReason, Refusal, Unknown};
use actadb_model::transaction::Transaction;
use actadb_store::meta::{Directory, Meta, Seat};
use actadb_store::open::open_bucket;
use actadb_store::reader::Reader;
use kameo::prelude::*;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::time::Instant;
use uuid::Uuid;

use crate::bells::Bells;
use crate::clock::Clock;
use crate::cluster::join::join;
use crate::cluster::links::{Links, node_of};
use crate::cluster::node_files::{note_created, record_path};
use crate::cluster::topology_actor::{HandOver, TopologyActor};
use crate::door::PartitionDoor;
use crate::error::{OpenError, ReadError};
use crate::executor::Executor;
use crate::options::Options;
use crate::scrub_board::ScrubBoard;
use crate::segment_writer_actor::SegmentWriterActor;
use crate::start::{Starter, queue_size};
use crate::status::{BucketBoard, NodeStatus, Status};
use crate::subscriptions::Counts;
use crate::supervisor::{NodeSupervisor, SubscriptionSupervisor};

/// A running database. Clones share it; it runs until [`close`](Self::close), or until the last
/// clone is dropped (which does not wait for anything; what was acknowledged is safe either way).
#[derive(Clone, Debug)]
pub struct Database {
    pub(crate) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) options: Options,
    pub(crate) meta: Meta,
    /// Held for its lock, here and by every thread that may write.
    pub(crate) directory: Arc<Directory>,
    pub(crate) clock: Clock,
    pub(crate) executor: Executor,
    pub(crate) buckets: Vec<BucketHandle>,
    /// By number of the partition; `None` where the bucket did not open.
    pub(crate) doors: Vec<Option<PartitionDoor>>,
    pub(crate) supervisor: ActorRef<NodeSupervisor>,
    pub(crate) subscriptions: ActorRef<SubscriptionSupervisor>,
    pub(crate) counts: Arc<Counts>,
    pub(crate) scrub: Arc<ScrubBoard>,
    /// The way to the other nodes; `None` of a node that is alone.
    pub(crate) links: Option<Arc<Links>>,
    pub(crate) topology: Option<ActorRef<TopologyActor>>,
    /// Whether the database is being stopped; those who wait for events look at it, too.
    pub(crate) stopping: watch::Sender<bool>,
    pub(crate) reads: AtomicU64,
    pub(crate) read_events: AtomicU64,
    pub(crate) next_connection: AtomicU64,
}

#[derive(Debug)]
pub(crate) struct BucketHandle {
    pub(crate) board: Arc<BucketBoard>,
    /// Those who wait for something new to read.
    pub(crate) bells: Arc<Bells>,
    /// `None` where the bucket did not open.
    pub(crate) parts: Option<BucketParts>,
}

impl BucketHandle {
    /// Why it cannot be read.
    pub(crate) fn closed(&self) -> ReadError {
        let reason = self.board.closed().unwrap_or(ClosedReason::Stopping);
        ReadError::Closed { bucket: self.board.bucket.0, reason }
    }
}

#[derive(Clone, Debug)]
pub(crate) struct BucketParts {
    pub(crate) reader: Reader,
    pub(crate) writer: ActorRef<SegmentWriterActor>,
    /// Where it is asked what is committed in the group; `None` of a node that is alone.
    pub(crate) reads: Option<mpsc::Sender<oneshot::Sender<()>>>,
    pub(crate) permits: Arc<Semaphore>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        // The supervisor's death takes its children along.
        self.supervisor.kill();
    }
}

impl Database {
    /// Opens a directory with the default [`Options`]; makes the database when there is none.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub async fn open(dir: impl AsRef<Path>) -> Result<Self, OpenError> {
        Self::open_with(Options::new(dir)).await
    }

    /// Opens a directory. A bucket whose acknowledged data is damaged stays closed, loudly, and
    /// the others open: see [`status`](Self::status).
    ///
    /// # Errors
    /// See [`OpenError`].
    pub async fn open_with(options: Options) -> Result<Self, OpenError> {
        let partitioning = options.partitioning()?;
        let joined = match &options.cluster {
            Some(cluster) => Some(join(&options, cluster).await?),
            None => {
                refuse_if_in_cluster(&options)?;
                None
            }
        };
        let database = joined.as_ref().map_or_else(Uuid::new_v4, |joined| joined.record.cluster);
        let wanted = Meta { database, partitioning, segment_bytes: options.segment_bytes };
        let seat = match &joined {
            Some(joined) => joined.seat.clone(),
            None => Seat::single(database),
        };
        let queue = queue_size(&options);
        let fetches = usize::from(options.buckets) * (queue + FULL_SEGMENTS_MAX + FETCHES_MAX);
        let executor = Executor::new(options.execution, options.read_threads, fetches)
            .map_err(OpenError::Thread)?;
        let (disk, dir) = (options.disk.clone(), options.dir.clone());
        let directory = executor
            .read(move || Directory::open_or_create_seat(disk, &dir, wanted, &seat))
            .await
            .unwrap_or_else(|| panic!("opening the directory panicked"))?;
        let directory = directory
            .with_zero_fill(options.zero_fill_bytes)
            .with_open_files(options.open_files)
            .with_index_cache(options.index_cache_bytes);
        let directory = Arc::new(directory);
        if joined.is_some() {
            note_created(&*options.disk, &options.dir)?;
        }
        if joined.is_some() && directory.meta().database != database {
            return Err(OpenError::Cluster(format!(
                "{} holds a database of its own and not this cluster's; nothing is changed",
                options.dir.display()
            )));
        }

        let expected = match &joined {
            Some(joined) => joined.seat.clone(),
            None => Seat::single(directory.meta().database),
        };
        let mut opened = Vec::new();
        for bucket in partitioning.all_buckets() {
            let directory = directory.clone();
            let job = move || open_bucket(&directory, bucket);
            let outcome = match executor.read(job).await {
                // An older program has no business in any part of a newer database.
                Some(Err(error)) if error.is_newer_format() => return Err(error.into()),
                outcome => {
                    outcome.map(|outcome| outcome.and_then(|bucket| bucket.seated(&expected)))
                }
            };
            opened.push((bucket, outcome));
        }
        let starter = Starter {
            clock: Clock::new(),
            meta: *directory.meta(),
            queue,
            supervisor: NodeSupervisor::spawn(NodeSupervisor::default()),
            executor,
            options,
            joined,
        };
        starter.start(directory, opened).await
    }

    /// Appends a transaction: all of its events or none.
    ///
    /// # Errors
    /// [`AppendError::Refused`]: nothing was appended. [`AppendError::Unknown`]: it may have been;
    /// retry with the same event ids.
    pub async fn append(&self, transaction: Transaction) -> Result<Appended, AppendError> {
        let connection = self.connection();
        let results = self.append_run(connection, vec![transaction]).await;
        results.into_iter().next().unwrap_or(Err(Unknown::Uncertain.into()))
    }

    /// A number that names a caller whose appends to one partition keep their order.
    #[must_use]
    pub fn connection(&self) -> u64 {
        self.inner.next_connection.fetch_add(1, Ordering::Relaxed)
    }

    /// Appends several transactions of one [connection](Self::connection) at once. Those for one
    /// partition are decided in the order given and share their syncs; each succeeds or fails for
    /// itself. Answers one result per transaction, in order.
    pub async fn append_run(
        &self,
        connection: u64,
        transactions: Vec<Transaction>,
    ) -> Vec<AppendResult> {
        let count = transactions.len();
        if *self.inner.stopping.borrow() {
            return vec![Err(Refusal::Stopping.into()); count];
        }
        if let [only] = transactions.as_slice() {
            let partition = self.partitioning().partition_of(only.partition_key());
            return self.append_group(partition, connection, transactions).await;
        }
        let mut results: Vec<Option<AppendResult>> = vec![None; count];
        let mut by_partition: HashMap<PartitionId, (Vec<usize>, Vec<Transaction>)> = HashMap::new();
        for (at, transaction) in transactions.into_iter().enumerate() {
            let partition = self.partitioning().partition_of(transaction.partition_key());
            let (places, group) = by_partition.entry(partition).or_default();
            places.push(at);
            group.push(transaction);
        }
        let mut groups = by_partition.into_iter();
        if groups.len() == 1
            && let Some((partition, (_, group))) = groups.next()
        {
            return self.append_group(partition, connection, group).await;
        }
        let mut waiting = tokio::task::JoinSet::new();
        for (partition, (places, group)) in groups {
            let database = self.clone();
            waiting.spawn(async move {
                (places, database.append_group(partition, connection, group).await)
            });
        }
        while let Some(joined) = waiting.join_next().await {
            let Ok((places, answers)) = joined else { continue };
            for (at, answer) in places.into_iter().zip(answers) {
                if let Some(slot) = results.get_mut(at) {
                    *slot = Some(answer);
                }
            }
        }
        let unknown = || Err(Unknown::Uncertain.into());
        results.into_iter().map(|result| result.unwrap_or_else(unknown)).collect()
    }

    async fn append_group(
        &self,
        partition: PartitionId,
        connection: u64,
        group: Vec<Transaction>,
    ) -> Vec<AppendResult> {
        match &self.inner.links {
            Some(links) => {
                Box::pin(self.append_in_cluster(links, partition, connection, group)).await
            }
            None => self.append_here(partition, connection, group, None).await,
        }
    }

    /// Appends to a partition that this node leads, until `deadline`, or for as long as everyone
    /// may.
    pub(crate) async fn append_here(
        &self,
        partition: PartitionId,
        connection: u64,
        group: Vec<Transaction>,
        deadline: Option<Instant>,
    ) -> Vec<AppendResult> {
        let count = group.len();
        let Some(Some(door)) = self.inner.doors.get(usize::from(partition.0)) else {
            let reason = self.bucket_of(partition).board.closed();
            let reason = reason.unwrap_or(ClosedReason::Stopping);
            return vec![Err(Refusal::Closed(reason).into()); count];
        };
        door.append(connection, group, deadline).await
    }

    /// The latest version of a stream, `None` when it has no events. The key is needed only when
    /// it is not the stream's default one. Linearizable: among several nodes, the others are asked.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub async fn stream_version(
        &self,
        stream: StreamId,
        partition_key: Option<PartitionKey>,
    ) -> Result<Option<u64>, ReadError> {
        self.read_index(self.partition_of_stream(&stream, partition_key)).await?;
        self.local_stream_version(stream, partition_key).await
    }

    /// The last committed sequence of a partition, `None` when it has no events. Linearizable:
    /// among several nodes, the others are asked.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub async fn partition_sequence(
        &self,
        partition: PartitionId,
    ) -> Result<Option<u64>, ReadError> {
        self.read_index(partition).await?;
        self.local_partition_sequence(partition).await
    }

    /// As [`local_partition_sequence`](Self::local_partition_sequence), at once: an error, and no
    /// wait, while this node catches up after its start.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub fn watermark(&self, partition: PartitionId) -> Result<Option<u64>, ReadError> {
        Ok(self.reader(partition)?.next_sequence(partition).checked_sub(1))
    }

    /// Counts of partitions and buckets.
    #[must_use]
    pub fn partitioning(&self) -> Partitioning {
        self.inner.meta.partitioning
    }

    /// The database's id.
    #[must_use]
    pub fn id(&self) -> Uuid {
        self.inner.meta.database
    }

    /// How it is doing.
    #[must_use]
    pub fn status(&self) -> Status {
        let now_ns = self.inner.clock.now().mono_ns;
        let permit_bytes = self.inner.options.permit_bytes;
        let buckets = self.inner.buckets.iter().map(|bucket| {
            let parts = bucket.parts.as_ref();
            let segments = parts.map_or((0, 0), |parts| parts.reader.segment_counts());
            let free = parts.map_or(permit_bytes, |p| p.permits.available_permits() as u64);
            let damaged = self.inner.scrub.damaged(bucket.board.bucket);
            bucket.board.status(now_ns, segments, permit_bytes.saturating_sub(free), damaged)
        });
        Status {
            database: self.id(),
            partitioning: self.partitioning(),
            buckets: buckets.collect(),
            free_bytes: self.inner.directory.disk().free_bytes(self.inner.directory.root()).ok(),
            open_files: self.inner.directory.handles().open_files(),
            index_cache_bytes: self.inner.directory.index_cache().bytes(),
            reads: self.inner.reads.load(Ordering::Relaxed),
            read_events: self.inner.read_events.load(Ordering::Relaxed),
            subscriptions: self.inner.counts.running.load(Ordering::Relaxed),
            delivered_events: self.inner.counts.delivered.load(Ordering::Relaxed),
            blocked_reads: self.inner.counts.blocked.load(Ordering::Relaxed),
            scrub: self.inner.scrub.status(),
            nodes: self.nodes(),
        }
    }

    /// The nodes of the cluster, as this one knows them.
    fn nodes(&self) -> Vec<NodeStatus> {
        let (Some(links), Some(cluster)) = (&self.inner.links, &self.inner.options.cluster) else {
            return Vec::new();
        };
        let members = links.door.members();
        let status = |(number, peer_address): (usize, &String)| {
            let node = number as u8;
            let is_this = node == links.node;
            let hello = if is_this { Some(members.hello()) } else { members.seen().get(&node) };
            NodeStatus {
                node,
                is_this,
                client_address: hello.map(|h| h.client_address.clone()).unwrap_or_default(),
                peer_address: peer_address.clone(),
                connected: is_this || links.is_connected(node),
                clock_ahead_ms: if is_this { None } else { links.clock_ahead_ms(node) },
                version: hello.map(|h| h.version.clone()).unwrap_or_default(),
                report: links.report_of(node),
            }
        };
        cluster.peers.iter().enumerate().map(status).collect()
    }

    /// Hands the lead of a bucket over to a node, if this node has it. The lead moves when that
    /// node has all of the log, within an election timeout, or stays.
    ///
    /// # Errors
    /// In words for an operator: no cluster, no such bucket or node, or another node leads.
    pub async fn hand_over(&self, bucket: BucketId, node: u8) -> Result<(), String> {
        let (Some(links), Some(topology)) = (&self.inner.links, &self.inner.topology) else {
            return Err("this node is alone".into());
        };
        let nodes = links.door.members().hello().shape.nodes;
        if node >= nodes {
            return Err(format!("there is no node {node}: the cluster has 0 to {}", nodes - 1));
        }
        let number = usize::from(bucket.0);
        let Some(handle) = self.inner.buckets.get(number) else {
            return Err(format!("there is no bucket {bucket}"));
        };
        match node_of(handle.board.leader()) {
            Some(leader) if leader == node => Ok(()),
            Some(leader) if leader == links.node => {
                let told = topology.tell(HandOver(number, node)).await;
                told.map_err(|_| "this node hears no others any more".into())
            }
            Some(leader) => Err(format!("node {leader} leads bucket {bucket}: ask it")),
            None => Err(format!("nobody is known to lead bucket {bucket}")),
        }
    }

    /// The partition of an event, by its id.
    #[must_use]
    pub fn partition_of_event(&self, id: Uuid) -> PartitionId {
        self.partitioning().partition_of_hash(hash16(id))
    }

    /// The partition of a stream; the key is needed when it is not the stream's default one.
    #[must_use]
    pub fn partition_of_stream(&self, stream: &StreamId, key: Option<PartitionKey>) -> PartitionId {
        let key = key.unwrap_or_else(|| PartitionKey::of_stream(stream.as_str()));
        self.partitioning().partition_of(key)
    }

    pub(crate) fn bucket_of(&self, partition: PartitionId) -> &BucketHandle {
        let bucket: BucketId = self.partitioning().bucket_of(partition);
        &self.inner.buckets[usize::from(bucket.0)]
    }

    pub(crate) fn reader(&self, partition: PartitionId) -> Result<Reader, ReadError> {
        if !self.partitioning().contains(partition) {
            let last = self.partitioning().partitions() - 1;
            return Err(ReadError::NoSuchPartition { partition: partition.0, last });
        }
        let bucket = self.bucket_of(partition);
        match &bucket.parts {
            Some(parts) if self.inner.links.is_none() || bucket.board.serves() => {
                Ok(parts.reader.clone())
            }
            Some(_) if bucket.board.closed().is_none() => Err(ReadError::CatchingUp),
            _ => Err(bucket.closed()),
        }
    }

    pub(crate) fn count_events(&self, events: usize) {
        self.inner.read_events.fetch_add(events as u64, Ordering::Relaxed);
    }
}

/// A node's directory is of no use to anyone else: alone it would forget what the others know.
fn refuse_if_in_cluster(options: &Options) -> Result<(), OpenError> {
    let path = record_path(&options.dir);
    match options.disk.exists(&path) {
        Ok(true) => Err(OpenError::Options(format!(
            "{} belongs to a node of a cluster ({}): set cluster.peers and cluster.node_index",
            options.dir.display(),
            path.display()
        ))),
        // What else is wrong with the directory is told by who opens it.
        _ => Ok(()),
    }
}

/// Reads of old entries for other nodes that may be under way for one bucket.
pub(crate) const FETCHES_MAX: usize = 64;
