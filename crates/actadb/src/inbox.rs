//! Appends on their way into a partition: those that arrive before it looks are one message.
//!
//! A message to an actor costs an allocation or two and a good many atomic operations, more than
//! the decision of an append. Of many connections' appends only the first one sends a message; the
//! others join it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use actadb_model::outcome::AppendResult;
use actadb_model::transaction::Transaction;
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::time::Instant;

/// The appends of one connection for one partition, answered together.
#[derive(Debug)]
pub(crate) struct Append {
    pub(crate) connection: u64,
    pub(crate) transactions: Vec<Transaction>,
    pub(crate) reply: oneshot::Sender<Vec<AppendResult>>,
    pub(crate) permit: OwnedSemaphorePermit,
    /// When the caller is told that the outcome is unknown; `None` for the time everyone has.
    pub(crate) deadline: Option<Instant>,
}

/// What was put in and not yet taken. Bounded by the permits, as every append holds one.
#[derive(Debug)]
struct Contents {
    appends: Vec<Append>,
    /// When the first of them came.
    since: Instant,
    /// Whether the partition lives.
    open: bool,
}

/// The partition is gone; nothing was put in.
#[derive(Debug)]
pub(crate) struct Gone;

/// Where connections put appends.
#[derive(Clone, Debug)]
pub(crate) struct Inbox(Arc<Mutex<Contents>>);

/// The partition's end of an [`Inbox`]. With it the inbox closes, and what was not taken is
/// dropped: those who wait for it learn that its outcome is unknown.
#[derive(Debug)]
pub(crate) struct InboxOwner(Arc<Mutex<Contents>>);

fn lock(contents: &Mutex<Contents>) -> MutexGuard<'_, Contents> {
    // A panic between lock and unlock leaves whole contents: one is pushed, or all are moved.
    contents.lock().unwrap_or_else(PoisonError::into_inner)
}

fn close(contents: &Mutex<Contents>) -> Vec<Append> {
    let mut contents = lock(contents);
    contents.open = false;
    std::mem::take(&mut contents.appends)
}

/// An empty inbox, and its owner's end.
pub(crate) fn new_inbox() -> (Inbox, InboxOwner) {
    let contents = Contents { appends: Vec::new(), since: Instant::now(), open: true };
    let contents = Arc::new(Mutex::new(contents));
    (Inbox(contents.clone()), InboxOwner(contents))
}

impl Inbox {
    /// Puts an append in; answers whether it is the first one, of which the partition must be told.
    pub(crate) fn put(&self, append: Append) -> Result<bool, Gone> {
        let mut contents = lock(&self.0);
        if !contents.open {
            return Err(Gone);
        }
        let is_first = contents.appends.is_empty();
        if is_first {
            contents.since = Instant::now();
        }
        contents.appends.push(append);
        Ok(is_first)
    }

    /// Closes it, as the partition cannot be told; answers what it will never take.
    pub(crate) fn close(&self) -> Vec<Append> {
        close(&self.0)
    }
}

impl InboxOwner {
    /// Takes everything, in order, and tells when the first came; `taken` must be empty.
    pub(crate) fn take(&self, taken: &mut Vec<Append>) -> Instant {
        let mut contents = lock(&self.0);
        std::mem::swap(&mut contents.appends, taken);
        contents.since
    }
}

impl Drop for InboxOwner {
    fn drop(&mut self) {
        drop(close(&self.0));
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::Semaphore;

    use super::*;

    fn append(connection: u64) -> (Append, oneshot::Receiver<Vec<AppendResult>>) {
        let (reply, answered) = oneshot::channel();
        let permits = Arc::new(Semaphore::new(1));
        let permit = permits.try_acquire_owned().expect("one is left");
        (Append { connection, transactions: Vec::new(), reply, permit, deadline: None }, answered)
    }

    #[tokio::test]
    async fn only_the_first_of_those_that_wait_tells_and_all_are_taken_in_order() {
        let (inbox, owner) = new_inbox();
        let mut taken = Vec::new();
        for _ in 0..2 {
            let told = (0..3).map(|n| inbox.put(append(n).0).expect("open"));
            assert_eq!(told.collect::<Vec<_>>(), [true, false, false]);
            let _ = owner.take(&mut taken);
            let order: Vec<u64> = taken.drain(..).map(|append| append.connection).collect();
            assert_eq!(order, [0, 1, 2]);
        }
    }

    #[tokio::test]
    async fn who_waits_in_an_inbox_without_an_owner_is_not_forgotten() {
        let (inbox, owner) = new_inbox();
        let (first, answered) = append(1);
        inbox.put(first).expect("open");
        drop(owner);
        assert!(answered.await.is_err(), "dropped: its outcome is unknown");
        assert!(inbox.put(append(2).0).is_err());

        let (inbox, _owner) = new_inbox();
        inbox.put(append(1).0).expect("open");
        assert_eq!(inbox.close().len(), 1, "never taken: it can be refused");
        assert!(inbox.put(append(2).0).is_err());
    }
}
