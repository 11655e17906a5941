//! The server as its users meet it: real sockets, the real binary, stock client code.

mod cluster;
mod commands;
mod configuration;
mod export;
mod hostile;
mod import;
mod kill;
mod pushes;
mod running;
mod shell;
mod subscriptions;
mod support;
mod tail;
mod tools;
mod virtual_network;
