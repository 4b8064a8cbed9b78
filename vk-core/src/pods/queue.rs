//! A queue of keys to work on: no key twice, no key by two workers at once, and a key that was added while
//! being worked on comes again.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::hash::Hash;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

/// The queue. Holds at most one entry per key, so it is bounded by the number of keys.
#[derive(Debug)]
pub(crate) struct WorkQueue<K> {
    inner: Mutex<Inner<K>>,
    changed: Notify,
}

#[derive(Debug)]
struct Inner<K> {
    ready: VecDeque<K>,
    queued: HashSet<K>,
    active: HashMap<K, Redo>,
    later: BTreeMap<(Instant, u64), K>,
    due: HashMap<K, (Instant, u64)>,
    sequence: u64,
    closed: bool,
    /// Since when keys have been ready without one being taken.
    waiting: Option<Instant>,
}

/// What to do with a key when the pass that has it is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Redo {
    No,
    Yes,
}

impl<K: Clone + Eq + Hash> WorkQueue<K> {
    pub(crate) fn new() -> Self {
        Self {
            inner: Mutex::new(Inner {
                ready: VecDeque::new(),
                queued: HashSet::new(),
                active: HashMap::new(),
                later: BTreeMap::new(),
                due: HashMap::new(),
                sequence: 0,
                closed: false,
                waiting: None,
            }),
            changed: Notify::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner<K>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues a key now. Cancels a later date it may have.
    pub(crate) fn add(&self, key: K) {
        let mut inner = self.lock();
        inner.cancel(&key);
        inner.make_ready(key);
        drop(inner);
        self.changed.notify_one();
    }

    /// Queues a key for later. The earlier of two dates counts.
    pub(crate) fn add_after(&self, key: K, delay: Duration) {
        if delay.is_zero() {
            return self.add(key);
        }
        let at = Instant::now() + delay;
        let mut inner = self.lock();
        if inner.queued.contains(&key) || inner.due.get(&key).is_some_and(|(earlier, _)| *earlier <= at) {
            return;
        }
        inner.cancel(&key);
        inner.sequence += 1;
        let date = (at, inner.sequence);
        inner.later.insert(date, key.clone());
        inner.due.insert(key, date);
        drop(inner);
        self.changed.notify_one();
    }

    /// The next key, once there is one; `None` when the queue is closed. The key is the caller's until
    /// [`done`](Self::done). One caller at a time.
    pub(crate) async fn next(&self) -> Option<K> {
        loop {
            let wait = {
                let mut inner = self.lock();
                if inner.closed {
                    return None;
                }
                inner.promote(Instant::now());
                if let Some(key) = inner.ready.pop_front() {
                    inner.queued.remove(&key);
                    inner.active.insert(key.clone(), Redo::No);
                    inner.waiting = (!inner.ready.is_empty()).then(Instant::now);
                    return Some(key);
                }
                inner.later.first_key_value().map(|((at, _), _)| *at)
            };
            let changed = self.changed.notified();
            match wait {
                // Cancel-safe: both arms only wait; the state is read again at the top.
                Some(at) => tokio::select! {
                    () = changed => {}
                    () = tokio::time::sleep_until(at) => {}
                },
                None => changed.await,
            }
        }
    }

    /// Hands a key back.
    pub(crate) fn done(&self, key: &K) {
        let mut inner = self.lock();
        if inner.active.remove(key) == Some(Redo::Yes) {
            inner.make_ready(key.clone());
        }
        drop(inner);
        self.changed.notify_one();
    }

    /// Ends [`next`](Self::next).
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_one();
    }

    /// How many keys are ready, being worked on, and due later.
    pub(crate) fn depth(&self) -> [usize; 3] {
        let inner = self.lock();
        [inner.ready.len(), inner.active.len(), inner.later.len()]
    }

    /// For how long keys have been ready without one being taken; `None` if there is nothing to take. Later dates
    /// that have come count from when somebody looks.
    pub(crate) fn stalled(&self) -> Option<Duration> {
        let mut inner = self.lock();
        inner.promote(Instant::now());
        inner.waiting.map(|since| since.elapsed())
    }

    /// Keys ready or being worked on; later dates do not count.
    pub(crate) fn busy(&self) -> usize {
        let inner = self.lock();
        inner.ready.len() + inner.active.len()
    }
}

impl<K: Clone + Eq + Hash> Inner<K> {
    fn make_ready(&mut self, key: K) {
        if let Some(redo) = self.active.get_mut(&key) {
            *redo = Redo::Yes;
        } else if self.queued.insert(key.clone()) {
            self.ready.push_back(key);
            self.waiting.get_or_insert_with(Instant::now);
        }
    }

    fn cancel(&mut self, key: &K) {
        if let Some(date) = self.due.remove(key) {
            self.later.remove(&date);
        }
    }

    fn promote(&mut self, now: Instant) {
        while let Some(entry) = self.later.first_entry() {
            if entry.key().0 > now {
                break;
            }
            let key = entry.remove();
            self.due.remove(&key);
            self.make_ready(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secs(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_added_twice_comes_once() {
        let queue = WorkQueue::new();
        queue.add(1);
        queue.add(1);
        queue.add(2);
        assert_eq!(queue.next().await, Some(1));
        assert_eq!(queue.next().await, Some(2));
        assert_eq!(queue.busy(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_added_while_worked_on_comes_again_after_it_is_done() {
        let queue = WorkQueue::new();
        queue.add(1);
        assert_eq!(queue.next().await, Some(1));
        queue.add(1);
        assert!(tokio::time::timeout(secs(9), queue.next()).await.is_err(), "not by two workers at once");
        queue.done(&1);
        assert_eq!(queue.next().await, Some(1));
    }

    #[tokio::test(start_paused = true)]
    async fn the_earlier_of_two_dates_counts_and_now_beats_both() {
        let queue = WorkQueue::new();
        let start = Instant::now();
        queue.add_after(1, secs(60));
        queue.add_after(1, secs(5));
        queue.add_after(1, secs(90));
        assert_eq!(queue.next().await, Some(1));
        assert_eq!(start.elapsed(), secs(5));
        queue.done(&1);
        queue.add_after(1, secs(60));
        queue.add(1);
        assert_eq!(queue.next().await, Some(1));
        queue.done(&1);
        assert!(tokio::time::timeout(secs(300), queue.next()).await.is_err(), "the later date is cancelled");
    }

    #[tokio::test(start_paused = true)]
    async fn a_queue_that_nobody_takes_from_is_stalled_and_one_that_is_empty_is_not() {
        let queue = WorkQueue::new();
        tokio::time::sleep(secs(100)).await;
        assert_eq!(queue.stalled(), None);
        queue.add(1);
        queue.add(2);
        queue.add_after(3, secs(1_000));
        tokio::time::sleep(secs(10)).await;
        assert_eq!((queue.stalled(), queue.depth()), (Some(secs(10)), [2, 0, 1]));
        assert_eq!(queue.next().await, Some(1));
        assert_eq!(queue.stalled(), Some(secs(0)), "one was taken just now");
        assert_eq!(queue.next().await, Some(2));
        assert_eq!((queue.stalled(), queue.depth()), (None, [0, 2, 1]));
        tokio::time::sleep(secs(2_000)).await;
        assert_eq!(queue.stalled(), Some(secs(0)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_closed_queue_ends() {
        let queue = WorkQueue::new();
        queue.add(1);
        queue.close();
        assert_eq!(queue.next().await, None);
    }
}
