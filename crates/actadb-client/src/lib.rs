//! ActaDB's client: typed, and it keeps its promises over a broken connection.
//!
//! ```no_run
//! use actadb_client::{Client, ExpectedVersion, Follow, NewEvent};
//!
//! # async fn example() -> Result<(), actadb_client::Error> {
//! let client = Client::connect("redis://127.0.0.1:9090").await?;
//!
//! let opened = NewEvent::new("account-1", "Opened").expect(ExpectedVersion::Empty);
//! client.append(opened.payload(r#"{"owner":"ada"}"#)).await?;
//!
//! let mut events = client.stream("account-1", ..);
//! while let Some(event) = events.next().await {
//!     println!("{:?}", event?);
//! }
//!
//! let mut subscription = client.subscribe(Follow::stream("account-1").from_start()).await?;
//! while let Some(delivery) = subscription.next().await {
//!     println!("{:?}", delivery?);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! What it promises:
//!
//! - **An append happens once.** Every event has its id before the first try. What fails without a
//!   definite answer is sent again with the same ids, until [`ClientOptions::retry_timeout`]. If
//!   the outcome is still not known then, the error is [`Error::Unknown`] and names the ids.
//! - **A read is whole, or it is an error.** [`Client::stream`] and [`Client::partition`] fetch
//!   page after page.
//! - **A subscription skips nothing and doubles nothing.** It reconnects by itself and goes on
//!   behind the last event it delivered. [`Subscription::checkpoint`] is what to store, to go on
//!   in another process.
//!
//! A [`Client`] is cheap to clone. Its requests share one connection; a subscription has one of its
//! own.
#![warn(missing_docs)]

mod append;
mod checkpoint;
mod client;
mod connection;
mod error;
mod event;
mod follow;
mod follower;
mod inbox;
mod names;
mod options;
mod pages;
mod reply;
mod retry;
mod subscription;

pub use actadb_model::ids::{PartitionId, PartitionKey};
pub use actadb_model::version::ExpectedVersion;
pub use bytes::Bytes;
pub use futures_core::Stream;
pub use uuid::Uuid;

pub use crate::checkpoint::Checkpoint;
pub use crate::client::Client;
pub use crate::error::{Code, Error};
pub use crate::event::{Appended, Event, NewEvent};
pub use crate::follow::Follow;
pub use crate::names::{PartitionRef, StreamRef};
pub use crate::options::ClientOptions;
pub use crate::pages::Events;
pub use crate::subscription::{Cursor, Delivery, Subscription};
