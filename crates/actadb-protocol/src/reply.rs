//! Answers, and their bytes in both protocols.

use std::borrow::Cow;

use bytes::{Bytes, BytesMut};
use redis_protocol::resp2::types::BytesFrame as Frame2;
use redis_protocol::resp3::types::{BytesFrame as Frame3, FrameMap};

use crate::error::ErrorReply;
use crate::event::{integer, simple};

/// The protocol of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Protocol {
    /// Maps are flat arrays, null is `$-1`, booleans are 1 and 0.
    #[default]
    Resp2,
    /// With maps, nulls, booleans and pushes of its own.
    Resp3,
}

/// An answer without events.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    /// A short word, without line ends.
    Simple(Cow<'static, str>),
    /// An error.
    Error(ErrorReply),
    /// A number.
    Integer(u64),
    /// A number that may be negative.
    Signed(i64),
    /// Bytes.
    Bulk(Bytes),
    /// Text that a person reads; `INFO` and `CLIENT LIST`.
    Text(String),
    /// Nothing.
    Null,
    /// Yes or no.
    Boolean(bool),
    /// A list.
    Array(Vec<Self>),
    /// Pairs, in order.
    Map(Vec<(Self, Self)>),
    /// A list without order or repetition.
    Set(Vec<Self>),
}

impl Reply {
    /// `+OK`
    #[must_use]
    pub fn ok() -> Self {
        Self::Simple("OK".into())
    }

    /// Bytes of a text.
    #[must_use]
    pub fn bulk(text: impl Into<String>) -> Self {
        Self::Bulk(Bytes::from(text.into()))
    }

    /// A number, or nothing.
    #[must_use]
    pub fn number_or_null(number: Option<u64>) -> Self {
        number.map_or(Self::Null, Self::Integer)
    }

    /// Appends the bytes of the answer.
    pub fn write(&self, protocol: Protocol, out: &mut BytesMut) {
        // The commonest ones need no frame.
        match (self, protocol) {
            (Self::Simple(text), _) if !text.contains(['\r', '\n']) => return simple(text, out),
            (Self::Integer(number), _) => return integer(*number, out),
            (Self::Null, Protocol::Resp2) => return out.extend_from_slice(b"$-1\r\n"),
            (Self::Null, Protocol::Resp3) => return out.extend_from_slice(b"_\r\n"),
            _ => {}
        }
        // Encoding fails only for frames that this type cannot make.
        let end = match protocol {
            Protocol::Resp2 => {
                redis_protocol::resp2::encode::extend_encode(out, &self.frame2(), false)
            }
            Protocol::Resp3 => {
                let frame = self.frame3();
                redis_protocol::resp3::encode::complete::extend_encode(out, &frame, false)
            }
        };
        if let Ok(end) = end {
            out.truncate(end);
        }
    }

    fn frame2(&self) -> Frame2 {
        match self {
            Self::Simple(text) => Frame2::SimpleString(one_line(text)),
            Self::Error(error) => Frame2::Error(one_line_text(&error.to_string()).into()),
            Self::Integer(number) => Frame2::Integer(signed(*number)),
            Self::Signed(number) => Frame2::Integer(*number),
            Self::Bulk(bytes) => Frame2::BulkString(bytes.clone()),
            Self::Text(text) => Frame2::BulkString(Bytes::from(text.clone())),
            Self::Null => Frame2::Null,
            Self::Boolean(yes) => Frame2::Integer((*yes).into()),
            Self::Array(items) | Self::Set(items) => {
                Frame2::Array(items.iter().map(Self::frame2).collect())
            }
            Self::Map(pairs) => Frame2::Array(
                pairs.iter().flat_map(|(key, value)| [key.frame2(), value.frame2()]).collect(),
            ),
        }
    }

    fn frame3(&self) -> Frame3 {
        let attributes = None;
        match self {
            Self::Simple(text) => Frame3::SimpleString { data: one_line(text), attributes },
            Self::Error(error) => {
                Frame3::SimpleError { data: one_line_text(&error.to_string()).into(), attributes }
            }
            Self::Integer(number) => Frame3::Number { data: signed(*number), attributes },
            Self::Signed(number) => Frame3::Number { data: *number, attributes },
            Self::Bulk(bytes) => Frame3::BlobString { data: bytes.clone(), attributes },
            Self::Text(text) => Frame3::VerbatimString {
                data: Bytes::from(text.clone()),
                format: redis_protocol::resp3::types::VerbatimStringFormat::Text,
                attributes,
            },
            Self::Null => Frame3::Null,
            Self::Boolean(yes) => Frame3::Boolean { data: *yes, attributes },
            Self::Array(items) => {
                Frame3::Array { data: items.iter().map(Self::frame3).collect(), attributes }
            }
            // A set of aggregates cannot be hashed; ours hold words.
            Self::Set(items) => {
                Frame3::Set { data: items.iter().map(Self::frame3).collect(), attributes }
            }
            Self::Map(pairs) => {
                let pairs = pairs.iter().map(|(key, value)| (key.frame3(), value.frame3()));
                Frame3::Map { data: pairs.collect::<FrameMap<_, _>>(), attributes }
            }
        }
    }
}

impl From<ErrorReply> for Reply {
    fn from(error: ErrorReply) -> Self {
        Self::Error(error)
    }
}

/// Simple strings and errors end with the line: what is inside must not.
pub(crate) fn one_line_text(text: &str) -> String {
    text.chars().map(|c| if c == '\r' || c == '\n' { ' ' } else { c }).collect()
}

fn one_line(text: &str) -> Bytes {
    Bytes::from(one_line_text(text))
}

/// RESP numbers are signed; nothing of ours comes near.
fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
