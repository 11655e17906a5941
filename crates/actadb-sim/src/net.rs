//! How long messages take, and which of them never arrive.
//!
//! Inside a host messages between two ends keep their order and are never lost, as in the actors'
//! channels; only how long each takes is drawn. Between hosts a link may lose, double and reorder
//! them, and may be cut in one direction.

use std::collections::{BTreeMap, BTreeSet};

use actadb_model::dice::SplitMix64;
use actadb_model::ids::PartitionId;

/// Something that sends and receives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct End {
    /// Number of its host. Clients live on hosts of their own.
    pub host: u8,
    /// What it is there.
    pub part: Part,
}

/// A part of a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// A client.
    Client,
    /// A partition's actor.
    Partition(PartitionId),
    /// The segment writer's actor.
    Writer,
    /// The writer's thread.
    Disk,
    /// The pool that reads and seals.
    Pool,
}

/// What becomes of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It never arrives.
    Lost,
    /// It arrives at this time, in nanoseconds.
    At(u64),
    /// It arrives twice.
    Twice(u64, u64),
}

/// What links between hosts do to messages.
#[derive(Clone, Copy, Debug, Default)]
pub struct Weather {
    /// One message in so many is lost; 0 for none.
    pub lost_one_in: u64,
    /// One message in so many arrives twice; 0 for none.
    pub doubled_one_in: u64,
    /// Messages may overtake each other.
    pub reorders: bool,
}

/// All links.
#[derive(Debug, Default)]
pub struct SimNet {
    weather: Weather,
    /// When the last message of a link arrives that keeps its order.
    last_ns: BTreeMap<(End, End), u64>,
    cut: BTreeSet<(u8, u8)>,
}

/// A delay with a long tail: mostly some microseconds, now and then as long as a slow disk.
#[must_use]
pub fn delay_ns(dice: &mut SplitMix64) -> u64 {
    match dice.below(16) {
        0..11 => dice.below(20_000),
        11..15 => dice.below(500_000),
        _ => dice.below(20_000_000),
    }
}

impl SimNet {
    /// Sets what happens between hosts from now on.
    pub fn set_weather(&mut self, weather: Weather) {
        self.weather = weather;
    }

    /// Lets nothing through from one host to another; the way back is another matter.
    pub fn cut(&mut self, from: u8, to: u8) {
        self.cut.insert((from, to));
    }

    /// Mends all cuts, and the weather.
    pub fn heal(&mut self) {
        self.cut.clear();
        self.weather = Weather::default();
    }

    /// A message inside a host that its receiver reads only after `ns`, and all behind it: an actor
    /// that does not get its turn.
    pub fn starve(&mut self, now_ns: u64, from: End, to: End, ns: u64) -> Fate {
        Fate::At(self.in_order(from, to, now_ns + ns))
    }

    /// Draws what becomes of a message that is sent now.
    pub fn send(&mut self, now_ns: u64, from: End, to: End, dice: &mut SplitMix64) -> Fate {
        let at = now_ns + delay_ns(dice);
        // What clients say arrives, once and in order: they use TCP.
        if from.host == to.host || from.part == Part::Client {
            return Fate::At(self.in_order(from, to, at));
        }
        let once_in = |dice: &mut SplitMix64, n: u64| n > 0 && dice.one_in(n);
        if self.cut.contains(&(from.host, to.host)) || once_in(dice, self.weather.lost_one_in) {
            return Fate::Lost;
        }
        let at = if self.weather.reorders { at } else { self.in_order(from, to, at) };
        match once_in(dice, self.weather.doubled_one_in) {
            true => Fate::Twice(at, at + delay_ns(dice)),
            false => Fate::At(at),
        }
    }

    fn in_order(&mut self, from: End, to: End, at_ns: u64) -> u64 {
        let last = self.last_ns.entry((from, to)).or_default();
        *last = at_ns.max(*last);
        *last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end(host: u8, part: Part) -> End {
        End { host, part }
    }

    #[test]
    fn order_is_kept_inside_a_host_and_between_hosts_in_good_weather() {
        let mut dice = SplitMix64::new(1);
        for to in [end(0, Part::Writer), end(1, Part::Writer)] {
            let mut net = SimNet::default();
            let mut last = 0;
            for now in 0..1000 {
                let Fate::At(at) = net.send(now, end(0, Part::Disk), to, &mut dice) else {
                    panic!("lost or doubled")
                };
                assert!(at >= last);
                last = at;
            }
        }
    }

    #[test]
    fn bad_weather_loses_doubles_and_reorders_between_hosts_only() {
        let mut dice = SplitMix64::new(2);
        let mut net = SimNet::default();
        net.set_weather(Weather { lost_one_in: 4, doubled_one_in: 4, reorders: true });
        let (mut lost, mut twice, mut overtook, mut last) = (0, 0, 0, 0);
        for now in 0..1000 {
            match net.send(now, end(0, Part::Writer), end(1, Part::Writer), &mut dice) {
                Fate::Lost => lost += 1,
                Fate::Twice(..) => twice += 1,
                Fate::At(at) => {
                    overtook += u32::from(at < last);
                    last = at;
                }
            }
            let inside = net.send(now, end(0, Part::Writer), end(0, Part::Disk), &mut dice);
            assert!(matches!(inside, Fate::At(_)));
        }
        assert!(lost > 100 && twice > 100 && overtook > 100, "{lost} {twice} {overtook}");
    }

    #[test]
    fn a_cut_has_a_direction() {
        let mut dice = SplitMix64::new(3);
        let mut net = SimNet::default();
        net.cut(0, 1);
        let (a, b) = (end(0, Part::Writer), end(1, Part::Writer));
        assert_eq!(net.send(0, a, b, &mut dice), Fate::Lost);
        assert!(matches!(net.send(0, b, a, &mut dice), Fate::At(_)));
        net.heal();
        assert!(matches!(net.send(0, a, b, &mut dice), Fate::At(_)));
    }
}
