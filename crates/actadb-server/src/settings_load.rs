//! Putting the layers of the configuration together: default < file < environment < flag.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use actadb::error::OpenError;
use actadb::model::limits::NODES_MAX;
use config::{Config, ConfigError, Environment, File, FileFormat, Value, ValueKind};

use crate::settings::{FsyncWord, Settings};

/// What flags say.
#[derive(Clone, Debug, Default)]
pub struct Flags {
    /// `--config`
    pub config: Option<PathBuf>,
    /// `--dir`
    pub dir: Option<PathBuf>,
    /// `--client-address`
    pub client_address: Option<String>,
    /// `--log`
    pub log: Option<String>,
    /// `--node-index`
    pub node_index: Option<u8>,
    /// `--node-count`: what `cluster.peers` must have.
    pub node_count: Option<u8>,
    /// `--allow-unauthenticated`
    pub allow_unauthenticated: bool,
}

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nobody said anything.
    Default,
    /// A file.
    File(String),
    /// A variable of the environment.
    Environment(String),
    /// A flag of the command line.
    Flag,
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path) => f.write_str(path),
            Self::Environment(variable) => write!(f, "environment variable {variable}"),
            Self::Flag => f.write_str("flag"),
        }
    }
}

/// The effective configuration, and where each key came from.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The values.
    pub settings: Settings,
    /// By key.
    pub origins: BTreeMap<String, Origin>,
}

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("configuration: {0}")]
pub struct BadConfiguration(pub String);

const ENVIRONMENT: &str = "the environment";
const FLAG: &str = "flag";
/// Most threads that `runtime.threads` may ask for.
const RUNTIME_THREADS_MAX: usize = 1024;

/// Loads and checks the configuration. `variables` stands for the environment in tests.
///
/// # Errors
/// By key and file, variable or flag.
pub fn load(
    flags: &Flags,
    variables: Option<config::Map<String, String>>,
) -> Result<Loaded, BadConfiguration> {
    let plain = |error: ConfigError| BadConfiguration(error.to_string());
    let defaults = Config::try_from(&Settings::default()).map_err(plain)?;
    let known = leaves(&defaults.cache);
    let mut builder = Config::builder().add_source(defaults);
    if let Some(path) = &flags.config {
        // `config` would try other names, and swallow what keeps it from reading.
        let text = std::fs::read_to_string(path)
            .map_err(|error| BadConfiguration(format!("{}: {error}", path.display())))?;
        drop(text);
        builder = builder.add_source(File::from(path.as_path()).format(FileFormat::Toml));
    }
    let environment = Environment::with_prefix("ACTADB").prefix_separator("_").separator("__");
    let mut builder = builder.add_source(environment.source(variables));
    let flag = FLAG.to_owned();
    let given = [
        ("dir", flags.dir.as_ref().map(|dir| dir.display().to_string())),
        ("network.client_address", flags.client_address.clone()),
        ("log", flags.log.clone()),
        ("cluster.node_index", flags.node_index.map(|node| node.to_string())),
        ("auth.allow_unauthenticated", flags.allow_unauthenticated.then(|| "true".to_owned())),
    ];
    for (key, value) in given {
        if let Some(value) = value {
            let value = Value::new(Some(&flag), ValueKind::String(value));
            builder = builder.set_override(key, value).map_err(plain)?;
        }
    }
    let merged = builder.build().map_err(plain)?;
    let found = leaves(&merged.cache);
    let origins: BTreeMap<String, Origin> = found
        .iter()
        .map(|(key, origin)| (key.clone(), origin_of(key, origin.as_deref())))
        .collect();
    if let Some((key, origin)) = origins.iter().find(|(key, _)| !known.contains_key(*key)) {
        let closest = known.keys().min_by_key(|name| distance(key, name));
        let hint = closest.map(|name| format!("; did you mean '{name}'?")).unwrap_or_default();
        return Err(BadConfiguration(format!("unknown key '{key}' ({origin}){hint}")));
    }
    let settings: Settings = merged.try_deserialize().map_err(|error| explain(error, &origins))?;
    check(&settings, &origins)?;
    check_cluster(&settings, flags.node_count, &origins)?;
    Ok(Loaded { settings, origins })
}

#[expect(clippy::iter_over_hash_type, reason = "what comes out is sorted")]
fn leaves(value: &Value) -> BTreeMap<String, Option<String>> {
    fn walk(path: &str, value: &Value, out: &mut BTreeMap<String, Option<String>>) {
        match &value.kind {
            ValueKind::Table(table) => {
                for (key, child) in table {
                    let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                    walk(&path, child, out);
                }
            }
            _ => {
                out.insert(path.to_owned(), value.origin().map(str::to_owned));
            }
        }
    }
    let mut out = BTreeMap::new();
    walk("", value, &mut out);
    out
}

fn origin_of(key: &str, origin: Option<&str>) -> Origin {
    match origin {
        None => Origin::Default,
        Some(FLAG) => Origin::Flag,
        Some(ENVIRONMENT) => {
            let name = key.replace('.', "__").to_ascii_uppercase();
            Origin::Environment(format!("ACTADB_{name}"))
        }
        Some(path) => Origin::File(path.to_owned()),
    }
}

/// Adds what the error leaves out: the whole key, and where the value came from.
fn explain(error: ConfigError, origins: &BTreeMap<String, Origin>) -> BadConfiguration {
    let (key, what) = match &error {
        ConfigError::Type { key: Some(key), unexpected, expected, .. } => {
            (key.clone(), format!("expected {expected}, got {unexpected}"))
        }
        ConfigError::At { error, key: Some(key), .. } => (key.clone(), error.to_string()),
        other => return BadConfiguration(other.to_string()),
    };
    match origins.get(&key) {
        Some(origin) => BadConfiguration(format!("{key}: {what} ({origin})")),
        None => BadConfiguration(format!("{key}: {what}")),
    }
}

/// Values that have the right type and make no sense.
fn check(settings: &Settings, origins: &BTreeMap<String, Origin>) -> Result<(), BadConfiguration> {
    let bad = |key: &str, what: String| {
        let origin = origins.get(key).map(ToString::to_string).unwrap_or_default();
        Err(BadConfiguration(format!("{key}: {what} ({origin})")))
    };
    let network = &settings.network;
    let client = match address(&network.client_address) {
        Ok(address) => address,
        Err(what) => return bad("network.client_address", what),
    };
    if !network.admin_address.is_empty()
        && let Err(what) = address(&network.admin_address)
    {
        return bad("network.admin_address", what);
    }
    if !(2..=3).contains(&network.default_protocol) {
        let what = format!("must be 2 or 3, got {}", network.default_protocol);
        return bad("network.default_protocol", what);
    }
    if settings.runtime.threads > RUNTIME_THREADS_MAX {
        let what =
            format!("must be at most {RUNTIME_THREADS_MAX}, got {}", settings.runtime.threads);
        return bad("runtime.threads", what);
    }
    let least = [
        ("network.max_clients", network.max_clients as u64, 1),
        ("network.max_arguments", network.max_arguments as u64, 16),
        ("network.max_bulk_bytes", network.max_bulk_bytes as u64, 4096),
        ("network.max_request_bytes", network.max_request_bytes as u64, 4096),
        ("network.max_inline_bytes", network.max_inline_bytes as u64, 1024),
        ("network.write_timeout_ms", network.write_timeout_ms, 100),
        ("append.timeout_ms", settings.append.timeout_ms, 1),
        ("append.max_transaction_bytes", settings.append.max_transaction_bytes, 1024),
        ("fsync.interval_ms", settings.fsync.interval_ms, 1),
        ("read.threads", settings.read.threads as u64, 1),
        ("scrub.interval_hours", settings.scrub.interval_hours, 1),
    ];
    if let Some((key, value, least)) = least.into_iter().find(|(_, value, least)| value < least) {
        return bad(key, format!("must be at least {least}, got {value}"));
    }
    if let Err(OpenError::Options(what)) = settings.options().check()
        && let Some((key, what)) = what.split_once(' ')
    {
        return bad(key, what.to_owned());
    }
    let open = !client.ip().is_loopback()
        && settings.auth.password.is_empty()
        && !settings.auth.allow_unauthenticated;
    if open {
        return bad(
            "network.client_address",
            format!(
                "{client} is reachable from other machines and no auth.password is set: set one, \
                 or say --allow-unauthenticated"
            ),
        );
    }
    Ok(())
}

fn check_cluster(
    settings: &Settings,
    node_count: Option<u8>,
    origins: &BTreeMap<String, Origin>,
) -> Result<(), BadConfiguration> {
    let bad = |key: &str, what: String| {
        let origin = origins.get(key).map(ToString::to_string).unwrap_or_default();
        Err(BadConfiguration(format!("{key}: {what} ({origin})")))
    };
    let cluster = &settings.cluster;
    let peers = cluster.addresses();
    if let Some(count) = node_count.filter(|count| usize::from(*count) != peers.len()) {
        let what = format!("names {} nodes, and --node-count says {count}", peers.len());
        return bad("cluster.peers", what);
    }
    if peers.is_empty() {
        return match cluster.node_index {
            0 => Ok(()),
            node => bad("cluster.node_index", format!("is {node}, and cluster.peers is empty")),
        };
    }
    let port = |peer: &str| peer.rsplit_once(':').is_some_and(|(_, p)| p.parse::<u16>().is_ok());
    if let Some(peer) = peers.iter().find(|peer| !port(peer)) {
        return bad("cluster.peers", format!("must be host:port,host:port,…, got '{peer}'"));
    }
    if !(2..=usize::from(NODES_MAX)).contains(&peers.len()) {
        let what = format!("must name 2 to {NODES_MAX} nodes, got {}", peers.len());
        return bad("cluster.peers", what);
    }
    if usize::from(cluster.node_index) >= peers.len() {
        let what = format!("must be 0 to {}, got {}", peers.len() - 1, cluster.node_index);
        return bad("cluster.node_index", what);
    }
    if let Err(what) = cluster.listen() {
        return bad("cluster.listen_address", what);
    }
    if cluster.secret_file.as_os_str().is_empty() {
        return bad("cluster.secret_file", "must name a file when cluster.peers is set".into());
    }
    if settings.fsync.mode != FsyncWord::Always {
        return bad("fsync.mode", "must be always when cluster.peers is set".into());
    }
    Ok(())
}

fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| format!("must be an address like 127.0.0.1:9090, got '{text}'"))
}

/// Levenshtein's distance, for hints.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = i;
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(ca != *cb);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row.last().copied().unwrap_or(0)
}

/// The effective values, a line each, with where they came from. A password is not shown.
#[must_use]
pub fn show(loaded: &Loaded) -> String {
    let values = Config::try_from(&loaded.settings).map(|values| values.cache);
    let Ok(values) = values else { return String::new() };
    let mut lines = String::new();
    for (key, origin) in &loaded.origins {
        let value = value_at(&values, key);
        let shown = match (key.as_str(), value) {
            ("auth.password", Some(ValueKind::String(password))) if !password.is_empty() => {
                "\"(set, not shown)\"".to_owned()
            }
            (_, Some(ValueKind::String(text))) => format!("{text:?}"),
            (_, Some(kind)) => kind.to_string(),
            (_, None) => String::new(),
        };
        lines.push_str(&format!("{:<50} # {origin}\n", format!("{key} = {shown}")));
    }
    lines
}

fn value_at<'a>(value: &'a Value, key: &str) -> Option<&'a ValueKind> {
    let mut value = value;
    for part in key.split('.') {
        let ValueKind::Table(table) = &value.kind else { return None };
        value = table.get(part)?;
    }
    Some(&value.kind)
}

/// The effective configuration as `CONFIG GET` names it.
#[must_use]
pub fn pairs(settings: &Settings) -> Vec<(String, String)> {
    let Ok(values) = Config::try_from(settings) else { return Vec::new() };
    leaves(&values.cache)
        .into_keys()
        .filter(|key| key != "auth.password")
        .filter_map(|key| {
            let value = value_at(&values.cache, &key)?.to_string();
            Some((key, value))
        })
        .collect()
}

/// Reads `config/default.toml` the way a user's file is read.
///
/// # Errors
/// As [`load`].
pub fn load_file(path: &Path) -> Result<Loaded, BadConfiguration> {
    let flags = Flags { config: Some(path.to_owned()), ..Flags::default() };
    load(&flags, Some(config::Map::new()))
}
