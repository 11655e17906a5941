//! The shell's connection: sends a command, prints what comes of it, follows subscriptions.

use std::io;

use bytes::Bytes;

use super::interrupt::{Interrupts, Waited};
use super::output::Output;
use crate::connect_args::ConnectArgs;
use crate::readable;
use crate::wire_client::{ClientError, Value, WireClient};

/// What became of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The server did it.
    Done,
    /// It answered an error, or nothing.
    Failed,
    /// The user ended the connection.
    Closed,
}

/// A connection that is made again when it is needed.
#[derive(Debug)]
pub(super) struct Session {
    connect: ConnectArgs,
    client: Option<WireClient>,
    output: Output,
    interrupts: Interrupts,
}

impl Session {
    pub(super) fn new(
        connect: ConnectArgs,
        client: WireClient,
        output: Output,
        interrupts: Interrupts,
    ) -> Self {
        Self { connect, client: Some(client), output, interrupts }
    }

    pub(super) fn is_connected(&self) -> bool {
        self.client.is_some()
    }

    /// Tells who is there.
    pub(super) async fn greet(&mut self) -> io::Result<()> {
        let Some(client) = &mut self.client else { return Ok(()) };
        let Ok(hello) = client.call(&[b"HELLO"]).await else { return Ok(()) };
        let text = |key| hello.get(key).and_then(Value::text).unwrap_or("?");
        let partitions = hello.get("num_partitions").and_then(Value::number).unwrap_or(0);
        self.output.remark(&format!(
            "{} {} at {}, {partitions} partitions. Type help for the commands, exit to leave.",
            text("server"),
            text("version"),
            self.connect.address
        ))
    }

    /// Carries out one command.
    pub(super) async fn execute(&mut self, words: &[Bytes]) -> io::Result<Outcome> {
        let is = |word: &str| words[0].eq_ignore_ascii_case(word.as_bytes());
        let client = self.client.take();
        self.interrupts.forget().await;
        let reply = match self.interrupts.wait(Self::ask(&self.connect, client, words)).await {
            Waited::For(Ok((client, reply))) => {
                // RESET leaves a connection that is not authenticated and speaks RESP2.
                self.client = Some(client).filter(|_| !is("RESET") && !is("QUIT"));
                reply
            }
            Waited::For(Err(error)) => {
                let outcome = self.lost(&error)?;
                if is("EAPPEND") || is("EMAPPEND") {
                    let hint = "(the append may have been carried out: look before you repeat it)";
                    self.output.remark(hint)?;
                }
                return Ok(outcome);
            }
            Waited::Interrupted => {
                let appends = is("EAPPEND") || is("EMAPPEND");
                let more = if appends { "; the append may still be carried out" } else { "" };
                self.below_interrupt(&format!("(gave up waiting{more})"))?;
                return Ok(Outcome::Failed);
            }
        };
        self.output.reply(&reply)?;
        match (&reply, reply.text()) {
            (Value::Error(_), _) => Ok(Outcome::Failed),
            _ if is("QUIT") => Ok(Outcome::Closed),
            (_, Some(id)) if is("ESUB") || is("EPSUB") => {
                let acknowledges = words.iter().any(|word| word.eq_ignore_ascii_case(b"WINDOW"));
                self.follow(id, acknowledges).await
            }
            _ => Ok(Outcome::Done),
        }
    }

    /// Sends a command over a connection that still stands, or over a new one.
    async fn ask(
        connect: &ConnectArgs,
        client: Option<WireClient>,
        words: &[Bytes],
    ) -> Result<(WireClient, Value), ClientError> {
        let mut client = match client {
            // A server that was started again is noticed before the command is on its way.
            Some(mut client) => match client.check().await {
                Ok(()) => client,
                Err(_) => {
                    eprintln!("(the connection was lost; connecting again)");
                    connect.connect().await?
                }
            },
            None => connect.connect().await?,
        };
        let words: Vec<&[u8]> = words.iter().map(Bytes::as_ref).collect();
        client.queue(&words);
        client.flush().await?;
        let reply = client.reply().await?;
        Ok((client, reply))
    }

    /// Prints what a subscription sends until Ctrl-C, or until it ends.
    async fn follow(&mut self, id: &str, acknowledges: bool) -> io::Result<Outcome> {
        self.output.remark("(events appear as they arrive; Ctrl-C ends)")?;
        let Some(mut client) = self.client.take() else { return Ok(Outcome::Failed) };
        let (mut events, mut unanswered) = (0_u64, 0_u64);
        loop {
            let value = match self.interrupts.wait(client.reply()).await {
                Waited::For(Ok(value)) => value,
                Waited::For(Err(error)) => return self.lost(&error),
                Waited::Interrupted => break,
            };
            let Value::Push(parts) = value else {
                unanswered = unanswered.saturating_sub(1);
                if let Value::Error(_) = value {
                    self.output.reply(&value)?;
                }
                continue;
            };
            self.output.push(&parts)?;
            // However fast events come, Ctrl-C is heard.
            tokio::task::yield_now().await;
            match parts.first().and_then(Value::text) {
                Some("closed") => {
                    // Replies to acknowledgements that are on their way are nobody else's.
                    let drained = self.interrupts.wait(drain(&mut client, unanswered)).await;
                    if let Waited::For(Ok(())) = drained {
                        self.client = Some(client);
                    }
                    return Ok(Outcome::Failed);
                }
                Some("message") => {
                    events += 1;
                    if let Some(cursor) = parts.get(2).and_then(Value::number)
                        && acknowledges
                    {
                        client.queue(&[b"EACK", id.as_bytes(), cursor.to_string().as_bytes()]);
                        unanswered += 1;
                    }
                }
                _ => {}
            }
        }
        client.queue(&[b"EUNSUB", id.as_bytes()]);
        if let Waited::For(Ok(())) = self.interrupts.wait(drain(&mut client, unanswered + 1)).await
        {
            self.client = Some(client);
        }
        self.below_interrupt(&format!("(ended after {events} events)"))?;
        Ok(Outcome::Done)
    }

    /// A text that the shell has itself.
    pub(super) fn tell(&self, told: &str) -> io::Result<()> {
        self.output.reply(&Value::Simple(told.to_owned()))
    }

    /// An error that the server did not send.
    pub(super) fn tell_error(&self, text: &str) -> io::Result<()> {
        self.output.reply(&Value::Error(text.to_owned()))
    }

    fn lost(&self, error: &ClientError) -> io::Result<Outcome> {
        match self.output.is_json() {
            true => self.tell_error(&format!("ERR {error}"))?,
            false => {
                let error = readable::one_line(&error.to_string());
                self.output.remark(&format!("(error) {error}"))?;
            }
        }
        Ok(Outcome::Failed)
    }

    /// The terminal shows ^C; what follows stands below it.
    fn below_interrupt(&self, remark: &str) -> io::Result<()> {
        self.output.remark(&format!("\n{remark}"))
    }
}

/// Reads so many replies; drops the pushes between them.
async fn drain(client: &mut WireClient, replies: u64) -> Result<(), ClientError> {
    client.flush().await?;
    for _ in 0..replies {
        while let Value::Push(_) = client.reply().await? {}
    }
    Ok(())
}
