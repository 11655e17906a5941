//! Records from places: out of the tail, else from the segment's file in few reads.

use std::ops::ControlFlow;
use std::sync::PoisonError;

use actadb_disk::no_wait;
use actadb_log::error::{Damage, LogError};
use actadb_model::entry::Place;
use actadb_model::limits::READ_CHUNK_BYTES;
use bytes::Bytes;

use crate::error::ReadError;
use crate::record::{self, BadRecord, Decoder, Record, Transaction};
use crate::segments::{Segment, Shared};
use crate::tail::offset_in;

/// A lone record is read with this many bytes; most are smaller.
const FIRST_READ_BYTES: u64 = 2048;
/// Records this far apart are read in one go.
const GAP_BYTES: u64 = 16 << 10;

/// Shows `visit` the transactions at places of one segment, in the order given, one at a time, so
/// that whoever has enough stops the reading. Equal neighbours are read once. Every record is
/// verified; a bad one is an error that names its place.
pub(crate) fn fetch(
    shared: &Shared,
    segment: &Segment,
    places: &[u32],
    visit: &mut dyn FnMut(&Transaction) -> Result<ControlFlow<()>, ReadError>,
) -> Result<ControlFlow<()>, ReadError> {
    let mut chunk = Chunk::default();
    let mut entry: Option<(Place, Bytes)> = None;
    let mut decoder = Decoder::new(shared.settings.identity);
    let mut last: Option<(u32, Transaction)> = None;
    for (n, place) in places.iter().enumerate() {
        let transaction = match last.take() {
            Some((before, transaction)) if before == *place => transaction,
            _ => match in_tail(shared, segment, *place, &mut entry) {
                Some((body, offset)) => {
                    let length = record::length(&body[offset..]).unwrap_or(0);
                    no_wait::charge(length).map_err(LogError::io("read", segment.path()))?;
                    transaction(decoder.decode(body.slice(offset..)), segment, *place)?
                }
                None => {
                    let record = chunk.record(shared, segment, &places[n..])?;
                    transaction(decoder.decode(record), segment, *place)?
                }
            },
        };
        if visit(&transaction)?.is_break() {
            return Ok(ControlFlow::Break(()));
        }
        last = Some((*place, transaction));
    }
    Ok(ControlFlow::Continue(()))
}

/// Whether the record at a place is in memory, and so is every later one.
pub(crate) fn is_in_tail(shared: &Shared, segment: &Segment, offset: u32) -> bool {
    in_tail(shared, segment, offset, &mut None).is_some()
}

/// The body in memory that a place lies in, and its byte there. `entry` is the one looked at last:
/// neighbours are in the same one.
fn in_tail<'a>(
    shared: &Shared,
    segment: &Segment,
    offset: u32,
    entry: &'a mut Option<(Place, Bytes)>,
) -> Option<(&'a Bytes, usize)> {
    let place = Place { segment: segment.number(), offset };
    if entry.as_ref().is_none_or(|entry| offset_in(entry, place).is_none()) {
        let tail = shared.tail.read().unwrap_or_else(PoisonError::into_inner);
        *entry = tail.entry_at(place).cloned();
    }
    let entry = entry.as_ref()?;
    Some((&entry.1, offset_in(entry, place)?))
}

fn transaction(
    record: Result<Record, BadRecord>,
    segment: &Segment,
    place: u32,
) -> Result<Transaction, ReadError> {
    let damaged = |bad: BadRecord| {
        ReadError::from(Damage::new(segment.path(), u64::from(place), bad.to_string()))
    };
    match record.map_err(damaged)? {
        Record::Transaction(transaction) => Ok(transaction),
        Record::Other(_) => Err(damaged(BadRecord::Malformed)),
    }
}

/// What was read last, for records near each other.
#[derive(Default)]
struct Chunk {
    at: u64,
    bytes: Bytes,
    /// About half of it is wanted: its records share it. A page then keeps at most twice what it
    /// asked for.
    is_shared: bool,
}

impl Chunk {
    /// The record at the first of `places`. Shorter than the record only when the file ends before.
    fn record(
        &mut self,
        shared: &Shared,
        segment: &Segment,
        places: &[u32],
    ) -> Result<Bytes, ReadError> {
        let Some(first) = places.first().copied().map(u64::from) else { return Ok(Bytes::new()) };
        if !self.has_whole(first) {
            self.fill(segment, places)?;
        }
        let wanted = record::length(self.from(first));
        let wanted = wanted.unwrap_or(0).min(shared.settings.segment_bytes as usize);
        match self.from(first).get(..wanted) {
            Some(record) if self.is_shared => Ok(self.bytes.slice_ref(record)),
            Some(record) => Ok(Bytes::copy_from_slice(record)),
            // By itself: those before it, of a page in reverse, are in the chunk.
            None => Ok(read(segment, first, wanted as u64)?),
        }
    }

    /// Reads what is near the first of the places.
    fn fill(&mut self, segment: &Segment, places: &[u32]) -> Result<(), LogError> {
        let Neighbourhood { low, high, count } = neighbourhood(places);
        let bytes = read(segment, low, high - low + FIRST_READ_BYTES)?;
        *self = Self { at: low, bytes, is_shared: false };
        // A record of many events is there once.
        let near = places[..count].chunk_by(PartialEq::eq).filter_map(|same| same.first());
        let found = near.map(|place| self.from((*place).into()));
        let wanted = found.map(|found| record::length(found).unwrap_or(0).min(found.len()));
        self.is_shared = wanted.sum::<usize>() * 2 >= self.bytes.len();
        Ok(())
    }

    fn has_whole(&self, at: u64) -> bool {
        let found = self.from(at);
        record::length(found).is_some_and(|length| length <= found.len())
    }

    fn from(&self, at: u64) -> &[u8] {
        let start = at.checked_sub(self.at).and_then(|start| usize::try_from(start).ok());
        start.and_then(|start| self.bytes.get(start..)).unwrap_or_default()
    }
}

/// Reads bytes of a segment's file, fewer where it ends.
fn read(segment: &Segment, at: u64, length: u64) -> Result<Bytes, LogError> {
    let file = segment.file()?;
    let mut bytes = vec![0; length as usize];
    let n = file.read_full_at(&mut bytes, at).map_err(LogError::io("read", segment.path()))?;
    bytes.truncate(n);
    Ok(bytes.into())
}

/// Places that are worth one read.
struct Neighbourhood {
    low: u64,
    high: u64,
    /// How many there are.
    count: usize,
}

/// The places, from the first on, that are near each other, in either direction.
fn neighbourhood(places: &[u32]) -> Neighbourhood {
    let first = places.first().copied().map_or(0, u64::from);
    let (mut low, mut high, mut last, mut count) = (first, first, first, 0);
    for place in places.iter().copied().map(u64::from) {
        let (lower, higher) = (low.min(place), high.max(place));
        let wide = higher - lower + FIRST_READ_BYTES > READ_CHUNK_BYTES as u64;
        if place.abs_diff(last) > GAP_BYTES || wide {
            break;
        }
        count += 1;
        (low, high, last) = (lower, higher, place);
    }
    Neighbourhood { low, high, count }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(places: &[u32]) -> (u64, u64, usize) {
        let Neighbourhood { low, high, count } = neighbourhood(places);
        (low, high, count)
    }

    #[test]
    fn places_near_each_other_are_one_read_whichever_way_they_go() {
        let gap = GAP_BYTES as u32;
        assert_eq!(of(&[500]), (500, 500, 1));
        assert_eq!(of(&[500, 500, 900, 900 + gap]), (500, u64::from(900 + gap), 4));
        assert_eq!(of(&[900, 500, 500 + gap + 1]), (500, 900, 2));
        assert_eq!(of(&[500, 500 + gap + 1, 600]), (500, 500, 1));
        assert_eq!(of(&[]), (0, 0, 0));
        let many: Vec<u32> = (0..1000).map(|n| n * 1000).collect();
        let (low, high, count) = of(&many);
        assert!(low == 0 && high + FIRST_READ_BYTES <= READ_CHUNK_BYTES as u64);
        assert_eq!(count as u64, high / 1000 + 1);
    }
}
