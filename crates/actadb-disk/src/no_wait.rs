//! Reads that do not wait for the device.
//!
//! A thread that serves many clients must not sleep for one of them; but most of what is read lies
//! in the system's cache, and to hand such a read to another thread costs more than the read.
//! So a job is run [without waiting](without_waiting) first: its reads are answered from the cache,
//! and the first one that is not there fails with `WouldBlock`. The same job is then run again
//! where waiting does no harm.

use std::cell::Cell;
use std::io;

thread_local! {
    /// Bytes that may still be read; `None` when reads may wait.
    static LEFT: Cell<Option<usize>> = const { Cell::new(None) };
}

/// Restores what was allowed before, also when the job panics.
struct Restore(Option<usize>);

impl Drop for Restore {
    fn drop(&mut self) {
        LEFT.set(self.0);
    }
}

/// Runs a job whose reads, on this thread, come out of the system's cache, `bytes` of them at most:
/// a read beyond that, or of what is not in the cache, fails with `WouldBlock`.
pub fn without_waiting<T>(bytes: usize, job: impl FnOnce() -> T) -> T {
    let _restore = Restore(LEFT.replace(Some(bytes)));
    job()
}

/// Whether this thread may wait for the device.
#[must_use]
pub fn may_wait() -> bool {
    LEFT.get().is_none()
}

/// The error of a read that would have to wait.
#[must_use]
pub fn would_wait() -> io::Error {
    io::ErrorKind::WouldBlock.into()
}

/// Takes bytes from what is left: of a read, or of what is in memory and takes its time to decode.
///
/// # Errors
/// `WouldBlock` when there is less.
pub fn charge(bytes: usize) -> io::Result<()> {
    let Some(left) = LEFT.get() else { return Ok(()) };
    LEFT.set(Some(left.checked_sub(bytes).ok_or_else(would_wait)?));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_allowed_ends_with_the_job_and_with_its_panic() {
        assert!(may_wait());
        without_waiting(10, || {
            assert!(!may_wait());
            assert!(charge(8).is_ok());
            assert_eq!(charge(3).expect_err("2 are left").kind(), io::ErrorKind::WouldBlock);
            without_waiting(100, || assert!(charge(50).is_ok()));
            assert!(charge(2).is_ok());
        });
        assert!(may_wait() && charge(usize::MAX).is_ok());
        let panicked = std::panic::catch_unwind(|| without_waiting(1, || panic!("a job")));
        assert!(panicked.is_err() && may_wait());
    }
}
