//! The streams that a benchmark works on: their names, filling them, removing them.

use actadb::model::ids::PartitionKey;
use uuid::Uuid;

use super::commands::payload;
use super::{BenchArgs, BenchError, Mode};
use crate::wire_client::{Digits, Value, WireClient};

/// Most streams: their numbers have eight digits, and each is kept in memory.
pub(super) const STREAMS_MAX: usize = 10_000_000;
/// Digits of a stream's number in its name.
const DIGITS: usize = 8;
/// Events that a stream is filled up to before it is read, when the user does not say.
const EVENTS_DEFAULT: u64 = 1000;
/// Most ids of events that are looked up.
const IDS_MAX: usize = 100_000;
/// Events of a page while they are.
const PAGE_EVENTS: u64 = 1000;
/// Filling: most events in flight.
const WINDOW_EVENTS: u64 = 256;
/// Filling: most payload bytes in flight.
const WINDOW_BYTES: usize = 4 << 20;

/// One stream as a connection uses it.
#[derive(Clone, Debug)]
pub(super) struct Stream {
    /// The last part of its name.
    pub(super) digits: [u8; DIGITS],
    /// Its partition key as text.
    pub(super) key: [u8; 36],
    /// How many events it has.
    pub(super) events: u64,
}

/// All streams of a run: a common prefix and a number.
#[derive(Debug, Default)]
pub(super) struct Streams {
    prefix: String,
    events: Vec<u64>,
    /// Ids of events in them.
    ids: Vec<EventId>,
}

/// The id of an event as text.
pub(super) type EventId = [u8; 36];

impl Streams {
    /// Names the streams; those that are to be read are filled up first.
    ///
    /// Appends go to new streams in every run. Reads find the streams of earlier runs with the
    /// same payload size again.
    pub(super) async fn prepare(
        args: &BenchArgs,
        client: &mut WireClient,
    ) -> Result<Self, BenchError> {
        match args.mode {
            Mode::Ping => Ok(Self::default()),
            Mode::Append => {
                let run = Uuid::new_v4().simple().to_string();
                Ok(Self::named(args, &format!("bench-{}-", &run[..12])))
            }
            Mode::Read | Mode::Get => {
                let mut streams = Self::named(args, &format!("bench-read-{}-", args.payload_bytes));
                streams.fill(args, client).await?;
                if args.mode == Mode::Get {
                    streams.look_up_ids(client).await?;
                }
                Ok(streams)
            }
        }
    }

    /// Streams without events.
    pub(super) fn named(args: &BenchArgs, prefix: &str) -> Self {
        let count = args.streams.unwrap_or(args.connections);
        Self { prefix: prefix.into(), events: vec![0; count], ids: Vec::new() }
    }

    /// Ids of events that are there.
    pub(super) fn ids(&self) -> &[EventId] {
        &self.ids
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.events.len()
    }

    /// What all names begin with.
    pub(super) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The length of every name.
    pub(super) fn name_bytes(&self) -> usize {
        self.prefix.len() + DIGITS
    }

    /// The streams of one of `lanes` connections.
    pub(super) fn of_lane(&self, lane: usize, lanes: usize) -> Vec<Stream> {
        let count = self.len();
        let first = if count == 0 { 0 } else { lane % count };
        (first..count).step_by(lanes).map(|number| self.stream(number)).collect()
    }

    fn name(&self, number: usize) -> String {
        format!("{}{number:0width$}", self.prefix, width = DIGITS)
    }

    fn stream(&self, number: usize) -> Stream {
        let name = self.name(number);
        let mut stream = Stream { digits: [b'0'; DIGITS], key: [0; 36], events: 0 };
        stream.digits.copy_from_slice(&name.as_bytes()[self.prefix.len()..]);
        PartitionKey::of_stream(&name).uuid().hyphenated().encode_lower(&mut stream.key);
        stream.events = self.events[number];
        stream
    }

    async fn fill(&mut self, args: &BenchArgs, client: &mut WireClient) -> Result<(), BenchError> {
        let wanted = args.stream_events.unwrap_or(EVENTS_DEFAULT).max(args.count as u64);
        let payload = payload(args.payload_bytes);
        let window = (WINDOW_BYTES / args.payload_bytes.max(1)).max(1) as u64;
        let window = window.min(WINDOW_EVENTS);
        for number in 0..self.len() {
            let name = self.name(number);
            let mut events = length(client, args.redis, &name).await?;
            while events < wanted {
                let until = wanted.min(events + window);
                for event in events..until {
                    queue_event(client, args.redis, &name, event, &payload);
                }
                for _ in events..until {
                    if let Value::Error(text) = client.reply().await? {
                        return Err(BenchError::Preparing(text));
                    }
                }
                events = until;
            }
            self.events[number] = events;
        }
        Ok(())
    }

    async fn look_up_ids(&mut self, client: &mut WireClient) -> Result<(), BenchError> {
        for number in 0..self.len() {
            let name = self.name(number);
            let mut from = 0;
            while from < self.events[number] && self.ids.len() < IDS_MAX {
                let (start, count) = (Digits::of(from), Digits::of(PAGE_EVENTS));
                let words: [&[u8]; 6] =
                    [b"ESCAN", name.as_bytes(), start.bytes(), b"+", b"COUNT", count.bytes()];
                let page = match client.call(&words).await? {
                    Value::Error(text) => return Err(BenchError::Preparing(text)),
                    page => page,
                };
                let Some(Value::Array(events)) = page.get("events") else {
                    return Err(BenchError::Preparing(format!("a page of {page:?}")));
                };
                let ids = events.iter().filter_map(|event| event.get("event_id")?.text());
                self.ids.extend(ids.filter_map(|id| EventId::try_from(id.as_bytes()).ok()));
                from += PAGE_EVENTS;
            }
        }
        if self.ids.is_empty() {
            return Err(BenchError::Preparing("no event has an id".into()));
        }
        Ok(())
    }

    /// Gives the memory of the streams back to a Redis server.
    pub(super) async fn remove(&self, client: &mut WireClient) -> Result<(), BenchError> {
        let numbers: Vec<_> = (0..self.len()).collect();
        for some in numbers.chunks(1000) {
            let names: Vec<_> = some.iter().map(|number| self.name(*number)).collect();
            let mut command: Vec<&[u8]> = vec![b"UNLINK"];
            command.extend(names.iter().map(String::as_bytes));
            client.call(&command).await?;
        }
        Ok(())
    }
}

/// How many events a stream has.
async fn length(client: &mut WireClient, redis: bool, name: &str) -> Result<u64, BenchError> {
    let command: &[u8] = if redis { b"XLEN" } else { b"ESVER" };
    match client.call(&[command, name.as_bytes()]).await? {
        Value::Null => Ok(0),
        Value::Integer(number) => {
            let number = u64::try_from(number).unwrap_or(0);
            Ok(if redis { number } else { number.saturating_add(1) })
        }
        Value::Error(text) => Err(BenchError::Preparing(text)),
        other => Err(BenchError::Preparing(format!("a length of {other:?}"))),
    }
}

/// Redis gets ids that count from 1, so that a number is a place in its stream, too.
fn queue_event(client: &mut WireClient, redis: bool, name: &str, event: u64, payload: &[u8]) {
    let name = name.as_bytes();
    if redis {
        let id = Digits::of(event + 1);
        client.queue(&[b"XADD", name, id.bytes(), b"name", b"Benched", b"payload", payload]);
    } else {
        client.queue(&[b"EAPPEND", name, b"Benched", b"PAYLOAD", payload]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::arguments;

    fn digits(streams: &Streams, lane: usize, lanes: usize) -> Vec<String> {
        let streams = streams.of_lane(lane, lanes);
        streams.iter().map(|s| String::from_utf8_lossy(&s.digits[6..]).into_owned()).collect()
    }

    #[test]
    fn every_stream_has_one_connection_unless_there_are_too_few() {
        let streams = Streams::named(&arguments("append --streams 5"), "t-");
        assert_eq!(digits(&streams, 0, 2), ["00", "02", "04"]);
        assert_eq!(digits(&streams, 1, 2), ["01", "03"]);
        let streams = Streams::named(&arguments("append --streams 2"), "t-");
        assert_eq!(digits(&streams, 3, 8), ["01"]);
        assert_eq!(streams.name(1).len(), streams.name_bytes());
    }
}
