//! A queue of frames to one node, bounded in bytes.

use std::sync::Arc;

use actadb_model::limits::{LANE_BYTES, LANE_FRAMES};
use tokio::sync::mpsc::{self, error::TrySendError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::frame::{FRAME_MAX_BYTES, Frame};

/// A node has two lanes to each other one: whoever must say that it leads still cannot wait until
/// sixteen megabytes of entries are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LaneKind {
    /// Entries of the log, and appends that are forwarded: in order, and large.
    Entries,
    /// Everything else: heartbeats, votes, answers.
    Control,
}

/// A frame that waits, with the place it takes.
#[derive(Debug)]
pub struct Waiting {
    /// The frame.
    pub frame: Frame,
    _place: OwnedSemaphorePermit,
}

/// Where frames to one node are put in.
#[derive(Clone, Debug)]
pub struct LaneSender {
    queue: mpsc::Sender<Waiting>,
    places: Arc<Semaphore>,
}

/// Where they come out.
pub type LaneReceiver = mpsc::Receiver<Waiting>;

/// A lane that holds [`LANE_BYTES`].
#[must_use]
pub fn lane() -> (LaneSender, LaneReceiver) {
    let (queue, receiver) = mpsc::channel(LANE_FRAMES);
    (LaneSender { queue, places: Arc::new(Semaphore::new(LANE_BYTES)) }, receiver)
}

impl LaneSender {
    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.places.available_permits() == LANE_BYTES
    }

    /// Puts a frame in; answers whether there was a place for it. One that is larger than the lane
    /// takes all of it.
    #[must_use]
    pub fn try_send(&self, frame: Frame) -> bool {
        if frame.wire_bytes() > FRAME_MAX_BYTES {
            return false;
        }
        let bytes = frame.wire_bytes().min(LANE_BYTES) as u32;
        let Ok(place) = self.places.clone().try_acquire_many_owned(bytes) else { return false };
        match self.queue.try_send(Waiting { frame, _place: place }) {
            Ok(()) => true,
            Err(TrySendError::Full(_) | TrySendError::Closed(_)) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::FrameKind;
    use bytes::Bytes;

    #[test]
    fn a_lane_takes_so_many_bytes_and_no_more() {
        let (sender, mut receiver) = lane();
        let frame = |bytes: usize| Frame {
            kind: FrameKind::Replica,
            group: 0,
            body: Bytes::from(vec![0; bytes]),
        };
        assert!(sender.is_empty());
        assert!(sender.try_send(frame(LANE_BYTES / 2)));
        assert!(!sender.is_empty());
        assert!(sender.try_send(frame(LANE_BYTES / 4)));
        assert!(!sender.try_send(frame(LANE_BYTES / 2)));
        drop(receiver.try_recv().expect("the first"));
        assert!(sender.try_send(frame(LANE_BYTES / 2)));
        while receiver.try_recv().is_ok() {}
        assert!(!sender.try_send(frame(FRAME_MAX_BYTES)), "none is so large");
        assert!(sender.try_send(frame(LANE_BYTES + 1)), "alone it may pass");
        assert!(!sender.try_send(frame(1)));
        drop(receiver);
        assert!(!sender.try_send(frame(1)));
    }
}
