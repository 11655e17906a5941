//! Reads that fetch page after page.

use std::collections::VecDeque;
use std::fmt;
use std::future::poll_fn;
use std::ops::{Bound, RangeBounds};
use std::pin::Pin;
use std::task::{Context, Poll};

use actadb_model::limits::PAGE_MAX_EVENTS;
use futures_core::Stream;
use redis::{Cmd, cmd};

use crate::client::Client;
use crate::error::Error;
use crate::event::Event;
use crate::names::{PartitionRef, StreamRef};
use crate::reply;

type Page = Result<(Vec<Event>, bool), Error>;
type Fetch = Pin<Box<dyn Future<Output = Page> + Send>>;

#[derive(Clone, Debug)]
enum Of {
    Stream(StreamRef),
    Partition(PartitionRef),
}

/// Events of a stream or of a partition: a [`Stream`] of `Result<Event, Error>`.
///
/// It fetches a page when it needs one. After an error it ends; never before its last event
/// without one.
#[must_use = "a read does nothing until it is polled"]
pub struct Events {
    client: Client,
    of: Of,
    /// Both inclusive. `None` for the end.
    from: u64,
    to: Option<u64>,
    backwards: bool,
    page_size: usize,
    buffer: VecDeque<Event>,
    fetch: Option<Fetch>,
    done: bool,
}

impl Events {
    pub(crate) fn of_stream(
        client: Client,
        stream: StreamRef,
        versions: impl RangeBounds<u64>,
    ) -> Self {
        Self::new(client, Of::Stream(stream), versions)
    }

    pub(crate) fn of_partition(
        client: Client,
        partition: PartitionRef,
        sequences: impl RangeBounds<u64>,
    ) -> Self {
        Self::new(client, Of::Partition(partition), sequences)
    }

    fn new(client: Client, of: Of, range: impl RangeBounds<u64>) -> Self {
        let from = match range.start_bound() {
            Bound::Unbounded => Some(0),
            Bound::Included(from) => Some(*from),
            Bound::Excluded(before) => before.checked_add(1),
        };
        let (to, to_is_possible) = match range.end_bound() {
            Bound::Unbounded => (None, true),
            Bound::Included(to) => (Some(*to), true),
            Bound::Excluded(behind) => (behind.checked_sub(1), *behind > 0),
        };
        let done = from.is_none() || !to_is_possible;
        let (from, page_size) = (from.unwrap_or(0), client.inner.options.page_size);
        let buffer = VecDeque::new();
        Self { client, of, from, to, backwards: false, page_size, buffer, fetch: None, done }
    }

    /// The same, newest first. Not while it is being read.
    pub fn backwards(mut self) -> Self {
        self.backwards = true;
        self
    }

    /// The same, fetching so many events at a time, 1 to 10,000; a page that reaches 16 MiB ends
    /// there.
    pub fn page_size(mut self, events: usize) -> Self {
        self.page_size = events.clamp(1, PAGE_MAX_EVENTS);
        self
    }

    /// The next event. The same as `StreamExt::next`, without that trait.
    pub async fn next(&mut self) -> Option<Result<Event, Error>> {
        poll_fn(|context| Pin::new(&mut *self).poll_next(context)).await
    }

    fn command(&self) -> Result<Cmd, Error> {
        let mut command = match &self.of {
            Of::Stream(stream) => {
                stream.check()?;
                let mut command = cmd("ESCAN");
                command.arg(&stream.id);
                command
            }
            Of::Partition(partition) => {
                let mut command = cmd("EPSCAN");
                command.arg(partition.argument());
                command
            }
        };
        command.arg(self.from);
        match self.to {
            Some(to) => command.arg(to),
            None => command.arg("+"),
        };
        if let Of::Stream(StreamRef { partition_key: Some(key), .. }) = &self.of {
            command.arg("PARTITION_KEY").arg(key.to_string());
        }
        command.arg("COUNT").arg(self.page_size);
        if self.backwards {
            command.arg("REV");
        }
        self.client.sees_all(&mut command);
        Ok(command)
    }

    fn fetch(&self) -> Fetch {
        let (client, command) = (self.client.clone(), self.command());
        Box::pin(async move { reply::page(client.read(&command?).await?) })
    }

    fn take_page(&mut self, (events, has_more): (Vec<Event>, bool)) {
        let position = |event: &Event| match self.of {
            Of::Stream(_) => event.version,
            Of::Partition(_) => event.sequence,
        };
        let next = events.last().map(position).and_then(|last| match self.backwards {
            true => last.checked_sub(1),
            false => last.checked_add(1),
        });
        match next {
            Some(next) if has_more && self.backwards => self.to = Some(next),
            Some(next) if has_more => self.from = next,
            _ => self.done = true,
        }
        self.buffer = events.into();
    }
}

impl Stream for Events {
    type Item = Result<Event, Error>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        loop {
            if let Some(event) = this.buffer.pop_front() {
                return Poll::Ready(Some(Ok(event)));
            }
            if this.done {
                return Poll::Ready(None);
            }
            let mut fetch = this.fetch.take().unwrap_or_else(|| this.fetch());
            match fetch.as_mut().poll(context) {
                Poll::Pending => {
                    this.fetch = Some(fetch);
                    return Poll::Pending;
                }
                Poll::Ready(Ok(page)) => this.take_page(page),
                Poll::Ready(Err(error)) => {
                    this.done = true;
                    return Poll::Ready(Some(Err(error)));
                }
            }
        }
    }
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { of, from, to, backwards, done, .. } = self;
        write!(f, "Events({of:?} {from}..={to:?} backwards: {backwards} done: {done})")
    }
}
