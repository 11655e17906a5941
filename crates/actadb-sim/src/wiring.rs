//! How the parts of a host hear from each other: what the actors and channels of the server do,
//! on virtual time.

use actadb_bucket::job::{Done, perform};
use actadb_bucket::partition_side::PartitionOutput;
use actadb_bucket::writer_side::{WriterInput, WriterOutput};
use actadb_model::entry::Proposal;
use actadb_model::ids::PartitionId;
use actadb_model::keys::{Facts, Keys};
use actadb_model::outcome::AppendResult;
use actadb_model::probe::{Mistake, made};
use actadb_model::transaction::Transaction;
use actadb_partition::message::{FetchId, FromReplica, Input, Token};
use actadb_replica::message::Work;
use actadb_replica::peer::PeerMessage;
use actadb_store::error::ReadError;
use actadb_store::facts::facts;
use actadb_store::publisher::SealTask;
use actadb_store::reader::{Page, Reader};
use bytes::Bytes;

use crate::auditor::{Answered, Asked, Read};
use crate::net::{End, Fate, Part, delay_ns};
use crate::world::{Event, World};

/// One message in so many to a writer's actor is read late.
const STARVES_ONE_IN: u64 = 400;
/// So late at the most, in nanoseconds.
const STARVES_NS: u64 = 3_000_000_000;

/// What arrives at a part of a host.
pub(crate) enum Message {
    Append {
        token: Token,
        connection: u64,
        transactions: Vec<Transaction>,
    },
    Read(u64),
    /// A read that must see all that was committed when it was sent.
    ReadIndex(u64),
    Proposal(Proposal),
    FromWriter(FromReplica),
    Fetch(PartitionId, FetchId, Keys),
    Facts(FetchId, Result<Facts, String>),
    WantSync,
    Confirm(PartitionId, u64),
    Flush,
    Tick,
    /// From another host, as bytes.
    Peer(Bytes),
    /// Old entries to read.
    FetchEntries(u64, u64),
    Work(Work),
    Done(Done),
    Seal(SealTask),
    FromPool(WriterInput),
}

impl World {
    /// Sends a message to a part of a host.
    pub(crate) fn post(&mut self, from: End, to: End, message: Message) {
        let life = self.host(to.host).lives;
        let now = self.schedule.now_ns();
        // Long enough for the lead to go and to come back meanwhile.
        let starves = self.is_cluster()
            && self.fault_one_in > 0
            && from.host == to.host
            && to.part == Part::Writer
            && self.dice.one_in(STARVES_ONE_IN);
        let fate = match starves {
            true => self.net.starve(now, from, to, self.dice.below(STARVES_NS)),
            false => self.net.send(now, from, to, &mut self.dice),
        };
        match fate {
            Fate::At(at) => self.arrives_at(at, to, life, message),
            Fate::Lost => {}
            Fate::Twice(first, second) => {
                if let Message::Peer(bytes) = &message {
                    self.arrives_at(second, to, life, Message::Peer(bytes.clone()));
                }
                self.arrives_at(first, to, life, message);
            }
        }
    }

    fn arrives_at(&mut self, at: u64, to: End, life: u64, message: Message) {
        self.schedule.at(at, Event::Arrive { to, life, message: Box::new(message) });
    }

    fn post_inside(&mut self, host: u8, from: Part, to: Part, message: Message) {
        self.post(End { host, part: from }, End { host, part: to }, message);
    }

    /// To and from the pool, whose threads overtake each other, some by far.
    fn pool(&mut self, host: u8, part: Part, message: Message) {
        let slow = if self.dice.one_in(4) { self.pool_slowness } else { 0 };
        let delay = delay_ns(&mut self.dice) + self.dice.below(slow * 1_000_000);
        let (to, life) = (End { host, part }, self.host(host).lives);
        self.schedule.after(delay, Event::Arrive { to, life, message: Box::new(message) });
    }

    pub(crate) fn post_fetched(&mut self, host: u8, input: WriterInput) {
        self.pool(host, Part::Writer, Message::FromPool(input));
    }

    pub(crate) fn arrive(&mut self, to: End, message: Message) {
        let host = to.host;
        match (to.part, message) {
            (Part::Partition(p), Message::Append { token, connection, transactions }) => {
                self.partition(host, p, Input::Append { token, connection, transactions });
            }
            (Part::Partition(p), Message::FromWriter(message)) => {
                self.note(format_args!("partition {p} hears {message:?}"));
                self.partition(host, p, Input::Replica(message));
            }
            (Part::Partition(p), Message::Facts(fetch, facts)) => {
                self.partition(host, p, Input::Facts { fetch, facts });
            }
            (Part::Writer, Message::Proposal(proposal)) => {
                if let Some(life) = self.life(host) {
                    life.proposals_coming -= 1;
                }
                self.writer(host, WriterInput::Propose(proposal));
            }
            (Part::Writer, Message::Confirm(partition, number)) => {
                self.writer(host, WriterInput::Confirm(partition, number));
            }
            (Part::Writer, Message::ReadIndex(read)) => {
                if made(Mistake::ReadNotConfirmed) {
                    self.pool(host, Part::Pool, Message::Read(read));
                } else {
                    self.writer(host, WriterInput::Read(read));
                }
            }
            (Part::Writer, Message::WantSync) => self.writer(host, WriterInput::WantSync),
            (Part::Writer, Message::Flush) => {
                if let Some(life) = self.life(host) {
                    life.flushing = false;
                }
                self.writer(host, WriterInput::Flush);
            }
            (Part::Writer, Message::Tick) => {
                if let Some(life) = self.life(host) {
                    life.tick_ns = None;
                }
                self.writer(host, WriterInput::Tick);
            }
            (Part::Writer, Message::Peer(bytes)) => {
                let peer = PeerMessage::decode(bytes).expect("nothing changes bytes on their way");
                self.note(format_args!("host {host} hears {}", told(&peer)));
                self.writer(host, WriterInput::Peer(peer));
            }
            (Part::Pool, Message::FetchEntries(first, end)) => self.fetch_entries(host, first, end),
            (Part::Writer, Message::Done(done)) => self.writer(host, WriterInput::Done(done)),
            (Part::Writer, Message::FromPool(input)) => self.writer(host, input),
            (Part::Disk, Message::Work(work)) => self.work(host, &work),
            (Part::Pool, Message::Read(read)) => self.read(host, read),
            (Part::Pool, Message::Fetch(partition, fetch, keys)) => {
                let Some(life) = self.life(host) else { return };
                let found = facts(&life.reader, &[], partition, &keys);
                let found = found.map_err(|error| error.to_string());
                self.may_fail(host, found.as_ref().err());
                let message = Message::Facts(fetch, found);
                self.pool(host, Part::Partition(partition), message);
            }
            (Part::Pool, Message::Seal(task)) => {
                let input = match task.run() {
                    Ok(index) => {
                        // A filter that fails costs nobody anything.
                        let _ = task.extend_filters();
                        WriterInput::Sealed(index)
                    }
                    Err(error) => WriterInput::SealFailed { task, no_room: error.is_no_room() },
                };
                self.note(format_args!("a seal ends: {}", sealed(&input)));
                self.pool(host, Part::Writer, Message::FromPool(input));
            }
            _ => panic!("a message that went astray"),
        }
    }

    pub(crate) fn partition(&mut self, host: u8, partition: PartitionId, input: Input) {
        let mut out = Vec::new();
        let now = self.schedule.now();
        let at = usize::from(partition.0);
        let Some(life) = self.life(host) else { return };
        life.sides[at].step(now, input, &mut out);
        let part = Part::Partition(partition);
        for output in out {
            match output {
                PartitionOutput::Fetch { fetch, keys } => {
                    self.pool(host, Part::Pool, Message::Fetch(partition, fetch, keys));
                }
                PartitionOutput::Propose(proposal) => {
                    if let Some(life) = self.life(host) {
                        life.proposals_coming += 1;
                    }
                    self.post_inside(host, part, Part::Writer, Message::Proposal(proposal));
                }
                PartitionOutput::WantSync => {
                    self.post_inside(host, part, Part::Writer, Message::WantSync);
                }
                PartitionOutput::Confirm(number) => {
                    let message = Message::Confirm(partition, number);
                    self.post_inside(host, part, Part::Writer, message);
                }
                PartitionOutput::Answer { token, results } => self.answer(host, token, results),
            }
        }
    }

    pub(crate) fn answer(&mut self, host: u8, token: Token, results: Vec<AppendResult>) {
        let Some(life) = &self.host(host).life else { return };
        for appended in results.iter().flatten() {
            let next = life.reader.next_sequence(appended.partition);
            let visible = appended.last_sequence() < next;
            assert!(visible, "sequence {} is answered before it is visible", next);
        }
        let event = Event::Answer { host, life: self.host(host).lives, token, results };
        let delay = delay_ns(&mut self.dice);
        self.schedule.after(delay, event);
    }

    pub(crate) fn writer(&mut self, host: u8, input: WriterInput) {
        let mut out = Vec::new();
        let now = self.schedule.now();
        let flushes = !matches!(input, WriterInput::Flush);
        let Some(life) = self.life(host) else { return };
        life.writer_side.step(now, input, &mut out);
        for output in out {
            match output {
                WriterOutput::Work(work) => {
                    self.post_inside(host, Part::Writer, Part::Disk, Message::Work(work));
                }
                WriterOutput::Send(message) => self.send_to_peer(host, &message),
                WriterOutput::Fetch { first, end } => {
                    self.pool(host, Part::Pool, Message::FetchEntries(first, end));
                }
                WriterOutput::Seal(task) => {
                    self.pool(host, Part::Pool, Message::Seal(task));
                }
                // Nobody can send an append to a host that is alone before its partitions have
                // heard that they lead.
                WriterOutput::ToPartition(partition, message @ FromReplica::Lead { .. })
                    if self.hosts.len() == 1 =>
                {
                    self.partition(host, partition, Input::Replica(message));
                }
                WriterOutput::ToPartition(partition, message) => {
                    let part = Part::Partition(partition);
                    self.post_inside(host, Part::Writer, part, Message::FromWriter(message));
                }
                WriterOutput::Closed(reason) => {
                    self.note(format_args!("the bucket closes: {reason}"));
                    if let Some(life) = self.life(host) {
                        life.closed = true;
                    }
                }
                WriterOutput::Moved { partitions, streams } => {
                    self.ring(host, &partitions, &streams);
                }
                WriterOutput::ReadAt(read) => self.pool(host, Part::Pool, Message::Read(read)),
                WriterOutput::Stopped => {}
            }
        }
        self.rearm(host, flushes);
    }

    /// Flushes and ticks, as the actor does.
    fn rearm(&mut self, host: u8, flushes: bool) {
        let now = self.schedule.now_ns();
        let World { hosts, schedule, dice, .. } = self;
        let of = &mut hosts[usize::from(host)];
        let (to, lives) = (End { host, part: Part::Writer }, of.lives);
        let Some(life) = of.life.as_mut() else { return };
        if flushes && life.proposals_coming == 0 && !life.flushing {
            life.flushing = true;
            let event = Event::Arrive { to, life: lives, message: Box::new(Message::Flush) };
            schedule.after(dice.below(5_000), event);
        }
        let Some(at) = life.writer_side.wake_at() else { return };
        if life.tick_ns.is_none_or(|before| at < before) {
            life.tick_ns = Some(at);
            let late = dice.below(1_000_000);
            let event = Event::Arrive { to, life: lives, message: Box::new(Message::Tick) };
            schedule.at(at.max(now) + late, event);
        }
    }

    fn work(&mut self, host: u8, work: &Work) {
        let Some(life) = self.life(host) else { return };
        let done = perform(&mut life.writer, work);
        self.host_mut(host).worked(work, &done);
        let what = match work {
            Work::Allocate { body_bytes } => format!("allocates for {body_bytes} bytes"),
            Work::Write { entries, sync, .. } => {
                let bytes: usize = entries.iter().map(|entry| entry.body.len()).sum();
                let indexes: Vec<u64> = entries.iter().map(|entry| entry.index).collect();
                format!("writes entries {indexes:?} ({bytes} bytes, sync {sync})")
            }
            Work::Sync => "syncs".into(),
            Work::Truncate { after } => format!("cuts behind entry {after}"),
            Work::SaveSlot(values) => format!("saves {values:?}"),
        };
        let ended = format!("{done:?}");
        let ended = ended.split([' ', '(', '{']).next().unwrap_or_default().to_owned();
        self.note(format_args!("the disk {what}: {ended}"));
        let hangs = self.host(host).disk_hangs_until_ns;
        if hangs > self.schedule.now_ns() {
            let (to, life) = (End { host, part: Part::Writer }, self.host(host).lives);
            self.arrives_at(hangs, to, life, Message::Done(done));
        } else {
            self.post_inside(host, Part::Disk, Part::Writer, Message::Done(done));
        }
    }

    fn read(&mut self, host: u8, id: u64) {
        let Some(life) = &self.host(host).life else { return };
        let Some(pending) = self.reads.get(&id) else { return };
        let serves = !self.is_cluster() || life.writer_side.stats().serves;
        let (partition, what) = (pending.what.partition, pending.what.clone());
        let answered = if serves {
            let next = life.reader.next_sequence(partition);
            let answered = perform_read(&life.reader, &what);
            let text = answered.as_ref().err().map(ToString::to_string);
            self.may_fail(host, text.as_ref());
            self.shows(host, partition, next);
            answered.ok()
        } else {
            // It is told to try again.
            None
        };
        let event = Event::ReadAnswer { host, life: self.host(host).lives, read: id, answered };
        let delay = delay_ns(&mut self.dice);
        self.schedule.after(delay, event);
    }

    /// What a host of several has shown once, it shows for ever.
    fn shows(&mut self, host: u8, partition: PartitionId, next: u64) {
        if !self.is_cluster() {
            return;
        }
        let shown = self.host_mut(host).shown.entry(partition).or_default();
        assert!(next >= *shown, "host {host} showed {shown} events of {partition}, now {next}");
        *shown = next;
    }

    /// A read may fail while something is damaged or the disk has stopped, and only then.
    pub(crate) fn may_fail(&mut self, host: u8, error: Option<&String>) {
        let Some(error) = error else { return };
        let excused = self.host(host).is_excused();
        assert!(excused, "a read failed: {error}");
        self.note(format_args!("a read fails: {error}"));
    }
}

/// A message between hosts, in few words.
fn told(peer: &PeerMessage) -> String {
    let PeerMessage { kind, from, term, index, commit, reject, entries, .. } = peer;
    let entries: Vec<u64> = entries.iter().map(|entry| entry.index).collect();
    let rejects = if *reject { ", rejects" } else { "" };
    format!("{kind:?} from {from} term {term} index {index} commit {commit} {entries:?}{rejects}")
}

fn sealed(input: &WriterInput) -> &'static str {
    if matches!(input, WriterInput::Sealed(_)) { "written" } else { "failed" }
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
