//! Programs that tests need and cargo does not bring: found, or named with how to install them.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A program, a call that works when it is there, and where to get it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Program {
    /// What is run.
    pub(crate) name: &'static str,
    /// Arguments of a call that succeeds when it is complete.
    check: &'static [&'static str],
    /// How to install it.
    install: &'static str,
}

/// Redis's own shell.
pub(crate) const REDIS_CLI: Program =
    Program { name: "redis-cli", check: &["--version"], install: "Debian package redis-tools" };
/// Python with what makes a virtual environment.
pub(crate) const PYTHON: Program = Program {
    name: "python3",
    check: &["-c", "import venv, ensurepip"],
    install: "Debian packages python3 and python3-venv",
};
/// Node, version 20 or newer.
pub(crate) const NODE: Program = Program {
    name: "node",
    check: &["-e", "process.exit(parseInt(process.versions.node) < 20 ? 1 : 0)"],
    install: "version 20 or newer, from https://nodejs.org or Debian's nodejs",
};
/// Node's package manager.
pub(crate) const NPM: Program = Program {
    name: "npm",
    check: &["--version"],
    install: "comes with node, or Debian package npm",
};
/// Lets another program write line by line into a pipe.
pub(crate) const STDBUF: Program =
    Program { name: "stdbuf", check: &["--version"], install: "Debian package coreutils" };
/// Shows system calls, and makes them fail.
pub(crate) const STRACE: Program =
    Program { name: "strace", check: &["-V"], install: "Debian package strace" };
/// Makes file systems in files.
pub(crate) const MKE2FS: Program =
    Program { name: "mke2fs", check: &["-V"], install: "Debian package e2fsprogs" };
/// Mounts them.
pub(crate) const MOUNT: Program =
    Program { name: "mount", check: &["-V"], install: "Debian package mount" };
/// Changes the limits of a running process.
pub(crate) const PRLIMIT: Program =
    Program { name: "prlimit", check: &["-V"], install: "Debian package util-linux" };
/// Makes networks.
pub(crate) const IP: Program =
    Program { name: "ip", check: &["-V"], install: "Debian package iproute2" };
/// Runs a program in a network of its own.
pub(crate) const UNSHARE: Program =
    Program { name: "unshare", check: &["-V"], install: "Debian package util-linux" };
/// Version control.
pub(crate) const GIT: Program =
    Program { name: "git", check: &["--version"], install: "Debian package git" };
/// Lists the libraries of a binary.
pub(crate) const LDD: Program =
    Program { name: "ldd", check: &["--version"], install: "Debian package libc-bin" };

impl Program {
    fn works(&self) -> bool {
        let quiet = || Stdio::null();
        let mut command = Command::new(self.name);
        command.args(self.check).stdin(quiet()).stdout(quiet()).stderr(quiet());
        command.status().is_ok_and(|status| status.success())
    }
}

/// Looks for all of them.
///
/// # Errors
/// Names every one that is missing, with how to install it.
pub(crate) fn require(programs: &[Program]) -> Result<(), String> {
    let missing: Vec<String> = programs
        .iter()
        .filter(|program| !program.works())
        .map(|program| format!("  {}: {}", program.name, program.install))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(format!("missing programs, or too old ones:\n{}", missing.join("\n")))
}

/// The root of the workspace.
#[must_use]
pub(crate) fn workspace() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap_or(here).to_owned()
}

/// Where cargo puts what it builds.
#[must_use]
pub(crate) fn target_dir() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        // A relative one is relative to where cargo was called, which is where this runs, too.
        Some(dir) => std::path::absolute(&dir).unwrap_or_else(|_| dir.into()),
        None => workspace().join("target"),
    }
}

/// The cargo that runs this.
#[must_use]
pub(crate) fn cargo() -> Command {
    Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// Takes `--name VALUE` out of the arguments.
///
/// # Errors
/// When the value is missing.
pub(crate) fn option(args: &mut Vec<String>, name: &str) -> Result<Option<String>, String> {
    let Some(at) = args.iter().position(|arg| arg == name) else { return Ok(None) };
    if at + 1 >= args.len() {
        return Err(format!("{name} needs a value"));
    }
    args.remove(at);
    Ok(Some(args.remove(at)))
}

/// The server's binary: the one given (`--binary PATH`), or the release, which is built now.
///
/// # Errors
/// When there is none.
pub(crate) fn server_binary(given: Option<String>) -> Result<PathBuf, String> {
    if let Some(path) = given {
        let path = std::path::absolute(&path).map_err(|error| format!("{path}: {error}"))?;
        return if path.is_file() { Ok(path) } else { Err(format!("no {}", path.display())) };
    }
    // Cargo says by itself when it waits for another one, if it is not told to be quiet.
    println!("building the server (--binary PATH takes one that is there)");
    let mut build = cargo();
    build.args(["build", "--release", "--package", "actadb-server"]);
    run(build.current_dir(workspace()))?;
    Ok(target_dir().join("release/actadb"))
}

/// Runs a command whose output the user sees.
///
/// # Errors
/// When it cannot be run or does not succeed.
pub(crate) fn run(command: &mut Command) -> Result<(), String> {
    let status = command.status().map_err(|error| format!("{command:?}: {error}"))?;
    if status.success() { Ok(()) } else { Err(format!("{command:?}: {status}")) }
}

/// Runs a command and takes what it prints.
///
/// # Errors
/// When it cannot be run or does not succeed; with what it printed.
pub(crate) fn output(command: &mut Command) -> Result<Vec<u8>, String> {
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let (out, err) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    Err(format!("{command:?}: {}\n{out}{err}", output.status))
}

/// Sends a signal to one process.
///
/// # Errors
/// When there is no such process.
pub(crate) fn signal(name: &str, pid: u32) -> Result<(), String> {
    run(Command::new("sh").args(["-c", &format!("kill -{name} {pid}")]))
}
