//! The text of `INFO`: Redis's form, since clients and tools parse it, with our own sections.

use std::fmt::Write as _;
use std::sync::atomic::Ordering;

use actadb::status::Status;
use bytes::Bytes;

use crate::answer::Context;

const SECTIONS: [&str; 11] = [
    "server",
    "clients",
    "memory",
    "persistence",
    "stats",
    "replication",
    "keyspace",
    "buckets",
    "partitions",
    "subscriptions",
    "caches",
];

/// The sections asked for; all when none is named.
#[must_use]
pub fn text(context: &Context, sections: &[Bytes]) -> String {
    let every = ["all", "everything", "default"];
    let named = |word: &str| sections.iter().any(|s| s.eq_ignore_ascii_case(word.as_bytes()));
    let all = sections.is_empty() || every.iter().any(|word| named(word));
    let mut text = String::new();
    let status = context.database.status();
    for section in SECTIONS {
        if all || named(section) {
            if !text.is_empty() {
                text.push_str("\r\n");
            }
            let mut title = section.to_owned();
            title[..1].make_ascii_uppercase();
            let _ = write!(text, "# {title}\r\n");
            for (key, value) in lines(context, &status, section) {
                let _ = write!(text, "{key}:{value}\r\n");
            }
        }
    }
    text
}

fn lines(context: &Context, status: &Status, section: &str) -> Vec<(String, String)> {
    let line = |key: &str, value: &dyn std::fmt::Display| (key.to_owned(), value.to_string());
    let registry = &context.registry;
    let count = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
    match section {
        "server" => {
            let uptime = registry.started.elapsed().as_secs();
            let address = &context.settings.network.client_address;
            let port = address.rsplit(':').next().unwrap_or_default();
            vec![
                // Clients gate features on this one; the next line is the truth.
                line("redis_version", &"7.4.0"),
                line("actadb_version", &env!("CARGO_PKG_VERSION")),
                line("redis_mode", &"standalone"),
                line("os", &std::env::consts::OS),
                line("arch_bits", &usize::BITS),
                line("process_id", &std::process::id()),
                line("run_id", &status.database.simple()),
                line("tcp_port", &port),
                line("uptime_in_seconds", &uptime),
                line("uptime_in_days", &(uptime / 86_400)),
            ]
        }
        "clients" => vec![
            line("connected_clients", &registry.connected()),
            line("maxclients", &context.settings.network.max_clients),
            line("blocked_clients", &status.blocked_reads),
        ],
        "memory" => {
            let resident = resident_bytes();
            vec![
                line("used_memory", &resident),
                line("used_memory_rss", &resident),
                line("maxmemory", &0),
                line("request_bytes_held", &registry.held_bytes.load(Ordering::Relaxed)),
            ]
        }
        "persistence" => {
            let degraded = status.degraded();
            vec![
                line("loading", &0),
                line("aof_enabled", &1),
                line("fsync", &format!("{:?}", context.settings.fsync.mode).to_lowercase()),
                line("aof_last_write_status", if degraded.is_empty() { &"ok" } else { &"err" }),
                line("degraded", &degraded.join("; ")),
                line("disk_free_bytes", &status.free_bytes.unwrap_or(0)),
            ]
        }
        "stats" => {
            let commands: u64 = registry.command_counts().iter().map(|(_, count)| count).sum();
            let errors: u64 = registry.error_counts().iter().map(|(_, count)| count).sum();
            vec![
                line("total_connections_received", &count(&registry.accepted)),
                line("rejected_connections", &count(&registry.rejected)),
                line("total_commands_processed", &commands),
                line("total_error_replies", &errors),
                line("total_reads", &status.reads),
                line("total_events_read", &status.read_events),
                line(
                    "total_syncs",
                    &status.buckets.iter().map(|b| b.sync_seconds.count).sum::<u64>(),
                ),
            ]
        }
        "replication" => {
            let mut lines = vec![
                line("role", &"master"),
                line("connected_slaves", &0),
                line("master_replid", &status.database.simple()),
            ];
            if !status.nodes.is_empty() {
                lines.extend(crate::cluster_info::pairs(status));
            }
            lines
        }
        "keyspace" => {
            vec![line("db0", &format!("keys={},expires=0,avg_ttl=0", context.event_count()))]
        }
        "buckets" => status
            .buckets
            .iter()
            .map(|bucket| {
                let state = bucket.closed.as_ref().map_or("open", |reason| reason.label());
                let value = format!(
                    "state={state},events={},bytes={},commits={},open_segments={},\
                     sealed_segments={},permit_bytes_in_use={},held={},parked={},no_room={},\
                     damaged_places={}",
                    bucket.events,
                    bucket.bytes,
                    bucket.entries,
                    bucket.open_segments,
                    bucket.sealed_segments,
                    bucket.permits_in_use,
                    bucket.held,
                    bucket.parked,
                    u8::from(bucket.no_room),
                    bucket.damaged.len()
                );
                (format!("bucket{}", bucket.bucket), value)
            })
            .collect(),
        "partitions" => vec![
            line("partitions", &status.partitioning.partitions()),
            line("buckets", &status.partitioning.buckets()),
        ],
        "subscriptions" => vec![
            line("subscriptions", &status.subscriptions),
            line("delivered_events", &status.delivered_events),
            line("blocked_reads", &status.blocked_reads),
        ],
        "caches" => {
            let heads: usize = status.buckets.iter().map(|bucket| bucket.heads).sum();
            vec![
                line("stream_heads", &heads),
                line("index_bytes", &status.index_cache_bytes),
                line("open_files", &status.open_files),
            ]
        }
        _ => Vec::new(),
    }
}

/// Resident memory of this process; 0 where the system does not tell.
#[must_use]
pub fn resident_bytes() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm").ok();
    let pages = pages.and_then(|text| text.split(' ').nth(1)?.parse::<u64>().ok());
    pages.unwrap_or(0) * rustix::param::page_size() as u64
}
