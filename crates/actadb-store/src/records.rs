//! The records of an entry, one after the other.

use actadb_log::format::{BATCH_HEAD_BYTES, LogIdentity};
use actadb_model::entry::{Entry, EntryKind};

use crate::record::{BadRecord, FIXED_BYTES, Indexed, Record, decode, decode_indexed, length};

/// The records of an entry, each with its byte in the body. Goes on behind a bad one if the length
/// it tells is possible.
pub fn records(
    identity: LogIdentity,
    entry: &Entry,
) -> impl Iterator<Item = (u32, Result<Record, BadRecord>)> {
    let body = entry.body.clone();
    places(entry).map(move |at| (at, decode(identity, &body.slice(at as usize..))))
}

/// As [`records`], for an index.
pub(crate) fn records_for_index(
    identity: LogIdentity,
    entry: &Entry,
) -> impl Iterator<Item = (u32, Result<Option<Indexed<'_>>, BadRecord>)> {
    places(entry).map(move |at| (at, decode_indexed(identity, &entry.body[at as usize..])))
}

/// Where the records of an entry begin.
fn places(entry: &Entry) -> impl Iterator<Item = u32> + use<> {
    let body = entry.body.clone();
    let mut at = match entry.kind {
        EntryKind::Batch => BATCH_HEAD_BYTES.min(body.len()),
        EntryKind::Noop | EntryKind::Conf => body.len(),
    };
    std::iter::from_fn(move || {
        let rest = body.get(at..).filter(|rest| !rest.is_empty())?;
        let start = at;
        at = match length(rest) {
            Some(length) if (FIXED_BYTES..=rest.len()).contains(&length) => at + length,
            _ => body.len(),
        };
        Some(start as u32)
    })
}
