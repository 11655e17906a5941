//! Following the log through the embedded API, under load and with faults.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use actadb::database::Database;
use actadb::error::ReadError;
use actadb::model::dice::SplitMix64;
use actadb::model::ids::{PartitionId, PartitionKey};
use actadb::model::names::{EventName, StreamId};
use actadb::model::transaction::{NewEvent, Transaction};
use actadb::options::{Execution, Options};
use actadb::reads::{ReadPartition, ReadStream};
use actadb::subscriptions::{
    AheadOfSent, EndReason, Filter, From, Notice, Subscribe, SubscribeError, Subscription, Topics,
};

const STREAMS: u64 = 8;

fn stream(n: u64) -> StreamId {
    StreamId::new(&format!("stream-{n}")).expect("a stream id")
}

fn name(text: &str) -> EventName {
    EventName::new(text).expect("a name")
}

async fn append(database: &Database, n: u64, payload: String) {
    let event = NewEvent::new(stream(n), name("Happened")).payload(payload);
    database.append(Transaction::single(event).expect("ok")).await.expect("appends");
}

/// Waits a bounded time: a test that hangs says nothing.
async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    let patience = Duration::from_secs(60);
    tokio::time::timeout(patience, future).await.unwrap_or_else(|_| panic!("{what}: not in time"))
}

async fn events(subscription: &mut Subscription) -> Vec<(u64, String, u64, u64, PartitionId)> {
    loop {
        match soon("a notice", subscription.next()).await.expect("it goes on") {
            Notice::Events(deliveries) => {
                let seen = deliveries.iter().map(|d| {
                    let e = d.event.as_ref();
                    (d.cursor, e.stream.as_str().to_owned(), e.version, e.sequence, e.partition)
                });
                return seen.collect();
            }
            Notice::Progress { .. } => {}
        }
    }
}

/// Writers append without pause while subscribers begin at random places, read up to what was live
/// when they began, and on behind it: every event is the next one.
async fn hand_overs(execution: Execution, count: u64, readers: u64, seed: u64) {
    println!("seed {seed}");
    let dir = tempfile::tempdir().expect("dir");
    let options =
        Options { segment_bytes: 1 << 20, buckets: 2, execution, ..Options::new(dir.path()) };
    let database = Database::open_with(options).await.expect("opens");
    for n in 0..200 {
        append(&database, n % STREAMS, "before".into()).await;
    }
    let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let writers: Vec<_> = (0..3)
        .map(|writer| {
            let (database, stop) = (database.clone(), stop.clone());
            tokio::spawn(async move {
                let mut dice = SplitMix64::new(seed ^ writer);
                while !stop.load(Ordering::Relaxed) {
                    append(&database, dice.below(STREAMS), "x".repeat(dice.below(300) as usize))
                        .await;
                }
            })
        })
        .collect();
    let followers: Vec<_> = (0..readers)
        .map(|reader| {
            let (database, done) = (database.clone(), done.clone());
            let mut dice = SplitMix64::new(seed.wrapping_mul(31) ^ (reader << 8));
            tokio::spawn(async move {
                while done.fetch_add(1, Ordering::Relaxed) < count {
                    one_hand_over(&database, &mut dice).await;
                }
            })
        })
        .collect();
    for follower in followers {
        follower.await.expect("a follower saw every event in order");
    }
    stop.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.await.expect("a writer");
    }
    assert_eq!(database.status().blocked_reads, 0);
    database.close().await;
}

async fn one_hand_over(database: &Database, dice: &mut SplitMix64) {
    let n = dice.below(STREAMS);
    let partition =
        database.partitioning().partition_of(PartitionKey::of_stream(stream(n).as_str()));
    let (topics, next, by_version) = match dice.below(3) {
        0 => {
            let version = database.stream_version(stream(n), None).await.expect("reads");
            (Topics::Streams(vec![(stream(n), None)]), version.map_or(0, |v| v + 1), true)
        }
        1 => {
            let last = database.partition_sequence(partition).await.expect("reads");
            (Topics::Partition(partition), last.map_or(0, |s| s + 1), false)
        }
        _ => {
            follow_all(database, dice).await;
            return;
        }
    };
    let from = next - dice.below(next.min(40) + 1);
    let mut subscribe = Subscribe::to(topics).from(From::At(from));
    if dice.one_in(2) {
        subscribe = subscribe.window(1 + dice.below(20) as u32);
    }
    let windowed = subscribe.window.is_some();
    let mut subscription = database.subscribe(subscribe).await.expect("subscribes");
    let (mut expected, target) = (from, next + 1 + dice.below(3));
    while expected < target {
        for (cursor, _, version, sequence, _) in events(&mut subscription).await {
            let position = if by_version { version } else { sequence };
            assert_eq!(position, expected, "the next one");
            assert_eq!(cursor, position);
            expected += 1;
            if windowed && dice.one_in(3) {
                subscription.ack(cursor).await.expect("it was sent");
            }
        }
        if windowed {
            subscription.ack(expected - 1).await.expect("it was sent");
        }
    }
}

/// All partitions, some from a place in their history, the others from the latest.
async fn follow_all(database: &Database, dice: &mut SplitMix64) {
    let partitions = (0..database.partitioning().partitions()).map(PartitionId);
    let mut positions = BTreeMap::new();
    let mut expected: BTreeMap<PartitionId, Option<u64>> = BTreeMap::new();
    for partition in partitions {
        let next =
            database.partition_sequence(partition).await.expect("reads").map_or(0, |s| s + 1);
        let begins = dice.one_in(2).then(|| next - dice.below(next.min(20) + 1));
        if let Some(begins) = begins {
            positions.insert(partition.to_string(), begins);
        }
        expected.insert(partition, begins);
    }
    let subscribe = Subscribe::to(Topics::All).from(From::Map { positions, rest: None });
    let mut subscription = database.subscribe(subscribe).await.expect("subscribes");
    let mut cursors = 0..;
    let mut seen = 0;
    while seen < 30 {
        for (cursor, _, _, sequence, partition) in events(&mut subscription).await {
            assert_eq!(Some(cursor), cursors.next(), "cursors count");
            let next = expected.get_mut(&partition).expect("a partition");
            assert_eq!(sequence, next.unwrap_or(sequence), "the next one of {partition}");
            *next = Some(sequence + 1);
            seen += 1;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_hand_overs_from_history_to_live_skip_and_double_nothing() {
    hand_overs(Execution::Threads, 10_000, 8, 0xfeed).await;
}

#[tokio::test(flavor = "current_thread")]
async fn hand_overs_on_one_thread_and_inline_skip_and_double_nothing() {
    hand_overs(Execution::Inline, 300, 4, 0xbeef).await;
}

async fn small() -> (tempfile::TempDir, Database) {
    let dir = tempfile::tempdir().expect("dir");
    let options = Options { segment_bytes: 1 << 20, buckets: 2, ..Options::new(dir.path()) };
    let database = Database::open_with(options).await.expect("opens");
    (dir, database)
}

#[tokio::test]
async fn a_position_past_the_end_and_unknown_names_are_refused_by_name() {
    let (_dir, database) = small().await;
    for n in 0..3 {
        append(&database, 1, n.to_string()).await;
    }
    let streams =
        |streams: &[u64]| Topics::Streams(streams.iter().map(|n| (stream(*n), None)).collect());
    let refused = async |topics, from| {
        let error =
            database.subscribe(Subscribe::to(topics).from(from)).await.expect_err("refused");
        error.to_string()
    };
    let map = |pairs: &[(&str, u64)]| From::Map {
        positions: pairs.iter().map(|(n, p)| ((*n).to_owned(), *p)).collect(),
        rest: None,
    };
    let past = "FROM 4 is past the end (next is 3)";
    assert_eq!(refused(streams(&[1]), From::At(4)).await, past);
    let past = "FROM 1 is past the end of 'stream-2' (next is 0)";
    assert_eq!(refused(streams(&[1, 2]), From::At(1)).await, past);
    let past = "FROM 9 is past the end of 'stream-2' (next is 0)";
    assert_eq!(refused(streams(&[1, 2]), map(&[("stream-2", 9)])).await, past);
    let unknown = "FROM MAP names 'x', which is not subscribed to";
    assert_eq!(refused(streams(&[1]), map(&[("x", 0)])).await, unknown);
    assert_eq!(refused(streams(&[1, 1]), From::Latest).await, "'stream-1' is named twice");
    assert_eq!(
        refused(streams(&[]), From::Latest).await,
        "a subscription needs something to follow"
    );
    let none = Topics::Partitions(vec![PartitionId(3), PartitionId(99)]);
    let error = database.subscribe(Subscribe::to(none)).await.expect_err("refused");
    let missing = ReadError::NoSuchPartition { partition: 99, last: 31 };
    assert_eq!(error, SubscribeError::Read(missing));
    assert_eq!(database.status().subscriptions, 0);
}

#[tokio::test]
async fn a_full_window_holds_back_until_an_ack_and_the_future_cannot_be_acknowledged() {
    let (_dir, database) = small().await;
    for n in 0..5 {
        append(&database, 1, n.to_string()).await;
    }
    let topics = Topics::Streams(vec![(stream(1), None)]);
    let subscribe = Subscribe::to(topics).from(From::At(0)).window(2);
    let mut subscription = database.subscribe(subscribe).await.expect("subscribes");
    let first: Vec<u64> = events(&mut subscription).await.iter().map(|e| e.2).collect();
    assert!(first.starts_with(&[0]) && first.len() <= 3, "{first:?}");
    let last = *first.last().expect("some");
    assert_eq!(subscription.ack(9).await, Err(AheadOfSent { last: Some(last) }));
    let mut seen = first;
    while seen.len() < 5 {
        let last = *seen.last().expect("some");
        subscription.ack(last).await.expect("it was sent");
        seen.extend(events(&mut subscription).await.iter().map(|e| e.2));
    }
    assert_eq!(seen, [0, 1, 2, 3, 4]);
}

#[tokio::test]
async fn a_sparse_filter_tells_how_far_it_has_looked() {
    let (_dir, database) = small().await;
    let topics = Topics::Streams(vec![(stream(1), None)]);
    let filter = Filter::all().names([name("Rare")]);
    let mut subscribe = Subscribe::to(topics).filter(filter);
    subscribe.progress_events = 4;
    let mut subscription = database.subscribe(subscribe).await.expect("subscribes");
    for n in 0..6 {
        append(&database, 1, n.to_string()).await;
    }
    let mut told = Vec::new();
    // The fourth skipped event tells it, and the last ones after a second.
    while told.last() != Some(&6) {
        let notice = soon("a progress", subscription.next()).await.expect("it goes on");
        let Notice::Progress { cursor, positions } = notice else { panic!("{notice:?}") };
        assert_eq!(positions.len(), 1);
        assert_eq!(positions[0].1, cursor + 1);
        told.push(positions[0].1);
        subscription.ack(cursor).await.expect("a progress can be acknowledged");
    }
    let rare = NewEvent::new(stream(1), name("Rare"));
    database.append(Transaction::single(rare).expect("ok")).await.expect("appends");
    assert_eq!(events(&mut subscription).await[0].2, 6);
}

#[tokio::test]
async fn subscriptions_end_when_they_are_dropped_and_say_why_when_they_end_by_themselves() {
    let (_dir, database) = small().await;
    let topics = || Topics::Streams(vec![(stream(1), None)]);
    let mut one = database.subscribe(Subscribe::to(topics())).await.expect("subscribes");
    let other = database.subscribe(Subscribe::to(Topics::All)).await.expect("subscribes");
    assert_eq!(database.status().subscriptions, 2);
    drop(other);
    let gone = async {
        while database.status().subscriptions != 1 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    soon("a dropped subscription ends", gone).await;

    let mut broken = database.subscribe(Subscribe::to(topics())).await.expect("subscribes");
    broken.inject_panic().await;
    assert_eq!(soon("its end", broken.next()).await.expect_err("it ended"), EndReason::Panicked);
    append(&database, 1, "others go on".into()).await;
    assert_eq!(events(&mut one).await.len(), 1);

    database.close().await;
    assert_eq!(soon("its end", one.next()).await.expect_err("it ended"), EndReason::Stopping);
    assert_eq!(soon("for ever", one.next()).await.expect_err("it ended"), EndReason::Stopping);
}

#[tokio::test]
async fn a_read_that_waits_is_woken_by_its_own_stream_only() {
    let (_dir, database) = small().await;
    append(&database, 1, "0".into()).await;
    let read = ReadStream::all(stream(1)).from(1);
    let waiting = tokio::spawn({
        let database = database.clone();
        async move { database.wait_stream(read, None).await }
    });
    while database.status().blocked_reads == 0 {
        tokio::task::yield_now().await;
    }
    append(&database, 2, "another".into()).await;
    append(&database, 1, "1".into()).await;
    let page = soon("the page", waiting).await.expect("no panic").expect("reads");
    assert_eq!(page.events.iter().map(|e| e.version()).collect::<Vec<_>>(), [1]);

    let short = Some(Duration::from_millis(5));
    let read = ReadStream::all(stream(1)).from(2);
    let page = database.wait_stream(read, short).await.expect("reads");
    assert!(page.events.is_empty() && !page.has_more);
    // Nothing can come between these bounds.
    let read = ReadStream::all(stream(1)).from(5).to(4);
    assert!(
        soon("at once", database.wait_stream(read, None)).await.expect("reads").events.is_empty()
    );
    let read = ReadPartition::all(PartitionId(31));
    let stopped = tokio::spawn({
        let database = database.clone();
        async move { database.wait_partition(read, None).await }
    });
    while database.status().blocked_reads == 0 {
        tokio::task::yield_now().await;
    }
    database.close().await;
    assert_eq!(stopped.await.expect("no panic").expect_err("stops"), ReadError::Stopping);
}
