//! Peers over libp2p: TCP, noise, yamux, two outgoing streams per node. The keys of the nodes,
//! which noise has authenticated, name the ends of a stream.

use std::collections::HashMap;
use std::error::Error;
use std::net::SocketAddr;
use std::time::Duration;

use futures::future::ready;
use futures::stream::StreamExt;
use libp2p::core::multiaddr::{Multiaddr, Protocol};
use libp2p::core::transport::TransportError;
use libp2p::identity::Keypair;
use libp2p::swarm::dial_opts::DialOpts;
use libp2p::swarm::{ConnectionId, DialError, NetworkBehaviour, Stream, SwarmEvent};
use libp2p::{PeerId, StreamProtocol, Swarm, SwarmBuilder, noise, ping, tcp, yamux};
use libp2p_stream::{Behaviour, Control};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::mesh::{DIAL_PATIENCE, Dial, Link, Mesh, PATIENCE};
use crate::peers::{Network, Settings, StartError, Started, Starting};

const PROTOCOL: StreamProtocol = StreamProtocol::new("/actadb/peer/1");
/// How often a connection is asked whether it lives, and how long it has to answer. A lane has its
/// beats; this closes the connection under it, some seconds later.
const PING_EVERY: Duration = Duration::from_secs(1);
const PING_PATIENCE: Duration = Duration::from_secs(3);
/// Connections to one node that are tried for a stream.
const OPEN_TRIES: usize = 3;
/// A connection without a stream is closed after this time.
const IDLE: Duration = Duration::from_secs(60);

/// The network of servers: encrypted, and each node known by its Ed25519 key.
#[derive(Clone, Copy, Debug, Default)]
pub struct Libp2p;

impl Network for Libp2p {
    fn new_identity(&self) -> Vec<u8> {
        Keypair::generate_ed25519().to_protobuf_encoding().expect("an Ed25519 key")
    }

    fn start(&self, settings: Settings) -> Starting {
        Box::pin(start(settings))
    }
}

async fn start(settings: Settings) -> Result<Started, StartError> {
    let listen = settings.listen;
    let keypair = Keypair::from_protobuf_encoding(&settings.identity);
    let keypair = keypair.map_err(|error| StartError::Identity(error.to_string()))?;
    let refused = |what: String| StartError::Listen { address: listen, what };
    let mut swarm = swarm(keypair).map_err(refused)?;
    swarm.listen_on(multiaddr(listen)).map_err(|error| refused(innermost(&error)))?;
    let listens_on = listening(&mut swarm).await.map_err(refused)?;

    let (dials, dialed) = mpsc::channel(settings.peers.len().max(1));
    let mut control = swarm.behaviour().streams.new_control();
    let incoming = control.accept(PROTOCOL).map_err(|error| refused(error.to_string()))?;
    let own = *swarm.local_peer_id();
    let incoming = incoming.map(move |(key, stream)| ready(Ok(link(own, key, stream))));
    let mut tasks = JoinSet::new();
    tasks.spawn(run(swarm, dialed));
    let (peers, events) = Mesh::start(settings, Dialer { own, control, dials }, incoming, tasks);
    Ok(Started { peers, events, listens_on })
}

fn link(own: PeerId, key: PeerId, stream: Stream) -> Link<Stream> {
    Link { stream, here: own.to_bytes(), there: key.to_bytes(), who: key.to_string() }
}

/// What runs on each connection.
#[derive(NetworkBehaviour)]
struct LanesAndPing {
    streams: Behaviour,
    /// Notices a node that vanished without a word.
    ping: ping::Behaviour,
}

type Dialed = oneshot::Sender<Result<PeerId, String>>;

type Dials = mpsc::Sender<(Multiaddr, Dialed)>;

/// Asks the task of the swarm to dial.
#[derive(Clone)]
struct Dialer {
    own: PeerId,
    control: Control,
    dials: Dials,
}

impl Dial for Dialer {
    type Stream = Stream;

    async fn dial(&mut self, address: &str) -> Result<Link<Stream>, String> {
        let found = tokio::net::lookup_host(address).await;
        let addresses = found.map_err(|error| format!("{address}: {error}"))?;
        let mut failure = format!("{address} has no address");
        let gone = || "the network task is gone".to_owned();
        for address in addresses {
            let (dialed, outcome) = oneshot::channel();
            self.dials.send((multiaddr(address), dialed)).await.map_err(|_| gone())?;
            match timeout(DIAL_PATIENCE, outcome).await {
                Ok(Ok(Ok(key))) => {
                    let stream = self.open_stream(key).await;
                    return stream.map(|stream| link(self.own, key, stream));
                }
                Ok(Ok(Err(error))) => failure = error,
                Ok(Err(_)) => return Err(gone()),
                Err(_elapsed) => failure = format!("{address} does not answer"),
            }
        }
        Err(failure)
    }
}

impl Dialer {
    /// Opens a stream on any connection to a node. That may be a dead one, or one that is being
    /// closed, when another was dialed just now: so it is tried again.
    async fn open_stream(&mut self, key: PeerId) -> Result<Stream, String> {
        let mut failure = String::new();
        for _ in 0..OPEN_TRIES {
            match timeout(DIAL_PATIENCE, self.control.open_stream(key, PROTOCOL)).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(error)) => failure = error.to_string(),
                Err(_elapsed) => failure = "it opens no stream".into(),
            }
        }
        Err(failure)
    }
}

fn swarm(keypair: Keypair) -> Result<Swarm<LanesAndPing>, String> {
    let builder = SwarmBuilder::with_existing_identity(keypair)
        .with_tokio()
        .with_tcp(tcp::Config::default().nodelay(true), noise::Config::new, yamux::Config::default)
        .map_err(|error| error.to_string())?
        .with_behaviour(|_| LanesAndPing {
            streams: Behaviour::new(),
            ping: ping::Behaviour::new(
                ping::Config::new().with_interval(PING_EVERY).with_timeout(PING_PATIENCE),
            ),
        })
        .map_err(|error| error.to_string())?;
    Ok(builder.with_swarm_config(|config| config.with_idle_connection_timeout(IDLE)).build())
}

fn multiaddr(address: SocketAddr) -> Multiaddr {
    Multiaddr::from(address.ip()).with(Protocol::Tcp(address.port()))
}

/// Waits until the swarm says where it listens.
async fn listening(swarm: &mut Swarm<LanesAndPing>) -> Result<SocketAddr, String> {
    let wait = async {
        loop {
            match swarm.select_next_some().await {
                SwarmEvent::NewListenAddr { address, .. } => {
                    let mut parts = address.iter();
                    let ip = match parts.next() {
                        Some(Protocol::Ip4(ip)) => ip.into(),
                        Some(Protocol::Ip6(ip)) => ip.into(),
                        _ => continue,
                    };
                    if let Some(Protocol::Tcp(port)) = parts.next() {
                        return Ok(SocketAddr::new(ip, port));
                    }
                }
                SwarmEvent::ListenerClosed { reason: Err(error), .. }
                | SwarmEvent::ListenerError { error, .. } => return Err(innermost(&error)),
                _ => {}
            }
        }
    };
    timeout(PATIENCE, wait).await.unwrap_or_else(|_| Err("nothing happens".into()))
}

/// Why a node could not be dialed.
fn words(error: &DialError) -> String {
    let cause = match error {
        DialError::Transport(tried) => tried.last().map(|(_, cause)| cause),
        _ => None,
    };
    let Some(TransportError::Other(cause)) = cause else { return error.to_string() };
    innermost(cause)
}

/// The innermost cause: those around it only say where in libp2p it was met, or nothing.
fn innermost(error: &dyn Error) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

/// Drives the swarm, and tells who dialed what became of it.
async fn run(mut swarm: Swarm<LanesAndPing>, mut dials: mpsc::Receiver<(Multiaddr, Dialed)>) {
    let mut dialing: HashMap<ConnectionId, Dialed> = HashMap::new();
    loop {
        tokio::select! {
            Some((address, dialed)) = dials.recv() => {
                // From a port of its own: two nodes that dial each other from the ports they
                // listen on open one connection, in which both believe to be the dialer.
                let options = DialOpts::unknown_peer_id().address(address);
                let options = options.allocate_new_port().build();
                let connection = options.connection_id();
                match swarm.dial(options) {
                    Ok(()) => drop(dialing.insert(connection, dialed)),
                    Err(error) => drop(dialed.send(Err(words(&error)))),
                }
            }
            event = swarm.select_next_some() => match event {
                SwarmEvent::ConnectionEstablished { peer_id, connection_id, .. } => {
                    if let Some(dialed) = dialing.remove(&connection_id)
                        && dialed.send(Ok(peer_id)).is_err()
                    {
                        // Nobody waits for it any more.
                        let _ = swarm.close_connection(connection_id);
                    }
                }
                SwarmEvent::Behaviour(LanesAndPingEvent::Ping(ping::Event {
                    connection,
                    result: Err(_),
                    ..
                })) => {
                    let _ = swarm.close_connection(connection);
                }
                SwarmEvent::OutgoingConnectionError { connection_id, error, .. } => {
                    if let Some(dialed) = dialing.remove(&connection_id) {
                        let _ = dialed.send(Err(words(&error)));
                    }
                }
                _ => {}
            }
        }
    }
}
