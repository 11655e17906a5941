//! Bytes that are not requests, and clients that misbehave, neither kill nor block the server.

use std::time::Duration;

use actadb::fault_injection::Part;
use actadb::model::ids::PartitionId;
use actadb_server::server::Server;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::settings;

async fn open(server: &Server) -> TcpStream {
    TcpStream::connect(server.client_address()).await.expect("connects")
}

/// Everything the server says until it closes.
async fn until_closed(stream: &mut TcpStream) -> String {
    let mut said = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut said)).await;
    let _ = read.expect("the server closes");
    String::from_utf8_lossy(&said).into_owned()
}

async fn exactly(stream: &mut TcpStream, bytes: usize) -> Vec<u8> {
    let mut said = vec![0; bytes];
    let read = tokio::time::timeout(Duration::from_secs(20), stream.read_exact(&mut said)).await;
    read.expect("in time").expect("said");
    said
}

async fn still_serves(server: &Server) {
    let mut stream = open(server).await;
    stream.write_all(b"PING\r\n").await.expect("written");
    assert_eq!(exactly(&mut stream, 7).await, b"+PONG\r\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_requests_are_told_and_closed() {
    let dir = tempfile::tempdir().expect("dir");
    let server = Server::start(settings(dir.path())).await.expect("starts");
    let nested = "*1\r\n".repeat(1200);
    for (sent, wanted) in [
        ("*1\r\n:5\r\n", "-ERR Protocol error: expected '$', got ':'\r\n"),
        (nested.as_str(), "-ERR Protocol error: expected '$', got '*'\r\n"),
        ("*99999999\r\n", "-ERR Protocol error: invalid multibulk length\r\n"),
        ("*x\r\n", "-ERR Protocol error: invalid multibulk length\r\n"),
        ("*1\r\n$536870912\r\n", "-ERR Protocol error: invalid bulk length\r\n"),
        ("*1\r\n$-1\r\n", "-ERR Protocol error: invalid bulk length\r\n"),
        ("ECHO \"a\r\n", "-ERR Protocol error: unbalanced quotes in request\r\n"),
    ] {
        let mut stream = open(&server).await;
        stream.write_all(sent.as_bytes()).await.expect("written");
        assert_eq!(until_closed(&mut stream).await, wanted);
    }
    let mut stream = open(&server).await;
    let long = vec![b'x'; 70_000];
    stream.write_all(&long).await.expect("written");
    assert!(until_closed(&mut stream).await.contains("too big inline request"));
    // What came before the mistake is answered.
    let mut stream = open(&server).await;
    stream.write_all(b"PING\r\n*1\r\n:5\r\n").await.expect("written");
    assert!(until_closed(&mut stream).await.starts_with("+PONG\r\n-ERR Protocol error"));
    still_serves(&server).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_arrive_one_byte_at_a_time_and_half_a_request_frees_its_connection() {
    let dir = tempfile::tempdir().expect("dir");
    let server = Server::start(settings(dir.path())).await.expect("starts");
    let mut stream = open(&server).await;
    for byte in b"*2\r\n$4\r\nECHO\r\n$5\r\na\r\nb!\r\n" {
        stream.write_all(&[*byte]).await.expect("written");
        stream.flush().await.expect("flushed");
    }
    assert_eq!(exactly(&mut stream, 11).await, b"$5\r\na\r\nb!\r\n");
    stream.write_all(b"*3\r\n$7\r\nEAPPEND\r\n$100000\r\nhalf").await.expect("written");
    drop(stream);
    still_serves(&server).await;
    // A client that shuts its side down after its last command gets the answers.
    let mut stream = open(&server).await;
    stream.write_all(b"PING\r\nECHO bye\r\n").await.expect("written");
    stream.shutdown().await.expect("half closed");
    assert_eq!(until_closed(&mut stream).await, "+PONG\r\n$3\r\nbye\r\n");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_thousand_commands_in_one_pipeline_are_answered() {
    let dir = tempfile::tempdir().expect("dir");
    let server = Server::start(settings(dir.path())).await.expect("starts");
    let stream = open(&server).await;
    let (mut reader, mut writer) = stream.into_split();
    let writing = tokio::spawn(async move {
        writer.write_all("PING\r\n".repeat(100_000).as_bytes()).await.expect("written");
        writer
    });
    let mut said = vec![0; 700_000];
    tokio::time::timeout(Duration::from_secs(60), reader.read_exact(&mut said))
        .await
        .expect("in time")
        .expect("said");
    assert!(said.chunks(7).all(|reply| reply == b"+PONG\r\n"));
    drop(writing.await.expect("written"));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_connections_are_told_so() {
    let dir = tempfile::tempdir().expect("dir");
    let mut settings = settings(dir.path());
    settings.network.max_clients = 2;
    let server = Server::start(settings).await.expect("starts");
    let mut held = Vec::new();
    for _ in 0..2 {
        let mut stream = open(&server).await;
        stream.write_all(b"PING\r\n").await.expect("written");
        exactly(&mut stream, 7).await;
        held.push(stream);
    }
    let mut third = open(&server).await;
    assert_eq!(until_closed(&mut third).await, "-ERR max number of clients reached\r\n");
    drop(held);
    // Their places come back.
    for attempt in 0.. {
        let mut stream = open(&server).await;
        stream.write_all(b"PING\r\n").await.expect("written");
        let mut said = [0; 7];
        if stream.read_exact(&mut said).await.is_ok() && &said == b"+PONG\r\n" {
            break;
        }
        assert!(attempt < 500, "the places never came back");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn before_the_password_a_client_may_send_little() {
    let dir = tempfile::tempdir().expect("dir");
    let mut settings = settings(dir.path());
    settings.auth.password = "sesame".into();
    let server = Server::start(settings).await.expect("starts");
    let mut stream = open(&server).await;
    stream.write_all(b"*17\r\n").await.expect("written");
    let said = until_closed(&mut stream).await;
    assert_eq!(said, "-ERR Protocol error: unauthenticated multibulk length\r\n");
    let mut stream = open(&server).await;
    stream.write_all(b"*2\r\n$4\r\nAUTH\r\n$5000\r\n").await.expect("written");
    let said = until_closed(&mut stream).await;
    assert_eq!(said, "-ERR Protocol error: unauthenticated bulk length\r\n");
    // Behind an AUTH in the same packet the limits are the usual ones.
    let mut stream = open(&server).await;
    let echo = format!("AUTH sesame\r\n*2\r\n$4\r\nECHO\r\n$5000\r\n{}\r\n", "x".repeat(5000));
    stream.write_all(echo.as_bytes()).await.expect("written");
    assert!(exactly(&mut stream, 5 + 7 + 5002).await.starts_with(b"+OK\r\n$5000\r\nxxx"));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_inside_is_answered_named_by_health_and_spreads_nowhere() {
    let dir = tempfile::tempdir().expect("dir");
    let server = Server::start(settings(dir.path())).await.expect("starts");
    // Stream `s` lies in partition 12, bucket 0 of 4.
    let mut stream = open(&server).await;
    stream.write_all(b"EAPPEND s A\r\n").await.expect("written");
    let mut said = vec![0; 4096];
    let n = stream.read(&mut said).await.expect("said");
    assert!(said[..n].starts_with(b"*12\r\n"));
    server.database().inject_panic(Part::WriterThread(PartitionId(12))).await;
    stream.write_all(b"EAPPEND s A\r\n").await.expect("written");
    let n = tokio::time::timeout(Duration::from_secs(1), stream.read(&mut said))
        .await
        .expect("an answer within a second")
        .expect("said");
    let answer = String::from_utf8_lossy(&said[..n]).into_owned();
    assert!(answer.starts_with("-UNCERTAIN") || answer.starts_with("-READONLY"), "{answer}");
    stream.write_all(b"ESVER s\r\n").await.expect("written");
    let n = stream.read(&mut said).await.expect("said");
    assert!(said[..n].starts_with(b":"), "reads go on");
    // `t` lies in another bucket.
    stream.write_all(b"EAPPEND other-stream A\r\n").await.expect("written");
    let n = stream.read(&mut said).await.expect("said");
    assert!(said[..n].starts_with(b"*12\r\n"), "{}", String::from_utf8_lossy(&said[..n]));

    let admin = server.admin_address().expect("admin");
    let mut http = TcpStream::connect(admin).await.expect("connects");
    http.write_all(b"GET /health/ready HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        .await
        .expect("written");
    let health = until_closed(&mut http).await;
    assert!(health.starts_with("HTTP/1.1 200") && health.contains("bucket 0"), "{health}");
    let mut http = TcpStream::connect(admin).await.expect("connects");
    http.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        .await
        .expect("written");
    let metrics = until_closed(&mut http).await;
    for name in [
        "actadb_closed_buckets{bucket=\"0\",reason=\"panicked\"} 1",
        "actadb_appends_total{bucket=\"0\"}",
        "actadb_fsync_seconds_bucket",
        "actadb_commit_events_count",
        "actadb_held_answers",
        "actadb_permit_bytes_in_use",
        "actadb_connections",
        "actadb_damaged_places{bucket=\"0\"} 0",
        "actadb_scrubbed_bytes_total",
        "actadb_scrub_rounds_total",
    ] {
        assert!(metrics.contains(name), "{name} is missing in {metrics}");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_writes_everything_before_it_reads_is_served() {
    const COMMANDS: usize = 60_000;
    let dir = tempfile::tempdir().expect("dir");
    let server = Server::start(settings(dir.path())).await.expect("starts");
    let mut stream = open(&server).await;
    // 9 MB of requests and 20 MB of replies: far more than sockets hold.
    let echo = format!("*2\r\n$4\r\nECHO\r\n$330\r\n{}\r\n", "x".repeat(330));
    let all = echo.repeat(COMMANDS);
    let sent = tokio::time::timeout(Duration::from_secs(60), stream.write_all(all.as_bytes()));
    sent.await.expect("the server reads on while it cannot write").expect("written");
    let said = exactly(&mut stream, COMMANDS * 338).await;
    assert!(said.ends_with(b"xx\r\n"));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hostile_pattern_and_a_flood_of_empty_arguments_harm_nobody() {
    let dir = tempfile::tempdir().expect("dir");
    let mut settings = settings(dir.path());
    settings.network.request_memory_bytes = 1 << 20;
    let server = Server::start(settings).await.expect("starts");
    let mut stream = open(&server).await;
    for pattern in ["*".repeat(100_000), format!("{}z", "*".repeat(200)), "*a".repeat(60)] {
        let request =
            format!("*3\r\n$6\r\nCONFIG\r\n$3\r\nGET\r\n${}\r\n{pattern}\r\n", pattern.len());
        stream.write_all(request.as_bytes()).await.expect("written");
        assert_eq!(exactly(&mut stream, 4).await, b"*0\r\n");
    }
    // Empty arguments are not free.
    let mut flood = open(&server).await;
    let empty = format!("*1000000\r\n{}", "$0\r\n\r\n".repeat(100_000));
    let _ = flood.write_all(empty.as_bytes()).await;
    let said = until_closed(&mut flood).await;
    assert!(said.contains("too many bytes of requests") || said.is_empty(), "{said}");
    still_serves(&server).await;
    server.stop().await;
}
