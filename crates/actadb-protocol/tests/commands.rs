//! The grammar of every command, and the exact words for what is wrong with one.

mod seeded;

use actadb_model::ids::{PartitionId, PartitionKey, with_hash16};
use actadb_model::names::{EventName, StreamId};
use actadb_model::transaction::{NewEvent, Transaction};
use actadb_model::version::ExpectedVersion;
use actadb_protocol::args::PartitionSelector;
use actadb_protocol::catalog::COMMANDS;
use actadb_protocol::connection::{Client, ClusterCommand, Commands, Hello};
use actadb_protocol::error::{Code, ErrorReply};
use actadb_protocol::framer::Word;
use actadb_protocol::read::{Consistency, ScanRange, StreamScan, VersionOf};
use actadb_protocol::reply::Protocol;
use actadb_protocol::request::{Request, parse};
use actadb_protocol::subscribe::{
    From, PartitionSubscription, Partitions, StreamSubscription, SubscribeOptions,
};
use bytes::Bytes;
use proptest::prelude::*;
use uuid::Uuid;

/// The default partition key of stream `s`.
const KEY: &str = "b5caaf75-d5ce-5289-a5cb-29de88f7c202";
/// Any other UUID.
const UUID: &str = "0190a5c4-7e1f-7000-8000-00000000002a";

fn parse_words(words: &[impl AsRef<[u8]>]) -> Result<Request, ErrorReply> {
    let words: Vec<Bytes> =
        words.iter().map(|word| Bytes::copy_from_slice(word.as_ref())).collect();
    parse(&words.iter().map(Word::from).collect::<Vec<_>>())
}

/// A request as one types it; words are split at spaces.
fn parse_line(line: &str) -> Result<Request, ErrorReply> {
    parse_words(&line.split(' ').filter(|word| !word.is_empty()).collect::<Vec<_>>())
}

fn good(line: &str) -> Request {
    parse_line(line).unwrap_or_else(|error| panic!("{line}: {error}"))
}

fn refusal_of(words: &[impl AsRef<[u8]>]) -> String {
    parse_words(words).expect_err("must be refused").to_string()
}

fn refusal(line: &str) -> String {
    match parse_line(line) {
        Err(error) => error.to_string(),
        Ok(request) => panic!("{line}: accepted as {request:?}"),
    }
}

/// Checks them all before it fails, so that one run shows everything that is wrong.
#[track_caller]
fn assert_refusals(cases: &[(&str, &str)]) {
    let told = |line| parse_line(line).err().map_or("accepted".into(), |error| error.to_string());
    let wrong: Vec<String> = cases
        .iter()
        .map(|(line, expected)| (line, expected, told(line)))
        .filter(|(_, expected, told)| told != *expected)
        .map(|(line, expected, told)| format!("{line}\n  wanted {expected}\n  got    {told}"))
        .collect();
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

fn uuid(text: &str) -> Uuid {
    text.parse().expect("a UUID")
}

fn key(text: &str) -> PartitionKey {
    PartitionKey::new(uuid(text))
}

fn stream(text: &str) -> StreamId {
    StreamId::new(text).expect("a stream id")
}

fn event(stream_id: &str, name: &str) -> NewEvent {
    NewEvent::new(stream(stream_id), EventName::new(name).expect("a name"))
}

fn transaction(key: &str, events: Vec<NewEvent>) -> Transaction {
    Transaction::new(PartitionKey::new(uuid(key)), events).expect("valid")
}

/// An id that belongs to `KEY`'s partition.
fn own_id() -> Uuid {
    with_hash16(uuid(UUID), key(KEY).hash16())
}

fn range(start: u64, end: u64, count: usize, reverse: bool) -> ScanRange {
    ScanRange { start, end, count, reverse, block_ms: None, consistency: Consistency::Local }
}

fn stream_scan(partition_key: Option<PartitionKey>, range: ScanRange) -> Request {
    Request::ScanStream(StreamScan { stream: stream("s"), partition_key, range })
}

fn version_of(id: &str, key: Option<PartitionKey>, consistency: Consistency) -> Request {
    let stream = stream(id);
    Request::StreamVersion(VersionOf { stream, partition_key: key, consistency })
}

fn sequence_of(selector: PartitionSelector, consistency: Consistency) -> Request {
    Request::PartitionSequence(selector, consistency)
}

/// One good form of everything. Keywords are in capitals, values are not.
fn good_forms() -> Vec<(String, Request)> {
    let id = own_id();
    let all = range(0, u64::MAX, 100, false);
    let latest = ScanRange { reverse: true, consistency: Consistency::Linearizable, ..all };
    let by_id = PartitionSelector::Id;
    let full = event("s", "n")
        .id(id)
        .expected(ExpectedVersion::Exact(7))
        .timestamp_ms(1_700_000_000_000)
        .payload("p")
        .metadata("m");
    let client = |client| Request::Client(client);
    let bytes = |text: &'static str| Bytes::from_static(text.as_bytes());
    let forms = [
        ("EAPPEND s n".into(), Request::Append(transaction(KEY, vec![event("s", "n")]))),
        (
            format!("EAPPEND s n PARTITION_KEY {UUID}"),
            Request::Append(transaction(UUID, vec![event("s", "n")])),
        ),
        (
            format!(
                "EAPPEND s n EVENT_ID {id} PARTITION_KEY {KEY} EXPECTED_VERSION 7 \
                 TIMESTAMP 1700000000000 PAYLOAD p METADATA m DURABLE"
            ),
            Request::Append(transaction(KEY, vec![full.clone()]).durable(true)),
        ),
        (
            format!("EMAPPEND {KEY} s n"),
            Request::AppendMany(transaction(KEY, vec![event("s", "n")])),
        ),
        (
            format!(
                "EMAPPEND {KEY} s n EVENT_ID {id} EXPECTED_VERSION 7 TIMESTAMP 1700000000000 \
                 PAYLOAD p METADATA m t n2 DURABLE EXPECTED_VERSION empty s n3 PAYLOAD p3"
            ),
            Request::AppendMany(
                transaction(
                    KEY,
                    vec![
                        full,
                        event("t", "n2").expected(ExpectedVersion::Empty),
                        event("s", "n3").payload("p3"),
                    ],
                )
                .durable(true),
            ),
        ),
        (format!("EGET {UUID}"), Request::Get(uuid(UUID), Consistency::Local)),
        (
            format!("EGET {UUID} READ LINEARIZABLE"),
            Request::Get(uuid(UUID), Consistency::Linearizable),
        ),
        ("ESCAN s - + READ LOCAL".into(), stream_scan(None, all)),
        ("ESCAN s - + READ LINEARIZABLE REV".into(), stream_scan(None, latest)),
        (
            "EPSCAN 31 - + REV READ LINEARIZABLE".into(),
            Request::ScanPartition(by_id(PartitionId(31)), latest),
        ),
        ("ESCAN s - +".into(), stream_scan(None, all)),
        ("ESCAN s 3 9".into(), stream_scan(None, range(3, 9, 100, false))),
        (
            format!("ESCAN s 3 + PARTITION_KEY {UUID} COUNT 10000 REV"),
            stream_scan(Some(key(UUID)), range(3, u64::MAX, 10_000, true)),
        ),
        (
            format!("ESCAN s - 9 REV COUNT 1 PARTITION_KEY {UUID}"),
            stream_scan(Some(key(UUID)), range(0, 9, 1, true)),
        ),
        ("EPSCAN 31 - +".into(), Request::ScanPartition(by_id(PartitionId(31)), all)),
        (
            format!("EPSCAN {UUID} 5 + REV COUNT 20"),
            Request::ScanPartition(PartitionSelector::Key(key(UUID)), range(5, u64::MAX, 20, true)),
        ),
        ("ESVER s".into(), version_of("s", None, Consistency::Linearizable)),
        (
            format!("ESVER s PARTITION_KEY {UUID}"),
            version_of("s", Some(key(UUID)), Consistency::Linearizable),
        ),
        (
            format!("ESVER s READ LOCAL PARTITION_KEY {UUID}"),
            version_of("s", Some(key(UUID)), Consistency::Local),
        ),
        ("EPSEQ 65535".into(), sequence_of(by_id(PartitionId(65535)), Consistency::Linearizable)),
        ("EPSEQ 1 READ LOCAL".into(), sequence_of(by_id(PartitionId(1)), Consistency::Local)),
        (
            format!("EPSEQ {UUID} READ LINEARIZABLE"),
            sequence_of(PartitionSelector::Key(key(UUID)), Consistency::Linearizable),
        ),
        ("HELLO".into(), Request::Hello(Hello::default())),
        (
            "HELLO 2".into(),
            Request::Hello(Hello { protocol: Some(Protocol::Resp2), ..Hello::default() }),
        ),
        (
            "HELLO 3 SETNAME app AUTH user secret".into(),
            Request::Hello(Hello {
                protocol: Some(Protocol::Resp3),
                auth: Some((bytes("user"), bytes("secret"))),
                name: Some(bytes("app")),
            }),
        ),
        ("AUTH secret".into(), Request::Auth(None, bytes("secret"))),
        ("AUTH user secret".into(), Request::Auth(Some(bytes("user")), bytes("secret"))),
        ("PING".into(), Request::Ping(None)),
        ("PING hi".into(), Request::Ping(Some(bytes("hi")))),
        ("ECHO hi".into(), Request::Echo(bytes("hi"))),
        ("QUIT".into(), Request::Quit),
        ("RESET".into(), Request::Reset),
        ("SELECT 0".into(), Request::Select),
        ("CLIENT ID".into(), client(Client::Id)),
        ("CLIENT INFO".into(), client(Client::Info)),
        ("CLIENT LIST".into(), client(Client::List)),
        ("CLIENT LIST TYPE normal".into(), client(Client::List)),
        ("CLIENT GETNAME".into(), client(Client::GetName)),
        ("CLIENT SETNAME app".into(), client(Client::SetName(bytes("app")))),
        (
            "CLIENT SETINFO lib-name redis-py".into(),
            client(Client::SetInfo(bytes("lib-name"), bytes("redis-py"))),
        ),
        ("COMMAND".into(), Request::Commands(Commands::All)),
        ("COMMAND COUNT".into(), Request::Commands(Commands::Count)),
        ("COMMAND LIST".into(), Request::Commands(Commands::List)),
        ("COMMAND DOCS".into(), Request::Commands(Commands::Docs(vec![]))),
        ("COMMAND DOCS eget".into(), Request::Commands(Commands::Docs(vec![bytes("eget")]))),
        ("COMMAND INFO".into(), Request::Commands(Commands::Info(vec![]))),
        (
            "COMMAND INFO eget ping".into(),
            Request::Commands(Commands::Info(vec![bytes("eget"), bytes("ping")])),
        ),
        ("INFO".into(), Request::Info(vec![])),
        ("INFO server clients".into(), Request::Info(vec![bytes("server"), bytes("clients")])),
        (
            "CONFIG GET save append*".into(),
            Request::ConfigGet(vec![bytes("save"), bytes("append*")]),
        ),
        ("DBSIZE".into(), Request::DbSize),
        ("TIME".into(), Request::Time),
        ("MODULE LIST".into(), Request::ModuleList),
        ("ROLE".into(), Request::Role),
        ("CLUSTER info".into(), Request::Cluster(ClusterCommand::Info)),
        ("CLUSTER NODES".into(), Request::Cluster(ClusterCommand::Nodes)),
        (
            "CLUSTER HANDOVER 3 2".into(),
            Request::Cluster(ClusterCommand::HandOver { bucket: 3, node: 2 }),
        ),
        (
            "ESUB s".into(),
            Request::SubscribeStreams(StreamSubscription {
                streams: vec![(StreamId::new("s").expect("a good id"), None)],
                options: SubscribeOptions::default(),
            }),
        ),
        (
            "EPSUB *".into(),
            Request::SubscribePartitions(PartitionSubscription {
                partitions: Partitions::All,
                options: SubscribeOptions::default(),
            }),
        ),
        (format!("EACK {UUID} 3"), Request::Acknowledge(UUID.parse().expect("a UUID"), 3)),
        (format!("EUNSUB {UUID}"), Request::Unsubscribe(UUID.parse().expect("a UUID"))),
    ];
    forms.into()
}

#[test]
fn every_good_form_is_parsed() {
    for (line, expected) in good_forms() {
        assert_eq!(good(&line), expected, "{line}");
    }
}

#[test]
fn every_command_of_the_catalog_has_a_good_form() {
    for command in COMMANDS {
        let named = |line: &str| line.split(' ').next() == Some(command.name);
        assert!(good_forms().iter().any(|(line, _)| named(line)), "{}", command.name);
    }
}

#[test]
fn commands_and_keywords_are_read_in_any_case() {
    let is_keyword = |word: &str| word.bytes().all(|b| b.is_ascii_uppercase() || b == b'_');
    let mixed = |word: &str| {
        let flip = |(n, c): (usize, char)| if n % 2 == 0 { c.to_ascii_lowercase() } else { c };
        word.chars().enumerate().map(flip).collect::<String>()
    };
    for (line, expected) in good_forms() {
        for change in [&str::to_ascii_lowercase as &dyn Fn(&str) -> String, &mixed] {
            let words = line.split(' ').map(|w| if is_keyword(w) { change(w) } else { w.into() });
            let line = words.collect::<Vec<_>>().join(" ");
            assert_eq!(good(&line), expected, "{line}");
        }
    }
    for (version, expected) in [
        ("ANY", ExpectedVersion::Any),
        ("Exists", ExpectedVersion::Exists),
        ("eMPTY", ExpectedVersion::Empty),
    ] {
        let expected = transaction(KEY, vec![event("s", "n").expected(expected)]);
        assert_eq!(
            good(&format!("EAPPEND s n EXPECTED_VERSION {version}")),
            Request::Append(expected)
        );
    }
}

#[test]
fn options_of_an_append_come_in_any_order() {
    let id = own_id().to_string();
    let options = vec![
        vec!["EVENT_ID".to_owned(), id],
        vec!["PARTITION_KEY".into(), KEY.into()],
        vec!["EXPECTED_VERSION".into(), "exists".into()],
        vec!["TIMESTAMP".into(), "5".into()],
        // Values that are keywords are values.
        vec!["PAYLOAD".into(), "METADATA".into()],
        vec!["METADATA".into(), "DURABLE".into()],
        vec!["DURABLE".into()],
    ];
    let full = event("s", "n")
        .id(own_id())
        .expected(ExpectedVersion::Exists)
        .timestamp_ms(5)
        .payload("METADATA")
        .metadata("DURABLE");
    let expected = transaction(KEY, vec![full]).durable(true);
    seeded::check(200, &Just(options).prop_shuffle(), |options| {
        let event: Vec<String> =
            ["s".to_owned(), "n".into()].into_iter().chain(options.concat()).collect();
        let single = [&["EAPPEND".to_owned()][..], &event].concat();
        prop_assert_eq!(parse_words(&single), Ok(Request::Append(expected.clone())));

        // The key of several events stands in front of them and is no option.
        let options = options.iter().filter(|option| option[0] != "PARTITION_KEY");
        let event: Vec<String> =
            ["s".to_owned(), "n".into()].into_iter().chain(options.flatten().cloned()).collect();
        let many = [&["EMAPPEND".to_owned(), KEY.into()][..], &event].concat();
        prop_assert_eq!(parse_words(&many), Ok(Request::AppendMany(expected.clone())));
        Ok(())
    });
}

#[test]
fn each_option_is_given_at_most_once() {
    let options = [
        ("EVENT_ID", own_id().to_string()),
        ("EXPECTED_VERSION", "1".into()),
        ("TIMESTAMP", "1".into()),
        ("PAYLOAD", "p".into()),
        ("METADATA", "m".into()),
        ("DURABLE", String::new()),
    ];
    for (option, value) in &options {
        let given = format!("{option} {value}");
        let expected = format!("SYNTAX {option} is given twice");
        assert_eq!(refusal(&format!("EAPPEND s n {given} {given}")), expected);
        assert_eq!(refusal(&format!("EMAPPEND {KEY} s n {given} {given}")), expected);
        // Once for each event is not twice, only an id must not come again.
        if *option != "EVENT_ID" {
            good(&format!("EMAPPEND {KEY} s n {given} t n {given}"));
        }
    }
    let twice = format!("PARTITION_KEY {KEY} PARTITION_KEY {KEY}");
    for line in ["EAPPEND s n", "ESCAN s - +", "ESVER s"] {
        assert_eq!(refusal(&format!("{line} {twice}")), "SYNTAX PARTITION_KEY is given twice");
    }
    for line in ["ESCAN s - +", "EPSCAN 1 - +"] {
        assert_eq!(refusal(&format!("{line} COUNT 1 REV COUNT 1")), "SYNTAX COUNT is given twice");
        assert_eq!(refusal(&format!("{line} REV COUNT 1 REV")), "SYNTAX REV is given twice");
    }
}

#[test]
fn an_option_without_its_value_is_named() {
    for option in
        ["EVENT_ID", "PARTITION_KEY", "EXPECTED_VERSION", "TIMESTAMP", "PAYLOAD", "METADATA"]
    {
        let expected = format!("SYNTAX {option} needs a value");
        assert_eq!(refusal(&format!("EAPPEND s n {option}")), expected);
        assert_eq!(refusal(&format!("EAPPEND s n DURABLE {}", option.to_lowercase())), expected);
    }
    assert_eq!(refusal("ESCAN s - + COUNT"), "SYNTAX COUNT needs a value");
    assert_eq!(refusal("ESVER s PARTITION_KEY"), "SYNTAX PARTITION_KEY needs a value");
}

#[test]
fn bad_values_are_reported_by_option_and_value() {
    let version = "INVALIDARG EXPECTED_VERSION must be a number, any, exists or empty, got";
    let number = "INVALIDARG TIMESTAMP must be a number, got";
    let count = "INVALIDARG COUNT must be a number from 1 to 10000, got";
    let cases = [
        ("EAPPEND s n EXPECTED_VERSION x", format!("{version} 'x'")),
        ("EAPPEND s n expected_version x", format!("{version} 'x'")),
        ("EAPPEND s n EXPECTED_VERSION -1", format!("{version} '-1'")),
        ("EAPPEND s n EXPECTED_VERSION +1", format!("{version} '+1'")),
        ("EAPPEND s n EXPECTED_VERSION 1.0", format!("{version} '1.0'")),
        (
            "EAPPEND s n EXPECTED_VERSION 18446744073709551616",
            format!("{version} '18446744073709551616'"),
        ),
        ("EAPPEND s n EXPECTED_VERSION PAYLOAD p", format!("{version} 'PAYLOAD'")),
        ("EAPPEND s n EVENT_ID x", "INVALIDARG EVENT_ID must be a UUID, got 'x'".into()),
        ("EAPPEND s n PARTITION_KEY x", "INVALIDARG PARTITION_KEY must be a UUID, got 'x'".into()),
        ("EAPPEND s n TIMESTAMP now", format!("{number} 'now'")),
        ("EAPPEND s n TIMESTAMP -1", format!("{number} '-1'")),
        ("EMAPPEND x s n", "INVALIDARG PARTITION_KEY must be a UUID, got 'x'".into()),
        ("EGET 12", "INVALIDARG event id must be a UUID, got '12'".into()),
        ("ESCAN s x +", "INVALIDARG start must be '-' or a number, got 'x'".into()),
        ("ESCAN s -1 +", "INVALIDARG start must be '-' or a number, got '-1'".into()),
        ("ESCAN s - x", "INVALIDARG end must be '+' or a number, got 'x'".into()),
        ("ESCAN s - + COUNT x", format!("{count} 'x'")),
        ("ESCAN s - + PARTITION_KEY 1", "INVALIDARG PARTITION_KEY must be a UUID, got '1'".into()),
        ("EPSCAN 1 - + COUNT -5", format!("{count} '-5'")),
        (
            "EPSCAN x - +",
            "INVALIDARG partition must be a partition number or a partition key UUID, got 'x'"
                .into(),
        ),
        (
            "EPSEQ 65536",
            "INVALIDARG partition must be a partition number (0 to 65535) or a partition key \
             UUID, got '65536'"
                .into(),
        ),
    ];
    assert_refusals(&cases.each_ref().map(|(line, expected)| (*line, expected.as_str())));
}

#[test]
fn a_bad_value_is_shown_short_and_without_what_breaks_a_line() {
    let long = vec![b'x'; 1000];
    let told = refusal_of(&[&b"EGET"[..], &long]);
    assert_eq!(told, format!("INVALIDARG event id must be a UUID, got '{}'", "x".repeat(64)));
    let told = refusal_of(&[&b"EGET"[..], b"a\r\n-ERR\0\x7f\xff"]);
    assert_eq!(told, "INVALIDARG event id must be a UUID, got 'a??-ERR??\u{fffd}'");
    let told = refusal_of(&[&b"EGET"[..], b""]);
    assert_eq!(told, "INVALIDARG event id must be a UUID, got ''");
}

#[test]
fn an_argument_that_is_no_option_is_a_syntax_error() {
    assert_refusals(&[
        ("EAPPEND s n PAYLOAD p extra", "SYNTAX unexpected argument 'extra' for EAPPEND"),
        ("ESCAN s - + BACKWARDS", "SYNTAX unexpected argument 'BACKWARDS' for ESCAN"),
        // A partition is named by its key already.
        ("EPSCAN 1 - + PARTITION_KEY x", "SYNTAX unexpected argument 'PARTITION_KEY' for EPSCAN"),
        ("ESVER s COUNT 1", "SYNTAX unexpected argument 'COUNT' for ESVER"),
        ("EPSEQ 1 COUNT 1", "SYNTAX unexpected argument 'COUNT' for EPSEQ"),
        ("EPSEQ 1 READ", "SYNTAX READ needs a value"),
        ("EPSEQ 1 READ LOCAL READ LOCAL", "SYNTAX READ is given twice"),
        ("ESCAN s - + READ dirty", "INVALIDARG READ must be LOCAL or LINEARIZABLE, got 'dirty'"),
    ]);
}

#[test]
fn keywords_are_names_where_a_name_stands() {
    let expected = event("PAYLOAD", "METADATA").payload("METADATA");
    let expected = Transaction::single(expected).expect("valid");
    assert_eq!(good("EAPPEND PAYLOAD METADATA PAYLOAD METADATA"), Request::Append(expected));
}

#[test]
fn payload_and_metadata_are_any_bytes_and_empty_by_default() {
    let binary = &b"\0\xff\r\n"[..];
    let words = [&b"EAPPEND"[..], b"s", b"n", b"PAYLOAD", binary, b"METADATA", b""];
    let expected = transaction(KEY, vec![event("s", "n").payload(binary)]);
    assert_eq!(parse_words(&words), Ok(Request::Append(expected)));
}

#[test]
fn a_uuid_is_read_in_every_form() {
    let id = uuid(UUID);
    for text in [
        id.simple().to_string(),
        id.braced().to_string(),
        id.urn().to_string(),
        UUID.to_uppercase(),
    ] {
        assert_eq!(good(&format!("EGET {text}")), Request::Get(id, Consistency::Local), "{text}");
        let expected = sequence_of(PartitionSelector::Key(key(UUID)), Consistency::Linearizable);
        assert_eq!(good(&format!("EPSEQ {text}")), expected, "{text}");
    }
}

/// 32 digits are a UUID in its simple form, whatever number they would be.
#[test]
fn a_partition_key_of_decimal_digits_alone_is_a_key() {
    for digits in ["12345678901234567890123456789012", "00000000000000000000000000000001"] {
        let expected = sequence_of(PartitionSelector::Key(key(digits)), Consistency::Linearizable);
        assert_eq!(good(&format!("EPSEQ {digits}")), expected);
    }
}

#[test]
fn an_event_id_with_a_wrong_hash_is_refused_with_the_corrected_one() {
    let corrected = own_id();
    let expected =
        format!("INVALIDARG EVENT_ID must carry the hash of its partition key: use {corrected}");
    assert_eq!(refusal(&format!("EAPPEND s n EVENT_ID {UUID}")), expected);
    assert_eq!(refusal(&format!("EMAPPEND {KEY} a n t n EVENT_ID {UUID}")), expected);
    good(&format!("EAPPEND s n EVENT_ID {corrected}"));
    // The key counts, not the stream.
    let other = refusal(&format!("EAPPEND s n EVENT_ID {corrected} PARTITION_KEY {UUID}"));
    assert!(other.starts_with("INVALIDARG EVENT_ID must carry the hash"), "{other}");
}

#[test]
fn an_event_id_twice_in_one_command_is_a_duplicate() {
    let id = own_id();
    let line = format!("EMAPPEND {KEY} s n EVENT_ID {id} t n EVENT_ID {id}");
    let error = parse_line(&line).expect_err("refused");
    assert_eq!(error.code, Code::Duplicate);
    assert!(error.text.contains(&id.to_string()), "{error}");
}

#[test]
fn a_timestamp_in_nanoseconds_is_refused_by_name() {
    let line = "EAPPEND s n TIMESTAMP 1700000000000000000";
    assert_eq!(
        refusal(line),
        "INVALIDARG TIMESTAMP must be milliseconds since 1970 (at most 18446744073709), got \
         1700000000000000000, which can only be a finer unit"
    );
    good("EAPPEND s n TIMESTAMP 0");
    good("EAPPEND s n TIMESTAMP 18446744073709");
    assert!(refusal("EAPPEND s n TIMESTAMP 18446744073710").starts_with("INVALIDARG TIMESTAMP"));
    assert!(
        refusal(&format!("EMAPPEND {KEY} s n t n TIMESTAMP {}", u64::MAX))
            .starts_with("INVALIDARG TIMESTAMP")
    );
}

#[test]
fn the_largest_expected_version_is_no_overflow_of_the_parser() {
    let expected = event("s", "n").expected(ExpectedVersion::Exact(u64::MAX));
    let line = format!("EAPPEND s n EXPECTED_VERSION {}", u64::MAX);
    assert_eq!(good(&line), Request::Append(transaction(KEY, vec![expected])));
}

#[test]
fn a_page_has_1_to_10_000_events() {
    for line in ["ESCAN s - +", "EPSCAN 1 - +"] {
        for count in ["0", "10001", "18446744073709551615", "18446744073709551616"] {
            assert_eq!(
                refusal(&format!("{line} COUNT {count}")),
                format!("INVALIDARG COUNT must be a number from 1 to 10000, got '{count}'")
            );
        }
        good(&format!("{line} COUNT 1"));
        good(&format!("{line} COUNT 10000"));
    }
}

#[test]
fn plus_is_no_start_and_minus_is_no_end() {
    let start = "INVALIDARG start must be '-' or a number, '+' is an end";
    let end = "INVALIDARG end must be '+' or a number, '-' is a start";
    assert_refusals(&[
        ("ESCAN s + +", start),
        ("ESCAN s + -", start),
        ("ESCAN s - -", end),
        ("ESCAN s 3 - REV", end),
        ("EPSCAN 1 + + REV", start),
        ("EPSCAN 1 0 -", end),
    ]);
    let last = stream_scan(None, range(u64::MAX, u64::MAX, 100, false));
    assert_eq!(good(&format!("ESCAN s {} {}", u64::MAX, u64::MAX)), last);
    // Bounds that enclose nothing are an empty page, no error.
    assert_eq!(good("ESCAN s 9 3"), stream_scan(None, range(9, 3, 100, false)));
}

#[test]
fn stream_ids_are_1_to_255_bytes_of_utf8_without_control_characters() {
    let long = "x".repeat(256);
    let bad: [(&[u8], &str); 8] = [
        (b"", "stream id must not be empty"),
        (long.as_bytes(), "stream id must be at most 255 bytes, got 256"),
        (b"a\nb", "stream id must not contain control characters"),
        (b"a\r\n+OK", "stream id must not contain control characters"),
        (b"\0", "stream id must not contain control characters"),
        (b"a\x7f", "stream id must not contain control characters"),
        ("a\u{85}".as_bytes(), "stream id must not contain control characters"),
        (b"a\xff", "stream id must be UTF-8"),
    ];
    for (id, words) in bad {
        let expected = format!("INVALIDARG {words}");
        assert_eq!(refusal_of(&[&b"EAPPEND"[..], id, b"n"]), expected);
        assert_eq!(refusal_of(&[&b"EMAPPEND"[..], KEY.as_bytes(), id, b"n"]), expected);
        assert_eq!(refusal_of(&[&b"EMAPPEND"[..], KEY.as_bytes(), b"s", b"n", id, b"n"]), expected);
        assert_eq!(refusal_of(&[&b"ESCAN"[..], id, b"-", b"+"]), expected);
        assert_eq!(refusal_of(&[&b"ESVER"[..], id]), expected);
    }
    for id in ["x".repeat(255), "ü".repeat(127) + "x", "a b'\"*$".into(), "\u{1f600}".into()] {
        let expected = version_of(&id, None, Consistency::Linearizable);
        assert_eq!(parse_words(&["ESVER", &id]), Ok(expected));
    }
}

#[test]
fn event_names_are_1_to_255_bytes_of_utf8() {
    let long = "x".repeat(256);
    let bad: [(&[u8], &str); 3] = [
        (b"", "INVALIDARG event name must not be empty"),
        (long.as_bytes(), "INVALIDARG event name must be at most 255 bytes, got 256"),
        (b"\xc3", "INVALIDARG event name must be UTF-8"),
    ];
    for (name, expected) in bad {
        assert_eq!(refusal_of(&[&b"EAPPEND"[..], b"s", name]), expected);
        assert_eq!(refusal_of(&[&b"EMAPPEND"[..], KEY.as_bytes(), b"s", name]), expected);
    }
    assert!(parse_words(&["EAPPEND", "s", &"x".repeat(255)]).is_ok());
}

#[test]
fn unknown_commands_are_told_in_the_words_of_redis() {
    // The blank at the end is Redis's.
    assert_refusals(&[
        ("FOO", "ERR unknown command 'FOO', with args beginning with: "),
        ("foo bar baz", "ERR unknown command 'foo', with args beginning with: 'bar' 'baz' "),
        ("SET k v", "ERR unknown command 'SET', with args beginning with: 'k' 'v' "),
        ("EGET2 x", "ERR unknown command 'EGET2', with args beginning with: 'x' "),
    ]);
    assert_eq!(refusal_of(&[""]), "ERR unknown command '', with args beginning with: ");
    let told = refusal_of(&[&b"a\r\nb"[..], b"c\nd"]);
    assert_eq!(told, "ERR unknown command 'a??b', with args beginning with: 'c?d' ");
}

#[test]
fn an_unknown_command_shows_128_bytes_of_its_name_and_of_its_arguments() {
    let (a, b, c) = ("a".repeat(200), "b".repeat(100), "c".repeat(100));
    let beginning = "with args beginning with:";
    let told = refusal_of(&[&a, &a, &b]);
    let shown = "a".repeat(128);
    assert_eq!(told, format!("ERR unknown command '{shown}', {beginning} '{shown}' "));
    // 100 bytes, two quotes and a blank leave 25.
    let told = refusal_of(&["X", &b, &c, "d"]);
    let cut = "c".repeat(25);
    assert_eq!(told, format!("ERR unknown command 'X', {beginning} '{b}' '{cut}' "));
}

#[test]
fn wrong_numbers_of_arguments_are_told_in_the_words_of_redis() {
    assert_refusals(&[
        ("EGET", "ERR wrong number of arguments for 'eget' command"),
        ("ECHO a b", "ERR wrong number of arguments for 'echo' command"),
        ("EAPPEND s", "ERR wrong number of arguments for 'eappend' command"),
        ("ESCAN s -", "ERR wrong number of arguments for 'escan' command"),
        ("PING a b", "ERR wrong number of arguments for 'ping' command"),
        ("CLIENT", "ERR wrong number of arguments for 'client' command"),
        ("CONFIG GET", "ERR wrong number of arguments for 'config|get' command"),
    ]);
    // A stream without a name behind a complete event.
    let line = format!("EMAPPEND {KEY} s n PAYLOAD p t");
    assert_eq!(refusal(&line), "ERR wrong number of arguments for 'emappend' command");
    for command in COMMANDS {
        let told =
            format!("ERR wrong number of arguments for '{}' command", command.name.to_lowercase());
        let least = command.arity.unsigned_abs() as usize;
        let mut words = vec![command.name; least - 1];
        if !words.is_empty() {
            assert_eq!(refusal_of(&words), told);
        }
        if command.arity > 0 {
            words.resize(least + 1, command.name);
            assert_eq!(refusal_of(&words), told);
        }
    }
}

/// Redis names the subcommand since version 7, as `CONFIG GET` does here.
#[test]
fn wrong_numbers_of_arguments_of_subcommands_are_told_in_the_words_of_redis() {
    assert_refusals(&[
        ("CLIENT SETNAME", "ERR wrong number of arguments for 'client|setname' command"),
        ("CLIENT SETNAME a b", "ERR wrong number of arguments for 'client|setname' command"),
        ("CLIENT SETINFO lib-name", "ERR wrong number of arguments for 'client|setinfo' command"),
        ("CLIENT ID x", "ERR wrong number of arguments for 'client|id' command"),
        ("CLIENT GETNAME x", "ERR wrong number of arguments for 'client|getname' command"),
        ("COMMAND COUNT x", "ERR wrong number of arguments for 'command|count' command"),
        ("CLUSTER SLOTS", "ERR unknown subcommand 'SLOTS'. Try CLUSTER HELP."),
        ("CLUSTER HANDOVER x 2", "INVALIDARG bucket must be a number, got 'x'"),
        ("CLUSTER HANDOVER 1", "ERR wrong number of arguments for 'cluster|handover' command"),
        ("CLUSTER INFO x", "ERR wrong number of arguments for 'cluster|info' command"),
        ("MODULE LIST x", "ERR wrong number of arguments for 'module|list' command"),
        ("AUTH a b c", "ERR syntax error"),
    ]);
}

#[test]
fn unknown_subcommands_are_told_in_the_words_of_redis() {
    assert_refusals(&[
        ("CLIENT KILL x", "ERR unknown subcommand 'KILL'. Try CLIENT HELP."),
        ("COMMAND GETKEYS x", "ERR unknown subcommand 'GETKEYS'. Try COMMAND HELP."),
        ("CONFIG set a b", "ERR unknown subcommand 'set'. Try CONFIG HELP."),
        ("MODULE LOAD x", "ERR unknown subcommand 'LOAD'. Try MODULE HELP."),
    ]);
}

#[test]
fn hello_is_refused_in_the_words_of_redis() {
    let number = "ERR Protocol version is not an integer or out of range";
    assert_refusals(&[
        ("HELLO 1", "NOPROTO unsupported protocol version"),
        ("HELLO 4", "NOPROTO unsupported protocol version"),
        ("HELLO x", number),
        ("HELLO 3.0", number),
        ("HELLO AUTH user secret", number),
        ("HELLO 3 AUTH user", "ERR Syntax error in HELLO option 'AUTH'"),
        ("HELLO 3 SETNAME", "ERR Syntax error in HELLO option 'SETNAME'"),
        ("HELLO 3 FOO", "ERR Syntax error in HELLO option 'FOO'"),
    ]);
    let name = "ERR Client names cannot contain spaces, newlines or special characters.";
    assert_eq!(refusal_of(&["HELLO", "3", "SETNAME", "a b"]), name);
    assert_eq!(refusal_of(&["CLIENT", "SETNAME", "a\nb"]), name);
    assert_eq!(refusal_of(&["CLIENT", "SETNAME", "ü"]), name);
    // The empty name takes the name away.
    assert!(parse_words(&["CLIENT", "SETNAME", ""]).is_ok());
}

#[test]
fn only_database_0_is_selected() {
    assert_refusals(&[
        ("SELECT 1", "ERR DB index is out of range"),
        ("SELECT x", "ERR value is not an integer or out of range"),
    ]);
}

/// Nothing is no number, and a negative number is one.
#[test]
fn empty_and_negative_numbers_of_redis_commands_are_told_apart_as_in_redis() {
    let told: Vec<String> = [["HELLO", ""], ["HELLO", "-1"], ["SELECT", ""], ["SELECT", "-1"]]
        .iter()
        .map(|words| refusal_of(words))
        .collect();
    assert_eq!(
        told,
        [
            "ERR Protocol version is not an integer or out of range",
            "NOPROTO unsupported protocol version",
            "ERR value is not an integer or out of range",
            "ERR DB index is out of range",
        ]
    );
}

#[test]
fn commands_about_the_connection_run_alone_and_some_need_no_authentication() {
    for (line, request) in good_forms() {
        let name = line.split(' ').next().unwrap_or_default();
        let open = matches!(name, "HELLO" | "AUTH" | "QUIT" | "RESET");
        assert_eq!(request.is_open(), open, "{line}");
        let alone = matches!(name, "CLIENT" | "ESUB" | "EPSUB" | "EACK" | "EUNSUB");
        assert_eq!(request.runs_alone(), open || alone, "{line}");
    }
}

fn streams(line: &str) -> StreamSubscription {
    match good(line) {
        Request::SubscribeStreams(subscription) => subscription,
        other => panic!("{line}: {other:?}"),
    }
}

fn partitions(line: &str) -> PartitionSubscription {
    match good(line) {
        Request::SubscribePartitions(subscription) => subscription,
        other => panic!("{line}: {other:?}"),
    }
}

fn map(pairs: &[(&str, u64)], rest: Option<u64>) -> From {
    From::Map { positions: pairs.iter().map(|(n, p)| ((*n).to_owned(), *p)).collect(), rest }
}

#[test]
fn esub_takes_streams_and_then_options_in_any_order() {
    let stream = |name| (StreamId::new(name).unwrap(), None);
    assert_eq!(streams("ESUB s").streams, [stream("s")]);
    assert_eq!(streams("esub s").options, SubscribeOptions::default());
    // The first word is always a stream.
    assert_eq!(streams("ESUB FROM").streams, [stream("FROM")]);
    let key = Some(PartitionKey::new(UUID.parse().unwrap()));
    let found = streams(&format!("ESUB a b PARTITION_KEY {UUID} c window 5 from latest"));
    assert_eq!(found.streams, [stream("a"), (StreamId::new("b").unwrap(), key), stream("c")]);
    assert_eq!(found.options.window, Some(5));
    let found = streams("ESUB a b FROM MAP a=1 x=y=22 NAMES A,B PROGRESS 7").options;
    assert_eq!(found.from, map(&[("a", 1), ("x=y", 22)], None));
    assert_eq!(found.names.unwrap(), ["A", "B"].map(|n| EventName::new(n).unwrap()));
    assert_eq!(found.progress, Some(7));
    assert_eq!(streams("ESUB a FROM 12").options.from, From::At(12));
    assert_eq!(streams("ESUB a DEFAULT 3 FROM MAP a=1").options.from, map(&[("a", 1)], Some(3)));
}

#[test]
fn epsub_takes_all_one_a_list_ranges_or_a_key() {
    let several = |ids: &[u16]| Partitions::Several(ids.iter().copied().map(PartitionId).collect());
    let one = |id| Partitions::One(PartitionSelector::Id(PartitionId(id)));
    assert_eq!(partitions("EPSUB *").partitions, Partitions::All);
    assert_eq!(partitions("EPSUB 7").partitions, one(7));
    assert_eq!(partitions("EPSUB 7-7").partitions, several(&[7]));
    assert_eq!(partitions("EPSUB 9,1-3").partitions, several(&[1, 2, 3, 9]));
    let key = PartitionSelector::Key(PartitionKey::new(KEY.parse().unwrap()));
    assert_eq!(partitions(&format!("EPSUB {KEY}")).partitions, Partitions::One(key));
    let found = partitions("EPSUB * FROM MAP 0=5 007=8 DEFAULT 0 PREFIX order- WINDOW 1").options;
    assert_eq!(found.from, map(&[("0", 5), ("7", 8)], Some(0)));
    assert_eq!((found.prefix.as_deref(), found.window), (Some("order-"), Some(1)));
}

#[test]
fn what_is_wrong_with_a_subscription_is_told_by_name_and_value() {
    assert_refusals(&[
        ("ESUB", "ERR wrong number of arguments for 'esub' command"),
        ("ESUB s FROM", "SYNTAX FROM needs a value"),
        ("ESUB s FROM x", "INVALIDARG FROM must be LATEST, a number or MAP, got 'x'"),
        ("ESUB s FROM MAP s", "INVALIDARG FROM MAP takes pairs such as name=5, got 's'"),
        ("ESUB s FROM MAP s=x", "INVALIDARG FROM MAP s must be a number, got 'x'"),
        ("ESUB s FROM MAP s=1 s=2", "SYNTAX FROM MAP names 's' twice"),
        ("ESUB s DEFAULT 1", "SYNTAX DEFAULT needs FROM MAP"),
        ("ESUB s FROM 1 DEFAULT 1", "SYNTAX DEFAULT needs FROM MAP"),
        ("ESUB s WINDOW 0", "INVALIDARG WINDOW must be a number from 1 to 1000000, got '0'"),
        ("ESUB s WINDOW 1 WINDOW 1", "SYNTAX WINDOW is given twice"),
        ("ESUB s WINDOW 1 t", "SYNTAX unexpected argument 't' for ESUB"),
        ("ESUB s NAMES A,,B", "INVALIDARG event name must not be empty"),
        ("ESUB s PREFIX x", "SYNTAX unexpected argument 'PREFIX' for ESUB"),
        ("ESUB s WINDOW 1 PREFIX x", "SYNTAX unexpected argument 'PREFIX' for ESUB"),
        (
            "EPSUB x",
            "INVALIDARG partition must be a partition number or a partition key UUID, got 'x'",
        ),
        (
            "EPSUB 1,x",
            "INVALIDARG partitions must be partition numbers or ranges such as 0-7, got 'x'",
        ),
        ("EPSUB 3-1", "INVALIDARG the range 3-1 is empty: the lower number comes first"),
        ("EPSUB 1-5,0-65535", "INVALIDARG partition 1 is named twice"),
        ("EPSUB 0-65535", "INVALIDARG partition 4096 does not exist in any database"),
        (
            "EPSUB 1-70000",
            "INVALIDARG partitions must be partition numbers or ranges such as 0-7, got '1-70000'",
        ),
        ("EPSUB * FROM MAP x=1", "INVALIDARG partition must be a number from 0 to 65535, got 'x'"),
        ("EACK x 1", "INVALIDARG subscription must be a UUID, got 'x'"),
        ("ESCAN s - + BLOCK -1", "INVALIDARG BLOCK must be a number, got '-1'"),
    ]);
    assert_eq!(good(&format!("EACK {UUID} 4")), Request::Acknowledge(UUID.parse().unwrap(), 4));
    assert_eq!(good(&format!("EUNSUB {UUID}")), Request::Unsubscribe(UUID.parse().unwrap()));
    assert!(good("ESCAN s 5 + BLOCK 0").blocks() && !good("ESCAN s 5 +").blocks());
}
