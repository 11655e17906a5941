//! A reader that does not wait for ever.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::io::AsyncRead;
use tokio::time::{Instant, Sleep, sleep};

/// Reads as `R` does, and fails when nothing at all comes for so long. What comes slowly is read,
/// however long it takes.
#[derive(Debug)]
pub(crate) struct Patient<R> {
    reader: R,
    patience: Duration,
    end: Pin<Box<Sleep>>,
}

impl<R> Patient<R> {
    pub(crate) fn new(reader: R, patience: Duration) -> Self {
        Self { reader, patience, end: Box::pin(sleep(patience)) }
    }
}

impl<R: AsyncRead + Unpin> AsyncRead for Patient<R> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if let Poll::Ready(read) = Pin::new(&mut this.reader).poll_read(context, buffer) {
            this.end.as_mut().reset(Instant::now() + this.patience);
            return Poll::Ready(read);
        }
        let silent = || io::Error::new(io::ErrorKind::TimedOut, "the other node is silent");
        this.end.as_mut().poll(context).map(|()| Err(silent()))
    }
}
