//! `actadb import`: appends events from JSON lines. Importing again doubles nothing.
//!
//! A thread reads and checks lines and gives every event its id ([`identity`]); the task here
//! sends them over one connection ([`sender`]).

mod identity;
mod line;
mod reader;
mod sender;
mod versions;

use std::fs::File;
use std::io::{self, IsTerminal, Read};
use std::process::ExitCode;
use std::time::Instant;

use clap::Args;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use crate::connect_args::ConnectArgs;
use crate::wire_client::ClientError;
use sender::{Failure, Sender, Settings};

/// Arguments of `actadb import`.
#[derive(Clone, Debug, Args)]
#[command(after_help = LINES_HELP)]
pub struct ImportArgs {
    /// JSON lines; - is standard input
    #[arg(default_value = "-")]
    pub file: String,
    #[command(flatten)]
    pub connect: ConnectArgs,
    /// Bytes of events sent and not yet answered at most; a larger event goes alone
    #[arg(long, default_value_t = 4 << 20, value_name = "BYTES")]
    pub batch: usize,
    /// Events sent and not yet answered at most
    #[arg(long, default_value_t = 512, value_name = "N")]
    pub depth: usize,
    /// Print the summary as one JSON object
    #[arg(long)]
    pub json: bool,
}

/// What the lines are; `actadb export` writes the same.
const LINES_HELP: &str = "\
A line is a JSON object:
  stream, name      texts
  payload           a string is its bytes; any other value is its JSON text without spaces
  payload_base64    instead of payload: bytes that are no text
  metadata, metadata_base64   the same, optional
  event_id          optional UUID; one is derived from the event when it is missing
  timestamp         optional, milliseconds since 1970
  partition_key     optional UUID; the stream's default key when it is missing
  transaction       optional text; consecutive lines with the same one are appended together, all
                    or none; they need the same partition_key
  partition, sequence, version   where export and tail found the event; not looked at";

/// Why an import did not start or did not end well.
#[derive(Debug, thiserror::Error)]
enum ImportError {
    #[error("--depth must be at least 1")]
    Depth,
    #[error("cannot open {file}: {source}")]
    Open { file: String, source: io::Error },
    #[error("no thread to read with: {0}")]
    Thread(#[source] io::Error),
    #[error(transparent)]
    Connect(#[from] ClientError),
}

/// What was done.
#[derive(Debug, Serialize)]
struct Summary {
    lines: u64,
    events: u64,
    appended: u64,
    ids_adjusted: u64,
    seconds: f64,
    events_per_second: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// Runs `actadb import` and prints a summary; exit code 1 when not every event was imported.
pub async fn run(args: ImportArgs) -> ExitCode {
    let summary = match import(&args).await {
        Ok(summary) => summary,
        Err(error) => {
            eprintln!("actadb import: {error}");
            return ExitCode::FAILURE;
        }
    };
    if let Some(error) = &summary.error {
        eprintln!("actadb import: {error}");
    }
    if args.json {
        println!("{}", serde_json::to_string(&summary).unwrap_or_default());
    } else if summary.error.is_none() {
        println!("{}", summary.text());
    }
    if summary.error.is_none() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

async fn import(args: &ImportArgs) -> Result<Summary, ImportError> {
    if args.depth == 0 {
        return Err(ImportError::Depth);
    }
    let (input, bytes) = open(&args.file)?;
    let settings = Settings {
        address: args.connect.address.clone(),
        password: args.connect.password(),
        depth: args.depth,
        bytes: args.batch,
    };
    let mut sender = Sender::connect(settings).await?;
    let mut lines = reader::spawn(input).map_err(ImportError::Thread)?;
    let bar = progress(bytes);
    let began = Instant::now();
    let outcome = sender.send_all(&mut lines, &bar).await;
    bar.finish_and_clear();

    let counts = sender.counts();
    let seconds = began.elapsed().as_secs_f64();
    Ok(Summary {
        lines: counts.lines,
        events: counts.events,
        appended: counts.appended,
        ids_adjusted: counts.ids_adjusted,
        seconds,
        events_per_second: if seconds > 0.0 { counts.appended as f64 / seconds } else { 0.0 },
        error: outcome.err().map(|failure| failure_text(&failure)),
    })
}

fn failure_text(failure: &Failure) -> String {
    let Failure { line, text, before, after } = failure;
    let after = match after {
        0 => String::new(),
        after => format!(", and {after} behind it"),
    };
    format!(
        "line {line}: {text}\n{before} events before this line are imported{after}. Importing \
         the same lines again doubles nothing."
    )
}

impl Summary {
    fn text(&self) -> String {
        let Self { events, seconds, events_per_second, ids_adjusted, .. } = self;
        let mut text =
            format!("{events} events imported in {seconds:.2} s ({events_per_second:.0} events/s)");
        if *ids_adjusted > 0 {
            text.push_str(&format!(
                "\n{ids_adjusted} ids adjusted: 16 bits of an event_id must be those of its \
                 partition key"
            ));
        }
        text
    }
}

/// The input, and its size if it is a file.
fn open(file: &str) -> Result<(Box<dyn Read + Send>, Option<u64>), ImportError> {
    if file == "-" {
        return Ok((Box::new(io::stdin()), None));
    }
    let error = |source| ImportError::Open { file: file.into(), source };
    let opened = File::open(file).map_err(error)?;
    let metadata = opened.metadata().map_err(error)?;
    if metadata.is_dir() {
        return Err(error(io::Error::from(io::ErrorKind::IsADirectory)));
    }
    let size = metadata.is_file().then_some(metadata.len());
    Ok((Box::new(opened), size))
}

/// A bar on a terminal, nothing elsewhere.
fn progress(bytes: Option<u64>) -> ProgressBar {
    if !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let (bar, template) = match bytes {
        Some(bytes) => (
            ProgressBar::with_draw_target(Some(bytes), ProgressDrawTarget::stderr()),
            "{bar:30} {bytes}/{total_bytes} {bytes_per_sec} {eta} left, {msg}",
        ),
        None => (
            ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr()),
            "{spinner} {bytes} {bytes_per_sec}, {msg}",
        ),
    };
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_names_its_line_and_what_was_done() {
        let text = "TOOLARGE the transaction takes 9 bytes, the limit is 8".to_owned();
        let text = failure_text(&Failure { line: 7, text, before: 5, after: 2 });
        assert!(text.starts_with("line 7: TOOLARGE"), "{text}");
        assert!(text.contains("5 events before this line are imported, and 2 behind it"), "{text}");
    }
}
