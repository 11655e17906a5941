//! What the rest of the crate knows of the other nodes.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use actadb_membership::members::Members;
use actadb_membership::record::{Hello, Record};
use actadb_membership::report::Report;
use actadb_model::ids::{BucketId, PartitionId};
use actadb_model::outcome::AppendResult;
use actadb_model::transaction::Transaction;
use actadb_replica::peer::{PeerKind, PeerMessage};
use actadb_transport::frame::{Frame, FrameKind};
use actadb_transport::lane::LaneKind;
use actadb_transport::peers::{Admission, PeerTransport};
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use crate::cluster::node_files::StartsFile;
use crate::cluster::pace::Pace;
use crate::cluster::wire::{AppendRequest, AppendResponse};
use crate::executor::Executor;

/// The members, where the network asks who is let in.
#[derive(Debug)]
pub(crate) struct Door {
    members: Mutex<Members>,
    starts: Arc<StartsFile>,
    /// Starts were seen that are not written down yet.
    unsaved: AtomicBool,
    /// Somebody was let in, or the cluster was formed.
    pub(crate) moved: Notify,
}

impl Door {
    pub(crate) fn new(members: Members, starts: StartsFile) -> Self {
        let (starts, unsaved) = (Arc::new(starts), AtomicBool::new(false));
        Self { members: Mutex::new(members), starts, unsaved, moved: Notify::new() }
    }

    /// Writes down the starts that were seen since the last time, in a job: a disk that hangs must
    /// keep nobody from being let in.
    pub(crate) fn save_starts(&self, executor: &Executor) {
        if !self.unsaved.swap(false, Ordering::Relaxed) {
            return;
        }
        let (file, starts) = (self.starts.clone(), self.members().starts().to_vec());
        let submitted = executor.submit(move || {
            // This process remembers them; a full disk must keep no majority from meeting.
            if let Err(error) = file.write(&starts) {
                tracing::warn!(%error, "starts of other nodes are not written down");
            }
        });
        if !submitted {
            self.unsaved.store(true, Ordering::Relaxed);
        }
    }

    pub(crate) fn members(&self) -> MutexGuard<'_, Members> {
        // A panic between lock and unlock leaves whole values: they are only assigned.
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Admission for Door {
    fn introduce(&self) -> (Hello, Option<Record>) {
        let members = self.members();
        (members.hello().clone(), members.record().cloned())
    }

    fn admit(&self, hello: &Hello, record: Option<&Record>) -> Result<(), String> {
        let mut members = self.members();
        if let Some(record) = record {
            members.formed(record.clone()).map_err(|refusal| refusal.to_string())?;
        }
        let before = members.starts().to_vec();
        members.admit(hello).map_err(|refusal| refusal.to_string())?;
        if members.starts() != before {
            self.unsaved.store(true, Ordering::Relaxed);
        }
        self.moved.notify_one();
        Ok(())
    }
}

/// Appends that were forwarded and are not answered: the node that was asked, and who waits.
type Pending = HashMap<u64, (u8, oneshot::Sender<Vec<AppendResult>>)>;

/// How soon who waits for lanes or answers looks again.
const LOOK_AGAIN: Duration = Duration::from_millis(2);
/// How long a node that stops leaves its last frames: what is lost is an unknown outcome.
const LINGER: Duration = Duration::from_millis(50);
/// How long it waits at most for nobody to ask any more: twice what an election takes.
const ASKED_PATIENCE: Duration = Duration::from_secs(2);

/// The way to the other nodes.
#[derive(Debug)]
pub(crate) struct Links {
    /// This node's number.
    pub(crate) node: u8,
    pub(crate) door: Arc<Door>,
    transport: Arc<dyn PeerTransport>,
    pending: Mutex<Pending>,
    /// Begins somewhere else in each life: an answer to what the last one asked is nobody's.
    next_token: AtomicU64,
    /// When another node last asked this one to append.
    last_asked: Mutex<Option<Instant>>,
    /// What each node told of itself last, this one too.
    reports: Mutex<BTreeMap<u8, Report>>,
    /// By number of the partition: the sequence behind the last event that a client of this node
    /// was told of, where this node did not have it yet.
    told: Vec<AtomicU64>,
    /// Of what is read again for nodes that are behind.
    pub(crate) catch_up: Pace,
}

/// The replica of a node has its number plus one: 0 is nobody.
pub(crate) fn replica_of(node: u8) -> u64 {
    u64::from(node) + 1
}

/// The node of a replica; `None` for nobody.
pub(crate) fn node_of(replica: u64) -> Option<u8> {
    u8::try_from(replica.checked_sub(1)?).ok()
}

impl Links {
    pub(crate) fn new(
        node: u8,
        door: Arc<Door>,
        transport: Arc<dyn PeerTransport>,
        catch_up: Pace,
    ) -> Self {
        let first_token = Uuid::new_v4().as_u64_pair().0;
        let (pending, next_token) = (Mutex::default(), AtomicU64::new(first_token));
        let last_asked = Mutex::default();
        let partitions = door.members().hello().shape.partitions;
        let told = (0..partitions).map(|_| AtomicU64::new(0)).collect();
        let reports = Mutex::default();
        Self { node, door, transport, pending, next_token, last_asked, reports, told, catch_up }
    }

    /// A client of this node was told of an event that cannot be read here yet.
    pub(crate) fn tell(&self, partition: PartitionId, sequence: u64) {
        if let Some(told) = self.told.get(usize::from(partition.0)) {
            told.fetch_max(sequence + 1, Ordering::Relaxed);
        }
    }

    /// The sequence behind the last event that it [tells](Self::tell).
    pub(crate) fn told(&self, partition: PartitionId) -> u64 {
        self.told.get(usize::from(partition.0)).map_or(0, |told| told.load(Ordering::Relaxed))
    }

    /// Sends a frame that waits behind no entries; answers whether there was a place for it.
    pub(crate) fn send(&self, node: u8, kind: FrameKind, group: u16, body: bytes::Bytes) -> bool {
        self.transport.send(node, LaneKind::Control, Frame { kind, group, body })
    }

    /// Tells a node what was fixed when the cluster was formed.
    pub(crate) fn tell_formed(&self, node: u8) {
        let record = self.door.members().record().cloned();
        let body = record.and_then(|record| serde_json::to_vec(&record).ok());
        if let Some(body) = body {
            let _ = self.send(node, FrameKind::Formed, 0, body.into());
        }
    }

    /// Whether frames to a node are sent now.
    pub(crate) fn is_connected(&self, node: u8) -> bool {
        self.transport.is_connected(node)
    }

    /// How far a node's clock is ahead of this one's, in milliseconds.
    pub(crate) fn clock_ahead_ms(&self, node: u8) -> Option<i64> {
        self.transport.clock_ahead_ms(node)
    }

    /// Sends what one replica says to another.
    pub(crate) fn send_replica(&self, bucket: BucketId, message: &PeerMessage) -> bool {
        let Some(node) = node_of(message.to) else { return false };
        // Also without entries these follow one another: one that came too early would be refused.
        let lane = match message.kind {
            PeerKind::Append => LaneKind::Entries,
            _ => LaneKind::Control,
        };
        let (kind, group, body) = (FrameKind::Replica, bucket.0, message.encode());
        self.transport.send(node, lane, Frame { kind, group, body })
    }

    /// Asks another node to append; answers the token of the question, to be
    /// [forgotten](Self::forget) by who waits no longer. The receiver is dropped when the
    /// connection is lost: the outcome is unknown then. `None`: nothing was sent.
    pub(crate) fn forward(
        &self,
        node: u8,
        bucket: BucketId,
        partition: PartitionId,
        connection: u64,
        transactions: Vec<Transaction>,
    ) -> Option<(u64, oneshot::Receiver<Vec<AppendResult>>)> {
        let token = self.next_token.fetch_add(1, Ordering::Relaxed);
        // Connections of different nodes have different numbers.
        let connection = connection << 8 | u64::from(self.node);
        let request = AppendRequest { token, partition, connection, transactions };
        let (sender, receiver) = oneshot::channel();
        self.pending().insert(token, (node, sender));
        let (kind, group, body) = (FrameKind::Append, bucket.0, request.encode());
        let sent = self.transport.send(node, LaneKind::Entries, Frame { kind, group, body });
        if !sent {
            self.pending().remove(&token);
            return None;
        }
        Some((token, receiver))
    }

    /// Nobody waits for this answer any more.
    pub(crate) fn forget(&self, token: u64) {
        self.pending().remove(&token);
    }

    /// An append that was forwarded is answered, by the node that was asked.
    pub(crate) fn answered(&self, node: u8, response: AppendResponse) {
        let mut pending = self.pending();
        if pending.get(&response.token).is_some_and(|(asked, _)| *asked == node)
            && let Some((_, sender)) = pending.remove(&response.token)
        {
            // Whoever is gone does not want to know.
            let _ = sender.send(response.results);
        }
    }

    /// Another node asks this one to append.
    pub(crate) fn asked(&self) {
        *self.last_asked() = Some(Instant::now());
    }

    /// Waits until nobody waits for another node's answer any more, up to a time.
    pub(crate) async fn answered_all(&self, patience: Duration) {
        let deadline = Instant::now() + patience;
        while !self.pending().is_empty() && Instant::now() < deadline {
            sleep(LOOK_AGAIN).await;
        }
    }

    /// Waits until the answers that other nodes wait for are on their way and nobody asks any
    /// more, up to a time, and hears and says nothing from then on. Who is told that this node
    /// stops asks again soon, as long as it knows of no other leader; what it asked of a node that
    /// is gone already would be an unknown outcome.
    pub(crate) async fn close(&self, patience: Duration) {
        let deadline = Instant::now() + patience;
        // The last answers may still be between a lane and a socket.
        let asked_until = Instant::now() + ASKED_PATIENCE;
        let mut quiet_since = Instant::now();
        while quiet_since.elapsed() < LINGER && Instant::now() < deadline {
            sleep(LOOK_AGAIN).await;
            if !self.transport.is_idle(LaneKind::Control) {
                quiet_since = Instant::now();
            }
            let asked = self.last_asked().filter(|asked| *asked < asked_until);
            quiet_since = asked.map_or(quiet_since, |asked| asked.max(quiet_since));
        }
        self.transport.close();
    }

    /// How a node is doing, as it said last.
    pub(crate) fn report_of(&self, node: u8) -> Option<Report> {
        self.reports().get(&node).cloned()
    }

    /// A node tells how it is doing.
    pub(crate) fn reported(&self, node: u8, report: Report) {
        self.reports().insert(node, report);
    }

    /// The connection to a node is lost, and with it the answers that it owes.
    pub(crate) fn lost(&self, node: u8) {
        self.reports().remove(&node);
        self.pending().retain(|_, (asked, _)| *asked != node);
    }

    fn last_asked(&self) -> MutexGuard<'_, Option<Instant>> {
        self.last_asked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reports(&self) -> MutexGuard<'_, BTreeMap<u8, Report>> {
        self.reports.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use actadb_disk::os::OsDisk;
    use actadb_membership::record::{PROTOCOL_VERSION, Shape};

    use super::*;

    /// Takes every frame and is never busy.
    #[derive(Debug, Default)]
    struct Nowhere {
        closed: AtomicBool,
    }

    impl PeerTransport for Nowhere {
        fn send(&self, _: u8, _: LaneKind, _: Frame) -> bool {
            true
        }

        fn is_idle(&self, _: LaneKind) -> bool {
            true
        }

        fn close(&self) {
            self.closed.store(true, Ordering::Relaxed);
        }

        fn is_connected(&self, _: u8) -> bool {
            true
        }

        fn clock_ahead_ms(&self, _: u8) -> Option<i64> {
            None
        }
    }

    fn life_of_node_0() -> (Arc<Links>, Arc<Nowhere>) {
        let hello = Hello {
            protocol: PROTOCOL_VERSION,
            version: String::new(),
            node: 0,
            shape: Shape { nodes: 3, partitions: 4, buckets: 1, segment_bytes: 1 << 20 },
            storage: Uuid::nil(),
            boot: 1,
            process: 1,
            history: Vec::new(),
            cluster: None,
            client_address: String::new(),
        };
        // Nothing is written to it.
        let starts = StartsFile::new(Arc::new(OsDisk), Path::new("nowhere"));
        let door = Arc::new(Door::new(Members::new(hello, None), starts));
        let transport = Arc::new(Nowhere::default());
        (Arc::new(Links::new(0, door, transport.clone(), Pace::new(0))), transport)
    }

    fn forward(links: &Links, node: u8) -> (u64, oneshot::Receiver<Vec<AppendResult>>) {
        links.forward(node, BucketId(0), PartitionId(0), 7, Vec::new()).expect("it is sent")
    }

    fn answer(token: u64) -> AppendResponse {
        AppendResponse { token, results: Vec::new() }
    }

    #[test]
    fn an_answer_counts_only_from_the_node_that_was_asked_and_in_the_life_that_asked() {
        let (last_life, _) = life_of_node_0();
        let (this_life, _) = life_of_node_0();
        let (old_token, _old) = forward(&last_life, 1);
        let (token, mut waiting) = forward(&this_life, 1);
        assert_ne!(old_token, token, "tokens begin somewhere else in each life");
        this_life.answered(1, answer(old_token));
        this_life.answered(2, answer(token));
        assert!(waiting.try_recv().is_err(), "neither answer is to this question");
        this_life.answered(1, answer(token));
        assert!(waiting.try_recv().is_ok());
    }

    #[test]
    fn a_lost_node_leaves_its_askers_without_an_answer_and_others_waiting() {
        let (links, _) = life_of_node_0();
        let (_, mut lost) = forward(&links, 1);
        let (token, mut waiting) = forward(&links, 2);
        links.lost(1);
        assert_eq!(lost.try_recv(), Err(oneshot::error::TryRecvError::Closed));
        assert_eq!(waiting.try_recv(), Err(oneshot::error::TryRecvError::Empty));
        links.forget(token);
        assert_eq!(waiting.try_recv(), Err(oneshot::error::TryRecvError::Closed));
    }

    /// How long a node that is asked every so often, so many times, takes to leave.
    async fn leaving(times: u32, every: Duration) -> Duration {
        let (links, transport) = life_of_node_0();
        let asker = links.clone();
        let asking = tokio::spawn(async move {
            for _ in 0..times {
                asker.asked();
                sleep(every).await;
            }
        });
        let start = Instant::now();
        links.close(Duration::from_secs(60)).await;
        assert!(transport.closed.load(Ordering::Relaxed));
        asking.abort();
        start.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn a_leaving_node_stays_while_it_is_asked_but_not_for_ever() {
        let every = Duration::from_millis(20);
        assert!(leaving(0, every).await < LINGER + every);
        let asked_for_a_while = leaving(20, every).await;
        assert!((every * 20..every * 20 + LINGER * 2).contains(&asked_for_a_while));
        let asked_for_ever = leaving(1000, every).await;
        assert!((ASKED_PATIENCE..ASKED_PATIENCE + LINGER * 2).contains(&asked_for_ever));
        let asked_rarely = leaving(100, LINGER * 4).await;
        assert!(asked_rarely < LINGER * 3, "who asks again must ask soon");
    }
}
