//! Golden scripts: one text file per story of a pure core, for the tests of the cores.
//!
//! A line that begins with `> ` is an input, the lines below it are all the outputs it gave. What a
//! script says is held against what the core does; `UPDATE_SCRIPTS=1` rewrites the outputs instead.
//! After the test scripts of toydb and etcd's Raft.

/// Runs every script of a directory; `run` plays one and answers it with its outputs.
///
/// # Panics
/// When there is no script, or when one says something else than what the core does.
pub fn check(dir: &str, run: impl Fn(&str) -> String) {
    let mut paths: Vec<_> = std::fs::read_dir(dir)
        .expect("scripts")
        .map(|entry| entry.expect("entry").path())
        .collect();
    paths.sort();
    assert!(!paths.is_empty(), "no scripts in {dir}");
    let mut wrong = Vec::new();
    for path in paths {
        let script = std::fs::read_to_string(&path).expect("a script");
        let found = run(&script);
        if found == script {
            continue;
        }
        if std::env::var_os("UPDATE_SCRIPTS").is_some() {
            std::fs::write(&path, found).expect("written");
        } else {
            wrong.push(format!("{}:\n{found}", path.display()));
        }
    }
    assert!(wrong.is_empty(), "scripts differ (UPDATE_SCRIPTS=1 rewrites):\n{}", wrong.join("\n"));
}
