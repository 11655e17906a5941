//! The framer against `redis-protocol`'s encoder, against garbage, and scenario by scenario.

mod seeded;

use std::slice;

use actadb_protocol::framer::{self, Framer, Limits, ProtocolError};
use bytes::{Bytes, BytesMut};
use proptest::collection::vec;
use proptest::prelude::*;
use redis_protocol::resp2::encode::extend_encode;
use redis_protocol::resp2::types::BytesFrame;

type Words = Vec<Vec<u8>>;

/// A flat array of bulk strings, as the oracle writes it.
fn array(words: &[impl AsRef<[u8]>]) -> Vec<u8> {
    let bulk = |word: &_| BytesFrame::BulkString(Bytes::copy_from_slice(AsRef::as_ref(word)));
    let mut out = BytesMut::new();
    extend_encode(&mut out, &BytesFrame::Array(words.iter().map(bulk).collect()), false)
        .expect("encodes");
    out.to_vec()
}

fn plain(request: framer::Words<'_>) -> Words {
    request.iter().map(|word| word.to_vec()).collect()
}

/// Gives the framer some bytes and takes every request that is complete, up to an error.
fn feed(framer: &mut Framer, bytes: &[u8], taken: &mut Vec<Words>) -> Result<(), ProtocolError> {
    framer.buffer().extend_from_slice(bytes);
    while let Some(request) = framer.step()? {
        taken.push(plain(request));
    }
    Ok(())
}

/// What comes out of bytes that arrive in one piece.
fn read_with(limits: Limits, bytes: &[u8]) -> (Vec<Words>, Result<(), ProtocolError>) {
    let (mut framer, mut taken) = (Framer::new(limits), Vec::new());
    let outcome = feed(&mut framer, bytes, &mut taken);
    (taken, outcome)
}

fn requests(bytes: &[u8]) -> Vec<Words> {
    let (taken, outcome) = read_with(Limits::default(), bytes);
    assert_eq!(outcome, Ok(()), "{}", bytes.escape_ascii());
    taken
}

fn refusal_with(limits: Limits, bytes: &[u8]) -> String {
    let (_, outcome) = read_with(limits, bytes);
    let Err(error) = outcome else { panic!("accepted: {}", bytes.escape_ascii()) };
    error.to_string()
}

fn refusal(bytes: &[u8]) -> String {
    refusal_with(Limits::default(), bytes)
}

/// Sizes of the pieces in which bytes arrive, used again from the front when they run out.
fn piece_sizes() -> impl Strategy<Value = Vec<usize>> {
    prop_oneof![Just(vec![1]), vec(1_usize..8, 1..9), vec(1_usize..400, 1..9)]
}

fn pieces<'a>(mut bytes: &'a [u8], sizes: &'a [usize]) -> impl Iterator<Item = &'a [u8]> {
    sizes.iter().cycle().map_while(move |size| {
        let (piece, rest) = bytes.split_at((*size).min(bytes.len()));
        bytes = rest;
        (!piece.is_empty()).then_some(piece)
    })
}

fn words(most: usize) -> impl Strategy<Value = Words> {
    let word = prop_oneof![
        4 => vec(any::<u8>(), 0..40),
        // What could be taken for the protocol itself.
        2 => prop::sample::select(vec![&b"\r\n"[..], b"*1\r\n", b"$3\r\nabc\r\n", b"\n", b"$", b""])
            .prop_map(<[u8]>::to_vec),
        1 => vec(any::<u8>(), 1000..5000),
    ];
    vec(word, 1..most)
}

#[test]
fn arrays_come_out_as_they_were_encoded_however_they_are_cut() {
    seeded::check(300, &(vec(words(8), 1..8), piece_sizes()), |(sent, sizes)| {
        let bytes: Vec<u8> = sent.iter().flat_map(|words| array(words)).collect();
        let (mut framer, mut taken) = (Framer::new(Limits::default()), Vec::new());
        for piece in pieces(&bytes, &sizes) {
            feed(&mut framer, piece, &mut taken)?;
        }
        prop_assert_eq!(taken, sent);
        prop_assert_eq!(framer.held_bytes(), 0);
        Ok(())
    });
}

/// An inline command: every word quoted, every byte in one of the ways to write it.
fn inline(words: &Words, end: &str) -> Vec<u8> {
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
    line.extend(end.as_bytes());
    line
}

#[test]
fn inline_and_array_requests_follow_each_other_in_any_order() {
    let short = vec(vec(any::<u8>(), 0..20), 1..6);
    let request = (short, 0..6_usize);
    seeded::check(300, &(vec(request, 1..12), piece_sizes()), |(sent, sizes)| {
        let mut bytes = Vec::new();
        for (words, form) in &sent {
            bytes.extend(match form {
                0 => inline(words, "\r\n"),
                1 => inline(words, "\n"),
                // What is no request must not disturb the one behind it.
                2 => [&b"*0\r\n"[..], &array(words)].concat(),
                3 => [&b"\r\n  \r\n*-1\r\n"[..], &inline(words, "\r\n")].concat(),
                _ => array(words),
            });
        }
        let (mut framer, mut taken) = (Framer::new(Limits::default()), Vec::new());
        for piece in pieces(&bytes, &sizes) {
            feed(&mut framer, piece, &mut taken)?;
        }
        prop_assert_eq!(taken, sent.into_iter().map(|(words, _)| words).collect::<Vec<_>>());
        prop_assert_eq!(framer.held_bytes(), 0);
        Ok(())
    });
}

const SMALL: Limits = Limits {
    arguments: 8,
    bulk_bytes: 64,
    request_bytes: 256,
    inline_bytes: 128,
    unauthenticated: false,
};

/// What an argument is charged beside its bytes.
const ARGUMENT_BYTES: usize = 32;
/// Longest line that announces a length, of which all may be held while its end is missing.
const LENGTH_LINE_BYTES: usize = 64;

fn garbage() -> impl Strategy<Value = Vec<u8>> {
    let known: Vec<Vec<u8>> = [
        "*1\r\n",
        "*2\r\n",
        "*8\r\n",
        "*9\r\n",
        "*0\r\n",
        "*-1\r\n",
        "$0\r\n\r\n",
        "$1\r\na\r\n",
        "$3\r\n",
        "$64\r\n",
        "$65\r\n",
        "$-1\r\n",
        "\r\n",
        "\n",
        "\"",
        "'",
        "\\x",
        "PING\r\n",
        "*99999999999999999999\r\n",
        "*",
        "$",
        "-",
        "7",
    ]
    .iter()
    .map(|text| text.as_bytes().to_vec())
    .chain([vec![b'7'; 80], vec![b'a'; 66], vec![b'a'; 130]])
    .collect();
    let piece = prop_oneof![1 => vec(any::<u8>(), 0..30), 4 => prop::sample::select(known)];
    vec(piece, 0..40).prop_map(|pieces| pieces.concat())
}

#[test]
fn garbage_never_panics_and_never_holds_more_than_the_limits() {
    seeded::check(2000, &(garbage(), piece_sizes()), |(bytes, sizes)| {
        let (mut framer, mut taken) = (Framer::new(SMALL), Vec::new());
        for piece in pieces(&bytes, &sizes) {
            let more = feed(&mut framer, piece, &mut taken);
            if more.is_err() {
                // The caller closes; one that does not must not be punished with a panic.
                for _ in 0..3 {
                    let _ = framer.step();
                }
                break;
            }
            let lines = SMALL.arguments * LENGTH_LINE_BYTES;
            prop_assert!(framer.held_bytes() <= SMALL.request_bytes + lines);
            prop_assert!(framer.wants() <= SMALL.bulk_bytes + 2);
        }
        for request in &taken {
            let bytes: usize = request.iter().map(Vec::len).sum();
            prop_assert!(!request.is_empty() && bytes <= SMALL.request_bytes);
        }
        Ok(())
    });
}

#[test]
fn the_outcome_does_not_depend_on_how_bytes_are_cut() {
    seeded::check(2000, &(garbage(), piece_sizes()), |(bytes, sizes)| {
        let (mut framer, mut taken) = (Framer::new(SMALL), Vec::new());
        let outcome =
            pieces(&bytes, &sizes).try_for_each(|piece| feed(&mut framer, piece, &mut taken));
        prop_assert_eq!((taken, outcome), read_with(SMALL, &bytes));
        Ok(())
    });
}

#[test]
fn a_request_that_comes_one_byte_at_a_time_is_complete_with_its_last_byte() {
    let bytes = array(&["EAPPEND", "s", "", "a\r\nb"]);
    let (last, before) = bytes.split_last().expect("not empty");
    let mut framer = Framer::new(Limits::default());
    for byte in before {
        framer.buffer().extend_from_slice(&[*byte]);
        assert_eq!(framer.step(), Ok(None));
    }
    framer.buffer().extend_from_slice(&[*last]);
    let request = framer.step().expect("valid").expect("complete");
    assert_eq!(plain(request), [&b"EAPPEND"[..], b"s", b"", b"a\r\nb"]);
    assert_eq!(framer.step(), Ok(None));
    assert_eq!(framer.held_bytes(), 0);
}

#[test]
fn a_pipeline_of_100_000_commands_in_one_buffer_is_cut_one_by_one() {
    let mut framer = Framer::new(Limits::default());
    for n in 0..100_000_u32 {
        framer.buffer().extend_from_slice(&array(&["EPSEQ", &n.to_string()]));
    }
    for n in 0..100_000_u32 {
        let request = framer.step().expect("valid").expect("complete");
        assert_eq!(plain(request), [&b"EPSEQ"[..], n.to_string().as_bytes()]);
    }
    assert_eq!(framer.step(), Ok(None));
    assert_eq!(framer.held_bytes(), 0);
}

#[test]
fn deep_nesting_is_a_protocol_error_at_the_second_level() {
    // This aborts a recursive decoder: the stack overflows.
    let error = refusal(&b"*1\r\n".repeat(1200));
    assert_eq!(error, "Protocol error: expected '$', got '*'");
}

#[test]
fn an_argument_must_be_a_bulk_string() {
    for (bytes, got) in [("+OK", "+"), (":1\r\n", ":"), ("PING\r\n", "P"), ("\r\n", "\\r")] {
        let error = refusal(format!("*1\r\n{bytes}").as_bytes());
        assert_eq!(error, format!("Protocol error: expected '$', got '{got}'"));
    }
    // The first byte is enough to know.
    assert!(read_with(Limits::default(), b"*2\r\n$1\r\na\r\n%").1.is_err());
}

#[test]
fn an_announced_bulk_of_512_mb_is_refused_before_anything_is_allocated() {
    let mut framer = Framer::new(Limits::default());
    framer.buffer().extend_from_slice(b"*1\r\n$536870912\r\n");
    let error = framer.step().expect_err("too large");
    assert_eq!(error.to_string(), "Protocol error: invalid bulk length");
    assert!(framer.buffer().capacity() < 4096);
    assert_eq!(framer.wants(), 0);
}

#[test]
fn an_announced_bulk_within_the_limit_takes_no_memory_until_it_comes() {
    let mut framer = Framer::new(Limits::default());
    framer.buffer().extend_from_slice(b"*1\r\n$16777216\r\n");
    assert_eq!(framer.step(), Ok(None));
    assert_eq!((framer.held_bytes(), framer.wants()), ("$16777216\r\n".len(), (16 << 20) + 2));
    assert!(framer.buffer().capacity() < 4096);
    assert_eq!(refusal(b"*1\r\n$16777217\r\n"), "Protocol error: invalid bulk length");
}

#[test]
fn a_huge_multibulk_count_is_refused() {
    for count in ["1048577", "2147483648", "9223372036854775807", "9223372036854775808"] {
        let error = refusal(format!("*{count}\r\n").as_bytes());
        assert_eq!(error, "Protocol error: invalid multibulk length", "{count}");
    }
    let mut framer = Framer::new(Limits::default());
    framer.buffer().extend_from_slice(b"*1048576\r\n");
    assert_eq!(framer.step(), Ok(None));
    assert_eq!(framer.held_bytes(), 0);
}

#[test]
fn arguments_together_must_fit_the_limit_of_a_request() {
    let limits = Limits { arguments: 100_000, bulk_bytes: 4096, ..Limits::default() };
    let limits = Limits { request_bytes: 10_000, ..limits };
    let large = vec![b'x'; 4096];
    assert!(read_with(limits, &array(&[&large, &large])).1.is_ok());
    let error = refusal_with(limits, &array(&[&large, &large, &large]));
    assert_eq!(error, "Protocol error: too big request");
    // An argument costs memory even when it is empty.
    let error = refusal_with(limits, &array(&vec![""; 1000]));
    assert_eq!(error, "Protocol error: too big request");
}

#[test]
fn negative_and_malformed_lengths_of_arguments_are_refused() {
    for length in ["-1", "-0x", "", "+3", " 3", "3 ", "0x3", "abc", "--1", "99999999999999999999"] {
        let error = refusal(format!("*1\r\n${length}\r\n").as_bytes());
        assert_eq!(error, "Protocol error: invalid bulk length", "{length}");
    }
}

#[test]
fn malformed_multibulk_counts_are_refused() {
    for count in ["", "+1", " 1", "1 ", "one", "--1", "-", "1\r"] {
        let error = refusal(format!("*{count}\r\n").as_bytes());
        assert_eq!(error, "Protocol error: invalid multibulk length", "{count}");
    }
}

#[test]
fn empty_null_and_negative_arrays_are_skipped() {
    let bytes = [&b"*0\r\n*-1\r\n*-5\r\n"[..], &array(&["PING"]), b"*-1\r\n"].concat();
    assert_eq!(requests(&bytes), [[b"PING"]]);
    assert!(requests(b"*0\r\n").is_empty());
}

#[test]
fn a_missing_line_end_behind_an_argument_is_refused() {
    for behind in ["de", "\n\n", "\r\r", "\n\r", "$3"] {
        let error = refusal(format!("*1\r\n$3\r\nabc{behind}").as_bytes());
        assert_eq!(error, "Protocol error: expected CRLF behind an argument", "{behind:?}");
    }
}

#[test]
fn inline_words_are_split_at_white_space_and_unquoted() {
    for (line, expected) in [
        ("PING", &["PING"][..]),
        ("  ECHO \t hi  ", &["ECHO", "hi"]),
        (r#"ECHO "a b""#, &["ECHO", "a b"]),
        (r#"ECHO "" x"#, &["ECHO", "", "x"]),
        (r"ECHO ''", &["ECHO", ""]),
        (r"ECHO 'a b' 'c'", &["ECHO", "a b", "c"]),
        (r#"ECHO "\n\r\t\b\a\\\"\q""#, &["ECHO", "\n\r\t\x08\x07\\\"q"]),
        (r#"ECHO "\x41\x7a\x00""#, &["ECHO", "Az\0"]),
        // Not two digits: the backslash only takes the x.
        (r#"ECHO "\xZZ\x4""#, &["ECHO", "xZZx4"]),
        // Single quotes know one escape.
        (r"ECHO 'it\'s \n \\ '", &["ECHO", r"it's \n \\ "]),
        (r#"ECHO 'a"b' "c'd""#, &["ECHO", "a\"b", "c'd"]),
        (r"ECHO a\nb", &["ECHO", r"a\nb"]),
        ("ECHO grün", &["ECHO", "grün"]),
        ("ECHO $3 *1", &["ECHO", "$3", "*1"]),
    ] {
        let expected: Words = expected.iter().map(|word| word.as_bytes().to_vec()).collect();
        for end in ["\r\n", "\n"] {
            let got = requests(format!("{line}{end}").as_bytes());
            assert_eq!(got, slice::from_ref(&expected), "{line}");
        }
    }
    let binary = requests(b"ECHO \"\\xff\\xFE\" \xff\r\n");
    assert_eq!(binary, [[&b"ECHO"[..], b"\xff\xfe", b"\xff"]]);
}

/// Redis's `sdssplitargs` opens quotes in the middle of a word, too.
#[test]
fn inline_quotes_open_in_the_middle_of_a_word_as_in_redis() {
    assert_eq!(requests(b"ECHO a\"b c\"\r\n"), [[&b"ECHO"[..], b"ab c"]]);
    assert_eq!(requests(b"ECHO key='b c'\r\n"), [[&b"ECHO"[..], b"key=b c"]]);
    assert_eq!(refusal(b"ECHO it's\r\n"), "Protocol error: unbalanced quotes in request");
}

#[test]
fn blank_lines_are_no_requests() {
    assert!(requests(b"\r\n\n   \r\n\t\n").is_empty());
    assert_eq!(requests(b"\r\nPING\r\n\r\n"), [[b"PING"]]);
}

#[test]
fn unbalanced_quotes_are_refused() {
    for line in [
        r#"""#,
        r#"ECHO "abc"#,
        r"ECHO 'abc",
        r#"ECHO "a"b"#,
        r"ECHO 'a'b",
        r#"ECHO "a"'b'"#,
        r#"ECHO "abc\""#,
        r"ECHO 'abc\'",
        r#"ECHO "abc\"#,
    ] {
        let error = refusal(format!("{line}\r\n").as_bytes());
        assert_eq!(error, "Protocol error: unbalanced quotes in request", "{line}");
    }
}

#[test]
fn an_inline_request_longer_than_64_kib_is_refused() {
    let line = |length| [&vec![b'a'; length][..], b"\n"].concat();
    assert_eq!(requests(&line(65_536)), [[vec![b'a'; 65_536]]]);
    let too_big = "Protocol error: too big inline request";
    assert_eq!(refusal(&line(65_537)), too_big);
    // Without a line end it is refused as soon as it cannot fit.
    assert!(requests(&vec![b'a'; 65_536]).is_empty());
    assert_eq!(refusal(&vec![b'a'; 65_537]), too_big);
}

#[test]
fn before_auth_a_request_has_16_arguments_and_4_kib() {
    let limits = Limits::default().unauthenticated();
    let many = |count| array(&vec!["a"; count]);
    assert!(read_with(limits, &many(16)).1.is_ok());
    let error = refusal_with(limits, &many(17));
    assert_eq!(error, "Protocol error: unauthenticated multibulk length");

    let large = vec![b'x'; 4096];
    assert_eq!(read_with(limits, &array(&[&large])), (vec![vec![large.clone()]], Ok(())));
    assert!(read_with(limits, b"*1\r\n$4097\r\n").1.is_err());
    let error = refusal_with(limits, &array(&[&large, &vec![b'x'; 100]]));
    assert_eq!(error, "Protocol error: too big request");

    let error = refusal_with(limits, &vec![b'a'; 4097]);
    assert_eq!(error, "Protocol error: too big inline request");
}

/// `Limits::arguments` speaks of every request.
#[test]
fn the_limit_of_arguments_holds_for_inline_requests() {
    let limits = Limits::default().unauthenticated();
    assert!(read_with(limits, &[&b"a ".repeat(16)[..], b"\r\n"].concat()).1.is_ok());
    assert!(read_with(limits, &[&b"a ".repeat(17)[..], b"\r\n"].concat()).1.is_err());
}

#[test]
fn limits_change_between_two_requests_of_one_buffer() {
    let mut framer = Framer::new(Limits::default().unauthenticated());
    let large = vec![b'x'; 10_000];
    framer.buffer().extend_from_slice(&array(&["AUTH", "secret"]));
    framer.buffer().extend_from_slice(&array(&[&b"ECHO"[..], &large]));
    let request = framer.step().expect("valid").expect("complete");
    assert_eq!(plain(request), [&b"AUTH"[..], b"secret"]);
    framer.set_limits(Limits::default());
    let request = framer.step().expect("valid").expect("complete");
    assert_eq!(plain(request), [&b"ECHO"[..], &large]);
}

/// Clients match on them. Redis: `processMultibulkBuffer` in `networking.c`.
#[test]
fn the_words_of_limits_on_lengths_are_those_of_redis() {
    let limits = Limits::default();
    let before_auth = limits.unauthenticated();
    let endless = vec![b'1'; 70_000];
    let cases = [
        (limits, [&b"*"[..], &endless].concat(), "too big mbulk count string"),
        (limits, [&b"*1\r\n$"[..], &endless].concat(), "too big bulk count string"),
        (before_auth, b"*17\r\n".to_vec(), "unauthenticated multibulk length"),
        (before_auth, b"*1\r\n$4097\r\n".to_vec(), "unauthenticated bulk length"),
    ];
    let got = cases.each_ref().map(|(limits, bytes, _)| refusal_with(*limits, bytes));
    assert_eq!(got, cases.map(|(_, _, words)| format!("Protocol error: {words}")));
}

#[test]
fn a_16_mib_argument_in_reads_of_4_kib_grows_by_what_came_and_is_not_moved_each_time() {
    let argument: Vec<u8> = (0..16_u32 << 20).map(|n| (n % 251) as u8).collect();
    let mut framer = Framer::new(Limits::default());
    framer.buffer().extend_from_slice(b"*2\r\n$4\r\nECHO\r\n$16777216\r\n");
    assert_eq!(framer.step(), Ok(None));

    let (mut came, mut moves, mut capacity) = (0, 0, 0);
    for piece in argument.chunks(4096) {
        framer.buffer().extend_from_slice(piece);
        came += piece.len();
        assert_eq!(framer.step(), Ok(None));
        let lines = "$4\r\nECHO\r\n$16777216\r\n".len();
        assert_eq!(framer.held_bytes(), lines + ARGUMENT_BYTES + came);
        assert_eq!(framer.wants(), argument.len() + 2 - came);
        if framer.buffer().capacity() != capacity {
            capacity = framer.buffer().capacity();
            moves += 1;
        }
    }
    // The buffer doubles; it would have moved 4,096 times if it grew with each read.
    assert!(moves <= 20, "{moves} moves");
    framer.buffer().extend_from_slice(b"\r\n");
    let request = framer.step().expect("valid").expect("complete");
    assert_eq!(&*request[0], b"ECHO");
    assert!(*request[1] == argument[..]);
    drop(request);
    assert_eq!(framer.held_bytes(), 0);
}

#[test]
fn a_framer_that_waits_does_not_keep_the_memory_of_a_large_request() {
    let large = vec![b'x'; 8 << 20];
    let ping = array(&["PING"]);
    for (bytes, pings) in [(array(&[&b"ECHO"[..], &large]), 0), (array(&vec![""; 200_000]), 0)]
        .into_iter()
        .chain([(array(&[&b"ECHO"[..], &large]), 10_000)])
    {
        let mut framer = Framer::new(Limits::default());
        framer.buffer().extend_from_slice(&bytes);
        framer.buffer().extend_from_slice(&ping.repeat(pings));
        framer.buffer().extend_from_slice(b"*1\r\n$4");
        for _ in 0..=pings {
            assert!(framer.step().expect("valid").is_some());
        }
        assert_eq!(framer.step(), Ok(None));
        assert_eq!(&framer.buffer()[..], b"$4");
        framer.buffer().reserve(1024);
        let held = framer.buffer().capacity();
        assert!(held < 4096 + 2 * pings * ping.len(), "{held} bytes behind {pings} small ones");
    }
}

/// Bytes that were looked at are changed behind the framer's back: had it looked again, it would
/// have found the line end.
#[test]
fn what_was_looked_at_is_not_looked_at_again() {
    for prefix in ["", "*1\r\n"] {
        let mut framer = Framer::new(Limits::default());
        framer.buffer().extend_from_slice(format!("{prefix}$12").as_bytes());
        assert_eq!(framer.step(), Ok(None));
        framer.buffer()[1] = b'\n';
        framer.buffer().extend_from_slice(b"3");
        assert_eq!(framer.step(), Ok(None), "after {prefix:?}");
        assert_eq!(framer.held_bytes(), 4);
    }
}
