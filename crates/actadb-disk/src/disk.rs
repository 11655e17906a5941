//! The contract between the store and a device.

use std::fmt::Debug;
use std::io;
use std::path::Path;
use std::sync::Arc;

/// A file system. Paths are used as given.
pub trait Disk: Debug + Send + Sync {
    /// Makes a file that must not exist, for reading and writing. It is there after a power loss
    /// only when its directory was synced.
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;

    /// As [`create`](Self::create), a file that nobody else may read where the system knows users.
    fn create_private(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.create(path)
    }

    /// Opens a file for reading and writing.
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;

    /// Opens a file for reading.
    fn open_read(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;

    /// Names in a directory, sorted.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;

    /// Whether something has this name.
    fn exists(&self, path: &Path) -> io::Result<bool>;

    /// Makes a directory and its parents; existing ones are fine.
    fn create_dir_all(&self, dir: &Path) -> io::Result<()>;

    /// Makes the names in a directory durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;

    /// Gives a file another name, replacing what had it. Durable after
    /// [`sync_dir`](Self::sync_dir).
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file's name.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Takes an exclusive lock on a file, made if missing; `None` when another process has it.
    /// It is held until the value is dropped or the process ends.
    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn DiskLock>>>;

    /// Bytes that can still be allocated where `dir` lies.
    fn free_bytes(&self, dir: &Path) -> io::Result<u64>;
}

/// An exclusive lock, held while the value lives.
pub trait DiskLock: Debug + Send + Sync {}

/// An open file. Reads and writes may run at once from several threads.
#[expect(clippy::len_without_is_empty, reason = "nobody asks a file whether it is empty")]
pub trait DiskFile: Debug + Send + Sync {
    /// Reads up to `buf.len()` bytes; 0 at the end of the file. Fails with `WouldBlock` where
    /// the thread [must not wait](crate::no_wait) and the bytes are not in memory.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Writes up to `buf.len()` bytes into the system's cache. May be short. Not durable before
    /// [`sync_data`](Self::sync_data) succeeds.
    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize>;

    /// Length in bytes.
    fn len(&self) -> io::Result<u64>;

    /// Cuts or extends the file; what is new reads as zeros.
    fn set_len(&self, len: u64) -> io::Result<()>;

    /// Reserves space for `len` bytes from `offset`, so that writes there find room; extends the
    /// file with zeros where it is shorter.
    fn allocate(&self, offset: u64, len: u64) -> io::Result<()>;

    /// Makes data and length durable. After an error nothing may be assumed of what was written
    /// since the last success: Linux may mark the pages clean and never write them (Rebello et
    /// al., "Can Applications Recover from fsync Failures?", USENIX ATC 2020).
    fn sync_data(&self) -> io::Result<()>;
}

impl dyn DiskFile + '_ {
    /// Reads exactly `buf.len()` bytes.
    ///
    /// # Errors
    /// `UnexpectedEof` when the file ends before; what the device says otherwise.
    pub fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        match self.read_full_at(buf, offset)? {
            n if n == buf.len() => Ok(()),
            n => Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                format!("wanted {} bytes at {offset}, the file has {n}", buf.len()),
            )),
        }
    }

    /// Reads until `buf` is full or the file ends; answers the bytes read.
    ///
    /// # Errors
    /// What the device says; interrupted reads are continued.
    pub fn read_full_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut done = 0;
        while done < buf.len() {
            match self.read_at(&mut buf[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    /// Writes all of `buf`; short and interrupted writes are continued.
    ///
    /// # Errors
    /// What the device says. Part of `buf` may have been written.
    pub fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        let mut done = 0;
        while done < buf.len() {
            match self.write_at(&buf[done..], offset + done as u64) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => done += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Whether an error says that there is no space, no quota or no file handle left: the same
/// operation may succeed later.
#[must_use]
pub fn is_no_room(error: &io::Error) -> bool {
    let out_of_handles = [rustix::io::Errno::MFILE, rustix::io::Errno::NFILE];
    let handles = out_of_handles.iter().any(|e| error.raw_os_error() == Some(e.raw_os_error()));
    handles || matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
