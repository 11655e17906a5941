//! A socket with its reply buffer: reads what is there, and goes on reading while it writes.
//!
//! A blocking client may send a whole pipeline before it reads a reply. Whoever stopped reading
//! until its replies were taken would wait for that client, and the client for it.

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, timeout_at};

/// Room for a read from the socket, until reads fill it: most connections send little at a time,
/// and ten thousand of them have this much each.
const READ_BYTES_MIN: usize = 1 << 10;
/// Room for a read when reads fill it.
const READ_BYTES_MAX: usize = 16 << 10;
/// A client must take this much, or all, within its patience.
const PROGRESS_BYTES: usize = 64 << 10;
/// Buffers that grew past this are given back when they are empty.
const KEPT_BYTES: usize = 256 << 10;

/// One end of a connection.
#[derive(Debug)]
pub struct Socket<S> {
    stream: S,
    /// Replies to be written.
    pub out: BytesMut,
    patience: Duration,
    /// Room for the next read.
    room: usize,
    /// The client has shut its side down.
    ended: bool,
}

enum Moved {
    Wrote(io::Result<usize>),
    Read(io::Result<usize>),
}

impl<S: AsyncRead + AsyncWrite + Unpin> Socket<S> {
    /// A socket whose client is closed when it takes too little of its replies within `patience`.
    pub fn new(stream: S, patience: Duration) -> Self {
        Self { stream, out: BytesMut::new(), patience, room: READ_BYTES_MIN, ended: false }
    }

    /// Waits for bytes and reads all that are ready, about up to `limit`; 0 at the end.
    ///
    /// # Errors
    /// What the socket says.
    pub async fn read(
        &mut self,
        buffer: &mut BytesMut,
        wants: usize,
        limit: usize,
    ) -> io::Result<usize> {
        if self.ended {
            return Ok(0);
        }
        if buffer.is_empty() && buffer.capacity() > KEPT_BYTES {
            *buffer = BytesMut::new();
        }
        // Grow with what arrives, not with what is announced.
        buffer.reserve(wants.min(buffer.len()).max(self.room));
        let mut all = self.stream.read_buf(buffer).await?;
        self.ended = all == 0;
        // A read that filled the room may have left something.
        while !self.ended && buffer.len() == buffer.capacity() && buffer.len() < limit {
            self.room = (self.room * 2).min(READ_BYTES_MAX);
            buffer.reserve(buffer.len().max(self.room));
            let more = poll_fn(|cx| Poll::Ready(self.poll_read(cx, buffer))).await;
            match more {
                Poll::Ready(n) => {
                    let n = n?;
                    self.ended = n == 0;
                    all += n;
                }
                Poll::Pending => break,
            }
        }
        Ok(all)
    }

    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut BytesMut,
    ) -> Poll<io::Result<usize>> {
        // Dropping the future loses nothing: what was read is in the buffer.
        pin!(self.stream.read_buf(buffer)).poll(cx)
    }

    /// Writes the replies; meanwhile reads what the client goes on sending, up to `limit`.
    ///
    /// # Errors
    /// What the socket says; `TimedOut` when the client takes too little.
    pub async fn flush(&mut self, buffer: &mut BytesMut, limit: usize) -> io::Result<()> {
        let mut deadline = None;
        let mut taken = 0;
        while !self.out.is_empty() {
            // Nearly always the socket takes all at once; a timer is only for waiting.
            let moved = match poll_fn(|cx| Poll::Ready(self.poll_move(cx, buffer, limit))).await {
                Poll::Ready(moved) => Ok(moved),
                Poll::Pending => {
                    let until = *deadline.get_or_insert_with(|| Instant::now() + self.patience);
                    timeout_at(until, poll_fn(|cx| self.poll_move(cx, buffer, limit))).await
                }
            };
            match moved {
                Ok(Moved::Wrote(written)) => {
                    let written = written?;
                    if written == 0 {
                        return Err(io::ErrorKind::WriteZero.into());
                    }
                    self.out.advance(written);
                    taken += written;
                }
                Ok(Moved::Read(read)) => self.ended = read? == 0,
                Err(_elapsed) if taken >= PROGRESS_BYTES => {
                    deadline = None;
                    taken = 0;
                }
                Err(_elapsed) => {
                    let error = io::Error::new(io::ErrorKind::TimedOut, "replies are not taken");
                    return Err(error);
                }
            }
        }
        self.give_back();
        Ok(())
    }

    /// Gives a large buffer of replies back, when they are written.
    pub fn give_back(&mut self) {
        // What was written counts no more in its capacity, and is there nevertheless.
        if self.out.is_empty() && self.out.try_reclaim(KEPT_BYTES + 1) {
            self.out = BytesMut::new();
        }
    }

    /// Writes of the replies what the socket takes at once.
    ///
    /// # Errors
    /// What the socket says.
    pub async fn push(&mut self) -> io::Result<()> {
        let written =
            poll_fn(|cx| Poll::Ready(Pin::new(&mut self.stream).poll_write(cx, &self.out)));
        if let Poll::Ready(written) = written.await {
            self.out.advance(written?);
        }
        Ok(())
    }

    fn poll_move(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut BytesMut,
        limit: usize,
    ) -> Poll<Moved> {
        if let Poll::Ready(written) = Pin::new(&mut self.stream).poll_write(cx, &self.out) {
            return Poll::Ready(Moved::Wrote(written));
        }
        if self.ended || buffer.len() >= limit {
            return Poll::Pending;
        }
        buffer.reserve(self.room);
        self.poll_read(cx, buffer).map(Moved::Read)
    }

    /// Says goodbye.
    pub async fn shutdown(&mut self) {
        let _ = self.stream.shutdown().await;
    }
}
