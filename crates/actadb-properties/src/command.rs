//! The command parser: what was parsed, written again in the longest form, is parsed to the same;
//! an error is one short line in both protocols.

use actadb_model::ids::{PartitionKey, with_hash16};
use actadb_model::names::EventName;
use actadb_model::transaction::Transaction;
use actadb_protocol::args::PartitionSelector;
use actadb_protocol::catalog::COMMANDS;
use actadb_protocol::connection::{Client, Commands, Hello};
use actadb_protocol::error::ErrorReply;
use actadb_protocol::framer::Word;
use actadb_protocol::read::{Consistency, ScanRange, StreamScan, VersionOf};
use actadb_protocol::reply::{Protocol, Reply};
use actadb_protocol::request::{Request, parse};
use actadb_protocol::subscribe::{
    From, PartitionSubscription, Partitions, StreamSubscription, SubscribeOptions,
};
use bytes::{Bytes, BytesMut};
use redis_protocol::{resp2, resp3};
use uuid::Uuid;

use crate::script::Script;

/// Longest error: two quotations of 128 bytes, each byte perhaps a character of three, and words.
const ERROR_BYTES_MAX: usize = 1024;

const WORDS: [&str; 59] = [
    "FROM",
    "LATEST",
    "MAP",
    "s=1",
    "0=7",
    "DEFAULT",
    "WINDOW",
    "NAMES",
    "PREFIX",
    "PROGRESS",
    "BLOCK",
    "READ",
    "LOCAL",
    "LINEARIZABLE",
    "1,3-5",
    "EVENT_ID",
    "PARTITION_KEY",
    "EXPECTED_VERSION",
    "TIMESTAMP",
    "PAYLOAD",
    "METADATA",
    "DURABLE",
    "COUNT",
    "REV",
    "-",
    "+",
    "any",
    "exists",
    "empty",
    "0",
    "1",
    "10000",
    "10001",
    "65535",
    "65536",
    "18446744073709551615",
    "18446744073709551616",
    "18446744073709",
    "18446744073710",
    "b5caaf75-d5ce-5289-a5cb-29de88f7c202",
    "b5caaf75d5ce5289a5cb29de88f7c202",
    "urn:uuid:b5caaf75-d5ce-5289-a5cb-29de88f7c202",
    "12345678901234567890123456789012",
    "s",
    "t",
    "n",
    "2",
    "3",
    "AUTH",
    "SETNAME",
    "GETNAME",
    "SETINFO",
    "ID",
    "INFO",
    "LIST",
    "GET",
    "DOCS",
    "TYPE",
    "normal",
];

fn parse_bytes(words: &[Bytes]) -> Result<Request, ErrorReply> {
    parse(&words.iter().map(Word::from).collect::<Vec<_>>())
}

/// Parses a request made of known words and of any bytes.
///
/// # Panics
/// When the property does not hold.
pub fn check(data: &[u8]) {
    let mut script = Script::new(data);
    let mut words = Vec::new();
    while !script.is_empty() && words.len() < 400 {
        words.push(word(&mut script, words.len()));
    }
    let parsed = parse_bytes(&words);
    if let Some(name) = words.first_mut() {
        // The name is read in any case; only an error that shows it may differ.
        let flipped: Vec<u8> = name.iter().map(|byte| flip_case(*byte)).collect();
        *name = flipped.into();
        let again = parse_bytes(&words);
        assert_eq!(parsed.as_ref().ok(), again.as_ref().ok());
    }
    match parsed {
        Ok(request) => {
            let written = write(&request);
            assert_eq!(parse_bytes(&written).as_ref(), Ok(&request), "{written:?}");
        }
        Err(error) => error_is_one_line(&error),
    }
}

fn word(script: &mut Script<'_>, at: usize) -> Bytes {
    let choice = script.byte();
    if at == 0 && choice < 240 {
        let command = match choice {
            0..=79 => &COMMANDS[0],
            80..=159 => &COMMANDS[1],
            other => &COMMANDS[usize::from(other) % COMMANDS.len()],
        };
        return Bytes::from_static(command.name.as_bytes());
    }
    match choice {
        known @ 0..=149 => Bytes::from_static(WORDS[usize::from(known) % WORDS.len()].as_bytes()),
        // An id whose hash is that of the default key of `s` or `t`, or any.
        150..=179 => {
            let keys = [PartitionKey::of_stream("s"), PartitionKey::of_stream("t")];
            let id = Uuid::from_u128(script.byte().into());
            let id = keys.get(script.below(3)).map_or(id, |key| with_hash16(id, key.hash16()));
            Bytes::from(id.to_string())
        }
        180..=199 => Bytes::from(script.number().to_string()),
        200..=204 => Bytes::from(vec![script.byte(); 254 + script.below(3)]),
        length => Bytes::copy_from_slice(script.bytes(usize::from(length) - 204)),
    }
}

fn flip_case(byte: u8) -> u8 {
    if byte.is_ascii_alphabetic() { byte ^ 0x20 } else { byte }
}

/// An error takes one line of both protocols, and the oracle reads it back.
fn error_is_one_line(error: &ErrorReply) {
    let text = error.to_string();
    assert!(text.len() <= ERROR_BYTES_MAX, "an error of {} bytes", text.len());
    assert!(!text.chars().any(char::is_control), "{text:?}");
    let reply = Reply::from(error.clone());
    let mut out = BytesMut::new();
    reply.write(Protocol::Resp2, &mut out);
    let read = resp2::decode::decode(&out).expect("RESP2").expect("complete");
    assert_eq!(read, (resp2::types::OwnedFrame::Error(text.clone()), out.len()));
    out.clear();
    reply.write(Protocol::Resp3, &mut out);
    let read = resp3::decode::complete::decode(&out).expect("RESP3").expect("complete");
    let data = text;
    let frame = resp3::types::OwnedFrame::SimpleError { data, attributes: None };
    assert_eq!(read, (frame, out.len()));
}

fn text(text: impl ToString) -> Bytes {
    Bytes::from(text.to_string())
}

/// A request as words again.
fn write(request: &Request) -> Vec<Bytes> {
    let mut words: Vec<Bytes> = Vec::new();
    let named = |name: &'static str, rest: &[Bytes]| [&[Bytes::from(name)], rest].concat();
    match request {
        Request::Append(transaction) => {
            words.push("EAPPEND".into());
            append(transaction, true, &mut words);
        }
        Request::AppendMany(transaction) => {
            words.extend(["EMAPPEND".into(), text(transaction.partition_key())]);
            append(transaction, false, &mut words);
        }
        Request::Get(id, consistency) => {
            words = named("EGET", &[text(id)]);
            read(*consistency, &mut words);
        }
        Request::ScanStream(StreamScan { stream, partition_key, range }) => {
            words.extend(["ESCAN".into(), text(stream)]);
            scan(range, &mut words);
            if let Some(key) = partition_key {
                words.extend(["PARTITION_KEY".into(), text(key)]);
            }
        }
        Request::ScanPartition(selector, range) => {
            words.extend(["EPSCAN".into(), partition(selector)]);
            scan(range, &mut words);
        }
        Request::StreamVersion(VersionOf { stream, partition_key, consistency }) => {
            words.extend(["ESVER".into(), text(stream)]);
            if let Some(key) = partition_key {
                words.extend(["PARTITION_KEY".into(), text(key)]);
            }
            read(*consistency, &mut words);
        }
        Request::PartitionSequence(selector, consistency) => {
            words = named("EPSEQ", &[partition(selector)]);
            read(*consistency, &mut words);
        }
        Request::SubscribeStreams(StreamSubscription { streams, options }) => {
            words.push("ESUB".into());
            for (stream, key) in streams {
                words.push(text(stream));
                if let Some(key) = key {
                    words.extend(["PARTITION_KEY".into(), text(key)]);
                }
            }
            subscription(options, &mut words);
        }
        Request::SubscribePartitions(PartitionSubscription { partitions, options }) => {
            words.push("EPSUB".into());
            words.push(match partitions {
                Partitions::All => "*".into(),
                Partitions::One(selector) => partition(selector),
                Partitions::Several(several) => {
                    let ranges = several.iter().map(|id| format!("{id}-{id}"));
                    text(ranges.collect::<Vec<_>>().join(","))
                }
            });
            subscription(options, &mut words);
        }
        Request::Acknowledge(id, cursor) => words = named("EACK", &[text(id), text(cursor)]),
        Request::Unsubscribe(id) => words = named("EUNSUB", &[text(id)]),
        Request::Hello(Hello { protocol, auth, name }) => {
            words.push("HELLO".into());
            words.extend(protocol.map(|protocol| match protocol {
                Protocol::Resp2 => "2".into(),
                Protocol::Resp3 => "3".into(),
            }));
            if let Some((user, password)) = auth {
                words.extend(["AUTH".into(), user.clone(), password.clone()]);
            }
            if let Some(name) = name {
                words.extend(["SETNAME".into(), name.clone()]);
            }
        }
        Request::Auth(user, password) => {
            words.push("AUTH".into());
            words.extend(user.clone());
            words.push(password.clone());
        }
        Request::Cluster(command) => {
            use actadb_protocol::connection::ClusterCommand;
            words = match command {
                ClusterCommand::Info => named("CLUSTER", &["INFO".into()]),
                ClusterCommand::Nodes => named("CLUSTER", &["NODES".into()]),
                ClusterCommand::HandOver { bucket, node } => {
                    named("CLUSTER", &["HANDOVER".into(), text(bucket), text(node)])
                }
            };
        }
        Request::Ping(message) => words = named("PING", message.as_slice()),
        Request::Echo(message) => words = named("ECHO", std::slice::from_ref(message)),
        Request::Quit => words = named("QUIT", &[]),
        Request::Reset => words = named("RESET", &[]),
        Request::Select => words = named("SELECT", &["0".into()]),
        Request::Client(client) => {
            let rest = match client {
                Client::Id => vec!["ID".into()],
                Client::Info => vec!["INFO".into()],
                Client::List => vec!["LIST".into()],
                Client::GetName => vec!["GETNAME".into()],
                Client::SetName(name) => vec!["SETNAME".into(), name.clone()],
                Client::SetInfo(what, value) => {
                    vec!["SETINFO".into(), what.clone(), value.clone()]
                }
            };
            words = named("CLIENT", &rest);
        }
        Request::Commands(commands) => {
            words.push("COMMAND".into());
            match commands {
                Commands::All => {}
                Commands::Count => words.push("COUNT".into()),
                Commands::List => words.push("LIST".into()),
                Commands::Docs(names) => words.extend(named("DOCS", names)),
                Commands::Info(names) => words.extend(named("INFO", names)),
            }
        }
        Request::Info(sections) => words = named("INFO", sections),
        Request::ConfigGet(patterns) => {
            words.extend(["CONFIG".into(), "GET".into()]);
            words.extend(patterns.iter().cloned());
        }
        Request::DbSize => words = named("DBSIZE", &[]),
        Request::Time => words = named("TIME", &[]),
        Request::ModuleList => words = named("MODULE", &["LIST".into()]),
        Request::Role => words = named("ROLE", &[]),
    }
    words
}

fn partition(selector: &PartitionSelector) -> Bytes {
    match selector {
        PartitionSelector::Id(id) => text(id),
        PartitionSelector::Key(key) => text(key),
    }
}

fn subscription(options: &SubscribeOptions, words: &mut Vec<Bytes>) {
    words.push("FROM".into());
    match &options.from {
        From::Latest => words.push("LATEST".into()),
        From::At(position) => words.push(text(position)),
        From::Map { positions, rest } => {
            words.push("MAP".into());
            words.extend(
                positions.iter().map(|(name, position)| text(format!("{name}={position}"))),
            );
            if let Some(rest) = rest {
                words.extend(["DEFAULT".into(), text(rest)]);
            }
        }
    }
    if let Some(window) = options.window {
        words.extend(["WINDOW".into(), text(window)]);
    }
    if let Some(names) = &options.names {
        let names: Vec<&str> = names.iter().map(EventName::as_str).collect();
        words.extend(["NAMES".into(), text(names.join(","))]);
    }
    if let Some(prefix) = &options.prefix {
        words.extend(["PREFIX".into(), text(prefix)]);
    }
    if let Some(progress) = options.progress {
        words.extend(["PROGRESS".into(), text(progress)]);
    }
}

fn scan(range: &ScanRange, words: &mut Vec<Bytes>) {
    words.extend([text(range.start), text(range.end), "COUNT".into(), text(range.count)]);
    if range.reverse {
        words.push("REV".into());
    }
    if let Some(ms) = range.block_ms {
        words.extend(["BLOCK".into(), text(ms)]);
    }
    read(range.consistency, words);
}

fn read(consistency: Consistency, words: &mut Vec<Bytes>) {
    words.push("READ".into());
    words.push(match consistency {
        Consistency::Local => "LOCAL".into(),
        Consistency::Linearizable => "LINEARIZABLE".into(),
    });
}

fn append(transaction: &Transaction, with_key: bool, words: &mut Vec<Bytes>) {
    for (n, event) in transaction.events().iter().enumerate() {
        words.extend([text(&event.stream), text(&event.name)]);
        if let Some(id) = event.id {
            words.extend(["EVENT_ID".into(), text(id)]);
        }
        if with_key {
            words.extend(["PARTITION_KEY".into(), text(transaction.partition_key())]);
        }
        words.extend(["EXPECTED_VERSION".into(), text(event.expected)]);
        if let Some(ms) = event.timestamp_ms {
            words.extend(["TIMESTAMP".into(), text(ms)]);
        }
        words.extend(["PAYLOAD".into(), event.payload.clone()]);
        words.extend(["METADATA".into(), event.metadata.clone()]);
        // One of the events is enough; here it is the first.
        if transaction.is_durable() && n == 0 {
            words.push("DURABLE".into());
        }
    }
}
