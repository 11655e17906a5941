//! What a connection sends: commands put together from prebuilt bytes.
//!
//! A command differs from the one before only in its stream, its partition key and one number, so
//! a [`Template`] holds everything between those places once, for all connections.

use std::sync::Arc;

use actadb::model::dice::SplitMix64;
use bytes::{BufMut, BytesMut};

use super::streams::{EventId, Stream, Streams};
use super::{BenchArgs, Mode};
use crate::wire_client::{Digits, put_bulk, put_command, put_length};

/// Name of the events that are appended.
const EVENT_NAME: &[u8] = b"Benched";

/// The number in a command that changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Number {
    None,
    /// The expected version: `empty`, then 0, 1, …
    Expected,
    /// A random start from which a whole page follows.
    Start,
}

/// How the events of an operation are counted from its reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Counted {
    /// So many when it succeeds.
    Fixed(u64),
    /// The elements of the reply.
    Items,
    /// The elements of the lists inside of the reply.
    InnerItems,
}

/// One operation in bytes: `head`, then for each event `before`, the stream's number, `between`,
/// the changing number, `after`; then `end`.
#[derive(Debug)]
pub(super) struct Template {
    head: BytesMut,
    keyed: bool,
    events: usize,
    before: BytesMut,
    between: BytesMut,
    number: Number,
    after: BytesMut,
    end: BytesMut,
    page: u64,
    /// One of these goes behind the head.
    ids: Vec<EventId>,
    /// Replies of one operation.
    pub(super) replies: u32,
    /// How its events are counted.
    pub(super) counted: Counted,
}

impl Template {
    fn new(counted: Counted) -> Self {
        Self {
            head: BytesMut::new(),
            keyed: false,
            events: 1,
            before: BytesMut::new(),
            between: BytesMut::new(),
            number: Number::None,
            after: BytesMut::new(),
            end: BytesMut::new(),
            page: 0,
            ids: Vec::new(),
            replies: 1,
            counted,
        }
    }
}

/// The template of an operation.
pub(super) fn template(args: &BenchArgs, streams: &Streams) -> Template {
    match (args.mode, args.redis) {
        (Mode::Ping, _) => ping(),
        (Mode::Get, _) => get(streams),
        (Mode::Read, false) => read(args, streams, b"ESCAN", Counted::InnerItems),
        (Mode::Read, true) => read(args, streams, b"XRANGE", Counted::Items),
        (Mode::Append, false) => append(args, streams),
        (Mode::Append, true) => redis_append(args, streams),
    }
}

fn ping() -> Template {
    let mut template = Template::new(Counted::Fixed(0));
    put_command(&mut template.head, &[b"PING"]);
    template.events = 0;
    template
}

fn get(streams: &Streams) -> Template {
    let mut template = Template::new(Counted::Fixed(1));
    put_length(&mut template.head, b'*', 2);
    put_bulk(&mut template.head, b"EGET");
    template.events = 0;
    template.ids = streams.ids().to_vec();
    template
}

/// A bulk string up to the number of the stream.
fn put_stream(out: &mut BytesMut, streams: &Streams) {
    put_length(out, b'$', streams.name_bytes());
    out.put_slice(streams.prefix().as_bytes());
}

fn read(args: &BenchArgs, streams: &Streams, command: &[u8], counted: Counted) -> Template {
    let mut template = Template::new(counted);
    put_length(&mut template.before, b'*', 6);
    put_bulk(&mut template.before, command);
    put_stream(&mut template.before, streams);
    template.between.put_slice(b"\r\n");
    template.number = Number::Start;
    for argument in [b"+".as_slice(), b"COUNT", Digits::of(args.count as u64).bytes()] {
        put_bulk(&mut template.after, argument);
    }
    template.page = args.count as u64;
    template
}

fn append(args: &BenchArgs, streams: &Streams) -> Template {
    let mut template = Template::new(Counted::Fixed(args.batch as u64));
    let per_event = if args.expected { 6 } else { 4 };
    if args.batch == 1 {
        put_length(&mut template.before, b'*', 1 + per_event);
        put_bulk(&mut template.before, b"EAPPEND");
    } else {
        put_length(&mut template.head, b'*', 2 + args.batch * per_event);
        put_bulk(&mut template.head, b"EMAPPEND");
        template.keyed = true;
        template.events = args.batch;
    }
    put_stream(&mut template.before, streams);
    template.between.put_slice(b"\r\n");
    put_bulk(&mut template.between, EVENT_NAME);
    if args.expected {
        put_bulk(&mut template.between, b"EXPECTED_VERSION");
        template.number = Number::Expected;
    }
    put_bulk(&mut template.after, b"PAYLOAD");
    put_bulk(&mut template.after, &payload(args.payload_bytes));
    template
}

fn redis_append(args: &BenchArgs, streams: &Streams) -> Template {
    let mut template = Template::new(Counted::Fixed(args.batch as u64));
    if args.batch > 1 {
        put_command(&mut template.head, &[b"MULTI"]);
        put_command(&mut template.end, &[b"EXEC"]);
        template.events = args.batch;
        // OK, QUEUED for each, and the list of the results.
        template.replies = args.batch as u32 + 2;
    }
    put_length(&mut template.before, b'*', 7);
    put_bulk(&mut template.before, b"XADD");
    put_stream(&mut template.before, streams);
    template.between.put_slice(b"\r\n");
    for argument in [b"*".as_slice(), b"name", EVENT_NAME, b"payload"] {
        put_bulk(&mut template.after, argument);
    }
    put_bulk(&mut template.after, &payload(args.payload_bytes));
    template
}

/// Random letters and digits, the same in every run.
pub(super) fn payload(bytes: usize) -> Vec<u8> {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut dice = SplitMix64::new(0xac7a);
    (0..bytes).map(|_| ALPHABET[(dice.draw() % 64) as usize]).collect()
}

/// The commands of one connection, stream by stream.
#[derive(Debug)]
pub(super) struct Commands {
    template: Arc<Template>,
    streams: Vec<Stream>,
    next: usize,
    dice: SplitMix64,
}

impl Commands {
    /// The commands of one of `lanes` connections. Every stream belongs to one connection, unless
    /// there are fewer streams than connections.
    pub(super) fn new(
        template: Arc<Template>,
        streams: &Streams,
        lane: usize,
        lanes: usize,
    ) -> Self {
        let streams = streams.of_lane(lane, lanes);
        Self { template, streams, next: 0, dice: SplitMix64::new(lane as u64) }
    }

    /// The template the commands are made from.
    pub(super) fn template(&self) -> &Template {
        &self.template
    }

    /// Appends the bytes of the next operation.
    pub(super) fn put_next(&mut self, out: &mut BytesMut) {
        let template = &*self.template;
        out.reserve(template.head.len() + template.end.len());
        out.put_slice(&template.head);
        if !template.ids.is_empty() {
            let at = self.dice.below(template.ids.len() as u64);
            put_bulk(out, &template.ids[at as usize]);
        }
        if let Some(stream) = self.streams.get_mut(self.next) {
            if template.keyed {
                put_bulk(out, &stream.key);
            }
            for _ in 0..template.events {
                out.put_slice(&template.before);
                out.put_slice(&stream.digits);
                out.put_slice(&template.between);
                match template.number {
                    Number::None => {}
                    Number::Expected => {
                        match stream.events.checked_sub(1) {
                            None => put_bulk(out, b"empty"),
                            Some(version) => put_bulk(out, Digits::of(version).bytes()),
                        }
                        stream.events += 1;
                    }
                    Number::Start => {
                        let starts = stream.events.saturating_sub(template.page) + 1;
                        put_bulk(out, Digits::of(self.dice.below(starts)).bytes());
                    }
                }
                out.put_slice(&template.after);
            }
            self.next = (self.next + 1) % self.streams.len();
        }
        out.put_slice(&template.end);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::arguments;

    fn commands(line: &str, operations: usize) -> String {
        let args = arguments(line);
        let streams = Streams::named(&args, "t-");
        let template = Arc::new(template(&args, &streams));
        let mut commands = Commands::new(template, &streams, 0, args.connections);
        let mut out = BytesMut::new();
        for _ in 0..operations {
            commands.put_next(&mut out);
        }
        String::from_utf8(out.to_vec()).unwrap()
    }

    /// The same from words, with the stream and the payload in their places.
    fn words(lines: &[&str]) -> String {
        let mut out = BytesMut::new();
        for line in lines {
            let payload = String::from_utf8(payload(3)).unwrap();
            let line = line.replace("PPP", &payload);
            let arguments: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
            put_command(&mut out, &arguments);
        }
        String::from_utf8(out.to_vec()).unwrap()
    }

    #[test]
    fn appends_count_their_expected_version_up() {
        let sent = commands("append --payload-bytes 3 --expected", 3);
        let line = |v| format!("EAPPEND t-00000000 Benched EXPECTED_VERSION {v} PAYLOAD PPP");
        assert_eq!(sent, words(&[&line("empty"), &line("0"), &line("1")]));
    }

    #[test]
    fn batches_go_to_the_streams_in_turn_under_their_keys() {
        let sent = commands("append --payload-bytes 3 --batch 2 --streams 2", 3);
        let line = |stream: &str| {
            let key = actadb::model::ids::PartitionKey::of_stream(stream);
            let event = format!("{stream} Benched PAYLOAD PPP");
            format!("EMAPPEND {key} {event} {event}")
        };
        let (first, second) = (line("t-00000000"), line("t-00000001"));
        assert_eq!(sent, words(&[&first, &second, &first]));
    }

    #[test]
    fn redis_batches_are_transactions() {
        let sent = commands("append --payload-bytes 3 --batch 2 --redis", 1);
        let add = "XADD t-00000000 * name Benched payload PPP";
        assert_eq!(sent, words(&["MULTI", add, add, "EXEC"]));
    }

    #[test]
    fn pings_and_pages() {
        assert_eq!(commands("ping", 2), words(&["PING", "PING"]));
        let sent = commands("read --count 7", 1);
        assert_eq!(sent, words(&["ESCAN t-00000000 0 + COUNT 7"]));
        let sent = commands("read --count 7 --redis", 1);
        assert_eq!(sent, words(&["XRANGE t-00000000 0 + COUNT 7"]));
    }
}
