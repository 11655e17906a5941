//! Who is connected, and what was asked: the server's own counters.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use actadb_protocol::catalog::COMMANDS;
use actadb_protocol::error::Code;
use actadb_protocol::reply::Protocol;

/// One connection, as `CLIENT LIST` shows it.
#[derive(Clone, Debug)]
pub struct ClientRow {
    /// Its number.
    pub id: u64,
    /// The client's address.
    pub address: String,
    /// The name it gave itself.
    pub name: String,
    /// Its library's name and version.
    pub library: (String, String),
    /// Its protocol.
    pub protocol: Protocol,
    /// Since when.
    pub since: Instant,
    /// Commands so far.
    pub commands: u64,
}

impl ClientRow {
    /// The line of `CLIENT LIST`.
    #[must_use]
    pub fn line(&self) -> String {
        let protocol = if self.protocol == Protocol::Resp3 { 3 } else { 2 };
        format!(
            "id={} addr={} name={} age={} db=0 resp={protocol} lib-name={} lib-ver={} tot-cmds={}",
            self.id,
            self.address,
            self.name,
            self.since.elapsed().as_secs(),
            self.library.0,
            self.library.1,
            self.commands
        )
    }
}

/// Counters and rows of one server.
#[derive(Debug)]
pub struct Registry {
    clients: Mutex<BTreeMap<u64, ClientRow>>,
    next_id: AtomicU64,
    /// Connections accepted.
    pub accepted: AtomicU64,
    /// Connections refused because there were too many.
    pub rejected: AtomicU64,
    /// Bytes of requests held by all connections.
    pub held_bytes: AtomicUsize,
    commands: Vec<AtomicU64>,
    errors: Mutex<BTreeMap<&'static str, u64>>,
    /// When the server started.
    pub started: Instant,
}

impl Default for Registry {
    fn default() -> Self {
        Self {
            clients: Mutex::default(),
            next_id: AtomicU64::new(1),
            accepted: AtomicU64::new(0),
            rejected: AtomicU64::new(0),
            held_bytes: AtomicUsize::new(0),
            commands: COMMANDS.iter().map(|_| AtomicU64::new(0)).collect(),
            errors: Mutex::default(),
            started: Instant::now(),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Registry {
    /// Adds a connection; `None` when there are `limit` already.
    pub fn connect(
        &self,
        address: SocketAddr,
        protocol: Protocol,
        limit: usize,
    ) -> Option<ClientRow> {
        let mut clients = lock(&self.clients);
        if clients.len() >= limit {
            self.rejected.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        self.accepted.fetch_add(1, Ordering::Relaxed);
        let row = ClientRow {
            id: self.next_id.fetch_add(1, Ordering::Relaxed),
            address: address.to_string(),
            name: String::new(),
            library: (String::new(), String::new()),
            protocol,
            since: Instant::now(),
            commands: 0,
        };
        clients.insert(row.id, row.clone());
        Some(row)
    }

    /// Removes a connection.
    pub fn disconnect(&self, id: u64) {
        lock(&self.clients).remove(&id);
    }

    /// Changes what is shown of a connection.
    pub fn update(&self, row: &ClientRow) {
        lock(&self.clients).insert(row.id, row.clone());
    }

    /// Connections at present.
    #[must_use]
    pub fn connected(&self) -> usize {
        lock(&self.clients).len()
    }

    /// All connections.
    #[must_use]
    pub fn rows(&self) -> Vec<ClientRow> {
        lock(&self.clients).values().cloned().collect()
    }

    /// Counts a command, by its place in the catalog.
    pub fn count_command(&self, at: usize) {
        if let Some(counter) = self.commands.get(at) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Counts an error reply.
    pub fn count_error(&self, code: Code) {
        *lock(&self.errors).entry(code.word()).or_default() += 1;
    }

    /// Commands so far, by name.
    #[must_use]
    pub fn command_counts(&self) -> Vec<(&'static str, u64)> {
        let counts = self.commands.iter().map(|count| count.load(Ordering::Relaxed));
        COMMANDS.iter().map(|command| command.name).zip(counts).collect()
    }

    /// Error replies so far, by code.
    #[must_use]
    pub fn error_counts(&self) -> Vec<(&'static str, u64)> {
        lock(&self.errors).iter().map(|(code, count)| (*code, *count)).collect()
    }
}
