//! `cargo xtask sim`: the simulator, in release, because debug worlds take ten times as long.

use std::process::Command;

/// Passes the arguments on: `--seed N`, `--ops N`, `--minutes M`, `--seeds N`, `--mistakes`.
///
/// # Errors
/// When it cannot be started, or found something.
pub(crate) fn run(args: &[String]) -> Result<(), String> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let status = Command::new(cargo)
        .args(["run", "--quiet", "--release", "--package", "actadb-sim", "--"])
        .args(args)
        .status()
        .map_err(|error| format!("cargo cannot be started: {error}"))?;
    match status.success() {
        true => Ok(()),
        false => Err("the simulator says no: see above".into()),
    }
}
