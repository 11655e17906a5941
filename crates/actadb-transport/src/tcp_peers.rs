//! Peers over plain TCP, one connection per lane.
//!
//! Nothing is encrypted, and whoever can change what is on the wire can speak for a node: this is
//! for tests on simulated networks, and to measure what libp2p costs. Each end names itself with a
//! number that it draws for the connection, so a proof that was seen once is of no use again.

use std::io;
use std::time::Duration;

use futures::io::{AsyncReadExt, AsyncWriteExt};
use futures::stream::unfold;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::compat::{Compat, TokioAsyncReadCompatExt};
use uuid::Uuid;

use crate::mesh::{DIAL_PATIENCE, Dial, Link, Mesh};
use crate::peers::{Network, Settings, StartError, Started, Starting};
use crate::sockets::Sockets;

/// How long nothing is accepted after that failed: out of file descriptors, mostly.
const ACCEPT_AGAIN: Duration = Duration::from_millis(50);

/// A network of plain TCP over such sockets: neither encrypted nor proof against who sits between.
/// For tests and measurements.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tcp<S>(pub S);

impl<S: Sockets> Network for Tcp<S> {
    fn new_identity(&self) -> Vec<u8> {
        Vec::new()
    }

    fn start(&self, settings: Settings) -> Starting {
        Box::pin(start(self.0.clone(), settings))
    }
}

async fn start<S: Sockets>(sockets: S, settings: Settings) -> Result<Started, StartError> {
    let address = settings.listen;
    let (listener, listens_on) = sockets
        .bind(&address.to_string())
        .await
        .map_err(|error| StartError::Listen { address, what: error.to_string() })?;
    let incoming = unfold(listener, async |mut listener| {
        loop {
            match S::accept(&mut listener).await {
                Ok((stream, from)) => return Some((link(stream, from.to_string()), listener)),
                Err(error) => {
                    tracing::warn!(%error, "a connection of a node could not be accepted");
                    sleep(ACCEPT_AGAIN).await;
                }
            }
        }
    });
    let (peers, events) = Mesh::start(settings, Dialer(sockets), incoming, JoinSet::new());
    Ok(Started { peers, events, listens_on })
}

#[derive(Clone)]
struct Dialer<S>(S);

impl<S: Sockets> Dial for Dialer<S> {
    type Stream = Compat<S::Stream>;

    async fn dial(&mut self, address: &str) -> Result<Link<Self::Stream>, String> {
        let connect = async {
            let stream = self.0.connect(address).await.map_err(|error| error.to_string())?;
            link(stream, address.to_owned()).await
        };
        let connected = timeout(DIAL_PATIENCE, connect).await;
        connected.unwrap_or_else(|_| Err(format!("{address} does not answer")))
    }
}

/// Both ends say their numbers.
async fn link<S>(stream: S, who: String) -> Result<Link<Compat<S>>, String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let mut stream = stream.compat();
    let here = Uuid::new_v4().as_bytes().to_vec();
    let mut there = vec![0; here.len()];
    let exchange = async {
        stream.write_all(&here).await?;
        stream.flush().await?;
        stream.read_exact(&mut there).await
    };
    exchange.await.map_err(|error: io::Error| error.to_string())?;
    Ok(Link { stream, here, there, who })
}
