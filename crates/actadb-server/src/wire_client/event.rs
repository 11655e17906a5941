//! An event as it comes over the wire, and its line of JSON.
//!
//! The line is what `actadb import` reads; `export`, `tail` and the shell write it. Bytes that are
//! UTF-8 are a string, others are base64 under a name of their own: no byte is lost either way.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::Serialize;

use super::Value;

/// An event that was read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WireEvent {
    /// Its id.
    pub event_id: String,
    /// The key that chose its partition.
    pub partition_key: String,
    /// Its partition.
    pub partition: u64,
    /// The transaction it came with: its own id when it came alone.
    pub transaction_id: String,
    /// Its place in the partition.
    pub sequence: u64,
    /// Its place in the stream.
    pub version: u64,
    /// Milliseconds since 1970.
    pub timestamp_ms: u64,
    /// Its stream.
    pub stream: String,
    /// Its name.
    pub name: String,
    /// Its metadata.
    pub metadata: Bytes,
    /// Its payload.
    pub payload: Bytes,
}

/// The fields of a line, in its order.
#[derive(Serialize)]
struct Line<'a> {
    stream: &'a str,
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload_base64: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata_base64: Option<String>,
    event_id: &'a str,
    timestamp: u64,
    partition_key: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    transaction: Option<&'a str>,
    partition: u64,
    sequence: u64,
    version: u64,
}

impl WireEvent {
    /// The event of an event map, in either protocol; `None` when the value is something else.
    #[must_use]
    pub fn from_value(value: &Value) -> Option<Self> {
        let mut event = Self::default();
        let mut found = 0;
        let mut put = |key: &Value, value: &Value| {
            let text = |place: &mut String| value.text().map(|text| *place = text.to_owned());
            let number = |place: &mut u64| value.number().map(|number| *place = number);
            let bytes = |place: &mut Bytes| match value {
                Value::Bulk(bytes) => {
                    *place = bytes.clone();
                    Some(())
                }
                _ => None,
            };
            let known = match key.text() {
                Some("event_id") => text(&mut event.event_id),
                Some("partition_key") => text(&mut event.partition_key),
                Some("partition_id") => number(&mut event.partition),
                Some("transaction_id") => text(&mut event.transaction_id),
                Some("partition_sequence") => number(&mut event.sequence),
                Some("stream_version") => number(&mut event.version),
                Some("timestamp") => number(&mut event.timestamp_ms),
                Some("stream_id") => text(&mut event.stream),
                Some("event_name") => text(&mut event.name),
                Some("metadata") => bytes(&mut event.metadata),
                Some("payload") => bytes(&mut event.payload),
                _ => None,
            };
            found += u32::from(known.is_some());
        };
        match value {
            Value::Map(pairs) => pairs.iter().for_each(|(key, value)| put(key, value)),
            Value::Array(flat) => flat.chunks_exact(2).for_each(|pair| put(&pair[0], &pair[1])),
            _ => return None,
        }
        (found == 11).then_some(event)
    }

    /// Whether it came with others, all or none.
    #[must_use]
    pub fn is_of_several(&self) -> bool {
        self.transaction_id != self.event_id
    }

    /// Its line of JSON, without the end of line.
    ///
    /// # Errors
    /// None that could occur: there is no map with keys that are no strings.
    pub fn line(&self) -> serde_json::Result<String> {
        serde_json::to_string(&self.fields())
    }

    /// The same as a part of a larger object.
    #[must_use]
    pub fn json(&self) -> serde_json::Value {
        serde_json::to_value(self.fields()).unwrap_or_default()
    }

    fn fields(&self) -> Line<'_> {
        let (payload, payload_base64) = text_or_base64(&self.payload);
        let (metadata, metadata_base64) = match self.metadata.is_empty() {
            true => (None, None),
            false => text_or_base64(&self.metadata),
        };
        Line {
            stream: &self.stream,
            name: &self.name,
            payload,
            payload_base64,
            metadata,
            metadata_base64,
            event_id: &self.event_id,
            timestamp: self.timestamp_ms,
            partition_key: &self.partition_key,
            transaction: self.is_of_several().then_some(&*self.transaction_id),
            partition: self.partition,
            sequence: self.sequence,
            version: self.version,
        }
    }
}

/// The two fields of some bytes, one of which is there.
fn text_or_base64(bytes: &[u8]) -> (Option<&str>, Option<String>) {
    match std::str::from_utf8(bytes) {
        Ok(text) => (Some(text), None),
        Err(_) => (None, Some(base64(bytes))),
    }
}

/// Bytes as base64, with padding.
#[must_use]
pub fn base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map() -> Vec<(Value, Value)> {
        let simple = |text: &str| Value::Simple(text.into());
        let bulk = |bytes: &'static [u8]| Value::Bulk(Bytes::from_static(bytes));
        let pairs = [
            ("event_id", simple("e")),
            ("partition_key", simple("k")),
            ("partition_id", Value::Integer(3)),
            ("transaction_id", simple("t")),
            ("partition_sequence", Value::Integer(4)),
            ("stream_version", Value::Integer(5)),
            ("timestamp", Value::Integer(6)),
            ("stream_id", bulk(b"s")),
            ("event_name", bulk(b"n")),
            ("metadata", bulk(b"\xff")),
            ("payload", bulk(b"\"hi\"\n")),
        ];
        pairs.into_iter().map(|(key, value)| (simple(key), value)).collect()
    }

    #[test]
    fn a_line_has_all_fields_and_every_byte() {
        let event = WireEvent::from_value(&Value::Map(map())).unwrap();
        let flat = map().into_iter().flat_map(|(key, value)| [key, value]).collect();
        assert_eq!(WireEvent::from_value(&Value::Array(flat)).as_ref(), Some(&event));
        let line = r#"{"stream":"s","name":"n","payload":"\"hi\"\n","metadata_base64":"/w==",
            "event_id":"e","timestamp":6,"partition_key":"k","transaction":"t","partition":3,
            "sequence":4,"version":5}"#;
        assert_eq!(event.line().unwrap(), line.replace("\n            ", ""));
        let alone = WireEvent { event_id: "t".into(), metadata: Bytes::new(), ..event };
        let line = alone.line().unwrap();
        assert!(!line.contains("transaction") && !line.contains("metadata"), "{line}");
    }

    #[test]
    fn other_maps_are_no_events() {
        let mut pairs = map();
        pairs.pop();
        assert_eq!(WireEvent::from_value(&Value::Map(pairs)), None);
        assert_eq!(WireEvent::from_value(&Value::Null), None);
    }
}
