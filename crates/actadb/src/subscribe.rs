//! Beginning to follow: subscriptions, and reads that wait for the first event.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use actadb_model::ids::{BucketId, PartitionId};
use actadb_model::limits::{PAGE_MAX_EVENTS, SUBSCRIPTIONS_MAX};
use actadb_model::names::StreamId;
use actadb_store::follow::{Follower, Source};
use actadb_store::hashes::{DEFAULT_NAMESPACE, stream_hash};
use actadb_store::reader::{Page, Reader, Scan};
use actadb_subscription::core::{Sources, Start, SubscriptionCore};
use kameo::mailbox;
use kameo::prelude::*;
use tokio::time::{Instant, timeout_at};
use uuid::Uuid;

use crate::bells::{Bell, HungBell, Place};
use crate::database::Database;
use crate::error::ReadError;
use crate::reads::{ReadPartition, ReadStream};
use crate::subscription_actor::{Ending, Names, Parts, SubscriptionActor, Work};
use crate::subscriptions::{
    Counted, From, Inlet, Outlet, Subscribe, SubscribeError, Subscription, SubscriptionHandle,
    Topics,
};

/// Messages that wait for one subscription: acknowledgements, which its reader sends one by one.
const MAILBOX_SIZE: usize = 4;

impl Database {
    /// Follows streams or partitions from any point of history into what is appended from now on.
    ///
    /// # Errors
    /// See [`SubscribeError`].
    pub async fn subscribe(&self, subscribe: Subscribe) -> Result<Subscription, SubscribeError> {
        let inlet = Inlet::default();
        let handle = self.subscribe_to(subscribe, inlet.outlet()).await?;
        Ok(Subscription { handle, inlet })
    }

    /// As [`subscribe`](Self::subscribe), for a reader of several: all of them send to one outlet.
    ///
    /// # Errors
    /// See [`SubscribeError`].
    pub async fn subscribe_to(
        &self,
        subscribe: Subscribe,
        outlet: Outlet,
    ) -> Result<SubscriptionHandle, SubscribeError> {
        let Subscribe { topics, from, window, filter, progress_events } = subscribe;
        let (kind, counts) = match &topics {
            Topics::Streams(streams) => (Sources::Streams, streams.len() > 1),
            Topics::Partition(_) => (Sources::Partitions, false),
            Topics::Partitions(_) | Topics::All => (Sources::Partitions, true),
        };
        if self.inner.counts.running.load(Ordering::Relaxed) >= SUBSCRIPTIONS_MAX {
            return Err(SubscribeError::TooManyOfAll);
        }
        let sources = self.sources(topics).await?;
        let positions = self.positions(&sources, &from).await?;
        let start = Start { sources: kind, positions, counts, window, filter, progress_events };

        let bell = Arc::new(Bell::default());
        let mut of_buckets: BTreeMap<BucketId, Vec<(usize, Source)>> = BTreeMap::new();
        for (at, source) in sources.iter().cloned().enumerate() {
            let bucket = self.partitioning().bucket_of(source.partition());
            of_buckets.entry(bucket).or_default().push((at, source));
        }
        let buckets = of_buckets.len();
        let mut followers = VecDeque::with_capacity(buckets);
        let mut hung = Vec::with_capacity(buckets);
        for of_bucket in of_buckets.into_values() {
            let Some((_, first)) = of_bucket.first() else { continue };
            let partition = first.partition();
            hung.push(self.hang(&bell, partition, places(&of_bucket)));
            followers.push_back(Follower::new(self.reader(partition)?, of_bucket));
        }
        let id = Uuid::new_v4();
        let dropped = Arc::new(AtomicBool::new(false));
        let inner = &self.inner;
        let parts = Parts {
            core: SubscriptionCore::new(start),
            names: Names::of(&sources),
            buckets,
            followers,
            bell,
            _hung: hung,
            executor: inner.executor.clone(),
            clock: inner.clock,
            stopping: inner.stopping.subscribe(),
            ending: Ending {
                id,
                ends: outlet.ends.clone(),
                reason: None,
                dropped: dropped.clone(),
            },
            outlet,
            counts: inner.counts.clone(),
            _counted: Counted::new(&inner.counts, |counts| &counts.running),
            work: Work::Idle,
            queue: VecDeque::new(),
            permit: None,
            seen: 0,
            acked: Ok(()),
        };
        let actor = SubscriptionActor(Box::new(parts));
        let mailbox = mailbox::bounded(MAILBOX_SIZE);
        let actor =
            SubscriptionActor::spawn_link_with_mailbox(&inner.subscriptions, actor, mailbox).await;
        Ok(SubscriptionHandle { id, actor, dropped })
    }

    /// What the topics are made of, each once.
    async fn sources(&self, topics: Topics) -> Result<Vec<Source>, SubscribeError> {
        let sources: Vec<Source> = match topics {
            Topics::All => {
                let all = 0..self.partitioning().partitions();
                all.map(|n| Source::Partition(PartitionId(n))).collect()
            }
            Topics::Partition(partition) => vec![Source::Partition(partition)],
            Topics::Partitions(partitions) => {
                let once: BTreeSet<PartitionId> = partitions.into_iter().collect();
                once.into_iter().map(Source::Partition).collect()
            }
            Topics::Streams(streams) => {
                let mut named = BTreeSet::new();
                let mut sources = Vec::with_capacity(streams.len());
                for (stream, key) in streams {
                    let partition = self.partition_of_stream(&stream, key);
                    if !named.insert((stream.clone(), partition)) {
                        return Err(SubscribeError::Twice(stream.to_string()));
                    }
                    sources.push(Source::Stream(stream, partition));
                }
                sources
            }
        };
        if sources.is_empty() {
            return Err(SubscribeError::Empty);
        }
        for source in &sources {
            self.caught_up(source.partition()).await?;
        }
        Ok(sources)
    }

    /// The position of the next event of a source.
    async fn next_position(&self, source: &Source) -> Result<u64, ReadError> {
        match source {
            Source::Partition(partition) => Ok(self.reader(*partition)?.next_sequence(*partition)),
            Source::Stream(stream, partition) => {
                let (stream, partition) = (stream.clone(), *partition);
                let head = self.read_on(partition, 1, move |reader| {
                    reader.stream_head(stream.as_str(), partition)
                });
                Ok(head.await?.map_or(0, |head| head.version + 1))
            }
        }
    }

    /// Where each source begins.
    async fn positions(&self, sources: &[Source], from: &From) -> Result<Vec<u64>, SubscribeError> {
        let name = |source: &Source| match source {
            Source::Partition(partition) => partition.to_string(),
            Source::Stream(stream, _) => stream.to_string(),
        };
        if let From::Map { positions, .. } = from {
            let names: BTreeSet<String> = sources.iter().map(name).collect();
            if let Some(unknown) = positions.keys().find(|key| !names.contains(*key)) {
                return Err(SubscribeError::NotSubscribed(unknown.clone()));
            }
        }
        let mut begins = Vec::with_capacity(sources.len());
        for source in sources {
            let wanted = match from {
                From::Latest => None,
                From::At(position) => Some(*position),
                From::Map { positions, rest } => positions.get(&name(source)).copied().or(*rest),
            };
            // Everything begins at 0; only other positions must be looked at.
            let begin = match wanted {
                Some(0) => 0,
                Some(from) => {
                    let mut next = self.next_position(source).await?;
                    if from > next {
                        // Another node may have told of events that are still on their way here.
                        self.read_index(source.partition()).await?;
                        next = self.next_position(source).await?;
                    }
                    if from > next {
                        let named = (sources.len() > 1).then(|| name(source));
                        return Err(SubscribeError::PastEnd { named, from, next });
                    }
                    from
                }
                None => self.next_position(source).await?,
            };
            begins.push(begin);
        }
        Ok(begins)
    }

    fn hang(&self, bell: &Arc<Bell>, partition: PartitionId, places: Vec<Place>) -> HungBell {
        self.bucket_of(partition).bells.hang(bell, places)
    }

    /// As [`read_stream`](Self::read_stream), but waits for the first event within the bounds when
    /// there is none: at most so long, or for ever. The page is empty when none came.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub async fn wait_stream(
        &self,
        read: ReadStream,
        patience: Option<Duration>,
    ) -> Result<Page, ReadError> {
        let ReadStream { stream, partition_key, scan } = read;
        let partition = self.partition_of_stream(&stream, partition_key);
        let hash = stream_hash(DEFAULT_NAMESPACE, stream.as_str());
        let place = Place::Stream(partition, hash);
        self.wait_for_page(
            Look { stream: Some(stream), partition, scan, since: 0 },
            place,
            patience,
        )
        .await
    }

    /// As [`read_partition`](Self::read_partition), but waits for the first event as
    /// [`wait_stream`](Self::wait_stream) does.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub async fn wait_partition(
        &self,
        read: ReadPartition,
        patience: Option<Duration>,
    ) -> Result<Page, ReadError> {
        let ReadPartition { partition, scan } = read;
        let place = Place::Partition(partition);
        self.wait_for_page(Look { stream: None, partition, scan, since: 0 }, place, patience).await
    }

    /// Reads again whenever the bell rings, until there is an event.
    async fn wait_for_page(
        &self,
        mut look: Look,
        place: Place,
        patience: Option<Duration>,
    ) -> Result<Page, ReadError> {
        look.scan.count = look.scan.count.min(PAGE_MAX_EVENTS);
        let nothing_can_come = look.scan.from > look.scan.to;
        let deadline = patience.and_then(|patience| Instant::now().checked_add(patience));
        // In a box: thousands of connections may wait here, and few of them for this.
        Box::pin(self.caught_up(look.partition)).await?;
        let bell = Arc::new(Bell::default());
        let _hung = self.hang(&bell, look.partition, vec![place]);
        let mut stopping = self.inner.stopping.subscribe();
        let _counted = Counted::new(&self.inner.counts, |counts| &counts.blocked);
        loop {
            let seen = bell.number();
            let page = self.look(&mut look).await?;
            if !page.events.is_empty() || nothing_can_come {
                self.count_events(page.events.len());
                return Ok(page);
            }
            let moved = async {
                tokio::select! {
                    () = bell.moved_from(seen) => Ok(()),
                    _ = stopping.wait_for(|stopping| *stopping) => Err(ReadError::Stopping),
                }
            };
            match deadline {
                None => moved.await?,
                Some(deadline) => match timeout_at(deadline, moved).await {
                    Ok(moved) => moved?,
                    Err(_elapsed) => return Ok(page),
                },
            }
        }
    }

    async fn look(&self, look: &mut Look) -> Result<Page, ReadError> {
        let Look { stream, partition, scan, since } = look.clone();
        if stream.is_none() && self.reader(partition)?.next_sequence(partition) <= scan.from {
            // Most commits are none of its business, and worth no job.
            return Ok(Page::default());
        }
        let read = move |reader: &Reader| {
            // What is not there yet comes into this segment or a later one.
            let newest = reader.newest_segment();
            let page = match &stream {
                Some(stream) => {
                    reader.read_stream_since(stream.as_str(), partition, scan, since)?
                }
                None => reader.read_partition(partition, scan)?,
            };
            Ok((page, newest))
        };
        let (page, newest) = self.read_on(partition, scan.count, read).await?;
        look.since = newest;
        Ok(page)
    }
}

/// What a read that waits looks for.
#[derive(Clone)]
struct Look {
    /// `None` for the whole partition.
    stream: Option<StreamId>,
    partition: PartitionId,
    scan: Scan,
    /// It does not lie in an earlier segment.
    since: u64,
}

fn places(of_bucket: &[(usize, Source)]) -> Vec<Place> {
    let place = |source: &Source| match source {
        Source::Partition(partition) => Place::Partition(*partition),
        Source::Stream(stream, partition) => {
            Place::Stream(*partition, stream_hash(DEFAULT_NAMESPACE, stream.as_str()))
        }
    };
    match of_bucket {
        // Most commits move several partitions: one ring for all of them.
        [(_, Source::Partition(_)), _, ..] => vec![Place::Bucket],
        _ => of_bucket.iter().map(|(_, source)| place(source)).collect(),
    }
}
