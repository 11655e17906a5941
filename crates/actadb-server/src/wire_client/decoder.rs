//! Decoding replies of RESP2 and RESP3, in whatever pieces they arrive.
//!
//! One lexer, two readers of its tokens: [`Decoder::next_value`] builds the reply,
//! [`Decoder::skim`] only walks over it. What has been read of an unfinished reply is not looked
//! at again, and nothing large is allocated on the word of an announced length.

use bytes::{Bytes, BytesMut};

use super::lexer::{BadReply, Lexer, Shape, Token};

/// Deepest nesting of a reply.
const DEPTH_MAX: usize = 16;
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
    lexer: Lexer,
    /// Unfinished lists and maps of a reply that is being built, outermost first.
    open: Vec<Open>,
    /// Elements missing of the unfinished lists and maps of a reply that is walked over.
    walked: Vec<usize>,
    skimmed: Skimmed,
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
        &mut self.lexer.buffer
    }

    /// How much is missing of a bulk string whose length is known: room worth making.
    #[must_use]
    pub fn wants(&self) -> usize {
        self.lexer.wants.min(1 << 20)
    }

    /// The next reply; `None` when more bytes are needed.
    ///
    /// # Errors
    /// When the bytes are not a reply.
    pub fn next_value(&mut self) -> Result<Option<Value>, BadReply> {
        let value = self.build();
        self.lexer.give_back();
        value
    }

    fn build(&mut self) -> Result<Option<Value>, BadReply> {
        loop {
            let Some((token, mut end)) = self.lexer.token()? else { return Ok(None) };
            let value = match token {
                Token::Open(shape, length @ 1..) => {
                    check_depth(self.open.len())?;
                    self.open.push(Open::new(shape, length));
                    self.lexer.go_on(end);
                    continue;
                }
                Token::Open(shape, _) => Open::new(shape, 0).close(),
                Token::Simple(span) => Value::Simple(self.lexer.text(span)),
                Token::Error(span) => Value::Error(self.lexer.text(span)),
                Token::Integer(number) => Value::Integer(number),
                Token::Double(number) => Value::Double(number),
                Token::Boolean(yes) => Value::Boolean(yes),
                Token::Null => Value::Null,
                Token::Bulk(span) if span.len() <= COPIED_BYTES => {
                    Value::Bulk(Bytes::copy_from_slice(&self.lexer.buffer[span]))
                }
                Token::Bulk(span) => {
                    end -= span.end;
                    Value::Bulk(self.lexer.take(&span))
                }
            };
            self.lexer.go_on(end);
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
        self.lexer.give_back();
        skimmed
    }

    fn walk(&mut self) -> Result<Option<Skimmed>, BadReply> {
        loop {
            let Some((token, end)) = self.lexer.token()? else { return Ok(None) };
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
                        self.lexer.go_on(end);
                        continue;
                    }
                }
                Token::Error(span) if self.skimmed.error.is_none() => {
                    self.skimmed.error = Some(self.lexer.text(span));
                }
                _ => {}
            }
            self.lexer.go_on(end);
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
        assert!(decoder.lexer.buffer.is_empty() && decoder.open.is_empty(), "left over");
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
    fn what_is_missing_of_a_bulk_string_is_known_to_the_byte() {
        let mut decoder = Decoder::default();
        decoder.buffer().extend_from_slice(b":1\r\n*2\r\n:7\r\n$10\r\n12345");
        assert_eq!(decoder.next_value(), Ok(Some(Value::Integer(1))));
        assert_eq!((decoder.next_value(), decoder.wants()), (Ok(None), 7));
        decoder.buffer().extend_from_slice(b"67890\r");
        assert_eq!((decoder.next_value(), decoder.wants()), (Ok(None), 1));
        decoder.buffer().extend_from_slice(b"\n");
        let list = vec![Value::Integer(7), bulk(b"1234567890")];
        assert_eq!((decoder.next_value(), decoder.wants()), (Ok(Some(Value::Array(list))), 0));
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
