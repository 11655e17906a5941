//! A device in memory that forgets what was not synced.
//!
//! The model, after redb's `tests/crash_consistency.rs` and TigerBeetle's
//! `src/testing/storage.zig`:
//!
//! - A file has bytes as the system's cache shows them and bytes as the medium holds them, and a
//!   set of *dirty* sectors of 512 bytes. `sync_data` writes the dirty sectors and the length.
//! - A [power loss](SimDisk::power_loss) keeps any subset of the dirty sectors, the old or the new
//!   length independent of them, and any subset of the changes to names that no directory sync
//!   covered; a renamed file may be found with both names, and never with none. A
//!   [process crash](SimDisk::process_crash) keeps the cache as it is: written, readable, and not
//!   durable.
//! - A [failed sync](SimDisk::fail_sync_after) leaves the new bytes readable and marks them clean:
//!   a later sync that succeeds does not write them (what Linux does).
//! - Operations can be made to stop after a number of steps, as if the machine had died there.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use actadb_model::dice::SplitMix64;

use crate::disk::{Disk, DiskFile, DiskLock};

/// The unit that a power loss keeps or drops whole.
pub const SECTOR_BYTES: usize = 512;

/// A device in memory. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct SimDisk(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    inodes: Vec<Inode>,
    /// Names as the cache shows them.
    names: BTreeMap<PathBuf, usize>,
    /// Names as the medium holds them.
    durable_names: BTreeMap<PathBuf, usize>,
    /// Renames of files with a durable name that no sync of the new name's directory covered.
    renames: BTreeMap<PathBuf, usize>,
    dirs: BTreeSet<PathBuf>,
    locks: BTreeSet<PathBuf>,
    /// Handles of an earlier life are dead.
    life: u64,
    capacity: Option<u64>,
    fail_sync_after: Option<u64>,
    fail_write_after: Option<(u64, io::ErrorKind)>,
    stop_after: Option<u64>,
    stopped: bool,
    syncs: u64,
    injected_failures: u64,
    steps: u64,
}

#[derive(Debug, Default)]
struct Inode {
    cached: Vec<u8>,
    durable: Vec<u8>,
    dirty: BTreeSet<usize>,
}

impl SimDisk {
    /// An empty device without faults.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no holder panics")
    }

    /// The machine loses power and comes back: see the module's model. Everything a handle of
    /// before does from now on fails.
    pub fn power_loss(&self, dice: &mut SplitMix64) {
        let mut guard = self.state();
        let state = &mut *guard;
        let changed: BTreeSet<PathBuf> = state
            .names
            .iter()
            .chain(&state.durable_names)
            .map(|(path, _)| path.clone())
            .filter(|path| state.names.get(path) != state.durable_names.get(path))
            .collect();
        for path in changed {
            if dice.one_in(2) {
                match state.names.get(&path) {
                    Some(inode) => state.durable_names.insert(path, *inode),
                    None => state.durable_names.remove(&path),
                };
            }
        }
        for (to, inode) in std::mem::take(&mut state.renames) {
            if !state.durable_names.values().any(|named| *named == inode) {
                state.durable_names.insert(to, inode);
            }
        }
        state.names = state.durable_names.clone();
        for inode in &mut state.inodes {
            inode.lose_power(dice);
        }
        state.next_life();
    }

    /// The process dies and is started again: the cache survives, still not durable.
    pub fn process_crash(&self) {
        self.state().next_life();
    }

    /// Lets `n` more changes happen; then every operation fails until the next crash.
    pub fn stop_after(&self, n: u64) {
        self.state().stop_after = Some(n);
    }

    /// Whether [`stop_after`](Self::stop_after) struck in this life.
    #[must_use]
    pub fn has_stopped(&self) -> bool {
        self.state().stopped
    }

    /// The sync after `n` more successful ones fails, once.
    pub fn fail_sync_after(&self, n: u64) {
        self.state().fail_sync_after = Some(n);
    }

    /// The write after `n` more successful ones fails with `kind`, once.
    pub fn fail_write_after(&self, n: u64, kind: io::ErrorKind) {
        self.state().fail_write_after = Some((n, kind));
    }

    /// Files together may hold this many bytes.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.state().capacity = bytes;
    }

    /// Bytes of all files together.
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        self.state().used()
    }

    /// Successful syncs so far.
    #[must_use]
    pub fn syncs(&self) -> u64 {
        self.state().syncs
    }

    /// Syncs and writes that failed so far because they were told to.
    #[must_use]
    pub fn injected_failures(&self) -> u64 {
        self.state().injected_failures
    }

    /// Changes (writes, syncs, names) so far; what [`stop_after`](Self::stop_after) counts.
    #[must_use]
    pub fn steps(&self) -> u64 {
        self.state().steps
    }

    /// A file's bytes as the cache shows them.
    #[must_use]
    pub fn contents(&self, path: &Path) -> Option<Vec<u8>> {
        let state = self.state();
        state.names.get(path).map(|inode| state.inodes[*inode].cached.clone())
    }

    /// All files, by name.
    #[must_use]
    pub fn files(&self) -> Vec<PathBuf> {
        self.state().names.keys().cloned().collect()
    }

    /// Changes a file behind everyone's back, on the medium too: bit rot, or somebody's mistake.
    ///
    /// # Panics
    /// When there is no such file.
    pub fn damage(&self, path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
        let mut guard = self.state();
        let state = &mut *guard;
        let inode = *state.names.get(path).expect("a file to damage");
        let inode = &mut state.inodes[inode];
        change(&mut inode.cached);
        inode.durable = inode.cached.clone();
        inode.dirty.clear();
    }
}

impl State {
    fn next_life(&mut self) {
        self.life += 1;
        self.locks.clear();
        self.stop_after = None;
        self.stopped = false;
        self.fail_sync_after = None;
        self.fail_write_after = None;
    }

    fn alive(&self, life: u64) -> io::Result<()> {
        if self.stopped || life != self.life {
            return Err(io::Error::other("the simulated machine has stopped"));
        }
        Ok(())
    }

    /// Counts one change; it fails once the steps given to [`SimDisk::stop_after`] are used up.
    fn step(&mut self, life: u64) -> io::Result<()> {
        self.alive(life)?;
        if let Some(left) = &mut self.stop_after {
            if *left == 0 {
                self.stopped = true;
                return self.alive(life);
            }
            *left -= 1;
        }
        self.steps += 1;
        Ok(())
    }

    fn used(&self) -> u64 {
        let live: BTreeSet<usize> = self.names.values().copied().collect();
        live.iter().map(|inode| self.inodes[*inode].cached.len() as u64).sum()
    }

    fn grow(&mut self, inode: usize, len: usize) -> io::Result<()> {
        let old = self.inodes[inode].cached.len();
        if len <= old {
            return Ok(());
        }
        if let Some(capacity) = self.capacity
            && self.used() + (len - old) as u64 > capacity
        {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.inodes[inode].cached.resize(len, 0);
        Ok(())
    }
}

impl Inode {
    fn touch(&mut self, offset: usize, len: usize) {
        if len > 0 {
            self.dirty.extend(offset / SECTOR_BYTES..=(offset + len - 1) / SECTOR_BYTES);
        }
    }

    fn write_sector(&mut self, sector: usize) {
        let start = sector * SECTOR_BYTES;
        let end = (start + SECTOR_BYTES).min(self.cached.len());
        if start < end {
            if self.durable.len() < end {
                self.durable.resize(end, 0);
            }
            self.durable[start..end].copy_from_slice(&self.cached[start..end]);
        }
    }

    fn sync(&mut self) {
        self.durable.resize(self.cached.len(), 0);
        for sector in std::mem::take(&mut self.dirty) {
            self.write_sector(sector);
        }
    }

    fn lose_power(&mut self, dice: &mut SplitMix64) {
        let length = if dice.one_in(2) { self.cached.len() } else { self.durable.len() };
        // All, none, or a coin for each: the extremes are the likeliest to find mistakes.
        let manner = dice.below(4);
        for sector in std::mem::take(&mut self.dirty) {
            let keep = match manner {
                0 => false,
                1 => true,
                _ => dice.one_in(2),
            };
            if keep {
                self.write_sector(sector);
            }
        }
        self.durable.resize(length, 0);
        self.cached = self.durable.clone();
    }
}

#[derive(Debug)]
struct SimFile {
    disk: SimDisk,
    inode: usize,
    life: u64,
}

#[derive(Debug)]
struct SimLock {
    disk: SimDisk,
    path: PathBuf,
    life: u64,
}

impl DiskLock for SimLock {}

impl Drop for SimLock {
    fn drop(&mut self) {
        let mut state = self.disk.state();
        if state.life == self.life {
            state.locks.remove(&self.path);
        }
    }
}

impl SimDisk {
    fn handle(&self, state: &State, inode: usize) -> Arc<dyn DiskFile> {
        Arc::new(SimFile { disk: self.clone(), inode, life: state.life })
    }
}

impl Disk for SimDisk {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.state();
        let life = state.life;
        state.step(life)?;
        if state.names.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        state.inodes.push(Inode::default());
        let inode = state.inodes.len() - 1;
        state.names.insert(path.to_owned(), inode);
        Ok(self.handle(&state, inode))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let state = self.state();
        state.alive(state.life)?;
        let inode = *state.names.get(path).ok_or(io::ErrorKind::NotFound)?;
        Ok(self.handle(&state, inode))
    }

    fn open_read(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.open(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let state = self.state();
        state.alive(state.life)?;
        if !state.dirs.contains(dir) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let paths = state.names.keys().chain(&state.dirs);
        let mut names: Vec<String> = paths
            .filter(|path| path.parent() == Some(dir))
            .filter_map(|path| path.file_name())
            .map(|name| name.to_string_lossy().into_owned())
            .collect();
        names.sort_unstable();
        Ok(names)
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        let state = self.state();
        state.alive(state.life)?;
        Ok(state.names.contains_key(path) || state.dirs.contains(path))
    }

    /// Directories are durable at once: what is proven about names is proven about files'.
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.state();
        let life = state.life;
        state.step(life)?;
        state.dirs.extend(dir.ancestors().map(Path::to_owned));
        Ok(())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut guard = self.state();
        let state = &mut *guard;
        state.step(state.life)?;
        state.durable_names.retain(|path, _| path.parent() != Some(dir));
        let synced = state.names.iter().filter(|(path, _)| path.parent() == Some(dir));
        state.durable_names.extend(synced.map(|(path, inode)| (path.clone(), *inode)));
        // Whose old directory is synced, its new name is durable, too.
        for (to, inode) in &state.renames {
            if !state.durable_names.values().any(|named| named == inode) {
                state.durable_names.insert(to.clone(), *inode);
            }
        }
        state.renames.retain(|to, inode| state.durable_names.get(to) != Some(inode));
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state();
        let life = state.life;
        state.step(life)?;
        let inode = state.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
        state.names.insert(to.to_owned(), inode);
        state.renames.retain(|_, renamed| *renamed != inode);
        if state.durable_names.values().any(|named| *named == inode) {
            state.renames.insert(to.to_owned(), inode);
        }
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        let life = state.life;
        state.step(life)?;
        state.renames.remove(path);
        state.names.remove(path).map(|_| ()).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn DiskLock>>> {
        let mut state = self.state();
        state.alive(state.life)?;
        let life = state.life;
        if !state.locks.insert(path.to_owned()) {
            return Ok(None);
        }
        Ok(Some(Box::new(SimLock { disk: self.clone(), path: path.to_owned(), life })))
    }

    fn free_bytes(&self, _dir: &Path) -> io::Result<u64> {
        let state = self.state();
        Ok(state.capacity.map_or(u64::MAX, |capacity| capacity.saturating_sub(state.used())))
    }
}

impl DiskFile for SimFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        crate::no_wait::charge(buf.len())?;
        let state = self.disk.state();
        state.alive(self.life)?;
        let bytes = &state.inodes[self.inode].cached;
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
        let n = buf.len().min(bytes.len() - start);
        buf[..n].copy_from_slice(&bytes[start..start + n]);
        Ok(n)
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize> {
        let mut guard = self.disk.state();
        let state = &mut *guard;
        state.step(self.life)?;
        if let Some((left, kind)) = &mut state.fail_write_after {
            if *left == 0 {
                let kind = *kind;
                state.fail_write_after = None;
                state.injected_failures += 1;
                return Err(kind.into());
            }
            *left -= 1;
        }
        let start = offset as usize;
        state.grow(self.inode, start + buf.len())?;
        let inode = &mut state.inodes[self.inode];
        inode.cached[start..start + buf.len()].copy_from_slice(buf);
        inode.touch(start, buf.len());
        Ok(buf.len())
    }

    fn len(&self) -> io::Result<u64> {
        let state = self.disk.state();
        state.alive(self.life)?;
        Ok(state.inodes[self.inode].cached.len() as u64)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut guard = self.disk.state();
        let state = &mut *guard;
        state.step(self.life)?;
        state.grow(self.inode, len as usize)?;
        state.inodes[self.inode].cached.truncate(len as usize);
        Ok(())
    }

    fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        let mut guard = self.disk.state();
        let state = &mut *guard;
        state.step(self.life)?;
        state.grow(self.inode, (offset + len) as usize)
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut guard = self.disk.state();
        let state = &mut *guard;
        state.step(self.life)?;
        if let Some(left) = &mut state.fail_sync_after {
            if *left == 0 {
                state.fail_sync_after = None;
                state.injected_failures += 1;
                state.inodes[self.inode].dirty.clear();
                return Err(io::Error::other("simulated: the sync failed"));
            }
            *left -= 1;
        }
        state.inodes[self.inode].sync();
        state.syncs += 1;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dir() -> PathBuf {
        PathBuf::from("/d")
    }

    #[test]
    fn what_was_synced_survives_a_power_loss_and_the_rest_may_not() {
        let mut lost = 0;
        for seed in 0..64 {
            let disk = SimDisk::new();
            disk.create_dir_all(&dir()).expect("dir");
            let path = dir().join("f");
            let file = disk.create(&path).expect("create");
            file.write_all_at(&[1; 2000], 0).expect("write");
            file.sync_data().expect("sync");
            disk.sync_dir(&dir()).expect("sync dir");
            file.write_all_at(&[2; 2000], 2000).expect("write");
            disk.power_loss(&mut SplitMix64::new(seed));
            assert!(file.len().is_err(), "a handle outlived the machine");
            let bytes = disk.contents(&path).expect("the name was synced");
            assert_eq!(&bytes[..2000], &[1; 2000][..]);
            lost += usize::from(bytes.len() < 4000 || bytes[2000..].contains(&0));
        }
        assert!(lost > 10, "nothing was ever lost");
    }

    #[test]
    fn a_failed_sync_leaves_bytes_that_no_later_sync_writes() {
        let disk = SimDisk::new();
        disk.create_dir_all(&dir()).expect("dir");
        let path = dir().join("f");
        let file = disk.create(&path).expect("create");
        disk.sync_dir(&dir()).expect("sync dir");
        file.write_all_at(&[7; 512], 0).expect("write");
        disk.fail_sync_after(0);
        assert!(file.sync_data().is_err());
        file.sync_data().expect("the second says all is well");
        assert_eq!(disk.contents(&path).expect("there")[0], 7, "readable");
        disk.power_loss(&mut SplitMix64::new(1));
        assert!(disk.contents(&path).expect("there").iter().all(|byte| *byte == 0), "but gone");
    }

    #[test]
    fn names_without_a_directory_sync_may_vanish() {
        let mut vanished = 0;
        for seed in 0..32 {
            let disk = SimDisk::new();
            disk.create_dir_all(&dir()).expect("dir");
            disk.create(&dir().join("f")).expect("create");
            disk.power_loss(&mut SplitMix64::new(seed));
            vanished += usize::from(disk.files().is_empty());
        }
        assert!(vanished > 5 && vanished < 32);
    }

    #[test]
    fn a_renamed_file_keeps_one_of_its_names() {
        let (from, to) = (dir().join("f"), Path::new("/e/f"));
        for seed in 0..64 {
            let disk = SimDisk::new();
            disk.create_dir_all(&dir()).expect("dir");
            disk.create_dir_all(Path::new("/e")).expect("dir");
            disk.create(&from).expect("create");
            disk.sync_dir(&dir()).expect("sync dir");
            disk.rename(&from, to).expect("rename");
            if seed % 2 == 0 {
                disk.sync_dir(&dir()).expect("sync dir");
            }
            disk.power_loss(&mut SplitMix64::new(seed));
            assert!(!disk.files().is_empty(), "the file is gone");
            assert!(seed % 2 == 1 || disk.files() == [to]);
        }
    }

    #[test]
    fn a_full_device_says_so() {
        let disk = SimDisk::new();
        disk.create_dir_all(&dir()).expect("dir");
        let file = disk.create(&dir().join("f")).expect("create");
        disk.set_capacity(Some(1000));
        let error = file.allocate(0, 4096).expect_err("full");
        assert!(crate::disk::is_no_room(&error));
        file.allocate(0, 1000).expect("fits");
    }
}
