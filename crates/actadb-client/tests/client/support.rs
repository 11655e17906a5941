//! Servers, a proxy that cuts connections, and seeded dice.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, SystemTime};

use actadb_client::{Client, ClientOptions, Delivery, Event, Subscription};
use actadb_server::server::Server;
use actadb_server::settings::Settings;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// How long anything may take before a test is hopeless.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// A server on a directory and free ports.
pub(crate) async fn start(dir: &Path) -> Server {
    start_with(dir, |_| {}).await
}

/// The same with other settings.
pub(crate) async fn start_with(dir: &Path, change: impl FnOnce(&mut Settings)) -> Server {
    Server::start(settings(dir, change)).await.expect("the server starts")
}

/// Settings of a server on a directory and free ports.
pub(crate) fn settings(dir: &Path, change: impl FnOnce(&mut Settings)) -> Settings {
    let mut settings = Settings { dir: dir.join("data"), ..Settings::default() };
    settings.network.client_address = "127.0.0.1:0".into();
    settings.network.admin_address = String::new();
    settings.segment.size_bytes = 1 << 20;
    settings.bucket.count = 4;
    change(&mut settings);
    settings
}

/// The URL of an address.
pub(crate) fn url(address: SocketAddr) -> String {
    format!("redis://{address}")
}

/// A client of a server.
pub(crate) async fn connect(server: &Server) -> Client {
    Client::connect(url(server.client_address())).await.expect("connects")
}

/// A client that is quick to notice and slow to give up.
pub(crate) async fn connect_through(proxy: &Proxy) -> Client {
    let options = ClientOptions::new(url(proxy.address)).retry_timeout(PATIENCE);
    Client::connect_with(options).await.expect("connects")
}

/// The next delivery.
pub(crate) async fn next(subscription: &mut Subscription) -> Delivery {
    let next = tokio::time::timeout(PATIENCE, subscription.next()).await.expect("in time");
    next.expect("a delivery").expect("no error")
}

/// The next event; progresses are passed over.
pub(crate) async fn next_event(subscription: &mut Subscription) -> Event {
    loop {
        if let Some(event) = next(subscription).await.into_event() {
            return event;
        }
    }
}

/// Lets connections through, and cuts them.
pub(crate) struct Proxy {
    /// Where clients connect.
    pub(crate) address: SocketAddr,
    state: watch::Sender<State>,
    task: JoinHandle<()>,
}

#[derive(Clone, Copy)]
struct State {
    target: SocketAddr,
    cuts: u64,
    open: bool,
    mute: bool,
}

impl Proxy {
    pub(crate) async fn to(server: &Server) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let state = State { target: server.client_address(), cuts: 0, open: true, mute: false };
        let (state, states) = watch::channel(state);
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(serve(client, states.clone()));
            }
        });
        Self { address, state, task }
    }

    /// Cuts every connection there is.
    pub(crate) fn cut(&self) {
        self.state.send_modify(|state| state.cuts += 1);
    }

    /// How often it has cut.
    pub(crate) fn cuts(&self) -> u64 {
        self.state.borrow().cuts
    }

    /// Whether new connections get through; cuts all that are there.
    pub(crate) fn open(&self, open: bool) {
        self.state.send_modify(|state| (state.open, state.cuts) = (open, state.cuts + 1));
    }

    /// Whether answers are swallowed.
    pub(crate) fn mute(&self, mute: bool) {
        self.state.send_modify(|state| state.mute = mute);
    }

    /// Leads to another server from now on.
    pub(crate) fn retarget(&self, server: &Server) {
        let target = server.client_address();
        self.state.send_modify(|state| state.target = target);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(mut client: TcpStream, states: watch::Receiver<State>) {
    let State { target, cuts, open, .. } = *states.borrow();
    if !open {
        return;
    }
    let Ok(mut server) = TcpStream::connect(target).await else { return };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let mut is_cut = states.clone();
    let (mut from_client, mut to_client) = client.split();
    let (mut from_server, mut to_server) = server.split();
    let answers = async {
        let mut buffer = vec![0; 16 << 10];
        let mut mute = false;
        while let Ok(length @ 1..) = from_server.read(&mut buffer).await {
            // For good: bytes that are lost inside a connection never come back.
            mute |= states.borrow().mute;
            if !mute && to_client.write_all(&buffer[..length]).await.is_err() {
                break;
            }
        }
    };
    tokio::select! {
        _ = tokio::io::copy(&mut from_client, &mut to_server) => {}
        () = answers => {}
        _ = is_cut.wait_for(|state| state.cuts > cuts) => {}
    }
}

/// Dice that can be thrown again: `ACTADB_SEED` repeats a run.
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(test: &str) -> Self {
        let now = || {
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
            now.map_or(1, |since| since.as_nanos() as u64)
        };
        let seed = std::env::var("ACTADB_SEED").ok().and_then(|seed| seed.parse().ok());
        let seed = seed.unwrap_or_else(now);
        println!("{test}: ACTADB_SEED={seed}");
        Self(seed | 1)
    }

    /// 0 to `below` less one.
    pub(crate) fn below(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % below
    }
}

/// Cuts a proxy's connections at random moments until it is dropped.
pub(crate) struct Cutter(JoinHandle<()>);

impl Cutter {
    pub(crate) fn on(proxy: &std::sync::Arc<Proxy>, mut dice: Dice, longest_ms: u64) -> Self {
        let proxy = proxy.clone();
        Self(tokio::spawn(async move {
            loop {
                tokio::time::sleep(Duration::from_millis(1 + dice.below(longest_ms))).await;
                proxy.cut();
            }
        }))
    }
}

impl Drop for Cutter {
    fn drop(&mut self) {
        self.0.abort();
    }
}
