//! Subscriptions: where they begin, what they show, how they are paced, how they go on.

use std::time::Duration;

use actadb_client::{
    Checkpoint, Client, ClientOptions, Delivery, Error, ExpectedVersion, Follow, NewEvent,
    PartitionKey, Uuid,
};

use crate::support::{PATIENCE, Proxy, connect, connect_through, next, next_event, start, url};

async fn append(client: &Client, stream: &str, name: &str) -> u64 {
    client.append(NewEvent::new(stream, name)).await.expect("appends").version
}

#[tokio::test(flavor = "multi_thread")]
async fn history_and_what_comes_after_are_one() {
    let dir = tempfile::tempdir().expect("dir");
    let server = start(dir.path()).await;
    let client = connect(&server).await;
    for _ in 0..5 {
        append(&client, "s", "A").await;
    }
    let mut from_start = client.subscribe(Follow::stream("s").from_start()).await.expect("begins");
    let mut from_three =
        client.subscribe(Follow::stream("s").from_position(3)).await.expect("begins");
    let mut latest = client.subscribe(Follow::stream("s")).await.expect("begins");
    assert_eq!(latest.checkpoint().next("s"), 5);
    for _ in 0..5 {
        append(&client, "s", "A").await;
    }
    for (subscription, first) in [(&mut from_start, 0), (&mut from_three, 3), (&mut latest, 5)] {
        for version in first..10 {
            assert_eq!(next_event(subscription).await.version, version);
            assert_eq!(subscription.checkpoint().next("s"), version + 1);
        }
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn several_streams_go_on_from_a_checkpoint() {
    let dir = tempfile::tempdir().expect("dir");
    let server = start(dir.path()).await;
    let client = connect(&server).await;
    // Names that are words of the command, or look like its pairs.
    let key = PartitionKey::new(Uuid::from_u128(9 << 46));
    let streams = || [("a=1", key), ("window", key), ("c", key)];
    for stream in streams() {
        for _ in 0..4 {
            client.append(NewEvent::new(stream, "A")).await.expect("appends");
        }
    }
    let mut first =
        client.subscribe(Follow::streams(streams()).from_start()).await.expect("begins");
    let mut seen = Vec::new();
    for _ in 0..5 {
        let event = next_event(&mut first).await;
        seen.push((event.stream, event.version));
    }
    let stored = serde_json::to_string(first.checkpoint()).expect("JSON");
    drop(first);
    let checkpoint: Checkpoint = serde_json::from_str(&stored).expect("JSON");
    let follow = Follow::streams(streams()).from_checkpoint(checkpoint);
    let mut second = client.subscribe(follow.clone()).await.expect("begins");
    for _ in 0..7 {
        let event = next_event(&mut second).await;
        seen.push((event.stream, event.version));
    }
    seen.sort();
    let names = ["a=1", "c", "window"];
    let wanted = names.iter().flat_map(|name| (0..4).map(|n| (name.to_string(), n)));
    assert_eq!(seen, wanted.collect::<Vec<_>>());
    assert!(second.checkpoint().reaches(&client.latest(&follow).await.expect("reads")));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_acknowledgements_a_window_is_all_that_comes() {
    let dir = tempfile::tempdir().expect("dir");
    let server = start(dir.path()).await;
    let client = connect(&server).await;
    let key = PartitionKey::of_stream("s");
    let events = (0..20).map(|_| NewEvent::new("s", "A"));
    client.append_transaction(key, events).await.expect("appends");
    let follow = Follow::stream("s").from_start().window(3).manual_ack();
    let mut subscription = client.subscribe(follow).await.expect("begins");
    for round in 0..6 {
        let mut last = None;
        for n in 0..3 {
            let delivery = next(&mut subscription).await;
            assert_eq!(delivery.event().expect("an event").version, round * 3 + n);
            last = Some(delivery.cursor());
        }
        // Nothing more may come; there is no other way to see nothing than to wait a while.
        let more = tokio::time::timeout(Duration::from_millis(50), subscription.next()).await;
        assert!(more.is_err(), "{more:?}");
        let cursor = last.expect("three came");
        subscription.ack(cursor);
        subscription.ack(cursor);
    }
    assert_eq!(next_event(&mut subscription).await.version, 18);
    // By itself it acknowledges, with the smallest window, too.
    let follow = Follow::stream("s").from_start().window(1);
    let mut subscription = client.subscribe(follow).await.expect("begins");
    for version in 0..20 {
        assert_eq!(next_event(&mut subscription).await.version, version);
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_does_not_read_holds_no_more_than_its_window() {
    let dir = tempfile::tempdir().expect("dir");
    let server = start(dir.path()).await;
    let client = connect(&server).await;
    let events = (0..500).map(|_| NewEvent::new("s", "A"));
    let key = PartitionKey::of_stream("s");
    client.append_transaction(key, events).await.expect("appends");
    let follow = Follow::all().from_start().window(8);
    let mut subscription = client.subscribe(follow).await.expect("begins");
    assert_eq!(next_event(&mut subscription).await.version, 0);
    for _ in 0..20 {
        // Each a round trip, in which the server could have sent much more.
        client.stream_version("s").await.expect("reads");
        assert!(server.database().status().delivered_events <= 8);
    }
    for version in 1..500 {
        assert_eq!(next_event(&mut subscription).await.version, version);
    }
    assert_eq!(server.database().status().subscriptions, 1);
    drop(subscription);
    let gone = async {
        while server.database().status().subscriptions > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(PATIENCE, gone).await.expect("a dropped subscription ends");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_filter_shows_some_and_tells_how_far_it_looked() {
    let dir = tempfile::tempdir().expect("dir");
    let server = start(dir.path()).await;
    let client = connect(&server).await;
    for n in 0..60 {
        let stream = format!("{}-{}", if n % 2 == 0 { "order" } else { "user" }, n % 5);
        append(&client, &stream, if n % 3 == 0 { "Shipped" } else { "Other" }).await;
    }
    let follow =
        Follow::all().from_start().names(["Shipped", "Lost"]).prefix("order-").progress_every(1);
    let latest = client.latest(&follow).await.expect("reads");
    let mut subscription = client.subscribe(follow.clone()).await.expect("begins");
    let (mut events, mut progresses) = (0, 0);
    while !subscription.checkpoint().reaches(&latest) {
        match next(&mut subscription).await {
            Delivery::Event { event, .. } => {
                assert!(event.stream.starts_with("order-") && event.name == "Shipped");
                events += 1;
            }
            Delivery::Progress { moved, cursor } => {
                assert!(!moved.is_empty());
                subscription.ack(cursor);
                progresses += 1;
            }
        }
    }
    assert_eq!(events, 10);
    assert!(progresses > 0);
    // From there on there is nothing old.
    let follow = follow.from_checkpoint(subscription.checkpoint().clone());
    let mut subscription = client.subscribe(follow).await.expect("begins");
    append(&client, "user-9", "Shipped").await;
    append(&client, "order-9", "Lost").await;
    assert_eq!(next_event(&mut subscription).await.stream, "order-9");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn latest_is_the_moment_of_subscribing_whatever_breaks_after_it() {
    let dir = tempfile::tempdir().expect("dir");
    let server = start(dir.path()).await;
    let direct = connect(&server).await;
    append(&direct, "s", "Before").await;
    let proxy = Proxy::to(&server).await;
    let client = connect_through(&proxy).await;
    let mut all = client.subscribe(Follow::all()).await.expect("begins");
    let mut one = client.subscribe(Follow::stream("s").from_latest()).await.expect("begins");
    proxy.open(false);
    for _ in 0..3 {
        append(&direct, "s", "Meanwhile").await;
    }
    proxy.open(true);
    for version in 1..4 {
        assert_eq!(next_event(&mut all).await.version, version);
        assert_eq!(next_event(&mut one).await.version, version);
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_is_restarted_under_client_and_subscription() {
    let dir = tempfile::tempdir().expect("dir");
    let server = start(dir.path()).await;
    let proxy = Proxy::to(&server).await;
    let client = connect_through(&proxy).await;
    let mut subscription =
        client.subscribe(Follow::stream("s").from_start()).await.expect("begins");
    for version in 0..3 {
        append(&client, "s", "A").await;
        assert_eq!(next_event(&mut subscription).await.version, version);
    }
    let appends = tokio::spawn({
        let client = client.clone();
        async move {
            for version in 3..40 {
                assert_eq!(append(&client, "s", "A").await, version);
            }
        }
    });
    server.stop().await;
    let server = start(dir.path()).await;
    proxy.retarget(&server);
    for version in 3..40 {
        assert_eq!(next_event(&mut subscription).await.version, version);
    }
    appends.await.expect("appended");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_connection_is_noticed() {
    let dir = tempfile::tempdir().expect("dir");
    let server = start(dir.path()).await;
    let direct = connect(&server).await;
    let proxy = Proxy::to(&server).await;
    let options = ClientOptions::new(url(proxy.address))
        .request_timeout(Duration::from_millis(200))
        .connect_timeout(Duration::from_millis(200))
        .ping_interval(Duration::from_millis(50));
    let client = Client::connect_with(options).await.expect("connects");
    let mut subscription = client.subscribe(Follow::stream("s")).await.expect("begins");
    // From now on this connection swallows all that the server says.
    proxy.mute(true);
    append(&direct, "s", "A").await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    proxy.mute(false);
    append(&direct, "s", "A").await;
    for version in 0..2 {
        assert_eq!(next_event(&mut subscription).await.version, version);
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_followed_is_an_error_at_once() {
    let dir = tempfile::tempdir().expect("dir");
    let server = start(dir.path()).await;
    let client = connect(&server).await;
    client.append_json("s", "A", ExpectedVersion::Empty, &1).await.expect("appends");
    let none: [&str; 0] = [];
    for (follow, words) in [
        (Follow::stream("s").from_position(5), "FROM 5 is past the end (next is 1)"),
        (Follow::partition(99), "partition 99 does not exist"),
        (Follow::streams(none), "nothing to follow"),
        (Follow::streams(["s", "s"]), "stream s is named twice"),
        (Follow::streams(["from", "names"]), "by one subscription"),
        (Follow::stream("s").prefix("s"), "a prefix is for partitions"),
        (Follow::all().names(["a,b"]), "a comma separates"),
    ] {
        let error = client.subscribe(follow).await.expect_err("is refused");
        let (Error::Invalid(text) | Error::Refused { text, .. }) = error else {
            panic!("{words}: {error}")
        };
        assert!(text.contains(words), "{text}");
    }
    server.stop().await;
}
