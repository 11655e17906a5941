//! Appends that happen once.
//!
//! Every event has its id before the first try. The server knows ids it has seen and answers where
//! those events are, so a try whose outcome nobody knows is simply followed by another.

use actadb_model::ids::{PartitionKey, hash16, with_hash16};
use actadb_model::limits::EVENT_OVERHEAD_BYTES;
use actadb_model::version::ExpectedVersion;
use redis::{Cmd, Value, cmd};
use serde::Serialize;
use uuid::Uuid;

use crate::client::Client;
use crate::connection::Failure;
use crate::error::{Code, Error};
use crate::event::{Appended, NewEvent};
use crate::names::StreamRef;
use crate::reply::{self, Fields};
use crate::retry::Backoff;

/// Transactions above this size ask for the server's limit before they are sent: a server closes on
/// a request that it finds too large to read, and may be gone before its reason is heard.
const ASK_ABOVE_BYTES: u64 = 1 << 20;

/// Words that mean an option where the next stream of a transaction should stand.
const OPTIONS: &[&str] = &[
    "EVENT_ID",
    "PARTITION_KEY",
    "EXPECTED_VERSION",
    "TIMESTAMP",
    "PAYLOAD",
    "METADATA",
    "DURABLE",
];

impl Client {
    /// Appends an event, once, however often it has to be sent.
    ///
    /// Dropping the future leaves open whether it was appended: give the event an
    /// [id](NewEvent::id) of your own to be able to ask again.
    ///
    /// # Errors
    /// [`Error::WrongExpectedVersion`] and [`Error::Refused`] when it was not appended;
    /// [`Error::Unknown`] when that is not known, with the id to try again with;
    /// [`Error::Disconnected`] when it was never sent.
    pub async fn append(&self, event: NewEvent) -> Result<Appended, Error> {
        event.check()?;
        let key = event.stream.key();
        let id = id_of(&event, key);
        let mut command = cmd("EAPPEND");
        command.arg(&event.stream.id).arg(&event.name);
        if let Some(key) = event.stream.partition_key {
            command.arg("PARTITION_KEY").arg(key.to_string());
        }
        options(&mut command, &event, id);
        self.check_size(std::slice::from_ref(&event)).await?;
        let answer = self.append_once(&command, vec![id]).await?;
        reply::appended(answer, &event.stream.id)
    }

    /// Appends an event whose payload is a value written as JSON.
    ///
    /// # Errors
    /// As [`append`](Self::append), and [`Error::Json`].
    pub async fn append_json<T: Serialize + ?Sized>(
        &self,
        stream: impl Into<StreamRef>,
        name: impl Into<String>,
        expected: ExpectedVersion,
        payload: &T,
    ) -> Result<Appended, Error> {
        let event = NewEvent::new(stream, name).expect(expected);
        self.append(event.payload_json(payload)?).await
    }

    /// Appends events of one partition, all of them or none.
    ///
    /// They all lie under the key given, whatever keys their streams would have: a stream other
    /// than the key's own is read with that key later (`client.stream((id, key), ..)`).
    /// Expected versions count within the transaction: the second event of a stream expects what
    /// the first has made.
    ///
    /// # Errors
    /// As [`append`](Self::append).
    pub async fn append_transaction(
        &self,
        key: PartitionKey,
        events: impl IntoIterator<Item = NewEvent>,
    ) -> Result<Vec<Appended>, Error> {
        let events: Vec<NewEvent> = events.into_iter().collect();
        if events.is_empty() {
            return Err(Error::invalid("a transaction needs at least one event"));
        }
        let mut ids = Vec::with_capacity(events.len());
        let mut command = cmd("EMAPPEND");
        command.arg(key.to_string());
        for (position, event) in events.iter().enumerate() {
            event.check()?;
            let StreamRef { id: stream, partition_key } = &event.stream;
            if let Some(other) = partition_key.filter(|own| *own != key) {
                return Err(Error::Invalid(format!(
                    "stream {stream} has the key {other}, the transaction {key}"
                )));
            }
            if position > 0 && OPTIONS.iter().any(|word| stream.eq_ignore_ascii_case(word)) {
                return Err(Error::Invalid(format!(
                    "a stream called {stream} can only come first in a transaction: behind \
                     another event it would be an option"
                )));
            }
            let id = id_of(event, key);
            command.arg(stream).arg(&event.name);
            options(&mut command, event, id);
            ids.push(id);
        }
        self.check_size(&events).await?;
        let answer = self.append_once(&command, ids).await?;
        reply::appended_many(answer, events.iter().map(|event| event.stream.id.as_str()))
    }

    async fn check_size(&self, events: &[NewEvent]) -> Result<(), Error> {
        let bytes = EVENT_OVERHEAD_BYTES + events.iter().map(NewEvent::size_bytes).sum::<u64>();
        if bytes <= ASK_ABOVE_BYTES {
            return Ok(());
        }
        let key = "append.max_transaction_bytes";
        let mut told = Fields::of(self.read(cmd("CONFIG").arg("GET").arg(key)).await?)?;
        match reply::text(told.take(key)?)?.parse() {
            Ok(limit) if bytes > limit => {
                let text = format!("the transaction takes {bytes} bytes, the limit is {limit}");
                Err(Error::Refused { code: Code::TooLarge, text })
            }
            _ => Ok(()),
        }
    }

    async fn append_once(&self, command: &Cmd, event_ids: Vec<Uuid>) -> Result<Value, Error> {
        let mut backoff = Backoff::within(self.inner.options.retry_timeout);
        // Whether an earlier try may have appended.
        let mut open = false;
        loop {
            let Failure { error, lost } = match self.inner.link.request(command).await {
                Ok(value) => return Ok(value),
                Err(failure) => failure,
            };
            open |= lost || matches!(&error, Error::Refused { code, .. } if code.is_unknown());
            if error.is_transient() && backoff.pause().await {
                continue;
            }
            if open && !settles(&error) {
                return Err(Error::Unknown { event_ids, last: error.to_string() });
            }
            return Err(error);
        }
    }
}

/// Whether a refusal says that an earlier try of the same events did not append and never will.
///
/// Ids are looked up first, so a refusal for another reason means that they were not known. But a
/// server that has become unable to append cannot know what is on its disk; and a command that is
/// still on its way in a connection given up may yet meet the version it expects.
fn settles(error: &Error) -> bool {
    match error {
        Error::WrongExpectedVersion { expected, current, .. } => match (expected, current) {
            (ExpectedVersion::Empty, Some(_)) => true,
            (ExpectedVersion::Exact(expected), Some(current)) => current > expected,
            _ => false,
        },
        Error::Refused { code, .. } => {
            matches!(code, Code::Duplicate | Code::InvalidArgument | Code::Syntax | Code::TooLarge)
        }
        _ => false,
    }
}

fn id_of(event: &NewEvent, key: PartitionKey) -> Uuid {
    let hash = key.hash16();
    match event.id {
        Some(id) if hash16(id) == hash => id,
        Some(id) => with_hash16(id, hash),
        None => with_hash16(Uuid::now_v7(), hash),
    }
}

fn options(command: &mut Cmd, event: &NewEvent, id: Uuid) {
    command.arg("EVENT_ID").arg(id.to_string());
    if event.expected != ExpectedVersion::Any {
        command.arg("EXPECTED_VERSION").arg(event.expected.to_string());
    }
    if let Some(timestamp_ms) = event.timestamp_ms {
        command.arg("TIMESTAMP").arg(timestamp_ms);
    }
    if !event.payload.is_empty() {
        command.arg("PAYLOAD").arg(&event.payload[..]);
    }
    if !event.metadata.is_empty() {
        command.arg("METADATA").arg(&event.metadata[..]);
    }
    if event.durable {
        command.arg("DURABLE");
    }
}
