//! Reads that page by themselves.

use std::ops::Bound;

use actadb_client::{Client, Error, Event, Events, NewEvent, PartitionKey, Uuid};
use futures_util::TryStreamExt;

use crate::support::{connect, start};

async fn fill(client: &Client, stream: &str, events: u64) {
    let key = PartitionKey::of_stream(stream);
    let events = (0..events).map(|n| NewEvent::new(stream, "Counted").payload(n.to_string()));
    client.append_transaction(key, events).await.expect("appends");
}

async fn versions(events: Events) -> Vec<u64> {
    let events: Vec<Event> = events.try_collect().await.expect("reads");
    for event in &events {
        assert_eq!(event.payload, event.version.to_string());
    }
    events.iter().map(|event| event.version).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_is_read_forwards_and_backwards_in_any_page_size() {
    let dir = tempfile::tempdir().expect("dir");
    let server = start(dir.path()).await;
    let client = connect(&server).await;
    fill(&client, "s", 25).await;
    for page in [1, 4, 5, 24, 25, 26, 1000] {
        let all = || client.stream("s", ..).page_size(page);
        assert_eq!(versions(all()).await, (0..25).collect::<Vec<_>>(), "{page}");
        assert_eq!(versions(all().backwards()).await, (0..25).rev().collect::<Vec<_>>(), "{page}");
        let some = || client.stream("s", 3..=17).page_size(page);
        assert_eq!(versions(some()).await, (3..18).collect::<Vec<_>>(), "{page}");
        assert_eq!(versions(some().backwards()).await, (3..18).rev().collect::<Vec<_>>());
    }
    assert_eq!(versions(client.stream("s", 20..)).await, (20..25).collect::<Vec<_>>());
    assert_eq!(versions(client.stream("s", ..2)).await, [0, 1]);
    assert!(versions(client.stream("s", ..0)).await.is_empty());
    assert!(versions(client.stream("s", 30..)).await.is_empty());
    assert_eq!(versions(client.stream("s", 9..=9).backwards()).await, [9]);
    let behind_the_last = (Bound::Excluded(u64::MAX), Bound::Unbounded);
    assert!(versions(client.stream("s", behind_the_last)).await.is_empty());
    assert!(versions(client.stream("none", ..)).await.is_empty());
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_is_read_by_number_and_by_key() {
    let dir = tempfile::tempdir().expect("dir");
    let server = start(dir.path()).await;
    let client = connect(&server).await;
    let key = PartitionKey::new(Uuid::from_u128(5 << 46));
    for n in 0..30_u64 {
        let stream = (format!("s{}", n % 3), key);
        client.append(NewEvent::new(stream, "A")).await.expect("appends");
    }
    let sequences = |events: Events| async {
        let events: Vec<Event> = events.try_collect().await.expect("reads");
        events.iter().map(|event| event.sequence).collect::<Vec<_>>()
    };
    let by_number = client.partition(5, ..).page_size(7);
    assert_eq!(sequences(by_number).await, (0..30).collect::<Vec<_>>());
    let by_key = client.partition(key, 10..).page_size(7).backwards();
    assert_eq!(sequences(by_key).await, (10..30).rev().collect::<Vec<_>>());
    assert_eq!(client.partition_sequence(key).await.expect("reads"), Some(29));
    assert_eq!(versions_of(&client, ("s1", key)).await, 10);
    // Without its key a stream is another one.
    assert_eq!(versions_of(&client, ("s1", PartitionKey::of_stream("s1"))).await, 0);
    let error = client.partition(99, ..).try_collect::<Vec<Event>>().await.expect_err("none");
    let Error::Refused { text, .. } = error else { panic!("{error}") };
    assert_eq!(text, "partition 99 does not exist (0 to 31)");
    let error = client.stream("", ..).next().await.expect("an item").expect_err("no name");
    assert!(matches!(error, Error::Invalid(_)), "{error}");
    server.stop().await;
}

async fn versions_of(client: &Client, stream: (&str, PartitionKey)) -> usize {
    let events: Vec<Event> = client.stream(stream, ..).try_collect().await.expect("reads");
    events.len()
}
