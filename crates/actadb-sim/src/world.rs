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

use crate::auditor::{Answered, Asked, Auditor, Read};
use crate::clients::{self, CLIENTS, Request};
use crate::cluster::{FIRST_ELECTION_NS, PATIENCE_NS};
use crate::faults::{self, Fault};
use crate::host::{Host, Life, PARTITIONS};
use crate::net::{End, Part, SimNet, delay_ns};
use crate::schedule::Schedule;
use crate::subscribers::{PushTimes, Subscriber, SubscriberEvent};
use crate::trace::Trace;
use crate::wiring::Message;

/// The host of all clients.
const CLIENT_HOST: u8 = 255;
/// Appends that must succeed when all faults have ended.
const LAST_APPENDS: u64 = 20;
/// See [`World::events_max`].
const EVENTS_PER_HOST_MAX: u64 = 300_000;
/// Requests of one client on their way at once.
const OUTSTANDING_MAX: usize = 6;
/// How long a client with so many waits before it looks again, in nanoseconds.
const WAIT_NS: u64 = 2_000_000;

pub(crate) enum Event {
    /// A client does something.
    Client(u64),
    /// A message arrives, if the life of the host that it belongs to goes on.
    Arrive { to: End, life: u64, message: Box<Message> },
    /// An answer arrives at a client.
    Answer { host: u8, life: u64, token: Token, results: Vec<AppendResult> },
    /// The answer of a read arrives; `None` when it failed.
    ReadAnswer { host: u8, life: u64, read: u64, answered: Option<Answered> },
    /// A host dies, if it has not died since.
    Crash { host: u8, life: u64, power: bool },
    /// A client waits no longer for an answer.
    GiveUp(Token),
    /// And for that of a read.
    GiveUpRead(u64),
    /// The network is mended.
    Heal,
    /// A host starts.
    Start(u8),
    /// An operator puts back what rotted on a host, and frees space.
    Restore(u8),
    /// Something happens to a subscriber.
    Subscriber { number: usize, generation: u64, what: SubscriberEvent },
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
    /// Events that subscribers were sent.
    pub deliveries: u64,
    /// Times the host died.
    pub crashes: u64,
    /// Pieces of files that rotted.
    pub rotten: u64,
}

/// A request on its way.
pub(crate) struct Pending<T> {
    client: u64,
    host: u8,
    pub(crate) what: T,
}

pub(crate) struct World {
    pub(crate) dice: SplitMix64,
    pub(crate) schedule: Schedule<Event>,
    pub(crate) net: SimNet,
    pub(crate) hosts: Vec<Host>,
    pub(crate) auditor: Auditor,
    trace: Trace,
    pub(crate) appends: BTreeMap<Token, Pending<Vec<usize>>>,
    pub(crate) reads: BTreeMap<u64, Pending<Read>>,
    /// For all that subscribers draw.
    pub(crate) subscriber_dice: SplitMix64,
    pub(crate) subscribers: Vec<Subscriber>,
    pub(crate) push_times: PushTimes,
    pub(crate) deliveries: u64,
    next_request: u64,
    operations: u64,
    operations_max: u64,
    /// One fault in so many requests; 0 when the faults have ended.
    pub(crate) fault_one_in: u64,
    /// Faults are mostly about space.
    tight: bool,
    /// How many milliseconds more some work of the pool takes.
    pub(crate) pool_slowness: u64,
    payload_max: u64,
    pub(crate) think_ns: u64,
    crashes: u64,
    rotten: u64,
}

/// Runs one world to its end and audits it.
///
/// # Panics
/// When a rule does not hold; the message says which.
#[must_use]
pub fn run(seed: u64, operations: u64, hosts: u8, trace: Trace) -> Outcome {
    let mut world = World::new(seed, operations, hosts, trace);
    world.live();
    world.end();
    Outcome {
        operations: world.operations,
        acknowledged: world.auditor.acknowledged(),
        reads: world.auditor.reads(),
        deliveries: world.deliveries,
        crashes: world.crashes,
        rotten: world.rotten,
        trace: world.trace.kept(),
    }
}

impl World {
    fn new(seed: u64, operations_max: u64, hosts: u8, trace: Trace) -> Self {
        let mut dice = SplitMix64::new(seed);
        let fsync = match dice.below(5) {
            0 => FsyncMode::Interval(50_000_000),
            1 => FsyncMode::Never,
            _ => FsyncMode::Always,
        };
        let payload_max = [30, 400, 1500][dice.below(3) as usize];
        let think_ns = [20_000, 300_000, 3_000_000, 30_000_000, 60_000_000][dice.below(5) as usize];
        let fault_one_in = [15, 40, 100][dice.below(3) as usize];
        let tight = dice.one_in(4);
        // What is short of space is tried again after a second: such a world must last, and
        // look-ups that outlive a refusal are what it is for.
        let (think_ns, pool_slowness) = match tight {
            true => (30_000_000, 2_000),
            false => (think_ns, [0, 2, 200][dice.below(3) as usize]),
        };
        // Where several vote nothing commits before the disk, and elections take their time.
        let cluster = hosts > 1;
        let fsync = if cluster { FsyncMode::Always } else { fsync };
        let think_ns = if cluster { think_ns.max(3_000_000) } else { think_ns };
        let mut world = Self {
            dice,
            schedule: Schedule::default(),
            net: SimNet::default(),
            hosts: (0..hosts).map(|number| Host::new(number, hosts, fsync)).collect(),
            auditor: Auditor::default(),
            trace,
            appends: BTreeMap::new(),
            reads: BTreeMap::new(),
            subscriber_dice: SplitMix64::new(seed ^ 0x5ab5_c21b),
            subscribers: Vec::new(),
            push_times: PushTimes::new(),
            deliveries: 0,
            next_request: 0,
            operations: 0,
            operations_max,
            fault_one_in,
            tight,
            pool_slowness,
            payload_max,
            think_ns,
            crashes: 0,
            rotten: 0,
        };
        world.note(format_args!(
            "seed {seed}: {hosts} hosts, fsync {fsync:?}, payloads to {payload_max} bytes, a \
             request every {think_ns} ns of each of {CLIENTS} clients, one fault in \
             {fault_one_in}, tight {tight}, pool slower by {pool_slowness} ms"
        ));
        for host in &world.hosts {
            world.schedule.after(0, Event::Start(host.number));
        }
        let begin = if cluster { FIRST_ELECTION_NS } else { 0 };
        for client in 0..CLIENTS {
            world.schedule.after(begin + client, Event::Client(client));
        }
        world.add_subscribers();
        world
    }

    pub(crate) fn note(&mut self, what: std::fmt::Arguments<'_>) {
        self.trace.note(self.schedule.now_ns(), what);
    }

    /// Runs until the clients have done what they were to do.
    fn live(&mut self) {
        let mut left = self.events_max();
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
        self.note(format_args!("faults end"));
        self.net.heal();
        for host in self.numbers() {
            let host_mut = self.host_mut(host);
            (host_mut.paused_until_ns, host_mut.disk_hangs_until_ns) = (0, 0);
            self.restore(host);
            self.crash(host, false);
        }
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
        self.audit_copies();
        for host in self.hosts.iter().filter(|host| !host.is_gone) {
            let life = host.life.as_ref().expect("it was audited");
            let report = check_bucket(&life.directory, BucketId(0));
            let report = report.unwrap_or_else(|error| panic!("the check: {error}"));
            assert!(report.is_sound(), "the check found {report:?}");
        }
    }

    /// No world needs more events, nor for what is left when the faults have ended.
    fn events_max(&self) -> u64 {
        let hosts = self.hosts.len() as u64;
        EVENTS_PER_HOST_MAX * hosts * hosts
    }

    /// Numbers of the hosts.
    fn numbers(&self) -> std::ops::Range<u8> {
        0..self.hosts.len() as u8
    }

    /// Runs until all hosts are up and nobody waits.
    fn settle(&mut self) {
        for _ in 0..self.events_max() {
            let up = self.hosts.iter().all(|host| host.is_gone || host.life.is_some());
            let idle = self.appends.is_empty() && self.reads.is_empty();
            let settled = up && idle && self.has_converged();
            if settled && self.subscribers_are_settled() {
                return;
            }
            let event = self.schedule.pop().expect("somebody waits, and nothing will happen");
            if !matches!(event, Event::Client(_)) {
                self.event(event);
            }
        }
        let stats =
            self.hosts.iter().filter_map(|host| Some(host.life.as_ref()?.writer_side.stats()));
        panic!("somebody waits for ever: {:?}", stats.collect::<Vec<_>>());
    }

    fn audit(&mut self) {
        for host in self.hosts.iter().filter(|host| !host.is_gone) {
            let life = host.life.as_ref().expect("up");
            self.auditor.audit(&life.reader, &PARTITIONS);
            self.audit_subscribers(&life.reader);
        }
        self.note(format_args!("audited"));
    }

    fn event(&mut self, event: Event) {
        match event {
            Event::Client(client) => {
                for host in self.numbers() {
                    self.look_after(host);
                }
                let think = self.dice.below(2 * self.think_ns);
                let appends = self.appends.values().filter(|p| p.client == client).count();
                let reads = self.reads.values().filter(|p| p.client == client).count();
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
                    if self.is_cluster() && self.dice.one_in(2) {
                        self.net_fault();
                        return;
                    }
                    let host = self.dice.below(self.hosts.len() as u64) as u8;
                    let fault = faults::draw(&mut self.dice, self.tight);
                    self.fault(host, fault);
                }
            }
            Event::Arrive { to, life, message } if life == self.host(to.host).lives => {
                let paused = self.host(to.host).paused_until_ns;
                let (now, hangs) = (self.schedule.now_ns(), self.host(to.host).disk_hangs_until_ns);
                // What hangs is done when the disk goes on, or has been and nobody hears of it.
                let waits = match to.part {
                    Part::Disk => hangs > now && self.dice.one_in(2),
                    Part::Pool => true,
                    _ => false,
                };
                let paused = if waits { paused.max(hangs) } else { paused };
                if paused > now {
                    self.schedule.at(paused, Event::Arrive { to, life, message });
                    return;
                }
                self.arrive(to, *message);
            }
            Event::GiveUp(token) => {
                if let Some(pending) = self.appends.remove(&token) {
                    self.note(format_args!("operations {:?} are given up", pending.what));
                    pending.what.into_iter().for_each(|number| self.auditor.lost(number));
                }
            }
            Event::GiveUpRead(read) => drop(self.reads.remove(&read)),
            Event::Heal => self.net.heal(),
            Event::Answer { host, life, token, results } if life == self.host(host).lives => {
                let pending = self.appends.remove(&token);
                // Who was given up may answer yet.
                assert!(pending.is_some() || self.is_cluster(), "answered once");
                let Some(Pending { what: numbers, .. }) = pending else { return };
                assert_eq!(numbers.len(), results.len(), "one result per transaction");
                let durable = self.host(host).fsync == FsyncMode::Always;
                for (number, result) in numbers.into_iter().zip(results) {
                    self.note(format_args!("operation {number} is answered {}", told(&result)));
                    self.auditor.answered(number, result, durable);
                }
            }
            Event::ReadAnswer { host, life, read, answered } if life == self.host(host).lives => {
                let pending = self.reads.remove(&read);
                assert!(pending.is_some() || self.is_cluster(), "answered once");
                let Some(Pending { what: asked, .. }) = pending else { return };
                if let Some(answered) = answered {
                    self.auditor.read_answered(&asked, &answered);
                }
            }
            Event::Crash { host, life, power } if life == self.host(host).lives => {
                self.crash(host, power);
            }
            Event::Start(host) => self.start(host),
            Event::Restore(host) => self.restore(host),
            Event::Subscriber { number, generation, what } => {
                self.subscriber(number, generation, what);
            }
            // Of an earlier life.
            _ => {}
        }
    }

    pub(crate) fn host(&self, number: u8) -> &Host {
        &self.hosts[usize::from(number)]
    }

    pub(crate) fn host_mut(&mut self, number: u8) -> &mut Host {
        &mut self.hosts[usize::from(number)]
    }

    /// The open bucket of a host, if it is up.
    pub(crate) fn life(&mut self, number: u8) -> Option<&mut Life> {
        self.host_mut(number).life.as_mut()
    }

    fn send(&mut self, client: u64, request: Request) {
        self.next_request += 1;
        let id = self.next_request;
        let host = self.draw_host();
        let (part, message) = match request {
            Request::Append(partition, numbers) => {
                let sent = |n: &usize| self.auditor.sent(*n);
                let transactions = numbers.iter().map(sent).collect();
                self.note(format_args!("client {client} appends {numbers:?} to {partition}"));
                let token = Token(id);
                self.appends.insert(token, Pending { client, host, what: numbers });
                // When all is well everybody is answered.
                if self.is_cluster() && self.fault_one_in > 0 {
                    self.schedule.after(PATIENCE_NS, Event::GiveUp(token));
                }
                let message = Message::Append { token, connection: client, transactions };
                (Part::Partition(partition), message)
            }
            Request::Read(read) => {
                // What was acknowledged by one host may not be known to another yet; what asks for
                // the latest must know it.
                let latest = matches!(read.what, Asked::Version(_) | Asked::Sequence);
                let asks = self.is_cluster() && latest;
                let read = if self.is_cluster() && !latest { read.without_floor() } else { read };
                if self.is_cluster() && self.fault_one_in > 0 {
                    self.schedule.after(PATIENCE_NS, Event::GiveUpRead(id));
                }
                self.note(format_args!("client {client} reads {:?}", read.what));
                self.reads.insert(id, Pending { client, host, what: read });
                match asks {
                    true => (Part::Writer, Message::ReadIndex(id)),
                    false => (Part::Pool, Message::Read(id)),
                }
            }
        };
        if self.host(host).life.is_none() {
            // Nobody listens: the connection is refused.
            self.lose_requests(host);
            return;
        }
        let from = End { host: CLIENT_HOST, part: Part::Client };
        self.post(from, End { host, part }, message);
    }

    fn fault(&mut self, host: u8, fault: Fault) {
        self.note(format_args!("fault on host {host}: {fault:?}"));
        let disk = &self.host(host).disk;
        match fault {
            Fault::ProcessCrash => self.crash(host, false),
            Fault::PowerLoss => self.crash(host, true),
            Fault::StopAfter(n) => disk.stop_after(n),
            Fault::FailSync(n) => disk.fail_sync_after(n),
            Fault::FailWrite(n) => disk.fail_write_after(n, std::io::ErrorKind::StorageFull),
            Fault::Full(more) => disk.set_capacity(Some(disk.used_bytes() + more)),
            Fault::Space => disk.set_capacity(None),
            Fault::ClockJump(ns) => self.schedule.jump(ns),
            Fault::Rot => self.rot(host),
        }
        if matches!(fault, Fault::Full(_)) {
            // Somebody frees space, sooner or later: appends may wait for it without an answer.
            let patience = if self.tight { 10 } else { 100 };
            let later = self.dice.below(patience * self.think_ns);
            self.schedule.after(later, Event::Restore(host));
        }
    }

    fn rot(&mut self, number: u8) {
        let World { hosts, dice, .. } = self;
        let host = &mut hosts[usize::from(number)];
        if host.rot.is_some() || !host.decay(dice) {
            return;
        }
        self.rotten += 1;
        let rot = self.host(number).rot.as_ref();
        let what = rot.map(|rot| format!("{} at {}", rot.path.display(), rot.offset));
        self.note(format_args!("{} rots", what.unwrap_or_default()));
        let later = self.dice.below(100 * self.think_ns);
        self.schedule.after(later, Event::Restore(number));
        if self.dice.one_in(2) {
            let (host, life, power) = (number, self.host(number).lives, self.dice.one_in(2));
            self.schedule.after(later / 2, Event::Crash { host, life, power });
        }
    }

    /// An operator puts back what rotted and frees space.
    fn restore(&mut self, host: u8) {
        if self.host_mut(host).restore() {
            self.note(format_args!("what rotted is put back"));
        }
    }

    /// A host whose disk stopped or whose bucket closed is restarted, sooner or later.
    fn look_after(&mut self, number: u8) {
        let host = self.host(number);
        let stuck = |life: &Life| life.closed || host.disk.has_stopped();
        if host.life.as_ref().is_some_and(stuck) {
            let (host, life) = (number, host.lives);
            let power = self.dice.one_in(2);
            let later = self.dice.below(20 * self.think_ns);
            self.schedule.after(later, Event::Crash { host, life, power });
        }
    }

    /// What was sent to a host is never answered.
    fn lose_requests(&mut self, host: u8) {
        let lost = self.appends.extract_if(.., |_, pending| pending.host == host);
        for number in lost.flat_map(|(_, pending)| pending.what) {
            self.auditor.lost(number);
        }
        self.reads.retain(|_, pending| pending.host != host);
    }

    pub(crate) fn crash(&mut self, number: u8, power: bool) {
        self.crashes += 1;
        let what = if power { "power loss" } else { "process crash" };
        self.note(format_args!("host {number}: {what}"));
        let World { hosts, dice, auditor, .. } = self;
        let host = &mut hosts[usize::from(number)];
        let was_up = host.life.is_some();
        host.crash(power, dice);
        if power && host.fsync != FsyncMode::Always {
            auditor.power_lost();
            host.taken_back = true;
        }
        self.lose_requests(number);
        self.lose_subscriptions(number);
        // While it is down a start is on its way already.
        if was_up {
            let later = delay_ns(&mut self.dice);
            self.schedule.after(later, Event::Start(number));
        }
    }

    fn start(&mut self, number: u8) {
        if self.host(number).life.is_some() {
            return;
        }
        let hangs = self.host(number).disk_hangs_until_ns;
        if hangs > self.schedule.now_ns() {
            self.schedule.at(hangs, Event::Start(number));
            return;
        }
        if self.is_cluster() && !self.is_let_in(self.host(number)) {
            self.note(format_args!("host {number} is not let in"));
            self.host_mut(number).is_gone = true;
            return;
        }
        let World { hosts, dice, auditor, .. } = self;
        let host = &mut hosts[usize::from(number)];
        if self.fault_one_in > 0 && dice.one_in(5) {
            // It may die again in the middle of its recovery.
            host.disk.stop_after(dice.below(30));
        }
        let failed_before = host.disk.injected_failures();
        let error = match host.open(dice) {
            Ok(reader) => {
                let taken_back = std::mem::take(&mut host.taken_back);
                if taken_back {
                    auditor.take_back(&reader);
                }
                let alone = hosts.len() == 1;
                if alone {
                    auditor.opened(&reader);
                }
                if taken_back {
                    self.forget_subscribers();
                }
                let ends = PARTITIONS.map(|p| reader.next_sequence(p));
                self.note(format_args!(
                    "the bucket of host {number} opens, next sequences {ends:?}"
                ));
                self.writer(number, WriterInput::Start);
                return;
            }
            Err(error) => error,
        };
        let failed = host.disk.injected_failures() > failed_before;
        // A full disk keeps a database from being made, and from nothing else.
        let unmade = host.disk.contents(Path::new("/db/meta")).is_none() && error.is_no_room();
        let (stopped, rotten) = (host.disk.has_stopped(), host.rot.is_some());
        self.note(format_args!("the bucket does not open: {error}"));
        if failed || stopped {
            let power = self.dice.one_in(2);
            self.crash(number, power);
        } else {
            assert!(rotten || unmade, "the bucket does not open: {error}");
            // The operator looks.
            self.restore(number);
            self.crash(number, false);
        }
        let later = delay_ns(&mut self.dice);
        self.schedule.after(later, Event::Start(number));
    }
}

fn told(result: &AppendResult) -> String {
    match result {
        Ok(appended) => format!("with sequence {}", appended.first_sequence),
        Err(error) => error.to_string(),
    }
}
