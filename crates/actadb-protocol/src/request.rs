//! From the arguments of a request to a command.

use actadb_model::transaction::Transaction;
use bytes::Bytes;
use uuid::Uuid;

use crate::args::{Arguments, PartitionSelector};
use crate::catalog;
use crate::connection::{self, Client, Commands, Hello};
use crate::error::ErrorReply;
use crate::framer::Word;
use crate::read::{self, Consistency, ScanRange, StreamScan, VersionOf};
use crate::subscribe::{self, PartitionSubscription, StreamSubscription};

/// A command with its values checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// `EAPPEND`
    Append(Transaction),
    /// `EMAPPEND`
    AppendMany(Transaction),
    /// `EGET`
    Get(Uuid, Consistency),
    /// `ESCAN`
    ScanStream(StreamScan),
    /// `EPSCAN`
    ScanPartition(PartitionSelector, ScanRange),
    /// `ESVER`
    StreamVersion(VersionOf),
    /// `EPSEQ`
    PartitionSequence(PartitionSelector, Consistency),
    /// `ESUB`
    SubscribeStreams(StreamSubscription),
    /// `EPSUB`
    SubscribePartitions(PartitionSubscription),
    /// `EACK`
    Acknowledge(Uuid, u64),
    /// `EUNSUB`
    Unsubscribe(Uuid),
    /// `HELLO`
    Hello(Hello),
    /// `AUTH`
    Auth(Option<Bytes>, Bytes),
    /// `PING`
    Ping(Option<Bytes>),
    /// `ECHO`
    Echo(Bytes),
    /// `QUIT`
    Quit,
    /// `RESET`
    Reset,
    /// `SELECT 0`
    Select,
    /// `CLIENT`
    Client(Client),
    /// `COMMAND`
    Commands(Commands),
    /// `INFO`
    Info(Vec<Bytes>),
    /// `CONFIG GET`
    ConfigGet(Vec<Bytes>),
    /// `DBSIZE`
    DbSize,
    /// `TIME`
    Time,
    /// `MODULE LIST`
    ModuleList,
    /// `ROLE`
    Role,
    /// `CLUSTER`
    Cluster(connection::ClusterCommand),
}

impl Request {
    /// Whether a connection that has not authenticated may send it.
    #[must_use]
    pub fn is_open(&self) -> bool {
        matches!(self, Self::Hello(_) | Self::Auth(..) | Self::Quit | Self::Reset)
    }

    /// Whether it changes the connection and therefore runs alone, in its place.
    #[must_use]
    pub fn runs_alone(&self) -> bool {
        matches!(
            self,
            Self::Hello(_)
                | Self::Auth(..)
                | Self::Quit
                | Self::Reset
                | Self::Client(_)
                | Self::SubscribeStreams(_)
                | Self::SubscribePartitions(_)
                | Self::Acknowledge(..)
                | Self::Unsubscribe(_)
        )
    }

    /// Whether it may wait for events that are still to come.
    #[must_use]
    pub fn blocks(&self) -> bool {
        match self {
            Self::ScanStream(scan) => scan.range.block_ms.is_some(),
            Self::ScanPartition(_, range) => range.block_ms.is_some(),
            _ => false,
        }
    }
}

/// Parses a request: the command's name and its arguments.
///
/// # Errors
/// What the client is told; nothing has happened.
pub fn parse(arguments: &[Word<'_>]) -> Result<Request, ErrorReply> {
    let command = arguments.first().and_then(|name| catalog::position(name));
    parse_command(command, arguments)
}

/// As [`parse`], of a command whose place in the [catalog] is known.
///
/// # Errors
/// As there.
pub fn parse_command(
    command: Option<usize>,
    arguments: &[Word<'_>],
) -> Result<Request, ErrorReply> {
    let (name, rest) =
        arguments.split_first().ok_or_else(|| ErrorReply::unknown_command(b"", &[]))?;
    let Some(command) = command.and_then(|at| catalog::COMMANDS.get(at)) else {
        return Err(ErrorReply::unknown_command(name, rest));
    };
    let given = arguments.len() as i64;
    let fits = if command.arity < 0 { given >= -command.arity } else { given == command.arity };
    if !fits {
        return Err(ErrorReply::wrong_arity(command.name));
    }
    let mut arguments = Arguments::new(command.name, rest);
    Ok(match command.name {
        "EAPPEND" => Request::Append(crate::append::append(arguments)?),
        "EMAPPEND" => Request::AppendMany(crate::append::append_many(arguments)?),
        "EGET" => {
            let (id, consistency) = read::get(arguments)?;
            Request::Get(id, consistency)
        }
        "ESCAN" => Request::ScanStream(read::scan_stream(arguments)?),
        "EPSCAN" => {
            let (selector, range) = read::scan_partition(arguments)?;
            Request::ScanPartition(selector, range)
        }
        "ESVER" => Request::StreamVersion(read::stream_version(arguments)?),
        "EPSEQ" => {
            let (selector, consistency) = read::partition_sequence(arguments)?;
            Request::PartitionSequence(selector, consistency)
        }
        "ESUB" => Request::SubscribeStreams(subscribe::subscribe_streams(arguments)?),
        "EPSUB" => Request::SubscribePartitions(subscribe::subscribe_partitions(arguments)?),
        "EACK" => {
            let (subscription, cursor) = subscribe::acknowledge(arguments)?;
            Request::Acknowledge(subscription, cursor)
        }
        "EUNSUB" => Request::Unsubscribe(subscribe::unsubscribe(arguments)?),
        "HELLO" => Request::Hello(connection::hello(arguments)?),
        "AUTH" => {
            let (user, password) = connection::auth(arguments)?;
            Request::Auth(user, password)
        }
        "PING" => {
            let message = arguments.optional().map(Word::to_bytes);
            arguments.end()?;
            Request::Ping(message)
        }
        "ECHO" => Request::Echo(arguments.take()?.to_bytes()),
        "QUIT" => Request::Quit,
        "RESET" => Request::Reset,
        "SELECT" => {
            connection::select(arguments)?;
            Request::Select
        }
        "CLIENT" => Request::Client(connection::client(arguments)?),
        "COMMAND" => Request::Commands(connection::commands(arguments)?),
        "INFO" => Request::Info(connection::kept(arguments.rest())),
        "CONFIG" => Request::ConfigGet(connection::config_get(arguments)?),
        "DBSIZE" => Request::DbSize,
        "TIME" => Request::Time,
        "MODULE" => {
            connection::module_list(arguments)?;
            Request::ModuleList
        }
        "CLUSTER" => Request::Cluster(connection::cluster(arguments)?),
        "ROLE" => Request::Role,
        _ => return Err(ErrorReply::unknown_command(name, rest)),
    })
}
