//! The table of all commands: what `COMMAND`, the help of the shell and `docs/PROTOCOL.md` tell.

/// One command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommandInfo {
    /// Its name, upper case.
    pub name: &'static str,
    /// Its arguments.
    pub arguments: &'static str,
    /// One sentence.
    pub summary: &'static str,
    /// Number of arguments with the name, as Redis counts: negative is "at least".
    pub arity: i64,
    /// Redis's flags.
    pub flags: &'static [&'static str],
    /// Which group it belongs to.
    pub group: Group,
}

/// Groups of commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// Events.
    Events,
    /// The connection.
    Connection,
    /// The server.
    Server,
}

impl Group {
    /// The word in `COMMAND DOCS`.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Events => "events",
            Self::Connection => "connection",
            Self::Server => "server",
        }
    }
}

const fn command(
    group: Group,
    name: &'static str,
    arity: i64,
    flags: &'static [&'static str],
    arguments: &'static str,
    summary: &'static str,
) -> CommandInfo {
    CommandInfo { name, arguments, summary, arity, flags, group }
}

const WRITE: &[&str] = &["write", "denyoom"];
const READ: &[&str] = &["readonly"];
const FAST: &[&str] = &["readonly", "fast"];
const FOLLOW: &[&str] = &["readonly", "pubsub", "noscript"];
const PLAIN: &[&str] = &["loading", "stale", "fast"];
const OPEN: &[&str] = &["noscript", "loading", "stale", "fast", "no_auth"];

/// Every command, in the order of the documentation.
pub const COMMANDS: &[CommandInfo] = &[
    command(
        Group::Events,
        "EAPPEND",
        -3,
        WRITE,
        "<stream> <name> [EVENT_ID uuid] [PARTITION_KEY uuid] \
         [EXPECTED_VERSION n|any|exists|empty] [TIMESTAMP ms] [PAYLOAD bytes] [METADATA bytes] \
         [DURABLE]",
        "Appends one event to a stream.",
    ),
    command(
        Group::Events,
        "EMAPPEND",
        -4,
        WRITE,
        "<partition_key> (<stream> <name> [EVENT_ID uuid] [EXPECTED_VERSION n|any|exists|empty] \
         [TIMESTAMP ms] [PAYLOAD bytes] [METADATA bytes] [DURABLE])+",
        "Appends several events of one partition, all or none.",
    ),
    command(
        Group::Events,
        "EGET",
        -2,
        FAST,
        "<event_id> [READ LOCAL|LINEARIZABLE]",
        "Reads the event with an id.",
    ),
    command(
        Group::Events,
        "ESCAN",
        -4,
        READ,
        "<stream> <start|-> <end|+> [PARTITION_KEY uuid] [COUNT n] [REV] [BLOCK ms] \
         [READ LOCAL|LINEARIZABLE]",
        "Reads a page of a stream, by version.",
    ),
    command(
        Group::Events,
        "EPSCAN",
        -4,
        READ,
        "<partition|key> <start|-> <end|+> [COUNT n] [REV] [BLOCK ms] [READ LOCAL|LINEARIZABLE]",
        "Reads a page of a partition, by sequence.",
    ),
    command(
        Group::Events,
        "ESVER",
        -2,
        FAST,
        "<stream> [PARTITION_KEY uuid] [READ LOCAL|LINEARIZABLE]",
        "Tells the latest version of a stream.",
    ),
    command(
        Group::Events,
        "EPSEQ",
        -2,
        FAST,
        "<partition|key> [READ LOCAL|LINEARIZABLE]",
        "Tells the last sequence of a partition.",
    ),
    command(
        Group::Events,
        "ESUB",
        -2,
        FOLLOW,
        "(<stream> [PARTITION_KEY uuid])+ [FROM LATEST|n|MAP stream=n…] [DEFAULT n] [WINDOW n] \
         [NAMES name,…] [PROGRESS n]",
        "Follows streams from any version into what is appended from now on.",
    ),
    command(
        Group::Events,
        "EPSUB",
        -2,
        FOLLOW,
        "*|<partition|key>|<p,q,a-b> [FROM LATEST|n|MAP partition=n…] [DEFAULT n] [WINDOW n] \
         [NAMES name,…] [PREFIX text] [PROGRESS n]",
        "Follows partitions from any sequence into what is appended from now on.",
    ),
    command(
        Group::Events,
        "EACK",
        3,
        FOLLOW,
        "<subscription> <cursor>",
        "Acknowledges what a subscription sent, up to a cursor.",
    ),
    command(Group::Events, "EUNSUB", 2, FOLLOW, "<subscription>", "Ends a subscription."),
    command(
        Group::Connection,
        "HELLO",
        -1,
        OPEN,
        "[2|3] [AUTH user password] [SETNAME name]",
        "Chooses the protocol and tells about the server.",
    ),
    command(
        Group::Connection,
        "AUTH",
        -2,
        OPEN,
        "[user] <password>",
        "Authenticates the connection.",
    ),
    command(Group::Connection, "PING", -1, PLAIN, "[message]", "Answers PONG, or the message."),
    command(Group::Connection, "ECHO", 2, PLAIN, "<message>", "Answers the message."),
    command(Group::Connection, "QUIT", -1, OPEN, "", "Closes the connection."),
    command(Group::Connection, "RESET", 1, OPEN, "", "Makes the connection as new."),
    command(Group::Connection, "SELECT", 2, PLAIN, "0", "Accepts the only database there is."),
    command(
        Group::Connection,
        "CLIENT",
        -2,
        PLAIN,
        "ID | INFO | LIST | GETNAME | SETNAME name | SETINFO attribute value",
        "Tells about connections.",
    ),
    command(
        Group::Server,
        "COMMAND",
        -1,
        PLAIN,
        "[COUNT | LIST | DOCS [name…] | INFO [name…]]",
        "Tells about commands.",
    ),
    command(Group::Server, "INFO", -1, PLAIN, "[section…]", "Tells how the server is doing."),
    command(
        Group::Server,
        "CONFIG",
        -2,
        PLAIN,
        "GET pattern…",
        "Tells the effective configuration.",
    ),
    command(Group::Server, "DBSIZE", 1, PLAIN, "", "Counts the events."),
    command(Group::Server, "TIME", 1, PLAIN, "", "Tells seconds and microseconds since 1970."),
    command(Group::Server, "MODULE", -2, PLAIN, "LIST", "Tells that there are no modules."),
    command(
        Group::Server,
        "CLUSTER",
        -2,
        PLAIN,
        "INFO | NODES | HANDOVER bucket node",
        "Tells how the cluster is doing, and about its nodes.",
    ),
    command(Group::Server, "ROLE", 1, PLAIN, "", "Tells the role in replication."),
];

/// A command by its name, in any case.
#[must_use]
pub fn find(name: &[u8]) -> Option<&'static CommandInfo> {
    position(name).map(|at| &COMMANDS[at])
}

/// Where a command stands in [`COMMANDS`].
#[must_use]
pub fn position(name: &[u8]) -> Option<usize> {
    COMMANDS.iter().position(|command| name.eq_ignore_ascii_case(command.name.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_arities_fit_the_arguments() {
        for (n, command) in COMMANDS.iter().enumerate() {
            assert_eq!(find(command.name.to_lowercase().as_bytes()), Some(command));
            assert!(COMMANDS[n + 1..].iter().all(|other| other.name != command.name));
            assert!(command.arity != 0);
        }
    }
}
