//! Load from several clients at once, and the auditor of what is left of it after a crash.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use super::resp::{Client, Position, Value, appended, appended_many, encode, said};

const CLIENTS: u64 = 8;
/// Commands in flight per client.
const DEPTH: u64 = 16;
const PARTITIONS: u64 = 32;

/// What clients sent, and what they were told. An event is named by the first word of its payload.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    acknowledged: BTreeMap<String, Position>,
    refused: HashSet<String>,
    unknown: HashSet<String>,
    /// Names of the events of each EMAPPEND.
    transactions: Vec<Vec<String>>,
    /// How often which error was answered.
    pub(super) errors: BTreeMap<String, u64>,
}

/// Clients at work.
#[derive(Debug)]
pub(super) struct Load {
    clients: Vec<JoinHandle<Ledger>>,
    stopping: Arc<AtomicBool>,
}

impl Load {
    /// Starts the clients. Rounds keep the names of their events apart.
    pub(super) fn start(address: SocketAddr, round: u64) -> Self {
        let stopping = Arc::new(AtomicBool::new(false));
        let clients = (0..CLIENTS).map(|client| {
            let stopping = stopping.clone();
            thread::spawn(move || {
                let mut ledger = Ledger::default();
                // It ends when the server does; what it heard until then counts.
                let _ = work(address, round, client, &stopping, &mut ledger);
                ledger
            })
        });
        Self { clients: clients.collect(), stopping }
    }

    /// Waits for all clients, after the server has ended.
    pub(super) fn join(self, into: &mut Ledger) -> Result<(), String> {
        self.stopping.store(true, Ordering::Relaxed);
        for client in self.clients {
            into.add(client.join().map_err(|_| "a client panicked")?);
        }
        Ok(())
    }
}

fn work(
    address: SocketAddr,
    round: u64,
    client: u64,
    stopping: &AtomicBool,
    ledger: &mut Ledger,
) -> io::Result<()> {
    let mut connection = Client::connect(address)?;
    let mut next = 0;
    while !stopping.load(Ordering::Relaxed) {
        let mut bytes = Vec::new();
        let mut sent = Vec::new();
        for _ in 0..DEPTH {
            sent.push(command(round, client, next, &mut bytes));
            next += 1;
        }
        let failed = connection.send(&bytes);
        for (n, names) in sent.iter().enumerate() {
            match failed
                .as_ref()
                .map_err(|error| error.kind())
                .and_then(|()| connection.read().map_err(|error| error.kind()))
            {
                Ok(value) => ledger.note(names, &value),
                Err(error) => {
                    ledger.lose(&sent[n..]);
                    return Err(error.into());
                }
            }
        }
    }
    Ok(())
}

/// One command; the names of its events. Every eighth is a transaction over three streams.
fn command(round: u64, client: u64, number: u64, out: &mut Vec<u8>) -> Vec<String> {
    let name = |part: u64| format!("r{round}-c{client}-n{number}-{part}");
    let padding = "x".repeat((number % 7 * 150) as usize);
    if number % 8 != 7 {
        let name = name(0);
        let stream = format!("load-{client}-{}", number % 5);
        encode(&["EAPPEND", &stream, "E", "PAYLOAD", &format!("{name} {padding}")], out);
        return vec![name];
    }
    let key = format!("00000000-0000-4000-8{client:03x}-{:x}00000000000", client % 4 * 4);
    let names = [name(0), name(1), name(2)];
    let mut arguments = vec!["EMAPPEND".to_owned(), key];
    for (part, name) in names.iter().enumerate() {
        let stream = format!("multi-{client}-{part}");
        arguments.extend([stream, "E".into(), "PAYLOAD".into(), format!("{name} {padding}")]);
    }
    encode(&arguments, out);
    names.into()
}

impl Ledger {
    fn add(&mut self, other: Self) {
        self.acknowledged.extend(other.acknowledged);
        self.refused.extend(other.refused);
        self.unknown.extend(other.unknown);
        self.transactions.extend(other.transactions);
        for (code, count) in other.errors {
            *self.errors.entry(code).or_default() += count;
        }
    }

    fn note(&mut self, names: &[String], value: &Value) {
        if names.len() > 1 {
            self.transactions.push(names.to_vec());
        }
        let positions = match names {
            [_] => appended(value).map(|position| vec![position]),
            _ => appended_many(value),
        };
        if let Some(positions) = positions {
            self.acknowledged.extend(names.iter().cloned().zip(positions));
            return;
        }
        let code = value.code().unwrap_or("an answer that is none").to_owned();
        match code.as_str() {
            "UNCERTAIN" | "TIMEOUT" => self.unknown.extend(names.iter().cloned()),
            _ => self.refused.extend(names.iter().cloned()),
        }
        *self.errors.entry(code).or_default() += 1;
    }

    fn lose(&mut self, sent: &[Vec<String>]) {
        for names in sent {
            if names.len() > 1 {
                self.transactions.push(names.clone());
            }
            self.unknown.extend(names.iter().cloned());
        }
    }

    /// How many events were acknowledged.
    pub(super) fn acknowledged(&self) -> usize {
        self.acknowledged.len()
    }

    /// Reads everything and holds it against what clients were told.
    ///
    /// # Errors
    /// The first thing that does not fit.
    pub(super) fn audit(&self, address: SocketAddr) -> Result<String, String> {
        let mut connection = Client::connect(address).map_err(said)?;
        let mut found: HashMap<String, (Position, String)> = HashMap::new();
        let mut versions: HashMap<String, u64> = HashMap::new();
        for partition in 0..PARTITIONS {
            for (event, sequence) in connection.partition(partition)?.into_iter().zip(0..) {
                let position = event.position;
                if (position.partition, position.sequence) != (partition, sequence) {
                    return Err(format!("{position:?} stands at {partition}/{sequence}"));
                }
                let version = versions.entry(event.stream.clone()).or_default();
                if position.version != *version {
                    return Err(format!("{}: {position:?} is version {version}", event.stream));
                }
                *version += 1;
                let payload = String::from_utf8_lossy(&event.payload);
                let name = payload.split(' ').next().unwrap_or_default().to_owned();
                if !self.acknowledged.contains_key(&name) && !self.unknown.contains(&name) {
                    let why = if self.refused.contains(&name) { "refused" } else { "never sent" };
                    return Err(format!("{name} is there and was {why}"));
                }
                if let Some((other, _)) = found.insert(name.clone(), (position, event.transaction))
                {
                    return Err(format!("{name} is there twice, the other at {other:?}"));
                }
            }
        }
        for (name, told) in &self.acknowledged {
            match found.get(name) {
                None => return Err(format!("{name} was acknowledged at {told:?} and is lost")),
                Some((position, _)) if position != told => {
                    return Err(format!("{name} was told {told:?} and is at {position:?}"));
                }
                Some(_) => {}
            }
        }
        for names in &self.transactions {
            let parts: Vec<_> = names.iter().filter_map(|name| found.get(name)).collect();
            let torn = !parts.is_empty() && parts.len() != names.len();
            let apart = parts
                .windows(2)
                .any(|pair| pair[0].1 != pair[1].1 || pair[0].0.sequence + 1 != pair[1].0.sequence);
            if torn || apart {
                return Err(format!("the transaction of {names:?} is torn: {parts:?}"));
            }
        }
        let (acknowledged, unknown) = (self.acknowledged.len(), found.len() - self.acknowledged());
        Ok(format!(
            "{acknowledged} acknowledged events are where they were said to be, once; {unknown} of \
             {} with unknown outcome are there",
            self.unknown.len()
        ))
    }
}
