//! `actadb shell` as scripts use it: commands through a pipe. The terminal is tried by hand.

use actadb_server::server::Server;
use redis::{Value, cmd};
use serde_json::{Value as Json, json};

use crate::running::{Proxy, Tool};
use crate::support::{actadb, connect, settings};

fn json(line: &str) -> Json {
    serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_from_a_pipe_are_carried_out_and_failures_are_told() {
    let dir = tempfile::tempdir().expect("dir");
    let server = Server::start(settings(dir.path())).await.expect("starts");
    let address = server.client_address().to_string();
    let mut shell = Tool::start(&["shell", "--address", &address]);
    shell.type_line("# nothing");
    shell.type_line("eappend s Opened PAYLOAD '{\"a\":\"it\\'s\"}' METADATA \"\\x00\\xff\"");
    let reply: Vec<String> = (0..6).map(|_| shell.line()).collect();
    assert!(reply[0].starts_with("event_id:           "), "{reply:?}");
    assert_eq!(reply[4], "stream_version:     0");
    shell.type_line("ESCAN s - +");
    let page: Vec<String> = (0..8).map(|_| shell.line()).collect();
    assert!(page[0].starts_with("s@0 Opened  ("), "{page:?}");
    assert_eq!(page[2], "  metadata  (hex, 2 bytes)");
    assert_eq!(page[3], "            00ff");
    assert_eq!(page[5], "              \"a\": \"it's\"");
    assert_eq!(page[7], "(1 event)");
    shell.type_line("help esver");
    shell.type_line("ESVER none");
    let (exit, stdout, _) = shell.end();
    assert_eq!(exit, 0);
    assert!(stdout.concat().contains("ESVER <stream> [PARTITION_KEY uuid]"), "{stdout:?}");
    assert_eq!(stdout.last().map(String::as_str), Some("(null)"));

    let mut shell = Tool::start(&["shell", "--address", &address]);
    shell.type_line("EAPPEND s Opened EXPECTED_VERSION empty");
    assert!(shell.line().starts_with("(error) WRONGVER current stream version is 0"));
    shell.type_line("PING 'unbalanced");
    assert_eq!(
        shell.line(),
        "(error) ERR unbalanced quotes: put an argument that has quotes in it into '...'"
    );
    shell.type_line("PING");
    assert_eq!(shell.line(), "PONG");
    shell.type_line("exit");
    let (exit, stdout, _) = shell.end();
    assert_eq!((exit, stdout.len()), (1, 0), "a failed command is a failure");
    let (exit, _, stderr) = actadb(&["shell", "--address", "127.0.0.1:1"]);
    assert_eq!(exit, 1);
    assert!(stderr.contains("cannot connect to 127.0.0.1:1"), "{stderr}");
}

#[tokio::test(flavor = "multi_thread")]
async fn json_has_a_line_for_every_reply_and_every_push() {
    let dir = tempfile::tempdir().expect("dir");
    let server = Server::start(settings(dir.path())).await.expect("starts");
    let address = server.client_address().to_string();
    let mut shell = Tool::start(&["shell", "--address", &address, "--json"]);
    shell.type_line("EAPPEND s Opened PAYLOAD \"a\\nb\"");
    let appended = json(&shell.line());
    assert_eq!(appended["stream_version"], 0);
    shell.type_line("EAPPEND s Opened PAYLOAD \"\\xff\"");
    shell.line();
    shell.type_line("ESCAN s - +");
    let page = json(&shell.line());
    assert_eq!(page["has_more"], false);
    assert_eq!(page["events"][0]["payload"], "a\nb");
    assert_eq!(page["events"][0]["event_id"], appended["event_id"]);
    assert_eq!(page["events"][1]["payload_base64"], "/w==");
    shell.type_line("EGET x");
    assert_eq!(json(&shell.line())["code"], "INVALIDARG");
    shell.type_line("ESVER none");
    assert_eq!(json(&shell.line()), Json::Null);
    shell.type_line("INFO partitions");
    assert!(json(&shell.line()).as_str().is_some_and(|text| text.contains("partitions:32")));

    shell.type_line("ESUB s FROM 0 WINDOW 1");
    let id = json(&shell.line());
    let mut connection = connect(&server, 3).await;
    let append = cmd("EAPPEND").arg("s").arg("Live").to_owned();
    let _: Value = append.query_async(&mut connection).await.expect("appends");
    for (cursor, name) in ["Opened", "Opened", "Live"].iter().enumerate() {
        let push = json(&shell.line());
        assert_eq!(push["subscription"], id);
        assert_eq!(push["cursor"], json!(cursor));
        assert_eq!(push["event"]["name"], json!(name));
    }
    server.stop().await;
    assert!(json(&shell.line())["closed"].as_str().is_some_and(|w| w.starts_with("TRYAGAIN")));
    let (exit, _, _) = shell.end();
    assert_eq!(exit, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_connection_is_made_again() {
    let dir = tempfile::tempdir().expect("dir");
    let server = Server::start(settings(dir.path())).await.expect("starts");
    let mut proxy = Proxy::start(server.client_address()).await;
    let mut shell = Tool::start(&["shell", "--address", &proxy.address]);
    shell.type_line("PING");
    assert_eq!(shell.line(), "PONG");
    let mut connection = connect(&server, 3).await;
    shell.type_line("ESCAN s - + BLOCK 0");
    let append = cmd("EAPPEND").arg("s").arg("Awaited").to_owned();
    let _: Value = append.query_async(&mut connection).await.expect("appends");
    assert!(shell.line().starts_with("s@0 Awaited"));
    assert!(shell.line().starts_with("  id "));
    assert_eq!(shell.line(), "(1 event)");
    // While it follows: that is told.
    shell.type_line("ESUB s");
    assert_eq!(shell.line().len(), 36);
    assert_eq!(shell.line(), "(events appear as they arrive; Ctrl-C ends)");
    proxy.cut().await;
    let lost = shell.line();
    assert!(lost.starts_with("(error) ") && lost.contains("connection"), "{lost}");
    shell.type_line("PING");
    assert_eq!(shell.line(), "PONG");
    // While it is idle: the next command goes over a new one.
    proxy.cut().await;
    shell.type_line("PING again");
    assert_eq!(shell.line(), "again");
    assert_eq!(shell.end().0, 1, "one command failed");
}
