//! The server as its users meet it: real sockets, the real binary, stock client code.

mod commands;
mod configuration;
mod hostile;
mod import;
mod kill;
mod subscriptions;
mod support;
mod tools;
