//! The subscription core: one `step`, no waiting.

use std::collections::{BTreeSet, VecDeque};

use actadb_model::limits::{FOLLOW_EVENTS, PROGRESS_NS};
use actadb_model::probe::{Mistake, made};
use actadb_model::time::Now;

use crate::filter::Filter;
use crate::message::{Delivery, Found, Input, Output};

/// What the sources of a subscription are, and what its cursors count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sources {
    /// Streams: a position is a version.
    Streams,
    /// Partitions: a position is a sequence.
    Partitions,
}

/// What a core must know to begin with.
#[derive(Clone, Debug)]
pub struct Start {
    /// What its sources are.
    pub sources: Sources,
    /// For each source, the position it begins at. With one source a cursor is the event's position
    /// in it, with several the number of events looked at before.
    pub positions: Vec<u64>,
    /// Whether cursors count although there is only one source, because others could be there by
    /// the words of the command.
    pub counts: bool,
    /// Most events on their way without an acknowledgement; `None` for no limit.
    pub window: Option<u32>,
    /// What it wants to see.
    pub filter: Filter,
    /// Skipped events after which a progress is told.
    pub progress_events: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// It has not begun.
    New,
    /// A read is out.
    Reading,
    /// What was delivered is being passed on.
    Passing,
    /// The window is full.
    Full,
    /// Nothing is left.
    Waiting,
}

/// One reader's subscription.
///
/// Invariants: what is found continues its source; events leave in the order they were found; no
/// more than the window allows are on their way; one read is out at a time.
#[derive(Debug)]
pub struct SubscriptionCore {
    sources: Sources,
    counts: bool,
    positions: Vec<u64>,
    window: Option<u32>,
    filter: Filter,
    progress_events: u64,
    phase: Phase,
    /// Found and not yet looked at.
    queue: VecDeque<Found>,
    /// Cursors on their way without an acknowledgement; kept only with a window.
    unacknowledged: VecDeque<u64>,
    /// The cursor of the next event, when cursors count.
    next_count: u64,
    /// The cursor of the last event looked at.
    looked_at: Option<u64>,
    /// The highest cursor told to the reader.
    told: Option<u64>,
    /// Events skipped of which the reader has not heard, and when the first of them was.
    skipped: Option<(u64, u64)>,
    /// A progress is on its way beside the phase.
    progress_passing: bool,
    /// Sources in which events were skipped since the reader last heard where they stand: by a
    /// progress, or by an event of theirs.
    untold: BTreeSet<usize>,
}

impl SubscriptionCore {
    /// A core that begins with [`Input::Begin`].
    #[must_use]
    pub fn new(start: Start) -> Self {
        Self {
            sources: start.sources,
            counts: start.counts || start.positions.len() != 1,
            positions: start.positions,
            window: start.window,
            filter: start.filter,
            progress_events: start.progress_events.max(1),
            phase: Phase::New,
            queue: VecDeque::new(),
            unacknowledged: VecDeque::new(),
            next_count: 0,
            looked_at: None,
            told: None,
            skipped: None,
            progress_passing: false,
            untold: BTreeSet::new(),
        }
    }

    /// For each source, the position behind the last event looked at.
    #[must_use]
    pub fn positions(&self) -> &[u64] {
        &self.positions
    }

    /// Events on their way without an acknowledgement; 0 without a window.
    #[must_use]
    pub fn unacknowledged(&self) -> usize {
        self.unacknowledged.len()
    }

    /// When [`Input::Tick`] is due, by the monotonic clock.
    #[must_use]
    pub fn wake_at(&self) -> Option<u64> {
        let quiet = !self.progress_passing && self.phase != Phase::Passing;
        self.skipped.filter(|_| quiet).map(|(_, since_ns)| since_ns + PROGRESS_NS)
    }

    /// Takes one input and says what to do. Every output may be performed at once, in order.
    pub fn step(&mut self, now: Now, input: Input, out: &mut Vec<Output>) {
        match input {
            Input::Begin => {
                assert_eq!(self.phase, Phase::New, "a subscription begins once");
                self.read(out);
            }
            Input::Found(found) => {
                assert_eq!(self.phase, Phase::Reading, "a read ended that was not begun");
                if found.is_empty() {
                    self.phase = Phase::Waiting;
                    out.push(Output::Wait);
                } else {
                    self.queue = found.into();
                    self.pump(now, out);
                }
            }
            Input::Moved => {
                if self.phase == Phase::Waiting {
                    self.read(out);
                }
            }
            Input::Passed => {
                self.progress_passing = false;
                if self.phase == Phase::Passing {
                    self.pump(now, out);
                }
            }
            Input::Ack(cursor) => self.ack(now, cursor, out),
            Input::Tick => {
                if self.wake_at().is_some_and(|at| now.mono_ns >= at) {
                    self.progress_passing = true;
                    self.tell_progress(out);
                }
            }
        }
    }

    fn read(&mut self, out: &mut Vec<Output>) {
        self.phase = Phase::Reading;
        let open = self.window.map_or(FOLLOW_EVENTS, |window| {
            (window as usize).saturating_sub(self.unacknowledged.len()).max(1)
        });
        let max = if self.filter.takes_all() { open.min(FOLLOW_EVENTS) } else { FOLLOW_EVENTS };
        out.push(Output::Read { max });
    }

    fn ack(&mut self, now: Now, cursor: u64, out: &mut Vec<Output>) {
        if self.told.is_none_or(|told| cursor > told) {
            out.push(Output::AckRefused { last: self.told });
            return;
        }
        while self.unacknowledged.front().is_some_and(|first| *first <= cursor) {
            self.unacknowledged.pop_front();
        }
        out.push(Output::Acked);
        if self.phase == Phase::Full {
            self.pump(now, out);
        }
    }

    fn window_is_full(&self) -> bool {
        self.window.is_some_and(|window| self.unacknowledged.len() >= window as usize)
    }

    /// Looks at what was found, as far as the window allows.
    fn pump(&mut self, now: Now, out: &mut Vec<Output>) {
        let mut deliveries = Vec::new();
        let mut passing = false;
        while let Some(next) = self.queue.front() {
            let takes = self.filter.takes(&next.event);
            let counts_skipped = made(Mistake::WindowBeforeFilter);
            if (takes || counts_skipped) && self.window_is_full() {
                break;
            }
            let Some(Found { source, event }) = self.queue.pop_front() else { break };
            let position = match self.sources {
                Sources::Streams => event.version(),
                Sources::Partitions => event.sequence(),
            };
            let cursor = self.advance(source, position);
            if self.window.is_some() && (takes || counts_skipped) {
                self.unacknowledged.push_back(cursor);
            }
            if takes {
                self.told = Some(cursor);
                deliveries.push(Delivery { cursor, event });
                // The reader knows now where this source stands, and nothing of the others.
                self.untold.remove(&source);
                if self.untold.is_empty() {
                    self.skipped = None;
                }
                continue;
            }
            self.untold.insert(source);
            let (skipped, since_ns) = self.skipped.unwrap_or((0, now.mono_ns));
            self.skipped = Some((skipped + 1, since_ns));
            if skipped + 1 >= self.progress_events {
                deliver(&mut deliveries, out);
                self.tell_progress(out);
                passing = true;
            }
        }
        passing |= deliver(&mut deliveries, out);
        if passing {
            self.phase = Phase::Passing;
        } else if !self.queue.is_empty() {
            self.phase = Phase::Full;
        } else {
            self.read(out);
        }
    }

    /// Notes that the next event of a source was looked at; answers its cursor.
    fn advance(&mut self, source: usize, position: u64) -> u64 {
        let next = &mut self.positions[source];
        assert_eq!(position, *next, "source {source} goes on without a gap");
        *next += 1;
        let cursor = if self.counts { self.next_count } else { position };
        self.next_count += 1;
        self.looked_at = Some(cursor);
        cursor
    }

    fn tell_progress(&mut self, out: &mut Vec<Output>) {
        self.skipped = None;
        let Some(cursor) = self.looked_at else { return };
        self.told = Some(cursor);
        let untold = std::mem::take(&mut self.untold).into_iter();
        let positions = untold.map(|source| (source, self.positions[source])).collect();
        out.push(Output::Progress { cursor, positions });
    }
}

/// Passes on what has gathered; answers whether there was anything.
fn deliver(deliveries: &mut Vec<Delivery>, out: &mut Vec<Output>) -> bool {
    if deliveries.is_empty() {
        return false;
    }
    out.push(Output::Deliver(std::mem::take(deliveries)));
    true
}
