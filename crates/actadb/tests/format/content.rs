//! What is in the kept directories: the same whoever writes or reads them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use actadb::cluster::options::{CATCH_UP_BYTES_PER_SECOND_DEFAULT, ClusterOptions, Libp2p, Secret};
use actadb::database::Database;
use actadb::model::event::Event;
use actadb::model::ids::{PartitionId, PartitionKey, with_hash16};
use actadb::model::names::{EventName, StreamId};
use actadb::model::outcome::{AppendError, Appended, Refusal};
use actadb::model::transaction::{NewEvent, Transaction};
use actadb::options::Options;
use actadb::reads::{ReadPartition, ReadStream};
use uuid::Uuid;

pub(crate) const PARTITIONS: u16 = 4;
const LARGE_BYTES: usize = 60 << 10;
const FIRST_TIME_MS: u64 = 1_700_000_000_000;

/// How every kept directory was written.
pub(crate) fn options(dir: &std::path::Path, buckets: u16) -> Options {
    Options {
        partitions: PARTITIONS,
        buckets,
        segment_bytes: 1 << 20,
        max_transaction_bytes: 64 << 10,
        ..Options::new(dir)
    }
}

/// A node of three at these addresses.
pub(crate) fn cluster(node: usize, addresses: &[SocketAddr]) -> ClusterOptions {
    ClusterOptions {
        node: node as u8,
        peers: addresses.iter().map(ToString::to_string).collect(),
        listen: addresses[node],
        secret: Secret::new(b"a secret of the tests").expect("long enough"),
        client_address: String::new(),
        catch_up_bytes_per_second: CATCH_UP_BYTES_PER_SECOND_DEFAULT,
        network: Arc::new(Libp2p),
    }
}

/// Append number `n`: of one event or of several, small or large, with or without what is optional.
pub(crate) fn transaction(n: u64) -> Transaction {
    let stream = |of: u64| StreamId::new(&format!("stream-{of}")).expect("a good id");
    let name = |of: u64| EventName::new(["Opened", "Geändert", "閉じた"][of as usize % 3]);
    let of = n % 7;
    // Some streams lie where a key of their own puts them.
    let key = match of {
        5 | 6 => PartitionKey::new(Uuid::from_u128(0xacda_0000_0000_4000_8000_0000_0000_0000 + 1)),
        _ => PartitionKey::of_stream(stream(of).as_str()),
    };
    let event = |stream: StreamId, at: u64| {
        let id = with_hash16(Uuid::from_u128(u128::from(n) << 8 | u128::from(at)), key.hash16());
        let event = NewEvent::new(stream, name(n + at).expect("a good name")).id(id);
        let event = event.timestamp_ms(FIRST_TIME_MS + 1000 * n);
        match (n + at) % 4 {
            0 | 2 if at == 0 => event.payload(vec![0; LARGE_BYTES]),
            1 => event.payload(format!("payload {n}.{at}")).metadata("{\"by\":\"Ada\"}"),
            _ => event,
        }
    };
    // One of the two streams with a key of their own writes to both.
    let events = match of {
        5 => vec![event(stream(5), 1), event(stream(6), 2), event(stream(5), 5)],
        _ => vec![event(stream(of), 0)],
    };
    Transaction::new(key, events).expect("a good transaction")
}

/// Appends number `n`, or finds where it is.
pub(crate) async fn append(database: &Database, n: u64) -> Appended {
    loop {
        match database.append(transaction(n)).await {
            Ok(appended) => return appended,
            Err(AppendError::Unknown(_) | AppendError::Refused(Refusal::NoQuorum)) => {}
            Err(error) => panic!("append {n}: {error}"),
        }
    }
}

/// Everything in the database, by partition and sequence, which have no gaps.
async fn everything(database: &Database) -> BTreeMap<(PartitionId, u64), Event> {
    let mut events = BTreeMap::new();
    for partition in (0..PARTITIONS).map(PartitionId) {
        // All that any node has acknowledged, once there is a leader to ask.
        while database.read_index(partition).await.is_err() {}
        let mut next = 0;
        loop {
            let read = ReadPartition::all(partition).from(next).count(500);
            let page = database.read_partition(read).await.expect("reads");
            for event in &page.events {
                assert_eq!(event.sequence(), next, "no gap");
                next += 1;
                events.insert((partition, event.sequence()), event.clone());
            }
            if !page.has_more {
                break;
            }
        }
    }
    events
}

/// Exactly the first `count` appends are there, whole, and in their order.
pub(crate) async fn holds(database: &Database, count: u64) {
    let mut events = everything(database).await;
    let mut versions: BTreeMap<(PartitionId, StreamId), u64> = BTreeMap::new();
    for n in 0..count {
        let transaction = transaction(n);
        // What was appended is found by its ids, and is not appended again.
        let appended = append(database, n).await;
        assert_eq!(appended.events.len(), transaction.events().len());
        for (at, new) in transaction.events().iter().enumerate() {
            let place = (appended.partition, appended.first_sequence + at as u64);
            let found = events.remove(&place).unwrap_or_else(|| panic!("append {n} is not there"));
            let version = versions.entry((appended.partition, new.stream.clone())).or_default();
            assert_eq!(found.version(), *version, "append {n}");
            *version += 1;
            assert_eq!(Some(found.id()), new.id);
            assert_eq!(found.stream(), new.stream.as_str());
            assert_eq!(found.name(), new.name.as_str());
            assert_eq!(found.payload(), &new.payload[..]);
            assert_eq!(found.metadata(), &new.metadata[..]);
            assert_eq!(Some(found.timestamp_ns() / 1_000_000), new.timestamp_ms);
            assert_eq!(found.partition_key(), transaction.partition_key());
            assert_eq!(found.transaction_id(), appended.transaction_id);
            let alone = transaction.events().len() == 1;
            assert_eq!(found.transaction_id() == found.id(), alone);
        }
    }
    assert!(events.is_empty(), "nothing else is there");
    for ((_, stream), count) in versions {
        let of = if ["stream-5", "stream-6"].contains(&stream.as_str()) { 5 } else { 0 };
        let mut read = ReadStream::all(stream).count(1000);
        if of == 5 {
            read = read.partition_key(transaction(5).partition_key());
        }
        let page = database.read_stream(read).await.expect("reads");
        let found: Vec<u64> = page.events.iter().map(Event::version).collect();
        assert_eq!(found, (0..count).collect::<Vec<_>>());
    }
}
