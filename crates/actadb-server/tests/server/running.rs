//! Tools that run beside a test, line by line, and connections that a test can cut.

use std::io::{BufRead, BufReader, Lines, Write};
use std::net::SocketAddr;
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::{Receiver, channel};
use tokio::task::{AbortHandle, JoinSet};

/// The binary with some arguments, running.
pub(crate) struct Tool {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: Lines<BufReader<ChildStdout>>,
    stderr: Lines<BufReader<ChildStderr>>,
}

impl Tool {
    pub(crate) fn start(arguments: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_actadb"))
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        let stdout = BufReader::new(child.stdout.take().expect("piped")).lines();
        let stderr = BufReader::new(child.stderr.take().expect("piped")).lines();
        Self { stdin: child.stdin.take(), child, stdout, stderr }
    }

    /// Types a line.
    pub(crate) fn type_line(&mut self, line: &str) {
        let stdin = self.stdin.as_mut().expect("open");
        writeln!(stdin, "{line}").expect("it reads");
    }

    /// Waits for its next line.
    pub(crate) fn line(&mut self) -> String {
        self.stdout.next().expect("a line").expect("text")
    }

    /// Waits for its next line of complaints or remarks.
    pub(crate) fn remark(&mut self) -> String {
        self.stderr.next().expect("a line").expect("text")
    }

    /// Ends its input and waits: exit code, and what it still had to say.
    pub(crate) fn end(mut self) -> (i32, Vec<String>, Vec<String>) {
        drop(self.stdin.take());
        let stdout = self.stdout.by_ref().map_while(Result::ok).collect();
        let stderr = self.stderr.by_ref().map_while(Result::ok).collect();
        let status = self.child.wait().expect("gone");
        (status.code().unwrap_or(-1), stdout, stderr)
    }

    /// Ctrl-C.
    pub(crate) fn interrupt(&self) {
        let pid = self.child.id().to_string();
        Command::new("kill").args(["-INT", &pid]).status().expect("kill runs");
    }
}

impl Drop for Tool {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Passes connections on to a server until they are cut.
pub(crate) struct Proxy {
    pub(crate) address: String,
    /// Kept over a cut: whoever binds anew may find its port taken by another test.
    listener: Arc<TcpListener>,
    server: SocketAddr,
    accepting: AbortHandle,
    /// Closed when all that was passed on is gone.
    gone: Receiver<()>,
}

impl Proxy {
    pub(crate) async fn start(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let address = listener.local_addr().expect("bound").to_string();
        let listener = Arc::new(listener);
        let (accepting, gone) = pass_on(listener.clone(), server);
        Self { address, listener, server, accepting, gone }
    }

    /// Cuts all connections; new ones are passed on again.
    pub(crate) async fn cut(&mut self) {
        self.accepting.abort();
        assert_eq!(self.gone.recv().await, None);
        (self.accepting, self.gone) = pass_on(self.listener.clone(), self.server);
    }
}

fn pass_on(listener: Arc<TcpListener>, server: SocketAddr) -> (AbortHandle, Receiver<()>) {
    let (alive, gone) = channel(1);
    let accepting = tokio::spawn(async move {
        // Aborted together with this task.
        let mut connections = JoinSet::new();
        while let Ok((mut client, _)) = listener.accept().await {
            let alive = alive.clone();
            connections.spawn(async move {
                let mut onward = TcpStream::connect(server).await.expect("connects");
                let _ = tokio::io::copy_bidirectional(&mut client, &mut onward).await;
                drop((client, onward, alive));
            });
        }
    });
    (accepting.abort_handle(), gone)
}
