//! Waiting for one number, never for events.
//!
//! A reader that has read everything hangs a bell where news may come from: at a bucket, at a
//! partition, or at a stream. The writer's actor rings it after a commit is visible. A bell is a
//! number that only grows: look at it, read, and wait until it is another. So no commit between the
//! read and the wait is missed, and 10,000 idle readers of other streams are not woken.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use actadb_model::ids::PartitionId;
use tokio::sync::Notify;

/// One reader's number. It has one waiter.
#[derive(Debug, Default)]
pub(crate) struct Bell {
    rung: AtomicU64,
    notify: Notify,
}

impl Bell {
    /// The number: look at it before reading.
    pub(crate) fn number(&self) -> u64 {
        self.rung.load(Ordering::Acquire)
    }

    fn ring(&self) {
        self.rung.fetch_add(1, Ordering::Release);
        self.notify.notify_one();
    }

    /// Waits until the number is another.
    pub(crate) async fn moved_from(&self, seen: u64) {
        // A ring leaves a permit for the waiter to come, so none is lost between the look and the
        // wait; an old permit costs one more look.
        while self.number() == seen {
            self.notify.notified().await;
        }
    }
}

/// Where news may come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// Any partition of the bucket.
    Bucket,
    /// A partition.
    Partition(PartitionId),
    /// A stream of a partition, by its hash: another one with the same hash rings, too.
    Stream(PartitionId, u64),
}

/// The bells of one bucket.
#[derive(Debug, Default)]
pub(crate) struct Bells(Mutex<Hung>);

#[derive(Debug, Default)]
struct Hung {
    bucket: Vec<Arc<Bell>>,
    partitions: HashMap<PartitionId, Vec<Arc<Bell>>>,
    streams: HashMap<(PartitionId, u64), Vec<Arc<Bell>>>,
}

/// A bell at its places; it is taken down when this is dropped.
#[derive(Debug)]
pub(crate) struct HungBell {
    bells: Arc<Bells>,
    places: Vec<Place>,
    bell: Arc<Bell>,
}

impl Bells {
    fn lock(&self) -> MutexGuard<'_, Hung> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hangs a bell at places of this bucket.
    pub(crate) fn hang(self: &Arc<Self>, bell: &Arc<Bell>, places: Vec<Place>) -> HungBell {
        let mut hung = self.lock();
        for place in &places {
            match place {
                Place::Bucket => hung.bucket.push(bell.clone()),
                Place::Partition(p) => hung.partitions.entry(*p).or_default().push(bell.clone()),
                Place::Stream(p, hash) => {
                    hung.streams.entry((*p, *hash)).or_default().push(bell.clone());
                }
            }
        }
        drop(hung);
        HungBell { bells: self.clone(), places, bell: bell.clone() }
    }

    /// Rings wherever something new can be read.
    pub(crate) fn ring(&self, partitions: &[PartitionId], streams: &[(PartitionId, u64)]) {
        let hung = self.lock();
        if !partitions.is_empty() {
            hung.bucket.iter().for_each(|bell| bell.ring());
        }
        if !hung.partitions.is_empty() {
            ring_at(&hung.partitions, partitions);
        }
        if !hung.streams.is_empty() {
            ring_at(&hung.streams, streams);
        }
    }
}

fn ring_at<K: Eq + Hash>(hung: &HashMap<K, Vec<Arc<Bell>>>, places: &[K]) {
    for bell in places.iter().filter_map(|place| hung.get(place)).flatten() {
        bell.ring();
    }
}

fn take_down<K: Eq + Hash>(
    hung: &mut HashMap<K, Vec<Arc<Bell>>>,
    place: K,
    mut gone: impl FnMut(&mut Vec<Arc<Bell>>),
) {
    if let Some(bells) = hung.get_mut(&place) {
        gone(bells);
        if bells.is_empty() {
            hung.remove(&place);
        }
    }
}

impl Drop for HungBell {
    fn drop(&mut self) {
        let mut hung = self.bells.lock();
        let gone = |bells: &mut Vec<Arc<Bell>>| {
            if let Some(at) = bells.iter().position(|bell| Arc::ptr_eq(bell, &self.bell)) {
                bells.swap_remove(at);
            }
        };
        for place in &self.places {
            match place {
                Place::Bucket => gone(&mut hung.bucket),
                Place::Partition(p) => take_down(&mut hung.partitions, *p, gone),
                Place::Stream(p, hash) => take_down(&mut hung.streams, (*p, *hash), gone),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const P: PartitionId = PartitionId(3);

    #[tokio::test]
    async fn a_ring_between_the_look_and_the_wait_is_not_lost() {
        let (bells, bell) = (Arc::new(Bells::default()), Arc::new(Bell::default()));
        let hung = bells.hang(&bell, vec![Place::Stream(P, 7), Place::Partition(PartitionId(1))]);
        let seen = bell.number();
        bells.ring(&[P], &[(P, 8)]);
        assert_eq!(bell.number(), seen, "another stream");
        bells.ring(&[P], &[(P, 7)]);
        bell.moved_from(seen).await;
        let seen = bell.number();
        bells.ring(&[PartitionId(1)], &[]);
        bell.moved_from(seen).await;
        drop(hung);
        let seen = bell.number();
        bells.ring(&[P, PartitionId(1)], &[(P, 7)]);
        assert_eq!(bell.number(), seen, "it is taken down");
        let hung = bells.lock();
        assert!(hung.streams.is_empty() && hung.partitions.is_empty());
    }
}
