//! Reading committed events: blocking, cloneable, never above the watermark.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;

use actadb_disk::disk::DiskFile;
use actadb_index::filter::Sought;
use actadb_index::format::group_lane;
use actadb_log::error::Damage;
use actadb_log::format::LogIdentity;
use actadb_model::event::Event;
use actadb_model::ids::{PartitionId, PartitionKey};
use actadb_model::limits::PAGE_MAX_BYTES;
use actadb_model::probe::{Mistake, made};
use uuid::Uuid;

use crate::error::ReadError;
use crate::fetch::fetch;
use crate::hashes::{DEFAULT_NAMESPACE, event_id_hash, stream_hash};
use crate::record::Transaction;
use crate::segments::{Segment, Shared};

/// Most places looked up at a time.
const BATCH: u64 = 10_001;

/// Which events of a stream or a partition a page wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scan {
    /// Lowest version or sequence, inclusive.
    pub from: u64,
    /// Highest version or sequence, inclusive.
    pub to: u64,
    /// Most events of the page.
    pub count: usize,
    /// Newest first.
    pub reverse: bool,
}

/// Events in the order asked for.
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// The events. They may share what was read in one go: [detach](Event::detached) those kept for
    /// long.
    pub events: Vec<Event>,
    /// Whether another event within the bounds exists.
    pub has_more: bool,
}

/// Where a stream stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamHead {
    /// Its latest version.
    pub version: u64,
    /// Its partition key.
    pub partition_key: PartitionKey,
}

/// Reads one bucket.
#[derive(Clone, Debug)]
pub struct Reader {
    shared: Arc<Shared>,
}

/// A page being filled.
struct Filling {
    page: Page,
    count: usize,
    bytes: usize,
}

impl Filling {
    fn new(count: usize) -> Self {
        Self { page: Page::default(), count, bytes: 0 }
    }

    /// How many more events are looked at: those the page takes and one to know of.
    fn wants(&self) -> usize {
        self.count.saturating_sub(self.page.events.len()).saturating_add(1)
    }

    /// Takes an event, or notes that there is one more than the page takes.
    fn push(&mut self, event: &Event) -> ControlFlow<()> {
        let full = self.page.events.len() >= self.count;
        let size = event.size_bytes();
        let heavy = self.bytes + size > PAGE_MAX_BYTES && !self.page.events.is_empty();
        if full || heavy {
            self.page.has_more = true;
            return ControlFlow::Break(());
        }
        self.bytes += size;
        let events = &mut self.page.events;
        if events.len() == events.capacity() {
            // In longer strides than a vector takes by itself: an event is 144 bytes to be moved.
            events.reserve((events.len() * 3).max(16).min(self.count - events.len()));
        }
        events.push(event.clone());
        ControlFlow::Continue(())
    }
}

impl Reader {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    pub(crate) fn shared(&self) -> Arc<Shared> {
        self.shared.clone()
    }

    /// The sequence behind the last committed one of a partition.
    #[must_use]
    pub fn next_sequence(&self, partition: PartitionId) -> u64 {
        self.shared.next_sequence(partition)
    }

    /// Number of segments: (open, sealed).
    #[must_use]
    pub fn segment_counts(&self) -> (usize, usize) {
        let list = self.shared.list.load();
        let open = list
            .iter()
            .filter(|s| matches!(s.index(), crate::segments::SegmentIndex::Open(_)))
            .count();
        (open, list.len() - open)
    }

    /// Whose bucket it is.
    #[must_use]
    pub fn identity(&self) -> LogIdentity {
        self.shared.settings.identity
    }

    /// Numbers of the segments that hold something published, ascending.
    #[must_use]
    pub fn segment_numbers(&self) -> Vec<u64> {
        self.shared.list.load().iter().map(|segment| segment.number()).collect()
    }

    pub(crate) fn segment_path(&self, number: u64) -> PathBuf {
        self.shared.settings.segment_path(number)
    }

    pub(crate) fn segment_file(&self, number: u64) -> Result<Arc<dyn DiskFile>, ReadError> {
        let list = self.shared.list.load();
        let segment = list.iter().find(|segment| segment.number() == number);
        let path = self.segment_path(number);
        let segment = segment.ok_or_else(|| Damage::new(&path, 0, "nothing of it is published"))?;
        Ok(segment.file()?)
    }

    /// A page of a partition.
    ///
    /// # Errors
    /// See [`ReadError`]; never a shorter answer instead.
    pub fn read_partition(&self, partition: PartitionId, scan: Scan) -> Result<Page, ReadError> {
        let watermark = match made(Mistake::ReadAboveWatermark) {
            true => u64::MAX,
            false => self.next_sequence(partition),
        };
        let end = scan.to.saturating_add(1).min(watermark);
        let mut filling = Filling::new(scan.count);
        let list = self.shared.list.load_full();
        for segment in in_order(&list, scan.reverse) {
            let Some((first, next)) = segment.lane(partition) else { continue };
            let (mut low, mut high) = (scan.from.max(first), end.min(next));
            while low < high {
                let wanted = (filling.wants() as u64).clamp(1, BATCH);
                let (from, to) = if scan.reverse {
                    (low.max(high.saturating_sub(wanted)), high)
                } else {
                    (low, high.min(low + wanted))
                };
                let mut places = segment.lane_places(partition, from, (to - from) as usize)?;
                if places.len() as u64 != to - from {
                    return Err(self.disagree(format!("partition {partition} at {from}")));
                }
                if scan.reverse {
                    places.reverse();
                }
                let mut sequences = 0..to - from;
                let taken = fetch(&self.shared, segment, &places, &mut |transaction| {
                    let at = sequences.next().unwrap_or(0);
                    let sequence = if scan.reverse { to - 1 - at } else { from + at };
                    let found = sequence.checked_sub(transaction.first_sequence);
                    let event = found.and_then(|n| transaction.events.get(n as usize));
                    match event.filter(|event| event.partition() == partition) {
                        Some(event) => Ok(filling.push(event)),
                        None => Err(self.disagree(format!("partition {partition} at {sequence}"))),
                    }
                })?;
                if taken.is_break() {
                    return Ok(filling.page);
                }
                if scan.reverse {
                    high = from;
                } else {
                    low = to;
                }
            }
        }
        Ok(filling.page)
    }

    /// A page of a stream in a partition.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub fn read_stream(
        &self,
        stream: &str,
        partition: PartitionId,
        scan: Scan,
    ) -> Result<Page, ReadError> {
        let mut filling = Filling::new(scan.count);
        self.visit_stream(stream, partition, scan, 0, &mut |_, event| filling.push(event))?;
        Ok(filling.page)
    }

    /// As [`read_stream`](Self::read_stream), when nothing wanted lies before a segment.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub fn read_stream_since(
        &self,
        stream: &str,
        partition: PartitionId,
        scan: Scan,
        segment: u64,
    ) -> Result<Page, ReadError> {
        let mut filling = Filling::new(scan.count);
        self.visit_stream(stream, partition, scan, segment, &mut |_, event| filling.push(event))?;
        Ok(filling.page)
    }

    /// Number of the newest segment, 0 when there is none. What is committed from now on comes into
    /// this one or a later one.
    #[must_use]
    pub fn newest_segment(&self) -> u64 {
        self.shared.list.load().last().map_or(0, |segment| segment.number())
    }

    /// The latest version of a stream in a partition, and its key.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub fn stream_head(
        &self,
        stream: &str,
        partition: PartitionId,
    ) -> Result<Option<StreamHead>, ReadError> {
        let newest = Scan { from: 0, to: u64::MAX, count: 1, reverse: true };
        let mut head = None;
        self.visit_stream(stream, partition, newest, 0, &mut |_, event| {
            head =
                Some(StreamHead { version: event.version(), partition_key: event.partition_key() });
            ControlFlow::Break(())
        })?;
        Ok(head)
    }

    /// The partitions of this bucket that have a stream, each with its head.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub fn stream_heads(&self, stream: &str) -> Result<Vec<(PartitionId, StreamHead)>, ReadError> {
        let group = stream_hash(DEFAULT_NAMESPACE, stream);
        let list = self.shared.list.load_full();
        let mut candidates: Vec<PartitionId> = Vec::new();
        let _ = self.may_have(&list, Sought::group(group), false, &mut |segment| {
            candidates.extend(segment.partitions_of(group)?);
            Ok(ControlFlow::Continue(()))
        })?;
        candidates.sort_unstable();
        candidates.dedup();
        let mut heads = Vec::new();
        for partition in candidates {
            if let Some(head) = self.stream_head(stream, partition)? {
                heads.push((partition, head));
            }
        }
        Ok(heads)
    }

    /// The event with an id.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub fn get(&self, id: Uuid) -> Result<Option<Event>, ReadError> {
        let transaction = self.transaction_of(id)?;
        Ok(transaction.and_then(|t| t.events.into_iter().find(|event| event.id() == id)))
    }

    /// The transaction that has an event id.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub fn transaction_of(&self, id: Uuid) -> Result<Option<Transaction>, ReadError> {
        let key = event_id_hash(DEFAULT_NAMESPACE, id);
        let list = self.shared.list.load_full();
        let mut owner = None;
        let mut look = |segment: &Segment| {
            let places = segment.key_places(key)?;
            fetch(&self.shared, segment, &places, &mut |transaction| {
                let partition = transaction.partition;
                let committed = transaction.first_sequence < self.next_sequence(partition);
                if committed && transaction.events.iter().any(|event| event.id() == id) {
                    owner = Some(transaction.clone());
                    return Ok(ControlFlow::Break(()));
                }
                // Another id may share the hash; a record without it is not the one indexed.
                let namespace = transaction.namespace;
                let promised = |event: &Event| event_id_hash(namespace, event.id()) == key;
                match transaction.events.iter().any(promised) {
                    true => Ok(ControlFlow::Continue(())),
                    false => Err(self.disagree(format!("event id {id}"))),
                }
            })
        };
        let (before, since) = list.split_at(likely_segment(&list, id));
        if self.may_have(since, Sought::key(key), false, &mut look)?.is_continue() {
            let _ = self.may_have(before, Sought::key(key), true, &mut look)?;
        }
        Ok(owner)
    }

    /// Shows `visit` the committed events of a stream within the bounds, from a segment on, in
    /// order and each with the number of its segment, until it breaks. The count of `scan` tells
    /// how many are wanted, roughly.
    pub(crate) fn visit_stream(
        &self,
        stream: &str,
        partition: PartitionId,
        scan: Scan,
        since: u64,
        visit: &mut dyn FnMut(u64, &Event) -> ControlFlow<()>,
    ) -> Result<(), ReadError> {
        let mut walk = StreamWalk {
            reader: self,
            stream,
            partition,
            group: stream_hash(DEFAULT_NAMESPACE, stream),
            watermark: self.next_sequence(partition),
            scan,
            last: None,
        };
        let list = self.shared.list.load_full();
        let first = list.partition_point(|segment| segment.number() < since);
        let sought = Sought::group(walk.group);
        let _ = self.may_have(&list[first..], sought, scan.reverse, &mut |segment| {
            walk.segment(segment, &mut |event: &Event| visit(segment.number(), event))
        })?;
        Ok(())
    }

    /// Shows `visit` those of some neighbouring segments that may have what is sought, until it
    /// breaks.
    fn may_have(
        &self,
        segments: &[Arc<Segment>],
        sought: Sought,
        reverse: bool,
        visit: &mut dyn FnMut(&Segment) -> Result<ControlFlow<()>, ReadError>,
    ) -> Result<ControlFlow<()>, ReadError> {
        let filters = self.shared.filters.load();
        let mut passed = 0;
        while passed < segments.len() {
            let at = if reverse { segments.len() - 1 - passed } else { passed };
            let segment = &segments[at];
            let without = filters.span_without(sought, segment.number(), reverse)?;
            if without == 0 && visit(segment)?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
            passed = passed.saturating_add(usize::try_from(without.max(1)).unwrap_or(usize::MAX));
        }
        Ok(ControlFlow::Continue(()))
    }

    pub(crate) fn disagree(&self, what: String) -> ReadError {
        ReadError::Disagree { bucket: self.shared.settings.identity.bucket().0, what }
    }
}

/// A walk over the versions of one stream, segment by segment.
struct StreamWalk<'a> {
    reader: &'a Reader,
    stream: &'a str,
    partition: PartitionId,
    group: u64,
    watermark: u64,
    scan: Scan,
    /// The version shown last.
    last: Option<u64>,
}

impl StreamWalk<'_> {
    /// Shows what one segment has; breaks when there can be no more, or the visitor has enough.
    fn segment(
        &mut self,
        segment: &Segment,
        visit: &mut dyn FnMut(&Event) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, ReadError> {
        let Scan { from, to, count, reverse } = self.scan;
        let mut limit = count.saturating_add(1).clamp(2, BATCH as usize);
        let mut version = if reverse { to } else { from };
        loop {
            let mut found =
                segment.postings(self.group, self.partition, version, limit, reverse)?;
            let full = found.len() == limit;
            let (Some(first), Some(last)) = (found.first(), found.last()) else { break };
            let (first, last) = (first.0, last.0);
            if !(from..=to).contains(&first) {
                // Nothing more within the bounds, here or in later segments.
                return Ok(ControlFlow::Break(()));
            }
            // Streams with one hash may all have the last version, some of them behind this batch.
            if full && first == last {
                limit = limit.saturating_mul(2);
                continue;
            }
            if full {
                found.retain(|(v, _)| *v != last);
            }
            found.retain(|(v, _)| (from..=to).contains(v));
            let places: Vec<u32> = found.iter().map(|(_, place)| *place).collect();
            let mut versions = found.iter().map(|(v, _)| *v);
            let shown = fetch(&self.reader.shared, segment, &places, &mut |transaction| {
                let wanted = versions.next().unwrap_or(0);
                self.candidate(transaction, wanted, visit)
            })?;
            if shown.is_break() {
                return Ok(ControlFlow::Break(()));
            }
            if !full {
                break;
            }
            version = last;
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Shows the event that a posting promised, if it is this stream's and not another one's with
    /// the same hash.
    fn candidate(
        &mut self,
        transaction: &Transaction,
        version: u64,
        visit: &mut dyn FnMut(&Event) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, ReadError> {
        let event = transaction.events.iter().find(|event| {
            event.version() == version
                && event.is_of(self.stream)
                && event.partition() == self.partition
                && event.sequence() < self.watermark
        });
        let Some(event) = event else {
            // Another stream may share the hash; a record without it is not the one indexed, but
            // one that a write put astray.
            let lane = self.partition.0;
            let group = |stream: &str| group_lane(stream_hash(transaction.namespace, stream), lane);
            let promised = transaction.events.iter().any(|event| {
                event.version() == version
                    && event.partition() == self.partition
                    && group(event.stream()) == group_lane(self.group, lane)
            });
            return match promised {
                true => Ok(ControlFlow::Continue(())),
                false => {
                    let what = format!("stream {} at version {version}", self.stream);
                    Err(self.reader.disagree(what))
                }
            };
        };
        let follows = self.last.is_none_or(|last| last.abs_diff(version) == 1);
        if !follows {
            let what = format!("stream {} around version {version}", self.stream);
            return Err(self.reader.disagree(what));
        }
        self.last = Some(version);
        Ok(visit(event))
    }
}

/// Position of the segment where an event id is looked for first, with those behind it before
/// those in front of it. A UUIDv7 tells when it was made, and its event was appended then or soon
/// after; of any other id only so much is known that recent ones are asked for more often.
fn likely_segment(list: &[Arc<Segment>], id: Uuid) -> usize {
    let newest = list.len().saturating_sub(1);
    let Some(made) = id.get_timestamp().filter(|_| id.get_version_num() == 7) else {
        return newest;
    };
    let (seconds, nanos) = made.to_unix();
    let made_ns = seconds.saturating_mul(1_000_000_000).saturating_add(nanos.into());
    list.partition_point(|segment| segment.last_time_ns() < made_ns).min(newest)
}

/// A slice forwards or backwards.
fn in_order<T>(items: &[T], reverse: bool) -> impl Iterator<Item = &T> {
    let n = items.len();
    (0..n).map(move |i| &items[if reverse { n - 1 - i } else { i }])
}
