//! Appends that wait for facts, or for an earlier append.
//!
//! Every message stands in one queue per key: its streams, its event ids, its connection. It may be
//! decided when it is at the front of all of them and nothing it needs is unknown. So a connection
//! keeps its order, two appends that share a key keep theirs, and all others overtake.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use actadb_model::names::StreamId;
use actadb_model::transaction::Transaction;
use foldhash::fast::RandomState;
use smallvec::SmallVec;
use uuid::Uuid;

use crate::message::Token;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Queue {
    Connection(u64),
    Stream(StreamId),
    EventId(Uuid),
}

/// A message from a door, with the keys its decision needs.
#[derive(Debug)]
pub(crate) struct Message {
    pub(crate) token: Token,
    pub(crate) connection: u64,
    pub(crate) since_ns: u64,
    pub(crate) transactions: Vec<Transaction>,
    /// Each once.
    pub(crate) streams: SmallVec<[StreamId; 1]>,
    pub(crate) event_ids: SmallVec<[Uuid; 1]>,
}

impl Message {
    pub(crate) fn new(
        token: Token,
        connection: u64,
        since_ns: u64,
        transactions: Vec<Transaction>,
    ) -> Self {
        let events = || transactions.iter().flat_map(Transaction::events);
        let mut streams: SmallVec<[StreamId; 1]> =
            events().map(|event| event.stream.clone()).collect();
        let mut event_ids: SmallVec<[Uuid; 1]> = events().filter_map(|event| event.id).collect();
        streams.sort_unstable();
        streams.dedup();
        event_ids.sort_unstable();
        event_ids.dedup();
        Self { token, connection, since_ns, transactions, streams, event_ids }
    }

    fn queues(&self) -> impl Iterator<Item = Queue> {
        let streams = self.streams.iter().cloned().map(Queue::Stream);
        let ids = self.event_ids.iter().copied().map(Queue::EventId);
        std::iter::once(Queue::Connection(self.connection)).chain(streams).chain(ids)
    }
}

/// The parked messages.
#[derive(Debug, Default)]
pub(crate) struct Parking {
    messages: BTreeMap<u64, Parked>,
    queues: HashMap<Queue, Line, RandomState>,
    next_ticket: u64,
}

/// Those who stand in a queue; nearly always it is one.
#[derive(Debug)]
struct Line {
    first: u64,
    behind: VecDeque<u64>,
}

#[derive(Debug)]
struct Parked {
    message: Message,
    /// Whether a question of its is out.
    asking: bool,
}

impl Parking {
    /// Whether a message would have to wait behind another one.
    pub(crate) fn blocks(&self, message: &Message) -> bool {
        !self.messages.is_empty() && message.queues().any(|queue| self.queues.contains_key(&queue))
    }

    pub(crate) fn park(&mut self, message: Message) -> u64 {
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        for queue in message.queues() {
            match self.queues.entry(queue) {
                Entry::Occupied(mut line) => line.get_mut().behind.push_back(ticket),
                Entry::Vacant(none) => {
                    none.insert(Line { first: ticket, behind: VecDeque::new() });
                }
            }
        }
        self.messages.insert(ticket, Parked { message, asking: false });
        ticket
    }

    pub(crate) fn get(&self, ticket: u64) -> Option<&Message> {
        self.messages.get(&ticket).map(|parked| &parked.message)
    }

    /// Whether it is at the front of all its queues and no question of its is out.
    pub(crate) fn is_next(&self, ticket: u64) -> bool {
        let Some(parked) = self.messages.get(&ticket) else { return false };
        let front = |queue| self.queues.get(&queue).is_some_and(|line| line.first == ticket);
        !parked.asking && parked.message.queues().all(front)
    }

    pub(crate) fn set_asking(&mut self, ticket: u64, asking: bool) {
        if let Some(parked) = self.messages.get_mut(&ticket) {
            parked.asking = asking;
        }
    }

    /// Takes a message out; answers it and the tickets that stood behind it.
    pub(crate) fn take(&mut self, ticket: u64) -> Option<(Message, BTreeSet<u64>)> {
        let message = self.messages.remove(&ticket)?.message;
        let mut behind = BTreeSet::new();
        for queue in message.queues() {
            let Entry::Occupied(mut entry) = self.queues.entry(queue) else { continue };
            let line = entry.get_mut();
            if line.first != ticket {
                line.behind.retain(|other| *other != ticket);
            } else if let Some(next) = line.behind.pop_front() {
                // Nearly always: an append leaves from the front, or all leave in order.
                line.first = next;
            } else {
                entry.remove();
                continue;
            }
            behind.insert(line.first);
        }
        Some((message, behind))
    }

    /// Whether a parked message needs a stream.
    pub(crate) fn needs_stream(&self, stream: &StreamId) -> bool {
        self.queues.contains_key(&Queue::Stream(stream.clone()))
    }

    /// All tickets in order of arrival.
    pub(crate) fn tickets(&self) -> Vec<u64> {
        self.messages.keys().copied().collect()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.messages.len()
    }
}
