//! What a benchmark prints: a table for people, JSON for programs.

use std::fmt::Write;

use serde::Serialize;

use super::load::{Plan, Tally};
use super::{BenchArgs, Mode};

/// What was measured, and how.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    mode: &'static str,
    target: &'static str,
    address: String,
    connections: usize,
    depth: usize,
    batch: usize,
    payload_bytes: usize,
    streams: usize,
    count: usize,
    expected: bool,
    rate: Option<f64>,
    /// From the first measured operation to the last answer.
    pub(super) seconds: f64,
    pub(super) operations: u64,
    pub(super) events: u64,
    /// Operations that failed.
    pub(super) errors: u64,
    pub(super) first_error: Option<String>,
    /// Due in an open loop, but not sent.
    unsent: u64,
    pub(super) operations_per_second: f64,
    pub(super) events_per_second: f64,
    /// Payload bytes, in millions.
    mb_per_second: f64,
    mean_ms: f64,
    pub(super) p50_ms: f64,
    p95_ms: f64,
    pub(super) p99_ms: f64,
    p99_9_ms: f64,
    max_ms: f64,
}

impl Report {
    /// Puts the numbers together.
    pub(super) fn new(args: &BenchArgs, streams: usize, plan: &Plan, tally: Tally) -> Self {
        let spent = tally.last.map(|last| last.duration_since(plan.from).as_secs_f64());
        let seconds = spent.unwrap_or(0.0);
        let per_second = |count: f64| if seconds > 0.0 { count / seconds } else { 0.0 };
        let ms = |quantile| tally.latencies.value_at_quantile(quantile) as f64 / 1000.0;
        Self {
            mode: args.mode.word(),
            target: if args.redis { "redis" } else { "actadb" },
            address: args.address.clone(),
            connections: args.connections,
            depth: args.depth,
            batch: args.batch,
            payload_bytes: args.payload_bytes,
            streams,
            count: args.count,
            expected: args.expected,
            rate: args.rate,
            seconds,
            operations: tally.operations,
            events: tally.events,
            errors: tally.errors,
            first_error: tally.first_error,
            unsent: tally.unsent,
            operations_per_second: per_second(tally.operations as f64),
            events_per_second: per_second(tally.events as f64),
            mb_per_second: per_second(tally.events as f64 * args.payload_bytes as f64 / 1e6),
            mean_ms: tally.latencies.mean() / 1000.0,
            p50_ms: ms(0.5),
            p95_ms: ms(0.95),
            p99_ms: ms(0.99),
            p99_9_ms: ms(0.999),
            max_ms: tally.latencies.max() as f64 / 1000.0,
        }
    }

    /// One JSON object on one line.
    pub(super) fn json(&self) -> String {
        serde_json::to_string(self).unwrap_or_else(|error| format!("{{\"error\":\"{error}\"}}"))
    }

    /// A table.
    pub(super) fn table(&self) -> String {
        let mut text = self.heading();
        let mut row = |name: &str, value: String| {
            // Writing to a string does not fail.
            let _ = write!(text, "\n  {name:<14} {value:>14}");
        };
        row("operations/s", whole(self.operations_per_second));
        if self.mode != Mode::Ping.word() {
            row("events/s", whole(self.events_per_second));
            row("MB/s", format!("{:.2}", self.mb_per_second));
        }
        row("operations", self.operations.to_string());
        row("seconds", format!("{:.3}", self.seconds));
        for (name, ms) in [
            ("p50 ms", self.p50_ms),
            ("p95 ms", self.p95_ms),
            ("p99 ms", self.p99_ms),
            ("p99.9 ms", self.p99_9_ms),
            ("max ms", self.max_ms),
        ] {
            row(name, format!("{ms:.3}"));
        }
        row("errors", self.errors.to_string());
        if self.unsent > 0 {
            let note = "  (due, but not sent: the server did not keep up with --rate)";
            row("unsent", format!("{}{note}", self.unsent));
        }
        if let Some(error) = &self.first_error {
            let _ = write!(text, "\n  first error: {error}");
        }
        text
    }

    fn heading(&self) -> String {
        let Self { mode, target, address, connections, depth, streams, payload_bytes, .. } = self;
        let mut text = format!("{mode} on {target} at {address}: {connections} connections");
        let _ = write!(text, ", depth {depth}");
        if *streams > 0 {
            let _ = write!(text, ", {streams} streams, {payload_bytes} byte payloads");
        }
        if *mode == Mode::Append.word() {
            let _ = write!(text, ", batch {}", self.batch);
        } else if *mode == Mode::Read.word() {
            let _ = write!(text, ", pages of {}", self.count);
        }
        if self.expected {
            text.push_str(", exact expected versions");
        }
        if let Some(rate) = self.rate {
            let _ = write!(text, ", open loop of {rate} operations/s");
        }
        text
    }
}

/// A rounded number with its thousands apart.
pub(super) fn whole(number: f64) -> String {
    let digits = format!("{number:.0}");
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::load::Tallies;
    use crate::bench::{arguments, plan};
    use std::time::Duration;

    #[test]
    fn thousands_are_set_apart() {
        assert_eq!(whole(0.4), "0");
        assert_eq!(whole(999.0), "999");
        assert_eq!(whole(1_234_567.0), "1 234 567");
    }

    #[test]
    fn rates_are_of_the_time_measured_and_both_forms_agree() {
        let args = arguments("append --payload-bytes 500 --batch 10");
        let plan = plan(&args);
        let mut tally = Tallies::new(1).unwrap().total().unwrap();
        tally.operations = 1000;
        tally.events = 10_000;
        tally.last = Some(plan.from + Duration::from_secs(2));
        for _ in 0..1000 {
            tally.latencies.saturating_record(1500);
        }
        let report = Report::new(&args, 1, &plan, tally);
        let json: serde_json::Value = serde_json::from_str(&report.json()).unwrap();
        assert_eq!(json["operations_per_second"], 500.0);
        assert_eq!(json["events_per_second"], 5000.0);
        assert_eq!(json["mb_per_second"], 2.5);
        let table = report.table();
        assert!(table.contains("5 000") && table.contains("2.50"), "{table}");
    }
}
