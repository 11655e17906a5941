//! Events and replies as people read them on a terminal.
//!
//! Nothing that was stored reaches the terminal as it is: control characters are shown, not sent.

use std::fmt::Write;

use crate::wire_client::{Value, WireEvent};

/// Bytes of binary content that are shown.
const HEX_BYTES: usize = 256;
/// Longest array that stays in one line.
const FLAT_ARRAY_BYTES: usize = 60;
/// What stands in front of an event's fields.
const FIELD_INDENT: &str = "            ";

/// An event: a line that says which, then its content.
#[must_use]
pub fn event(event: &WireEvent) -> String {
    let mut out = String::new();
    let WireEvent { stream, name, version, partition, sequence, .. } = event;
    let (stream, name) = (printable(stream), printable(name));
    let time = utc(event.timestamp_ms);
    let _ = writeln!(out, "{stream}@{version} {name}  ({time}, partition {partition}@{sequence})");
    let _ = writeln!(out, "  id        {}", printable(&event.event_id));
    if event.is_of_several() {
        let _ = writeln!(out, "  together  transaction {}", printable(&event.transaction_id));
    }
    if !event.metadata.is_empty() {
        let _ = writeln!(out, "  metadata  {}", indented(&content(&event.metadata), FIELD_INDENT));
    }
    if !event.payload.is_empty() {
        let _ = writeln!(out, "  payload   {}", indented(&content(&event.payload), FIELD_INDENT));
    }
    out
}

/// A reply of any kind, ending in a line's end.
#[must_use]
pub fn reply(value: &Value) -> String {
    if let Some(found) = WireEvent::from_value(value) {
        return event(&found);
    }
    if let Some(page) = page(value) {
        return page;
    }
    let mut text = plain(value);
    if !text.ends_with('\n') {
        text.push('\n');
    }
    text
}

/// The events of a page and whether there are more.
fn page(value: &Value) -> Option<String> {
    let (has_more, Value::Array(events)) = (value.get("has_more")?, value.get("events")?) else {
        return None;
    };
    let has_more = matches!(has_more, Value::Boolean(true) | Value::Integer(1));
    let events: Option<Vec<WireEvent>> = events.iter().map(WireEvent::from_value).collect();
    let events = events?;
    let mut out: String = events.iter().map(event).collect();
    let count = events.len();
    let more = if has_more { ", and there are more" } else { "" };
    let _ = match count {
        0 => writeln!(out, "(no events)"),
        1 => writeln!(out, "(1 event{more})"),
        _ => writeln!(out, "({count} events{more})"),
    };
    Some(out)
}

/// Any value, without a line's end after its last line.
fn plain(value: &Value) -> String {
    match value {
        Value::Null => "(null)".into(),
        Value::Boolean(yes) => yes.to_string(),
        Value::Integer(number) => number.to_string(),
        Value::Double(number) => number.to_string(),
        Value::Simple(text) => printable(text),
        Value::Error(text) => format!("(error) {}", one_line(text)),
        Value::Bulk(bytes) if bytes.is_empty() => "(empty)".into(),
        Value::Bulk(bytes) => content(bytes).trim_end().to_owned(),
        Value::Array(items) | Value::Push(items) => list(items),
        Value::Map(pairs) => map(pairs),
    }
}

fn list(items: &[Value]) -> String {
    if items.is_empty() {
        return "(empty list)".into();
    }
    let width = items.len().to_string().len();
    let lines = items.iter().enumerate().map(|(n, item)| {
        let number = format!("{:>width$}) ", n + 1);
        let indent = " ".repeat(number.len());
        number + &indented(&nested(item), &indent)
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// `key: value`, the values below each other.
fn map(pairs: &[(Value, Value)]) -> String {
    if pairs.is_empty() {
        return "(empty map)".into();
    }
    let keys: Vec<String> = pairs.iter().map(|(key, _)| plain(key) + ":").collect();
    let width = keys.iter().map(|key| key.chars().count()).max().unwrap_or(0);
    let lines = keys.iter().zip(pairs).map(|(key, (_, value))| match value {
        // What is long itself would be pushed far to the right.
        Value::Array(items) if !items.is_empty() => {
            format!("{key}\n  {}", indented(&list(items), "  "))
        }
        Value::Map(_) => format!("{key}\n  {}", indented(&nested(value), "  ")),
        _ => {
            let indent = " ".repeat(width + 1);
            format!("{key:<width$} {}", indented(&plain(value), &indent))
        }
    });
    lines.collect::<Vec<_>>().join("\n")
}

fn nested(value: &Value) -> String {
    WireEvent::from_value(value).map_or_else(|| plain(value), |found| event(&found))
}

/// Content: JSON over several lines, other text as it is, all else in hex.
fn content(bytes: &[u8]) -> String {
    let Ok(text) = std::str::from_utf8(bytes) else { return hex(bytes) };
    let is_structure = text.trim_start().starts_with(['{', '[']);
    if is_structure && serde_json::from_str::<&serde_json::value::RawValue>(text).is_ok() {
        return printable(&pretty_json(text));
    }
    printable(text)
}

fn hex(bytes: &[u8]) -> String {
    let shown = &bytes[..bytes.len().min(HEX_BYTES)];
    let mut out = format!("(hex, {} bytes)", bytes.len());
    for (n, byte) in shown.iter().enumerate() {
        let gap = match n {
            _ if n % 32 == 0 => "\n",
            _ if n % 4 == 0 => " ",
            _ => "",
        };
        let _ = write!(out, "{gap}{byte:02x}");
    }
    if shown.len() < bytes.len() {
        out.push_str(" …");
    }
    out
}

/// JSON over several lines. Only white space between its tokens changes: reading and writing
/// values would change numbers, escapes and the order of keys.
fn pretty_json(json: &str) -> String {
    let mut out = String::with_capacity(json.len() * 2);
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    let mut opened = false;
    let line = |out: &mut String, depth: usize| {
        out.push('\n');
        out.extend(std::iter::repeat_n("  ", depth));
    };
    let mut rest = json;
    while let Some(character) = rest.chars().next() {
        let here = rest;
        rest = &rest[character.len_utf8()..];
        if in_string {
            in_string = escaped || character != '"';
            escaped = !escaped && character == '\\';
            out.push(character);
            continue;
        }
        if character.is_ascii_whitespace() {
            continue;
        }
        let closes = matches!(character, '}' | ']');
        if closes {
            depth = depth.saturating_sub(1);
        }
        // Nothing between brackets stays on their line.
        if opened != closes {
            line(&mut out, depth);
        }
        if character == '['
            && let Some((flat, length)) = flat_array(here)
        {
            out.push_str(&flat);
            opened = false;
            rest = &here[length..];
            continue;
        }
        opened = matches!(character, '{' | '[');
        out.push(character);
        match character {
            '{' | '[' => depth += 1,
            ',' => line(&mut out, depth),
            ':' => out.push(' '),
            '"' => in_string = true,
            _ => {}
        }
    }
    out
}

/// A short array of plain values in one line, and the length of its JSON.
fn flat_array(json: &str) -> Option<(String, usize)> {
    let (mut flat, mut in_string, mut escaped) = (String::from("["), false, false);
    for (at, character) in json.char_indices().skip(1) {
        if flat.len() > FLAT_ARRAY_BYTES {
            return None;
        }
        match character {
            _ if in_string => {
                in_string = escaped || character != '"';
                escaped = !escaped && character == '\\';
            }
            ' ' | '\t' | '\r' | '\n' => continue,
            '{' | '[' => return None,
            ',' => {
                flat.push_str(", ");
                continue;
            }
            ']' => {
                flat.push(']');
                return Some((flat, at + 1));
            }
            _ => in_string = character == '"',
        }
        flat.push(character);
    }
    None
}

/// Text whose control characters, line ends and tabs apart, are spelled out.
#[must_use]
pub fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.replace("\r\n", "\n").chars() {
        match character {
            '\n' | '\t' => out.push(character),
            c if c.is_control() => out.extend(c.escape_default()),
            c => out.push(c),
        }
    }
    out
}

/// Printable text of one line.
#[must_use]
pub fn one_line(text: &str) -> String {
    printable(text).replace('\n', " ")
}

/// Every line but the first behind `indent`; no line's end at the end.
fn indented(text: &str, indent: &str) -> String {
    text.trim_end_matches('\n').replace('\n', &format!("\n{indent}"))
}

/// A time in milliseconds since 1970, as ISO 8601.
#[must_use]
pub fn utc(ms: u64) -> String {
    let (days, in_day) = (ms / 86_400_000, ms % 86_400_000);
    let (year, month, day) = date(days);
    let (hour, minute) = (in_day / 3_600_000, in_day / 60_000 % 60);
    let (second, milli) = (in_day / 1000 % 60, in_day % 1000);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}.{milli:03}Z")
}

/// Year, month and day of a number of days since 1970: years begin in March here, so that the day
/// that may be missing is their last. (Hinnant, "chrono-compatible low-level date algorithms")
fn date(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, in_era) = (days / 146_097, days % 146_097);
    let year = (in_era - in_era / 1460 + in_era / 36_524 - in_era / 146_096) / 365;
    let in_year = in_era - (365 * year + year / 4 - year / 100);
    let from_march = (5 * in_year + 2) / 153;
    let day = in_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    (era * 400 + year + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn simple(text: &str) -> Value {
        Value::Simple(text.into())
    }

    #[test]
    fn times_are_dates() {
        assert_eq!(utc(0), "1970-01-01 00:00:00.000Z");
        assert_eq!(utc(951_827_696_789), "2000-02-29 12:34:56.789Z");
        assert_eq!(utc(1_700_000_000_000), "2023-11-14 22:13:20.000Z");
        assert_eq!(utc(4_107_542_399_999), "2100-02-28 23:59:59.999Z");
    }

    #[test]
    fn json_changes_in_its_spaces_only() {
        let json = r#"{"z":[1.10,{"a" : "x\" {,"}], "e":[], "o":{ } ,"f":[ 1.0,"]\"" ],
            "n":12345678901234567890123}"#;
        let lines = [
            "{",
            "  \"z\": [",
            "    1.10,",
            "    {",
            "      \"a\": \"x\\\" {,\"",
            "    }",
            "  ],",
            "  \"e\": [],",
            "  \"o\": {},",
            "  \"f\": [1.0, \"]\\\"\"],",
            "  \"n\": 12345678901234567890123",
            "}",
        ];
        assert_eq!(content(json.as_bytes()), lines.join("\n"));
        assert_eq!(content(b"{no json}"), "{no json}");
        assert_eq!(content(b"\"a\""), "\"a\"");
    }

    #[test]
    fn stored_bytes_do_not_steer_the_terminal() {
        assert_eq!(content(b"\x1b[2Jred\ttab\r\nline"), "\\u{1b}[2Jred\ttab\nline");
        assert_eq!(content(b"\x00\xffab\x01"), "(hex, 5 bytes)\n00ff6162 01");
        let error = Value::Error("ERR a\r\nb\x07".into());
        assert_eq!(reply(&error), "(error) ERR a b\\u{7}\n");
    }

    #[test]
    fn maps_are_aligned_and_lists_numbered() {
        let inner = vec![(simple("a"), Value::Integer(1)), (simple("long"), Value::Null)];
        let list = Value::Array(vec![Value::Map(inner), Value::Array(vec![])]);
        let value = Value::Map(vec![(simple("x"), list), (simple("name"), simple("n"))]);
        let lines = "x:\n  1) a:    1\n     long: (null)\n  2) (empty list)\nname: n\n";
        assert_eq!(reply(&value), lines);
    }

    #[test]
    fn events_tell_what_they_have() {
        let bare = WireEvent {
            stream: "s".into(),
            name: "Opened".into(),
            version: 2,
            partition: 12,
            sequence: 7,
            event_id: "e".into(),
            transaction_id: "e".into(),
            ..WireEvent::default()
        };
        let head = "s@2 Opened  (1970-01-01 00:00:00.000Z, partition 12@7)\n  id        e\n";
        assert_eq!(event(&bare), head);
        let full = WireEvent {
            transaction_id: "t".into(),
            payload: bytes::Bytes::from_static(b"{\"a\":1}"),
            metadata: bytes::Bytes::from_static(b"m\nn"),
            ..bare
        };
        let rest = "  together  transaction t\n  metadata  m\n            n\n  payload   {\n\
                    \x20             \"a\": 1\n            }\n";
        assert_eq!(event(&full), format!("{head}{rest}"));
    }
}
