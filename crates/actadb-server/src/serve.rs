//! `actadb`: serve until told to stop.

use std::process::ExitCode;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

use crate::server::Server;
use crate::settings_load::Loaded;

/// Serves with a loaded configuration; returns when SIGTERM or SIGINT has been obeyed.
pub async fn run(loaded: Loaded) -> ExitCode {
    let settings = loaded.settings;
    let filter = match EnvFilter::try_new(&settings.log) {
        Ok(filter) => filter,
        Err(error) => {
            eprintln!("configuration: log: {error} (got '{}')", settings.log);
            return ExitCode::from(2);
        }
    };
    let ansi = std::io::IsTerminal::is_terminal(&std::io::stderr());
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(ansi)
        .init();
    raise_file_limit();
    // Listening for the signals comes first: one that arrives during recovery is obeyed after it.
    let (mut terminate, mut interrupt) =
        match (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) {
            (Ok(terminate), Ok(interrupt)) => (terminate, interrupt),
            (Err(error), _) | (_, Err(error)) => {
                tracing::error!(%error, "cannot listen for signals");
                return ExitCode::FAILURE;
            }
        };
    let dir = settings.dir.display().to_string();
    let fsync = settings.fsync.mode;
    tracing::info!(version = env!("CARGO_PKG_VERSION"), %dir, ?fsync, "opening the database");
    let server = tokio::select! {
        started = Server::start(settings) => match started {
            Ok(server) => server,
            Err(error) => {
                tracing::error!("{error}");
                return ExitCode::FAILURE;
            }
        },
        _ = terminate.recv() => return ExitCode::SUCCESS,
        _ = interrupt.recv() => return ExitCode::SUCCESS,
    };
    for words in server.database().status().degraded() {
        tracing::error!("degraded: {words}");
    }
    if let Some(admin) = server.admin_address() {
        tracing::info!("metrics and health on http://{admin}/metrics and /health/ready");
    }
    tracing::info!("ready to receive connections on {}", server.client_address());
    let name = tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    };
    tracing::info!(signal = name, "stopping");
    server.stop().await;
    tracing::info!("stopped");
    ExitCode::SUCCESS
}

/// Connections and segments are files: take what the hard limit gives.
fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
        if let Err(error) = setrlimit(Resource::Nofile, raised) {
            tracing::warn!(%error, "the limit of open files could not be raised");
        }
    }
}
