//! Cutting a stream of bytes into requests.
//!
//! A request is a flat array of bulk strings, or an inline command as one types it into `nc`.
//! The framer is resumable: what has been read is not looked at again, however small the pieces in
//! which it arrives. Nothing is allocated on the word of an announced length, and every length has
//! a limit. The words of its errors are Redis's own.

use bytes::{Buf, Bytes, BytesMut};

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

/// Arguments up to this size are copied out of the buffer.
const COPY_BYTES_MAX: usize = 4096;

/// Cuts requests out of the bytes it is given.
#[derive(Debug)]
pub struct Framer {
    limits: Limits,
    buffer: BytesMut,
    /// The request being read, if its first line was.
    array: Option<Array>,
    /// Bytes of the buffer known to hold no line end.
    scanned: usize,
}

#[derive(Debug)]
struct Array {
    missing: usize,
    arguments: Vec<Bytes>,
    bytes: usize,
    /// Announced length of the argument being read.
    bulk: Option<usize>,
}

impl Framer {
    /// A framer with nothing read.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self { limits, buffer: BytesMut::new(), array: None, scanned: 0 }
    }

    /// Changes the limits, for what is read from now on.
    pub fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// Where to read to.
    pub fn buffer(&mut self) -> &mut BytesMut {
        &mut self.buffer
    }

    /// Bytes held: of requests not yet complete, and behind them.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        // An argument costs more than its bytes: its handle, and its own allocation.
        let array = self.array.as_ref();
        let overhead = array.map_or(0, |a| a.arguments.len() * 2 * size_of::<Bytes>());
        self.buffer.len() + array.map_or(0, |array| array.bytes) + overhead
    }

    /// How much is missing of an argument whose length is known: room worth reserving.
    #[must_use]
    pub fn wants(&self) -> usize {
        let bulk = self.array.as_ref().and_then(|array| array.bulk);
        bulk.map_or(0, |length| (length + 2).saturating_sub(self.buffer.len()))
    }

    /// The next request's arguments, at least one; `None` when more bytes are needed.
    ///
    /// # Errors
    /// When the bytes are not a request, or exceed a limit.
    pub fn step(&mut self) -> Result<Option<Vec<Bytes>>, ProtocolError> {
        loop {
            if self.array.is_some() {
                return self.read_array();
            }
            match self.buffer.first() {
                None => return Ok(None),
                Some(b'*') => {
                    let Some(count) = self.read_length("multibulk")? else { return Ok(None) };
                    let limit = i64::try_from(self.limits.arguments).unwrap_or(i64::MAX);
                    if count > limit {
                        return Err(self.over("multibulk"));
                    }
                    // An empty or null array is no request; Redis skips it.
                    if let Ok(missing @ 1..) = usize::try_from(count) {
                        self.array = Some(Array {
                            missing,
                            arguments: Vec::with_capacity(missing.min(64)),
                            bytes: 0,
                            bulk: None,
                        });
                    }
                }
                Some(_) => match self.read_inline()? {
                    None => return Ok(None),
                    Some(arguments) if arguments.is_empty() => {}
                    Some(arguments) => return Ok(Some(arguments)),
                },
            }
        }
    }

    fn read_array(&mut self) -> Result<Option<Vec<Bytes>>, ProtocolError> {
        let Some(mut array) = self.array.take() else { return Ok(None) };
        while array.missing > 0 {
            let length = match array.bulk {
                Some(length) => length,
                None => match self.read_bulk_length(&array)? {
                    Some(length) => length,
                    None => {
                        self.array = Some(array);
                        return Ok(None);
                    }
                },
            };
            if self.buffer.len() < length + 2 {
                array.bulk = Some(length);
                self.array = Some(array);
                return Ok(None);
            }
            if self.buffer.get(length..length + 2) != Some(b"\r\n") {
                return Err(ProtocolError("expected CRLF behind an argument".into()));
            }
            array.arguments.push(self.take(length));
            self.buffer.advance(2);
            array.bytes += length;
            array.bulk = None;
            array.missing -= 1;
        }
        Ok(Some(array.arguments))
    }

    /// Bytes from the front of the buffer. Small ones are copied: a slice would keep the whole
    /// buffer, which could not be used again for the next read.
    fn take(&mut self, length: usize) -> Bytes {
        if length > COPY_BYTES_MAX {
            return self.buffer.split_to(length).freeze();
        }
        let copied = Bytes::copy_from_slice(&self.buffer[..length]);
        self.buffer.advance(length);
        copied
    }

    fn read_bulk_length(&mut self, array: &Array) -> Result<Option<usize>, ProtocolError> {
        match self.buffer.first() {
            None => return Ok(None),
            Some(b'$') => {}
            Some(other) => {
                let got = char::from(*other).escape_default().to_string();
                return Err(ProtocolError(format!("expected '$', got '{got}'")));
            }
        }
        let Some(length) = self.read_length("bulk")? else { return Ok(None) };
        let invalid = || ProtocolError("invalid bulk length".into());
        let length = usize::try_from(length).map_err(|_| invalid())?;
        if length > self.limits.bulk_bytes {
            return Err(self.over("bulk"));
        }
        // What an argument costs beside its bytes counts, too: a million empty ones are not free.
        let held = array.bytes + array.arguments.len() * size_of::<Bytes>();
        if held + length > self.limits.request_bytes {
            return Err(ProtocolError("too big request".into()));
        }
        Ok(Some(length))
    }

    fn over(&self, what: &str) -> ProtocolError {
        let why = if self.limits.unauthenticated { "unauthenticated" } else { "invalid" };
        ProtocolError(format!("{why} {what} length"))
    }

    /// The number behind `*` or `$`, with its line taken.
    fn read_length(&mut self, what: &str) -> Result<Option<i64>, ProtocolError> {
        let limit = LENGTH_LINE_BYTES;
        let word = if what == "multibulk" { "mbulk" } else { what };
        let Some(end) = self.find_line(limit, || format!("too big {word} count string"))? else {
            return Ok(None);
        };
        let text = without_cr(&self.buffer[..end]).get(1..).unwrap_or_default();
        let digits = text.strip_prefix(b"-").unwrap_or(text);
        let plain = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
        let number = std::str::from_utf8(text).ok().filter(|_| plain).and_then(|t| t.parse().ok());
        self.buffer.advance(end + 1);
        number.map(Some).ok_or_else(|| ProtocolError(format!("invalid {what} length")))
    }

    fn read_inline(&mut self) -> Result<Option<Vec<Bytes>>, ProtocolError> {
        let limit = self.limits.inline_bytes;
        let Some(end) = self.find_line(limit, || "too big inline request".into())? else {
            return Ok(None);
        };
        let arguments = split_inline(without_cr(&self.buffer[..end]));
        self.buffer.advance(end + 1);
        let arguments =
            arguments.ok_or_else(|| ProtocolError("unbalanced quotes in request".into()))?;
        if arguments.len() > self.limits.arguments {
            return Err(self.over("multibulk"));
        }
        Ok(Some(arguments))
    }

    /// Where the `\n` of the line at the front of the buffer is.
    fn find_line(
        &mut self,
        limit: usize,
        too_big: impl FnOnce() -> String,
    ) -> Result<Option<usize>, ProtocolError> {
        let unseen = self.buffer.get(self.scanned..).unwrap_or_default();
        let Some(at) = unseen.iter().position(|byte| *byte == b'\n') else {
            if self.buffer.len() > limit {
                return Err(ProtocolError(too_big()));
            }
            self.scanned = self.buffer.len();
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
