//! `EGET`, `ESCAN`, `EPSCAN`, `ESVER`, `EPSEQ`.

use actadb_model::ids::PartitionKey;
use actadb_model::limits::{PAGE_DEFAULT_EVENTS, PAGE_MAX_EVENTS};
use actadb_model::names::StreamId;
use uuid::Uuid;

use crate::args::{
    Arguments, Once, PartitionSelector, bad, bounded, is_word, number, partition, partition_key,
    scan_end, scan_start, stream_id, uuid,
};
use crate::error::ErrorReply;

/// How much a read must know. On a node that is alone both are the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consistency {
    /// What the node that is asked has: a prefix of the log, in order, perhaps a moment behind.
    Local,
    /// Everything that any node acknowledged before the read was sent.
    Linearizable,
}

/// Bounds, size and order of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScanRange {
    /// Lowest version or sequence, inclusive.
    pub start: u64,
    /// Highest version or sequence, inclusive.
    pub end: u64,
    /// Most events.
    pub count: usize,
    /// Newest first.
    pub reverse: bool,
    /// How long to wait for the first event, in milliseconds; 0 for ever.
    pub block_ms: Option<u64>,
    /// How much it must know before it reads.
    pub consistency: Consistency,
}

/// A page of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamScan {
    /// The stream.
    pub stream: StreamId,
    /// Its key, when given.
    pub partition_key: Option<PartitionKey>,
    /// The page.
    pub range: ScanRange,
}

/// `READ LOCAL|LINEARIZABLE`
fn consistency(arguments: &mut Arguments<'_>) -> Result<Consistency, ErrorReply> {
    let word = arguments.value("READ")?;
    if is_word(word, "LOCAL") {
        Ok(Consistency::Local)
    } else if is_word(word, "LINEARIZABLE") {
        Ok(Consistency::Linearizable)
    } else {
        Err(bad("READ", "LOCAL or LINEARIZABLE", word))
    }
}

/// Nothing but `READ` may follow.
fn only_consistency(
    mut arguments: Arguments<'_>,
    otherwise: Consistency,
) -> Result<Consistency, ErrorReply> {
    let mut read = Once::new("READ");
    while let Some(word) = arguments.optional() {
        if !is_word(word, "READ") {
            return Err(arguments.unexpected(word));
        }
        read.set(consistency(&mut arguments)?)?;
    }
    Ok(read.get().unwrap_or(otherwise))
}

/// `EGET <event_id> [READ c]`
///
/// # Errors
/// By the name and value of what is wrong.
pub fn get(mut arguments: Arguments<'_>) -> Result<(Uuid, Consistency), ErrorReply> {
    let id = uuid("event id", arguments.take()?)?;
    Ok((id, only_consistency(arguments, Consistency::Local)?))
}

/// `ESCAN <stream> <start|-> <end|+> [PARTITION_KEY u] [COUNT n] [REV] [BLOCK ms] [READ c]`
///
/// # Errors
/// By the name and value of what is wrong.
pub fn scan_stream(mut arguments: Arguments<'_>) -> Result<StreamScan, ErrorReply> {
    let stream = stream_id(arguments.take()?)?;
    let (range, partition_key) = range(arguments, true)?;
    Ok(StreamScan { stream, partition_key, range })
}

/// `EPSCAN <partition> <start|-> <end|+> [COUNT n] [REV] [BLOCK ms] [READ c]`
///
/// # Errors
/// By the name and value of what is wrong.
pub fn scan_partition(
    mut arguments: Arguments<'_>,
) -> Result<(PartitionSelector, ScanRange), ErrorReply> {
    let selector = partition(arguments.take()?)?;
    let (range, _) = range(arguments, false)?;
    Ok((selector, range))
}

fn range(
    mut arguments: Arguments<'_>,
    with_key: bool,
) -> Result<(ScanRange, Option<PartitionKey>), ErrorReply> {
    let start = scan_start(arguments.take()?)?;
    let end = scan_end(arguments.take()?)?;
    let mut count = Once::new("COUNT");
    let mut reverse = Once::new("REV");
    let mut key = Once::new("PARTITION_KEY");
    let mut block = Once::new("BLOCK");
    let mut read = Once::new("READ");
    while let Some(word) = arguments.optional() {
        if is_word(word, "BLOCK") {
            block.set(number("BLOCK", arguments.value("BLOCK")?)?)?;
        } else if is_word(word, "COUNT") {
            let most = PAGE_MAX_EVENTS as u64;
            count.set(bounded("COUNT", arguments.value("COUNT")?, 1, most)? as usize)?;
        } else if is_word(word, "REV") {
            reverse.set(())?;
        } else if is_word(word, "READ") {
            read.set(consistency(&mut arguments)?)?;
        } else if with_key && is_word(word, "PARTITION_KEY") {
            key.set(partition_key(arguments.value("PARTITION_KEY")?)?)?;
        } else {
            return Err(arguments.unexpected(word));
        }
    }
    let count = count.get().unwrap_or(PAGE_DEFAULT_EVENTS);
    let reverse = reverse.get().is_some();
    let consistency = read.get().unwrap_or(Consistency::Local);
    let block_ms = block.get();
    Ok((ScanRange { start, end, count, reverse, block_ms, consistency }, key.get()))
}

/// The stream whose latest version is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VersionOf {
    /// The stream.
    pub stream: StreamId,
    /// Its key, when given.
    pub partition_key: Option<PartitionKey>,
    /// How much the answer must know.
    pub consistency: Consistency,
}

/// `ESVER <stream> [PARTITION_KEY u] [READ c]`
///
/// # Errors
/// By the name and value of what is wrong.
pub fn stream_version(mut arguments: Arguments<'_>) -> Result<VersionOf, ErrorReply> {
    let stream = stream_id(arguments.take()?)?;
    let mut key = Once::new("PARTITION_KEY");
    let mut read = Once::new("READ");
    while let Some(word) = arguments.optional() {
        if is_word(word, "READ") {
            read.set(consistency(&mut arguments)?)?;
        } else if is_word(word, "PARTITION_KEY") {
            key.set(partition_key(arguments.value("PARTITION_KEY")?)?)?;
        } else {
            return Err(arguments.unexpected(word));
        }
    }
    let consistency = read.get().unwrap_or(Consistency::Linearizable);
    Ok(VersionOf { stream, partition_key: key.get(), consistency })
}

/// `EPSEQ <partition> [READ c]`
///
/// # Errors
/// By the name and value of what is wrong.
pub fn partition_sequence(
    mut arguments: Arguments<'_>,
) -> Result<(PartitionSelector, Consistency), ErrorReply> {
    let selector = partition(arguments.take()?)?;
    Ok((selector, only_consistency(arguments, Consistency::Linearizable)?))
}
