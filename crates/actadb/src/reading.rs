//! Reads: at once, when all is in memory, else on a thread that may wait.
//!
//! Every read has two halves, `..._now` and `..._later`, for a caller that does other things in
//! between; most want both, one after the other.

use std::sync::atomic::Ordering;

use actadb_model::event::Event;
use actadb_model::ids::{PartitionId, PartitionKey};
use actadb_model::limits::{INLINE_READ_EVENTS, PAGE_MAX_EVENTS};
use actadb_model::names::StreamId;
use actadb_store::error::ReadError as StoreError;
use actadb_store::reader::{Page, Reader};
use uuid::Uuid;

use crate::database::Database;
use crate::error::ReadError;
use crate::executor::read_here;
use crate::reads::{ReadPartition, ReadStream};

impl Database {
    /// A page of a stream.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub async fn read_stream(&self, read: ReadStream) -> Result<Page, ReadError> {
        match self.read_stream_now(&read) {
            Some(page) => page,
            None => self.read_stream_later(read).await,
        }
    }

    /// As [`read_stream`](Self::read_stream), if that need not wait: `None` when the device or
    /// another node has to be asked, or for a page of more than 1,000 events or 512 KiB.
    pub fn read_stream_now(&self, read: &ReadStream) -> Option<Result<Page, ReadError>> {
        let ReadStream { stream, partition_key, scan } = read;
        let partition = self.partition_of_stream(stream, *partition_key);
        let page = self.read_now(partition, scan.count, |reader| {
            reader.read_stream(stream.as_str(), partition, *scan)
        })?;
        Some(page.inspect(|page| self.count_events(page.events.len())))
    }

    /// As [`read_stream`](Self::read_stream), for whom [`read_stream_now`](Self::read_stream_now)
    /// had no answer.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub async fn read_stream_later(&self, read: ReadStream) -> Result<Page, ReadError> {
        let ReadStream { stream, partition_key, mut scan } = read;
        let partition = self.partition_of_stream(&stream, partition_key);
        scan.count = scan.count.min(PAGE_MAX_EVENTS);
        let read = move |reader: &Reader| reader.read_stream(stream.as_str(), partition, scan);
        let page = self.read_later(partition, read).await?;
        self.count_events(page.events.len());
        Ok(page)
    }

    /// A page of a partition.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub async fn read_partition(&self, read: ReadPartition) -> Result<Page, ReadError> {
        match self.read_partition_now(read) {
            Some(page) => page,
            None => self.read_partition_later(read).await,
        }
    }

    /// As [`read_partition`](Self::read_partition), if that need not wait: `None` when the device
    /// or another node has to be asked, or for a page of more than 1,000 events or 512 KiB.
    pub fn read_partition_now(&self, read: ReadPartition) -> Option<Result<Page, ReadError>> {
        let ReadPartition { partition, scan } = read;
        let read = |reader: &Reader| reader.read_partition(partition, scan);
        let page = self.read_now(partition, scan.count, read)?;
        Some(page.inspect(|page| self.count_events(page.events.len())))
    }

    /// As [`read_partition`](Self::read_partition), for whom
    /// [`read_partition_now`](Self::read_partition_now) had no answer.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub async fn read_partition_later(&self, read: ReadPartition) -> Result<Page, ReadError> {
        let ReadPartition { partition, mut scan } = read;
        scan.count = scan.count.min(PAGE_MAX_EVENTS);
        let read = move |reader: &Reader| reader.read_partition(partition, scan);
        let page = self.read_later(partition, read).await?;
        self.count_events(page.events.len());
        Ok(page)
    }

    /// The event with an id.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub async fn get(&self, id: Uuid) -> Result<Option<Event>, ReadError> {
        match self.get_now(id) {
            Some(event) => event,
            None => self.get_later(id).await,
        }
    }

    /// As [`get`](Self::get), if that need not wait: `None` when the device or another node has
    /// to be asked.
    pub fn get_now(&self, id: Uuid) -> Option<Result<Option<Event>, ReadError>> {
        let event = self.read_now(self.partition_of_event(id), 1, |reader| reader.get(id))?;
        Some(event.inspect(|event| self.count_events(usize::from(event.is_some()))))
    }

    /// As [`get`](Self::get), for whom [`get_now`](Self::get_now) had no answer.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub async fn get_later(&self, id: Uuid) -> Result<Option<Event>, ReadError> {
        let partition = self.partition_of_event(id);
        let event = self.read_later(partition, move |reader| reader.get(id)).await?;
        self.count_events(usize::from(event.is_some()));
        Ok(event)
    }

    /// The latest version of a stream that can be read on this node, `None` when there is none.
    /// Among several nodes there may be later ones.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub async fn local_stream_version(
        &self,
        stream: StreamId,
        partition_key: Option<PartitionKey>,
    ) -> Result<Option<u64>, ReadError> {
        match self.local_stream_version_now(&stream, partition_key) {
            Some(version) => version,
            None => self.local_stream_version_later(stream, partition_key).await,
        }
    }

    /// As [`local_stream_version`](Self::local_stream_version), if that need not wait: `None` when
    /// the device or another node has to be asked.
    pub fn local_stream_version_now(
        &self,
        stream: &StreamId,
        partition_key: Option<PartitionKey>,
    ) -> Option<Result<Option<u64>, ReadError>> {
        let partition = self.partition_of_stream(stream, partition_key);
        let read = |reader: &Reader| reader.stream_head(stream.as_str(), partition);
        let head = self.read_now(partition, 1, read)?;
        Some(head.map(|head| head.map(|head| head.version)))
    }

    /// As [`local_stream_version`](Self::local_stream_version), for whom
    /// [`local_stream_version_now`](Self::local_stream_version_now) had no answer.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub async fn local_stream_version_later(
        &self,
        stream: StreamId,
        partition_key: Option<PartitionKey>,
    ) -> Result<Option<u64>, ReadError> {
        let partition = self.partition_of_stream(&stream, partition_key);
        let read = move |reader: &Reader| reader.stream_head(stream.as_str(), partition);
        let head = self.read_later(partition, read).await?;
        Ok(head.map(|head| head.version))
    }

    /// The last sequence of a partition that can be read on this node, `None` when there is none.
    /// Among several nodes there may be later ones.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub async fn local_partition_sequence(
        &self,
        partition: PartitionId,
    ) -> Result<Option<u64>, ReadError> {
        match self.local_partition_sequence_now(partition) {
            Some(last) => last,
            // It is in memory as soon as this node has caught up.
            None => self.read_later(partition, last_sequence(partition)).await,
        }
    }

    /// As [`local_partition_sequence`](Self::local_partition_sequence), if that need not wait:
    /// `None` when another node has to be asked.
    pub fn local_partition_sequence_now(
        &self,
        partition: PartitionId,
    ) -> Option<Result<Option<u64>, ReadError>> {
        self.read_now(partition, 1, last_sequence(partition))
    }

    /// Whether this is the only node: what it can read is all there is.
    #[must_use]
    pub fn is_alone(&self) -> bool {
        self.inner.links.is_none()
    }

    /// Whether this node has not yet what it must know to be read.
    fn is_behind(&self, partition: PartitionId) -> bool {
        let links = self.inner.links.as_ref();
        links.is_some_and(|links| self.has(partition, links.told(partition)) != Ok(true))
    }

    /// Reads some `events`, if all is in memory, and this node knows what it must.
    fn read_now<T>(
        &self,
        partition: PartitionId,
        events: usize,
        job: impl Fn(&Reader) -> Result<T, StoreError>,
    ) -> Option<Result<T, ReadError>> {
        if events > INLINE_READ_EVENTS || self.is_behind(partition) {
            return None;
        }
        let reader = match self.reader(partition) {
            Ok(reader) => reader,
            Err(error) => return Some(Err(error)),
        };
        let answer = read_here(|| job(&reader))?;
        self.inner.reads.fetch_add(1, Ordering::Relaxed);
        Some(ended(answer))
    }

    /// Reads on a thread that may wait, when this node knows what it must.
    async fn read_later<T: Send + 'static>(
        &self,
        partition: PartitionId,
        job: impl Fn(&Reader) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, ReadError> {
        if self.is_behind(partition) {
            // In a box: few reads wait here, and every connection would have room for it.
            Box::pin(self.caught_up(partition)).await?;
        }
        let reader = self.reader(partition)?;
        self.inner.reads.fetch_add(1, Ordering::Relaxed);
        // In a box: thousands of connections may wait in a read, and few of them here.
        ended(Box::pin(self.inner.executor.read(move || job(&reader))).await)
    }

    /// Reads some `events`: here, when all of it is in memory, else on a thread that may wait. For
    /// who has waited already until this node knows what it must.
    pub(crate) async fn read_on<T: Send + 'static>(
        &self,
        partition: PartitionId,
        events: usize,
        job: impl Fn(&Reader) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, ReadError> {
        let reader = self.reader(partition)?;
        self.inner.reads.fetch_add(1, Ordering::Relaxed);
        let job = move || job(&reader);
        let here = if events <= INLINE_READ_EVENTS { read_here(&job) } else { None };
        match here {
            Some(answer) => ended(answer),
            // As above.
            None => ended(Box::pin(self.inner.executor.read(job)).await),
        }
    }
}

fn last_sequence(partition: PartitionId) -> impl Fn(&Reader) -> Result<Option<u64>, StoreError> {
    move |reader| Ok(reader.next_sequence(partition).checked_sub(1))
}

/// How a read ended; `None`: it panicked.
fn ended<T>(answer: Option<Result<T, StoreError>>) -> Result<T, ReadError> {
    let answer = answer.ok_or_else(|| ReadError::Failed("the read panicked".into()))?;
    Ok(answer?)
}
