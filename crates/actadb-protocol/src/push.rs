//! What the server sends without being asked at that moment: pushes, RESP3 only.

use actadb_model::event::EventRef;
use bytes::{BufMut, BytesMut};
use uuid::Uuid;

use crate::error::ErrorReply;
use crate::event::{bulk, header, integer, simple, simple_uuid, write_event};
use crate::reply::{Protocol, one_line_text};

/// A source in a progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Position<'a> {
    /// A stream, by its id.
    Stream(&'a str),
    /// A partition, by its number.
    Partition(u16),
}

/// `>4 +message +<subscription> :<cursor> <event map>`
pub fn write_message(subscription: Uuid, cursor: u64, event: &EventRef<'_>, out: &mut BytesMut) {
    header(b'>', 4, out);
    simple("message", out);
    simple_uuid(subscription, out);
    integer(cursor, out);
    write_event(event, Protocol::Resp3, out);
}

/// `>4 +progress +<subscription> :<cursor> <map source -> next position>`
pub fn write_progress<'a>(
    subscription: Uuid,
    cursor: u64,
    positions: impl ExactSizeIterator<Item = (Position<'a>, u64)>,
    out: &mut BytesMut,
) {
    header(b'>', 4, out);
    simple("progress", out);
    simple_uuid(subscription, out);
    integer(cursor, out);
    header(b'%', positions.len() as u64, out);
    for (position, next) in positions {
        match position {
            Position::Stream(stream) => bulk(stream.as_bytes(), out),
            Position::Partition(partition) => integer(partition.into(), out),
        }
        integer(next, out);
    }
}

/// `>3 +closed +<subscription> +<CODE text>`
pub fn write_closed(subscription: Uuid, why: &ErrorReply, out: &mut BytesMut) {
    header(b'>', 3, out);
    simple("closed", out);
    simple_uuid(subscription, out);
    out.put_u8(b'+');
    out.put_slice(one_line_text(&why.to_string()).as_bytes());
    out.put_slice(b"\r\n");
}
