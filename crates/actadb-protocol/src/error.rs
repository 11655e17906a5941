//! Every word that a client sees when something is wrong.

use std::fmt;

use actadb_model::outcome::{AppendError, ClosedReason, Refusal, Unknown};
use actadb_model::transaction::InvalidTransaction;

use crate::framer::Word;

/// Codes of the errors that ActaDB sends: the first word, for programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Code {
    /// Redis's general one.
    Err,
    /// A value that makes no sense. Definite.
    InvalidArg,
    /// Arguments that do not form the command. Definite.
    Syntax,
    /// The stream is not where it was expected. Definite.
    WrongVer,
    /// An event id is taken. Definite.
    Duplicate,
    /// The transaction is too large. Definite.
    TooLarge,
    /// No space. Definite; try again when there is.
    DiskFull,
    /// The bucket takes no appends any more. Definite.
    ReadOnly,
    /// Not now. Definite; try again.
    TryAgain,
    /// No majority of the nodes answers. Definite; try again.
    ClusterDown,
    /// The outcome is unknown; retry with the same event ids.
    Uncertain,
    /// No answer in time, the outcome is unknown; retry with the same event ids.
    Timeout,
    /// There is no such thing.
    NotFound,
    /// Stored data is damaged.
    Corrupt,
    /// Stored data could not be read.
    ReadErr,
    /// Authenticate first.
    NoAuth,
    /// Wrong password.
    WrongPass,
    /// An unknown protocol version.
    NoProto,
}

impl Code {
    /// The word on the wire.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Err => "ERR",
            Self::InvalidArg => "INVALIDARG",
            Self::Syntax => "SYNTAX",
            Self::WrongVer => "WRONGVER",
            Self::Duplicate => "DUPLICATE",
            Self::TooLarge => "TOOLARGE",
            Self::DiskFull => "DISKFULL",
            Self::ReadOnly => "READONLY",
            Self::TryAgain => "TRYAGAIN",
            Self::ClusterDown => "CLUSTERDOWN",
            Self::Uncertain => "UNCERTAIN",
            Self::Timeout => "TIMEOUT",
            Self::NotFound => "NOTFOUND",
            Self::Corrupt => "CORRUPT",
            Self::ReadErr => "READERR",
            Self::NoAuth => "NOAUTH",
            Self::WrongPass => "WRONGPASS",
            Self::NoProto => "NOPROTO",
        }
    }
}

/// An error reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ErrorReply {
    /// The first word.
    pub code: Code,
    /// The rest. Line ends are replaced when it is written.
    pub text: String,
}

impl fmt::Display for ErrorReply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.code.word(), self.text)
    }
}

impl ErrorReply {
    /// An error.
    #[must_use]
    pub fn new(code: Code, text: impl Into<String>) -> Self {
        Self { code, text: text.into() }
    }

    /// A value that makes no sense.
    #[must_use]
    pub fn invalid(text: impl Into<String>) -> Self {
        Self::new(Code::InvalidArg, text)
    }

    /// Redis's words for a command with too few or too many arguments.
    #[must_use]
    pub fn wrong_arity(command: &str) -> Self {
        let command = command.to_ascii_lowercase();
        Self::new(Code::Err, format!("wrong number of arguments for '{command}' command"))
    }

    /// Redis's words for a command that does not exist.
    #[must_use]
    pub fn unknown_command(command: &[u8], arguments: &[Word<'_>]) -> Self {
        let mut beginning = String::new();
        for argument in arguments {
            if beginning.len() >= 128 {
                break;
            }
            let left = 128 - beginning.len();
            beginning.push_str(&format!("'{}' ", printable(argument, left)));
        }
        let command = printable(command, 128);
        let text = format!("unknown command '{command}', with args beginning with: {beginning}");
        Self::new(Code::Err, text)
    }

    /// Redis's words for a subcommand that does not exist.
    #[must_use]
    pub fn unknown_subcommand(command: &str, subcommand: &[u8]) -> Self {
        let subcommand = printable(subcommand, 128);
        Self::new(Code::Err, format!("unknown subcommand '{subcommand}'. Try {command} HELP."))
    }
}

/// Bytes as text for an error: at most `limit` of them, nothing that could break a line.
#[must_use]
pub fn printable(bytes: &[u8], limit: usize) -> String {
    let shown = bytes.get(..limit).unwrap_or(bytes);
    let text = String::from_utf8_lossy(shown);
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

impl From<InvalidTransaction> for ErrorReply {
    fn from(error: InvalidTransaction) -> Self {
        match error {
            InvalidTransaction::RepeatedId(_) => Self::new(Code::Duplicate, error.to_string()),
            _ => Self::invalid(error.to_string()),
        }
    }
}

impl From<AppendError> for ErrorReply {
    fn from(error: AppendError) -> Self {
        match error {
            AppendError::Refused(refusal) => refusal.into(),
            AppendError::Unknown(unknown) => unknown.into(),
        }
    }
}

impl From<Refusal> for ErrorReply {
    fn from(refusal: Refusal) -> Self {
        let code = match &refusal {
            Refusal::WrongVersion { .. } => Code::WrongVer,
            Refusal::Duplicate { .. } => Code::Duplicate,
            Refusal::OtherPartitionKey { .. }
            | Refusal::NotStrict { .. }
            | Refusal::Exhausted { .. } => Code::InvalidArg,
            Refusal::TooLarge { .. } => Code::TooLarge,
            Refusal::NoRoom => Code::DiskFull,
            Refusal::NoQuorum => Code::ClusterDown,
            Refusal::NotLeader | Refusal::Stopping | Refusal::Busy => Code::TryAgain,
            Refusal::ReadFailed(_) => Code::ReadErr,
            Refusal::Closed(ClosedReason::Stopping) => Code::TryAgain,
            Refusal::Closed(_) => Code::ReadOnly,
        };
        Self::new(code, refusal.to_string())
    }
}

impl From<Unknown> for ErrorReply {
    fn from(unknown: Unknown) -> Self {
        let code = match unknown {
            Unknown::Uncertain => Code::Uncertain,
            Unknown::Timeout => Code::Timeout,
        };
        Self::new(code, unknown.to_string())
    }
}
