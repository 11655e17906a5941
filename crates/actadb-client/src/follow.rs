//! What to follow, from where, and what of it.

use std::collections::BTreeSet;

use actadb_model::ids::PartitionId;
use actadb_model::limits::WINDOW_MAX;
use actadb_model::names::EventName;
use redis::{Cmd, cmd};

use crate::checkpoint::Checkpoint;
use crate::error::Error;
use crate::names::{PartitionRef, StreamRef};

/// Words that mean an option where the next stream of an `ESUB` should stand.
const OPTIONS: &[&str] =
    &["FROM", "DEFAULT", "WINDOW", "NAMES", "PREFIX", "PROGRESS", "PARTITION_KEY"];

#[derive(Clone, Debug)]
enum Topics {
    Streams(Vec<StreamRef>),
    Partitions(Vec<PartitionRef>),
    All,
}

#[derive(Clone, Debug)]
pub(crate) enum From {
    Latest,
    Checkpoint(Checkpoint),
}

/// A stream or a partition that is followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    Stream(StreamRef),
    Partition(PartitionId),
}

impl Source {
    /// As checkpoints call it.
    pub(crate) fn name(&self) -> String {
        match self {
            Self::Stream(stream) => stream.id.clone(),
            Self::Partition(id) => id.to_string(),
        }
    }

    /// Asks for its latest version or last sequence.
    pub(crate) fn end_command(&self) -> Cmd {
        match self {
            Self::Stream(stream) => version_of(stream),
            Self::Partition(id) => {
                let mut command = cmd("EPSEQ");
                command.arg(id.0);
                command
            }
        }
    }
}

/// Asks for the latest version of a stream.
pub(crate) fn version_of(stream: &StreamRef) -> Cmd {
    let mut command = cmd("ESVER");
    command.arg(&stream.id);
    if let Some(key) = stream.partition_key {
        command.arg("PARTITION_KEY").arg(key.to_string());
    }
    command
}

/// What to follow: streams, partitions or everything; from where; and what of it.
///
/// Within a stream, and within a partition, events come in their order. Without a word about where
/// to begin it is behind the latest event.
///
/// ```
/// use actadb_client::Follow;
///
/// let one = Follow::stream("order-1").from_start();
/// let some = Follow::streams(["order-1", "order-2"]).from_position(3);
/// let shipped = Follow::all().from_start().names(["Shipped"]).prefix("order-");
/// ```
#[derive(Clone, Debug)]
pub struct Follow {
    topics: Topics,
    pub(crate) from: From,
    names: Vec<String>,
    prefix: Option<String>,
    progress: Option<u64>,
    pub(crate) window: Option<u32>,
    pub(crate) manual_ack: bool,
}

impl Follow {
    fn new(topics: Topics) -> Self {
        Self {
            topics,
            from: From::Latest,
            names: Vec::new(),
            prefix: None,
            progress: None,
            window: None,
            manual_ack: false,
        }
    }

    /// One stream.
    #[must_use]
    pub fn stream(stream: impl Into<StreamRef>) -> Self {
        Self::streams([stream])
    }

    /// Several streams, at most 1024.
    #[must_use]
    pub fn streams<S: Into<StreamRef>>(streams: impl IntoIterator<Item = S>) -> Self {
        Self::new(Topics::Streams(streams.into_iter().map(Into::into).collect()))
    }

    /// One partition.
    #[must_use]
    pub fn partition(partition: impl Into<PartitionRef>) -> Self {
        Self::partitions([partition])
    }

    /// Several partitions.
    #[must_use]
    pub fn partitions<P: Into<PartitionRef>>(partitions: impl IntoIterator<Item = P>) -> Self {
        Self::new(Topics::Partitions(partitions.into_iter().map(Into::into).collect()))
    }

    /// Everything.
    #[must_use]
    pub fn all() -> Self {
        Self::new(Topics::All)
    }

    /// From the first event on.
    #[must_use]
    pub fn from_start(self) -> Self {
        self.from_checkpoint(Checkpoint::start())
    }

    /// What is appended after this moment: the default. The moment is that of subscribing, however
    /// often the connection breaks after it.
    #[must_use]
    pub fn from_latest(mut self) -> Self {
        self.from = From::Latest;
        self
    }

    /// From this version on, or this sequence in partitions; in each of them if there are several.
    #[must_use]
    pub fn from_position(self, position: u64) -> Self {
        self.from_checkpoint(Checkpoint::at(position))
    }

    /// From where a checkpoint stands. What it says about other streams or partitions is ignored.
    #[must_use]
    pub fn from_checkpoint(mut self, checkpoint: Checkpoint) -> Self {
        self.from = From::Checkpoint(checkpoint);
        self
    }

    /// Only events with one of these names, at most 256. A name with a comma is refused.
    #[must_use]
    pub fn names<S: Into<String>>(mut self, names: impl IntoIterator<Item = S>) -> Self {
        self.names = names.into_iter().map(Into::into).collect();
        self
    }

    /// Only events of streams whose ids begin so. Of partitions only.
    #[must_use]
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = Some(prefix.into());
        self
    }

    /// With a filter: after how many events that were left out the subscription tells how far it
    /// has looked ([`Delivery::Progress`](crate::Delivery::Progress)). 10,000 by default. It also
    /// tells when nothing came for a second after one was left out.
    #[must_use]
    pub fn progress_every(mut self, events: u64) -> Self {
        self.progress = Some(events.max(1));
        self
    }

    /// At most so many events on their way or unread, 1 to 1,000,000; 1024 unless
    /// [`ClientOptions::window`](crate::ClientOptions::window) says otherwise.
    #[must_use]
    pub fn window(mut self, events: u32) -> Self {
        self.window = Some(events.clamp(1, WINDOW_MAX));
        self
    }

    /// Nothing is acknowledged unless [`Subscription::ack`](crate::Subscription::ack) does: so no
    /// more than the window's events come before the reader says that it is done with the first.
    /// Otherwise an event is acknowledged when it is handed to the reader.
    ///
    /// Acknowledgements pace the server; it does not store them. After a reconnect the window
    /// begins anew with the events that were not delivered yet.
    #[must_use]
    pub fn manual_ack(mut self) -> Self {
        self.manual_ack = true;
        self
    }

    /// What is followed, in a database of so many partitions; each once.
    pub(crate) fn sources(&self, partitions: u16) -> Result<Vec<Source>, Error> {
        let sources: Vec<Source> = match &self.topics {
            Topics::All => (0..partitions).map(|n| Source::Partition(PartitionId(n))).collect(),
            Topics::Partitions(several) => {
                let ids: BTreeSet<_> = several.iter().map(|one| one.id(partitions)).collect();
                ids.into_iter().map(Source::Partition).collect()
            }
            Topics::Streams(streams) => in_sendable_order(streams)?,
        };
        if sources.is_empty() {
            return Err(Error::invalid("nothing to follow: name a stream or a partition"));
        }
        for name in &self.names {
            EventName::new(name).map_err(Error::invalid)?;
            if name.contains(',') {
                let text = format!("events called '{name}' cannot be filtered: a comma separates");
                return Err(Error::Invalid(text));
            }
        }
        if self.prefix.is_some() && matches!(self.topics, Topics::Streams(_)) {
            return Err(Error::invalid(
                "a prefix is for partitions, not for streams named one by one",
            ));
        }
        Ok(sources)
    }

    /// The command that begins there.
    pub(crate) fn command(&self, sources: &[Source], from: &Checkpoint, window: u32) -> Cmd {
        let mut command = match &self.topics {
            Topics::Streams(_) => cmd("ESUB"),
            Topics::Partitions(_) | Topics::All => cmd("EPSUB"),
        };
        let mut partitions = Vec::new();
        for source in sources {
            match source {
                Source::Stream(stream) => {
                    command.arg(&stream.id);
                    if let Some(key) = stream.partition_key {
                        command.arg("PARTITION_KEY").arg(key.to_string());
                    }
                }
                Source::Partition(id) => partitions.push(id.to_string()),
            }
        }
        match &self.topics {
            Topics::Streams(_) => {}
            Topics::Partitions(_) => drop(command.arg(partitions.join(","))),
            Topics::All => drop(command.arg("*")),
        }
        command.arg("FROM");
        match sources {
            [one] => drop(command.arg(from.next(&one.name()))),
            several => {
                command.arg("MAP");
                for source in several {
                    let name = source.name();
                    let next = from.next(&name);
                    command.arg(format!("{name}={next}"));
                }
            }
        }
        command.arg("WINDOW").arg(window);
        if !self.names.is_empty() {
            command.arg("NAMES").arg(self.names.join(","));
        }
        if let Some(prefix) = &self.prefix {
            command.arg("PREFIX").arg(prefix);
        }
        if let Some(progress) = self.progress {
            command.arg("PROGRESS").arg(progress);
        }
        command
    }

    /// How checkpoints call the source of an event with this stream, version, partition and
    /// sequence; and the position behind it.
    pub(crate) fn behind(&self, event: &crate::Event) -> (String, u64) {
        match self.topics {
            Topics::Streams(_) => (event.stream.clone(), event.version + 1),
            Topics::Partitions(_) | Topics::All => {
                (event.partition.to_string(), event.sequence + 1)
            }
        }
    }
}

/// The streams in an order in which none is taken for an option.
fn in_sendable_order(streams: &[StreamRef]) -> Result<Vec<Source>, Error> {
    let is_option = |id: &str| OPTIONS.iter().any(|word| id.eq_ignore_ascii_case(word));
    let mut named = BTreeSet::new();
    let mut sources = Vec::with_capacity(streams.len());
    for stream in streams {
        stream.check()?;
        if !named.insert(stream.id.as_str()) {
            return Err(Error::Invalid(format!("stream {} is named twice", stream.id)));
        }
        if !is_option(&stream.id) {
            sources.push(Source::Stream(stream.clone()));
            continue;
        }
        if let Some(Source::Stream(first)) = sources.first()
            && is_option(&first.id)
        {
            let text = format!(
                "streams called {} and {} cannot be followed by one subscription",
                first.id, stream.id
            );
            return Err(Error::Invalid(text));
        }
        sources.insert(0, Source::Stream(stream.clone()));
    }
    Ok(sources)
}
