//! The client: what it is made of, and the requests that need little.

use std::ops::RangeBounds;
use std::sync::Arc;

use redis::{Cmd, Value, cmd};
use uuid::Uuid;

use crate::checkpoint::Checkpoint;
use crate::connection::{Connector, Link};
use crate::error::Error;
use crate::event::Event;
use crate::follow::{Follow, Source, version_of};
use crate::names::{PartitionRef, StreamRef};
use crate::options::ClientOptions;
use crate::pages::Events;
use crate::reply;
use crate::retry::Backoff;
use crate::subscription::Subscription;

/// A client of a server, or of the nodes of a cluster, of which it talks to one at a time. Cheap to
/// clone; clones share a connection.
///
/// It needs a Tokio runtime with IO and time.
#[derive(Clone, Debug)]
pub struct Client {
    pub(crate) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) link: Link,
    pub(crate) options: ClientOptions,
    pub(crate) partitions: u16,
}

impl Client {
    /// Connects to `redis://[:password@]host[:port]`, with the default [`ClientOptions`].
    ///
    /// # Errors
    /// When the server cannot be reached (this is tried once), wants another password, or is no
    /// ActaDB server.
    pub async fn connect(url: impl AsRef<str>) -> Result<Self, Error> {
        Self::connect_with(ClientOptions::new(url)).await
    }

    /// Connects with these options.
    ///
    /// # Errors
    /// As [`connect`](Self::connect).
    pub async fn connect_with(options: ClientOptions) -> Result<Self, Error> {
        let link = Link::new(Connector::new(&options)?);
        let partitions = link.partitions().await?;
        Ok(Self { inner: Arc::new(Inner { link, options, partitions }) })
    }

    /// How many partitions the database has.
    #[must_use]
    pub fn partition_count(&self) -> u16 {
        self.inner.partitions
    }

    /// Reads the event with an id.
    ///
    /// # Errors
    /// When the server cannot be reached or refuses.
    pub async fn get(&self, id: Uuid) -> Result<Option<Event>, Error> {
        let mut command = cmd("EGET");
        command.arg(id.to_string());
        self.sees_all(&mut command);
        match self.read(&command).await? {
            Value::Nil => Ok(None),
            value => reply::event(value).map(Some),
        }
    }

    /// Reads the events of a stream with these versions, page by page, as a
    /// [`Stream`](crate::Stream): `..` for all, `5..`, `..=9`. Oldest first, unless
    /// [`backwards`](Events::backwards). A stream that does not exist has no events.
    ///
    /// ```no_run
    /// # async fn example(client: actadb_client::Client) -> Result<(), actadb_client::Error> {
    /// let mut latest_first = client.stream("order-1", ..).backwards();
    /// if let Some(latest) = latest_first.next().await {
    ///     println!("{}", latest?.name);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn stream(&self, stream: impl Into<StreamRef>, versions: impl RangeBounds<u64>) -> Events {
        Events::of_stream(self.clone(), stream.into(), versions)
    }

    /// Reads the events of a partition with these sequences; else as [`stream`](Self::stream).
    pub fn partition(
        &self,
        partition: impl Into<PartitionRef>,
        sequences: impl RangeBounds<u64>,
    ) -> Events {
        Events::of_partition(self.clone(), partition.into(), sequences)
    }

    /// The latest version of a stream; `None` when it has no events.
    ///
    /// # Errors
    /// When the server cannot be reached or refuses.
    pub async fn stream_version(&self, stream: impl Into<StreamRef>) -> Result<Option<u64>, Error> {
        let stream = stream.into();
        stream.check()?;
        reply::optional_number(&self.read(&version_of(&stream)).await?)
    }

    /// The last sequence of a partition; `None` when it has no events.
    ///
    /// # Errors
    /// When the server cannot be reached or refuses.
    pub async fn partition_sequence(
        &self,
        partition: impl Into<PartitionRef>,
    ) -> Result<Option<u64>, Error> {
        let argument = partition.into().argument();
        reply::optional_number(&self.read(cmd("EPSEQ").arg(argument)).await?)
    }

    /// Follows streams or partitions, on a connection of its own.
    ///
    /// # Errors
    /// When the server cannot be reached or refuses. Later, the subscription reconnects by itself.
    pub async fn subscribe(&self, follow: Follow) -> Result<Subscription, Error> {
        Subscription::begin(self.clone(), follow).await
    }

    /// Where what is followed ends now: the positions behind the latest events.
    ///
    /// A projection has caught up with this moment when its checkpoint
    /// [reaches](Checkpoint::reaches) it. With a filter it is sure to get there with
    /// [`progress_every(1)`](Follow::progress_every) only: otherwise the position of a partition
    /// may stay before events that were left out while events of other partitions come.
    ///
    /// # Errors
    /// When the server cannot be reached or refuses.
    pub async fn latest(&self, follow: &Follow) -> Result<Checkpoint, Error> {
        let sources = follow.sources(self.inner.partitions)?;
        self.ends(&sources).await
    }

    pub(crate) async fn ends(&self, sources: &[Source]) -> Result<Checkpoint, Error> {
        let mut latest = Checkpoint::start();
        // All at once: the connection pipelines them.
        let asked: Vec<_> = sources
            .iter()
            .map(|source| {
                let (client, name) = (self.clone(), source.name());
                let command = source.end_command();
                tokio::spawn(async move { (name, client.read(&command).await) })
            })
            .collect();
        for task in asked {
            let (name, value) = task.await.map_err(|error| Error::Protocol(error.to_string()))?;
            if let Some(last) = reply::optional_number(&value?)? {
                latest.set(name, last + 1);
            }
        }
        Ok(latest)
    }

    /// Of several nodes the next one may not have yet what was seen or appended on the one before:
    /// there a read asks for all that anybody was told of.
    pub(crate) fn sees_all(&self, command: &mut Cmd) {
        if self.inner.link.connector().has_several() {
            command.arg("READ").arg("LINEARIZABLE");
        }
    }

    /// Sends a command that changes nothing, again if need be.
    pub(crate) async fn read(&self, command: &Cmd) -> Result<Value, Error> {
        let mut backoff = Backoff::within(self.inner.options.retry_timeout);
        loop {
            let error = match self.inner.link.request(command).await {
                Ok(value) => return Ok(value),
                Err(failure) => failure.error,
            };
            if !error.is_transient() || !backoff.pause().await {
                return Err(error);
            }
        }
    }
}
