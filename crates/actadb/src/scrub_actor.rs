//! Reading sealed segments again, slowly, for as long as the database runs.
//!
//! One actor for the node: it takes the buckets one after the other, a small step at a time on the
//! executor's thread for it, and waits after each step so that it stays below its rate. It finds
//! and tells; it closes nothing.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use actadb_model::ids::BucketId;
use actadb_store::reader::Reader;
use actadb_store::scrub::{Scrub, ScrubStep};
use kameo::error::Infallible;
use kameo::mailbox::Signal;
use kameo::prelude::*;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until};

use crate::executor::Executor;
use crate::options::Options;
use crate::scrub_board::ScrubBoard;
use crate::supervisor::{NodeSupervisor, StartScrub};

/// Bytes of one step: a few milliseconds of a disk's time.
const STEP_BYTES: u64 = 256 << 10;

/// Nothing to read must not become a loop without a pause.
const LEAST_INTERVAL: Duration = Duration::from_millis(1);

/// Instants end before intervals do.
const NEVER: Duration = Duration::from_secs(10 * 365 * 86_400);

/// What the scrub actor is made of.
#[derive(Debug)]
pub(crate) struct ScrubActor {
    executor: Executor,
    board: Arc<ScrubBoard>,
    bytes_per_second: u64,
    /// From the beginning of one round to the beginning of the next.
    interval: Duration,
    readers: Vec<Reader>,
    round: Option<Round>,
    /// When the next step or round begins.
    wake: Instant,
}

/// One round over all buckets.
#[derive(Debug)]
struct Round {
    began: Instant,
    /// Position in the readers.
    bucket: usize,
    /// The bucket at hand; `None` when a step of it panicked.
    scrub: Option<Scrub>,
}

/// Starts the scrub of the buckets that opened, unless it is turned off.
pub(crate) async fn start_scrub(
    options: &Options,
    executor: &Executor,
    supervisor: &ActorRef<NodeSupervisor>,
    readers: Vec<(BucketId, Reader)>,
) -> Arc<ScrubBoard> {
    let board = Arc::new(ScrubBoard::new(readers.iter().map(|(bucket, _)| *bucket)));
    let actor = ScrubActor {
        executor: executor.clone(),
        board: board.clone(),
        bytes_per_second: options.scrub_bytes_per_second,
        interval: options.scrub_interval,
        readers: readers.into_iter().map(|(_, reader)| reader).collect(),
        round: None,
        wake: Instant::now(),
    };
    if actor.bytes_per_second > 0
        && let Err(error) = supervisor.ask(StartScrub(Box::new(actor))).await
    {
        tracing::error!(%error, "the scrub did not start");
    }
    board
}

/// How long to wait after a step that read `bytes` in the time `took`, so that the rate over both
/// is at most `bytes_per_second`.
fn pause(bytes: u64, took: Duration, bytes_per_second: u64) -> Duration {
    let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(bytes_per_second.max(1));
    let due = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
    due.saturating_sub(took)
}

impl ScrubActor {
    /// Makes one step, and says when the next one is.
    async fn step(&mut self) {
        let began = Instant::now();
        let round = self.round.get_or_insert_with(|| Round { began, bucket: 0, scrub: None });
        let Some(reader) = self.readers.get(round.bucket) else {
            let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            self.board.round_ended(unix.as_secs());
            let next = round.began.checked_add(self.interval.max(LEAST_INTERVAL));
            self.wake = next.unwrap_or_else(|| began + NEVER);
            self.round = None;
            return;
        };
        let mut scrub = round.scrub.take().unwrap_or_else(|| Scrub::new(reader));
        let (answer, answered) = oneshot::channel();
        // A full queue drops the job, and with it the way back.
        self.executor.submit_scrub(move || {
            let step = scrub.step(STEP_BYTES);
            let _ = answer.send((scrub, step));
        });
        let bytes = match answered.await {
            Ok((scrub, step)) => {
                let ScrubStep { bytes, ended, .. } = step;
                self.board.step(round.bucket, step);
                round.bucket += usize::from(ended);
                round.scrub = (!ended).then_some(scrub);
                bytes
            }
            Err(_) => {
                tracing::error!("a step of the scrub panicked: the bucket is passed over");
                let step = ScrubStep { passed_over: true, ..ScrubStep::default() };
                self.board.step(round.bucket, step);
                round.bucket += 1;
                STEP_BYTES
            }
        };
        self.wake = Instant::now() + pause(bytes, began.elapsed(), self.bytes_per_second);
    }
}

impl Actor for ScrubActor {
    type Args = Self;
    type Error = Infallible;

    async fn on_start(args: Self, _: ActorRef<Self>) -> Result<Self, Infallible> {
        Ok(args)
    }

    async fn next(
        &mut self,
        _: WeakActorRef<Self>,
        mailbox: &mut MailboxReceiver<Self>,
    ) -> Result<Option<Signal<Self>>, Infallible> {
        loop {
            tokio::select! {
                biased;
                signal = mailbox.recv() => return Ok(signal),
                () = sleep_until(self.wake) => {}
            }
            self.step().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pause_keeps_the_rate_and_counts_the_time_of_the_step() {
        let (none, second) = (Duration::ZERO, Duration::from_secs(1));
        assert_eq!(pause(4 << 20, none, 4 << 20), second);
        assert_eq!(pause(1 << 20, none, 4 << 20), second / 4);
        assert_eq!(pause(1 << 20, second / 5, 4 << 20), second / 20);
        // A device slower than the rate is not waited for.
        assert_eq!(pause(1 << 20, second, 4 << 20), none);
        assert_eq!(pause(0, none, 1), none);
        assert_eq!(pause(u64::MAX, none, 1), Duration::from_nanos(u64::MAX));
    }
}
