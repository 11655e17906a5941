//! What goes into a subscription core and what comes out.

use actadb_model::event::Event;

/// An event, and the source it was found in.
#[derive(Clone, Debug)]
pub struct Found {
    /// Index of the source.
    pub source: usize,
    /// The event.
    pub event: Event,
}

/// An event on its way to the reader.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// What acknowledges it, and everything before it.
    pub cursor: u64,
    /// The event.
    pub event: Event,
}

/// What a subscription core is told.
#[derive(Debug)]
pub enum Input {
    /// Begin.
    Begin,
    /// What the read found: the next events of some sources, each source in order without gaps.
    /// None: there was nothing when the number to wait for was last looked at.
    Found(Vec<Found>),
    /// The number to wait for has moved.
    Moved,
    /// Everything delivered so far was taken over on its way to the reader.
    Passed,
    /// The reader acknowledges everything up to a cursor.
    Ack(u64),
    /// Time has passed.
    Tick,
}

/// What a subscription core wants done.
#[derive(Debug)]
pub enum Output {
    /// Look at the number to wait for, then read what comes next from
    /// [`positions`](crate::core::SubscriptionCore::positions) on.
    Read {
        /// At most so many events: no more than can be passed on, when the filter takes all.
        max: usize,
    },
    /// Wait until the number is another than it was before the last read.
    Wait,
    /// Pass these on.
    Deliver(Vec<Delivery>),
    /// Pass on how far the subscription has looked, as events were skipped.
    Progress {
        /// The cursor of the last event looked at.
        cursor: u64,
        /// Sources of whose skipped events the reader has not heard, each with its next position.
        positions: Vec<(usize, u64)>,
    },
    /// The acknowledgement is taken.
    Acked,
    /// Nothing with that cursor was sent yet.
    AckRefused {
        /// The highest cursor that was.
        last: Option<u64>,
    },
}
