//! Commands about the connection and the server: what stock clients send.

use bytes::Bytes;

use crate::args::{Arguments, is_word};
use crate::error::{Code, ErrorReply, printable};
use crate::framer::Word;
use crate::reply::Protocol;

/// `HELLO [2|3] [AUTH user pass] [SETNAME n]`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hello {
    /// The protocol asked for.
    pub protocol: Option<Protocol>,
    /// User and password.
    pub auth: Option<(Bytes, Bytes)>,
    /// Name of the connection.
    pub name: Option<Bytes>,
}

/// `CLIENT …`
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Client {
    /// The connection's number.
    Id,
    /// This connection, in words.
    Info,
    /// All connections, in words.
    List,
    /// Its name.
    GetName,
    /// Give it a name.
    SetName(Bytes),
    /// What the client library says of itself.
    SetInfo(Bytes, Bytes),
}

/// `COMMAND …`
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Commands {
    /// All commands.
    All,
    /// How many.
    Count,
    /// Their names.
    List,
    /// Their documentation; all when none is named.
    Docs(Vec<Bytes>),
    /// Some commands; all when none is named.
    Info(Vec<Bytes>),
}

fn integer(argument: &[u8]) -> Option<i64> {
    let plain = argument.first() != Some(&b'+');
    std::str::from_utf8(argument).ok().filter(|_| plain)?.parse().ok()
}

/// Parses `HELLO`.
///
/// # Errors
/// Redis's words.
pub fn hello(mut arguments: Arguments<'_>) -> Result<Hello, ErrorReply> {
    let mut hello = Hello::default();
    if let Some(version) = arguments.optional() {
        hello.protocol = Some(match integer(version) {
            Some(2) => Protocol::Resp2,
            Some(3) => Protocol::Resp3,
            Some(_) => {
                return Err(ErrorReply::new(Code::NoProto, "unsupported protocol version"));
            }
            None => {
                let text = "Protocol version is not an integer or out of range";
                return Err(ErrorReply::new(Code::Err, text));
            }
        });
    }
    while let Some(word) = arguments.optional() {
        if is_word(word, "AUTH") && arguments.len() >= 2 {
            hello.auth = Some((arguments.take()?.to_bytes(), arguments.take()?.to_bytes()));
        } else if is_word(word, "SETNAME") && !arguments.is_empty() {
            hello.name = Some(connection_name(arguments.take()?)?);
        } else {
            let shown = printable(word, 64);
            return Err(ErrorReply::new(
                Code::Err,
                format!("Syntax error in HELLO option '{shown}'"),
            ));
        }
    }
    Ok(hello)
}

/// Parses `AUTH [user] password`.
///
/// # Errors
/// Redis's words.
pub fn auth(mut arguments: Arguments<'_>) -> Result<(Option<Bytes>, Bytes), ErrorReply> {
    let first = arguments.take()?.to_bytes();
    match arguments.optional() {
        None => Ok((None, first)),
        Some(password) => {
            arguments.end().map_err(|_| ErrorReply::new(Code::Err, "syntax error"))?;
            Ok((Some(first), password.to_bytes()))
        }
    }
}

fn connection_name(name: &Word<'_>) -> Result<Bytes, ErrorReply> {
    if name.iter().all(|byte| (b'!'..=b'~').contains(byte)) {
        return Ok(name.to_bytes());
    }
    let text = "Client names cannot contain spaces, newlines or special characters.";
    Err(ErrorReply::new(Code::Err, text))
}

/// Parses `CLIENT …`.
///
/// # Errors
/// Redis's words.
pub fn client(mut arguments: Arguments<'_>) -> Result<Client, ErrorReply> {
    let word = arguments.take()?;
    let named = ["client|id", "client|info", "client|getname", "client|setname", "client|setinfo"];
    let full = named.iter().find(|name| is_word(word, &name[7..]));
    let mut arguments = Arguments::new(full.copied().unwrap_or("client"), arguments.rest());
    let parsed = if is_word(word, "ID") {
        Client::Id
    } else if is_word(word, "INFO") {
        Client::Info
    } else if is_word(word, "LIST") {
        // Filters narrow the list; clients that send them must not get an error.
        arguments.rest();
        Client::List
    } else if is_word(word, "GETNAME") {
        Client::GetName
    } else if is_word(word, "SETNAME") {
        Client::SetName(connection_name(arguments.take()?)?)
    } else if is_word(word, "SETINFO") {
        Client::SetInfo(arguments.take()?.to_bytes(), arguments.take()?.to_bytes())
    } else {
        return Err(ErrorReply::unknown_subcommand("CLIENT", word));
    };
    arguments.end()?;
    Ok(parsed)
}

/// Parses `COMMAND …`.
///
/// # Errors
/// Redis's words.
pub fn commands(mut arguments: Arguments<'_>) -> Result<Commands, ErrorReply> {
    let Some(word) = arguments.optional() else { return Ok(Commands::All) };
    if is_word(word, "COUNT") {
        Arguments::new("command|count", arguments.rest()).end()?;
        Ok(Commands::Count)
    } else if is_word(word, "LIST") {
        Ok(Commands::List)
    } else if is_word(word, "DOCS") {
        Ok(Commands::Docs(kept(arguments.rest())))
    } else if is_word(word, "INFO") {
        Ok(Commands::Info(kept(arguments.rest())))
    } else {
        Err(ErrorReply::unknown_subcommand("COMMAND", word))
    }
}

/// Parses `CONFIG GET pattern…`.
///
/// # Errors
/// Redis's words.
pub fn config_get(mut arguments: Arguments<'_>) -> Result<Vec<Bytes>, ErrorReply> {
    let word = arguments.take()?;
    if !is_word(word, "GET") {
        return Err(ErrorReply::unknown_subcommand("CONFIG", word));
    }
    if arguments.is_empty() {
        return Err(ErrorReply::wrong_arity("config|get"));
    }
    Ok(kept(arguments.rest()))
}

/// Arguments, to keep them.
pub(crate) fn kept(words: &[Word<'_>]) -> Vec<Bytes> {
    words.iter().map(Word::to_bytes).collect()
}

/// Parses `SELECT 0`.
///
/// # Errors
/// Redis's words: there is one database.
pub fn select(mut arguments: Arguments<'_>) -> Result<(), ErrorReply> {
    let index = arguments.take()?;
    arguments.end()?;
    match integer(index) {
        Some(0) => Ok(()),
        Some(_) => Err(ErrorReply::new(Code::Err, "DB index is out of range")),
        None => Err(ErrorReply::new(Code::Err, "value is not an integer or out of range")),
    }
}

/// Parses `MODULE LIST`.
///
/// # Errors
/// Redis's words.
pub fn module_list(mut arguments: Arguments<'_>) -> Result<(), ErrorReply> {
    let word = arguments.take()?;
    if !is_word(word, "LIST") {
        return Err(ErrorReply::unknown_subcommand("MODULE", word));
    }
    Arguments::new("module|list", arguments.rest()).end()
}

/// What `CLUSTER` asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClusterCommand {
    /// How it is doing.
    Info,
    /// Its nodes.
    Nodes,
    /// Hand the lead of a bucket over to a node.
    HandOver {
        /// The bucket.
        bucket: u16,
        /// The node, by number.
        node: u8,
    },
}

/// `CLUSTER INFO | NODES | HANDOVER bucket node`.
///
/// # Errors
/// Another subcommand, or numbers that are none.
pub fn cluster(mut arguments: Arguments<'_>) -> Result<ClusterCommand, ErrorReply> {
    let word = arguments.take()?;
    let (name, command) = if is_word(word, "INFO") {
        ("cluster|info", ClusterCommand::Info)
    } else if is_word(word, "NODES") {
        ("cluster|nodes", ClusterCommand::Nodes)
    } else if is_word(word, "HANDOVER") {
        let mut rest = Arguments::new("cluster|handover", arguments.rest());
        let bucket = small_number("bucket", rest.take()?)?;
        let node = small_number("node", rest.take()?)?;
        rest.end()?;
        return Ok(ClusterCommand::HandOver { bucket, node });
    } else {
        return Err(ErrorReply::unknown_subcommand("CLUSTER", word));
    };
    Arguments::new(name, arguments.rest()).end()?;
    Ok(command)
}

fn small_number<T: std::str::FromStr>(name: &str, value: &[u8]) -> Result<T, ErrorReply> {
    let number = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
    number.ok_or_else(|| {
        let got = String::from_utf8_lossy(value);
        ErrorReply::new(Code::InvalidArg, format!("{name} must be a number, got '{got}'"))
    })
}
