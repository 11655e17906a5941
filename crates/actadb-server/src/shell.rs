//! `actadb shell`: type commands, read replies, watch events arrive.
//!
//! One loop takes lines from a terminal ([`prompt`]) or from a pipe, splits them as `redis-cli`
//! does, and has them carried out ([`session`]). What is known of commands comes from the catalog
//! ([`syntax`]); what is printed is made in [`output`].

mod interrupt;
mod output;
mod prompt;
mod session;
mod syntax;

use std::io::{self, BufRead, IsTerminal};
use std::process::ExitCode;

use actadb_protocol::framer::split_inline;
use clap::Args;

use crate::connect_args::ConnectArgs;
use crate::readable;
use interrupt::Interrupts;
use output::Output;
use prompt::{Prompt, Typed};
use session::{Outcome, Session};

/// Said of a line whose quotes do not balance, or stand inside of a word.
const UNBALANCED: &str = "ERR unbalanced quotes: put an argument that has quotes in it into '...'";

/// Arguments of `actadb shell`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
On a terminal: Tab completes commands and options, the rest of a command's arguments is shown
behind the cursor, `help` lists the commands. After ESUB and EPSUB events are printed as they
arrive, until Ctrl-C; with WINDOW, each is acknowledged when it is printed. Ctrl-C also gives up
waiting for a reply, as of ESCAN with BLOCK.

From a pipe: a command a line, no prompt; exit code 1 if any of them failed. Empty lines and lines
that begin with # are passed over.

Words are split at spaces. \"…\" knows \\n \\r \\t \\b \\a \\\\ \\\" \\xHH, '…' knows \\'.

With --json each reply, and each pushed event, is one line of JSON; an error is
{\"error\":…,\"code\":…}. Events have the fields of `actadb export`.

The history is kept in $XDG_STATE_HOME/actadb/history (~/.local/state/actadb/history), without
lines that begin with AUTH, HELLO or a space.")]
pub struct ShellArgs {
    #[command(flatten)]
    connect: ConnectArgs,
    /// Print each reply and each pushed event as one line of JSON
    #[arg(long)]
    json: bool,
}

/// What a line asks of the shell.
enum Line {
    Nothing,
    Clear,
    Exit,
    Help(Vec<String>),
    Command(Vec<bytes::Bytes>),
    Unbalanced,
}

/// Runs `actadb shell`.
pub async fn run(args: ShellArgs) -> ExitCode {
    let client = match args.connect.connect().await {
        Ok(client) => client,
        Err(error) => {
            eprintln!("actadb shell: {error}");
            return ExitCode::FAILURE;
        }
    };
    let output = Output::new(args.json);
    let interactive = io::stdin().is_terminal();
    let interrupts = match interactive {
        true => Interrupts::taken(),
        false => Ok(Interrupts::left()),
    };
    let interrupts = match interrupts {
        Ok(interrupts) => interrupts,
        Err(error) => {
            eprintln!("actadb shell: cannot listen for Ctrl-C: {error}");
            return ExitCode::FAILURE;
        }
    };
    let mut session = Session::new(args.connect.clone(), client, output, interrupts);
    let failed = match interactive {
        true => from_terminal(&mut session, &args.connect.address).await,
        false => from_pipe(&mut session).await,
    };
    match failed {
        Ok(false) => ExitCode::SUCCESS,
        Ok(true) => ExitCode::FAILURE,
        // Whoever read the output has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("actadb shell: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Commands as they are typed, until Ctrl-D or `exit`.
async fn from_terminal(session: &mut Session, address: &str) -> io::Result<bool> {
    let mut prompt = Prompt::open()?;
    session.greet().await?;
    loop {
        let shown = if session.is_connected() { address } else { "not connected" };
        let line = match prompt.read(&format!("{shown}> "))? {
            Typed::Line(line) => line,
            Typed::Abandoned => continue,
            Typed::End => return Ok(false),
        };
        match parse(line.as_bytes()) {
            Line::Nothing => {}
            Line::Clear => prompt.clear()?,
            Line::Exit => return Ok(false),
            Line::Help(words) => session.tell(&syntax::help(&words))?,
            Line::Unbalanced => session.tell_error(UNBALANCED)?,
            Line::Command(words) => {
                if session.execute(&words).await? == Outcome::Closed {
                    return Ok(false);
                }
            }
        }
    }
}

/// A command a line, until the end; whether any failed.
async fn from_pipe(session: &mut Session) -> io::Result<bool> {
    let mut failed = false;
    for line in io::stdin().lock().split(b'\n') {
        match parse(&line?) {
            Line::Nothing | Line::Clear => {}
            Line::Exit => break,
            Line::Help(words) => session.tell(&syntax::help(&words))?,
            Line::Unbalanced => {
                failed = true;
                session.tell_error(UNBALANCED)?;
            }
            Line::Command(words) => match session.execute(&words).await? {
                Outcome::Done => {}
                Outcome::Failed => failed = true,
                Outcome::Closed => break,
            },
        }
    }
    Ok(failed)
}

fn parse(line: &[u8]) -> Line {
    let line = line.trim_ascii();
    if line.is_empty() || line.starts_with(b"#") {
        return Line::Nothing;
    }
    let Some(words) = split_inline(line) else { return Line::Unbalanced };
    let is = |word: &str| words[0].eq_ignore_ascii_case(word.as_bytes());
    match words.len() {
        1 if is("clear") => Line::Clear,
        1 if is("exit") => Line::Exit,
        _ if is("help") => {
            let text = |word: &bytes::Bytes| readable::one_line(&String::from_utf8_lossy(word));
            Line::Help(words[1..].iter().map(text).collect())
        }
        _ => Line::Command(words),
    }
}
