//! Cutting a stream of bytes into requests.
//!
//! A request is a flat array of bulk strings, or an inline command as one types it into `nc`.
//! The framer is resumable: what has been read is not looked at again, however small the pieces in
//! which it arrives. Nothing is allocated on the word of an announced length, and every length has
//! a limit. The words of its errors are Redis's own.

use std::fmt;
use std::ops::Deref;

use bytes::{Buf, Bytes, BytesMut};
use smallvec::SmallVec;

/// Limits of what a client may send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Most arguments of one request.
    pub arguments: usize,
    /// Largest argument in bytes.
    pub bulk_bytes: usize,
    /// Largest request in bytes.
    pub request_bytes: usize,
    /// Longest inline command in bytes.
    pub inline_bytes: usize,
    /// Whether these are the limits before AUTH, for the words of an error.
    pub unauthenticated: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            arguments: 1_048_576,
            bulk_bytes: 16 << 20,
            request_bytes: 64 << 20,
            inline_bytes: 64 << 10,
            unauthenticated: false,
        }
    }
}

impl Limits {
    /// What a client may send before it has authenticated, as in Redis.
    #[must_use]
    pub fn unauthenticated(self) -> Self {
        Self {
            arguments: self.arguments.min(16),
            bulk_bytes: self.bulk_bytes.min(4096),
            request_bytes: self.request_bytes.min(4096),
            inline_bytes: self.inline_bytes.min(4096),
            unauthenticated: true,
        }
    }
}

/// Bytes that are not a request. The connection is closed after it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("Protocol error: {0}")]
pub struct ProtocolError(pub String);

/// Longest line that announces a length.
const LENGTH_LINE_BYTES: usize = 64;

/// The arguments of a request larger than this keep its buffer; those of others are copied by
/// whoever keeps them, so that the buffer is used again for the next read.
const SHARED_BYTES_MIN: usize = 32 << 10;
/// What an argument is charged beside its bytes: for its line and its place.
const ARGUMENT_BYTES: usize = 32;
/// Room for places and words of arguments, kept for the next request.
const PLACES_KEPT: usize = 1024;

/// The arguments of a request, at least one.
pub type Words<'a> = SmallVec<[Word<'a>; 8]>;

/// One argument of a request, where it lies: a reference to its bytes.
#[derive(Clone, Copy)]
pub struct Word<'a> {
    bytes: &'a [u8],
    /// What the bytes are a part of, if that can be shared.
    whole: Option<&'a Bytes>,
}

impl Word<'_> {
    /// The argument, to keep it.
    #[must_use]
    pub fn to_bytes(&self) -> Bytes {
        match self.whole {
            Some(whole) => whole.slice_ref(self.bytes),
            None => Bytes::copy_from_slice(self.bytes),
        }
    }
}

impl<'a> From<&'a Bytes> for Word<'a> {
    fn from(bytes: &'a Bytes) -> Self {
        Self { bytes, whole: Some(bytes) }
    }
}

impl Deref for Word<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.bytes
    }
}

impl PartialEq for Word<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.bytes == other.bytes
    }
}

impl Eq for Word<'_> {}

impl fmt::Debug for Word<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.bytes.escape_ascii())
    }
}

/// Cuts requests out of the bytes it is given.
#[derive(Debug)]
pub struct Framer {
    limits: Limits,
    buffer: BytesMut,
    /// Bytes of the buffer that were read: of the request being read, or of the one given out.
    at: usize,
    /// Bytes behind them known to hold no line end.
    scanned: usize,
    /// The request being read, if its first line was.
    array: Option<Array>,
    /// Where its arguments lie in the buffer.
    places: Vec<(usize, usize)>,
    /// The words of the inline command given out, or the one piece that is a large request.
    given: Vec<Bytes>,
}

#[derive(Debug)]
struct Array {
    missing: usize,
    /// What its arguments take, lines of unusual length included.
    bytes: usize,
    /// Announced length of the argument being read.
    bulk: Option<usize>,
}

/// What the next request is.
enum Found {
    Array,
    Inline,
}

impl Framer {
    /// A framer with nothing read.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            buffer: BytesMut::new(),
            at: 0,
            scanned: 0,
            array: None,
            places: Vec::new(),
            given: Vec::new(),
        }
    }

    /// Changes the limits, for what is read from now on.
    pub fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// Where to read to.
    pub fn buffer(&mut self) -> &mut BytesMut {
        self.forget();
        &mut self.buffer
    }

    /// Bytes held: of requests not yet complete, and behind them.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        let arguments = if self.array.is_some() { self.places.len() } else { 0 };
        self.unread_bytes() + arguments * ARGUMENT_BYTES
    }

    /// Whether nothing is left of what was read.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.unread_bytes() == 0
    }

    /// Bytes that were not given out.
    fn unread_bytes(&self) -> usize {
        if self.array.is_some() { self.buffer.len() } else { self.buffer.len() - self.at }
    }

    /// How much is missing of an argument whose length is known: room worth reserving.
    #[must_use]
    pub fn wants(&self) -> usize {
        let bulk = self.array.as_ref().and_then(|array| array.bulk);
        bulk.map_or(0, |length| (length + 2).saturating_sub(self.buffer.len() - self.at))
    }

    /// Lets go of the request that was given out.
    fn forget(&mut self) {
        if self.at > 0 && self.array.is_none() {
            self.buffer.advance(self.at);
            self.at = 0;
        }
        if !self.given.is_empty() {
            self.given.clear();
            self.given.shrink_to(PLACES_KEPT);
        }
        if self.array.is_none() && self.places.capacity() > PLACES_KEPT {
            self.places = Vec::new();
        }
    }

    /// The next request's arguments, at least one; `None` when more bytes are needed.
    ///
    /// # Errors
    /// When the bytes are not a request, or exceed a limit.
    pub fn step(&mut self) -> Result<Option<Words<'_>>, ProtocolError> {
        match self.find()? {
            None => return Ok(None),
            Some(Found::Inline) => return Ok(Some(self.given.iter().map(Word::from).collect())),
            Some(Found::Array) => {}
        }
        if self.at >= SHARED_BYTES_MIN {
            self.given.push(self.buffer.split_to(self.at).freeze());
            if self.buffer.len() < self.at {
                // What is left must not keep the memory of what was given out.
                self.buffer = BytesMut::from(&self.buffer[..]);
            }
            self.at = 0;
        }
        let whole = self.given.first();
        let bytes = whole.map_or(&self.buffer[..], |whole| whole);
        let word = |(start, end): &(usize, usize)| Word { bytes: &bytes[*start..*end], whole };
        Ok(Some(self.places.iter().map(word).collect()))
    }

    /// Reads on until a request is complete: an array's arguments are in `places`, an inline
    /// command's in `given`.
    fn find(&mut self) -> Result<Option<Found>, ProtocolError> {
        loop {
            self.forget();
            if let Some(mut array) = self.array.take() {
                if self.read_array(&mut array)? {
                    return Ok(Some(Found::Array));
                }
                self.array = Some(array);
                return Ok(None);
            }
            match self.buffer.first() {
                None => return Ok(None),
                Some(b'*') => {
                    let Some(count) = self.read_length(b'*', "multibulk")? else { return Ok(None) };
                    let limit = i64::try_from(self.limits.arguments).unwrap_or(i64::MAX);
                    if count > limit {
                        return Err(self.over("multibulk"));
                    }
                    // An empty or null array is no request; Redis skips it.
                    if let Ok(missing @ 1..) = usize::try_from(count) {
                        self.forget();
                        self.places.clear();
                        self.array = Some(Array { missing, bytes: 0, bulk: None });
                    }
                }
                Some(_) => match self.read_inline()? {
                    None => return Ok(None),
                    Some(arguments) if arguments.is_empty() => {}
                    Some(arguments) => {
                        self.given = arguments;
                        return Ok(Some(Found::Inline));
                    }
                },
            }
        }
    }

    /// Reads arguments; answers whether all are there.
    fn read_array(&mut self, array: &mut Array) -> Result<bool, ProtocolError> {
        while array.missing > 0 {
            // Nearly always the argument is there as a whole.
            if array.bulk.is_none()
                && let Some((line, length)) = plain_length(b'$', &self.buffer[self.at..])
                && let (start, end) = (self.at + line, self.at + line + length)
                && self.buffer.get(end..end + 2) == Some(b"\r\n")
            {
                self.check_bulk(array, length)?;
                self.scanned = 0;
                self.places.push((start, end));
                self.at = end + 2;
                array.bytes += length;
                array.missing -= 1;
                continue;
            }
            let length = match array.bulk {
                Some(length) => length,
                None => {
                    let line = self.at;
                    let Some(length) = self.read_bulk_length(array)? else { return Ok(false) };
                    array.bytes += (self.at - line).saturating_sub(ARGUMENT_BYTES / 2);
                    array.bulk = Some(length);
                    length
                }
            };
            let start = self.at;
            match self.buffer.get(start + length..start + length + 2) {
                None => return Ok(false),
                Some(b"\r\n") => {}
                Some(_) => {
                    return Err(ProtocolError("expected CRLF behind an argument".into()));
                }
            }
            self.places.push((start, start + length));
            self.at += length + 2;
            array.bytes += length;
            array.bulk = None;
            array.missing -= 1;
        }
        Ok(true)
    }

    fn read_bulk_length(&mut self, array: &Array) -> Result<Option<usize>, ProtocolError> {
        match self.buffer.get(self.at) {
            None => return Ok(None),
            Some(b'$') => {}
            Some(other) => {
                let got = char::from(*other).escape_default().to_string();
                return Err(ProtocolError(format!("expected '$', got '{got}'")));
            }
        }
        let Some(length) = self.read_length(b'$', "bulk")? else { return Ok(None) };
        let invalid = || ProtocolError("invalid bulk length".into());
        let length = usize::try_from(length).map_err(|_| invalid())?;
        self.check_bulk(array, length)?;
        Ok(Some(length))
    }

    fn check_bulk(&self, array: &Array, length: usize) -> Result<(), ProtocolError> {
        if length > self.limits.bulk_bytes {
            return Err(self.over("bulk"));
        }
        // What an argument costs beside its bytes counts, too: a million empty ones are not free.
        let held = array.bytes + self.places.len() * ARGUMENT_BYTES;
        if held + length > self.limits.request_bytes {
            return Err(ProtocolError("too big request".into()));
        }
        Ok(())
    }

    fn over(&self, what: &str) -> ProtocolError {
        let why = if self.limits.unauthenticated { "unauthenticated" } else { "invalid" };
        ProtocolError(format!("{why} {what} length"))
    }

    /// The number behind `*` or `$`, with its line taken.
    fn read_length(&mut self, kind: u8, what: &str) -> Result<Option<i64>, ProtocolError> {
        if let Some((line, length)) = plain_length(kind, &self.buffer[self.at..]) {
            self.scanned = 0;
            self.at += line;
            return Ok(i64::try_from(length).ok());
        }
        let limit = LENGTH_LINE_BYTES;
        let word = if what == "multibulk" { "mbulk" } else { what };
        let Some(end) = self.find_line(limit, || format!("too big {word} count string"))? else {
            return Ok(None);
        };
        let line = &self.buffer[self.at..self.at + end];
        let text = without_cr(line).get(1..).unwrap_or_default();
        let digits = text.strip_prefix(b"-").unwrap_or(text);
        let plain = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
        let number = std::str::from_utf8(text).ok().filter(|_| plain).and_then(|t| t.parse().ok());
        self.at += end + 1;
        number.map(Some).ok_or_else(|| ProtocolError(format!("invalid {what} length")))
    }

    fn read_inline(&mut self) -> Result<Option<Vec<Bytes>>, ProtocolError> {
        let limit = self.limits.inline_bytes;
        let Some(end) = self.find_line(limit, || "too big inline request".into())? else {
            return Ok(None);
        };
        let arguments = split_inline(without_cr(&self.buffer[self.at..self.at + end]));
        self.at += end + 1;
        let arguments =
            arguments.ok_or_else(|| ProtocolError("unbalanced quotes in request".into()))?;
        if arguments.len() > self.limits.arguments {
            return Err(self.over("multibulk"));
        }
        Ok(Some(arguments))
    }

    /// Where the `\n` of the next line is, counted from what was read.
    fn find_line(
        &mut self,
        limit: usize,
        too_big: impl FnOnce() -> String,
    ) -> Result<Option<usize>, ProtocolError> {
        let unread = &self.buffer[self.at..];
        let unseen = unread.get(self.scanned..).unwrap_or_default();
        let Some(at) = unseen.iter().position(|byte| *byte == b'\n') else {
            if unread.len() > limit {
                return Err(ProtocolError(too_big()));
            }
            self.scanned = unread.len();
            return Ok(None);
        };
        let end = self.scanned + at;
        self.scanned = 0;
        if end > limit {
            return Err(ProtocolError(too_big()));
        }
        Ok(Some(end))
    }
}

/// The line that announces a length at the front of `bytes`: its own length, and what it says. Only
/// of up to four digits and as every client writes it; this is most of what a command costs here.
fn plain_length(kind: u8, bytes: &[u8]) -> Option<(usize, usize)> {
    let (first, bytes) = bytes.split_first()?;
    if *first != kind {
        return None;
    }
    let number = |digits: &[u8]| digits.iter().fold(0, |n, byte| n * 10 + usize::from(byte - b'0'));
    match bytes {
        [a @ b'0'..=b'9', b'\r', b'\n', ..] => Some((4, number(&[*a]))),
        [a @ b'0'..=b'9', b @ b'0'..=b'9', b'\r', b'\n', ..] => Some((5, number(&[*a, *b]))),
        [a @ b'0'..=b'9', b @ b'0'..=b'9', c @ b'0'..=b'9', b'\r', b'\n', ..] => {
            Some((6, number(&[*a, *b, *c])))
        }
        [a @ b'0'..=b'9', b @ b'0'..=b'9', c @ b'0'..=b'9', d @ b'0'..=b'9', b'\r', b'\n', ..] => {
            Some((7, number(&[*a, *b, *c, *d])))
        }
        _ => None,
    }
}

/// A line without its end, which is `\r\n` or, as in Redis, `\n` alone.
fn without_cr(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\r").unwrap_or(line)
}

/// Words of an inline command, quoted as in `redis-cli`: `"…"` with escapes, `'…'` with `\'`.
/// `None` when quotes do not balance.
#[must_use]
pub fn split_inline(line: &[u8]) -> Option<Vec<Bytes>> {
    let mut words = Vec::new();
    let mut rest = line;
    loop {
        rest = rest.trim_ascii_start();
        if rest.is_empty() {
            return Some(words);
        }
        let mut word = Vec::new();
        // A quote opens anywhere in a word, and its end must be the word's.
        let plain = rest.iter().position(|b| b.is_ascii_whitespace() || matches!(b, b'"' | b'\''));
        let (plain, behind) = rest.split_at(plain.unwrap_or(rest.len()));
        word.extend_from_slice(plain);
        rest = match behind {
            [b'"', quoted @ ..] => double_quoted(quoted, &mut word)?,
            [b'\'', quoted @ ..] => single_quoted(quoted, &mut word)?,
            _ => behind,
        };
        if rest.first().is_some_and(|byte| !byte.is_ascii_whitespace()) {
            return None;
        }
        words.push(Bytes::from(word));
    }
}

fn double_quoted<'a>(mut rest: &'a [u8], word: &mut Vec<u8>) -> Option<&'a [u8]> {
    loop {
        match rest {
            [b'"', behind @ ..] => return Some(behind),
            [b'\\', b'x', high, low, behind @ ..]
                if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() =>
            {
                let digit = |byte: &u8| char::from(*byte).to_digit(16).unwrap_or(0) as u8;
                word.push(digit(high) << 4 | digit(low));
                rest = behind;
            }
            [b'\\', escaped, behind @ ..] => {
                word.push(match escaped {
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    b'b' => 8,
                    b'a' => 7,
                    other => *other,
                });
                rest = behind;
            }
            [byte, behind @ ..] => {
                word.push(*byte);
                rest = behind;
            }
            [] => return None,
        }
    }
}

fn single_quoted<'a>(mut rest: &'a [u8], word: &mut Vec<u8>) -> Option<&'a [u8]> {
    loop {
        match rest {
            [b'\'', behind @ ..] => return Some(behind),
            [b'\\', b'\'', behind @ ..] => {
                word.push(b'\'');
                rest = behind;
            }
            [byte, behind @ ..] => {
                word.push(*byte);
                rest = behind;
            }
            [] => return None,
        }
    }
}
