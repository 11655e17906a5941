//! Several nodes as one database.
//!
//! [`join`] finds the other nodes and the cluster's record before anything is opened; from then on
//! the [topology actor](topology_actor) carries what comes from them to the buckets, and
//! [links] is where the rest of this crate reaches them. Appends that reach a node that does not
//! lead their bucket are [forwarded](forward), in bytes of our own ([wire]).

mod forward;
pub(crate) mod join;
pub(crate) mod links;
pub(crate) mod node_files;
pub mod options;
pub(crate) mod pace;
pub(crate) mod topology_actor;
mod wire;
