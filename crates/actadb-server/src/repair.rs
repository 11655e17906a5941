//! `actadb repair`: mends a stopped database; what would cost acknowledged events only when told.

use std::path::PathBuf;
use std::process::ExitCode;

use actadb::model::ids::BucketId;
use actadb::tools::{BucketReport, Loss, OpenError, Repair, Repaired, Report};
use serde_json::json;

use crate::check::{places, sum};

/// What to mend.
#[derive(Clone, Debug, clap::Args)]
pub struct RepairArgs {
    /// The data directory
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// Give up what damage has cost; the files are kept in DIR/damaged-<time>
    #[arg(long)]
    accept_data_loss: bool,
    /// One JSON object instead of text
    #[arg(long)]
    json: bool,
}

/// Exit code 0: repaired, or sound; 1: damage that needs `--accept-data-loss`, nothing was
/// changed; 2: could not be repaired, or not all of it.
#[must_use]
pub fn run(args: &RepairArgs) -> ExitCode {
    let repair = match Repair::survey(&args.dir) {
        Ok(repair) => repair,
        Err(error) => return failed(args, &error),
    };
    // Told before anything is changed.
    let plan = args.json.then(|| plan_json(repair.report()));
    if plan.is_none() {
        print_plan(args, repair.report());
    }
    if repair.costs() && !args.accept_data_loss {
        match plan {
            Some(plan) => println!("{}", json!({"changed": false, "buckets": plan})),
            None => print_refusal(args),
        }
        return ExitCode::FAILURE;
    }
    if repair.costs() && args.dir.join("cluster.json").exists() {
        // It would vote again, and has forgotten what it promised.
        eprintln!(
            "{} is a node of a cluster: what it lost, the other nodes have; it must not come back \
             without it. Nothing was changed; see docs/CLUSTER.md",
            args.dir.display()
        );
        return ExitCode::from(2);
    }
    let repaired = match repair.mend() {
        Ok(repaired) => repaired,
        Err(error) => return failed(args, &error),
    };
    let checked = repaired.report.as_ref();
    let sound = checked.is_ok_and(|r| r.buckets.iter().all(|(_, bucket)| bucket.is_sound()));
    let sound = sound && repaired.failed.is_empty();
    match plan {
        Some(plan) => println!("{}", done_json(&plan, &repaired, sound)),
        None => print_done(&repaired, sound),
    }
    if sound { ExitCode::SUCCESS } else { ExitCode::from(2) }
}

fn failed(args: &RepairArgs, error: &OpenError) -> ExitCode {
    if args.json {
        println!("{}", json!({"error": error.to_string()}));
    } else {
        eprintln!("cannot repair: {error}");
    }
    ExitCode::from(2)
}

fn print_plan(args: &RepairArgs, report: &Report) {
    for (bucket, found) in &report.buckets {
        for damage in &found.damage {
            println!("bucket {bucket} DAMAGE {damage}");
        }
        for odd in &found.disagreements {
            println!("bucket {bucket} DISAGREES {odd}; left as it is: all of it is served");
        }
        for damage in found.bad_indexes.iter().chain(&found.mendable) {
            println!("bucket {bucket} to mend: {damage}");
        }
        if let Some(loss) = &found.loss {
            print_loss(args, *bucket, loss);
        }
    }
}

fn print_loss(args: &RepairArgs, bucket: BucketId, loss: &Loss) {
    if loss.slots {
        println!("bucket {bucket} loses its slots: what they said was synced is not known");
    }
    match loss.keep.segment {
        _ if !loss.log => {
            println!("bucket {bucket} keeps all {} entries that are there", loss.keep.last_entry);
        }
        0 => println!("bucket {bucket} must begin anew: nothing before the damage is left"),
        segment => println!(
            "bucket {bucket} must end before the damage: with entry {}, at byte {} of segment \
             {segment}; a log has no gaps",
            loss.keep.last_entry, loss.keep.bytes
        ),
    }
    if let Some((from, to)) = loss.entries() {
        println!("bucket {bucket} LOSES entries {from} to {to}");
    }
    for lost in &loss.partitions {
        let (partition, from, to) = (lost.partition, lost.from, lost.to);
        println!("bucket {bucket} LOSES partition {partition} sequences {from} to {to}");
    }
    if !loss.exact {
        println!(
            "bucket {bucket} may have held more that nothing tells of: in what is unreadable, or \
             behind the last entry found"
        );
    }
    if loss.readable_events > 0 {
        println!(
            "bucket {bucket} has {} events in and behind the damage that can still be read: \
             `actadb dump --dir {} --bucket {bucket} --json` prints them",
            loss.readable_events,
            args.dir.display()
        );
    }
}

fn print_refusal(args: &RepairArgs) {
    println!("nothing was changed. To go on, in this order:");
    println!("  restore the directory from a backup, if there is one; else");
    println!("  save what is behind the damage: see docs/DURABILITY.md; then");
    println!("  actadb repair --dir {} --accept-data-loss", args.dir.display());
}

fn print_done(repaired: &Repaired, sound: bool) {
    for (bucket, mended) in &repaired.done {
        println!("bucket {bucket} {mended}");
    }
    if let Some(aside) = &repaired.aside {
        println!("kept what was given up in {}", aside.display());
    }
    for (bucket, error) in &repaired.failed {
        eprintln!("bucket {bucket} cannot be repaired: {error}");
    }
    let report = match &repaired.report {
        Ok(report) => report,
        Err(error) => return eprintln!("cannot check: {error}; run `actadb check`"),
    };
    for (bucket, found) in &report.buckets {
        for damage in found.damage.iter().chain(&found.bad_indexes) {
            println!("bucket {bucket} still DAMAGED: {damage}");
        }
    }
    let events = sum(report, |bucket| bucket.events);
    match (sound, repaired.done.is_empty()) {
        (true, true) => println!("sound: {events} events; there was nothing to mend"),
        (true, false) => println!("repaired and sound: {events} events"),
        (false, _) if repaired.failed.is_empty() => println!("not sound: run `actadb check`"),
        (false, _) => println!("not all is mended: run `actadb repair` again"),
    }
}

fn loss_json(loss: &Loss) -> serde_json::Value {
    let partitions = loss.partitions.iter().map(|lost| {
        let (partition, from, to) = (lost.partition.0, lost.from, lost.to);
        json!({"partition": partition, "from_sequence": from, "to_sequence": to})
    });
    json!({
        "slots": loss.slots,
        "log": loss.log,
        "keeps": {
            "segment": loss.keep.segment,
            "bytes": loss.keep.bytes,
            "last_entry": loss.keep.last_entry,
        },
        "entries": loss.entries().map(|(from, to)| json!({"from": from, "to": to})),
        "partitions": partitions.collect::<Vec<_>>(),
        "exact": loss.exact,
        "readable_entries": loss.readable_entries,
        "readable_events": loss.readable_events,
    })
}

fn plan_json(report: &Report) -> Vec<serde_json::Value> {
    let bucket = |(number, found): &(BucketId, BucketReport)| {
        json!({
            "bucket": number.0,
            "damage": places(&found.damage),
            "disagreements": places(&found.disagreements),
            "bad_indexes": places(&found.bad_indexes),
            "mendable": places(&found.mendable),
            "loss": found.loss.as_ref().map(loss_json),
        })
    };
    report.buckets.iter().map(bucket).collect()
}

fn done_json(plan: &[serde_json::Value], repaired: &Repaired, sound: bool) -> serde_json::Value {
    let done = repaired.done.iter().map(|(bucket, mended)| {
        json!({
            "bucket": bucket.0,
            "file": mended.file.display().to_string(),
            "what": mended.what,
        })
    });
    let failed = repaired
        .failed
        .iter()
        .map(|(bucket, error)| json!({"bucket": bucket.0, "error": error.to_string()}));
    let report = repaired.report.as_ref();
    json!({
        "changed": !repaired.done.is_empty(),
        "buckets": plan,
        "done": done.collect::<Vec<_>>(),
        "kept_in": repaired.aside.as_ref().map(|aside| aside.display().to_string()),
        "failed": failed.collect::<Vec<_>>(),
        "error": report.err().map(ToString::to_string),
        "sound": sound,
        "events": report.ok().map(|report| sum(report, |bucket| bucket.events)),
    })
}
