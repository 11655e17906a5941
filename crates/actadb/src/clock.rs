//! The real clock; the cores get its readings as arguments.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use actadb_model::time::Now;
use tokio::time::Instant;

/// Reads both clocks. The monotonic one is tokio's, so that paused time in tests is one time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    start: Instant,
}

impl Clock {
    pub(crate) fn new() -> Self {
        Self { start: Instant::now() }
    }

    pub(crate) fn now(&self) -> Now {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Now {
            mono_ns: self.start.elapsed().as_nanos() as u64,
            unix_ns: u64::try_from(unix.as_nanos()).unwrap_or(u64::MAX),
        }
    }

    pub(crate) fn at(&self, mono_ns: u64) -> Instant {
        self.start + Duration::from_nanos(mono_ns)
    }
}
