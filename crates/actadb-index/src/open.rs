//! The index of a segment that still grows: hashes and 32-bit places in memory, nothing else.

use std::collections::BTreeMap;
use std::collections::hash_map::Entry;

use smallvec::SmallVec;

use crate::format::group_lane;
use crate::shards::Shards;

/// The sequences of one lane in one segment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lane {
    /// First sequence in the segment; the next one to come when there is none.
    pub first: u64,
    /// One place per sequence.
    pub places: Vec<u32>,
}

/// Versions that follow each other without gaps.
#[derive(Clone, Debug)]
struct Chain {
    first: u64,
    places: SmallVec<[u32; 4]>,
}

impl Chain {
    fn next(&self) -> u64 {
        // Versions are the record's word: one at the very end must not stop the reader.
        self.first.wrapping_add(self.places.len() as u64)
    }

    fn get(&self, version: u64) -> Option<u32> {
        let at = usize::try_from(version.checked_sub(self.first)?).ok()?;
        self.places.get(at).copied()
    }
}

/// The index of one growing segment.
#[derive(Clone, Debug, Default)]
pub struct OpenIndex {
    lanes: BTreeMap<u16, Lane>,
    groups: Shards<SmallVec<[Chain; 1]>>,
    /// The first place of each key.
    keys: Shards<u32>,
    /// The other places of keys that have several, or share a hash.
    more_places: BTreeMap<u64, Vec<u32>>,
    terms: Vec<(u64, u64)>,
    postings: usize,
    key_places: usize,
}

impl OpenIndex {
    /// An index whose lanes begin at these sequences.
    pub fn new(lanes: impl IntoIterator<Item = (u16, u64)>) -> Self {
        let lanes =
            lanes.into_iter().map(|(lane, first)| (lane, Lane { first, places: Vec::new() }));
        Self { lanes: lanes.collect(), ..Self::default() }
    }

    /// Adds the next sequence of a lane.
    ///
    /// # Panics
    /// When it is not the next one: the log has no gaps, so a gap here is a bug that must not
    /// spread.
    pub fn push_lane(&mut self, lane: u16, sequence: u64, place: u32) {
        let lane = self.lanes.entry(lane).or_default();
        assert_eq!(sequence, lane.first + lane.places.len() as u64, "a gap in a lane");
        lane.places.push(place);
    }

    /// Adds a version of a group in a lane.
    pub fn add_posting(&mut self, group: u64, lane: u16, version: u64, place: u32) {
        let chains = self.groups.of_mut(group).entry(group_lane(group, lane)).or_default();
        self.postings += 1;
        // Two groups that share a hash have two chains; which of them takes a version that both
        // could take does not matter, as answers are candidates.
        match chains.iter_mut().find(|chain| chain.next() == version) {
            Some(chain) => chain.places.push(place),
            None => chains.push(Chain {
                first: version,
                places: SmallVec::from_buf_and_len([place, 0, 0, 0], 1),
            }),
        }
    }

    /// Adds a place of a key.
    pub fn add_key(&mut self, key: u64, place: u32) {
        match self.keys.of_mut(key).entry(key) {
            Entry::Vacant(new) => drop(new.insert(place)),
            Entry::Occupied(_) => self.more_places.entry(key).or_default().push(place),
        }
        self.key_places += 1;
    }

    /// Notes the term of the next entry of the log.
    pub fn note_term(&mut self, index: u64, term: u64) {
        if self.terms.last().is_none_or(|(_, last)| *last != term) {
            self.terms.push((index, term));
        }
    }

    /// Where terms begin in the segment: first index and term, ascending. The first is that of its
    /// first entry.
    #[must_use]
    pub fn terms(&self) -> &[(u64, u64)] {
        &self.terms
    }

    /// Its lanes, ascending.
    pub fn lanes(&self) -> impl Iterator<Item = (u16, &Lane)> {
        self.lanes.iter().map(|(lane, data)| (*lane, data))
    }

    /// One lane.
    #[must_use]
    pub fn lane(&self, lane: u16) -> Option<&Lane> {
        self.lanes.get(&lane)
    }

    /// Up to `limit` places from `sequence` on.
    #[must_use]
    pub fn lane_places(&self, lane: u16, sequence: u64, limit: usize) -> &[u32] {
        let Some(lane) = self.lanes.get(&lane) else { return &[] };
        let Some(at) = sequence.checked_sub(lane.first) else { return &[] };
        let start = usize::try_from(at).unwrap_or(usize::MAX).min(lane.places.len());
        let end = start.saturating_add(limit).min(lane.places.len());
        &lane.places[start..end]
    }

    /// Up to `limit` candidates (version, place) of a group in a lane: ascending from the first
    /// version at or above `version`.
    #[must_use]
    pub fn postings_from(
        &self,
        group: u64,
        lane: u16,
        version: u64,
        limit: usize,
    ) -> Vec<(u64, u32)> {
        let chains = self.chains(group, lane);
        let mut found: Vec<(u64, u32)> = Vec::new();
        for chain in chains {
            let from = version.max(chain.first);
            let places = (from..chain.next()).filter_map(|v| Some((v, chain.get(v)?)));
            found.extend(places.take(limit));
        }
        if chains.len() > 1 {
            found.sort_unstable();
            found.truncate(limit);
        }
        found
    }

    /// Up to `limit` candidates (version, place) of a group in a lane: descending from the last
    /// version at or below `version`.
    #[must_use]
    pub fn postings_before(
        &self,
        group: u64,
        lane: u16,
        version: u64,
        limit: usize,
    ) -> Vec<(u64, u32)> {
        let chains = self.chains(group, lane);
        let mut found: Vec<(u64, u32)> = Vec::new();
        for chain in chains {
            let end = version.saturating_add(1).min(chain.next());
            let places = (chain.first..end).rev().filter_map(|v| Some((v, chain.get(v)?)));
            found.extend(places.take(limit));
        }
        if chains.len() > 1 {
            found.sort_unstable_by(|a, b| b.cmp(a));
            found.truncate(limit);
        }
        found
    }

    fn chains(&self, group: u64, lane: u16) -> &[Chain] {
        self.groups.of(group).get(&group_lane(group, lane)).map_or(&[], |chains| chains)
    }

    /// Lanes in which a group may have postings, ascending.
    #[must_use]
    pub fn lanes_of_group(&self, group: u64) -> SmallVec<[u16; 2]> {
        let groups = self.groups.of(group);
        let has = |lane: &u16| groups.contains_key(&group_lane(group, *lane));
        self.lanes.keys().copied().filter(has).collect()
    }

    /// Candidates for a key.
    #[must_use]
    pub fn key_places(&self, key: u64) -> SmallVec<[u32; 2]> {
        let Some(first) = self.keys.of(key).get(&key) else { return SmallVec::new() };
        let more = self.more_places.get(&key).into_iter().flatten();
        std::iter::once(first).chain(more).copied().collect()
    }

    /// All postings, sorted.
    pub(crate) fn sorted_postings(&self) -> Vec<(u64, u64, u32)> {
        let mut all = Vec::with_capacity(self.postings);
        for (group_lane, chains) in self.groups.iter() {
            for chain in chains {
                let versions = chain.first..;
                all.extend(versions.zip(&chain.places).map(|(v, place)| (*group_lane, v, *place)));
            }
        }
        all.sort_unstable();
        all
    }

    /// All keys, sorted.
    pub(crate) fn sorted_keys(&self) -> Vec<(u64, u32)> {
        let mut all = Vec::with_capacity(self.key_places);
        for (key, place) in self.keys.iter() {
            all.push((*key, *place));
        }
        for (key, places) in &self.more_places {
            all.extend(places.iter().map(|place| (*key, *place)));
        }
        all.sort_unstable();
        all
    }
}
