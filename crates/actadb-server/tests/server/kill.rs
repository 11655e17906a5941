//! kill -9 of the real binary under load: every acknowledged event is there, in order, once.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use redis::{Value, cmd};

use crate::support::{Process, actadb, connect_to, number, page, text};

const ROUNDS: usize = 20;
const WRITERS: usize = 4;

/// What one writer knows: acknowledged (version, payload) of its stream.
type Known = Vec<(u64, String)>;

async fn write(address: String, writer: usize, round: usize, stop: Arc<AtomicBool>) -> Known {
    let mut known = Known::new();
    let mut connection = connect_to(&format!("redis://{address}/?protocol=3")).await;
    for n in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let payload = format!("{round}.{writer}.{n} {}", "x".repeat(900));
        let mut append = cmd("EAPPEND");
        append.arg(format!("writer-{writer}")).arg("A").arg("PAYLOAD").arg(&payload);
        match append.query_async::<Value>(&mut connection).await {
            Ok(reply) => known.push((number(&reply, "stream_version"), payload)),
            Err(_) => break,
        }
    }
    known
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_9_under_load_loses_and_doubles_nothing() {
    let dir = tempfile::tempdir().expect("dir");
    let data = dir.path().join("data");
    let small = [("ACTADB_SEGMENT__SIZE_BYTES", "1048576"), ("ACTADB_BUCKET__COUNT", "2")];
    let mut known: BTreeMap<usize, Known> = BTreeMap::new();
    for round in 0..ROUNDS {
        let server = Process::start_with(&data, &small);
        let stop = Arc::new(AtomicBool::new(false));
        let writers: Vec<_> = (0..WRITERS)
            .map(|w| tokio::spawn(write(server.address.clone(), w, round, stop.clone())))
            .collect();
        tokio::time::sleep(Duration::from_millis(60 + 37 * (round as u64 % 5))).await;
        server.kill();
        stop.store(true, Ordering::Relaxed);
        for (w, writer) in writers.into_iter().enumerate() {
            known.entry(w).or_default().extend(writer.await.expect("a writer ends"));
        }
    }
    let server = Process::start_with(&data, &small);
    let mut connection = connect_to(&format!("redis://{}/?protocol=3", server.address)).await;
    let mut acknowledged = 0;
    for (writer, known) in &known {
        let mut events = Vec::new();
        loop {
            let mut scan = cmd("ESCAN");
            scan.arg(format!("writer-{writer}")).arg(events.len()).arg("+").arg("COUNT").arg(5000);
            let reply: Value = scan.query_async(&mut connection).await.expect("reads");
            let (found, more) = page(&reply);
            events.extend(found);
            if !more {
                break;
            }
        }
        let payloads: Vec<String> = events.iter().map(|event| text(event, "payload")).collect();
        for (position, event) in events.iter().enumerate() {
            assert_eq!(number(event, "stream_version"), position as u64, "a gap");
        }
        let mut unique = payloads.clone();
        unique.sort();
        unique.dedup();
        assert_eq!(unique.len(), payloads.len(), "an event is there twice");
        for (version, payload) in known {
            assert_eq!(
                payloads.get(*version as usize),
                Some(payload),
                "acknowledged and not there"
            );
        }
        acknowledged += known.len();
    }
    assert!(acknowledged > 50 * ROUNDS, "only {acknowledged} appends in {ROUNDS} rounds");
    assert!(server.terminate(), "SIGTERM ends it with success");
    let (exit, stdout, _) = actadb(&["check", "--dir", data.to_str().expect("a path"), "--json"]);
    assert_eq!(exit, 0, "{stdout}");
    let report: serde_json::Value = serde_json::from_str(&stdout).expect("JSON");
    assert!(report["segments"].as_u64().expect("a number") > 2, "segments rolled: {report}");
    assert!(report["events"].as_u64().expect("a number") >= acknowledged as u64);
}
