//! Reading on: what comes next in sources that a subscription follows.
//!
//! One path from the first event to the newest one. Partitions of one bucket are read together in
//! the order of the log, so that a reader of all of them reads each byte once; a stream remembers
//! the segment it has read to, so that reading on costs the same however long the log is.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::ops::ControlFlow;

use actadb_model::event::Event;
use actadb_model::ids::PartitionId;
use actadb_model::limits::FOLLOW_BYTES;
use actadb_model::names::StreamId;
use actadb_model::probe::{Mistake, made};

use crate::error::ReadError;
use crate::fetch::{fetch, is_in_tail};
use crate::hashes::{DEFAULT_NAMESPACE, stream_hash};
use crate::reader::{Reader, Scan};
use crate::segments::{Segment, SegmentIndex};

/// Places of a partition that are looked up at a time.
const PLACES_AT_ONCE: usize = 64;

/// Something to follow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// All events of a partition.
    Partition(PartitionId),
    /// The events of a stream in a partition.
    Stream(StreamId, PartitionId),
}

impl Source {
    /// The partition that it lies in.
    #[must_use]
    pub fn partition(&self) -> PartitionId {
        match self {
            Self::Partition(partition) | Self::Stream(_, partition) => *partition,
        }
    }
}

/// How far a read may reach for what it wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Only into memory: it never waits for the device.
    Memory,
    /// To the device, too. Blocking.
    Device,
}

/// Events, each with the index of its source.
pub type FoundEvents = Vec<(usize, Event)>;

/// Small: a subscription to everything has one per partition.
#[derive(Debug)]
struct Lane {
    source: u32,
    partition: PartitionId,
    /// It has been read to its end once.
    caught_up: bool,
}

#[derive(Debug)]
struct Stream {
    source: usize,
    stream: StreamId,
    partition: PartitionId,
    /// Nothing that is still to come lies in an earlier segment.
    segment: u64,
    /// The partition's next sequence when the stream had nothing more.
    exhausted_at: Option<u64>,
}

/// Follows sources of one bucket.
#[derive(Debug)]
pub struct Follower {
    reader: Reader,
    lanes: Vec<Lane>,
    streams: Vec<Stream>,
    /// The stream that is read first, so that none waits for ever behind another.
    turn: usize,
}

impl Follower {
    /// Follows sources of a bucket, each named by its index in the positions.
    pub fn new(reader: Reader, sources: impl IntoIterator<Item = (usize, Source)>) -> Self {
        let mut follower = Self { reader, lanes: Vec::new(), streams: Vec::new(), turn: 0 };
        for (source, what) in sources {
            match what {
                Source::Partition(partition) => {
                    // As many as there are partitions, at the most.
                    let source = source as u32;
                    follower.lanes.push(Lane { source, partition, caught_up: false });
                }
                Source::Stream(stream, partition) => follower.streams.push(Stream {
                    source,
                    stream,
                    partition,
                    segment: 0,
                    exhausted_at: None,
                }),
            }
        }
        // They never grow, and there may be ten thousand followers.
        follower.lanes.shrink_to_fit();
        follower.streams.shrink_to_fit();
        follower
    }

    /// The next events from the positions on: at most `max` and, unless the first is larger,
    /// [`FOLLOW_BYTES`]. Empty when there are none; `None` when the reach is too short to
    /// tell.
    ///
    /// # Errors
    /// See [`ReadError`]; never a shorter answer instead.
    pub fn read(
        &mut self,
        positions: &[u64],
        max: usize,
        reach: Reach,
    ) -> Result<Option<FoundEvents>, ReadError> {
        let Some(mut found) = self.read_lanes(positions, max, reach)? else { return Ok(None) };
        let mut bytes: usize = found.iter().map(|(_, event)| event.size_bytes()).sum();
        for n in 0..self.streams.len() {
            if found.len() >= max || bytes >= FOLLOW_BYTES {
                break;
            }
            let at = (self.turn + n) % self.streams.len();
            let room = (max - found.len(), FOLLOW_BYTES - bytes);
            let stream = &mut self.streams[at];
            let from = positions[stream.source];
            let Some(events) = stream.read(&self.reader, from, room, reach)? else {
                // What was found before is worth telling; this one comes first the next time.
                self.turn = at;
                return Ok((!found.is_empty()).then_some(found));
            };
            bytes += events.iter().map(Event::size_bytes).sum::<usize>();
            let source = stream.source;
            found.extend(events.into_iter().map(|event| (source, event)));
        }
        self.turn += 1;
        Ok(Some(found))
    }

    fn read_lanes(
        &mut self,
        positions: &[u64],
        max: usize,
        reach: Reach,
    ) -> Result<Option<FoundEvents>, ReadError> {
        let mut behind: Vec<Behind> = Vec::new();
        for lane in &mut self.lanes {
            let watermark = self.reader.next_sequence(lane.partition);
            let source = lane.source as usize;
            let position = match lane.caught_up && made(Mistake::SkipAtHandOver) {
                true => positions[source].max(watermark.saturating_sub(1)),
                false => positions[source],
            };
            if position < watermark {
                let partition = lane.partition;
                behind.push(Behind { source, partition, position, watermark });
            } else {
                lane.caught_up = true;
            }
        }
        if behind.is_empty() {
            return Ok(Some(Vec::new()));
        }
        let shared = self.reader.shared();
        let list = shared.list.load_full();
        let ended = |segment: &Segment, partition, position| {
            segment.lane(partition).is_none_or(|(_, next)| next <= position)
        };
        let first = behind.iter().map(|lane| {
            list.partition_point(|segment| ended(segment, lane.partition, lane.position))
        });
        let Some(segment) = first.min().and_then(|at| list.get(at)) else {
            return Err(self.reader.disagree("the watermarks are above all segments".into()));
        };
        if reach == Reach::Memory && matches!(segment.index(), SegmentIndex::Sealed(_)) {
            return Ok(None);
        }

        let wanted = self.merge(segment, behind, max)?;
        let places: Vec<u32> = wanted.iter().map(|(place, ..)| *place).collect();
        let lowest_is_here =
            places.first().is_none_or(|place| is_in_tail(&shared, segment, *place));
        if reach == Reach::Memory && !lowest_is_here {
            return Ok(None);
        }

        let mut found = Vec::with_capacity(places.len());
        let mut bytes = 0;
        let mut wanted = wanted.into_iter();
        let _ = fetch(&shared, segment, &places, &mut |transaction| {
            let Some((_, source, partition, sequence)) = wanted.next() else {
                return Ok(ControlFlow::Break(()));
            };
            let at = sequence.checked_sub(transaction.first_sequence);
            let event = at.and_then(|at| transaction.events.get(at as usize));
            let Some(event) = event.filter(|event| event.partition() == partition) else {
                let what = format!("partition {partition} at {sequence}");
                return Err(self.reader.disagree(what));
            };
            bytes += event.size_bytes();
            if bytes > FOLLOW_BYTES && !found.is_empty() {
                return Ok(ControlFlow::Break(()));
            }
            found.push((source, event.detached()));
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(Some(found))
    }

    /// The next events of partitions in one segment, in the order of the log.
    fn merge(
        &self,
        segment: &Segment,
        behind: Vec<Behind>,
        max: usize,
    ) -> Result<Vec<Wanted>, ReadError> {
        let mut cursors = Vec::with_capacity(behind.len());
        let mut heads = BinaryHeap::with_capacity(behind.len());
        for Behind { source, partition, position, watermark } in behind {
            let Some((_, next)) = segment.lane(partition) else { continue };
            let end = next.min(watermark);
            let mut cursor = LaneCursor {
                source,
                partition,
                sequence: position,
                end,
                places: Vec::new(),
                at: 0,
            };
            if let Some(place) = cursor.head(&self.reader, segment)? {
                heads.push(Reverse((place, cursors.len())));
                cursors.push(cursor);
            }
        }
        let mut wanted = Vec::with_capacity(max);
        while let Some(Reverse((_, lowest))) = heads.pop() {
            // Up to the first place of another partition; all of them when there is no other.
            let limit = heads.peek().map_or(u32::MAX, |Reverse((place, _))| *place);
            let cursor = &mut cursors[lowest];
            while let Some(place) = cursor.head(&self.reader, segment)? {
                if wanted.len() == max {
                    return Ok(wanted);
                }
                if place > limit {
                    heads.push(Reverse((place, lowest)));
                    break;
                }
                wanted.push((place, cursor.source, cursor.partition, cursor.sequence));
                cursor.sequence += 1;
                cursor.at += 1;
            }
        }
        Ok(wanted)
    }
}

/// A partition that has something to read, from a position up to its watermark.
struct Behind {
    source: usize,
    partition: PartitionId,
    position: u64,
    watermark: u64,
}

/// Place, index of the source, partition and sequence of an event.
type Wanted = (u32, usize, PartitionId, u64);

/// Where a merge stands in one partition.
struct LaneCursor {
    source: usize,
    partition: PartitionId,
    sequence: u64,
    end: u64,
    /// Of the next events, from `at` on.
    places: Vec<u32>,
    at: usize,
}

impl LaneCursor {
    /// The place of the next event, if there is one.
    fn head(&mut self, reader: &Reader, segment: &Segment) -> Result<Option<u32>, ReadError> {
        if self.sequence >= self.end {
            return Ok(None);
        }
        if self.at == self.places.len() {
            let left = usize::try_from(self.end - self.sequence).unwrap_or(PLACES_AT_ONCE);
            let count = left.min(PLACES_AT_ONCE);
            self.places = segment.lane_places(self.partition, self.sequence, count)?;
            self.at = 0;
            if self.places.len() != count {
                let what = format!("partition {} at {}", self.partition, self.sequence);
                return Err(reader.disagree(what));
            }
        }
        Ok(self.places.get(self.at).copied())
    }
}

impl Stream {
    fn read(
        &mut self,
        reader: &Reader,
        from: u64,
        (count, bytes): (usize, usize),
        reach: Reach,
    ) -> Result<Option<Vec<Event>>, ReadError> {
        let watermark = reader.next_sequence(self.partition);
        if self.exhausted_at == Some(watermark) {
            return Ok(Some(Vec::new()));
        }
        // What is committed above the watermark of now comes into this segment or a later one.
        let newest = reader.newest_segment();
        if reach == Reach::Memory && !self.is_in_memory(reader, from) {
            return Ok(None);
        }
        let scan = Scan { from, to: u64::MAX, count, reverse: false };
        let mut events = Vec::new();
        let mut size = 0;
        let mut more = false;
        reader.visit_stream(
            self.stream.as_str(),
            self.partition,
            scan,
            self.segment,
            &mut |number, event| {
                size += event.size_bytes();
                if events.len() >= count || (size > bytes && !events.is_empty()) {
                    more = true;
                    return ControlFlow::Break(());
                }
                self.segment = number;
                events.push(event.detached());
                ControlFlow::Continue(())
            },
        )?;
        if !more {
            // Only what was visible before is known to be read.
            self.segment = newest.max(self.segment);
            self.exhausted_at = Some(watermark);
        }
        Ok(Some(events))
    }

    /// Whether everything from a version on is in memory.
    fn is_in_memory(&self, reader: &Reader, from: u64) -> bool {
        let shared = reader.shared();
        let list = shared.list.load();
        let group = stream_hash(DEFAULT_NAMESPACE, self.stream.as_str());
        let first = list.partition_point(|segment| segment.number() < self.segment);
        for segment in &list[first..] {
            let SegmentIndex::Open(index) = segment.index() else { return false };
            let index = crate::segments::read(index);
            let postings = index.postings_from(group, self.partition.0, from, 1);
            drop(index);
            if let Some((_, place)) = postings.first() {
                return is_in_tail(&shared, segment, *place);
            }
        }
        true
    }
}
