//! Where work on the disk runs: the only file with threads.
//!
//! `Threads` has one writer thread per bucket and a bounded pool that reads. `Inline` runs
//! everything in the tasks of the runtime, for current-thread runtimes and virtual time.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use actadb_bucket::job::{Done, perform};
use actadb_disk::no_wait::without_waiting;
use actadb_model::limits::INLINE_READ_BYTES;
use actadb_replica::message::Work;
use actadb_store::error::ReadError;
use actadb_store::meta::Directory;
use actadb_store::writer::BucketWriter;
use tokio::sync::{Semaphore, mpsc, oneshot};

use crate::options::Execution;
use crate::status::BucketBoard;

/// Long jobs that may wait for their thread: two per bucket at the most, and a few more after a
/// start on a full disk.
const LONG_JOBS_MAX: usize = 4096;

/// The scrub waits for each step before it asks for the next.
const SCRUB_JOBS_MAX: usize = 2;

type Job = Box<dyn FnOnce() + Send>;

/// Runs jobs that block.
#[derive(Clone, Debug)]
pub struct Executor {
    /// `None` runs jobs inline.
    pool: Option<mpsc::Sender<Job>>,
    /// One thread for what takes long and may wait: sealing.
    long: Option<mpsc::Sender<Job>>,
    /// One thread for the scrub: a step over rot may read a whole segment, and seals must not wait
    /// for it.
    scrub: Option<mpsc::Sender<Job>>,
    places: Arc<Semaphore>,
}

/// One piece of work at a time goes in, how it ended comes out.
#[derive(Debug)]
pub(crate) struct WriterThread {
    pub(crate) work: mpsc::Sender<Command>,
    pub(crate) done: mpsc::Receiver<Done>,
}

/// What a writer thread is told.
#[derive(Debug)]
pub(crate) enum Command {
    Work(Work),
    #[cfg(feature = "fault-injection")]
    Panic,
}

impl Executor {
    /// Starts the pool. `fetches` bounds the jobs that actors submit without waiting.
    ///
    /// # Errors
    /// When a thread cannot be started.
    pub(crate) fn new(
        execution: Execution,
        threads: usize,
        fetches: usize,
    ) -> std::io::Result<Self> {
        // Reads wait here and not in the queue: a fact that an append needs has at most one read
        // per thread before it.
        let places = Arc::new(Semaphore::new(threads.max(1)));
        if execution == Execution::Inline {
            return Ok(Self { pool: None, long: None, scrub: None, places });
        }
        let long = one_thread("acta-seal", LONG_JOBS_MAX)?;
        let scrub = one_thread("acta-scrub", SCRUB_JOBS_MAX)?;
        let (sender, receiver) = mpsc::channel::<Job>(threads.max(1) + fetches);
        let receiver = Arc::new(Mutex::new(receiver));
        for n in 0..threads.max(1) {
            let receiver = receiver.clone();
            thread::Builder::new().name(format!("acta-read-{n}")).spawn(move || {
                loop {
                    let next =
                        receiver.lock().unwrap_or_else(PoisonError::into_inner).blocking_recv();
                    let Some(job) = next else { return };
                    // A job that panics has dropped its way back; the thread serves on.
                    let _ = catch_unwind(AssertUnwindSafe(job));
                }
            })?;
        }
        Ok(Self { pool: Some(sender), long: Some(long), scrub: Some(scrub), places })
    }

    /// Runs a job that reads; `None` when it panicked.
    pub(crate) async fn read<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        let Some(pool) = &self.pool else { return Some(job()) };
        let place = self.places.clone().acquire_owned().await.ok()?;
        let (answer, answered) = oneshot::channel();
        let job: Job = Box::new(move || {
            let _ = answer.send(job());
            drop(place);
        });
        pool.try_send(job).ok()?;
        answered.await.ok()
    }

    /// Runs a job whose way back is its own business. Answers whether it was taken; the queue is
    /// sized so that it is.
    pub(crate) fn submit(&self, job: impl FnOnce() + Send + 'static) -> bool {
        submit_to(self.pool.as_ref(), job)
    }

    /// As [`submit`](Self::submit), for a job that takes long and may wait.
    pub(crate) fn submit_long(&self, job: impl FnOnce() + Send + 'static) -> bool {
        submit_to(self.long.as_ref(), job)
    }

    /// As [`submit`](Self::submit), for a step of the scrub.
    pub(crate) fn submit_scrub(&self, job: impl FnOnce() + Send + 'static) -> bool {
        submit_to(self.scrub.as_ref(), job)
    }

    /// Gives a bucket's files to a thread of their own. When the thread panics, `done` closes.
    /// The thread holds the directory's lock as long as it may write.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub(crate) fn writer(
        &self,
        mut writer: BucketWriter,
        board: Arc<BucketBoard>,
        directory: Arc<Directory>,
    ) -> std::io::Result<WriterThread> {
        // One piece of work is out at a time, so neither queue ever holds more than one.
        let (work, mut work_in) = mpsc::channel::<Command>(2);
        let (done_out, done) = mpsc::channel(2);
        let name = format!("acta-write-{}", board.bucket);
        let mut run = move |command: Command| match command {
            Command::Work(work) => {
                // Held by being named here.
                let _: &Directory = &directory;
                let syncs = matches!(work, Work::Sync | Work::Write { sync: true, .. });
                let start = Instant::now();
                let ended = perform(&mut writer, &work);
                if syncs {
                    board.sync_seconds.observe_time(start.elapsed());
                }
                done_out.try_send(ended).is_ok()
            }
            #[cfg(feature = "fault-injection")]
            Command::Panic => panic!("injected into the writer thread"),
        };
        if self.pool.is_some() {
            thread::Builder::new().name(name).spawn(move || {
                raise_priority();
                while let Some(command) = work_in.blocking_recv() {
                    if !run(command) {
                        return;
                    }
                }
            })?;
        } else {
            tokio::spawn(async move {
                while let Some(command) = work_in.recv().await {
                    if !run(command) {
                        return;
                    }
                }
            });
        }
        Ok(WriterThread { work, done })
    }
}

/// How much sooner than others the writer thread runs, as `nice` counts.
#[cfg(target_os = "linux")]
const WRITER_NICE: i32 = -10;

/// Lets this thread run as soon as its sync has ended, where the system allows it (root, or
/// `CAP_SYS_NICE`): everyone waits for it, and on busy cores it would wait for its turn longer than
/// for the disk. Oracle's log writer runs so, too.
#[cfg(target_os = "linux")]
fn raise_priority() {
    // On Linux the priority is the thread's, not the process's.
    let thread = rustix::thread::gettid();
    if let Err(error) = rustix::process::setpriority_process(Some(thread), WRITER_NICE) {
        tracing::debug!(%error, "the writer thread has the priority of all others");
    }
}

#[cfg(not(target_os = "linux"))]
fn raise_priority() {}

/// Runs a job that reads, if it need not wait for the device: `Some(None)` when it panicked.
pub(crate) fn read_here<T>(
    job: impl Fn() -> Result<T, ReadError>,
) -> Option<Option<Result<T, ReadError>>> {
    let read = || catch_unwind(AssertUnwindSafe(&job)).ok();
    match without_waiting(INLINE_READ_BYTES, read) {
        Some(Err(error)) if error.would_wait() => None,
        read => Some(read),
    }
}

/// A thread that runs one job after the other, and lives on when one panics.
fn one_thread(name: &str, jobs: usize) -> std::io::Result<mpsc::Sender<Job>> {
    let (sender, mut jobs_in) = mpsc::channel::<Job>(jobs);
    thread::Builder::new().name(name.into()).spawn(move || {
        while let Some(job) = jobs_in.blocking_recv() {
            let _ = catch_unwind(AssertUnwindSafe(job));
        }
    })?;
    Ok(sender)
}

/// Runs the job here when there are no threads.
fn submit_to(queue: Option<&mpsc::Sender<Job>>, job: impl FnOnce() + Send + 'static) -> bool {
    match queue {
        Some(queue) => queue.try_send(Box::new(job)).is_ok(),
        None => {
            job();
            true
        }
    }
}
