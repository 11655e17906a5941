//! Becoming a node of a cluster: who this node is, who the others are, and which cluster it is.
//! Nothing is opened before that is known and written down.

use std::sync::Arc;
use std::time::Duration;

use actadb_membership::members::Members;
use actadb_membership::record::{Hello, PROTOCOL_VERSION, Record, Shape};
use actadb_model::limits::{FORWARDED_MAX_BYTES, NODES_MAX};
use actadb_store::meta::Seat;
use actadb_transport::frame::FrameKind;
use actadb_transport::peers::{PeerEvent, Settings, Started};
use tokio::sync::mpsc;
use tokio::time::interval;
use uuid::Uuid;

use crate::cluster::links::{Door, Links, replica_of};
use crate::cluster::node_files::{
    NodeIdentity, StartsFile, read_identity, read_record, start_identity, write_record,
};
use crate::cluster::options::ClusterOptions;
use crate::cluster::pace::Pace;
use crate::error::OpenError;
use crate::options::{FsyncMode, Options};

/// How often a node that waits for others says so.
const WAITING_TOLD: Duration = Duration::from_secs(10);

/// A node that knows its cluster.
#[derive(Debug)]
pub(crate) struct Joined {
    pub(crate) links: Arc<Links>,
    pub(crate) events: mpsc::Receiver<PeerEvent>,
    pub(crate) record: Record,
    pub(crate) seat: Seat,
}

/// Checks what a node was told about its cluster.
pub(crate) fn check(options: &Options, cluster: &ClusterOptions) -> Result<(), OpenError> {
    let nodes = cluster.peers.len();
    let wrong = |what: String| Err(OpenError::Options(what));
    if !(2..=usize::from(NODES_MAX)).contains(&nodes) {
        return wrong(format!("cluster.peers must name 2 to {NODES_MAX} nodes, got {nodes}"));
    }
    if usize::from(cluster.node) >= nodes {
        return wrong(format!(
            "cluster.node_index must be from 0 to {}, got {}",
            nodes - 1,
            cluster.node
        ));
    }
    if options.fsync != FsyncMode::Always {
        return wrong(
            "fsync.mode must be always in a cluster: a majority promises what it has on disk"
                .into(),
        );
    }
    if options.transaction_limit() > FORWARDED_MAX_BYTES {
        return wrong(format!(
            "append.max_transaction_bytes must be at most {FORWARDED_MAX_BYTES} in a cluster, \
             got {}",
            options.transaction_limit()
        ));
    }
    Ok(())
}

/// Finds the cluster. Waits for as long as it takes until all nodes were there once.
pub(crate) async fn join(options: &Options, cluster: &ClusterOptions) -> Result<Joined, OpenError> {
    check(options, cluster)?;
    let (disk, dir) = (&*options.disk, options.dir.as_path());
    let meta = disk.exists(&dir.join("meta"));
    let meta = meta.map_err(|e| OpenError::Cluster(format!("{}: {e}", dir.display())))?;
    let first = read_identity(disk, dir)?;
    if meta && first.is_none() {
        return Err(OpenError::Cluster(format!(
            "{} holds a database of its own; nothing is changed. Export it, and import it into the \
             cluster",
            dir.display()
        )));
    }
    if !meta && first.is_some_and(|identity| identity.created) {
        return Err(OpenError::Cluster(format!(
            "{} has lost its data: this node has forgotten what it promised, and must not come \
             back without it; put the whole directory back",
            dir.display()
        )));
    }
    let new = || NodeIdentity::new(Uuid::new_v4(), cluster.network.new_identity());
    let process = Uuid::new_v4().as_u64_pair().0;
    let identity = start_identity(disk, dir, process, new)?;
    let shape = Shape {
        nodes: cluster.peers.len() as u8,
        partitions: options.partitions,
        buckets: options.buckets,
        segment_bytes: options.segment_bytes,
    };
    let record = read_record(disk, dir)?;
    if let Some(record) = &record
        && (record.shape != shape
            || record.storages.get(usize::from(cluster.node)) != Some(&identity.storage))
    {
        return Err(OpenError::Cluster(format!(
            "{} belongs to another node, or to a cluster that was formed with {:?}; this node is \
             {} and was configured with {shape:?}",
            dir.display(),
            record.shape,
            cluster.node
        )));
    }
    let hello = Hello {
        protocol: PROTOCOL_VERSION,
        version: env!("CARGO_PKG_VERSION").into(),
        node: cluster.node,
        shape,
        storage: identity.storage,
        boot: identity.boot,
        process,
        history: identity.history,
        cluster: None,
        client_address: cluster.client_address.clone(),
    };
    let known = record.is_some();
    let starts = StartsFile::new(options.disk.clone(), dir);
    let members = Members::new(hello, record).with_starts(&starts.read()?);
    let door = Arc::new(Door::new(members, starts));
    let settings = Settings {
        identity: identity.key,
        node: cluster.node,
        listen: cluster.listen,
        peers: cluster.peers.clone(),
        secret: cluster.secret.clone(),
        admission: door.clone(),
    };
    let started = cluster.network.start(settings).await;
    let started = started.map_err(|error| OpenError::Cluster(error.to_string()))?;
    let Started { peers, mut events, listens_on } = started;
    tracing::info!(node = cluster.node, address = %listens_on, "listening for other nodes");
    let links = Arc::new(Links::new(
        cluster.node,
        door,
        peers,
        Pace::new(cluster.catch_up_bytes_per_second),
    ));
    let record = form(&links, &mut events).await?;
    if !known {
        // Before anyone is told: the founder must not forget what it has founded.
        write_record(disk, dir, &record)?;
        tracing::info!(cluster = %record.cluster, "the cluster is formed");
        let taken = links.door.members().formed(record.clone());
        taken.map_err(|refusal| OpenError::Cluster(refusal.to_string()))?;
        for node in (0..shape.nodes).filter(|node| *node != cluster.node) {
            links.tell_formed(node);
        }
    }
    let seat = Seat {
        replica: replica_of(cluster.node),
        voters: (0..shape.nodes).map(replica_of).collect(),
        storage: identity.storage,
    };
    Ok(Joined { links, events, record, seat })
}

/// Waits until the cluster is formed, or forms it.
async fn form(links: &Links, events: &mut mpsc::Receiver<PeerEvent>) -> Result<Record, OpenError> {
    let mut told = interval(WAITING_TOLD);
    loop {
        {
            let members = links.door.members();
            if let Some(record) = members.record() {
                return Ok(record.clone());
            }
            if let Some(record) = members.found(Uuid::new_v4()) {
                return Ok(record);
            }
        }
        tokio::select! {
            () = links.door.moved.notified() => {}
            event = events.recv() => match event {
                Some(PeerEvent::Frame(node, frame)) if frame.kind == FrameKind::Formed => {
                    take_formed(links, node, &frame.body);
                }
                Some(_) => {}
                None => return Err(OpenError::Cluster("the network is gone".into())),
            },
            _ = told.tick() => {
                let missing = links.door.members().missing();
                tracing::info!(?missing, "waiting for nodes to form the cluster");
            }
        }
    }
}

fn take_formed(links: &Links, node: u8, body: &[u8]) {
    let record = serde_json::from_slice::<Record>(body).map_err(|error| error.to_string());
    let formed = record.and_then(|record| {
        links.door.members().formed(record).map_err(|refusal| refusal.to_string())
    });
    if let Err(error) = formed {
        tracing::error!(node, %error, "a node tells of a cluster that is not this one's");
    }
}
