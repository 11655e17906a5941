//! The subscriptions of one connection: begun and ended by its commands, written between its
//! replies.

use std::collections::BTreeMap;

use actadb::database::Database;
use actadb::model::limits::{PROGRESS_EVENTS_DEFAULT, SUBSCRIPTIONS_PER_CONNECTION_MAX};
use actadb::subscriptions::{
    AheadOfSent, Arrival, EndReason, Filter, From, Inlet, Notice, Source, Subscribe,
    SubscribeError, SubscriptionHandle, Topics,
};
use actadb_protocol::args::PartitionSelector;
use actadb_protocol::error::{Code, ErrorReply};
use actadb_protocol::push::{Position, write_closed, write_message, write_progress};
use actadb_protocol::reply::{Protocol, Reply};
use actadb_protocol::request::Request;
use actadb_protocol::subscribe::{self as wire, Partitions, SubscribeOptions};
use bytes::BytesMut;
use uuid::Uuid;

use crate::answer::read_error;

/// What a connection follows.
#[derive(Debug, Default)]
pub struct Following {
    handles: BTreeMap<Uuid, SubscriptionHandle>,
    /// Made with the first subscription: most connections never have one.
    inlet: Option<Inlet>,
}

impl Following {
    /// Whether it follows nothing.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.handles.is_empty()
    }

    /// Ends everything.
    pub fn clear(&mut self) {
        self.handles.clear();
        self.inlet = None;
    }

    /// Waits for something to write; for ever when nothing is followed.
    pub async fn next(&mut self) -> Arrival {
        match &mut self.inlet {
            Some(inlet) => inlet.next().await,
            None => std::future::pending().await,
        }
    }

    /// Writes what has arrived, and what else is there, up to about `limit` bytes.
    pub fn write(&mut self, first: Arrival, limit: usize, out: &mut BytesMut) {
        let mut arrival = Some(first);
        while let Some(next) = arrival.take() {
            self.write_one(next, out);
            if out.len() < limit {
                arrival = self.inlet.as_mut().and_then(Inlet::try_next);
            }
        }
    }

    /// Writes what has arrived, up to about `limit` bytes in `out`.
    pub fn write_ready(&mut self, limit: usize, out: &mut BytesMut) {
        while out.len() < limit {
            let Some(arrival) = self.inlet.as_mut().and_then(Inlet::try_next) else { return };
            self.write_one(arrival, out);
        }
    }

    /// Writes what is there when the connection ends.
    pub fn write_rest(&mut self, out: &mut BytesMut) {
        while let Some(arrival) = self.inlet.as_mut().and_then(Inlet::try_next) {
            self.write_one(arrival, out);
        }
    }

    fn write_one(&mut self, arrival: Arrival, out: &mut BytesMut) {
        match arrival {
            // Of one that was ended meanwhile nothing more may be heard.
            Arrival::Notice(id, notice) if self.handles.contains_key(&id) => {
                write_notice(id, &notice, out);
            }
            Arrival::Notice(..) => {}
            Arrival::Ended(id, reason) => {
                if self.handles.remove(&id).is_some() {
                    write_closed(id, &end_error(&reason), out);
                }
            }
        }
    }

    /// Carries out `ESUB`, `EPSUB`, `EACK` or `EUNSUB`.
    pub async fn perform(
        &mut self,
        request: Request,
        protocol: Protocol,
        database: &Database,
    ) -> Reply {
        let reply = match request {
            Request::SubscribeStreams(subscription) => {
                let topics = Topics::Streams(subscription.streams);
                self.subscribe("ESUB", topics, subscription.options, protocol, database).await
            }
            Request::SubscribePartitions(subscription) => {
                let topics = match subscription.partitions {
                    Partitions::All => Topics::All,
                    Partitions::Several(several) => {
                        Topics::Partitions(several.into_iter().collect())
                    }
                    Partitions::One(PartitionSelector::Id(id)) => Topics::Partition(id),
                    Partitions::One(PartitionSelector::Key(key)) => {
                        Topics::Partition(database.partitioning().partition_of(key))
                    }
                };
                self.subscribe("EPSUB", topics, subscription.options, protocol, database).await
            }
            Request::Acknowledge(id, cursor) => match self.handles.get(&id) {
                Some(handle) => {
                    handle.ack(cursor).await.map(|()| Reply::ok()).map_err(|a| ahead(cursor, a))
                }
                None => Err(unknown(id)),
            },
            Request::Unsubscribe(id) => match self.handles.remove(&id) {
                Some(handle) => {
                    drop(handle);
                    if self.handles.is_empty() {
                        // What is still in it is of nobody.
                        self.inlet = None;
                    }
                    Ok(Reply::ok())
                }
                None => Err(unknown(id)),
            },
            _ => Err(ErrorReply::new(Code::Err, "not a command about subscriptions")),
        };
        reply.unwrap_or_else(Reply::Error)
    }

    async fn subscribe(
        &mut self,
        command: &str,
        topics: Topics,
        options: SubscribeOptions,
        protocol: Protocol,
        database: &Database,
    ) -> Result<Reply, ErrorReply> {
        if protocol == Protocol::Resp2 {
            let instead = if command == "ESUB" { "ESCAN" } else { "EPSCAN" };
            let text = format!(
                "{command} pushes events and needs RESP3: say HELLO 3 first, or follow with \
                 {instead} ... BLOCK"
            );
            return Err(ErrorReply::new(Code::Err, text));
        }
        if self.handles.len() >= SUBSCRIPTIONS_PER_CONNECTION_MAX {
            return Err(subscribe_error(&SubscribeError::TooMany));
        }
        let SubscribeOptions { from, window, names, prefix, progress } = options;
        let mut filter = Filter::all();
        if let Some(names) = names {
            filter = filter.names(names);
        }
        if let Some(prefix) = prefix {
            filter = filter.prefix(prefix);
        }
        let subscribe = Subscribe {
            topics,
            from: match from {
                wire::From::Latest => From::Latest,
                wire::From::At(position) => From::At(position),
                wire::From::Map { positions, rest } => From::Map { positions, rest },
            },
            window,
            filter,
            progress_events: progress.unwrap_or(PROGRESS_EVENTS_DEFAULT),
        };
        let outlet = self.inlet.get_or_insert_default().outlet();
        let handle = database.subscribe_to(subscribe, outlet).await;
        let handle = handle.map_err(|error| subscribe_error(&error))?;
        let id = handle.id();
        self.handles.insert(id, handle);
        Ok(Reply::Simple(id.to_string().into()))
    }
}

fn write_notice(id: Uuid, notice: &Notice, out: &mut BytesMut) {
    match notice {
        Notice::Events(deliveries) => {
            for delivery in deliveries {
                write_message(id, delivery.cursor, &delivery.event.as_ref(), out);
            }
        }
        Notice::Progress { cursor, positions } => {
            let positions = positions.iter().map(|(source, next)| match source {
                Source::Stream(stream, _) => (Position::Stream(stream.as_str()), *next),
                Source::Partition(partition) => (Position::Partition(partition.0), *next),
            });
            write_progress(id, *cursor, positions, out);
        }
    }
}

fn unknown(id: Uuid) -> ErrorReply {
    ErrorReply::new(Code::NotFound, format!("this connection has no subscription {id}"))
}

fn ahead(cursor: u64, AheadOfSent { last }: AheadOfSent) -> ErrorReply {
    let last = last.map_or("nothing was sent yet".into(), |last| format!("the last is {last}"));
    ErrorReply::invalid(format!("cursor {cursor} is ahead of what was sent ({last})"))
}

fn subscribe_error(error: &SubscribeError) -> ErrorReply {
    match error {
        SubscribeError::Read(error) => read_error(error),
        SubscribeError::TooMany | SubscribeError::TooManyOfAll => {
            ErrorReply::new(Code::Err, error.to_string())
        }
        _ => ErrorReply::invalid(error.to_string()),
    }
}

fn end_error(reason: &EndReason) -> ErrorReply {
    match reason {
        EndReason::Read(error) => read_error(error),
        EndReason::Stopping => ErrorReply::new(Code::TryAgain, reason.to_string()),
        EndReason::Panicked => ErrorReply::new(Code::ReadErr, reason.to_string()),
    }
}
