//! Reading partitions, or a stream, up to where they ended at the beginning.
//!
//! Several sources are read at once, a page each. A page may end inside a transaction: its
//! beginning is held back until the next page of its source is there, so that nothing of another
//! source comes between the events of a transaction.

use std::collections::VecDeque;
use std::time::Duration;

use super::ExportError;
use crate::wire_client::{Value, WireClient, WireEvent};

/// Pages asked for and not yet answered at most: so many reads a server takes of a connection.
const DEPTH: usize = 4;
/// How long the server may take for one answer.
const PATIENCE: Duration = Duration::from_secs(60);
/// Events of a page.
const PAGE_EVENTS: u64 = 1000;

/// What is read.
#[derive(Clone, Debug)]
pub(super) enum Scope {
    /// All partitions.
    All,
    /// A partition, by number or key.
    Partition(String),
    /// A stream, and its partition key when given.
    Stream(String, Option<String>),
}

/// A partition or a stream that is not read to its end.
#[derive(Debug)]
struct Source {
    /// The command up to the bounds, and the words behind them.
    command: (Vec<String>, Vec<String>),
    by_version: bool,
    next: u64,
    /// The last position to read.
    end: u64,
    /// The beginning of a transaction whose end was not yet read.
    held: Vec<WireEvent>,
}

/// An export's reading side.
#[derive(Debug)]
pub(super) struct Reading {
    client: WireClient,
    waiting: VecDeque<Source>,
    /// In the order in which pages were asked for.
    asked: VecDeque<Source>,
    total: u64,
}

impl Reading {
    /// Determines where everything ends.
    pub(super) async fn begin(mut client: WireClient, scope: Scope) -> Result<Self, ExportError> {
        let mut sources: Vec<(Vec<String>, Source)> = Vec::new();
        match scope {
            Scope::All => {
                let hello = call(&mut client, &["HELLO".into()]).await?;
                let partitions = hello.get("num_partitions").and_then(Value::number);
                let partitions = partitions.ok_or_else(|| {
                    let text = "it does not tell num_partitions; is it an ActaDB server?".into();
                    ExportError::Refused { command: "HELLO".into(), text }
                })?;
                for partition in 0..partitions {
                    sources.push(partition_source(partition.to_string()));
                }
            }
            Scope::Partition(partition) => sources.push(partition_source(partition)),
            Scope::Stream(stream, key) => {
                let key: Vec<String> =
                    key.into_iter().flat_map(|key| ["PARTITION_KEY".into(), key]).collect();
                let mut ask = vec!["ESVER".into(), stream.clone()];
                ask.extend(key.clone());
                let command = (vec!["ESCAN".into(), stream], key);
                sources.push((ask, Source::new(command, true)));
            }
        }
        for (ask, _) in &sources {
            queue(&mut client, ask);
        }
        let mut reading =
            Self { client, waiting: VecDeque::new(), asked: VecDeque::new(), total: 0 };
        for (ask, mut source) in sources {
            match reply(&mut reading.client).await? {
                Value::Error(text) => {
                    return Err(ExportError::Refused { command: ask.join(" "), text });
                }
                value => {
                    if let Some(last) = value.number() {
                        source.end = last;
                        reading.total += last + 1;
                        reading.waiting.push_back(source);
                    }
                }
            }
        }
        Ok(reading)
    }

    /// How many events there are to read.
    pub(super) fn total(&self) -> u64 {
        self.total
    }

    /// Reads the next page, and adds the events that may be written; false at the end.
    pub(super) async fn read(&mut self, out: &mut Vec<WireEvent>) -> Result<bool, ExportError> {
        while self.asked.len() < DEPTH
            && let Some(source) = self.waiting.pop_front()
        {
            queue(&mut self.client, &source.words());
            self.asked.push_back(source);
        }
        let Some(mut source) = self.asked.pop_front() else { return Ok(false) };
        let reply = reply(&mut self.client).await?;
        if source.take(&reply, out)? {
            // One source after the other as far as possible: then its lines stand together.
            self.waiting.push_front(source);
        }
        Ok(true)
    }
}

fn partition_source(partition: String) -> (Vec<String>, Source) {
    let ask = vec!["EPSEQ".into(), partition.clone()];
    (ask, Source::new((vec!["EPSCAN".into(), partition], Vec::new()), false))
}

impl Source {
    fn new(command: (Vec<String>, Vec<String>), by_version: bool) -> Self {
        Self { command, by_version, next: 0, end: 0, held: Vec::new() }
    }

    fn words(&self) -> Vec<String> {
        let mut words = self.command.0.clone();
        words.extend([self.next.to_string(), self.end.to_string()]);
        words.extend(self.command.1.clone());
        words.extend(["COUNT".into(), PAGE_EVENTS.to_string()]);
        words
    }

    /// Takes a page; whether there is another.
    fn take(&mut self, page: &Value, out: &mut Vec<WireEvent>) -> Result<bool, ExportError> {
        let command = || self.words().join(" ");
        if let Value::Error(text) = page {
            return Err(ExportError::Refused { command: command(), text: text.clone() });
        }
        let no_page = || ExportError::NoPage { command: command() };
        let Some(Value::Array(events)) = page.get("events") else { return Err(no_page()) };
        let events: Option<Vec<_>> = events.iter().map(WireEvent::from_value).collect();
        let mut events = events.ok_or_else(no_page)?;
        let position = |event: &WireEvent| match self.by_version {
            true => event.version,
            false => event.sequence,
        };
        let last = events.last().map(position);
        if last == Some(self.end) {
            out.append(&mut self.held);
            out.append(&mut events);
            return Ok(false);
        }
        let has_more = matches!(page.get("has_more"), Some(Value::Boolean(true)));
        let Some(last) = last.filter(|_| has_more) else {
            let found = last.or(self.next.checked_sub(1));
            let found = found.map_or("nothing".into(), |found| found.to_string());
            let what = self.command.0[1..].join(" ");
            return Err(ExportError::Short { what, found, wanted: self.end });
        };
        self.next = last + 1;
        self.held.append(&mut events);
        out.extend(self.held.drain(..complete(&self.held)));
        Ok(true)
    }
}

/// How many of the first events are certain to be whole transactions.
fn complete(events: &[WireEvent]) -> usize {
    let Some(last) = events.last().filter(|last| last.is_of_several()) else {
        return events.len();
    };
    let torn = events.iter().rev().take_while(|e| e.transaction_id == last.transaction_id).count();
    events.len() - torn
}

/// The next reply. A server that is gone without a word must not hold an export for ever.
async fn reply(client: &mut WireClient) -> Result<Value, ExportError> {
    match tokio::time::timeout(PATIENCE, client.reply()).await {
        Ok(reply) => Ok(reply?),
        Err(_elapsed) => Err(ExportError::Silent { seconds: PATIENCE.as_secs() }),
    }
}

async fn call(client: &mut WireClient, words: &[String]) -> Result<Value, ExportError> {
    queue(client, words);
    match reply(client).await? {
        Value::Error(text) => Err(ExportError::Refused { command: words.join(" "), text }),
        value => Ok(value),
    }
}

fn queue(client: &mut WireClient, words: &[String]) {
    let words: Vec<&[u8]> = words.iter().map(String::as_bytes).collect();
    client.queue(&words);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(id: &str, transaction: &str) -> WireEvent {
        WireEvent {
            event_id: id.into(),
            transaction_id: transaction.into(),
            ..WireEvent::default()
        }
    }

    #[test]
    fn the_beginning_of_a_transaction_is_held_back() {
        let events = [event("1", "1"), event("2", "t"), event("3", "t")];
        assert_eq!(complete(&events), 1);
        assert_eq!(complete(&events[..1]), 1);
        assert_eq!(complete(&events[1..]), 0);
        assert_eq!(complete(&[]), 0);
    }
}
