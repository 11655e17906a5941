//! Peers over libp2p: TCP, noise, yamux, one outgoing stream per node.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use actadb_model::limits::PEER_EVENTS;
use futures::io::{AsyncReadExt, AsyncWriteExt};
use futures::stream::StreamExt;
use libp2p::core::multiaddr::{Multiaddr, Protocol};
use libp2p::identity::Keypair;
use libp2p::swarm::dial_opts::DialOpts;
use libp2p::swarm::{ConnectionId, NetworkBehaviour, Stream, SwarmEvent};
use libp2p::{PeerId, StreamProtocol, Swarm, SwarmBuilder, noise, ping, tcp, yamux};
use libp2p_stream::{Behaviour, Control, IncomingStreams};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::frame::{Frame, FrameKind};
use crate::handshake::{Answer, Introduction, Secret};
use crate::lane::{LaneReceiver, LaneSender, lane};
use crate::peers::{Admission, PeerEvent, PeerTransport};

const PROTOCOL: StreamProtocol = StreamProtocol::new("/actadb/peer/1");
/// How long a connection, and then a handshake, may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// How soon a node that could not be reached is tried again.
const AGAIN_LEAST: Duration = Duration::from_millis(100);
/// And how late.
const AGAIN_MOST: Duration = Duration::from_secs(2);
/// How often a connection is asked whether it lives, and how long it has to answer.
const PING_EVERY: Duration = Duration::from_secs(1);
const PING_PATIENCE: Duration = Duration::from_secs(3);
/// Longest introduction.
const HELLO_MAX_BYTES: usize = 64 << 10;
/// Frames that wait are written together up to about this many bytes.
const WRITE_BYTES: usize = 256 << 10;
/// A connection without a stream is closed after this time.
const IDLE: Duration = Duration::from_secs(60);

/// How to reach the others, and how to be reached.
#[derive(Debug)]
pub struct Settings {
    /// This node's key, as [`new_identity`] made it.
    pub identity: Vec<u8>,
    /// This node's number.
    pub node: u8,
    /// Where to listen.
    pub listen: SocketAddr,
    /// `host:port` of every node, by number; this node's own is not used.
    pub peers: Vec<String>,
    /// What every node of the cluster knows.
    pub secret: Secret,
    /// Who is let in.
    pub admission: Arc<dyn Admission>,
}

/// Why the network could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The key is not one.
    #[error("the node's key is damaged: {0}")]
    Identity(String),
    /// The address cannot be listened on.
    #[error("cannot listen for other nodes on {address}: {what}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        what: String,
    },
}

/// A new Ed25519 key, to be kept: it is who this node is.
///
/// # Panics
/// Never: such a key can be written down.
#[must_use]
pub fn new_identity() -> Vec<u8> {
    Keypair::generate_ed25519().to_protobuf_encoding().expect("an Ed25519 key")
}

/// The lanes that are open, by number of the node.
#[derive(Debug)]
struct Lanes(Vec<Mutex<Option<LaneSender>>>);

impl Lanes {
    fn set(&self, node: u8, lane: Option<LaneSender>) {
        if let Some(slot) = self.0.get(usize::from(node)) {
            *slot.lock().unwrap_or_else(PoisonError::into_inner) = lane;
        }
    }

    fn send(&self, node: u8, frame: Frame) -> bool {
        let Some(lane) = self.0.get(usize::from(node)) else { return false };
        let lane = lane.lock().unwrap_or_else(PoisonError::into_inner);
        lane.as_ref().is_some_and(|lane| lane.try_send(frame))
    }
}

/// The other nodes.
pub struct Libp2pPeers {
    lanes: Arc<Lanes>,
    /// Where this node listens: the port is known now, if it was 0.
    listens_on: SocketAddr,
    /// Ends with the last handle.
    _tasks: JoinSet<()>,
}

impl fmt::Debug for Libp2pPeers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Libp2pPeers")
            .field("listens_on", &self.listens_on)
            .field("nodes", &self.lanes.0.len())
            .finish_non_exhaustive()
    }
}

impl PeerTransport for Libp2pPeers {
    fn send(&self, node: u8, frame: Frame) -> bool {
        self.lanes.send(node, frame)
    }

    fn is_connected(&self, node: u8) -> bool {
        let lane = self.lanes.0.get(usize::from(node));
        lane.is_some_and(|lane| lane.lock().unwrap_or_else(PoisonError::into_inner).is_some())
    }
}

/// What the tasks share.
struct Shared {
    key: PeerId,
    secret: Secret,
    admission: Arc<dyn Admission>,
    events: mpsc::Sender<PeerEvent>,
}

/// What runs on each connection.
#[derive(NetworkBehaviour)]
struct Network {
    streams: Behaviour,
    /// Notices a node that vanished without a word.
    ping: ping::Behaviour,
}

type Dialed = oneshot::Sender<Result<PeerId, String>>;
type Dials = mpsc::Sender<(Multiaddr, Dialed)>;

impl Libp2pPeers {
    /// Listens, and connects to every other node, again and again.
    ///
    /// # Errors
    /// See [`StartError`].
    pub async fn start(
        settings: Settings,
    ) -> Result<(Arc<Self>, mpsc::Receiver<PeerEvent>), StartError> {
        let Settings { identity, node, listen, peers, secret, admission } = settings;
        let keypair = Keypair::from_protobuf_encoding(&identity);
        let keypair = keypair.map_err(|error| StartError::Identity(error.to_string()))?;
        let refused = |what: String| StartError::Listen { address: listen, what };
        let mut swarm = swarm(keypair).map_err(refused)?;
        swarm.listen_on(multiaddr(listen)).map_err(|error| refused(error.to_string()))?;
        let listens_on = listening(&mut swarm).await.map_err(refused)?;

        let (events, receiver) = mpsc::channel(PEER_EVENTS);
        let (dials, dialed) = mpsc::channel(peers.len().max(1));
        let mut control = swarm.behaviour().streams.new_control();
        let incoming = control.accept(PROTOCOL).map_err(|error| refused(error.to_string()))?;
        let key = *swarm.local_peer_id();
        let shared = Arc::new(Shared { key, secret, admission, events });
        let lanes = Arc::new(Lanes(peers.iter().map(|_| Mutex::new(None)).collect()));
        let mut tasks = JoinSet::new();
        tasks.spawn(run(swarm, dialed));
        tasks.spawn(accept(shared.clone(), incoming));
        for (number, address) in peers.into_iter().enumerate() {
            if number != usize::from(node) {
                let connector = Connector {
                    shared: shared.clone(),
                    lanes: lanes.clone(),
                    control: control.clone(),
                    dials: dials.clone(),
                    node: number as u8,
                    address,
                    told: None,
                };
                tasks.spawn(connector.run());
            }
        }
        let this = Arc::new(Self { lanes, listens_on, _tasks: tasks });
        Ok((this, receiver))
    }

    /// Where this node listens.
    #[must_use]
    pub fn listens_on(&self) -> SocketAddr {
        self.listens_on
    }
}

fn swarm(keypair: Keypair) -> Result<Swarm<Network>, String> {
    let builder = SwarmBuilder::with_existing_identity(keypair)
        .with_tokio()
        .with_tcp(tcp::Config::default().nodelay(true), noise::Config::new, yamux::Config::default)
        .map_err(|error| error.to_string())?
        .with_behaviour(|_| Network {
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
async fn listening(swarm: &mut Swarm<Network>) -> Result<SocketAddr, String> {
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
                | SwarmEvent::ListenerError { error, .. } => return Err(error.to_string()),
                _ => {}
            }
        }
    };
    timeout(PATIENCE, wait).await.unwrap_or_else(|_| Err("nothing happens".into()))
}

/// Drives the swarm, and tells who dialed what became of it.
async fn run(mut swarm: Swarm<Network>, mut dials: mpsc::Receiver<(Multiaddr, Dialed)>) {
    let mut dialing: HashMap<ConnectionId, Dialed> = HashMap::new();
    loop {
        tokio::select! {
            Some((address, dialed)) = dials.recv() => {
                let options = DialOpts::unknown_peer_id().address(address).build();
                let connection = options.connection_id();
                match swarm.dial(options) {
                    Ok(()) => drop(dialing.insert(connection, dialed)),
                    Err(error) => drop(dialed.send(Err(error.to_string()))),
                }
            }
            event = swarm.select_next_some() => match event {
                SwarmEvent::ConnectionEstablished { peer_id, connection_id, .. } => {
                    if let Some(dialed) = dialing.remove(&connection_id) {
                        let _ = dialed.send(Ok(peer_id));
                    }
                }
                SwarmEvent::Behaviour(NetworkEvent::Ping(ping::Event {
                    connection,
                    result: Err(_),
                    ..
                })) => {
                    let _ = swarm.close_connection(connection);
                }
                SwarmEvent::OutgoingConnectionError { connection_id, error, .. } => {
                    if let Some(dialed) = dialing.remove(&connection_id) {
                        let _ = dialed.send(Err(error.to_string()));
                    }
                }
                _ => {}
            }
        }
    }
}

/// Takes the lanes that other nodes open.
async fn accept(shared: Arc<Shared>, mut incoming: IncomingStreams) {
    let mut lanes = JoinSet::new();
    loop {
        tokio::select! {
            stream = incoming.next() => {
                let Some((key, stream)) = stream else { return };
                lanes.spawn(listen_to(shared.clone(), key, stream));
            }
            Some(_ended) = lanes.join_next() => {}
        }
    }
}

/// One lane of another node: the handshake, then its frames.
async fn listen_to(shared: Arc<Shared>, key: PeerId, mut stream: Stream) {
    let node = match timeout(PATIENCE, shared.welcome(key, &mut stream)).await {
        Ok(Ok(node)) => node,
        Ok(Err(error)) => {
            tracing::warn!(%key, %error, "a node was not let in");
            return;
        }
        Err(_elapsed) => {
            tracing::debug!(%key, "a handshake took too long");
            return;
        }
    };
    loop {
        match Frame::read(&mut stream).await {
            // When nobody takes events, the sender is slowed down by the socket.
            Ok(frame) => {
                if shared.events.send(PeerEvent::Frame(node, frame)).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                tracing::debug!(node, %error, "a lane ended");
                return;
            }
        }
    }
}

impl Shared {
    fn introduction(&self, to: PeerId) -> Introduction {
        let (hello, record) = self.admission.introduce();
        let proof = self.secret.proof(&self.key.to_bytes(), &to.to_bytes());
        Introduction { proof, hello, record }
    }

    /// Whether who holds `key` is let in with this introduction.
    fn check(&self, key: PeerId, introduction: &Introduction) -> Result<(), String> {
        let Introduction { proof, hello, record } = introduction;
        if !self.secret.proves(proof, &key.to_bytes(), &self.key.to_bytes()) {
            return Err(format!(
                "node {} does not know the secret of this cluster (cluster.secret_file)",
                hello.node
            ));
        }
        self.admission.admit(hello, record.as_ref())
    }

    /// Answers an introduction.
    async fn welcome(&self, key: PeerId, stream: &mut Stream) -> Result<u8, String> {
        let introduction: Introduction = receive(stream).await?;
        match self.check(key, &introduction) {
            Ok(()) => {
                send(stream, &Answer::Welcome(self.introduction(key))).await?;
                Ok(introduction.hello.node)
            }
            Err(refusal) => {
                send(stream, &Answer::Refused(refusal.clone())).await?;
                Err(refusal)
            }
        }
    }

    /// Introduces this node to another one.
    async fn greet(&self, key: PeerId, node: u8, stream: &mut Stream) -> Result<(), String> {
        send(stream, &self.introduction(key)).await?;
        match receive(stream).await? {
            Answer::Welcome(introduction) if introduction.hello.node == node => {
                self.check(key, &introduction)
            }
            Answer::Welcome(introduction) => {
                let other = introduction.hello.node;
                Err(format!("node {other} answers at the address of node {node} (cluster.peers)"))
            }
            Answer::Refused(what) => Err(format!("node {node} refuses this node: {what}")),
        }
    }
}

async fn send(stream: &mut Stream, message: &impl serde::Serialize) -> Result<(), String> {
    let body = serde_json::to_vec(message).map_err(|error| error.to_string())?;
    let frame = Frame { kind: FrameKind::Hello, group: 0, body: body.into() };
    frame.write(stream).await.map_err(|error| error.to_string())
}

async fn receive<T: serde::de::DeserializeOwned>(stream: &mut Stream) -> Result<T, String> {
    let frame = Frame::read_up_to(HELLO_MAX_BYTES, stream).await.map_err(|e| e.to_string())?;
    if frame.kind != FrameKind::Hello {
        return Err("a lane that does not begin with an introduction".into());
    }
    serde_json::from_slice(&frame.body).map_err(|error| error.to_string())
}

/// Keeps the lane to one node open.
struct Connector {
    shared: Arc<Shared>,
    lanes: Arc<Lanes>,
    control: Control,
    dials: Dials,
    node: u8,
    address: String,
    /// The last failure that was told: it is told once, however often it comes.
    told: Option<String>,
}

impl Connector {
    async fn run(mut self) {
        let mut again = AGAIN_LEAST;
        loop {
            match timeout(2 * PATIENCE, self.connect()).await {
                Ok(Ok(stream)) => {
                    again = AGAIN_LEAST;
                    self.told = None;
                    let (sender, receiver) = lane();
                    self.lanes.set(self.node, Some(sender));
                    tracing::info!(node = self.node, address = %self.address, "connected to node");
                    if self.shared.events.send(PeerEvent::Connected(self.node)).await.is_err() {
                        return;
                    }
                    let error = carry(stream, receiver).await;
                    self.lanes.set(self.node, None);
                    tracing::warn!(node = self.node, %error, "lost the connection to node");
                    if self.shared.events.send(PeerEvent::Lost(self.node)).await.is_err() {
                        return;
                    }
                }
                Ok(Err(error)) => self.tell(error),
                Err(_elapsed) => self.tell("it does not answer".into()),
            }
            sleep(again).await;
            again = (2 * again).min(AGAIN_MOST);
        }
    }

    fn tell(&mut self, error: String) {
        if self.told.as_ref() != Some(&error) {
            let (node, address) = (self.node, &self.address);
            tracing::warn!(node, %address, %error, "cannot connect to node; it is tried again");
            self.told = Some(error);
        }
    }

    async fn connect(&mut self) -> Result<Stream, String> {
        let found = tokio::net::lookup_host(&self.address).await;
        let addresses = found.map_err(|error| format!("{}: {error}", self.address))?;
        let mut failure = format!("{} has no address", self.address);
        for address in addresses {
            let (dialed, outcome) = oneshot::channel();
            let gone = || "the network task is gone".to_owned();
            self.dials.send((multiaddr(address), dialed)).await.map_err(|_| gone())?;
            match outcome.await.map_err(|_| gone())? {
                Ok(key) => {
                    let opened = self.control.open_stream(key, PROTOCOL).await;
                    let mut stream = opened.map_err(|error| error.to_string())?;
                    let greeted = self.shared.greet(key, self.node, &mut stream);
                    let greeted = timeout(PATIENCE, greeted).await;
                    greeted.map_err(|_| "the handshake took too long".to_owned())??;
                    return Ok(stream);
                }
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }
}

/// Writes what is in the lane until the stream breaks; answers why.
async fn carry(stream: Stream, mut lane: LaneReceiver) -> io::Error {
    let (mut reader, mut writer) = stream.split();
    let mut byte = [0];
    let mut bytes = Vec::new();
    let ended = |n: io::Result<usize>| match n {
        Ok(_) => io::Error::new(io::ErrorKind::ConnectionReset, "the other node closed it"),
        Err(error) => error,
    };
    loop {
        let first = tokio::select! {
            waiting = lane.recv() => waiting,
            n = reader.read(&mut byte) => return ended(n),
        };
        let Some(first) = first else { return io::ErrorKind::NotConnected.into() };
        bytes.clear();
        first.frame.encode(&mut bytes);
        drop(first);
        while bytes.len() < WRITE_BYTES
            && let Ok(next) = lane.try_recv()
        {
            next.frame.encode(&mut bytes);
        }
        let write = async {
            writer.write_all(&bytes).await?;
            writer.flush().await
        };
        if let Err(error) = write.await {
            return error;
        }
        bytes.shrink_to(4 * WRITE_BYTES);
    }
}
