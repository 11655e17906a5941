//! `cargo xtask chaos [--binary PATH] [--seed N] [PART…]`: the real server, killed and damaged.

mod cluster;
mod crash;
mod damage;
mod faults;
mod followers;
mod kth_sync;
mod layout;
mod load;
mod lost;
mod network;
mod newer;
mod recovery;
mod resp;
mod rot;
mod slow;
mod small_disk;
mod strace;
mod syncs;
mod witness;

use std::path::Path;
use std::time::Instant;

use crate::dice::{self, Dice};
use crate::programs;

/// How a part is run: some make random choices.
#[derive(Clone, Copy)]
enum Run {
    Fixed(fn(&Path) -> Result<String, String>),
    Seeded(fn(&Path, &mut Dice) -> Result<String, String>),
}

use Run::{Fixed, Seeded};

const PARTS: &[(&str, &str, Run)] = &[
    (
        "sync-before-answer",
        "each of 500 appends is synced between its request and its answer",
        Fixed(syncs::before_every_answer),
    ),
    (
        "group-commit",
        "a pipeline of 1,000 appends costs few syncs",
        Fixed(syncs::shared_by_a_pipeline),
    ),
    (
        "failed-sync",
        "a sync that fails closes one bucket and loses nothing",
        Fixed(faults::failed_sync),
    ),
    (
        "kth-sync",
        "EIO on a random sync under load, of the log and of a seal",
        Seeded(kth_sync::run),
    ),
    ("slow-sync", "syncs that take 250 ms lose nothing, and reads go on", Fixed(slow::slow_sync)),
    (
        "disk-full",
        "writes that find no space delay appends and lose nothing",
        Fixed(faults::disk_full),
    ),
    (
        "no-allocation",
        "a full file system refuses appends and loses nothing",
        Fixed(faults::no_allocation),
    ),
    (
        "small-disk",
        "a file system of 24 MiB fills, is freed, fills again; SIGKILL while it is full",
        Fixed(small_disk::small_disk),
    ),
    (
        "short-write",
        "a file system that fills in the middle of writes",
        Fixed(small_disk::filling_mid_write),
    ),
    ("torn-write", "a write that fails in its middle", Fixed(faults::torn_write)),
    ("kill", "SIGKILL at random under load, 5 rounds", Seeded(crash::kill_under_load)),
    (
        "kill-recovery",
        "SIGKILL again and again while it recovers from SIGKILL",
        Seeded(recovery::kill_again_and_again),
    ),
    ("two-processes", "a directory that is in use is refused", Fixed(crash::two_processes)),
    ("pause", "SIGSTOP and SIGCONT under load: everybody is answered", Seeded(slow::pause)),
    ("rot", "one bit flips in each kind of file of a stopped database", Seeded(rot::run)),
    (
        "lost-files",
        "each kind of file is missing, cut, older, or of another place",
        Seeded(lost::run),
    ),
    ("newer-format", "files of a newer format are refused and left alone", Seeded(newer::run)),
    (
        "idle-followers",
        "10,000 idle subscriptions, and 5,000 reads that wait: memory, CPU, and that they go",
        Fixed(followers::idle),
    ),
    (
        "slow-consumer",
        "a consumer that takes half of what is appended, for a minute",
        Fixed(followers::slow),
    ),
    (
        "cluster-cut",
        "the leader of three nodes loses its cable to the others, and keeps its clients; 3 rounds",
        Seeded(cluster::cut),
    ),
    (
        "cluster-kill",
        "of three nodes under load a leader is stopped for a while, and a node killed; 3 rounds",
        Seeded(cluster::pause_and_kill),
    ),
    (
        "cluster-restart",
        "SIGTERM for each of three nodes in turn, under load: no outcome is unknown",
        Seeded(cluster::restart),
    ),
    ("cluster-example", "docs/examples/cluster: three nodes, failovers", Fixed(cluster::example)),
    (
        "cluster-small-disk",
        "of three nodes one has 24 MiB, which fill: the others go on, and it catches up later",
        Fixed(cluster::small_disk),
    ),
    ("terminate", "SIGTERM under load ends within 10 s", Fixed(crash::terminate_under_load)),
];

/// Runs the parts named, or all.
///
/// # Errors
/// What is missing, or the parts that failed.
pub(crate) fn run(args: &[String]) -> Result<(), String> {
    let mut args = args.to_vec();
    let binary = programs::option(&mut args, "--binary")?;
    let seed = dice::seed(&mut args)?;
    let names: Vec<&str> = PARTS.iter().map(|(name, ..)| *name).collect();
    if let Some(unknown) = args.iter().find(|arg| !names.contains(&arg.as_str())) {
        return Err(format!("no part '{unknown}' (there are {})", names.join(", ")));
    }
    programs::require(&[
        programs::STRACE,
        programs::MKE2FS,
        programs::MOUNT,
        programs::PRLIMIT,
        programs::IP,
        programs::UNSHARE,
        programs::PYTHON,
        programs::REDIS_CLI,
    ])?;
    let binary = programs::server_binary(binary)?;

    println!("chaos: --seed {seed}");
    let mut failed = Vec::new();
    for (name, what, part) in PARTS {
        if !args.is_empty() && !args.iter().any(|arg| arg == name) {
            continue;
        }
        println!("{name}: {what}");
        let start = Instant::now();
        let result = match part {
            Fixed(part) => part(&binary),
            Seeded(part) => part(&binary, &mut Dice::new(seed, name)),
        };
        match result {
            Ok(result) => println!("  ok, {:.1} s: {result}", start.elapsed().as_secs_f64()),
            Err(error) => {
                println!("  FAILED: {error}");
                failed.push(*name);
            }
        }
    }
    if failed.is_empty() {
        Ok(())
    } else {
        Err(format!("chaos: failed: {} (--seed {seed})", failed.join(", ")))
    }
}
