//! Files that are read, open while they are used, and no more of them than a limit.
//!
//! A database grows by files, and a process may have 1,024 of them open by default.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use quick_cache::sync::Cache;

use crate::disk::{Disk, DiskFile};
use crate::no_wait;

/// Open files, the ones used least closed first. Clones share them.
#[derive(Clone)]
pub struct Handles(Arc<Inner>);

struct Inner {
    disk: Arc<dyn Disk>,
    open: Cache<u64, Arc<dyn DiskFile>>,
    names: AtomicU64,
}

/// A file that is opened for reading when it is asked for. It must not be replaced meanwhile: who
/// puts another file there makes another handle.
#[derive(Clone, Debug)]
pub struct Handle {
    handles: Handles,
    /// Not the path: another file may have had it.
    name: u64,
    path: PathBuf,
}

impl Handles {
    /// No open file yet, and never more than `limit` kept open, at least one.
    #[must_use]
    pub fn new(disk: Arc<dyn Disk>, limit: usize) -> Self {
        let (open, names) = (Cache::new(limit.max(1)), AtomicU64::new(0));
        Self(Arc::new(Inner { disk, open, names }))
    }

    /// A file that is there or will be when it is read.
    #[must_use]
    pub fn handle(&self, path: &Path) -> Handle {
        let name = self.0.names.fetch_add(1, Ordering::Relaxed);
        Handle { handles: self.clone(), name, path: path.to_owned() }
    }

    /// How many files are kept open.
    #[must_use]
    pub fn open_files(&self) -> usize {
        self.0.open.len()
    }
}

impl Handle {
    /// The open file.
    ///
    /// # Errors
    /// What the device says; `WouldBlock` when it is not open and the thread
    /// [must not wait](no_wait).
    pub fn file(&self) -> io::Result<Arc<dyn DiskFile>> {
        let Inner { disk, open, .. } = &*self.handles.0;
        if let Some(file) = open.get(&self.name) {
            return Ok(file);
        }
        if !no_wait::may_wait() {
            return Err(no_wait::would_wait());
        }
        let file = disk.open_read(&self.path)?;
        open.insert(self.name, file.clone());
        Ok(file)
    }
}

impl fmt::Debug for Handles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Handles({} open)", self.open_files())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::SimDisk;

    #[test]
    fn many_files_are_read_and_few_are_open() {
        let disk = SimDisk::new();
        disk.create_dir_all(Path::new("/d")).expect("dir");
        let handles = Handles::new(Arc::new(disk.clone()), 4);
        let files: Vec<Handle> = (0..50_u8)
            .map(|n| {
                let path = PathBuf::from(format!("/d/{n}"));
                disk.create(&path).and_then(|f| f.write_all_at(&[n], 0)).expect("write");
                handles.handle(&path)
            })
            .collect();
        for _ in 0..2 {
            for (n, handle) in files.iter().enumerate() {
                let mut byte = [0];
                handle.file().and_then(|f| f.read_exact_at(&mut byte, 0)).expect("read");
                assert_eq!(usize::from(byte[0]), n);
                assert!(handles.open_files() <= 4);
            }
        }
    }

    #[test]
    fn another_file_of_the_same_name_is_another_handle() {
        let disk = SimDisk::new();
        disk.create_dir_all(Path::new("/d")).expect("dir");
        let handles = Handles::new(Arc::new(disk.clone()), 4);
        let path = Path::new("/d/f");
        let byte = |handle: &Handle| {
            let mut byte = [0];
            handle.file().and_then(|f| f.read_exact_at(&mut byte, 0)).expect("read");
            byte[0]
        };
        disk.create(path).and_then(|f| f.write_all_at(&[1], 0)).expect("write");
        let first = handles.handle(path);
        assert_eq!(byte(&first), 1);
        disk.remove(path).expect("remove");
        disk.create(path).and_then(|f| f.write_all_at(&[2], 0)).expect("write");
        assert_eq!(byte(&handles.handle(path)), 2);
    }

    #[test]
    fn without_waiting_no_file_is_opened() {
        let disk = SimDisk::new();
        disk.create_dir_all(Path::new("/d")).expect("dir");
        disk.create(Path::new("/d/f")).expect("create");
        let handle = Handles::new(Arc::new(disk), 4).handle(Path::new("/d/f"));
        let open = || no_wait::without_waiting(100, || handle.file().map(|_| ()));
        assert_eq!(open().expect_err("not open").kind(), io::ErrorKind::WouldBlock);
        handle.file().expect("opened where it may wait");
        open().expect("open now");
    }
}
