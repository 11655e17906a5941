//! `cargo xtask clients [--binary PATH] [--repository DIR] [--seed N]`: a real server and stock
//! clients.

mod git_log;
mod made_history;
mod node;
mod projection;
mod redis_cli;

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::dice::{self, Dice};
use crate::programs;
use crate::server_process::{Home, ServerProcess};

const PASSWORD: &str = "correct horse";
const REDIS_PY: &str = "redis>=8,<9";

/// Where what pip and npm installed lies.
struct Installed {
    python: PathBuf,
    node: PathBuf,
}

/// Runs every client against a server without and one with a password, then imports a history
/// and projects it.
///
/// # Errors
/// What is missing, or the first thing that is wrong.
pub(crate) fn run(args: &[String]) -> Result<(), String> {
    let mut args = args.to_vec();
    let binary = programs::option(&mut args, "--binary")?;
    let repository = programs::option(&mut args, "--repository")?;
    let seed = dice::seed(&mut args)?;
    let repository = repository.map_or_else(programs::workspace, PathBuf::from);
    if let Some(unknown) = args.first() {
        return Err(format!("clients does not know '{unknown}'"));
    }
    programs::require(&[
        programs::REDIS_CLI,
        programs::STDBUF,
        programs::PYTHON,
        programs::NODE,
        programs::NPM,
        programs::GIT,
    ])?;
    let installed = install()?;
    let binary = programs::server_binary(binary)?;

    let home = Home::new(&binary, &[])?;
    home.explain(with_server(&home, |server| every_client(&installed, server, None)))?;
    let password = format!("{PASSWORD:?}");
    let home = Home::new(&binary, &[("auth.password", &password)])?;
    home.explain(with_server(&home, |server| every_client(&installed, server, Some(PASSWORD))))?;
    let home = Home::new(&binary, &[])?;
    home.explain(with_server(&home, |server| {
        git_log::check(&home, server, &installed.python, &repository)
    }))?;
    println!("projection.py: --seed {seed}");
    let mut dice = Dice::new(seed, "projection");
    let home = Home::new(&binary, &[])?;
    let made = home.scratch("made.git");
    made_history::make(&made, &mut dice)?;
    for history in [&repository, &made] {
        let home = Home::new(&binary, &[])?;
        home.explain(with_server(&home, |server| {
            projection::check(&home, server, &installed.python, history, &mut dice)
        }))?;
    }
    Ok(())
}

fn with_server(
    home: &Home,
    test: impl FnOnce(&ServerProcess) -> Result<(), String>,
) -> Result<(), String> {
    let server = home.start()?;
    test(&server)?;
    server.terminate()?;
    home.check()
}

fn every_client(
    installed: &Installed,
    server: &ServerProcess,
    password: Option<&str>,
) -> Result<(), String> {
    redis_cli::check(server, password)?;
    for protocol in ["2", "3"] {
        let mut python = Command::new(&installed.python);
        python.arg(programs::workspace().join("crates/xtask/python/clients.py"));
        python.arg(server.address().port().to_string()).arg(protocol);
        python.env("PASSWORD", password.unwrap_or_default());
        programs::run(&mut python)?;
    }
    node::check(&installed.node, server, password)
}

/// Installs the libraries, each where it is not there yet.
fn install() -> Result<Installed, String> {
    let installed = Installed {
        python: programs::target_dir().join("xtask-venv/bin/python"),
        node: programs::target_dir().join("xtask-node"),
    };
    let results = [redis_py(&installed.python), node::install(&installed.node)];
    let missing: Vec<String> = results.into_iter().filter_map(Result::err).collect();
    if missing.is_empty() { Ok(installed) } else { Err(missing.join("\n")) }
}

fn redis_py(python: &Path) -> Result<(), String> {
    let is_there = "import redis; assert redis.__version__.startswith('8.')";
    let check = Command::new(python).args(["-c", is_there]).output();
    if check.is_ok_and(|output| output.status.success()) {
        return Ok(());
    }
    let wrong = |error| format!("pip package '{REDIS_PY}': {error}");
    let Some(venv) = python.ancestors().nth(2) else { return Err(wrong("no directory".into())) };
    let mut make = Command::new("python3");
    programs::output(make.args(["-m", "venv"]).arg(venv)).map_err(wrong)?;
    let mut pip = Command::new(python);
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", REDIS_PY]);
    programs::output(&mut pip).map_err(wrong)?;
    Ok(())
}
