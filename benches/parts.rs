//! What the parts of an append and of a read cost by themselves: no socket, no actor, and no disk
//! but where it says so. `cargo bench -p actadb-benches [NAME]`.

use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;

use actadb_disk::disk::Disk;
use actadb_disk::handles::Handles;
use actadb_disk::os::OsDisk;
use actadb_index::block_cache::BlockCache;
use actadb_index::filter::{Covered, Filter, Sought};
use actadb_index::format::Described;
use actadb_index::open::OpenIndex;
use actadb_index::sealed::SealedIndex;
use actadb_log::format::{BatchHead, LogIdentity};
use actadb_log::recover::Recovery;
use actadb_log::slots::Known;
use actadb_log::writer::{LogSettings, LogWriter};
use actadb_model::dice::SplitMix64;
use actadb_model::entry::{Entry, EntryKind};
use actadb_model::event::EventRef;
use actadb_model::ids::{BucketId, PartitionId, PartitionKey};
use actadb_model::names::{EventName, StreamId};
use actadb_model::numbered::{Numbered, NumberedEvent};
use actadb_model::time::Now;
use actadb_model::transaction::{NewEvent, Transaction};
use actadb_partition::core::{PartitionCore, Rules, Start};
use actadb_partition::message::{FromReplica, Input, Output, Token};
use actadb_protocol::event::write_event;
use actadb_protocol::framer::{Framer, Limits};
use actadb_protocol::reply::Protocol;
use actadb_store::record::{self, Record};
use bytes::{Bytes, BytesMut};
use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use uuid::Uuid;

const STREAM: &str = "account-4711";
const PAYLOAD_BYTES: usize = 256;
/// Events of a segment whose index is looked up.
const INDEXED: u32 = 500_000;

fn identity() -> LogIdentity {
    LogIdentity::new(Uuid::from_u128(1), BucketId(0))
}

fn numbered() -> Numbered {
    let key = PartitionKey::of_stream(STREAM);
    let id = Uuid::from_u128(7);
    let event = NumberedEvent {
        id,
        stream: StreamId::new(STREAM).expect("a good id"),
        version: 41,
        name: EventName::new("Renamed").expect("a good name"),
        timestamp_ns: 1_700_000_000_000_000_000,
        payload: Bytes::from(vec![7; PAYLOAD_BYTES]),
        metadata: Bytes::new(),
    };
    Numbered {
        partition: PartitionId(3),
        partition_key: key,
        key_is_default: true,
        transaction_id: id,
        first_sequence: 70,
        decided_ns: 1_700_000_000_000_000_000,
        events: vec![event],
    }
}

fn protocol(c: &mut Criterion) {
    let command = format!(
        "*5\r\n$7\r\nEAPPEND\r\n$12\r\n{STREAM}\r\n$7\r\nRenamed\r\n$7\r\nPAYLOAD\r\n\
         ${PAYLOAD_BYTES}\r\n{}\r\n",
        "x".repeat(PAYLOAD_BYTES)
    );
    let pipeline = command.repeat(64);
    let limits = Limits::default();
    c.bench_function("framer/64 appends", |b| {
        b.iter_batched(
            || Framer::new(limits),
            |mut framer| {
                framer.buffer().extend_from_slice(pipeline.as_bytes());
                let mut commands = 0;
                while let Some(arguments) = framer.step().expect("good commands") {
                    commands += black_box(arguments).len();
                }
                assert_eq!(commands, 64 * 5);
            },
            BatchSize::SmallInput,
        );
    });
    let numbered = numbered();
    let event: EventRef<'_> = numbered.event_refs().next().expect("one event");
    c.bench_function("reply/an event", |b| {
        let mut out = BytesMut::with_capacity(1 << 16);
        b.iter(|| {
            out.clear();
            write_event(black_box(&event), Protocol::Resp3, &mut out);
            out.len()
        });
    });
}

fn partition(c: &mut Criterion) {
    let rules =
        Rules { strict_versioning: false, max_transaction_bytes: 16 << 20, cached_heads: 10_000 };
    let start = Start { partition: PartitionId(0), rules, id_floor_ns: 0, seed: 1 };
    let stream = StreamId::new(STREAM).expect("a good id");
    let name = EventName::new("Renamed").expect("a good name");
    let payload = Bytes::from(vec![7; PAYLOAD_BYTES]);
    // The stream's own partition is another one's; its key is given the hash of this one.
    let key = PartitionKey::new(actadb_model::ids::with_hash16(Uuid::from_u128(9), 0));
    let transaction = || {
        let event = NewEvent::new(stream.clone(), name.clone()).payload(payload.clone());
        Transaction::new(key, vec![event]).expect("a good transaction")
    };
    c.bench_function("partition core/append, committed and answered", |b| {
        let mut core = PartitionCore::new(start);
        let (mut out, mut token, mut next) = (Vec::new(), 0, 0);
        let lead = FromReplica::Lead {
            epoch: 1,
            next_sequence: 0,
            time_ns: 0,
            tail: Vec::new(),
            shared: false,
        };
        core.step(Now { mono_ns: 0, unix_ns: 1 }, Input::Replica(lead), &mut out);
        b.iter(|| {
            token += 1;
            let now = Now { mono_ns: token, unix_ns: token };
            let transactions = vec![transaction()];
            let append = Input::Append { token: Token(token), connection: 1, transactions };
            core.step(now, append, &mut out);
            if let Some(Output::Fetch { fetch, keys }) = out.first() {
                // The first append of the stream asks for it.
                let streams = keys.streams.iter();
                let facts = actadb_model::keys::Facts {
                    streams: streams
                        .map(|s| (s.clone(), actadb_model::keys::StreamFact::Absent))
                        .collect(),
                    ..Default::default()
                };
                let facts = Input::Facts { fetch: *fetch, facts: Ok(facts) };
                core.step(now, facts, &mut out);
            }
            let committed = FromReplica::Committed { through: next, synced: true };
            core.step(now, Input::Replica(committed), &mut out);
            next += 1;
            let answered = out.iter().filter(|o| matches!(o, Output::Answer { .. })).count();
            assert_eq!(answered, 1, "{out:?}");
            out.clear();
        });
    });
}

fn records(c: &mut Criterion) {
    let numbered = numbered();
    c.bench_function("record/encode", |b| {
        b.iter(|| record::encode(identity(), black_box(&numbered)));
    });
    let bytes = Bytes::from(record::encode(identity(), &numbered));
    c.bench_function("record/decode", |b| {
        b.iter(|| match record::decode(identity(), black_box(&bytes)) {
            Ok(Record::Transaction(transaction)) => transaction,
            other => panic!("{other:?}"),
        });
    });
}

fn log(c: &mut Criterion) {
    let body = |index: u64| {
        let mut body = BatchHead { time_ns: index, durable: index - 1 }.encode().to_vec();
        body.resize(20 << 10, 7);
        Bytes::from(body)
    };
    let open = |dir: &Path| -> LogWriter {
        let settings = LogSettings {
            disk: Arc::new(OsDisk),
            dir: dir.to_owned(),
            identity: identity(),
            segment_bytes: 256 << 20,
            zero_fill_bytes: 256 << 10,
        };
        Recovery::start(settings, Known::default())
            .and_then(Recovery::finish)
            .expect("a new log")
            .writer
    };
    for (name, sync) in [("log/write 20 KiB", false), ("log/write 20 KiB and sync", true)] {
        // Not in the system's directory for temporary files, which may be memory.
        let dir = tempfile::tempdir_in(".").expect("a directory");
        let mut writer = open(dir.path());
        c.bench_function(name, |b| {
            b.iter(|| {
                let index = writer.tip().index + 1;
                let body = body(index);
                writer.make_room(body.len() as u64).expect("room");
                let entry = Entry { term: 1, index, kind: EntryKind::Batch, body };
                writer.write(&entry).expect("written");
                if sync {
                    writer.sync().expect("synced");
                }
            });
        });
    }
}

fn indexes(c: &mut Criterion) {
    let mut dice = SplitMix64::new(1);
    let keys: Vec<u64> = (0..INDEXED).map(|_| dice.draw()).collect();
    let mut open = OpenIndex::new([(0, 0)]);
    for (place, key) in keys.iter().enumerate() {
        open.push_lane(0, place as u64, place as u32);
        open.add_posting(key ^ 1, 0, 0, place as u32);
        open.add_key(*key, place as u32);
    }
    let (mut hits, mut misses) = (SplitMix64::new(2), SplitMix64::new(3));
    let mut hit = || keys[hits.below(u64::from(INDEXED)) as usize];
    let mut miss = || misses.draw();
    c.bench_function("open index/hit", |b| b.iter(|| open.key_places(hit()).len()));
    c.bench_function("open index/miss", |b| b.iter(|| open.key_places(miss()).len()));

    let dir = tempfile::tempdir_in(".").expect("a directory");
    let path = dir.path().join("1.index");
    let described = Described {
        database: Uuid::from_u128(1),
        bucket: 0,
        segment: 1,
        segment_bytes: 1,
        first_index: 1,
        last_index: 1,
        last_term: 1,
        last_time_ns: 1,
        previous_checksum: 0,
        last_checksum: 0,
    };
    SealedIndex::build(&OsDisk, &path, &described, &open).expect("built");
    let sealed = || SealedIndex::open(&OsDisk, &path, described.database, 0, 1).expect("open");
    for (name, cache_bytes) in [("cached", 64 << 20), ("not cached", 0)] {
        let index = sealed().cached_in(&BlockCache::new(cache_bytes));
        c.bench_function(&format!("sealed index, {name}/hit"), |b| {
            b.iter(|| index.key_places(hit()).expect("reads").len());
        });
        c.bench_function(&format!("sealed index, {name}/miss"), |b| {
            b.iter(|| index.key_places(miss()).expect("reads").len());
        });
    }
    let covered = Covered {
        database: described.database,
        bucket: 0,
        first: 1,
        last: 1,
        last_index: 1,
        last_checksum: 0,
    };
    let path = dir.path().join("1-1.filter");
    Filter::build(&OsDisk, &path, &covered, [sealed()].iter()).expect("built");
    let disk: Arc<dyn Disk> = Arc::new(OsDisk);
    let cache = BlockCache::new(64 << 20);
    let filter = Filter::open(&Handles::new(disk, 8), &cache, &path, &covered).expect("open");
    c.bench_function("filter, cached/miss", |b| {
        b.iter(|| filter.may_have(Sought::key(miss())).expect("reads"));
    });
}

criterion_group!(parts, protocol, partition, records, log, indexes);
criterion_main!(parts);
