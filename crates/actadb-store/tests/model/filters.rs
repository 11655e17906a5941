//! Filters over many segments: they hide nothing, and are built again.

use super::*;

/// A transaction of one large event in a stream of its own.
fn lone(host: &Host, number: u64) -> Numbered {
    let partition = PARTITIONS[0];
    let id = with_hash16(Uuid::from_u128(u128::from(number) + 1_000_000), partition.0);
    let event = NumberedEvent {
        id,
        stream: StreamId::new(&format!("only-{number}")).expect("ok"),
        version: 0,
        name: EventName::new("Happened").expect("ok"),
        timestamp_ns: number,
        payload: Bytes::from(vec![number as u8; 9000]),
        metadata: Bytes::new(),
    };
    Numbered {
        partition,
        partition_key: PartitionKey::new(with_hash16(Uuid::from_u128(50), partition.0)),
        key_is_default: false,
        transaction_id: id,
        first_sequence: host.model.next_sequence(partition),
        decided_ns: number,
        events: vec![event],
    }
}

#[test]
fn filters_of_many_segments_hide_nothing_and_are_built_again() {
    let (mut host, mut dice) = (Host::new(), SplitMix64::new(9));
    let grow = |host: &mut Host, dice: &mut SplitMix64, sealed: usize| {
        while host.reader().segment_counts().1 < sealed {
            let next = lone(host, host.model.entries.len() as u64);
            host.append_these(dice, vec![next]).expect("appends");
        }
    };
    let all_there = |host: &Host| {
        let reader = host.reader();
        for event in host.model.events(PARTITIONS[0]) {
            let found = reader.get(event.id).expect("reads").expect("its id is there");
            assert_eq!(found.as_ref(), event);
            let heads = reader.stream_heads(event.stream.as_str()).expect("reads");
            assert_eq!(heads.len(), 1, "{} is there", event.stream.as_str());
            let head = reader.stream_head(event.stream.as_str(), PARTITIONS[0]).expect("reads");
            assert_eq!(head.map(|head| head.version), Some(0));
        }
        for number in 0..500_u64 {
            let id = with_hash16(Uuid::from_u128(u128::from(number) + 9_000_000), 0);
            assert!(reader.get(id).expect("reads").is_none());
            assert!(reader.stream_heads(&format!("none-{number}")).expect("reads").is_empty());
        }
    };
    let filters = |host: &Host| {
        let is_filter = |path: &std::path::PathBuf| path.extension().is_some_and(|e| e == "filter");
        host.disk.files().into_iter().filter(is_filter).collect::<Vec<_>>()
    };
    grow(&mut host, &mut dice, 36);
    assert_eq!(filters(&host).len(), 2, "of segments 1 to 16 and 17 to 32");
    all_there(&host);
    let checked = |host: &Host| check_bucket(host.directory.as_ref().expect("open"), BUCKET);
    let report = checked(&host).expect("checks");
    assert_eq!((report.filters, report.bad_indexes.len()), (2, 0));
    host.crash(&mut dice);
    all_there(&host);

    // Rot, the filter of other segments, none at all: the indexes answer.
    let found = filters(&host);
    let second = host.disk.contents(&found[1]).expect("there");
    host.disk.damage(&found[1], |bytes| bytes[4096..].fill(0));
    all_there(&host);
    host.disk.damage(&found[0], |bytes| *bytes = second.clone());
    let report = checked(&host).expect("checks");
    assert_eq!(report.bad_indexes[0].file, found[1]);
    assert!(report.mendable.iter().any(|mendable| mendable.file == found[0]));
    host.disk.remove(&found[1]).expect("removed");
    host.crash(&mut dice);
    all_there(&host);
    let sealed = host.reader().segment_counts().1;
    grow(&mut host, &mut dice, sealed + 1);
    let again = filters(&host);
    assert_eq!(again.len(), 2, "built again with the next seal");
    assert_eq!(host.disk.contents(&again[1]), Some(second), "the same bytes");
    all_there(&host);

    // What an index that is built anew lacked before, the filter over it may lack, too.
    let index = bucket_dir(root(), BUCKET).join("000000000003.index");
    host.disk.remove(&index).expect("removed");
    host.crash(&mut dice);
    assert_eq!(host.bucket.as_ref().expect("open").rebuilt, [index]);
    assert_eq!(filters(&host), again[1..], "the one over segment 3 is gone");
    all_there(&host);
}
