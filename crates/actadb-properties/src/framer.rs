//! The RESP framer: however bytes are cut, the same requests come out; of valid ones, those that
//! `redis-protocol` reads.

use actadb_protocol::framer::{Framer, Limits, ProtocolError, Word};
use bytes::{Bytes, BytesMut};
use redis_protocol::resp2::decode::decode_bytes;
use redis_protocol::resp2::encode::extend_encode;
use redis_protocol::resp2::types::BytesFrame;

use crate::script::Script;

/// Limits that short bytes reach.
const SMALL: Limits = Limits {
    arguments: 8,
    bulk_bytes: 64,
    request_bytes: 512,
    inline_bytes: 128,
    unauthenticated: false,
};
/// The longest line that announces a length: all of it may be held while its end is missing.
const LENGTH_LINE_BYTES: usize = 64;
/// The oracle is recursive and overflows the stack; it is shown so many arrays at most.
const ORACLE_ARRAYS: usize = 64;

const SNIPPETS: [&[u8]; 12] = [
    b"\r\n",
    b"*1\r\n",
    b"$3\r\nabc\r\n",
    b"\n",
    b"$",
    b"",
    b"*2\r\n$1\r\na\r\n$1\r\nb\r\n",
    b"\"",
    b"'\\''",
    b"\\x41",
    b"*-1\r\n",
    b"$0\r\n\r\n",
];

type Words = Vec<Bytes>;

/// Checks the framer with bytes that are anything, requests, or damaged requests.
///
/// # Panics
/// When the property does not hold.
pub fn check(data: &[u8]) {
    let mut script = Script::new(data);
    let limits = [SMALL, Limits::default(), Limits::default().unauthenticated()][script.below(3)];
    let sizes: Vec<usize> = (0..script.below(6)).map(|_| 1 + script.below(256)).collect();
    let sizes = if sizes.is_empty() { vec![1] } else { sizes };
    match script.below(3) {
        0 => any_bytes(limits, script.rest(), &sizes),
        1 => {
            let (bytes, sent) = requests(&mut script);
            let (taken, outcome) = in_pieces(Limits::default(), &bytes, &sizes);
            assert_eq!((taken, outcome), (sent, Ok(())));
        }
        _ => {
            let damage: Vec<(u16, u8)> =
                (0..script.below(4) + 1).map(|_| (script.pair(), script.byte())).collect();
            let (mut bytes, _) = requests(&mut script);
            for (at, byte) in damage {
                let at = usize::from(at) % bytes.len().max(1);
                match byte {
                    0..=7 if at < bytes.len() => bytes[at] ^= 1 << byte,
                    8..=15 if at < bytes.len() => drop(bytes.remove(at)),
                    16..=23 => bytes.truncate(at),
                    _ => bytes.insert(at, byte),
                }
            }
            any_bytes(limits, &bytes, &sizes);
        }
    }
}

fn any_bytes(limits: Limits, bytes: &[u8], sizes: &[usize]) {
    let (taken, spans, outcome) = at_once(limits, bytes);
    assert_eq!(in_pieces(limits, bytes, sizes), (taken.clone(), outcome));
    for (words, span) in taken.iter().zip(&spans) {
        let total: usize = words.iter().map(Bytes::len).sum();
        assert!(!words.is_empty() && words.len() <= limits.arguments);
        assert!(total <= limits.request_bytes, "{total} bytes in one request");
        oracle_agrees(words, &bytes[span.clone()]);
    }
    let wanted = oracle(limits, bytes);
    assert!(taken.len() >= wanted.len(), "the oracle reads more: {wanted:?}, got {taken:?}");
    assert_eq!(taken[..wanted.len()], wanted[..]);
}

fn kept(words: &[Word<'_>]) -> Words {
    words.iter().map(Word::to_bytes).collect()
}

/// What comes out of bytes that arrive in one piece, where each request lay, and how it ended.
fn at_once(
    limits: Limits,
    bytes: &[u8],
) -> (Vec<Words>, Vec<std::ops::Range<usize>>, Result<(), ProtocolError>) {
    let mut framer = Framer::new(limits);
    framer.buffer().extend_from_slice(bytes);
    let (mut taken, mut spans, mut at) = (Vec::new(), Vec::new(), 0);
    loop {
        match framer.step().map(|request| request.map(|words| kept(&words))) {
            Ok(Some(request)) => {
                taken.push(request);
                let end = bytes.len() - framer.buffer().len();
                spans.push(at..end);
                at = end;
            }
            Ok(None) => return (taken, spans, Ok(())),
            Err(error) => {
                // The caller closes; one that does not must not be punished with a panic.
                for _ in 0..3 {
                    let _ = framer.step();
                }
                return (taken, spans, Err(error));
            }
        }
    }
}

fn in_pieces(
    limits: Limits,
    mut bytes: &[u8],
    sizes: &[usize],
) -> (Vec<Words>, Result<(), ProtocolError>) {
    let (mut framer, mut taken) = (Framer::new(limits), Vec::new());
    for size in sizes.iter().cycle() {
        if bytes.is_empty() {
            break;
        }
        let (piece, rest) = bytes.split_at((*size).min(bytes.len()));
        bytes = rest;
        framer.buffer().extend_from_slice(piece);
        loop {
            match framer.step().map(|request| request.map(|words| kept(&words))) {
                Ok(Some(request)) => taken.push(request),
                Ok(None) => break,
                Err(error) => return (taken, Err(error)),
            }
        }
        let most = limits.request_bytes.max(limits.inline_bytes) + LENGTH_LINE_BYTES;
        // The line of an argument is held with it, and what it is charged has room for a short one.
        let handles = limits.arguments.min(limits.request_bytes) * 32;
        assert!(framer.held_bytes() <= most + handles, "{} bytes held", framer.held_bytes());
        assert!(framer.wants() <= limits.bulk_bytes + 2);
    }
    (taken, Ok(()))
}

/// A flat array of bulk strings, as the oracle writes it.
fn array(words: &[Bytes]) -> Vec<u8> {
    let frame = BytesFrame::Array(words.iter().cloned().map(BytesFrame::BulkString).collect());
    let mut out = BytesMut::new();
    let end = extend_encode(&mut out, &frame, false).expect("the oracle writes what it knows");
    out.truncate(end);
    out.to_vec()
}

/// The flat array of bulk strings at the front, by the oracle: its words and its length.
fn oracle_array(bytes: &[u8]) -> Option<(Words, usize)> {
    let starts = bytes.windows(2).enumerate().filter(|(_, pair)| pair == b"\n*");
    let shown = starts.map(|(at, _)| at + 1).nth(ORACLE_ARRAYS).unwrap_or(bytes.len());
    let Ok(Some((BytesFrame::Array(items), length))) =
        decode_bytes(&Bytes::copy_from_slice(&bytes[..shown]))
    else {
        return None;
    };
    let word = |item| match item {
        BytesFrame::BulkString(word) => Some(word),
        _ => None,
    };
    Some((items.into_iter().map(word).collect::<Option<Words>>()?, length))
}

/// The requests at the front that are written as the oracle writes them, and within the limits.
fn oracle(limits: Limits, mut bytes: &[u8]) -> Vec<Words> {
    let mut found = Vec::new();
    while let Some((words, length)) = oracle_array(bytes) {
        let canonical = !words.is_empty() && array(&words) == bytes[..length];
        let total: usize = words.iter().map(|word| word.len() + size_of::<Bytes>()).sum();
        let fits = words.len() <= limits.arguments
            && words.iter().all(|word| word.len() <= limits.bulk_bytes)
            && total <= limits.request_bytes;
        if !canonical || !fits {
            break;
        }
        found.push(words);
        bytes = &bytes[length..];
    }
    found
}

/// Where both read a request in these bytes, they read the same; the oracle may refuse only what
/// it would not have written so.
fn oracle_agrees(words: &[Bytes], bytes: &[u8]) {
    let bytes = behind_what_is_no_request(bytes);
    if bytes.first() != Some(&b'*') {
        return;
    }
    every_word_ends_its_line(words, bytes);
    match oracle_array(bytes) {
        Some((read, length)) => assert_eq!((&read[..], length), (words, bytes.len())),
        None => assert_ne!(array(words), bytes, "the oracle cannot read what it would write"),
    }
}

/// Blank lines, and empty and null arrays, are passed over.
fn behind_what_is_no_request(mut bytes: &[u8]) -> &[u8] {
    while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
        let line = bytes[..end].trim_ascii();
        let count = line.strip_prefix(b"*").and_then(|count| str::from_utf8(count).ok());
        let none = count.is_some_and(|count| count.parse().is_ok_and(|count: i64| count <= 0));
        if !line.is_empty() && !none {
            break;
        }
        bytes = &bytes[end + 1..];
    }
    bytes
}

/// The oracle takes any two bytes for the end of a word, Redis and the framer do not.
fn every_word_ends_its_line(words: &[Bytes], mut bytes: &[u8]) {
    for word in words.iter().rev() {
        bytes = bytes.strip_suffix(b"\r\n").expect("a word ends its line");
        bytes = bytes.strip_suffix(&word[..]).expect("the word");
        bytes = bytes.strip_suffix(b"\n").expect("a line before it");
        let line = bytes.iter().rposition(|byte| *byte == b'\n').expect("another before that");
        bytes = &bytes[..=line];
    }
}

/// Requests in every form there is, and the words that must come out.
fn requests(script: &mut Script<'_>) -> (Vec<u8>, Vec<Words>) {
    let (mut bytes, mut sent) = (Vec::new(), Vec::new());
    // Long words tell little more each, and cost.
    let mut long_words = 2;
    for _ in 0..script.below(12) + 1 {
        let form = script.below(8);
        let words: Words =
            (0..script.below(7) + 1).map(|_| word(script, &mut long_words)).collect();
        let long = inline(&words, b"").len() > Limits::default().inline_bytes;
        match form {
            _ if long => bytes.extend(array(&words)),
            0 => bytes.extend(inline(&words, b"\r\n")),
            1 => bytes.extend(inline(&words, b"\n")),
            // What is no request must not disturb the one behind it.
            2 => bytes.extend([&b"*0\r\n"[..], &array(&words)].concat()),
            3 => bytes.extend([&b"\r\n  \r\n*-1\r\n"[..], &inline(&words, b"\r\n")].concat()),
            _ => bytes.extend(array(&words)),
        }
        sent.push(words);
    }
    (bytes, sent)
}

fn word(script: &mut Script<'_>, long_words: &mut usize) -> Bytes {
    match script.byte() {
        long @ 0..=1 if *long_words > 0 => {
            *long_words -= 1;
            Bytes::from(vec![script.byte(); 1500 + 3000 * usize::from(long)])
        }
        snippet @ 0..=40 => Bytes::from_static(SNIPPETS[usize::from(snippet) % SNIPPETS.len()]),
        length => Bytes::copy_from_slice(script.bytes(usize::from(length % 24))),
    }
}

/// An inline command: every word quoted, every byte in one of the ways to write it.
fn inline(words: &[Bytes], end: &[u8]) -> Vec<u8> {
    let mut line = Vec::new();
    for word in words {
        line.push(b'"');
        for byte in word {
            match byte {
                b'"' | b'\\' => line.extend([b'\\', *byte]),
                b' '..=b'~' => line.push(*byte),
                _ => line.extend(format!("\\x{byte:02x}").into_bytes()),
            }
        }
        line.extend(b"\" ");
    }
    line.extend(end);
    line
}
