//! Which term an entry has: the index each term begins at, for the whole log.
//!
//! A log has as many terms as it had leaders, so the list is short however long the log is.

/// Where terms begin: pairs of first index and term, both ascending.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Terms {
    starts: Vec<(u64, u64)>,
    last_index: u64,
}

impl Terms {
    /// The terms of a log that ends with `last_index`. Starts that repeat the term before them are
    /// left out.
    #[must_use]
    pub fn new(starts: impl IntoIterator<Item = (u64, u64)>, last_index: u64) -> Self {
        let mut terms = Self::default();
        for (index, term) in starts {
            terms.push(index, term);
        }
        terms.last_index = last_index;
        terms
    }

    /// Index of the last entry, 0 of an empty log.
    #[must_use]
    pub fn last_index(&self) -> u64 {
        self.last_index
    }

    /// The term of an entry; `None` when the log has no such entry.
    #[must_use]
    pub fn get(&self, index: u64) -> Option<u64> {
        if index == 0 {
            return Some(0);
        }
        if index > self.last_index {
            return None;
        }
        let behind = self.starts.partition_point(|(first, _)| *first <= index);
        self.starts.get(behind.checked_sub(1)?).map(|(_, term)| *term)
    }

    /// Notes the next entry.
    ///
    /// # Panics
    /// When its term is lower than that of the entry before: such a log cannot be.
    pub fn push(&mut self, index: u64, term: u64) {
        let before = self.starts.last().map_or(0, |(_, term)| *term);
        assert!(term >= before, "entry {index} has term {term}, behind term {before}");
        if term > before {
            self.starts.push((index, term));
        }
        self.last_index = index;
    }

    /// Forgets all entries behind one.
    pub fn truncate(&mut self, after: u64) {
        self.starts.retain(|(first, _)| *first <= after);
        self.last_index = self.last_index.min(after);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terms_are_found_and_forgotten() {
        let mut terms = Terms::new([(1, 1), (3, 1), (5, 2), (9, 4)], 9);
        let all = |terms: &Terms| (0..=11).map(|index| terms.get(index)).collect::<Vec<_>>();
        let some = |terms: &[u64]| terms.iter().map(|t| Some(*t)).collect::<Vec<_>>();
        assert_eq!(all(&terms)[..10], some(&[0, 1, 1, 1, 1, 2, 2, 2, 2, 4]));
        assert_eq!(all(&terms)[10..], [None, None]);
        terms.push(10, 4);
        assert_eq!(terms.get(10), Some(4));
        terms.truncate(8);
        assert_eq!((terms.get(8), terms.get(9), terms.last_index()), (Some(2), None, 8));
        terms.push(9, 7);
        assert_eq!(terms.get(9), Some(7));
    }
}
