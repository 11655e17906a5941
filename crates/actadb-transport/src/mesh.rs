//! Lanes to every other node over streams of any kind: connects, introduces, carries, and begins
//! anew when a lane breaks.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use actadb_model::limits::PEER_EVENTS;
use futures::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use futures::stream::{Stream, StreamExt};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep, timeout};

use crate::frame::{Frame, FrameKind};
use crate::handshake::{Answer, Introduction, Secret};
use crate::lane::{LaneKind, LaneReceiver, LaneSender, lane};
use crate::patient::Patient;
use crate::peers::{Admission, PeerEvent, PeerTransport, Settings};

/// How long it may take to connect to an address. The first packet may be lost: who waits for the
/// system to send it again, later each time, is late when a link has healed.
pub(crate) const DIAL_PATIENCE: Duration = Duration::from_secs(2);
/// How long a handshake may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);
/// How soon a node that could not be reached is tried again.
const AGAIN_LEAST: Duration = Duration::from_millis(100);
/// And how late.
const AGAIN_MOST: Duration = Duration::from_secs(2);
/// How often who hears a lane says that it does, in one beat: what its clock shows, in milliseconds
/// since 1970, as an `i64` in little-endian. And how soon who has nothing to send says so.
const BEAT_EVERY: Duration = Duration::from_secs(1);
/// How long either may say nothing before the lane is given up: a node that vanished without a
/// word, or a stream that carries one way only.
const BEAT_PATIENCE: Duration = Duration::from_secs(4);
const BEAT_BYTES: usize = 8;
/// Longest introduction.
const HELLO_MAX_BYTES: usize = 64 << 10;
/// Frames that wait are written together up to about this many bytes.
const WRITE_BYTES: usize = 256 << 10;
/// Small frames are read together up to about this many bytes.
const READ_BYTES: usize = 32 << 10;

/// What a lane runs on: reads and writes bytes in order.
pub(crate) trait Pipe: AsyncRead + AsyncWrite + Unpin + Send + 'static {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send + 'static> Pipe for T {}

/// A stream between this node and another, before the handshake.
pub(crate) struct Link<S> {
    pub(crate) stream: S,
    /// What names this end in proofs: nobody else can have it.
    pub(crate) here: Vec<u8>,
    /// What names the other end.
    pub(crate) there: Vec<u8>,
    /// Who is there, for the log.
    pub(crate) who: String,
}

/// Opens streams to other nodes.
pub(crate) trait Dial: Clone + Send + 'static {
    /// Its streams.
    type Stream: Pipe;

    /// Opens a stream to whoever answers at `host:port`. To connect to an address of the host may
    /// take no longer than [`DIAL_PATIENCE`].
    fn dial(
        &mut self,
        address: &str,
    ) -> impl Future<Output = Result<Link<Self::Stream>, String>> + Send;
}

/// The other nodes.
#[derive(Debug)]
pub(crate) struct Mesh {
    lanes: Arc<Lanes>,
    /// End with the last handle.
    tasks: Mutex<JoinSet<()>>,
}

impl PeerTransport for Mesh {
    fn send(&self, node: u8, lane: LaneKind, frame: Frame) -> bool {
        self.lanes.of(node, |open| open.is_some_and(|open| open.sender(lane).try_send(frame)))
    }

    fn is_idle(&self, lane: LaneKind) -> bool {
        let is_empty =
            |open: Option<&mut Open>| open.is_none_or(|open| open.sender(lane).is_empty());
        (0..self.lanes.0.len()).all(|node| self.lanes.of(node as u8, is_empty))
    }

    fn close(&self) {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner).abort_all();
        for node in 0..self.lanes.0.len() {
            self.lanes.set(node as u8, None);
        }
    }

    fn is_connected(&self, node: u8) -> bool {
        self.lanes.of(node, |open| open.is_some())
    }

    fn clock_ahead_ms(&self, node: u8) -> Option<i64> {
        self.lanes.of(node, |open| open?.clock_ahead_ms())
    }
}

impl Mesh {
    /// Keeps lanes to all nodes of `settings`, and takes what is incoming. `tasks` runs beside.
    pub(crate) fn start<D, I, L>(
        settings: Settings,
        dial: D,
        incoming: I,
        mut tasks: JoinSet<()>,
    ) -> (Arc<Self>, mpsc::Receiver<PeerEvent>)
    where
        D: Dial,
        I: Stream<Item = L> + Send + 'static,
        L: Future<Output = Result<Link<D::Stream>, String>> + Send + 'static,
    {
        let Settings { node, peers, secret, admission, .. } = settings;
        let (events, receiver) = mpsc::channel(PEER_EVENTS);
        let came: Vec<Arc<Notify>> = peers.iter().map(|_| Arc::default()).collect();
        let all_came = came.clone();
        let gate = Arc::new(Gate { secret, admission, events, came, refused: Mutex::new(None) });
        let lanes = Arc::new(Lanes(peers.iter().map(|_| Mutex::new(None)).collect()));
        tasks.spawn(accept(gate.clone(), incoming));
        for ((number, address), came) in peers.into_iter().enumerate().zip(all_came) {
            if number != usize::from(node) {
                let connector = Connector {
                    gate: gate.clone(),
                    lanes: lanes.clone(),
                    dial: dial.clone(),
                    node: number as u8,
                    came,
                    address,
                    told: None,
                };
                tasks.spawn(connector.run());
            }
        }
        (Arc::new(Self { lanes, tasks: Mutex::new(tasks) }), receiver)
    }
}

/// Beats that are compared to know another clock.
const CLOCKS: usize = 5;

/// The lanes to one node, open.
#[derive(Debug)]
struct Open {
    entries: LaneSender,
    control: LaneSender,
    /// How far the other clock was ahead at the last beats, in milliseconds.
    clocks_ahead_ms: VecDeque<i64>,
}

impl Open {
    fn sender(&self, lane: LaneKind) -> &LaneSender {
        match lane {
            LaneKind::Entries => &self.entries,
            LaneKind::Control => &self.control,
        }
    }

    /// A beat that was on its way for long makes the other clock seem behind, and none makes it
    /// seem ahead: the highest of some is nearest.
    fn clock_ahead_ms(&self) -> Option<i64> {
        self.clocks_ahead_ms.iter().copied().max()
    }
}

/// The lanes that are open, by number of the node.
#[derive(Debug)]
struct Lanes(Vec<Mutex<Option<Open>>>);

impl Lanes {
    fn of<T>(&self, node: u8, look: impl FnOnce(Option<&mut Open>) -> T) -> T {
        let Some(slot) = self.0.get(usize::from(node)) else { return look(None) };
        look(slot.lock().unwrap_or_else(PoisonError::into_inner).as_mut())
    }

    /// A node says what its clock shows.
    fn heard(&self, node: u8, clock: i64) {
        let ahead = clock.saturating_sub(clock_ms());
        self.of(node, |open| {
            if let Some(open) = open {
                open.clocks_ahead_ms.truncate(CLOCKS - 1);
                open.clocks_ahead_ms.push_front(ahead);
            }
        });
    }

    fn set(&self, node: u8, open: Option<Open>) {
        if let Some(slot) = self.0.get(usize::from(node)) {
            *slot.lock().unwrap_or_else(PoisonError::into_inner) = open;
        }
    }
}

fn clock_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    since.as_millis() as i64
}

/// Takes the lanes that other nodes open.
async fn accept<S, L>(gate: Arc<Gate>, incoming: impl Stream<Item = L>)
where
    S: Pipe,
    L: Future<Output = Result<Link<S>, String>> + Send + 'static,
{
    let mut incoming = std::pin::pin!(incoming);
    let mut lanes = JoinSet::new();
    loop {
        tokio::select! {
            link = incoming.next() => {
                let Some(link) = link else { return };
                lanes.spawn(listen_to(gate.clone(), link));
            }
            Some(_ended) = lanes.join_next() => {}
        }
    }
}

/// One lane of another node: the handshake, then its frames.
async fn listen_to<S: Pipe>(
    gate: Arc<Gate>,
    link: impl Future<Output = Result<Link<S>, String>> + Send,
) {
    let mut from = String::new();
    let welcome = async {
        let mut link = link.await?;
        from.clone_from(&link.who);
        Ok::<_, String>((gate.welcome(&mut link).await?, link.stream))
    };
    let (node, stream) = match timeout(PATIENCE, welcome).await {
        Ok(Ok(welcomed)) => {
            gate.tell_refusal(&from, None);
            if let Some(came) = gate.came.get(usize::from(welcomed.0)) {
                came.notify_one();
            }
            welcomed
        }
        Ok(Err(error)) => return gate.tell_refusal(&from, Some(error)),
        Err(_elapsed) => {
            tracing::debug!(%from, "a handshake took too long");
            return;
        }
    };
    let (reader, mut writer) = stream.split();
    // A frame is read in two pieces, and many are small.
    let mut reader = BufReader::with_capacity(READ_BYTES, Patient::new(reader, BEAT_PATIENCE));
    let frames = async {
        loop {
            match Frame::read(&mut reader).await {
                Ok(frame) if frame.kind == FrameKind::Beat => {}
                // When nobody takes events, the sender is slowed down by the socket.
                Ok(frame) => {
                    if gate.events.send(PeerEvent::Frame(node, frame)).await.is_err() {
                        return "nobody listens any more".into();
                    }
                }
                Err(error) => return error.to_string(),
            }
        }
    };
    let error = tokio::select! {
        error = frames => error,
        error = beat(&mut writer) => error.to_string(),
    };
    tracing::debug!(node, %error, "a lane ended");
}

/// Says every second that this end hears; answers why it cannot.
async fn beat(writer: &mut (impl AsyncWrite + Unpin)) -> io::Error {
    let mut every = interval_at(Instant::now() + BEAT_EVERY, BEAT_EVERY);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        every.tick().await;
        let write = async {
            writer.write_all(&clock_ms().to_le_bytes()).await?;
            writer.flush().await
        };
        if let Err(error) = write.await {
            return error;
        }
    }
}

/// Who is let in, and where what comes goes.
struct Gate {
    secret: Secret,
    admission: Arc<dyn Admission>,
    events: mpsc::Sender<PeerEvent>,
    /// By number of the node: it was let in, so it is there to be connected to.
    came: Vec<Arc<Notify>>,
    /// Why somebody was not let in the last time: who is refused comes again every two seconds.
    refused: Mutex<Option<String>>,
}

impl Gate {
    /// Tells why somebody was not let in, if that is news; `None`: somebody was.
    fn tell_refusal(&self, from: &str, error: Option<String>) {
        let mut last = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(error) = error.as_ref().filter(|error| last.as_ref() != Some(error)) {
            tracing::warn!(%from, %error, "a node was not let in");
        }
        *last = error;
    }

    fn introduction<S>(&self, link: &Link<S>) -> Introduction {
        let (hello, record) = self.admission.introduce();
        let proof = self.secret.proof(&link.here, &link.there);
        Introduction { proof, hello, record }
    }

    /// Whether who is at the other end is let in with this introduction.
    fn check<S>(&self, link: &Link<S>, introduction: &Introduction) -> Result<(), String> {
        // Who has this end's name can show it this end's own proof.
        if link.here == link.there {
            return Err("the other end calls itself as this one".into());
        }
        let Introduction { proof, hello, record } = introduction;
        if !self.secret.proves(proof, &link.there, &link.here) {
            return Err(format!(
                "node {} does not know the secret of this cluster (cluster.secret_file)",
                hello.node
            ));
        }
        self.admission.admit(hello, record.as_ref())
    }

    /// Answers an introduction.
    async fn welcome<S: Pipe>(&self, link: &mut Link<S>) -> Result<u8, String> {
        let introduction: Introduction = receive(&mut link.stream).await?;
        match self.check(link, &introduction) {
            Ok(()) => {
                let own = self.introduction(link);
                send(&mut link.stream, &Answer::Welcome(own)).await?;
                Ok(introduction.hello.node)
            }
            Err(refusal) => {
                send(&mut link.stream, &Answer::Refused(refusal.clone())).await?;
                Err(refusal)
            }
        }
    }

    /// Introduces this node to another one.
    async fn greet<S: Pipe>(&self, node: u8, link: &mut Link<S>) -> Result<(), String> {
        let own = self.introduction(link);
        send(&mut link.stream, &own).await?;
        match receive(&mut link.stream).await? {
            Answer::Welcome(introduction) if introduction.hello.node == node => {
                self.check(link, &introduction)
            }
            Answer::Welcome(introduction) => {
                let other = introduction.hello.node;
                Err(format!("node {other} answers at the address of node {node} (cluster.peers)"))
            }
            Answer::Refused(what) => Err(format!("node {node} refuses this node: {what}")),
        }
    }
}

async fn send<S: Pipe>(stream: &mut S, message: &impl serde::Serialize) -> Result<(), String> {
    let body = serde_json::to_vec(message).map_err(|error| error.to_string())?;
    let frame = Frame { kind: FrameKind::Hello, group: 0, body: body.into() };
    frame.write(stream).await.map_err(|error| error.to_string())
}

async fn receive<S: Pipe, T: serde::de::DeserializeOwned>(stream: &mut S) -> Result<T, String> {
    let frame = Frame::read_up_to(HELLO_MAX_BYTES, stream).await.map_err(|e| e.to_string())?;
    if frame.kind != FrameKind::Hello {
        return Err("a lane that does not begin with an introduction".into());
    }
    serde_json::from_slice(&frame.body).map_err(|error| error.to_string())
}

/// Keeps the lanes to one node open.
struct Connector<D> {
    gate: Arc<Gate>,
    lanes: Arc<Lanes>,
    dial: D,
    node: u8,
    /// It was let in: it is there to be connected to.
    came: Arc<Notify>,
    address: String,
    /// The last failure that was told: it is told once, however often it comes.
    told: Option<String>,
}

impl<D: Dial> Connector<D> {
    async fn run(mut self) {
        let mut again = AGAIN_LEAST;
        loop {
            match timeout(2 * PATIENCE, self.connect()).await {
                Ok(Ok([for_entries, for_control])) => {
                    again = AGAIN_LEAST;
                    self.told = None;
                    let ((entries, from_entries), (control, from_control)) = (lane(), lane());
                    let open = Open { entries, control, clocks_ahead_ms: VecDeque::new() };
                    self.lanes.set(self.node, Some(open));
                    tracing::info!(node = self.node, address = %self.address, "connected to node");
                    let (lanes, node) = (self.lanes.clone(), self.node);
                    let heard = move |clock: i64| lanes.heard(node, clock);
                    // Beside each other: while nobody takes events the lane must live on.
                    let tell = async {
                        let _ = self.gate.events.send(PeerEvent::Connected(node)).await;
                        std::future::pending().await
                    };
                    // One without the other is no connection.
                    let error = tokio::select! {
                        error = carry(for_entries, from_entries, |_| {}) => error,
                        error = carry(for_control, from_control, heard) => error,
                        error = tell => error,
                    };
                    self.lanes.set(self.node, None);
                    tracing::warn!(node = self.node, %error, "lost the connection to node");
                    if self.gate.events.send(PeerEvent::Lost(self.node)).await.is_err() {
                        return;
                    }
                }
                Ok(Err(error)) => self.tell(error),
                Err(_elapsed) => self.tell("it does not answer".into()),
            }
            // It may have come while its lanes were still open: never without a pause.
            sleep(AGAIN_LEAST).await;
            tokio::select! {
                () = sleep(again - AGAIN_LEAST) => again = (2 * again).min(AGAIN_MOST),
                () = self.came.notified() => again = AGAIN_LEAST,
            }
        }
    }

    fn tell(&mut self, error: String) {
        if self.told.as_ref() != Some(&error) {
            let (node, address) = (self.node, &self.address);
            tracing::warn!(node, %address, %error, "cannot connect to node; it is tried again");
            self.told = Some(error);
        }
    }

    /// A stream for each lane.
    async fn connect(&mut self) -> Result<[D::Stream; 2], String> {
        Ok([self.open().await?, self.open().await?])
    }

    async fn open(&mut self) -> Result<D::Stream, String> {
        let mut link = self.dial.dial(&self.address).await?;
        let greeted = timeout(PATIENCE, self.gate.greet(self.node, &mut link)).await;
        greeted.map_err(|_| "the handshake took too long".to_owned())??;
        Ok(link.stream)
    }
}

/// Writes what is in the lane until the stream breaks; answers why.
async fn carry<S: Pipe>(stream: S, lane: LaneReceiver, heard: impl FnMut(i64)) -> io::Error {
    let (reader, writer) = stream.split();
    // Apart from each other: a write that hangs must not keep the silence from being noticed.
    tokio::select! {
        error = write(writer, lane) => error,
        error = hear_beats(reader, heard) => error,
    }
}

async fn write(mut writer: impl AsyncWrite + Unpin, mut lane: LaneReceiver) -> io::Error {
    let beat = Frame { kind: FrameKind::Beat, group: 0, body: bytes::Bytes::new() };
    let mut bytes = Vec::new();
    loop {
        bytes.clear();
        match timeout(BEAT_EVERY, lane.recv()).await {
            Ok(Some(first)) => first.frame.encode(&mut bytes),
            Ok(None) => return io::ErrorKind::NotConnected.into(),
            Err(_idle) => beat.encode(&mut bytes),
        }
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

/// Tells what the other clock showed at each beat; answers why there are no more.
async fn hear_beats(reader: impl AsyncRead + Unpin, mut heard: impl FnMut(i64)) -> io::Error {
    let mut reader = Patient::new(reader, BEAT_PATIENCE);
    let mut beat = [0; BEAT_BYTES];
    loop {
        match reader.read_exact(&mut beat).await {
            Ok(()) => heard(i64::from_le_bytes(beat)),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                return io::Error::new(io::ErrorKind::ConnectionReset, "the other node closed it");
            }
            Err(error) => return error,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::io::Cursor;

    #[tokio::test(start_paused = true)]
    async fn beats_tell_a_clock_and_their_end_ends_the_lane() {
        let beats: Vec<u8> = [5_i64, -7].iter().flat_map(|clock| clock.to_le_bytes()).collect();
        let mut clocks = Vec::new();
        let ended = hear_beats(Cursor::new(&beats[..12]), |clock| clocks.push(clock)).await;
        assert_eq!((clocks, ended.kind()), (vec![5], io::ErrorKind::ConnectionReset));
        let (silent, _other) = tokio::io::duplex(64);
        let silent = tokio_util::compat::TokioAsyncReadCompatExt::compat(silent);
        let ended = hear_beats(silent, |_| panic!("nothing was said")).await;
        assert_eq!(ended.kind(), io::ErrorKind::TimedOut);
    }
}
