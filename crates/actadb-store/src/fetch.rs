//! Records from places: out of the tail, else from the segment's file in few reads.

use std::sync::PoisonError;

use actadb_log::error::{Damage, LogError};
use actadb_model::entry::Place;
use actadb_model::limits::READ_CHUNK_BYTES;
use bytes::Bytes;

use crate::error::ReadError;
use crate::record::{self, BadRecord, Record, Transaction};
use crate::segments::{Segment, Shared};

/// A lone record is read with this many bytes; most are smaller.
const FIRST_READ_BYTES: u64 = 4096;
/// Records this far apart are read in one go.
const GAP_BYTES: u64 = 16 << 10;

/// The transactions at ascending places of one segment. Every record read from the disk is
/// verified; a bad one is an error that names its place.
pub(crate) fn fetch(
    shared: &Shared,
    segment: &Segment,
    places: &[u32],
) -> Result<Vec<Transaction>, ReadError> {
    debug_assert!(places.is_sorted());
    let in_tail: Vec<Option<Bytes>> = {
        let tail = shared.tail.read().unwrap_or_else(PoisonError::into_inner);
        let number = segment.number();
        places.iter().map(|offset| tail.get(Place { segment: number, offset: *offset })).collect()
    };
    let mut chunk = Chunk { at: 0, bytes: Bytes::new() };
    let mut transactions = Vec::with_capacity(places.len());
    for (n, (offset, found)) in places.iter().zip(in_tail).enumerate() {
        let bytes = match found {
            Some(bytes) => bytes,
            None => chunk.record(shared, segment, &places[n..])?,
        };
        let damaged = |bad: BadRecord| {
            ReadError::from(Damage::new(segment.path(), u64::from(*offset), bad.to_string()))
        };
        match record::decode(shared.settings.identity, &bytes).map_err(damaged)? {
            Record::Transaction(transaction) => transactions.push(transaction),
            Record::Other(_) => return Err(damaged(BadRecord::Malformed)),
        }
    }
    Ok(transactions)
}

struct Chunk {
    at: u64,
    bytes: Bytes,
}

impl Chunk {
    /// Bytes that begin with the record at the first of `places`, and hold it whole unless the
    /// file ends before.
    fn record(
        &mut self,
        shared: &Shared,
        segment: &Segment,
        places: &[u32],
    ) -> Result<Bytes, ReadError> {
        let Some(first) = places.first().copied().map(u64::from) else { return Ok(Bytes::new()) };
        if let Some(bytes) = self.slice(first)
            && record::length(&bytes).is_some_and(|length| length <= bytes.len())
        {
            return Ok(bytes);
        }
        let mut last = first;
        for place in places.iter().copied().map(u64::from) {
            let near = place - last <= GAP_BYTES;
            if !near || place - first + FIRST_READ_BYTES > READ_CHUNK_BYTES as u64 {
                break;
            }
            last = place;
        }
        self.read(shared, segment, first, last - first + FIRST_READ_BYTES)?;
        let bytes = self.slice(first).unwrap_or_default();
        match record::length(&bytes) {
            Some(length) if length > bytes.len() => {
                // A damaged length must not make us allocate more than a segment.
                let length = (length as u64).min(shared.settings.segment_bytes);
                self.read(shared, segment, first, length)?;
                Ok(self.slice(first).unwrap_or_default())
            }
            _ => Ok(bytes),
        }
    }

    fn slice(&self, at: u64) -> Option<Bytes> {
        let start = usize::try_from(at.checked_sub(self.at)?).ok()?;
        (start < self.bytes.len()).then(|| self.bytes.slice(start..))
    }

    fn read(
        &mut self,
        shared: &Shared,
        segment: &Segment,
        at: u64,
        length: u64,
    ) -> Result<(), LogError> {
        let file = segment.file(&shared.settings)?;
        let mut bytes = vec![0; length as usize];
        let n = file
            .read_full_at(&mut bytes, at)
            .map_err(LogError::io("read", segment.path()))?;
        bytes.truncate(n);
        *self = Self { at, bytes: Bytes::from(bytes) };
        Ok(())
    }
}
