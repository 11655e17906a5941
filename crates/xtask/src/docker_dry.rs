//! `cargo xtask docker-dry`: the Dockerfile, performed in temporary directories without Docker.
//!
//! What changes a system (apt-get, users) is checked for syntax and skipped; the rest is done:
//! files are copied as `.dockerignore` lets them, the build runs on the copies, the binary starts
//! with the arguments of the entry point and must answer the health check.

mod dockerfile;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};

use crate::programs;
use crate::server_process;
use dockerfile::{Ignore, Instruction};

/// First words of commands that only make sense as root of a system of their own.
const OF_THE_SYSTEM: [&str; 8] =
    ["apt-get", "useradd", "groupadd", "adduser", "addgroup", "chown", "mkdir", "rm"];

/// Libraries that debian:bookworm-slim has.
const LIBRARIES: [&str; 8] = [
    "linux-vdso.so.1",
    "libc.so.6",
    "libm.so.6",
    "libgcc_s.so.1",
    "libdl.so.2",
    "libpthread.so.0",
    "librt.so.1",
    "/ld-linux",
];

/// One stage: a directory that stands for its file system.
struct Stage {
    name: String,
    root: PathBuf,
    workdir: String,
}

impl Stage {
    /// Where a path of the image lies.
    fn place(&self, path: &str) -> PathBuf {
        let path = Path::new(&self.workdir).join(path);
        self.root.join(path.strip_prefix("/").unwrap_or(&path))
    }
}

/// Performs the Dockerfile of the workspace.
///
/// # Errors
/// The first line that fails.
pub(crate) fn run(args: &[String]) -> Result<(), String> {
    if let Some(unknown) = args.first() {
        return Err(format!("docker-dry does not know '{unknown}'"));
    }
    programs::require(&[programs::LDD])?;
    let context = programs::workspace();
    let read = |name: &str| {
        fs::read_to_string(context.join(name)).map_err(|error| format!("{name}: {error}"))
    };
    let instructions = dockerfile::parse(&read("Dockerfile")?)?;
    let ignore = Ignore::new(&read(".dockerignore")?);
    let temporary = tempfile::Builder::new().prefix("actadb-docker-").tempdir();
    let temporary = temporary.map_err(|error| format!("no temporary directory: {error}"))?;

    let mut stages: Vec<Stage> = Vec::new();
    let (mut entry, mut health) = (None, None);
    for Instruction { line, word, rest } in &instructions {
        println!("{word} {rest}");
        let wrong = |error: String| format!("Dockerfile:{line}: {error}");
        if word == "FROM" {
            let number = stages.len();
            let name = rest.split(" AS ").nth(1).unwrap_or_default().trim().to_owned();
            let root = temporary.path().join(format!("stage-{number}"));
            fs::create_dir_all(&root).map_err(|error| wrong(error.to_string()))?;
            stages.push(Stage { name, root, workdir: "/".into() });
            continue;
        }
        let Some((stage, earlier)) = stages.split_last_mut() else {
            return Err(wrong(format!("{word} before FROM")));
        };
        match word.as_str() {
            "WORKDIR" => {
                stage.workdir = Path::new(&stage.workdir).join(rest).display().to_string();
                let place = stage.place("");
                fs::create_dir_all(place).map_err(|error| wrong(error.to_string()))?;
            }
            "COPY" => copy(rest, stage, earlier, &context, &ignore).map_err(wrong)?,
            "RUN" => run_line(rest, stage).map_err(wrong)?,
            "ENTRYPOINT" => {
                let words: Vec<String> = serde_json::from_str(rest)
                    .map_err(|error| wrong(format!("not a JSON array: {error}")))?;
                entry = Some(words);
            }
            "HEALTHCHECK" => {
                let command = rest.split_once("CMD ").map(|(_, command)| command.to_owned());
                health = Some(command.ok_or_else(|| wrong("no CMD".into()))?);
            }
            "EXPOSE" | "USER" | "VOLUME" | "STOPSIGNAL" => println!("  noted"),
            _ => return Err(wrong(format!("docker-dry does not know {word}"))),
        }
    }
    let stage = stages.last().ok_or("the Dockerfile has no FROM")?;
    let entry = entry.ok_or("the Dockerfile has no ENTRYPOINT")?;
    let health = health.ok_or("the Dockerfile has no HEALTHCHECK")?;
    let program = entry.first().ok_or("ENTRYPOINT is empty")?;
    let binary = stage.place("/usr/local/bin").join(program);
    check_libraries(&binary)?;
    for password in [None, Some("correct horse")] {
        start(stage, &entry, &health, &binary, password)?;
    }
    println!("docker-dry: {} instructions", instructions.len());
    Ok(())
}

/// `COPY [--from=stage] source… target`
fn copy(
    rest: &str,
    stage: &Stage,
    earlier: &[Stage],
    context: &Path,
    ignore: &Ignore,
) -> Result<(), String> {
    let mut words: Vec<&str> = rest.split_whitespace().collect();
    let mut from = None;
    if let Some(name) = words.first().and_then(|word| word.strip_prefix("--from=")) {
        let found = earlier.iter().find(|stage| stage.name == name);
        from = Some(found.ok_or_else(|| format!("no stage {name}"))?);
        words.remove(0);
    }
    let (Some(target), true) = (words.pop(), !words.is_empty()) else {
        return Err("COPY needs a source and a target".into());
    };
    let into = target.ends_with('/') || words.len() > 1;
    for source in words {
        let mut to = stage.place(target);
        let path = from.map_or_else(|| context.join(source), |stage| stage.place(source));
        if into && path.is_file() {
            to.push(path.file_name().unwrap_or_default());
        }
        let copied = match from {
            Some(_) => copy_tree(&path, &to, &|_| true)?,
            None => copy_tree(&path, &to, &|path| {
                path.strip_prefix(context).is_ok_and(|path| !ignore.ignores(path))
            })?,
        };
        println!("  {copied} files of {source}");
        if copied == 0 {
            return Err(format!("{source} is not there, or ignored"));
        }
    }
    Ok(())
}

fn copy_tree(from: &Path, to: &Path, wanted: &dyn Fn(&Path) -> bool) -> Result<u64, String> {
    let wrong = |error: std::io::Error| format!("{}: {error}", from.display());
    if !from.is_dir() {
        if !wanted(from) || !from.is_file() {
            return Ok(0);
        }
        fs::create_dir_all(to.parent().unwrap_or(to)).map_err(wrong)?;
        return fs::copy(from, to).map(|_| 1).map_err(wrong);
    }
    let mut copied = 0;
    for entry in fs::read_dir(from).map_err(wrong)? {
        let entry = entry.map_err(wrong)?;
        copied += copy_tree(&entry.path(), &to.join(entry.file_name()), wanted)?;
    }
    Ok(copied)
}

/// `RUN`: each command of the line, skipped if it would change this system.
fn run_line(rest: &str, stage: &Stage) -> Result<(), String> {
    programs::output(Command::new("sh").args(["-n", "-c", rest]))?;
    for command in rest.split("&&").map(str::trim) {
        let first = command.split_whitespace().next().unwrap_or_default();
        if OF_THE_SYSTEM.contains(&first) {
            println!("  skipped, its syntax is right: {command}");
            continue;
        }
        let mut shell = Command::new("sh");
        shell.args(["-c", command]).current_dir(stage.place(""));
        if first == "cargo" {
            // The workspace's own target: only what differs by its place is built again. Where
            // the build would have put it is a link to it.
            let target = programs::target_dir();
            shell.env("CARGO_TARGET_DIR", &target).env_remove("RUSTUP_TOOLCHAIN");
            std::os::unix::fs::symlink(&target, stage.place("target"))
                .map_err(|error| format!("target: {error}"))?;
        }
        println!("  running: {command}");
        programs::run(&mut shell)?;
    }
    Ok(())
}

/// The image brings few libraries.
fn check_libraries(binary: &Path) -> Result<(), String> {
    let out = programs::output(Command::new("ldd").arg(binary))?;
    let out = String::from_utf8_lossy(&out);
    let known = |line: &&str| LIBRARIES.iter().any(|library| line.contains(library));
    match out.lines().find(|line| !known(line)) {
        None => Ok(()),
        Some(line) => Err(format!("debian:bookworm-slim may not have {}", line.trim())),
    }
}

/// Starts the entry point on a free port and a directory of its own, and asks as the health
/// check does, at that port.
fn start(
    stage: &Stage,
    entry: &[String],
    health: &str,
    binary: &Path,
    password: Option<&str>,
) -> Result<(), String> {
    let bin = binary.parent().unwrap_or(binary);
    let path = std::env::var("PATH").unwrap_or_default();
    let environment = |command: &mut Command| {
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("ACTADB_") {
                command.env_remove(name);
            }
        }
        command.env("PATH", format!("{}:{path}", bin.display()));
        if let Some(password) = password {
            command.env("ACTADB_AUTH__PASSWORD", password);
        }
    };
    let data = stage.place("/data");
    let arguments = entry.iter().skip(1).map(|argument| match argument.as_str() {
        "/data" => data.display().to_string(),
        "0.0.0.0:9090" => "0.0.0.0:0".to_owned(),
        other => other.to_owned(),
    });
    let mut command = Command::new(binary);
    command.args(arguments).current_dir(stage.place(""));
    environment(&mut command);
    command.env("ACTADB_NETWORK__ADMIN_ADDRESS", "127.0.0.1:0");
    let log = Arc::new(Mutex::new(String::new()));
    let server = server_process::start(command, &log)?;
    let address = format!("127.0.0.1:{}", server.address().port());

    let mut check = Command::new("sh");
    check.args(["-c", &format!("{health} --client-address {address}")]);
    environment(&mut check);
    let said = programs::output(&mut check)?;
    let with = if password.is_some() { "a password" } else { "no password" };
    println!("  the health check, with {with}: {}", String::from_utf8_lossy(&said).trim());
    if password.is_some() {
        let mut ping = Command::new(binary);
        ping.args(["ping", "--client-address", &address]);
        if ping.output().is_ok_and(|output| output.status.success()) {
            return Err("the password is not asked for".into());
        }
    }
    server.terminate().map(drop)
}
