//! What a sound database says: the answers that one with damage is held against.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use super::load::{PARTITIONS, key_of};
use super::resp::{Client, Event, Value, encode, said};

/// Questions sent before their answers are read.
const DEPTH: usize = 200;
/// One event of so many is asked for by its id: a block of an index holds many more ids.
const IDS_APART: usize = 7;

/// All events of some partitions, as a sound database told them.
#[derive(Debug)]
pub(super) struct Witness {
    partitions: BTreeMap<u64, Vec<Event>>,
    streams: BTreeMap<String, Vec<Event>>,
}

/// How a database answered.
#[derive(Debug, Default)]
pub(super) struct Answers {
    /// Questions that were answered rightly.
    pub(super) right: usize,
    /// Questions that were answered `CORRUPT`.
    pub(super) corrupt: usize,
    /// The first of those errors.
    pub(super) words: String,
}

impl Witness {
    /// Asks a sound database about one bucket of so many.
    pub(super) fn of_bucket(address: SocketAddr, bucket: u64, of: u64) -> Result<Self, String> {
        let mut connection = Client::connect(address).map_err(said)?;
        let mut partitions = BTreeMap::new();
        let mut streams: BTreeMap<String, Vec<Event>> = BTreeMap::new();
        for partition in (0..PARTITIONS).filter(|partition| partition % of == bucket) {
            let events = connection.partition(partition)?;
            for event in &events {
                streams.entry(event.stream.clone()).or_default().push(event.clone());
            }
            partitions.insert(partition, events);
        }
        Ok(Self { partitions, streams })
    }

    /// Asks for everything by partition and by stream. An answer is the one of the sound
    /// database, or `CORRUPT`.
    ///
    /// # Errors
    /// The first answer that is wrong: another event, fewer events, none, another error.
    pub(super) fn ask_scans(&self, address: SocketAddr) -> Result<Answers, String> {
        let mut connection = Client::connect(address).map_err(said)?;
        let mut answers = Answers::default();
        for (partition, events) in &self.partitions {
            let (found, error) = connection.scan("EPSCAN", &partition.to_string(), None)?;
            answers.hold(&format!("EPSCAN {partition}"), &found, error, events)?;
        }
        for (stream, events) in &self.streams {
            let key = key_of(stream);
            let (found, error) = connection.scan("ESCAN", stream, key.as_deref())?;
            answers.hold(&format!("ESCAN {stream}"), &found, error, events)?;
        }
        Ok(answers)
    }

    /// Asks as [`ask_scans`](Self::ask_scans), and for events by their ids.
    pub(super) fn ask(&self, address: SocketAddr) -> Result<Answers, String> {
        let mut answers = self.ask_scans(address)?;
        let mut connection = Client::connect(address).map_err(said)?;
        let events: Vec<&Event> = self.partitions.values().flatten().step_by(IDS_APART).collect();
        for events in events.chunks(DEPTH) {
            let mut bytes = Vec::new();
            for event in events {
                encode(&["EGET", &event.position.id], &mut bytes);
            }
            connection.send(&bytes).map_err(said)?;
            for event in events {
                let value = connection.read().map_err(said)?;
                let is_error = value.code().is_some();
                let found = super::resp::event(&value).into_iter().collect::<Vec<_>>();
                let what = format!("EGET {}", event.position.id);
                let error = is_error.then(|| value.clone());
                answers.hold(&what, &found, error, &[(*event).clone()])?;
            }
        }
        Ok(answers)
    }
}

impl Answers {
    fn hold(
        &mut self,
        what: &str,
        found: &[Event],
        error: Option<Value>,
        expected: &[Event],
    ) -> Result<(), String> {
        if let Some(error) = error {
            let Value::Error(words) = &error else { return Err(format!("{what}: {error:?}")) };
            if error.code() != Some("CORRUPT") {
                return Err(format!("{what} is answered {words}"));
            }
            if !expected.starts_with(found) {
                return Err(format!("{what} gives wrong events, and then {words}"));
            }
            self.corrupt += 1;
            if self.words.is_empty() {
                self.words = words.clone();
            }
            return Ok(());
        }
        if found != expected {
            let same = found.iter().zip(expected).take_while(|(found, told)| found == told);
            return Err(format!(
                "WRONG: {what} gives {} events, the first {} right, of {}",
                found.len(),
                same.count(),
                expected.len()
            ));
        }
        self.right += 1;
        Ok(())
    }
}
