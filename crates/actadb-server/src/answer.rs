//! Carrying out commands through the `Database` handle, and writing their answers.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use actadb::database::Database;
use actadb::error::ReadError;
use actadb::model::event::Event;
use actadb::model::ids::{BucketId, PartitionId};
use actadb::model::outcome::{AppendResult, ClosedReason};
use actadb::reads::{Page, ReadPartition, ReadStream, Scan};
use actadb_protocol::args::PartitionSelector;
use actadb_protocol::connection::ClusterCommand;
use actadb_protocol::error::{Code, ErrorReply};
use actadb_protocol::event::{
    write_appended, write_appended_many, write_event_or_null, write_page,
};
use actadb_protocol::read::{Consistency, ScanRange, StreamScan, VersionOf};
use actadb_protocol::reply::{Protocol, Reply};
use actadb_protocol::request::Request;
use bytes::{Bytes, BytesMut};

use crate::registry::Registry;
use crate::settings::Settings;

/// What answering takes.
#[derive(Clone, Debug)]
pub struct Context {
    /// The database.
    pub database: Database,
    /// The effective configuration.
    pub settings: Arc<Settings>,
    /// The server's counters.
    pub registry: Arc<Registry>,
}

/// The words for a read that was not answered.
pub(crate) fn read_error(error: &ReadError) -> ErrorReply {
    let code = match error {
        ReadError::NoSuchPartition { .. } => Code::InvalidArg,
        ReadError::Corrupt(_) | ReadError::Closed { reason: ClosedReason::Corrupt(_), .. } => {
            Code::Corrupt
        }
        ReadError::Stopping | ReadError::CatchingUp => Code::TryAgain,
        ReadError::NoQuorum => Code::ClusterDown,
        ReadError::Failed(_) | ReadError::Closed { .. } => Code::ReadErr,
    };
    ErrorReply::new(code, error.to_string())
}

/// What became of a command that was tried at once.
#[derive(Debug)]
pub enum Now {
    /// Its answer is written.
    Answered,
    /// Its answer is this page, still to be written.
    Page(Page),
    /// It may have to wait.
    Later(Request),
}

impl Context {
    /// Carries out what need not wait: commands about the server, and reads of what is in memory.
    pub fn answer_now(&self, request: Request, protocol: Protocol, out: &mut BytesMut) -> Now {
        let start = out.len();
        let answer = || self.try_now(&request, protocol, out);
        // Whatever it is, it must not take the connection's other answers along.
        let answer = catch_unwind(AssertUnwindSafe(answer)).unwrap_or_else(|_| {
            Some(Err(ErrorReply::new(Code::ReadErr, "the command failed inside")))
        });
        match answer {
            None => Now::Later(request),
            Some(Ok(None)) => Now::Answered,
            Some(Ok(Some(page))) => Now::Page(page),
            Some(Err(error)) => {
                out.truncate(start);
                self.write_error(error, protocol, out);
                Now::Answered
            }
        }
    }

    fn try_now(
        &self,
        request: &Request,
        protocol: Protocol,
        out: &mut BytesMut,
    ) -> Option<Result<Option<Page>, ErrorReply>> {
        let database = &self.database;
        let knows = |consistency| self.knows(consistency);
        let reply = match request {
            Request::Get(id, consistency) if knows(*consistency) => match database.get_now(*id)? {
                Ok(event) => {
                    write_event_or_null(event.as_ref().map(Event::as_ref), protocol, out);
                    return Some(Ok(None));
                }
                Err(error) => Err(error),
            },
            Request::ScanStream(StreamScan { stream, partition_key, range })
                if range.block_ms.is_none() && knows(range.consistency) =>
            {
                let (stream, partition_key) = (stream.clone(), *partition_key);
                let read = ReadStream { stream, partition_key, scan: scan(*range) };
                let page = database.read_stream_now(&read)?;
                return Some(page.map(Some).map_err(|error| read_error(&error)));
            }
            Request::ScanPartition(selector, range)
                if range.block_ms.is_none() && knows(range.consistency) =>
            {
                let read =
                    ReadPartition { partition: self.partition(*selector), scan: scan(*range) };
                let page = database.read_partition_now(read)?;
                return Some(page.map(Some).map_err(|error| read_error(&error)));
            }
            Request::StreamVersion(VersionOf { stream, partition_key, consistency })
                if knows(*consistency) =>
            {
                let version = database.local_stream_version_now(stream, *partition_key)?;
                version.map(Reply::number_or_null)
            }
            Request::PartitionSequence(selector, consistency) if knows(*consistency) => {
                let last = database.local_partition_sequence_now(self.partition(*selector))?;
                last.map(Reply::number_or_null)
            }
            // What blocks, or asks other nodes, is none of these, and waits.
            request => Ok(self.reply(request)?),
        };
        Some(reply.map_err(|error| read_error(&error)).map(|reply| {
            reply.write(protocol, out);
            None
        }))
    }

    /// The answer to a command about the server.
    fn reply(&self, request: &Request) -> Option<Reply> {
        Some(match request {
            Request::Ping(None) => Reply::Simple("PONG".into()),
            Request::Ping(Some(message)) | Request::Echo(message) => Reply::Bulk(message.clone()),
            Request::Select => Reply::ok(),
            Request::Commands(commands) => crate::session::commands(commands),
            Request::Info(sections) => Reply::Text(crate::info::text(self, sections)),
            Request::ConfigGet(patterns) => self.config_get(patterns),
            Request::DbSize => Reply::Integer(self.event_count()),
            Request::Time => time(),
            Request::ModuleList => Reply::Array(Vec::new()),
            Request::Role => {
                Reply::Array(vec![Reply::bulk("master"), Reply::Integer(0), Reply::Array(vec![])])
            }
            Request::Cluster(ClusterCommand::Info) => {
                Reply::Text(crate::cluster_info::info(&self.database.status()))
            }
            Request::Cluster(ClusterCommand::Nodes) => {
                Reply::Text(crate::cluster_info::nodes(&self.database.status()))
            }
            _ => return None,
        })
    }

    /// Carries out a command that is neither an append nor about the connection, and writes its
    /// answer. `tried`: it could not be answered [at once](Self::answer_now).
    pub async fn answer(
        &self,
        request: Request,
        tried: bool,
        protocol: Protocol,
        out: &mut BytesMut,
    ) {
        let start = out.len();
        if let Err(error) = self.try_answer(request, tried, protocol, out).await {
            out.truncate(start);
            self.write_error(error, protocol, out);
        }
    }

    /// Writes an error, and counts it.
    pub fn write_error(&self, error: ErrorReply, protocol: Protocol, out: &mut BytesMut) {
        self.registry.count_error(error.code);
        Reply::Error(error).write(protocol, out);
    }

    /// Writes the answer of an append; `many`: it was an EMAPPEND.
    pub fn write_append(
        &self,
        result: AppendResult,
        many: bool,
        protocol: Protocol,
        out: &mut BytesMut,
    ) {
        match result {
            Ok(appended) if many => write_appended_many(&appended, protocol, out),
            Ok(appended) => write_appended(&appended, protocol, out),
            Err(error) => self.write_error(error.into(), protocol, out),
        }
    }

    async fn try_answer(
        &self,
        request: Request,
        tried: bool,
        protocol: Protocol,
        out: &mut BytesMut,
    ) -> Result<(), ErrorReply> {
        let database = &self.database;
        let reply = match request {
            Request::Get(id, consistency) => {
                self.know(database.partition_of_event(id), consistency).await?;
                let event = match tried && self.knows(consistency) {
                    true => database.get_later(id).await,
                    false => database.get(id).await,
                };
                let event = event.map_err(|error| read_error(&error))?;
                write_event_or_null(event.as_ref().map(Event::as_ref), protocol, out);
                return Ok(());
            }
            Request::ScanStream(StreamScan { stream, partition_key, range }) => {
                let partition = database.partition_of_stream(&stream, partition_key);
                self.know(partition, range.consistency).await?;
                let read = ReadStream { stream, partition_key, scan: scan(range) };
                let page = match range.block_ms {
                    None if tried && self.knows(range.consistency) => {
                        database.read_stream_later(read).await
                    }
                    None => database.read_stream(read).await,
                    Some(ms) => database.wait_stream(read, patience(ms)).await,
                };
                let page = page.map_err(|error| read_error(&error))?;
                write_events(&page, protocol, out);
                return Ok(());
            }
            Request::ScanPartition(selector, range) => {
                let partition = self.partition(selector);
                self.know(partition, range.consistency).await?;
                let read = ReadPartition { partition, scan: scan(range) };
                let page = match range.block_ms {
                    None if tried && self.knows(range.consistency) => {
                        database.read_partition_later(read).await
                    }
                    None => database.read_partition(read).await,
                    Some(ms) => database.wait_partition(read, patience(ms)).await,
                };
                let page = page.map_err(|error| read_error(&error))?;
                write_events(&page, protocol, out);
                return Ok(());
            }
            Request::StreamVersion(VersionOf { stream, partition_key, consistency }) => {
                let partition = database.partition_of_stream(&stream, partition_key);
                self.know(partition, consistency).await?;
                let version = Box::pin(database.local_stream_version(stream, partition_key)).await;
                Reply::number_or_null(version.map_err(|error| read_error(&error))?)
            }
            Request::PartitionSequence(selector, consistency) => {
                let partition = self.partition(selector);
                self.know(partition, consistency).await?;
                let last = Box::pin(database.local_partition_sequence(partition)).await;
                Reply::number_or_null(last.map_err(|error| read_error(&error))?)
            }
            Request::Cluster(ClusterCommand::HandOver { bucket, node }) => {
                let told = Box::pin(database.hand_over(BucketId(bucket), node)).await;
                told.map_err(|what| ErrorReply::new(Code::Err, what))?;
                Reply::ok()
            }
            request => self
                .reply(&request)
                .ok_or_else(|| ErrorReply::new(Code::Err, "the command came the wrong way"))?,
        };
        reply.write(protocol, out);
        Ok(())
    }

    /// Whether this node knows as much of its partitions as such a read asks for.
    fn knows(&self, consistency: Consistency) -> bool {
        consistency == Consistency::Local || self.database.is_alone()
    }

    /// Waits until this node knows as much of a partition as a read of it asks for.
    async fn know(
        &self,
        partition: PartitionId,
        consistency: Consistency,
    ) -> Result<(), ErrorReply> {
        match consistency {
            Consistency::Local => Ok(()),
            Consistency::Linearizable => {
                // In a box: thousands of connections may wait in a read, and few of them here.
                let known = Box::pin(self.database.read_index(partition)).await;
                known.map_err(|error| read_error(&error))
            }
        }
    }

    fn partition(&self, selector: PartitionSelector) -> PartitionId {
        match selector {
            PartitionSelector::Id(id) => id,
            PartitionSelector::Key(key) => self.database.partitioning().partition_of(key),
        }
    }

    /// Committed events of the buckets that are open.
    #[must_use]
    pub fn event_count(&self) -> u64 {
        let partitions = (0..self.database.partitioning().partitions()).map(PartitionId);
        partitions
            .filter_map(|partition| self.database.watermark(partition).ok().flatten())
            .map(|last| last + 1)
            .sum()
    }

    fn config_get(&self, patterns: &[Bytes]) -> Reply {
        let mut pairs = crate::settings_load::pairs(&self.settings);
        // What tools written for Redis ask for.
        let max_clients = self.settings.network.max_clients.to_string();
        let for_redis = [
            ("appendonly", "yes".to_owned()),
            ("databases", "1".to_owned()),
            ("maxclients", max_clients),
            ("maxmemory", "0".to_owned()),
            ("save", String::new()),
        ];
        pairs.extend(for_redis.map(|(key, value)| (key.to_owned(), value)));
        let wanted = |key: &str| patterns.iter().any(|pattern| matches(pattern, key.as_bytes()));
        let found = pairs.into_iter().filter(|(key, _)| wanted(key));
        Reply::Map(found.map(|(key, value)| (Reply::bulk(key), Reply::bulk(value))).collect())
    }
}

/// How long `BLOCK` waits: 0 is for ever.
fn patience(ms: u64) -> Option<Duration> {
    (ms > 0).then(|| Duration::from_millis(ms))
}

fn scan(range: ScanRange) -> Scan {
    Scan { from: range.start, to: range.end, count: range.count, reverse: range.reverse }
}

fn write_events(page: &Page, protocol: Protocol, out: &mut BytesMut) {
    write_page(page.has_more, page.events.iter().map(Event::as_ref), protocol, out);
}

fn time() -> Reply {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let micros = now.subsec_micros().to_string();
    Reply::Array(vec![Reply::bulk(now.as_secs().to_string()), Reply::bulk(micros)])
}

/// Longest pattern; no key of ours is near it.
const PATTERN_BYTES_MAX: usize = 256;

/// Redis's glob with `*` and `?`, in any case. It remembers the last star only, so its time is the
/// product of the lengths, whatever the pattern.
fn matches(pattern: &[u8], text: &[u8]) -> bool {
    if pattern.len() > PATTERN_BYTES_MAX {
        return false;
    }
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        match (pattern.get(p), text.get(t)) {
            (Some(b'*'), _) => {
                star = Some((p, t));
                p += 1;
            }
            (Some(b'?'), _) => {
                p += 1;
                t += 1;
            }
            (Some(want), Some(got)) if want.eq_ignore_ascii_case(got) => {
                p += 1;
                t += 1;
            }
            _ => match star {
                // Let the star take one more.
                Some((at, from)) => {
                    star = Some((at, from + 1));
                    p = at + 1;
                    t = from + 1;
                }
                None => return false,
            },
        }
    }
    pattern.get(p..).unwrap_or_default().iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn globs_match_as_in_redis() {
        assert!(matches(b"*", b"network.max_clients"));
        assert!(matches(b"max*", b"maxmemory"));
        assert!(matches(b"MAXMEM?RY", b"maxmemory"));
        assert!(!matches(b"max", b"maxmemory"));
        assert!(!matches(b"*x?", b"x"));
        assert!(matches(b"*a*b*c", b"xaxbxbxc"));
        assert!(matches(b"", b"") && !matches(b"", b"x"));
        let hostile = [b"*".repeat(200), b"x".to_vec()].concat();
        assert!(!matches(&hostile, &b"a".repeat(200)));
        assert!(!matches(&b"*".repeat(100_000), b"a"));
    }
}
