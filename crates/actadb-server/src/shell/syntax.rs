//! What the catalog tells about commands: completions, the arguments to come, help.

use std::fmt::Write;

use actadb_protocol::catalog::{COMMANDS, CommandInfo, Group, find};

/// Width of the text of `help`.
const HELP_COLUMNS: usize = 80;

/// What the shell does itself.
const OWN: &[(&str, &str, &str)] = &[
    ("help", "[command]", "Lists the commands, or tells about one."),
    ("clear", "", "Clears the screen."),
    ("exit", "", "Leaves; so does Ctrl-D."),
];

/// Whether a line may hold a password.
pub(super) fn is_secret(line: &str) -> bool {
    let first = line.split_whitespace().next().unwrap_or_default();
    first.eq_ignore_ascii_case("AUTH") || first.eq_ignore_ascii_case("HELLO")
}

/// What may stand where the line ends: where the last word starts, and what it may become.
pub(super) fn complete(line: &str) -> (usize, Vec<String>) {
    let start = line.rfind(char::is_whitespace).map_or(0, |at| at + 1);
    let (before, begun) = line.split_at(start);
    let words: Vec<&str> = before.split_whitespace().collect();
    let possible: Vec<&str> = match words.as_slice() {
        [] => COMMANDS.iter().map(|c| c.name).chain(OWN.iter().map(|own| own.0)).collect(),
        [own] if own.eq_ignore_ascii_case("help") => COMMANDS.iter().map(|c| c.name).collect(),
        [command, given @ ..] => match find(command.as_bytes()) {
            Some(command) => next_words(command, given),
            None => Vec::new(),
        },
    };
    // As it was begun: in small letters, or in large ones.
    let small = begun.chars().any(char::is_lowercase);
    let fits =
        |word: &&str| word.get(..begun.len()).is_some_and(|head| head.eq_ignore_ascii_case(begun));
    let cased = |word: &str| if small { word.to_lowercase() } else { word.to_owned() };
    (start, possible.into_iter().filter(fits).map(cased).collect())
}

/// Keywords, or the values of the last one.
fn next_words(command: &'static CommandInfo, given: &[&str]) -> Vec<&'static str> {
    let tokens = tokens(command);
    let positions = tokens.iter().filter(|token| token.contains('<')).count();
    if given.len() < positions {
        return Vec::new();
    }
    if let Some(value) = given.last().and_then(|last| value_of(&tokens, last)) {
        let is_word = |word: &&str| word.len() > 1 && word.chars().all(char::is_alphabetic);
        let words = value.split('|').filter(|_| value.contains('|')).filter(is_word);
        return words.collect();
    }
    let repeats = command.arguments.contains(")+");
    let unused =
        |word: &&str| repeats || !given.iter().any(|given| given.eq_ignore_ascii_case(word));
    tokens.into_iter().filter(|token| is_keyword(token)).filter(unused).collect()
}

/// The words of a command's arguments, without brackets; `<…>` are values at a place.
fn tokens(command: &'static CommandInfo) -> Vec<&'static str> {
    let brackets: &[char] = &['[', ']', '(', ')', '+'];
    let words = command.arguments.split_whitespace().map(|word| word.trim_matches(brackets));
    words.filter(|word| !word.is_empty()).collect()
}

fn is_keyword(token: &str) -> bool {
    token.len() > 1 && token.chars().all(|c| c.is_ascii_uppercase() || c == '_')
}

/// What stands behind a keyword that takes a value.
fn value_of(tokens: &[&'static str], keyword: &str) -> Option<&'static str> {
    let at = tokens.iter().position(|t| is_keyword(t) && t.eq_ignore_ascii_case(keyword))?;
    let value = tokens.get(at + 1)?;
    (!is_keyword(value) && *value != "|").then_some(value)
}

/// The arguments still to come, behind the line.
pub(super) fn hint(line: &str) -> Option<String> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let (command, given) = words.split_first()?;
    let arguments = match find(command.as_bytes()) {
        Some(command) => rest(command, given),
        None => {
            let own = OWN.iter().find(|own| own.0.eq_ignore_ascii_case(command))?;
            if given.is_empty() { own.1.to_owned() } else { String::new() }
        }
    };
    let gap = if line.ends_with(char::is_whitespace) { "" } else { " " };
    (!arguments.is_empty()).then(|| format!("{gap}{arguments}"))
}

/// A command's arguments but those given: values from the left, options by their keyword.
fn rest(command: &'static CommandInfo, given: &[&str]) -> String {
    let tokens = tokens(command);
    let mut groups = groups(command.arguments);
    if let Some(value) = given.last().and_then(|last| value_of(&tokens, last)) {
        return value.to_owned();
    }
    for word in given {
        let option = groups.iter().position(|group| {
            let first = group.trim_start_matches('[').split([' ', ']']).next();
            group.starts_with('[') && first.is_some_and(|first| first.eq_ignore_ascii_case(word))
        });
        match (option, groups.first()) {
            (Some(at), _) => drop(groups.remove(at)),
            (None, Some(first)) if is_position(first) => drop(groups.remove(0)),
            _ => {}
        }
    }
    groups.join(" ")
}

fn is_position(group: &str) -> bool {
    group.contains('<') && !group.starts_with(['[', '('])
}

/// Arguments, options and repeated parts, each with its brackets.
fn groups(arguments: &'static str) -> Vec<&'static str> {
    let (mut groups, mut depth, mut start) = (Vec::new(), 0_u32, 0);
    for (at, character) in arguments.char_indices() {
        match character {
            '[' | '(' | '<' => depth += 1,
            ']' | ')' | '>' => depth = depth.saturating_sub(1),
            ' ' if depth == 0 => {
                groups.push(&arguments[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    groups.push(&arguments[start..]);
    groups.retain(|group| !group.is_empty());
    groups
}

/// Arguments as they may be broken into lines: between groups, and inside of a repeated one.
fn lines_of(arguments: &'static str) -> Vec<String> {
    let mut parts = Vec::new();
    for group in groups(arguments) {
        let repeated = group.strip_prefix('(').and_then(|group| group.strip_suffix(")+"));
        let Some(inner) = repeated else {
            parts.push(group.to_owned());
            continue;
        };
        let first = parts.len();
        parts.extend(groups(inner).into_iter().map(str::to_owned));
        if let Some(opens) = parts.get_mut(first) {
            opens.insert(0, '(');
        }
        if let Some(closes) = parts.last_mut() {
            closes.push_str(")+");
        }
    }
    parts
}

/// The text of `help`.
pub(super) fn help(words: &[String]) -> String {
    let mut out = String::new();
    let Some(word) = words.first() else {
        for group in [Group::Events, Group::Connection, Group::Server] {
            let _ = writeln!(out, "{}", group.word());
            for command in COMMANDS.iter().filter(|command| command.group == group) {
                let _ = writeln!(out, "  {:<10} {}", command.name, command.summary);
            }
        }
        let _ = writeln!(out, "shell");
        for (name, _, summary) in OWN {
            let _ = writeln!(out, "  {name:<10} {summary}");
        }
        let _ = writeln!(out, "`help EAPPEND` tells the arguments of a command.");
        return out;
    };
    if let Some(command) = find(word.as_bytes()) {
        let _ = writeln!(out, "{}\n", command.summary);
        let _ = write!(out, "  {}", command.name);
        let mut column = command.name.len() + 2;
        for argument in lines_of(command.arguments) {
            let width = argument.chars().count() + 1;
            if column + width > HELP_COLUMNS {
                let _ = write!(out, "\n     ");
                column = 5;
            }
            let _ = write!(out, " {argument}");
            column += width;
        }
        out.push('\n');
    } else if let Some((name, arguments, summary)) =
        OWN.iter().find(|own| own.0.eq_ignore_ascii_case(word))
    {
        let _ = writeln!(out, "{summary}\n\n  {name} {arguments}");
    } else {
        let _ = writeln!(out, "There is no command '{word}'. `help` lists them.");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        complete(line).1
    }

    #[test]
    fn commands_options_and_values_are_completed() {
        assert_eq!(words("EAP"), ["EAPPEND"]);
        assert_eq!(words("eap"), ["eappend"]);
        assert_eq!(words("he"), ["hello", "help"]);
        assert_eq!(words("help EPS"), ["EPSCAN", "EPSEQ", "EPSUB"]);
        assert_eq!(words("EAPPEND s "), [""; 0], "the name is free");
        assert_eq!(words("EAPPEND s n E"), ["EVENT_ID", "EXPECTED_VERSION"]);
        assert_eq!(words("EAPPEND s n DURABLE D"), [""; 0]);
        assert_eq!(words("EAPPEND s n EXPECTED_VERSION e"), ["exists", "empty"]);
        assert_eq!(words("EAPPEND s n PAYLOAD "), [""; 0]);
        assert_eq!(words("ESUB s FROM "), ["LATEST", "MAP"]);
        assert_eq!(words("EPSUB "), [""; 0]);
        assert_eq!(words("EPSUB * PRE"), ["PREFIX"]);
        assert_eq!(words("CLIENT SET"), ["SETNAME", "SETINFO"]);
        assert_eq!(words("ESCAN s - + re"), ["rev", "read"]);
        assert_eq!(complete("ESCAN s - + re").0, 12);
        assert_eq!(words("ESCAN s - + READ L"), ["LOCAL", "LINEARIZABLE"]);
        assert_eq!(words("NONE "), [""; 0]);
        assert_eq!(words("EAPPEND ä"), [""; 0]);
    }

    #[test]
    fn hints_are_the_arguments_to_come() {
        let hint = |line| hint(line).unwrap_or_default();
        assert_eq!(hint("EACK"), " <subscription> <cursor>");
        assert_eq!(hint("EACK "), "<subscription> <cursor>");
        assert_eq!(hint("EACK a"), " <cursor>");
        assert_eq!(hint("EACK a b"), "");
        let options = "[PARTITION_KEY uuid] [COUNT n] [REV] [BLOCK ms] [READ LOCAL|LINEARIZABLE]";
        assert_eq!(hint("ESCAN s - + "), options);
        assert_eq!(hint("ESCAN s - + rev "), options.replace("[REV] ", ""));
        assert_eq!(hint("ESCAN s - + COUNT "), "n");
        assert_eq!(hint("ESCAN s - + COUNT 5 "), options.replace("[COUNT n] ", ""));
        assert_eq!(hint("EAPPEND s n EXPECTED_VERSION"), " n|any|exists|empty");
        assert!(hint("EPSUB ").starts_with("*|<partition|key>|<p,q,a-b> [FROM"));
        assert!(hint("EPSUB * ").starts_with("[FROM"));
        assert_eq!(hint("help"), " [command]");
        assert_eq!(hint(""), "");
    }

    #[test]
    fn help_knows_every_command() {
        let all = help(&[]);
        for command in COMMANDS {
            assert!(all.contains(command.name), "{}", command.name);
            let one = help(&[command.name.to_lowercase()]);
            assert!(one.contains(command.summary), "{one}");
            assert!(one.lines().all(|line| line.chars().count() <= 100), "{one}");
        }
        assert!(help(&["x".into()]).contains("no command 'x'"));
    }

    #[test]
    fn passwords_are_not_remembered() {
        assert!(is_secret("auth secret") && is_secret(" HELLO 3 AUTH default secret"));
        assert!(!is_secret("EAPPEND auth n"));
    }
}
