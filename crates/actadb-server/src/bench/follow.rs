//! `actadb bench subscribe`: how fast a subscriber catches up, and how late it hears of what is
//! appended. Beside it, with `--redis`, `XREAD COUNT 1000` and `XREAD BLOCK`.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;
use hdrhistogram::Histogram;
use serde::Serialize;

use super::BenchError;
use super::commands::payload;
use crate::wire_client::{ClientError, Value, WireClient};

/// Events queued at once while the log is filled.
const FILL_BATCH: u64 = 500;
/// Appends outstanding while the log is filled.
const FILL_DEPTH: u64 = 8000;
/// Streams that they go to.
const STREAMS: u64 = 64;
/// Entries of one XREAD.
const XREAD_COUNT: u64 = 1000;
/// Digits of the time in front of a payload.
const STAMP_DIGITS: usize = 20;
/// Syncs of the disk that are measured.
const SYNCS: usize = 200;
const STREAM: &[u8] = b"bench-subscribe";

/// Arguments of `actadb bench subscribe`.
#[derive(Clone, Debug, Args)]
pub(super) struct FollowArgs {
    /// Address of the server
    #[arg(long, default_value = "127.0.0.1:9090", value_name = "HOST:PORT")]
    pub(super) address: String,
    /// Password of the server
    #[arg(long)]
    pub(super) password: Option<String>,
    /// Events to catch up with; missing ones are appended first
    #[arg(long, default_value_t = 1_000_000, value_name = "N")]
    pub(super) events: u64,
    /// Bytes of an event's payload
    #[arg(long, default_value_t = 256, value_name = "N")]
    pub(super) payload_bytes: usize,
    /// Appends per second while the delay of live events is measured
    #[arg(long, default_value_t = 1000.0, value_name = "N")]
    pub(super) rate: f64,
    /// How long to measure live events
    #[arg(long, default_value_t = 5.0, value_name = "S")]
    pub(super) seconds: f64,
    /// Measure a sync of the disk here, for comparison: where the server has its data
    #[arg(long, value_name = "DIR")]
    pub(super) sync_dir: Option<PathBuf>,
    /// Drive a Redis server: XADD, XREAD COUNT 1000, XREAD BLOCK
    #[arg(long)]
    pub(super) redis: bool,
    /// Print one JSON object instead of a table
    #[arg(long)]
    pub(super) json: bool,
}

/// What was measured.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    target: &'static str,
    address: String,
    payload_bytes: usize,
    pub(super) catch_up_events: u64,
    pub(super) catch_up_seconds: f64,
    pub(super) catch_up_events_per_second: f64,
    live_rate: f64,
    live_events: u64,
    pub(super) live_p50_ms: f64,
    live_p95_ms: f64,
    pub(super) live_p99_ms: f64,
    live_max_ms: f64,
    /// One 4 KiB write and sync of a file that was written before, the median.
    sync_p50_ms: Option<f64>,
}

impl Report {
    /// One JSON object on one line.
    pub(super) fn json(&self) -> String {
        serde_json::to_string(self).unwrap_or_else(|error| format!("{{\"error\":\"{error}\"}}"))
    }

    /// A table.
    pub(super) fn table(&self) -> String {
        let sync = self.sync_p50_ms.map_or("not measured".into(), |ms| format!("{ms:.3} ms"));
        format!(
            "subscribe on {} at {}, {} byte payloads\n  catch-up       {} events in {:.2} s: {:.0} \
             events/s\n  live           {} events at {:.0}/s: p50 {:.3} ms, p95 {:.3} ms, p99 \
             {:.3} ms, max {:.3} ms\n  disk sync p50  {sync}",
            self.target,
            self.address,
            self.payload_bytes,
            self.catch_up_events,
            self.catch_up_seconds,
            self.catch_up_events_per_second,
            self.live_events,
            self.live_rate,
            self.live_p50_ms,
            self.live_p95_ms,
            self.live_p99_ms,
            self.live_max_ms,
        )
    }
}

/// Measures.
pub(super) async fn measure(args: &FollowArgs) -> Result<Report, BenchError> {
    let sync_p50_ms = match &args.sync_dir {
        Some(dir) => Some(sync_p50(dir).map_err(BenchError::Disk)?),
        None => None,
    };
    let mut follower =
        Follower { args, reader: connect(args).await?, writer: connect(args).await? };
    follower.fill().await?;
    let catch_up = follower.catch_up().await?;
    let live = follower.live().await?;
    let ms = |quantile| live.value_at_quantile(quantile) as f64 / 1000.0;
    Ok(Report {
        target: if args.redis { "redis" } else { "actadb" },
        address: args.address.clone(),
        payload_bytes: args.payload_bytes,
        catch_up_events: args.events,
        catch_up_seconds: catch_up.as_secs_f64(),
        catch_up_events_per_second: args.events as f64 / catch_up.as_secs_f64(),
        live_rate: args.rate,
        live_events: live.len(),
        live_p50_ms: ms(0.5),
        live_p95_ms: ms(0.95),
        live_p99_ms: ms(0.99),
        live_max_ms: live.max() as f64 / 1000.0,
        sync_p50_ms,
    })
}

async fn connect(args: &FollowArgs) -> Result<WireClient, ClientError> {
    WireClient::connect(&args.address, args.password.as_deref()).await
}

/// The median of a 4 KiB write and sync of a file that was written before, in milliseconds.
pub(super) fn sync_p50(dir: &std::path::Path) -> io::Result<f64> {
    let path = dir.join(format!("actadb-bench-{}.tmp", std::process::id()));
    let measure = || {
        let file = File::create_new(&path)?;
        let block = [7; 4096];
        for n in 0..SYNCS {
            file.write_all_at(&block, n as u64 * 4096)?;
        }
        file.sync_all()?;
        let mut times = Vec::with_capacity(SYNCS);
        for n in 0..SYNCS {
            let start = Instant::now();
            file.write_all_at(&block, n as u64 * 4096)?;
            file.sync_data()?;
            times.push(start.elapsed());
        }
        times.sort_unstable();
        Ok(times[SYNCS / 2].as_secs_f64() * 1000.0)
    };
    let measured = measure();
    let _ = std::fs::remove_file(&path);
    measured
}

struct Follower<'a> {
    args: &'a FollowArgs,
    reader: WireClient,
    writer: WireClient,
}

impl Follower<'_> {
    fn refused(error: String) -> BenchError {
        BenchError::Preparing(error)
    }

    /// Appends what is missing of the events to catch up with.
    async fn fill(&mut self) -> Result<(), BenchError> {
        let there = match self.args.redis {
            true => self.reader.call(&[b"XLEN", STREAM]).await?,
            false => self.reader.call(&[b"DBSIZE"]).await?,
        };
        let mut next = there.number().unwrap_or(0);
        let payload = payload(self.args.payload_bytes);
        let (mut outstanding, end) = (0, self.args.events);
        while next < end || outstanding > 0 {
            while next < end && outstanding < FILL_DEPTH {
                let count = FILL_BATCH.min(end - next);
                outstanding += count;
                for n in next..next + count {
                    if self.args.redis {
                        // Ids of our own, so that a reader knows where it stands.
                        let id = format!("{}-0", n + 1);
                        self.writer.queue(&[
                            b"XADD",
                            STREAM,
                            id.as_bytes(),
                            b"name",
                            b"Benched",
                            b"payload",
                            &payload,
                        ]);
                    } else {
                        let stream = format!("bench-subscribe-{}", n % STREAMS);
                        self.writer.queue(&[
                            b"EAPPEND",
                            stream.as_bytes(),
                            b"Benched",
                            b"PAYLOAD",
                            &payload,
                        ]);
                    }
                }
                next += count;
            }
            self.writer.exchange().await?;
            while let Some(reply) = self.writer.try_skim()? {
                if let Some(error) = reply.error {
                    return Err(Self::refused(error));
                }
                outstanding -= 1;
            }
        }
        Ok(())
    }

    /// How long it takes to get all events.
    async fn catch_up(&mut self) -> Result<Duration, BenchError> {
        let mut client = connect(self.args).await?;
        let (mut seen, end) = (0, self.args.events);
        let start = Instant::now();
        if self.args.redis {
            while seen < end {
                let from = format!("{seen}-0");
                let count = XREAD_COUNT.to_string();
                let words: [&[u8]; 6] =
                    [b"XREAD", b"COUNT", count.as_bytes(), b"STREAMS", STREAM, from.as_bytes()];
                client.queue(&words);
                client.flush().await?;
                let reply = loop {
                    match client.try_skim()? {
                        Some(reply) => break reply,
                        None => client.exchange().await?,
                    }
                };
                if let Some(error) = reply.error {
                    return Err(Self::refused(error));
                }
                seen += XREAD_COUNT.min(end - seen);
            }
            return Ok(start.elapsed());
        }
        client.queue(&[b"EPSUB", b"*", b"FROM", b"0"]);
        client.flush().await?;
        while seen < end {
            client.exchange().await?;
            while let Some(skimmed) = client.try_skim_any()? {
                if let Some(error) = skimmed.error {
                    return Err(Self::refused(error));
                }
                seen += u64::from(skimmed.push);
            }
        }
        Ok(start.elapsed())
    }

    /// From an append sent to its event received, in microseconds.
    async fn live(&mut self) -> Result<Histogram<u64>, BenchError> {
        let mut delays = Histogram::new_with_bounds(1, 60_000_000, 3)?;
        let start = Instant::now();
        let (seconds, rate) = (self.args.seconds, self.args.rate);
        let (stream, mut last) = self.begin_live().await?;
        let filler = payload(self.args.payload_bytes.saturating_sub(STAMP_DIGITS));
        let (mut sent, mut answered, mut received) = (0_u64, 0_u64, 0_u64);
        loop {
            let now = start.elapsed().as_secs_f64();
            let due = if now < seconds { (now * rate) as u64 } else { (seconds * rate) as u64 };
            while sent < due {
                let stamp = format!("{:0STAMP_DIGITS$}", start.elapsed().as_nanos());
                let payload = [stamp.as_bytes(), &filler].concat();
                match self.args.redis {
                    true => self.writer.queue(&[b"XADD", STREAM, b"*", b"payload", &payload]),
                    false => {
                        self.writer.queue(&[
                            b"EAPPEND",
                            stream.as_bytes(),
                            b"Benched",
                            b"PAYLOAD",
                            &payload,
                        ]);
                    }
                }
                sent += 1;
            }
            if now >= seconds && received >= sent {
                return Ok(delays);
            }
            if now >= seconds + 30.0 {
                let text = format!("{received} of {sent} events arrived, {answered} are answered");
                return Err(Self::refused(text));
            }
            let next_due = (sent + 1) as f64 / rate;
            let pause = Duration::from_secs_f64((next_due - now).clamp(0.00002, 0.0005));
            tokio::select! {
                moved = self.writer.exchange() => moved?,
                moved = self.reader.exchange() => moved?,
                () = spin(Instant::now() + pause) => {}
            }
            while let Some(reply) = self.writer.try_skim()? {
                if let Some(error) = reply.error {
                    return Err(Self::refused(error));
                }
                answered += 1;
            }
            while let Some(reply) = self.reader.try_reply()? {
                let at = start.elapsed().as_nanos() as u64;
                for stamp in stamps(&reply, &mut last) {
                    delays.saturating_record((at.saturating_sub(stamp) / 1000).max(1));
                    received += 1;
                }
                if self.args.redis {
                    self.ask_on(&last);
                }
            }
        }
    }

    /// Begins to follow what is appended from now on.
    async fn begin_live(&mut self) -> Result<(String, String), BenchError> {
        let stream = format!("bench-live-{}", std::process::id());
        let mut last = String::new();
        if self.args.redis {
            let newest =
                self.reader.call(&[b"XREVRANGE", STREAM, b"+", b"-", b"COUNT", b"1"]).await?;
            if let Value::Array(entries) = &newest
                && let Some(Value::Array(entry)) = entries.first()
            {
                last = entry.first().and_then(Value::text).unwrap_or("0-0").into();
            }
            self.ask_on(&last);
            self.reader.flush().await?;
        } else {
            // Answered before anything is appended: what comes before is not the latest.
            let subscribe: [&[u8]; 4] = [b"ESUB", stream.as_bytes(), b"FROM", b"LATEST"];
            if let Value::Error(error) = self.reader.call(&subscribe).await? {
                return Err(Self::refused(error));
            }
        }
        Ok((stream, last))
    }

    fn ask_on(&mut self, last: &str) {
        let words: [&[u8]; 6] = [b"XREAD", b"BLOCK", b"0", b"STREAMS", STREAM, last.as_bytes()];
        self.reader.queue(&words);
    }
}

/// Timers are a millisecond coarse; the schedule is finer.
async fn spin(until: Instant) {
    while Instant::now() < until {
        tokio::task::yield_now().await;
    }
}

/// The times in the payloads of a push or of an XREAD's reply; notes the last id of the latter.
fn stamps(reply: &Value, last: &mut String) -> Vec<u64> {
    let stamp = |value: &Value| value.text()?.get(..STAMP_DIGITS)?.parse().ok();
    match reply {
        Value::Push(parts) => {
            let payload = parts.get(3).and_then(|event| event.get("payload"));
            payload.and_then(stamp).into_iter().collect()
        }
        Value::Map(streams) => {
            let mut found = Vec::new();
            for (_, entries) in streams {
                let Value::Array(entries) = entries else { continue };
                for entry in entries {
                    let Value::Array(parts) = entry else { continue };
                    if let [id, Value::Array(fields)] = &parts[..] {
                        *last = id.text().unwrap_or_default().into();
                        found.extend(fields.last().and_then(stamp));
                    }
                }
            }
            found
        }
        _ => Vec::new(),
    }
}
