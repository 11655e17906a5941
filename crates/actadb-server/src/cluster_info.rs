//! What `CLUSTER INFO`, `CLUSTER NODES` and `INFO replication` tell.

use std::fmt::Write as _;

use actadb::status::{BucketStatus, NodeStatus, Status};

/// Whether every bucket has a leader as far as this node knows.
fn is_led(status: &Status) -> bool {
    status.buckets.iter().all(|bucket| bucket.leader.is_some())
}

/// What a bucket's replica on this node says.
#[must_use]
pub fn replica(bucket: &BucketStatus) -> String {
    let leader = bucket.leader.map_or("none".to_owned(), |node| node.to_string());
    let role = if bucket.leads { "leader" } else { "follower" };
    let lag = |last_entry: u64| bucket.committed_entry.saturating_sub(last_entry);
    let mut text = format!(
        "role={role},leader={leader},term={},last_entry={},committed_entry={},lag={}",
        bucket.term,
        bucket.last_entry,
        bucket.committed_entry,
        lag(bucket.last_entry)
    );
    for (node, last_entry) in &bucket.followers {
        let _ = write!(text, ",node{node}_lag={}", lag(*last_entry));
    }
    text
}

/// The lines of `CLUSTER INFO`.
#[must_use]
pub fn pairs(status: &Status) -> Vec<(String, String)> {
    let line = |key: &str, value: String| (key.to_owned(), value);
    let state = match status.nodes.is_empty() || is_led(status) {
        true => "ok",
        false => "fail",
    };
    let us = status.nodes.iter().find(|node| node.is_this).map_or(0, |node| node.node);
    let connected = status.nodes.iter().filter(|node| node.connected).count();
    let mut lines = vec![
        line("cluster_enabled", u8::from(!status.nodes.is_empty()).to_string()),
        line("cluster_state", state.to_owned()),
        line("cluster_id", status.database.to_string()),
        line("cluster_node", us.to_string()),
        line("cluster_known_nodes", status.nodes.len().max(1).to_string()),
        line("cluster_connected_nodes", connected.max(1).to_string()),
    ];
    let buckets = status.buckets.iter();
    lines.extend(buckets.map(|b| line(&format!("cluster_bucket{}", b.bucket), replica(b))));
    lines
}

/// The answer to `CLUSTER INFO`.
#[must_use]
pub fn info(status: &Status) -> String {
    let mut text = String::new();
    for (key, value) in pairs(status) {
        let _ = write!(text, "{key}:{value}\r\n");
    }
    text
}

/// The answer to `CLUSTER NODES`: a line per node.
#[must_use]
pub fn nodes(status: &Status) -> String {
    let mut text = String::new();
    for node in &status.nodes {
        let NodeStatus { node: number, is_this, client_address, peer_address, .. } = node;
        let leads = status.buckets.iter().filter(|bucket| bucket.leader == Some(*number));
        let leads: Vec<String> = leads.map(|bucket| bucket.bucket.to_string()).collect();
        let or_dash = |text: &str| if text.is_empty() { "-".to_owned() } else { text.to_owned() };
        let number_or_dash = |number: Option<String>| number.unwrap_or_else(|| "-".to_owned());
        let report = node.report.as_ref();
        let stuck = report.iter().flat_map(|report| &report.stuck_buckets);
        let stuck: Vec<String> = stuck.map(ToString::to_string).collect();
        let _ = write!(
            text,
            "{number} clients={} peers={peer_address} {} {} version={} leads={} \
             clock_ahead_ms={} events_per_second={} free_bytes={} stuck={}\r\n",
            or_dash(client_address),
            if *is_this { "myself" } else { "node" },
            if node.connected { "connected" } else { "lost" },
            or_dash(&node.version),
            or_dash(&leads.join(",")),
            number_or_dash(node.clock_ahead_ms.map(|ahead| ahead.to_string())),
            number_or_dash(report.map(|report| report.events_per_second.to_string())),
            number_or_dash(report.and_then(|report| report.free_bytes).map(|n| n.to_string())),
            or_dash(&stuck.join(",")),
        );
    }
    text
}
