//! Three processes as one database: any node answers, the leader dies under load, nothing is lost.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, RedisResult, Value, cmd};
use tokio::time::{sleep, timeout};

use crate::support::{Process, actadb, free_ports, number, page, text};

const NODES: usize = 3;
const WRITERS: usize = 2;
const ROUNDS: usize = 4;
const LONG: Duration = Duration::from_secs(60);

/// Where the nodes meet.
struct Place {
    dir: tempfile::TempDir,
    peers: String,
}

impl Place {
    fn new() -> Self {
        let addresses = free_ports(NODES).into_iter().map(|address| address.to_string());
        let peers = addresses.collect::<Vec<_>>().join(",");
        let dir = tempfile::tempdir().expect("dir");
        std::fs::write(dir.path().join("secret"), "a secret of the tests").expect("written");
        Self { dir, peers }
    }

    fn data(&self, node: usize) -> std::path::PathBuf {
        self.dir.path().join(format!("node-{node}"))
    }

    /// Starts a node; it is ready when the cluster is formed.
    async fn start(&self, node: usize) -> Process {
        let (data, peers) = (self.data(node), self.peers.clone());
        let secret = self.dir.path().join("secret");
        let started = tokio::task::spawn_blocking(move || start(&data, node, &peers, &secret));
        timeout(LONG, started).await.expect("in time").expect("starts")
    }

    async fn start_all(&self) -> Vec<Option<Process>> {
        let (a, b, c) = tokio::join!(self.start(0), self.start(1), self.start(2));
        vec![Some(a), Some(b), Some(c)]
    }
}

fn start(data: &Path, node: usize, peers: &str, secret: &Path) -> Process {
    let node = node.to_string();
    let secret = secret.to_str().expect("a path");
    Process::start_with(data, &environment(&node, peers, secret))
}

fn environment<'a>(node: &'a str, peers: &'a str, secret: &'a str) -> [(&'a str, &'a str); 5] {
    [
        ("ACTADB_CLUSTER__PEERS", peers),
        ("ACTADB_CLUSTER__NODE_INDEX", node),
        ("ACTADB_CLUSTER__SECRET_FILE", secret),
        ("ACTADB_SEGMENT__SIZE_BYTES", "1048576"),
        ("ACTADB_BUCKET__COUNT", "2"),
    ]
}

async fn connect(address: &str) -> RedisResult<MultiplexedConnection> {
    let client = Client::open(format!("redis://{address}/?protocol=3"))?;
    let patience = Some(Duration::from_secs(12));
    let config = AsyncConnectionConfig::new().set_response_timeout(patience);
    client.get_multiplexed_async_connection_with_config(&config).await
}

/// Event `n` of a writer, with an id of its own in the partition of its stream.
fn event_id(writer: usize, n: usize) -> String {
    use actadb::model::ids::{PartitionKey, with_hash16};
    let hash = PartitionKey::of_stream(&format!("writer-{writer}")).hash16();
    let id = uuid::Uuid::from_u128((writer as u128) << 80 | n as u128);
    with_hash16(id, hash).to_string()
}

/// Appends one event after the other, each until it is acknowledged, to any node that answers.
/// Answers how many.
async fn write(
    writer: usize,
    addresses: Arc<std::sync::Mutex<Vec<String>>>,
    stop: Arc<AtomicBool>,
) -> usize {
    let mut n = 0;
    let mut tries = writer;
    let mut connection: Option<MultiplexedConnection> = None;
    while !stop.load(Ordering::Relaxed) {
        let Some(open) = &mut connection else {
            let address = {
                let addresses = addresses.lock().expect("no panics");
                addresses[tries % addresses.len()].clone()
            };
            tries += 1;
            connection = connect(&address).await.ok();
            continue;
        };
        let mut append = cmd("EAPPEND");
        append.arg(format!("writer-{writer}")).arg("A").arg("PAYLOAD").arg(format!("{n}"));
        append.arg("EVENT_ID").arg(event_id(writer, n));
        match append.query_async::<Value>(open).await {
            Ok(reply) => {
                assert_eq!(number(&reply, "stream_version"), n as u64, "once, and in order");
                n += 1;
            }
            Err(error) => {
                let words = error.to_string();
                assert!(!words.contains("WRONGVER") && !words.contains("DUPLICATE"), "{words}");
                connection = None;
            }
        }
    }
    n
}

/// The node that leads bucket 0, as any node that answers knows.
async fn leader(nodes: &[Option<Process>]) -> usize {
    let look = async {
        loop {
            for node in nodes.iter().flatten() {
                let (exit, stdout, _) =
                    actadb(&["cluster", "status", "--json", "--address", &node.address]);
                let status: serde_json::Value = serde_json::from_str(&stdout).unwrap_or_default();
                let bucket = status["cluster_bucket0"].as_str().unwrap_or_default();
                let leader = bucket.split("leader=").nth(1).and_then(|s| s.split(',').next());
                let leader = leader.and_then(|node| node.parse::<usize>().ok());
                if let Some(leader) = leader.filter(|l| exit == 0 && nodes[*l].is_some()) {
                    return leader;
                }
            }
            sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(LONG, look).await.expect("in time")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_leader_dies_under_load_and_nothing_is_lost_or_doubled() {
    let place = Place::new();
    let mut nodes = place.start_all().await;
    let now = |nodes: &[Option<Process>]| {
        nodes.iter().flatten().map(|node| node.address.clone()).collect::<Vec<_>>()
    };
    let addresses = Arc::new(std::sync::Mutex::new(now(&nodes)));
    let stop = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| tokio::spawn(write(writer, addresses.clone(), stop.clone())))
        .collect();
    for round in 0..ROUNDS {
        sleep(Duration::from_millis(400)).await;
        let victim = leader(&nodes).await;
        let process = nodes[victim].take().expect("up");
        // Half of the rounds it may hand over first.
        match round % 2 {
            0 => process.kill(),
            _ => assert!(process.terminate()),
        }
        *addresses.lock().expect("no panics") = now(&nodes);
        leader(&nodes).await;
        sleep(Duration::from_millis(300)).await;
        nodes[victim] = Some(place.start(victim).await);
        *addresses.lock().expect("no panics") = now(&nodes);
    }
    sleep(Duration::from_millis(300)).await;
    stop.store(true, Ordering::Relaxed);
    let mut counts = Vec::new();
    for writer in writers {
        counts.push(timeout(LONG, writer).await.expect("in time").expect("a writer ends"));
    }
    assert!(counts.iter().all(|count| *count > 50), "{counts:?}");

    // Every node holds all of it, in order, once, and knows the latest version.
    for node in nodes.iter().flatten() {
        let mut connection = connect(&node.address).await.expect("connects");
        for (writer, count) in counts.iter().enumerate() {
            let stream = format!("writer-{writer}");
            let version: Value =
                cmd("ESVER").arg(&stream).query_async(&mut connection).await.expect("asked");
            assert!(matches!(version, Value::Int(v) if v as usize + 1 >= *count), "{version:?}");
            let mut from = 0;
            loop {
                let mut scan = cmd("ESCAN");
                scan.arg(&stream).arg(from).arg("+").arg("COUNT").arg(1000);
                scan.arg("READ").arg("LINEARIZABLE");
                let reply: Value = scan.query_async(&mut connection).await.expect("reads");
                let (events, more) = page(&reply);
                for event in &events {
                    assert_eq!(number(event, "stream_version"), from as u64);
                    assert_eq!(text(event, "payload"), from.to_string());
                    assert_eq!(text(event, "event_id"), event_id(writer, from));
                    from += 1;
                }
                if !more {
                    break;
                }
            }
            assert!(from >= *count, "{from} of {count}");
        }
    }
    for node in nodes.into_iter().flatten() {
        assert!(node.terminate());
    }
    for node in 0..NODES {
        let data = place.data(node);
        let (exit, stdout, _) = actadb(&["check", "--dir", data.to_str().expect("a path")]);
        assert_eq!(exit, 0, "{stdout}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wiped_node_is_refused_and_a_lead_is_handed_over() {
    let place = Place::new();
    let mut nodes = place.start_all().await;
    let led = leader(&nodes).await;
    let to = (led + 1) % NODES;
    let address = nodes[led].as_ref().expect("up").address.clone();
    let arguments =
        ["cluster", "transfer-leader", "0", &to.to_string(), "--address", address.as_str()];
    let (exit, stdout, stderr) = actadb(&arguments);
    assert_eq!(exit, 0, "{stdout} {stderr}");
    let moved = async {
        while leader(&nodes).await != to {
            sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(LONG, moved).await.expect("the lead moves");

    // A disk that was wiped has forgotten its votes: it waits outside for ever.
    nodes[2].take().expect("up").kill();
    std::fs::remove_dir_all(place.data(2)).expect("wiped");
    let (data, peers, secret) =
        (place.data(2), place.peers.clone(), place.dir.path().join("secret"));
    let refused = tokio::task::spawn_blocking(move || {
        let environment = environment("2", &peers, secret.to_str().expect("a path"));
        Process::says(&data, &environment, "wiped or replaced");
    });
    timeout(LONG, refused).await.expect("in time").expect("it is told");
    let leading = leader(&nodes).await;
    let mut connection = connect(&nodes[leading].as_ref().expect("up").address).await.expect("ok");
    let mut append = cmd("EAPPEND");
    append.arg("s").arg("Happened");
    let reply: Value = append.query_async(&mut connection).await.expect("two of three go on");
    assert_eq!(number(&reply, "stream_version"), 0);
    let nodes: Value =
        cmd("CLUSTER").arg("NODES").query_async(&mut connection).await.expect("told");
    assert!(format!("{nodes:?}").contains("lost"), "{nodes:?}");
}
