//! Connections that are cut at random moments, under load: appends happen once, subscriptions skip
//! and double nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use actadb_client::{Appended, Event, ExpectedVersion, Follow, NewEvent, PartitionKey};
use futures_util::TryStreamExt;

use crate::support::{Cutter, Dice, Proxy, connect, connect_through, next_event, start};

const WRITERS: u64 = 6;
const EACH: u64 = 60;

#[tokio::test(flavor = "multi_thread")]
async fn every_append_is_there_exactly_once() {
    let dir = tempfile::tempdir().expect("dir");
    let server = start(dir.path()).await;
    let proxy = Arc::new(Proxy::to(&server).await);
    let client = connect_through(&proxy).await;
    let cutter = Cutter::on(&proxy, Dice::new("appends"), 30);
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let client = client.clone();
            tokio::spawn(async move {
                let mut answers: Vec<(String, Appended)> = Vec::new();
                let (own, shared) = (format!("own-{writer}"), format!("shared-{}", writer % 2));
                let key = PartitionKey::of_stream(&shared);
                let mut version = ExpectedVersion::Empty;
                for n in 0..EACH {
                    let word = format!("{writer}/{n}");
                    if n % 3 == 0 {
                        let event = |half| {
                            let payload = format!("{word}/{half}");
                            NewEvent::new((shared.as_str(), key), "B").payload(payload)
                        };
                        let both = client.append_transaction(key, [event(0), event(1)]).await;
                        for (half, one) in both.expect("appends").into_iter().enumerate() {
                            answers.push((format!("{word}/{half}"), one));
                        }
                    }
                    let event = NewEvent::new(&own, "A").expect(version).payload(word.clone());
                    let one = client.append(event).await.expect("appends");
                    version = ExpectedVersion::Exact(one.version);
                    answers.push((word, one));
                }
                answers
            })
        })
        .collect();
    let mut answered = BTreeMap::new();
    for writer in writers {
        for (word, one) in writer.await.expect("ends") {
            assert!(answered.insert(word, one).is_none());
        }
    }
    drop(cutter);
    println!("{} cuts", proxy.cuts());
    assert!(proxy.cuts() > 3);
    let direct = connect(&server).await;
    let mut found = 0;
    for partition in 0..direct.partition_count() {
        let events: Vec<Event> =
            direct.partition(partition, ..).try_collect().await.expect("reads");
        for event in events {
            let word = String::from_utf8(event.payload.to_vec()).expect("text");
            let one = answered.get(&word).unwrap_or_else(|| panic!("{word} was not appended"));
            assert_eq!((one.event_id, one.version), (event.id, event.version), "{word}");
            assert_eq!((one.partition, one.sequence), (event.partition, event.sequence), "{word}");
            found += 1;
        }
    }
    assert_eq!(found, answered.len());
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn subscriptions_see_every_event_exactly_once_and_in_order() {
    let dir = tempfile::tempdir().expect("dir");
    let server = start(dir.path()).await;
    let direct = connect(&server).await;
    let proxy = Arc::new(Proxy::to(&server).await);
    let client = connect_through(&proxy).await;
    let streams: Vec<String> = (0..8).map(|n| format!("s{n}")).collect();
    let total = 1600;
    let mut all = client.subscribe(Follow::all().window(16)).await.expect("begins");
    let follow = Follow::streams(&streams).from_start();
    let mut several = client.subscribe(follow.window(64)).await.expect("begins");
    let mut one = client.subscribe(Follow::stream("s3").window(5)).await.expect("begins");
    let follow = Follow::all().names(["Marked"]).progress_every(7);
    let mut marked = client.subscribe(follow).await.expect("begins");
    let cutter = Cutter::on(&proxy, Dice::new("subscriptions"), 40);

    let writer = tokio::spawn({
        let (direct, streams) = (direct.clone(), streams.clone());
        async move {
            for n in 0..total {
                let name = if n % 10 == 0 { "Marked" } else { "A" };
                let event = NewEvent::new(&streams[n % streams.len()], name);
                direct.append(event).await.expect("appends");
            }
        }
    });
    let of_all = async {
        let mut next: BTreeMap<u16, u64> = BTreeMap::new();
        for _ in 0..total {
            let event = next_event(&mut all).await;
            let next = next.entry(event.partition.0).or_default();
            assert_eq!(event.sequence, *next, "partition {}", event.partition);
            *next += 1;
        }
        assert!(all.checkpoint().reaches(&direct.latest(&Follow::all()).await.expect("reads")));
    };
    let of_several = async {
        let mut next: BTreeMap<String, u64> = BTreeMap::new();
        for _ in 0..total {
            let event = next_event(&mut several).await;
            let next = next.entry(event.stream).or_default();
            assert_eq!(event.version, *next);
            *next += 1;
        }
    };
    let of_one = async {
        for version in 0..(total / streams.len()) as u64 {
            assert_eq!(next_event(&mut one).await.version, version);
        }
    };
    let of_marked = async {
        let mut seen = Vec::new();
        for _ in 0..total / 10 {
            let event = next_event(&mut marked).await;
            assert_eq!(event.name, "Marked");
            seen.push((event.stream, event.version));
        }
        seen.sort();
        seen.dedup();
        assert_eq!(seen.len(), total / 10);
    };
    tokio::join!(of_all, of_several, of_one, of_marked);
    writer.await.expect("ends");
    drop(cutter);
    println!("{} cuts", proxy.cuts());
    assert!(proxy.cuts() > 3);
    server.stop().await;
}
