//! A client on the simulated network. Whatever goes wrong, it says so, and is thrown away.

use std::time::Duration;

use actadb_server::wire_client::{Decoder, Value, WireEvent, put_command};
use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{sleep, timeout};
use turmoil::net::TcpStream;

use super::{APPEND_TIMEOUT, CLIENT_PORT, NODES, host};

/// How long an answer may take: longer than the server gives an append.
const PATIENCE: Duration = Duration::from_secs(APPEND_TIMEOUT.as_secs() + 2);
const CONNECT_PATIENCE: Duration = Duration::from_secs(1);

pub(super) struct Client {
    stream: TcpStream,
    decoder: Decoder,
}

impl Client {
    pub(super) async fn connect(node: usize) -> Result<Self, String> {
        let node = node % NODES;
        let connect = TcpStream::connect((host(node), CLIENT_PORT));
        let stream = timeout(CONNECT_PATIENCE, connect).await.map_err(|_| "no connection")?;
        let stream = stream.map_err(|error| error.to_string())?;
        let mut client = Self { stream, decoder: Decoder::default() };
        client.call(&["HELLO", "3"]).await?;
        Ok(client)
    }

    /// A connection to this node and no other.
    pub(super) async fn patiently(node: usize) -> Self {
        loop {
            match Self::connect(node).await {
                Ok(client) => return client,
                Err(_) => sleep(Duration::from_millis(100)).await,
            }
        }
    }

    pub(super) async fn call(&mut self, words: &[&str]) -> Result<Value, String> {
        self.send(words).await?;
        match self.next(PATIENCE).await? {
            Value::Error(words) => Err(words),
            value => Ok(value),
        }
    }

    pub(super) async fn send(&mut self, words: &[&str]) -> Result<(), String> {
        let words: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
        let mut out = BytesMut::new();
        put_command(&mut out, &words);
        self.stream.write_all(&out).await.map_err(|error| error.to_string())
    }

    /// The next reply or push.
    pub(super) async fn next(&mut self, patience: Duration) -> Result<Value, String> {
        let next = async {
            loop {
                if let Some(value) = self.decoder.next_value().map_err(|e| e.to_string())? {
                    return Ok(value);
                }
                let read = self.stream.read_buf(self.decoder.buffer()).await;
                if read.map_err(|error| error.to_string())? == 0 {
                    return Err("closed".to_owned());
                }
            }
        };
        timeout(patience, next).await.unwrap_or_else(|_| Err("silence".into()))
    }

    /// All events of a partition that were acknowledged to anyone.
    pub(super) async fn partition(&mut self, partition: u64) -> Result<Vec<WireEvent>, String> {
        let (partition, mut events) = (partition.to_string(), Vec::new());
        loop {
            let next = events.last().map_or(0, |event: &WireEvent| event.sequence + 1).to_string();
            let scan = ["EPSCAN", &partition, &next, "+", "COUNT", "500", "READ", "LINEARIZABLE"];
            let page = self.call(&scan).await?;
            let Some(Value::Array(found)) = page.get("events") else {
                return Err(format!("no page: {page:?}"));
            };
            let before = events.len();
            events.extend(found.iter().filter_map(WireEvent::from_value));
            if events.len() == before {
                return Ok(events);
            }
        }
    }
}
