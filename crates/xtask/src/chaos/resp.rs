//! A small blocking client, RESP2 and what a subscription needs of RESP3: what the chaos tests say
//! and hear.

use std::collections::VecDeque;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value {
    Text(String),
    Error(String),
    Integer(u64),
    Bulk(Vec<u8>),
    Null,
    Array(Vec<Value>),
}

/// One connection.
#[derive(Debug)]
pub(super) struct Client(BufReader<TcpStream>, VecDeque<Value>);

/// Where an event landed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Position {
    pub(super) id: String,
    pub(super) partition: u64,
    pub(super) sequence: u64,
    pub(super) version: u64,
}

/// An event that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Event {
    pub(super) position: Position,
    pub(super) transaction: String,
    pub(super) stream: String,
    pub(super) payload: Vec<u8>,
}

fn invalid(text: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text.into())
}

impl Client {
    /// Connects; that, and an answer, is waited for up to half a minute.
    pub(super) fn connect(address: SocketAddr) -> io::Result<Self> {
        let patience = Duration::from_secs(30);
        let stream = TcpStream::connect_timeout(&address, patience)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(patience))?;
        Ok(Self(BufReader::new(stream), VecDeque::new()))
    }

    /// Sends one command and waits for its answer.
    pub(super) fn call<A: AsRef<[u8]>>(&mut self, command: &[A]) -> io::Result<Value> {
        let mut bytes = Vec::new();
        encode(command, &mut bytes);
        self.send(&bytes)?;
        self.read()
    }

    /// Sends bytes as they are.
    pub(super) fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.get_mut().write_all(bytes)
    }

    /// Lets [`read`](Self::read) give these first.
    pub(super) fn put_back(&mut self, values: Vec<Value>) {
        self.1.extend(values);
    }

    /// The next answer or push.
    pub(super) fn read(&mut self) -> io::Result<Value> {
        match self.1.pop_front() {
            Some(value) => Ok(value),
            None => self.receive(),
        }
    }

    fn receive(&mut self) -> io::Result<Value> {
        let mut line = String::new();
        if self.0.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let line = line.strip_suffix("\r\n").ok_or_else(|| invalid("an answer without an end"))?;
        let (kind, rest) = line.split_at_checked(1).ok_or_else(|| invalid("an empty answer"))?;
        let number = || rest.parse::<u64>().map_err(|_| invalid(format!("not a number: {line}")));
        Ok(match kind {
            "+" => Value::Text(rest.to_owned()),
            "-" => Value::Error(rest.to_owned()),
            ":" => Value::Integer(number()?),
            "$" | "*" if rest == "-1" => Value::Null,
            "$" => {
                let mut bulk = vec![0; number()? as usize + 2];
                self.0.read_exact(&mut bulk)?;
                bulk.truncate(bulk.len() - 2);
                Value::Bulk(bulk)
            }
            "*" | ">" => {
                Value::Array((0..number()?).map(|_| self.receive()).collect::<io::Result<_>>()?)
            }
            // As in RESP2: a flat list of keys and values.
            "%" => {
                Value::Array((0..number()? * 2).map(|_| self.receive()).collect::<io::Result<_>>()?)
            }
            "#" => Value::Integer(u64::from(rest == "t")),
            "_" => Value::Null,
            _ => return Err(invalid(format!("not RESP: {line}"))),
        })
    }

    /// Appends one event that must be accepted.
    pub(super) fn append(&mut self, stream: &str, payload: &str) -> Result<Position, String> {
        let value = self.call(&["EAPPEND", stream, "E", "PAYLOAD", payload]).map_err(said)?;
        appended(&value).ok_or_else(|| format!("EAPPEND {stream}: {value:?}"))
    }

    /// All events of a partition.
    pub(super) fn partition(&mut self, partition: u64) -> Result<Vec<Event>, String> {
        match self.scan("EPSCAN", &partition.to_string(), None)? {
            (events, None) => Ok(events),
            (_, Some(error)) => Err(format!("EPSCAN {partition}: {error:?}")),
        }
    }

    /// All events that a scan gives (`ESCAN` of a stream, `EPSCAN` of a partition), up to the
    /// page that is an error. A stream may lie under a key that is not its default one.
    pub(super) fn scan(
        &mut self,
        command: &str,
        of: &str,
        key: Option<&str>,
    ) -> Result<(Vec<Event>, Option<Value>), String> {
        let (mut events, mut from) = (Vec::new(), "-".to_owned());
        loop {
            let mut arguments = vec![command, of, &from, "+", "COUNT", "1000"];
            arguments.extend(key.iter().flat_map(|key| ["PARTITION_KEY", key]));
            let page = self.call(&arguments).map_err(said)?;
            if page.code().is_some() {
                return Ok((events, Some(page)));
            }
            let wrong = || format!("{command} {of} {from}: {page:?}");
            let more = page.field("has_more").and_then(Value::integer).ok_or_else(wrong)?;
            for value in page.field("events").and_then(Value::array).ok_or_else(wrong)? {
                events.push(event(value).ok_or_else(|| format!("not an event: {value:?}"))?);
            }
            let number = |last: &Event| match command {
                "ESCAN" => last.position.version,
                _ => last.position.sequence,
            };
            match events.last() {
                Some(last) if more == 1 => from = (number(last) + 1).to_string(),
                _ => return Ok((events, None)),
            }
        }
    }
}

/// An error as text.
pub(super) fn said<E: std::fmt::Display>(error: E) -> String {
    error.to_string()
}

/// Puts a command behind others.
pub(super) fn encode<A: AsRef<[u8]>>(command: &[A], out: &mut Vec<u8>) {
    out.extend_from_slice(format!("*{}\r\n", command.len()).as_bytes());
    for argument in command {
        let argument = argument.as_ref();
        out.extend_from_slice(format!("${}\r\n", argument.len()).as_bytes());
        out.extend_from_slice(argument);
        out.extend_from_slice(b"\r\n");
    }
}

impl Value {
    /// A value of a flat map.
    pub(super) fn field(&self, name: &str) -> Option<&Value> {
        let pairs = self.array()?.chunks_exact(2);
        pairs.filter(|pair| pair[0].text() == Some(name)).map(|pair| &pair[1]).next()
    }

    pub(super) fn array(&self) -> Option<&[Value]> {
        if let Self::Array(values) = self { Some(values) } else { None }
    }

    pub(super) fn integer(&self) -> Option<u64> {
        if let Self::Integer(number) = self { Some(*number) } else { None }
    }

    pub(super) fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            Self::Bulk(bytes) => std::str::from_utf8(bytes).ok(),
            _ => None,
        }
    }

    /// The first word of an error.
    pub(super) fn code(&self) -> Option<&str> {
        if let Self::Error(text) = self { text.split(' ').next() } else { None }
    }
}

/// The answer of an accepted `EAPPEND`.
pub(super) fn appended(value: &Value) -> Option<Position> {
    Some(Position {
        id: value.field("event_id")?.text()?.to_owned(),
        partition: value.field("partition_id")?.integer()?,
        sequence: value.field("partition_sequence")?.integer()?,
        version: value.field("stream_version")?.integer()?,
    })
}

/// The answer of an accepted `EMAPPEND`.
pub(super) fn appended_many(value: &Value) -> Option<Vec<Position>> {
    let partition = value.field("partition_id")?.integer()?;
    let first = value.field("first_partition_sequence")?.integer()?;
    let events = value.field("events")?.array()?.iter().zip(first..);
    let position = |(event, sequence): (&Value, u64)| {
        Some(Position {
            id: event.field("event_id")?.text()?.to_owned(),
            partition,
            sequence,
            version: event.field("stream_version")?.integer()?,
        })
    };
    events.map(position).collect()
}

/// An event as `EGET` and the scans tell it.
pub(super) fn event(value: &Value) -> Option<Event> {
    let Value::Bulk(payload) = value.field("payload")? else { return None };
    Some(Event {
        position: appended(value)?,
        transaction: value.field("transaction_id")?.text()?.to_owned(),
        stream: value.field("stream_id")?.text()?.to_owned(),
        payload: payload.clone(),
    })
}
