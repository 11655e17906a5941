//! Subscribers: they begin anywhere, follow, are slow, lose their connection and go on.
//!
//! Their draws come from dice of their own, so that a world without them would go the same way.
//! What a subscriber was sent is booked, and held against the log when the world ends: every event
//! that its filter takes from its beginning on, once, in order.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use actadb_model::dice::SplitMix64;
use actadb_model::event::Event as LogEvent;
use actadb_model::ids::PartitionId;
use actadb_model::limits::PAGE_MAX_EVENTS;
use actadb_model::names::EventName;
use actadb_model::probe::{Mistake, made};
use actadb_store::follow::{Follower, FoundEvents, Reach, Source};
use actadb_store::hashes::{DEFAULT_NAMESPACE, stream_hash};
use actadb_store::reader::{Reader, Scan};
use actadb_subscription::core::{Sources, Start, SubscriptionCore};
use actadb_subscription::filter::Filter;
use actadb_subscription::message::{Delivery, Found, Input, Output};

use crate::clients::{NAMES, stream};
use crate::host::PARTITIONS;
use crate::net::delay_ns;
use crate::world::{Event, World};

/// Subscribers of a world.
pub(crate) const SUBSCRIBERS: usize = 3;
/// Shortest time between two looks of a subscriber, in nanoseconds.
const THINK_MIN_NS: u64 = 500_000;

/// What happens to a subscriber. All but `Think` belong to one subscription of it and are lost
/// with it.
pub(crate) enum SubscriberEvent {
    /// It looks around.
    Think,
    /// The read runs.
    Read(usize),
    /// The read has ended.
    Found(FoundEvents),
    /// The number has moved.
    Moved,
    /// Something arrives at the client.
    Arrives(Push),
    /// The connection took everything.
    Passed,
    /// An acknowledgement arrives at the server.
    Ack(u64),
    /// Time has passed.
    Tick,
}

pub(crate) enum Push {
    Events(Vec<Delivery>),
    Progress(u64, Vec<(usize, u64)>),
}

pub(crate) struct Subscriber {
    sources: Vec<Source>,
    counts: bool,
    window: Option<u32>,
    filter: Filter,
    filters: bool,
    progress_events: u64,
    /// What the client has seen.
    book: Book,
    live: Option<Live>,
    /// The host of its subscription.
    host: u8,
    /// Counts its subscriptions.
    generation: u64,
}

/// What a client knows, by source.
struct Book {
    /// Where it began; `None` before its first subscription.
    begins: Option<Vec<u64>>,
    /// Where it would go on.
    next: Vec<u64>,
    seen: BTreeSet<(usize, u64)>,
}

/// A running subscription: the server's side, and what the client remembers of this connection.
struct Live {
    core: SubscriptionCore,
    follower: Follower,
    rung: u64,
    seen: u64,
    waiting: bool,
    /// Pushes that the connection has not taken.
    passing: usize,
    cursor: Option<u64>,
    unacknowledged: VecDeque<u64>,
}

impl Subscriber {
    fn draw(dice: &mut SplitMix64) -> Self {
        let some = |dice: &mut SplitMix64| PARTITIONS[dice.below(3) as usize];
        let of = |dice: &mut SplitMix64| {
            let partition = some(dice);
            Source::Stream(stream(partition, dice.below(8)), partition)
        };
        let (sources, counts) = match dice.below(5) {
            0 => (vec![Source::Partition(some(dice))], false),
            1 => (PARTITIONS.map(Source::Partition).to_vec(), true),
            2 => (PARTITIONS[..2].iter().copied().map(Source::Partition).collect(), true),
            3 => (vec![of(dice)], false),
            _ => {
                let mut several: Vec<Source> = Vec::new();
                for _ in 0..3 {
                    let one = of(dice);
                    if !several.contains(&one) {
                        several.push(one);
                    }
                }
                let counts = several.len() > 1;
                (several, counts)
            }
        };
        let mut filter = Filter::all();
        let (names, prefix) = (dice.one_in(3), dice.one_in(5));
        if names {
            let name = EventName::new(NAMES[dice.below(3) as usize]).expect("a good name");
            filter = filter.names([name]);
        }
        if prefix {
            filter = filter.prefix(format!("p{}-s", dice.below(3)));
        }
        let window = [None, Some(1), Some(3), Some(50)][dice.below(4) as usize];
        let book = Book { begins: None, next: vec![0; sources.len()], seen: BTreeSet::new() };
        Self {
            sources,
            counts,
            window,
            filter,
            filters: names || prefix,
            progress_events: [1, 7, 10_000][dice.below(3) as usize],
            book,
            live: None,
            host: 0,
            generation: 0,
        }
    }

    fn position(&self, event: &LogEvent) -> u64 {
        match self.sources[0] {
            Source::Partition(_) => event.sequence(),
            Source::Stream(..) => event.version(),
        }
    }

    /// The next position of a source in the log.
    fn end_of(source: &Source, reader: &Reader) -> Option<u64> {
        match source {
            Source::Partition(partition) => Some(reader.next_sequence(*partition)),
            Source::Stream(stream, partition) => {
                let head = reader.stream_head(stream.as_str(), *partition).ok()?;
                Some(head.map_or(0, |head| head.version + 1))
            }
        }
    }

    /// Where a first subscription begins; `None` when the log cannot be read.
    fn draw_begins(&self, reader: &Reader, dice: &mut SplitMix64) -> Option<Vec<u64>> {
        let form = dice.below(4);
        let begin = |source: &Source| {
            let end = Self::end_of(source, reader)?;
            Some(match form {
                0 => 0,
                1 => end,
                2 => dice.below(end + 1),
                _ => {
                    if dice.one_in(2) {
                        0
                    } else {
                        dice.below(end + 1)
                    }
                }
            })
        };
        self.sources.iter().map(begin).collect()
    }

    /// Whether it waits for what may still come.
    fn is_settled(&self) -> bool {
        self.live
            .as_ref()
            .is_some_and(|live| live.waiting && live.rung == live.seen && live.passing == 0)
    }

    /// An event arrives at the client.
    fn arrived(&mut self, source: usize, cursor: u64, position: u64, event: &LogEvent) {
        let next = &mut self.book.next[source];
        assert!(position >= *next, "source {source}: {position} comes again, next was {next}");
        if !self.filters {
            assert_eq!(position, *next, "source {source}: a subscriber was sent a gap");
        }
        assert!(self.filter.takes(event), "a subscriber was sent what its filter does not take");
        *next = position + 1;
        assert!(self.book.seen.insert((source, position)), "{position} was sent twice");
        let Some(live) = &mut self.live else { return };
        match self.counts {
            false => assert_eq!(cursor, position, "the cursor of one source is the position"),
            true if self.filters => assert!(live.cursor.is_none_or(|last| cursor > last)),
            true => assert_eq!(cursor, live.cursor.map_or(0, |last| last + 1), "cursors count"),
        }
        live.cursor = Some(cursor);
        live.unacknowledged.push_back(cursor);
        if let Some(window) = self.window {
            assert!(live.unacknowledged.len() <= window as usize, "more than the window allows");
        }
    }

    /// Holds the book against the log: from the beginning on, every event that the filter takes.
    fn audit(&self, number: usize, reader: &Reader) {
        let Some(begins) = &self.book.begins else { return };
        let mut wanted = BTreeSet::new();
        for (at, source) in self.sources.iter().enumerate() {
            let mut from = begins[at];
            loop {
                let scan = Scan { from, to: u64::MAX, count: PAGE_MAX_EVENTS, reverse: false };
                let page = match source {
                    Source::Partition(partition) => reader.read_partition(*partition, scan),
                    Source::Stream(stream, partition) => {
                        reader.read_stream(stream.as_str(), *partition, scan)
                    }
                };
                let page = page.unwrap_or_else(|error| panic!("the last read: {error}"));
                for event in &page.events {
                    from = self.position(event) + 1;
                    if self.filter.takes(event) {
                        wanted.insert((at, from - 1));
                    }
                }
                if !page.has_more {
                    break;
                }
            }
        }
        let missed: Vec<_> = wanted.difference(&self.book.seen).collect();
        assert!(missed.is_empty(), "subscriber {number} was never sent {missed:?}");
        let more: Vec<_> = self.book.seen.difference(&wanted).collect();
        assert!(more.is_empty(), "subscriber {number} was sent {more:?}, which is not there");
    }
}

impl World {
    /// Draws the subscribers of a world and lets them begin.
    pub(crate) fn add_subscribers(&mut self) {
        for number in 0..SUBSCRIBERS {
            let subscriber = Subscriber::draw(&mut self.subscriber_dice);
            let Subscriber { sources, window, filter, .. } = &subscriber;
            self.note(format_args!(
                "subscriber {number}: {sources:?}, window {window:?}, {filter:?}"
            ));
            self.subscribers.push(subscriber);
            self.later(number, number as u64, SubscriberEvent::Think);
        }
    }

    fn later(&mut self, number: usize, ns: u64, what: SubscriberEvent) {
        let generation = self.subscribers[number].generation;
        self.schedule.after(ns, Event::Subscriber { number, generation, what });
    }

    fn after_delay(&mut self, number: usize, what: SubscriberEvent) {
        let ns = delay_ns(&mut self.subscriber_dice);
        self.later(number, ns, what);
    }

    pub(crate) fn subscribers_are_settled(&self) -> bool {
        self.subscribers.iter().all(Subscriber::is_settled)
    }

    pub(crate) fn audit_subscribers(&self, reader: &Reader) {
        for (number, subscriber) in self.subscribers.iter().enumerate() {
            subscriber.audit(number, reader);
        }
    }

    /// All connections to a host are lost.
    pub(crate) fn lose_subscriptions(&mut self, host: u8) {
        for number in 0..self.subscribers.len() {
            let subscriber = &mut self.subscribers[number];
            if subscriber.host == host {
                subscriber.live = None;
                subscriber.generation += 1;
                self.think_again(number);
            }
        }
    }

    /// What was shown may have been taken back: everybody begins anew.
    pub(crate) fn forget_subscribers(&mut self) {
        for subscriber in &mut self.subscribers {
            subscriber.book.begins = None;
            subscriber.book.seen.clear();
        }
    }

    /// The writer has made something visible.
    pub(crate) fn ring(
        &mut self,
        host: u8,
        partitions: &[PartitionId],
        streams: &[(PartitionId, u64)],
    ) {
        let mut moved = Vec::new();
        let here = |(_, subscriber): &(usize, &mut Subscriber)| subscriber.host == host;
        for (number, subscriber) in self.subscribers.iter_mut().enumerate().filter(here) {
            let rings = subscriber.sources.iter().any(|source| match source {
                Source::Partition(partition) => partitions.contains(partition),
                Source::Stream(stream, partition) => {
                    let hash = stream_hash(DEFAULT_NAMESPACE, stream.as_str());
                    streams.contains(&(*partition, hash))
                }
            });
            if let Some(live) = &mut subscriber.live
                && rings
            {
                live.rung += 1;
                if live.waiting {
                    moved.push(number);
                }
            }
        }
        for number in moved {
            self.after_delay(number, SubscriberEvent::Moved);
        }
    }

    fn think_again(&mut self, number: usize) {
        let think = self.subscriber_dice.below(8 * self.think_ns) + THINK_MIN_NS;
        self.later(number, think, SubscriberEvent::Think);
    }

    pub(crate) fn subscriber(&mut self, number: usize, generation: u64, what: SubscriberEvent) {
        if self.subscribers[number].generation != generation {
            return;
        }
        match what {
            SubscriberEvent::Think => self.think(number),
            SubscriberEvent::Read(max) => self.subscriber_reads(number, max),
            SubscriberEvent::Found(found) => {
                let found = found.into_iter().map(|(source, event)| Found { source, event });
                let found = found.collect();
                if let Some(live) = &mut self.subscribers[number].live
                    && made(Mistake::WakeUpLost)
                {
                    live.seen = live.rung;
                }
                self.step_subscriber(number, Input::Found(found));
            }
            SubscriberEvent::Moved => {
                if let Some(live) = &mut self.subscribers[number].live {
                    live.waiting = false;
                }
                self.step_subscriber(number, Input::Moved);
            }
            SubscriberEvent::Arrives(push) => self.push_arrives(number, push),
            SubscriberEvent::Passed => {
                let Some(live) = &mut self.subscribers[number].live else { return };
                live.passing -= 1;
                if live.passing == 0 {
                    self.step_subscriber(number, Input::Passed);
                }
            }
            SubscriberEvent::Ack(cursor) => self.step_subscriber(number, Input::Ack(cursor)),
            SubscriberEvent::Tick => self.step_subscriber(number, Input::Tick),
        }
    }

    fn think(&mut self, number: usize) {
        let calm = self.fault_one_in == 0;
        let subscriber = &mut self.subscribers[number];
        let Some(live) = &mut subscriber.live else {
            self.subscribe(number);
            self.think_again(number);
            return;
        };
        if !calm && self.subscriber_dice.one_in(25) {
            self.note(format_args!("subscriber {number} disconnects"));
            let subscriber = &mut self.subscribers[number];
            subscriber.live = None;
            subscriber.generation += 1;
            self.think_again(number);
            return;
        }
        // Some are slow to acknowledge, and then do it for many at once.
        let take = match calm || self.subscriber_dice.one_in(2) {
            true => live.unacknowledged.len(),
            false => self.subscriber_dice.below(3) as usize,
        };
        let take = take.min(live.unacknowledged.len());
        let newest = live.unacknowledged.drain(..take).next_back();
        if let Some(cursor) = newest {
            self.after_delay(number, SubscriberEvent::Ack(cursor));
        }
        self.think_again(number);
    }

    fn subscribe(&mut self, number: usize) {
        let host = match self.hosts.len() {
            1 => 0,
            hosts => self.subscriber_dice.below(hosts as u64) as u8,
        };
        let Some(life) = &self.host(host).life else { return };
        let reader = life.reader.clone();
        let subscriber = &mut self.subscribers[number];
        subscriber.host = host;
        let behind = |(source, next): (&Source, &u64)| {
            Subscriber::end_of(source, &reader).is_none_or(|end| end < *next)
        };
        if self.hosts.len() > 1
            && subscriber.book.begins.is_some()
            && subscriber.sources.iter().zip(&subscriber.book.next).any(behind)
        {
            // What it has seen is not here yet: it asks another host.
            return;
        }
        if subscriber.book.begins.is_none() {
            let begins = subscriber.draw_begins(&reader, &mut self.subscriber_dice);
            // What is rotten cannot be read; it tries again.
            let Some(begins) = begins else { return };
            subscriber.book.next.clone_from(&begins);
            subscriber.book.begins = Some(begins);
        }
        let sources = match subscriber.sources[0] {
            Source::Partition(_) => Sources::Partitions,
            Source::Stream(..) => Sources::Streams,
        };
        let start = Start {
            sources,
            positions: subscriber.book.next.clone(),
            counts: subscriber.counts,
            window: subscriber.window,
            filter: subscriber.filter.clone(),
            progress_events: subscriber.progress_events,
        };
        subscriber.live = Some(Live {
            core: SubscriptionCore::new(start),
            follower: Follower::new(reader, subscriber.sources.iter().cloned().enumerate()),
            rung: 0,
            seen: 0,
            waiting: false,
            passing: 0,
            cursor: None,
            unacknowledged: VecDeque::new(),
        });
        let from = subscriber.book.next.clone();
        self.note(format_args!("subscriber {number} begins at {from:?}"));
        self.step_subscriber(number, Input::Begin);
    }

    fn subscriber_reads(&mut self, number: usize, max: usize) {
        let reach = if self.subscriber_dice.one_in(2) { Reach::Memory } else { Reach::Device };
        let Some(live) = &mut self.subscribers[number].live else { return };
        let positions = live.core.positions().to_vec();
        let found = match live.follower.read(&positions, max, reach) {
            Ok(None) => live.follower.read(&positions, max, Reach::Device),
            found => found,
        };
        match found {
            Ok(found) => {
                self.after_delay(number, SubscriberEvent::Found(found.unwrap_or_default()));
            }
            Err(error) => {
                // It is told that its subscription is closed, and begins another.
                let host = self.subscribers[number].host;
                self.may_fail(host, Some(&error.to_string()));
                let subscriber = &mut self.subscribers[number];
                subscriber.live = None;
                subscriber.generation += 1;
                self.think_again(number);
            }
        }
    }

    fn step_subscriber(&mut self, number: usize, input: Input) {
        let now = self.schedule.now();
        let Some(live) = &mut self.subscribers[number].live else { return };
        let mut outputs = Vec::new();
        live.core.step(now, input, &mut outputs);
        for output in outputs {
            match output {
                Output::Read { max } => {
                    if let Some(live) = &mut self.subscribers[number].live {
                        live.seen = live.rung;
                    }
                    self.after_delay(number, SubscriberEvent::Read(max));
                }
                Output::Wait => {
                    let Some(live) = &mut self.subscribers[number].live else { return };
                    live.waiting = true;
                    if live.rung != live.seen {
                        self.after_delay(number, SubscriberEvent::Moved);
                    }
                }
                Output::Deliver(deliveries) => self.send_push(number, Push::Events(deliveries)),
                Output::Progress { cursor, positions } => {
                    self.send_push(number, Push::Progress(cursor, positions));
                }
                Output::Acked => {}
                Output::AckRefused { last } => panic!("an acknowledgement was refused: {last:?}"),
            }
        }
        let Some(live) = &self.subscribers[number].live else { return };
        if let Some(at) = live.core.wake_at() {
            let ns = at.saturating_sub(now.mono_ns);
            self.later(number, ns, SubscriberEvent::Tick);
        }
    }

    /// Pushes of one connection arrive in order; the connection has taken them then.
    fn send_push(&mut self, number: usize, push: Push) {
        if let Some(live) = &mut self.subscribers[number].live {
            live.passing += 1;
        }
        let ns = delay_ns(&mut self.subscriber_dice);
        let at = self.schedule.now_ns() + ns;
        let last = self.push_times.entry(number).or_default();
        *last = at.max(*last);
        let ns = *last - self.schedule.now_ns();
        self.later(number, ns, SubscriberEvent::Arrives(push));
        self.later(number, ns, SubscriberEvent::Passed);
    }

    fn push_arrives(&mut self, number: usize, push: Push) {
        match push {
            Push::Events(deliveries) => {
                self.note(format_args!("subscriber {number} gets {} events", deliveries.len()));
                for Delivery { cursor, event } in deliveries {
                    self.auditor.saw(event.as_ref());
                    let subscriber = &mut self.subscribers[number];
                    let position = subscriber.position(&event);
                    let source = subscriber.sources.iter().position(|source| match source {
                        Source::Partition(partition) => *partition == event.partition(),
                        Source::Stream(stream, _) => stream.as_str() == event.stream(),
                    });
                    let source = source.expect("an event of something that is followed");
                    subscriber.arrived(source, cursor, position, &event);
                    self.deliveries += 1;
                }
            }
            Push::Progress(cursor, positions) => {
                self.note(format_args!("subscriber {number} hears of progress: {positions:?}"));
                let subscriber = &mut self.subscribers[number];
                assert!(subscriber.filters, "a progress without a filter");
                for (source, next) in positions {
                    let known = &mut subscriber.book.next[source];
                    assert!(next >= *known, "a progress goes back from {known} to {next}");
                    *known = next;
                }
                if let Some(live) = &mut subscriber.live {
                    // The last event looked at may have been sent just before.
                    assert!(live.cursor.is_none_or(|last| cursor >= last), "a cursor goes back");
                    live.cursor = Some(cursor);
                }
            }
        }
    }
}

/// When the last push to each subscriber arrives.
pub(crate) type PushTimes = BTreeMap<usize, u64>;
