//! The command line.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::bench::Bench;
use crate::check::CheckArgs;
use crate::cluster_command::ClusterArgs;
use crate::dump::DumpArgs;
use crate::export::ExportArgs;
use crate::import::ImportArgs;
use crate::ping::PingArgs;
use crate::repair::RepairArgs;
use crate::settings_load::{Flags, Loaded, load, show};
use crate::shell::ShellArgs;
use crate::tail::TailArgs;

/// An event store that any Redis client can write, read and follow.
///
/// Without a subcommand it serves.
#[derive(Debug, Parser)]
#[command(name = "actadb", version, args_conflicts_with_subcommands = true)]
pub struct Cli {
    #[command(flatten)]
    serve: ServeArgs,
    #[command(subcommand)]
    command: Option<Command>,
}

/// Flags of the server; they win over the environment and the file.
#[derive(Clone, Debug, Args)]
pub struct ServeArgs {
    /// A TOML file with configuration keys; config/default.toml explains them
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The data directory [default: ./data]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Where clients connect [default: 127.0.0.1:9090]
    #[arg(long, value_name = "ADDRESS")]
    client_address: Option<String>,
    /// Filter of the log [default: info,kameo=warn,libp2p=warn]
    #[arg(long, value_name = "FILTER")]
    log: Option<String>,
    /// Listen beyond loopback without a password
    #[arg(long)]
    allow_unauthenticated: bool,
    /// This node's number in cluster.peers, from 0
    #[arg(long, value_name = "I")]
    node_index: Option<u8>,
    /// How many nodes cluster.peers must name
    #[arg(long, value_name = "N")]
    node_count: Option<u8>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Ask a running server whether it answers
    Ping(PingArgs),
    /// Type commands, read replies, watch events arrive
    Shell(ShellArgs),
    /// Follow a stream, a partition or everything
    Tail(TailArgs),
    /// Write events as JSON lines that `import` takes back
    Export(ExportArgs),
    /// Append events from JSON lines; running it again doubles nothing
    Import(ImportArgs),
    /// Check every frame, record and index of a stopped database
    Check(CheckArgs),
    /// Mend a stopped database; tells what damage costs before it gives anything up
    Repair(RepairArgs),
    /// Print the frames and events of a stopped database
    Dump(DumpArgs),
    /// Measure a running server
    Bench(Bench),
    /// Ask a running cluster how it is doing
    Cluster(ClusterArgs),
    /// Tell about the configuration
    Config(ConfigArgs),
}

#[derive(Debug, Args)]
struct ConfigArgs {
    #[command(subcommand)]
    command: ConfigCommand,
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Print the effective values and where each came from
    Show(ServeArgs),
}

impl ServeArgs {
    fn flags(self) -> Flags {
        Flags {
            config: self.config,
            dir: self.dir,
            client_address: self.client_address,
            log: self.log,
            allow_unauthenticated: self.allow_unauthenticated,
            node_index: self.node_index,
            node_count: self.node_count,
        }
    }
}

fn loaded(args: ServeArgs) -> Result<Loaded, ExitCode> {
    load(&args.flags(), None).map_err(|error| {
        eprintln!("{error}");
        ExitCode::from(2)
    })
}

/// Runs what the command line asks for.
#[must_use]
pub fn run(cli: Cli) -> ExitCode {
    match cli.command {
        None => match loaded(cli.serve) {
            Ok(loaded) => {
                let threads = loaded.settings.runtime_threads();
                block_on(threads, crate::serve::run(loaded))
            }
            Err(code) => code,
        },
        Some(Command::Ping(args)) => block_on(1, crate::ping::run(args)),
        Some(Command::Shell(args)) => block_on(1, crate::shell::run(args)),
        Some(Command::Tail(args)) => block_on(1, crate::tail::run(args)),
        Some(Command::Export(args)) => block_on(1, crate::export::run(args)),
        Some(Command::Check(args)) => crate::check::run(&args),
        Some(Command::Repair(args)) => crate::repair::run(&args),
        Some(Command::Dump(args)) => crate::dump::run(&args),
        Some(Command::Import(args)) => block_on(1, crate::import::run(args)),
        // One thread drives more load than a server takes, and leaves it the other cores.
        Some(Command::Bench(args)) => block_on(1, crate::bench::run(args)),
        Some(Command::Cluster(args)) => block_on(1, crate::cluster_command::run(args)),
        Some(Command::Config(ConfigArgs { command: ConfigCommand::Show(args) })) => {
            match loaded(args) {
                Ok(loaded) => {
                    print!("{}", show(&loaded));
                    ExitCode::SUCCESS
                }
                Err(code) => code,
            }
        }
    }
}

/// Runs a command on a runtime with so many threads. One is the thread that is here already: it
/// never waits for another to wake.
fn block_on(threads: usize, command: impl Future<Output = ExitCode>) -> ExitCode {
    let mut builder = match threads {
        1 => tokio::runtime::Builder::new_current_thread(),
        _ => tokio::runtime::Builder::new_multi_thread(),
    };
    if threads > 1 {
        builder.worker_threads(threads);
    }
    match builder.enable_all().build() {
        Ok(runtime) => runtime.block_on(command),
        Err(error) => {
            eprintln!("cannot start: {error}");
            ExitCode::FAILURE
        }
    }
}
