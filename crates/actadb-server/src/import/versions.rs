//! The expected version of every event in flight: what keeps the order of a stream.
//!
//! Were an event refused for a moment (`TRYAGAIN`, `DISKFULL`) and the next one of its stream
//! accepted, sending the first one again would put it behind the second. So each event expects
//! the one before it; then the second is refused, too, and both are sent again in order. Events
//! that were imported before are found by their ids, whatever they expect.
//!
//! An event may expect too much: it is refused, and so is everything behind it. It must never
//! expect too little, for then one behind it could be accepted instead. Hence a stream's version is
//! asked for before its first event is sent, and corrected only when nothing of it is in flight.

use std::collections::HashMap;

use actadb::model::ids::PartitionKey;
use actadb::model::names::StreamId;
use actadb::model::version::ExpectedVersion;

use super::line::Event;

/// Streams remembered; a forgotten one is asked for again.
const STREAMS_MAX: usize = 1 << 18;

/// A stream under one of its keys.
pub(super) type StreamKey = (StreamId, PartitionKey);

/// The stream of an event.
pub(super) fn stream_of(event: &Event) -> StreamKey {
    (event.stream.clone(), event.key)
}

/// What is known of the streams that events go to.
#[derive(Debug, Default)]
pub(super) struct Versions(HashMap<StreamKey, Head>);

#[derive(Debug)]
struct Head {
    /// The latest version that the server told; `None` is an empty stream.
    told: Option<u64>,
    /// The latest version once everything in flight is appended, or higher.
    latest: Option<u64>,
    in_flight: u32,
}

impl Versions {
    /// Whether the event's stream was asked for.
    pub(super) fn knows(&self, event: &Event) -> bool {
        self.0.contains_key(&stream_of(event))
    }

    /// The server says that this is the stream's latest version. Nothing of it is in flight.
    pub(super) fn learned(&mut self, stream: StreamKey, latest: Option<u64>) {
        if self.0.len() >= STREAMS_MAX {
            self.0.retain(|_, head| head.in_flight > 0);
        }
        self.0.insert(stream, Head { told: latest, latest, in_flight: 0 });
    }

    /// What the event expects, now that it is sent; `None` when its stream must be asked for.
    pub(super) fn sent(&mut self, event: &Event) -> Option<ExpectedVersion> {
        let head = self.0.get_mut(&stream_of(event))?;
        let expected = head.latest.map_or(ExpectedVersion::Empty, ExpectedVersion::Exact);
        head.latest = Some(head.latest.map_or(0, |latest| latest.saturating_add(1)));
        head.in_flight += 1;
        Some(expected)
    }

    /// The event has this version. One that failed stays in flight until its stream is asked for.
    pub(super) fn answered(&mut self, event: &Event, version: u64) {
        if let Some(head) = self.0.get_mut(&stream_of(event)) {
            head.told = head.told.max(Some(version));
            head.in_flight = head.in_flight.saturating_sub(1);
            if head.in_flight == 0 {
                head.latest = head.told;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ExpectedVersion::{Empty, Exact};

    fn event(stream: &str) -> Event {
        let line = format!(r#"{{"stream":"{stream}","name":"n","payload":""}}"#);
        Event::parse(line.as_bytes()).unwrap()
    }

    #[test]
    fn each_event_expects_the_one_before_it() {
        let (event, other) = (event("s"), event("t"));
        let mut versions = Versions::default();
        assert_eq!(versions.sent(&event), None, "not asked for");
        versions.learned(stream_of(&event), None);
        versions.learned(stream_of(&other), Some(7));
        assert_eq!(versions.sent(&event), Some(Empty));
        assert_eq!(versions.sent(&event), Some(Exact(0)));
        assert_eq!(versions.sent(&other), Some(Exact(7)));
        versions.answered(&event, 0);
        assert_eq!(versions.sent(&event), Some(Exact(1)));
    }

    #[test]
    fn events_imported_before_are_corrected_for_when_nothing_is_in_flight() {
        let event = event("s");
        let mut versions = Versions::default();
        versions.learned(stream_of(&event), Some(9));
        versions.sent(&event);
        versions.sent(&event);
        versions.answered(&event, 3);
        assert_eq!(versions.sent(&event), Some(Exact(11)), "too much, never too little");
        versions.answered(&event, 4);
        versions.answered(&event, 5);
        assert_eq!(versions.sent(&event), Some(Exact(9)));
    }
}
