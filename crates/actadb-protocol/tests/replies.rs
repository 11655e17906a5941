//! Answers byte for byte: against `redis-protocol` for events, against literals for the rest.

mod seeded;

use actadb_model::event::EventRef;
use actadb_model::ids::{PartitionId, PartitionKey};
use actadb_model::names::StreamId;
use actadb_model::outcome::{AppendError, Appended, AppendedEvent, ClosedReason, Refusal, Unknown};
use actadb_model::version::ExpectedVersion;
use actadb_protocol::error::{Code, ErrorReply};
use actadb_protocol::event;
use actadb_protocol::push::{self, Position};
use actadb_protocol::reply::{Protocol, Reply};
use bytes::{Bytes, BytesMut};
use proptest::collection::vec;
use proptest::prelude::*;
use redis_protocol::resp2::types::BytesFrame as Frame2;
use redis_protocol::resp3::types::BytesFrame as Frame3;
use uuid::Uuid;

const PROTOCOLS: [Protocol; 2] = [Protocol::Resp2, Protocol::Resp3];

/// A frame of either protocol, for the oracle.
enum Value {
    Simple(String),
    Integer(u64),
    Bulk(Vec<u8>),
    Boolean(bool),
    Null,
    Array(Vec<Self>),
    Map(Vec<(&'static str, Self)>),
}

impl Value {
    fn uuid(uuid: Uuid) -> Self {
        Self::Simple(uuid.to_string())
    }

    fn frame2(&self) -> Frame2 {
        match self {
            Self::Simple(text) => Frame2::SimpleString(text.clone().into()),
            Self::Integer(number) => Frame2::Integer(signed(*number)),
            Self::Bulk(bytes) => Frame2::BulkString(bytes.clone().into()),
            Self::Boolean(yes) => Frame2::Integer((*yes).into()),
            Self::Null => Frame2::Null,
            Self::Array(items) => Frame2::Array(items.iter().map(Self::frame2).collect()),
            Self::Map(pairs) => {
                let key = |key: &'static str| Frame2::SimpleString(key.into());
                Frame2::Array(pairs.iter().flat_map(|(k, v)| [key(k), v.frame2()]).collect())
            }
        }
    }

    fn frame3(&self) -> Frame3 {
        let attributes = None;
        let simple = |text: String| Frame3::SimpleString { data: text.into(), attributes: None };
        match self {
            Self::Simple(text) => simple(text.clone()),
            Self::Integer(number) => Frame3::Number { data: signed(*number), attributes },
            Self::Bulk(bytes) => Frame3::BlobString { data: bytes.clone().into(), attributes },
            Self::Boolean(yes) => Frame3::Boolean { data: *yes, attributes },
            Self::Null => Frame3::Null,
            Self::Array(items) => {
                Frame3::Array { data: items.iter().map(Self::frame3).collect(), attributes }
            }
            Self::Map(pairs) => {
                let pairs = pairs.iter().map(|(k, v)| (simple((*k).into()), v.frame3()));
                Frame3::Map { data: pairs.collect(), attributes }
            }
        }
    }

    fn encode(&self, protocol: Protocol) -> Vec<u8> {
        let mut out = BytesMut::new();
        let end = match protocol {
            Protocol::Resp2 => {
                redis_protocol::resp2::encode::extend_encode(&mut out, &self.frame2(), false)
            }
            Protocol::Resp3 => {
                let frame = self.frame3();
                redis_protocol::resp3::encode::complete::extend_encode(&mut out, &frame, false)
            }
        };
        // Its room for a number is reckoned with floats, a byte too large just below some powers
        // of ten; where it stopped writing is right.
        out.truncate(end.expect("encodes"));
        out.to_vec()
    }
}

/// RESP numbers are signed: what does not fit is the largest.
fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// Checks what was written behind other bytes, which must stay as they are.
fn written(write: impl Fn(Protocol, &mut BytesMut), protocol: Protocol) -> Vec<u8> {
    let mut out = BytesMut::from(&b"before"[..]);
    write(protocol, &mut out);
    out.strip_prefix(b"before").expect("only appends").to_vec()
}

fn numbers() -> impl Strategy<Value = u64> {
    let edges = vec![0, 9, 10, 99, 100, i64::MAX as u64, i64::MAX as u64 + 1, u64::MAX];
    prop_oneof![
        any::<u64>(),
        0..5000_u64,
        (0..20_u32).prop_map(|digits| 10_u64.pow(digits) - 1),
        prop::sample::select(edges)
    ]
}

fn uuids() -> impl Strategy<Value = Uuid> {
    any::<u128>().prop_map(Uuid::from_u128)
}

fn names() -> impl Strategy<Value = String> {
    prop_oneof!["[a-z]{1,20}", "\\PC{1,60}"]
}

fn binary() -> impl Strategy<Value = Vec<u8>> {
    let line_ends = Just(b"\r\n$-1\r\n\0\xff".to_vec());
    prop_oneof![Just(vec![]), line_ends, vec(any::<u8>(), 0..50), vec(any::<u8>(), 900..1100)]
}

#[derive(Clone, Debug)]
struct Drawn {
    uuids: [Uuid; 3],
    partition: u16,
    numbers: [u64; 3],
    texts: [String; 2],
    bytes: [Vec<u8>; 2],
}

impl Drawn {
    fn event(&self) -> EventRef<'_> {
        EventRef {
            id: self.uuids[0],
            partition_key: PartitionKey::new(self.uuids[1]),
            partition: PartitionId(self.partition),
            transaction_id: self.uuids[2],
            sequence: self.numbers[0],
            version: self.numbers[1],
            timestamp_ns: self.numbers[2],
            stream: self.texts[0].as_str().into(),
            name: self.texts[1].as_str().into(),
            metadata: &self.bytes[0],
            payload: &self.bytes[1],
        }
    }

    fn value(&self) -> Value {
        Value::Map(vec![
            ("event_id", Value::uuid(self.uuids[0])),
            ("partition_key", Value::uuid(self.uuids[1])),
            ("partition_id", Value::Integer(self.partition.into())),
            ("transaction_id", Value::uuid(self.uuids[2])),
            ("partition_sequence", Value::Integer(self.numbers[0])),
            ("stream_version", Value::Integer(self.numbers[1])),
            ("timestamp", Value::Integer(self.numbers[2] / 1_000_000)),
            ("stream_id", Value::Bulk(self.texts[0].as_bytes().to_vec())),
            ("event_name", Value::Bulk(self.texts[1].as_bytes().to_vec())),
            ("metadata", Value::Bulk(self.bytes[0].clone())),
            ("payload", Value::Bulk(self.bytes[1].clone())),
        ])
    }
}

fn events() -> impl Strategy<Value = Drawn> {
    let arrays = (
        [uuids(), uuids(), uuids()],
        any::<u16>(),
        [numbers(), numbers(), numbers()],
        [names(), names()],
        [binary(), binary()],
    );
    arrays.prop_map(|(uuids, partition, numbers, texts, bytes)| Drawn {
        uuids,
        partition,
        numbers,
        texts,
        bytes,
    })
}

fn appended() -> impl Strategy<Value = Appended> {
    let event = (uuids(), names(), numbers(), numbers()).prop_map(|(id, stream, version, ns)| {
        let stream = StreamId::new(&stream).expect("printable and short");
        AppendedEvent { id, stream, version, timestamp_ns: ns }
    });
    // The last sequence must exist.
    let first = numbers().prop_map(|number| number.min(u64::MAX - 100));
    (uuids(), any::<u16>(), uuids(), first, vec(event, 1..20)).prop_map(
        |(key, partition, transaction_id, first_sequence, events)| Appended {
            partition_key: PartitionKey::new(key),
            partition: PartitionId(partition),
            transaction_id,
            first_sequence,
            events,
        },
    )
}

#[test]
fn an_event_is_what_redis_protocol_encodes() {
    seeded::check(500, &events(), |drawn| {
        for protocol in PROTOCOLS {
            let ours = written(|p, out| event::write_event(&drawn.event(), p, out), protocol);
            prop_assert_eq!(ours, drawn.value().encode(protocol));
        }
        Ok(())
    });
}

/// `redis-protocol` cannot encode a push whose parts are of its own types in one go; the parts are
/// compared behind a header written by hand.
#[test]
fn pushes_are_what_redis_protocol_encodes() {
    seeded::check(
        200,
        &(events(), numbers(), names(), numbers()),
        |(drawn, cursor, stream, next)| {
            let id = drawn.uuids[0];
            let head = |word: &str| {
                let parts = [Value::Simple(word.into()), Value::uuid(id), Value::Integer(cursor)];
                parts.iter().flat_map(|part| part.encode(Protocol::Resp3)).collect::<Vec<u8>>()
            };
            let mut out = BytesMut::new();
            push::write_message(id, cursor, &drawn.event(), &mut out);
            let message = [b">4\r\n", &head("message")[..], &drawn.value().encode(Protocol::Resp3)];
            prop_assert_eq!(&out[..], message.concat());

            out.clear();
            let positions = [(Position::Stream(&stream), next), (Position::Partition(7), 8)];
            push::write_progress(id, cursor, positions.into_iter(), &mut out);
            let pairs = [Value::Bulk(stream.as_bytes().to_vec()), Value::Integer(next)];
            let pairs =
                pairs.iter().flat_map(|part| part.encode(Protocol::Resp3)).collect::<Vec<u8>>();
            let progress = [b">4\r\n", &head("progress")[..], b"%2\r\n", &pairs, b":7\r\n:8\r\n"];
            prop_assert_eq!(&out[..], progress.concat());
            Ok(())
        },
    );
    let mut out = BytesMut::new();
    push::write_closed(Uuid::nil(), &ErrorReply::new(Code::ReadErr, "two\r\nlines"), &mut out);
    let closed =
        ">3\r\n+closed\r\n+00000000-0000-0000-0000-000000000000\r\n+READERR two  lines\r\n";
    assert_eq!(out, closed);
}

#[test]
fn an_event_or_null_is_what_redis_protocol_encodes() {
    seeded::check(100, &prop::option::of(events()), |drawn| {
        for protocol in PROTOCOLS {
            let event = drawn.as_ref().map(Drawn::event);
            let ours = written(|p, out| event::write_event_or_null(event, p, out), protocol);
            let value = drawn.as_ref().map_or(Value::Null, Drawn::value);
            prop_assert_eq!(ours, value.encode(protocol));
        }
        Ok(())
    });
}

#[test]
fn a_page_is_what_redis_protocol_encodes() {
    seeded::check(200, &(any::<bool>(), vec(events(), 0..20)), |(has_more, drawn)| {
        let values = drawn.iter().map(Drawn::value).collect();
        let value = Value::Map(vec![
            ("has_more", Value::Boolean(has_more)),
            ("events", Value::Array(values)),
        ]);
        for protocol in PROTOCOLS {
            let events = || drawn.iter().map(Drawn::event);
            let ours = written(|p, out| event::write_page(has_more, events(), p, out), protocol);
            prop_assert_eq!(ours, value.encode(protocol));
        }
        Ok(())
    });
}

#[test]
fn positions_of_one_event_are_what_redis_protocol_encodes() {
    seeded::check(300, &appended(), |appended| {
        let event = &appended.events[0];
        let value = Value::Map(vec![
            ("event_id", Value::uuid(event.id)),
            ("partition_key", Value::uuid(appended.partition_key.uuid())),
            ("partition_id", Value::Integer(appended.partition.0.into())),
            ("partition_sequence", Value::Integer(appended.first_sequence)),
            ("stream_version", Value::Integer(event.version)),
            ("timestamp", Value::Integer(event.timestamp_ns / 1_000_000)),
        ]);
        for protocol in PROTOCOLS {
            let ours = written(|p, out| event::write_appended(&appended, p, out), protocol);
            prop_assert_eq!(ours, value.encode(protocol));
        }
        Ok(())
    });
}

#[test]
fn positions_of_several_events_are_what_redis_protocol_encodes() {
    seeded::check(300, &appended(), |appended| {
        let event = |event: &AppendedEvent| {
            Value::Map(vec![
                ("event_id", Value::uuid(event.id)),
                ("stream_id", Value::Simple(event.stream.to_string())),
                ("stream_version", Value::Integer(event.version)),
                ("timestamp", Value::Integer(event.timestamp_ns / 1_000_000)),
            ])
        };
        let last = appended.first_sequence + appended.events.len() as u64 - 1;
        let value = Value::Map(vec![
            ("partition_key", Value::uuid(appended.partition_key.uuid())),
            ("partition_id", Value::Integer(appended.partition.0.into())),
            ("first_partition_sequence", Value::Integer(appended.first_sequence)),
            ("last_partition_sequence", Value::Integer(last)),
            ("events", Value::Array(appended.events.iter().map(event).collect())),
        ]);
        for protocol in PROTOCOLS {
            let ours = written(|p, out| event::write_appended_many(&appended, p, out), protocol);
            prop_assert_eq!(ours, value.encode(protocol));
        }
        Ok(())
    });
}

/// The one event that is written out, so that a mistake shared with the oracle is seen.
#[test]
fn an_event_without_payload_has_an_empty_bulk_and_never_null() {
    let key = PartitionKey::of_stream("s");
    let event = EventRef {
        id: Uuid::from_u128(1),
        partition_key: key,
        partition: PartitionId(12),
        transaction_id: Uuid::from_u128(2),
        sequence: 7,
        version: 3,
        timestamp_ns: 1_700_000_000_123_999_999,
        stream: "s".into(),
        name: "Opened".into(),
        metadata: b"",
        payload: b"",
    };
    let body = "+event_id\r\n+00000000-0000-0000-0000-000000000001\r\n\
                +partition_key\r\n+b5caaf75-d5ce-5289-a5cb-29de88f7c202\r\n\
                +partition_id\r\n:12\r\n\
                +transaction_id\r\n+00000000-0000-0000-0000-000000000002\r\n\
                +partition_sequence\r\n:7\r\n\
                +stream_version\r\n:3\r\n\
                +timestamp\r\n:1700000000123\r\n\
                +stream_id\r\n$1\r\ns\r\n\
                +event_name\r\n$6\r\nOpened\r\n\
                +metadata\r\n$0\r\n\r\n\
                +payload\r\n$0\r\n\r\n";
    for (protocol, header) in [(Protocol::Resp2, "*22\r\n"), (Protocol::Resp3, "%11\r\n")] {
        let ours = written(|p, out| event::write_event(&event, p, out), protocol);
        assert_eq!(String::from_utf8_lossy(&ours), format!("{header}{body}"));
    }
}

#[test]
fn every_kind_of_reply_has_its_bytes_in_both_protocols() {
    let word = |text: &'static str| Reply::Simple(text.into());
    let pairs = vec![
        (word("z"), Reply::Integer(1)),
        (Reply::bulk("a"), Reply::Null),
        (word("m"), Reply::Map(vec![(word("k"), Reply::Boolean(true))])),
    ];
    let cases: Vec<(Reply, &str, &str)> = vec![
        (Reply::ok(), "+OK\r\n", "+OK\r\n"),
        (word(""), "+\r\n", "+\r\n"),
        (
            ErrorReply::new(Code::NoAuth, "Authentication required.").into(),
            "-NOAUTH Authentication required.\r\n",
            "-NOAUTH Authentication required.\r\n",
        ),
        (Reply::Integer(0), ":0\r\n", ":0\r\n"),
        (Reply::Integer(1234567), ":1234567\r\n", ":1234567\r\n"),
        (Reply::Integer(u64::MAX), ":9223372036854775807\r\n", ":9223372036854775807\r\n"),
        (Reply::Signed(-30), ":-30\r\n", ":-30\r\n"),
        (Reply::Signed(i64::MIN), ":-9223372036854775808\r\n", ":-9223372036854775808\r\n"),
        (Reply::number_or_null(Some(5)), ":5\r\n", ":5\r\n"),
        (Reply::number_or_null(None), "$-1\r\n", "_\r\n"),
        (Reply::bulk("héllo"), "$6\r\nhéllo\r\n", "$6\r\nhéllo\r\n"),
        (Reply::bulk(""), "$0\r\n\r\n", "$0\r\n\r\n"),
        (Reply::bulk("a\r\nb"), "$4\r\na\r\nb\r\n", "$4\r\na\r\nb\r\n"),
        (Reply::Text("a:1\r\n".into()), "$5\r\na:1\r\n\r\n", "=9\r\ntxt:a:1\r\n\r\n"),
        (Reply::Text(String::new()), "$0\r\n\r\n", "=4\r\ntxt:\r\n"),
        (Reply::Null, "$-1\r\n", "_\r\n"),
        (Reply::Boolean(true), ":1\r\n", "#t\r\n"),
        (Reply::Boolean(false), ":0\r\n", "#f\r\n"),
        (Reply::Array(vec![]), "*0\r\n", "*0\r\n"),
        (
            Reply::Array(vec![Reply::Integer(1), Reply::Array(vec![Reply::Null]), word("x")]),
            "*3\r\n:1\r\n*1\r\n$-1\r\n+x\r\n",
            "*3\r\n:1\r\n*1\r\n_\r\n+x\r\n",
        ),
        (Reply::Map(vec![]), "*0\r\n", "%0\r\n"),
        (
            Reply::Map(pairs),
            "*6\r\n+z\r\n:1\r\n$1\r\na\r\n$-1\r\n+m\r\n*2\r\n+k\r\n:1\r\n",
            "%3\r\n+z\r\n:1\r\n$1\r\na\r\n_\r\n+m\r\n%1\r\n+k\r\n#t\r\n",
        ),
        (Reply::Set(vec![]), "*0\r\n", "~0\r\n"),
        (
            Reply::Set(vec![word("write"), word("denyoom")]),
            "*2\r\n+write\r\n+denyoom\r\n",
            "~2\r\n+write\r\n+denyoom\r\n",
        ),
    ];
    for (reply, resp2, resp3) in cases {
        for (protocol, expected) in [(Protocol::Resp2, resp2), (Protocol::Resp3, resp3)] {
            let ours = written(|p, out| reply.write(p, out), protocol);
            assert_eq!(ours, expected.as_bytes(), "{reply:?} in {protocol:?}");
        }
    }
    let binary = Reply::Bulk(Bytes::from_static(b"\0\xff"));
    for protocol in PROTOCOLS {
        assert_eq!(written(|p, out| binary.write(p, out), protocol), b"$2\r\n\0\xff\r\n");
    }
}

/// `redis-protocol` reckons the room for a number with floats, and makes it too large just below
/// some powers of ten: what is left over must not reach the client.
#[test]
fn numbers_around_powers_of_ten_are_written_without_anything_behind_them() {
    let mut wrong = Vec::new();
    for power in (1..=18).map(|digits| 10_i64.pow(digits)) {
        for number in [power - 1, power, power + 1] {
            let replies = [Reply::Integer(number as u64), Reply::Signed(-number)];
            for (reply, number) in replies.iter().zip([number, -number]) {
                for protocol in PROTOCOLS {
                    let ours = written(|p, out| reply.write(p, out), protocol);
                    if ours != format!(":{number}\r\n").into_bytes() {
                        wrong.push(format!("{protocol:?} {}", ours.escape_ascii()));
                    }
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn line_ends_inside_of_errors_and_simple_strings_never_break_a_line() {
    let text = prop_oneof![
        "[a\r\n+$-]{0,20}",
        any::<String>(),
        Just("x\r\n+OK\r\n".to_owned()),
        Just("\r\n".to_owned())
    ];
    seeded::check(500, &text, |text| {
        for protocol in PROTOCOLS {
            let error = Reply::Error(ErrorReply::new(Code::Err, text.clone()));
            for reply in [error, Reply::Simple(text.clone().into())] {
                let ours = written(|p, out| reply.write(p, out), protocol);
                let line = ours.strip_suffix(b"\r\n").expect("one line end");
                prop_assert!(!line.contains(&b'\r') && !line.contains(&b'\n'));
            }
        }
        Ok(())
    });
    let error = Reply::from(ErrorReply::invalid("a\r\nb\nc\rd"));
    for protocol in PROTOCOLS {
        let ours = written(|p, out| error.write(p, out), protocol);
        assert_eq!(ours, b"-INVALIDARG a  b c d\r\n");
    }
}

/// Programs read the code, and users parse WRONGVER: these lines are a contract.
#[test]
fn refusals_of_appends_are_told_by_code_and_text() {
    let stream = || StreamId::new("s").expect("valid");
    let partition_key = PartitionKey::of_stream("s");
    let wrong = |expected, current| Refusal::WrongVersion {
        stream: stream(),
        partition_key,
        expected,
        current,
    };
    let behind = "for partition key b5caaf75-d5ce-5289-a5cb-29de88f7c202 and stream id s";
    let id = Uuid::from_u128(1);
    let cases = [
        (
            wrong(ExpectedVersion::Exact(5), Some(3)),
            format!("WRONGVER current stream version is 3 but expected 5 {behind}"),
        ),
        (
            wrong(ExpectedVersion::Exists, None),
            format!("WRONGVER current stream version is empty but expected exists {behind}"),
        ),
        (
            wrong(ExpectedVersion::Empty, Some(0)),
            format!("WRONGVER current stream version is 0 but expected empty {behind}"),
        ),
        (
            Refusal::Duplicate { id, stream: stream(), version: 4 },
            format!("DUPLICATE {id} is version 4 of stream s"),
        ),
        (
            Refusal::TooLarge { size_bytes: 9, limit_bytes: 8 },
            "TOOLARGE the transaction takes 9 bytes, the limit is 8".into(),
        ),
        (
            Refusal::NoRoom,
            "DISKFULL no space left for the log of this bucket; reads go on, appends resume with \
             space"
                .into(),
        ),
        (Refusal::Stopping, "TRYAGAIN the server is stopping".into()),
        (Refusal::ReadFailed("a\r\nb".into()), "READERR a  b".into()),
        (
            Refusal::Closed(ClosedReason::DiskFailed("I/O error".into())),
            "READONLY the disk failed: I/O error; reads go on".into(),
        ),
    ];
    for (refusal, expected) in cases {
        let reply = Reply::from(ErrorReply::from(AppendError::from(refusal)));
        let ours = written(|p, out| reply.write(p, out), Protocol::Resp2);
        assert_eq!(String::from_utf8_lossy(&ours), format!("-{expected}\r\n"));
    }
    for (unknown, code) in [(Unknown::Uncertain, "UNCERTAIN "), (Unknown::Timeout, "TIMEOUT ")] {
        let text = ErrorReply::from(AppendError::from(unknown)).to_string();
        assert!(text.starts_with(code) && text.ends_with("retry with the same event id"));
    }
}
