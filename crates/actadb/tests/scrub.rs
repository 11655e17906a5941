//! The scrub of a running database, on a real directory.

use std::path::{Path, PathBuf};
use std::time::Duration;

use actadb::database::Database;
use actadb::model::names::{EventName, StreamId};
use actadb::model::transaction::{NewEvent, Transaction};
use actadb::options::{Execution, Options};
use actadb::reads::ReadStream;
use actadb::status::Status;

/// As fast as it goes, one round after the other.
fn options(dir: &Path, execution: Execution) -> Options {
    Options {
        segment_bytes: 1 << 20,
        buckets: 1,
        scrub_bytes_per_second: u64::MAX,
        scrub_interval: Duration::from_millis(1),
        execution,
        ..Options::new(dir)
    }
}

fn stream(n: usize) -> StreamId {
    StreamId::new(&format!("s{n}")).expect("a stream id")
}

async fn append(database: &Database, n: usize) {
    let name = EventName::new("Happened").expect("a name");
    let event = NewEvent::new(stream(n), name).payload(vec![n as u8; 100_000]);
    let transaction = Transaction::single(event).expect("ok");
    database.append(transaction).await.expect("appends");
}

/// Four full segments and one that grows; all four sealed. Opened again, so that reads find
/// nothing in memory.
async fn filled(dir: &Path, execution: Execution) -> Database {
    let database = Database::open_with(options(dir, execution)).await.expect("opens");
    for n in 0..45 {
        append(&database, n).await;
    }
    until(&database, |status| status.buckets[0].sealed_segments == 4).await;
    database.close().await;
    drop(database);
    Database::open_with(options(dir, execution)).await.expect("opens again")
}

async fn until(database: &Database, holds: impl Fn(&Status) -> bool) -> Status {
    for _ in 0..60_000 {
        let status = database.status();
        if holds(&status) {
            return status;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    panic!("it never comes to that: {:?}", database.status());
}

async fn another_round(database: &Database) -> Status {
    let before = database.status().scrub.rounds;
    // The round at hand may have passed the place already.
    until(database, |status| status.scrub.rounds >= before + 2).await
}

fn flip(path: &Path, offset: usize) {
    let mut bytes = std::fs::read(path).expect("there");
    bytes[offset] ^= 1;
    // In place: the database has the file open.
    use std::os::unix::fs::FileExt as _;
    let file = std::fs::OpenOptions::new().write(true).open(path).expect("opens");
    file.write_all_at(&bytes[offset..=offset], offset as u64).expect("writes");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sound_database_stays_healthy_and_rounds_complete() {
    for execution in [Execution::Threads, Execution::Inline] {
        let dir = tempfile::tempdir().expect("dir");
        let database = filled(dir.path(), execution).await;
        let status = another_round(&database).await;
        assert!(status.degraded().is_empty(), "{:?}", status.degraded());
        assert!(status.scrub.bytes > 4 << 20, "{:?}", status.scrub);
        assert!(status.scrub.last_round_unix_seconds.is_some());
        database.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_byte_degrades_health_by_name_and_everything_else_goes_on() {
    let dir = tempfile::tempdir().expect("dir");
    let database = filled(dir.path(), Execution::Threads).await;
    let file = |name: &str| -> PathBuf { dir.path().join("bucket-000").join(name) };
    let segment = file("000000000002.segment");
    // In the payload of the segment's second event.
    flip(&segment, 4096 + 150_000);
    flip(&file("000000000001.index"), 4096 + 7);
    let status = until(&database, |status| status.buckets[0].damaged.len() == 2).await;
    assert!(status.is_ready());
    let degraded = status.degraded();
    assert_eq!(degraded.len(), 2, "{degraded:?}");
    assert!(degraded[0].contains("000000000001.index at byte 4096: "), "{degraded:?}");
    assert!(degraded[1].contains(&format!("{} at byte ", segment.display())), "{degraded:?}");
    assert!(degraded[1].contains("not a frame"), "{degraded:?}");

    // The damaged event is an error; all others are read; appends go on, and so does the scrub.
    let mut failed = 0;
    for n in 0..45 {
        let read = database.read_stream(ReadStream::all(stream(n))).await;
        failed += usize::from(read.is_err());
    }
    assert!((1..45).contains(&failed), "{failed}");
    for n in 45..80 {
        append(&database, n).await;
        let page = database.read_stream(ReadStream::all(stream(n))).await.expect("reads");
        assert_eq!(page.events.len(), 1);
    }
    let status = another_round(&database).await;
    assert_eq!(status.buckets[0].damaged.len(), 2);

    // What is right again is forgotten after a round.
    flip(&segment, 4096 + 150_000);
    flip(&file("000000000001.index"), 4096 + 7);
    let status = until(&database, |status| status.buckets[0].damaged.is_empty()).await;
    assert!(status.degraded().is_empty());
    database.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_can_be_turned_off() {
    let dir = tempfile::tempdir().expect("dir");
    let options = Options { scrub_bytes_per_second: 0, ..options(dir.path(), Execution::Threads) };
    let database = Database::open_with(options).await.expect("opens");
    append(&database, 1).await;
    let scrub = database.status().scrub;
    assert_eq!((scrub.bytes, scrub.rounds), (0, 0));
    database.close().await;
}
