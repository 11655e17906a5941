//! Reads of what is in memory, answered at once: no future, no other thread.

use std::sync::atomic::Ordering;

use actadb_model::event::Event;
use actadb_model::ids::{PartitionId, PartitionKey};
use actadb_model::limits::INLINE_READ_EVENTS;
use actadb_model::names::StreamId;
use actadb_store::error::ReadError as StoreError;
use actadb_store::reader::{Page, Reader};
use uuid::Uuid;

use crate::database::Database;
use crate::error::ReadError;
use crate::executor::read_here;
use crate::reads::{ReadPartition, ReadStream};

impl Database {
    /// As [`read_stream`](Self::read_stream), if that need not wait: `None` when the device or
    /// another node has to be asked, or for a page of more than 1,000 events.
    pub fn read_stream_now(&self, read: &ReadStream) -> Option<Result<Page, ReadError>> {
        let ReadStream { stream, partition_key, scan } = read;
        let partition = self.partition_of_stream(stream, *partition_key);
        let page = self.read_now(partition, scan.count, |reader| {
            reader.read_stream(stream.as_str(), partition, *scan)
        })?;
        Some(page.inspect(|page| self.count_events(page.events.len())))
    }

    /// As [`read_partition`](Self::read_partition), if that need not wait: `None` when the device
    /// or another node has to be asked, or for a page of more than 1,000 events.
    pub fn read_partition_now(&self, read: ReadPartition) -> Option<Result<Page, ReadError>> {
        let ReadPartition { partition, scan } = read;
        let page =
            self.read_now(partition, scan.count, |reader| reader.read_partition(partition, scan))?;
        Some(page.inspect(|page| self.count_events(page.events.len())))
    }

    /// As [`get`](Self::get), if that need not wait: `None` when the device or another node has
    /// to be asked.
    pub fn get_now(&self, id: Uuid) -> Option<Result<Option<Event>, ReadError>> {
        let event = self.read_now(self.partition_of_event(id), 1, |reader| reader.get(id))?;
        Some(event.inspect(|event| self.count_events(usize::from(event.is_some()))))
    }

    /// As [`local_stream_version`](Self::local_stream_version), if that need not wait: `None` when
    /// the device or another node has to be asked.
    pub fn local_stream_version_now(
        &self,
        stream: &StreamId,
        partition_key: Option<PartitionKey>,
    ) -> Option<Result<Option<u64>, ReadError>> {
        let partition = self.partition_of_stream(stream, partition_key);
        let head =
            self.read_now(partition, 1, |reader| reader.stream_head(stream.as_str(), partition))?;
        Some(head.map(|head| head.map(|head| head.version)))
    }

    /// As [`local_partition_sequence`](Self::local_partition_sequence), if that need not wait:
    /// `None` when another node has to be asked.
    pub fn local_partition_sequence_now(
        &self,
        partition: PartitionId,
    ) -> Option<Result<Option<u64>, ReadError>> {
        self.read_now(partition, 1, |reader| Ok(reader.next_sequence(partition).checked_sub(1)))
    }

    /// Whether this is the only node: what it can read is all there is.
    #[must_use]
    pub fn is_alone(&self) -> bool {
        self.inner.links.is_none()
    }

    fn read_now<T>(
        &self,
        partition: PartitionId,
        events: usize,
        job: impl Fn(&Reader) -> Result<T, StoreError>,
    ) -> Option<Result<T, ReadError>> {
        let is_behind = |told: u64| self.has(partition, told) != Ok(true);
        if events > INLINE_READ_EVENTS
            || self.inner.links.as_ref().is_some_and(|links| is_behind(links.told(partition)))
        {
            return None;
        }
        let reader = match self.reader(partition) {
            Ok(reader) => reader,
            Err(error) => return Some(Err(error)),
        };
        let answer = read_here(|| job(&reader))?;
        self.inner.reads.fetch_add(1, Ordering::Relaxed);
        match answer {
            Some(answer) => Some(answer.map_err(ReadError::from)),
            None => Some(Err(ReadError::Failed("the read panicked".into()))),
        }
    }
}
