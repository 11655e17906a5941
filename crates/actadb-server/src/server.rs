//! A running server: its listeners, its database, and how it stops.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use actadb::cluster::options::{Sockets, SystemSockets};
use actadb::database::Database;
use actadb::error::OpenError;
use actadb::options::Options;
use actadb_protocol::error::{Code, ErrorReply};
use actadb_protocol::reply::Reply;
use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::answer::Context;
use crate::connection::Connection;
use crate::registry::Registry;
use crate::session::Session;
use crate::settings::Settings;

/// How long connections may take to end when the server stops.
const GOODBYE: Duration = Duration::from_secs(5);

/// Why a server did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The database.
    #[error("cannot open {dir}: {error}")]
    Database {
        /// The directory.
        dir: String,
        /// Why.
        error: OpenError,
    },
    /// The cluster.
    #[error("configuration: {0}")]
    Cluster(String),
    /// An address.
    #[error("cannot listen on {address} ({key}): {error}")]
    Listen {
        /// The configuration key.
        key: &'static str,
        /// The address.
        address: String,
        /// Why.
        error: std::io::Error,
    },
}

impl StartError {
    /// Whether a setting is to blame, and not the machine.
    #[must_use]
    pub fn is_setting(&self) -> bool {
        match self {
            Self::Cluster(_) => true,
            Self::Database { error, .. } => matches!(error, OpenError::Options(_)),
            Self::Listen { .. } => false,
        }
    }
}

/// A server inside this process.
#[derive(Debug)]
pub struct Server {
    client_address: SocketAddr,
    admin_address: Option<SocketAddr>,
    context: Context,
    stopping: watch::Sender<bool>,
    tasks: JoinSet<()>,
}

impl Server {
    /// Opens the database and listens.
    ///
    /// # Errors
    /// See [`StartError`].
    pub async fn start(settings: Settings) -> Result<Self, StartError> {
        let cluster = settings.cluster().map_err(StartError::Cluster)?;
        let options = Options { cluster, ..settings.options() };
        Self::start_on(SystemSockets, settings, options).await
    }

    /// The same, of a database with such options, whose clients come over such sockets: for
    /// simulated networks.
    ///
    /// # Errors
    /// See [`StartError`].
    pub async fn start_on<S: Sockets>(
        sockets: S,
        settings: Settings,
        options: Options,
    ) -> Result<Self, StartError> {
        let network = &settings.network;
        // Addresses first: a port that is taken must not cost a recovery.
        let (listener, client_address) = listen(&sockets, &network.client_address).await?;
        let admin = match network.admin_address.as_str() {
            "" => None,
            address => Some(
                TcpListener::bind(address)
                    .await
                    .map_err(|error| refused("network.admin_address", address, error))?,
            ),
        };
        let database = Database::open_with(options).await.map_err(|error| {
            StartError::Database { dir: settings.dir.display().to_string(), error }
        })?;
        let context = Context {
            database,
            settings: Arc::new(settings),
            registry: Arc::new(Registry::default()),
        };
        let (stopping, is_stopping) = watch::channel(false);
        let admin_address = admin.as_ref().and_then(|admin| admin.local_addr().ok());
        let mut tasks = JoinSet::new();
        tasks.spawn(accept::<S>(listener, context.clone(), is_stopping.clone()));
        if let Some(admin) = admin {
            let mut stopped = is_stopping;
            let stopped = async move {
                let _ = stopped.wait_for(|stopping| *stopping).await;
            };
            tasks.spawn(crate::admin::serve(admin, context.clone(), stopped));
        }
        Ok(Self { client_address, admin_address, context, stopping, tasks })
    }

    /// Where clients connect.
    #[must_use]
    pub fn client_address(&self) -> SocketAddr {
        self.client_address
    }

    /// Where metrics and health are told.
    #[must_use]
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.admin_address
    }

    /// The database it serves.
    #[must_use]
    pub fn database(&self) -> &Database {
        &self.context.database
    }

    /// Stops: appends in flight are answered, new ones refused, everything is synced, connections
    /// end.
    pub async fn stop(mut self) {
        self.context.database.close().await;
        let _ = self.stopping.send(true);
        let all = async { while self.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(GOODBYE, all).await.is_err() {
            tracing::warn!("some connections did not end in time");
            self.tasks.abort_all();
        }
    }
}

fn refused(key: &'static str, address: &str, error: std::io::Error) -> StartError {
    StartError::Listen { key, address: address.to_owned(), error }
}

/// Listens for clients.
async fn listen<S: Sockets>(
    sockets: &S,
    address: &str,
) -> Result<(S::Listener, SocketAddr), StartError> {
    sockets.bind(address).await.map_err(|error| refused("network.client_address", address, error))
}

async fn accept<S: Sockets>(
    mut listener: S::Listener,
    context: Context,
    mut stopping: watch::Receiver<bool>,
) {
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = S::accept(&mut listener) => accepted,
            Some(_ended) = connections.join_next() => continue,
            _ = stopping.wait_for(|stopping| *stopping) => break,
        };
        match accepted {
            Ok((stream, address)) => {
                if let Some(connection) = admit(stream, address, &context, &stopping) {
                    connections.spawn(connection.run());
                }
            }
            Err(error) => {
                // Out of file descriptors, mostly: waiting lets some come back.
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

fn admit<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    mut stream: S,
    address: SocketAddr,
    context: &Context,
    stopping: &watch::Receiver<bool>,
) -> Option<Connection<S>> {
    let settings = &context.settings;
    let protocol = settings.default_protocol();
    let Some(row) = context.registry.connect(address, protocol, settings.network.max_clients)
    else {
        let error = ErrorReply::new(Code::Err, "max number of clients reached");
        let mut out = BytesMut::new();
        Reply::Error(error).write(protocol, &mut out);
        tokio::spawn(tokio::time::timeout(Duration::from_secs(1), async move {
            let _ = stream.write_all(&out).await;
            let _ = stream.shutdown().await;
        }));
        return None;
    };
    let server_id = context.database.id().to_string();
    let session = Session::new(settings.clone(), context.registry.clone(), row, server_id);
    Some(Connection::new(stream, session, context.clone(), stopping.clone()))
}
