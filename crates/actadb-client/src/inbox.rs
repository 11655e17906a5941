//! Where the pushes of a connection arrive.
//!
//! redis-rs takes pushes off the socket as they come, so the queue here has no limit of its own:
//! the subscription's window bounds its events, and progresses that nobody has read become one.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use redis::aio::{AsyncPushSender, SendError};
use redis::{PushInfo, PushKind, Value};
use tokio::sync::Notify;
use uuid::Uuid;

use crate::error::Error;
use crate::event::Event;
use crate::reply;

/// What the server sends without being asked.
#[derive(Debug)]
pub(crate) enum Push {
    /// An event.
    Message { subscription: Uuid, cursor: u64, event: Event },
    /// How far the subscription has looked: next positions by stream or partition.
    Progress { subscription: Uuid, cursor: u64, positions: BTreeMap<String, u64> },
    /// The subscription is over.
    Closed { subscription: Uuid, why: Error },
    /// Something that cannot be read.
    Bad(Error),
}

/// The reading end.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    state: Mutex<State>,
    bell: Notify,
}

#[derive(Debug, Default)]
struct State {
    pushes: VecDeque<Push>,
    closed: bool,
}

impl Inbox {
    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it is held.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next push; `None` when the connection is gone and everything was read.
    pub(crate) async fn next(&self) -> Option<Push> {
        loop {
            {
                let mut state = self.state();
                if let Some(push) = state.pushes.pop_front() {
                    return Some(push);
                }
                if state.closed {
                    return None;
                }
            }
            // There is one reader: what comes now leaves a permit.
            self.bell.notified().await;
        }
    }
}

/// The writing end: lives as long as the connection.
#[derive(Debug)]
pub(crate) struct PushWriter(Arc<Inbox>);

impl PushWriter {
    pub(crate) fn new(inbox: Arc<Inbox>) -> Self {
        Self(inbox)
    }

    fn push(&self, PushInfo { kind, data }: PushInfo) {
        let push = match kind {
            PushKind::Disconnection => return self.close(),
            PushKind::Message => message(data),
            PushKind::Other(kind) if kind == "progress" => progress(data),
            PushKind::Other(kind) if kind == "closed" => closed(data),
            // Of a newer server: nothing that concerns events.
            _ => return,
        };
        let push = push.unwrap_or_else(Push::Bad);
        let mut state = self.0.state();
        match (state.pushes.back_mut(), push) {
            (
                Some(Push::Progress { subscription: last, cursor, positions }),
                Push::Progress { subscription, cursor: newer, positions: moved },
            ) if *last == subscription => {
                *cursor = newer;
                positions.extend(moved);
            }
            (_, push) => state.pushes.push_back(push),
        }
        drop(state);
        self.0.bell.notify_one();
    }

    fn close(&self) {
        self.0.state().closed = true;
        self.0.bell.notify_one();
    }
}

impl AsyncPushSender for PushWriter {
    fn send(&self, info: PushInfo) -> Result<(), SendError> {
        self.push(info);
        Ok(())
    }
}

impl Drop for PushWriter {
    fn drop(&mut self) {
        self.close();
    }
}

fn parts<const N: usize>(data: Vec<Value>) -> Result<[Value; N], Error> {
    let length = data.len();
    data.try_into().map_err(|_| Error::Protocol(format!("a push with {length} parts")))
}

fn message(data: Vec<Value>) -> Result<Push, Error> {
    let [subscription, cursor, event] = parts(data)?;
    Ok(Push::Message {
        subscription: reply::uuid(&subscription)?,
        cursor: reply::number(&cursor)?,
        event: reply::event(event)?,
    })
}

fn progress(data: Vec<Value>) -> Result<Push, Error> {
    let [subscription, cursor, positions] = parts(data)?;
    let Value::Map(positions) = positions else {
        return Err(Error::Protocol("a progress without positions".into()));
    };
    let one = |(source, next): (Value, Value)| {
        let source = match source {
            Value::Int(partition) => partition.to_string(),
            stream => reply::text(stream)?,
        };
        Ok((source, reply::number(&next)?))
    };
    Ok(Push::Progress {
        subscription: reply::uuid(&subscription)?,
        cursor: reply::number(&cursor)?,
        positions: positions.into_iter().map(one).collect::<Result<_, _>>()?,
    })
}

fn closed(data: Vec<Value>) -> Result<Push, Error> {
    let [subscription, why] = parts(data)?;
    let subscription = reply::uuid(&subscription)?;
    Ok(Push::Closed { subscription, why: Error::line(&reply::text(why)?) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(subscription: Uuid, cursor: i64, partition: i64, next: i64) -> PushInfo {
        let id = Value::SimpleString(subscription.to_string());
        let positions = Value::Map(vec![(Value::Int(partition), Value::Int(next))]);
        let data = vec![id, Value::Int(cursor), positions];
        PushInfo { kind: PushKind::Other("progress".into()), data }
    }

    #[tokio::test]
    async fn progresses_nobody_read_become_one() {
        let inbox = Arc::new(Inbox::default());
        let writer = PushWriter::new(inbox.clone());
        let id = Uuid::from_u128(1);
        for (cursor, partition, next) in [(4, 1, 5), (6, 2, 3), (9, 1, 8)] {
            writer.push(told(id, cursor, partition, next));
        }
        writer.push(PushInfo { kind: PushKind::Other("news".into()), data: Vec::new() });
        writer.push(PushInfo { kind: PushKind::Message, data: Vec::new() });
        drop(writer);
        let Some(Push::Progress { subscription, cursor, positions }) = inbox.next().await else {
            panic!("no progress")
        };
        assert_eq!((subscription, cursor), (id, 9));
        assert_eq!(positions, BTreeMap::from([("1".to_owned(), 8), ("2".to_owned(), 3)]));
        assert!(matches!(inbox.next().await, Some(Push::Bad(_))));
        assert!(inbox.next().await.is_none());
        assert!(inbox.next().await.is_none());
    }
}
