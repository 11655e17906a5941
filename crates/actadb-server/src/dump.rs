//! `actadb dump`: the frames and events of a stopped database, in the order of the log.

use std::io::{BufWriter, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use actadb::model::event::EventRef;
use actadb::model::ids::BucketId;
use actadb::tools::{self, Dumped, Record, Step};
use serde_json::json;

/// What to dump.
#[derive(Clone, Debug, clap::Args)]
pub struct DumpArgs {
    /// The data directory
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// Only this bucket
    #[arg(long, value_name = "N")]
    bucket: Option<u16>,
    /// A JSON object per line
    #[arg(long)]
    json: bool,
}

/// Exit code 0: all shown; 1: damage was met; 2: could not be read.
#[must_use]
pub fn run(args: &DumpArgs) -> ExitCode {
    let mut out = BufWriter::new(std::io::stdout().lock());
    let (mut damaged, mut closed) = (false, false);
    let only = args.bucket.map(BucketId);
    let dumped = tools::dump(&args.dir, only, &mut |bucket, what| {
        damaged |=
            matches!(what, Dumped::Step(Step::Bad { torn: false, .. }) | Dumped::Record(_, Err(_)));
        // A reader like `head` that has seen enough closes the pipe.
        closed = closed || show(&mut out, args.json, bucket, &what).is_err();
    });
    let _ = out.flush();
    match dumped {
        Ok(_) if damaged => ExitCode::FAILURE,
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cannot dump: {error}");
            ExitCode::from(2)
        }
    }
}

fn show(
    out: &mut impl Write,
    as_json: bool,
    bucket: BucketId,
    what: &Dumped<'_>,
) -> std::io::Result<()> {
    match what {
        Dumped::Step(Step::Frame { entry, body }) => {
            let (index, term, kind) = (entry.index, entry.term, entry.kind);
            let (segment, offset, bytes) = (body.segment, body.offset, entry.body.len());
            if as_json {
                let line = json!({"bucket": bucket.0, "segment": segment, "body_offset": offset,
                    "frame": index, "term": term, "kind": format!("{kind:?}"), "bytes": bytes});
                return writeln!(out, "{line}");
            }
            writeln!(
                out,
                "bucket {bucket} segment {segment} body at {offset}: frame {index} term {term} \
                 {kind:?} {bytes} bytes"
            )
        }
        Dumped::Step(Step::SegmentEnd { segment, .. }) if !as_json => {
            let (number, bytes) = (segment.number, segment.bytes);
            writeln!(out, "bucket {bucket} segment {number} ends at {bytes}")
        }
        Dumped::Step(Step::SegmentEnd { .. } | Step::Rotten { .. }) => Ok(()),
        Dumped::Step(Step::Bad { damage, torn, .. }) => {
            let word = if *torn { "torn tail" } else { "DAMAGE" };
            if as_json {
                let line = json!({"bucket": bucket.0, "bad": word, "what": damage.to_string()});
                return writeln!(out, "{line}");
            }
            writeln!(out, "bucket {bucket} {word}: {damage}")
        }
        Dumped::Record(_, Ok(Record::Transaction(transaction))) => {
            for event in &transaction.events {
                let event = event.as_ref();
                if as_json {
                    writeln!(out, "{}", event_json(&event))?;
                } else {
                    writeln!(
                        out,
                        "  partition {} sequence {} stream {} version {} {} {} ({} bytes)",
                        event.partition,
                        event.sequence,
                        event.stream.as_str(),
                        event.version,
                        event.name.as_str(),
                        event.id,
                        event.payload.len()
                    )?;
                }
            }
            Ok(())
        }
        Dumped::Record(at, Ok(Record::Other(kind))) if as_json => {
            writeln!(out, "{}", json!({"bucket": bucket.0, "record_at": at, "unknown_kind": kind}))
        }
        Dumped::Record(at, Err(bad)) if as_json => {
            let what = bad.to_string();
            let line = json!({"bucket": bucket.0, "record_at": at, "bad": "DAMAGE", "what": what});
            writeln!(out, "{line}")
        }
        Dumped::Record(at, Ok(Record::Other(kind))) => {
            writeln!(out, "  record at {at} of unknown kind {kind}")
        }
        Dumped::Record(at, Err(bad)) => writeln!(out, "  DAMAGE record at {at}: {bad}"),
    }
}

fn text_or_hex(bytes: &[u8]) -> serde_json::Value {
    match std::str::from_utf8(bytes) {
        Ok(text) => json!(text),
        Err(_) => json!({"hex": bytes.iter().map(|b| format!("{b:02x}")).collect::<String>()}),
    }
}

fn event_json(event: &EventRef<'_>) -> serde_json::Value {
    json!({
        "event_id": event.id.to_string(),
        "partition_key": event.partition_key.to_string(),
        "partition": event.partition.0,
        "transaction_id": event.transaction_id.to_string(),
        "sequence": event.sequence,
        "stream": event.stream.as_str(),
        "version": event.version,
        "name": event.name.as_str(),
        "timestamp_ns": event.timestamp_ns,
        "metadata": text_or_hex(event.metadata),
        "payload": text_or_hex(event.payload),
    })
}
