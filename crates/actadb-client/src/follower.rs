//! The task behind a subscription: reads its connection, and makes it anew when it broke.

use std::sync::Arc;

use redis::{RedisError, Value, cmd};
use tokio::sync::{mpsc, watch};
use tokio::time::sleep;
use uuid::Uuid;

use crate::checkpoint::Checkpoint;
use crate::client::Client;
use crate::connection::{Connection, Failure};
use crate::error::Error;
use crate::follow::{Follow, From, Source};
use crate::inbox::{Inbox, Push};
use crate::reply;
use crate::retry::Backoff;
use crate::subscription::{Cursor, Delivery};

/// Reads one subscription for as long as somebody wants it.
///
/// Invariant: `checkpoint` stands behind the last delivery that was sent to the reader. A new
/// connection begins there, so the reader never sees that there was one.
pub(crate) struct Follower {
    client: Client,
    follow: Follow,
    sources: Vec<Source>,
    window: u32,
    checkpoint: Checkpoint,
    items: mpsc::Sender<Result<Delivery, Error>>,
    acks: watch::Receiver<Option<Cursor>>,
}

/// A connection with a subscription on it.
pub(crate) struct Session {
    connection: Connection,
    inbox: Arc<Inbox>,
    subscription: Uuid,
}

/// Why a session is over.
enum End {
    /// The connection, or the server for now.
    Lost,
    /// For good.
    Failed(Error),
}

impl Follower {
    /// Subscribes for the first time.
    pub(crate) async fn begin(
        client: Client,
        follow: Follow,
        window: u32,
        items: mpsc::Sender<Result<Delivery, Error>>,
        acks: watch::Receiver<Option<Cursor>>,
    ) -> Result<(Self, Session), Error> {
        let sources = follow.sources(client.inner.partitions)?;
        // Positions are fixed before the first connection: one that breaks before the first event
        // must not move the beginning.
        let checkpoint = match &follow.from {
            From::Latest => client.ends(&sources).await?,
            From::Checkpoint(checkpoint) => checkpoint.clone(),
        };
        let mut backoff = Backoff::within(client.inner.options.retry_timeout);
        let follower = Self { client, follow, sources, window, checkpoint, items, acks };
        let session = follower.subscribe(&mut backoff).await?;
        Ok((follower, session))
    }

    pub(crate) fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// Reads until nobody wants it any more.
    pub(crate) async fn run(self, session: Session) {
        let items = self.items.clone();
        tokio::select! {
            () = self.read(session) => {}
            () = items.closed() => {}
        }
    }

    async fn read(mut self, mut session: Session) {
        let mut backoff = Backoff::endless();
        loop {
            let before = self.checkpoint.clone();
            if let End::Failed(error) = self.read_session(&mut session).await {
                let _ = self.items.send(Err(error)).await;
                return;
            }
            if self.checkpoint != before {
                backoff.reset();
            }
            backoff.pause().await;
            session = match self.subscribe(&mut backoff).await {
                Ok(session) => session,
                Err(error) => {
                    let _ = self.items.send(Err(error)).await;
                    return;
                }
            };
        }
    }

    /// Connects and subscribes, again if need be.
    async fn subscribe(&self, backoff: &mut Backoff) -> Result<Session, Error> {
        loop {
            let error = match self.try_to_subscribe().await {
                Ok(session) => return Ok(session),
                Err(error) => error,
            };
            if !error.is_transient() || !backoff.pause().await {
                return Err(error);
            }
        }
    }

    async fn try_to_subscribe(&self) -> Result<Session, Error> {
        let connector = self.client.inner.link.connector();
        let (mut connection, inbox) = connector.connect_for_pushes().await?;
        let command = self.follow.command(&self.sources, &self.checkpoint, self.window);
        let answer: Result<Value, RedisError> = command.query_async(&mut connection.redis).await;
        let id = answer.map_err(|error| {
            let error = connector.failure(&error, connection.moves).error;
            if error.asks_elsewhere() {
                connector.leave(connection.moves);
            }
            error
        })?;
        Ok(Session { connection, inbox, subscription: reply::uuid(&id)? })
    }

    async fn read_session(&mut self, session: &mut Session) -> End {
        let ping_interval = self.client.inner.options.ping_interval;
        loop {
            tokio::select! {
                push = session.inbox.next() => match push {
                    Some(push) => {
                        if let Some(end) = self.take(session.subscription, push).await {
                            return end;
                        }
                    }
                    None => return End::Lost,
                },
                Ok(()) = self.acks.changed() => {
                    let cursor = *self.acks.borrow_and_update();
                    if let Some(cursor) = cursor
                        && session.acknowledge(cursor).await.is_err()
                    {
                        return End::Lost;
                    }
                }
                () = sleep(ping_interval) => {
                    if !self.is_alive(session).await {
                        return End::Lost;
                    }
                }
            }
        }
    }

    /// Whether a session that is silent has nothing to tell. One of several nodes is asked what
    /// only a majority knows: cut off from the others it would be silent for ever.
    async fn is_alive(&self, session: &mut Session) -> bool {
        let connector = self.client.inner.link.connector();
        let command = match self.sources.first() {
            Some(source) if connector.has_several() => source.end_command(),
            _ => cmd("PING"),
        };
        let Connection { redis, moves } = &mut session.connection;
        let Err(error) = command.query_async::<Value>(redis).await else { return true };
        let Failure { error, lost } = connector.failure(&error, *moves);
        if error.asks_elsewhere() {
            connector.leave(*moves);
            return false;
        }
        !lost
    }

    /// Passes a push on to the reader.
    async fn take(&mut self, current: Uuid, push: Push) -> Option<End> {
        let delivery = match push {
            Push::Message { subscription, cursor, event } if subscription == current => {
                let moved = self.follow.behind(&event);
                let cursor = Cursor { subscription, value: cursor };
                Delivery::Event { event, cursor, moved }
            }
            Push::Progress { subscription, cursor, positions } if subscription == current => {
                let cursor = Cursor { subscription, value: cursor };
                Delivery::Progress { cursor, moved: positions.into_iter().collect() }
            }
            Push::Closed { subscription, why } if subscription == current => {
                return Some(if why.is_transient() { End::Lost } else { End::Failed(why) });
            }
            Push::Bad(error) => return Some(End::Failed(error)),
            Push::Message { .. } | Push::Progress { .. } | Push::Closed { .. } => return None,
        };
        for (source, next) in delivery.moved() {
            self.checkpoint.set(source, *next);
        }
        // A reader that is gone ends the task from outside.
        let _ = self.items.send(Ok(delivery)).await;
        None
    }
}

impl Session {
    /// Sends it and does not wait for the answer: it changes nothing here.
    async fn acknowledge(&mut self, cursor: Cursor) -> Result<(), RedisError> {
        if cursor.subscription != self.subscription {
            return Ok(());
        }
        let mut command = cmd("EACK");
        command.arg(cursor.subscription.to_string()).arg(cursor.value);
        command.set_no_response(true).exec_async(&mut self.connection.redis).await
    }
}
