//! Three whole servers in one process, on a simulated network and in simulated time (turmoil), on
//! disks that forget what was not synced: clients append, follow and go from node to node while
//! nodes crash and links break. Everything above the sockets is what a real server runs.
//!
//! Beside the simulator of `actadb-sim`, which has the pure parts and is replayed to the byte, this
//! has the wiring: actors, connections, RESP, subscriptions. The seed that a failure tells chooses
//! the faults and their times; ids and hash tables are drawn anew each time.

mod client;
mod followers;
mod writers;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use actadb::cluster::options::{
    CATCH_UP_BYTES_PER_SECOND_DEFAULT, ClusterOptions, Secret, Sockets, Tcp,
};
use actadb::model::dice::SplitMix64;
use actadb::options::{Execution, Options};
use actadb_disk::sim::SimDisk;
use actadb_server::server::Server;
use actadb_server::settings::Settings;
use turmoil::Sim;
use turmoil::net::{TcpListener, TcpStream};

use client::Client;

const NODES: usize = 3;
const WRITERS: usize = 4;
const FOLLOWERS: usize = 2;
const PARTITIONS: u16 = 4;
const CLIENT_PORT: u16 = 9090;
const PEER_PORT: u16 = 9092;
/// Faults of one run.
const FAULTS: usize = 6;
/// How long those that are not struck may take to go on, in simulated time: three times what an
/// append waits for its answer.
const PATIENCE: Duration = Duration::from_secs(15);
const APPEND_TIMEOUT: Duration = Duration::from_secs(5);

/// The sockets of the simulated network.
#[derive(Clone, Copy, Debug)]
struct Simulated;

impl Sockets for Simulated {
    type Stream = TcpStream;
    type Listener = TcpListener;

    async fn bind(&self, address: &str) -> io::Result<(TcpListener, SocketAddr)> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        Ok((listener, address))
    }

    async fn accept(listener: &mut TcpListener) -> io::Result<(TcpStream, SocketAddr)> {
        listener.accept().await
    }

    async fn connect(&self, address: &str) -> io::Result<TcpStream> {
        TcpStream::connect(address).await
    }
}

fn host(node: usize) -> String {
    format!("node-{node}")
}

async fn serve(node: usize, disk: SimDisk) -> turmoil::Result {
    let mut settings = Settings { dir: "/db".into(), ..Settings::default() };
    settings.network.client_address = format!("0.0.0.0:{CLIENT_PORT}");
    settings.network.admin_address = String::new();
    settings.append.timeout_ms = APPEND_TIMEOUT.as_millis() as u64;
    settings.partition.count = PARTITIONS;
    settings.bucket.count = 2;
    settings.segment.size_bytes = 1 << 20;
    settings.append.max_transaction_bytes = 64 << 10;
    let cluster = ClusterOptions {
        node: node as u8,
        peers: (0..NODES).map(|node| format!("{}:{PEER_PORT}", host(node))).collect(),
        listen: SocketAddr::from(([0, 0, 0, 0], PEER_PORT)),
        secret: Secret::new(b"a secret of the tests").expect("long enough"),
        client_address: String::new(),
        catch_up_bytes_per_second: CATCH_UP_BYTES_PER_SECOND_DEFAULT,
        network: Arc::new(Tcp(Simulated)),
    };
    let options = Options {
        cluster: Some(cluster),
        execution: Execution::Inline,
        disk: Arc::new(disk),
        ..settings.options()
    };
    let _server = Server::start_on(Simulated, settings, options).await?;
    std::future::pending().await
}

/// An event's place: stream and version.
type Place = (String, u64);

/// What clients were told.
#[derive(Debug, Default)]
struct Book {
    /// By writer and number of its event: where it is.
    acked: BTreeMap<(usize, u64), (u64, u64)>,
    /// By partition and sequence: what every follower saw there, and must see alike.
    seen: BTreeMap<(u64, u64), Place>,
    /// Times that a client went to another node.
    moves: u64,
    /// The last faults are over: writers end.
    quiet: bool,
    /// Writers that have ended.
    ended: usize,
    /// By partition, when all is written: how many events there are.
    counts: Option<BTreeMap<u64, u64>>,
}

type Shared = Rc<RefCell<Book>>;

/// What is out of order.
#[derive(Clone, Copy, Debug)]
enum Fault {
    /// A node lost power.
    Crash(usize),
    /// A node is cut off from the other nodes, its clients stay.
    Cut(usize),
    /// It hears them, and they do not hear it.
    Deaf(usize),
    /// What goes between it and the others is late, and comes all at once.
    Held(usize),
}

struct World<'a> {
    sim: Sim<'a>,
    disks: Vec<SimDisk>,
    dice: SplitMix64,
    book: Shared,
}

impl World<'_> {
    fn new(seed: u64) -> Self {
        let mut dice = SplitMix64::new(seed);
        let mut sim = turmoil::Builder::new()
            .rng_seed(dice.draw())
            .simulation_duration(Duration::from_secs(3600))
            .min_message_latency(Duration::from_millis(1))
            .max_message_latency(Duration::from_millis(10))
            .tcp_capacity(4096)
            .build();
        let disks: Vec<SimDisk> = (0..NODES).map(|_| SimDisk::new()).collect();
        let book = Shared::default();
        for (node, disk) in disks.iter().enumerate() {
            let disk = disk.clone();
            sim.host(host(node), move || serve(node, disk.clone()));
        }
        for writer in 0..WRITERS {
            sim.client(format!("writer-{writer}"), writers::write(writer, book.clone()));
        }
        for follower in 0..FOLLOWERS {
            sim.client(format!("follower-{follower}"), followers::follow(follower, book.clone()));
        }
        sim.client("checker", check(book.clone()));
        Self { sim, disks, dice, book }
    }

    /// Lets time pass; answers whether all clients have ended.
    fn pass(&mut self, time: Duration) -> bool {
        let until = self.sim.elapsed() + time;
        while self.sim.elapsed() < until {
            if self.sim.step().expect("no client and no server fails") {
                return true;
            }
        }
        false
    }

    /// Until so many more appends are acknowledged.
    fn go_on(&mut self, appends: usize, what: &str) {
        let begin = self.book.borrow().acked.len();
        let until = self.sim.elapsed() + PATIENCE;
        while self.book.borrow().acked.len() < begin + appends {
            assert!(self.sim.elapsed() < until, "{what}: no appends any more");
            self.pass(Duration::from_millis(50));
        }
    }

    fn others(&self, node: usize) -> Vec<String> {
        (0..NODES).filter(|other| *other != node).map(host).collect()
    }

    fn strike(&mut self) -> Fault {
        let node = self.dice.below(NODES as u64) as usize;
        let fault = match self.dice.below(4) {
            0 => Fault::Crash(node),
            1 => Fault::Cut(node),
            2 => Fault::Deaf(node),
            _ => Fault::Held(node),
        };
        for other in self.others(node) {
            match fault {
                Fault::Crash(_) => {}
                Fault::Cut(_) => self.sim.partition(host(node), other),
                Fault::Deaf(_) => self.sim.partition_oneway(host(node), other),
                Fault::Held(_) => self.sim.hold(host(node), other),
            }
        }
        if let Fault::Crash(node) = fault {
            self.sim.crash(host(node));
            self.disks[node].power_loss(&mut self.dice);
        }
        fault
    }

    fn heal(&mut self, fault: Fault) {
        let (Fault::Crash(node) | Fault::Cut(node) | Fault::Deaf(node) | Fault::Held(node)) = fault;
        for other in self.others(node) {
            match fault {
                Fault::Crash(_) => {}
                Fault::Cut(_) => self.sim.repair(host(node), other),
                Fault::Deaf(_) => self.sim.repair_oneway(host(node), other),
                Fault::Held(_) => self.sim.release(host(node), other),
            }
        }
        if let Fault::Crash(node) = fault {
            self.sim.bounce(host(node));
        }
    }

    fn run(&mut self) {
        self.go_on(50, "the start");
        for _ in 0..FAULTS {
            let fault = self.strike();
            tracing::info!(?fault, at_ms = self.sim.elapsed().as_millis(), "struck");
            self.go_on(50, &format!("{fault:?}"));
            let more = Duration::from_millis(self.dice.below(6000));
            self.pass(more);
            tracing::info!(?fault, at_ms = self.sim.elapsed().as_millis(), "healed");
            self.heal(fault);
            self.go_on(50, &format!("after {fault:?}"));
        }
        self.book.borrow_mut().quiet = true;
        assert!(self.pass(Duration::from_secs(120)), "some client does not end: {:?}", self.book);
    }
}

/// When all is written, holds what clients were told against each node.
async fn check(book: Shared) -> turmoil::Result {
    while book.borrow().ended < WRITERS {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let mut alike = None;
    for node in 0..NODES {
        let mut client = Client::patiently(node).await;
        let mut events = BTreeMap::new();
        for partition in 0..u64::from(PARTITIONS) {
            let found = client.partition(partition).await?;
            events.extend(found.into_iter().map(|event| ((partition, event.sequence), event)));
        }
        let acked = &book.borrow().acked;
        let places: BTreeMap<(usize, u64), (u64, u64)> = events
            .iter()
            .map(|(place, event)| (writers::writer_of(&event.stream, event.version), *place))
            .collect();
        assert_eq!(&places, acked, "node {node}: each event is where it was said to be, once");
        let of = |event: &actadb_server::wire_client::WireEvent| {
            (event.stream.clone(), event.version, event.payload.clone(), event.event_id.clone())
        };
        let now: BTreeMap<_, _> = events.iter().map(|(place, event)| (*place, of(event))).collect();
        assert_eq!(
            alike.get_or_insert_with(|| now.clone()),
            &now,
            "node {node} has something else"
        );
    }
    let mut counts = BTreeMap::new();
    for (partition, sequence) in book.borrow().acked.values() {
        let count: &mut u64 = counts.entry(*partition).or_default();
        *count = (*count).max(sequence + 1);
    }
    book.borrow_mut().counts = Some(counts);
    Ok(())
}

/// Panics in tasks of servers, which end nothing else.
static PANICS: AtomicU64 = AtomicU64::new(0);

fn count_panics() {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if turmoil::in_simulation() {
            PANICS.fetch_add(1, Ordering::Relaxed);
        }
        before(panic);
    }));
}

/// With `RUST_LOG` the servers tell what they do.
fn tell() {
    let filter = tracing_subscriber::EnvFilter::from_default_env();
    let _ = tracing_subscriber::fmt().with_env_filter(filter).without_time().try_init();
}

fn run(seed: u64) {
    tell();
    println!("seed {seed}");
    let mut world = World::new(seed);
    world.run();
    let book = world.book.borrow();
    let acked: BTreeMap<_, _> = book.acked.iter().map(|(of, place)| (*place, *of)).collect();
    let of = |(stream, version): &Place| writers::writer_of(stream, *version);
    let seen: BTreeMap<_, _> = book.seen.iter().map(|(place, what)| (*place, of(what))).collect();
    assert_eq!(seen, acked, "followers saw all, and nothing else");
    assert_eq!(PANICS.load(Ordering::Relaxed), 0, "no part of a server panics");
    println!(
        "seed {seed}: {} events, clients moved {} times, {:.0} s simulated",
        seen.len(),
        book.moves,
        world.sim.elapsed().as_secs_f64()
    );
}

#[test]
fn three_servers_lose_and_double_nothing_whatever_breaks() {
    count_panics();
    if let Ok(seed) = std::env::var("ACTADB_SEED") {
        return run(seed.parse().expect("ACTADB_SEED must be a number"));
    }
    let fresh = SystemTime::UNIX_EPOCH.elapsed().expect("after 1970").as_millis() as u64;
    (1..=2).chain([fresh]).for_each(run);
}
