//! The simulator: crashes before they happen.
//!
//! The same `actadb-bucket` and store that the server drives with actors and threads runs here on
//! one thread, on [virtual time](schedule), over a [device that forgets](actadb_disk::sim), with
//! [messages](net) that take as long as the seed says, on one host or on several that agree, with
//! [clients](clients) that do everything clients do, and [faults](faults). An [auditor](auditor)
//! compares what clients were told with what is there. One seed is one [world], the same to the
//! byte every time.
//!
//! After FoundationDB's simulation (Zhou et al., SIGMOD 2021) and TigerBeetle's VOPR.
#![warn(missing_docs)]

pub mod auditor;
pub mod clients;
mod cluster;
pub mod explore;
pub mod faults;
pub mod host;
pub mod net;
pub mod schedule;
mod subscribers;
pub mod trace;
mod wiring;
pub mod world;
