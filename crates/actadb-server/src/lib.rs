//! ActaDB's face: sockets, commands turned into messages, configuration, metrics, tools.
//!
//! Everything about events goes through the [`Database`](actadb::database::Database) handle;
//! nothing here reaches past it. A [`Server`](server::Server) can be started inside a test, the
//! binary `actadb` is the same with a command line around it.

pub mod admin;
pub mod answer;
pub mod bench;
pub mod check;
pub mod cli;
pub mod cluster_command;
pub mod cluster_info;
pub mod connect_args;
pub mod connection;
pub mod dump;
pub mod export;
pub mod following;
pub mod import;
pub mod info;
pub mod metrics;
pub mod ping;
pub mod readable;
pub mod registry;
pub mod repair;
pub mod serve;
pub mod server;
pub mod session;
pub mod settings;
pub mod settings_load;
pub mod shell;
pub mod socket;
pub mod tail;
pub mod wire_client;
