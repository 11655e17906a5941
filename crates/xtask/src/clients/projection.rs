//! The worked example `docs/examples/projection.py`, killed again and again while it projects a
//! repository's history, and compared with what `git log` tells.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use super::git_log;
use crate::dice::Dice;
use crate::programs;
use crate::server_process::{Home, ServerProcess, wait};

const KILLS: usize = 10;
/// When half of the kills are over, the second half of the history comes.
const REST_COMES: usize = KILLS / 2;
const PAGES_PATIENCE: Duration = Duration::from_millis(600);
const END_PATIENCE: Duration = Duration::from_secs(60);

/// A projection that follows, and the lines it prints: one behind every page.
struct Following {
    child: Child,
    pages: Receiver<String>,
}

impl Following {
    fn start(mut command: Command) -> Result<Self, String> {
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().map_err(|error| format!("{command:?}: {error}"))?;
        let (sender, pages) = channel();
        let stdout = child.stdout.take();
        thread::spawn(move || {
            let Some(stdout) = stdout else { return };
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        Ok(Self { child, pages })
    }

    /// Waits for so many pages, or for a while.
    fn wait_for(&self, wanted: u64) -> Result<u64, String> {
        let deadline = Instant::now() + PAGES_PATIENCE;
        for page in 0..wanted {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.pages.recv_timeout(left) {
                Ok(_) => {}
                Err(RecvTimeoutError::Timeout) => return Ok(page),
                Err(RecvTimeoutError::Disconnected) => {
                    return Err("projection.py ended by itself".into());
                }
            }
        }
        Ok(wanted)
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Follows from an empty table through kills at random moments to the end, and compares.
pub(super) fn check(
    home: &Home,
    server: &ServerProcess,
    python: &Path,
    repository: &Path,
    dice: &mut Dice,
) -> Result<(), String> {
    let wrong = |error: std::io::Error| format!("the lines to import: {error}");
    let (text, commits) = git_log::lines(repository)?;
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    let (half, all) = (home.scratch("half.jsonl"), home.scratch("all.jsonl"));
    std::fs::write(&half, lines[..commits / 2].concat()).map_err(wrong)?;
    std::fs::write(&all, &text).map_err(wrong)?;
    git_log::import(home, server, &half, commits / 2)?;

    let database = home.scratch("weeks.sqlite");
    let run = |options: &[&str]| {
        let mut command = Command::new(python);
        command.arg(programs::workspace().join("docs/examples/projection.py"));
        command.arg(&database).args(["--port", &server.address().port().to_string()]);
        command.args(options);
        command
    };
    let mut killed_after = Vec::new();
    for round in 0..KILLS {
        // Small pages, so that there are many moments between two of them.
        let following = Following::start(run(&["--count", "2"]))?;
        if round == REST_COMES {
            git_log::import(home, server, &all, commits)?;
        }
        // While it starts, or somewhere in the page behind the n-th.
        let pages = dice.between(0, 8);
        let moment = match pages {
            0 => dice.between(0, 400_000),
            _ => dice.between(0, 3_000),
        };
        killed_after.push(following.wait_for(pages)?.to_string());
        thread::sleep(Duration::from_micros(moment));
        // With SIGKILL.
        drop(following);
    }
    let mut last = run(&["--until-caught-up"]);
    last.stdin(Stdio::null()).stdout(Stdio::null());
    let mut last = last.spawn().map_err(|error| format!("{last:?}: {error}"))?;
    let status = wait(&mut last, END_PATIENCE);
    let _ = last.kill();
    if !status?.success() {
        return Err("projection.py --until-caught-up failed".into());
    }
    let mut compare = Command::new(python);
    compare.arg(programs::workspace().join("crates/xtask/python/projection_table.py"));
    let told = programs::output(compare.arg(&database).arg(repository))?;
    let (told, after) = (String::from_utf8_lossy(&told), killed_after.join(", "));
    println!("projection.py: {}; killed {KILLS} times, after pages {after}", told.trim());
    Ok(())
}
