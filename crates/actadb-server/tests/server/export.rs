//! Export and import: what comes back is what was there, byte for byte.

use std::collections::BTreeMap;
use std::path::Path;

use actadb_server::server::Server;
use redis::aio::MultiplexedConnection;
use redis::{Value, cmd};
use serde_json::Value as Json;

use crate::support::{actadb, connect, field, number, page, settings, text};

const BINARY: &[u8] = b"\x00\xff\"\\\n\xc3\x28 end";

/// All that a stored event is, except the id of its transaction, which the server chooses.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Stored {
    stream: String,
    version: u64,
    name: String,
    payload: Vec<u8>,
    metadata: Vec<u8>,
    event_id: String,
    timestamp: u64,
    partition_key: String,
    sequence: u64,
    /// The sequence of the first event of its transaction.
    with: u64,
}

/// Every event of every partition.
async fn everything(connection: &mut MultiplexedConnection) -> BTreeMap<u16, Vec<Stored>> {
    let mut partitions = BTreeMap::new();
    for partition in 0..32 {
        let reply: Value = cmd("EPSCAN")
            .arg(partition)
            .arg("-")
            .arg("+")
            .arg("COUNT")
            .arg(10_000)
            .query_async(connection)
            .await
            .expect("reads");
        let (events, more) = page(&reply);
        assert!(!more);
        let mut first_of = BTreeMap::new();
        let bytes = |event: &Value, key: &str| match field(event, key) {
            Value::BulkString(bytes) => bytes.clone(),
            other => panic!("{key} is {other:?}"),
        };
        let events = events.iter().map(|event| {
            let sequence = number(event, "partition_sequence");
            Stored {
                stream: text(event, "stream_id"),
                version: number(event, "stream_version"),
                name: text(event, "event_name"),
                payload: bytes(event, "payload"),
                metadata: bytes(event, "metadata"),
                event_id: text(event, "event_id"),
                timestamp: number(event, "timestamp"),
                partition_key: text(event, "partition_key"),
                sequence,
                with: *first_of.entry(text(event, "transaction_id")).or_insert(sequence),
            }
        });
        partitions.insert(partition, events.collect());
    }
    partitions
}

/// Single events and transactions, text and bytes, default and own partition keys, and pages of
/// an export that end inside transactions.
async fn fill(connection: &mut MultiplexedConnection) {
    let own_key = "01890a5d-ac96-774b-bcce-b302099a8057";
    let contents: [&[u8]; 5] =
        [b"", BINARY, b"{\"a\": [1.10, \"\\u00e4\"]}", "text\nä\u{1}".as_bytes(), b"null"];
    let mut pipe = redis::pipe();
    for n in 0..60 {
        let mut append = cmd("EAPPEND");
        append.arg(format!("s{}", n % 7)).arg("Häppened \"x\"");
        append.arg("PAYLOAD").arg(contents[n % 5]).arg("METADATA").arg(contents[n % 3]);
        if n % 4 == 0 {
            append.arg("TIMESTAMP").arg(1_700_000_000_000_u64 + n as u64);
        }
        pipe.add_command(append);
    }
    for _ in 0..3 {
        pipe.cmd("EAPPEND").arg("own").arg("A").arg("PARTITION_KEY").arg(own_key);
    }
    for n in 0..900_usize {
        let append = pipe.cmd("EMAPPEND").arg(own_key);
        for stream in 0..3 {
            append.arg(format!("t{stream}")).arg("B").arg("PAYLOAD").arg(contents[n % 5]);
        }
    }
    let _: Vec<Value> = pipe.query_async(connection).await.expect("appends");
}

fn export(server: &Server, file: &Path, more: &[&str]) -> Json {
    let address = server.client_address().to_string();
    let file = file.to_str().expect("a path");
    let arguments = [&["export", file, "--address", &address, "--json"], more].concat();
    let (exit, stdout, stderr) = actadb(&arguments);
    assert_eq!(exit, 0, "{stderr}");
    serde_json::from_str(&stdout).expect("a summary")
}

fn import(server: &Server, file: &Path) -> Json {
    let address = server.client_address().to_string();
    let file = file.to_str().expect("a path");
    let (exit, stdout, stderr) = actadb(&["import", file, "--address", &address, "--json"]);
    assert_eq!(exit, 0, "{stderr}");
    serde_json::from_str(&stdout).expect("a summary")
}

#[tokio::test(flavor = "multi_thread")]
async fn every_event_comes_back_as_it_was() {
    let dir = tempfile::tempdir().expect("dir");
    let first = Server::start(settings(&dir.path().join("first"))).await.expect("starts");
    let second = Server::start(settings(&dir.path().join("second"))).await.expect("starts");
    let (mut one, mut two) = (connect(&first, 3).await, connect(&second, 3).await);
    fill(&mut one).await;
    let stored = everything(&mut one).await;
    let file = dir.path().join("all.jsonl");
    let summary = export(&first, &file, &[]);
    assert_eq!(summary["events"], 60 + 3 + 900 * 3, "{summary}");
    for _ in 0..2 {
        let summary = import(&second, &file);
        assert_eq!(summary["ids_adjusted"], 0);
        assert_eq!(everything(&mut two).await, stored, "once, and nothing twice");
    }
    // The second one exports the same lines, but for the ids of transactions.
    let again = dir.path().join("again.jsonl");
    export(&second, &again, &[]);
    let lines = |file: &Path| {
        let text = std::fs::read_to_string(file).expect("read");
        let line = |line: &str| {
            let mut line: Json = serde_json::from_str(line).expect("JSON");
            let transaction = line.as_object_mut().expect("an object").remove("transaction");
            (line.to_string(), transaction.is_some())
        };
        let mut lines: Vec<_> = text.lines().map(line).collect();
        lines.sort();
        lines
    };
    assert_eq!(lines(&again), lines(&file));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_or_a_partition_alone() {
    let dir = tempfile::tempdir().expect("dir");
    let server = Server::start(settings(dir.path())).await.expect("starts");
    let mut connection = connect(&server, 3).await;
    fill(&mut connection).await;
    let file = dir.path().join("some.jsonl");
    let streams = |file: &Path| {
        let text = std::fs::read_to_string(file).expect("read");
        let line = |line: &str| serde_json::from_str::<Json>(line).expect("JSON");
        text.lines().map(|l| line(l)["stream"].as_str().expect("text").to_owned()).collect()
    };
    export(&server, &file, &["--stream", "s3"]);
    let found: Vec<String> = streams(&file);
    assert!(found.len() == 9 && found.iter().all(|stream| stream == "s3"), "{found:?}");
    let key = "01890a5d-ac96-774b-bcce-b302099a8057";
    export(&server, &file, &["--stream", "own", "--partition-key", key]);
    assert_eq!(streams(&file).len(), 3);
    export(&server, &file, &["--partition", key]);
    assert!(streams(&file).len() >= 2703);
    export(&server, &file, &["--stream", "nobody"]);
    assert_eq!(streams(&file).len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fails_leaves_no_file_and_says_why() {
    let dir = tempfile::tempdir().expect("dir");
    let server = Server::start(settings(dir.path())).await.expect("starts");
    let address = server.client_address().to_string();
    let file = dir.path().join("x.jsonl");
    let path = file.to_str().expect("a path");
    let (exit, _, stderr) = actadb(&["export", path, "--address", &address, "--partition", "99"]);
    assert_eq!(exit, 1);
    assert!(stderr.contains("partition 99 does not exist"), "{stderr}");
    let (exit, _, stderr) = actadb(&["export", path, "--address", "127.0.0.1:1"]);
    assert_eq!(exit, 1);
    assert!(stderr.contains("cannot connect to 127.0.0.1:1"), "{stderr}");
    let nowhere = dir.path().join("none/x");
    let nowhere = nowhere.to_str().expect("a path");
    let (exit, _, stderr) = actadb(&["export", nowhere, "--address", &address]);
    assert_eq!(exit, 1);
    assert!(stderr.contains("cannot write"), "{stderr}");
    let names = std::fs::read_dir(dir.path()).expect("read").flatten().map(|e| e.file_name());
    assert_eq!(names.collect::<Vec<_>>(), ["data"]);
}
