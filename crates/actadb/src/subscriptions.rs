//! Following the log: what can be subscribed to, what arrives, and how it ends.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use actadb_model::ids::{PartitionId, PartitionKey};
use actadb_model::limits::{
    PROGRESS_EVENTS_DEFAULT, SUBSCRIPTIONS_MAX, SUBSCRIPTIONS_PER_CONNECTION_MAX,
};
use actadb_model::names::StreamId;
pub use actadb_store::follow::Source;
pub use actadb_subscription::filter::Filter;
pub use actadb_subscription::message::Delivery;
use kameo::prelude::*;
use tokio::sync::mpsc;
use uuid::Uuid;

use crate::error::ReadError;
use crate::subscription_actor::{Ack, SubscriptionActor};

/// What to follow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Topics {
    /// These streams, each with its partition key when that is not the default one. Cursors of one
    /// stream are its versions, cursors of several count.
    Streams(Vec<(StreamId, Option<PartitionKey>)>),
    /// One partition; cursors are its sequences.
    Partition(PartitionId),
    /// These partitions; cursors count, however many they are.
    Partitions(Vec<PartitionId>),
    /// All partitions; cursors count.
    All,
}

/// Where to begin.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum From {
    /// Behind everything that is committed in a source at one moment between the request and its
    /// answer; several sources may each have a moment of their own.
    #[default]
    Latest,
    /// At this version or sequence, inclusive, in every stream or partition.
    At(u64),
    /// At these positions, inclusive; the others at `rest`, or at the latest.
    Map {
        /// By stream or partition.
        positions: BTreeMap<String, u64>,
        /// Of those not named.
        rest: Option<u64>,
    },
}

/// A subscription that is asked for.
#[derive(Clone, Debug)]
pub struct Subscribe {
    /// What to follow.
    pub topics: Topics,
    /// Where to begin.
    pub from: From,
    /// Most events on their way without an acknowledgement; `None` for no limit.
    pub window: Option<u32>,
    /// Which events to see.
    pub filter: Filter,
    /// After so many skipped events, or a second, a progress is told.
    pub progress_events: u64,
}

impl Subscribe {
    /// Follows from the latest on, without window and filter.
    #[must_use]
    pub fn to(topics: Topics) -> Self {
        Self {
            topics,
            from: From::Latest,
            window: None,
            filter: Filter::all(),
            progress_events: PROGRESS_EVENTS_DEFAULT,
        }
    }

    /// Begins there.
    #[must_use]
    pub fn from(mut self, from: From) -> Self {
        self.from = from;
        self
    }

    /// Lets so many events be on their way without an acknowledgement.
    #[must_use]
    pub fn window(mut self, window: u32) -> Self {
        self.window = Some(window);
        self
    }

    /// Shows only these events.
    #[must_use]
    pub fn filter(mut self, filter: Filter) -> Self {
        self.filter = filter;
        self
    }
}

/// Why there is no subscription.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubscribeError {
    /// A source cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// It would begin behind the next event.
    #[error("FROM {from} is past the end{} (next is {next})", of(.named))]
    PastEnd {
        /// The stream or partition, when a map names it.
        named: Option<String>,
        /// The position asked for.
        from: u64,
        /// The position of the next event.
        next: u64,
    },
    /// A position for something that is not subscribed to.
    #[error("FROM MAP names '{0}', which is not subscribed to")]
    NotSubscribed(String),
    /// The same source twice.
    #[error("'{0}' is named twice")]
    Twice(String),
    /// Nothing to follow.
    #[error("a subscription needs something to follow")]
    Empty,
    /// One connection has as many as it can have.
    #[error("a connection has at most {SUBSCRIPTIONS_PER_CONNECTION_MAX} subscriptions")]
    TooMany,
    /// The database has as many as it can have.
    #[error("the server has at most {SUBSCRIPTIONS_MAX} subscriptions")]
    TooManyOfAll,
}

fn of(named: &Option<String>) -> String {
    named.as_ref().map(|name| format!(" of '{name}'")).unwrap_or_default()
}

/// Something for the reader of a subscription.
#[derive(Clone, Debug)]
pub enum Notice {
    /// Events.
    Events(Vec<Delivery>),
    /// How far it has looked, as events were skipped.
    Progress {
        /// Cursor of the last event looked at; it can be acknowledged.
        cursor: u64,
        /// Streams or partitions in which events were skipped since the reader last heard where
        /// they stand, each with the position of its next event.
        positions: Vec<(Source, u64)>,
    },
}

/// Why a subscription ended by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EndReason {
    /// The log could not be read.
    Read(ReadError),
    /// The database is being stopped.
    Stopping,
    /// A part of it panicked.
    Panicked,
}

impl fmt::Display for EndReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read(error) => error.fmt(f),
            Self::Stopping => f.write_str("the server is stopping"),
            Self::Panicked => f.write_str("the subscription failed inside"),
        }
    }
}

/// Batches of notices that all subscriptions of one reader may have waiting for it.
const NOTICES_MAX: usize = 2;

/// Where the subscriptions of one reader send to: a bounded queue of notices, each batch bounded in
/// bytes, and beside it how they ended, which must find a place whatever waits.
#[derive(Clone, Debug)]
pub struct Outlet {
    pub(crate) notices: mpsc::Sender<(Uuid, Notice)>,
    pub(crate) ends: mpsc::Sender<(Uuid, EndReason)>,
}

/// The other side of an [`Outlet`].
#[derive(Debug)]
pub struct Inlet {
    notices: mpsc::Receiver<(Uuid, Notice)>,
    ends: mpsc::Receiver<(Uuid, EndReason)>,
    /// An end, and how many notices were there when it came: what that subscription sent is among
    /// them.
    ended: Option<(Uuid, EndReason, usize)>,
    /// Kept so that waiting goes on when there is no subscription.
    outlet: Outlet,
}

/// What comes out of an [`Inlet`].
#[derive(Clone, Debug)]
pub enum Arrival {
    /// Something for a subscription's reader.
    Notice(Uuid, Notice),
    /// A subscription ended by itself; nothing more of it comes.
    Ended(Uuid, EndReason),
}

impl Default for Inlet {
    fn default() -> Self {
        let (notices_out, notices) = mpsc::channel(NOTICES_MAX);
        let (ends_out, ends) = mpsc::channel(SUBSCRIPTIONS_PER_CONNECTION_MAX);
        let outlet = Outlet { notices: notices_out, ends: ends_out };
        Self { notices, ends, ended: None, outlet }
    }
}

impl Inlet {
    /// Where subscriptions are to send to.
    #[must_use]
    pub fn outlet(&self) -> Outlet {
        self.outlet.clone()
    }

    /// The next arrival. What a subscription sent comes before its end, and its end before what
    /// others send later.
    pub async fn next(&mut self) -> Arrival {
        loop {
            if let Some(arrival) = self.try_next() {
                return arrival;
            }
            tokio::select! {
                biased;
                Some((id, reason)) = self.ends.recv() => self.note_end(id, reason),
                Some((id, notice)) = self.notices.recv() => return Arrival::Notice(id, notice),
                else => std::future::pending().await,
            }
        }
    }

    /// The next arrival, if it is there.
    pub fn try_next(&mut self) -> Option<Arrival> {
        if self.ended.is_none()
            && let Ok((id, reason)) = self.ends.try_recv()
        {
            self.note_end(id, reason);
        }
        if let Some((_, _, before)) = &mut self.ended
            && *before > 0
        {
            *before -= 1;
        } else if let Some((id, reason, _)) = self.ended.take() {
            return Some(Arrival::Ended(id, reason));
        }
        self.notices.try_recv().ok().map(|(id, notice)| Arrival::Notice(id, notice))
    }

    fn note_end(&mut self, id: Uuid, reason: EndReason) {
        self.ended = Some((id, reason, self.notices.len()));
    }
}

/// A running subscription that sends to an [`Outlet`]. It ends when this is dropped.
#[derive(Debug)]
pub struct SubscriptionHandle {
    pub(crate) id: Uuid,
    pub(crate) actor: ActorRef<SubscriptionActor>,
    /// Nobody wants to hear of its end any more.
    pub(crate) dropped: Arc<AtomicBool>,
}

/// An acknowledgement of something that was not sent yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AheadOfSent {
    /// The highest cursor sent, if any was.
    pub last: Option<u64>,
}

impl SubscriptionHandle {
    /// Its id.
    #[must_use]
    pub fn id(&self) -> Uuid {
        self.id
    }

    /// Acknowledges everything up to a cursor; never goes back.
    ///
    /// # Errors
    /// When nothing with that cursor was sent yet. A subscription that has just ended by itself
    /// takes everything.
    pub async fn ack(&self, cursor: u64) -> Result<(), AheadOfSent> {
        match self.actor.ask(Ack(cursor)).await {
            Err(SendError::HandlerError(ahead)) => Err(ahead),
            Ok(()) | Err(_) => Ok(()),
        }
    }
}

impl Drop for SubscriptionHandle {
    fn drop(&mut self) {
        self.dropped.store(true, Ordering::Release);
        self.actor.kill();
    }
}

/// A subscription with a queue of its own, for embedders.
#[derive(Debug)]
pub struct Subscription {
    pub(crate) handle: SubscriptionHandle,
    pub(crate) inlet: Inlet,
}

impl Subscription {
    /// Its id.
    #[must_use]
    pub fn id(&self) -> Uuid {
        self.handle.id
    }

    /// What comes next; `Err` when the subscription ended by itself, and from then on for ever.
    ///
    /// # Errors
    /// Why it ended.
    pub async fn next(&mut self) -> Result<Notice, EndReason> {
        match self.inlet.next().await {
            Arrival::Notice(_, notice) => Ok(notice),
            Arrival::Ended(id, reason) => {
                let _ = self.inlet.outlet.ends.try_send((id, reason.clone()));
                Err(reason)
            }
        }
    }

    /// See [`SubscriptionHandle::ack`].
    ///
    /// # Errors
    /// As there.
    pub async fn ack(&self, cursor: u64) -> Result<(), AheadOfSent> {
        self.handle.ack(cursor).await
    }
}

/// Counts of all subscriptions.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) running: AtomicU64,
    pub(crate) delivered: AtomicU64,
    pub(crate) blocked: AtomicU64,
}

/// One more of something while it lives.
#[derive(Debug)]
pub(crate) struct Counted(Arc<Counts>, fn(&Counts) -> &AtomicU64);

impl Counted {
    pub(crate) fn new(counts: &Arc<Counts>, which: fn(&Counts) -> &AtomicU64) -> Self {
        which(counts).fetch_add(1, Ordering::Relaxed);
        Self(counts.clone(), which)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        (self.1)(&self.0).fetch_sub(1, Ordering::Relaxed);
    }
}
