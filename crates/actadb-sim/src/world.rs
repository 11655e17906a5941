//! One world: a host, its clients and its faults on virtual time, all drawn from one seed.

use std::collections::BTreeMap;
use std::path::Path;

use actadb_bucket::writer_side::WriterInput;
use actadb_model::dice::SplitMix64;
use actadb_model::ids::BucketId;
use actadb_model::outcome::AppendResult;
use actadb_partition::message::Token;
use actadb_replica::message::FsyncMode;
use actadb_store::check::check_bucket;

use crate::auditor::{Answered, Auditor, Read};
use crate::clients::{self, CLIENTS, Request};
use crate::faults::{self, Fault, Rot};
use crate::host::{Host, Life, PARTITIONS};
use crate::net::{End, Part, SimNet, delay_ns};
use crate::schedule::Schedule;
use crate::trace::Trace;
use crate::wiring::Message;

/// The host of all clients.
const CLIENT_HOST: u8 = 255;
/// Appends that must succeed when all faults have ended.
const LAST_APPENDS: u64 = 20;
/// No world needs more events, nor for what is left when the faults have ended.
const LAST_EVENTS: u64 = 300_000;
/// Requests of one client on their way at once.
const OUTSTANDING_MAX: usize = 6;
/// How long a client with so many waits before it looks again, in nanoseconds.
const WAIT_NS: u64 = 2_000_000;

pub(crate) enum Event {
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

pub(crate) struct World {
    pub(crate) dice: SplitMix64,
    pub(crate) schedule: Schedule<Event>,
    pub(crate) net: SimNet,
    pub(crate) host: Host,
    pub(crate) auditor: Auditor,
    trace: Trace,
    pub(crate) appends: BTreeMap<Token, (u64, Vec<usize>)>,
    pub(crate) reads: BTreeMap<u64, (u64, Read)>,
    pub(crate) rot: Option<Rot>,
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

    pub(crate) fn note(&mut self, what: std::fmt::Arguments<'_>) {
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
                self.look_after_the_host();
                let think = self.dice.below(2 * self.think_ns);
                let appends = self.appends.values().filter(|(of, _)| *of == client).count();
                let reads = self.reads.values().filter(|(of, _)| *of == client).count();
                if appends + reads >= OUTSTANDING_MAX {
                    // It looks again later.
                    self.schedule.after(think + WAIT_NS, Event::Client(client));
                    return;
                }
                self.schedule.after(think, Event::Client(client));
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
    pub(crate) fn life(&mut self) -> Option<&mut Life> {
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
                    let unmade = self.host.disk.contents(Path::new("/db/meta")).is_none()
                        && error.is_no_room();
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

fn told(result: &AppendResult) -> String {
    match result {
        Ok(appended) => format!("with sequence {}", appended.first_sequence),
        Err(error) => error.to_string(),
    }
}
