//! One host under a seeded loop: the real sides and the real store on a device that forgets, every
//! message between them in a queue whose delay the seed draws, order kept per pair. An auditor
//! compares what clients were told with what is there.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::path::Path;
use std::sync::Arc;

use actadb_bucket::job::perform;
use actadb_bucket::partition_side::{PartitionOutput, PartitionSide};
use actadb_bucket::writer_side::{WriterInput, WriterOutput, WriterSide, WriterStart};
use actadb_disk::sim::SimDisk;
use actadb_model::dice::SplitMix64;
use actadb_model::entry::Proposal;
use actadb_model::ids::{BucketId, PartitionId, PartitionKey, Partitioning, with_hash16};
use actadb_model::keys::{Facts, Keys};
use actadb_model::limits::PAGE_MAX_EVENTS;
use actadb_model::names::{EventName, StreamId};
use actadb_model::outcome::{AppendError, AppendResult, Refusal};
use actadb_model::time::Now;
use actadb_model::transaction::{NewEvent, Transaction};
use actadb_model::version::ExpectedVersion;
use actadb_partition::core::{Rules, Start};
use actadb_partition::message::{FetchId, FromReplica, Input, Token};
use actadb_replica::message::{FsyncMode, Work};
use actadb_store::check::check_bucket;
use actadb_store::facts::facts;
use actadb_store::meta::{Directory, Meta};
use actadb_store::open::open_bucket;
use actadb_store::publisher::SealTask;
use actadb_store::reader::{Reader, Scan};
use actadb_store::writer::BucketWriter;
use uuid::Uuid;

const PARTITIONS: [PartitionId; 3] = [PartitionId(0), PartitionId(1), PartitionId(2)];
const SEGMENT_BYTES: u64 = 64 << 10;

/// One logical append of a client; retries are attempts of the same operation.
#[derive(Debug)]
struct Operation {
    partition: PartitionId,
    transaction: Transaction,
    /// Every attempt was refused for certain.
    refused: bool,
    /// Some attempt was answered with positions.
    acknowledged: Option<(u64, Vec<u64>)>,
    /// Highest sequence of the partition acknowledged to anyone when it was first sent.
    acked_before: Option<u64>,
    attempts: usize,
    open: bool,
}

/// The parts of an open bucket, and all that is on its way between them.
struct Life {
    _directory: Directory,
    writer: BucketWriter,
    writer_side: WriterSide,
    sides: Vec<PartitionSide>,
    reader: Reader,
    mailboxes: Vec<VecDeque<Input>>,
    proposals: Vec<VecDeque<Proposal>>,
    messages: Vec<VecDeque<FromReplica>>,
    work: Option<Work>,
    done: Option<actadb_bucket::job::Done>,
    seals: Vec<SealTask>,
    sealed: Vec<WriterInput>,
    fetches: Vec<(usize, FetchId, Keys)>,
    facts: Vec<(usize, FetchId, Facts)>,
    tokens: HashMap<Token, Vec<usize>>,
    closed: bool,
}

struct World {
    seed: u64,
    dice: SplitMix64,
    disk: SimDisk,
    fsync: FsyncMode,
    now: Now,
    life: Option<Life>,
    operations: Vec<Operation>,
    next_token: u64,
    max_acked: BTreeMap<PartitionId, u64>,
    /// Of transactions with DURABLE, and of all in the mode that always syncs.
    max_durable: BTreeMap<PartitionId, u64>,
    conflicts: Vec<(PartitionId, StreamId, u64)>,
    crashes: u64,
}

impl World {
    fn new(seed: u64, fsync: FsyncMode) -> Self {
        let mut world = Self {
            seed,
            dice: SplitMix64::new(seed),
            disk: SimDisk::new(),
            fsync,
            now: Now { mono_ns: 1, unix_ns: 1_700_000_000_000_000_000 },
            life: None,
            operations: Vec::new(),
            next_token: 0,
            max_acked: BTreeMap::new(),
            max_durable: BTreeMap::new(),
            conflicts: Vec::new(),
            crashes: 0,
        };
        world.open();
        world
    }

    fn open(&mut self) {
        let partitioning = Partitioning::new(3, 1).expect("valid");
        let meta =
            Meta { database: Uuid::from_u128(1), partitioning, segment_bytes: SEGMENT_BYTES };
        let disk = Arc::new(self.disk.clone());
        let directory = Directory::open_or_create(disk, Path::new("/db"), meta).expect("opens");
        let bucket = open_bucket(&directory, BucketId(0))
            .unwrap_or_else(|error| panic!("seed {}: does not open: {error}", self.seed));
        let start = WriterStart {
            partitions: PARTITIONS.to_vec(),
            last: bucket.last,
            term: bucket.writer.slot_state().term,
            segment_bytes: SEGMENT_BYTES,
            fsync: self.fsync,
            room: bucket.writer.room(),
            unsealed: bucket.unsealed,
        };
        let floor = bucket.publisher.last_time_ns();
        let identity = directory.log_settings(BucketId(0)).identity;
        let mut life = Life {
            reader: bucket.publisher.reader(),
            writer: bucket.writer,
            writer_side: WriterSide::new(start, bucket.publisher),
            sides: PARTITIONS
                .iter()
                .map(|partition| {
                    let rules = Rules {
                        strict_versioning: false,
                        max_transaction_bytes: SEGMENT_BYTES / 4,
                        cached_heads: 3,
                    };
                    let seed = self.dice.draw();
                    let start = Start { partition: *partition, rules, id_floor_ns: floor, seed };
                    PartitionSide::new(identity, start)
                })
                .collect(),
            mailboxes: vec![VecDeque::new(); 3]
                .into_iter()
                .map(|_: VecDeque<u8>| VecDeque::new())
                .collect(),
            proposals: vec![VecDeque::new(); 3],
            messages: vec![VecDeque::new(); 3],
            work: None,
            done: None,
            seals: Vec::new(),
            sealed: Vec::new(),
            fetches: Vec::new(),
            facts: Vec::new(),
            tokens: HashMap::new(),
            closed: false,
            _directory: directory,
        };
        for partition in PARTITIONS {
            let next = life.reader.next_sequence(partition);
            let acked = self.max_acked.get(&partition).copied();
            assert!(acked.is_none_or(|acked| acked < next), "seed {}: lost {acked:?}", self.seed);
        }
        let mut out = Vec::new();
        life.writer_side.step(self.now, WriterInput::Start, &mut out);
        self.life = Some(life);
        self.route(out);
    }

    fn life(&mut self) -> &mut Life {
        self.life.as_mut().expect("open")
    }

    fn route(&mut self, outputs: Vec<WriterOutput>) {
        let life = self.life.as_mut().expect("open");
        for output in outputs {
            match output {
                WriterOutput::Work(work) => {
                    assert!(life.work.replace(work).is_none(), "two pieces of work at once");
                }
                WriterOutput::Seal(task) => life.seals.push(task),
                WriterOutput::ToPartition(partition, message) => {
                    life.messages[usize::from(partition.0)].push_back(message);
                }
                WriterOutput::Closed(_) => life.closed = true,
                WriterOutput::Stopped => {}
            }
        }
    }

    fn step_writer(&mut self, input: WriterInput) {
        let mut out = Vec::new();
        let now = self.now;
        self.life().writer_side.step(now, input, &mut out);
        self.route(out);
    }

    fn step_partition(&mut self, n: usize, input: Input) {
        let mut out = Vec::new();
        let now = self.now;
        self.life().sides[n].step(now, input, &mut out);
        for output in out {
            match output {
                PartitionOutput::Fetch { fetch, keys } => {
                    self.life().fetches.push((n, fetch, keys))
                }
                PartitionOutput::Propose(proposal) => self.life().proposals[n].push_back(proposal),
                PartitionOutput::WantSync => self.step_writer(WriterInput::WantSync),
                PartitionOutput::Answer { token, results } => {
                    let operations = self.life().tokens.remove(&token).expect("answered once");
                    assert_eq!(operations.len(), results.len());
                    for (operation, result) in operations.into_iter().zip(results) {
                        self.answered(operation, result);
                    }
                }
            }
        }
    }

    fn answered(&mut self, number: usize, result: AppendResult) {
        let seed = self.seed;
        let reader = self.life().reader.clone();
        let operation = &mut self.operations[number];
        operation.open = false;
        match result {
            Ok(appended) => {
                let versions: Vec<u64> = appended.events.iter().map(|e| e.version).collect();
                let told = (appended.first_sequence, versions);
                if let Some(before) = &operation.acknowledged {
                    assert_eq!(*before, told, "seed {seed}: a retry answered other positions");
                }
                let fresh =
                    operation.acked_before.is_none_or(|acked| appended.first_sequence > acked);
                assert!(fresh, "seed {seed}: sent after an acknowledgement, numbered before it");
                assert!(
                    reader.next_sequence(operation.partition) > appended.last_sequence(),
                    "seed {seed}: acknowledged and not visible"
                );
                operation.acknowledged = Some(told);
                operation.refused = false;
                let acked = self.max_acked.entry(operation.partition).or_default();
                *acked = (*acked).max(appended.last_sequence());
                if operation.transaction.is_durable() || self.fsync == FsyncMode::Always {
                    let durable = self.max_durable.entry(operation.partition).or_default();
                    *durable = (*durable).max(appended.last_sequence());
                }
            }
            Err(AppendError::Refused(refusal)) => {
                if let Refusal::WrongVersion { stream, current: Some(version), .. } = &refusal {
                    self.conflicts.push((operation.partition, stream.clone(), *version));
                }
                assert!(
                    !matches!(refusal, Refusal::Duplicate { .. }),
                    "seed {seed}: operation {number} called a duplicate of itself"
                );
            }
            Err(AppendError::Unknown(_)) => operation.refused = false,
        }
    }

    /// A client sends one to three operations, new ones or retries, in one message.
    fn send(&mut self) {
        let n = self.dice.below(3) as usize;
        let mut numbers = Vec::new();
        for _ in 0..=self.dice.below(3) {
            let retry = self.dice.one_in(3).then(|| self.dice.below(self.operations.len() as u64));
            let number = match retry.map(|n| n as usize) {
                Some(number) if self.can_retry(number, n) && !numbers.contains(&number) => number,
                _ => self.new_operation(n),
            };
            numbers.push(number);
        }
        let token = Token(self.next_token);
        self.next_token += 1;
        let connection = self.dice.below(4);
        let transactions =
            numbers.iter().map(|number| self.operations[*number].transaction.clone()).collect();
        for number in &numbers {
            let operation = &mut self.operations[*number];
            operation.open = true;
            operation.attempts += 1;
        }
        let life = self.life();
        life.tokens.insert(token, numbers);
        life.mailboxes[n].push_back(Input::Append { token, connection, transactions });
    }

    /// Only operations with event ids on all events may be sent again.
    fn can_retry(&self, number: usize, n: usize) -> bool {
        self.operations.get(number).is_some_and(|operation| {
            !operation.open
                && usize::from(operation.partition.0) == n
                && operation.transaction.events().iter().all(|event| event.id.is_some())
        })
    }

    fn new_operation(&mut self, n: usize) -> usize {
        let partition = PARTITIONS[n];
        let number = self.operations.len();
        let with_ids = self.dice.one_in(2);
        let count = if self.dice.one_in(4) { 2 + self.dice.below(3) } else { 1 };
        let events = (0..count)
            .map(|i| {
                let stream = StreamId::new(&format!("p{n}-s{}", self.dice.below(8))).expect("ok");
                let expected = match self.dice.below(6) {
                    0 => ExpectedVersion::Empty,
                    1 => ExpectedVersion::Exists,
                    2 => ExpectedVersion::Exact(self.dice.below(12)),
                    _ => ExpectedVersion::Any,
                };
                let mut payload = format!("{number}.{i} ").into_bytes();
                payload.resize(payload.len() + self.dice.below(1500) as usize, b'x');
                let event = NewEvent::new(stream, EventName::new("E").expect("ok"))
                    .expected(expected)
                    .payload(payload);
                let id = Uuid::from_u128((number as u128) << 64 | u128::from(i));
                if with_ids { event.id(with_hash16(id, partition.0)) } else { event }
            })
            .collect();
        let key = PartitionKey::new(with_hash16(Uuid::from_u128(77), partition.0));
        let durable = self.dice.one_in(5);
        let transaction = Transaction::new(key, events).expect("valid").durable(durable);
        self.operations.push(Operation {
            partition,
            transaction,
            refused: true,
            acknowledged: None,
            acked_before: self.max_acked.get(&partition).copied(),
            attempts: 0,
            open: false,
        });
        number
    }

    /// One thing that can happen next.
    fn tick(&mut self) {
        self.now.mono_ns += self.dice.below(1_000_000);
        self.now.unix_ns += self.dice.below(1_000_000);
        if self.dice.one_in(200) {
            self.now.mono_ns += 1_100_000_000;
        }
        let n = self.dice.below(3) as usize;
        match self.dice.below(9) {
            0 => {
                if let Some(input) = self.life().mailboxes[n].pop_front() {
                    self.step_partition(n, input);
                }
            }
            1 => {
                if let Some(message) = self.life().messages[n].pop_front() {
                    self.step_partition(n, Input::Replica(message));
                }
            }
            2 => {
                if let Some(proposal) = self.life().proposals[n].pop_front() {
                    self.step_writer(WriterInput::Propose(proposal));
                }
            }
            3 => self.step_writer(WriterInput::Flush),
            4 => {
                let life = self.life();
                if let Some(work) = life.work.take() {
                    life.done = Some(perform(&mut life.writer, &work));
                }
            }
            5 => {
                if let Some(done) = self.life().done.take() {
                    self.step_writer(WriterInput::Done(done));
                }
            }
            6 => self.tick_fetch(),
            7 => self.tick_seal(),
            _ => {
                if self.life().writer_side.wake_at().is_some_and(|at| at <= self.now.mono_ns) {
                    self.step_writer(WriterInput::Tick);
                }
            }
        }
    }

    fn tick_fetch(&mut self) {
        let life = self.life.as_mut().expect("open");
        if !life.fetches.is_empty() && self.dice.one_in(2) {
            let at = self.dice.below(life.fetches.len() as u64) as usize;
            let (n, fetch, keys) = life.fetches.swap_remove(at);
            if let Ok(found) = facts(&life.reader, &[], PARTITIONS[n], &keys) {
                life.facts.push((n, fetch, found));
            } else {
                assert!(self.disk.has_stopped(), "seed {}: a read failed", self.seed);
            }
        } else if !life.facts.is_empty() {
            let at = self.dice.below(life.facts.len() as u64) as usize;
            let (n, fetch, facts) = life.facts.swap_remove(at);
            self.step_partition(n, Input::Facts { fetch, facts: Ok(facts) });
        }
    }

    fn tick_seal(&mut self) {
        let life = self.life();
        if let Some(task) = life.seals.pop() {
            let input = match task.run() {
                Ok(index) => WriterInput::Sealed(index),
                Err(_) => WriterInput::SealFailed(task),
            };
            life.sealed.push(input);
        } else if let Some(input) = life.sealed.pop() {
            self.step_writer(input);
        }
    }

    fn crash(&mut self) {
        self.crashes += 1;
        self.life = None;
        for operation in &mut self.operations {
            if std::mem::take(&mut operation.open) {
                operation.refused = false;
            }
        }
        let power = self.dice.one_in(2);
        if power {
            self.disk.power_loss(&mut self.dice);
            if self.fsync != FsyncMode::Always {
                // What was acknowledged before its sync may be taken back, the newest first.
                self.max_acked.clone_from(&self.max_durable);
            }
        } else {
            self.disk.process_crash();
        }
        self.open();
        if power && self.fsync != FsyncMode::Always {
            self.take_back();
        }
    }

    /// Forgets the acknowledgements that a power loss took back.
    fn take_back(&mut self) {
        let reader = self.life().reader.clone();
        self.conflicts.clear();
        for operation in &mut self.operations {
            operation.acked_before = None;
            operation.refused = false;
            let next = reader.next_sequence(operation.partition);
            if operation.acknowledged.as_ref().is_some_and(|(first, _)| *first >= next) {
                assert!(
                    !operation.transaction.is_durable(),
                    "seed {}: DURABLE was lost",
                    self.seed
                );
                operation.acknowledged = None;
            }
        }
    }

    /// Whether somebody still waits for an answer.
    fn is_waiting(&self) -> bool {
        self.life.as_ref().is_some_and(|life| !life.tokens.is_empty())
    }

    fn audit(&mut self) {
        let seed = self.seed;
        let reader = self.life().reader.clone();
        // payload tag -> (partition, sequence, version, transaction)
        let mut found: HashMap<String, (PartitionId, u64, u64, Uuid)> = HashMap::new();
        let mut latest: HashMap<(PartitionId, String), u64> = HashMap::new();
        for partition in PARTITIONS {
            let mut from = 0;
            loop {
                let scan = Scan { from, to: u64::MAX, count: PAGE_MAX_EVENTS, reverse: false };
                let page = reader.read_partition(partition, scan).expect("reads");
                for event in &page.events {
                    let event = event.as_ref();
                    assert_eq!(event.sequence, from, "seed {seed}: a gap in {partition}");
                    from += 1;
                    let stream = (partition, event.stream.to_owned());
                    let next = latest.get(&stream).map_or(0, |version| version + 1);
                    assert_eq!(event.version, next, "seed {seed}: a gap in {}", event.stream);
                    latest.insert(stream, event.version);
                    let text = std::str::from_utf8(event.payload).expect("ours");
                    let tag = text.split(' ').next().expect("a tag").to_owned();
                    let place = (partition, event.sequence, event.version, event.transaction_id);
                    let twice = found.insert(tag.clone(), place);
                    assert!(twice.is_none(), "seed {seed}: {tag} is there twice");
                }
                if !page.has_more {
                    break;
                }
            }
            assert_eq!(reader.next_sequence(partition), from, "seed {seed}: the watermark is off");
        }
        for (number, operation) in self.operations.iter().enumerate() {
            let events = operation.transaction.events().len();
            let places: Vec<_> =
                (0..events).filter_map(|i| found.get(&format!("{number}.{i}"))).collect();
            assert!(
                places.is_empty() || places.len() == events,
                "seed {seed}: operation {number} is torn"
            );
            for (i, place) in places.iter().enumerate() {
                assert_eq!(place.1, places[0].1 + i as u64, "seed {seed}: not contiguous");
                assert_eq!(place.3, places[0].3, "seed {seed}: not one transaction");
            }
            if let Some((first, versions)) = &operation.acknowledged {
                assert_eq!(places.len(), events, "seed {seed}: acknowledged {number} is gone");
                assert_eq!(places[0].1, *first, "seed {seed}: not where the answer said");
                let there: Vec<u64> = places.iter().map(|place| place.2).collect();
                assert_eq!(there, *versions, "seed {seed}: not the version the answer said");
            } else if operation.refused && operation.attempts > 0 {
                assert!(places.is_empty(), "seed {seed}: refused {number} is there");
            }
        }
        for (partition, stream, version) in &self.conflicts {
            let latest = latest.get(&(*partition, stream.as_str().to_owned()));
            assert!(
                latest.is_some_and(|latest| latest >= version),
                "seed {seed}: a conflict told version {version} of {stream}, which never was"
            );
        }
    }
}

fn run(seed: u64, fsync: FsyncMode, steps: u64) -> World {
    let mut world = World::new(seed, fsync);
    let sends = 6 + world.dice.below(20);
    for _ in 0..steps {
        if world.dice.one_in(sends) {
            world.send();
        }
        world.tick();
        match world.dice.below(4000) {
            0 => world.crash(),
            1 => world.disk.stop_after(world.dice.clone().below(40)),
            2 if fsync == FsyncMode::Always => {
                world.disk.fail_sync_after(world.dice.clone().below(5))
            }
            3 => world.disk.set_capacity(Some(world.dice.clone().below(600_000))),
            4 => world.disk.fail_write_after(2, std::io::ErrorKind::StorageFull),
            5..10 => world.disk.set_capacity(None),
            _ => {}
        }
        if (world.disk.has_stopped() || world.life().closed) && world.dice.one_in(50) {
            world.crash();
        }
    }
    // Faults end: everything is answered, appends succeed.
    world.disk.set_capacity(None);
    world.crash();
    world.audit();
    for _ in 0..20 {
        world.send();
    }
    let mut left = 100_000;
    while world.is_waiting() {
        left -= 1;
        assert!(left > 0, "seed {seed}: somebody waits for ever");
        world.tick();
    }
    world.audit();
    world
}

#[test]
fn what_clients_were_told_is_what_is_there() {
    let seeds: u64 = std::env::var("TEST_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(25);
    let (mut acknowledged, mut crashes) = (0, 0);
    for seed in 0..seeds {
        let fsync = match seed % 5 {
            3 => FsyncMode::Interval(50_000_000),
            4 => FsyncMode::Never,
            _ => FsyncMode::Always,
        };
        println!("seed {seed}");
        let mut world = run(seed, fsync, 12_000);
        acknowledged += world.operations.iter().filter(|o| o.acknowledged.is_some()).count();
        crashes += world.crashes;
        let life = world.life.take().expect("open");
        let report = check_bucket(&life._directory, BucketId(0)).expect("checks");
        assert!(report.is_sound(), "seed {seed}: {report:?}");
    }
    // The loop must have done something, or it proves nothing.
    assert!(acknowledged as u64 > 50 * seeds, "{acknowledged} acknowledged");
    assert!(crashes > 2 * seeds, "{crashes} crashes");
}
