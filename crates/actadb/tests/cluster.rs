//! Three nodes in one process, over real sockets and real files.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use actadb::cluster::options::{CATCH_UP_BYTES_PER_SECOND_DEFAULT, ClusterOptions, Libp2p, Secret};
use actadb::database::Database;
use actadb::error::{OpenError, ReadError};
use actadb::fault_injection::Part;
use actadb::model::ids::{BucketId, PartitionKey, with_hash16};
use actadb::model::limits::SEGMENT_MIN_BYTES;
use actadb::model::names::{EventName, StreamId};
use actadb::model::outcome::{AppendError, Appended, ClosedReason, Refusal};
use actadb::model::transaction::{NewEvent, Transaction};
use actadb::model::version::ExpectedVersion;
use actadb::options::Options;
use actadb::reads::ReadStream;
use actadb::status::NodeStatus;
use actadb_store::error::OpenError as StoreError;
use tokio::time::{sleep, timeout};
use uuid::Uuid;

const LONG: Duration = Duration::from_secs(30);

/// Ports that were free a moment ago.
fn addresses(nodes: usize) -> Vec<SocketAddr> {
    let sockets: Vec<TcpListener> =
        (0..nodes).map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port")).collect();
    sockets.iter().map(|socket| socket.local_addr().expect("an address")).collect()
}

fn options(dir: &Path, node: u8, addresses: &[SocketAddr]) -> Options {
    Options {
        partitions: 4,
        segment_bytes: SEGMENT_MIN_BYTES,
        max_transaction_bytes: 64 << 10,
        append_timeout: Duration::from_secs(5),
        cluster: Some(ClusterOptions {
            node,
            peers: addresses.iter().map(ToString::to_string).collect(),
            listen: addresses[usize::from(node)],
            secret: Secret::new(b"a secret of the tests").expect("long enough"),
            client_address: String::new(),
            catch_up_bytes_per_second: CATCH_UP_BYTES_PER_SECOND_DEFAULT,
            network: Arc::new(Libp2p),
        }),
        ..Options::new(dir.join(format!("node-{node}")))
    }
}

async fn open(dir: &Path, node: u8, addresses: &[SocketAddr]) -> Database {
    let opened = timeout(LONG, Database::open_with(options(dir, node, addresses))).await;
    opened.expect("in time").expect("opens")
}

async fn open_all(dir: &Path, addresses: &[SocketAddr]) -> Vec<Option<Database>> {
    let (a, b, c) =
        tokio::join!(open(dir, 0, addresses), open(dir, 1, addresses), open(dir, 2, addresses));
    vec![Some(a), Some(b), Some(c)]
}

fn stream(n: u64) -> StreamId {
    StreamId::new(&format!("s{n}")).expect("a good id")
}

/// Event `n` of a stream, with an id of its own.
fn transaction(of: u64, n: u64) -> Transaction {
    let name = EventName::new("Happened").expect("a good name");
    let key = PartitionKey::of_stream(stream(of).as_str());
    let id = with_hash16(Uuid::from_u128(u128::from(of) << 64 | u128::from(n)), key.hash16());
    let event = NewEvent::new(stream(of), name).id(id).payload(n.to_string());
    Transaction::single(event).expect("good")
}

/// Appends until the outcome is known and good, as a client does.
async fn append(database: &Database, transaction: Transaction) -> Appended {
    let retry = async {
        loop {
            match database.append(transaction.clone()).await {
                Ok(appended) => return appended,
                Err(AppendError::Unknown(_) | AppendError::Refused(Refusal::NoQuorum)) => {}
                Err(error) => panic!("{error}"),
            }
        }
    };
    timeout(LONG, retry).await.expect("in time")
}

fn leader(nodes: &[Option<Database>]) -> Option<usize> {
    let leads = |database: &Database| database.status().buckets.iter().all(|bucket| bucket.leads);
    nodes.iter().position(|node| node.as_ref().is_some_and(leads))
}

async fn wait_for_leader(nodes: &[Option<Database>]) -> usize {
    let wait = async {
        loop {
            if let Some(leader) = leader(nodes) {
                return leader;
            }
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(LONG, wait).await.expect("in time")
}

/// All nodes hold exactly these events of a stream.
async fn holds(nodes: &[Option<Database>], of: u64, count: u64) {
    for node in nodes.iter().flatten() {
        let wait = async {
            loop {
                let page = node.read_stream(ReadStream::all(stream(of)).count(1000)).await;
                if let Ok(page) = page
                    && page.events.len() as u64 == count
                {
                    return page;
                }
                sleep(Duration::from_millis(10)).await;
            }
        };
        let page = timeout(LONG, wait).await.expect("in time");
        let payloads: BTreeSet<&[u8]> = page.events.iter().map(|event| event.payload()).collect();
        assert_eq!(payloads.len() as u64, count, "each event is there once");
        let versions: Vec<u64> = page.events.iter().map(|event| event.version()).collect();
        assert_eq!(versions, (0..count).collect::<Vec<_>>());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_node_appends_and_reads_and_the_loss_of_one_loses_nothing() {
    let dir = tempfile::tempdir().expect("dir");
    let addresses = addresses(3);
    let mut nodes = open_all(dir.path(), &addresses).await;
    let ids: BTreeSet<Uuid> = nodes.iter().flatten().map(Database::id).collect();
    assert_eq!(ids.len(), 1, "one cluster");
    let first = wait_for_leader(&nodes).await;

    // Any node appends; what it told can be read there at once.
    for n in 0..30 {
        let node = nodes[n as usize % 3].as_ref().expect("up");
        let appended = append(node, transaction(1, n)).await;
        assert_eq!(appended.events[0].version, n);
        let page = node.read_stream(ReadStream::all(stream(1))).await.expect("reads");
        assert_eq!(page.events.len() as u64, n + 1, "it reads what it wrote");
    }
    // A conflict is told in the same words everywhere, and the latest version is the latest.
    for node in nodes.iter().flatten() {
        let event = NewEvent::new(stream(1), EventName::new("No").expect("good"));
        let event = event.expected(ExpectedVersion::Empty);
        let refused = node.append(Transaction::single(event).expect("good")).await;
        let Err(AppendError::Refused(Refusal::WrongVersion { current, .. })) = refused else {
            panic!("{refused:?}")
        };
        assert_eq!(current, Some(29));
        assert_eq!(node.stream_version(stream(1), None).await, Ok(Some(29)));
    }

    // Each knows how the others are doing, and what their clocks show.
    for node in nodes.iter().flatten() {
        let known = async {
            loop {
                let of = node.status().nodes;
                let told = |node: &NodeStatus| {
                    let report = node.report.as_ref();
                    report.is_some_and(|r| r.may_lead() && r.free_bytes.is_some())
                        && node.clock_ahead_ms.is_some() != node.is_this
                };
                if of.iter().all(told) {
                    return;
                }
                sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(LONG, known).await.expect("in time");
        assert_eq!(node.status().degraded(), Vec::<String>::new());
    }

    // The leader goes without a word; the others go on, and a retry is no second append.
    drop(nodes[first].take());
    let second = wait_for_leader(&nodes).await;
    assert_ne!(first, second);
    for n in 25..60 {
        let up: Vec<&Database> = nodes.iter().flatten().collect();
        let appended = append(up[n as usize % 2], transaction(1, n)).await;
        assert_eq!(appended.events[0].version, n);
    }
    // It comes back, and is brought up to date.
    nodes[first] = Some(open(dir.path(), first as u8, &addresses).await);
    holds(&nodes, 1, 60).await;

    // With one of three nothing is promised.
    let alone = nodes[first].take().expect("up");
    for node in nodes.drain(..).flatten() {
        node.close().await;
    }
    let refused = alone.append(transaction(1, 99)).await;
    let unknown = matches!(refused, Err(AppendError::Unknown(_)));
    let definite = matches!(refused, Err(AppendError::Refused(Refusal::NoQuorum)));
    assert!(unknown || definite, "{refused:?}");
    assert!(alone.stream_version(stream(1), None).await.is_err(), "the latest is not known");
    let partition = alone.partition_of_stream(&stream(1), None);
    assert_eq!(alone.read_index(partition).await, Err(ReadError::NoQuorum));
    let known = alone.local_stream_version(stream(1), None).await.expect("what it has it tells");
    assert!(known >= Some(59), "{known:?}");
    drop(alone);
}

/// Appends more than a leader keeps in memory, over many segments.
async fn append_much(database: &Database) {
    let payload = vec![b'x'; 40 << 10];
    for n in 0..400 {
        let name = EventName::new("Large").expect("good");
        let event = NewEvent::new(stream(n % 7), name).payload(payload.clone());
        append(database, Transaction::single(event).expect("good")).await;
    }
}

/// The nodes that are up, as writers see them.
type Up = Arc<Mutex<Vec<Option<Database>>>>;

/// Appends to one node after the other until it is told to stop, and repeats what was definitely
/// not appended; answers how many it appended. Every outcome must be known.
async fn write(up: Up, stop: Arc<AtomicBool>, of: u64) -> u64 {
    let mut n = 0;
    while !stop.load(Ordering::Relaxed) {
        let nodes: Vec<Database> = up.lock().expect("no panic").iter().flatten().cloned().collect();
        for database in nodes {
            match database.append(transaction(of, n)).await {
                Ok(appended) => {
                    assert_eq!(appended.events[0].version, n);
                    n += 1;
                }
                Err(AppendError::Refused(Refusal::Stopping | Refusal::NoQuorum)) => {}
                Err(error) => panic!("{error} ({n} events of stream {of} before)"),
            }
        }
    }
    n
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_restart_under_load_fails_nobody() {
    let dir = tempfile::tempdir().expect("dir");
    let addresses = addresses(3);
    let up: Up = Arc::new(Mutex::new(open_all(dir.path(), &addresses).await));
    let stop = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> =
        (0..3).map(|of| tokio::spawn(write(up.clone(), stop.clone(), of))).collect();
    for node in [0, 1, 2, 0] {
        sleep(Duration::from_millis(300)).await;
        let leaving = up.lock().expect("no panic")[node].clone().expect("up");
        leaving.close().await;
        up.lock().expect("no panic")[node] = None;
        drop(leaving);
        sleep(Duration::from_millis(300)).await;
        // A writer may hold it for a moment yet.
        let back = async {
            loop {
                match Database::open_with(options(dir.path(), node as u8, &addresses)).await {
                    Err(OpenError::Store(StoreError::Locked(_))) => {
                        sleep(Duration::from_millis(5)).await;
                    }
                    opened => return opened.expect("opens"),
                }
            }
        };
        let back = timeout(LONG, back).await.expect("in time");
        up.lock().expect("no panic")[node] = Some(back.clone());
        // The next one waits until the leader says that this one has all, as operators are told.
        let caught_up = async {
            loop {
                let nodes = up.lock().expect("no panic").clone();
                let led = leader(&nodes).and_then(|leader| nodes[leader].as_ref());
                let bucket = led.map(|led| led.status().buckets[0].clone());
                let of_node = |(n, has): &(u8, u64)| (usize::from(*n) == node).then_some(*has);
                let has = bucket.as_ref().and_then(|b| b.followers.iter().find_map(of_node));
                let leads = back.status().buckets[0].leads;
                if leads || bucket.zip(has).is_some_and(|(b, has)| has + 8 >= b.committed_entry) {
                    return;
                }
                sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(LONG, caught_up).await.expect("in time");
    }
    stop.store(true, Ordering::Relaxed);
    let mut counts = Vec::new();
    for writer in writers {
        counts.push(timeout(LONG, writer).await.expect("in time").expect("no append failed"));
    }
    let nodes = std::mem::take(&mut *up.lock().expect("no panic"));
    for (of, count) in (0..).zip(counts) {
        assert!(count > 20, "{count}");
        for node in nodes.iter().flatten() {
            let version = node.stream_version(stream(of), None).await;
            assert_eq!(version, Ok(Some(count - 1)));
        }
    }
    for node in nodes.into_iter().flatten() {
        node.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_closed_replica_leads_no_more_and_hides_nothing_its_clients_were_told() {
    let dir = tempfile::tempdir().expect("dir");
    let addresses = addresses(3);
    let nodes = open_all(dir.path(), &addresses).await;
    let first = wait_for_leader(&nodes).await;
    let broken = nodes[first].as_ref().expect("up");
    append(broken, transaction(1, 0)).await;
    let partition = broken.partition_of_stream(&stream(1), None);
    broken.inject_panic(Part::SegmentWriter(partition)).await;
    let moved = async {
        loop {
            if leader(&nodes).is_some_and(|leader| leader != first) {
                return;
            }
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(LONG, moved).await.expect("another one leads");
    let bucket = broken.status().buckets[0].clone();
    assert!(bucket.closed.is_some() && !bucket.leads && bucket.leader.is_none(), "{bucket:?}");

    // It shows what it has, until it has told a client of more than that.
    let page = broken.read_stream(ReadStream::all(stream(1))).await.expect("reads");
    assert_eq!(page.events.len(), 1);
    let appended = append(broken, transaction(1, 1)).await;
    assert_eq!(appended.events[0].version, 1, "another node took it");
    let refused = broken.read_stream(ReadStream::all(stream(1))).await;
    assert!(matches!(refused, Err(ReadError::Closed { bucket: 0, .. })), "{refused:?}");
    let other = nodes[(first + 1) % 3].as_ref().expect("up");
    assert_eq!(other.stream_version(stream(1), None).await, Ok(Some(1)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_cannot_read_what_another_lacks_lets_a_third_one_lead() {
    let dir = tempfile::tempdir().expect("dir");
    let addresses = addresses(3);
    let mut nodes = open_all(dir.path(), &addresses).await;
    let first = wait_for_leader(&nodes).await;
    let away = (first + 1) % 3;
    nodes[away].take().expect("up").close().await;
    append_much(nodes[first].as_ref().expect("up")).await;
    append(nodes[first].as_ref().expect("up"), transaction(8, 0)).await;
    // A bit flips in an early segment, where nobody has read since.
    let segment = dir.path().join(format!("node-{first}/bucket-000/000000000002.segment"));
    let mut bytes = std::fs::read(&segment).expect("a full segment");
    bytes[400_000] ^= 1;
    std::fs::write(&segment, bytes).expect("written");
    nodes[away] = Some(open(dir.path(), away as u8, &addresses).await);
    let closed = async {
        loop {
            let bucket = nodes[first].as_ref().expect("up").status().buckets[0].clone();
            match bucket.closed {
                Some(ClosedReason::Corrupt(_)) => return,
                Some(reason) => panic!("{reason}"),
                // Another one may have been elected meanwhile: the lead goes back to the damage.
                None if !bucket.leads => {
                    let led = leader(&nodes).and_then(|leader| nodes[leader].as_ref());
                    if let Some(led) = led {
                        let _ = led.hand_over(BucketId(0), first as u8).await;
                    }
                }
                None => {}
            }
            sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(LONG, closed).await.expect("it closes");
    append(nodes[away].as_ref().expect("up"), transaction(8, 1)).await;
    drop(nodes[first].take());
    holds(&nodes, 8, 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_copy_of_a_node_is_kept_out_and_nothing_is_cut_for_it() {
    let dir = tempfile::tempdir().expect("dir");
    let addresses = addresses(3);
    let mut nodes = open_all(dir.path(), &addresses).await;
    wait_for_leader(&nodes).await;
    append(nodes[0].as_ref().expect("up"), transaction(1, 0)).await;
    nodes[2].take().expect("up").close().await;
    let (own, copy) = (dir.path().join("node-2"), dir.path().join("copy"));
    copy_dir(&own, &copy);
    // The node goes on after the copy was made, and the others are restarted since.
    nodes[2] = Some(open(dir.path(), 2, &addresses).await);
    for n in 1..20 {
        append(nodes[2].as_ref().expect("up"), transaction(1, n)).await;
    }
    holds(&nodes, 1, 20).await;
    for node in nodes.drain(..).flatten() {
        node.close().await;
    }
    std::fs::rename(&own, dir.path().join("own")).expect("moved away");
    std::fs::rename(&copy, &own).expect("the copy in its place");
    let (a, b, restored) =
        tokio::join!(open(dir.path(), 0, &addresses), open(dir.path(), 1, &addresses), async {
            open(dir.path(), 2, &addresses).await
        });
    let nodes = vec![Some(a), Some(b)];
    wait_for_leader(&nodes).await;
    append(nodes[0].as_ref().expect("up"), transaction(1, 20)).await;
    holds(&nodes, 1, 21).await;
    sleep(Duration::from_millis(1_500)).await;
    for node in nodes.iter().flatten() {
        assert!(!node.status().nodes[2].connected, "the copy is not let in");
    }
    let bucket = restored.status().buckets[0].clone();
    assert!(bucket.leader.is_none() && bucket.last_entry > 0, "{bucket:?}");
    assert!(restored.status().nodes.iter().all(|node| node.is_this || !node.connected));
}

fn copy_dir(from: &Path, to: &Path) {
    std::fs::create_dir(to).expect("a directory");
    for entry in std::fs::read_dir(from).expect("a directory") {
        let entry = entry.expect("an entry");
        let to = to.join(entry.file_name());
        if entry.file_type().expect("a type").is_dir() {
            copy_dir(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), to).expect("copied");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leads_are_spread_over_the_nodes() {
    let dir = tempfile::tempdir().expect("dir");
    let addresses = addresses(3);
    let open = |node: u8| {
        let options =
            Options { buckets: 3, partitions: 6, ..options(dir.path(), node, &addresses) };
        Database::open_with(options)
    };
    let (a, b, c) = tokio::join!(open(0), open(1), open(2));
    let nodes = [a.expect("opens"), b.expect("opens"), c.expect("opens")];
    let even = async {
        loop {
            let leads = |node: &Database| node.status().buckets.iter().filter(|b| b.leads).count();
            if nodes.iter().all(|node| leads(node) == 1) {
                return;
            }
            sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(4 * LONG, even).await.expect("each leads one of three");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_far_behind_catches_up_while_the_others_serve() {
    let dir = tempfile::tempdir().expect("dir");
    let addresses = addresses(3);
    let mut nodes = open_all(dir.path(), &addresses).await;
    wait_for_leader(&nodes).await;
    nodes[2].take().expect("up").close().await;
    append_much(nodes[0].as_ref().expect("up")).await;
    nodes[2] = Some(open(dir.path(), 2, &addresses).await);
    for n in 0..3 {
        append(nodes[n as usize].as_ref().expect("up"), transaction(8, n)).await;
    }
    holds(&nodes, 8, 3).await;
    for node in nodes.iter().flatten() {
        let entries = timeout(LONG, async {
            loop {
                let status = node.status();
                let behind = status.buckets.iter().any(|b| b.committed_entry != b.last_entry);
                if !behind {
                    return status.buckets[0].last_entry;
                }
                sleep(Duration::from_millis(20)).await;
            }
        });
        assert!(entries.await.expect("in time") > 400);
    }
    for node in nodes.into_iter().flatten() {
        node.close().await;
    }
    // A node's directory is not opened as anything else.
    let alone = Options { cluster: None, ..options(dir.path(), 1, &addresses) };
    let refused = Database::open_with(alone).await.expect_err("refused");
    assert!(refused.to_string().contains("belongs to a node of a cluster"), "{refused}");
    let wrong = options(dir.path(), 1, &addresses);
    let wrong = Options { dir: dir.path().join("node-2"), ..wrong };
    let refused = Database::open_with(wrong).await.expect_err("refused");
    assert!(matches!(refused, OpenError::Cluster(_)), "{refused}");
}
