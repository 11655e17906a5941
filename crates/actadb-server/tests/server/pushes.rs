//! Pushes and requests that cross on one connection.

use actadb_server::server::Server;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{connect, settings};

/// More than the buffers of a socket hold: the server must wait for its client to read.
const EVENTS: usize = 400;
const PAYLOAD_BYTES: usize = 100 << 10;

async fn read_until(stream: &mut TcpStream, seen: &mut Vec<u8>, end: &[u8]) -> usize {
    let mut total = 0;
    loop {
        if let Some(at) = seen.windows(end.len()).position(|window| window == end) {
            seen.drain(..at + end.len());
            return total;
        }
        seen.drain(..seen.len().saturating_sub(end.len()));
        let read = stream.read_buf(seen).await.expect("reads");
        assert!(read > 0, "the server closed the connection");
        total += read;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_comes_while_pushes_are_written_is_answered() {
    let dir = tempfile::tempdir().expect("dir");
    let server = Server::start(settings(dir.path())).await.expect("starts");
    let mut connection = connect(&server, 3).await;
    let payload = vec![b'x'; PAYLOAD_BYTES];
    let mut pipe = redis::pipe();
    for _ in 0..EVENTS {
        pipe.cmd("EAPPEND").arg("s").arg("N").arg("PAYLOAD").arg(&payload[..]).ignore();
    }
    let () = pipe.query_async(&mut connection).await.expect("appends");

    let mut stream = TcpStream::connect(server.client_address()).await.expect("connects");
    let mut seen = Vec::with_capacity(1 << 20);
    stream.write_all(b"HELLO 3\r\n").await.expect("sends");
    read_until(&mut stream, &mut seen, b"num_partitions\r\n:32\r\n").await;
    stream.write_all(b"ESUB s FROM 0\r\n").await.expect("sends");
    // Several pushes have come: the server is in the middle of writing the others.
    for _ in 0..10 {
        read_until(&mut stream, &mut seen, b"+message\r\n").await;
    }
    stream.write_all(b"PING heard\r\n").await.expect("sends");
    read_until(&mut stream, &mut seen, b"$5\r\nheard\r\n").await;
}
