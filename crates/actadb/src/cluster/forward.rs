//! Appends and reads of a node among several: to the leader, and back.

use actadb_model::ids::PartitionId;
use actadb_model::outcome::{AppendError, AppendResult, Refusal, Unknown};
use actadb_model::transaction::Transaction;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use crate::bells::{Bell, Place};
use crate::cluster::links::{Links, node_of};
use crate::database::{BucketHandle, Database};
use crate::error::ReadError;

/// How soon an append that found no leader looks for one again.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// How long an append that another node took is held back until it can be read here. Later than
/// that, reads wait for it.
const PUBLISHED_PATIENCE: Duration = Duration::from_millis(100);

/// Whether nothing was appended, because somebody else leads or nobody does.
fn not_the_leader(results: &[AppendResult]) -> bool {
    let refused =
        |result: &AppendResult| matches!(result, Err(AppendError::Refused(Refusal::NotLeader)));
    !results.is_empty() && results.iter().all(refused)
}

/// Whether another node may take what this one refused for itself.
fn goes_elsewhere(results: &[AppendResult]) -> bool {
    let refused = |result: &AppendResult| {
        let Err(AppendError::Refused(refusal)) = result else { return false };
        matches!(refusal, Refusal::NotLeader | Refusal::Stopping | Refusal::Closed(_))
    };
    !results.is_empty() && results.iter().all(refused)
}

impl Database {
    /// Appends wherever the partition's bucket is led. A refusal because the lead has moved is
    /// definite, so it is asked for again until its time is over.
    pub(crate) async fn append_in_cluster(
        &self,
        links: &Links,
        partition: PartitionId,
        connection: u64,
        group: Vec<Transaction>,
    ) -> Vec<AppendResult> {
        let deadline = Instant::now() + self.inner.options.append_timeout;
        let count = group.len();
        let mut tries = 0;
        loop {
            let leader = self.leader_of(links, partition, tries);
            tries += 1;
            let results = match leader {
                None => vec![Err(Refusal::NotLeader.into()); count],
                Some(node) if node == links.node => {
                    self.append_here(partition, connection, group.clone(), Some(deadline)).await
                }
                Some(node) => {
                    self.append_there(links, node, partition, connection, group.clone(), deadline)
                        .await
                }
            };
            if !not_the_leader(&results) {
                return results;
            }
            sleep_until(deadline.min(Instant::now() + LOOK_AGAIN)).await;
            if Instant::now() >= deadline || *self.inner.stopping.borrow() {
                return vec![Err(Refusal::NoQuorum.into()); count];
            }
        }
    }

    /// The node that leads a partition's bucket, as far as this one knows. One whose own bucket is
    /// closed hears nothing any more, and asks the others in turn.
    fn leader_of(&self, links: &Links, partition: PartitionId, tries: usize) -> Option<u8> {
        let board = &self.bucket_of(partition).board;
        if board.closed().is_none() {
            return node_of(board.leader());
        }
        let nodes = links.door.members().hello().shape.nodes;
        let others: Vec<u8> = (0..nodes).filter(|node| links.is_connected(*node)).collect();
        others.get(tries % others.len().max(1)).copied()
    }

    async fn append_there(
        &self,
        links: &Links,
        node: u8,
        partition: PartitionId,
        connection: u64,
        group: Vec<Transaction>,
        deadline: Instant,
    ) -> Vec<AppendResult> {
        let count = group.len();
        let bucket = self.partitioning().bucket_of(partition);
        let forwarded = links.forward(node, bucket, partition, connection, group);
        let Some((token, answer)) = forwarded else {
            return vec![Err(Refusal::NotLeader.into()); count];
        };
        let answer = timeout_at(deadline, answer).await;
        links.forget(token);
        let results = match answer {
            // That node takes no appends; nothing was appended, and another one may.
            Ok(Ok(results)) if results.len() == count && goes_elsewhere(&results) => {
                return vec![Err(Refusal::NotLeader.into()); count];
            }
            Ok(Ok(results)) if results.len() == count => results,
            Ok(_lost) => return vec![Err(Unknown::Uncertain.into()); count],
            Err(_elapsed) => return vec![Err(Unknown::Timeout.into()); count],
        };
        let last = results.iter().flatten().map(|appended| appended.last_sequence()).max();
        if let Some(last) = last
            && !self.published(partition, last).await
        {
            // What a client was told it can read here, too: reads wait for it now.
            links.tell(partition, last);
        }
        results
    }

    /// Waits for a moment until a sequence can be read on this node; answers whether it can.
    async fn published(&self, partition: PartitionId, sequence: u64) -> bool {
        let Ok(reader) = self.reader(partition) else { return false };
        let bell = Arc::new(Bell::default());
        let BucketHandle { bells, board, .. } = self.bucket_of(partition);
        let _hung = bells.hang(&bell, vec![Place::Partition(partition)]);
        let deadline = Instant::now() + PUBLISHED_PATIENCE;
        loop {
            let seen = bell.number();
            if reader.next_sequence(partition) > sequence {
                return true;
            }
            // A bucket that is closed here moves no more.
            if board.closed().is_some() {
                return false;
            }
            tokio::select! {
                () = bell.moved_from(seen) => {}
                () = sleep_until(deadline) => return false,
            }
        }
    }

    /// Waits until all can be read here that this node showed before its start, and that its
    /// clients were told until now, for as long as an append may take.
    ///
    /// # Errors
    /// [`ReadError::CatchingUp`] when that is too long; [`ReadError::Closed`] when it can never be.
    pub(crate) async fn caught_up(&self, partition: PartitionId) -> Result<(), ReadError> {
        // What is told later is no business of this read: it would wait for ever.
        let told = self.inner.links.as_ref().map_or(0, |links| links.told(partition));
        let deadline = Instant::now() + self.inner.options.append_timeout;
        while !self.has(partition, told)? {
            if Instant::now() >= deadline {
                return Err(ReadError::CatchingUp);
            }
            sleep(LOOK_AGAIN).await;
        }
        Ok(())
    }

    /// Whether all before a sequence can be read here, and all that this node showed before its
    /// start.
    ///
    /// # Errors
    /// As [`caught_up`](Self::caught_up).
    pub(crate) fn has(&self, partition: PartitionId, sequence: u64) -> Result<bool, ReadError> {
        match self.reader(partition) {
            Ok(reader) if reader.next_sequence(partition) >= sequence => Ok(true),
            Ok(_) | Err(ReadError::CatchingUp) => {
                let bucket = self.bucket_of(partition);
                // It moves no more.
                if bucket.board.closed().is_some() { Err(bucket.closed()) } else { Ok(false) }
            }
            Err(error) => Err(error),
        }
    }

    /// Waits until everything can be read here that any node acknowledged before this was called:
    /// a read of the partition that follows is linearizable. The leader is asked, and it asks a
    /// majority whether it still leads (ReadIndex: Ongaro's thesis, 6.4). On a node that is alone
    /// it is always so.
    ///
    /// # Errors
    /// [`ReadError::NoQuorum`] when no leader answers within
    /// [`Options::append_timeout`](crate::options::Options::append_timeout).
    pub async fn read_index(&self, partition: PartitionId) -> Result<(), ReadError> {
        if self.inner.links.is_none() || !self.partitioning().contains(partition) {
            return Ok(());
        }
        let bucket = self.bucket_of(partition);
        // What is closed here is as old as it is: another node knows.
        let Some(parts) = bucket.parts.as_ref().filter(|_| bucket.board.closed().is_none()) else {
            return Err(ReadError::NoQuorum);
        };
        let Some(reads) = &parts.reads else { return Ok(()) };
        let (sender, answer) = oneshot::channel();
        let deadline = Instant::now() + self.inner.options.append_timeout;
        let answered = async {
            reads.send(sender).await.map_err(|_| ReadError::NoQuorum)?;
            answer.await.map_err(|_| ReadError::NoQuorum)
        };
        timeout_at(deadline, answered).await.unwrap_or(Err(ReadError::NoQuorum))
    }
}
