//! Decoding replies of RESP2 and RESP3, in whatever pieces they arrive.
//!
//! One lexer, two readers of its tokens: [`Decoder::next_value`] builds the reply,
//! [`Decoder::skim`] only walks over it. What has been read of an unfinished reply is not looked
//! at again, and nothing large is allocated on the word of an announced length.

use std::ops::Range;

use bytes::{Buf, Bytes, BytesMut};
use memchr::memchr;

/// Deepest nesting of a reply.
const DEPTH_MAX: usize = 16;
/// Longest line, in bytes.
const LINE_MAX_BYTES: usize = 1 << 20;
/// Longest bulk string, in bytes.
const BULK_MAX_BYTES: u64 = 1 << 30;
/// Digits of a number that is read in one pass: so many fit into 63 bits.
const DIGITS_MAX: usize = 18;
/// Most elements that room is made for before they have arrived.
const TRUSTED_ELEMENTS: usize = 1024;
/// Bulk strings up to this size are copied, larger ones share the buffer they were read into.
const COPIED_BYTES: usize = 4096;

/// A reply, or a part of one.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A short text. RESP3's big numbers, too.
    Simple(String),
    /// An error: `CODE text`.
    Error(String),
    /// A number.
    Integer(i64),
    /// Bytes. RESP3's verbatim strings, too, without their format.
    Bulk(Bytes),
    /// Nothing, in any of its three forms.
    Null,
    /// Yes or no.
    Boolean(bool),
    /// A number with a fraction.
    Double(f64),
    /// A list. RESP3's sets, too.
    Array(Vec<Value>),
    /// Pairs in order.
    Map(Vec<(Value, Value)>),
    /// What the server sends unasked.
    Push(Vec<Value>),
}

impl Value {
    /// The value behind a key of a map, or of a flat list of keys and values (a RESP2 map).
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Value> {
        match self {
            Self::Map(pairs) => pairs.iter().find(|(k, _)| k.text() == Some(key)).map(|(_, v)| v),
            Self::Array(items) => {
                let mut pairs = items.chunks_exact(2);
                pairs.find(|pair| pair[0].text() == Some(key)).map(|pair| &pair[1])
            }
            _ => None,
        }
    }

    /// The text of a simple string, or of a bulk string that is UTF-8.
    #[must_use]
    pub fn text(&self) -> Option<&str> {
        match self {
            Self::Simple(text) => Some(text),
            Self::Bulk(bytes) => std::str::from_utf8(bytes).ok(),
            _ => None,
        }
    }

    /// The number, when it is one and not negative.
    #[must_use]
    pub fn number(&self) -> Option<u64> {
        match self {
            Self::Integer(number) => u64::try_from(*number).ok(),
            _ => None,
        }
    }
}

/// Bytes that are not a reply. The connection is of no use after it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadReply(String);

/// What [`Decoder::skim`] saw of a reply.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Skimmed {
    /// The first error in it, at any depth.
    pub error: Option<String>,
    /// Elements of the reply itself, pairs if it is a map; 0 when it is a single value.
    pub items: u64,
    /// Elements of the lists directly inside of it.
    pub inner_items: u64,
    /// Whether the server sent it unasked.
    pub push: bool,
}

/// Cuts replies out of the bytes it is given.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: BytesMut,
    /// Where the next token begins in the buffer.
    at: usize,
    /// Bytes from there on known to hold no line end.
    scanned: usize,
    /// Bytes still missing of a bulk string whose length is known.
    wants: usize,
    /// Unfinished lists and maps of a reply that is being built, outermost first.
    open: Vec<Open>,
    /// Elements missing of the unfinished lists and maps of a reply that is walked over.
    walked: Vec<usize>,
    skimmed: Skimmed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    List,
    Push,
    Map,
}

/// The next step into a reply; ranges are of the decoder's buffer, as are the ends of tokens.
#[derive(Debug)]
enum Token {
    Simple(Range<usize>),
    Error(Range<usize>),
    Bulk(Range<usize>),
    Integer(i64),
    Double(f64),
    Boolean(bool),
    Null,
    Open(Shape, usize),
}

#[derive(Debug)]
enum Open {
    List { shape: Shape, missing: usize, items: Vec<Value> },
    Map { missing: usize, key: Option<Value>, pairs: Vec<(Value, Value)> },
}

impl Open {
    fn new(shape: Shape, length: usize) -> Self {
        let room = length.min(TRUSTED_ELEMENTS);
        match shape {
            Shape::Map => Self::Map { missing: length, key: None, pairs: Vec::with_capacity(room) },
            _ => Self::List { shape, missing: length, items: Vec::with_capacity(room) },
        }
    }

    /// Puts the next element in; true when that was the last one.
    fn put(&mut self, value: Value) -> bool {
        match self {
            Self::List { missing, items, .. } => {
                items.push(value);
                *missing -= 1;
                *missing == 0
            }
            Self::Map { missing, key, pairs } => {
                match key.take() {
                    None => *key = Some(value),
                    Some(key) => {
                        pairs.push((key, value));
                        *missing -= 1;
                    }
                }
                *missing == 0
            }
        }
    }

    fn close(self) -> Value {
        match self {
            Self::List { shape: Shape::Push, items, .. } => Value::Push(items),
            Self::List { items, .. } => Value::Array(items),
            Self::Map { pairs, .. } => Value::Map(pairs),
        }
    }
}

impl Decoder {
    /// Where to read to.
    pub fn buffer(&mut self) -> &mut BytesMut {
        &mut self.buffer
    }

    /// How much is missing of a bulk string whose length is known: room worth making.
    #[must_use]
    pub fn wants(&self) -> usize {
        self.wants.min(1 << 20)
    }

    /// The next reply; `None` when more bytes are needed.
    ///
    /// # Errors
    /// When the bytes are not a reply.
    pub fn next_value(&mut self) -> Result<Option<Value>, BadReply> {
        let value = self.build();
        self.give_back();
        value
    }

    fn build(&mut self) -> Result<Option<Value>, BadReply> {
        loop {
            let Some((token, end)) = self.token()? else { return Ok(None) };
            let value = match token {
                Token::Open(shape, length @ 1..) => {
                    check_depth(self.open.len())?;
                    self.open.push(Open::new(shape, length));
                    self.go_on(end);
                    continue;
                }
                Token::Open(shape, _) => Open::new(shape, 0).close(),
                Token::Simple(span) => Value::Simple(self.text(span)),
                Token::Error(span) => Value::Error(self.text(span)),
                Token::Integer(number) => Value::Integer(number),
                Token::Double(number) => Value::Double(number),
                Token::Boolean(yes) => Value::Boolean(yes),
                Token::Null => Value::Null,
                Token::Bulk(span) if span.len() <= COPIED_BYTES => {
                    Value::Bulk(Bytes::copy_from_slice(&self.buffer[span]))
                }
                Token::Bulk(span) => {
                    self.buffer.advance(span.start);
                    let bytes = self.buffer.split_to(span.len()).freeze();
                    self.go_on(end - span.end);
                    if let Some(reply) = self.place(Value::Bulk(bytes)) {
                        return Ok(Some(reply));
                    }
                    continue;
                }
            };
            self.go_on(end);
            if let Some(reply) = self.place(value) {
                return Ok(Some(reply));
            }
        }
    }

    /// Puts an element where it belongs; the whole reply when it was the last one.
    fn place(&mut self, mut value: Value) -> Option<Value> {
        while let Some(mut open) = self.open.pop() {
            if !open.put(value) {
                self.open.push(open);
                return None;
            }
            value = open.close();
        }
        Some(value)
    }

    /// Walks over the next reply that is no push; `None` when more bytes are needed.
    ///
    /// # Errors
    /// When the bytes are not a reply.
    pub fn skim(&mut self) -> Result<Option<Skimmed>, BadReply> {
        loop {
            match self.skim_any()? {
                Some(skimmed) if skimmed.push => {}
                other => return Ok(other),
            }
        }
    }

    /// Walks over the next reply or push; `None` when more bytes are needed.
    ///
    /// # Errors
    /// When the bytes are neither.
    pub fn skim_any(&mut self) -> Result<Option<Skimmed>, BadReply> {
        let skimmed = self.walk();
        self.give_back();
        skimmed
    }

    fn walk(&mut self) -> Result<Option<Skimmed>, BadReply> {
        loop {
            let Some((token, end)) = self.token()? else { return Ok(None) };
            let depth = self.walked.len();
            match token {
                Token::Open(shape, length) => {
                    match depth {
                        0 => {
                            self.skimmed.items = length as u64;
                            self.skimmed.push = shape == Shape::Push;
                        }
                        1 if shape == Shape::List => self.skimmed.inner_items += length as u64,
                        _ => {}
                    }
                    if length > 0 {
                        check_depth(depth)?;
                        self.walked.push(if shape == Shape::Map { length * 2 } else { length });
                        self.go_on(end);
                        continue;
                    }
                }
                Token::Error(span) if self.skimmed.error.is_none() => {
                    self.skimmed.error = Some(self.text(span));
                }
                _ => {}
            }
            self.go_on(end);
            if self.walked_one() {
                return Ok(Some(std::mem::take(&mut self.skimmed)));
            }
        }
    }

    /// Counts one element as seen; true when that ended the reply.
    fn walked_one(&mut self) -> bool {
        while let Some(missing) = self.walked.last_mut() {
            *missing -= 1;
            if *missing > 0 {
                return false;
            }
            self.walked.pop();
        }
        true
    }

    /// The next token and where it ends.
    fn token(&mut self) -> Result<Option<(Token, usize)>, BadReply> {
        if let Some((kind, number, end)) = self.number_line() {
            return self.counted(kind, number, end);
        }
        let Some(line_end) = self.line_end()? else { return Ok(None) };
        let end = line_end + 2;
        let (kind, line) = (self.buffer[self.at], self.at + 1..line_end);
        let token = match kind {
            b'+' | b'(' => Token::Simple(line),
            b'-' => Token::Error(line),
            b':' => Token::Integer(self.parse(line, "number")?),
            b',' => Token::Double(self.parse(line, "double")?),
            b'_' => Token::Null,
            b'#' => match &self.buffer[line] {
                b"t" => Token::Boolean(true),
                b"f" => Token::Boolean(false),
                _ => return Err(BadReply("a boolean that is neither t nor f".into())),
            },
            b'$' | b'=' | b'!' | b'*' | b'~' | b'>' | b'%' => {
                let length: i64 = self.parse(line, "length")?;
                let Ok(length) = u64::try_from(length) else {
                    // RESP2's null.
                    return match length {
                        -1 => Ok(Some((Token::Null, end))),
                        _ => Err(BadReply("a length out of range".into())),
                    };
                };
                return self.counted(kind, length, end);
            }
            _ => {
                let kind = kind.escape_ascii();
                return Err(BadReply(format!("a reply that begins with '{kind}'")));
            }
        };
        Ok(Some((token, end)))
    }

    /// A line that is a kind and a number without a sign, as nearly every token begins with, read
    /// in one pass: its kind, its number, its end.
    fn number_line(&self) -> Option<(u8, u64, usize)> {
        let (kind, line) = self.buffer[self.at..].split_first()?;
        if !matches!(kind, b':' | b'$' | b'*' | b'%' | b'>' | b'~' | b'=' | b'!') {
            return None;
        }
        let mut number = 0;
        for (digits, byte) in line.iter().take(DIGITS_MAX + 1).enumerate() {
            match byte {
                b'0'..=b'9' => number = number * 10 + u64::from(byte - b'0'),
                b'\r' if digits > 0 && line.get(digits + 1) == Some(&b'\n') => {
                    return Some((*kind, number, self.at + digits + 3));
                }
                _ => return None,
            }
        }
        None
    }

    /// The token of a line that ended at `line_end` and gave its kind a number.
    fn counted(
        &mut self,
        kind: u8,
        number: u64,
        line_end: usize,
    ) -> Result<Option<(Token, usize)>, BadReply> {
        let shape = match kind {
            b':' => {
                let number = i64::try_from(number);
                let number = number.map_err(|_| BadReply("a number out of range".into()))?;
                return Ok(Some((Token::Integer(number), line_end)));
            }
            b'*' | b'~' => Shape::List,
            b'>' => Shape::Push,
            b'%' => Shape::Map,
            _ => return self.bulk(kind, number, line_end),
        };
        match u32::try_from(number) {
            Ok(length) => Ok(Some((Token::Open(shape, length as usize), line_end))),
            Err(_) => Err(BadReply("a length out of range".into())),
        }
    }

    fn bulk(
        &mut self,
        kind: u8,
        length: u64,
        header: usize,
    ) -> Result<Option<(Token, usize)>, BadReply> {
        if length > BULK_MAX_BYTES {
            return Err(BadReply("a length out of range".into()));
        }
        let end = header + length as usize;
        let behind = end + 2;
        let Some(line_end) = self.buffer.get(end..behind) else {
            self.wants = behind - self.buffer.len();
            return Ok(None);
        };
        if line_end != b"\r\n" {
            return Err(BadReply("a bulk string longer than announced".into()));
        }
        let token = match kind {
            b'!' => Token::Error(header..end),
            // A verbatim string begins with a format of three letters and a colon.
            b'=' => Token::Bulk((header + 4).min(end)..end),
            _ => Token::Bulk(header..end),
        };
        Ok(Some((token, behind)))
    }

    fn parse<T: std::str::FromStr>(&self, line: Range<usize>, what: &str) -> Result<T, BadReply> {
        let line = &self.buffer[line];
        let parsed = std::str::from_utf8(line).ok().and_then(|text| text.parse().ok());
        parsed.ok_or_else(|| {
            let shown = line[..line.len().min(32)].escape_ascii();
            BadReply(format!("'{shown}' where a {what} belongs"))
        })
    }

    /// Where the next line ends: the position of its `\r\n`.
    fn line_end(&mut self) -> Result<Option<usize>, BadReply> {
        let rest = &self.buffer[self.at..];
        let found = memchr(b'\n', &rest[self.scanned..]);
        // A line that was found is found again at once, should its bulk string be incomplete.
        self.scanned = found.map_or(rest.len(), |at| self.scanned + at);
        if self.scanned > LINE_MAX_BYTES {
            return Err(BadReply("a line without an end".into()));
        }
        if found.is_none() {
            return Ok(None);
        }
        let end = self.scanned.wrapping_sub(1);
        match rest.get(end) {
            Some(b'\r') if end > 0 => Ok(Some(self.at + end)),
            _ => Err(BadReply("a line that does not end in CR LF".into())),
        }
    }

    /// The next token begins here.
    fn go_on(&mut self, at: usize) {
        self.at = at;
        self.scanned = 0;
        self.wants = 0;
    }

    /// Gives back what was read of the buffer: once for many tokens.
    fn give_back(&mut self) {
        self.buffer.advance(std::mem::take(&mut self.at));
    }

    fn text(&self, span: Range<usize>) -> String {
        String::from_utf8_lossy(&self.buffer[span]).into_owned()
    }
}

fn check_depth(depth: usize) -> Result<(), BadReply> {
    if depth < DEPTH_MAX {
        Ok(())
    } else {
        Err(BadReply(format!("a reply nested deeper than {DEPTH_MAX}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPLIES: &[u8] = b"%2\r\n+a\r\n:-7\r\n$1\r\nb\r\n*3\r\n_\r\n#t\r\n,1.5\r\n\
        $-1\r\n*0\r\n*-1\r\n-ERR no\r\n>2\r\n+message\r\n$0\r\n\r\n=7\r\ntxt:a\r\n\r\n~1\r\n:1\r\n\
        *2\r\n*2\r\n:1\r\n:2\r\n!3\r\nE x\r\n";

    fn simple(text: &str) -> Value {
        Value::Simple(text.into())
    }

    fn bulk(bytes: &'static [u8]) -> Value {
        Value::Bulk(Bytes::from_static(bytes))
    }

    fn expected() -> Vec<Value> {
        let list = vec![Value::Null, Value::Boolean(true), Value::Double(1.5)];
        let numbers = vec![Value::Integer(1), Value::Integer(2)];
        vec![
            Value::Map(vec![(simple("a"), Value::Integer(-7)), (bulk(b"b"), Value::Array(list))]),
            Value::Null,
            Value::Array(vec![]),
            Value::Null,
            Value::Error("ERR no".into()),
            Value::Push(vec![simple("message"), bulk(b"")]),
            bulk(b"a\r\n"),
            Value::Array(vec![Value::Integer(1)]),
            Value::Array(vec![Value::Array(numbers), Value::Error("E x".into())]),
        ]
    }

    fn decode(bytes: &[u8], piece: usize) -> Result<Vec<Value>, BadReply> {
        let mut decoder = Decoder::default();
        let mut values = Vec::new();
        for part in bytes.chunks(piece) {
            decoder.buffer().extend_from_slice(part);
            while let Some(value) = decoder.next_value()? {
                values.push(value);
            }
        }
        assert!(decoder.buffer.is_empty() && decoder.open.is_empty(), "left over");
        Ok(values)
    }

    #[test]
    fn replies_are_the_same_in_pieces_of_every_size() {
        for piece in 1..=REPLIES.len() {
            assert_eq!(decode(REPLIES, piece).unwrap(), expected(), "pieces of {piece}");
        }
    }

    #[test]
    fn large_bulk_strings_arrive_whole_between_others() {
        let large = vec![b'x'; COPIED_BYTES * 3];
        let mut bytes = format!("*2\r\n${}\r\n", large.len()).into_bytes();
        bytes.extend_from_slice(&large);
        bytes.extend_from_slice(b"\r\n:1\r\n:2\r\n");
        for piece in [1, 1000, bytes.len()] {
            let values = decode(&bytes, piece).unwrap();
            let list = vec![Value::Bulk(large.clone().into()), Value::Integer(1)];
            assert_eq!(values, [Value::Array(list), Value::Integer(2)]);
        }
    }

    #[test]
    fn skimming_sees_errors_and_lengths_and_passes_over_pushes() {
        for piece in 1..=REPLIES.len() {
            let mut decoder = Decoder::default();
            let mut seen = Vec::new();
            for part in REPLIES.chunks(piece) {
                decoder.buffer().extend_from_slice(part);
                while let Some(skimmed) = decoder.skim().unwrap() {
                    seen.push(skimmed);
                }
            }
            assert_eq!(seen.len(), expected().len() - 1);
            let page = Skimmed { items: 2, inner_items: 3, ..Skimmed::default() };
            assert_eq!(seen[0], page);
            assert_eq!(seen[4].error.as_deref(), Some("ERR no"));
            let nested =
                Skimmed { error: Some("E x".into()), items: 2, inner_items: 2, push: false };
            assert_eq!(seen[7], nested);
        }
    }

    #[test]
    fn numbers_of_every_length_are_read() {
        for digits in 1..=19 {
            let most = i64::MAX.to_string()[..digits].parse::<i64>().unwrap();
            for number in [most, -most] {
                let bytes = format!(":{number}\r\n").into_bytes();
                for piece in 1..=bytes.len() {
                    assert_eq!(decode(&bytes, piece).unwrap(), [Value::Integer(number)]);
                }
            }
        }
    }

    #[test]
    fn what_is_no_reply_is_refused() {
        let deep = "*1\r\n".repeat(DEPTH_MAX + 1);
        let bad: [&[u8]; 14] = [
            b":9223372036854775808\r\n",
            b":12\n",
            b":\r\n",
            b"$1073741825\r\n",
            b"*4294967296\r\n",
            b"$18446744073709551617\r\n",
            b"HTTP/1.1 400 Bad Request\r\n",
            b"+no carriage return\n",
            b"\r\n",
            b":x\r\n",
            b"$-2\r\n",
            b"$1\r\nabc\r\n",
            b"#x\r\n",
            deep.as_bytes(),
        ];
        for bytes in bad {
            assert!(decode(bytes, bytes.len()).is_err(), "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn an_announced_length_allocates_nothing_large() {
        let mut decoder = Decoder::default();
        decoder.buffer().extend_from_slice(b"*4000000000\r\n$1000000000\r\n");
        assert_eq!(decoder.next_value(), Ok(None));
        assert!(decoder.wants() <= 1 << 20);
    }

    #[test]
    fn keys_are_found_in_maps_of_both_protocols() {
        let version = Value::Integer(3);
        let map = Value::Map(vec![(simple("stream_version"), version.clone())]);
        assert_eq!(map.get("stream_version"), Some(&version));
        let flat = Value::Array(vec![bulk(b"stream_version"), version.clone()]);
        assert_eq!(flat.get("stream_version").and_then(Value::number), Some(3));
        assert_eq!(flat.get("other"), None);
    }
}
