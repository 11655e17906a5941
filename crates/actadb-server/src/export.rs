//! `actadb export`: writes events as JSON lines that `actadb import` takes back byte for byte.
//!
//! What is written ends where the database ended when the export began ([`reading`]). A file
//! appears under its name only when it is whole ([`target`]).

mod reading;
mod target;

use std::io::{self, IsTerminal};
use std::process::ExitCode;
use std::time::Instant;

use clap::Args;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use crate::connect_args::ConnectArgs;
use crate::wire_client::ClientError;
use reading::{Reading, Scope};
use target::Target;

/// Arguments of `actadb export`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Order is kept within each partition and each stream. Events that were appended together carry the
same `transaction`, and import appends them together again; the server gives the transaction a new
id. Imported into an empty database with as many partitions, every event gets the same stream,
version, name, payload, metadata, event_id, timestamp, partition key, partition and sequence.

--stream exports that stream's part of a transaction only. Importing it into a database that has
the whole transaction is refused as DUPLICATE.

What is appended after the start is not exported. Exit code 1 when not every event was exported;
FILE is then not made or changed.")]
pub struct ExportArgs {
    /// Where to write; - is standard output
    #[arg(default_value = "-")]
    file: String,
    /// Only this stream
    #[arg(long, value_name = "STREAM", conflicts_with = "partition")]
    stream: Option<String>,
    /// The partition key of --stream, if it is not the default one
    #[arg(long, value_name = "UUID", requires = "stream")]
    partition_key: Option<String>,
    /// Only this partition
    #[arg(long, value_name = "NUMBER|KEY")]
    partition: Option<String>,
    #[command(flatten)]
    connect: ConnectArgs,
    /// Print the summary as one JSON object; on standard error when events go to standard output
    #[arg(long)]
    json: bool,
}

/// Why an export ended early.
#[derive(Debug, thiserror::Error)]
enum ExportError {
    #[error("cannot write {file}: {source}")]
    Write { file: String, source: io::Error },
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("the server refuses {command}: {text}")]
    Refused { command: String, text: String },
    #[error("{what} ends at {found}, and ended at {wanted} when the export began")]
    Short { what: String, found: String, wanted: u64 },
    #[error("the server answered {command} with something else than a page of events")]
    NoPage { command: String },
    #[error("the server sent no whole answer for {seconds} s")]
    Silent { seconds: u64 },
    #[error("interrupted")]
    Interrupted,
}

/// What was done.
#[derive(Debug, Serialize)]
struct Summary {
    events: u64,
    bytes: u64,
    seconds: f64,
    events_per_second: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// Runs `actadb export` and prints a summary.
pub async fn run(args: ExportArgs) -> ExitCode {
    let began = Instant::now();
    let (mut events, mut bytes) = (0, 0);
    let outcome = tokio::select! {
        outcome = export(&args, &mut events, &mut bytes) => outcome,
        _ = tokio::signal::ctrl_c() => Err(ExportError::Interrupted),
    };
    if let Err(ExportError::Write { source, .. }) = &outcome
        && source.kind() == io::ErrorKind::BrokenPipe
    {
        // A reader like `head` that has seen enough closes the pipe.
        return ExitCode::FAILURE;
    }
    let seconds = began.elapsed().as_secs_f64();
    let summary = Summary {
        events,
        bytes,
        seconds,
        events_per_second: if seconds > 0.0 { events as f64 / seconds } else { 0.0 },
        error: outcome.err().map(|error| error.to_string()),
    };
    if let Some(error) = &summary.error {
        eprintln!("actadb export: {error}");
    }
    let text = match (args.json, &summary.error) {
        (true, _) => serde_json::to_string(&summary).unwrap_or_default(),
        (false, None) => summary.text(),
        (false, Some(_)) => return ExitCode::FAILURE,
    };
    if args.file == "-" {
        eprintln!("{text}");
    } else {
        println!("{text}");
    }
    if summary.error.is_none() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

async fn export(args: &ExportArgs, events: &mut u64, bytes: &mut u64) -> Result<(), ExportError> {
    let scope = match (&args.stream, &args.partition) {
        (Some(stream), _) => Scope::Stream(stream.clone(), args.partition_key.clone()),
        (_, Some(partition)) => Scope::Partition(partition.clone()),
        _ => Scope::All,
    };
    let write_error = |source| ExportError::Write { file: args.file.clone(), source };
    let mut reading = Reading::begin(args.connect.connect().await?, scope).await?;
    let mut target = Target::open(&args.file).map_err(write_error)?;
    let bar = progress(&args.file, reading.total());
    let (mut complete, mut more) = (Vec::new(), true);
    while more {
        more = reading.read(&mut complete).await.inspect_err(|_| bar.finish_and_clear())?;
        for event in complete.drain(..) {
            *bytes += target.line(&event).map_err(write_error)?;
            *events += 1;
        }
        bar.set_position(*events);
    }
    bar.finish_and_clear();
    target.finish().map_err(write_error)
}

impl Summary {
    fn text(&self) -> String {
        let Self { events, seconds, events_per_second, .. } = self;
        format!("{events} events exported in {seconds:.2} s ({events_per_second:.0} events/s)")
    }
}

/// A bar on a terminal, unless the lines go there, too.
fn progress(file: &str, events: u64) -> ProgressBar {
    if !io::stderr().is_terminal() || file == "-" && io::stdout().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::with_draw_target(Some(events), ProgressDrawTarget::stderr());
    let template = "{bar:30} {human_pos}/{human_len} events, {eta} left";
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}
