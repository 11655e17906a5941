//! What several hosts have that one has not: a network between them with its faults, a leader to
//! find, and an end when all hold the same.

use std::collections::BTreeMap;
use std::path::PathBuf;

use actadb_model::dice::SplitMix64;
use actadb_model::limits::PEER_MESSAGE_BYTES;
use actadb_replica::peer::PeerMessage;

use actadb_bucket::writer_side::WriterInput;
use actadb_membership::members::Members;
use actadb_membership::record::Record;

use crate::host::{CLUSTER, Host, PARTITIONS, first_storage};
use crate::net::{End, Part, Weather};
use crate::wiring::Message;
use crate::world::{Event, World};

/// How long clients of several hosts wait for an answer, in nanoseconds.
pub(crate) const PATIENCE_NS: u64 = 3_000_000_000;
/// Nobody asks several hosts for anything before they can have a leader, in nanoseconds.
pub(crate) const FIRST_ELECTION_NS: u64 = 2_000_000_000;
/// The network is mended after so long at the latest, in nanoseconds.
const MENDED_NS: u64 = 4_000_000_000;
/// A host is stopped for so long at the most, in nanoseconds.
const PAUSE_NS: u64 = 3_000_000_000;

/// What goes wrong between hosts.
#[derive(Clone, Copy, Debug)]
pub(crate) enum NetFault {
    /// Messages are lost, doubled and reordered.
    Weather(Weather),
    /// One host hears nothing of another, which hears it.
    Cut(u8, u8),
    /// A host and all others do not hear each other.
    Isolate(u8),
    /// Nothing happens on a host for so many nanoseconds; its clock goes on.
    Pause(u8, u64),
    /// The disk of a host answers nothing for so many nanoseconds; the rest of it goes on.
    DiskHangs(u8, u64),
    /// The disk of a host is full when so many more bytes are on it.
    Full(u8, u64),
    /// A host dies, and comes back with another disk.
    Wipe(u8),
    /// All is well again.
    Heal,
}

pub(crate) fn draw_net_fault(dice: &mut SplitMix64, hosts: u8, leader: Option<u8>) -> NetFault {
    let any = |dice: &mut SplitMix64| dice.below(u64::from(hosts)) as u8;
    // Half of what happens happens to the leader: there it matters most.
    let one = match leader {
        Some(leader) if dice.one_in(2) => leader,
        _ => any(dice),
    };
    match dice.below(12) {
        0 | 1 => NetFault::Weather(Weather {
            lost_one_in: [0, 3, 20][dice.below(3) as usize],
            doubled_one_in: [0, 4, 20][dice.below(3) as usize],
            reorders: dice.one_in(2),
        }),
        2 => match dice.one_in(2) {
            true => NetFault::Cut(one, any(dice)),
            false => NetFault::Cut(any(dice), one),
        },
        3 | 4 => NetFault::Isolate(one),
        5 | 6 => NetFault::Pause(one, dice.below(PAUSE_NS)),
        7 | 8 => NetFault::DiskHangs(one, dice.below(2 * PAUSE_NS)),
        9 => NetFault::Full(one, dice.below(50_000)),
        10 if dice.one_in(4) => NetFault::Wipe(one),
        _ => NetFault::Heal,
    }
}

impl World {
    pub(crate) fn is_cluster(&self) -> bool {
        self.hosts.len() > 1
    }

    /// The host that says that it leads in the highest term.
    pub(crate) fn leader(&self) -> Option<u8> {
        let stats = self.hosts.iter().filter_map(|host| {
            let stats = host.life.as_ref()?.writer_side.stats();
            stats.leads.then_some((stats.term, host.number))
        });
        stats.max().map(|(_, number)| number)
    }

    /// The host a client asks: the one that leads as far as it knows, or any other.
    pub(crate) fn draw_host(&mut self) -> u8 {
        if !self.is_cluster() {
            return 0;
        }
        let any = self.dice.below(self.hosts.len() as u64) as u8;
        let knows = self.fault_one_in == 0 || !self.dice.one_in(5);
        self.leader().filter(|_| knows).unwrap_or(any)
    }

    pub(crate) fn net_fault(&mut self) {
        let (hosts, leader) = (self.hosts.len() as u8, self.leader());
        let fault = draw_net_fault(&mut self.dice, hosts, leader);
        self.note(format_args!("fault: {fault:?}"));
        match fault {
            NetFault::Weather(weather) => self.net.set_weather(weather),
            NetFault::Cut(from, to) => self.net.cut(from, to),
            NetFault::Isolate(one) => {
                for other in (0..hosts).filter(|other| *other != one) {
                    self.net.cut(one, other);
                    self.net.cut(other, one);
                }
            }
            NetFault::Pause(host, ns) => {
                let until = self.schedule.now_ns() + ns;
                let of = self.host_mut(host);
                of.paused_until_ns = of.paused_until_ns.max(until);
            }
            NetFault::DiskHangs(host, ns) => {
                let until = self.schedule.now_ns() + ns;
                let of = self.host_mut(host);
                of.disk_hangs_until_ns = of.disk_hangs_until_ns.max(until);
            }
            NetFault::Full(host, bytes) => {
                let disk = &self.host(host).disk;
                disk.set_capacity(Some(disk.used_bytes() + bytes));
                // Long enough for a leader to hand over.
                let later = self.dice.below(2 * PAUSE_NS);
                self.schedule.after(later, Event::Restore(host));
            }
            NetFault::Wipe(host) => self.wipe(host),
            NetFault::Heal => self.net.heal(),
        }
        let later = self.dice.below(MENDED_NS);
        self.schedule.after(later, Event::Heal);
    }

    /// A host comes back without what it had. The others must still be a majority: nobody can
    /// give back what only lost disks held.
    fn wipe(&mut self, number: u8) {
        let lost = self.hosts.iter().filter(|host| host.is_wiped()).count();
        if self.host(number).is_wiped() || 2 * (lost + 1) >= self.hosts.len() {
            return;
        }
        self.crash(number, true);
        let storage = self.dice.draw();
        self.host_mut(number).wipe(storage);
    }

    /// Whether the others let a host in, with the storage that it has now.
    pub(crate) fn is_let_in(&self, host: &Host) -> bool {
        let other = &self.hosts[usize::from(host.number == 0)];
        let shape = other.hello().shape;
        let storages = (0..shape.nodes).map(first_storage).collect();
        let record = Record { cluster: CLUSTER, shape, storages };
        Members::new(other.hello(), Some(record)).admit(&host.hello()).is_ok()
    }

    pub(crate) fn send_to_peer(&mut self, host: u8, message: &PeerMessage) {
        let from = End { host, part: Part::Writer };
        let to = End { host: (message.to - 1) as u8, part: Part::Writer };
        self.post(from, to, Message::Peer(message.encode()));
    }

    /// Reads old entries for a host that is behind.
    pub(crate) fn fetch_entries(&mut self, host: u8, first: u64, end: u64) {
        let Some(life) = self.life(host) else { return };
        let read = life.entries.read(first, end, PEER_MESSAGE_BYTES);
        let input = match read {
            Ok(entries) => WriterInput::Fetched { first, entries },
            Err(error) => {
                self.may_fail(host, Some(&error.to_string()));
                let again = WriterInput::Fetched { first, entries: Vec::new() };
                error.closes().map_or(again, WriterInput::Close)
            }
        };
        if let WriterInput::Fetched { entries, .. } = &input {
            self.note(format_args!("entries {first} to {end} are read: {}", entries.len()));
        }
        self.post_fetched(host, input);
    }

    /// Whether one host leads and all hold what it holds.
    pub(crate) fn has_converged(&self) -> bool {
        if !self.is_cluster() {
            return true;
        }
        let Some(leader) = self.leader() else { return false };
        let of = |host: &Host| {
            let life = host.life.as_ref()?;
            let stats = life.writer_side.stats();
            let ends = PARTITIONS.map(|partition| life.reader.next_sequence(partition));
            (stats.written == stats.committed).then_some((stats.term, stats.committed, ends))
        };
        let led = of(self.host(leader));
        let sides = self.host(leader).life.iter().flat_map(|life| &life.sides);
        let heard = sides.into_iter().all(|side| side.stats().leads);
        let alike = |host: &Host| host.is_gone || of(host) == led;
        heard && led.is_some() && self.hosts.iter().all(alike)
    }

    /// The logs of all hosts are the same, byte for byte.
    pub(crate) fn audit_copies(&self) {
        let mut first: BTreeMap<PathBuf, Vec<u8>> = BTreeMap::new();
        for host in &self.hosts {
            for path in host.disk.files() {
                let name = path.to_string_lossy();
                if !name.ends_with(".segment") && !name.ends_with(".index") {
                    continue;
                }
                let mut bytes = host.disk.contents(&path).unwrap_or_default();
                // Space allocated ahead is not part of the log.
                let end = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
                bytes.truncate(end);
                let before = first.entry(path.clone()).or_insert_with(|| bytes.clone());
                let empty = bytes.is_empty() || before.is_empty();
                let at = before.iter().zip(&bytes).position(|(a, b)| a != b);
                let lengths = (before.len(), bytes.len());
                let what = format!("at {at:?}, lengths {lengths:?}");
                assert!(
                    empty || *before == bytes,
                    "{name} differs on host {}: {what}",
                    host.number
                );
                if before.is_empty() {
                    *before = bytes;
                }
            }
        }
    }
}
