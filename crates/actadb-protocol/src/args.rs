//! What commands share: walking their arguments, and the lexical rules of values.

use actadb_model::ids::{PartitionId, PartitionKey};
use actadb_model::names::{EventName, StreamId};
use actadb_model::version::ExpectedVersion;
use uuid::Uuid;

use crate::error::{Code, ErrorReply, printable};
use crate::framer::Word;

/// How much of a bad value an error shows, in bytes.
const SHOWN_BYTES: usize = 64;

/// Arguments of a command, walked from the front.
#[derive(Debug)]
pub struct Arguments<'a> {
    command: &'static str,
    rest: &'a [Word<'a>],
}

impl<'a> Arguments<'a> {
    /// The arguments behind a command's name.
    #[must_use]
    pub fn new(command: &'static str, rest: &'a [Word<'a>]) -> Self {
        Self { command, rest }
    }

    /// The next one.
    ///
    /// # Errors
    /// Redis's words for a wrong number of arguments.
    pub fn take(&mut self) -> Result<&'a Word<'a>, ErrorReply> {
        self.optional().ok_or_else(|| ErrorReply::wrong_arity(self.command))
    }

    /// The next one, if there is one.
    pub fn optional(&mut self) -> Option<&'a Word<'a>> {
        let (first, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(first)
    }

    /// The next one, left where it is.
    #[must_use]
    pub fn peek(&self) -> Option<&'a Word<'a>> {
        self.rest.first()
    }

    /// How many are left.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rest.len()
    }

    /// Whether none is left.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// All that are left.
    pub fn rest(&mut self) -> &'a [Word<'a>] {
        std::mem::take(&mut self.rest)
    }

    /// Nothing may be left.
    ///
    /// # Errors
    /// Redis's words for a wrong number of arguments.
    pub fn end(&self) -> Result<(), ErrorReply> {
        if self.is_empty() { Ok(()) } else { Err(self.wrong_arity()) }
    }

    /// An argument that is no option of this command.
    #[must_use]
    pub fn unexpected(&self, argument: &[u8]) -> ErrorReply {
        let shown = printable(argument, SHOWN_BYTES);
        ErrorReply::new(Code::Syntax, format!("unexpected argument '{shown}' for {}", self.command))
    }

    /// Redis's words for a wrong number of arguments.
    #[must_use]
    pub fn wrong_arity(&self) -> ErrorReply {
        ErrorReply::wrong_arity(self.command)
    }

    /// The value behind an option.
    ///
    /// # Errors
    /// When there is none.
    pub fn value(&mut self, option: &str) -> Result<&'a Word<'a>, ErrorReply> {
        self.optional()
            .ok_or_else(|| ErrorReply::new(Code::Syntax, format!("{option} needs a value")))
    }
}

/// An option that may be given at most once.
#[derive(Debug)]
pub struct Once<T> {
    name: &'static str,
    value: Option<T>,
}

impl<T> Once<T> {
    /// Not given yet.
    #[must_use]
    pub fn new(name: &'static str) -> Self {
        Self { name, value: None }
    }

    /// Given now.
    ///
    /// # Errors
    /// When it was given before.
    pub fn set(&mut self, value: T) -> Result<(), ErrorReply> {
        match self.value.replace(value) {
            None => Ok(()),
            Some(_) => Err(ErrorReply::new(Code::Syntax, format!("{} is given twice", self.name))),
        }
    }

    /// What was given.
    #[must_use]
    pub fn get(self) -> Option<T> {
        self.value
    }
}

/// Whether an argument is a keyword, in any case.
#[must_use]
pub fn is_word(argument: &[u8], word: &str) -> bool {
    argument.eq_ignore_ascii_case(word.as_bytes())
}

/// The words for a value that is none of those wanted.
pub(crate) fn bad(name: &str, wanted: &str, got: &[u8]) -> ErrorReply {
    let got = printable(got, SHOWN_BYTES);
    ErrorReply::invalid(format!("{name} must be {wanted}, got '{got}'"))
}

/// Plain decimal digits.
fn decimal(argument: &[u8]) -> Option<u64> {
    let plain = !argument.is_empty() && argument.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(argument).ok().filter(|_| plain)?.parse().ok()
}

/// A number.
///
/// # Errors
/// By the option's name and value.
pub fn number(name: &str, argument: &[u8]) -> Result<u64, ErrorReply> {
    decimal(argument).ok_or_else(|| bad(name, "a number", argument))
}

/// A number within bounds.
///
/// # Errors
/// By the option's name and value.
pub fn bounded(name: &str, argument: &[u8], low: u64, high: u64) -> Result<u64, ErrorReply> {
    decimal(argument)
        .filter(|number| (low..=high).contains(number))
        .ok_or_else(|| bad(name, &format!("a number from {low} to {high}"), argument))
}

/// A UUID in any form.
///
/// # Errors
/// By the option's name and value.
pub fn uuid(name: &str, argument: &[u8]) -> Result<Uuid, ErrorReply> {
    Uuid::try_parse_ascii(argument).map_err(|_| bad(name, "a UUID", argument))
}

/// A partition key.
///
/// # Errors
/// By the option's name and value.
pub fn partition_key(argument: &[u8]) -> Result<PartitionKey, ErrorReply> {
    uuid("PARTITION_KEY", argument).map(PartitionKey::new)
}

/// An expected version.
///
/// # Errors
/// By the option's name and value.
pub fn expected_version(argument: &[u8]) -> Result<ExpectedVersion, ErrorReply> {
    if is_word(argument, "any") {
        Ok(ExpectedVersion::Any)
    } else if is_word(argument, "exists") {
        Ok(ExpectedVersion::Exists)
    } else if is_word(argument, "empty") {
        Ok(ExpectedVersion::Empty)
    } else {
        let exact = decimal(argument).map(ExpectedVersion::Exact);
        exact.ok_or_else(|| bad("EXPECTED_VERSION", "a number, any, exists or empty", argument))
    }
}

/// A stream id.
///
/// # Errors
/// Empty, too long, not UTF-8, control characters.
pub fn stream_id(argument: &[u8]) -> Result<StreamId, ErrorReply> {
    StreamId::from_bytes(argument).map_err(|error| ErrorReply::invalid(error.to_string()))
}

/// An event name.
///
/// # Errors
/// Empty, too long, not UTF-8, control characters.
pub fn event_name(argument: &[u8]) -> Result<EventName, ErrorReply> {
    EventName::from_bytes(argument).map_err(|error| ErrorReply::invalid(error.to_string()))
}

/// A partition, by its number or by a key that falls into it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PartitionSelector {
    /// By number.
    Id(PartitionId),
    /// By key.
    Key(PartitionKey),
}

/// A partition's number or key.
///
/// # Errors
/// When it is neither.
pub fn partition(argument: &[u8]) -> Result<PartitionSelector, ErrorReply> {
    if argument.len() < 32
        && let Some(number) = decimal(argument)
    {
        let wanted = "a partition number (0 to 65535) or a partition key UUID";
        let id = u16::try_from(number).map_err(|_| bad("partition", wanted, argument))?;
        return Ok(PartitionSelector::Id(PartitionId(id)));
    }
    let key = Uuid::try_parse_ascii(argument);
    key.map(|key| PartitionSelector::Key(PartitionKey::new(key)))
        .map_err(|_| bad("partition", "a partition number or a partition key UUID", argument))
}

/// The lower bound of a scan: `-` or a number.
///
/// # Errors
/// By what is wrong with it.
pub fn scan_start(argument: &[u8]) -> Result<u64, ErrorReply> {
    match argument {
        b"-" => Ok(0),
        b"+" => Err(ErrorReply::invalid("start must be '-' or a number, '+' is an end")),
        _ => decimal(argument).ok_or_else(|| bad("start", "'-' or a number", argument)),
    }
}

/// The upper bound of a scan: `+` or a number.
///
/// # Errors
/// By what is wrong with it.
pub fn scan_end(argument: &[u8]) -> Result<u64, ErrorReply> {
    match argument {
        b"+" => Ok(u64::MAX),
        b"-" => Err(ErrorReply::invalid("end must be '+' or a number, '-' is a start")),
        _ => decimal(argument).ok_or_else(|| bad("end", "'+' or a number", argument)),
    }
}
