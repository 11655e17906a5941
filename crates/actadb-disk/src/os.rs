//! The operating system's files behind [`Disk`].

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use crate::disk::{Disk, DiskFile, DiskLock};
use crate::no_wait;

/// The real thing. Linux is supported; other Unix systems compile.
#[derive(Debug, Clone, Copy, Default)]
pub struct OsDisk;

#[derive(Debug)]
struct OsFile(File);

/// The lock goes with the file.
#[derive(Debug)]
struct OsLock(#[expect(dead_code, reason = "held for its lock")] File);

impl DiskLock for OsLock {}

impl Disk for OsDisk {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(path)?;
        Ok(Arc::new(OsFile(file)))
    }

    #[cfg(unix)]
    fn create_private(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        use std::os::unix::fs::OpenOptionsExt;
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true).mode(0o600);
        Ok(Arc::new(OsFile(options.open(path)?)))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(OsFile(OpenOptions::new().read(true).write(true).open(path)?)))
    }

    fn open_read(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(OsFile(File::open(path)?)))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let mut names = fs::read_dir(dir)?
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
            .collect::<io::Result<Vec<_>>>()?;
        names.sort_unstable();
        Ok(names)
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        path.try_exists()
    }

    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        fs::create_dir_all(dir)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        File::open(dir)?.sync_all()
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn DiskLock>>> {
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Box::new(OsLock(file)))),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    fn free_bytes(&self, dir: &Path) -> io::Result<u64> {
        let stat = rustix::fs::statvfs(dir)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }
}

impl DiskFile for OsFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        if no_wait::may_wait() {
            return self.0.read_at(buf, offset);
        }
        no_wait::charge(buf.len())?;
        read_cached(&self.0, buf, offset)
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize> {
        self.0.write_at(buf, offset)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    #[cfg(target_os = "linux")]
    fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        use rustix::fs::FallocateFlags;
        loop {
            match rustix::fs::fallocate(&self.0, FallocateFlags::empty(), offset, len) {
                Err(rustix::io::Errno::INTR) => {}
                // Some file systems cannot reserve; there a write may find no space, which the
                // writer survives (it writes the same bytes again later).
                Err(rustix::io::Errno::OPNOTSUPP) => {
                    let end = offset + len;
                    return if self.len()? < end { self.set_len(end) } else { Ok(()) };
                }
                other => return other.map_err(io::Error::from),
            }
        }
    }

    #[cfg(not(target_os = "linux"))]
    fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        let end = offset + len;
        if self.len()? < end { self.set_len(end) } else { Ok(()) }
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }
}

/// Reads what the page cache holds.
#[cfg(target_os = "linux")]
fn read_cached(file: &File, buf: &mut [u8], offset: u64) -> io::Result<usize> {
    use rustix::io::{Errno, ReadWriteFlags, preadv2};
    let wanted = buf.len();
    let mut bufs = [io::IoSliceMut::new(buf)];
    match preadv2(file, &mut bufs, offset, ReadWriteFlags::NOWAIT) {
        // Some kernels of the 5 series answer so for what is not cached, too.
        Ok(0) if wanted > 0 && offset < file.metadata()?.len() => Err(no_wait::would_wait()),
        Err(Errno::INTR) => Err(io::ErrorKind::Interrupted.into()),
        // Not cached, a file system or a sandbox that knows no such reads, or a device that fails,
        // which the read that waits will tell.
        Err(_) => Err(no_wait::would_wait()),
        Ok(n) => Ok(n),
    }
}

#[cfg(not(target_os = "linux"))]
fn read_cached(_: &File, _: &mut [u8], _: u64) -> io::Result<usize> {
    Err(no_wait::would_wait())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_written_allocated_read_and_locked_once() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("f");
        let disk = OsDisk;
        let file = disk.create(&path).expect("create");
        file.allocate(0, 8192).expect("allocate");
        file.write_all_at(b"acta", 4090).expect("write");
        file.sync_data().expect("sync");
        disk.sync_dir(dir.path()).expect("sync dir");
        assert_eq!(file.len().expect("len"), 8192);
        let mut back = [0; 4];
        disk.open_read(&path).expect("open").read_exact_at(&mut back, 4090).expect("read");
        assert_eq!(&back, b"acta");
        assert!(disk.create(&path).is_err());

        let lock = disk.lock(&dir.path().join("LOCK")).expect("lock").expect("free");
        assert!(disk.lock(&dir.path().join("LOCK")).expect("lock").is_none());
        drop(lock);
        assert!(disk.lock(&dir.path().join("LOCK")).expect("lock").is_some());
    }

    #[test]
    fn without_waiting_reads_come_from_the_cache_or_not_at_all() {
        let dir = tempfile::tempdir().expect("dir");
        let file = OsDisk.create(&dir.path().join("f")).expect("create");
        let written: Vec<u8> = (0..10_000).map(|n| n as u8).collect();
        file.write_all_at(&written, 0).expect("write");
        let read = |allowed: usize, offset: u64| {
            no_wait::without_waiting(allowed, || {
                let mut buf = vec![0; 4000];
                file.read_full_at(&mut buf, offset).map(|n| buf[..n].to_vec())
            })
        };
        // Nothing promises that the cache still has it.
        for (offset, end) in [(0, 4000), (8000, 10_000), (10_000, 10_000)] {
            match read(1 << 20, offset) {
                Ok(found) => assert_eq!(found, written[offset as usize..end]),
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
            }
        }
        let refused = read(3999, 0).expect_err("more than is allowed");
        assert_eq!(refused.kind(), io::ErrorKind::WouldBlock);
    }
}
