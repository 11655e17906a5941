//! Three servers as one database, in networks of their own: cables are pulled, processes stopped
//! and killed, under load on every node. What clients were told holds on every node afterwards.

use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use super::crash::SMALL_SEGMENTS;
use super::load::{Ledger, Load, PARTITIONS, until};
use super::network::Network;
use super::resp::{Client, Value, said};
use super::slow::Stopped;
use super::small_disk::{Disk, STEPS};
use crate::dice::Dice;
use crate::programs;
use crate::server_process::{Home, ServerProcess};

const NODES: usize = 3;
const ROUNDS: usize = 3;
const PATIENCE: Duration = Duration::from_secs(60);
/// Eight clients on each of three nodes and three servers share this machine.
const REST: Duration = Duration::from_millis(25);
/// What is appended while a small disk is full must fit on it later.
const LONG_REST: Duration = Duration::from_secs(1);
/// Shorter than a fault lasts: a node that is cut off tells its clients so, meanwhile.
const SHORT_MS: &str = "1500";
/// Entries that a node may lack under load when the next one is stopped.
const NEARLY: u64 = 20;
/// Longer than this machine's disk ever hangs: what takes longer is an unknown outcome.
const LONG_MS: &str = "20000";
/// What a client may hear while a node or the network is out of order.
const TOLD: &[&str] = &["CLUSTERDOWN", "UNCERTAIN", "TRYAGAIN", "TIMEOUT", "DISKFULL"];
/// What it may hear when nodes come and go in order: nothing was appended, try again.
const DEFINITE: &[&str] = &["CLUSTERDOWN", "TRYAGAIN"];

/// Three nodes with clients on each.
struct Cluster<'a> {
    network: &'a Network,
    homes: &'a [Home],
    servers: Vec<Option<ServerProcess>>,
    loads: Vec<Option<Load>>,
    ledger: Ledger,
    rounds: u64,
    rest: Duration,
    may_hear: &'static [&'static str],
}

fn with_cluster(
    binary: &Path,
    dice: &mut Dice,
    timeout_ms: &str,
    part: fn(&mut Cluster<'_>, &mut Dice) -> Result<String, String>,
) -> Result<String, String> {
    let network = Network::new(NODES)?;
    let homes = homes(binary, &network, timeout_ms)?;
    let result = Cluster::start(&network, &homes).and_then(|mut cluster| {
        cluster.load_all()?;
        let told = part(&mut cluster, dice)?;
        Ok(format!("{told}; {}", cluster.end()?))
    });
    homes.iter().fold(result, |result, home| home.explain(result))
}

fn homes(binary: &Path, network: &Network, timeout_ms: &str) -> Result<Vec<Home>, String> {
    let timeout = ("append.timeout_ms", timeout_ms);
    let settings = [SMALL_SEGMENTS, timeout, ("bucket.count", "2")];
    (0..NODES).map(|node| network.home(binary, node, &settings)).collect()
}

impl<'a> Cluster<'a> {
    fn start(network: &'a Network, homes: &'a [Home]) -> Result<Self, String> {
        // A node is ready when the cluster is formed: none is before all are there.
        let start = |(node, home): (usize, &Home)| {
            home.start_command(network.serve_command(node, home)).map(Some)
        };
        let servers = thread::scope(|scope| {
            let starts = homes.iter().enumerate();
            let starts: Vec<_> = starts.map(|of| scope.spawn(move || start(of))).collect();
            let join = |start: thread::ScopedJoinHandle<'_, _>| {
                start.join().unwrap_or_else(|_| Err("a start panicked".into()))
            };
            starts.into_iter().map(join).collect::<Result<Vec<_>, String>>()
        })?;
        let loads = homes.iter().map(|_| None).collect();
        let ledger = Ledger::default();
        let (rounds, rest, may_hear) = (0, REST, TOLD);
        Ok(Self { network, homes, servers, loads, ledger, rounds, rest, may_hear })
    }

    /// Starts clients of all nodes.
    fn load_all(&mut self) -> Result<(), String> {
        (0..NODES).try_for_each(|node| self.load(node))
    }

    fn server(&self, node: usize) -> Result<&ServerProcess, String> {
        self.servers[node].as_ref().ok_or_else(|| format!("node {node} is down"))
    }

    /// Starts clients of a node.
    fn load(&mut self, node: usize) -> Result<(), String> {
        self.rounds += 1;
        self.loads[node] = Some(Load::paced(self.server(node)?.address(), self.rounds, self.rest));
        Ok(())
    }

    /// Clients of all nodes that are asked for have more accepted.
    fn go_on(&self, commands: u64, asked: impl Fn(usize) -> bool) -> Result<(), String> {
        for (node, load) in self.loads.iter().enumerate().filter(|(node, _)| asked(*node)) {
            let Some(load) = load else { return Err(format!("node {node} has no clients")) };
            load.accept_more(commands, PATIENCE)
                .map_err(|error| format!("node {node}: {error}"))?;
        }
        Ok(())
    }

    /// The node that leads a bucket, as another one knows.
    fn leader(&self, bucket: usize) -> Result<usize, String> {
        let mut leader = None;
        let address = self.server(0)?.address();
        until(PATIENCE, || {
            leader = leader_by(address, bucket);
            leader.is_some()
        })?;
        leader.ok_or_else(|| "no leader".into())
    }

    /// Ends the load.
    fn quiet(&mut self) -> Result<(), String> {
        for load in &mut self.loads {
            if let Some(load) = load.take() {
                load.join(&mut self.ledger)?;
            }
        }
        Ok(())
    }

    /// Ends the load, and holds what clients were told against every node.
    fn end(&mut self) -> Result<String, String> {
        self.quiet()?;
        let strange = |code: &&String| !self.may_hear.contains(&code.as_str());
        if let Some(code) = self.ledger.errors.keys().find(strange) {
            return Err(format!("clients heard {code}: {:?}", self.ledger.errors));
        }
        let mut told = String::new();
        for node in 0..NODES {
            let address = self.server(node)?.address();
            let mut connection = Client::connect(address).map_err(said)?;
            for partition in 0..PARTITIONS {
                // Linearizable: the node has everything when it has answered.
                let mut answer = Value::Null;
                let answered = until(PATIENCE, || {
                    let asked = connection.call(&["EPSEQ", &partition.to_string()]);
                    answer = asked.unwrap_or(Value::Error("no answer".into()));
                    answer.code().is_none()
                });
                answered.map_err(|_| format!("node {node}: EPSEQ {partition}: {answer:?}"))?;
            }
            told = self.ledger.audit(address).map_err(|error| format!("node {node}: {error}"))?;
        }
        let mut agreed = Ok(());
        let agree = || {
            agreed = self.agree();
            agreed.is_ok()
        };
        if until(PATIENCE, agree).is_err() {
            return agreed.map(|()| String::new());
        }
        for server in self.servers.iter_mut().filter_map(Option::take) {
            server.terminate()?;
        }
        for home in self.homes {
            home.check()?;
        }
        Ok(format!("errors {:?}; on each node {told}", self.ledger.errors))
    }
}

impl Cluster<'_> {
    /// What nodes tell operators fits together: each bucket is led by one, and all are there.
    fn agree(&self) -> Result<(), String> {
        let (mut leads, mut leaders) = (0.0, Vec::new());
        for node in 0..NODES {
            let server = self.server(node)?;
            leads += server.metric("actadb_leads")?;
            let connected = server.metric("actadb_node_connected")?;
            if connected != (NODES - 1) as f64 {
                return Err(format!("node {node} is connected to {connected} others"));
            }
            let (code, body) = server.http("/health/ready")?;
            if code != 200 || body.contains("bucket") {
                return Err(format!("node {node} is not well: {code} {body}"));
            }
            let mut client = Client::connect(server.address()).map_err(said)?;
            let info = client.call(&["INFO", "replication"]).map_err(said)?;
            let info = info.text().ok_or("INFO is no text")?;
            leaders.push(info.matches("role=leader").count());
            let nodes = client.call(&["CLUSTER", "NODES"]).map_err(said)?;
            if nodes.text().is_none_or(|nodes| nodes.matches("connected").count() != NODES) {
                return Err(format!("node {node}: CLUSTER NODES: {nodes:?}"));
            }
        }
        match (leads, leaders.iter().sum::<usize>()) {
            (2.0, 2) => Ok(()),
            _ => Err(format!("{leads} of 2 buckets are led by metrics, by INFO {leaders:?}")),
        }
    }

    /// Waits until those who lead say that a node that was started has nearly what they have.
    fn caught_up(&self, node: usize) -> Result<(), String> {
        let mut lags = Vec::new();
        let waited = until(PATIENCE, || {
            lags = (0..2).map(|bucket| self.lag(node, bucket)).collect();
            lags.iter().all(|lag| lag.is_some_and(|lag| lag < NEARLY))
        });
        waited.map(drop).map_err(|error| format!("node {node} catches up: {error}: lags {lags:?}"))
    }

    /// How many entries of a bucket a node lacks, as its leader says.
    fn lag(&self, node: usize, bucket: usize) -> Option<u64> {
        let leader = self.leader(bucket).ok()?;
        if leader == node {
            return Some(0);
        }
        let address = self.server(leader).ok()?.address();
        let told = Client::connect(address).ok()?.call(&["CLUSTER", "INFO"]).ok()?;
        let prefix = format!("cluster_bucket{bucket}:");
        let line = told.text()?.lines().find(|line| line.starts_with(&prefix))?;
        let lag = line.split(&format!("node{node}_lag=")).nth(1)?;
        lag.split(',').next()?.trim().parse().ok()
    }
}

fn leader_by(address: std::net::SocketAddr, bucket: usize) -> Option<usize> {
    let told = Client::connect(address).ok()?.call(&["CLUSTER", "INFO"]).ok()?;
    let prefix = format!("cluster_bucket{bucket}:");
    let line = told.text()?.lines().find(|line| line.starts_with(&prefix))?.to_owned();
    line.split("leader=").nth(1)?.split(',').next()?.parse().ok()
}

/// Pulls the cable of a leader: its clients stay, and so does what it believes.
pub(super) fn cut(binary: &Path, dice: &mut Dice) -> Result<String, String> {
    with_cluster(binary, dice, SHORT_MS, |cluster, dice| {
        let mut cuts = Vec::new();
        for round in 0..ROUNDS {
            cluster.go_on(300, |_| true)?;
            let node = cluster.leader(round % 2)?;
            cluster.network.plug(node, false)?;
            let others = cluster.go_on(300, |other| other != node);
            let alone = others.and_then(|()| accepts_nothing(cluster, node));
            thread::sleep(Duration::from_millis(dice.between(0, 2500)));
            cluster.network.plug(node, true)?;
            alone.map_err(|error| format!("round {round}, node {node} is cut off: {error}"))?;
            cluster
                .go_on(300, |_| true)
                .map_err(|error| format!("round {round}, node {node} is back: {error}"))?;
            cuts.push(node.to_string());
        }
        Ok(format!("leaders cut off in turn: {}", cuts.join(", ")))
    })
}

/// A node without the others accepts nothing, and answers reads that need them with an error.
fn accepts_nothing(cluster: &Cluster<'_>, node: usize) -> Result<(), String> {
    let Some(load) = &cluster.loads[node] else { return Err("no clients".into()) };
    let mut connection = Client::connect(cluster.server(node)?.address()).map_err(said)?;
    let stale = connection.call(&["EPSEQ", "0"]).map_err(said)?;
    if stale.code() != Some("CLUSTERDOWN") {
        return Err(format!("EPSEQ of a node that is cut off: {stale:?}"));
    }
    let local = connection.call(&["EPSEQ", "0", "READ", "LOCAL"]).map_err(said)?;
    if !matches!(local, Value::Integer(_)) {
        return Err(format!("EPSEQ READ LOCAL of a node that is cut off: {local:?}"));
    }
    let before = load.accepted();
    thread::sleep(Duration::from_millis(500));
    match load.accepted() - before {
        0 => Ok(()),
        more => Err(format!("it accepted {more} appends")),
    }
}

/// Stops a leader for longer than an election takes, then kills a node.
pub(super) fn pause_and_kill(binary: &Path, dice: &mut Dice) -> Result<String, String> {
    with_cluster(binary, dice, SHORT_MS, |cluster, dice| {
        for round in 0..ROUNDS {
            let at = |error| format!("round {round}: {error}");
            cluster.go_on(300, |_| true).map_err(at)?;
            let node = cluster.leader(round % 2).map_err(at)?;
            let stopped = Stopped::stop(cluster.server(node)?)?;
            let others = cluster.go_on(300, |other| other != node);
            thread::sleep(Duration::from_millis(dice.between(0, 1500)));
            drop(stopped);
            others.map_err(|error| format!("round {round}, node {node} is stopped: {error}"))?;
            cluster.go_on(300, |_| true).map_err(at)?;

            let node = dice.below(NODES);
            let server = cluster.servers[node].take().ok_or("a node is down")?;
            server.kill()?;
            if let Some(load) = cluster.loads[node].take() {
                load.join(&mut cluster.ledger)?;
            }
            let others = cluster.go_on(300, |other| other != node);
            others.map_err(|error| format!("round {round}, node {node} is dead: {error}"))?;
            let home = &cluster.homes[node];
            let command = cluster.network.serve_command(node, home);
            cluster.servers[node] = Some(home.start_command(command).map_err(at)?);
            cluster.load(node)?;
        }
        cluster.go_on(300, |_| true)?;
        Ok(format!("{ROUNDS} leaders stopped, {ROUNDS} nodes killed"))
    })
}

/// Stops each node in turn with SIGTERM under load and starts it again, as for a new version.
pub(super) fn restart(binary: &Path, dice: &mut Dice) -> Result<String, String> {
    with_cluster(binary, dice, LONG_MS, |cluster, _| {
        cluster.may_hear = DEFINITE;
        let mut took = Vec::new();
        for node in (0..NODES).chain([0]) {
            cluster.go_on(300, |_| true)?;
            let server = cluster.servers[node].take().ok_or("a node is down")?;
            took.push(format!("{:.2} s", server.terminate()?.as_secs_f64()));
            if let Some(load) = cluster.loads[node].take() {
                load.join(&mut cluster.ledger)?;
            }
            let others = cluster.go_on(300, |other| other != node);
            others.map_err(|error| format!("node {node} was stopped: {error}"))?;
            let home = &cluster.homes[node];
            let command = cluster.network.serve_command(node, home);
            cluster.servers[node] = Some(home.start_command(command)?);
            cluster.load(node)?;
            cluster.caught_up(node)?;
        }
        cluster.go_on(300, |_| true)?;
        Ok(format!("stops took {}", took.join(", ")))
    })
}

/// The scripts of docs/examples/cluster, in a network of their own: their ports are fixed.
pub(super) fn example(binary: &Path) -> Result<String, String> {
    let run = |words: &str| {
        let script = format!("ip link set lo up && exec {words}");
        let mut command = Command::new("unshare");
        command.args(["--net", "sh", "-c", &script]).current_dir(programs::workspace());
        let printed = programs::output(&mut command)?;
        Ok::<_, String>(String::from_utf8_lossy(&printed).into_owned())
    };
    let binary = binary.display();
    let shown = run(&format!("docs/examples/cluster/three-nodes.sh {binary}"))?;
    if shown.lines().last().map(str::trim) != Some("1") {
        return Err(format!("three-nodes.sh does not end with version 1:\n{shown}"));
    }
    let told = run(&format!("python3 docs/examples/cluster/failover.py {binary} 2"))?;
    Ok(told.trim().replace('\n', "; "))
}

/// The disk of a leader fills, and those of the others do not.
pub(super) fn small_disk(binary: &Path) -> Result<String, String> {
    let network = Network::new(NODES)?;
    let homes = homes(binary, &network, SHORT_MS)?;
    let disk = Disk::mount(&homes[0], "ext4")?;
    disk.hold_space(STEPS)?;
    let result = Cluster::start(&network, &homes).and_then(|mut cluster| {
        let told = one_full(&mut cluster, &disk)?;
        Ok(format!("{told}; {}", cluster.end()?))
    });
    homes.iter().fold(result, |result, home| home.explain(result))
}

fn one_full(cluster: &mut Cluster<'_>, disk: &Disk) -> Result<String, String> {
    until(PATIENCE, || {
        let led_by = cluster.leader(0).and_then(|node| cluster.server(node));
        let asked = led_by.and_then(|server| Client::connect(server.address()).map_err(said));
        let _ = asked.map(|mut leader| leader.call(&["CLUSTER", "HANDOVER", "0", "0"]));
        thread::sleep(Duration::from_millis(200));
        cluster.leader(0) == Ok(0)
    })
    .map_err(|error| format!("node 0 gets no lead: {error}"))?;
    cluster.load_all()?;
    cluster.go_on(100, |_| true)?;
    let server = cluster.server(0)?;
    let is_full = || server.http("/health/ready").is_ok_and(|(_, body)| body.contains("no space"));
    until(PATIENCE, is_full).map_err(|error| format!("until nothing fits the disk: {error}"))?;
    let led = (0..2).filter(|bucket| cluster.leader(*bucket) == Ok(0)).count();
    if led == 0 {
        return Err("node 0 leads nothing when its disk is full".into());
    }
    cluster.quiet()?;
    cluster.rest = LONG_REST;
    cluster.load_all()?;
    cluster.go_on(300, |_| true).map_err(|error| format!("the disk of node 0 is full: {error}"))?;
    // Each bucket, and not only the one that another node leads.
    let began = Instant::now();
    until(PATIENCE, || (0..2).all(|bucket| cluster.leader(bucket).is_ok_and(|node| node != 0)))
        .map_err(|error| format!("node 0 leads on with a full disk: {error}"))?;
    let moved = began.elapsed();
    cluster.quiet()?;
    for step in 0..STEPS {
        disk.free(step)?;
    }
    Ok(format!(
        "node 0, whose disk was full, led {led} of 2 buckets; others led them {:.1} s later",
        moved.as_secs_f64()
    ))
}
