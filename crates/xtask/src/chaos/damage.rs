//! A stopped database is damaged, checked, started, asked, put right and started again.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::crash::SMALL_SEGMENTS;
use super::load::{Ledger, Load, until};
use super::resp::said;
use super::witness::Witness;
use crate::server_process::Home;

pub(super) const BUCKETS: u64 = 4;
/// The log of each bucket has as many full segments at least: a first, some, a last one.
const FULL_SEGMENTS: usize = 2;

const NEWER: &str = "use a newer actadb";

/// Files of a data directory by their relative names.
pub(super) type Files = BTreeMap<PathBuf, Vec<u8>>;

/// A sound database, what is known about it, and a place to damage copies of it.
#[derive(Debug)]
pub(super) struct Grounds {
    pub(super) home: Home,
    pub(super) sound: Files,
    /// The same database, earlier in its life.
    pub(super) older: Files,
    ledger: Ledger,
    witnesses: Vec<Witness>,
    failed: Vec<String>,
    tried: usize,
}

/// One damage.
#[derive(Debug)]
pub(super) struct Case {
    pub(super) what: String,
    pub(super) bucket: u64,
    /// New contents of files; `None`: the file is gone.
    pub(super) changes: Vec<(PathBuf, Option<Vec<u8>>)>,
    pub(super) expect: Expect,
    /// What may be named instead of the files that changed.
    pub(super) also: Vec<String>,
}

/// What must come of a damage. An answer that is wrong or silently shorter never may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expect {
    /// Everything is served.
    Served,
    /// `check` tells the file; a start refuses it, or reads that meet the damage do, by name.
    Refused,
    /// `check` tells the file; where the damage is met decides whether anything is refused.
    Told,
    /// Every bucket is closed, and files are named that do not fit the one that changed.
    Foreign,
    /// No start, with the advice to use a newer program.
    Newer,
}

impl Grounds {
    /// Makes the database. It has been stopped in order, so its slots tell that all is synced.
    pub(super) fn build(binary: &Path) -> Result<Self, String> {
        let home = Home::new(binary, &[SMALL_SEGMENTS])?;
        let (sound, older, witnesses) = (Files::new(), Files::new(), Vec::new());
        let (ledger, failed) = (Ledger::default(), Vec::new());
        let mut grounds = Self { home, sound, older, ledger, witnesses, failed, tried: 0 };
        grounds.older = grounds.grow(1, 1)?;
        grounds.sound = grounds.grow(2, FULL_SEGMENTS)?;
        let server = grounds.home.start()?;
        grounds.ledger.audit(server.address())?;
        for bucket in 0..BUCKETS {
            grounds.witnesses.push(Witness::of_bucket(server.address(), bucket, BUCKETS)?);
        }
        server.terminate()?;
        grounds.sound = grounds.read()?;
        Ok(grounds)
    }

    /// Appends until each bucket has so many indexes.
    fn grow(&mut self, round: u64, indexes: usize) -> Result<Files, String> {
        let server = self.home.start()?;
        let load = Load::paced(server.address(), round, Duration::from_millis(3));
        let data = self.home.data();
        let grown = until(Duration::from_secs(30), || {
            (0..BUCKETS).all(|bucket| {
                let entries = fs::read_dir(data.join(dir(bucket))).into_iter().flatten().flatten();
                let is_index = |path: PathBuf| path.extension().is_some_and(|end| end == "index");
                entries.filter(|entry| is_index(entry.path())).count() >= indexes
            })
        });
        load.join(&mut self.ledger)?;
        grown?;
        server.terminate()?;
        self.home.check()?;
        self.read()
    }

    fn read(&self) -> Result<Files, String> {
        let data = self.home.data();
        let mut files = Files::new();
        for entry in fs::read_dir(&data).map_err(said)?.flatten() {
            let inner = fs::read_dir(entry.path()).into_iter().flatten().flatten();
            for path in inner.map(|entry| entry.path()).chain([entry.path()]) {
                if path.is_file() {
                    let name = path.strip_prefix(&data).map_err(said)?.to_owned();
                    files.insert(name, fs::read(&path).map_err(said)?);
                }
            }
        }
        Ok(files)
    }

    fn put(&self, name: &Path, content: Option<&Vec<u8>>) -> Result<(), String> {
        let path = self.home.data().join(name);
        let Some(content) = content else {
            fs::remove_file(&path).map_err(|error| format!("{}: {error}", path.display()))?;
            // A directory that is empty now is gone, too.
            let _ = path.parent().map(fs::remove_dir);
            return Ok(());
        };
        fs::create_dir_all(path.parent().unwrap_or(&path)).map_err(said)?;
        fs::write(path, content).map_err(said)
    }

    /// The segments of a bucket that have frames, and the one made ahead if there is one.
    pub(super) fn segments(&self, bucket: u64) -> (Vec<PathBuf>, Option<PathBuf>) {
        let of = |name: &&PathBuf| {
            name.starts_with(dir(bucket)) && name.extension().is_some_and(|end| end == "segment")
        };
        let mut names: Vec<PathBuf> = self.sound.keys().filter(of).cloned().collect();
        let last = names.last().and_then(|last| self.sound.get(last));
        let is_ahead = last.is_some_and(|last| last.iter().all(|byte| *byte == 0));
        let ahead = if is_ahead { names.pop() } else { None };
        (names, ahead)
    }

    /// A file of the sound database.
    pub(super) fn file(&self, name: &Path) -> Result<&Vec<u8>, String> {
        self.sound.get(name).ok_or_else(|| format!("no file {}", name.display()))
    }

    /// Tries a case, prints what came of it, and goes on whatever it was.
    pub(super) fn try_case(&mut self, case: &Case) {
        self.tried += 1;
        match self.run(case) {
            Ok(told) => println!("  {}: {told}", case.what),
            Err(error) => {
                println!("  {}: FAILED: {error}", case.what);
                self.failed.push(case.what.clone());
            }
        }
    }

    /// What came of all cases.
    pub(super) fn result(self) -> Result<String, String> {
        match self.failed.len() {
            0 => Ok(format!("{} cases, each sound again when it was put right", self.tried)),
            n => Err(format!("{n} of {} cases: {}", self.tried, self.failed.join("; "))),
        }
    }

    fn run(&self, case: &Case) -> Result<String, String> {
        let _ = fs::remove_dir_all(self.home.data());
        for (name, content) in &self.sound {
            self.put(name, Some(content))?;
        }
        for (name, content) in &case.changes {
            self.put(name, content.as_ref())?;
        }
        let damaged = self.read()?;
        let checked = self.checked(case, &damaged)?;
        let started = self.started(case, &damaged)?;

        let now = self.read()?;
        for (name, _) in &case.changes {
            // What the server has mended is left as it is.
            if now.get(name) == damaged.get(name) {
                self.put(name, self.sound.get(name))?;
            }
        }
        let server = self.home.start().map_err(|error| format!("put right: {error}"))?;
        let answers = self.witness(case.bucket)?.ask_scans(server.address());
        let answers = answers.map_err(|error| format!("put right: {error}"))?;
        server.terminate()?;
        if answers.corrupt > 0 {
            return Err(format!("put right: {}", answers.words));
        }
        self.home.check().map_err(|error| format!("put right: {error}"))?;
        Ok(format!("check: {checked}; start: {started}"))
    }

    fn witness(&self, bucket: u64) -> Result<&Witness, String> {
        self.witnesses.get(bucket as usize).ok_or_else(|| format!("no bucket {bucket}"))
    }

    /// Does `check` tell of the damage, and does it leave it alone?
    fn checked(&self, case: &Case, damaged: &Files) -> Result<String, String> {
        let (is_sound, text) = self.home.check_output()?;
        self.unchanged(damaged, |_| true)?;
        let telling = ["DAMAGE", "mended at", "cannot check"];
        let line = text.lines().find(|line| telling.iter().any(|word| line.contains(word)));
        let line = self.short(line.unwrap_or("sound"));
        let is_named = case.names().iter().any(|name| text.contains(name.as_str()));
        let is_fine = match case.expect {
            Expect::Served => true,
            Expect::Told => is_named && line != "sound",
            Expect::Refused | Expect::Newer => is_named && !is_sound,
            Expect::Foreign => !is_sound,
        };
        if !is_fine {
            return Err(format!("check does not tell of it: {text}"));
        }
        Ok(line)
    }

    fn started(&self, case: &Case, damaged: &Files) -> Result<String, String> {
        let before = self.home.log().len();
        let names = case.names();
        let is_named = |text: &str| names.iter().any(|name| text.contains(name.as_str()));
        let server = match self.home.try_start()? {
            Ok(server) => server,
            Err(words) => return self.refused(case, damaged, &words),
        };
        let answers = self.witness(case.bucket)?.ask(server.address())?;
        let others = self.witness((case.bucket + 1) % BUCKETS)?.ask_scans(server.address())?;
        server.terminate()?;
        // A meta file is everybody's.
        if others.corrupt > 0 && case.expect != Expect::Foreign {
            return Err(format!("another bucket: {}", others.words));
        }
        let log = self.home.log().get(before..).unwrap_or_default().to_owned();
        let noted = log.lines().find(|line| line.contains("WARN") || line.contains("ERROR"));
        let noted = self.short(noted.map_or("", |line| line.trim()));
        if [Expect::Newer, Expect::Foreign].contains(&case.expect) && answers.right > 0 {
            return Err(format!("it started, and gives {} right answers", answers.right));
        }
        if case.expect == Expect::Newer {
            return Err(format!("it started: {}", answers.words));
        }
        if answers.corrupt == 0 {
            return match case.expect {
                Expect::Refused | Expect::Foreign => {
                    Err(format!("nothing is refused; the log: {noted}"))
                }
                _ if noted.is_empty() => Ok("everything is served".into()),
                _ => Ok(format!("everything is served; {noted}")),
            };
        }
        let is_foreign = case.expect == Expect::Foreign;
        let is_named = is_foreign || is_named(&answers.words) || is_named(&log);
        if case.expect == Expect::Served || !is_named {
            return Err(format!("{}; the log: {noted}", answers.words));
        }
        if answers.right == 0 {
            // An index may have been rebuilt before damage was met behind it.
            let of = |name: &Path| {
                let is_index = name.to_string_lossy().contains(".index");
                name.starts_with(dir(case.bucket)) && !is_index
                    || name.parent() == Some("".as_ref())
            };
            self.unchanged(damaged, of)?;
        }
        let (right, corrupt) = (answers.right, answers.corrupt);
        Ok(format!("{right} answers right, {corrupt} {}", self.short(&answers.words)))
    }

    fn refused(&self, case: &Case, damaged: &Files, words: &str) -> Result<String, String> {
        let words = words.lines().find(|line| line.contains("ERROR")).unwrap_or(words);
        let words = self.short(words.split_once("ERROR").map_or(words, |(_, words)| words.trim()));
        let is_named = case.names().iter().any(|name| words.contains(name.as_str()));
        if !is_named && case.expect != Expect::Foreign {
            return Err(format!("the refusal does not name the file: {words}"));
        }
        match case.expect {
            Expect::Served => return Err(format!("it did not start: {words}")),
            Expect::Newer if !words.contains(NEWER) => {
                return Err(format!("the refusal does not say what to do: {words}"));
            }
            _ => {}
        }
        // A start that meets a newer file in one bucket may have recovered the ones before it.
        let folders: Vec<_> = case.changes.iter().filter_map(|(name, _)| name.parent()).collect();
        self.unchanged(damaged, |name| {
            case.expect != Expect::Newer || folders.iter().any(|folder| name.starts_with(folder))
        })?;
        Ok(format!("refused: {words}"))
    }

    /// These files are as they were. The lock's file means nothing and is made by whoever locks.
    fn unchanged(&self, damaged: &Files, of: impl Fn(&Path) -> bool) -> Result<(), String> {
        let now = self.read()?;
        let names = damaged.keys().chain(now.keys());
        for name in names.filter(|name| **name != *"LOCK" && of(name)) {
            if damaged.get(name) != now.get(name) {
                return Err(format!("refused, and yet {} has changed", name.display()));
            }
        }
        Ok(())
    }

    /// A message without the directory.
    fn short(&self, text: &str) -> String {
        text.replace(&format!("{}/", self.home.data().display()), "").trim().to_owned()
    }
}

impl Case {
    /// One file that is gone (`None`) or has another content.
    pub(super) fn one(
        bucket: u64,
        what: String,
        name: PathBuf,
        content: Option<Vec<u8>>,
        expect: Expect,
    ) -> Self {
        let changes = vec![(name, content)];
        Self { what, bucket, changes, expect, also: Vec::new() }
    }

    /// What a message may call the place: a file that was changed, or all of a bucket.
    fn names(&self) -> Vec<String> {
        let name = |name: &PathBuf| name.display().to_string();
        let mut names: Vec<String> = self.changes.iter().map(|change| name(&change.0)).collect();
        names.extend_from_slice(&self.also);
        if self.changes.len() > 3 {
            names.push(dir(self.bucket));
        }
        names
    }
}

/// A bucket's directory.
pub(super) fn dir(bucket: u64) -> String {
    format!("bucket-{bucket:03}")
}
