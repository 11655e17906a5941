//! A repository made from a seed: many authors, so that many partitions have events.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::dice::Dice;
use crate::programs;

const COMMITS: u64 = 600;
/// Names that slugs must treat, and one that is spelt in two ways.
const AUTHORS: [&str; 12] = [
    "Ada Lovelace",
    "ada  lovelace",
    "Grace Hopper (she)",
    "Иван Петров",
    "Özge Ş.",
    "x",
    "---",
    "Edsger W. Dijkstra",
    "Barbara Liskov",
    "Tony Hoare",
    "Ken Thompson",
    "build-bot[2]",
];
/// The last days of a year, whose weeks belong to the next one.
const BEGIN: u64 = 1_735_300_000;
const STEP_MAX: u64 = 20_000;

/// Makes it in a new directory.
pub(super) fn make(dir: &Path, dice: &mut Dice) -> Result<(), String> {
    programs::output(Command::new("git").args(["init", "--quiet", "--bare"]).arg(dir))?;
    let git = |arguments: &[&str]| {
        let mut git = Command::new("git");
        git.args(["-c", "safe.directory=*", "-C"]).arg(dir).args(arguments);
        git
    };
    programs::output(&mut git(&["symbolic-ref", "HEAD", "refs/heads/made"]))?;
    let mut import = git(&["fast-import", "--quiet"]);
    let mut import = import.stdin(Stdio::piped()).spawn().map_err(|e| format!("git: {e}"))?;
    if let Some(mut stdin) = import.stdin.take() {
        stdin.write_all(&commits(dice)).map_err(|e| format!("git fast-import: {e}"))?;
    }
    let status = import.wait().map_err(|e| format!("git: {e}"))?;
    if status.success() { Ok(()) } else { Err(format!("git fast-import: {status}")) }
}

/// What `git fast-import` reads: every commit writes one of a few files anew, some no text.
fn commits(dice: &mut Dice) -> Vec<u8> {
    let (mut text, mut time) = (String::new(), BEGIN);
    for number in 0..COMMITS {
        time += dice.between(0, STEP_MAX);
        let author = dice.below(AUTHORS.len());
        let zone = ["+0000", "-1100", "+1345"][dice.below(3)];
        let person = format!("{} <author{author}@example.org> {time} {zone}", AUTHORS[author]);
        let message = format!("Change {number}");
        let mut content = String::new();
        if dice.below(10) == 0 {
            content.push('\0');
        }
        for _ in 0..dice.between(0, 40) {
            let _ = writeln!(content, "{}", dice.between(0, 9));
        }
        let _ = write!(
            text,
            "commit refs/heads/made\nauthor {person}\ncommitter {person}\ndata {}\n{message}\n\
             M 100644 inline \"a \\\"file\\\" {}\"\ndata {}\n{content}\n",
            message.len(),
            dice.between(0, 4),
            content.len(),
        );
    }
    text.into_bytes()
}
