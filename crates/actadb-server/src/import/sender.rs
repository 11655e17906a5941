//! Sending events over one connection, in flight together, in order, again where that is safe.
//!
//! After a failure that may pass, nothing new is sent until everything in flight is answered; then
//! the events that failed are sent again, first those of the earliest lines. Their ids make that
//! harmless, their expected versions ([`versions`](super::versions)) keep their order.

use std::collections::{HashSet, VecDeque};
use std::time::Duration;

use actadb::model::version::ExpectedVersion;
use bytes::BytesMut;
use indicatif::ProgressBar;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};
use uuid::Uuid;
use uuid::fmt::Hyphenated;

use super::line::Event;
use super::reader::{BadInput, Chunk, Item, Record};
use super::versions::{Versions, stream_of};
use crate::wire_client::{ClientError, Digits, Value, WireClient, put_command};

/// Given up when nothing was imported for so long.
const PATIENCE: Duration = Duration::from_secs(60);
/// The first pause before sending again; the next ones are twice as long each.
const PAUSE_MIN: Duration = Duration::from_millis(50);
/// The longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// What an event's command takes beside its payload and metadata, about, in bytes.
const COMMAND_BYTES: usize = 256;

/// What a sender keeps to.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    pub(super) address: String,
    pub(super) password: Option<String>,
    /// Events in flight at most.
    pub(super) depth: usize,
    /// Bytes in flight at most, unless one event is larger.
    pub(super) bytes: usize,
}

/// What was done so far.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
    /// Lines read.
    pub(super) lines: u64,
    /// Events in them.
    pub(super) events: u64,
    /// Events the server has.
    pub(super) appended: u64,
    /// Given ids that had bits changed.
    pub(super) ids_adjusted: u64,
}

/// Why the import ended early.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) line: u64,
    pub(super) text: String,
    /// Events before that line that the server has.
    pub(super) before: u64,
    /// Events behind it that the server has.
    pub(super) after: u64,
}

/// What an error means for the import.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// It may pass.
    Again,
    /// The stream is not where it was taken to be: ask, then send again.
    Ask,
    /// It stays.
    Stop,
}

fn verdict(error: &str) -> Verdict {
    match error.split(' ').next() {
        Some("UNCERTAIN" | "TIMEOUT" | "TRYAGAIN" | "DISKFULL") => Verdict::Again,
        Some("WRONGVER") => Verdict::Ask,
        _ => Verdict::Stop,
    }
}

type Lines = mpsc::Receiver<Result<Chunk, BadInput>>;

/// Sends events and keeps count.
#[derive(Debug)]
pub(super) struct Sender {
    settings: Settings,
    /// None when the connection is lost.
    client: Option<WireClient>,
    versions: Versions,
    /// Events not yet sent, in order.
    pending: VecDeque<Record>,
    pending_bytes: usize,
    /// Events sent and not answered, in order.
    window: VecDeque<Record>,
    window_bytes: usize,
    /// Events to send again, in order, all of lines before those of the window and of `pending`.
    failed: Vec<Record>,
    /// The last failure that may pass.
    complaint: String,
    /// The failure that stays: line, place among the events, text.
    fatal: Option<(u64, u64, String)>,
    bad_input: Option<BadInput>,
    ended: bool,
    counts: Counts,
    progress: Instant,
    pause: Option<Duration>,
}

impl Sender {
    /// Connects.
    pub(super) async fn connect(settings: Settings) -> Result<Self, ClientError> {
        let client = WireClient::connect(&settings.address, settings.password.as_deref()).await?;
        Ok(Self {
            settings,
            client: Some(client),
            versions: Versions::default(),
            pending: VecDeque::new(),
            pending_bytes: 0,
            window: VecDeque::new(),
            window_bytes: 0,
            failed: Vec::new(),
            complaint: String::new(),
            fatal: None,
            bad_input: None,
            ended: false,
            counts: Counts::default(),
            progress: Instant::now(),
            pause: None,
        })
    }

    /// What was done so far.
    pub(super) fn counts(&self) -> Counts {
        self.counts
    }

    /// Sends all events that arrive.
    ///
    /// # Errors
    /// At the first line that is no event, that the server refuses for good, or that could not be
    /// imported for a minute.
    pub(super) async fn send_all(
        &mut self,
        lines: &mut Lines,
        bar: &ProgressBar,
    ) -> Result<(), Failure> {
        loop {
            if self.window.is_empty() {
                if let Some((line, ordinal, text)) = self.fatal.take() {
                    return Err(self.failure(line, ordinal, text));
                }
                if !self.failed.is_empty() || self.must_ask() {
                    self.recover().await;
                    continue;
                }
                if self.pending.is_empty() {
                    match (self.ended, self.bad_input.take()) {
                        (false, _) => self.take(lines.recv().await),
                        (true, None) => return Ok(()),
                        (true, Some(BadInput { line, what })) => {
                            return Err(self.failure(line, self.counts.events, what.to_string()));
                        }
                    }
                    continue;
                }
            }
            self.send_pending();
            self.turn(lines).await;
            self.collect(bar);
        }
    }

    /// Whether the next event cannot be sent yet.
    fn must_ask(&self) -> bool {
        let next = self.pending.front();
        next.is_some_and(|next| self.client.is_none() || !self.knows(next))
    }

    fn knows(&self, record: &Record) -> bool {
        record.events.iter().all(|item| self.versions.knows(&item.event))
    }

    fn may_send(&self) -> bool {
        let full = self.window.len() >= self.settings.depth
            || (self.window_bytes >= self.settings.bytes && !self.window.is_empty());
        self.failed.is_empty() && self.fatal.is_none() && !full
    }

    fn send_pending(&mut self) {
        while self.may_send()
            && let Some(client) = &mut self.client
            && let Some(record) = self.pending.front()
            && record.events.iter().all(|item| self.versions.knows(&item.event))
            && let Some(record) = self.pending.pop_front()
        {
            let expected = record.events.iter().filter_map(|item| self.versions.sent(&item.event));
            put_append(client.out(), &record, expected);
            self.pending_bytes -= size(&record);
            self.window_bytes += size(&record);
            self.window.push_back(record);
        }
    }

    /// Moves bytes, or takes more events, whichever is possible first.
    async fn turn(&mut self, lines: &mut Lines) {
        let wants_lines = !self.ended
            && self.pending.len() < self.settings.depth
            && self.pending_bytes < self.settings.bytes;
        let given_up = self.progress + PATIENCE;
        let Some(client) = &mut self.client else { return self.lost("no connection".into()) };
        tokio::select! {
            moved = client.exchange() => {
                if let Err(error) = moved {
                    self.lost(error.to_string());
                }
            }
            chunk = lines.recv(), if wants_lines => self.take(chunk),
            () = sleep_until(given_up), if !self.window.is_empty() => {
                let (address, seconds) = (&self.settings.address, PATIENCE.as_secs());
                self.lost(format!("{address} does not answer, for {seconds} s"));
            }
        }
    }

    fn take(&mut self, chunk: Option<Result<Chunk, BadInput>>) {
        match chunk {
            None => self.ended = true,
            Some(Err(bad)) => {
                self.bad_input = Some(bad);
                self.ended = true;
            }
            Some(Ok(chunk)) => {
                self.counts.lines += chunk.lines;
                self.counts.events +=
                    chunk.records.iter().map(|r| r.events.len() as u64).sum::<u64>();
                self.counts.ids_adjusted += chunk.ids_adjusted;
                if self.window.is_empty() && self.failed.is_empty() && self.pending.is_empty() {
                    // Waiting for input is no lack of progress.
                    self.progress = Instant::now();
                }
                self.pending_bytes += chunk.records.iter().map(size).sum::<usize>();
                self.pending.extend(chunk.records);
            }
        }
    }

    /// Takes the answers that have arrived.
    fn collect(&mut self, bar: &ProgressBar) {
        while let Some(client) = &mut self.client {
            match client.try_reply() {
                Ok(None) => return,
                Ok(Some(Value::Push(_))) => {}
                Ok(Some(reply)) => self.answered(&reply, bar),
                Err(error) => self.lost(error.to_string()),
            }
        }
    }

    fn appended(&mut self, record: &Record, versions: &[u64], bar: &ProgressBar) {
        let before = self.counts.appended;
        self.counts.appended += record.events.len() as u64;
        self.progress = Instant::now();
        self.pause = None;
        bar.inc(record.line_bytes);
        if before / 4096 != self.counts.appended / 4096 {
            bar.set_message(format!("{} events", self.counts.appended));
        }
        for (item, version) in record.events.iter().zip(versions.iter().copied()) {
            self.versions.answered(&item.event, version);
            let stream = stream_of(&item.event);
            let failed = self.failed.iter_mut().flat_map(|record| &mut record.events);
            for earlier in failed.filter(|earlier| stream_of(&earlier.event) == stream) {
                let first = earlier.overtaken.map_or(version, |first| first.min(version));
                earlier.overtaken = Some(first);
            }
            if item.overtaken.is_some_and(|later| version > later) && self.fatal.is_none() {
                let text = format!(
                    "this event came to stand behind later ones of stream {}, because another \
                     client appends to that stream at the same time; import it with --depth 1",
                    stream.0
                );
                self.fatal = Some((record.line, record.ordinal, text));
            }
        }
    }

    fn answered(&mut self, reply: &Value, bar: &ProgressBar) {
        let Some(record) = self.window.pop_front() else { return };
        self.window_bytes -= size(&record);
        if let Some(versions) = versions_of(reply, record.events.len()) {
            return self.appended(&record, &versions, bar);
        }
        let text = match reply {
            Value::Error(text) => text.clone(),
            other => format!("the server answered {other:?} to an append"),
        };
        match verdict(&text) {
            Verdict::Stop if self.fatal.is_none() => {
                self.fatal = Some((record.line, record.ordinal, text));
            }
            Verdict::Stop => {}
            Verdict::Ask => {
                // Behind another failure of its window this is its echo.
                if self.failed.is_empty() {
                    self.complaint = text;
                }
            }
            Verdict::Again => {
                self.complaint = text;
                self.pause.get_or_insert(PAUSE_MIN);
            }
        }
        self.failed.push(record);
    }

    /// The connection is of no use any more; what is in flight has to be sent again.
    fn lost(&mut self, text: String) {
        self.client = None;
        self.complaint = text;
        self.pause.get_or_insert(PAUSE_MIN);
        self.window_bytes = 0;
        self.failed.extend(self.window.drain(..));
    }

    /// Waits, connects if need be, asks where the streams are, and puts what failed in front.
    async fn recover(&mut self) {
        if let Some(first) = self.failed.first().or_else(|| self.pending.front())
            && self.progress.elapsed() >= PATIENCE
        {
            let text = format!("{} (tried for {} s)", self.complaint, PATIENCE.as_secs());
            self.fatal = Some((first.line, first.ordinal, text));
            return;
        }
        if let Some(pause) = self.pause {
            sleep(pause).await;
        }
        // Should this round end like the last one, the next waits longer; progress ends that.
        self.pause = Some(self.pause.map_or(PAUSE_MIN, |pause| (pause * 2).min(PAUSE_MAX)));
        match self.ask().await {
            Ok(()) => {
                for record in self.failed.drain(..).rev() {
                    self.pending_bytes += size(&record);
                    self.pending.push_front(record);
                }
            }
            Err(complaint) => self.complaint = complaint,
        }
    }

    /// Asks for the latest version of every stream that has failed events, or that is not known.
    async fn ask(&mut self) -> Result<(), String> {
        let words = |error: ClientError| error.to_string();
        let mut client = match self.client.take() {
            Some(client) => client,
            None => {
                let Settings { address, password, .. } = &self.settings;
                WireClient::connect(address, password.as_deref()).await.map_err(words)?
            }
        };
        let pending = self.pending.iter().flat_map(|record| &record.events);
        let unknown = pending.filter(|next| !self.versions.knows(&next.event));
        let failed = self.failed.iter().flat_map(|record| &record.events);
        let all = failed.chain(unknown).map(|item| stream_of(&item.event));
        let mut asked = HashSet::new();
        let streams: Vec<_> = all.filter(|stream| asked.insert(stream.clone())).collect();
        for (stream, key) in &streams {
            let mut buffer = Uuid::encode_buffer();
            let key = key.uuid().hyphenated().encode_lower(&mut buffer);
            client.queue(&[b"ESVER", stream.as_str().as_bytes(), b"PARTITION_KEY", key.as_bytes()]);
        }
        let mut refused = None;
        for stream in streams {
            let reply = tokio::time::timeout(PATIENCE, client.reply()).await;
            match reply.map_err(|_| "no answer to ESVER")?.map_err(words)? {
                Value::Null => self.versions.learned(stream, None),
                Value::Error(text) => refused = Some(text),
                reply => self.versions.learned(stream, reply.number()),
            }
        }
        self.client = Some(client);
        refused.map_or(Ok(()), Err)
    }

    /// The end at a line that stands behind `ordinal` events.
    fn failure(&self, line: u64, ordinal: u64, text: String) -> Failure {
        let open = self.failed.iter().chain(&self.window).chain(&self.pending);
        let open = open.filter(|record| record.ordinal < ordinal);
        let open: u64 = open.map(|record| record.events.len() as u64).sum();
        let before = ordinal - open;
        Failure { line, text, before, after: self.counts.appended.saturating_sub(before) }
    }
}

fn size(record: &Record) -> usize {
    let size = |item: &Item| item.event.payload.len() + item.event.metadata.len() + COMMAND_BYTES;
    record.events.iter().map(size).sum()
}

/// The versions that an append of so many events was answered with.
fn versions_of(reply: &Value, count: usize) -> Option<Vec<u64>> {
    let version = |event: &Value| event.get("stream_version").and_then(Value::number);
    let versions: Vec<u64> = match reply.get("events") {
        None => version(reply).into_iter().collect(),
        Some(Value::Array(events)) => events.iter().filter_map(version).collect(),
        Some(_) => return None,
    };
    (versions.len() == count).then_some(versions)
}

/// Queues the command that appends an event, or those of a transaction. Each expects a version.
fn put_append(
    out: &mut BytesMut,
    record: &Record,
    mut expected: impl Iterator<Item = ExpectedVersion>,
) {
    // The arguments live until the command is written; most are short and made here.
    let mut made = Vec::with_capacity(record.events.len());
    for item in &record.events {
        let version = match expected.next() {
            Some(ExpectedVersion::Exact(version)) => Some(Digits::of(version)),
            _ => None,
        };
        let timestamp = item.event.timestamp_ms.map(Digits::of);
        made.push((uuid_text(item.id), version, timestamp));
    }
    let Some(first) = record.events.first() else { return };
    let key = uuid_text(first.event.key.uuid());
    let mut arguments: Vec<&[u8]> = Vec::with_capacity(2 + 12 * record.events.len());
    let alone = record.events.len() == 1;
    arguments.push(if alone { b"EAPPEND" } else { b"EMAPPEND" });
    if !alone {
        arguments.push(&key);
    }
    for (Item { event, .. }, (id, version, timestamp)) in record.events.iter().zip(&made) {
        let key = (alone && event.own_key).then_some(key.as_slice());
        put_event(
            &mut arguments,
            event,
            [
                (b"EVENT_ID", Some(id)),
                (b"PARTITION_KEY", key),
                (b"EXPECTED_VERSION", Some(version.as_ref().map_or(b"empty", Digits::bytes))),
                (b"TIMESTAMP", timestamp.as_ref().map(Digits::bytes)),
            ],
        );
    }
    put_command(out, &arguments);
}

fn put_event<'a>(
    arguments: &mut Vec<&'a [u8]>,
    event: &'a Event,
    options: [(&'a [u8], Option<&'a [u8]>); 4],
) {
    arguments.extend([event.stream.as_str().as_bytes(), event.name.as_str().as_bytes()]);
    let metadata = (!event.metadata.is_empty()).then_some(event.metadata.as_slice());
    let content: [(&[u8], _); 2] =
        [(b"PAYLOAD", Some(event.payload.as_slice())), (b"METADATA", metadata)];
    for (word, value) in options.into_iter().chain(content) {
        if let Some(value) = value {
            arguments.extend([word, value]);
        }
    }
}

fn uuid_text(uuid: Uuid) -> [u8; Hyphenated::LENGTH] {
    let mut text = [0; Hyphenated::LENGTH];
    uuid.hyphenated().encode_lower(&mut text);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_have_only_the_options_that_are_needed() {
        let sent = |lines: &[&str], expected: &[ExpectedVersion]| {
            let item = |line: &&str| {
                let event = Event::parse(line.as_bytes()).unwrap();
                Item { id: Uuid::from_u128(7), event, overtaken: None }
            };
            let events = lines.iter().map(item).collect();
            let record = Record { line: 1, ordinal: 0, line_bytes: 0, events };
            let mut out = BytesMut::new();
            put_append(&mut out, &record, expected.iter().copied());
            let text = String::from_utf8(out.to_vec()).unwrap();
            let words = text.split("\r\n").skip(2).step_by(2);
            words.collect::<Vec<_>>().join(" ")
        };
        let id = "EVENT_ID 00000000-0000-0000-0000-000000000007";
        assert_eq!(
            sent(&[r#"{"stream":"s","name":"n","payload":"p"}"#], &[ExpectedVersion::Empty]),
            format!("EAPPEND s n {id} EXPECTED_VERSION empty PAYLOAD p")
        );
        let key = "01890a5d-ac96-774b-bcce-b302099a8057";
        let line = format!(
            r#"{{"stream":"s","name":"n","payload":"p","metadata":[1],"timestamp":5,
            "partition_key":"{key}"}}"#
        );
        assert_eq!(
            sent(&[&line], &[ExpectedVersion::Exact(12)]),
            format!(
                "EAPPEND s n {id} PARTITION_KEY {key} EXPECTED_VERSION 12 TIMESTAMP 5 PAYLOAD p \
                 METADATA [1]"
            )
        );
        assert_eq!(
            sent(&[&line, &line], &[ExpectedVersion::Empty, ExpectedVersion::Exact(0)]),
            format!(
                "EMAPPEND {key} s n {id} EXPECTED_VERSION empty TIMESTAMP 5 PAYLOAD p METADATA \
                 [1] s n {id} EXPECTED_VERSION 0 TIMESTAMP 5 PAYLOAD p METADATA [1]"
            )
        );
    }

    #[test]
    fn only_what_may_pass_is_sent_again() {
        assert_eq!(verdict("TRYAGAIN the server is stopping"), Verdict::Again);
        assert_eq!(verdict("UNCERTAIN the outcome is unknown"), Verdict::Again);
        assert_eq!(verdict("WRONGVER current stream version is 3"), Verdict::Ask);
        assert_eq!(verdict("DUPLICATE x is version 1 of stream s"), Verdict::Stop);
        assert_eq!(verdict("READONLY the disk failed"), Verdict::Stop);
    }
}
