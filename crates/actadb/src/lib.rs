//! ActaDB, embedded: an event store as a library.
//!
//! A [`Database`](database::Database) is a handle to the actors that run a data directory: one
//! partition actor per partition decides appends, one segment-writer actor per bucket writes the
//! log, both supervised, and a bounded pool of threads reads. The server is a face on the same
//! handle.
//!
//! ```no_run
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! use actadb::database::Database;
//! use actadb::model::names::{EventName, StreamId};
//! use actadb::model::transaction::{NewEvent, Transaction};
//! use actadb::reads::ReadStream;
//!
//! let database = Database::open("./data").await?;
//! let event = NewEvent::new(StreamId::new("account-1")?, EventName::new("Opened")?)
//!     .payload(r#"{"owner":"Ada"}"#);
//! let appended = database.append(Transaction::single(event)?).await?;
//! assert_eq!(appended.events[0].version, 0);
//! let page = database.read_stream(ReadStream::all(StreamId::new("account-1")?)).await?;
//! assert_eq!(page.events[0].name(), "Opened");
//! database.close().await;
//! # Ok(())
//! # }
//! ```
//!
//! The shell holds no rule of the domain: a handler receives a message, steps a core, and performs
//! what comes out. [`executor`] is the only place with threads.
#![warn(missing_docs)]

pub use actadb_model as model;

mod bells;
mod clock;
mod close;
pub mod cluster;
pub mod database;
mod door;
pub mod error;
pub mod executor;
#[cfg(feature = "fault-injection")]
pub mod fault_injection;
mod inbox;
pub mod metrics;
pub mod options;
mod partition_actor;
mod reading;
pub mod reads;
mod scrub_actor;
mod scrub_board;
mod segment_writer_actor;
mod start;
pub mod status;
mod subscribe;
mod subscription_actor;
pub mod subscriptions;
mod supervisor;
pub mod tools;
mod waiting;
