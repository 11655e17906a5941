//! Cutting tokens out of RESP2 and RESP3, in whatever pieces it arrives.

use std::ops::Range;

use bytes::{Buf, Bytes, BytesMut};
use memchr::memchr;

/// Longest line, in bytes.
const LINE_MAX_BYTES: usize = 1 << 20;
/// Longest bulk string, in bytes.
const BULK_MAX_BYTES: u32 = 1 << 30;
/// Most elements of a list, most pairs of a map.
const ELEMENTS_MAX: u32 = u32::MAX;
/// Digits of a number that is read in one pass: so many fit into 63 bits.
const DIGITS_MAX: usize = 18;

/// Bytes that are not a reply. The connection is of no use after it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadReply(pub(super) String);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    List,
    Push,
    Map,
}

/// The next step into a reply; ranges are of the lexer's buffer, as are the ends of tokens.
#[derive(Debug)]
pub(super) enum Token {
    Simple(Range<usize>),
    Error(Range<usize>),
    Bulk(Range<usize>),
    Integer(i64),
    Double(f64),
    Boolean(bool),
    Null,
    Open(Shape, usize),
}

/// The bytes that have arrived, and how far they are read.
#[derive(Debug, Default)]
pub(super) struct Lexer {
    pub(super) buffer: BytesMut,
    /// Where the next token begins in the buffer.
    at: usize,
    /// Bytes from there on known to hold no line end.
    scanned: usize,
    /// Bytes still missing of a bulk string whose length is known.
    pub(super) wants: usize,
}

impl Lexer {
    /// The next token and where it ends.
    pub(super) fn token(&mut self) -> Result<Option<(Token, usize)>, BadReply> {
        if let Some((kind, number, end)) = self.number_line() {
            return self.counted(kind, number, end);
        }
        let Some(line_end) = self.line_end()? else { return Ok(None) };
        let end = line_end + 2;
        let (kind, line) = (self.buffer[self.at], self.at + 1..line_end);
        let token = match kind {
            b'+' | b'(' => Token::Simple(line),
            b'-' => Token::Error(line),
            b',' => Token::Double(self.parse(line, "double")?),
            b'_' => Token::Null,
            b'#' => match &self.buffer[line] {
                b"t" => Token::Boolean(true),
                b"f" => Token::Boolean(false),
                _ => return Err(BadReply("a boolean that is neither t nor f".into())),
            },
            b':' | b'$' | b'=' | b'!' | b'*' | b'~' | b'>' | b'%' => {
                let number = self.parse(line, "number")?;
                return self.counted(kind, number, end);
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
    fn number_line(&self) -> Option<(u8, i64, usize)> {
        let (kind, line) = self.buffer[self.at..].split_first()?;
        if !matches!(kind, b':' | b'$' | b'*' | b'%' | b'>' | b'~' | b'=' | b'!') {
            return None;
        }
        let mut number = 0;
        for (digits, byte) in line.iter().enumerate() {
            match byte {
                b'0'..=b'9' if digits < DIGITS_MAX => number = number * 10 + i64::from(byte - b'0'),
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
        number: i64,
        line_end: usize,
    ) -> Result<Option<(Token, usize)>, BadReply> {
        let token = match (kind, number) {
            (b':', _) => Token::Integer(number),
            // RESP2's null.
            (_, -1) => Token::Null,
            (b'*' | b'~', _) => Token::Open(Shape::List, length(number, ELEMENTS_MAX)?),
            (b'>', _) => Token::Open(Shape::Push, length(number, ELEMENTS_MAX)?),
            (b'%', _) => Token::Open(Shape::Map, length(number, ELEMENTS_MAX)?),
            _ => return self.bulk(kind, length(number, BULK_MAX_BYTES)?, line_end),
        };
        Ok(Some((token, line_end)))
    }

    fn bulk(
        &mut self,
        kind: u8,
        length: usize,
        header: usize,
    ) -> Result<Option<(Token, usize)>, BadReply> {
        let end = header + length;
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
    pub(super) fn go_on(&mut self, at: usize) {
        self.at = at;
        self.scanned = 0;
        self.wants = 0;
    }

    /// Gives back what was read of the buffer: once for many tokens.
    pub(super) fn give_back(&mut self) {
        self.buffer.advance(std::mem::take(&mut self.at));
    }

    pub(super) fn text(&self, span: Range<usize>) -> String {
        String::from_utf8_lossy(&self.buffer[span]).into_owned()
    }

    /// The bytes of a token's span, without a copy. The buffer begins behind it then, and the next
    /// token has to be [set](Self::go_on) anew.
    pub(super) fn take(&mut self, span: &Range<usize>) -> Bytes {
        self.buffer.advance(span.start);
        self.buffer.split_to(span.len()).freeze()
    }
}

/// An announced length.
fn length(number: i64, most: u32) -> Result<usize, BadReply> {
    let length = u32::try_from(number).ok().filter(|length| *length <= most);
    length.map(|length| length as usize).ok_or_else(|| BadReply("a length out of range".into()))
}
