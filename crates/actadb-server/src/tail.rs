//! `actadb tail`: follows a stream, a partition or everything, and prints one event after another.
//!
//! It knows the next position of each source before it subscribes, and moves it with every event
//! printed. So it can go on behind the last one after a lost connection, and skips and doubles
//! nothing.

use std::collections::BTreeMap;
use std::io::{self, BufWriter, Write};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use crate::connect_args::ConnectArgs;
use crate::readable;
use crate::wire_client::{ClientError, Value, WireClient, WireEvent};

/// The first pause before connecting again; the next ones are twice as long each.
const PAUSE_MIN: Duration = Duration::from_millis(100);
/// The longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// After so much silence the server is asked whether it is there, and given as much time again.
const SILENCE: Duration = Duration::from_secs(15);

/// Arguments of `actadb tail`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Without --stream and --partition all partitions are followed. Order is exact within a stream and
within a partition. Events go to standard output, all else to standard error. A lost connection is
made again, and goes on behind the last event printed. Ctrl-C ends with exit code 0.

A line of --json is what `actadb import` reads; the lines of one transaction may stand apart, and
then become several. `actadb export` keeps them together.")]
pub struct TailArgs {
    /// Follow this stream
    #[arg(long, value_name = "STREAM", conflicts_with_all = ["partition", "all", "prefix"])]
    stream: Option<String>,
    /// The partition key of --stream, if it is not the default one
    #[arg(long, value_name = "UUID", requires = "stream")]
    partition_key: Option<String>,
    /// Follow this partition
    #[arg(long, value_name = "NUMBER|KEY", conflicts_with = "all")]
    partition: Option<String>,
    /// Follow all partitions; this is the default
    #[arg(long)]
    all: bool,
    /// Begin at a version of --stream or a sequence of --partition, at the first event, or behind
    /// the latest
    #[arg(long, default_value = "latest", value_name = "N|start|latest", value_parser = from)]
    from: From,
    /// Only events with one of these names
    #[arg(long, value_name = "NAME,…")]
    names: Option<String>,
    /// Only events of streams that begin so
    #[arg(long, value_name = "TEXT")]
    prefix: Option<String>,
    /// Print each event as one line of JSON
    #[arg(long)]
    json: bool,
    /// End after so many events
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    #[command(flatten)]
    connect: ConnectArgs,
}

/// Where to begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum From {
    At(u64),
    Start,
    Latest,
}

fn from(text: &str) -> Result<From, String> {
    match text.to_ascii_lowercase().as_str() {
        "start" => Ok(From::Start),
        "latest" => Ok(From::Latest),
        number => {
            number.parse().map(From::At).map_err(|_| "must be a number, start or latest".into())
        }
    }
}

/// Why it ended although nobody asked for it.
#[derive(Debug, thiserror::Error)]
enum TailError {
    #[error("--from takes a number only with --stream or --partition")]
    FromOfAll,
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("the server refuses {command}: {text}")]
    Refused { command: &'static str, text: String },
    #[error("the server ended the subscription: {0}")]
    Ended(String),
    #[error("the server ended the subscription: {0}")]
    EndedForNow(String),
    #[error("the server is silent for {} s", 2 * SILENCE.as_secs())]
    Silent,
    #[error("cannot print: {0}")]
    Print(#[from] io::Error),
}

impl TailError {
    /// Whether connecting again may help.
    fn may_pass(&self) -> bool {
        match self {
            Self::Client(ClientError::Refused { text, .. }) | Self::Refused { text, .. } => {
                text.starts_with("TRYAGAIN")
            }
            Self::Client(ClientError::NotResp { .. }) => false,
            Self::Client(_) | Self::EndedForNow(_) | Self::Silent => true,
            Self::FromOfAll | Self::Ended(_) | Self::Print(_) => false,
        }
    }
}

/// What is followed, and where the next event of it stands.
#[derive(Debug)]
enum Positions {
    One(u64),
    Partitions(BTreeMap<u64, u64>),
}

#[derive(Debug)]
struct Tail {
    args: TailArgs,
    /// None until they were determined.
    positions: Option<Positions>,
    printed: u64,
    out: BufWriter<io::Stdout>,
}

/// Runs `actadb tail`; exit code 0 after `--count` events, after Ctrl-C, and when nobody reads on.
pub async fn run(args: TailArgs) -> ExitCode {
    let mut tail = Tail { args, positions: None, printed: 0, out: BufWriter::new(io::stdout()) };
    let outcome = tokio::select! {
        outcome = tail.follow() => outcome,
        _ = tokio::signal::ctrl_c() => Ok(()),
    };
    let outcome = outcome.and_then(|()| Ok(tail.out.flush()?));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        // A reader like `head` that has seen enough closes the pipe.
        Err(TailError::Print(error)) if error.kind() == io::ErrorKind::BrokenPipe => {
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("actadb tail: {error}");
            ExitCode::FAILURE
        }
    }
}

impl Tail {
    /// Follows until `--count` events are printed, over as many connections as that takes.
    async fn follow(&mut self) -> Result<(), TailError> {
        if self.args.count == Some(0) {
            return Ok(());
        }
        let mut pause = PAUSE_MIN;
        let mut told = false;
        loop {
            let printed = self.printed;
            let Err(error) = self.follow_once(&mut told).await else { return Ok(()) };
            // Only what was under way once is tried again: a wrong address is told at once.
            if self.positions.is_none() || !error.may_pass() {
                return Err(error);
            }
            if !told {
                eprintln!("actadb tail: {error}; trying again");
                told = true;
            }
            if self.printed > printed {
                pause = PAUSE_MIN;
            }
            self.out.flush()?;
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// Follows over one connection.
    async fn follow_once(&mut self, told: &mut bool) -> Result<(), TailError> {
        let mut client = self.args.connect.connect().await?;
        let again = self.positions.is_some();
        let positions = match self.positions.take() {
            Some(positions) => positions,
            None => self.determine(&mut client).await?,
        };
        let command = self.command(&positions);
        self.positions = Some(positions);
        let arguments: Vec<&[u8]> = command.iter().map(String::as_bytes).collect();
        client.queue(&arguments);
        client.flush().await?;
        if let Value::Error(text) = client.reply().await? {
            return Err(TailError::Refused { command: self.subscribe_word(), text });
        }
        if again {
            eprintln!("actadb tail: connected again");
        } else {
            eprintln!("following {}; Ctrl-C ends", self.what());
        }
        *told = false;
        self.print_all(&mut client).await
    }

    fn subscribe_word(&self) -> &'static str {
        if self.args.stream.is_some() { "ESUB" } else { "EPSUB" }
    }

    fn what(&self) -> String {
        match (&self.args.stream, &self.args.partition) {
            (Some(stream), _) => format!("stream {}", readable::one_line(stream)),
            (_, Some(partition)) => format!("partition {partition}"),
            _ => "all partitions".into(),
        }
    }

    /// Where each source begins.
    async fn determine(&self, client: &mut WireClient) -> Result<Positions, TailError> {
        let one = |from| match from {
            From::At(position) => Some(Positions::One(position)),
            From::Start => Some(Positions::One(0)),
            From::Latest => None,
        };
        let args = &self.args;
        if let Some(stream) = &args.stream {
            let mut words: Vec<&[u8]> = vec![b"ESVER", stream.as_bytes()];
            if let Some(key) = &args.partition_key {
                words.extend([b"PARTITION_KEY".as_slice(), key.as_bytes()]);
            }
            // Also asked when the answer is known: it refuses what is no stream.
            let next = next(client, "ESVER", &words).await?;
            return Ok(one(args.from).unwrap_or(Positions::One(next)));
        }
        if let Some(partition) = &args.partition {
            let next = next(client, "EPSEQ", &[b"EPSEQ", partition.as_bytes()]).await?;
            return Ok(one(args.from).unwrap_or(Positions::One(next)));
        }
        if matches!(args.from, From::At(_)) {
            return Err(TailError::FromOfAll);
        }
        let latest = next_sequences(client).await?;
        let positions = latest.into_iter().zip(0..).map(|(next, partition)| match args.from {
            From::Latest => (partition, next),
            _ => (partition, 0),
        });
        Ok(Positions::Partitions(positions.collect()))
    }

    fn command(&self, positions: &Positions) -> Vec<String> {
        let args = &self.args;
        let mut words = vec![self.subscribe_word().to_owned()];
        words.push(args.stream.clone().or(args.partition.clone()).unwrap_or_else(|| "*".into()));
        if let Some(key) = &args.partition_key {
            words.extend(["PARTITION_KEY".into(), key.clone()]);
        }
        words.push("FROM".into());
        match positions {
            Positions::One(next) => words.push(next.to_string()),
            Positions::Partitions(partitions) => {
                words.push("MAP".into());
                words.extend(
                    partitions.iter().map(|(partition, next)| format!("{partition}={next}")),
                );
            }
        }
        for (word, value) in [("NAMES", &args.names), ("PREFIX", &args.prefix)] {
            if let Some(value) = value {
                words.extend([word.into(), value.clone()]);
            }
        }
        words
    }

    /// Prints what arrives until `--count` events are printed.
    async fn print_all(&mut self, client: &mut WireClient) -> Result<(), TailError> {
        let mut asked = false;
        loop {
            while let Some(value) = client.try_reply()? {
                asked = false;
                self.take(&value)?;
                if self.args.count.is_some_and(|count| self.printed >= count) {
                    return Ok(());
                }
            }
            self.out.flush()?;
            // However fast events come, Ctrl-C is heard.
            tokio::task::yield_now().await;
            match tokio::time::timeout(SILENCE, client.exchange()).await {
                Ok(moved) => moved?,
                Err(_) if asked => return Err(TailError::Silent),
                Err(_) => {
                    client.queue(&[b"PING"]);
                    client.flush().await?;
                    asked = true;
                }
            }
        }
    }

    fn take(&mut self, value: &Value) -> Result<(), TailError> {
        let Value::Push(parts) = value else { return Ok(()) };
        match parts.as_slice() {
            [kind, _, _, event] if kind.text() == Some("message") => {
                if let Some(event) = WireEvent::from_value(event) {
                    self.print(&event)?;
                    self.printed += 1;
                    self.passed(&event);
                }
            }
            [kind, _, _, Value::Map(pairs)] if kind.text() == Some("progress") => {
                for (source, next) in pairs {
                    self.skipped(source, next);
                }
            }
            [kind, _, why] if kind.text() == Some("closed") => {
                let why = why.text().unwrap_or("for no reason").to_owned();
                let for_now = why.starts_with("TRYAGAIN");
                return Err(if for_now {
                    TailError::EndedForNow(why)
                } else {
                    TailError::Ended(why)
                });
            }
            _ => {}
        }
        Ok(())
    }

    fn print(&mut self, event: &WireEvent) -> io::Result<()> {
        if self.args.json {
            return writeln!(self.out, "{}", event.line()?);
        }
        self.out.write_all(readable::event(event).as_bytes())
    }

    fn passed(&mut self, event: &WireEvent) {
        match &mut self.positions {
            Some(Positions::One(next)) if self.args.stream.is_some() => *next = event.version + 1,
            Some(Positions::One(next)) => *next = event.sequence + 1,
            Some(Positions::Partitions(partitions)) => {
                partitions.insert(event.partition, event.sequence + 1);
            }
            None => {}
        }
    }

    /// Events that were filtered out need not be looked at again.
    fn skipped(&mut self, source: &Value, to: &Value) {
        let Some(to) = to.number() else { return };
        match (&mut self.positions, source.number()) {
            (Some(Positions::One(next)), _) => *next = to,
            (Some(Positions::Partitions(partitions)), Some(partition)) => {
                partitions.insert(partition, to);
            }
            _ => {}
        }
    }
}

/// The position behind the one that a command answers.
async fn next(
    client: &mut WireClient,
    command: &'static str,
    words: &[&[u8]],
) -> Result<u64, TailError> {
    match client.call(words).await? {
        Value::Error(text) => Err(TailError::Refused { command, text }),
        value => Ok(value.number().map_or(0, |last| last + 1)),
    }
}

/// The next sequence of every partition.
async fn next_sequences(client: &mut WireClient) -> Result<Vec<u64>, TailError> {
    let hello = client.call(&[b"HELLO"]).await?;
    let partitions = hello.get("num_partitions").and_then(Value::number).ok_or_else(|| {
        let text = "it does not tell num_partitions; is it an ActaDB server?".into();
        TailError::Refused { command: "HELLO", text }
    })?;
    for partition in 0..partitions {
        client.queue(&[b"EPSEQ", partition.to_string().as_bytes()]);
    }
    let mut sequences = Vec::new();
    for _ in 0..partitions {
        match client.reply().await? {
            Value::Error(text) => return Err(TailError::Refused { command: "EPSEQ", text }),
            value => sequences.push(value.number().map_or(0, |last| last + 1)),
        }
    }
    Ok(sequences)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beginnings_are_words_or_numbers() {
        assert_eq!(from("Latest"), Ok(From::Latest));
        assert_eq!(from("start"), Ok(From::Start));
        assert_eq!(from("7"), Ok(From::At(7)));
        assert!(from("-1").is_err());
    }

    #[test]
    fn only_what_may_pass_is_tried_again() {
        let lost = ClientError::Closed { address: "a".into() };
        assert!(TailError::from(lost).may_pass());
        assert!(TailError::EndedForNow("TRYAGAIN the server is stopping".into()).may_pass());
        assert!(!TailError::Ended("CORRUPT damage".into()).may_pass());
        let text = "INVALIDARG FROM 5 is past the end (next is 3)".into();
        assert!(!TailError::Refused { command: "ESUB", text }.may_pass());
    }
}
