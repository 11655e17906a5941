//! Which piece of disk work comes next, and what follows from its end.

use actadb_model::entry::{Entry, Room};
use actadb_model::limits::{
    ENTRY_TARGET_BYTES, NO_ROOM_RETRY_NS, SLOT_SAVE_BYTES, SLOT_SAVE_IDLE_NS,
};
use actadb_model::time::Now;

use crate::admission::Next;
use crate::core::{Busy, ReplicaCore};
use crate::message::{FsyncMode, Output, SlotValues, Work};
use crate::plan::Step;
use crate::room::Fit;

impl ReplicaCore {
    /// Starts the next piece of work. Answers whether consensus was asked for something instead,
    /// which may make other work.
    pub(crate) fn work(&mut self, now: Now, gathers: bool, out: &mut Vec<Output>) -> bool {
        if let Busy::Blocked { until } = self.busy {
            if now.mono_ns >= until {
                self.busy = Busy::Idle;
                self.do_planned(out, now);
            }
        } else if self.sync_is_due(now) {
            self.busy = Busy::Syncing;
            out.push(Output::Work(Work::Sync));
        // Both before the next entry: under a load that never pauses they would never come.
        } else if let Some(body_bytes) = self.allocation_ahead(now) {
            self.allocate(body_bytes, out);
        } else if self.save_is_due(now, false) {
            self.save_synced(out);
        } else {
            let planned = self.has_planned_work();
            if planned {
                self.do_planned(out, now);
            } else if gathers && self.begin_entry(now, out) {
                return true;
            }
            if matches!(self.busy, Busy::Idle) && self.save_is_due(now, true) {
                self.save_synced(out);
            }
        }
        false
    }

    /// Whether the plan's next step is to be done. A replica that votes alone saves its vote and
    /// writes the first entry of its term together with the first entry that says something: a
    /// database that nobody writes to is not written to.
    pub(crate) fn has_planned_work(&self) -> bool {
        let may_rest = self.consensus.is_alone() && self.plan.is_idle_talk();
        !self.plan.is_empty() && !may_rest
    }

    pub(crate) fn do_planned(&mut self, out: &mut Vec<Output>, now: Now) {
        match self.plan.front() {
            Some(Step::Vote { term, vote }) => {
                let synced_index = self.settled();
                let values = SlotValues { term: *term, vote: *vote, synced_index, ..self.saved };
                self.save(values, true, out);
            }
            Some(Step::Truncate(after)) => {
                let after = *after;
                let shown = self.saved.synced_index.max(self.consensus.applied());
                assert!(after >= shown, "a cut behind {after}, where {shown} was committed");
                self.busy = Busy::Truncating { after };
                out.push(Output::Work(Work::Truncate { after }));
            }
            Some(Step::Write(_)) => self.write_planned(now, out),
            Some(Step::Report { .. }) | None => {}
        }
    }

    /// Writes the entries that stand next in the plan, as many as there is room for.
    pub(crate) fn write_planned(&mut self, now: Now, out: &mut Vec<Output>) {
        let Some(first) = self.plan.run().next() else { return };
        let body_bytes = first.body.len() as u64;
        match self.room.fit(now, body_bytes) {
            Fit::Now => {}
            Fit::Allocate => {
                self.allocate(body_bytes, out);
                return;
            }
            // It is in the group's log: it waits as long as it must.
            Fit::AwaitSeal | Fit::Refuse => return,
        }
        let entries = self.run_that_fits();
        let Some(last) = entries.last().map(|last| last.index) else { return };
        let proven = entries.iter().map(self.format.durable).max().unwrap_or(0);
        if proven > self.synced && self.saved.bulk_through < last {
            // Some of these say that others are durable, which here they are not before the sync.
            // Nothing up to there proves anything any more but the slot itself.
            let synced_index = self.settled();
            let values = SlotValues { synced_index, bulk_through: last, ..self.saved };
            self.save(values, false, out);
            return;
        }
        let sync = self.fsync == FsyncMode::Always;
        let settled = self.consensus.settled();
        out.push(Output::Work(Work::Write { entries, sync, settled }));
        self.busy = Busy::Writing { last, sync };
    }

    /// The next entries of the plan that lie in one segment and have room there, at least one. The
    /// first may begin a segment; what room there is behind it is known when it is written.
    fn run_that_fits(&self) -> Vec<Entry> {
        let room = self.room.room();
        let mut entries: Vec<Entry> = Vec::new();
        let mut bytes = 0;
        for entry in self.plan.run() {
            let end = bytes + entry.body.len() as u64;
            let fits = end <= room.allocated.min(room.segment) && end <= ENTRY_TARGET_BYTES as u64;
            if !entries.is_empty() && !fits {
                break;
            }
            entries.push(entry.clone());
            bytes = match fits {
                true => bytes + (self.format.frame_bytes)(entry.body.len() as u64),
                false => u64::MAX / 2,
            };
        }
        entries
    }

    pub(crate) fn sync_is_due(&self, now: Now) -> bool {
        if self.written == self.synced {
            return false;
        }
        let interval = match self.fsync {
            FsyncMode::Interval(ns) => now.mono_ns >= self.last_sync_ns + ns,
            FsyncMode::Always | FsyncMode::Never => false,
        };
        let wanted = self.durable_wanted.min(self.written) > self.synced;
        interval || wanted || (self.stopping.is_some() && self.admission.is_empty())
    }

    /// `idle`: nothing else is to be done.
    pub(crate) fn save_is_due(&self, now: Now, idle: bool) -> bool {
        let stopping = self.stopping.is_some();
        let at_rest = stopping || now.mono_ns >= self.last_write_ns + SLOT_SAVE_IDLE_NS;
        let due = self.save_wanted || self.bytes_since_save >= SLOT_SAVE_BYTES;
        self.settled() > self.saved.synced_index && (due || (idle && at_rest))
    }

    pub(crate) fn save_synced(&mut self, out: &mut Vec<Output>) {
        self.save_wanted = false;
        self.bytes_since_save = 0;
        let values = SlotValues { synced_index: self.settled(), ..self.saved };
        self.save(values, false, out);
    }

    pub(crate) fn save(&mut self, values: SlotValues, planned: bool, out: &mut Vec<Output>) {
        self.busy = Busy::Saving { values, planned };
        out.push(Output::Work(Work::SaveSlot(values)));
    }

    pub(crate) fn slot_saved(&mut self) {
        if let Busy::Saving { values, planned } = self.busy {
            self.saved = values;
            if planned {
                self.plan.pop();
            }
        }
        self.busy = Busy::Idle;
    }

    pub(crate) fn slot_not_saved(&mut self, now: Now, out: &mut Vec<Output>) {
        let needed = match self.busy {
            Busy::Saving { values, planned } => {
                planned || values.bulk_through != self.saved.bulk_through
            }
            _ => false,
        };
        self.busy = Busy::Idle;
        self.last_write_ns = now.mono_ns;
        if self.stopping.is_some() && self.admission.is_empty() {
            // The next start does a little more work; that is all a synced index is for.
            self.stopped(out);
        } else if needed {
            self.busy = Busy::Blocked { until: now.mono_ns + NO_ROOM_RETRY_NS };
        }
    }

    pub(crate) fn truncated(&mut self, room: Room, reopened: usize) {
        if let Busy::Truncating { after } = self.busy {
            self.written = after;
            self.synced = self.synced.min(after);
            // What is cut off was never shown.
            self.serves_from = self.serves_from.min(after);
            self.plan.pop();
        }
        self.room.set(room);
        self.room.reopened(reopened);
        self.busy = Busy::Idle;
    }

    /// A retry of an allocation that failed, or one made before it is needed, so that no entry
    /// waits for it.
    pub(crate) fn allocation_ahead(&self, now: Now) -> Option<u64> {
        if let Some(body_bytes) = self.room.retry(now) {
            return Some(body_bytes);
        }
        let reserve = (ENTRY_TARGET_BYTES as u64).min(self.format.max_body_bytes);
        let used = self.written > 0 && self.stopping.is_none();
        (used && self.room.fit(now, reserve) == Fit::Allocate).then_some(reserve)
    }

    pub(crate) fn allocate(&mut self, body_bytes: u64, out: &mut Vec<Output>) {
        self.busy = Busy::Allocating { body_bytes };
        out.push(Output::Work(Work::Allocate { body_bytes }));
    }

    /// Closes the queue's front into an entry and proposes it, if there is room for it.
    pub(crate) fn begin_entry(&mut self, now: Now, out: &mut Vec<Output>) -> bool {
        if self.admission.is_empty() || !self.consensus.takes_proposals() {
            return false;
        }
        // Entries without content that were not worth a write of their own go with this one.
        let frames = self.plan.entries().map(|e| (self.format.frame_bytes)(e.body.len() as u64));
        let head = frames.sum::<u64>() + self.format.batch_head_bytes;
        let room = self.room;
        let fit = |body_bytes| room.fit(now, body_bytes);
        match self.admission.next(head, ENTRY_TARGET_BYTES as u64, fit) {
            Next::Take(count) => {
                self.propose(now, count);
                true
            }
            Next::Allocate(body_bytes) => {
                self.allocate(body_bytes, out);
                false
            }
            Next::Wait => false,
            Next::Refuse => {
                self.refuse(|size| fit(head + size) == Fit::Refuse, out);
                self.begin_entry(now, out)
            }
        }
    }

    pub(crate) fn written_through(
        &mut self,
        now: Now,
        index: u64,
        synced_through: u64,
        filled: bool,
    ) {
        let Busy::Writing { last, sync } = std::mem::replace(&mut self.busy, Busy::Idle) else {
            panic!("a write ended that was not begun");
        };
        assert!(self.written < index && index <= last, "entries were written that nobody sent");
        let run = self.plan.run().filter(|entry| entry.index <= index);
        self.bytes_since_save += run.map(|entry| entry.body.len() as u64).sum::<u64>();
        self.last_write_ns = now.mono_ns;
        if self.written == self.synced {
            // The interval runs from the first write that is not synced.
            self.last_sync_ns = now.mono_ns;
        }
        self.written = index;
        self.synced = self.synced.max(synced_through);
        if filled {
            self.room.full_segments += 1;
            self.save_wanted = true;
        }
        assert!(!sync || self.synced == index, "a synced write is synced");
    }
}
