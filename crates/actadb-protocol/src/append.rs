//! `EAPPEND` and `EMAPPEND`.
//!
//! The grammar is greedy: behind an event's stream and name, an option keyword is an option.

use actadb_model::ids::PartitionKey;
use actadb_model::limits::TRANSACTION_MAX_EVENTS;
use actadb_model::transaction::{NewEvent, Transaction};
use bytes::Bytes;

use crate::args::{
    Arguments, Once, event_name, expected_version, is_word, number, partition_key, stream_id, uuid,
};
use crate::error::ErrorReply;

/// Options of one event.
struct EventOptions {
    id: Once<uuid::Uuid>,
    partition_key: Once<PartitionKey>,
    expected: Once<actadb_model::version::ExpectedVersion>,
    timestamp: Once<u64>,
    payload: Once<Bytes>,
    metadata: Once<Bytes>,
    durable: Once<()>,
}

impl EventOptions {
    fn new() -> Self {
        Self {
            id: Once::new("EVENT_ID"),
            partition_key: Once::new("PARTITION_KEY"),
            expected: Once::new("EXPECTED_VERSION"),
            timestamp: Once::new("TIMESTAMP"),
            payload: Once::new("PAYLOAD"),
            metadata: Once::new("METADATA"),
            durable: Once::new("DURABLE"),
        }
    }

    /// Takes the next option; `false` when the next argument is none.
    fn take(&mut self, arguments: &mut Arguments<'_>, with_key: bool) -> Result<bool, ErrorReply> {
        let Some(word) = arguments.peek() else { return Ok(false) };
        let is = |name| is_word(word, name);
        if is("DURABLE") {
            arguments.take()?;
            self.durable.set(())?;
        } else if is("EVENT_ID") {
            arguments.take()?;
            self.id.set(uuid("EVENT_ID", arguments.value("EVENT_ID")?)?)?;
        } else if with_key && is("PARTITION_KEY") {
            arguments.take()?;
            self.partition_key.set(partition_key(arguments.value("PARTITION_KEY")?)?)?;
        } else if is("EXPECTED_VERSION") {
            arguments.take()?;
            self.expected.set(expected_version(arguments.value("EXPECTED_VERSION")?)?)?;
        } else if is("TIMESTAMP") {
            arguments.take()?;
            self.timestamp.set(number("TIMESTAMP", arguments.value("TIMESTAMP")?)?)?;
        } else if is("PAYLOAD") {
            arguments.take()?;
            self.payload.set(arguments.value("PAYLOAD")?.to_bytes())?;
        } else if is("METADATA") {
            arguments.take()?;
            self.metadata.set(arguments.value("METADATA")?.to_bytes())?;
        } else {
            return Ok(false);
        }
        Ok(true)
    }
}

struct ParsedEvent {
    event: NewEvent,
    partition_key: Option<PartitionKey>,
    durable: bool,
}

/// `<stream> <name>` and the options behind them.
fn event(arguments: &mut Arguments<'_>, with_key: bool) -> Result<ParsedEvent, ErrorReply> {
    let first = arguments.take()?;
    if !with_key && is_word(first, "PARTITION_KEY") {
        // A stream of that name could only be a mistake: the key of EMAPPEND is its first argument.
        return Err(arguments.unexpected(first));
    }
    let stream = stream_id(first)?;
    let name = event_name(arguments.take()?)?;
    let mut options = EventOptions::new();
    while options.take(arguments, with_key)? {}
    let mut event =
        NewEvent::new(stream, name).expected(options.expected.get().unwrap_or_default());
    event.id = options.id.get();
    event.timestamp_ms = options.timestamp.get();
    event.payload = options.payload.get().unwrap_or_default();
    event.metadata = options.metadata.get().unwrap_or_default();
    Ok(ParsedEvent {
        event,
        partition_key: options.partition_key.get(),
        durable: options.durable.get().is_some(),
    })
}

/// `EAPPEND <stream> <name> [EVENT_ID u] [PARTITION_KEY u] [EXPECTED_VERSION v] [TIMESTAMP ms]
/// [PAYLOAD b] [METADATA b] [DURABLE]`
///
/// # Errors
/// By the name and value of what is wrong.
pub fn append(mut arguments: Arguments<'_>) -> Result<Transaction, ErrorReply> {
    let ParsedEvent { event, partition_key, durable } = event(&mut arguments, true)?;
    if let Some(argument) = arguments.peek() {
        return Err(arguments.unexpected(argument));
    }
    let transaction = match partition_key {
        Some(key) => Transaction::new(key, vec![event])?,
        None => Transaction::single(event)?,
    };
    Ok(transaction.durable(durable))
}

/// `EMAPPEND <partition_key> (<stream> <name> [options])+`
///
/// # Errors
/// By the name and value of what is wrong.
pub fn append_many(mut arguments: Arguments<'_>) -> Result<Transaction, ErrorReply> {
    let key = partition_key(arguments.take()?)?;
    let mut events = Vec::new();
    let mut durable = false;
    loop {
        let parsed = event(&mut arguments, false)?;
        durable |= parsed.durable;
        events.push(parsed.event);
        // One too many is enough to be refused for it.
        if arguments.is_empty() || events.len() > TRANSACTION_MAX_EVENTS {
            break;
        }
    }
    Ok(Transaction::new(key, events)?.durable(durable))
}
