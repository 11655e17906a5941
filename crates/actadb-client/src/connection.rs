//! The connection that a client's requests share: made when it is needed, made anew when it broke.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::io::tcp::TcpSettings;
use redis::{
    AsyncConnectionConfig, Cmd, ErrorKind, IntoConnectionInfo, ProtocolVersion, RedisError, Value,
};
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};

use crate::error::Error;
use crate::inbox::{Inbox, PushWriter};
use crate::options::ClientOptions;
use crate::reply::{self, Fields};

/// A server, or a node of several.
#[derive(Debug)]
struct Node {
    client: redis::Client,
    address: String,
}

/// Makes connections.
#[derive(Debug)]
pub(crate) struct Connector {
    /// At least one.
    nodes: Vec<Node>,
    /// Number of the one to talk to, and how often that was another one before.
    moves: AtomicUsize,
    /// The database that the first connection led to: no other one is talked to.
    database: OnceLock<Database>,
    connect_timeout: Duration,
    request_timeout: Duration,
}

/// What a server says of its database.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Database {
    id: String,
    partitions: u16,
}

impl Node {
    fn new(url: &str, password: Option<&String>) -> Result<Self, Error> {
        let bad_url = |error: RedisError| {
            let why = error.detail().map_or_else(|| error.to_string(), str::to_owned);
            Error::Invalid(format!("the URL of the server: {why}"))
        };
        let info = url.into_connection_info().map_err(bad_url)?;
        let address = info.addr().to_string();
        let name = (env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION"));
        let settings = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
        let mut settings = settings.set_lib_name(name.0, name.1);
        if let Some(password) = password {
            settings = settings.set_password(password);
        }
        let tcp = TcpSettings::default().set_nodelay(true);
        let info = info.set_redis_settings(settings).set_tcp_settings(tcp);
        let client = redis::Client::open(info).map_err(bad_url)?;
        Ok(Self { client, address })
    }
}

impl Connector {
    pub(crate) fn new(options: &ClientOptions) -> Result<Self, Error> {
        let node = |url: &String| Node::new(url, options.password.as_ref());
        let nodes = options.urls.iter().map(node).collect::<Result<Vec<_>, Error>>()?;
        let ClientOptions { connect_timeout, request_timeout, .. } = *options;
        let (moves, database) = (AtomicUsize::new(0), OnceLock::new());
        Ok(Self { nodes, moves, database, connect_timeout, request_timeout })
    }

    /// How often the client went from node to node.
    pub(crate) fn moves(&self) -> usize {
        self.moves.load(Ordering::Relaxed)
    }

    fn node(&self, moves: usize) -> &Node {
        &self.nodes[moves % self.nodes.len()]
    }

    /// Goes to the next node, unless somebody has since `moves` were counted.
    pub(crate) fn leave(&self, moves: usize) {
        let next = moves.wrapping_add(1);
        let _ = self.moves.compare_exchange(moves, next, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Whether there is another node to ask.
    pub(crate) fn has_several(&self) -> bool {
        self.nodes.len() > 1
    }

    fn config(&self) -> AsyncConnectionConfig {
        AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.connect_timeout))
            .set_response_timeout(Some(self.request_timeout))
    }

    /// Tries each node once: what all refuse is refused.
    async fn connect_with(&self, config: AsyncConnectionConfig) -> Result<Connection, Error> {
        let mut tries = 0;
        let mut passing = None;
        loop {
            let moves = self.moves();
            let client = &self.node(moves).client;
            let error = match client.get_multiplexed_async_connection_with_config(&config).await {
                Ok(redis) => {
                    let mut connection = Connection { redis, moves };
                    match timeout(self.connect_timeout, self.check(&mut connection)).await {
                        Ok(Ok(())) => return Ok(connection),
                        Ok(Err(error)) => error,
                        Err(_elapsed) => self.silent(moves),
                    }
                }
                Err(error) => match error.kind() {
                    ErrorKind::Io | ErrorKind::Client | ErrorKind::Parse => {
                        self.lost(&error, moves)
                    }
                    _ => self.failure(&error, moves).error,
                },
            };
            self.leave(moves);
            tries += 1;
            if tries == self.nodes.len() {
                // What one of them may be able to a little later is tried again.
                return Err(passing.unwrap_or(error));
            }
            if error.is_transient() {
                passing = Some(error);
            }
        }
    }

    /// Whether a connection leads to the database that the first one led to: positions and event
    /// ids mean nothing in another.
    async fn check(&self, connection: &mut Connection) -> Result<(), Error> {
        let address = &self.node(connection.moves).address;
        let said = redis::cmd("HELLO").query_async::<Value>(&mut connection.redis).await;
        let said = said.map_err(|error| self.failure(&error, connection.moves).error)?;
        let stranger = || Error::Protocol(format!("{address} is no ActaDB server"));
        let mut said = Fields::of(said)?;
        let count = said.number("num_partitions").ok();
        let count = count.and_then(|count| u16::try_from(count).ok()).filter(|count| *count > 0);
        let (Some(partitions), Ok(id)) = (count, said.take("peer_id").and_then(reply::text)) else {
            return Err(stranger());
        };
        let found = Database { id, partitions };
        let known = self.database.get_or_init(|| found.clone());
        match *known == found {
            true => Ok(()),
            false => Err(Error::OtherDatabase {
                address: address.clone(),
                found: found.id,
                expected: known.id.clone(),
            }),
        }
    }

    /// A connection for requests.
    pub(crate) async fn connect(&self) -> Result<Connection, Error> {
        self.connect_with(self.config()).await
    }

    /// A connection for a subscription, and where its pushes arrive.
    pub(crate) async fn connect_for_pushes(&self) -> Result<(Connection, Arc<Inbox>), Error> {
        let inbox = Arc::new(Inbox::default());
        let config = self.config().set_push_sender(PushWriter::new(inbox.clone()));
        Ok((self.connect_with(config).await?, inbox))
    }

    fn lost(&self, error: &RedisError, moves: usize) -> Error {
        if error.is_timeout() {
            return self.silent(moves);
        }
        let address = self.node(moves).address.clone();
        Error::Disconnected { address, reason: error.to_string() }
    }

    fn silent(&self, moves: usize) -> Error {
        let address = self.node(moves).address.clone();
        Error::Disconnected { address, reason: "no answer in time".to_owned() }
    }

    /// What an error of redis-rs means, on a connection that was made after so many moves.
    pub(crate) fn failure(&self, error: &RedisError, moves: usize) -> Failure {
        // What the server said has a code; all else happened on the way.
        match error.code() {
            Some(code) => {
                let error = Error::reply(code, error.detail().unwrap_or_default());
                Failure { error, lost: false }
            }
            None => Failure { error: self.lost(error, moves), lost: true },
        }
    }
}

/// A connection, and the node that it goes to.
#[derive(Clone, Debug)]
pub(crate) struct Connection {
    pub(crate) redis: MultiplexedConnection,
    /// See [`Connector::moves`].
    pub(crate) moves: usize,
}

/// Why a request has no answer.
pub(crate) struct Failure {
    pub(crate) error: Error,
    /// It was sent, and the connection was given up before the answer.
    pub(crate) lost: bool,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self { error, lost: false }
    }
}

/// The shared connection.
#[derive(Debug)]
pub(crate) struct Link {
    connector: Connector,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    connection: Option<Connection>,
    /// Counts connections, so that a late report of a broken one does not end its successor.
    number: u64,
    failed: Option<(Instant, String, String)>,
}

impl Link {
    pub(crate) fn new(connector: Connector) -> Self {
        Self { connector, state: Mutex::default() }
    }

    pub(crate) fn connector(&self) -> &Connector {
        &self.connector
    }

    async fn connection(&self) -> Result<(u64, Connection), Error> {
        let asked = Instant::now();
        let mut state = self.state.lock().await;
        if let Some(connection) = &state.connection {
            return Ok((state.number, connection.clone()));
        }
        // An attempt that failed while this request stood in line was its attempt, too.
        if let Some((at, address, reason)) = &state.failed
            && *at >= asked
        {
            let (address, reason) = (address.clone(), reason.clone());
            return Err(Error::Disconnected { address, reason });
        }
        match self.connector.connect().await {
            Ok(connection) => {
                state.number += 1;
                state.connection = Some(connection.clone());
                Ok((state.number, connection))
            }
            Err(error) => {
                if let Error::Disconnected { address, reason } = &error {
                    state.failed = Some((Instant::now(), address.clone(), reason.clone()));
                }
                Err(error)
            }
        }
    }

    async fn discard(&self, number: u64) {
        let mut state = self.state.lock().await;
        if state.number == number
            && let Some(connection) = state.connection.take()
        {
            self.connector.leave(connection.moves);
        }
    }

    /// Sends a command once.
    pub(crate) async fn request(&self, command: &Cmd) -> Result<Value, Failure> {
        let (number, mut connection) = self.connection().await?;
        match command.query_async::<Value>(&mut connection.redis).await {
            Ok(value) => Ok(value),
            Err(error) => {
                let failure = self.connector.failure(&error, connection.moves);
                let elsewhere = self.connector.has_several() && failure.error.asks_elsewhere();
                if failure.lost || elsewhere {
                    self.discard(number).await;
                }
                Err(failure)
            }
        }
    }

    /// The number of partitions of the database.
    pub(crate) async fn partitions(&self) -> Result<u16, Error> {
        self.connection().await?;
        Ok(self.connector.database.get().map_or(0, |database| database.partitions))
    }
}
