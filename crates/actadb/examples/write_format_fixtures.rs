//! Writes directories of the current format version, to be kept and opened for ever by
//! `tests/format`: `cargo run -p actadb --example write_format_fixtures -- DIRECTORY`.

#[path = "../tests/format/content.rs"]
mod content;
#[path = "../tests/format/hex.rs"]
mod hex;

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::Duration;

use actadb::database::Database;
use actadb::options::Options;

const NODES: usize = 3;
const ALONE_APPENDS: u64 = 700;
const KILLED_APPENDS: u64 = 60;
const CLUSTER_APPENDS: u64 = 80;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let target = PathBuf::from(std::env::args().nth(1).ok_or("a directory, please")?);
    std::fs::create_dir_all(&target)?;
    let place = std::env::temp_dir().join(format!("actadb-fixtures-{}", std::process::id()));
    alone(&place.join("alone")).await?;
    std::fs::write(target.join("killed.hex"), killed(&place.join("killed")).await?)?;
    cluster(&place).await?;
    let nodes = (0..NODES).map(|node| format!("node-{node}"));
    for name in ["alone".to_owned()].into_iter().chain(nodes) {
        std::fs::write(target.join(format!("{name}.hex")), hex::dump(&place.join(&name)))?;
    }
    std::fs::remove_dir_all(place)?;
    Ok(())
}

/// Three lives, and enough full segments for a filter.
async fn alone(dir: &Path) -> Result<(), Box<dyn std::error::Error>> {
    for life in 0..3 {
        let database = Database::open_with(content::options(dir, 1)).await?;
        let third = ALONE_APPENDS / 3;
        let until = if life == 2 { ALONE_APPENDS } else { (life + 1) * third };
        for n in life * third..until {
            content::append(&database, n).await;
        }
        content::holds(&database, until).await;
        // The last indexes and the filter are made behind the appends.
        tokio::time::sleep(Duration::from_secs(2)).await;
        database.close().await;
    }
    Ok(())
}

/// Two buckets as they lie there while the process runs: what a SIGKILL would leave.
async fn killed(dir: &Path) -> Result<String, Box<dyn std::error::Error>> {
    let database = Database::open_with(content::options(dir, 2)).await?;
    for n in 0..KILLED_APPENDS {
        content::append(&database, n).await;
    }
    let text = hex::dump(dir);
    database.close().await;
    Ok(text)
}

/// Two lives of every node, so that terms and votes are not those of the beginning.
async fn cluster(place: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let mut addresses: Vec<SocketAddr> = Vec::new();
    for _ in 0..NODES {
        addresses.push(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?);
    }
    for life in 0..2 {
        let open = |node: usize| {
            let cluster = content::cluster(node, &addresses);
            let dir = place.join(format!("node-{node}"));
            Database::open_with(Options { cluster: Some(cluster), ..content::options(&dir, 1) })
        };
        let (first, second, third) = tokio::join!(open(0), open(1), open(2));
        let nodes = [first?, second?, third?];
        let half = CLUSTER_APPENDS / 2;
        for n in life * half..(life + 1) * half {
            content::append(&nodes[n as usize % NODES], n).await;
        }
        // All of them before any is gone: each asks a majority.
        for node in &nodes {
            content::holds(node, (life + 1) * half).await;
        }
        for node in nodes {
            node.close().await;
        }
    }
    Ok(())
}
