//! The files of one bucket, for the writer thread: its log and its slots.

use std::path::PathBuf;

use actadb_log::error::LogError;
use actadb_log::format::LogIdentity;
use actadb_log::scan::Tip;
use actadb_log::slots::{Known, SlotState, Slots};
use actadb_log::truncate::Truncated;
use actadb_log::writer::{LogWriter, Written};
use actadb_model::entry::{Entry, Room};

/// Writes one bucket's log and slots. Blocking.
#[derive(Debug)]
pub struct BucketWriter {
    log: LogWriter,
    slots: Slots,
}

impl BucketWriter {
    pub(crate) fn new(log: LogWriter, slots: Slots) -> Self {
        Self { log, slots }
    }

    /// Whose log it is.
    #[must_use]
    pub fn identity(&self) -> LogIdentity {
        self.log.settings().identity
    }

    /// The last entry written.
    #[must_use]
    pub fn tip(&self) -> Tip {
        self.log.tip()
    }

    /// What can be written without allocating.
    #[must_use]
    pub fn room(&self) -> Room {
        self.log.room()
    }

    /// The file of the slots.
    pub(crate) fn slots_path(&self) -> PathBuf {
        Slots::path(&self.log.settings().dir)
    }

    /// What the slots hold.
    #[must_use]
    pub fn slot_state(&self) -> &SlotState {
        self.slots.state()
    }

    /// See [`LogWriter::make_room`].
    ///
    /// # Errors
    /// As there.
    pub fn make_room(&mut self, body_bytes: u64) -> Result<Room, LogError> {
        self.log.make_room(body_bytes)?;
        Ok(self.log.room())
    }

    /// See [`LogWriter::write`].
    ///
    /// # Errors
    /// As there.
    pub fn write(&mut self, entry: &Entry) -> Result<Written, LogError> {
        self.log.write(entry)
    }

    /// See [`LogWriter::sync`].
    ///
    /// # Errors
    /// As there.
    pub fn sync(&mut self) -> Result<(), LogError> {
        self.log.sync()
    }

    /// See [`LogWriter::settle`].
    pub fn settle(&mut self, index: u64) {
        self.log.settle(index);
    }

    /// See [`LogWriter::truncate`].
    ///
    /// # Errors
    /// As there.
    pub fn truncate(&mut self, after: u64) -> Result<Truncated, LogError> {
        self.log.truncate(after)
    }

    /// Saves what changes while a bucket is open.
    ///
    /// # Errors
    /// What the device says.
    pub fn save(&mut self, term: u64, vote: u64, known: Known) -> Result<(), LogError> {
        let Known { synced_index, bulk_through } = known;
        let kept = self.slots.state().clone();
        self.slots.save(SlotState { term, vote, synced_index, bulk_through, ..kept })
    }
}
