//! What clients were told, against what is there.
//!
//! Every event carries the number of its operation, so append order is visible and nothing has to
//! be searched for: each rule is one look at a sorted table. A rule that does not hold panics; the
//! caller adds the seed.

use std::collections::BTreeMap;

use actadb_model::event::EventRef;
use actadb_model::ids::PartitionId;
use actadb_model::limits::PAGE_MAX_EVENTS;
use actadb_model::names::StreamId;
use actadb_model::outcome::{AppendError, AppendResult, Refusal};
use actadb_model::transaction::Transaction;
use actadb_store::reader::{Page, Reader, Scan};
use uuid::Uuid;

/// One logical append of a client; retries are attempts of the same operation.
#[derive(Debug)]
pub struct Operation {
    /// Where it goes.
    pub partition: PartitionId,
    /// What is appended.
    pub transaction: Transaction,
    /// Whether an attempt is under way.
    pub open: bool,
    /// Times it was sent.
    pub attempts: u32,
    /// No attempt was answered otherwise than by a definite refusal.
    refused: bool,
    /// Some attempt was answered with these: the first sequence, and the versions.
    acknowledged: Option<(u64, Vec<u64>)>,
    /// Highest sequence of the partition that was acknowledged to anyone when it was first sent.
    acked_before: Option<u64>,
    /// Of the attempt under way: versions that were acknowledged when it was sent.
    floors: BTreeMap<StreamId, u64>,
}

/// A read, and what must be in its answer because it was acknowledged before the read was sent.
#[derive(Clone, Debug)]
pub struct Read {
    /// The partition.
    pub partition: PartitionId,
    /// What is asked.
    pub what: Asked,
    /// Highest version or sequence acknowledged when it was sent.
    pub floor: Option<u64>,
}

impl Read {
    /// The same read where what was acknowledged need not be known yet.
    #[must_use]
    pub fn without_floor(self) -> Self {
        let what = match self.what {
            Asked::Event(id, _) => Asked::Event(id, None),
            what => what,
        };
        Self { floor: None, what, ..self }
    }
}

/// What a read asks for.
#[derive(Clone, Debug)]
pub enum Asked {
    /// An event by its id, with where it was acknowledged.
    Event(Uuid, Option<(u64, u64)>),
    /// A page of a stream.
    Stream(StreamId, Scan),
    /// A page of the partition.
    Partition(Scan),
    /// The latest version of a stream.
    Version(StreamId),
    /// The last sequence of the partition.
    Sequence,
}

/// What a read was answered.
#[derive(Debug)]
pub enum Answered {
    /// A page, or one event, or none.
    Page(Page),
    /// A number, or none.
    Number(Option<u64>),
}

/// Number of an operation, and which of its events.
type Tag = (usize, usize);

/// The book of all operations and answers.
#[derive(Debug, Default)]
pub struct Auditor {
    operations: Vec<Operation>,
    /// Highest acknowledged sequence of each partition.
    acked: BTreeMap<PartitionId, u64>,
    /// Of those whose answer waited for the disk.
    acked_durable: BTreeMap<PartitionId, u64>,
    acked_versions: BTreeMap<(PartitionId, StreamId), u64>,
    /// What conflicts told.
    conflicts: Vec<(PartitionId, StreamId, u64)>,
    /// What readers saw.
    seen: BTreeMap<(PartitionId, u64), Tag>,
    reads: u64,
}

/// The payload of an event of an operation: its tag, and something to fill.
#[must_use]
pub fn payload(number: usize, at: usize, fill: usize) -> Vec<u8> {
    let mut bytes = format!("{number}.{at} ").into_bytes();
    bytes.resize(bytes.len() + fill, b'x');
    bytes
}

fn tag_of(payload: &[u8]) -> Tag {
    let text = std::str::from_utf8(payload).ok().and_then(|text| text.split(' ').next());
    let tag = text.and_then(|tag| tag.split_once('.'));
    let tag = tag.and_then(|(number, at)| Some((number.parse().ok()?, at.parse().ok()?)));
    tag.unwrap_or_else(|| panic!("an event that nobody appended"))
}

impl Auditor {
    /// All operations so far.
    #[must_use]
    pub fn operations(&self) -> &[Operation] {
        &self.operations
    }

    /// Operations that were acknowledged.
    #[must_use]
    pub fn acknowledged(&self) -> u64 {
        self.operations.iter().filter(|o| o.acknowledged.is_some()).count() as u64
    }

    /// Reads that were answered and found right.
    #[must_use]
    pub fn reads(&self) -> u64 {
        self.reads
    }

    /// Books a new operation; answers its number.
    pub fn begin(&mut self, partition: PartitionId, transaction: Transaction) -> usize {
        self.operations.push(Operation {
            partition,
            transaction,
            open: false,
            attempts: 0,
            refused: true,
            acknowledged: None,
            acked_before: self.acked.get(&partition).copied(),
            floors: BTreeMap::new(),
        });
        self.operations.len() - 1
    }

    /// An attempt is sent.
    pub fn sent(&mut self, number: usize) -> Transaction {
        let operation = &mut self.operations[number];
        operation.open = true;
        operation.attempts += 1;
        operation.floors.clear();
        for event in operation.transaction.events() {
            let key = (operation.partition, event.stream.clone());
            if let Some(version) = self.acked_versions.get(&key) {
                operation.floors.insert(key.1, *version);
            }
        }
        operation.transaction.clone()
    }

    /// The outcome of an attempt will never be told.
    pub fn lost(&mut self, number: usize) {
        let operation = &mut self.operations[number];
        operation.open = false;
        operation.refused = false;
    }

    /// An attempt is answered. `durable`: whether every answer of this mode waits for the disk.
    pub fn answered(&mut self, number: usize, result: AppendResult, durable: bool) {
        let operation = &mut self.operations[number];
        operation.open = false;
        let partition = operation.partition;
        match result {
            Ok(appended) => {
                let versions: Vec<u64> = appended.events.iter().map(|e| e.version).collect();
                let (first, last) = (appended.first_sequence, appended.last_sequence());
                if let Some((before, them)) = &operation.acknowledged {
                    let same = *before == first && *them == versions;
                    assert!(same, "operation {number}: a retry was answered other positions");
                }
                if let Some(acked) = operation.acked_before {
                    assert!(
                        first > acked,
                        "operation {number} was sent after sequence {acked} was acknowledged, \
                         and is {first}"
                    );
                }
                for (event, version) in operation.transaction.events().iter().zip(&versions) {
                    let key = (partition, event.stream.clone());
                    let acked = self.acked_versions.entry(key).or_default();
                    *acked = (*acked).max(*version);
                }
                operation.refused = false;
                let raise = |map: &mut BTreeMap<PartitionId, u64>| {
                    let acked = map.entry(partition).or_default();
                    *acked = (*acked).max(last);
                };
                raise(&mut self.acked);
                if durable || operation.transaction.is_durable() {
                    raise(&mut self.acked_durable);
                }
                operation.acknowledged = Some((first, versions));
            }
            Err(AppendError::Refused(refusal)) => {
                if let Refusal::WrongVersion { stream, current, .. } = &refusal {
                    let floor = operation.floors.get(stream).copied();
                    assert!(
                        *current >= floor,
                        "operation {number}: a conflict told version {current:?} of {stream}, \
                         but {floor:?} was acknowledged before"
                    );
                    if let Some(version) = current {
                        self.conflicts.push((partition, stream.clone(), *version));
                    }
                }
                let duplicate = matches!(refusal, Refusal::Duplicate { .. });
                assert!(!duplicate, "operation {number} was called a duplicate of itself");
            }
            Err(AppendError::Unknown(_)) => operation.refused = false,
        }
    }

    /// A read by what is known now.
    #[must_use]
    pub fn read(&self, partition: PartitionId, what: Asked) -> Read {
        let floor = match &what {
            Asked::Stream(stream, _) | Asked::Version(stream) => {
                self.acked_versions.get(&(partition, stream.clone())).copied()
            }
            Asked::Partition(_) | Asked::Sequence => self.acked.get(&partition).copied(),
            Asked::Event(..) => None,
        };
        Read { partition, what, floor }
    }

    /// Asks for an event of an operation, if it has an id.
    #[must_use]
    pub fn ask_event(&self, number: usize) -> Option<Asked> {
        let operation = self.operations.get(number)?;
        let id = operation.transaction.events().first()?.id?;
        let place = operation.acknowledged.as_ref();
        let place = place.and_then(|(first, versions)| Some((*first, *versions.first()?)));
        Some(Asked::Event(id, place))
    }

    /// A read is answered.
    pub fn read_answered(&mut self, read: &Read, answered: &Answered) {
        self.reads += 1;
        match (&read.what, answered) {
            (Asked::Event(id, place), Answered::Page(page)) => {
                let Some(event) = page.events.first() else {
                    assert!(place.is_none(), "event {id} was acknowledged and is not found");
                    return;
                };
                let event = event.as_ref();
                assert_eq!(event.id, *id, "another event than the one asked for");
                self.saw(event);
                if let Some((sequence, version)) = place {
                    let there = (event.sequence, event.version);
                    assert_eq!(there, (*sequence, *version), "event {id} is elsewhere");
                }
            }
            (Asked::Stream(stream, scan), Answered::Page(page)) => {
                for event in &page.events {
                    assert_eq!(event.stream(), stream.as_str(), "an event of another stream");
                }
                self.page(read, *scan, page, |event| event.version);
            }
            (Asked::Partition(scan), Answered::Page(page)) => {
                self.page(read, *scan, page, |event| event.sequence);
            }
            (Asked::Version(_) | Asked::Sequence, Answered::Number(number)) => {
                let floor = read.floor;
                assert!(*number >= floor, "{:?} is {number:?}, acked {floor:?}", read.what);
            }
            _ => panic!("an answer to another question"),
        }
    }

    fn page(&mut self, read: &Read, scan: Scan, page: &Page, of: fn(&EventRef<'_>) -> u64) {
        let numbers: Vec<u64> = page.events.iter().map(|event| of(&event.as_ref())).collect();
        assert!(numbers.len() <= scan.count, "more events than asked for");
        let inside = |n: &u64| (scan.from..=scan.to).contains(n);
        assert!(numbers.iter().all(inside), "outside of the range: {numbers:?}");
        let step = |pair: &[u64]| match scan.reverse {
            true => pair[0] == pair[1] + 1,
            false => pair[0] + 1 == pair[1],
        };
        assert!(numbers.windows(2).all(step), "a gap or a disorder: {numbers:?}");
        if let Some(floor) = read.floor.filter(|floor| *floor >= scan.from) {
            let reach = floor.min(scan.to);
            match (scan.reverse, numbers.as_slice()) {
                (_, []) => panic!("{:?} is empty, {floor} was acknowledged", read.what),
                (true, [newest, ..]) => {
                    assert!(*newest >= reach, "begins at {newest}, acked {floor}");
                    let oldest = numbers.last().copied().unwrap_or(0);
                    let whole = oldest == scan.from || page.has_more;
                    assert!(whole, "ends at {oldest} and says there is no more");
                }
                (false, [oldest, ..]) => {
                    assert_eq!(*oldest, scan.from, "does not begin at the beginning");
                    let newest = numbers.last().copied().unwrap_or(0);
                    let whole = newest >= reach || page.has_more;
                    assert!(whole, "ends at {newest}, {floor} was acknowledged");
                }
            }
        }
        for event in &page.events {
            self.saw(event.as_ref());
        }
    }

    /// A reader saw an event: it must be what was appended, and stay where it is.
    pub(crate) fn saw(&mut self, event: EventRef<'_>) {
        let tag = self.check_event(event);
        let before = self.seen.insert((event.partition, event.sequence), tag);
        if let Some(before) = before {
            let (p, n) = (event.partition, event.sequence);
            assert_eq!(before, tag, "partition {p} at {n} holds two events, one after the other");
        }
    }

    fn check_event(&self, event: EventRef<'_>) -> Tag {
        let tag = tag_of(event.payload);
        let operation = self.operations.get(tag.0).expect("an operation that never was");
        let given = operation.transaction.events().get(tag.1).expect("an event that never was");
        assert!(
            operation.partition == event.partition
                && event.stream == *given.stream.as_str()
                && event.name == *given.name.as_str()
                && given.payload == event.payload
                && given.metadata == event.metadata
                && given.id.is_none_or(|id| id == event.id),
            "event {tag:?} is not what was appended"
        );
        tag
    }

    /// What a reader sees while an entry is half published: nothing above the watermark, and
    /// everything below it.
    pub fn check_half_published(reader: &Reader, partition: PartitionId) {
        let before = reader.next_sequence(partition);
        let newest = Scan { from: 0, to: u64::MAX, count: 3, reverse: true };
        let page = reader.read_partition(partition, newest);
        let page = page.unwrap_or_else(|error| panic!("a read below the watermark: {error}"));
        let last = page.events.first().map(|event| event.sequence() + 1).unwrap_or(0);
        assert_eq!(last, before, "what is read does not end at the watermark");
    }

    /// A bucket has opened again: what was acknowledged is there.
    pub fn opened(&mut self, reader: &Reader) {
        for (partition, acked) in &self.acked {
            let next = reader.next_sequence(*partition);
            assert!(*acked < next, "partition {partition} ends at {next}, {acked} was acked");
        }
        // Recovery made everything durable that it serves.
        self.acked_durable.clone_from(&self.acked);
    }

    /// A power loss in a mode that answers before the sync: the newest acknowledgements may have
    /// been taken back. Called before the bucket is opened.
    pub fn power_lost(&mut self) {
        self.acked.clone_from(&self.acked_durable);
    }

    /// After such a power loss, when the bucket is open: forgets what was taken back.
    pub fn take_back(&mut self, reader: &Reader) {
        self.conflicts.clear();
        // Numbers that were taken back are given again, to others.
        self.seen.clear();
        let next = |partition| reader.next_sequence(partition);
        self.acked_versions.clear();
        for (number, operation) in self.operations.iter_mut().enumerate() {
            operation.acked_before = None;
            operation.refused = false;
            let Some((first, versions)) = &operation.acknowledged else { continue };
            if *first >= next(operation.partition) {
                assert!(!operation.transaction.is_durable(), "DURABLE {number} was lost");
                operation.acknowledged = None;
                continue;
            }
            for (event, version) in operation.transaction.events().iter().zip(versions) {
                let key = (operation.partition, event.stream.clone());
                let acked = self.acked_versions.entry(key).or_default();
                *acked = (*acked).max(*version);
            }
        }
    }

    /// Reads everything and compares it with everything that was told.
    pub fn audit(&self, reader: &Reader, partitions: &[PartitionId]) {
        let mut found: BTreeMap<Tag, (PartitionId, u64, u64, Uuid)> = BTreeMap::new();
        let mut latest: BTreeMap<(PartitionId, String), u64> = BTreeMap::new();
        for partition in partitions {
            let mut from = 0;
            loop {
                let scan = Scan { from, to: u64::MAX, count: PAGE_MAX_EVENTS, reverse: false };
                let page = reader.read_partition(*partition, scan);
                let page = page.unwrap_or_else(|error| panic!("the last read: {error}"));
                for event in &page.events {
                    let event = event.as_ref();
                    assert_eq!(event.sequence, from, "a gap in partition {partition}");
                    from += 1;
                    let stream = (*partition, event.stream.as_str().to_owned());
                    let next = latest.get(&stream).map_or(0, |version| version + 1);
                    assert_eq!(event.version, next, "a gap in stream {}", event.stream.as_str());
                    latest.insert(stream, event.version);
                    let tag = self.check_event(event);
                    let seen = self.seen.get(&(*partition, event.sequence));
                    assert!(seen.is_none_or(|seen| *seen == tag), "{tag:?} took a seen place");
                    let place = (*partition, event.sequence, event.version, event.transaction_id);
                    assert!(found.insert(tag, place).is_none(), "{tag:?} is there twice");
                }
                if !page.has_more {
                    break;
                }
            }
            assert_eq!(reader.next_sequence(*partition), from, "the watermark is off");
            let beyond = self.seen.range((*partition, from)..=(*partition, u64::MAX)).next();
            assert!(beyond.is_none(), "{beyond:?} was seen and is gone");
        }
        for (number, operation) in self.operations.iter().enumerate() {
            self.audit_operation(number, operation, &found);
        }
        for (partition, stream, version) in &self.conflicts {
            let latest = latest.get(&(*partition, stream.as_str().to_owned()));
            assert!(
                latest.is_some_and(|latest| latest >= version),
                "a conflict told version {version} of {stream}, which never was"
            );
        }
    }

    fn audit_operation(
        &self,
        number: usize,
        operation: &Operation,
        found: &BTreeMap<Tag, (PartitionId, u64, u64, Uuid)>,
    ) {
        let events = operation.transaction.events().len();
        let places: Vec<_> = found.range((number, 0)..(number + 1, 0)).map(|(_, at)| *at).collect();
        assert!(places.is_empty() || places.len() == events, "operation {number} is torn");
        for (place, at) in places.iter().zip(0..) {
            assert_eq!(place.1, places[0].1 + at, "operation {number} is not contiguous");
            assert_eq!(place.3, places[0].3, "operation {number} is not one transaction");
        }
        if let Some((first, versions)) = &operation.acknowledged {
            assert_eq!(places.len(), events, "operation {number} was acknowledged and is gone");
            assert_eq!(places[0].1, *first, "operation {number} is not where the answer said");
            let there: Vec<u64> = places.iter().map(|place| place.2).collect();
            assert_eq!(there, *versions, "operation {number} has other versions than it was told");
        } else if operation.refused && operation.attempts > 0 {
            assert!(places.is_empty(), "operation {number} was refused and is there");
        }
    }
}
