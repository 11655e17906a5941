//! Runs of commands that append nothing: answered at once while nothing waits.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use actadb::reads::Page;
use actadb_protocol::error::{Code, ErrorReply};
use actadb_protocol::event::{write_event, write_page_head};
use actadb_protocol::request::Request;
use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncWrite};

use super::{Connection, End, Parsed, WRITE_BYTES};
use crate::answer::Now;

/// Reads of one connection that wait together: each may answer 16 MiB.
const READS_MAX: usize = 4;
/// So much of a page is sent while the rest is written.
const PUSH_BYTES: usize = 32 << 10;
/// How long one connection may answer before the others have their turn.
const TURN: Duration = Duration::from_micros(200);

/// Whether it can run among other commands: no append, and nothing that changes the connection or
/// may wait for ever.
fn is_other(parsed: &Parsed) -> bool {
    let of_run = |request: &Request| {
        !request.runs_alone()
            && !request.blocks()
            && !matches!(request, Request::Append(_) | Request::AppendMany(_))
    };
    parsed.as_ref().is_ok_and(of_run)
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    /// A run of other commands, answered in order. Nearly always none of them waits. `since`: when
    /// this connection's turn began.
    pub(super) async fn others(
        &mut self,
        first: Request,
        batch: &mut VecDeque<Parsed>,
        since: &mut Option<Instant>,
    ) -> Result<(), End> {
        let protocol = self.session.protocol();
        let mut next = Some(first);
        while let Some(request) = next {
            match self.context.answer_now(request, protocol, &mut self.socket.out) {
                Now::Answered => {}
                Now::Page(page) => self.write_page(&page).await?,
                Now::Later(request) => {
                    // In a box, as every connection would have room for it all its life.
                    return Box::pin(self.waiting_others(request, batch)).await;
                }
            }
            if self.socket.out.len() >= WRITE_BYTES {
                self.flush().await?;
            }
            // However much one connection asks for at once.
            if !batch.is_empty() && since.get_or_insert_with(Instant::now).elapsed() >= TURN {
                self.write_arrived();
                tokio::task::yield_now().await;
                *since = None;
            }
            next = match batch.front().is_some_and(is_other) {
                true => batch.pop_front().and_then(Result::ok),
                false => None,
            };
        }
        Ok(())
    }

    /// Writes a page. The front of a long one is sent while the rest is written. Waits for nobody:
    /// a page may keep whole entries of the log in memory, and a slow client must not.
    async fn write_page(&mut self, page: &Page) -> Result<(), End> {
        let protocol = self.session.protocol();
        write_page_head(page.has_more, page.events.len(), protocol, &mut self.socket.out);
        let mut push_at = PUSH_BYTES;
        for event in &page.events {
            write_event(&event.as_ref(), protocol, &mut self.socket.out);
            if self.socket.out.len() >= push_at {
                self.socket.push().await?;
                push_at = self.socket.out.len() + PUSH_BYTES;
            }
        }
        Ok(())
    }

    /// A run of other commands of which the first may wait: a few in flight at once, answered in
    /// order.
    async fn waiting_others(
        &mut self,
        first: Request,
        batch: &mut VecDeque<Parsed>,
    ) -> Result<(), End> {
        let protocol = self.session.protocol();
        let blocks = first.blocks();
        if blocks || !batch.front().is_some_and(is_other) {
            if !blocks && self.following.is_idle() {
                // In a box, as those that wait for ever have room for it, too.
                Box::pin(self.context.answer(first, true, protocol, &mut self.socket.out)).await;
                return Ok(());
            }
            // What is answered already must not wait for what may take for ever.
            self.flush().await?;
            let context = self.context.clone();
            // Few wait so, and every connection would have room for it.
            let mut answer = Box::pin(async move {
                let mut out = BytesMut::new();
                context.answer(first, true, protocol, &mut out).await;
                out
            });
            let answer = self.meanwhile(answer.as_mut(), blocks).await?;
            self.socket.out.extend_from_slice(&answer);
            return Ok(());
        }
        let mut next = Some(first);
        // Of those that fly together only the first one was.
        let mut tried = true;
        let mut flying = VecDeque::new();
        loop {
            while flying.len() < READS_MAX {
                let request = match next.take() {
                    Some(request) => request,
                    None if batch.front().is_some_and(is_other) => match batch.pop_front() {
                        Some(Ok(request)) => request,
                        _ => break,
                    },
                    None => break,
                };
                let context = self.context.clone();
                let tried = std::mem::take(&mut tried);
                flying.push_back(tokio::spawn(async move {
                    let mut out = BytesMut::new();
                    context.answer(request, tried, protocol, &mut out).await;
                    out
                }));
            }
            let Some(answer) = flying.pop_front() else { return Ok(()) };
            match self.meanwhile(answer, false).await? {
                Ok(bytes) if self.socket.out.is_empty() => self.socket.out = bytes,
                Ok(bytes) => self.socket.out.extend_from_slice(&bytes),
                Err(_panicked) => {
                    let error = ErrorReply::new(Code::ReadErr, "the command failed inside");
                    self.context.write_error(error, protocol, &mut self.socket.out);
                }
            }
            if self.socket.out.len() >= WRITE_BYTES {
                self.flush().await?;
            }
        }
    }
}
