//! What the shell prints: for people, or a line of JSON each.

use std::io::{self, Write};

use serde_json::{Map, Value as Json, json};

use crate::readable;
use crate::wire_client::{Value, WireEvent, base64};

/// Standard output in one of its two forms.
#[derive(Clone, Copy, Debug)]
pub(super) struct Output {
    json: bool,
}

impl Output {
    /// JSON, or text for people.
    pub(super) fn new(json: bool) -> Self {
        Self { json }
    }

    /// Whether it is for programs.
    pub(super) fn is_json(self) -> bool {
        self.json
    }

    /// A reply, errors included.
    pub(super) fn reply(self, value: &Value) -> io::Result<()> {
        match self.json {
            true => line(&json_of(value)),
            false => text(&readable::reply(value)),
        }
    }

    /// What a subscription sent.
    pub(super) fn push(self, parts: &[Value]) -> io::Result<()> {
        if self.json {
            return line(&json_of_push(parts));
        }
        match parts {
            [kind, _, _, event] if kind.text() == Some("message") => {
                WireEvent::from_value(event).map_or(Ok(()), |event| text(&readable::event(&event)))
            }
            [kind, ..] if kind.text() == Some("progress") => Ok(()),
            [kind, _, why] if kind.text() == Some("closed") => {
                let why = why.text().unwrap_or("for no reason");
                text(&format!("(ended by the server) {}\n", readable::one_line(why)))
            }
            other => text(&readable::reply(&Value::Push(other.to_vec()))),
        }
    }

    /// A remark for people.
    pub(super) fn remark(self, remark: &str) -> io::Result<()> {
        if self.json { Ok(()) } else { text(&format!("{remark}\n")) }
    }
}

fn text(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

fn line(value: &Json) -> io::Result<()> {
    text(&format!("{value}\n"))
}

/// A reply as JSON: events as `export` writes them, bytes that are no text as `{"base64":…}`.
fn json_of(value: &Value) -> Json {
    if let Some(event) = WireEvent::from_value(value) {
        return event.json();
    }
    match value {
        Value::Null => Json::Null,
        Value::Boolean(yes) => json!(yes),
        Value::Integer(number) => json!(number),
        Value::Double(number) => json!(number),
        Value::Simple(text) => json!(text),
        Value::Bulk(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) => json!(text),
            Err(_) => json!({"base64": base64(bytes)}),
        },
        Value::Error(text) => {
            json!({"error": text, "code": text.split(' ').next().unwrap_or_default()})
        }
        Value::Array(items) => items.iter().map(json_of).collect(),
        Value::Push(parts) => json_of_push(parts),
        Value::Map(pairs) => {
            let pair = |(key, value): &(Value, Value)| (key_text(key), json_of(value));
            Json::Object(pairs.iter().map(pair).collect::<Map<_, _>>())
        }
    }
}

fn key_text(key: &Value) -> String {
    match json_of(key) {
        Json::String(text) => text,
        other => other.to_string(),
    }
}

fn json_of_push(parts: &[Value]) -> Json {
    match parts {
        [kind, id, cursor, event] if kind.text() == Some("message") => {
            json!({"subscription": json_of(id), "cursor": json_of(cursor), "event": json_of(event)})
        }
        [kind, id, cursor, positions] if kind.text() == Some("progress") => {
            let (id, cursor) = (json_of(id), json_of(cursor));
            json!({"subscription": id, "cursor": cursor, "progress": json_of(positions)})
        }
        [kind, id, why] if kind.text() == Some("closed") => {
            json!({"subscription": json_of(id), "closed": json_of(why)})
        }
        other => json!({"push": other.iter().map(json_of).collect::<Vec<_>>()}),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reply_is_one_line_of_json() {
        let bulk = |bytes: &'static [u8]| Value::Bulk(bytes::Bytes::from_static(bytes));
        let map = vec![
            (Value::Simple("a".into()), bulk(b"x\ny")),
            (Value::Integer(3), Value::Array(vec![bulk(b"\xff"), Value::Null])),
        ];
        let text = json_of(&Value::Map(map)).to_string();
        assert_eq!(text, r#"{"3":[{"base64":"/w=="},null],"a":"x\ny"}"#);
        let error = json_of(&Value::Error("WRONGVER current".into())).to_string();
        assert_eq!(error, r#"{"code":"WRONGVER","error":"WRONGVER current"}"#);
    }
}
