//! A file system of a few MiB that fills: an ext4, an ext2, or else a tmpfs of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use super::crash::SMALL_SEGMENTS;
use super::load::{Ledger, Load, PARTITIONS, until};
use super::resp::{Client, said};
use super::strace::{Line, Strace};
use crate::programs;
use crate::server_process::{Home, ServerProcess};

const DISK_BYTES: u64 = 24 << 20;
/// Files that hold space, which is freed when they are removed: two steps, or many smaller ones.
const BALLAST_BYTES: usize = 6 << 20;
pub(super) const STEPS: usize = 2;
const SMALL_STEPS: usize = 8;
const PATIENCE: Duration = Duration::from_secs(20);

/// A mounted file system. It is unmounted when this is dropped, after the servers on it.
pub(super) struct Disk {
    at: PathBuf,
    kind: String,
}

impl Disk {
    /// Mounts an image of a kind (`ext4`, `ext2`) over a directory; a tmpfs where the system
    /// refuses to mount images and that is no other kind of test.
    pub(super) fn mount(home: &Home, kind: &str) -> Result<Self, String> {
        let (at, image) = (home.data(), home.scratch(&format!("{kind}.image")));
        fs::create_dir_all(&at).map_err(said)?;
        fs::File::create(&image).and_then(|file| file.set_len(DISK_BYTES)).map_err(said)?;
        // Without blocks that only root may use: the server may be root.
        let mut make = Command::new("mke2fs");
        make.args(["-q", "-F", "-m", "0", "-t", kind]).arg(&image);
        let mounted = programs::output(&mut make).and_then(|_| {
            programs::output(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&at))
        });
        match mounted {
            Ok(_) => Ok(Self { at, kind: format!("a loop-mounted {kind}") }),
            Err(error) if kind == "ext4" => {
                let size = format!("size={DISK_BYTES}");
                let mut mount = Command::new("mount");
                mount.args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(&at);
                programs::output(&mut mount).map_err(|second| {
                    format!("cannot mount anything (be root): {error}; {second}")
                })?;
                Ok(Self { at, kind: format!("a tmpfs, as no image could be mounted ({error})") })
            }
            Err(error) => Err(format!("cannot mount an {kind} (be root): {error}")),
        }
    }

    pub(super) fn hold_space(&self, steps: usize) -> Result<(), String> {
        for step in 0..steps {
            fs::write(self.ballast(step), vec![1; BALLAST_BYTES / steps]).map_err(said)?;
        }
        Ok(())
    }

    pub(super) fn free(&self, step: usize) -> Result<(), String> {
        fs::remove_file(self.ballast(step)).map_err(said)
    }

    fn ballast(&self, step: usize) -> PathBuf {
        self.at.join(format!("ballast-{step}"))
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // A process that was just killed may still hold it for a moment.
        for _ in 0..50 {
            let unmounted = programs::output(Command::new("umount").arg(&self.at));
            if unmounted.is_ok() {
                return;
            }
            thread::sleep(Duration::from_millis(100));
        }
        println!("  {} is still mounted: umount it", self.at.display());
    }
}

pub(super) fn small_disk(binary: &Path) -> Result<String, String> {
    let home = Home::new(binary, &[SMALL_SEGMENTS])?;
    home.explain(Disk::mount(&home, "ext4").and_then(|disk| filled(&home, &disk)))
}

/// The load finds the disk full, finds it freed, finds it full again; SIGKILL while it is full.
fn filled(home: &Home, disk: &Disk) -> Result<String, String> {
    let mut ledger = Ledger::default();
    disk.hold_space(STEPS)?;
    let server = home.start()?;
    let load = Load::paced(server.address(), 1, Duration::from_millis(2));
    let full = until_full(&server, &load)?;
    reads_go_on(&server)?;
    let fitted = load.accepted();
    disk.free(0)?;
    let resumed = load.accept_more(1000, PATIENCE)?;
    println!(
        "  {}: full after {fitted} commands ({full}); reads go on; resumed {:.1} s after space \
         was freed, without a restart",
        disk.kind,
        resumed.as_secs_f64()
    );

    until_full(&server, &load)?;
    reads_go_on(&server)?;
    server.kill()?;
    load.join(&mut ledger)?;
    home.check().map_err(|error| format!("killed while full: {error}"))?;
    let server = home.start().map_err(|error| format!("a start on a full disk: {error}"))?;
    let told = ledger.audit(server.address()).map_err(|error| format!("still full: {error}"))?;
    println!("  SIGKILL while full; a start on the full disk: {told}");

    let load = Load::paced(server.address(), 2, Duration::from_millis(2));
    thread::sleep(Duration::from_millis(300));
    disk.free(1)?;
    load.accept_more(1000, PATIENCE)?;
    load.join(&mut ledger)?;
    if let Some(code) = ledger.errors.keys().find(|code| *code != "DISKFULL") {
        return Err(format!("clients heard {code}: {:?}", ledger.errors));
    }
    server.terminate()?;
    home.check()?;
    let server = home.start()?;
    let told = ledger.audit(server.address())?;
    server.terminate()?;
    Ok(format!("on {}; errors {:?}; {told}", disk.kind, ledger.errors))
}

/// Waits until appends are refused in every bucket, or nearly: nothing is accepted for a while.
fn until_full(server: &ServerProcess, load: &Load) -> Result<String, String> {
    let (mut accepted, mut refused) = (load.accepted(), load.refused());
    until(PATIENCE, || {
        thread::sleep(Duration::from_millis(400));
        let (before, were) = (accepted, refused);
        (accepted, refused) = (load.accepted(), load.refused());
        accepted == before && refused > were
    })
    .map_err(|error| format!("until nothing fits the disk: {error}"))?;
    let (status, body) = server.http("/health/ready")?;
    if !body.contains("finds no space on the disk") {
        return Err(format!("a full disk, and /health/ready answers {status} {body}"));
    }
    let of = body.matches("finds no space").count();
    Ok(format!("{of} of 4 buckets find no space"))
}

fn reads_go_on(server: &ServerProcess) -> Result<(), String> {
    let mut connection = Client::connect(server.address()).map_err(said)?;
    let mut found = 0;
    for partition in 0..PARTITIONS {
        found += connection.partition(partition)?.len();
    }
    if found == 0 { Err("nothing can be read on a full disk".into()) } else { Ok(()) }
}

/// Writes that are cut short for real. An ext2 cannot allocate ahead (no `fallocate`), so it
/// fills in the middle of a write: the kernel writes what fits and says how much, then says
/// ENOSPC. (`inject=pwrite64:retval=N` would claim bytes that nobody wrote: a liar of a device,
/// which no log survives, and no test of anything.)
pub(super) fn filling_mid_write(binary: &Path) -> Result<String, String> {
    let home = Home::new(binary, &[SMALL_SEGMENTS])?;
    home.explain(Disk::mount(&home, "ext2").and_then(|disk| short_writes(&home, &disk)))
}

fn short_writes(home: &Home, disk: &Disk) -> Result<String, String> {
    let mut ledger = Ledger::default();
    disk.hold_space(SMALL_STEPS)?;
    let server = home.start()?;
    let out = home.scratch("short.strace");
    let options = ["-f", "-y", "-e", "trace=pwrite64"];
    let strace = Strace::attach(&options, server.pid(), &out)?;
    let load = Load::start(server.address(), 1);
    // The last write before the disk is full may fit by chance: a few times, then.
    let mut step = 0;
    let mut short = loop {
        stuck(&load)?;
        reads_go_on(&server)?;
        let short = cut_short(&strace.lines()?);
        if step >= 2 && !short.is_empty() {
            break short;
        }
        if step + 1 == SMALL_STEPS {
            return Err(format!("filled {step} times, and no write was cut short"));
        }
        disk.free(step)?;
        load.accept_more(100, PATIENCE)?;
        step += 1;
    };
    strace.detach()?;
    let (asked, got) = short.remove(0);
    println!(
        "  {}: filled {} times, resumed {step} times without a restart; {} writes were cut short, \
         the first to {got} of {asked} bytes",
        disk.kind,
        step + 1,
        short.len() + 1
    );
    server.kill()?;
    load.join(&mut ledger)?;
    home.check().map_err(|error| format!("killed while full: {error}"))?;
    let server = home.start().map_err(|error| format!("a start on a full disk: {error}"))?;
    ledger.audit(server.address()).map_err(|error| format!("still full: {error}"))?;
    disk.free(step)?;
    let load = Load::paced(server.address(), 2, Duration::from_millis(2));
    load.accept_more(100, PATIENCE)?;
    load.join(&mut ledger)?;
    for code in ledger.errors.keys() {
        if !["DISKFULL", "TIMEOUT"].contains(&code.as_str()) {
            return Err(format!("clients heard {:?}", ledger.errors));
        }
    }
    server.terminate()?;
    home.check()?;
    let server = home.start()?;
    let told = ledger.audit(server.address())?;
    server.terminate()?;
    Ok(format!("SIGKILL while a write was cut short; errors {:?}; {told}", ledger.errors))
}

/// Waits until nothing is accepted for half a second.
fn stuck(load: &Load) -> Result<(), String> {
    let mut accepted = 0;
    until(PATIENCE, || {
        thread::sleep(Duration::from_millis(500));
        let before = accepted;
        accepted = load.accepted();
        accepted == before && accepted > 0
    })
    .map(drop)
}

/// Bytes asked and written, of the writes that did less than asked.
pub(super) fn cut_short(lines: &[Line]) -> Vec<(i64, i64)> {
    let writes = lines.iter().filter_map(|line| Some((asked(&line.arguments)?, line.returned?)));
    writes.filter(|(asked, got)| *got > 0 && got < asked).collect()
}

/// How many bytes a `pwrite64` was asked to write: the last but one of its arguments.
fn asked(arguments: &str) -> Option<i64> {
    let (arguments, _) = arguments.rsplit_once(") ")?;
    arguments.rsplit(", ").nth(1)?.parse().ok()
}
