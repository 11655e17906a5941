//! The line that is typed: editing, history, completion, and the arguments still to come.

use std::borrow::Cow;
use std::io;
use std::path::PathBuf;

use rustyline::completion::{Completer, Pair};
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::{Hint, Hinter};
use rustyline::history::DefaultHistory;
use rustyline::validate::Validator;
use rustyline::{CompletionType, Config, Context, Editor, Helper};

use super::syntax;

/// Lines kept of the history.
const HISTORY_LINES: usize = 10_000;

/// What the user did.
pub(super) enum Typed {
    Line(String),
    /// Ctrl-C: the line is not meant any more.
    Abandoned,
    /// Ctrl-D.
    End,
}

/// A line editor on the terminal.
pub(super) struct Prompt {
    editor: Editor<Assistant, DefaultHistory>,
    history: Option<PathBuf>,
}

impl Prompt {
    /// With the history of earlier sessions.
    pub(super) fn open() -> io::Result<Self> {
        let config = Config::builder()
            .max_history_size(HISTORY_LINES)
            .map_err(io_error)?
            .history_ignore_space(true)
            .completion_type(CompletionType::List)
            .completion_show_all_if_ambiguous(true)
            .build();
        let mut editor = Editor::with_config(config).map_err(io_error)?;
        editor.set_helper(Some(Assistant { columns: 80 }));
        let history = history_file();
        if let Some(path) = &history {
            if let Some(dir) = path.parent() {
                let _ = std::fs::create_dir_all(dir);
            }
            // The first session has none.
            let _ = editor.load_history(path);
        }
        Ok(Self { editor, history })
    }

    /// Reads a line, and remembers it unless it holds a password.
    pub(super) fn read(&mut self, prompt: &str) -> io::Result<Typed> {
        let columns = self.editor.dimensions().map_or(80, |(columns, _)| usize::from(columns));
        if let Some(assistant) = self.editor.helper_mut() {
            assistant.columns = columns.saturating_sub(prompt.chars().count());
        }
        match self.editor.readline(prompt) {
            Ok(line) => {
                if !syntax::is_secret(&line) {
                    self.remember(&line);
                }
                Ok(Typed::Line(line))
            }
            Err(ReadlineError::Interrupted) => Ok(Typed::Abandoned),
            Err(ReadlineError::Eof) => Ok(Typed::End),
            Err(error) => Err(io_error(error)),
        }
    }

    /// Each line at once: a session may end in any way, and others may run beside it.
    fn remember(&mut self, line: &str) {
        let added = self.editor.add_history_entry(line).unwrap_or(false);
        if let Some(path) = self.history.as_ref().filter(|_| added)
            && self.editor.append_history(path).is_err()
        {
            // There is no place to write to: the session keeps its own.
            self.history = None;
        }
    }

    /// An empty screen.
    pub(super) fn clear(&mut self) -> io::Result<()> {
        self.editor.clear_screen().map_err(io_error)
    }
}

fn history_file() -> Option<PathBuf> {
    let dir = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let state = dir("XDG_STATE_HOME").or_else(|| Some(dir("HOME")?.join(".local/state")));
    Some(state?.join("actadb").join("history"))
}

fn io_error(error: ReadlineError) -> io::Error {
    match error {
        ReadlineError::Io(error) => error,
        other => io::Error::other(other.to_string()),
    }
}

/// Knows the commands.
struct Assistant {
    /// Room behind the prompt.
    columns: usize,
}

impl Helper for Assistant {}
impl Validator for Assistant {}

impl Completer for Assistant {
    type Candidate = Pair;

    fn complete(
        &self,
        line: &str,
        position: usize,
        _: &Context<'_>,
    ) -> rustyline::Result<(usize, Vec<Pair>)> {
        let (start, words) = syntax::complete(&line[..position]);
        let pair = |word: String| Pair { replacement: format!("{word} "), display: word };
        Ok((start, words.into_iter().map(pair).collect()))
    }
}

/// Arguments still to come: to be read, not to be taken over.
struct Arguments(String);

impl Hint for Arguments {
    fn display(&self) -> &str {
        &self.0
    }

    fn completion(&self) -> Option<&str> {
        None
    }
}

impl Hinter for Assistant {
    type Hint = Arguments;

    fn hint(&self, line: &str, position: usize, _: &Context<'_>) -> Option<Arguments> {
        let hint = (position == line.len()).then(|| syntax::hint(line))??;
        // One that wraps makes the screen jump.
        let room = self.columns.checked_sub(line.chars().count() + 1)?;
        if hint.chars().count() <= room {
            return Some(Arguments(hint));
        }
        let cut: String = hint.chars().take(room.checked_sub(1)?).collect();
        Some(Arguments(cut + "…"))
    }
}

impl Highlighter for Assistant {
    fn highlight_hint<'h>(&self, hint: &'h str) -> Cow<'h, str> {
        Cow::Owned(format!("\x1b[90m{hint}\x1b[0m"))
    }
}
