//! The expected version of every event in flight: what keeps the order of a stream.
//!
//! Were an event refused for a moment (`TRYAGAIN`, `DISKFULL`) and the next one of its stream
//! accepted, sending the first one again would put it behind the second. So each event expects
//! the one before it; then the second is refused, too, and both are sent again in order. Events
//! that were imported before are found by their ids, whatever they expect.

use std::collections::HashMap;

use actadb_model::ids::PartitionKey;
use actadb_model::names::StreamId;
use actadb_model::version::ExpectedVersion;

use super::line::Event;

/// Streams remembered. A forgotten one is taken to be empty, which costs a question at worst.
const STREAMS_MAX: usize = 1 << 18;

/// A stream under one of its keys.
pub(super) type StreamKey = (StreamId, PartitionKey);

/// What is known of the streams that events go to.
#[derive(Debug, Default)]
pub(super) struct Versions(HashMap<StreamKey, Head>);

#[derive(Debug, Default)]
struct Head {
    /// The latest version once everything in flight is appended; `None` is an empty stream.
    latest: Option<u64>,
    in_flight: u32,
}

/// The stream of an event.
pub(super) fn stream_of(event: &Event) -> StreamKey {
    (event.stream.clone(), event.key)
}

impl Versions {
    /// What the event expects, now that it is sent. A stream not known is taken to be empty.
    pub(super) fn sent(&mut self, event: &Event) -> ExpectedVersion {
        if self.0.len() >= STREAMS_MAX {
            self.0.retain(|_, head| head.in_flight > 0);
        }
        let head = self.0.entry(stream_of(event)).or_default();
        let expected = head.latest.map_or(ExpectedVersion::Empty, ExpectedVersion::Exact);
        head.latest = Some(head.latest.map_or(0, |latest| latest.saturating_add(1)));
        head.in_flight += 1;
        expected
    }

    /// The event has this version. That corrects what was taken for known, when the event had
    /// been imported before.
    pub(super) fn answered(&mut self, event: &Event, version: u64) {
        if let Some(head) = self.0.get_mut(&stream_of(event)) {
            head.in_flight = head.in_flight.saturating_sub(1);
            head.latest = Some(version.saturating_add(head.in_flight.into()));
        }
    }

    /// Nothing is in flight, and the server says that this is the stream's latest version.
    pub(super) fn learned(&mut self, stream: StreamKey, latest: Option<u64>) {
        self.0.insert(stream, Head { latest, in_flight: 0 });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_event_expects_the_one_before_it() {
        let event = Event::parse(br#"{"stream":"s","name":"n","payload":""}"#).unwrap();
        let other = Event::parse(br#"{"stream":"t","name":"n","payload":""}"#).unwrap();
        let mut versions = Versions::default();
        assert_eq!(versions.sent(&event), ExpectedVersion::Empty);
        assert_eq!(versions.sent(&event), ExpectedVersion::Exact(0));
        assert_eq!(versions.sent(&other), ExpectedVersion::Empty);
        versions.answered(&event, 0);
        assert_eq!(versions.sent(&event), ExpectedVersion::Exact(1));
    }

    #[test]
    fn answers_correct_what_was_guessed() {
        let event = Event::parse(br#"{"stream":"s","name":"n","payload":""}"#).unwrap();
        let mut versions = Versions::default();
        versions.sent(&event);
        versions.sent(&event);
        // Imported before, behind ten others: one more is still in flight.
        versions.answered(&event, 10);
        assert_eq!(versions.sent(&event), ExpectedVersion::Exact(11));
        versions.learned(stream_of(&event), Some(20));
        assert_eq!(versions.sent(&event), ExpectedVersion::Exact(20));
    }
}
