//! Every configuration key with its default. Plain values: nothing here opens anything.
//!
//! `config/default.toml` explains each key; a test holds the two equal.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use actadb::cluster::options::{
    CATCH_UP_BYTES_PER_SECOND_DEFAULT, ClusterOptions, Libp2p, SECRET_MIN_BYTES, Secret,
};
use actadb::model::limits;
use actadb::options::{
    BUCKETS_DEFAULT, Execution, FsyncMode, Options, SCRUB_BYTES_PER_SECOND_DEFAULT,
    SCRUB_INTERVAL_HOURS_DEFAULT,
};
use actadb_protocol::framer::Limits;
use actadb_protocol::reply::Protocol;
use serde::{Deserialize, Serialize};

/// The whole configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The data directory.
    pub dir: PathBuf,
    /// Filter of the log, as `tracing-subscriber` reads it.
    pub log: String,
    /// Sockets.
    pub network: Network,
    /// Who may connect.
    pub auth: Auth,
    /// Appends.
    pub append: Append,
    /// Partitions.
    pub partition: Count,
    /// Buckets.
    pub bucket: Count,
    /// Segment files.
    pub segment: Segment,
    /// When the disk is synced.
    pub fsync: Fsync,
    /// Tasks.
    pub runtime: Runtime,
    /// Reads.
    pub read: Read,
    /// Memory.
    pub cache: Cache,
    /// Reading sealed segments again.
    pub scrub: Scrub,
    /// The other nodes, if there are any.
    pub cluster: Cluster,
}

/// The other nodes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cluster {
    /// This node's number, from 0.
    pub node_index: u8,
    /// `host:port` of every node for the others, by number, with commas between them; empty for a
    /// node that is alone.
    pub peers: String,
    /// Where this node listens for the others; empty for its own address in `peers`.
    pub listen_address: String,
    /// The file with the secret that every node of the cluster knows.
    pub secret_file: PathBuf,
    /// Bytes a second that this node reads for nodes that are behind; 0: as many as it can.
    pub catch_up_bytes_per_second: u64,
}

impl Cluster {
    /// The addresses of all nodes, by number.
    #[must_use]
    pub fn addresses(&self) -> Vec<String> {
        let addresses = self.peers.split(',').map(str::trim).filter(|peer| !peer.is_empty());
        addresses.map(str::to_owned).collect()
    }

    /// Where to listen for the others.
    ///
    /// # Errors
    /// When no address can be made of it.
    pub fn listen(&self) -> Result<SocketAddr, String> {
        if !self.listen_address.is_empty() {
            return self.listen_address.parse().map_err(|_| {
                format!("must be an address like 0.0.0.0:9092, got '{}'", self.listen_address)
            });
        }
        let addresses = self.addresses();
        let ours = addresses.get(usize::from(self.node_index)).map_or("", String::as_str);
        if let Ok(address) = ours.parse() {
            return Ok(address);
        }
        // A name says how others reach this node, not which of its addresses that is.
        let port = ours.rsplit_once(':').and_then(|(_, port)| port.parse().ok());
        let port: u16 = port.ok_or_else(|| format!("no port in '{ours}' (cluster.peers)"))?;
        Ok(SocketAddr::from(([0, 0, 0, 0], port)))
    }
}

/// Sockets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Network {
    /// Where clients connect.
    pub client_address: String,
    /// Where metrics and health are told; empty for nowhere.
    pub admin_address: String,
    /// The protocol of a connection that has not said HELLO, 2 or 3.
    pub default_protocol: u8,
    /// Most connections at once.
    pub max_clients: usize,
    /// Close a connection that sent nothing for this long; 0 for never.
    pub idle_timeout_ms: u64,
    /// Close a connection that takes none of its reply for this long.
    pub write_timeout_ms: u64,
    /// Most arguments of a request.
    pub max_arguments: usize,
    /// Largest argument.
    pub max_bulk_bytes: usize,
    /// Largest request.
    pub max_request_bytes: usize,
    /// Longest inline command.
    pub max_inline_bytes: usize,
    /// Bytes of requests held by all connections together.
    pub request_memory_bytes: usize,
}

/// Who may connect.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Auth {
    /// The password; empty for none.
    pub password: String,
    /// Listen beyond loopback without a password.
    pub allow_unauthenticated: bool,
}

impl std::fmt::Debug for Auth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let password = if self.password.is_empty() { "none" } else { "set" };
        write!(f, "Auth {{ password: {password}, {} }}", self.allow_unauthenticated)
    }
}

/// Appends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Append {
    /// Refuse `any`, `exists` and absence as an expected version.
    pub strict_versioning: bool,
    /// Largest transaction.
    pub max_transaction_bytes: u64,
    /// How long an append waits for its answer.
    pub timeout_ms: u64,
    /// Bytes of appends in flight per bucket.
    pub permit_bytes: u64,
}

/// A count that is fixed for the database's life.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Count {
    /// The count.
    pub count: u16,
}

/// Segment files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Segment {
    /// Size of a segment, fixed for the database's life.
    pub size_bytes: u64,
    /// How far ahead of what is written a segment is filled with zeros.
    pub zero_fill_bytes: u64,
}

/// When the disk is synced.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fsync {
    /// `always`, `interval` or `never`.
    pub mode: FsyncWord,
    /// For `interval`.
    pub interval_ms: u64,
}

/// The words of `fsync.mode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FsyncWord {
    /// Before every answer.
    Always,
    /// Every `fsync.interval_ms`.
    Interval,
    /// When a segment is full, and on stop.
    Never,
}

/// Where connections and actors run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Runtime {
    /// Threads for them; 0 for one per core but one.
    pub threads: usize,
}

/// Reads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Read {
    /// Threads that read.
    pub threads: usize,
    /// Segments and indexes kept open to read.
    pub open_files: usize,
}

/// Memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cache {
    /// Heads of streams kept in memory, over all partitions.
    pub stream_heads: usize,
    /// Bytes of sealed indexes kept in memory.
    pub index_bytes: usize,
}

/// Reading sealed segments again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scrub {
    /// How fast; 0 for never.
    pub bytes_per_second: u64,
    /// From the beginning of one round to the beginning of the next.
    pub interval_hours: u64,
}

impl Default for Settings {
    fn default() -> Self {
        let framer = Limits::default();
        Self {
            dir: "./data".into(),
            log: "info,kameo=warn,libp2p=warn".into(),
            network: Network {
                client_address: "127.0.0.1:9090".into(),
                admin_address: "127.0.0.1:9091".into(),
                default_protocol: 2,
                max_clients: 10_000,
                idle_timeout_ms: 0,
                write_timeout_ms: 60_000,
                max_arguments: framer.arguments,
                max_bulk_bytes: framer.bulk_bytes,
                max_request_bytes: framer.request_bytes,
                max_inline_bytes: framer.inline_bytes,
                request_memory_bytes: 1 << 30,
            },
            auth: Auth { password: String::new(), allow_unauthenticated: false },
            append: Append {
                strict_versioning: false,
                max_transaction_bytes: limits::TRANSACTION_MAX_BYTES,
                timeout_ms: 10_000,
                permit_bytes: limits::PERMIT_BYTES_DEFAULT,
            },
            partition: Count { count: limits::PARTITIONS_DEFAULT },
            bucket: Count { count: BUCKETS_DEFAULT },
            segment: Segment {
                size_bytes: limits::SEGMENT_DEFAULT_BYTES,
                zero_fill_bytes: limits::ZERO_FILL_DEFAULT_BYTES,
            },
            fsync: Fsync { mode: FsyncWord::Always, interval_ms: 1000 },
            runtime: Runtime { threads: 0 },
            read: Read { threads: 4, open_files: limits::OPEN_FILES_DEFAULT },
            cache: Cache { stream_heads: 262_144, index_bytes: limits::INDEX_CACHE_DEFAULT_BYTES },
            scrub: Scrub {
                bytes_per_second: SCRUB_BYTES_PER_SECOND_DEFAULT,
                interval_hours: SCRUB_INTERVAL_HOURS_DEFAULT,
            },
            cluster: Cluster {
                node_index: 0,
                peers: String::new(),
                listen_address: String::new(),
                secret_file: PathBuf::new(),
                catch_up_bytes_per_second: CATCH_UP_BYTES_PER_SECOND_DEFAULT,
            },
        }
    }
}

impl Settings {
    /// How to open the database.
    #[must_use]
    pub fn options(&self) -> Options {
        Options {
            partitions: self.partition.count,
            buckets: self.bucket.count,
            segment_bytes: self.segment.size_bytes,
            zero_fill_bytes: self.segment.zero_fill_bytes,
            fsync: match self.fsync.mode {
                FsyncWord::Always => FsyncMode::Always,
                FsyncWord::Interval => FsyncMode::Interval(self.fsync.interval_ms * 1_000_000),
                FsyncWord::Never => FsyncMode::Never,
            },
            strict_versioning: self.append.strict_versioning,
            max_transaction_bytes: self.append.max_transaction_bytes,
            append_timeout: Duration::from_millis(self.append.timeout_ms),
            permit_bytes: self.append.permit_bytes,
            cached_heads: self.cache.stream_heads,
            index_cache_bytes: self.cache.index_bytes,
            read_threads: self.read.threads,
            open_files: self.read.open_files,
            scrub_bytes_per_second: self.scrub.bytes_per_second,
            scrub_interval: Duration::from_secs(self.scrub.interval_hours.saturating_mul(3600)),
            execution: Execution::Threads,
            ..Options::new(&self.dir)
        }
    }

    /// The cluster this node belongs to, with its secret read; `None` for a node that is alone.
    ///
    /// # Errors
    /// What is wrong, by key.
    pub fn cluster(&self) -> Result<Option<ClusterOptions>, String> {
        let peers = self.cluster.addresses();
        if peers.is_empty() {
            return Ok(None);
        }
        let path = &self.cluster.secret_file;
        let bytes = std::fs::read(path)
            .map_err(|error| format!("cluster.secret_file: {}: {error}", path.display()))?;
        let secret = Secret::new(&bytes).ok_or_else(|| {
            format!(
                "cluster.secret_file: {} holds fewer than {SECRET_MIN_BYTES} bytes; make one with \
                 `head -c 32 /dev/urandom | base64 > FILE`, the same for every node",
                path.display()
            )
        })?;
        Ok(Some(ClusterOptions {
            node: self.cluster.node_index,
            peers,
            listen: self.cluster.listen().map_err(|what| format!("cluster.{what}"))?,
            secret,
            client_address: self.network.client_address.clone(),
            catch_up_bytes_per_second: self.cluster.catch_up_bytes_per_second,
            network: Arc::new(Libp2p),
        }))
    }

    /// Threads for connections and actors: what is configured, or one per core but one, which is
    /// left to the threads that write and read.
    #[must_use]
    pub fn runtime_threads(&self) -> usize {
        let cores = || std::thread::available_parallelism().map_or(1, usize::from);
        if self.runtime.threads > 0 { self.runtime.threads } else { (cores() - 1).max(1) }
    }

    /// Limits of the framer.
    #[must_use]
    pub fn framer_limits(&self) -> Limits {
        Limits {
            arguments: self.network.max_arguments,
            bulk_bytes: self.network.max_bulk_bytes,
            request_bytes: self.network.max_request_bytes,
            inline_bytes: self.network.max_inline_bytes,
            unauthenticated: false,
        }
    }

    /// The protocol of a new connection.
    #[must_use]
    pub fn default_protocol(&self) -> Protocol {
        if self.network.default_protocol == 3 { Protocol::Resp3 } else { Protocol::Resp2 }
    }
}
