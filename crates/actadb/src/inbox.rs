//! Appends on their way into a partition: those that arrive before it looks are one message.
//!
//! A message to an actor costs an allocation or two and a good many atomic operations, more than
//! the decision of an append. Of many connections' appends only the first one sends a message; the
//! others join it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use actadb_model::transaction::Transaction;

use crate::waiting::Waiter;

/// The appends of one connection for one partition, answered together.
#[derive(Debug)]
pub(crate) struct Append {
    pub(crate) connection: u64,
    pub(crate) transactions: Vec<Transaction>,
    /// Who waits for the answer.
    pub(crate) waiter: Waiter,
}

/// What was put in and not yet taken. Bounded by the permits, as every append holds one.
#[derive(Debug)]
struct Contents {
    appends: Vec<Append>,
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
pub(crate) struct Outlet(Arc<Mutex<Contents>>);

fn lock(contents: &Mutex<Contents>) -> MutexGuard<'_, Contents> {
    // A panic between lock and unlock leaves whole contents: one is pushed, or all are moved.
    contents.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An empty inbox, and its outlet.
pub(crate) fn inbox() -> (Inbox, Outlet) {
    let contents = Arc::new(Mutex::new(Contents { appends: Vec::new(), open: true }));
    (Inbox(contents.clone()), Outlet(contents))
}

impl Inbox {
    /// Puts an append in; answers whether it is the first one, of which the partition must be told.
    pub(crate) fn put(&self, append: Append) -> Result<bool, Gone> {
        let mut contents = lock(&self.0);
        if !contents.open {
            return Err(Gone);
        }
        contents.appends.push(append);
        Ok(contents.appends.len() == 1)
    }
}

impl Outlet {
    /// Takes everything, in order; `taken` must be empty.
    pub(crate) fn take(&self, taken: &mut Vec<Append>) {
        std::mem::swap(&mut lock(&self.0).appends, taken);
    }
}

impl Drop for Outlet {
    fn drop(&mut self) {
        let left = {
            let mut contents = lock(&self.0);
            contents.open = false;
            std::mem::take(&mut contents.appends)
        };
        drop(left);
    }
}
