//! The schedule of an open loop, and the thread that wakes connections on it.
//!
//! The runtime's timers are a millisecond coarse, which is more than most latencies measured
//! here; a thread that sleeps is about 60 µs coarse.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::load::Plan;

/// Shortest sleep: a higher rate is sent in bursts of this distance.
const SLEEP_MIN: Duration = Duration::from_micros(50);
/// Longest sleep: how late the end of a run is seen.
const SLEEP_MAX: Duration = Duration::from_millis(20);

/// When the operations of an open loop are due: evenly, the connections in turn.
#[derive(Debug)]
pub(super) struct Pace {
    start: Instant,
    rate: f64,
    ticks: Vec<Notify>,
    stopped: AtomicBool,
}

impl Pace {
    /// `rate` operations per second from `start` on, shared by `lanes` connections.
    pub(super) fn new(start: Instant, rate: f64, lanes: usize) -> Self {
        let ticks = (0..lanes).map(|_| Notify::new()).collect();
        Self { start, rate, ticks, stopped: AtomicBool::new(false) }
    }

    /// When operation `number` of connection `lane` is due.
    pub(super) fn due(&self, lane: usize, number: u64) -> Instant {
        self.due_of_all(number * self.ticks.len() as u64 + lane as u64)
    }

    fn due_of_all(&self, number: u64) -> Instant {
        self.start + Duration::from_secs_f64(number as f64 / self.rate)
    }

    /// How many operations are due before `now`.
    fn due_until(&self, now: Instant) -> u64 {
        (now.saturating_duration_since(self.start).as_secs_f64() * self.rate).ceil() as u64
    }

    /// How many operations of connection `lane` from `number` on are due before `until`.
    pub(super) fn left(&self, lane: usize, number: u64, until: Instant) -> u64 {
        let (lane, lanes) = (lane as u64, self.ticks.len() as u64);
        let of_lane = (self.due_until(until) + lanes - 1).saturating_sub(lane) / lanes;
        of_lane.saturating_sub(number)
    }

    /// Waits until an operation of connection `lane` may have become due.
    pub(super) async fn tick(&self, lane: usize) {
        self.ticks[lane].notified().await;
    }

    /// Wakes every connection.
    pub(super) fn wake_all(&self) {
        self.ticks.iter().for_each(Notify::notify_one);
    }

    /// Ends the thread.
    pub(super) fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }

    /// Wakes connections as their operations become due, until stopped or past `until`.
    fn run(&self, until: Option<Instant>) {
        let mut next = 0;
        while !self.stopped.load(Ordering::Relaxed) {
            let now = Instant::now();
            if until.is_some_and(|until| now >= until) {
                self.wake_all();
                return;
            }
            let due = self.due_until(now);
            if due.saturating_sub(next) >= self.ticks.len() as u64 {
                self.wake_all();
            } else {
                for number in next..due {
                    self.ticks[(number % self.ticks.len() as u64) as usize].notify_one();
                }
            }
            next = due.max(next);
            let wait = self.due_of_all(next).saturating_duration_since(Instant::now());
            thread::sleep(wait.clamp(SLEEP_MIN, SLEEP_MAX));
        }
    }
}

/// Starts the thread of a plan that has a schedule.
pub(super) fn spawn(plan: Arc<Plan>) -> io::Result<JoinHandle<()>> {
    thread::Builder::new().name("bench-pace".into()).spawn(move || {
        if let Some(pace) = &plan.pace {
            pace.run(plan.until);
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_take_turns_on_one_even_schedule() {
        let start = Instant::now();
        let pace = Pace::new(start, 1000.0, 4);
        let ms = |number| start + Duration::from_millis(number);
        assert_eq!(pace.due(0, 0), ms(0));
        assert_eq!(pace.due(3, 0), ms(3));
        assert_eq!(pace.due(1, 2), ms(9));
    }

    #[test]
    fn what_is_left_adds_up() {
        let start = Instant::now();
        let pace = Pace::new(start, 1000.0, 4);
        let until = start + Duration::from_micros(9500);
        // Ten are due: at 0, 1, … 9 ms.
        let left: Vec<_> = (0..4).map(|lane| pace.left(lane, 0, until)).collect();
        assert_eq!(left, [3, 3, 2, 2]);
        assert_eq!(pace.left(0, 2, until), 1);
        assert_eq!(pace.left(0, 9, until), 0);
    }
}
