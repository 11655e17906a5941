//! `cargo xtask chaos [--binary PATH] [PART…]`: the real server, killed, and with failing disks.

mod crash;
mod faults;
mod load;
mod resp;
mod strace;
mod syncs;

use std::path::Path;
use std::time::Instant;

use crate::programs;

type Part = fn(&Path) -> Result<String, String>;

const PARTS: &[(&str, &str, Part)] = &[
    (
        "sync-before-answer",
        "each of 500 appends is synced between its request and its answer",
        syncs::before_every_answer,
    ),
    ("group-commit", "a pipeline of 1,000 appends costs few syncs", syncs::shared_by_a_pipeline),
    ("failed-sync", "a sync that fails closes one bucket and loses nothing", faults::failed_sync),
    ("disk-full", "writes that find no space delay appends and lose nothing", faults::disk_full),
    (
        "no-allocation",
        "a full file system refuses appends and loses nothing",
        faults::no_allocation,
    ),
    ("kill", "SIGKILL under load, 5 rounds", crash::kill_under_load),
    ("two-processes", "a directory that is in use is refused", crash::two_processes),
    ("terminate", "SIGTERM under load ends within 10 s", crash::terminate_under_load),
];

/// Runs the parts named, or all.
///
/// # Errors
/// What is missing, or the parts that failed.
pub(crate) fn run(args: &[String]) -> Result<(), String> {
    let mut args = args.to_vec();
    let binary = programs::option(&mut args, "--binary")?;
    let names: Vec<&str> = PARTS.iter().map(|(name, ..)| *name).collect();
    if let Some(unknown) = args.iter().find(|arg| !names.contains(&arg.as_str())) {
        return Err(format!("no part '{unknown}' (there are {})", names.join(", ")));
    }
    programs::require(&[programs::STRACE])?;
    let binary = programs::server_binary(binary)?;

    let mut failed = Vec::new();
    for (name, what, part) in PARTS {
        if !args.is_empty() && !args.iter().any(|arg| arg == name) {
            continue;
        }
        println!("{name}: {what}");
        let start = Instant::now();
        match part(&binary) {
            Ok(result) => println!("  ok, {:.1} s: {result}", start.elapsed().as_secs_f64()),
            Err(error) => {
                println!("  FAILED: {error}");
                failed.push(*name);
            }
        }
    }
    if failed.is_empty() { Ok(()) } else { Err(format!("chaos: failed: {}", failed.join(", "))) }
}
