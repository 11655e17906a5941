//! The thread that reads the input: lines to events with ids, in chunks, as fast as they are sent.

use std::io::{self, BufRead, BufReader, Read};
use std::thread;

use actadb::model::limits::TRANSACTION_MAX_EVENTS;
use tokio::sync::mpsc;

use super::identity::Identities;
use super::line::{BadLine, Event};

/// Most events of a chunk.
const CHUNK_EVENTS: usize = 64;
/// A chunk is closed at this size, in bytes of input.
const CHUNK_BYTES: usize = 1 << 20;
/// What is read at once.
const BUFFER_BYTES: usize = 256 << 10;
/// Chunks read ahead.
const CHUNKS: usize = 4;
/// Longest line, in bytes: the largest event with every byte written as `\u00xx`.
const LINE_MAX_BYTES: u64 = 128 << 20;

/// What is appended together: one event, or the events of one transaction.
#[derive(Clone, Debug)]
pub(super) struct Record {
    /// Its first line, from 1.
    pub(super) line: u64,
    /// The place of its first event among the events, from 0.
    pub(super) ordinal: u64,
    /// Bytes of its lines.
    pub(super) line_bytes: u64,
    /// At least one; of one partition key.
    pub(super) events: Vec<Item>,
}

/// An event ready to be sent.
#[derive(Clone, Debug)]
pub(super) struct Item {
    pub(super) id: uuid::Uuid,
    pub(super) event: Event,
    /// The lowest version given to a later event of its stream while this one had failed.
    pub(super) overtaken: Option<u64>,
}

/// Some events, and what was read for them.
#[derive(Debug, Default)]
pub(super) struct Chunk {
    pub(super) records: Vec<Record>,
    /// Lines read, empty ones included.
    pub(super) lines: u64,
    /// Ids of these events that were given and had bits changed.
    pub(super) ids_adjusted: u64,
}

/// Why reading ended early: the line, and what was wrong with it.
#[derive(Debug)]
pub(super) struct BadInput {
    pub(super) line: u64,
    pub(super) what: InputError,
}

/// What can be wrong with the input.
#[derive(Debug, thiserror::Error)]
pub(super) enum InputError {
    /// A line that is no event.
    #[error(transparent)]
    Line(#[from] BadLine),
    /// A line of a transaction that cannot be part of it.
    #[error(
        "the lines of a transaction must have one partition_key, and streams have different \
             ones by default: give each line the same partition_key"
    )]
    OtherKey,
    /// A transaction without end.
    #[error(
        "a transaction must have at most {TRANSACTION_MAX_EVENTS} events in {LINE_MAX_BYTES} \
             bytes of lines"
    )]
    LongTransaction,
    /// A line without end.
    #[error("a line must be at most {LINE_MAX_BYTES} bytes; is the input JSON lines?")]
    TooLong,
    /// The input cannot be read.
    #[error("reading the input failed: {0}")]
    Io(#[from] io::Error),
}

/// Reads `input` on a thread of its own. It is not joined: a read from a terminal or a pipe may
/// never return.
pub(super) fn spawn(
    input: Box<dyn Read + Send>,
) -> io::Result<mpsc::Receiver<Result<Chunk, BadInput>>> {
    let (chunks, receiver) = mpsc::channel(CHUNKS);
    thread::Builder::new().name("import-read".into()).spawn(move || {
        let mut lines = Lines::new(input);
        loop {
            let (chunk, outcome) = lines.next_chunk();
            let empty = chunk.lines == 0;
            // When nobody receives any more, the import has ended.
            if chunks.blocking_send(Ok(chunk)).is_err() {
                return;
            }
            if let Err(what) = outcome {
                let _ = chunks.blocking_send(Err(BadInput { line: lines.line, what }));
                return;
            }
            if empty {
                return;
            }
        }
    })?;
    Ok(receiver)
}

struct Lines<R> {
    input: BufReader<R>,
    identities: Identities,
    line: u64,
    events: u64,
    text: Vec<u8>,
    /// A transaction that the next line may go on with.
    open: Option<Record>,
}

impl<R: Read> Lines<R> {
    fn new(input: R) -> Self {
        let input = BufReader::with_capacity(BUFFER_BYTES, input);
        Self {
            input,
            identities: Identities::default(),
            line: 0,
            events: 0,
            text: Vec::new(),
            open: None,
        }
    }

    /// The next events; none at the end. With an error, those before it.
    fn next_chunk(&mut self) -> (Chunk, Result<(), InputError>) {
        let mut chunk = Chunk::default();
        let mut bytes = 0;
        while chunk.records.len() < CHUNK_EVENTS && bytes < CHUNK_BYTES {
            match self.next_line(&mut chunk) {
                Ok(0) => break,
                Ok(length) => bytes += length,
                Err(error) => return (chunk, Err(error)),
            }
            // The next line may be long in coming: what there is goes on its way.
            if self.input.buffer().is_empty() {
                break;
            }
        }
        (chunk, Ok(()))
    }

    /// Reads one line; its length, 0 at the end.
    fn next_line(&mut self, chunk: &mut Chunk) -> Result<usize, InputError> {
        self.text.clear();
        let mut limited = (&mut self.input).take(LINE_MAX_BYTES);
        let length = match limited.read_until(b'\n', &mut self.text) {
            Ok(0) => {
                chunk.records.extend(self.open.take());
                return Ok(0);
            }
            read => {
                self.line += 1;
                chunk.lines += 1;
                read?
            }
        };
        if length as u64 == LINE_MAX_BYTES && !self.text.ends_with(b"\n") {
            return Err(InputError::TooLong);
        }
        let text = if self.line == 1 {
            self.text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&self.text)
        } else {
            &self.text
        };
        let text = text.trim_ascii();
        if !text.is_empty() {
            let event = Event::parse(text)?;
            let identity = self.identities.of(&event);
            chunk.ids_adjusted += u64::from(identity.adjusted);
            self.put(Item { id: identity.id, event, overtaken: None }, length as u64, chunk)?;
        }
        Ok(length)
    }

    /// Puts an event where it belongs: to the open transaction, or behind it.
    fn put(&mut self, item: Item, line_bytes: u64, chunk: &mut Chunk) -> Result<(), InputError> {
        if let Some(open) = &mut self.open
            && let Some(first) = open.events.first()
            && item.event.transaction.is_some()
            && first.event.transaction == item.event.transaction
        {
            if first.event.key != item.event.key {
                return Err(InputError::OtherKey);
            }
            open.line_bytes += line_bytes;
            open.events.push(item);
            if open.events.len() > TRANSACTION_MAX_EVENTS || open.line_bytes > LINE_MAX_BYTES {
                return Err(InputError::LongTransaction);
            }
            self.events += 1;
            return Ok(());
        }
        chunk.records.extend(self.open.take());
        let alone = item.event.transaction.is_none();
        let (line, ordinal) = (self.line, self.events);
        let record = Record { line, ordinal, line_bytes, events: vec![item] };
        self.events += 1;
        if alone {
            chunk.records.push(record);
        } else {
            self.open = Some(record);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = r#"{"stream":"s","name":"n","payload":"p"}"#;

    #[test]
    fn empty_lines_and_a_byte_order_mark_are_passed_over() {
        let input = format!("\u{feff}{LINE}\r\n\n  \n{LINE}");
        let mut lines = Lines::new(input.as_bytes());
        let (chunk, outcome) = lines.next_chunk();
        assert!(outcome.is_ok());
        let places: Vec<_> = chunk.records.iter().map(|r| (r.line, r.ordinal)).collect();
        assert_eq!(places, [(1, 0), (4, 1)]);
        assert_ne!(chunk.records[0].events[0].id, chunk.records[1].events[0].id);
        assert_eq!(chunk.lines, 4);
        assert_eq!(lines.next_chunk().0.lines, 0);
    }

    #[test]
    fn a_bad_line_comes_after_the_good_ones_before_it() {
        let input = format!("{LINE}\n{LINE}\nnonsense\n{LINE}\n");
        let mut lines = Lines::new(input.as_bytes());
        let (chunk, outcome) = lines.next_chunk();
        assert_eq!((chunk.records.len(), lines.line), (2, 3));
        assert!(matches!(outcome, Err(InputError::Line(_))));
    }

    #[test]
    fn lines_of_one_transaction_are_one_record_across_chunks() {
        let line = |transaction: &str, stream: &str| {
            format!(
                r#"{{"stream":"{stream}","name":"n","payload":"","transaction":{transaction},
                "partition_key":"b5caaf75-d5ce-5289-a5cb-29de88f7c202"}}"#
            )
            .replace('\n', " ")
        };
        let mut input = LINE.to_owned() + "\n";
        for n in 0..CHUNK_EVENTS {
            input.push_str(&(line("\"a\"", &n.to_string()) + "\n"));
        }
        for transaction in ["\"b\"", "\"b\"", "null", "\"b\"", "\"c\""] {
            input.push_str(&(line(transaction, "s") + "\n\n"));
        }
        let mut lines = Lines::new(input.as_bytes());
        let mut sizes = Vec::new();
        loop {
            let (chunk, outcome) = lines.next_chunk();
            assert!(outcome.is_ok());
            sizes.extend(chunk.records.iter().map(|record| (record.ordinal, record.events.len())));
            if chunk.lines == 0 {
                break;
            }
        }
        assert_eq!(sizes, [(0, 1), (1, 64), (65, 2), (67, 1), (68, 1), (69, 1)]);
        let other = line("\"a\"", "s").replace("b5caaf75", "c5caaf75");
        let input = format!("{}\n{other}\n", line("\"a\"", "s"));
        let (chunk, outcome) = Lines::new(input.as_bytes()).next_chunk();
        assert!(chunk.records.is_empty(), "half a transaction is none");
        assert!(matches!(outcome, Err(InputError::OtherKey)));
    }

    #[test]
    fn chunks_are_bounded() {
        let input = format!("{LINE}\n").repeat(CHUNK_EVENTS + 1);
        let mut lines = Lines::new(input.as_bytes());
        assert_eq!(lines.next_chunk().0.records.len(), CHUNK_EVENTS);
        assert_eq!(lines.next_chunk().0.records.len(), 1);
    }
}
