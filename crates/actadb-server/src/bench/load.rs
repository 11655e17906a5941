//! Driving the connections: what is sent when, and what is counted.

use std::collections::VecDeque;
use std::future::pending;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hdrhistogram::{CreationError, Histogram};

use super::commands::{Commands, Counted};
use super::pace::Pace;
use crate::wire_client::{ClientError, WireClient};

/// Latencies are kept from 1 µs to this many, to three digits.
const LATENCY_MAX_US: u64 = 60_000_000;
const LATENCY_DIGITS: u8 = 3;
/// A server that sends nothing for so long is given up.
const PATIENCE: Duration = Duration::from_secs(60);
/// Most tallies; more connections share them.
const TALLIES_MAX: usize = 16;
/// What was due before the end of an open loop may still be sent for so long.
const GRACE: Duration = Duration::from_millis(100);
/// Unsent bytes of a connection, beyond which no more are queued.
const QUEUED_BYTES: usize = 1 << 20;

/// What all connections keep to.
#[derive(Debug)]
pub(super) struct Plan {
    /// Operations outstanding on one connection at most.
    pub(super) depth: usize,
    /// When the first operation is sent.
    pub(super) start: Instant,
    /// Operations sent, or due, from here on are measured.
    pub(super) from: Instant,
    /// No operation is sent from here on.
    pub(super) until: Option<Instant>,
    /// Measured operations still to be sent.
    pub(super) tickets: Option<AtomicU64>,
    /// The schedule of an open loop.
    pub(super) pace: Option<Pace>,
}

/// What was counted.
#[derive(Debug)]
pub(super) struct Tally {
    /// Latencies of measured operations that succeeded, in microseconds.
    pub(super) latencies: Histogram<u64>,
    /// Measured operations that succeeded.
    pub(super) operations: u64,
    /// Their events.
    pub(super) events: u64,
    /// Operations that failed, measured or not.
    pub(super) errors: u64,
    /// The first error's text.
    pub(super) first_error: Option<String>,
    /// Operations that were due, but could not be sent before the end.
    pub(super) unsent: u64,
    /// When the last measured operation was answered.
    pub(super) last: Option<Instant>,
}

impl Tally {
    fn new() -> Result<Self, CreationError> {
        Ok(Self {
            latencies: Histogram::new_with_bounds(1, LATENCY_MAX_US, LATENCY_DIGITS)?,
            operations: 0,
            events: 0,
            errors: 0,
            first_error: None,
            unsent: 0,
            last: None,
        })
    }

    fn failed(&mut self, text: &str, operations: u64) {
        self.errors += operations;
        self.first_error.get_or_insert_with(|| text.into());
    }
}

/// The tallies of all connections. A histogram takes some 200 KB: ten thousand connections cannot
/// have one each.
#[derive(Debug)]
pub(super) struct Tallies(Vec<Mutex<Tally>>);

impl Tallies {
    /// Empty tallies.
    pub(super) fn new(lanes: usize) -> Result<Self, CreationError> {
        let tallies = (0..lanes.clamp(1, TALLIES_MAX)).map(|_| Tally::new().map(Mutex::new));
        tallies.collect::<Result<_, _>>().map(Self)
    }

    fn of_lane(&self, lane: usize) -> MutexGuard<'_, Tally> {
        self.0[lane % self.0.len()].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts failed operations of a connection.
    pub(super) fn failed(&self, lane: usize, text: &str, operations: u64) {
        self.of_lane(lane).failed(text, operations);
    }

    /// All of them together.
    pub(super) fn total(&self) -> Result<Tally, CreationError> {
        let mut total = Tally::new()?;
        for lane in 0..self.0.len() {
            let tally = self.of_lane(lane);
            // Histograms of the same bounds always add up.
            let _ = total.latencies.add(&tally.latencies);
            total.operations += tally.operations;
            total.events += tally.events;
            total.errors += tally.errors;
            total.unsent += tally.unsent;
            total.last = total.last.max(tally.last);
            if total.first_error.is_none() {
                total.first_error.clone_from(&tally.first_error);
            }
        }
        Ok(total)
    }
}

/// One connection under load.
pub(super) struct Lane {
    number: usize,
    client: WireClient,
    commands: Commands,
    plan: Arc<Plan>,
    tallies: Arc<Tallies>,
    /// When the outstanding operations were sent, or due; oldest first.
    outstanding: VecDeque<Instant>,
    sent: u64,
    ended: bool,
    /// Of the oldest outstanding operation: replies that have arrived, and the first error.
    replies: u32,
    error: Option<String>,
    events: u64,
    last_reply: Instant,
}

impl Lane {
    /// A connection that has sent nothing.
    pub(super) fn new(
        number: usize,
        client: WireClient,
        commands: Commands,
        plan: Arc<Plan>,
        tallies: Arc<Tallies>,
    ) -> Self {
        Self {
            number,
            client,
            commands,
            outstanding: VecDeque::with_capacity(plan.depth.min(4096)),
            last_reply: plan.start,
            plan,
            tallies,
            sent: 0,
            ended: false,
            replies: 0,
            error: None,
            events: 0,
        }
    }

    /// Sends and counts until the plan's end, or until the connection is lost.
    pub(super) async fn run(mut self) {
        tokio::time::sleep_until(self.plan.start.into()).await;
        if let Err(error) = self.drive().await {
            let lost = self.outstanding.len().max(1) as u64;
            self.tallies.failed(self.number, &error, lost);
        }
    }

    async fn drive(&mut self) -> Result<(), String> {
        let words = |error: ClientError| error.to_string();
        let mut patience = std::pin::pin!(tokio::time::sleep(PATIENCE));
        loop {
            self.send_due();
            if self.ended && self.outstanding.is_empty() {
                return Ok(());
            }
            let waits_for_tick = !self.ended && self.outstanding.len() < self.plan.depth;
            tokio::select! {
                moved = self.client.exchange() => moved.map_err(words)?,
                () = tick(&self.plan, self.number), if waits_for_tick => continue,
                () = &mut patience => {
                    if !self.outstanding.is_empty() && self.last_reply.elapsed() >= PATIENCE {
                        let (address, seconds) = (self.client.address(), PATIENCE.as_secs());
                        return Err(format!("{address} sent nothing for {seconds} s"));
                    }
                    let again = tokio::time::Instant::now() + PATIENCE / 4;
                    patience.as_mut().reset(again);
                }
            }
            self.collect().map_err(words)?;
        }
    }

    /// Queues the operations that are due and that the depth allows.
    fn send_due(&mut self) {
        let now = Instant::now();
        while !self.ended
            && self.outstanding.len() < self.plan.depth
            && self.client.out().len() < QUEUED_BYTES
        {
            let due = match &self.plan.pace {
                Some(pace) => pace.due(self.number, self.sent),
                None => now,
            };
            let over = self.plan.until.is_some_and(|until| due >= until || now >= until + GRACE);
            if over || (due <= now && due >= self.plan.from && !self.take_ticket()) {
                self.end();
                return;
            }
            if due > now {
                return;
            }
            if self.outstanding.is_empty() {
                self.last_reply = now;
            }
            self.commands.put_next(self.client.out());
            self.outstanding.push_back(due);
            self.sent += 1;
        }
    }

    fn take_ticket(&self) -> bool {
        let Some(tickets) = &self.plan.tickets else { return true };
        let less_one = |left: u64| left.checked_sub(1);
        tickets.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less_one).is_ok()
    }

    fn end(&mut self) {
        self.ended = true;
        let Some(pace) = &self.plan.pace else { return };
        match self.plan.until {
            Some(until) => {
                let left = pace.left(self.number, self.sent, until);
                self.tallies.of_lane(self.number).unsent += left;
            }
            // The tickets are gone: the others need not wait for their turn to see it.
            None => pace.wake_all(),
        }
    }

    /// Counts the operations that are answered.
    fn collect(&mut self) -> Result<(), ClientError> {
        let now = Instant::now();
        let mut tally = self.tallies.of_lane(self.number);
        let (replies, counted) =
            (self.commands.template().replies, self.commands.template().counted);
        while let Some(skimmed) = self.client.try_skim()? {
            self.last_reply = now;
            self.replies += 1;
            self.events += match counted {
                Counted::Fixed(_) => 0,
                Counted::Items => skimmed.items,
                Counted::InnerItems => skimmed.inner_items,
            };
            if self.error.is_none() {
                self.error = skimmed.error;
            }
            if self.replies < replies {
                continue;
            }
            self.replies = 0;
            let seen = std::mem::take(&mut self.events);
            let error = self.error.take();
            let Some(since) = self.outstanding.pop_front() else { continue };
            if let Some(error) = error {
                tally.failed(&error, 1);
            } else if since >= self.plan.from {
                let latency_us = now.duration_since(since).as_micros() as u64;
                tally.latencies.saturating_record(latency_us.max(1));
                tally.operations += 1;
                tally.events += if let Counted::Fixed(events) = counted { events } else { seen };
                tally.last = Some(now);
            }
        }
        Ok(())
    }
}

/// Waits for the schedule; for ever in a closed loop, which sends when a reply arrives.
async fn tick(plan: &Plan, lane: usize) {
    match &plan.pace {
        Some(pace) => pace.tick(lane).await,
        None => pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tallies_add_up_and_keep_the_first_error() {
        let tallies = Tallies::new(2).unwrap();
        for lane in 0..2_u64 {
            let mut tally = tallies.of_lane(lane as usize);
            tally.latencies.saturating_record(1000 * (lane + 1));
            tally.operations += 1;
        }
        tallies.failed(1, "ERR first", 2);
        tallies.failed(1, "ERR second", 1);
        let total = tallies.total().unwrap();
        assert_eq!((total.operations, total.errors), (2, 3));
        assert_eq!(total.first_error.as_deref(), Some("ERR first"));
        assert_eq!(total.latencies.len(), 2);
    }

    #[test]
    fn latencies_beyond_the_bounds_are_kept_at_the_bound() {
        let mut tally = Tally::new().unwrap();
        tally.latencies.saturating_record(u64::MAX);
        assert!(tally.latencies.max() >= LATENCY_MAX_US);
    }
}
