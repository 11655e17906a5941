//! The style is a test: what a machine can check of how this house is kept.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Longest source file in lines; tests and fuzz targets apart.
const FILE_LINES_MAX: usize = 600;
/// Longest line in columns.
const COLUMNS_MAX: usize = 100;

/// The floors of `docs/ARCHITECTURE.md`: a crate may use crates of lower floors only.
const FLOORS: &[(&str, u32)] = &[
    ("actadb-model", 10),
    ("actadb-disk", 15),
    // Only for the tests of the cores.
    ("actadb-golden", 15),
    ("actadb-log", 20),
    ("actadb-index", 20),
    ("actadb-protocol", 20),
    ("actadb-partition", 20),
    ("actadb-replica", 20),
    ("actadb-subscription", 20),
    ("actadb-membership", 20),
    ("actadb-store", 30),
    ("actadb-client", 30),
    ("actadb-transport", 30),
    ("actadb-bucket", 40),
    ("actadb", 50),
    ("actadb-sim", 50),
    ("actadb-server", 60),
    // Above all that it checks; only `fuzz/`, outside this workspace, stands on it.
    ("actadb-properties", 70),
    ("xtask", 0),
];

/// Crates whose files must not name a clock, a device, a runtime or dice.
const PURE: &[&str] = &[
    "actadb-membership",
    "actadb-model",
    "actadb-partition",
    "actadb-replica",
    "actadb-subscription",
];
const IMPURE_WORDS: &[&str] = &["tokio", "std::time", "std::fs", "std::thread", "rand::"];

/// Runs every check.
///
/// # Errors
/// All findings, a line each.
pub(crate) fn run() -> Result<(), String> {
    let root = workspace_root();
    let mut findings = Vec::new();
    check_arrows(&root, &mut findings);
    let mut files = Vec::new();
    collect(&root.join("crates"), &mut files);
    files.sort();
    for file in &files {
        check_file(&root, file, &mut findings);
    }
    check_format_document(&root, &mut findings);
    if findings.is_empty() {
        println!("tidy: {} files, nothing found", files.len());
        return Ok(());
    }
    Err(findings.join("\n"))
}

fn workspace_root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap_or(here).to_owned()
}

fn collect(dir: &Path, files: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        if path.is_dir() && path.file_name().is_some_and(|name| name != "target") {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// Arrows between crates go downward; every crate has a floor.
fn check_arrows(root: &Path, findings: &mut Vec<String>) {
    let floors: BTreeMap<&str, u32> = FLOORS.iter().copied().collect();
    let Ok(entries) = fs::read_dir(root.join("crates")) else { return };
    for entry in entries.flatten() {
        let manifest = entry.path().join("Cargo.toml");
        let Ok(text) = fs::read_to_string(&manifest) else { continue };
        let name = entry.file_name().to_string_lossy().into_owned();
        if !text.contains(&format!("name = \"{name}\"")) {
            findings.push(format!("{}: folder and crate differ in name", manifest.display()));
        }
        let Some(floor) = floors.get(name.as_str()) else {
            findings.push(format!("{name}: has no floor in xtask/src/tidy.rs"));
            continue;
        };
        for used in dependencies(&text) {
            match floors.get(used.as_str()) {
                Some(lower) if lower < floor => {}
                Some(_) => findings.push(format!("{name} uses {used}: not a lower floor")),
                None => {}
            }
        }
    }
}

/// Names under `[dependencies]`; those of tests may go anywhere.
fn dependencies(manifest: &str) -> Vec<String> {
    let mut inside = false;
    let mut names = Vec::new();
    for line in manifest.lines() {
        if line.starts_with('[') {
            inside = line == "[dependencies]";
        } else if inside && let Some(name) = line.split(['.', ' ', '=']).next() {
            names.push(name.to_owned());
        }
    }
    names
}

fn check_file(root: &Path, path: &Path, findings: &mut Vec<String>) {
    let shown = path.strip_prefix(root).unwrap_or(path).display().to_string();
    let Ok(text) = fs::read_to_string(path) else {
        findings.push(format!("{shown}: cannot be read"));
        return;
    };
    if !text.starts_with("//!") {
        findings.push(format!("{shown}: the first line must say what the file is (`//!`)"));
    }
    let is_test = path.components().any(|part| part.as_os_str() == "tests");
    let lines = text.lines().count();
    if lines > FILE_LINES_MAX && !is_test {
        findings.push(format!("{shown}: {lines} lines, at most {FILE_LINES_MAX}"));
    }
    let pure = PURE.iter().any(|name| shown.starts_with(&format!("crates/{name}/src")));
    for (number, line) in text.lines().enumerate() {
        let number = number + 1;
        if line.chars().count() > COLUMNS_MAX && !line.contains("http") {
            findings.push(format!("{shown}:{number}: longer than {COLUMNS_MAX} columns"));
        }
        // Assembled, so that this file does not find itself.
        for word in [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X")] {
            if line.contains(word) {
                findings.push(format!("{shown}:{number}: {word}"));
            }
        }
        let is_comment = line.trim_start().starts_with("//");
        if pure && !is_comment && IMPURE_WORDS.iter().any(|word| line.contains(word)) {
            findings.push(format!("{shown}:{number}: a pure crate names {}", line.trim()));
        }
    }
}

/// `docs/FORMAT.md` carries a hash of the files it describes: it must move when they do.
fn check_format_document(root: &Path, findings: &mut Vec<String>) {
    let described = [
        "crates/actadb-log/src/format.rs",
        "crates/actadb-log/src/slots.rs",
        "crates/actadb-index/src/format.rs",
        "crates/actadb-index/src/filter.rs",
        "crates/actadb-store/src/record.rs",
        "crates/actadb-store/src/meta.rs",
    ];
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for file in described {
        for byte in fs::read(root.join(file)).unwrap_or_default() {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    let wanted = format!("<!-- describes {hash:016x} -->");
    let document = fs::read_to_string(root.join("docs/FORMAT.md")).unwrap_or_default();
    if !document.contains(&wanted) {
        findings.push(format!(
            "docs/FORMAT.md: the files it describes have changed; read them again, and put in \
             `{wanted}` (of {})",
            described.join(", ")
        ));
    }
}
