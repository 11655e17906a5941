//! One bucket's store against a plain list of events, with crashes.

mod filters;

use std::path::Path;
use std::sync::Arc;

use actadb_disk::disk::Disk;
use actadb_disk::sim::SimDisk;
use actadb_log::format::BatchHead;
use actadb_model::dice::SplitMix64;
use actadb_model::entry::{Entry, EntryKind};
use actadb_model::event::{Event, EventRef};
use actadb_model::ids::{BucketId, PartitionId, PartitionKey, Partitioning, with_hash16};
use actadb_model::keys::{Keys, StreamFact};
use actadb_model::names::{EventName, StreamId};
use actadb_model::numbered::{Numbered, NumberedEvent};
use actadb_store::check::check_bucket;
use actadb_store::error::OpenError;
use actadb_store::facts::facts;
use actadb_store::follow::{Follower, Reach, Source};
use actadb_store::meta::{Directory, Meta, bucket_dir};
use actadb_store::open::{OpenedBucket, open_bucket};
use actadb_store::publisher::SealTask;
use actadb_store::reader::{Reader, Scan};
use actadb_store::record;
use actadb_store::rows::Rows;
use bytes::Bytes;
use uuid::Uuid;

const BUCKET: BucketId = BucketId(1);
/// Partitions 1 and 3 of four lie in bucket 1 of two.
const PARTITIONS: [PartitionId; 2] = [PartitionId(1), PartitionId(3)];

fn root() -> &'static Path {
    Path::new("/db")
}

fn meta() -> Meta {
    Meta {
        database: Uuid::from_u128(11),
        partitioning: Partitioning::new(4, 2).expect("valid"),
        segment_bytes: 64 << 10,
    }
}

fn open(disk: &SimDisk) -> Result<(Directory, OpenedBucket), OpenError> {
    let directory = Directory::open_or_create(Arc::new(disk.clone()), root(), meta())?;
    // So small that blocks come and go.
    let directory = directory.with_index_cache(3 * 4096).with_open_files(3);
    let bucket = open_bucket(&directory, BUCKET)?;
    Ok((directory, bucket))
}

/// The reference: every event of every entry written, in order.
#[derive(Default)]
struct Model {
    /// Per entry, its transactions.
    entries: Vec<Vec<Numbered>>,
}

impl Model {
    fn events(&self, partition: PartitionId) -> Vec<EventRef<'_>> {
        let all = self.entries.iter().flatten().filter(|t| t.partition == partition);
        all.flat_map(Numbered::event_refs).collect()
    }

    fn stream<'a>(&'a self, stream: &str, partition: PartitionId) -> Vec<EventRef<'a>> {
        self.events(partition).into_iter().filter(|e| e.stream == *stream).collect()
    }

    fn next_sequence(&self, partition: PartitionId) -> u64 {
        self.events(partition).len() as u64
    }
}

struct Host {
    disk: SimDisk,
    directory: Option<Directory>,
    bucket: Option<OpenedBucket>,
    model: Model,
    synced: usize,
    seals: Vec<SealTask>,
    ids: u64,
}

impl Host {
    fn new() -> Self {
        let disk = SimDisk::new();
        let (directory, bucket) = open(&disk).expect("a new database opens");
        Self {
            disk,
            directory: Some(directory),
            bucket: Some(bucket),
            model: Model::default(),
            synced: 0,
            seals: Vec::new(),
            ids: 0,
        }
    }

    fn reader(&self) -> Reader {
        self.bucket.as_ref().expect("open").publisher.reader()
    }

    /// One transaction on top of the model and of `pending`, the ones of the same entry.
    fn transaction(&mut self, dice: &mut SplitMix64, pending: &[Numbered]) -> Numbered {
        let partition = PARTITIONS[dice.below(2) as usize];
        let key = PartitionKey::new(with_hash16(Uuid::from_u128(50), partition.0));
        let earlier = |p: &Numbered| p.partition == partition;
        let pending: Vec<&Numbered> = pending.iter().filter(|p| earlier(p)).collect();
        let first_sequence = self.model.next_sequence(partition)
            + pending.iter().map(|p| p.events.len() as u64).sum::<u64>();
        let count = if dice.one_in(8) { 60 } else { 1 + dice.below(4) };
        let mut events: Vec<NumberedEvent> = Vec::new();
        for _ in 0..count {
            let stream = format!("s{}", dice.below(6));
            let of_stream = |e: &&NumberedEvent| e.stream.as_str() == stream;
            let version = self.model.stream(&stream, partition).len()
                + pending.iter().flat_map(|p| &p.events).filter(of_stream).count()
                + events.iter().filter(of_stream).count();
            self.ids += 1;
            let payload = vec![dice.draw() as u8; dice.below(200) as usize];
            events.push(NumberedEvent {
                id: with_hash16(Uuid::from_u128(u128::from(self.ids)), partition.0),
                stream: StreamId::new(&stream).expect("ok"),
                version: version as u64,
                name: EventName::new("Happened").expect("ok"),
                timestamp_ns: dice.draw() >> 2,
                payload: Bytes::from(payload),
                metadata: Bytes::from_static(b"meta"),
            });
        }
        Numbered {
            partition,
            partition_key: key,
            key_is_default: false,
            transaction_id: if events.len() == 1 { events[0].id } else { Uuid::from_u128(1) },
            first_sequence,
            decided_ns: dice.draw() >> 2,
            events,
        }
    }

    fn append(&mut self, dice: &mut SplitMix64) -> Result<(), String> {
        let mut transactions: Vec<Numbered> = Vec::new();
        for _ in 0..=dice.below(3) {
            let next = self.transaction(dice, &transactions);
            transactions.push(next);
        }
        self.append_these(dice, transactions)
    }

    fn append_these(
        &mut self,
        dice: &mut SplitMix64,
        transactions: Vec<Numbered>,
    ) -> Result<(), String> {
        let identity = self.directory.as_ref().expect("open").log_settings(BUCKET).identity;
        let bucket = self.bucket.as_mut().expect("open");
        let index = bucket.writer.tip().index + 1;
        let head = BatchHead { time_ns: index, durable: self.synced as u64 };
        let mut body = head.encode().to_vec();
        for transaction in &transactions {
            body.extend_from_slice(&record::encode(identity, transaction));
        }
        let entry = Entry { term: 1, index, kind: EntryKind::Batch, body: Bytes::from(body) };
        bucket.writer.make_room(entry.body.len() as u64).map_err(|e| e.to_string())?;
        self.model.entries.push(transactions);
        let written = bucket.writer.write(&entry).map_err(|e| e.to_string())?;
        bucket.writer.sync().map_err(|e| e.to_string())?;
        self.synced = self.model.entries.len();
        if let Some(full) = written.full {
            bucket.publisher.segment_full(full);
        }
        let rows = Rows::read(identity, &entry);
        let published = bucket.publisher.publish(&entry, written.body, &rows);
        self.seals.extend(published.map_err(|e| e.to_string())?.seal);
        if dice.one_in(3) && !self.seals.is_empty() {
            let task = self.seals.remove(0);
            let index = task.run().map_err(|e| e.to_string())?;
            task.extend_filters().map_err(|e| e.to_string())?;
            bucket.publisher.sealed(index);
        }
        Ok(())
    }

    fn crash(&mut self, dice: &mut SplitMix64) {
        self.bucket = None;
        self.directory = None;
        self.seals.clear();
        if dice.one_in(2) {
            self.disk.power_loss(dice);
        } else {
            self.disk.process_crash();
        }
        let (directory, bucket) = open(&self.disk).expect("opens after a crash");
        let kept = bucket.log.last_index as usize;
        assert!(kept >= self.synced, "an acknowledged entry is gone");
        assert!(kept <= self.model.entries.len());
        self.model.entries.truncate(kept);
        self.synced = kept;
        self.directory = Some(directory);
        self.bucket = Some(bucket);
    }
}

fn same(found: &[Event], wanted: &[EventRef<'_>]) {
    let found: Vec<EventRef<'_>> = found.iter().map(Event::as_ref).collect();
    assert_eq!(found, wanted);
}

/// Every read, at a few random bounds, against the model.
fn compare(reader: &Reader, model: &Model, dice: &mut SplitMix64) {
    for partition in PARTITIONS {
        let all = model.events(partition);
        assert_eq!(reader.next_sequence(partition), all.len() as u64);
        for _ in 0..4 {
            let scan = random_scan(dice, all.len() as u64);
            let page = reader.read_partition(partition, scan).expect("reads");
            check_page(&page.events, page.has_more, &all, scan, |e| e.sequence);
        }
        for stream in 0..7 {
            let stream = format!("s{stream}");
            let all = model.stream(&stream, partition);
            let head = reader.stream_head(&stream, partition).expect("reads");
            assert_eq!(head.map(|h| h.version), all.last().map(|e| e.version));
            for _ in 0..2 {
                let scan = random_scan(dice, all.len() as u64);
                let page = reader.read_stream(&stream, partition, scan).expect("reads");
                check_page(&page.events, page.has_more, &all, scan, |e| e.version);
            }
        }
        for _ in 0..3 {
            if let Some(wanted) = all.get(dice.below(all.len() as u64) as usize) {
                let found = reader.get(wanted.id).expect("reads").expect("there");
                assert_eq!(found.as_ref(), *wanted);
            }
        }
    }
    assert!(reader.get(Uuid::from_u128(u128::MAX)).expect("reads").is_none());
    follow(reader, model, dice);
}

/// Follows both partitions, and streams of both, from random positions on to the end.
fn follow(reader: &Reader, model: &Model, dice: &mut SplitMix64) {
    let streams = PARTITIONS.iter().flat_map(|p| (0..7).map(|n| (format!("s{n}"), *p)));
    let streams: Vec<(String, PartitionId)> = streams.collect();
    let lanes = PARTITIONS.iter().map(|p| (Source::Partition(*p), model.events(*p)));
    let named = streams.iter().map(|(stream, partition)| {
        let id = StreamId::new(stream).expect("a good id");
        (Source::Stream(id, *partition), model.stream(stream, *partition))
    });
    let sources: Vec<(Source, Vec<EventRef<'_>>)> = lanes.chain(named).collect();
    let mut positions: Vec<u64> =
        sources.iter().map(|(_, all)| dice.below(all.len() as u64 + 1)).collect();
    let mut follower =
        Follower::new(reader.clone(), sources.iter().map(|(source, _)| source.clone()).enumerate());
    read_on(&mut follower, &sources, &mut positions);
}

/// Reads until there is nothing more, and holds every event against the model.
fn read_on(
    follower: &mut Follower,
    sources: &[(Source, Vec<EventRef<'_>>)],
    positions: &mut [u64],
) {
    loop {
        let memory = follower.read(positions, 500, Reach::Memory).expect("reads");
        let found = memory.unwrap_or_else(|| {
            follower.read(positions, 500, Reach::Device).expect("reads").expect("a long reach")
        });
        if found.is_empty() {
            break;
        }
        for (source, event) in found {
            let wanted = sources[source].1[positions[source] as usize];
            assert_eq!(event.as_ref(), wanted);
            positions[source] += 1;
        }
    }
    let ends: Vec<u64> = sources.iter().map(|(_, all)| all.len() as u64).collect();
    assert_eq!(positions, ends, "followed to the end of everything");
}

#[test]
fn a_follower_reads_on_while_the_log_grows_rolls_and_is_sealed() {
    let mut dice = SplitMix64::new(5);
    let mut host = Host::new();
    let mut follower: Option<Follower> = None;
    let mut positions = vec![0; 3];
    for _ in 0..150 {
        host.append(&mut dice).expect("appends");
        if dice.one_in(2) {
            continue;
        }
        let stream = |n: &str| StreamId::new(n).expect("a good id");
        let sources = vec![
            (Source::Partition(PARTITIONS[0]), host.model.events(PARTITIONS[0])),
            (Source::Stream(stream("s1"), PARTITIONS[1]), host.model.stream("s1", PARTITIONS[1])),
            (Source::Stream(stream("s2"), PARTITIONS[1]), host.model.stream("s2", PARTITIONS[1])),
        ];
        let follower = follower.get_or_insert_with(|| {
            Follower::new(host.reader(), sources.iter().map(|(s, _)| s.clone()).enumerate())
        });
        read_on(follower, &sources, &mut positions);
    }
    assert!(host.reader().segment_counts().1 > 2, "segments were sealed meanwhile");
}

fn random_scan(dice: &mut SplitMix64, length: u64) -> Scan {
    let from = if dice.one_in(3) { 0 } else { dice.below(length + 2) };
    let to = if dice.one_in(3) { u64::MAX } else { from + dice.below(length + 2) };
    let count = [1, 3, 100, 10_000][dice.below(4) as usize];
    Scan { from, to, count, reverse: dice.one_in(2) }
}

fn check_page(
    found: &[Event],
    has_more: bool,
    all: &[EventRef<'_>],
    scan: Scan,
    number: impl Fn(&EventRef<'_>) -> u64,
) {
    let mut wanted: Vec<EventRef<'_>> =
        all.iter().copied().filter(|e| (scan.from..=scan.to).contains(&number(e))).collect();
    if scan.reverse {
        wanted.reverse();
    }
    assert_eq!(has_more, wanted.len() > scan.count);
    wanted.truncate(scan.count);
    same(found, &wanted);
}

#[test]
fn the_store_answers_what_the_model_answers_through_crashes() {
    for seed in 0..12 {
        println!("seed {seed}");
        let mut dice = SplitMix64::new(seed);
        let mut host = Host::new();
        for round in 0..5 {
            if round % 2 == 1 {
                host.disk.stop_after(dice.below(150));
            }
            for _ in 0..30 {
                if let Err(error) = host.append(&mut dice) {
                    assert!(host.disk.has_stopped(), "{error}");
                    break;
                }
            }
            if !host.disk.has_stopped() {
                compare(&host.reader(), &host.model, &mut dice);
            }
            host.crash(&mut dice);
            compare(&host.reader(), &host.model, &mut dice);
        }
        let directory = host.directory.as_ref().expect("open");
        let report = check_bucket(directory, BUCKET).expect("checks");
        assert!(report.is_sound(), "{report:?}");
        let events: usize = PARTITIONS.iter().map(|p| host.model.events(*p).len()).sum();
        assert_eq!(report.events, events as u64);
        assert_eq!(report.frames, host.model.entries.len() as u64);
        assert!(report.segments > 2, "the seed fills several segments");
    }
}

fn filled(entries: usize) -> (Host, SplitMix64) {
    let mut dice = SplitMix64::new(77);
    let mut host = Host::new();
    for _ in 0..entries {
        host.append(&mut dice).expect("appends");
    }
    (host, dice)
}

#[test]
fn a_lost_or_rotten_index_is_rebuilt_and_never_taken_for_absence() {
    let (mut host, mut dice) = filled(120);
    host.crash(&mut dice);
    let dir = bucket_dir(root(), BUCKET);
    let indexes: Vec<_> = host
        .disk
        .files()
        .into_iter()
        .filter(|path| path.starts_with(&dir) && path.extension().is_some_and(|e| e == "index"))
        .collect();
    assert!(indexes.len() > 3);
    host.disk.remove(&indexes[0]).expect("delete one");
    host.disk.damage(&indexes[1], |bytes| bytes[9] ^= 1);
    let other = host.disk.contents(&indexes[3]).expect("there");
    host.disk.damage(&indexes[2], |bytes| *bytes = other);
    host.crash(&mut dice);
    assert_eq!(host.bucket.as_ref().expect("open").rebuilt, indexes[..3]);
    compare(&host.reader(), &host.model, &mut dice);

    // Rot inside a block is met while reading: an error, not silence.
    host.disk.damage(&indexes[0], |bytes| {
        // The last block tells terms, the one before it keys.
        let keys = bytes.len() - 2 * 4096;
        bytes[keys] ^= 1;
    });
    let id = host.model.entries[0][0].events[0].id;
    let mut ids = host.model.entries.iter().flatten().flat_map(|t| &t.events).map(|e| e.id);
    assert!(ids.any(|id| host.reader().get(id).is_err()), "some id lies in the rotten block");
    let report = check_bucket(host.directory.as_ref().expect("open"), BUCKET).expect("checks");
    assert_eq!(report.bad_indexes.len(), 1);
    assert_eq!(report.bad_indexes[0].file, indexes[0]);
    assert!(host.reader().get(id).is_ok() || host.reader().get(id).is_err());
}

#[test]
fn a_rotten_record_is_an_error_that_names_its_place_and_the_rest_is_read() {
    let (mut host, mut dice) = filled(120);
    host.crash(&mut dice);
    let path = bucket_dir(root(), BUCKET).join("000000000001.segment");
    let wanted = host.model.events(PARTITIONS[0]).len() as u64;
    host.disk.damage(&path, |bytes| bytes[30_000] ^= 1);
    let reader = host.reader();
    let all = Scan { from: 0, to: u64::MAX, count: 10_000, reverse: false };
    let mut failed = 0;
    for partition in PARTITIONS {
        if let Err(error) = reader.read_partition(partition, all) {
            failed += 1;
            assert!(error.to_string().contains("000000000001.segment at byte"), "{error}");
        }
    }
    assert_eq!(failed, 1, "one partition's record is hit, the other one reads on");
    let end = Scan { from: wanted - 1, ..all };
    assert_eq!(reader.read_partition(PARTITIONS[0], end).expect("reads").events.len(), 1);
    let report = check_bucket(host.directory.as_ref().expect("open"), BUCKET).expect("checks");
    assert!(report.damage.iter().any(|damage| damage.file == path), "{:?}", report.damage);
}

#[test]
fn facts_tell_head_elsewhere_and_absent() {
    let (host, _) = filled(40);
    let reader = host.reader();
    let stream = |name: &str| StreamId::new(name).expect("ok");
    let id = host.model.entries[3][0].events[0].id;
    let keys =
        Keys { streams: vec![stream("s1"), stream("nobody")], event_ids: vec![id, Uuid::nil()] };
    let found = facts(&reader, &[], PARTITIONS[0], &keys).expect("reads");
    let last = host.model.stream("s1", PARTITIONS[0]).last().map(|e| e.version).expect("some");
    assert!(matches!(found.streams[0].1, StreamFact::Head { version, .. } if version == last));
    assert_eq!(found.streams[1].1, StreamFact::Absent);
    assert_eq!(found.event_ids[0].1.as_deref(), Some(&host.model.entries[3][0]));
    assert_eq!(found.event_ids[1].1, None);
}

#[test]
fn counts_are_fixed_and_a_directory_is_locked_once() {
    let (mut host, _) = filled(3);
    let again = Directory::open_or_create(Arc::new(host.disk.clone()), root(), meta());
    assert!(matches!(again, Err(OpenError::Locked(_))));
    host.directory = None;
    let other = Meta { partitioning: Partitioning::new(8, 2).expect("valid"), ..meta() };
    let refused = Directory::open_or_create(Arc::new(host.disk.clone()), root(), other);
    assert!(refused.expect_err("refused").to_string().contains("partition.count is 8"));
    let other = Meta { segment_bytes: 1 << 20, ..meta() };
    let refused = Directory::open_or_create(Arc::new(host.disk.clone()), root(), other);
    assert!(refused.expect_err("refused").to_string().contains("segment.size_bytes"));
    // The id a caller draws for a new database does not matter for one that exists.
    let drawn = Meta { database: Uuid::from_u128(4), ..meta() };
    let found = Directory::open_or_create(Arc::new(host.disk.clone()), root(), drawn);
    assert_eq!(found.expect("opens").meta().database, meta().database);
    host.disk.remove(&root().join("meta")).expect("remove");
    let refused = Directory::open_or_create(Arc::new(host.disk.clone()), root(), meta());
    assert!(matches!(refused, Err(OpenError::NoMeta(_))));
}

#[test]
fn a_lost_bucket_directory_is_damage_and_not_an_empty_bucket() {
    let (mut host, mut dice) = filled(3);
    host.bucket = None;
    host.directory = None;
    host.disk.power_loss(&mut dice);
    let dir = bucket_dir(root(), BUCKET);
    for path in host.disk.files() {
        if path.starts_with(&dir) {
            host.disk.remove(&path).expect("remove");
        }
    }
    let error = open(&host.disk).expect_err("refused").to_string();
    assert!(error.contains("bucket-001") && error.contains("missing"), "{error}");
}

#[test]
fn a_page_of_large_transactions_holds_only_what_it_shows() {
    let (host, _) = filled(60);
    let reader = host.reader();
    let all = host.model.events(PARTITIONS[0]);
    for reverse in [false, true] {
        let scan = Scan { from: 0, to: u64::MAX, count: 1, reverse };
        let page = reader.read_partition(PARTITIONS[0], scan).expect("reads");
        assert!(page.has_more);
        let wanted = if reverse { all.last() } else { all.first() };
        assert_eq!(Some(page.events[0].as_ref()), wanted.copied());
    }
    // Bounds end a walk over a stream, in both directions.
    let scan = Scan { from: 2, to: 3, count: 100, reverse: true };
    let page = reader.read_stream("s1", PARTITIONS[0], scan).expect("reads");
    let versions: Vec<u64> = page.events.iter().map(Event::version).collect();
    assert_eq!((versions, page.has_more), (vec![3, 2], false));
}

#[test]
fn a_start_makes_the_names_durable_that_a_crash_left_in_the_cache() {
    for stop in 0..40 {
        for seed in 0..8 {
            let disk = SimDisk::new();
            disk.stop_after(stop);
            let made = Directory::open_or_create(Arc::new(disk.clone()), root(), meta()).is_ok();
            disk.process_crash();
            // This start may acknowledge appends, so all that it rests on must be there after.
            let id = open(&disk).expect("opens").0.meta().database;
            disk.power_loss(&mut SplitMix64::new(seed));
            let wanted = Meta { database: Uuid::from_u128(12), ..meta() };
            let again = Directory::open_or_create(Arc::new(disk.clone()), root(), wanted);
            let again = again.unwrap_or_else(|error| panic!("stop {stop} seed {seed}: {error}"));
            assert_eq!(again.meta().database, id, "stop {stop} seed {seed}, made {made}");
        }
    }
}
