//! What a lane carries between two nodes in one process over loopback, what that costs, and how
//! long a frame takes there and back, over each kind of network. The rounds of the kinds alternate;
//! medians are told.
//!
//! `cargo bench -p actadb-benches --bench peers`

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::{Duration, Instant};

use actadb_membership::record::{Hello, PROTOCOL_VERSION, Record, Shape};
use actadb_transport::frame::{Frame, FrameKind};
use actadb_transport::handshake::Secret;
use actadb_transport::lane::LaneKind;
use actadb_transport::libp2p_peers::Libp2p;
use actadb_transport::peers::{Admission, Network, PeerEvent, Settings, Started};
use actadb_transport::sockets::SystemSockets;
use actadb_transport::tcp_peers::Tcp;
use bytes::Bytes;
use rustix::time::{ClockId, clock_gettime};
use uuid::Uuid;

/// Bytes that are carried in one round.
const ROUND_BYTES: usize = 1 << 30;
const ROUNDS: usize = 5;
/// An entry of one append, of a busy group commit, and of catching up.
const FRAMES: [usize; 3] = [512, 64 << 10, 1 << 20];
/// Frames that go there and back, one after the other.
const ROUND_TRIPS: usize = 5000;

/// Everyone is let in.
#[derive(Debug)]
struct Open(u8);

impl Admission for Open {
    fn introduce(&self) -> (Hello, Option<Record>) {
        let shape = Shape { nodes: 2, partitions: 1, buckets: 1, segment_bytes: 1 << 20 };
        let hello = Hello {
            protocol: PROTOCOL_VERSION,
            version: "bench".into(),
            node: self.0,
            shape,
            storage: Uuid::from_u128(u128::from(self.0)),
            boot: 1,
            process: 1,
            history: Vec::new(),
            cluster: None,
            client_address: String::new(),
        };
        (hello, None)
    }

    fn admit(&self, _: &Hello, _: Option<&Record>) -> Result<(), String> {
        Ok(())
    }
}

async fn two(network: &dyn Network) -> (Started, Started) {
    let free = |_| {
        let socket = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        socket.local_addr().expect("an address")
    };
    let addresses: Vec<SocketAddr> = (0..2).map(free).collect();
    let settings = |node: u8| Settings {
        identity: network.new_identity(),
        node,
        listen: addresses[usize::from(node)],
        peers: addresses.iter().map(ToString::to_string).collect(),
        secret: Secret::new(b"a secret of the benches").expect("long enough"),
        admission: Arc::new(Open(node)),
    };
    let first = network.start(settings(0)).await.expect("starts");
    let second = network.start(settings(1)).await.expect("starts");
    (first, second)
}

/// Seconds of both cores that this process has used.
fn cpu() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

async fn connected(first: &Started, second: &Started) {
    while !first.peers.is_connected(1) || !second.peers.is_connected(0) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn next_frame(started: &mut Started) -> Frame {
    loop {
        match started.events.recv().await {
            Some(PeerEvent::Frame(_, frame)) => return frame,
            Some(_) => {}
            None => panic!("the network is gone"),
        }
    }
}

/// Microseconds that a frame takes there and back, the median.
async fn round_trip(network: &dyn Network) -> f64 {
    let (mut first, mut second) = two(network).await;
    connected(&first, &second).await;
    let echo = tokio::spawn(async move {
        for _ in 0..ROUND_TRIPS {
            let frame = next_frame(&mut second).await;
            assert!(second.peers.send(0, LaneKind::Entries, frame), "there is a place");
        }
        second
    });
    let frame = Frame { kind: FrameKind::Replica, group: 0, body: Bytes::from(vec![7; 512]) };
    let mut times = Vec::new();
    for _ in 0..ROUND_TRIPS {
        let began = Instant::now();
        assert!(first.peers.send(1, LaneKind::Entries, frame.clone()), "there is a place");
        next_frame(&mut first).await;
        times.push(began.elapsed().as_secs_f64() * 1e6);
    }
    drop(echo.await);
    median(times)
}

/// One round; answers MB/s and seconds of a core per GB.
async fn round(network: &dyn Network, frame_bytes: usize) -> (f64, f64) {
    let (first, mut second) = two(network).await;
    connected(&first, &second).await;
    let count = ROUND_BYTES / frame_bytes;
    let body = Bytes::from(vec![7; frame_bytes]);
    let frame = Frame { kind: FrameKind::Replica, group: 0, body };
    let (began, used) = (Instant::now(), cpu());
    let peers = first.peers.clone();
    let sender = tokio::spawn(async move {
        for _ in 0..count {
            while !peers.send(1, LaneKind::Entries, frame.clone()) {
                tokio::time::sleep(Duration::from_micros(200)).await;
            }
        }
    });
    let mut taken = 0;
    while taken < count {
        assert_eq!(next_frame(&mut second).await.body.len(), frame_bytes);
        taken += 1;
    }
    sender.await.expect("no panic");
    let bytes = (count * frame_bytes) as f64;
    (bytes / 1e6 / began.elapsed().as_secs_f64(), (cpu() - used) / (bytes / 1e9))
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() {
    // `cargo test --benches` asks whether it starts.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("starts");
    let networks: [(&str, Box<dyn Network>); 2] =
        [("libp2p", Box::new(Libp2p)), ("tcp", Box::new(Tcp(SystemSockets)))];
    let mut trips = [Vec::new(), Vec::new()];
    for _ in 0..ROUNDS {
        for (trips, (_, network)) in trips.iter_mut().zip(&networks) {
            trips.push(runtime.block_on(round_trip(&**network)));
        }
    }
    for (trips, (name, _)) in trips.into_iter().zip(&networks) {
        println!("there and back over {name}: {:.0} us", median(trips));
    }
    println!("{:>10} {:>8} {:>10} {:>14}", "frame", "network", "MB/s", "CPU s per GB");
    for frame_bytes in FRAMES {
        let mut rounds = [Vec::new(), Vec::new()];
        for _ in 0..ROUNDS {
            for (rounds, (_, network)) in rounds.iter_mut().zip(&networks) {
                rounds.push(runtime.block_on(round(&**network, frame_bytes)));
            }
        }
        for (rounds, (name, _)) in rounds.iter().zip(&networks) {
            let speed = median(rounds.iter().map(|(speed, _)| *speed).collect());
            let cost = median(rounds.iter().map(|(_, cost)| *cost).collect());
            println!("{frame_bytes:>10} {name:>8} {speed:>10.0} {cost:>14.2}");
        }
    }
}
