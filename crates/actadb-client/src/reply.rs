//! Answers of the server as types. RESP3 only: this client never speaks anything else.

use actadb_model::ids::{PartitionId, PartitionKey};
use bytes::Bytes;
use redis::Value;
use uuid::Uuid;

use crate::error::Error;
use crate::event::{Appended, Event};

/// A map of an answer.
pub(crate) struct Fields(Vec<(Value, Value)>);

impl Fields {
    pub(crate) fn of(value: Value) -> Result<Self, Error> {
        match value {
            Value::Map(pairs) => Ok(Self(pairs)),
            other => Err(unexpected("a map", &other)),
        }
    }

    /// Takes the value of a key. The keys come in the order they are asked for, mostly.
    pub(crate) fn take(&mut self, key: &str) -> Result<Value, Error> {
        let found = self.0.iter_mut().find(|(name, _)| is_text(name, key));
        let (_, value) = found.ok_or_else(|| Error::Protocol(format!("a map without {key}")))?;
        Ok(std::mem::replace(value, Value::Nil))
    }

    pub(crate) fn number(&mut self, key: &str) -> Result<u64, Error> {
        number(&self.take(key)?)
    }

    fn uuid(&mut self, key: &str) -> Result<Uuid, Error> {
        uuid(&self.take(key)?)
    }

    fn partition(&mut self) -> Result<PartitionId, Error> {
        let number = self.number("partition_id")?;
        u16::try_from(number).map(PartitionId).map_err(|_| {
            Error::Protocol(format!("partition {number}, of which there are fewer than 65,536"))
        })
    }
}

fn is_text(value: &Value, text: &str) -> bool {
    match value {
        Value::SimpleString(found) => found == text,
        Value::BulkString(found) => found == text.as_bytes(),
        _ => false,
    }
}

fn unexpected(wanted: &str, got: &Value) -> Error {
    // Never the content, which may be anybody's secret.
    let kind = match got {
        Value::Nil => "null",
        Value::Int(_) => "a number",
        Value::BulkString(_) | Value::SimpleString(_) => "text",
        Value::Array(_) => "an array",
        Value::Map(_) => "a map",
        Value::ServerError(_) => "an error",
        _ => "something else",
    };
    Error::Protocol(format!("{kind} instead of {wanted}"))
}

/// A number.
pub(crate) fn number(value: &Value) -> Result<u64, Error> {
    match value {
        Value::Int(number) => {
            u64::try_from(*number).map_err(|_| Error::Protocol(format!("{number} below 0")))
        }
        other => Err(unexpected("a number", other)),
    }
}

/// A number or null.
pub(crate) fn optional_number(value: &Value) -> Result<Option<u64>, Error> {
    if *value == Value::Nil { Ok(None) } else { number(value).map(Some) }
}

/// Text.
pub(crate) fn text(value: Value) -> Result<String, Error> {
    match value {
        Value::SimpleString(text) => Ok(text),
        Value::BulkString(bytes) => {
            String::from_utf8(bytes).map_err(|_| Error::Protocol("text that is not UTF-8".into()))
        }
        Value::Okay => Ok("OK".into()),
        other => Err(unexpected("text", &other)),
    }
}

fn bytes(value: Value) -> Result<Bytes, Error> {
    match value {
        Value::BulkString(bytes) => Ok(bytes.into()),
        other => Err(unexpected("bytes", &other)),
    }
}

/// A UUID.
pub(crate) fn uuid(value: &Value) -> Result<Uuid, Error> {
    let parsed = match value {
        Value::SimpleString(text) => Uuid::try_parse(text).ok(),
        Value::BulkString(bytes) => Uuid::try_parse_ascii(bytes).ok(),
        _ => None,
    };
    parsed.ok_or_else(|| unexpected("a UUID", value))
}

/// An event map.
pub(crate) fn event(value: Value) -> Result<Event, Error> {
    let mut fields = Fields::of(value)?;
    Ok(Event {
        id: fields.uuid("event_id")?,
        partition_key: PartitionKey::new(fields.uuid("partition_key")?),
        partition: fields.partition()?,
        transaction_id: fields.uuid("transaction_id")?,
        sequence: fields.number("partition_sequence")?,
        version: fields.number("stream_version")?,
        timestamp_ms: fields.number("timestamp")?,
        stream: text(fields.take("stream_id")?)?,
        name: text(fields.take("event_name")?)?,
        metadata: bytes(fields.take("metadata")?)?,
        payload: bytes(fields.take("payload")?)?,
    })
}

/// A page: its events, and whether there are more.
pub(crate) fn page(value: Value) -> Result<(Vec<Event>, bool), Error> {
    let mut fields = Fields::of(value)?;
    let has_more = match fields.take("has_more")? {
        Value::Boolean(more) => more,
        other => return Err(unexpected("a boolean", &other)),
    };
    let events = array(fields.take("events")?)?;
    let events = events.into_iter().map(event).collect::<Result<_, _>>()?;
    Ok((events, has_more))
}

fn array(value: Value) -> Result<Vec<Value>, Error> {
    match value {
        Value::Array(items) => Ok(items),
        other => Err(unexpected("an array", &other)),
    }
}

/// The answer of `EAPPEND`.
pub(crate) fn appended(value: Value, stream: &str) -> Result<Appended, Error> {
    let mut fields = Fields::of(value)?;
    Ok(Appended {
        event_id: fields.uuid("event_id")?,
        stream: stream.to_owned(),
        version: fields.number("stream_version")?,
        partition_key: PartitionKey::new(fields.uuid("partition_key")?),
        partition: fields.partition()?,
        sequence: fields.number("partition_sequence")?,
        timestamp_ms: fields.number("timestamp")?,
    })
}

/// The answer of `EMAPPEND`.
pub(crate) fn appended_many<'a>(
    value: Value,
    streams: impl Iterator<Item = &'a str>,
) -> Result<Vec<Appended>, Error> {
    let mut fields = Fields::of(value)?;
    let partition_key = PartitionKey::new(fields.uuid("partition_key")?);
    let partition = fields.partition()?;
    let first = fields.number("first_partition_sequence")?;
    let events = array(fields.take("events")?)?;
    let one = |(sequence, (event, stream)): (u64, (Value, &str))| {
        let mut fields = Fields::of(event)?;
        Ok(Appended {
            event_id: fields.uuid("event_id")?,
            stream: stream.to_owned(),
            version: fields.number("stream_version")?,
            partition_key,
            partition,
            sequence,
            timestamp_ms: fields.number("timestamp")?,
        })
    };
    (first..).zip(events.into_iter().zip(streams)).map(one).collect()
}
