//! Following, as the reader sees it.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_core::Stream;
use tokio::sync::{mpsc, watch};
use uuid::Uuid;

use crate::checkpoint::Checkpoint;
use crate::client::Client;
use crate::error::Error;
use crate::event::Event;
use crate::follow::Follow;
use crate::follower::Follower;

/// Items that wait between the task that reads the connection and the reader; the rest of the
/// window waits before that task.
const ITEMS: usize = 64;

/// What acknowledges a delivery, and everything before it: see [`Subscription::ack`].
///
/// It means something to the subscription it came from only, and is not for storing: that is what
/// a [`Checkpoint`] is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Cursor {
    /// The server's subscription: another one after each reconnect.
    pub(crate) subscription: Uuid,
    pub(crate) value: u64,
}

/// What a subscription delivers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// An event.
    Event {
        /// The event.
        event: Event,
        /// What acknowledges it.
        cursor: Cursor,
        /// Where its stream or partition goes on.
        moved: (String, u64),
    },
    /// With a filter: the subscription has looked this far and left events out. Storing it saves
    /// looking at them again.
    Progress {
        /// What acknowledges everything up to here.
        cursor: Cursor,
        /// Where the streams or partitions go on that have moved since the last progress.
        moved: Vec<(String, u64)>,
    },
}

impl Delivery {
    /// The event, if it is one.
    #[must_use]
    pub fn event(&self) -> Option<&Event> {
        match self {
            Self::Event { event, .. } => Some(event),
            Self::Progress { .. } => None,
        }
    }

    /// The event by value, if it is one.
    #[must_use]
    pub fn into_event(self) -> Option<Event> {
        match self {
            Self::Event { event, .. } => Some(event),
            Self::Progress { .. } => None,
        }
    }

    /// What acknowledges this delivery and everything before it.
    #[must_use]
    pub fn cursor(&self) -> Cursor {
        match self {
            Self::Event { cursor, .. } | Self::Progress { cursor, .. } => *cursor,
        }
    }

    /// What this delivery changes in the [`Checkpoint`]: streams (by id) or partitions (by number)
    /// with their next positions.
    #[must_use]
    pub fn moved(&self) -> &[(String, u64)] {
        match self {
            Self::Event { moved, .. } => std::slice::from_ref(moved),
            Self::Progress { moved, .. } => moved,
        }
    }
}

/// A subscription: a [`Stream`] of `Result<Delivery, Error>` that reconnects by itself.
///
/// It goes on behind the last event that it delivered, so none is skipped and none comes twice,
/// as long as it is the same log: a database that was restored or made anew, or that lost
/// acknowledged events to a power loss (`fsync.mode` other than `always`), numbers other events
/// alike, and nobody can tell. It
/// tries to reconnect for as long as it lives. When it cannot go on - damaged data, a position that
/// is no more, a refused password - its last item is the error. Dropping it ends it.
#[derive(Debug)]
#[must_use = "a subscription ends when it is dropped"]
pub struct Subscription {
    items: mpsc::Receiver<Result<Delivery, Error>>,
    acks: watch::Sender<Option<Cursor>>,
    checkpoint: Checkpoint,
    /// The server's subscription that the last delivery came from.
    current: Option<Uuid>,
    /// Events to hand out before the next acknowledgement; `None` when the reader acknowledges.
    ack_every: Option<u32>,
    unacknowledged: u32,
}

impl Subscription {
    pub(crate) async fn begin(client: Client, follow: Follow) -> Result<Self, Error> {
        let window = follow.window.unwrap_or(client.inner.options.window);
        let ack_every = (!follow.manual_ack).then_some((window / 2).max(1));
        let (items, receiver) = mpsc::channel(ITEMS);
        let (acks, to_acknowledge) = watch::channel(None);
        let (follower, session) =
            Follower::begin(client, follow, window, items, to_acknowledge).await?;
        let checkpoint = follower.checkpoint().clone();
        tokio::spawn(follower.run(session));
        Ok(Self { items: receiver, acks, checkpoint, current: None, ack_every, unacknowledged: 0 })
    }

    /// The next delivery. The same as `StreamExt::next`, without that trait. Dropping the future
    /// loses nothing.
    pub async fn next(&mut self) -> Option<Result<Delivery, Error>> {
        poll_fn(|context| Pin::new(&mut *self).poll_next(context)).await
    }

    /// Where it stands: behind the last delivery, before the first one where it began. To be
    /// stored together with what was made of the delivery.
    #[must_use]
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// Acknowledges a delivery and everything before it, so that more may come; with
    /// [`Follow::manual_ack`]. Acknowledgements never go back, and those from before a reconnect
    /// have done their work.
    ///
    /// It does not wait and cannot fail.
    pub fn ack(&self, cursor: Cursor) {
        if self.current != Some(cursor.subscription) {
            return;
        }
        self.acks.send_if_modified(|last| {
            let newer = last.is_none_or(|last| {
                last.subscription != cursor.subscription || last.value < cursor.value
            });
            if newer {
                *last = Some(cursor);
            }
            newer
        });
    }

    fn hand_out(&mut self, delivery: &Delivery) {
        for (source, next) in delivery.moved() {
            self.checkpoint.set(source, *next);
        }
        let cursor = delivery.cursor();
        self.current = Some(cursor.subscription);
        let Some(ack_every) = self.ack_every else { return };
        if delivery.event().is_some() {
            self.unacknowledged += 1;
        }
        if self.unacknowledged >= ack_every {
            self.unacknowledged = 0;
            self.ack(cursor);
        }
    }
}

impl Stream for Subscription {
    type Item = Result<Delivery, Error>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        let item = ready!(this.items.poll_recv(context));
        if let Some(Ok(delivery)) = &item {
            this.hand_out(delivery);
        }
        Poll::Ready(item)
    }
}
