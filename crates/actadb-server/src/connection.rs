//! One connection: reads requests, carries them out in runs, writes answers in order.
//!
//! The commands of a run (appends, or others) are in flight together, or answered at once, if they
//! need not wait; a run starts when the one before is answered. So a pipeline of appends shares its
//! syncs, and a command sees all that its connection sent before it and nothing that it sent after.

mod others;

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::time::Duration;

use actadb::model::outcome::Unknown;
use actadb::model::transaction::Transaction;
use actadb::subscriptions::Arrival;
use actadb_protocol::catalog;
use actadb_protocol::error::{Code, ErrorReply};
use actadb_protocol::framer::{Framer, Limits, ProtocolError, Word};
use actadb_protocol::reply::{Protocol, Reply};
use actadb_protocol::request::{self, Request};
use smallvec::SmallVec;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::answer::Context;
use crate::following::Following;
use crate::session::Session;
use crate::socket::Socket;

/// Commands of one connection in flight together.
const COMMANDS_MAX: usize = 4096;
/// Bytes of requests of one connection in flight together.
const REQUEST_BYTES_MAX: usize = 8 << 20;
/// Answers are written when they have come to this much, or at the end of a batch.
const WRITE_BYTES: usize = 256 << 10;
/// A connection this small is not closed for what all together hold.
const HELD_FREE_BYTES: usize = 64 << 10;

/// Why a connection ends.
#[derive(Debug)]
enum End {
    /// The client left, or was told to.
    Closed,
    /// It does not take its replies, or the socket failed.
    Io(io::Error),
    /// It sent something that is not a request.
    Protocol(ProtocolError),
}

impl From<io::Error> for End {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// What a connection that waits for requests gets.
enum Event {
    /// So many bytes.
    Read(usize),
    /// Something that it follows.
    Arrived(Arrival),
}

/// A request, or why it is none.
type Parsed = Result<Request, ErrorReply>;

fn parse(words: &[Word<'_>], session: &Session, context: &Context) -> Parsed {
    let command = words.first().and_then(|name| catalog::position(name));
    if let Some(at) = command {
        context.registry.count_command(at);
    }
    let request = match request::parse_command(command, words) {
        // Nobody learns the grammar before the password.
        Err(_) if !session.is_authenticated() => {
            return Err(ErrorReply::new(Code::NoAuth, "Authentication required."));
        }
        parsed => parsed?,
    };
    session.admit(&request)?;
    Ok(request)
}

/// A connection being served.
pub struct Connection<S> {
    socket: Socket<S>,
    framer: Framer,
    limits: Limits,
    session: Session,
    following: Following,
    context: Context,
    stopping: watch::Receiver<bool>,
    /// Names this connection to the partitions, which keep the order of its appends.
    order: u64,
    held: usize,
}

impl<S> Drop for Connection<S> {
    /// However it ends, its place and what it held come back.
    fn drop(&mut self) {
        self.context.registry.held_bytes.fetch_sub(self.held, Ordering::Relaxed);
        self.context.registry.disconnect(self.session.id());
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    /// A connection on an accepted stream.
    pub fn new(
        stream: S,
        session: Session,
        context: Context,
        stopping: watch::Receiver<bool>,
    ) -> Self {
        let limits = context.settings.framer_limits();
        let order = context.database.connection();
        let patience = Duration::from_millis(context.settings.network.write_timeout_ms);
        let now = if session.is_authenticated() { limits } else { limits.unauthenticated() };
        Self {
            socket: Socket::new(stream, patience),
            framer: Framer::new(now),
            limits,
            session,
            following: Following::default(),
            context,
            stopping,
            order,
            held: 0,
        }
    }

    /// Serves it until it ends.
    pub async fn run(mut self) {
        let mut stopping = self.stopping.clone();
        // Made once: it keeps its place among the waiters from read to read.
        let stopped = std::pin::pin!(async move {
            let _ = stopping.wait_for(|stopping| *stopping).await;
        });
        let mut stopped = stopped;
        let end = loop {
            if let Err(end) = self.turn(stopped.as_mut()).await {
                break end;
            }
        };
        match end {
            End::Protocol(error) => {
                let error = ErrorReply::new(Code::Err, error.to_string());
                self.context.write_error(error, self.session.protocol(), &mut self.socket.out);
                let _ = self.flush().await;
            }
            End::Io(error) => {
                tracing::debug!(connection = self.session.id(), %error, "connection failed");
            }
            End::Closed => {
                if *self.stopping.borrow() {
                    // Every subscription has just said so, and is at its end.
                    self.following.write_rest(&mut self.socket.out);
                }
                self.following.clear();
                let _ = self.flush().await;
            }
        }
        self.socket.shutdown().await;
    }

    /// Reads what is there and carries it out.
    async fn turn(&mut self, stopped: Pin<&mut impl Future<Output = ()>>) -> Result<(), End> {
        self.read(stopped).await?;
        loop {
            let mut commands = 0;
            let batch = self.next_batch(&mut commands);
            self.session.count(commands);
            let (batch, bad) = match batch {
                Ok(batch) => (batch, None),
                Err((batch, bad)) => (batch, Some(bad)),
            };
            let more = !batch.is_empty();
            let ends = self.perform(batch).await?;
            self.write_arrived();
            self.flush().await?;
            if let Some(bad) = bad {
                return Err(End::Protocol(bad));
            }
            if ends {
                return Err(End::Closed);
            }
            // Nearly always all was there at once.
            if !more || self.framer.is_empty() {
                return self.check_held();
            }
        }
    }

    /// Waits for requests; meanwhile writes what subscriptions send.
    async fn read(&mut self, mut stopped: Pin<&mut impl Future<Output = ()>>) -> Result<(), End> {
        let n = loop {
            let wants = self.framer.wants();
            // Whoever follows something may be silent, as in Redis.
            let idle = match self.following.is_idle() {
                true => self.context.settings.network.idle_timeout_ms,
                false => 0,
            };
            let follows = !self.following.is_idle();
            let read = async {
                // Whoever always has something to say would not hear that the server stops.
                if self.stopping.has_changed().unwrap_or(true) {
                    return Ok(Event::Read(0));
                }
                if !follows {
                    return tokio::select! {
                        biased;
                        read = self.socket.read(self.framer.buffer(), wants, REQUEST_BYTES_MAX) => {
                            read.map(Event::Read)
                        }
                        () = stopped.as_mut() => Ok(Event::Read(0)),
                    };
                }
                tokio::select! {
                    read = self.socket.read(self.framer.buffer(), wants, REQUEST_BYTES_MAX) => {
                        read.map(Event::Read)
                    }
                    arrival = self.following.next() => Ok(Event::Arrived(arrival)),
                    () = stopped.as_mut() => Ok(Event::Read(0)),
                }
            };
            let event = match idle {
                0 => read.await?,
                idle => match timeout(Duration::from_millis(idle), read).await {
                    Ok(read) => read?,
                    Err(_elapsed) => return Err(End::Closed),
                },
            };
            match event {
                Event::Read(n) => break n,
                Event::Arrived(arrival) => {
                    let before = self.framer.held_bytes();
                    self.push(arrival).await?;
                    // Requests that came while it wrote are in the framer already: the socket
                    // has nothing more to say about them.
                    match self.framer.held_bytes().saturating_sub(before) {
                        0 => {}
                        n => break n,
                    }
                }
            }
        };
        if n == 0 {
            return Err(End::Closed);
        }
        self.check_held()
    }

    /// Ends the connection that makes all together hold too much. Looked at after a read, and after
    /// what was read is cut into arguments, which take more than their bytes.
    fn check_held(&mut self) -> Result<(), End> {
        let held = self.framer.held_bytes();
        let total = self.account(held);
        if total > self.context.settings.network.request_memory_bytes && held > HELD_FREE_BYTES {
            let text = "all connections together hold too many bytes of requests";
            return Err(End::Protocol(ProtocolError(text.into())));
        }
        Ok(())
    }

    /// Writes what subscriptions have sent.
    async fn push(&mut self, arrival: Arrival) -> Result<(), End> {
        self.following.write(arrival, WRITE_BYTES, &mut self.socket.out);
        self.flush().await
    }

    /// Writes what subscriptions have sent meanwhile, if there is room.
    fn write_arrived(&mut self) {
        if !self.following.is_idle() {
            self.following.write_ready(WRITE_BYTES, &mut self.socket.out);
        }
    }

    /// Waits for the answer of something; meanwhile writes what subscriptions send. What `blocks`
    /// may take for ever: it ends when the connection does, so the socket is listened to, and what
    /// is sent behind such a command has a limit.
    async fn meanwhile<T>(
        &mut self,
        work: impl Future<Output = T>,
        blocks: bool,
    ) -> Result<T, End> {
        let mut work = std::pin::pin!(work);
        loop {
            let wants = self.framer.wants();
            tokio::select! {
                biased;
                answer = work.as_mut() => return Ok(answer),
                arrival = self.following.next() => self.push(arrival).await?,
                read = self.socket.read(self.framer.buffer(), wants, REQUEST_BYTES_MAX),
                    if blocks =>
                {
                    if read? == 0 {
                        return Err(End::Closed);
                    }
                    self.check_held()?;
                    if self.framer.held_bytes() >= REQUEST_BYTES_MAX {
                        let text = "too many bytes of requests behind one that waits";
                        return Err(End::Protocol(ProtocolError(text.into())));
                    }
                }
            }
        }
    }

    /// Tells how much this connection holds; answers how much all hold.
    fn account(&mut self, held: usize) -> usize {
        let total = &self.context.registry.held_bytes;
        let before = std::mem::replace(&mut self.held, held);
        if held == before {
            return total.load(Ordering::Relaxed);
        }
        if held > before {
            total.fetch_add(held - before, Ordering::Relaxed) + (held - before)
        } else {
            total.fetch_sub(before - held, Ordering::Relaxed) - (before - held)
        }
    }

    /// Requests to be carried out before the next one is looked at: up to a limit, and up to one
    /// that changes the connection.
    fn next_batch(
        &mut self,
        commands: &mut u64,
    ) -> Result<VecDeque<Parsed>, (VecDeque<Parsed>, ProtocolError)> {
        let mut batch = VecDeque::new();
        let mut bytes = 0;
        while batch.len() < COMMANDS_MAX && bytes < REQUEST_BYTES_MAX && !self.framer.is_empty() {
            let words = match self.framer.step() {
                Ok(Some(words)) => words,
                Ok(None) => break,
                Err(error) => return Err((batch, error)),
            };
            *commands += 1;
            bytes += words.iter().map(|word| word.len()).sum::<usize>();
            let parsed = parse(&words, &self.session, &self.context);
            drop(words);
            let alone = parsed.as_ref().is_ok_and(Request::runs_alone);
            // Nearly always there is one.
            if batch.is_empty() && self.framer.is_empty() {
                batch.reserve_exact(1);
            }
            batch.push_back(parsed);
            if alone {
                break;
            }
        }
        Ok(batch)
    }

    /// Carries out a batch, run by run. Answers whether the connection ends.
    async fn perform(&mut self, mut batch: VecDeque<Parsed>) -> Result<bool, End> {
        let mut since = None;
        while let Some(parsed) = batch.pop_front() {
            match parsed {
                Err(error) => {
                    self.context.write_error(error, self.session.protocol(), &mut self.socket.out);
                }
                Ok(request) if request.runs_alone() => {
                    let quits = matches!(request, Request::Quit);
                    let reply = self.perform_alone(request).await;
                    if let Reply::Error(error) = &reply {
                        self.context.registry.count_error(error.code);
                    }
                    reply.write(self.session.protocol(), &mut self.socket.out);
                    let authenticated = self.session.is_authenticated();
                    self.framer.set_limits(match authenticated {
                        true => self.limits,
                        false => self.limits.unauthenticated(),
                    });
                    if quits {
                        return Ok(true);
                    }
                }
                Ok(Request::Append(first)) => self.appends(first, false, &mut batch).await?,
                Ok(Request::AppendMany(first)) => self.appends(first, true, &mut batch).await?,
                Ok(first) => self.others(first, &mut batch, &mut since).await?,
            }
            if self.socket.out.len() >= WRITE_BYTES {
                self.flush().await?;
            }
        }
        Ok(false)
    }

    /// Carries out a command that runs alone.
    async fn perform_alone(&mut self, request: Request) -> Reply {
        let protocol = self.session.protocol();
        match request {
            Request::SubscribeStreams(_)
            | Request::SubscribePartitions(_)
            | Request::Acknowledge(..)
            | Request::Unsubscribe(_) => {
                Box::pin(self.following.perform(request, protocol, &self.context.database)).await
            }
            request => {
                let resets = matches!(request, Request::Reset);
                let reply = self.session.perform(request);
                // Without RESP3 there are no pushes.
                if resets || self.session.protocol() == Protocol::Resp2 {
                    self.following.clear();
                }
                reply
            }
        }
    }

    /// A run of appends: one message per partition, answered in order.
    async fn appends(
        &mut self,
        first: Transaction,
        many: bool,
        batch: &mut VecDeque<Parsed>,
    ) -> Result<(), End> {
        let mut transactions = vec![first];
        let mut answers: SmallVec<[Result<bool, ErrorReply>; 1]> = SmallVec::new();
        answers.push(Ok(many));
        while let Some(next) = batch.front() {
            // A bad command among appends is answered in its place and ends nothing.
            if !matches!(next, Ok(Request::Append(_) | Request::AppendMany(_)) | Err(_)) {
                break;
            }
            match batch.pop_front() {
                Some(Ok(Request::Append(transaction))) => {
                    transactions.push(transaction);
                    answers.push(Ok(false));
                }
                Some(Ok(Request::AppendMany(transaction))) => {
                    transactions.push(transaction);
                    answers.push(Ok(true));
                }
                Some(Err(error)) => answers.push(Err(error)),
                _ => break,
            }
        }
        if batch.is_empty() {
            // Hundreds of connections wait here: the next one finds its room in the processor's
            // cache.
            *batch = VecDeque::new();
        }
        let protocol = self.session.protocol();
        let results = if self.following.is_idle() {
            self.context.database.append_run(self.order, transactions).await
        } else {
            let (database, order) = (self.context.database.clone(), self.order);
            let mut results = Box::pin(database.append_run(order, transactions));
            self.meanwhile(results.as_mut(), false).await?
        };
        let mut results = results.into_iter();
        for answer in answers {
            match (answer, &mut results) {
                (Err(error), _) => self.context.write_error(error, protocol, &mut self.socket.out),
                (Ok(many), results) => {
                    // One result per transaction; a missing one must not shift the others.
                    let result = results.next().unwrap_or(Err(Unknown::Uncertain.into()));
                    self.context.write_append(result, many, protocol, &mut self.socket.out);
                }
            }
        }
        Ok(())
    }

    /// Writes what has gathered, reading on meanwhile.
    async fn flush(&mut self) -> Result<(), End> {
        if self.socket.out.is_empty() {
            // The last of it may have been pushed.
            self.socket.give_back();
            return Ok(());
        }
        // What is read meanwhile comes out of what all connections together may still hold.
        let all = self.context.registry.held_bytes.load(Ordering::Relaxed);
        let left = self.context.settings.network.request_memory_bytes.saturating_sub(all);
        let limit = self.limits.request_bytes.min(left);
        self.socket.flush(self.framer.buffer(), limit).await?;
        self.account(self.framer.held_bytes());
        Ok(())
    }
}
