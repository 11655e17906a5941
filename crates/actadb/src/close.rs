//! Stopping in order: nobody is left without an answer that could have had one.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use crate::database::{BucketParts, Database};
use crate::options::Options;
use crate::segment_writer_actor::Stop;
use crate::status::BucketBoard;

/// How long a bucket may take to write, sync and save when it stops.
const STOP_PATIENCE: Duration = Duration::from_secs(10);

impl Database {
    /// Stops: refuses new appends, waits for those in flight, syncs and saves. Reads of other
    /// clones go on until they are dropped.
    pub async fn close(&self) {
        self.inner.stopping.send_replace(true);
        if let Some(links) = &self.inner.links {
            links.door.save_starts(&self.inner.executor);
        }
        let mut buckets = tokio::task::JoinSet::new();
        for bucket in &self.inner.buckets {
            if let Some(parts) = bucket.parts.clone() {
                let (options, board) = (self.inner.options.clone(), bucket.board.clone());
                buckets.spawn(stop_bucket(options, board, parts));
            }
        }
        if let Some(links) = &self.inner.links {
            // What this node asked of others must not be unknown to its clients.
            links.answered_all(self.inner.options.append_timeout).await;
        }
        while buckets.join_next().await.is_some() {}
        if let Some(links) = &self.inner.links {
            // Nor what others asked of this one to theirs.
            links.close(STOP_PATIENCE).await;
        }
        let _ = self.inner.supervisor.stop_gracefully().await;
        // The lock goes with the last thread that could write.
        let gone = async {
            while Arc::strong_count(&self.inner.directory) > 1 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let _ = tokio::time::timeout(STOP_PATIENCE, gone).await;
    }
}

async fn stop_bucket(options: Options, board: Arc<BucketBoard>, parts: BucketParts) {
    // Every append in flight holds a permit: all of them back means none is left.
    let all = u32::try_from(options.permit_bytes).unwrap_or(u32::MAX);
    // On a full disk they may wait for ever.
    let patience = if board.no_room() { Duration::ZERO } else { options.append_timeout };
    let taken = tokio::time::timeout(patience, parts.permits.acquire_many(all)).await;
    // Closed before they are given back: nobody who waits for some may slip in.
    parts.permits.close();
    drop(taken);
    let (stopped, is_stopped) = oneshot::channel();
    let told = parts.writer.tell(Stop(stopped)).await.is_ok();
    if told && tokio::time::timeout(STOP_PATIENCE, is_stopped).await.is_err() {
        tracing::error!(bucket = board.bucket.0, "the bucket did not stop in time");
    }
}
