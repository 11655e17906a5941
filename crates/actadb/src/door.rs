//! The door for appends: permits in bytes, an inbox per partition, an answer to everyone.

use std::sync::Arc;
use std::time::Duration;

use actadb_model::limits::PERMIT_MIN_BYTES;
use actadb_model::outcome::{AppendResult, ClosedReason, Refusal, Unknown};
use actadb_model::transaction::Transaction;
use kameo::prelude::*;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError, oneshot};
use tokio::time::{Instant, timeout_at};

use crate::inbox::{Append, Gone, Inbox};
use crate::partition_actor::{Arrived, PartitionActor};
use crate::status::BucketBoard;

/// One partition's mailbox, with its bucket's permits.
#[derive(Clone, Debug)]
pub(crate) struct PartitionDoor {
    pub(crate) actor: ActorRef<PartitionActor>,
    pub(crate) inbox: Inbox,
    pub(crate) permits: Arc<Semaphore>,
    pub(crate) permit_bytes: u64,
    pub(crate) transaction_limit: u64,
    /// How long an append may take.
    pub(crate) timeout: Duration,
    pub(crate) board: Arc<BucketBoard>,
}

/// Bytes that a message takes while it is in flight.
fn permit_size(transactions: &[Transaction], limit: u64, transaction_limit: u64) -> u32 {
    // One that is too large is refused at once, and must not make others wait.
    let sizes = transactions.iter().map(|transaction| match transaction.size_bytes() {
        size if size > transaction_limit => PERMIT_MIN_BYTES,
        size => size.max(PERMIT_MIN_BYTES),
    });
    // One message may not take more than there is; what it has beyond is bounded by the sender.
    u32::try_from(sizes.sum::<u64>().min(limit)).unwrap_or(u32::MAX)
}

impl PartitionDoor {
    /// Sends appends of one connection to the partition and waits for their answers, one each,
    /// until `deadline`, or for as long as everyone may.
    pub(crate) async fn append(
        &self,
        connection: u64,
        transactions: Vec<Transaction>,
        mut deadline: Option<Instant>,
    ) -> Vec<AppendResult> {
        let count = transactions.len();
        let all = |result: AppendResult| vec![result; count];
        let size = permit_size(&transactions, self.permit_bytes, self.transaction_limit);
        // Nearly always there are enough; a timer is only for waiting.
        let permit = match self.permits.clone().try_acquire_many_owned(size) {
            Ok(permit) => permit,
            Err(TryAcquireError::Closed) => return all(Err(Refusal::Stopping.into())),
            Err(TryAcquireError::NoPermits) => {
                let acquire = self.permits.clone().acquire_many_owned(size);
                let until = *deadline.get_or_insert_with(|| Instant::now() + self.timeout);
                match timeout_at(until, acquire).await {
                    Ok(Ok(permit)) => permit,
                    Ok(Err(_closed)) => return all(Err(Refusal::Stopping.into())),
                    // Nothing was sent, so this is definite.
                    Err(_elapsed) => return all(Err(Refusal::Busy.into())),
                }
            }
        };
        match self.send(connection, transactions, permit, deadline) {
            Err(refusal) => all(Err(refusal.into())),
            // The actor answers by the deadline; dropped: it died with our append.
            Ok(answered) => answered.await.unwrap_or_else(|_| all(Err(Unknown::Uncertain.into()))),
        }
    }

    fn send(
        &self,
        connection: u64,
        transactions: Vec<Transaction>,
        permit: OwnedSemaphorePermit,
        deadline: Option<Instant>,
    ) -> Result<oneshot::Receiver<Vec<AppendResult>>, Refusal> {
        let (reply, answered) = oneshot::channel();
        let first = self.inbox.put(Append { connection, transactions, reply, permit, deadline });
        match first.map_err(|Gone| self.closed())? {
            // Whoever was first has told the actor.
            false => {}
            true => match self.actor.tell(Arrived).try_send() {
                Ok(()) => {}
                Err(SendError::MailboxFull(_)) => {
                    unreachable!("one message stands for all that is in the inbox")
                }
                Err(_stopped) => {
                    for Append { transactions, reply, .. } in self.inbox.close() {
                        // Whoever is gone does not want to know.
                        let _ = reply.send(vec![Err(self.closed().into()); transactions.len()]);
                    }
                }
            },
        }
        Ok(answered)
    }

    /// The partition is gone.
    fn closed(&self) -> Refusal {
        let gone = || ClosedReason::Panicked("the partition is gone".into());
        Refusal::Closed(self.board.closed().unwrap_or_else(gone))
    }
}
