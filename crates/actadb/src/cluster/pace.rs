//! Work that must leave room for others is spread over time.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// What was not used up to so long ago may be used at once: a node that was away for a moment is
/// back without a pause.
const SAVED: Duration = Duration::from_secs(1);

/// So many bytes a second, counted when they are spent.
#[derive(Debug)]
pub(crate) struct Pace {
    /// 0: as many as there are.
    bytes_per_second: u64,
    /// What is spent is paid for at this moment.
    paid_at: Mutex<Instant>,
}

impl Pace {
    pub(crate) fn new(bytes_per_second: u64) -> Self {
        Self { bytes_per_second, paid_at: Mutex::new(Instant::now()) }
    }

    /// When more may be spent; `None`: now.
    pub(crate) fn wait_until(&self) -> Option<Instant> {
        let paid_at = *self.paid_at.lock().unwrap_or_else(PoisonError::into_inner);
        Some(paid_at).filter(|at| *at > Instant::now())
    }

    /// So many bytes were spent.
    pub(crate) fn spend(&self, bytes: u64) {
        if self.bytes_per_second == 0 {
            return;
        }
        let cost = Duration::from_secs_f64(bytes as f64 / self.bytes_per_second as f64);
        let mut paid_at = self.paid_at.lock().unwrap_or_else(PoisonError::into_inner);
        let least = Instant::now().checked_sub(SAVED).unwrap_or(*paid_at);
        *paid_at = (*paid_at).max(least) + cost;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::sleep_until;

    #[tokio::test(start_paused = true)]
    async fn a_second_of_it_may_be_spent_at_once_and_then_so_much_a_second() {
        let pace = Pace::new(1000);
        tokio::time::advance(Duration::from_secs(60)).await;
        let began = Instant::now();
        for _ in 0..10 {
            assert_eq!(pace.wait_until(), None);
            pace.spend(100);
        }
        for _ in 0..20 {
            pace.spend(100);
            if let Some(at) = pace.wait_until() {
                sleep_until(at).await;
            }
        }
        assert_eq!(began.elapsed().as_millis(), 2000);
        let free = Pace::new(0);
        free.spend(u64::MAX);
        assert_eq!(free.wait_until(), None);
    }
}
