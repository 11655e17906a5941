//! The filters of a bucket: what ranges of sealed segments do not have.
//!
//! Ranges are aligned and of 16, 256 and 4096 segments, so a lookup that finds nothing asks a few
//! filters instead of thousands of indexes: with n segments at most n / 4096 + 15 + 15, and 15
//! indexes. Filters only ever save work: without one, with a bad one, or while one is not built
//! yet, the indexes are asked.

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
use actadb_log::error::Damage;
use actadb_log::format::LogIdentity;
use actadb_log::writer::LogSettings;
use actadb_model::limits::INDEX_CACHE_DEFAULT_BYTES;

use crate::open::index_path;

use crate::segments::{Segment, SegmentIndex, Shared};

/// Segments of a range, the largest first.
const SPANS: [u64; 3] = [4096, 256, 16];
/// Larger ranges get no filter: it takes twelve bits of memory to build for each of these.
const MAX_HASHES: usize = 32 << 20;

/// Most filters that one seal builds, so that it does not take too long where many are missing.
const BUILT_AT_ONCE: usize = 8;
const SUFFIX: &str = ".filter";

/// Filters by the first segment and the span of their ranges.
#[derive(Clone, Debug, Default)]
pub(crate) struct Filters(BTreeMap<(u64, u64), Arc<Filter>>);

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
            let aligned = first % span == 1;
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

/// Opens the filters of a bucket whose segments are all known. One that is missing or does not fit
/// is built again when the next segment is sealed; those that cannot be used are removed.
pub(crate) fn open(shared: &Shared) {
    let list = shared.list.load();
    let mut filters = Filters::default();
    for (range, segments) in ranges(&list) {
        let path = path(shared, range.0, range.1);
        let filter = covered_by(&shared.settings, segments).and_then(|covered| {
            Filter::open(&shared.handles, &shared.index_cache, &path, &covered).ok()
        });
        if let Some(filter) = filter {
            filters.0.insert(range, Arc::new(filter));
        }
    }
    let used = |file: &PathBuf| filters.0.keys().any(|(f, span)| *file == path(shared, *f, *span));
    for file in files(&shared.settings).unwrap_or_default() {
        if !used(&file) {
            let _ = shared.settings.disk.remove(&file);
        }
    }
    shared.filters.store(Arc::new(filters));
}

/// Builds the filters of ranges that are sealed and have none.
pub(crate) fn extend(shared: &Shared) -> Result<(), IndexError> {
    let list = shared.list.load_full();
    let mut built = 0;
    for (range, segments) in ranges(&list) {
        let hashes = |index: &SealedIndex| index.counts().0 + index.counts().1;
        let size: usize = segments.iter().filter_map(|s| sealed(s)).map(hashes).sum();
        let known = shared.filters.load().0.contains_key(&range);
        let covered = covered_by(&shared.settings, segments);
        let Some(covered) = covered.filter(|_| !known && size <= MAX_HASHES) else {
            continue;
        };
        let path = path(shared, range.0, range.1);
        let indexes = segments.iter().filter_map(|segment| sealed(segment));
        Filter::build(&*shared.settings.disk, &path, &covered, indexes)?;
        let filter = Filter::open(&shared.handles, &shared.index_cache, &path, &covered)?;
        let mut filters = Filters::clone(&shared.filters.load());
        filters.0.insert(range, Arc::new(filter));
        shared.filters.store(Arc::new(filters));
        built += 1;
        if built == BUILT_AT_ONCE {
            break;
        }
    }
    Ok(())
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
    for path in files(settings)? {
        let Some((filter, indexes)) = open_with_indexes(settings, &handles, &path)? else {
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
    path: &Path,
) -> Result<Option<(Filter, Vec<SealedIndex>)>, IndexError> {
    let name = path.file_stem().and_then(|stem| stem.to_str()?.split_once('-'));
    let Some((Ok(first), Ok(last))) = name.map(|(f, l)| (f.parse::<u64>(), l.parse::<u64>()))
    else {
        return Ok(None);
    };
    let LogIdentity { database, bucket } = settings.identity;
    let absent = |error: &IndexError| match error {
        IndexError::Damaged { .. } => true,
        IndexError::Io { source, .. } => source.kind() == io::ErrorKind::NotFound,
    };
    let mut indexes = Vec::new();
    for number in first..=last {
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

/// Paths of all filters of a bucket.
fn files(settings: &LogSettings) -> Result<Vec<PathBuf>, IndexError> {
    let names = settings.disk.list(&settings.dir).map_err(IndexError::io("list", &settings.dir))?;
    let names = names.into_iter().filter(|name| name.ends_with(SUFFIX));
    Ok(names.map(|name| settings.dir.join(name)).collect())
}

fn sealed(segment: &Segment) -> Option<&SealedIndex> {
    match segment.index() {
        SegmentIndex::Sealed(index) => Some(index),
        SegmentIndex::Open(_) => None,
    }
}

/// The aligned ranges that a list of segments fills, the small ones first.
fn ranges(list: &[Arc<Segment>]) -> impl Iterator<Item = ((u64, u64), &[Arc<Segment>])> {
    SPANS.into_iter().rev().flat_map(move |span| {
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
        database: settings.identity.database,
        bucket: settings.identity.bucket.0,
        first,
        last: last.segment,
        last_index: last.last_index,
        last_checksum: last.last_checksum,
    }
}

fn path(shared: &Shared, first: u64, span: u64) -> PathBuf {
    shared.settings.dir.join(format!("{first:012}-{:012}{SUFFIX}", first + span - 1))
}
