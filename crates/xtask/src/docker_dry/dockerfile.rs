//! Reading a Dockerfile and a `.dockerignore`, as far as this project's own need it.

use std::path::Path;

/// One instruction: the line it begins in, its word, the rest with continued lines joined.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Instruction {
    pub(super) line: usize,
    pub(super) word: String,
    pub(super) rest: String,
}

/// The instructions of a Dockerfile.
///
/// # Errors
/// A line without an argument.
pub(super) fn parse(text: &str) -> Result<Vec<Instruction>, String> {
    let mut instructions = Vec::new();
    let mut open: Option<(usize, String)> = None;
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.starts_with('#') || (line.is_empty() && open.is_none()) {
            continue;
        }
        let (begun, before) = open.take().unwrap_or((number + 1, String::new()));
        if let Some(continued) = line.strip_suffix('\\') {
            open = Some((begun, format!("{before}{} ", continued.trim())));
            continue;
        }
        let whole = before + line;
        let (word, rest) =
            whole.split_once(' ').ok_or_else(|| format!("Dockerfile:{begun}: {whole}"))?;
        let (word, rest) = (word.to_ascii_uppercase(), rest.trim().to_owned());
        instructions.push(Instruction { line: begun, word, rest });
    }
    match open {
        None => Ok(instructions),
        Some((begun, _)) => Err(format!("Dockerfile:{begun}: continues past the end")),
    }
}

/// What is not sent to the build: the last pattern that fits a path, or a directory above it,
/// says so. Patterns are names and `*`.
#[derive(Debug)]
pub(super) struct Ignore(Vec<(bool, String)>);

impl Ignore {
    pub(super) fn new(text: &str) -> Self {
        let lines = text.lines().map(str::trim);
        let lines = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
        let pattern = |line: &str| match line.strip_prefix('!') {
            Some(pattern) => (false, pattern.trim_matches('/').to_owned()),
            None => (true, line.trim_matches('/').to_owned()),
        };
        Self(lines.map(pattern).collect())
    }

    pub(super) fn ignores(&self, path: &Path) -> bool {
        let fits = |pattern: &str| pattern == "*" || path.starts_with(pattern);
        let last = self.0.iter().rev().find(|(_, pattern)| fits(pattern));
        last.is_some_and(|(ignored, _)| *ignored)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_joined_and_comments_dropped() {
        let text = "# a\nFROM x AS y\n\nRUN a \\\n    # between\n    && b\nCMD [\"c\"]\n";
        let told: Vec<_> =
            parse(text).unwrap().into_iter().map(|i| (i.line, i.word, i.rest)).collect();
        let expected = [(2, "FROM", "x AS y"), (4, "RUN", "a && b"), (7, "CMD", "[\"c\"]")];
        assert_eq!(told, expected.map(|(line, word, rest)| (line, word.into(), rest.into())));
        assert!(parse("RUN a \\\n").is_err());
    }

    #[test]
    fn the_last_pattern_that_fits_decides() {
        let ignore = Ignore::new("# all\n*\n!crates\n!Cargo.toml\ncrates/x/secret\n");
        assert!(ignore.ignores(Path::new("target/a")));
        assert!(!ignore.ignores(Path::new("Cargo.toml")));
        assert!(!ignore.ignores(Path::new("crates/x/src/lib.rs")));
        assert!(ignore.ignores(Path::new("crates/x/secret/key")));
    }
}
