//! Three nodes in one process, over real sockets and real files.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use actadb::cluster::options::{ClusterOptions, Libp2p, Secret};
use actadb::database::Database;
use actadb::error::{OpenError, ReadError};
use actadb::model::ids::{PartitionKey, with_hash16};
use actadb::model::limits::SEGMENT_MIN_BYTES;
use actadb::model::names::{EventName, StreamId};
use actadb::model::outcome::{AppendError, Appended, Refusal};
use actadb::model::transaction::{NewEvent, Transaction};
use actadb::model::version::ExpectedVersion;
use actadb::options::Options;
use actadb::reads::ReadStream;
use actadb::status::NodeStatus;
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_far_behind_catches_up_and_a_rolling_restart_fails_nobody() {
    let dir = tempfile::tempdir().expect("dir");
    let addresses = addresses(3);
    let mut nodes = open_all(dir.path(), &addresses).await;
    wait_for_leader(&nodes).await;
    nodes[2].take().expect("up").close().await;
    // More than the leader keeps in memory, over many segments.
    let payload = vec![b'x'; 40 << 10];
    for n in 0..400 {
        let name = EventName::new("Large").expect("good");
        let event = NewEvent::new(stream(n % 7), name).payload(payload.clone());
        append(nodes[0].as_ref().expect("up"), Transaction::single(event).expect("good")).await;
    }
    // Each stops in turn while the others append.
    nodes[2] = Some(open(dir.path(), 2, &addresses).await);
    for node in [0, 1, 2] {
        let other = (node + 1) % 3;
        nodes[node].take().expect("up").close().await;
        append(nodes[other].as_ref().expect("up"), transaction(8, node as u64)).await;
        nodes[node] = Some(open(dir.path(), node as u8, &addresses).await);
        append(nodes[node].as_ref().expect("up"), transaction(9, node as u64)).await;
    }
    holds(&nodes, 8, 3).await;
    holds(&nodes, 9, 3).await;
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
