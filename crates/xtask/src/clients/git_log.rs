//! Real input: a repository's history, imported twice and read back.
//!
//! One stream per author, one event per commit.

use std::path::Path;
use std::process::Command;

use serde_json::json;

use crate::programs;
use crate::server_process::{Home, ServerProcess};

/// What stands between the fields of a commit.
const SEPARATOR: char = '\u{1f}';

/// The commits as lines for `actadb import`, oldest first; and how many there are.
pub(super) fn lines(repository: &Path) -> Result<(String, usize), String> {
    // A shallow clone has fewer commits, whose parents are told nevertheless. No message and no
    // quoted path holds the zero that begins a commit.
    let format = ["%x00%H", "%an", "%ae", "%at", "%P", "%s"].join(&SEPARATOR.to_string());
    let mut git = Command::new("git");
    git.args(["-c", "safe.directory=*", "-C"]).arg(repository);
    git.args(["log", "--reverse", "--no-color", "--numstat", "--no-renames"]);
    let log = programs::output(git.arg(format!("--format={format}")))?;
    let log = String::from_utf8_lossy(&log);
    let (mut text, mut count) = (String::new(), 0);
    for commit in log.split('\0').filter(|commit| !commit.is_empty()) {
        text.push_str(&line(commit)?.to_string());
        text.push('\n');
        count += 1;
    }
    if count == 0 { Err("git log tells no commits".into()) } else { Ok((text, count)) }
}

/// The event of a commit: a line of fields, then a line per file.
fn line(commit: &str) -> Result<serde_json::Value, String> {
    let (head, files) = commit.split_once('\n').unwrap_or((commit, ""));
    let fields: Vec<&str> = head.splitn(6, SEPARATOR).collect();
    let [hash, name, email, time, parents, subject] = fields[..] else {
        return Err(format!("git log printed {commit:?}"));
    };
    // Git knows times before 1970; ActaDB does not.
    let seconds = time.parse::<i64>().map_err(|error| format!("{commit:?}: {error}"))?;
    let seconds = u64::try_from(seconds).unwrap_or(0);
    let parents: Vec<&str> = parents.split(' ').filter(|hash| !hash.is_empty()).collect();
    let (insertions, deletions) = changed_lines(files);
    Ok(json!({
        "stream": format!("author-{}", slug(name, email)),
        "name": "Committed",
        "timestamp": seconds * 1000,
        "payload": {
            "hash": hash,
            "subject": subject,
            "time": seconds,
            "parents": parents,
            "insertions": insertions,
            "deletions": deletions,
        },
    }))
}

/// Sums of `--numstat`: `inserted TAB deleted TAB path`. Files that are no text have a `-`; a merge
/// tells of none.
fn changed_lines(files: &str) -> (u64, u64) {
    let mut sums = (0, 0);
    for file in files.lines() {
        let mut numbers = file.split('\t').map(|number| number.parse().unwrap_or(0));
        sums.0 += numbers.next().unwrap_or(0);
        sums.1 += numbers.next().unwrap_or(0);
    }
    sums
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
    use super::{changed_lines, slug};

    #[test]
    fn changed_lines_are_summed_and_binaries_have_none() {
        assert_eq!(changed_lines("\n3\t1\ta b\n-\t-\tlogo.png\n10\t0\t\"\\303\"\n"), (13, 1));
        assert_eq!(changed_lines(""), (0, 0));
    }

    #[test]
    fn authors_become_words() {
        assert_eq!(slug("Ada  Lovelace (she)", "a@b"), "ada-lovelace-she");
        assert_eq!(slug("---", "Bot@example.org"), "bot-example-org");
        assert_eq!(slug("Иван", ""), "иван");
    }
}
