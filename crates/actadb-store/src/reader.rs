//! Reading committed events: blocking, cloneable, never above the watermark.

use std::ops::ControlFlow;
use std::sync::Arc;

use actadb_model::event::Event;
use actadb_model::ids::{PartitionId, PartitionKey};
use actadb_model::limits::PAGE_MAX_BYTES;
use uuid::Uuid;

use crate::error::ReadError;
use crate::fetch::fetch;
use crate::hashes::{DEFAULT_NAMESPACE, event_id_hash, stream_hash};
use crate::record::Transaction;
use crate::segments::{Segment, Shared};

/// Places looked up at a time.
const BATCH: usize = 256;

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
    /// The events.
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
        self.page.events.push(event.clone());
        ControlFlow::Continue(())
    }
}

impl Reader {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
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

    /// A page of a partition.
    ///
    /// # Errors
    /// See [`ReadError`]; never a shorter answer instead.
    pub fn read_partition(&self, partition: PartitionId, scan: Scan) -> Result<Page, ReadError> {
        let end = scan.to.saturating_add(1).min(self.next_sequence(partition));
        let mut filling = Filling::new(scan.count);
        let list = self.shared.list.load_full();
        for segment in in_order(&list, scan.reverse) {
            let Some((first, next)) = segment.lane(partition) else { continue };
            let (mut low, mut high) = (scan.from.max(first), end.min(next));
            while low < high {
                let (from, to) = if scan.reverse {
                    (low.max(high.saturating_sub(BATCH as u64)), high)
                } else {
                    (low, high.min(low + BATCH as u64))
                };
                let mut places = segment.lane_places(partition, from, (to - from) as usize)?;
                if places.len() as u64 != to - from {
                    return Err(self.disagree(format!("partition {partition} at {from}")));
                }
                places.dedup();
                let transactions = fetch(&self.shared, segment, &places)?;
                let events = transactions.iter().flat_map(|t| &t.events).filter(|event| {
                    event.partition() == partition && (from..to).contains(&event.sequence())
                });
                let events: Vec<&Event> = events.collect();
                let gapless = events.iter().zip(from..).all(|(e, n)| e.sequence() == n);
                if events.len() as u64 != to - from || !gapless {
                    return Err(self.disagree(format!("partition {partition} at {from}")));
                }
                for event in in_order(&events, scan.reverse) {
                    if filling.push(event).is_break() {
                        return Ok(filling.page);
                    }
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
        self.visit_stream(stream, partition, scan, &mut |event| filling.push(event))?;
        Ok(filling.page)
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
        self.visit_stream(stream, partition, newest, &mut |event| {
            head = Some(StreamHead {
                version: event.version(),
                partition_key: event.partition_key(),
            });
            ControlFlow::Break(())
        })?;
        Ok(head)
    }

    /// The partitions of this bucket that have a stream, each with its head.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub fn stream_heads(
        &self,
        stream: &str,
    ) -> Result<Vec<(PartitionId, StreamHead)>, ReadError> {
        let group = stream_hash(DEFAULT_NAMESPACE, stream);
        let list = self.shared.list.load_full();
        let mut candidates: Vec<PartitionId> = Vec::new();
        for segment in list.iter() {
            candidates.extend(segment.partitions_of(group)?);
        }
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
        for segment in list.iter().rev() {
            let mut places = segment.key_places(key)?;
            places.sort_unstable();
            for transaction in fetch(&self.shared, segment, &places)? {
                let committed = transaction.first_sequence < self.next_sequence(transaction.partition);
                if committed && transaction.events.iter().any(|event| event.id() == id) {
                    return Ok(Some(transaction));
                }
            }
        }
        Ok(None)
    }

    /// Shows `visit` the committed events of a stream within the bounds, in order, until it
    /// breaks. The count of `scan` is the visitor's business.
    fn visit_stream(
        &self,
        stream: &str,
        partition: PartitionId,
        scan: Scan,
        visit: &mut dyn FnMut(&Event) -> ControlFlow<()>,
    ) -> Result<(), ReadError> {
        let group = stream_hash(DEFAULT_NAMESPACE, stream);
        let watermark = self.next_sequence(partition);
        let batch = BATCH.min(scan.count.saturating_add(1)).max(2);
        let list = self.shared.list.load_full();
        let mut version = if scan.reverse { scan.to } else { scan.from };
        for segment in in_order(&list, scan.reverse) {
            loop {
                let mut found =
                    segment.postings(group, partition, version, batch, scan.reverse)?;
                let full = found.len() == batch;
                let Some((last, _)) = found.last().copied() else { break };
                // Two streams with one hash may both have the last version, one of them behind
                // this batch: leave that version to the next one.
                if full && found.first().is_some_and(|(first, _)| *first != last) {
                    found.retain(|(v, _)| *v != last);
                }
                found.retain(|(v, _)| (scan.from..=scan.to).contains(v));
                let mut places: Vec<u32> = found.iter().map(|(_, place)| *place).collect();
                places.sort_unstable();
                places.dedup();
                let transactions = fetch(&self.shared, segment, &places)?;
                for (v, place) in &found {
                    let at = places.binary_search(place).unwrap_or(0);
                    let events = transactions.get(at).map_or(&[][..], |t| &t.events);
                    let event = events.iter().find(|event| {
                        event.version() == *v
                            && event.stream() == stream
                            && event.partition() == partition
                            && event.sequence() < watermark
                    });
                    if let Some(event) = event
                        && visit(event).is_break()
                    {
                        return Ok(());
                    }
                }
                if !full {
                    break;
                }
                let step = found.last().map_or(last, |(v, _)| *v);
                let next = if scan.reverse { step.checked_sub(1) } else { step.checked_add(1) };
                match next {
                    Some(next) => version = next,
                    None => return Ok(()),
                }
            }
        }
        Ok(())
    }

    fn disagree(&self, what: String) -> ReadError {
        ReadError::Disagree { bucket: self.shared.settings.identity.bucket.0, what }
    }
}

/// A slice forwards or backwards.
fn in_order<T>(items: &[T], reverse: bool) -> impl Iterator<Item = &T> {
    let n = items.len();
    (0..n).map(move |i| &items[if reverse { n - 1 - i } else { i }])
}

/// The segments of a bucket, for tests of what is open and what is sealed.
impl Reader {
    /// Numbers of the segments, ascending, each with whether it is sealed.
    #[must_use]
    pub fn segments(&self) -> Vec<(u64, bool)> {
        let sealed =
            |s: &Segment| matches!(s.index(), crate::segments::SegmentIndex::Sealed(_));
        self.shared.list.load().iter().map(|s| (s.number(), sealed(s))).collect()
    }
}
