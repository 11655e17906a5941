//! `actadb tail` beside a server, over connections that break.

use actadb_server::server::Server;
use redis::aio::MultiplexedConnection;
use redis::{Value, cmd};
use serde_json::Value as Json;

use crate::running::{Proxy, Tool};
use crate::support::{actadb, connect, settings};

async fn append(connection: &mut MultiplexedConnection, stream: &str, payload: &str) {
    let mut append = cmd("EAPPEND");
    append.arg(stream).arg(format!("Of-{stream}")).arg("PAYLOAD").arg(payload);
    let _: Value = append.query_async(connection).await.expect("appends");
}

fn payload(line: &str) -> String {
    let line: Json = serde_json::from_str(line).expect("JSON");
    line["payload"].as_str().expect("text").to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn history_is_printed_in_order_and_ends_with_the_count() {
    let dir = tempfile::tempdir().expect("dir");
    let server = Server::start(settings(dir.path())).await.expect("starts");
    let address = server.client_address().to_string();
    let mut connection = connect(&server, 3).await;
    for n in 0..5 {
        append(&mut connection, "s", &format!("{{\"n\":{n}}}")).await;
        append(&mut connection, "t", &n.to_string()).await;
    }
    let run = |more: &[&str]| actadb(&[&["tail", "--address", &address], more].concat());
    let (exit, stdout, _) = run(&["--stream", "s", "--from", "1", "--count", "4", "--json"]);
    assert_eq!(exit, 0);
    let payloads: Vec<_> = stdout.lines().map(payload).collect();
    assert_eq!(payloads, [1, 2, 3, 4].map(|n| format!("{{\"n\":{n}}}")));
    let (exit, stdout, _) = run(&["--from", "start", "--count", "10", "--json"]);
    assert_eq!((exit, stdout.lines().count()), (0, 10));
    let (exit, stdout, _) =
        run(&["--from", "start", "--count", "5", "--json", "--prefix", "t", "--names", "x,Of-t"]);
    assert_eq!(exit, 0);
    assert_eq!(stdout.lines().map(payload).collect::<Vec<_>>(), ["0", "1", "2", "3", "4"]);
    let (exit, stdout, _) = run(&["--stream", "s", "--from", "0", "--count", "1"]);
    assert_eq!(exit, 0);
    assert!(stdout.starts_with("s@0 Of-s  (") && stdout.contains("  \"n\": 0"), "{stdout}");

    for (arguments, words) in [
        (&["--stream", "s", "--from", "9"][..], "FROM 9 is past the end (next is 5)"),
        (&["--partition", "99"], "partition 99 does not exist"),
        (&["--from", "7"], "--from takes a number only with --stream or --partition"),
        (&["--names", ""], "refuses EPSUB: INVALIDARG"),
    ] {
        let (exit, _, stderr) = run(arguments);
        assert_eq!(exit, 1, "{arguments:?}");
        assert!(stderr.contains(words), "{stderr}");
    }
    assert_eq!(run(&["--stream", "s", "--all"]).0, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_connection_skips_and_doubles_nothing() {
    let dir = tempfile::tempdir().expect("dir");
    let server = Server::start(settings(dir.path())).await.expect("starts");
    let mut connection = connect(&server, 3).await;
    for n in 0..20 {
        append(&mut connection, &format!("s{n}"), "before").await;
    }
    let mut proxy = Proxy::start(server.client_address()).await;
    let mut tail = Tool::start(&["tail", "--address", &proxy.address, "--json"]);
    let mut one = Tool::start(&["tail", "--address", &proxy.address, "--json", "--stream", "s1"]);
    assert_eq!(tail.remark(), "following all partitions; Ctrl-C ends");
    assert_eq!(one.remark(), "following stream s1; Ctrl-C ends");
    let mut due = Vec::new();
    for round in 0..3 {
        for n in 0..20 {
            let payload = format!("{round}-{n}");
            append(&mut connection, &format!("s{n}"), &payload).await;
            due.push(payload);
        }
        // Some are printed before the cut; in the last round, all.
        let left = if round < 2 { 10 } else { 0 };
        while due.len() > left {
            let payload = payload(&tail.line());
            let place = due.iter().position(|due| *due == payload);
            due.remove(place.unwrap_or_else(|| panic!("{payload} is not due")));
        }
        if round < 2 {
            proxy.cut().await;
        }
    }
    assert_eq!(["0-1", "1-1", "2-1"].map(String::from), [(); 3].map(|()| payload(&one.line())));
    tail.interrupt();
    let (exit, stdout, stderr) = tail.end();
    assert_eq!((exit, stdout), (0, vec![]), "{stderr:?}");
    assert!(stderr.iter().any(|line| line.contains("trying again")), "{stderr:?}");
    assert_eq!(stderr.last().map(String::as_str), Some("actadb tail: connected again"));
}
