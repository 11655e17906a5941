//! Mending a stopped bucket.
//!
//! What costs no acknowledged event is mended as a start mends it: a torn tail is cut, indexes are
//! rebuilt, a bad slot is written again. Where the log is damaged it must end before the damage;
//! the files that go are set aside, never deleted. Without slots nothing tells a torn tail from
//! damage, so it is taken for damage.
//!
//! The order makes every step safe to be the last one before a power loss:
//!
//! 1. copies of what is changed in place are durable: the slots, the damaged segment;
//! 2. indexes of the segments that go are moved: none may be found by a segment of its number that
//!    is written later;
//! 3. the damaged segment is replaced by its good beginning, in one rename;
//! 4. later segments are moved, the newest first: as long as one is left, it does not continue
//!    what is before it, and the bucket does not open;
//! 5. the slots, which may prove more than is left, are written.
//!
//! A repair that was stopped between is run again: it finds the rest.

use std::fmt;
use std::path::{Path, PathBuf};

use actadb_disk::disk::Disk;
use actadb_log::error::{LogError, SYNC};
use actadb_log::segment::segment_numbers;
use actadb_log::slots::{SlotState, Slots};
use actadb_log::writer::LogSettings;
use actadb_model::ids::BucketId;

use crate::check::BucketReport;
use crate::error::OpenError;
use crate::loss::Loss;
use crate::meta::{Directory, Seat, bucket_dir, first_slots};
use crate::open::{index_path, open_bucket};

const COPY_BYTES: usize = 1 << 20;

/// One thing that a repair did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mended {
    /// The file.
    pub file: PathBuf,
    /// What was done with it.
    pub what: String,
}

impl Mended {
    fn new(file: &Path, what: impl Into<String>) -> Self {
        Self { file: file.to_owned(), what: what.into() }
    }
}

impl fmt::Display for Mended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.file.display(), self.what)
    }
}

/// Mends a bucket as its check found it; whoever calls has accepted the loss that the report
/// tells. Files that go are kept in `aside`, a directory directly below the database's that no
/// earlier repair has used. What was done is pushed to `done`, also by a repair that fails.
///
/// # Errors
/// What the device says, and damage that came since the check. The repair can be run again.
pub fn repair_bucket(
    directory: &Directory,
    bucket: BucketId,
    report: &BucketReport,
    aside: &Path,
    done: &mut Vec<Mended>,
) -> Result<(), OpenError> {
    let settings = directory.log_settings(bucket);
    if !report.can_be_mended() {
        return Ok(());
    }
    if let Some(loss) = &report.loss {
        let aside = SetAside { settings: &settings, dir: bucket_dir(aside, bucket) };
        aside.run(directory.root(), loss, done)?;
    }
    let disk = &*settings.disk;
    for damage in &report.bad_indexes {
        let path = &damage.file;
        if disk.exists(path).map_err(LogError::io("look for", path))? {
            disk.remove(path).map_err(LogError::io("remove", path))?;
            done.push(Mended::new(path, "removed: it is built anew"));
        }
    }
    let opened = open_bucket(directory, bucket)?;
    for torn in &opened.torn {
        let what = format!(
            "cut {} bytes at byte {} that were never acknowledged as synced",
            torn.bytes, torn.offset
        );
        done.push(Mended::new(&torn.file, what));
    }
    done.extend(opened.rebuilt.iter().map(|path| Mended::new(path, "rebuilt from its segment")));
    let slots = Slots::path(&settings.dir);
    let bad_slot = report.mendable.iter().find(|damage| damage.file == slots);
    done.extend(bad_slot.map(|bad| {
        Mended::new(&slots, format!("wrote the slot at byte {} from the good one", bad.offset))
    }));
    match opened.unsealed.first() {
        // The index is missing: the next start, or the next repair, makes it.
        Some(task) => Err(LogError::Io {
            what: "write",
            path: index_path(&settings, task.segment()),
            source: std::io::ErrorKind::StorageFull.into(),
        }
        .into()),
        None => Ok(()),
    }
}

/// Moves what cannot stay out of a bucket's directory.
struct SetAside<'a> {
    settings: &'a LogSettings,
    dir: PathBuf,
}

impl SetAside<'_> {
    fn run(&self, root: &Path, loss: &Loss, done: &mut Vec<Mended>) -> Result<(), LogError> {
        let (disk, keep) = (&*self.settings.disk, &loss.keep);
        for dir in [&self.settings.dir, &self.dir] {
            disk.create_dir_all(dir).map_err(LogError::io("create", dir))?;
        }
        for dir in [root, self.dir.parent().unwrap_or(root), &self.dir] {
            sync_dir(disk, dir)?;
        }
        let slots = Slots::path(&self.settings.dir);
        self.keep_copy(&slots, done)?;
        if loss.log {
            let last = self.settings.segment_path(keep.segment);
            if keep.cut {
                self.keep_copy(&last, done)?;
            }
            let numbers = segment_numbers(disk, &self.settings.dir)?;
            self.move_indexes(keep.segment, done)?;
            if keep.cut {
                copy(disk, &last, &last, keep.bytes)?;
                done.push(Mended::new(&last, format!("cut to its first {} bytes", keep.bytes)));
            }
            for number in numbers.into_iter().rev().filter(|number| *number > keep.segment) {
                self.rename(&self.settings.segment_path(number), done)?;
            }
            sync_dir(disk, &self.dir)?;
            sync_dir(disk, &self.settings.dir)?;
        }
        self.write_slots(loss)?;
        let what = format!("wrote both; the log ends with entry {}", keep.last_entry);
        done.push(Mended::new(&slots, what));
        Ok(())
    }

    fn aside(&self, path: &Path) -> PathBuf {
        self.dir.join(path.file_name().unwrap_or_default())
    }

    fn keep_copy(&self, path: &Path, done: &mut Vec<Mended>) -> Result<(), LogError> {
        let disk = &*self.settings.disk;
        if !disk.exists(path).map_err(LogError::io("look for", path))? {
            return Ok(());
        }
        let to = self.aside(path);
        copy(disk, path, &to, u64::MAX)?;
        done.push(Mended::new(path, format!("kept a copy as {}", to.display())));
        Ok(())
    }

    fn rename(&self, path: &Path, done: &mut Vec<Mended>) -> Result<(), LogError> {
        let to = self.aside(path);
        self.settings.disk.rename(path, &to).map_err(LogError::io("rename", path))?;
        done.push(Mended::new(path, format!("moved to {}", to.display())));
        Ok(())
    }

    /// The index of the last segment left goes, too: that segment grows again.
    fn move_indexes(&self, from: u64, done: &mut Vec<Mended>) -> Result<(), LogError> {
        let (disk, dir) = (&*self.settings.disk, &self.settings.dir);
        for name in disk.list(dir).map_err(LogError::io("list", dir))? {
            let Some((number, "index" | "index-new")) = name.split_once('.') else { continue };
            let ours = |n: &u64| index_path(self.settings, *n).with_extension("").ends_with(number);
            if number.parse().ok().filter(ours).is_some_and(|number| number >= from) {
                self.rename(&dir.join(&name), done)?;
            }
        }
        sync_dir(disk, &self.dir)?;
        sync_dir(disk, dir)
    }

    /// Slots that claim no more than is left.
    fn write_slots(&self, loss: &Loss) -> Result<(), LogError> {
        let LogSettings { disk, dir, identity, .. } = self.settings;
        let last = loss.keep.last_entry;
        if !loss.slots
            && let Some(mut slots) = Slots::open(&**disk, dir, *identity)?
        {
            let old = slots.state().clone();
            let (synced_index, boot_counter) = (old.synced_index.min(last), old.boot_counter + 1);
            return slots.save(SlotState { synced_index, boot_counter, ..old });
        }
        // Nothing tells what of the log was synced: what can be read may lie in the cache only. A
        // start writes all above the synced index again, syncs it, and saves the true one.
        let first = first_slots(&Seat::single(identity.database()), identity.bucket());
        let term = first.term.max(loss.keep.term);
        Slots::create(&**disk, dir, *identity, SlotState { synced_index: 0, term, ..first })?;
        Ok(())
    }
}

fn sync_dir(disk: &dyn Disk, dir: &Path) -> Result<(), LogError> {
    disk.sync_dir(dir).map_err(LogError::io(SYNC, dir))
}

/// Copies at most the first `bytes` of a file, durably; what has the new name is replaced at once.
fn copy(disk: &dyn Disk, from: &Path, to: &Path, bytes: u64) -> Result<(), LogError> {
    let temporary = to.with_added_extension("copy");
    if disk.exists(&temporary).map_err(LogError::io("look for", &temporary))? {
        disk.remove(&temporary).map_err(LogError::io("remove", &temporary))?;
    }
    let source = disk.open_read(from).map_err(LogError::io("open", from))?;
    let file = disk.create(&temporary).map_err(LogError::io("create", &temporary))?;
    let mut chunk = vec![0; COPY_BYTES];
    let mut at = 0;
    while at < bytes {
        let wanted = (bytes - at).min(COPY_BYTES as u64) as usize;
        let n =
            source.read_full_at(&mut chunk[..wanted], at).map_err(LogError::io("read", from))?;
        if n == 0 {
            break;
        }
        file.write_all_at(&chunk[..n], at).map_err(LogError::io("write", &temporary))?;
        at += n as u64;
    }
    file.sync_data().map_err(LogError::io(SYNC, &temporary))?;
    disk.rename(&temporary, to).map_err(LogError::io("rename", to))?;
    sync_dir(disk, to.parent().unwrap_or(Path::new(".")))
}
