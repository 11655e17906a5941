//! Nodes in one process, over real sockets.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use actadb_membership::members::Members;
use actadb_membership::record::{Hello, PROTOCOL_VERSION, Record, Shape};
use actadb_transport::frame::{Frame, FrameKind};
use actadb_transport::handshake::Secret;
use actadb_transport::lane::LaneKind;
use actadb_transport::libp2p_peers::Libp2p;
use actadb_transport::peers::{Admission, Network, PeerEvent, PeerTransport, Settings, Started};
use actadb_transport::sockets::SystemSockets;
use actadb_transport::tcp_peers::Tcp;
use bytes::Bytes;
use tokio::sync::mpsc::Receiver;
use tokio::time::{sleep, timeout};
use uuid::Uuid;

const SECRET: &[u8] = b"a secret of the tests";
const LONG: Duration = Duration::from_secs(20);

#[derive(Debug)]
struct Door(Mutex<Members>);

impl Admission for Door {
    fn introduce(&self) -> (Hello, Option<Record>) {
        let members = self.0.lock().expect("no panics");
        (members.hello().clone(), members.record().cloned())
    }

    fn admit(&self, hello: &Hello, _: Option<&Record>) -> Result<(), String> {
        self.0.lock().expect("no panics").admit(hello).map_err(|refusal| refusal.to_string())
    }
}

fn hello(node: u8) -> Hello {
    Hello {
        protocol: PROTOCOL_VERSION,
        version: "test".into(),
        node,
        shape: Shape { nodes: 2, partitions: 4, buckets: 1, segment_bytes: 1 << 20 },
        storage: Uuid::from_u128(u128::from(node) + 1),
        boot: 1,
        process: 1,
        history: Vec::new(),
        cluster: None,
        client_address: String::new(),
    }
}

fn networks() -> [Box<dyn Network>; 2] {
    [Box::new(Libp2p), Box::new(Tcp(SystemSockets))]
}

/// Two ports that were free a moment ago.
fn addresses() -> Vec<SocketAddr> {
    let free = |_| {
        let socket = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        socket.local_addr().expect("an address")
    };
    (0..2).map(free).collect()
}

async fn node(
    network: &dyn Network,
    number: u8,
    addresses: &[SocketAddr],
    secret: &[u8],
    hello: Hello,
) -> (Arc<dyn PeerTransport>, Receiver<PeerEvent>) {
    let settings = || Settings {
        identity: network.new_identity(),
        node: number,
        listen: addresses[usize::from(number)],
        peers: addresses.iter().map(ToString::to_string).collect(),
        secret: Secret::new(secret).expect("long enough"),
        admission: Arc::new(Door(Mutex::new(Members::new(hello.clone(), None)))),
    };
    // The socket of the life before is closed a moment after its last handle.
    let start = async {
        loop {
            match network.start(settings()).await {
                Ok(Started { peers, events, .. }) => return (peers, events),
                Err(_in_use) => sleep(Duration::from_millis(20)).await,
            }
        }
    };
    timeout(LONG, start).await.expect("starts")
}

async fn next(events: &mut Receiver<PeerEvent>) -> PeerEvent {
    timeout(LONG, events.recv()).await.expect("something happens").expect("the network lives")
}

fn frame(text: &'static str) -> Frame {
    Frame { kind: FrameKind::Replica, group: 7, body: Bytes::from_static(text.as_bytes()) }
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_find_each_other_again_after_one_was_gone() {
    for network in networks() {
        find_again(&*network).await;
    }
}

async fn find_again(network: &dyn Network) {
    let addresses = addresses();
    let (first, mut events) = node(network, 0, &addresses, SECRET, hello(0)).await;
    assert!(!first.send(1, LaneKind::Entries, frame("nobody is there")));
    for life in 1..3 {
        let hello = Hello { boot: life, process: life, ..hello(1) };
        let (second, mut others) = node(network, 1, &addresses, SECRET, hello).await;
        assert!(matches!(next(&mut events).await, PeerEvent::Connected(1)));
        assert!(matches!(next(&mut others).await, PeerEvent::Connected(0)));
        let large = Frame { body: Bytes::from(vec![7; 3 << 20]), ..frame("") };
        assert!(
            first.send(1, LaneKind::Entries, frame("one"))
                && first.send(1, LaneKind::Entries, large.clone())
        );
        assert!(second.send(0, LaneKind::Entries, frame("two")));
        assert!(matches!(next(&mut events).await, PeerEvent::Frame(1, f) if f == frame("two")));
        assert!(matches!(next(&mut others).await, PeerEvent::Frame(0, f) if f == frame("one")));
        assert!(matches!(next(&mut others).await, PeerEvent::Frame(0, f) if f == large));
        // However many entries wait, there is a place for what must not wait behind them.
        while first.send(1, LaneKind::Entries, large.clone()) {}
        assert!(first.send(1, LaneKind::Control, frame("now")));
        let now = async {
            while !matches!(next(&mut others).await, PeerEvent::Frame(0, f) if f == frame("now")) {}
        };
        timeout(LONG, now).await.expect("in time");
        // Every node says what its clock shows; here it is the same clock.
        let heard = async {
            while first.clock_ahead_ms(1).is_none() {
                sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(LONG, heard).await.expect("in time");
        let ahead = first.clock_ahead_ms(1).expect("just heard");
        assert!((-20_000..=0).contains(&ahead), "{ahead} ms");
        assert_eq!(first.clock_ahead_ms(0), None);
        drop((second, others));
        assert!(matches!(next(&mut events).await, PeerEvent::Lost(1)));
        assert!(!first.send(1, LaneKind::Entries, frame("it is gone")));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_know_the_secret_or_was_seen_later_is_not_let_in() {
    for network in networks() {
        not_let_in(&*network).await;
    }
}

async fn not_let_in(network: &dyn Network) {
    let addresses = addresses();
    let (first, mut events) = node(network, 0, &addresses, SECRET, hello(0)).await;
    let (stranger, mut theirs) =
        node(network, 1, &addresses, b"another secret of tests", hello(1)).await;
    let quiet = timeout(Duration::from_millis(700), events.recv()).await;
    assert!(quiet.is_err() && theirs.try_recv().is_err(), "nobody was let in");
    drop(stranger);

    let newer = Hello { boot: 9, ..hello(1) };
    let (second, _theirs) = node(network, 1, &addresses, SECRET, newer).await;
    assert!(matches!(next(&mut events).await, PeerEvent::Connected(1)));
    drop(second);
    assert!(matches!(next(&mut events).await, PeerEvent::Lost(1)));
    let (_copy, mut theirs) = node(network, 1, &addresses, SECRET, hello(1)).await;
    let quiet = timeout(Duration::from_millis(700), theirs.recv()).await;
    assert!(
        quiet.is_err() && !first.send(1, LaneKind::Entries, frame("an older start is not let in"))
    );
}
