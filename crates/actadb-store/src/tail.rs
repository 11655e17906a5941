//! The newest committed entries, in memory.

use std::collections::VecDeque;

use actadb_model::entry::Place;
use bytes::Bytes;

/// Bodies of committed entries, oldest first, bounded in bytes.
#[derive(Debug, Default)]
pub struct Tail {
    entries: VecDeque<(Place, Bytes)>,
    bytes: usize,
    limit_bytes: usize,
}

impl Tail {
    /// A tail that keeps about this many bytes.
    #[must_use]
    pub fn new(limit_bytes: usize) -> Self {
        Self { limit_bytes, ..Self::default() }
    }

    /// Adds the newest entry and forgets the oldest ones. The newest is always kept.
    pub fn push(&mut self, body_place: Place, body: Bytes) {
        self.bytes += body.len();
        self.entries.push_back((body_place, body));
        while self.bytes > self.limit_bytes && self.entries.len() > 1 {
            if let Some((_, oldest)) = self.entries.pop_front() {
                self.bytes -= oldest.len();
            }
        }
    }

    /// The body that a place lies in, with its own place, if it is here.
    #[must_use]
    pub fn entry_at(&self, place: Place) -> Option<&(Place, Bytes)> {
        let behind = self.entries.partition_point(|(start, _)| *start <= place);
        let entry = self.entries.get(behind.checked_sub(1)?)?;
        offset_in(entry, place).map(|_| entry)
    }
}

/// Which byte of a body is at a place.
pub(crate) fn offset_in((start, body): &(Place, Bytes), place: Place) -> Option<usize> {
    let offset = place.offset.checked_sub(start.offset)? as usize;
    (start.segment == place.segment && offset < body.len()).then_some(offset)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_entries_go_and_places_are_found() {
        let mut tail = Tail::new(100);
        for n in 0..20_u32 {
            let place = Place { segment: u64::from(n / 10), offset: 4096 + (n % 10) * 100 };
            tail.push(place, Bytes::from(vec![n as u8; 30]));
        }
        let at = |segment, offset| {
            let place = Place { segment, offset };
            let entry = tail.entry_at(place)?;
            offset_in(entry, place).map(|offset| (offset, entry.1[offset]))
        };
        assert_eq!(at(1, 4096 + 910), Some((10, 19)), "newest");
        assert!(at(1, 4096 + 935).is_none(), "between two entries");
        assert!(at(0, 4096).is_none(), "forgotten");
        assert!(at(1, 4096).is_none(), "forgotten");
    }
}
