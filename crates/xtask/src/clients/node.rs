//! ioredis and node-redis, as npm has them.

use std::path::Path;
use std::process::Command;

use crate::programs;
use crate::server_process::ServerProcess;

/// The packages, and the versions that are tested.
const PACKAGES: [(&str, &str); 2] = [("ioredis", "6.0.0"), ("redis", "6.3.1")];

/// What both libraries must be able to do. They are written to where the packages are installed, as
/// they must be run there.
const SCRIPTS: [(&str, &str); 2] = [
    ("clients.mjs", include_str!("../../node/clients.mjs")),
    ("following.mjs", include_str!("../../node/following.mjs")),
];

/// Installs the packages, unless they are there in the versions wanted.
pub(super) fn install(dir: &Path) -> Result<(), String> {
    let wrong = |error: std::io::Error| format!("{}: {error}", dir.display());
    let versions: serde_json::Map<_, _> =
        PACKAGES.iter().map(|(name, version)| ((*name).into(), (*version).into())).collect();
    let package = serde_json::json!({"private": true, "dependencies": versions}).to_string();
    std::fs::create_dir_all(dir).map_err(wrong)?;
    for (name, script) in SCRIPTS {
        std::fs::write(dir.join(name), script).map_err(wrong)?;
    }
    let manifest = dir.join("package.json");
    let installed = PACKAGES.iter().all(|(name, _)| dir.join("node_modules").join(name).is_dir());
    if installed && std::fs::read_to_string(&manifest).is_ok_and(|found| found == package) {
        return Ok(());
    }
    std::fs::write(&manifest, &package).map_err(wrong)?;
    let mut npm = Command::new("npm");
    npm.args(["install", "--no-audit", "--no-fund", "--no-package-lock", "--ignore-scripts"]);
    programs::output(npm.current_dir(dir)).map(drop).map_err(|error| {
        let _ = std::fs::remove_file(&manifest);
        let names = PACKAGES.map(|(name, version)| format!("{name}@{version}"));
        format!("npm packages {}: {error}", names.join(" and "))
    })
}

/// Both libraries against a server.
pub(super) fn check(
    dir: &Path,
    server: &ServerProcess,
    password: Option<&str>,
) -> Result<(), String> {
    let mut node = Command::new("node");
    node.arg("clients.mjs").arg(server.address().port().to_string()).current_dir(dir);
    node.env("PASSWORD", password.unwrap_or_default());
    programs::run(&mut node)
}
