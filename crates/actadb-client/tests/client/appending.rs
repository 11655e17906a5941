//! Appends: what they answer, and what they do when nobody answers.

use std::time::Duration;

use actadb_client::{
    Client, ClientOptions, Code, Error, ExpectedVersion, NewEvent, PartitionKey, Uuid,
};
use serde::{Deserialize, Serialize};

use crate::support::{Proxy, connect, start, start_with, url};

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Opened {
    owner: String,
    limit: u32,
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_is_appended_and_read_back_whole() {
    let dir = tempfile::tempdir().expect("dir");
    let server = start(dir.path()).await;
    let client = connect(&server).await;
    let event = NewEvent::new("s", "Opened")
        .expect(ExpectedVersion::Empty)
        .payload(vec![0, 255, 13, 10])
        .metadata("m")
        .timestamp_ms(1_700_000_000_000)
        .durable();
    let appended = client.append(event).await.expect("appends");
    assert_eq!((appended.stream.as_str(), appended.version, appended.sequence), ("s", 0, 0));
    let read = client.get(appended.event_id).await.expect("reads").expect("is there");
    assert_eq!((read.id, read.transaction_id), (appended.event_id, appended.event_id));
    assert_eq!((read.stream.as_str(), read.name.as_str()), ("s", "Opened"));
    assert_eq!((&read.payload[..], &read.metadata[..]), (&[0, 255, 13, 10][..], &b"m"[..]));
    assert_eq!((read.timestamp_ms, read.partition.0), (1_700_000_000_000, 12));
    assert_eq!(read.partition_key, PartitionKey::of_stream("s"));
    assert_eq!(client.stream_version("s").await.expect("reads"), Some(0));
    assert_eq!(client.partition_sequence(12).await.expect("reads"), Some(0));
    assert_eq!(client.stream_version("none").await.expect("reads"), None);
    assert_eq!(client.get(Uuid::from_u128(1)).await.expect("reads"), None);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn json_goes_in_and_comes_out_and_other_shapes_are_named() {
    let dir = tempfile::tempdir().expect("dir");
    let server = start(dir.path()).await;
    let client = connect(&server).await;
    let opened = Opened { owner: "ada".into(), limit: 7 };
    let appended = client.append_json("s", "Opened", ExpectedVersion::Empty, &opened).await;
    let id = appended.expect("appends").event_id;
    let read = client.get(id).await.expect("reads").expect("is there");
    assert_eq!(read.payload_json::<Opened>().expect("JSON"), opened);
    let error = read.payload_json::<Vec<u8>>().expect_err("is no list").to_string();
    assert!(error.starts_with("payload of Opened, version 0 of s: invalid type"), "{error}");
    assert!(matches!(read.metadata_json::<Opened>(), Err(Error::Json { .. })));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_version_is_typed() {
    let dir = tempfile::tempdir().expect("dir");
    let server = start(dir.path()).await;
    let client = connect(&server).await;
    let stream = "it's said \"and stream id 5\"";
    let expecting = |expected| client.append(NewEvent::new(stream, "A").expect(expected));
    let Err(Error::WrongExpectedVersion { stream: named, expected, current }) =
        expecting(ExpectedVersion::Exact(4)).await
    else {
        panic!("appended")
    };
    assert_eq!((named.as_str(), expected, current), (stream, ExpectedVersion::Exact(4), None));
    expecting(ExpectedVersion::Empty).await.expect("appends");
    expecting(ExpectedVersion::Exact(0)).await.expect("appends");
    expecting(ExpectedVersion::Exists).await.expect("appends");
    let error = expecting(ExpectedVersion::Empty).await.expect_err("is refused");
    assert!(matches!(error, Error::WrongExpectedVersion { current: Some(2), .. }), "{error}");
    assert_eq!(error.to_string(), format!("stream {stream} is at version 2, expected empty"));
    let key = PartitionKey::of_stream(stream);
    let events = [NewEvent::new(stream, "A").expect(ExpectedVersion::Exact(9))];
    let error = client.append_transaction(key, events).await.expect_err("is refused");
    assert!(matches!(error, Error::WrongExpectedVersion { current: Some(2), .. }), "{error}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_is_all_or_nothing_and_can_be_repeated() {
    let dir = tempfile::tempdir().expect("dir");
    let server = start(dir.path()).await;
    let client = connect(&server).await;
    let key = PartitionKey::new(Uuid::from_u128(0x1234_5678 << 40));
    let ids: Vec<Uuid> = (1..=3).map(|n| NewEvent::id_in(Uuid::from_u128(n << 70), key)).collect();
    // A stream called OK, whose name looks like an answer on the wire.
    let events = || {
        let streams = [("payload", 1), ("OK", 2), ("OK", 3)];
        streams.map(|(stream, n)| NewEvent::new(stream, "A").id(Uuid::from_u128(n << 70)))
    };
    let first = client.append_transaction(key, events()).await.expect("appends");
    let places: Vec<(&str, u64, u64)> =
        first.iter().map(|one| (one.stream.as_str(), one.version, one.sequence)).collect();
    assert_eq!(places, [("payload", 0, 0), ("OK", 0, 1), ("OK", 1, 2)]);
    assert_eq!(first.iter().map(|one| one.event_id).collect::<Vec<_>>(), ids);
    assert_eq!(client.append_transaction(key, events()).await.expect("repeats"), first);
    assert_eq!(client.stream_version(("OK", key)).await.expect("reads"), Some(1));
    let mut changed = events();
    changed[1] = changed[1].clone().payload("other");
    let error = client.append_transaction(key, changed).await.expect_err("is refused");
    assert!(matches!(error, Error::Refused { code: Code::Duplicate, .. }), "{error}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_makes_no_sense_is_said_before_it_is_sent() {
    let dir = tempfile::tempdir().expect("dir");
    let server = start(dir.path()).await;
    let client = connect(&server).await;
    let key = PartitionKey::of_stream("s");
    let none: [NewEvent; 0] = [];
    let behind_another = [NewEvent::new("s", "A"), NewEvent::new("Payload", "A")];
    let other_key = PartitionKey::of_stream("t");
    for (error, words) in [
        (client.append(NewEvent::new("", "A")).await.err(), "stream id must not be empty"),
        (client.append(NewEvent::new("s", "A\n")).await.err(), "must not contain control"),
        (client.append_transaction(key, none).await.err(), "at least one event"),
        (client.append_transaction(key, behind_another).await.err(), "can only come first"),
        (
            client.append_transaction(key, [NewEvent::new(("s", other_key), "A")]).await.err(),
            "has the key",
        ),
    ] {
        let Some(Error::Invalid(text)) = error else { panic!("{words}: {error:?}") };
        assert!(text.contains(words), "{text}");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_that_cannot_be_used_are_told_apart() {
    let dir = tempfile::tempdir().expect("dir");
    let server = start_with(dir.path(), |s| s.auth.password = "secret".into()).await;
    let address = url(server.client_address());
    let refused = |error| match error {
        Error::Refused { code, .. } => code,
        other => panic!("{other}"),
    };
    let error = Client::connect(&address).await.expect_err("needs a password");
    assert_eq!(refused(error), Code::NoPassword);
    let options = ClientOptions::new(&address);
    let error = Client::connect_with(options.clone().password("x")).await.expect_err("is wrong");
    assert_eq!(refused(error), Code::WrongPassword);
    let client = Client::connect_with(options.password("secret")).await.expect("connects");
    client.append(NewEvent::new("s", "A")).await.expect("appends");
    let with_password = format!("redis://:secret@{}", server.client_address());
    Client::connect(with_password).await.expect("connects");
    server.stop().await;
    let error = Client::connect(&address).await.expect_err("is gone");
    assert!(matches!(error, Error::Disconnected { .. }), "{error}");
    let error = Client::connect("http://x").await.expect_err("is no such URL");
    assert!(matches!(error, Error::Invalid(_)), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_outcome_names_the_ids_that_settle_it() {
    let dir = tempfile::tempdir().expect("dir");
    let server = start(dir.path()).await;
    let proxy = Proxy::to(&server).await;
    let options = ClientOptions::new(url(proxy.address))
        .request_timeout(Duration::from_millis(300))
        .connect_timeout(Duration::from_millis(300))
        .retry_timeout(Duration::from_millis(100));
    let client = Client::connect_with(options).await.expect("connects");
    let event = NewEvent::new("s", "A").payload("x");
    proxy.mute(true);
    let error = client.append(event.clone()).await.expect_err("no answer comes");
    let Error::Unknown { event_ids, last } = error else { panic!("{error}") };
    assert!(last.contains("no answer in time"), "{last}");
    proxy.mute(false);
    let appended = client.append(event.id(event_ids[0])).await.expect("settles");
    assert_eq!((appended.event_id, appended.version), (event_ids[0], 0));
    assert_eq!(client.stream_version("s").await.expect("reads"), Some(0));
    // What was never sent is not unknown.
    proxy.open(false);
    let mut error = client.append(NewEvent::new("t", "A")).await.expect_err("no server");
    if matches!(error, Error::Unknown { .. }) {
        // The first try met the connection that was just cut.
        error = client.append(NewEvent::new("t", "A")).await.expect_err("no server");
    }
    assert!(matches!(error, Error::Disconnected { .. }), "{error}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_large_is_refused_whatever_its_size() {
    let dir = tempfile::tempdir().expect("dir");
    let server = start(dir.path()).await;
    let client = connect(&server).await;
    // The server reads the first two and refuses them; the others it would close on.
    for megabytes in [1, 15, 16, 17, 70] {
        let event = NewEvent::new("s", "A").payload(vec![0; megabytes << 20]);
        let error = client.append(event).await.expect_err("is too large");
        assert!(matches!(error, Error::Refused { code: Code::TooLarge, .. }), "{error}");
    }
    let events = (0..65_537).map(|_| NewEvent::new("s", "A"));
    let error = client.append_transaction(PartitionKey::of_stream("s"), events).await;
    let error = error.expect_err("are too many");
    assert!(matches!(error, Error::Refused { .. }), "{error}");
    assert_eq!(client.stream_version("s").await.expect("reads"), None);
    server.stop().await;
}
