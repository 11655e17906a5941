//! A small RESP client for our own tools: pipelines, both protocols' replies, few allocations.

mod decoder;
mod event;
mod lexer;

pub use decoder::{Decoder, Skimmed, Value};
pub use event::{WireEvent, base64};
pub use lexer::BadReply;

use std::io;
use std::time::Duration;

use bytes::{BufMut, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// How long connecting and the first answer may take.
const CONNECT_PATIENCE: Duration = Duration::from_secs(10);
/// Room made for every read, in bytes.
const READ_BYTES: usize = 16 << 10;

/// Why a tool could not talk to a server.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No connection could be made.
    #[error(
        "cannot connect to {address}: {source}; check that the server runs and that --address \
         (host:port) is right"
    )]
    Connect {
        /// The address tried.
        address: String,
        /// What the system said.
        source: io::Error,
    },
    /// Nobody answered the greeting.
    #[error(
        "{address} does not answer within {} s; check that it is an ActaDB server and not \
         overloaded",
        CONNECT_PATIENCE.as_secs()
    )]
    Silent {
        /// The address tried.
        address: String,
    },
    /// The server refused the greeting.
    #[error("{address} refuses the connection: {text}; {}", advice(.text))]
    Refused {
        /// The address.
        address: String,
        /// The server's words.
        text: String,
    },
    /// The connection broke.
    #[error("lost the connection to {address}: {source}; see the server's log, then try again")]
    Lost {
        /// The address.
        address: String,
        /// What the system said.
        source: io::Error,
    },
    /// The server closed the connection.
    #[error("{address} closed the connection; see the server's log, then try again")]
    Closed {
        /// The address.
        address: String,
    },
    /// What arrived is not RESP.
    #[error("{address} sent what is not RESP: {source}; check that it is an ActaDB server")]
    NotResp {
        /// The address.
        address: String,
        /// What was wrong.
        source: BadReply,
    },
}

fn advice(text: &str) -> &'static str {
    match text.split(' ').next() {
        Some("NOAUTH" | "WRONGPASS") => "give the server's password with --password",
        Some("NOPROTO") => "the server must speak RESP3 (HELLO 3)",
        _ => "see the server's log",
    }
}

/// A connection to a server that speaks RESP.
///
/// Commands are queued and sent together; replies come in the order of the commands. Reading and
/// writing go on side by side in every call that waits, so a pipeline of any size cannot block
/// itself.
#[derive(Debug)]
pub struct WireClient {
    address: String,
    stream: TcpStream,
    out: BytesMut,
    decoder: Decoder,
}

impl WireClient {
    /// Connects to `address` (`host:port`) and agrees on RESP3, with the password of the user
    /// `default` if there is one.
    ///
    /// # Errors
    /// When there is no connection, no answer within ten seconds, or a refusal.
    pub async fn connect(address: &str, password: Option<&str>) -> Result<Self, ClientError> {
        let greeted = tokio::time::timeout(CONNECT_PATIENCE, Self::greet(address, password)).await;
        greeted.unwrap_or_else(|_| Err(ClientError::Silent { address: address.into() }))
    }

    async fn greet(address: &str, password: Option<&str>) -> Result<Self, ClientError> {
        let connect_error = |source| ClientError::Connect { address: address.into(), source };
        let stream = TcpStream::connect(address).await.map_err(connect_error)?;
        stream.set_nodelay(true).map_err(connect_error)?;
        let address = address.to_owned();
        let mut client =
            Self { address, stream, out: BytesMut::new(), decoder: Decoder::default() };
        let hello: &[&[u8]] = match password {
            Some(password) => &[b"HELLO", b"3", b"AUTH", b"default", password.as_bytes()],
            None => &[b"HELLO", b"3"],
        };
        match client.call(hello).await? {
            Value::Error(text) => Err(ClientError::Refused { address: client.address, text }),
            _ => Ok(client),
        }
    }

    /// The address it is connected to, as it was given.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Queues one command.
    pub fn queue(&mut self, arguments: &[&[u8]]) {
        put_command(&mut self.out, arguments);
    }

    /// The buffer of queued bytes, for commands that are encoded elsewhere.
    pub fn out(&mut self) -> &mut BytesMut {
        &mut self.out
    }

    /// Sends all that is queued.
    ///
    /// # Errors
    /// When the connection is lost.
    pub async fn flush(&mut self) -> Result<(), ClientError> {
        while !self.out.is_empty() {
            self.exchange().await?;
        }
        Ok(())
    }

    /// The next value that the server sends, pushes included. Sends what is queued meanwhile.
    ///
    /// # Errors
    /// When the connection is lost or the bytes are not RESP.
    pub async fn reply(&mut self) -> Result<Value, ClientError> {
        loop {
            if let Some(value) = self.try_reply()? {
                return Ok(value);
            }
            self.exchange().await?;
        }
    }

    /// Sends one command and returns its reply, which may be a [`Value::Error`]. Drops pushes
    /// that arrive before it: a connection with subscriptions uses [`queue`](Self::queue) and
    /// [`reply`](Self::reply).
    ///
    /// # Errors
    /// When the connection is lost or the bytes are not RESP.
    pub async fn call(&mut self, arguments: &[&[u8]]) -> Result<Value, ClientError> {
        self.queue(arguments);
        self.flush().await?;
        loop {
            match self.reply().await? {
                Value::Push(_) => {}
                value => return Ok(value),
            }
        }
    }

    /// The next value, if it has arrived.
    ///
    /// # Errors
    /// When the bytes are not RESP.
    pub fn try_reply(&mut self) -> Result<Option<Value>, ClientError> {
        let value = self.decoder.next_value();
        value.map_err(|source| ClientError::NotResp { address: self.address.clone(), source })
    }

    /// Walks over the next reply, if it has arrived, without building it; pushes are passed over.
    /// Not to be mixed with [`try_reply`](Self::try_reply) inside one reply.
    ///
    /// # Errors
    /// When the bytes are not RESP.
    pub fn try_skim(&mut self) -> Result<Option<Skimmed>, ClientError> {
        let skimmed = self.decoder.skim();
        skimmed.map_err(|source| ClientError::NotResp { address: self.address.clone(), source })
    }

    /// As [`try_skim`](Self::try_skim), pushes included.
    ///
    /// # Errors
    /// When the bytes are not RESP.
    pub fn try_skim_any(&mut self) -> Result<Option<Skimmed>, ClientError> {
        let skimmed = self.decoder.skim_any();
        skimmed.map_err(|source| ClientError::NotResp { address: self.address.clone(), source })
    }

    /// Writes some of what is queued or reads some of what has arrived, whichever is possible
    /// first. Nothing is lost when the future is dropped.
    ///
    /// # Errors
    /// When the connection is lost.
    pub async fn exchange(&mut self) -> Result<(), ClientError> {
        let (mut reader, mut writer) = self.stream.split();
        let wanted = self.decoder.wants().max(READ_BYTES);
        let buffer = self.decoder.buffer();
        buffer.reserve(wanted);
        let moved = tokio::select! {
            biased;
            written = writer.write_buf(&mut self.out), if !self.out.is_empty() => written,
            read = reader.read_buf(buffer) => read,
        };
        match moved {
            Ok(0) => Err(ClientError::Closed { address: self.address.clone() }),
            Ok(_) => Ok(()),
            Err(source) => Err(ClientError::Lost { address: self.address.clone(), source }),
        }
    }

    /// Looks whether the connection still stands, without waiting. A connection that is idle for
    /// long is best asked before a command is sent that must not be sent twice.
    ///
    /// # Errors
    /// When the connection is lost, as far as this side has heard.
    pub async fn check(&mut self) -> Result<(), ClientError> {
        // Lets the runtime hear what the system knows.
        tokio::task::yield_now().await;
        tokio::select! {
            biased;
            moved = self.exchange() => moved,
            () = std::future::ready(()) => Ok(()),
        }
    }
}

/// Appends the bytes of one command.
pub fn put_command(out: &mut BytesMut, arguments: &[&[u8]]) {
    put_length(out, b'*', arguments.len());
    for argument in arguments {
        put_bulk(out, argument);
    }
}

/// Appends the bytes of one argument.
pub fn put_bulk(out: &mut BytesMut, argument: &[u8]) {
    put_length(out, b'$', argument.len());
    out.put_slice(argument);
    out.put_slice(b"\r\n");
}

/// Appends a line that announces a length: `*` before a command's arguments, `$` before one.
pub fn put_length(out: &mut BytesMut, kind: u8, length: usize) {
    out.put_u8(kind);
    out.put_slice(Digits::of(length as u64).bytes());
    out.put_slice(b"\r\n");
}

/// The decimal digits of a number, without an allocation.
#[derive(Clone, Copy, Debug)]
pub struct Digits {
    buffer: [u8; 20],
    start: usize,
}

impl Digits {
    /// The digits of `number`.
    #[must_use]
    pub fn of(mut number: u64) -> Self {
        let mut digits = Self { buffer: [0; 20], start: 20 };
        loop {
            digits.start -= 1;
            digits.buffer[digits.start] = b'0' + (number % 10) as u8;
            number /= 10;
            if number == 0 {
                return digits;
            }
        }
    }

    /// The digits as text.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.buffer[self.start..]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_arrays_of_bulk_strings() {
        let mut out = BytesMut::new();
        put_command(&mut out, &[b"EVER", b"", b"1234567890x"]);
        assert_eq!(&out[..], b"*3\r\n$4\r\nEVER\r\n$0\r\n\r\n$11\r\n1234567890x\r\n");
    }

    #[test]
    fn digits_reach_from_zero_to_the_largest_number() {
        assert_eq!(Digits::of(0).bytes(), b"0");
        assert_eq!(Digits::of(u64::MAX).bytes(), u64::MAX.to_string().as_bytes());
    }

    #[test]
    fn errors_say_what_to_do() {
        let address = "db:9090".to_owned();
        let text = "WRONGPASS invalid username-password pair".to_owned();
        let error = ClientError::Refused { address, text }.to_string();
        assert!(error.contains("db:9090") && error.contains("--password"), "{error}");
    }
}
