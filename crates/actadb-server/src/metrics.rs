//! Metrics in Prometheus's text form, gathered when they are asked for.

use std::fmt;
use std::sync::atomic::Ordering;

use actadb::metrics::HistogramValue;
use actadb::status::BucketStatus;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry as Prometheus;

use crate::answer::Context;

/// A registry whose one collector asks the server.
#[must_use]
pub fn registry(context: Context) -> Prometheus {
    let mut registry = Prometheus::with_prefix("actadb");
    registry.register_collector(Box::new(Gatherer(context)));
    registry
}

/// The text of all metrics.
#[must_use]
pub fn text(registry: &Prometheus) -> String {
    let mut text = String::new();
    // Writing to a string fails only when a collector does; what is there is told.
    let _ = prometheus_client::encoding::text::encode(&mut text, registry);
    text
}

#[derive(Debug)]
struct Gatherer(Context);

type Labels = Vec<(String, String)>;

fn gauge(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    rows: Vec<(Labels, f64)>,
) -> fmt::Result {
    let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for (labels, value) in rows {
        ConstGauge::new(value).encode(metric.encode_family(&labels)?)?;
    }
    Ok(())
}

fn counter(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    rows: Vec<(Labels, u64)>,
) -> fmt::Result {
    let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    for (labels, value) in rows {
        ConstCounter::new(value).encode(metric.encode_family(&labels)?)?;
    }
    Ok(())
}

fn histogram(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    rows: Vec<(Labels, HistogramValue)>,
) -> fmt::Result {
    let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Histogram)?;
    for (labels, value) in rows {
        let HistogramValue { buckets, sum, count } = &value;
        metric.encode_family(&labels)?.encode_histogram::<Labels>(*sum, *count, buckets, None)?;
    }
    Ok(())
}

impl Collector for Gatherer {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        self.server(&mut encoder)?;
        self.buckets(&mut encoder)?;
        self.cluster(&mut encoder)
    }
}

impl Gatherer {
    fn server(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let registry = &self.0.registry;
        let one = |value: u64| vec![(Labels::new(), value)];
        let labelled = |label: &str, rows: Vec<(&'static str, u64)>| {
            let row =
                |(word, count): (&str, u64)| (vec![(label.to_owned(), word.to_lowercase())], count);
            rows.into_iter().map(row).collect::<Vec<_>>()
        };
        let commands = labelled("command", registry.command_counts());
        counter(encoder, "commands", "Commands received", commands)?;
        let errors = labelled("code", registry.error_counts());
        counter(encoder, "error_replies", "Error replies sent", errors)?;
        let accepted = registry.accepted.load(Ordering::Relaxed);
        counter(encoder, "connections_accepted", "Connections accepted", one(accepted))?;
        let rejected = registry.rejected.load(Ordering::Relaxed);
        let help = "Connections refused because there were too many";
        counter(encoder, "connections_rejected", help, one(rejected))?;
        let number = |value: f64| vec![(Labels::new(), value)];
        let connected = registry.connected() as f64;
        gauge(encoder, "connections", "Connections open", number(connected))?;
        let held = registry.held_bytes.load(Ordering::Relaxed) as f64;
        gauge(encoder, "request_bytes_held", "Bytes of requests held", number(held))?;
        let resident = crate::info::resident_bytes() as f64;
        gauge(encoder, "resident_bytes", "Resident memory of the process", number(resident))?;
        let status = self.0.database.status();
        counter(encoder, "reads", "Reads answered", one(status.reads))?;
        counter(encoder, "events_read", "Events in the answers of reads", one(status.read_events))?;
        let running = status.subscriptions as f64;
        gauge(encoder, "subscriptions", "Subscriptions that run", number(running))?;
        let help = "Events that subscriptions delivered";
        counter(encoder, "events_delivered", help, one(status.delivered_events))?;
        let help = "Reads with BLOCK that wait for their first event";
        gauge(encoder, "blocked_reads", help, number(status.blocked_reads as f64))?;
        let scrub = &status.scrub;
        let help = "Bytes of sealed segments and indexes read again by the scrub";
        counter(encoder, "scrubbed_bytes", help, one(scrub.bytes))?;
        let help = "Complete rounds of the scrub over all sealed segments";
        counter(encoder, "scrub_rounds", help, one(scrub.rounds))?;
        if let Some(ended) = scrub.last_round_unix_seconds {
            let help = "When the last complete round of the scrub ended, since 1970";
            gauge(encoder, "scrub_last_round_timestamp_seconds", help, number(ended as f64))?;
        }
        if let Some(free) = status.free_bytes {
            let help = "Bytes that can still be allocated where the data lies";
            gauge(encoder, "disk_free_bytes", help, number(free as f64))?;
        }
        Ok(())
    }

    /// Only of a node among several.
    fn cluster(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let status = self.0.database.status();
        if status.nodes.is_empty() {
            return Ok(());
        }
        let label = |bucket: &BucketStatus| vec![("bucket".to_owned(), bucket.bucket.to_string())];
        let values = |of: fn(&BucketStatus) -> f64| {
            let rows = status.buckets.iter().map(|bucket| (label(bucket), of(bucket)));
            rows.collect::<Vec<_>>()
        };
        gauge(encoder, "term", "Consensus term", values(|b| b.term as f64))?;
        let help = "Number of the node that leads, -1 when none is known to";
        gauge(encoder, "leader", help, values(|b| b.leader.map_or(-1.0, f64::from)))?;
        let help = "1 on the node that leads";
        gauge(encoder, "leads", help, values(|b| f64::from(u8::from(b.leads))))?;
        let help = "Last entry of the log on this node";
        gauge(encoder, "last_entry", help, values(|b| b.last_entry as f64))?;
        let help = "Last entry known to be committed; what this node lacks of it is its lag";
        gauge(encoder, "committed_entry", help, values(|b| b.committed_entry as f64))?;
        let lags = status.buckets.iter().flat_map(|bucket| {
            bucket.followers.iter().map(|(node, last_entry)| {
                let mut labels = label(bucket);
                labels.push(("node".to_owned(), node.to_string()));
                (labels, bucket.committed_entry.saturating_sub(*last_entry) as f64)
            })
        });
        let help = "Committed entries that another node is not known to have, told by the leader";
        gauge(encoder, "follower_lag_entries", help, lags.collect())?;
        let nodes = status.nodes.iter().filter(|node| !node.is_this).map(|node| {
            let labels = vec![("node".to_owned(), node.node.to_string())];
            (labels, f64::from(u8::from(node.connected)))
        });
        let help = "1 while this node is connected to the other one";
        gauge(encoder, "node_connected", help, nodes.collect())?;
        let clocks = status.nodes.iter().filter_map(|node| {
            let labels = vec![("node".to_owned(), node.node.to_string())];
            Some((labels, node.clock_ahead_ms? as f64 / 1e3))
        });
        let help = "How far the clock of another node is ahead of this one's";
        gauge(encoder, "node_clock_ahead_seconds", help, clocks.collect())
    }

    fn buckets(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let buckets = self.0.database.status().buckets;
        let label = |bucket: &BucketStatus| vec![("bucket".to_owned(), bucket.bucket.to_string())];
        let counts = |of: fn(&BucketStatus) -> u64| {
            buckets.iter().map(|bucket| (label(bucket), of(bucket))).collect::<Vec<_>>()
        };
        let values = |of: fn(&BucketStatus) -> f64| {
            buckets.iter().map(|bucket| (label(bucket), of(bucket))).collect::<Vec<_>>()
        };
        counter(encoder, "appends", "Transactions proposed to the log", counts(|b| b.proposals))?;
        counter(encoder, "events", "Events committed", counts(|b| b.events))?;
        counter(encoder, "bytes", "Bytes committed to the log", counts(|b| b.bytes))?;
        counter(encoder, "commits", "Group commits", counts(|b| b.entries))?;
        gauge(
            encoder,
            "permit_bytes_in_use",
            "Bytes of appends in flight",
            values(|b| b.permits_in_use as f64),
        )?;
        gauge(
            encoder,
            "held_answers",
            "Messages whose answer waits for a commit or a sync",
            values(|b| b.held as f64),
        )?;
        gauge(
            encoder,
            "oldest_held_answer_seconds",
            "How long the oldest of them has waited",
            values(|b| b.oldest_held_ns as f64 / 1e9),
        )?;
        gauge(
            encoder,
            "parked_appends",
            "Messages that wait for facts from the disk",
            values(|b| b.parked as f64),
        )?;
        gauge(encoder, "stream_heads", "Heads of streams in memory", values(|b| b.heads as f64))?;
        gauge(
            encoder,
            "full_segments",
            "Full segments that wait for their index",
            values(|b| b.full_segments as f64),
        )?;
        gauge(
            encoder,
            "sealed_segments",
            "Segments with an index file",
            values(|b| b.sealed_segments as f64),
        )?;
        gauge(
            encoder,
            "allocated_bytes",
            "Bytes that can be written without allocating",
            values(|b| b.allocated_bytes as f64),
        )?;
        gauge(
            encoder,
            "no_room",
            "1 while the disk has no space for the bucket",
            values(|b| f64::from(u8::from(b.no_room))),
        )?;
        gauge(
            encoder,
            "damaged_places",
            "Places of sealed segments and indexes that the scrub found damaged",
            values(|b| b.damaged.len() as f64),
        )?;
        let closed = buckets.iter().filter_map(|bucket| {
            let reason = bucket.closed.as_ref()?.label().to_owned();
            let labels = [label(bucket), vec![("reason".to_owned(), reason)]].concat();
            Some((labels, 1.0))
        });
        let help = "1 for each bucket that takes no appends, with the reason";
        gauge(encoder, "closed_buckets", help, closed.collect())?;
        let rows = buckets.iter().map(|b| (label(b), b.sync_seconds.clone())).collect();
        histogram(encoder, "fsync_seconds", "Times of syncs with their write", rows)?;
        let rows = buckets.iter().map(|b| (label(b), b.entry_events.clone())).collect();
        histogram(encoder, "commit_events", "Events per group commit", rows)
    }
}
