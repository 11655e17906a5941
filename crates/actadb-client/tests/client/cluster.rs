//! A client that knows three nodes goes from one to another: what it appends is there once, and
//! what it follows comes once and in order, whichever node goes.

use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use actadb_client::{Client, ClientOptions, Code, Error, ExpectedVersion, Follow, NewEvent};
use actadb_server::server::Server;
use tokio::time::{sleep, timeout};

use crate::support::{PATIENCE, next_event, settings};

const NODES: usize = 3;
const EVENTS_PER_ROUND: u64 = 150;

/// Addresses whose ports the system gives to nobody by itself, as it would to another test.
fn free_addresses(count: usize) -> Vec<String> {
    let first = std::process::id().wrapping_mul(97) % 20_000;
    let all = (first..first + 20_000).map(|n| format!("127.0.0.1:{}", 11_000 + n % 20_000));
    all.filter(|address| TcpListener::bind(address).is_ok()).take(count).collect()
}

/// Where the nodes are.
struct Place {
    dir: tempfile::TempDir,
    clients: Vec<String>,
    peers: String,
}

impl Place {
    fn new() -> Self {
        let addresses = free_addresses(2 * NODES);
        let dir = tempfile::tempdir().expect("dir");
        std::fs::write(dir.path().join("secret"), "a secret of the tests").expect("written");
        let (clients, peers) = addresses.split_at(NODES);
        Self { dir, clients: clients.to_vec(), peers: peers.join(",") }
    }

    async fn start(&self, node: usize) -> Server {
        let dir: &Path = self.dir.path();
        let data = dir.join(node.to_string());
        let settings = settings(&data, |settings| {
            settings.network.client_address.clone_from(&self.clients[node]);
            settings.bucket.count = 2;
            settings.append.timeout_ms = 3000;
            settings.cluster.peers.clone_from(&self.peers);
            settings.cluster.node_index = node as u8;
            settings.cluster.secret_file = dir.join("secret");
        });
        // Sockets and the lock of the life before go a moment after it.
        let started = async {
            loop {
                match Server::start(settings.clone()).await {
                    Ok(server) => return server,
                    Err(_still_there) => sleep(Duration::from_millis(20)).await,
                }
            }
        };
        timeout(PATIENCE, started).await.expect("in time")
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_go_and_a_client_of_all_of_them_goes_on() {
    let place = Place::new();
    let (first, second, third) = tokio::join!(place.start(0), place.start(1), place.start(2));
    let mut nodes = vec![Some(first), Some(second), Some(third)];
    let options = || ClientOptions::new(place.clients.join(", ")).retry_timeout(PATIENCE);
    let client = Client::connect_with(options()).await.expect("connects");

    let appended = Arc::new(AtomicU64::new(0));
    let total = EVENTS_PER_ROUND * (NODES as u64 + 1);
    let write = {
        let (client, appended) = (client.clone(), appended.clone());
        async move {
            for n in 0..total {
                let expected =
                    n.checked_sub(1).map_or(ExpectedVersion::Empty, ExpectedVersion::Exact);
                let event = NewEvent::new("account", "Counted").expect(expected);
                let told = client.append(event.payload(n.to_string())).await.expect("appended");
                assert_eq!(told.version, n, "once, and in order");
                appended.store(n + 1, Ordering::Relaxed);
            }
        }
    };
    let writer = tokio::spawn(write);
    let follow = async move {
        let follow = Follow::stream("account").from_start();
        let mut subscription = client.subscribe(follow).await.expect("subscribed");
        for n in 0..total {
            let event = next_event(&mut subscription).await;
            assert_eq!((event.version, &event.payload[..]), (n, n.to_string().as_bytes()));
        }
    };
    let follower = tokio::spawn(follow);

    // Each node goes in turn, the one that the client talks to among them: one says good-bye, the
    // others do not.
    for (node, place_of) in nodes.iter_mut().enumerate() {
        let until = EVENTS_PER_ROUND * (node as u64 + 1);
        let reached = async {
            while appended.load(Ordering::Relaxed) < until {
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(PATIENCE, reached).await.expect("appends go on");
        let gone = place_of.take().expect("up");
        if node == 1 {
            gone.stop().await;
        } else {
            drop(gone);
        }
        *place_of = Some(place.start(node).await);
    }
    timeout(PATIENCE, writer).await.expect("in time").expect("all is appended once");
    timeout(PATIENCE, follower).await.expect("in time").expect("all was seen once");

    // Without a majority it is told so, by whichever node it asks.
    let last = nodes[2].take().expect("up");
    for node in nodes.drain(..).flatten() {
        node.stop().await;
    }
    let impatient = options().retry_timeout(Duration::ZERO);
    let client = Client::connect_with(impatient).await.expect("one is up");
    let refused = client.stream_version("account").await;
    assert!(matches!(&refused, Err(Error::Refused { code: Code::NoQuorum, .. })), "{refused:?}");
    drop(last);
}
