//! When to try again.

use std::time::Duration;

use tokio::time::Instant;
use uuid::Uuid;

const FIRST: Duration = Duration::from_millis(20);
const LONGEST: Duration = Duration::from_secs(1);

/// Pauses that double, with some chance in them so that many clients do not come back at once.
#[derive(Debug)]
pub(crate) struct Backoff {
    next: Duration,
    /// No try begins after this; `None` for never giving up.
    until: Option<Instant>,
}

impl Backoff {
    /// Gives up after so long.
    pub(crate) fn within(limit: Duration) -> Self {
        Self { next: FIRST, until: Instant::now().checked_add(limit) }
    }

    /// Never gives up.
    pub(crate) fn endless() -> Self {
        Self { next: FIRST, until: None }
    }

    /// Begins with short pauses again.
    pub(crate) fn reset(&mut self) {
        self.next = FIRST;
    }

    /// Waits before the next try; answers false when there shall be none.
    pub(crate) async fn pause(&mut self) -> bool {
        let dice = u32::from(Uuid::new_v4().as_bytes()[0]);
        // Half of it to all of it.
        let pause = self.next / 2 + self.next / 2 * dice / 255;
        if self.until.is_some_and(|until| Instant::now() + pause >= until) {
            return false;
        }
        tokio::time::sleep(pause).await;
        self.next = (self.next * 2).min(LONGEST);
        true
    }
}
