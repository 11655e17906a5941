//! Real input: a history of commits is imported, read back event by event, and imported again.

use serde_json::Value as Json;

use crate::support::{Process, actadb, connect_to, number, page, text};

const SAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/commits.jsonl");

fn import(address: &str, file: &str) -> (i32, Json, String) {
    let (exit, stdout, stderr) = actadb(&["import", file, "--address", address, "--json"]);
    (exit, serde_json::from_str(&stdout).unwrap_or(Json::Null), stderr)
}

#[tokio::test(flavor = "multi_thread")]
async fn five_hundred_commits_are_read_back_and_nothing_doubles() {
    let dir = tempfile::tempdir().expect("dir");
    let server = Process::start(&dir.path().join("data"));
    let lines: Vec<Json> = std::fs::read_to_string(SAMPLE)
        .expect("the sample")
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    assert_eq!(lines.len(), 500);
    for round in 0..2 {
        let (exit, summary, stderr) = import(&server.address, SAMPLE);
        assert_eq!(exit, 0, "round {round}: {stderr}");
        assert_eq!(summary["lines"], 500, "{summary}");
    }
    let mut connection = connect_to(&format!("redis://{}/", server.address)).await;
    let mut streams: Vec<&str> =
        lines.iter().map(|line| line["stream"].as_str().expect("text")).collect();
    streams.sort_unstable();
    streams.dedup();
    for stream in streams {
        let wanted: Vec<&Json> = lines.iter().filter(|line| line["stream"] == stream).collect();
        let mut scan = redis::cmd("ESCAN");
        scan.arg(stream).arg("-").arg("+").arg("COUNT").arg(10_000);
        let reply = scan.query_async(&mut connection).await.expect("reads");
        let (events, _) = page(&reply);
        assert_eq!(events.len(), wanted.len(), "{stream}");
        for (position, (event, line)) in events.iter().zip(wanted).enumerate() {
            assert_eq!(number(event, "stream_version"), position as u64);
            assert_eq!(text(event, "event_name"), line["name"]);
            assert_eq!(number(event, "timestamp"), line["timestamp"]);
            let payload: Json = serde_json::from_str(&text(event, "payload")).expect("JSON");
            assert_eq!(payload, line["payload"]);
            let metadata = text(event, "metadata");
            match line.get("metadata") {
                None => assert_eq!(metadata, ""),
                Some(wanted) => {
                    let found: Json = serde_json::from_str(&metadata).expect("JSON");
                    assert_eq!(&found, wanted);
                }
            }
        }
    }
    let size: u64 = redis::cmd("DBSIZE").query_async(&mut connection).await.expect("reads");
    assert_eq!(size, 500);
    assert!(server.terminate());
}

#[test]
fn ids_without_the_hash_get_it_and_bad_lines_are_named() {
    let dir = tempfile::tempdir().expect("dir");
    let server = Process::start(&dir.path().join("data"));
    let file = dir.path().join("input.jsonl");
    let path = file.to_str().expect("a path");
    let id = "11111111-2222-4333-8444-555555555555";
    let line =
        format!("{{\"stream\":\"s\",\"name\":\"A\",\"payload\":\"x\",\"event_id\":\"{id}\"}}\n");
    std::fs::write(&file, &line).expect("written");
    for _ in 0..2 {
        let (exit, summary, stderr) = import(&server.address, path);
        assert_eq!(exit, 0, "{stderr}");
        assert_eq!(summary["ids_adjusted"], 1, "{summary}");
    }
    // Two equal lines are two events, however often they are imported.
    let equal = "{\"stream\":\"t\",\"name\":\"A\",\"payload\":{\"n\":1}}\n".repeat(2);
    std::fs::write(&file, equal).expect("written");
    for _ in 0..2 {
        assert_eq!(import(&server.address, path).0, 0);
    }
    std::fs::write(&file, "{\"stream\":\"u\",\"name\":\"A\",\"payload\":1}\n{\"stream\":\"u\"}\n")
        .expect("written");
    let (exit, _, stderr) = import(&server.address, path);
    assert_eq!(exit, 1);
    assert!(stderr.contains("line 2"), "{stderr}");
    assert!(server.terminate());
    let data = dir.path().join("data");
    let (exit, stdout, _) = actadb(&["check", "--dir", data.to_str().expect("a path"), "--json"]);
    assert_eq!(exit, 0);
    let report: Json = serde_json::from_str(&stdout).expect("JSON");
    // One, two, and what came before the bad line.
    assert_eq!(report["events"], 4, "{report}");
}
