//! What an index must know of an entry, read from its bytes: by the thread that writes the entry,
//! so that the one that publishes it has only to put it in.

use actadb_log::format::LogIdentity;
use actadb_model::entry::Entry;
use actadb_model::ids::PartitionId;

use crate::hashes::{event_id_hash, stream_hash};
use crate::record::BadRecord;
use crate::records::records_for_index;

/// The events of an entry as an index knows them, in order.
#[derive(Clone, Debug, Default)]
pub struct Rows {
    pub(crate) rows: Vec<Row>,
    /// The first record that cannot be read, with its byte in the body; those behind it are not in
    /// `rows`.
    pub(crate) bad: Option<(u32, BadRecord)>,
}

/// One event.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Row {
    pub(crate) partition: PartitionId,
    pub(crate) sequence: u64,
    pub(crate) group: u64,
    pub(crate) version: u64,
    pub(crate) key: u64,
    /// Where its record begins in the entry's body.
    pub(crate) at: u32,
}

impl Rows {
    /// Reads an entry.
    #[must_use]
    pub fn read(identity: LogIdentity, entry: &Entry) -> Self {
        let mut found = Self::default();
        for (at, record) in records_for_index(identity, entry) {
            let record = match record {
                Ok(Some(record)) => record,
                Ok(None) => continue,
                Err(bad) => {
                    found.bad = Some((at, bad));
                    break;
                }
            };
            for (event, sequence) in record.events.iter().zip(record.first_sequence..) {
                found.rows.push(Row {
                    partition: record.partition,
                    sequence,
                    group: stream_hash(record.namespace, event.stream),
                    version: event.version,
                    key: event_id_hash(record.namespace, event.id),
                    at,
                });
            }
        }
        found
    }
}
