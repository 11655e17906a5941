//! The filters of a bucket: what ranges of sealed segments do not have.
//!
//! Ranges are aligned and of 1, 16, 256 and 4096 segments, so a lookup that finds nothing asks a
//! few filters instead of thousands of indexes: with n segments n / 4096 + 45 at most. Even for one
//! large segment a filter is worth it: it takes a tenth of its index, and so stays in memory where
//! the index does not. Filters only ever save work: without one, with a bad one, or while one is
//! not built yet, the indexes are asked.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use actadb_disk::handles::Handles;
use actadb_index::block_cache::BlockCache;
use actadb_index::error::IndexError;
use actadb_index::filter::{Covered, Filter, Sought};
use actadb_index::format::Described;
use actadb_index::sealed::SealedIndex;
use actadb_log::error::{Damage, LogError, SYNC};
use actadb_log::writer::LogSettings;
use actadb_model::limits::INDEX_CACHE_DEFAULT_BYTES;

use crate::open::index_path;

use crate::segments::{Segment, SegmentIndex, Shared};

/// Segments of a range, the largest first.
const SPANS: [u64; 4] = [4096, 256, 16, 1];
/// A single segment with fewer keys and postings gets none: its index is as small.
const MIN_HASHES: usize = 1 << 14;
/// Larger ranges get no filter: it takes twelve bits of memory to build for each of these.
const MAX_HASHES: usize = 32 << 20;

/// Most filters built behind one seal: the thread is that of all seals.
const BUILT_AT_ONCE: usize = 2;
const SUFFIX: &str = ".filter";

/// The first segment and the span of a range.
type Range = (u64, u64);

/// Filters by their ranges.
#[derive(Clone, Debug, Default)]
pub(crate) struct Filters(BTreeMap<Range, Arc<Filter>>);

impl Filters {
    /// How many segments from `number` on, itself included and upwards or downwards, certainly have
    /// nothing of what is sought; 0 when its index must be asked.
    pub(crate) fn span_without(
        &self,
        sought: Sought,
        number: u64,
        downwards: bool,
    ) -> Result<u64, IndexError> {
        for span in SPANS {
            let first = if downwards { number.saturating_sub(span - 1) } else { number };
            let aligned = span == 1 || first % span == 1;
            let filter = if aligned { self.0.get(&(first, span)) } else { None };
            match filter.map(|filter| filter.may_have(sought)) {
                Some(Ok(false)) => return Ok(span),
                Some(Err(error)) if error.would_wait() => return Err(error),
                // A filter that cannot be read saves nothing; the indexes know.
                Some(Ok(true) | Err(_)) | None => {}
            }
        }
        Ok(0)
    }
}

/// Opens the filters of a bucket whose segments are all known. One that does not fit is removed;
/// one that is missing is built when a later segment is sealed.
pub(crate) fn open(shared: &Shared) {
    let list = shared.list.load();
    let ranges: BTreeMap<Range, &[Arc<Segment>]> = ranges(&list).collect();
    let mut filters = Filters::default();
    for (range, path) in files(&shared.settings).unwrap_or_default() {
        let covered = ranges.get(&range).and_then(|s| covered_by(&shared.settings, s));
        let filter = covered
            .map(|covered| Filter::open(&shared.handles, &shared.index_cache, &path, &covered));
        match filter {
            Some(Ok(filter)) => drop(filters.0.insert(range, Arc::new(filter))),
            // What it covers is not there, or not as it was.
            None | Some(Err(IndexError::Damaged { .. })) => {
                let _ = shared.settings.disk.remove(&path);
            }
            // Too many open files, say: it is as good as before.
            Some(Err(_)) => {}
        }
    }
    shared.filters.store(Arc::new(filters));
}

/// Removes the filters over a segment, durably: its index is about to be built anew, and they may
/// lack what the one before lacked.
pub(crate) fn remove_over(settings: &LogSettings, number: u64) -> Result<(), LogError> {
    let disk = &settings.disk;
    let dir = &settings.dir;
    let names = files(settings).map_err(LogError::io("list", dir))?;
    for ((first, span), path) in names {
        if (first..first + span).contains(&number) {
            disk.remove(&path).map_err(LogError::io("remove", &path))?;
            disk.sync_dir(dir).map_err(LogError::io(SYNC, dir))?;
        }
    }
    Ok(())
}

/// Builds some of the filters that ranges of sealed segments lack, the largest first.
///
/// # Errors
/// The first thing that went wrong; the others are built all the same.
pub(crate) fn extend(shared: &Shared) -> Result<(), IndexError> {
    let list = shared.list.load_full();
    let (mut outcome, mut built) = (Ok(()), 0);
    for (range, segments) in ranges(&list) {
        if built == BUILT_AT_ONCE {
            break;
        }
        if shared.filters.load().0.contains_key(&range) {
            continue;
        }
        let hashes = |index: &SealedIndex| index.counts().0 + index.counts().1;
        let size: usize = segments.iter().filter_map(|s| sealed(s)).map(hashes).sum();
        let covered = covered_by(&shared.settings, segments);
        if let Some(covered) = covered.filter(|_| worth_it(range.1, size)) {
            built += 1;
            outcome = outcome.and(build(shared, range, segments, &covered));
        }
    }
    outcome
}

fn build(
    shared: &Shared,
    range: Range,
    segments: &[Arc<Segment>],
    covered: &Covered,
) -> Result<(), IndexError> {
    let path = path(&shared.settings, range);
    let indexes = segments.iter().filter_map(|segment| sealed(segment));
    Filter::build(&*shared.settings.disk, &path, covered, indexes)?;
    let filter = Filter::open(&shared.handles, &shared.index_cache, &path, covered)?;
    let mut filters = Filters::clone(&shared.filters.load());
    filters.0.insert(range, Arc::new(filter));
    shared.filters.store(Arc::new(filters));
    Ok(())
}

fn worth_it(span: u64, hashes: usize) -> bool {
    let least = if span == 1 { MIN_HASHES } else { 0 };
    (least..=MAX_HASHES).contains(&hashes)
}

/// What a check of filters found.
#[derive(Debug, Default)]
pub(crate) struct Checked {
    /// Filters that deny nothing their indexes have.
    pub(crate) sound: u64,
    /// Those that an open bucket would use and must not.
    pub(crate) bad: Vec<Damage>,
    /// Those that the next start removes.
    pub(crate) unused: Vec<Damage>,
}

/// Compares the filters of a stopped bucket with the indexes of their ranges.
pub(crate) fn check(settings: &LogSettings) -> Result<Checked, IndexError> {
    let handles = Handles::new(settings.disk.clone(), 1);
    let mut checked = Checked::default();
    let found = files(settings).map_err(IndexError::io("list", &settings.dir))?;
    for (range, path) in found {
        let opened = open_with_indexes(settings, &handles, range, &path)?;
        let Some((filter, indexes)) = opened else {
            let what = "the filter of other segments than there are, or no good one";
            checked.unused.push(Damage::new(&path, 0, what));
            continue;
        };
        let mut denied = false;
        let mut rotten = None;
        for index in &indexes {
            let all = index.for_each_sought(&mut |sought| match filter.may_have(sought) {
                Ok(may_have) => denied |= !may_have,
                Err(error) => rotten = rotten.take().or(Some(error)),
            });
            // An index that is damaged is told of by its own check.
            if !matches!(all, Err(IndexError::Damaged { .. })) {
                all?;
            }
        }
        match rotten {
            Some(IndexError::Damaged { offset, what, .. }) => {
                checked.bad.push(Damage::new(&path, offset, what));
            }
            Some(error) => return Err(error),
            None if denied => checked.bad.push(Damage::new(&path, 0, "denies what an index has")),
            None => checked.sound += 1,
        }
    }
    Ok(checked)
}

/// A filter as an open bucket would use it, and the indexes of its range.
fn open_with_indexes(
    settings: &LogSettings,
    handles: &Handles,
    (first, span): Range,
    path: &Path,
) -> Result<Option<(Filter, Vec<SealedIndex>)>, IndexError> {
    let (database, bucket) = (settings.identity.database(), settings.identity.bucket());
    let absent = |error: &IndexError| match error {
        IndexError::Damaged { .. } => true,
        IndexError::Io { source, .. } => source.kind() == io::ErrorKind::NotFound,
    };
    let mut indexes = Vec::new();
    for number in first..first + span {
        let path = index_path(settings, number);
        match SealedIndex::open(&*settings.disk, &path, database, bucket.0, number) {
            Ok(index) => indexes.push(index.opened_by(handles)),
            Err(error) if absent(&error) => return Ok(None),
            Err(error) => return Err(error),
        }
    }
    let Some(described) = indexes.last().map(|index| *index.described()) else { return Ok(None) };
    let covered = covered(settings, first, &described);
    // All of it is asked: a cache saves most reads.
    let cache = BlockCache::new(INDEX_CACHE_DEFAULT_BYTES);
    match Filter::open(handles, &cache, path, &covered) {
        Ok(filter) => Ok(Some((filter, indexes))),
        Err(error) if absent(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The filter files of a bucket, by their names alone.
fn files(settings: &LogSettings) -> io::Result<Vec<(Range, PathBuf)>> {
    // A directory that is lost has none.
    if !settings.disk.exists(&settings.dir)? {
        return Ok(Vec::new());
    }
    let ours = |name: String| {
        let (first, last) = name.strip_suffix(SUFFIX)?.split_once('-')?;
        let (first, last) = (first.parse::<u64>().ok()?, last.parse::<u64>().ok()?);
        let range = (first, last.checked_sub(first)?.checked_add(1)?);
        let file = path(settings, range);
        // Other names are none of ours.
        (SPANS.contains(&range.1) && file == settings.dir.join(name)).then_some((range, file))
    };
    Ok(settings.disk.list(&settings.dir)?.into_iter().filter_map(ours).collect())
}

fn sealed(segment: &Segment) -> Option<&SealedIndex> {
    match segment.index() {
        SegmentIndex::Sealed(index) => Some(index),
        SegmentIndex::Open(_) => None,
    }
}

/// The aligned ranges that a list of segments fills, the largest first.
fn ranges(list: &[Arc<Segment>]) -> impl Iterator<Item = (Range, &[Arc<Segment>])> {
    SPANS.into_iter().flat_map(move |span| {
        let chunks = list.chunks_exact(span as usize);
        chunks.map(move |segments| ((segments[0].number(), span), segments))
    })
}

/// What a filter over these segments vouches for; `None` unless all of them are sealed.
fn covered_by(settings: &LogSettings, segments: &[Arc<Segment>]) -> Option<Covered> {
    let all_sealed = segments.iter().all(|segment| sealed(segment).is_some());
    let (first, last) = (segments.first()?, sealed(segments.last()?)?.described());
    all_sealed.then(|| covered(settings, first.number(), last))
}

fn covered(settings: &LogSettings, first: u64, last: &Described) -> Covered {
    Covered {
        database: settings.identity.database(),
        bucket: settings.identity.bucket().0,
        first,
        last: last.segment,
        last_index: last.last_index,
        last_checksum: last.last_checksum,
    }
}

fn path(settings: &LogSettings, (first, span): Range) -> PathBuf {
    let last = first.saturating_add(span - 1);
    settings.dir.join(format!("{first:012}-{last:012}{SUFFIX}"))
}
