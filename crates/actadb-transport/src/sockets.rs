//! Where connections come from.

use std::fmt::Debug;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};

/// Where connections come from: the system's sockets, or those of a simulated network.
pub trait Sockets: Clone + Send + Sync + Debug + 'static {
    /// A connection.
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;
    /// What takes them.
    type Listener: Send + 'static;

    /// Listens at `host:port`, and says where that is.
    fn bind(
        &self,
        address: &str,
    ) -> impl Future<Output = io::Result<(Self::Listener, SocketAddr)>> + Send;

    /// The next connection, and who is there. Nothing is lost when the future is dropped.
    fn accept(
        listener: &mut Self::Listener,
    ) -> impl Future<Output = io::Result<(Self::Stream, SocketAddr)>> + Send;

    /// Connects to `host:port`.
    fn connect(&self, address: &str) -> impl Future<Output = io::Result<Self::Stream>> + Send;
}

/// Silence after which a connection is probed: who vanished without a word is noticed within
/// minutes, as in Redis.
const KEEPALIVE: Duration = Duration::from_secs(300);

/// Connections that may wait to be taken; the system may allow fewer (`net.core.somaxconn`). With
/// the 128 that the runtime asks for, whoever connects in a burst is not heard for a second.
const BACKLOG: i32 = 4096;

/// The sockets of the system.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemSockets;

impl Sockets for SystemSockets {
    type Stream = TcpStream;
    type Listener = TcpListener;

    async fn bind(&self, address: &str) -> io::Result<(TcpListener, SocketAddr)> {
        let listener = TcpListener::bind(address).await?;
        // Where a system does not take a longer queue later, the short one does.
        let _ = rustix::net::listen(&listener, BACKLOG);
        let address = listener.local_addr()?;
        Ok((listener, address))
    }

    async fn accept(listener: &mut TcpListener) -> io::Result<(TcpStream, SocketAddr)> {
        let (stream, from) = listener.accept().await?;
        let _ = stream.set_nodelay(true);
        let _ = rustix::net::sockopt::set_socket_keepalive(&stream, true);
        let _ = rustix::net::sockopt::set_tcp_keepidle(&stream, KEEPALIVE);
        Ok((stream, from))
    }

    async fn connect(&self, address: &str) -> io::Result<TcpStream> {
        let stream = TcpStream::connect(address).await?;
        let _ = stream.set_nodelay(true);
        Ok(stream)
    }
}
