//! Virtual time: what happens when. Nothing waits; the clock jumps to the next event.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use actadb_model::time::Now;

/// Where the wall clock stands when a world begins, in nanoseconds since 1970.
const UNIX_START_NS: u64 = 1_700_000_000_000_000_000;

/// Events in the order of their time; of the same time in the order they were put in.
#[derive(Debug)]
pub struct Schedule<E> {
    now_ns: u64,
    /// How far the wall clock has jumped.
    jumped_ns: i64,
    next: u64,
    events: BinaryHeap<Reverse<Due<E>>>,
}

#[derive(Debug)]
struct Due<E> {
    at_ns: u64,
    order: u64,
    event: E,
}

impl<E> PartialEq for Due<E> {
    fn eq(&self, other: &Self) -> bool {
        self.order == other.order
    }
}

impl<E> Eq for Due<E> {}

impl<E> PartialOrd for Due<E> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<E> Ord for Due<E> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at_ns, self.order).cmp(&(other.at_ns, other.order))
    }
}

impl<E> Default for Schedule<E> {
    fn default() -> Self {
        Self { now_ns: 1, jumped_ns: 0, next: 0, events: BinaryHeap::new() }
    }
}

impl<E> Schedule<E> {
    /// Nanoseconds since the world began.
    #[must_use]
    pub fn now_ns(&self) -> u64 {
        self.now_ns
    }

    /// Both clocks, as the cores are told.
    #[must_use]
    pub fn now(&self) -> Now {
        let unix_ns = (UNIX_START_NS + self.now_ns).saturating_add_signed(self.jumped_ns);
        Now { mono_ns: self.now_ns, unix_ns }
    }

    /// Lets the wall clock jump.
    pub fn jump(&mut self, ns: i64) {
        self.jumped_ns += ns;
    }

    /// Puts an event at a time; one that has passed is now.
    pub fn at(&mut self, at_ns: u64, event: E) {
        self.events.push(Reverse(Due { at_ns: at_ns.max(self.now_ns), order: self.next, event }));
        self.next += 1;
    }

    /// Puts an event so many nanoseconds from now.
    pub fn after(&mut self, ns: u64, event: E) {
        self.at(self.now_ns + ns, event);
    }

    /// Takes the next event and goes to its time.
    pub fn pop(&mut self) -> Option<E> {
        let Reverse(due) = self.events.pop()?;
        self.now_ns = due.at_ns;
        Some(due.event)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_by_time_and_then_by_order() {
        let mut schedule = Schedule::default();
        schedule.after(20, 'c');
        schedule.after(10, 'a');
        schedule.after(10, 'b');
        assert_eq!([schedule.pop(), schedule.pop()], [Some('a'), Some('b')]);
        schedule.at(3, 'd');
        assert_eq!([schedule.pop(), schedule.pop(), schedule.pop()], [Some('d'), Some('c'), None]);
        assert_eq!(schedule.now_ns(), 21);
    }
}
