//! The handle: opens a directory, starts the actors, carries messages to them.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use actadb_bucket::partition_side::PartitionSide;
use actadb_bucket::writer_side::{WriterSide, WriterStart};
use actadb_model::event::Event;
use actadb_model::ids::{BucketId, PartitionId, PartitionKey, Partitioning, hash16};
use actadb_model::limits::{FULL_SEGMENTS_MAX, PAGE_MAX_EVENTS, PERMIT_MIN_BYTES};
use actadb_model::names::StreamId;
use actadb_model::outcome::{AppendError, AppendResult, Appended, ClosedReason, Refusal, Unknown};
use actadb_model::transaction::Transaction;
use actadb_partition::core::{Rules, Start};
use actadb_store::meta::{Directory, Meta};
use actadb_store::open::{OpenedBucket, open_bucket};
use actadb_store::reader::{Page, Reader};
use kameo::prelude::*;
use tokio::sync::{Semaphore, mpsc, oneshot};
use uuid::Uuid;

use crate::clock::Clock;
use crate::door::PartitionDoor;
use crate::error::{OpenError, ReadError};
use crate::executor::Executor;
use crate::options::Options;
use crate::partition_actor::PartitionActor;
use crate::reads::{ReadPartition, ReadStream};
use crate::scrub_actor::start_scrub;
use crate::scrub_board::ScrubBoard;
use crate::segment_writer_actor::{SegmentWriterActor, Stop};
use crate::status::{BucketBoard, Status};
use crate::supervisor::{NodeSupervisor, StartBucket, StartPartition, StartWriter};
use crate::waiting::Waiting;

/// A running database. Clones share it; it runs until [`close`](Self::close), or until the last
/// clone is dropped (which does not wait for anything; what was acknowledged is safe either way).
#[derive(Clone, Debug)]
pub struct Database {
    pub(crate) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    options: Options,
    meta: Meta,
    /// Held for its lock, here and by every thread that may write.
    directory: Arc<Directory>,
    clock: Clock,
    executor: Executor,
    buckets: Vec<BucketHandle>,
    /// By number of the partition; `None` where the bucket did not open.
    pub(crate) doors: Vec<Option<PartitionDoor>>,
    supervisor: ActorRef<NodeSupervisor>,
    scrub: Arc<ScrubBoard>,
    stopping: AtomicBool,
    reads: AtomicU64,
    read_events: AtomicU64,
    next_connection: AtomicU64,
}

#[derive(Debug)]
pub(crate) struct BucketHandle {
    board: Arc<BucketBoard>,
    /// `None` where the bucket did not open.
    pub(crate) parts: Option<BucketParts>,
}

#[derive(Clone, Debug)]
pub(crate) struct BucketParts {
    reader: Reader,
    pub(crate) writer: ActorRef<SegmentWriterActor>,
    permits: Arc<Semaphore>,
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
        let wanted =
            Meta { database: Uuid::new_v4(), partitioning, segment_bytes: options.segment_bytes };
        let queue = queue_size(&options);
        let fetches = usize::from(options.buckets) * (queue + FULL_SEGMENTS_MAX);
        let executor = Executor::new(options.execution, options.read_threads, fetches)
            .map_err(OpenError::Thread)?;
        let (disk, dir) = (options.disk.clone(), options.dir.clone());
        let directory = executor
            .read(move || Directory::open_or_create(disk, &dir, wanted).map(Arc::new))
            .await
            .unwrap_or_else(|| panic!("opening the directory panicked"))?;

        let mut opened = Vec::new();
        for bucket in partitioning.all_buckets() {
            let directory = directory.clone();
            let job = move || open_bucket(&directory, bucket);
            let outcome = match executor.read(job).await {
                // An older program has no business in any part of a newer database.
                Some(Err(error)) if error.is_newer_format() => return Err(error.into()),
                outcome => outcome,
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
        if self.inner.stopping.load(Ordering::Acquire) {
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
        let count = group.len();
        let Some(Some(door)) = self.inner.doors.get(usize::from(partition.0)) else {
            let reason = self.bucket_of(partition).board.closed();
            let reason = reason.unwrap_or(ClosedReason::Stopping);
            return vec![Err(Refusal::Closed(reason).into()); count];
        };
        door.append(connection, group, self.inner.options.append_timeout).await
    }

    /// A page of a stream.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub async fn read_stream(&self, read: ReadStream) -> Result<Page, ReadError> {
        let ReadStream { stream, partition_key, mut scan } = read;
        let partition = self.partition_of_stream(&stream, partition_key);
        scan.count = scan.count.min(PAGE_MAX_EVENTS);
        let page = self
            .read(partition, move |reader| reader.read_stream(stream.as_str(), partition, scan))
            .await?;
        self.count_events(page.events.len());
        Ok(page)
    }

    /// A page of a partition.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub async fn read_partition(&self, read: ReadPartition) -> Result<Page, ReadError> {
        let ReadPartition { partition, mut scan } = read;
        scan.count = scan.count.min(PAGE_MAX_EVENTS);
        let page =
            self.read(partition, move |reader| reader.read_partition(partition, scan)).await?;
        self.count_events(page.events.len());
        Ok(page)
    }

    /// The event with an id.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub async fn get(&self, id: Uuid) -> Result<Option<Event>, ReadError> {
        let partition = self.partitioning().partition_of_hash(hash16(id));
        let event = self.read(partition, move |reader| reader.get(id)).await?;
        self.count_events(usize::from(event.is_some()));
        Ok(event)
    }

    /// The latest version of a stream, `None` when it has no events. The key is needed only when
    /// it is not the stream's default one.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub async fn stream_version(
        &self,
        stream: StreamId,
        partition_key: Option<PartitionKey>,
    ) -> Result<Option<u64>, ReadError> {
        let partition = self.partition_of_stream(&stream, partition_key);
        let head =
            self.read(partition, move |reader| reader.stream_head(stream.as_str(), partition));
        Ok(head.await?.map(|head| head.version))
    }

    /// The last committed sequence of a partition, `None` when it has no events.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub fn partition_sequence(&self, partition: PartitionId) -> Result<Option<u64>, ReadError> {
        let reader = self.reader(partition)?;
        self.inner.reads.fetch_add(1, Ordering::Relaxed);
        Ok(reader.next_sequence(partition).checked_sub(1))
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
            reads: self.inner.reads.load(Ordering::Relaxed),
            read_events: self.inner.read_events.load(Ordering::Relaxed),
            scrub: self.inner.scrub.status(),
        }
    }

    /// Stops: refuses new appends, waits for those in flight, syncs and saves. Reads of other
    /// clones go on until they are dropped.
    pub async fn close(&self) {
        self.inner.stopping.store(true, Ordering::Release);
        let mut buckets = tokio::task::JoinSet::new();
        for bucket in &self.inner.buckets {
            if let Some(parts) = bucket.parts.clone() {
                let (options, board) = (self.inner.options.clone(), bucket.board.clone());
                buckets.spawn(stop_bucket(options, board, parts));
            }
        }
        while buckets.join_next().await.is_some() {}
        let _ = self.inner.supervisor.stop_gracefully().await;
        // The lock goes with the last thread that could write.
        let gone = async {
            while Arc::strong_count(&self.inner.directory) > 1 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let _ = tokio::time::timeout(STOP_PATIENCE, gone).await;
    }

    fn partition_of_stream(&self, stream: &StreamId, key: Option<PartitionKey>) -> PartitionId {
        let key = key.unwrap_or_else(|| PartitionKey::of_stream(stream.as_str()));
        self.partitioning().partition_of(key)
    }

    pub(crate) fn bucket_of(&self, partition: PartitionId) -> &BucketHandle {
        let bucket: BucketId = self.partitioning().bucket_of(partition);
        &self.inner.buckets[usize::from(bucket.0)]
    }

    fn reader(&self, partition: PartitionId) -> Result<Reader, ReadError> {
        if !self.partitioning().contains(partition) {
            let last = self.partitioning().partitions() - 1;
            return Err(ReadError::NoSuchPartition { partition: partition.0, last });
        }
        let bucket = self.bucket_of(partition);
        match &bucket.parts {
            Some(parts) => Ok(parts.reader.clone()),
            None => Err(ReadError::Closed {
                bucket: bucket.board.bucket.0,
                reason: bucket.board.closed().unwrap_or(ClosedReason::Stopping),
            }),
        }
    }

    async fn read<T: Send + 'static>(
        &self,
        partition: PartitionId,
        job: impl FnOnce(&Reader) -> Result<T, actadb_store::error::ReadError> + Send + 'static,
    ) -> Result<T, ReadError> {
        let reader = self.reader(partition)?;
        self.inner.reads.fetch_add(1, Ordering::Relaxed);
        let answer = self.inner.executor.read(move || job(&reader)).await;
        let answer = answer.ok_or_else(|| ReadError::Failed("the read panicked".into()))?;
        Ok(answer?)
    }

    fn count_events(&self, events: usize) {
        self.inner.read_events.fetch_add(events as u64, Ordering::Relaxed);
    }
}

/// How long a bucket may take to write, sync and save when it stops.
const STOP_PATIENCE: Duration = Duration::from_secs(10);

async fn stop_bucket(options: Options, board: Arc<BucketBoard>, parts: BucketParts) {
    // Every append in flight holds a permit: all of them back means none is left.
    let all = u32::try_from(options.permit_bytes).unwrap_or(u32::MAX);
    // On a full disk they may wait for ever.
    let patience = if board.no_room() { Duration::ZERO } else { options.append_timeout };
    let _ = tokio::time::timeout(patience, parts.permits.acquire_many(all)).await;
    parts.permits.close();
    let (stopped, is_stopped) = oneshot::channel();
    let told = parts.writer.tell(Stop(stopped)).await.is_ok();
    if told && tokio::time::timeout(STOP_PATIENCE, is_stopped).await.is_err() {
        tracing::error!(bucket = board.bucket.0, "the bucket did not stop in time");
    }
}

/// Messages that can be in flight in a bucket: every one holds a permit of at least the minimum.
fn queue_size(options: &Options) -> usize {
    // Twice: after a refusal permits come back while stale proposals still lie in a mailbox, and
    // an append may be told both committed and synced. Beside them: lead, closed, stop.
    2 * (options.permit_bytes / PERMIT_MIN_BYTES) as usize + 64
}

/// What is needed to start the actors.
struct Starter {
    options: Options,
    meta: Meta,
    clock: Clock,
    executor: Executor,
    queue: usize,
    supervisor: ActorRef<NodeSupervisor>,
}

type Opened = (BucketId, Option<Result<OpenedBucket, actadb_store::error::OpenError>>);

impl Starter {
    async fn start(
        self,
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
        let mut doors = vec![None; usize::from(partitioning.partitions())];
        for (bucket, outcome) in opened {
            let partitions: Vec<PartitionId> = partitioning.partitions_of(bucket).collect();
            let board = Arc::new(BucketBoard::new(bucket, &partitions));
            let parts = match outcome {
                Some(Ok(found)) => {
                    report(bucket, &found);
                    let others = readers.iter().filter(|(b, _)| *b != bucket);
                    let others = Arc::new(others.map(|(_, reader)| reader.clone()).collect());
                    Some(self.start_bucket(found, &directory, &board, others, &mut doors).await?)
                }
                // Whatever keeps one bucket from opening is no reason to stop the others.
                Some(Err(error)) => {
                    let damaged = error.is_damage();
                    let what = format!("{error}; run `actadb check`; the other buckets go on");
                    board.close(&match damaged {
                        true => ClosedReason::Corrupt(what),
                        false => ClosedReason::NotOpened(what),
                    });
                    None
                }
                None => {
                    board.close(&ClosedReason::Panicked("opening the bucket".into()));
                    None
                }
            };
            buckets.push(BucketHandle { board, parts });
        }
        let scrub = start_scrub(&self.options, &self.executor, &self.supervisor, readers).await;
        let inner = Inner {
            meta: self.meta,
            options: self.options,
            directory,
            clock: self.clock,
            executor: self.executor,
            buckets,
            doors,
            supervisor: self.supervisor,
            scrub,
            stopping: AtomicBool::new(false),
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
        board: &Arc<BucketBoard>,
        others: Arc<Vec<Reader>>,
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
            last: opened.last,
            term: opened.writer.slot_state().term,
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
        let writer = SegmentWriterActor {
            side: WriterSide::new(start, opened.publisher),
            clock: self.clock,
            executor: self.executor.clone(),
            board: board.clone(),
            thread,
            thread_gone: false,
            gathered: false,
            partitions: to_partitions,
            sealed: mpsc::channel(FULL_SEGMENTS_MAX + unsealed + 2),
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
            let actor = PartitionActor {
                partition,
                side: PartitionSide::new(identity, start),
                clock: self.clock,
                executor: self.executor.clone(),
                board: board.clone(),
                writer: writer.clone(),
                from_writer,
                facts: mpsc::channel(self.queue),
                reader: reader.clone(),
                others: others.clone(),
                waiting: Waiting::new(options.append_timeout),
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
                permits: permits.clone(),
                permit_bytes: options.permit_bytes,
                transaction_limit: options.transaction_limit(),
                board: board.clone(),
            });
        }
        Ok(BucketParts { reader, writer, permits })
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
    tracing::debug!(bucket = bucket.0, last_entry = opened.last.0, "bucket open");
}
