//! Real input: a repository's history, imported twice and read back.
//!
//! One stream per author, one event per commit.

use std::path::Path;
use std::process::Command;

use serde_json::json;

use crate::programs;
use crate::server_process::{Home, ServerProcess};

/// What stands before a commit.
const COMMIT: char = '\u{1e}';
/// What stands between its fields.
const SEPARATOR: char = '\u{1f}';

/// The commits as lines for `actadb import`, oldest first; and how many there are.
pub(super) fn lines(repository: &Path) -> Result<(String, usize), String> {
    // A shallow clone has fewer commits, whose parents are told nevertheless.
    let format = ["%H", "%an", "%ae", "%at", "%P", "%s"].join(&SEPARATOR.to_string());
    let mut git = Command::new("git");
    git.args(["-c", "safe.directory=*", "-C"]).arg(repository);
    git.args(["log", "--reverse", "--no-color", "--shortstat"]);
    git.arg(format!("--format={COMMIT}{format}"));
    let log = programs::output(&mut git)?;
    let log = String::from_utf8_lossy(&log);
    let (mut text, mut count) = (String::new(), 0);
    for commit in log.split(COMMIT).filter(|commit| !commit.is_empty()) {
        let (commit, changed) = commit.split_once('\n').unwrap_or((commit, ""));
        let fields: Vec<&str> = commit.splitn(6, SEPARATOR).collect();
        let [hash, name, email, time, parents, subject] = fields[..] else {
            return Err(format!("git log printed {commit:?}"));
        };
        // Git knows times before 1970; ActaDB does not.
        let seconds = time.parse::<i64>().map_err(|error| format!("{commit:?}: {error}"))?;
        let seconds = u64::try_from(seconds).unwrap_or(0);
        let parents: Vec<&str> = parents.split(' ').filter(|hash| !hash.is_empty()).collect();
        let line = json!({
            "stream": format!("author-{}", slug(name, email)),
            "name": "Committed",
            "timestamp": seconds * 1000,
            "payload": {
                "hash": hash, "subject": subject, "time": seconds, "parents": parents,
                "insertions": lines_of(changed, "insertion"),
                "deletions": lines_of(changed, "deletion"),
            },
        });
        text.push_str(&line.to_string());
        text.push('\n');
        count += 1;
    }
    if count == 0 { Err("git log tells no commits".into()) } else { Ok((text, count)) }
}

/// The number before a word in ` 3 files changed, 10 insertions(+), 1 deletion(-)`; 0 without it,
/// as of merges.
fn lines_of(changed: &str, word: &str) -> u64 {
    let part = changed.split(',').find(|part| part.contains(word));
    part.and_then(|part| part.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

/// Letters and digits of the name, of the address if the name has none.
fn slug(name: &str, email: &str) -> String {
    let of = |text: &str| {
        let words = text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
        words.collect::<Vec<_>>().join("-").to_lowercase().chars().take(60).collect::<String>()
    };
    let slug = of(name);
    if slug.is_empty() { of(email) } else { slug }
}

/// Imports a file of so many lines.
pub(super) fn import(
    home: &Home,
    server: &ServerProcess,
    file: &Path,
    lines: usize,
) -> Result<(), String> {
    let mut import = home.command();
    import.arg("import").arg(file).args(["--address", &server.address().to_string()]);
    let said = programs::output(import.arg("--json"))?;
    let summary: serde_json::Value = serde_json::from_slice(&said)
        .map_err(|error| format!("import printed {}: {error}", String::from_utf8_lossy(&said)))?;
    if summary["events"] == lines {
        return Ok(());
    }
    Err(format!("import of {lines} lines: {summary}"))
}

/// Imports the history of a repository twice, and compares what is there each time.
pub(super) fn check(
    home: &Home,
    server: &ServerProcess,
    python: &Path,
    repository: &Path,
) -> Result<(), String> {
    let (text, commits) = lines(repository)?;
    let file = home.scratch("commits.jsonl");
    std::fs::write(&file, text).map_err(|error| format!("{}: {error}", file.display()))?;
    for round in ["first", "second"] {
        import(home, server, &file, commits)?;
        let mut read_back = Command::new(python);
        read_back.arg(programs::workspace().join("crates/xtask/python/read_back.py"));
        read_back.arg(server.address().port().to_string()).arg(&file);
        let told = programs::output(&mut read_back)?;
        let told = String::from_utf8_lossy(&told);
        println!("git log, {round} import: {commits} commits, {}", told.trim());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{lines_of, slug};

    #[test]
    fn changed_lines_are_read() {
        let changed = "\n 3 files changed, 10 insertions(+), 1 deletion(-)\n";
        assert_eq!((lines_of(changed, "insertion"), lines_of(changed, "deletion")), (10, 1));
        assert_eq!(lines_of("\n 1 file changed, 2 deletions(-)\n", "insertion"), 0);
        assert_eq!(lines_of("\n", "deletion"), 0);
    }

    #[test]
    fn authors_become_words() {
        assert_eq!(slug("Ada  Lovelace (she)", "a@b"), "ada-lovelace-she");
        assert_eq!(slug("---", "Bot@example.org"), "bot-example-org");
        assert_eq!(slug("Иван", ""), "иван");
    }
}
