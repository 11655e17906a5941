//! The wire: RESP2 and RESP3, every command, both directions. No socket, no node.
//!
//! - [`framer`] cuts what clients send into requests; it faces the network and trusts nothing.
//! - [`request`] turns the arguments of a request into a command; what commands share is in
//!   [`args`], the table of all commands in [`catalog`].
//! - [`reply`] writes answers, [`event`] the ones that carry events, straight from their bytes,
//!   [`push`] what a subscription sends.
//! - [`error`] holds every word that a client sees when something is wrong.

pub mod append;
pub mod args;
pub mod catalog;
pub mod connection;
pub mod error;
pub mod event;
pub mod framer;
pub mod push;
pub mod read;
pub mod reply;
pub mod request;
pub mod subscribe;
