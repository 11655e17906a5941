//! Answers that carry events, or positions of appends, written straight from their parts.
//!
//! These are the answers that come by the million; the tests hold them equal, byte for byte, to
//! what `redis-protocol` makes of the same frames.

use actadb_model::event::EventRef;
use actadb_model::outcome::Appended;
use bytes::{BufMut, BytesMut};
use uuid::Uuid;

use crate::reply::Protocol;

/// Room for an answer to `EAPPEND`.
const APPENDED_BYTES: usize = 320;

/// `EGET`: an event, or null.
pub fn write_event_or_null(event: Option<EventRef<'_>>, protocol: Protocol, out: &mut BytesMut) {
    match (event, protocol) {
        (Some(event), _) => write_event(&event, protocol, out),
        (None, Protocol::Resp2) => out.put_slice(b"$-1\r\n"),
        (None, Protocol::Resp3) => out.put_slice(b"_\r\n"),
    }
}

/// A page: `has_more`, `events`.
pub fn write_page<'a>(
    has_more: bool,
    events: impl ExactSizeIterator<Item = EventRef<'a>>,
    protocol: Protocol,
    out: &mut BytesMut,
) {
    write_page_head(has_more, events.len(), protocol, out);
    for event in events {
        write_event(&event, protocol, out);
    }
}

/// The front of a page: `has_more`, and how many `events` follow.
pub fn write_page_head(has_more: bool, events: usize, protocol: Protocol, out: &mut BytesMut) {
    map(2, protocol, out);
    simple("has_more", out);
    out.put_slice(match (protocol, has_more) {
        (Protocol::Resp2, true) => b":1\r\n",
        (Protocol::Resp2, false) => b":0\r\n",
        (Protocol::Resp3, true) => b"#t\r\n",
        (Protocol::Resp3, false) => b"#f\r\n",
    });
    simple("events", out);
    header(b'*', events as u64, out);
}

/// An event map.
pub fn write_event(event: &EventRef<'_>, protocol: Protocol, out: &mut BytesMut) {
    let variable = event.stream.as_bytes().len()
        + event.name.as_bytes().len()
        + event.metadata.len()
        + event.payload.len();
    out.reserve(variable + 400);
    out.put_slice(match protocol {
        Protocol::Resp2 => b"*22\r\n+event_id\r\n+",
        Protocol::Resp3 => b"%11\r\n+event_id\r\n+",
    });
    let mut buffer = Uuid::encode_buffer();
    let id = event.id.hyphenated().encode_lower(&mut buffer).as_bytes();
    out.put_slice(id);
    out.put_slice(b"\r\n+partition_key\r\n+");
    uuid_text(event.partition_key.uuid(), out);
    out.put_slice(b"\r\n+partition_id\r\n:");
    integer_text(event.partition.0.into(), out);
    out.put_slice(b"\r\n+transaction_id\r\n+");
    // Nearly always it is the event's own id.
    match event.transaction_id == event.id {
        true => out.put_slice(id),
        false => uuid_text(event.transaction_id, out),
    }
    out.put_slice(b"\r\n+partition_sequence\r\n:");
    integer_text(event.sequence, out);
    out.put_slice(b"\r\n+stream_version\r\n:");
    integer_text(event.version, out);
    out.put_slice(b"\r\n+timestamp\r\n:");
    integer_text(event.timestamp_ns / 1_000_000, out);
    out.put_slice(b"\r\n+stream_id\r\n");
    bulk(event.stream.as_bytes(), out);
    out.put_slice(b"+event_name\r\n");
    bulk(event.name.as_bytes(), out);
    out.put_slice(b"+metadata\r\n");
    bulk(event.metadata, out);
    out.put_slice(b"+payload\r\n");
    bulk(event.payload, out);
}

/// `EAPPEND`: where the event landed.
pub fn write_appended(appended: &Appended, protocol: Protocol, out: &mut BytesMut) {
    let Some(event) = appended.events.first() else { return };
    out.reserve(APPENDED_BYTES);
    out.put_slice(match protocol {
        Protocol::Resp2 => b"*12\r\n+event_id\r\n+",
        Protocol::Resp3 => b"%6\r\n+event_id\r\n+",
    });
    uuid_text(event.id, out);
    out.put_slice(b"\r\n+partition_key\r\n+");
    uuid_text(appended.partition_key.uuid(), out);
    out.put_slice(b"\r\n+partition_id\r\n:");
    integer_text(appended.partition.0.into(), out);
    out.put_slice(b"\r\n+partition_sequence\r\n:");
    integer_text(appended.first_sequence, out);
    out.put_slice(b"\r\n+stream_version\r\n:");
    integer_text(event.version, out);
    out.put_slice(b"\r\n+timestamp\r\n:");
    integer_text(event.timestamp_ns / 1_000_000, out);
    out.put_slice(b"\r\n");
}

/// `EMAPPEND`: where the events landed.
pub fn write_appended_many(appended: &Appended, protocol: Protocol, out: &mut BytesMut) {
    map(5, protocol, out);
    simple("partition_key", out);
    simple_uuid(appended.partition_key.uuid(), out);
    simple("partition_id", out);
    integer(appended.partition.0.into(), out);
    simple("first_partition_sequence", out);
    integer(appended.first_sequence, out);
    simple("last_partition_sequence", out);
    integer(appended.last_sequence(), out);
    simple("events", out);
    header(b'*', appended.events.len() as u64, out);
    for event in &appended.events {
        map(4, protocol, out);
        simple("event_id", out);
        simple_uuid(event.id, out);
        simple("stream_id", out);
        // A simple string, as clients of SierraDB expect; control characters are refused at the
        // door, so nothing can end the line early.
        simple(event.stream.as_str(), out);
        simple("stream_version", out);
        integer(event.version, out);
        simple("timestamp", out);
        integer(event.timestamp_ns / 1_000_000, out);
    }
}

fn map(pairs: u64, protocol: Protocol, out: &mut BytesMut) {
    match protocol {
        Protocol::Resp2 => header(b'*', pairs * 2, out),
        Protocol::Resp3 => header(b'%', pairs, out),
    }
}

pub(crate) fn header(kind: u8, number: u64, out: &mut BytesMut) {
    out.put_u8(kind);
    digits(number, out);
    out.put_slice(b"\r\n");
}

pub(crate) fn simple(text: &str, out: &mut BytesMut) {
    out.put_u8(b'+');
    out.put_slice(text.as_bytes());
    out.put_slice(b"\r\n");
}

pub(crate) fn simple_uuid(uuid: Uuid, out: &mut BytesMut) {
    out.put_u8(b'+');
    uuid_text(uuid, out);
    out.put_slice(b"\r\n");
}

fn uuid_text(uuid: Uuid, out: &mut BytesMut) {
    let mut buffer = Uuid::encode_buffer();
    out.put_slice(uuid.hyphenated().encode_lower(&mut buffer).as_bytes());
}

pub(crate) fn integer(number: u64, out: &mut BytesMut) {
    out.put_u8(b':');
    integer_text(number, out);
    out.put_slice(b"\r\n");
}

/// RESP's integers have a sign.
fn integer_text(number: u64, out: &mut BytesMut) {
    digits(number.min(i64::MAX as u64), out);
}

pub(crate) fn bulk(bytes: &[u8], out: &mut BytesMut) {
    header(b'$', bytes.len() as u64, out);
    out.put_slice(bytes);
    out.put_slice(b"\r\n");
}

fn digits(number: u64, out: &mut BytesMut) {
    out.put_slice(itoa::Buffer::new().format(number).as_bytes());
}
