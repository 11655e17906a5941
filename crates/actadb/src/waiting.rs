//! The callers of one partition that wait for an answer, and what becomes of those that wait too
//! long.

use std::collections::VecDeque;
use std::time::Duration;

use actadb_model::outcome::{AppendResult, Unknown};
use actadb_partition::message::Token;
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval};

/// Late callers are looked for this many times in the time they have: one timer for all of them,
/// because a timer of its own costs an append a microsecond.
const LOOKS: u32 = 20;

/// A caller that waits.
#[derive(Debug)]
pub(crate) struct Waiter {
    /// `None` when it was told that its time is over.
    pub(crate) reply: Option<oneshot::Sender<Vec<AppendResult>>>,
    /// Given back with the core's answer, whoever still waits for it.
    pub(crate) permit: OwnedSemaphorePermit,
    /// How many results it waits for.
    pub(crate) count: usize,
    /// When it is told that the outcome is unknown.
    pub(crate) deadline: Instant,
}

/// Callers by their token. Tokens are given out in order and answered nearly so: a ring is enough.
#[derive(Debug)]
pub(crate) struct Waiting {
    /// From token `first` on; `None` where the answer was given. The first one is never `None`.
    waiters: VecDeque<Option<Waiter>>,
    first: u64,
    /// What a caller has.
    timeout: Duration,
    look: Interval,
    /// Permits of those answered, given back together.
    answered: Option<OwnedSemaphorePermit>,
}

impl Waiting {
    /// Nobody waits; callers have `timeout` each.
    pub(crate) fn new(timeout: Duration) -> Self {
        let mut look = interval((timeout / LOOKS).max(Duration::from_millis(1)));
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { waiters: VecDeque::new(), first: 0, timeout, look, answered: None }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.waiters.is_empty()
    }

    /// When the time of a caller is over that came `since`.
    pub(crate) fn until(&self, since: Instant) -> Instant {
        since + self.timeout
    }

    pub(crate) fn add(&mut self, waiter: Waiter) -> Token {
        let token = Token(self.first + self.waiters.len() as u64);
        self.waiters.push_back(Some(waiter));
        token
    }

    /// Answers a caller; its permit goes back with the [next](Self::give_back).
    pub(crate) fn answer(&mut self, token: Token, results: Vec<AppendResult>) {
        let at = token.0.checked_sub(self.first).and_then(|at| usize::try_from(at).ok());
        let slot = at.and_then(|at| self.waiters.get_mut(at));
        let Some(Waiter { reply, permit, .. }) = slot.and_then(Option::take) else { return };
        while self.waiters.front().is_some_and(Option::is_none) {
            self.waiters.pop_front();
            self.first += 1;
        }
        if let Some(reply) = reply {
            // Whoever is gone does not want to know.
            let _ = reply.send(results);
        }
        match &mut self.answered {
            Some(answered) => answered.merge(permit),
            none => *none = Some(permit),
        }
    }

    /// Gives the permits of those answered back.
    pub(crate) fn give_back(&mut self) {
        self.answered = None;
    }

    /// Resolves when it is time to look for those that are late.
    pub(crate) async fn tick(&mut self) {
        self.look.tick().await;
    }

    /// Tells the late ones that their outcome is unknown. What they sent is still being decided,
    /// and keeps its permit.
    pub(crate) fn expire(&mut self) {
        let now = Instant::now();
        for waiter in self.waiters.iter_mut().flatten().filter(|w| w.deadline <= now) {
            if let Some(reply) = waiter.reply.take() {
                let _ = reply.send(vec![Err(Unknown::Timeout.into()); waiter.count]);
            }
        }
    }
}
