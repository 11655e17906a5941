//! How a database is doing.

use std::sync::{Mutex, MutexGuard, PoisonError};

use actadb_bucket::writer_side::Totals;
use actadb_log::error::Damage;
pub use actadb_membership::report::Report;
use actadb_model::ids::{BucketId, PartitionId, Partitioning};
use actadb_model::limits::CLOCKS_APART_MAX_MS;
use actadb_model::outcome::ClosedReason;
use actadb_partition::core::Stats as PartitionStats;
use actadb_replica::core::Stats as ReplicaStats;
use uuid::Uuid;

use crate::cluster::links::node_of;
use crate::metrics::{ENTRY_EVENTS, Histogram, HistogramValue, SYNC_SECONDS};
pub use crate::scrub_board::ScrubStatus;

/// A database at one moment.
#[derive(Clone, Debug)]
pub struct Status {
    /// The database's id.
    pub database: Uuid,
    /// Counts of partitions and buckets.
    pub partitioning: Partitioning,
    /// One per bucket.
    pub buckets: Vec<BucketStatus>,
    /// Segments and indexes open to read.
    pub open_files: usize,
    /// Bytes of sealed indexes in memory.
    pub index_cache_bytes: usize,
    /// Bytes that can still be allocated where the data lies; `None` when that cannot be asked.
    pub free_bytes: Option<u64>,
    /// Reads answered, and events in the answers.
    pub reads: u64,
    /// See `reads`.
    pub read_events: u64,
    /// Subscriptions that run.
    pub subscriptions: u64,
    /// Events that subscriptions have delivered.
    pub delivered_events: u64,
    /// Reads that wait for the first event.
    pub blocked_reads: u64,
    /// The scrub of sealed segments.
    pub scrub: ScrubStatus,
    /// The nodes of the cluster; empty of a node that is alone.
    pub nodes: Vec<NodeStatus>,
}

/// One node of a cluster, as this one knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeStatus {
    /// Its number.
    pub node: u8,
    /// Whether it is this one.
    pub is_this: bool,
    /// Where clients reach it, as it said; empty when it was never heard of.
    pub client_address: String,
    /// Where other nodes reach it.
    pub peer_address: String,
    /// Whether frames to it are sent now.
    pub connected: bool,
    /// How far its clock is ahead of this node's, in milliseconds: exact to the time a message
    /// takes. `None` of this node, and until it has said.
    pub clock_ahead_ms: Option<i64>,
    /// Version of its program.
    pub version: String,
    /// How it is doing, as it says every few seconds; `None` until it has.
    pub report: Option<Report>,
}

impl Status {
    /// Whether any bucket takes appends.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.buckets.iter().any(|bucket| bucket.closed.is_none())
    }

    /// What is not as it should be, in words.
    #[must_use]
    pub fn degraded(&self) -> Vec<String> {
        let mut words = Vec::new();
        for bucket in &self.buckets {
            let number = bucket.bucket;
            if let Some(reason) = &bucket.closed {
                words.push(format!("bucket {number} takes no appends: {reason}"));
            } else if bucket.no_room {
                words.push(format!("bucket {number} finds no space on the disk"));
            }
            if !self.nodes.is_empty() && bucket.closed.is_none() && bucket.leader.is_none() {
                words.push(format!("bucket {number} has no leader: appends wait for one"));
            }
            for damage in &bucket.damaged {
                words.push(format!("bucket {number} is damaged: {damage}"));
            }
        }
        for node in self.nodes.iter().filter(|node| !node.connected) {
            words.push(format!("node {} is not connected ({})", node.node, node.peer_address));
        }
        for node in self.nodes.iter().filter(|node| !node.is_this) {
            for bucket in node.report.iter().flat_map(|report| &report.stuck_buckets) {
                let number = node.node;
                words.push(format!("bucket {bucket} of node {number} is closed or has no space"));
            }
        }
        for node in &self.nodes {
            let ahead = node.clock_ahead_ms.unwrap_or(0);
            if ahead.unsigned_abs() > CLOCKS_APART_MAX_MS {
                let number = node.node;
                words.push(format!("the clock of node {number} is {ahead} ms ahead of this one's"));
            }
        }
        words
    }
}

/// One bucket at one moment.
#[derive(Clone, Debug)]
pub struct BucketStatus {
    /// Its number.
    pub bucket: BucketId,
    /// Why it takes no appends, if it does not.
    pub closed: Option<ClosedReason>,
    /// Whether the disk has no space for it.
    pub no_room: bool,
    /// Proposals taken, of which not all are committed.
    pub proposals: u64,
    /// Entries committed: group commits.
    pub entries: u64,
    /// Events committed.
    pub events: u64,
    /// Bytes committed.
    pub bytes: u64,
    /// Bytes that can be written without allocating.
    pub allocated_bytes: u64,
    /// Full segments that wait for their index.
    pub full_segments: usize,
    /// Segments whose index is in memory, and segments with an index file.
    pub open_segments: usize,
    /// See `open_segments`.
    pub sealed_segments: usize,
    /// Bytes of appends in flight.
    pub permits_in_use: u64,
    /// Messages whose answer waits for a commit or a sync.
    pub held: usize,
    /// How long the oldest of them has waited, in nanoseconds.
    pub oldest_held_ns: u64,
    /// Consensus term.
    pub term: u64,
    /// The node that leads, `None` when none is known to.
    pub leader: Option<u8>,
    /// Whether that is this node.
    pub leads: bool,
    /// Last entry in the log here, and last one known to be committed.
    pub last_entry: u64,
    /// See `last_entry`.
    pub committed_entry: u64,
    /// Of the bucket that this node leads: the last entry that each other node is known to have.
    pub followers: Vec<(u8, u64)>,
    /// Messages that wait for facts from the disk.
    pub parked: usize,
    /// Stream heads in memory.
    pub heads: usize,
    /// Places of sealed segments and their indexes that the scrub found damaged.
    pub damaged: Vec<Damage>,
    /// Times of syncs, in seconds.
    pub sync_seconds: HistogramValue,
    /// Events per entry.
    pub entry_events: HistogramValue,
}

/// What the actors of one bucket write and anyone reads.
#[derive(Debug)]
pub(crate) struct BucketBoard {
    pub(crate) bucket: BucketId,
    closed: Mutex<Option<ClosedReason>>,
    writer: Mutex<(Totals, ReplicaStats)>,
    partitions: Vec<(PartitionId, Mutex<PartitionStats>)>,
    pub(crate) sync_seconds: Histogram<12>,
    pub(crate) entry_events: Histogram<12>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic between lock and unlock leaves a whole value: they are only assigned.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl BucketBoard {
    pub(crate) fn new(bucket: BucketId, partitions: &[PartitionId]) -> Self {
        let partitions = partitions.iter().map(|p| (*p, Mutex::default()));
        Self {
            bucket,
            closed: Mutex::new(None),
            writer: Mutex::default(),
            partitions: partitions.collect(),
            sync_seconds: Histogram::new(&SYNC_SECONDS),
            entry_events: Histogram::new(&ENTRY_EVENTS),
        }
    }

    /// Notes why the bucket closed; the first reason stays, and is told in the log.
    pub(crate) fn close(&self, reason: &ClosedReason) {
        let mut closed = lock(&self.closed);
        if closed.is_none() {
            if *reason == ClosedReason::Stopping {
                tracing::debug!(bucket = self.bucket.0, "bucket stopped");
            } else {
                tracing::error!(
                    bucket = self.bucket.0,
                    %reason,
                    "bucket closed: it takes no appends until the process is restarted"
                );
            }
            *closed = Some(reason.clone());
        }
    }

    /// The replica that leads as far as this one knows, 0 when it knows of none.
    pub(crate) fn leader(&self) -> u64 {
        // Who is closed hears nothing any more: it neither leads nor knows who does.
        if lock(&self.closed).is_some() { 0 } else { lock(&self.writer).1.leader }
    }

    /// Whether all is published that this replica may have shown before its start.
    pub(crate) fn serves(&self) -> bool {
        lock(&self.writer).1.serves
    }

    /// Events committed, as far as this replica knows.
    pub(crate) fn events(&self) -> u64 {
        lock(&self.writer).0.events
    }

    pub(crate) fn no_room(&self) -> bool {
        lock(&self.writer).1.no_room
    }

    pub(crate) fn closed(&self) -> Option<ClosedReason> {
        lock(&self.closed).clone()
    }

    pub(crate) fn set_writer(&self, totals: Totals, stats: ReplicaStats) {
        let mut writer = lock(&self.writer);
        let before = writer.0;
        if totals.entries == before.entries + 1 {
            self.entry_events.observe((totals.events - before.events) as f64);
        }
        let short_before = writer.1.no_room;
        *writer = (totals, stats);
        drop(writer);
        let bucket = self.bucket.0;
        match (short_before, stats.no_room) {
            (false, true) => tracing::error!(bucket, "no space on the disk: appends are refused"),
            (true, false) => tracing::info!(bucket, "there is space on the disk again"),
            _ => {}
        }
    }

    pub(crate) fn set_partition(&self, partition: PartitionId, stats: PartitionStats) {
        if let Some((_, slot)) = self.partitions.iter().find(|(p, _)| *p == partition) {
            *lock(slot) = stats;
        }
    }

    pub(crate) fn status(
        &self,
        now_ns: u64,
        (open_segments, sealed_segments): (usize, usize),
        permits_in_use: u64,
        damaged: Vec<Damage>,
    ) -> BucketStatus {
        let (totals, replica) = *lock(&self.writer);
        let partitions: Vec<PartitionStats> =
            self.partitions.iter().map(|(_, slot)| *lock(slot)).collect();
        let oldest = partitions.iter().filter_map(|stats| stats.oldest_held_ns).min();
        let closed = self.closed();
        BucketStatus {
            bucket: self.bucket,
            leader: node_of(self.leader()),
            leads: replica.leads && closed.is_none(),
            closed,
            no_room: replica.no_room,
            proposals: totals.proposals,
            entries: totals.entries,
            events: totals.events,
            bytes: totals.bytes,
            allocated_bytes: replica.room.allocated.max(replica.room.next),
            full_segments: replica.full_segments,
            open_segments,
            sealed_segments,
            permits_in_use,
            held: partitions.iter().map(|stats| stats.held).sum(),
            oldest_held_ns: oldest.map_or(0, |oldest| now_ns.saturating_sub(oldest)),
            term: replica.term,
            last_entry: replica.written,
            committed_entry: replica.committed,
            followers: (0..).zip(replica.matched).filter_map(|(n, m)| Some((n, m?))).collect(),
            parked: partitions.iter().map(|stats| stats.parked).sum(),
            heads: partitions.iter().map(|stats| stats.heads).sum(),
            damaged,
            sync_seconds: self.sync_seconds.value(),
            entry_events: self.entry_events.value(),
        }
    }
}
