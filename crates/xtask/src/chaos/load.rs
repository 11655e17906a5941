//! Load from several clients at once, and the auditor of what is left of it after a crash.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::resp::{Client, Position, Value, appended, appended_many, encode, said};

const CLIENTS: u64 = 8;
/// Commands in flight per client.
const DEPTH: u64 = 16;
pub(super) const PARTITIONS: u64 = 32;
/// After an error a client takes a rest: a refused append costs nothing, and a loop of them
/// would fill the ledger instead of the disk.
const REST_AFTER_ERROR: Duration = Duration::from_millis(20);

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
    /// Why connections ended before the load did.
    pub(super) broken: Vec<String>,
}

/// Clients at work.
#[derive(Debug)]
pub(super) struct Load {
    clients: Vec<JoinHandle<Ledger>>,
    shared: Arc<Shared>,
}

/// What clients hear and say while they work.
#[derive(Debug, Default)]
struct Shared {
    stopping: AtomicBool,
    accepted: AtomicU64,
    refused: AtomicU64,
}

impl Load {
    /// Starts the clients. Rounds keep the names of their events apart.
    pub(super) fn start(address: SocketAddr, round: u64) -> Self {
        Self::paced(address, round, Duration::ZERO)
    }

    /// Starts clients that rest after each of their pipelines.
    pub(super) fn paced(address: SocketAddr, round: u64, rest: Duration) -> Self {
        let shared = Arc::new(Shared::default());
        let clients = (0..CLIENTS).map(|client| {
            let shared = shared.clone();
            thread::spawn(move || {
                let mut ledger = Ledger::default();
                // It ends when the server does; what it heard until then counts.
                if let Err(error) = work(address, (round, client), rest, &shared, &mut ledger) {
                    ledger.broken.push(format!("client {client}: {error}"));
                }
                ledger
            })
        });
        Self { clients: clients.collect(), shared }
    }

    /// How many commands were accepted so far.
    pub(super) fn accepted(&self) -> u64 {
        self.shared.accepted.load(Ordering::Relaxed)
    }

    /// How many commands were answered with an error so far.
    pub(super) fn refused(&self) -> u64 {
        self.shared.refused.load(Ordering::Relaxed)
    }

    /// Waits until as many more are accepted.
    ///
    /// # Errors
    /// When that takes longer than `patience`.
    pub(super) fn accept_more(&self, count: u64, patience: Duration) -> Result<Duration, String> {
        let before = self.accepted();
        until(patience, || self.accepted() >= before + count)
            .map_err(|error| format!("{count} more appends accepted: {error}"))
    }

    /// Ends the load and waits for all clients: each reads its last answers, or finds the server
    /// gone.
    pub(super) fn join(self, into: &mut Ledger) -> Result<(), String> {
        self.shared.stopping.store(true, Ordering::Relaxed);
        for client in self.clients {
            into.add(client.join().map_err(|_| "a client panicked")?);
        }
        Ok(())
    }
}

/// Looks every few milliseconds until something holds; says how long it took.
///
/// # Errors
/// When it does not hold within `patience`.
pub(super) fn until(
    patience: Duration,
    mut holds: impl FnMut() -> bool,
) -> Result<Duration, String> {
    let start = Instant::now();
    while !holds() {
        if start.elapsed() > patience {
            return Err(format!("not within {:.1} s", patience.as_secs_f64()));
        }
        thread::sleep(Duration::from_millis(5));
    }
    Ok(start.elapsed())
}

fn work(
    address: SocketAddr,
    (round, client): (u64, u64),
    rest: Duration,
    shared: &Shared,
    ledger: &mut Ledger,
) -> io::Result<()> {
    let mut connection = Client::connect(address)?;
    let mut next = 0;
    while !shared.stopping.load(Ordering::Relaxed) {
        let mut refused = 0;
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
                Ok(value) if ledger.note(names, &value) => {
                    shared.accepted.fetch_add(1, Ordering::Relaxed);
                }
                Ok(_) => refused += 1,
                Err(error) => {
                    ledger.lose(&sent[n..]);
                    return Err(error.into());
                }
            }
        }
        shared.refused.fetch_add(refused, Ordering::Relaxed);
        thread::sleep(if refused > 0 { rest.max(REST_AFTER_ERROR) } else { rest });
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
    let key = transaction_key(client);
    let names = [name(0), name(1), name(2)];
    let mut arguments = vec!["EMAPPEND".to_owned(), key];
    for (part, name) in names.iter().enumerate() {
        let stream = format!("multi-{client}-{part}");
        arguments.extend([stream, "E".into(), "PAYLOAD".into(), format!("{name} {padding}")]);
    }
    encode(&arguments, out);
    names.into()
}

fn transaction_key(client: u64) -> String {
    format!("00000000-0000-4000-8{client:03x}-{:x}00000000000", client % 4 * 4)
}

/// The partition key that a stream of the load was given, if it is not the default one.
pub(super) fn key_of(stream: &str) -> Option<String> {
    let client = stream.strip_prefix("multi-")?.split('-').next()?.parse().ok()?;
    Some(transaction_key(client))
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
        self.broken.extend(other.broken);
    }

    /// Writes down an answer; says whether it accepts.
    fn note(&mut self, names: &[String], value: &Value) -> bool {
        if names.len() > 1 {
            self.transactions.push(names.to_vec());
        }
        let positions = match names {
            [_] => appended(value).map(|position| vec![position]),
            _ => appended_many(value),
        };
        if let Some(positions) = positions {
            self.acknowledged.extend(names.iter().cloned().zip(positions));
            return true;
        }
        let code = value.code().unwrap_or("an answer that is none").to_owned();
        match code.as_str() {
            "UNCERTAIN" | "TIMEOUT" => self.unknown.extend(names.iter().cloned()),
            _ => self.refused.extend(names.iter().cloned()),
        }
        *self.errors.entry(code).or_default() += 1;
        false
    }

    fn lose(&mut self, sent: &[Vec<String>]) {
        for names in sent {
            if names.len() > 1 {
                self.transactions.push(names.clone());
            }
            self.unknown.extend(names.iter().cloned());
        }
    }

    /// Enters an event that something other than a load appended.
    pub(super) fn expect_also(&mut self, position: Position, name: &str) {
        self.acknowledged.insert(name.to_owned(), position);
    }

    /// All connections lasted, and no answers but these were heard.
    ///
    /// # Errors
    /// What else was heard.
    pub(super) fn heard_only(&self, codes: &[&str]) -> Result<(), String> {
        let strange = self.errors.keys().any(|code| !codes.contains(&code.as_str()));
        if strange || !self.broken.is_empty() {
            return Err(format!("clients heard {:?}, and {:?}", self.errors, self.broken));
        }
        Ok(())
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
