//! What format version 1 has written opens for ever: directories that a release of it left, of a
//! node that was alone and of the three nodes of a cluster.
//!
//! They are never written again. A new format version gets directories of its own, by
//! `cargo run -p actadb --example write_format_fixtures -- DIRECTORY`.

mod content;
mod hex;

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::time::Duration;

use actadb::database::Database;
use actadb::options::Options;
use actadb::tools::{self, BucketReport};
use tokio::time::timeout;

use content::{append, cluster, holds, options};

const LONG: Duration = Duration::from_secs(60);
const ALONE: &str = include_str!("../data/format-1/alone.hex");
const KILLED: &str = include_str!("../data/format-1/killed.hex");
const NODES: [&str; 3] = [
    include_str!("../data/format-1/node-0.hex"),
    include_str!("../data/format-1/node-1.hex"),
    include_str!("../data/format-1/node-2.hex"),
];
/// Appends in each of them.
const ALONE_APPENDS: u64 = 700;
const KILLED_APPENDS: u64 = 60;
const CLUSTER_APPENDS: u64 = 80;

fn is_sound(dir: &Path) -> BucketReport {
    let report = tools::check(dir).expect("can be checked");
    for (_, bucket) in &report.buckets {
        assert!(bucket.is_sound() && bucket.mendable.is_empty(), "{report:?}");
    }
    report.buckets[0].1.clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_was_alone() {
    let dir = tempfile::tempdir().expect("dir");
    hex::load(ALONE, dir.path());
    let kept = is_sound(dir.path());
    assert!(kept.indexes >= 16 && kept.filters == 1, "{kept:?}");
    let database = Database::open_with(options(dir.path(), 1)).await.expect("opens");
    holds(&database, ALONE_APPENDS).await;
    append(&database, ALONE_APPENDS).await;
    database.close().await;
    drop(database);
    is_sound(dir.path());
    // Indexes and filters are made from the segments, in whatever version.
    for entry in std::fs::read_dir(dir.path().join("bucket-000")).expect("a directory") {
        let path = entry.expect("a name").path();
        if path.extension().is_some_and(|kind| kind == "index" || kind == "filter") {
            std::fs::remove_file(path).expect("removed");
        }
    }
    let database = Database::open_with(options(dir.path(), 1)).await.expect("opens");
    holds(&database, ALONE_APPENDS + 1).await;
    database.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_was_killed() {
    let dir = tempfile::tempdir().expect("dir");
    hex::load(KILLED, dir.path());
    is_sound(dir.path());
    let database = Database::open_with(options(dir.path(), 2)).await.expect("opens");
    holds(&database, KILLED_APPENDS).await;
    append(&database, KILLED_APPENDS).await;
    database.close().await;
    drop(database);
    is_sound(dir.path());
}

#[tokio::test(flavor = "multi_thread")]
async fn three_nodes_of_a_cluster() {
    let dir = tempfile::tempdir().expect("dir");
    let sockets: Vec<TcpListener> = NODES
        .iter()
        .map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port"))
        .collect();
    let addresses: Vec<SocketAddr> =
        sockets.iter().map(|socket| socket.local_addr().expect("an address")).collect();
    drop(sockets);
    let place = |node: usize| dir.path().join(format!("node-{node}"));
    for (node, text) in NODES.iter().enumerate() {
        hex::load(text, &place(node));
        assert!(is_sound(&place(node)).indexes > 0);
    }
    let open = |node: usize| {
        let cluster = cluster(node, &addresses);
        let options = Options { cluster: Some(cluster), ..options(&place(node), 1) };
        async {
            timeout(LONG, Database::open_with(options)).await.expect("in time").expect("opens")
        }
    };
    let (first, second, third) = tokio::join!(open(0), open(1), open(2));
    for node in [&first, &second, &third] {
        holds(node, CLUSTER_APPENDS).await;
    }
    append(&second, CLUSTER_APPENDS).await;
    for node in [first, second, third] {
        node.close().await;
    }
    for node in 0..NODES.len() {
        is_sound(&place(node));
    }
}
