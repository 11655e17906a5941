//! One line of the input: its JSON, checked.

use std::borrow::Cow;

use actadb::model::ids::PartitionKey;
use actadb::model::limits::TIMESTAMP_MAX_MS;
use actadb::model::names::{BadName, EventName, StreamId};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use uuid::Uuid;

/// An event as a line gives it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Event {
    pub(super) stream: StreamId,
    pub(super) name: EventName,
    pub(super) payload: Vec<u8>,
    pub(super) metadata: Vec<u8>,
    /// Its id, when the line gives one.
    pub(super) id: Option<Uuid>,
    pub(super) timestamp_ms: Option<u64>,
    /// The key given, or the stream's default.
    pub(super) key: PartitionKey,
    /// Whether the key is another than the stream's default.
    pub(super) own_key: bool,
    /// What the lines of its transaction have in common, when it is not alone.
    pub(super) transaction: Option<String>,
}

/// Why a line is not an event.
#[derive(Debug, thiserror::Error)]
pub(super) enum BadLine {
    /// Not JSON, a field missing, unknown or of another type.
    #[error("{what} (column {column})")]
    Json {
        /// What serde_json says.
        what: String,
        /// Where, from 1.
        column: usize,
    },
    /// The stream or the name breaks the rules.
    #[error(transparent)]
    Name(#[from] BadName),
    /// An id or key that is no UUID.
    #[error("{field} must be a UUID, got '{got}'")]
    Uuid {
        /// The field.
        field: &'static str,
        /// What was given.
        got: String,
    },
    /// No payload, or no way to tell which.
    #[error("missing field `payload` (or `payload_base64`)")]
    NoPayload,
    /// The same content in two fields.
    #[error("{field} and {field}_base64 exclude each other")]
    Twice {
        /// The field.
        field: &'static str,
    },
    /// Bytes that are not base64.
    #[error("{field}_base64 must be base64: {source}")]
    Base64 {
        /// The field.
        field: &'static str,
        /// What is wrong.
        source: base64::DecodeError,
    },
    /// A timestamp that cannot be milliseconds.
    #[error("timestamp must be milliseconds since 1970 (at most {TIMESTAMP_MAX_MS}), got {0}")]
    Timestamp(u64),
}

impl From<serde_json::Error> for BadLine {
    fn from(error: serde_json::Error) -> Self {
        let (text, column) = (error.to_string(), error.column());
        // The line it speaks of is always the first: only this one was given to it.
        let place = format!(" at line {} column {column}", error.line());
        Self::Json { what: text.strip_suffix(&place).unwrap_or(&text).into(), column }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields<'a> {
    #[serde(borrow)]
    stream: Cow<'a, str>,
    #[serde(borrow)]
    name: Cow<'a, str>,
    #[serde(borrow, default, deserialize_with = "some")]
    payload: Option<&'a RawValue>,
    #[serde(borrow, default)]
    payload_base64: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    metadata: Option<&'a RawValue>,
    #[serde(borrow, default)]
    metadata_base64: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    event_id: Option<Cow<'a, str>>,
    #[serde(default)]
    timestamp: Option<u64>,
    #[serde(borrow, default)]
    partition_key: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    transaction: Option<Cow<'a, str>>,
    // Where an event stood; `actadb export` and `actadb tail` tell it, the server decides anew.
    #[serde(default, rename = "partition")]
    _partition: Option<u64>,
    #[serde(default, rename = "sequence")]
    _sequence: Option<u64>,
    #[serde(default, rename = "version")]
    _version: Option<u64>,
}

/// A value that is there, `null` included: as a payload that is four letters.
fn some<'de, D: Deserializer<'de>>(value: D) -> Result<Option<&'de RawValue>, D::Error> {
    Deserialize::deserialize(value).map(Some)
}

impl Event {
    /// Reads a line. `null` in an optional field is the same as no field.
    pub(super) fn parse(line: &[u8]) -> Result<Self, BadLine> {
        let fields: Fields<'_> = serde_json::from_slice(line)?;
        let stream = StreamId::new(&fields.stream)?;
        let name = EventName::new(&fields.name)?;
        let default_key = PartitionKey::of_stream(stream.as_str());
        let key = match &fields.partition_key {
            None => default_key,
            Some(text) => PartitionKey::new(uuid("partition_key", text)?),
        };
        if let Some(late) = fields.timestamp.filter(|ms| *ms > TIMESTAMP_MAX_MS) {
            return Err(BadLine::Timestamp(late));
        }
        Ok(Self {
            payload: either("payload", fields.payload, fields.payload_base64.as_deref())?
                .ok_or(BadLine::NoPayload)?,
            metadata: either("metadata", fields.metadata, fields.metadata_base64.as_deref())?
                .unwrap_or_default(),
            id: fields.event_id.map(|text| uuid("event_id", &text)).transpose()?,
            timestamp_ms: fields.timestamp,
            own_key: key != default_key,
            transaction: fields.transaction.map(Cow::into_owned),
            stream,
            name,
            key,
        })
    }
}

fn uuid(field: &'static str, text: &str) -> Result<Uuid, BadLine> {
    let got = || text.chars().take(64).map(|c| if c.is_control() { '?' } else { c }).collect();
    Uuid::try_parse(text).map_err(|_| BadLine::Uuid { field, got: got() })
}

/// The bytes of a field, or of its sister in base64.
fn either(
    field: &'static str,
    value: Option<&RawValue>,
    base64: Option<&str>,
) -> Result<Option<Vec<u8>>, BadLine> {
    match (value, base64) {
        (Some(_), Some(_)) => Err(BadLine::Twice { field }),
        (Some(value), None) => content(value).map(Some),
        (None, Some(text)) => {
            let bytes = STANDARD.decode(text);
            bytes.map(Some).map_err(|source| BadLine::Base64 { field, source })
        }
        (None, None) => Ok(None),
    }
}

/// The bytes of a string, or the text of any other value without its spaces.
fn content(value: &RawValue) -> Result<Vec<u8>, BadLine> {
    let text = value.get();
    if text.starts_with('"') {
        return Ok(serde_json::from_str::<String>(text)?.into_bytes());
    }
    Ok(compact(text))
}

/// JSON without the spaces between its tokens. Numbers, escapes and the order of keys stay as they
/// are written: reading and writing values would change them.
fn compact(json: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(json.len());
    let (mut in_string, mut escaped) = (false, false);
    for byte in json.bytes() {
        if in_string {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => in_string = false,
                _ => {}
            }
        } else if byte.is_ascii_whitespace() {
            continue;
        } else {
            in_string = byte == b'"';
        }
        out.push(byte);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(line: &str) -> String {
        Event::parse(line.as_bytes()).unwrap_err().to_string()
    }

    #[test]
    fn strings_are_their_bytes_and_other_values_their_text() {
        let parse = |payload: &str| {
            let line = format!(r#"{{"stream":"s","name":"n","payload":{payload}}}"#);
            String::from_utf8(Event::parse(line.as_bytes()).unwrap().payload).unwrap()
        };
        assert_eq!(parse(r#""a\n\"ä\u00e4""#), "a\n\"ää");
        assert_eq!(parse("null"), "null");
        let value = r#"{ "z" : [ 1.10 , 12345678901234567890123 ] , "a b" : "x \" , y\\" }"#;
        let bare = r#"{"z":[1.10,12345678901234567890123],"a b":"x \" , y\\"}"#;
        assert_eq!(parse(value), bare);
    }

    #[test]
    fn optional_fields_may_be_null_or_missing() {
        let bare = r#"{"stream":"s","name":"n","payload":""}"#;
        let nulls = r#"{"stream":"s","name":"n","payload":"","metadata":null,"event_id":null,
            "timestamp":null,"partition_key":null,"payload_base64":null,"metadata_base64":null,
            "transaction":null,"partition":7,"sequence":8,"version":9}"#;
        let event = Event::parse(bare.as_bytes()).unwrap();
        assert_eq!(event, Event::parse(nulls.as_bytes()).unwrap());
        assert!(!event.own_key && event.metadata.is_empty());
    }

    #[test]
    fn bytes_that_are_no_text_come_as_base64() {
        let line = r#"{"stream":"s","name":"n","payload_base64":"AP8=","metadata_base64":""}"#;
        let event = Event::parse(line.as_bytes()).unwrap();
        assert_eq!(event.payload, [0, 255]);
        assert!(event.metadata.is_empty());
    }

    #[test]
    fn errors_say_what_is_wrong() {
        for (line, words) in [
            ("{", "EOF while parsing an object (column 1)"),
            ("[]", "column"),
            (r#"{"stream":"s","payload":""}"#, "missing field `name`"),
            (r#"{"stream":"s","name":"n"}"#, "missing field `payload`"),
            (r#"{"stream":"s","name":"n","payload":"","type":1}"#, "unknown field `type`"),
            (r#"{"stream":"s","stream":"t","name":"n","payload":""}"#, "duplicate field `stream`"),
            (r#"{"stream":"","name":"n","payload":""}"#, "stream id must not be empty"),
            (r#"{"stream":"s","name":"a\nb","payload":""}"#, "control characters"),
            (r#"{"stream":"s","name":"n","payload":"","event_id":"x"}"#, "event_id must be a UUID"),
            (r#"{"stream":"s","name":"n","payload":"","partition_key":"x"}"#, "partition_key must"),
            (r#"{"stream":"s","name":"n","payload":"","timestamp":-1}"#, "invalid value"),
            (
                r#"{"stream":"s","name":"n","payload":"","timestamp":1700000000000000000}"#,
                "timestamp must be milliseconds",
            ),
            (r#"{"stream":"s","name":"n","payload":"\ud800"}"#, "column"),
            (r#"{"stream":"s","name":"n","payload_base64":"?"}"#, "payload_base64 must be base64"),
            (
                r#"{"stream":"s","name":"n","payload":"","payload_base64":""}"#,
                "payload and payload_base64 exclude each other",
            ),
        ] {
            let text = error(line);
            assert!(text.contains(words), "{line}: {text}");
            assert!(!text.contains("at line"), "{text}");
        }
    }
}
