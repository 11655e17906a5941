//! `actadb check`: every frame, record and index of a stopped database.

use std::path::PathBuf;
use std::process::ExitCode;

use actadb::tools::{self, BucketReport, Damage, Report};
use serde_json::json;

/// What to check.
#[derive(Clone, Debug, clap::Args)]
pub struct CheckArgs {
    /// The data directory
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// One JSON object instead of text
    #[arg(long)]
    json: bool,
}

/// Exit code 0: sound; 1: damage; 2: could not be checked.
#[must_use]
pub fn run(args: &CheckArgs) -> ExitCode {
    let report = match tools::check(&args.dir) {
        Ok(report) => report,
        Err(error) => {
            if args.json {
                println!("{}", json!({"error": error.to_string()}));
            } else {
                eprintln!("cannot check: {error}");
            }
            return ExitCode::from(2);
        }
    };
    if args.json {
        println!("{}", as_json(&report));
    } else {
        print_text(&report);
    }
    let sound = report.buckets.iter().all(|(_, bucket)| bucket.is_sound());
    if sound { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

pub(crate) fn sum(report: &Report, of: fn(&BucketReport) -> u64) -> u64 {
    report.buckets.iter().map(|(_, bucket)| of(bucket)).sum()
}

pub(crate) fn places(damage: &[Damage]) -> Vec<serde_json::Value> {
    let place = |d: &Damage| {
        let file = d.file.display().to_string();
        json!({"file": file, "offset": d.offset, "what": d.what})
    };
    damage.iter().map(place).collect()
}

fn as_json(report: &Report) -> serde_json::Value {
    let buckets = report.buckets.iter().map(|(number, bucket)| {
        json!({
            "bucket": number.0,
            "segments": bucket.segments,
            "indexes": bucket.indexes,
            "filters": bucket.filters,
            "frames": bucket.frames,
            "records": bucket.records,
            "events": bucket.events,
            "damage": places(&bucket.damage),
            "disagreements": places(&bucket.disagreements),
            "bad_indexes": places(&bucket.bad_indexes),
            "mended_at_next_start": places(&bucket.mendable),
        })
    });
    json!({
        "database": report.meta.database.to_string(),
        "partitions": report.meta.partitioning.partitions(),
        "segments": sum(report, |b| b.segments),
        "indexes": sum(report, |b| b.indexes),
        "filters": sum(report, |b| b.filters),
        "frames": sum(report, |b| b.frames),
        "records": sum(report, |b| b.records),
        "events": sum(report, |b| b.events),
        "damaged": report.buckets.iter().any(|(_, b)| !b.is_sound()),
        "buckets": buckets.collect::<Vec<_>>(),
    })
}

fn print_text(report: &Report) {
    println!(
        "database {} with {} partitions in {} buckets",
        report.meta.database,
        report.meta.partitioning.partitions(),
        report.meta.partitioning.buckets()
    );
    for (number, bucket) in &report.buckets {
        println!(
            "bucket {number}: {} segments, {} indexes, {} filters, {} frames, {} records, \
             {} events",
            bucket.segments,
            bucket.indexes,
            bucket.filters,
            bucket.frames,
            bucket.records,
            bucket.events
        );
        for damage in &bucket.damage {
            println!("  DAMAGE {damage}");
        }
        for damage in &bucket.bad_indexes {
            println!("  DAMAGE {damage}; `actadb repair` rebuilds it");
        }
        for odd in &bucket.disagreements {
            println!("  DISAGREES {odd}");
        }
        for mendable in &bucket.mendable {
            println!("  mended at the next start: {mendable}");
        }
    }
    let damage = |bucket: &BucketReport| (bucket.damage.len() + bucket.bad_indexes.len()) as u64;
    let odd = sum(report, |bucket| bucket.disagreements.len() as u64);
    match sum(report, damage) {
        0 if odd > 0 => println!("{odd} disagreements: all is served; report them as a bug"),
        0 => println!("sound: {} events", sum(report, |b| b.events)),
        n => println!("{n} damaged places: `actadb repair` tells what can be done"),
    }
}
