//! Clients that append one event after the other, each until it is acknowledged, to any node.

use std::time::Duration;

use actadb::model::ids::{PartitionKey, with_hash16};
use actadb_server::wire_client::Value;
use tokio::time::sleep;
use uuid::Uuid;

use super::Shared;
use super::client::Client;

/// What a writer may hear; whatever else is a bug.
const TOLD: [&str; 4] = ["CLUSTERDOWN", "UNCERTAIN", "TRYAGAIN", "TIMEOUT"];
const REST: Duration = Duration::from_millis(20);

fn stream(writer: usize) -> String {
    format!("writer-{writer}")
}

/// Who appended what is at a version of a stream.
pub(super) fn writer_of(stream: &str, version: u64) -> (usize, u64) {
    let writer = stream.strip_prefix("writer-").and_then(|number| number.parse().ok());
    (writer.expect("a stream of a writer"), version)
}

/// An id in the partition of the writer's stream: a retry has the same.
fn event_id(writer: usize, n: u64) -> String {
    let hash = PartitionKey::of_stream(&stream(writer)).hash16();
    let id = Uuid::from_u128((writer as u128) << 80 | u128::from(n));
    with_hash16(id, hash).to_string()
}

pub(super) async fn write(writer: usize, book: Shared) -> turmoil::Result {
    let (mut n, mut node) = (0, writer);
    let mut client: Option<Client> = None;
    loop {
        let Some(open) = &mut client else {
            client = Client::connect(node).await.ok();
            node += 1;
            sleep(REST).await;
            continue;
        };
        let (stream, id, payload) = (stream(writer), event_id(writer, n), n.to_string());
        let command = ["EAPPEND", &stream, "Counted", "EVENT_ID", &id, "PAYLOAD", &payload];
        match open.call(&command).await {
            Ok(reply) => {
                let number = |key| reply.get(key).and_then(Value::number).expect("a number");
                assert_eq!(number("stream_version"), n, "writer {writer}: once, and in order");
                let place = (number("partition_id"), number("partition_sequence"));
                book.borrow_mut().acked.insert((writer, n), place);
                n += 1;
                // Not before the outcome of the last one is known.
                if book.borrow().quiet {
                    break;
                }
                sleep(REST).await;
            }
            Err(words) => {
                let code = words.split(' ').next().unwrap_or_default();
                let shouts = code.len() >= 3 && code.chars().all(|c| c.is_ascii_uppercase());
                assert!(!shouts || TOLD.contains(&code), "writer {writer} hears {words}");
                book.borrow_mut().moves += 1;
                client = None;
            }
        }
    }
    book.borrow_mut().ended += 1;
    Ok(())
}
