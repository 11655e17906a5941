//! One world: a host, its clients and its faults on virtual time, all drawn from one seed.

use std::collections::BTreeMap;
use std::path::Path;

use actadb_bucket::job::{Done, perform};
use actadb_bucket::partition_side::PartitionOutput;
use actadb_bucket::writer_side::{WriterInput, WriterOutput};
use actadb_model::dice::SplitMix64;
use actadb_model::entry::Proposal;
use actadb_model::ids::{BucketId, PartitionId};
use actadb_model::keys::{Facts, Keys};
use actadb_model::outcome::AppendResult;
use actadb_model::transaction::Transaction;
use actadb_partition::message::{FetchId, FromReplica, Input, Token};
use actadb_replica::message::{FsyncMode, Work};
use actadb_store::check::check_bucket;
use actadb_store::error::ReadError;
use actadb_store::facts::facts;
use actadb_store::publisher::SealTask;
use actadb_store::reader::{Page, Reader};

use crate::auditor::{Answered, Asked, Auditor, Read};
use crate::clients::{self, CLIENTS, Request};
use crate::faults::{self, Fault, Rot};
use crate::host::{Host, Life, PARTITIONS};
use crate::net::{End, Fate, Part, SimNet, delay_ns};
use crate::schedule::Schedule;
use crate::trace::Trace;

/// The host of all clients.
const CLIENT_HOST: u8 = 255;
/// Appends that must succeed when all faults have ended.
const LAST_APPENDS: u64 = 20;
/// No world needs more events, nor for what is left when the faults have ended.
const LAST_EVENTS: u64 = 300_000;
/// Requests of one client on their way at once.
const OUTSTANDING_MAX: usize = 6;

/// What arrives at a part of a host.
enum Message {
    Append { token: Token, connection: u64, transactions: Vec<Transaction> },
    Read(u64),
    Proposal(Proposal),
    FromWriter(FromReplica),
    Fetch(PartitionId, FetchId, Keys),
    Facts(FetchId, Result<Facts, String>),
    WantSync,
    Flush,
    Tick,
    Work(Work),
    Done(Done),
    Seal(SealTask),
    Sealed(WriterInput),
}

enum Event {
    /// A client does something.
    Client(u64),
    /// A message arrives, if the life it belongs to goes on.
    Arrive {
        life: u64,
        part: Part,
        message: Message,
    },
    Answer {
        life: u64,
        token: Token,
        results: Vec<AppendResult>,
    },
    ReadAnswer {
        life: u64,
        read: u64,
        answered: Option<Answered>,
    },
    /// The host dies, if it has not died since.
    Crash {
        life: u64,
        power: bool,
    },
    /// The host starts.
    Start,
    /// An operator puts back what rotted.
    Restore,
}

/// What a world came to.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// What happened, a line per event, when it was kept.
    pub trace: String,
    /// Operations and reads that clients began.
    pub operations: u64,
    /// Appends that were acknowledged.
    pub acknowledged: u64,
    /// Reads that were answered.
    pub reads: u64,
    /// Times the host died.
    pub crashes: u64,
    /// Pieces of files that rotted.
    pub rotten: u64,
}

struct World {
    dice: SplitMix64,
    schedule: Schedule<Event>,
    net: SimNet,
    host: Host,
    auditor: Auditor,
    trace: Trace,
    appends: BTreeMap<Token, (u64, Vec<usize>)>,
    reads: BTreeMap<u64, (u64, Read)>,
    rot: Option<Rot>,
    next_request: u64,
    operations: u64,
    operations_max: u64,
    /// One fault in so many requests; 0 when the faults have ended.
    fault_one_in: u64,
    payload_max: u64,
    think_ns: u64,
    /// The last loss of power may have taken back acknowledgements.
    taken_back: bool,
    crashes: u64,
    rotten: u64,
}

/// Runs one world to its end and audits it.
///
/// # Panics
/// When a rule does not hold; the message says which.
#[must_use]
pub fn run(seed: u64, operations: u64, trace: Trace) -> Outcome {
    let mut world = World::new(seed, operations, trace);
    world.live();
    world.end();
    Outcome {
        operations: world.operations,
        acknowledged: world.auditor.acknowledged(),
        reads: world.auditor.reads(),
        crashes: world.crashes,
        rotten: world.rotten,
        trace: world.trace.kept(),
    }
}

impl World {
    fn new(seed: u64, operations_max: u64, trace: Trace) -> Self {
        let mut dice = SplitMix64::new(seed);
        let fsync = match dice.below(5) {
            0 => FsyncMode::Interval(50_000_000),
            1 => FsyncMode::Never,
            _ => FsyncMode::Always,
        };
        let payload_max = [30, 400, 1500][dice.below(3) as usize];
        let think_ns = [20_000, 300_000, 3_000_000, 30_000_000][dice.below(4) as usize];
        let fault_one_in = [15, 40, 100][dice.below(3) as usize];
        let mut world = Self {
            dice,
            schedule: Schedule::default(),
            net: SimNet::default(),
            host: Host::new(0, fsync),
            auditor: Auditor::default(),
            trace,
            appends: BTreeMap::new(),
            reads: BTreeMap::new(),
            rot: None,
            next_request: 0,
            operations: 0,
            operations_max,
            fault_one_in,
            payload_max,
            think_ns,
            taken_back: false,
            crashes: 0,
            rotten: 0,
        };
        world.note(format_args!(
            "seed {seed}: fsync {fsync:?}, payloads to {payload_max} bytes, a request every \
             {think_ns} ns of each of {CLIENTS} clients, one fault in {fault_one_in}"
        ));
        world.schedule.after(0, Event::Start);
        for client in 0..CLIENTS {
            world.schedule.after(client, Event::Client(client));
        }
        world
    }

    fn note(&mut self, what: std::fmt::Arguments<'_>) {
        self.trace.note(self.schedule.now_ns(), what);
    }

    /// Runs until the clients have done what they were to do.
    fn live(&mut self) {
        let mut left = LAST_EVENTS;
        while self.operations < self.operations_max {
            left -= 1;
            assert!(left > 0, "the world does not come to its end");
            let event = self.schedule.pop().expect("clients go on for ever");
            self.event(event);
        }
    }

    /// Faults end: everybody is answered, appends succeed, and all is as it was told.
    fn end(&mut self) {
        self.fault_one_in = 0;
        self.restore();
        self.host.disk.set_capacity(None);
        self.note(format_args!("faults end"));
        self.crash(false);
        self.settle();
        self.audit();
        let acknowledged = self.auditor.acknowledged();
        for client in 0..LAST_APPENDS {
            let request = clients::draw_plain(&mut self.dice, &mut self.auditor, &PARTITIONS);
            self.send(client % CLIENTS, request);
        }
        self.settle();
        let more = self.auditor.acknowledged() - acknowledged;
        assert_eq!(more, LAST_APPENDS, "faults have ended and appends do not succeed");
        self.audit();
        let life = self.host.life.as_ref().expect("it was audited");
        let report = check_bucket(&life.directory, BucketId(0));
        let report = report.unwrap_or_else(|error| panic!("the check: {error}"));
        assert!(report.damage.is_empty(), "the check found {:?}", report.damage);
    }

    /// Runs until the host is up and nobody waits.
    fn settle(&mut self) {
        for _ in 0..LAST_EVENTS {
            if self.host.life.is_some() && self.appends.is_empty() && self.reads.is_empty() {
                return;
            }
            let event = self.schedule.pop().expect("somebody waits, and nothing will happen");
            if !matches!(event, Event::Client(_)) {
                self.event(event);
            }
        }
        panic!("somebody waits for ever");
    }

    fn audit(&mut self) {
        let life = self.host.life.as_ref().expect("up");
        self.auditor.audit(&life.reader, &PARTITIONS);
        self.note(format_args!("audited"));
    }

    fn event(&mut self, event: Event) {
        match event {
            Event::Client(client) => {
                let think = self.dice.below(2 * self.think_ns);
                self.schedule.after(think, Event::Client(client));
                self.look_after_the_host();
                let appends = self.appends.values().filter(|(of, _)| *of == client).count();
                let reads = self.reads.values().filter(|(of, _)| *of == client).count();
                if appends + reads >= OUTSTANDING_MAX {
                    return;
                }
                self.operations += 1;
                let auditor = &mut self.auditor;
                let request = clients::draw(&mut self.dice, auditor, &PARTITIONS, self.payload_max);
                self.send(client, request);
                if self.fault_one_in > 0 && self.dice.one_in(self.fault_one_in) {
                    let fault = faults::draw(&mut self.dice);
                    self.fault(fault);
                }
            }
            Event::Arrive { life, part, message } if life == self.host.lives => {
                self.arrive(part, message);
            }
            Event::Answer { life, token, results } if life == self.host.lives => {
                let (_, numbers) = self.appends.remove(&token).expect("answered once");
                assert_eq!(numbers.len(), results.len(), "one result per transaction");
                let durable = self.host.fsync == FsyncMode::Always;
                for (number, result) in numbers.into_iter().zip(results) {
                    self.note(format_args!("operation {number} is answered {}", told(&result)));
                    self.auditor.answered(number, result, durable);
                }
            }
            Event::ReadAnswer { life, read, answered } if life == self.host.lives => {
                let (_, asked) = self.reads.remove(&read).expect("answered once");
                if let Some(answered) = answered {
                    self.auditor.read_answered(&asked, &answered);
                }
            }
            Event::Crash { life, power } if life == self.host.lives => self.crash(power),
            Event::Start => self.start(),
            Event::Restore => self.restore(),
            // Of an earlier life.
            _ => {}
        }
    }

    /// Something of the host, if it is up.
    fn life(&mut self) -> Option<&mut Life> {
        self.host.life.as_mut()
    }

    fn send(&mut self, client: u64, request: Request) {
        self.next_request += 1;
        let id = self.next_request;
        let (part, message) = match request {
            Request::Append(partition, numbers) => {
                let sent = |n: &usize| self.auditor.sent(*n);
                let transactions = numbers.iter().map(sent).collect();
                self.note(format_args!("client {client} appends {numbers:?} to {partition}"));
                let token = Token(id);
                self.appends.insert(token, (client, numbers));
                let message = Message::Append { token, connection: client, transactions };
                (Part::Partition(partition), message)
            }
            Request::Read(read) => {
                self.note(format_args!("client {client} reads {:?}", read.what));
                self.reads.insert(id, (client, read));
                (Part::Pool, Message::Read(id))
            }
        };
        if self.host.life.is_none() {
            // Nobody listens: the connection is refused.
            self.lose_requests();
            return;
        }
        let from = End { host: CLIENT_HOST, part: Part::Client };
        self.post(from, part, message);
    }

    /// Sends a message to a part of the host.
    fn post(&mut self, from: End, part: Part, message: Message) {
        let to = End { host: self.host.number, part };
        let life = self.host.lives;
        let now = self.schedule.now_ns();
        match self.net.send(now, from, to, &mut self.dice) {
            Fate::At(at) => self.schedule.at(at, Event::Arrive { life, part, message }),
            Fate::Lost | Fate::Twice(..) => panic!("one host has good weather"),
        }
    }

    fn post_inside(&mut self, from: Part, part: Part, message: Message) {
        let from = End { host: self.host.number, part: from };
        self.post(from, part, message);
    }

    fn arrive(&mut self, part: Part, message: Message) {
        match (part, message) {
            (Part::Partition(p), Message::Append { token, connection, transactions }) => {
                self.partition(p, Input::Append { token, connection, transactions });
            }
            (Part::Partition(p), Message::FromWriter(message)) => {
                self.note(format_args!("partition {p} hears {message:?}"));
                self.partition(p, Input::Replica(message));
            }
            (Part::Partition(p), Message::Facts(fetch, facts)) => {
                self.partition(p, Input::Facts { fetch, facts });
            }
            (Part::Writer, Message::Proposal(proposal)) => {
                if let Some(life) = self.life() {
                    life.proposals_coming -= 1;
                }
                self.writer(WriterInput::Propose(proposal));
            }
            (Part::Writer, Message::WantSync) => self.writer(WriterInput::WantSync),
            (Part::Writer, Message::Flush) => {
                if let Some(life) = self.life() {
                    life.flushing = false;
                }
                self.writer(WriterInput::Flush);
            }
            (Part::Writer, Message::Tick) => {
                if let Some(life) = self.life() {
                    life.tick_ns = None;
                }
                self.writer(WriterInput::Tick);
            }
            (Part::Writer, Message::Done(done)) => self.writer(WriterInput::Done(done)),
            (Part::Writer, Message::Sealed(input)) => self.writer(input),
            (Part::Disk, Message::Work(work)) => self.work(&work),
            (Part::Pool, Message::Read(read)) => self.read(read),
            (Part::Pool, Message::Fetch(partition, fetch, keys)) => {
                let Some(life) = self.life() else { return };
                let found = facts(&life.reader, &[], partition, &keys);
                let found = found.map_err(|error| error.to_string());
                self.may_fail(found.as_ref().err());
                let message = Message::Facts(fetch, found);
                self.post_inside(Part::Pool, Part::Partition(partition), message);
            }
            (Part::Pool, Message::Seal(task)) => {
                let input = match task.run() {
                    Ok(index) => WriterInput::Sealed(index),
                    Err(_) => WriterInput::SealFailed(task),
                };
                self.note(format_args!("a seal ends: {}", sealed(&input)));
                self.post_inside(Part::Pool, Part::Writer, Message::Sealed(input));
            }
            _ => panic!("a message that went astray"),
        }
    }

    fn partition(&mut self, partition: PartitionId, input: Input) {
        let mut out = Vec::new();
        let now = self.schedule.now();
        let at = usize::from(partition.0);
        let Some(life) = self.life() else { return };
        life.sides[at].step(now, input, &mut out);
        let part = Part::Partition(partition);
        for output in out {
            match output {
                PartitionOutput::Fetch { fetch, keys } => {
                    self.post_inside(part, Part::Pool, Message::Fetch(partition, fetch, keys));
                }
                PartitionOutput::Propose(proposal) => {
                    if let Some(life) = self.life() {
                        life.proposals_coming += 1;
                    }
                    self.post_inside(part, Part::Writer, Message::Proposal(proposal));
                }
                PartitionOutput::WantSync => {
                    self.post_inside(part, Part::Writer, Message::WantSync);
                }
                PartitionOutput::Answer { token, results } => self.answer(token, results),
            }
        }
    }

    fn answer(&mut self, token: Token, results: Vec<AppendResult>) {
        let Some(life) = &self.host.life else { return };
        for appended in results.iter().flatten() {
            let next = life.reader.next_sequence(appended.partition);
            let visible = appended.last_sequence() < next;
            assert!(visible, "sequence {} is answered before it is visible", next);
        }
        let event = Event::Answer { life: self.host.lives, token, results };
        let delay = delay_ns(&mut self.dice);
        self.schedule.after(delay, event);
    }

    fn writer(&mut self, input: WriterInput) {
        let mut out = Vec::new();
        let now = self.schedule.now();
        let flushes = !matches!(input, WriterInput::Flush);
        if let WriterInput::Done(Done::Written { index, body, .. }) = &input {
            self.host.places.push((*index, *body));
        }
        let Some(life) = self.life() else { return };
        life.writer_side.step(now, input, &mut out);
        for output in out {
            match output {
                WriterOutput::Work(work) => {
                    self.post_inside(Part::Writer, Part::Disk, Message::Work(work));
                }
                WriterOutput::Seal(task) => {
                    self.post_inside(Part::Writer, Part::Pool, Message::Seal(task));
                }
                // Nobody can send an append before the partitions have heard that they lead.
                WriterOutput::ToPartition(partition, message @ FromReplica::Lead { .. }) => {
                    self.partition(partition, Input::Replica(message));
                }
                WriterOutput::ToPartition(partition, message) => {
                    let part = Part::Partition(partition);
                    self.post_inside(Part::Writer, part, Message::FromWriter(message));
                }
                WriterOutput::Closed(reason) => {
                    self.note(format_args!("the bucket closes: {reason}"));
                    if let Some(life) = self.life() {
                        life.closed = true;
                    }
                }
                WriterOutput::Stopped => {}
            }
        }
        self.rearm(flushes);
    }

    /// Flushes and ticks, as the actor does.
    fn rearm(&mut self, flushes: bool) {
        let now = self.schedule.now_ns();
        let life_number = self.host.lives;
        let Some(life) = self.host.life.as_mut() else { return };
        if flushes && life.proposals_coming == 0 && !life.flushing {
            life.flushing = true;
            let event =
                Event::Arrive { life: life_number, part: Part::Writer, message: Message::Flush };
            self.schedule.after(self.dice.below(5_000), event);
        }
        let Some(at) = life.writer_side.wake_at() else { return };
        if life.tick_ns.is_none_or(|before| at < before) {
            life.tick_ns = Some(at);
            let late = self.dice.below(1_000_000);
            let event =
                Event::Arrive { life: life_number, part: Part::Writer, message: Message::Tick };
            self.schedule.at(at.max(now) + late, event);
        }
    }

    fn work(&mut self, work: &Work) {
        let Some(life) = self.host.life.as_mut() else { return };
        let done = perform(&mut life.writer, work);
        let what = match work {
            Work::Allocate { body_bytes } => format!("allocates for {body_bytes} bytes"),
            Work::Write { entry, sync } => {
                format!("writes entry {} ({} bytes, sync {sync})", entry.index, entry.body.len())
            }
            Work::Sync => "syncs".into(),
            Work::SaveSlot { synced_index } => format!("saves slot {synced_index}"),
        };
        let ended = format!("{done:?}");
        let ended = ended.split([' ', '(', '{']).next().unwrap_or_default().to_owned();
        self.note(format_args!("the disk {what}: {ended}"));
        self.post_inside(Part::Disk, Part::Writer, Message::Done(done));
    }

    fn read(&mut self, id: u64) {
        let (Some(life), Some((_, read))) = (&self.host.life, self.reads.get(&id)) else { return };
        let answered = perform_read(&life.reader, read);
        let text = answered.as_ref().err().map(ToString::to_string);
        self.may_fail(text.as_ref());
        let answered = answered.ok();
        let event = Event::ReadAnswer { life: self.host.lives, read: id, answered };
        let delay = delay_ns(&mut self.dice);
        self.schedule.after(delay, event);
    }

    /// A read may fail while something is damaged or the disk has stopped, and only then.
    fn may_fail(&mut self, error: Option<&String>) {
        let Some(error) = error else { return };
        let excused = self.rot.is_some() || self.host.disk.has_stopped();
        assert!(excused, "a read failed: {error}");
        self.note(format_args!("a read fails: {error}"));
    }

    fn fault(&mut self, fault: Fault) {
        self.note(format_args!("fault: {fault:?}"));
        let disk = &self.host.disk;
        match fault {
            Fault::ProcessCrash => self.crash(false),
            Fault::PowerLoss => self.crash(true),
            Fault::StopAfter(n) => disk.stop_after(n),
            Fault::FailSync(n) => disk.fail_sync_after(n),
            Fault::FailWrite(n) => disk.fail_write_after(n, std::io::ErrorKind::StorageFull),
            Fault::Full(more) => disk.set_capacity(Some(disk.used_bytes() + more)),
            Fault::Space => disk.set_capacity(None),
            Fault::ClockJump(ns) => self.schedule.jump(ns),
            Fault::Rot => self.rot(),
        }
        if matches!(fault, Fault::Full(_)) {
            // Somebody frees space, sooner or later: appends may wait for it without an answer.
            let later = self.dice.below(100 * self.think_ns);
            self.schedule.after(later, Event::Restore);
        }
    }

    fn rot(&mut self) {
        if self.rot.is_some() {
            return;
        }
        // Each entry says up to where the log was durable when it was begun.
        let proven = self.host.places.len().saturating_sub(3);
        let proven = &self.host.places[..proven];
        self.rot = faults::rot(&self.host.disk, proven, &mut self.dice);
        let Some(rot) = &self.rot else { return };
        self.rotten += 1;
        self.host.calm.set(false);
        let what = format!("{} at {}", rot.path.display(), rot.offset);
        self.note(format_args!("{what} rots"));
        let later = self.dice.below(100 * self.think_ns);
        self.schedule.after(later, Event::Restore);
        if self.dice.one_in(2) {
            let event = Event::Crash { life: self.host.lives, power: self.dice.one_in(2) };
            self.schedule.after(later / 2, event);
        }
    }

    /// An operator puts back what rotted and frees space.
    fn restore(&mut self) {
        self.host.disk.set_capacity(None);
        if let Some(rot) = self.rot.take() {
            rot.restore(&self.host.disk);
            self.host.calm.set(true);
            self.note(format_args!("what rotted is put back"));
        }
    }

    /// A host whose disk stopped or whose bucket closed is restarted, sooner or later.
    fn look_after_the_host(&mut self) {
        let closed = self.host.life.as_ref().is_some_and(|life| life.closed);
        if self.host.life.is_some() && (closed || self.host.disk.has_stopped()) {
            let event = Event::Crash { life: self.host.lives, power: self.dice.one_in(2) };
            let later = self.dice.below(20 * self.think_ns);
            self.schedule.after(later, event);
        }
    }

    fn lose_requests(&mut self) {
        for (_, (_, numbers)) in std::mem::take(&mut self.appends) {
            for number in numbers {
                self.auditor.lost(number);
            }
        }
        self.reads.clear();
    }

    fn crash(&mut self, power: bool) {
        self.crashes += 1;
        self.note(format_args!("{}", if power { "power loss" } else { "process crash" }));
        let was_up = self.host.life.is_some();
        self.host.crash(power, &mut self.dice);
        self.lose_requests();
        if power && self.host.fsync != FsyncMode::Always {
            self.auditor.power_lost();
            self.taken_back = true;
        }
        // While it is down a start is on its way already.
        if was_up {
            let later = delay_ns(&mut self.dice);
            self.schedule.after(later, Event::Start);
        }
    }

    fn start(&mut self) {
        if self.host.life.is_some() {
            return;
        }
        if self.fault_one_in > 0 && self.dice.one_in(5) {
            // It may die again in the middle of its recovery.
            self.host.disk.stop_after(self.dice.below(30));
        }
        let failed_before = self.host.disk.injected_failures();
        match self.host.open(&mut self.dice) {
            Ok(()) => {
                let life = self.host.life.as_ref().expect("it has opened");
                let reader = life.reader.clone();
                if self.taken_back {
                    self.auditor.take_back(&reader);
                    self.taken_back = false;
                }
                self.auditor.opened(&reader);
                let ends: Vec<u64> = PARTITIONS.map(|p| reader.next_sequence(p)).to_vec();
                self.note(format_args!("the bucket opens, next sequences {ends:?}"));
                self.writer(WriterInput::Start);
            }
            Err(error) => {
                self.note(format_args!("the bucket does not open: {error}"));
                let failed = self.host.disk.injected_failures() > failed_before;
                if failed || self.host.disk.has_stopped() {
                    let power = self.dice.one_in(2);
                    self.crash(power);
                } else {
                    // A full disk keeps a database from being made, and from nothing else.
                    let unmade = self.host.disk.contents(Path::new("/db/meta")).is_none();
                    let excused = self.rot.is_some() || unmade;
                    assert!(excused, "the bucket does not open: {error}");
                    // The operator looks.
                    self.restore();
                    self.host.crash(false, &mut self.dice);
                }
                let later = delay_ns(&mut self.dice);
                self.schedule.after(later, Event::Start);
            }
        }
    }
}

fn sealed(input: &WriterInput) -> &'static str {
    if matches!(input, WriterInput::Sealed(_)) { "written" } else { "failed" }
}

fn told(result: &AppendResult) -> String {
    match result {
        Ok(appended) => format!("with sequence {}", appended.first_sequence),
        Err(error) => error.to_string(),
    }
}

fn perform_read(reader: &Reader, read: &Read) -> Result<Answered, ReadError> {
    let partition = read.partition;
    Ok(match &read.what {
        Asked::Event(id, _) => {
            let events = reader.get(*id)?.into_iter().collect();
            Answered::Page(Page { events, has_more: false })
        }
        Asked::Stream(stream, scan) => {
            Answered::Page(reader.read_stream(stream.as_str(), partition, *scan)?)
        }
        Asked::Partition(scan) => Answered::Page(reader.read_partition(partition, *scan)?),
        Asked::Version(stream) => {
            let head = reader.stream_head(stream.as_str(), partition)?;
            Answered::Number(head.map(|head| head.version))
        }
        Asked::Sequence => Answered::Number(reader.next_sequence(partition).checked_sub(1)),
    })
}
