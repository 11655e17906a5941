//! One connection's state, and the commands that change it.

use std::sync::Arc;

use actadb_protocol::catalog::{COMMANDS, CommandInfo, Group};
use actadb_protocol::connection::{Client, Commands, Hello};
use actadb_protocol::error::{Code, ErrorReply, printable};
use actadb_protocol::reply::{Protocol, Reply};
use actadb_protocol::request::Request;
use bytes::Bytes;

use crate::registry::{ClientRow, Registry};
use crate::settings::Settings;

/// What a connection has become.
#[derive(Debug)]
pub struct Session {
    settings: Arc<Settings>,
    registry: Arc<Registry>,
    row: ClientRow,
    authenticated: bool,
    /// What `HELLO` tells as `peer_id`.
    server_id: String,
}

impl Session {
    /// A new connection.
    #[must_use]
    pub fn new(
        settings: Arc<Settings>,
        registry: Arc<Registry>,
        row: ClientRow,
        server_id: String,
    ) -> Self {
        let authenticated = settings.auth.password.is_empty();
        Self { settings, registry, row, authenticated, server_id }
    }

    /// Its protocol.
    #[must_use]
    pub fn protocol(&self) -> Protocol {
        self.row.protocol
    }

    /// Its number.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.row.id
    }

    /// Whether it has authenticated, or need not.
    #[must_use]
    pub fn is_authenticated(&self) -> bool {
        self.authenticated
    }

    /// Counts commands, for `CLIENT LIST`.
    pub fn count(&mut self, commands: u64) {
        self.row.commands += commands;
    }

    /// Refuses what a connection that has not authenticated may not send.
    ///
    /// # Errors
    /// Redis's words.
    pub fn admit(&self, request: &Request) -> Result<(), ErrorReply> {
        if self.authenticated || request.is_open() {
            return Ok(());
        }
        Err(ErrorReply::new(Code::NoAuth, "Authentication required."))
    }

    /// Carries out a command that runs alone. The protocol of the answer is the one after it.
    pub fn perform(&mut self, request: Request) -> Reply {
        let reply = match request {
            Request::Hello(hello) => self.hello(hello),
            Request::Auth(None, _) if self.settings.auth.password.is_empty() => {
                // As in Redis: a password where none is set is a mistake worth telling.
                Err(ErrorReply::new(
                    Code::Err,
                    "AUTH <password> called without any password configured for the default \
                     user. Are you sure your configuration is correct?",
                ))
            }
            Request::Auth(user, password) => {
                let user = user.unwrap_or(Bytes::from_static(b"default"));
                self.authenticate(&user, &password).map(|()| Reply::ok())
            }
            Request::Reset => {
                self.row.protocol = self.settings.default_protocol();
                self.row.name.clear();
                self.authenticated = self.settings.auth.password.is_empty();
                Ok(Reply::Simple("RESET".into()))
            }
            Request::Quit => Ok(Reply::ok()),
            Request::Client(client) => Ok(self.client(client)),
            _ => Err(ErrorReply::new(Code::Err, "not a command of the connection")),
        };
        self.registry.update(&self.row);
        reply.unwrap_or_else(Reply::Error)
    }

    fn authenticate(&mut self, user: &Bytes, password: &Bytes) -> Result<(), ErrorReply> {
        // Without a password set, the default user is let in with any, as in Redis: client
        // libraries that always send one must be able to connect.
        let wanted = self.settings.auth.password.as_bytes();
        if user == "default" && (wanted.is_empty() || same_bytes(password, wanted)) {
            self.authenticated = true;
            return Ok(());
        }
        let text = "invalid username-password pair or user is disabled.";
        Err(ErrorReply::new(Code::WrongPass, text))
    }

    fn hello(&mut self, hello: Hello) -> Result<Reply, ErrorReply> {
        if let Some((user, password)) = &hello.auth {
            self.authenticate(user, password)?;
        }
        if !self.authenticated {
            return Err(ErrorReply::new(
                Code::NoAuth,
                "HELLO must be called with the client already authenticated, otherwise the HELLO \
                 <proto> AUTH <user> <pass> option can be used to authenticate the client and \
                 select the RESP protocol version at the same time",
            ));
        }
        if let Some(name) = hello.name {
            self.row.name = printable(&name, 256);
        }
        if let Some(protocol) = hello.protocol {
            self.row.protocol = protocol;
        }
        let version = if self.row.protocol == Protocol::Resp3 { 3 } else { 2 };
        let pair = |key: &str, value: Reply| (Reply::bulk(key), value);
        Ok(Reply::Map(vec![
            pair("server", Reply::bulk("actadb")),
            pair("version", Reply::bulk(env!("CARGO_PKG_VERSION"))),
            pair("proto", Reply::Integer(version)),
            pair("id", Reply::Integer(self.row.id)),
            pair("mode", Reply::bulk("standalone")),
            pair("role", Reply::bulk("master")),
            pair("modules", Reply::Array(Vec::new())),
            pair("peer_id", Reply::bulk(self.server_id.clone())),
            pair("num_partitions", Reply::Integer(self.settings.partition.count.into())),
        ]))
    }

    fn client(&mut self, client: Client) -> Reply {
        match client {
            Client::Id => Reply::Integer(self.row.id),
            Client::Info => Reply::Text(self.row.line()),
            Client::List => {
                self.registry.update(&self.row);
                let lines: Vec<String> = self.registry.rows().iter().map(ClientRow::line).collect();
                Reply::Text(lines.join("\n") + "\n")
            }
            Client::GetName if self.row.name.is_empty() => Reply::Null,
            Client::GetName => Reply::bulk(self.row.name.clone()),
            Client::SetName(name) => {
                self.row.name = printable(&name, 256);
                Reply::ok()
            }
            Client::SetInfo(attribute, value) => {
                let value = printable(&value, 128);
                if attribute.eq_ignore_ascii_case(b"lib-name") {
                    self.row.library.0 = value;
                } else if attribute.eq_ignore_ascii_case(b"lib-ver") {
                    self.row.library.1 = value;
                } else {
                    let shown = printable(&attribute, 64);
                    let text = format!("Unrecognized option '{shown}'");
                    return Reply::Error(ErrorReply::new(Code::Err, text));
                }
                Reply::ok()
            }
        }
    }
}

/// Compares in a time that depends on the lengths only.
fn same_bytes(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |seen, (x, y)| seen | (x ^ y)) == 0
}

/// Commands that one `COMMAND INFO` or `DOCS` may name; there are far fewer.
const NAMES_MAX: usize = 256;

/// Answers `COMMAND …` from the catalog.
#[must_use]
pub fn commands(request: &Commands) -> Reply {
    let named = |names: &[Bytes]| -> Vec<Option<&'static CommandInfo>> {
        if names.is_empty() {
            COMMANDS.iter().map(Some).collect()
        } else {
            names.iter().map(|name| actadb_protocol::catalog::find(name)).collect()
        }
    };
    if let Commands::Docs(names) | Commands::Info(names) = request
        && names.len() > NAMES_MAX
    {
        let text = format!("at most {NAMES_MAX} commands can be named");
        return Reply::Error(ErrorReply::new(Code::Err, text));
    }
    match request {
        Commands::Count => Reply::Integer(COMMANDS.len() as u64),
        Commands::List => {
            Reply::Array(COMMANDS.iter().map(|c| Reply::bulk(c.name.to_lowercase())).collect())
        }
        Commands::All => Reply::Array(COMMANDS.iter().map(command_info).collect()),
        Commands::Info(names) => Reply::Array(
            named(names).into_iter().map(|c| c.map_or(Reply::Null, command_info)).collect(),
        ),
        Commands::Docs(names) => Reply::Map(
            named(names)
                .into_iter()
                .flatten()
                .map(|command| {
                    let pair = |key: &str, value: &str| (Reply::bulk(key), Reply::bulk(value));
                    let mut docs = vec![
                        pair("summary", command.summary),
                        pair("since", env!("CARGO_PKG_VERSION")),
                        pair("group", command.group.word()),
                    ];
                    if !command.arguments.is_empty() {
                        // The whole grammar as one argument: what redis-cli shows while typing.
                        let grammar = Reply::Map(vec![
                            pair("name", "arguments"),
                            pair("type", "string"),
                            pair("display_text", command.arguments),
                        ]);
                        docs.push((Reply::bulk("arguments"), Reply::Array(vec![grammar])));
                    }
                    (Reply::bulk(command.name.to_lowercase()), Reply::Map(docs))
                })
                .collect(),
        ),
    }
}

fn command_info(command: &CommandInfo) -> Reply {
    let key = u64::from(command.group == Group::Events);
    let flags = command.flags.iter().map(|flag| Reply::Simple((*flag).into())).collect();
    let category = format!("@{}", command.group.word());
    Reply::Array(vec![
        Reply::bulk(command.name.to_lowercase()),
        Reply::Signed(command.arity),
        Reply::Set(flags),
        Reply::Integer(key),
        Reply::Integer(key),
        Reply::Integer(key),
        Reply::Set(vec![Reply::Simple(category.into())]),
        Reply::Array(Vec::new()),
        Reply::Array(Vec::new()),
        Reply::Array(Vec::new()),
    ])
}
