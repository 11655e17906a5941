//! The embedded API on a real directory.

use std::sync::Arc;
use std::time::Duration;

use actadb::database::Database;
use actadb::fault_injection::Part;
use actadb::model::ids::{PartitionId, PartitionKey, with_hash16};
use actadb::model::names::{EventName, StreamId};
use actadb::model::outcome::{AppendError, Refusal, Unknown};
use actadb::model::transaction::{NewEvent, Transaction};
use actadb::model::version::ExpectedVersion;
use actadb::options::{Execution, FsyncMode, Options};
use actadb::reads::{ReadPartition, ReadStream, Scan};
use actadb_disk::sim::SimDisk;
use uuid::Uuid;

fn stream(text: &str) -> StreamId {
    StreamId::new(text).expect("a stream id")
}

fn event(name: &str) -> NewEvent {
    NewEvent::new(stream(name), EventName::new("Happened").expect("a name"))
}

fn small(dir: &std::path::Path) -> Options {
    Options { segment_bytes: 1 << 20, buckets: 4, ..Options::new(dir) }
}

/// A stream whose default key falls into a partition.
fn stream_in(database: &Database, partition: PartitionId) -> StreamId {
    (0..)
        .map(|n| stream(&format!("stream-{n}")))
        .find(|s| {
            let key = PartitionKey::of_stream(s.as_str());
            database.partitioning().partition_of(key) == partition
        })
        .expect("some")
}

#[tokio::test]
async fn hundreds_of_unknown_streams_that_arrive_together_are_all_looked_up() {
    const STREAMS: u64 = 300;
    let dir = tempfile::tempdir().expect("dir");
    // Two heads are known at a time: every round looks up all of them.
    let options = Options { cached_heads: 2, ..small(dir.path()) };
    let database = Database::open_with(options).await.expect("opens");
    let key = PartitionKey::new(Uuid::from_u128(7));
    for version in 0..4 {
        let expected = match version {
            0 => ExpectedVersion::Empty,
            version => ExpectedVersion::Exact(version - 1),
        };
        let appends: Vec<_> = (0..STREAMS)
            .map(|n| {
                let new = event(&format!("s-{n}")).expected(expected);
                let transaction = Transaction::new(key, vec![new]).expect("ok");
                let database = database.clone();
                tokio::spawn(async move { database.append(transaction).await })
            })
            .collect();
        for append in appends {
            let appended = append.await.expect("no panic").expect("appends");
            assert_eq!(appended.events[0].version, version);
        }
    }
    let partition = database.partitioning().partition_of(key);
    let last = database.partition_sequence(partition).await.expect("reads");
    assert_eq!(last, Some(4 * STREAMS - 1));
    database.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_in_reverse_reads_the_file_as_often_as_one_forward() {
    let dir = tempfile::tempdir().expect("dir");
    let database = Database::open_with(small(dir.path())).await.expect("opens");
    // A hundred records larger than what a lone one is read with, and then more than is kept in
    // memory.
    for bytes in [[3 << 10; 100].as_slice(), &[240 << 10; 45]].concat() {
        let new = event("a").payload(vec![b'x'; bytes]);
        database.append(Transaction::single(new).expect("ok")).await.expect("appends");
    }
    let page = |reverse| {
        let scan = Scan { from: 0, to: 99, count: 100, reverse };
        let read = ReadStream { stream: stream("a"), partition_key: None, scan };
        // Answered where it is asked as long as it reads 512 KiB at the most; the page has 300.
        let page = database.read_stream_now(&read)?.expect("reads");
        let versions: Vec<u64> = page.events.iter().map(|event| event.version()).collect();
        Some(versions)
    };
    // Opens the files.
    let one = ReadStream::all(stream("a")).to(99).count(1);
    database.read_stream(one.clone()).await.expect("reads");
    database.read_stream(one.reverse()).await.expect("reads");
    // Not every file system can answer out of its cache only.
    if let Some(forward) = page(false) {
        assert_eq!(forward, (0..100).collect::<Vec<u64>>());
        let reverse = page(true).expect("a page in reverse reads no more");
        assert_eq!(reverse, (0..100).rev().collect::<Vec<u64>>());
    }
    database.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn append_read_close_and_open_again() {
    for execution in [Execution::Threads, Execution::Inline] {
        for fsync in [FsyncMode::Always, FsyncMode::Interval(5_000_000), FsyncMode::Never] {
            let dir = tempfile::tempdir().expect("dir");
            let options = Options { execution, fsync, ..small(dir.path()) };
            let database = Database::open_with(options.clone()).await.expect("opens");
            for n in 0..50_u64 {
                let payload = format!("{n}");
                let new = event("a").payload(payload).expected(match n {
                    0 => ExpectedVersion::Empty,
                    n => ExpectedVersion::Exact(n - 1),
                });
                let transaction = Transaction::single(new).expect("ok").durable(n % 7 == 0);
                let appended = database.append(transaction).await.expect("appends");
                assert_eq!(appended.events[0].version, n);
            }
            let wrong = event("a").expected(ExpectedVersion::Exact(7));
            let refused = database.append(Transaction::single(wrong).expect("ok")).await;
            assert!(matches!(
                refused,
                Err(AppendError::Refused(Refusal::WrongVersion { current: Some(49), .. }))
            ));
            database.close().await;
            let stopped = database.append(Transaction::single(event("a")).expect("ok")).await;
            assert_eq!(stopped, Err(AppendError::Refused(Refusal::Stopping)));
            drop(database);

            let database = Database::open_with(options).await.expect("opens again");
            let page = database.read_stream(ReadStream::all(stream("a"))).await.expect("reads");
            let payloads: Vec<_> = page.events.iter().map(|e| e.payload().to_vec()).collect();
            let wanted: Vec<_> = (0..50).map(|n: u64| n.to_string().into_bytes()).collect();
            assert_eq!(payloads, wanted);
            assert_eq!(database.stream_version(stream("a"), None).await, Ok(Some(49)));
            assert_eq!(database.stream_version(stream("b"), None).await, Ok(None));
            let id = page.events[3].id();
            let found = database.get(id).await.expect("reads").expect("there");
            assert_eq!(found.as_ref(), page.events[3].as_ref());
            let partition = page.events[0].partition();
            assert_eq!(database.partition_sequence(partition).await, Ok(Some(49)));
            let read = ReadPartition::all(partition).from(10).to(12).reverse();
            let page = database.read_partition(read).await.expect("reads");
            let sequences: Vec<_> = page.events.iter().map(|e| e.sequence()).collect();
            assert_eq!(sequences, [12, 11, 10]);
            database.close().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_many_racing_empty_appends_wins() {
    let dir = tempfile::tempdir().expect("dir");
    let database = Database::open_with(small(dir.path())).await.expect("opens");
    let mut racers = tokio::task::JoinSet::new();
    for _ in 0..64 {
        let database = database.clone();
        racers.spawn(async move {
            let new = event("contested").expected(ExpectedVersion::Empty);
            database.append(Transaction::single(new).expect("ok")).await
        });
    }
    let results = racers.join_all().await;
    assert_eq!(results.iter().filter(|r| r.is_ok()).count(), 1);
    let lost = results.iter().filter_map(|r| r.as_ref().err());
    for error in lost {
        let AppendError::Refused(Refusal::WrongVersion { current, .. }) = error else {
            panic!("{error}")
        };
        assert_eq!(*current, Some(0));
    }
    database.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_with_the_same_ids_answers_the_same_positions() {
    let dir = tempfile::tempdir().expect("dir");
    let database = Database::open_with(small(dir.path())).await.expect("opens");
    let key = PartitionKey::of_stream("order-1");
    let id = |n: u128| with_hash16(Uuid::from_u128(n), key.hash16());
    let transaction = || {
        let events = vec![
            event("order-1").id(id(1)).expected(ExpectedVersion::Empty).payload("a"),
            event("order-2").id(id(2)).payload("b"),
        ];
        Transaction::new(key, events).expect("ok")
    };
    let first = database.append(transaction()).await.expect("appends");
    let again = database.append(transaction()).await.expect("answers");
    assert_eq!(first, again);
    let other = Transaction::new(key, vec![event("order-1").id(id(1)).payload("c")]).expect("ok");
    let refused = database.append(other).await;
    assert!(matches!(refused, Err(AppendError::Refused(Refusal::Duplicate { version: 0, .. }))));
    // The same stream under another key: a mistake, told before it becomes two streams.
    let stray = PartitionKey::new(with_hash16(Uuid::from_u128(9), key.hash16() ^ 1));
    let refused = database.append(Transaction::new(stray, vec![event("order-1")]).expect("ok"));
    assert!(matches!(refused.await, Err(AppendError::Refused(Refusal::OtherPartitionKey { .. }))));
    database.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn segments_roll_and_seal_under_load_and_everything_is_read_back() {
    let dir = tempfile::tempdir().expect("dir");
    let options = Options { buckets: 1, partitions: 4, ..small(dir.path()) };
    let database = Database::open_with(options.clone()).await.expect("opens");
    let mut writers = tokio::task::JoinSet::new();
    for w in 0..8 {
        let database = database.clone();
        writers.spawn(async move {
            let connection = database.connection();
            for round in 0..40 {
                let run = (0..8)
                    .map(|n| {
                        let payload = vec![b'x'; 1500 + round * 8 + n];
                        let new = event(&format!("writer-{w}")).payload(payload);
                        Transaction::single(new).expect("ok")
                    })
                    .collect();
                for (n, result) in database.append_run(connection, run).await.iter().enumerate() {
                    let appended = result.as_ref().expect("appends");
                    assert_eq!(appended.events[0].version, (round * 8 + n) as u64);
                }
            }
        });
    }
    writers.join_all().await;
    let check = |database: Database| async move {
        for w in 0..8 {
            let read = ReadStream::all(stream(&format!("writer-{w}"))).count(1000);
            let page = database.read_stream(read).await.expect("reads");
            assert_eq!(page.events.len(), 320);
            assert!(page.events.iter().enumerate().all(|(n, e)| e.payload().len() == 1500 + n));
        }
    };
    check(database.clone()).await;
    let status = database.status();
    assert!(status.degraded().is_empty());
    assert_eq!(status.buckets[0].events, 8 * 320);
    assert!(status.buckets[0].entries < status.buckets[0].events, "commits are shared");
    database.close().await;
    drop(database);
    let database = Database::open_with(options).await.expect("opens again");
    check(database.clone()).await;
    let (open, sealed) =
        (database.status().buckets[0].open_segments, database.status().buckets[0].sealed_segments);
    assert!(open == 1 && sealed >= 3, "{open} open, {sealed} sealed");
    database.close().await;
    drop(database);
    let report = actadb::tools::check(dir.path()).expect("checks");
    let bucket = &report.buckets[0].1;
    assert!(bucket.is_sound(), "{bucket:?}");
    assert_eq!(bucket.events, 8 * 320);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_closes_one_bucket_answers_everyone_and_spreads_nowhere() {
    let partition = PartitionId(1);
    for part in
        [Part::Partition(partition), Part::SegmentWriter(partition), Part::WriterThread(partition)]
    {
        let dir = tempfile::tempdir().expect("dir");
        let database = Database::open_with(small(dir.path())).await.expect("opens");
        let mine = stream_in(&database, partition);
        let elsewhere = stream_in(&database, PartitionId(2));
        database.append(Transaction::single(event(mine.as_str())).expect("ok")).await.expect("ok");

        // Many clients wait when it happens.
        let mut waiting = tokio::task::JoinSet::new();
        for n in 0..200 {
            let (database, mine) = (database.clone(), mine.clone());
            waiting.spawn(async move {
                tokio::time::sleep(Duration::from_micros(n * 20)).await;
                database.append(Transaction::single(event(mine.as_str())).expect("ok")).await
            });
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
        database.inject_panic(part).await;
        let answers = tokio::time::timeout(Duration::from_secs(1), waiting.join_all()).await;
        let answers = answers.unwrap_or_else(|_| panic!("{part:?}: somebody waits"));
        let mut acknowledged = 1;
        for answer in answers {
            match answer {
                Ok(_) => acknowledged += 1,
                Err(AppendError::Unknown(Unknown::Uncertain)) => {}
                Err(AppendError::Refused(Refusal::Closed(_))) => {}
                Err(other) => panic!("{part:?}: {other}"),
            }
        }
        // Its reads and all other buckets go on; health names it.
        let page = database.read_stream(ReadStream::all(mine.clone()).count(1000)).await;
        assert!(page.expect("reads").events.len() >= acknowledged, "{part:?}");
        let other = Transaction::single(event(elsewhere.as_str())).expect("ok");
        database.append(other).await.expect("other buckets go on");
        let refused = database.append(Transaction::single(event(mine.as_str())).expect("ok")).await;
        assert!(
            matches!(refused, Err(AppendError::Refused(Refusal::Closed(_)))),
            "{part:?}: {refused:?}"
        );
        let degraded = database.status().degraded();
        assert_eq!(degraded.len(), 1, "{part:?}: {degraded:?}");
        assert!(
            degraded[0].contains("bucket 1") && degraded[0].contains("panicked"),
            "{degraded:?}"
        );
        assert!(database.status().is_ready());
        database.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_append_that_takes_too_long_is_unknown_and_its_retry_tells_what_became_of_it() {
    let disk = SimDisk::new();
    let options = Options {
        disk: Arc::new(disk.clone()),
        append_timeout: Duration::from_millis(100),
        buckets: 1,
        ..small(std::path::Path::new("/db"))
    };
    let database = Database::open_with(options).await.expect("opens");
    let transaction = |n: u128| {
        let key = PartitionKey::of_stream("a");
        let id = with_hash16(Uuid::from_u128(n), key.hash16());
        Transaction::single(event("a").id(id)).expect("ok")
    };
    database.append(transaction(1)).await.expect("appends");
    // The next write finds no space, and is made again a second later: longer than the timeout.
    disk.fail_write_after(0, std::io::ErrorKind::StorageFull);
    let unknown = database.append(transaction(2)).await;
    assert_eq!(unknown, Err(AppendError::Unknown(Unknown::Timeout)));
    loop {
        match database.append(transaction(2)).await {
            Ok(appended) => {
                assert_eq!((appended.first_sequence, appended.events[0].version), (1, 1));
                break;
            }
            Err(AppendError::Unknown(_) | AppendError::Refused(Refusal::NoRoom)) => {}
            Err(error) => panic!("{error}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let page = database.read_stream(ReadStream::all(stream("a"))).await.expect("reads");
    assert_eq!(page.events.len(), 2);
    database.close().await;
}
