//! `actadb`: serve until told to stop.

use std::process::ExitCode;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

use crate::server::Server;
use crate::settings::Settings;
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
    let mut settings = settings;
    fit_file_limit(&mut settings);
    // Listening for the signals comes first: one that arrives during recovery ends it; recovery
    // may be killed at any point.
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
                // As for a setting that is refused when it is read.
                return if error.is_setting() { ExitCode::from(2) } else { ExitCode::FAILURE };
            }
        },
        _ = terminate.recv() => return ExitCode::SUCCESS,
        _ = interrupt.recv() => return ExitCode::SUCCESS,
    };
    for words in server.database().status().degraded() {
        tracing::warn!("degraded: {words}");
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
    tokio::select! {
        () = server.stop() => {
            tracing::info!("stopped");
            ExitCode::SUCCESS
        }
        _ = terminate.recv() => impatient(),
        _ = interrupt.recv() => impatient(),
    }
}

/// A second signal: what was acknowledged is safe as it is.
fn impatient() -> ExitCode {
    tracing::warn!("told twice: not waiting for the rest");
    std::process::exit(1)
}

/// File handles kept beside those of `read.open_files`: four for each bucket, and these for the
/// listeners, the log, and what asks for metrics.
const HANDLES_RESERVED: usize = 64;

/// Connections and segments are files: take what the hard limit gives, and do not promise more
/// connections than that leaves.
fn fit_file_limit(settings: &mut Settings) {
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
        if let Err(error) = setrlimit(Resource::Nofile, raised) {
            tracing::warn!(%error, "the limit of open files could not be raised");
        }
    }
    let Some(handles) = getrlimit(Resource::Nofile).current else { return };
    // Clients first: a file that is closed is opened again.
    let most = usize::try_from(handles / 4).unwrap_or(usize::MAX).max(1);
    settings.read.open_files = settings.read.open_files.min(most);
    let buckets = usize::from(settings.bucket.count);
    let kept = settings.read.open_files.saturating_add(HANDLES_RESERVED + 4 * buckets);
    let left = usize::try_from(handles).unwrap_or(usize::MAX).saturating_sub(kept);
    if settings.network.max_clients > left {
        tracing::warn!(
            configured = settings.network.max_clients,
            possible = left,
            open_files = handles,
            "fewer connections than network.max_clients: raise the limit of open files"
        );
        settings.network.max_clients = left.max(1);
    }
}
