//! `ESUB`, `EPSUB`, `EACK`, `EUNSUB`.
//!
//! The first word behind `ESUB` is always a stream; behind it, an option keyword is an option.

use std::collections::{BTreeMap, BTreeSet};

use actadb_model::ids::{PartitionId, PartitionKey};
use actadb_model::limits::{
    PARTITIONS_MAX, STREAM_ID_MAX_BYTES, SUBSCRIPTION_NAMES_MAX, SUBSCRIPTION_STREAMS_MAX,
    WINDOW_MAX,
};
use actadb_model::names::{EventName, StreamId};
use uuid::Uuid;

use crate::args::{
    Arguments, Once, PartitionSelector, bounded, event_name, is_word, number, partition,
    partition_key, stream_id, uuid,
};
use crate::error::{Code, ErrorReply, printable};

/// Most skipped events between two pushes that `PROGRESS` may ask for.
const PROGRESS_MAX: u64 = 1_000_000_000;

/// Where a subscription begins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum From {
    /// Behind what is committed.
    #[default]
    Latest,
    /// At this version or sequence.
    At(u64),
    /// At these, by stream or partition.
    Map {
        /// The positions given.
        positions: BTreeMap<String, u64>,
        /// For the others; the latest when it is not given.
        rest: Option<u64>,
    },
}

/// What both commands know.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SubscribeOptions {
    /// Where it begins.
    pub from: From,
    /// Most events without an acknowledgement.
    pub window: Option<u32>,
    /// Names of the events to see.
    pub names: Option<Vec<EventName>>,
    /// How ids of the streams to see begin; `EPSUB` only.
    pub prefix: Option<String>,
    /// Skipped events after which a progress is told.
    pub progress: Option<u64>,
}

/// `ESUB`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamSubscription {
    /// The streams, each with its key when given.
    pub streams: Vec<(StreamId, Option<PartitionKey>)>,
    /// The options.
    pub options: SubscribeOptions,
}

/// The partitions of an `EPSUB`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Partitions {
    /// `*`
    All,
    /// Exactly one number or key.
    One(PartitionSelector),
    /// A list or a range.
    Several(BTreeSet<PartitionId>),
}

/// `EPSUB`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionSubscription {
    /// The partitions.
    pub partitions: Partitions,
    /// The options.
    pub options: SubscribeOptions,
}

struct Options {
    with_prefix: bool,
    from: Once<From>,
    rest: Once<u64>,
    window: Once<u64>,
    names: Once<Vec<EventName>>,
    prefix: Once<String>,
    progress: Once<u64>,
}

impl Options {
    fn new(with_prefix: bool) -> Self {
        Self {
            with_prefix,
            from: Once::new("FROM"),
            rest: Once::new("DEFAULT"),
            window: Once::new("WINDOW"),
            names: Once::new("NAMES"),
            prefix: Once::new("PREFIX"),
            progress: Once::new("PROGRESS"),
        }
    }

    fn is_keyword(word: &[u8]) -> bool {
        // PREFIX is none of ESUB's options, and is not taken for a stream there either.
        let words = ["FROM", "DEFAULT", "WINDOW", "NAMES", "PROGRESS", "PREFIX"];
        words.iter().any(|name| is_word(word, name))
    }

    /// Takes all that are left.
    fn take(mut self, arguments: &mut Arguments<'_>) -> Result<SubscribeOptions, ErrorReply> {
        while let Some(word) = arguments.optional() {
            if is_word(word, "FROM") {
                let from = self.from(arguments)?;
                self.from.set(from)?;
            } else if is_word(word, "DEFAULT") {
                self.rest.set(number("DEFAULT", arguments.value("DEFAULT")?)?)?;
            } else if is_word(word, "WINDOW") {
                let value = arguments.value("WINDOW")?;
                self.window.set(bounded("WINDOW", value, 1, WINDOW_MAX.into())?)?;
            } else if is_word(word, "NAMES") {
                self.names.set(names(arguments.value("NAMES")?)?)?;
            } else if self.with_prefix && is_word(word, "PREFIX") {
                self.prefix.set(prefix(arguments.value("PREFIX")?)?)?;
            } else if is_word(word, "PROGRESS") {
                let value = arguments.value("PROGRESS")?;
                self.progress.set(bounded("PROGRESS", value, 1, PROGRESS_MAX)?)?;
            } else {
                return Err(arguments.unexpected(word));
            }
        }
        let mut from = self.from.get().unwrap_or_default();
        match (&mut from, self.rest.get()) {
            (_, None) => {}
            (From::Map { rest, .. }, given) => *rest = given,
            (_, Some(_)) => {
                return Err(ErrorReply::new(Code::Syntax, "DEFAULT needs FROM MAP"));
            }
        }
        Ok(SubscribeOptions {
            from,
            window: self.window.get().map(|window| window as u32),
            names: self.names.get(),
            prefix: self.prefix.get(),
            progress: self.progress.get(),
        })
    }

    fn from(&self, arguments: &mut Arguments<'_>) -> Result<From, ErrorReply> {
        let word = arguments.value("FROM")?;
        if is_word(word, "LATEST") {
            return Ok(From::Latest);
        }
        if !is_word(word, "MAP") {
            let at = number("FROM", word).map_err(|_| {
                let got = printable(word, 64);
                ErrorReply::invalid(format!("FROM must be LATEST, a number or MAP, got '{got}'"))
            });
            return at.map(From::At);
        }
        let mut positions = BTreeMap::new();
        while let Some(word) = arguments.peek() {
            // Names may contain a '=', numbers do not.
            let Some((name, position)) = split_last(word, b'=') else {
                if Self::is_keyword(word) {
                    break;
                }
                let got = printable(word, 64);
                let text = format!("FROM MAP takes pairs such as name=5, got '{got}'");
                return Err(ErrorReply::invalid(text));
            };
            arguments.take()?;
            let name = match self.with_prefix {
                // Of partitions, in one form.
                true => bounded("partition", name, 0, u16::MAX.into())?.to_string(),
                false => stream_id(name)?.to_string(),
            };
            let position = number(&format!("FROM MAP {name}"), position)?;
            if positions.insert(name.clone(), position).is_some() {
                let text = format!("FROM MAP names '{name}' twice");
                return Err(ErrorReply::new(Code::Syntax, text));
            }
        }
        Ok(From::Map { positions, rest: None })
    }
}

fn split_last(word: &[u8], separator: u8) -> Option<(&[u8], &[u8])> {
    let at = word.iter().rposition(|byte| *byte == separator)?;
    Some((&word[..at], &word[at + 1..]))
}

fn names(argument: &[u8]) -> Result<Vec<EventName>, ErrorReply> {
    let mut names = Vec::new();
    for name in argument.split(|byte| *byte == b',') {
        if names.len() == SUBSCRIPTION_NAMES_MAX {
            let text = format!("NAMES takes at most {SUBSCRIPTION_NAMES_MAX} names");
            return Err(ErrorReply::invalid(text));
        }
        names.push(event_name(name)?);
    }
    Ok(names)
}

fn prefix(argument: &[u8]) -> Result<String, ErrorReply> {
    let text = std::str::from_utf8(argument).ok();
    let good = text.filter(|text| !text.is_empty() && text.len() <= STREAM_ID_MAX_BYTES);
    good.map(str::to_owned).ok_or_else(|| {
        let got = printable(argument, 64);
        let wanted = format!("the beginning of a stream id (1 to {STREAM_ID_MAX_BYTES} bytes)");
        ErrorReply::invalid(format!("PREFIX must be {wanted}, got '{got}'"))
    })
}

/// `ESUB (<stream> [PARTITION_KEY u])+ [FROM LATEST|n|MAP s=n…] [DEFAULT n] [WINDOW n]
/// [NAMES n1,n2] [PROGRESS n]`
///
/// # Errors
/// By the name and value of what is wrong.
pub fn subscribe_streams(mut arguments: Arguments<'_>) -> Result<StreamSubscription, ErrorReply> {
    let options = Options::new(false);
    let mut streams = Vec::new();
    loop {
        let stream = stream_id(arguments.take()?)?;
        let mut key = None;
        if arguments.peek().is_some_and(|word| is_word(word, "PARTITION_KEY")) {
            arguments.take()?;
            key = Some(partition_key(arguments.value("PARTITION_KEY")?)?);
        }
        streams.push((stream, key));
        if streams.len() > SUBSCRIPTION_STREAMS_MAX {
            let text = format!("a subscription has at most {SUBSCRIPTION_STREAMS_MAX} streams");
            return Err(ErrorReply::invalid(text));
        }
        if arguments.peek().is_none_or(|word| Options::is_keyword(word)) {
            break;
        }
    }
    Ok(StreamSubscription { streams, options: options.take(&mut arguments)? })
}

/// `EPSUB *|p|p,q,a-b|<key> [FROM LATEST|n|MAP p=n…] [DEFAULT n] [WINDOW n] [NAMES n1,n2]
/// [PREFIX p] [PROGRESS n]`
///
/// # Errors
/// By the name and value of what is wrong.
pub fn subscribe_partitions(
    mut arguments: Arguments<'_>,
) -> Result<PartitionSubscription, ErrorReply> {
    let partitions = partitions(arguments.take()?)?;
    Ok(PartitionSubscription { partitions, options: Options::new(true).take(&mut arguments)? })
}

fn partitions(argument: &[u8]) -> Result<Partitions, ErrorReply> {
    if argument == b"*" {
        return Ok(Partitions::All);
    }
    // A UUID has dashes, too.
    let lists = argument.iter().any(|byte| matches!(byte, b',' | b'-'));
    if !lists || Uuid::try_parse_ascii(argument).is_ok() {
        return partition(argument).map(Partitions::One);
    }
    let mut several = BTreeSet::new();
    for part in argument.split(|byte| *byte == b',') {
        let (first, last) = split_last(part, b'-').unwrap_or((part, part));
        let number = |text: &[u8]| {
            let number = number("partition", text).ok().and_then(|n| u16::try_from(n).ok());
            number.ok_or_else(|| {
                let got = printable(part, 64);
                let wanted = "partition numbers or ranges such as 0-7";
                ErrorReply::invalid(format!("partitions must be {wanted}, got '{got}'"))
            })
        };
        let (first, last) = (number(first)?, number(last)?);
        if first > last {
            let text = format!("the range {first}-{last} is empty: the lower number comes first");
            return Err(ErrorReply::invalid(text));
        }
        for id in first..=last {
            // At the first that no database has, or that was there before: a short argument can
            // name millions.
            if id >= PARTITIONS_MAX {
                let text = format!("partition {id} does not exist in any database");
                return Err(ErrorReply::invalid(text));
            }
            if !several.insert(PartitionId(id)) {
                return Err(ErrorReply::invalid(format!("partition {id} is named twice")));
            }
        }
    }
    Ok(Partitions::Several(several))
}

/// `EACK <subscription> <cursor>`
///
/// # Errors
/// By the name and value of what is wrong.
pub fn acknowledge(mut arguments: Arguments<'_>) -> Result<(Uuid, u64), ErrorReply> {
    let subscription = uuid("subscription", arguments.take()?)?;
    let cursor = number("cursor", arguments.take()?)?;
    arguments.end()?;
    Ok((subscription, cursor))
}

/// `EUNSUB <subscription>`
///
/// # Errors
/// By the name and value of what is wrong.
pub fn unsubscribe(mut arguments: Arguments<'_>) -> Result<Uuid, ErrorReply> {
    let subscription = uuid("subscription", arguments.take()?)?;
    arguments.end()?;
    Ok(subscription)
}
