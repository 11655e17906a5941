//! What can go wrong, as callers tell it apart.

use std::fmt;

use actadb_model::version::{CurrentVersion, ExpectedVersion};
use uuid::Uuid;

/// Why a request was not carried out, or not answered.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The stream is not where the append expected it. Nothing was appended: read the stream,
    /// decide anew.
    #[error("stream {stream} is at version {}, expected {expected}", CurrentVersion(*.current))]
    WrongExpectedVersion {
        /// The stream.
        stream: String,
        /// What the append expected.
        expected: ExpectedVersion,
        /// The stream's latest version; `None` when it has no events.
        current: Option<u64>,
    },
    /// The server refused, and why. Nothing was appended.
    #[error("{code}: {text}")]
    Refused {
        /// The kind.
        code: Code,
        /// The server's words.
        text: String,
    },
    /// An append may or may not have happened: no definite answer came within
    /// [`retry_timeout`](crate::ClientOptions::retry_timeout). Append the same events with these
    /// ids again to find out: they are not appended twice.
    #[error("whether the append happened is not known ({last}); try again with the same event ids")]
    Unknown {
        /// The ids, in the order of the events.
        event_ids: Vec<Uuid>,
        /// What the last try met.
        last: String,
    },
    /// The server could not be reached, or the connection broke before the answer. Of an append
    /// this means that it was never sent.
    #[error("no connection to {address}: {reason}")]
    Disconnected {
        /// Where the server should be.
        address: String,
        /// What happened.
        reason: String,
    },
    /// Where the database was that this client began with, another one answers: it was restored
    /// or made anew, or is that of another cluster. Positions of before mean nothing there.
    #[error("{address} has database {found}, this client began with database {expected}")]
    OtherDatabase {
        /// Who answers.
        address: String,
        /// Its database.
        found: String,
        /// The one that the first connection of this client led to.
        expected: String,
    },
    /// The request makes no sense and was not sent.
    #[error("{0}")]
    Invalid(String),
    /// A value is no JSON, or not of that shape.
    #[error("{what}: {source}")]
    Json {
        /// Which value.
        what: String,
        /// Why.
        source: serde_json::Error,
    },
    /// The server answered something that ActaDB does not answer.
    #[error("unexpected answer: {0}")]
    Protocol(String),
}

impl Error {
    pub(crate) fn invalid(why: impl fmt::Display) -> Self {
        Self::Invalid(why.to_string())
    }

    /// Whether the same request may succeed a little later.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Disconnected { .. } | Self::Unknown { .. } => true,
            Self::Refused { code, .. } => code.is_transient(),
            _ => false,
        }
    }

    /// Whether another node may be able to what this one is not, now.
    pub(crate) fn asks_elsewhere(&self) -> bool {
        match self {
            Self::Disconnected { .. } => true,
            Self::Refused { code, .. } => matches!(code, Code::TryAgain | Code::NoQuorum),
            _ => false,
        }
    }

    /// An error reply.
    pub(crate) fn reply(code: &str, text: &str) -> Self {
        let code = Code::of(code);
        if code == Code::WrongVersion
            && let Some(wrong) = wrong_version(text)
        {
            return wrong;
        }
        Self::Refused { code, text: text.to_owned() }
    }

    /// `CODE text`, as in a push that closes a subscription.
    pub(crate) fn line(line: &str) -> Self {
        let (code, text) = line.split_once(' ').unwrap_or((line, ""));
        Self::reply(code, text)
    }
}

/// The kind of a refusal: the first word of an error reply.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Code {
    /// `INVALIDARG`: a value that makes no sense.
    InvalidArgument,
    /// `SYNTAX`: arguments that do not form the command.
    Syntax,
    /// `WRONGVER` in words that this client does not know.
    WrongVersion,
    /// `DUPLICATE`: an event id is taken by another event.
    Duplicate,
    /// `TOOLARGE`: the transaction is too large.
    TooLarge,
    /// `DISKFULL`: no space.
    DiskFull,
    /// `READONLY`: the bucket takes no appends until a restart.
    ReadOnly,
    /// `TRYAGAIN`: not now.
    TryAgain,
    /// `CLUSTERDOWN`: no majority of the nodes answers this one.
    NoQuorum,
    /// `UNCERTAIN`: a failure struck while the append was under way.
    Uncertain,
    /// `TIMEOUT`: no answer in the server's time.
    Timeout,
    /// `NOTFOUND`: there is no such thing.
    NotFound,
    /// `CORRUPT`: stored data is damaged.
    Corrupt,
    /// `READERR`: stored data could not be read.
    ReadFailed,
    /// `NOAUTH`: the server wants a password.
    NoPassword,
    /// `WRONGPASS`: it wants another one.
    WrongPassword,
    /// Any other word.
    Other(String),
}

const CODES: &[(&str, Code)] = &[
    ("INVALIDARG", Code::InvalidArgument),
    ("SYNTAX", Code::Syntax),
    ("WRONGVER", Code::WrongVersion),
    ("DUPLICATE", Code::Duplicate),
    ("TOOLARGE", Code::TooLarge),
    ("DISKFULL", Code::DiskFull),
    ("READONLY", Code::ReadOnly),
    ("TRYAGAIN", Code::TryAgain),
    ("CLUSTERDOWN", Code::NoQuorum),
    ("UNCERTAIN", Code::Uncertain),
    ("TIMEOUT", Code::Timeout),
    ("NOTFOUND", Code::NotFound),
    ("CORRUPT", Code::Corrupt),
    ("READERR", Code::ReadFailed),
    ("NOAUTH", Code::NoPassword),
    ("WRONGPASS", Code::WrongPassword),
];

impl Code {
    fn of(word: &str) -> Self {
        let known = CODES.iter().find(|(code, _)| *code == word);
        known.map_or_else(|| Self::Other(word.to_owned()), |(_, code)| code.clone())
    }

    /// Whether the append may have happened nevertheless.
    pub(crate) fn is_unknown(&self) -> bool {
        matches!(self, Self::Uncertain | Self::Timeout)
    }

    fn is_transient(&self) -> bool {
        matches!(self, Self::TryAgain | Self::NoQuorum | Self::Uncertain | Self::Timeout)
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = CODES.iter().find(|(_, code)| code == self);
        f.write_str(match (self, known) {
            (Self::Other(word), _) => word,
            (_, Some((word, _))) => word,
            _ => "ERR",
        })
    }
}

/// `current stream version is <n|empty> but expected <n|any|exists|empty> for partition key <uuid>
/// and stream id <id>`
fn wrong_version(text: &str) -> Option<Error> {
    let rest = text.strip_prefix("current stream version is ")?;
    let (current, rest) = rest.split_once(" but expected ")?;
    let (expected, rest) = rest.split_once(" for partition key ")?;
    let (_, stream) = rest.split_once(" and stream id ")?;
    let current = match current {
        "empty" => None,
        number => Some(number.parse().ok()?),
    };
    let expected = match expected {
        "any" => ExpectedVersion::Any,
        "exists" => ExpectedVersion::Exists,
        "empty" => ExpectedVersion::Empty,
        number => ExpectedVersion::Exact(number.parse().ok()?),
    };
    Some(Error::WrongExpectedVersion { stream: stream.to_owned(), expected, current })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_versions_are_read_whatever_the_stream_is_called() {
        let name = "x and stream id y but expected 3";
        let key = "b5caaf75-d5ce-5289-a5cb-29de88f7c202";
        for (words, wanted, found) in [
            ("1 but expected 7", ExpectedVersion::Exact(7), Some(1)),
            ("empty but expected exists", ExpectedVersion::Exists, None),
            ("18446744073709551615 but expected empty", ExpectedVersion::Empty, Some(u64::MAX)),
        ] {
            let line = format!(
                "WRONGVER current stream version is {words} for partition key {key} and stream \
                 id {name}"
            );
            let Error::WrongExpectedVersion { stream, expected, current } = Error::line(&line)
            else {
                panic!("{line}")
            };
            assert_eq!((stream.as_str(), expected, current), (name, wanted, found));
        }
        assert!(matches!(Error::line("WRONGVER what"), Error::Refused { .. }));
    }

    #[test]
    fn codes_are_told_as_they_came() {
        for (word, code) in CODES {
            assert_eq!((&Code::of(word), code.to_string().as_str()), (code, *word));
        }
        assert_eq!(Code::of("NEW").to_string(), "NEW");
    }
}
