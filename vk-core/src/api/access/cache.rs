//! Answers worth remembering for a while, and never more than so many of them.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::time::Duration;

use tokio::time::Instant;

/// A map whose entries expire, and which drops its oldest entry when it is full.
#[derive(Debug)]
pub(super) struct Cache<K, V> {
    capacity: usize,
    entries: HashMap<K, Entry<V>>,
    // Insertions, oldest first. An entry that was replaced is in here twice; the older mention is told apart
    // by its time and does nothing.
    order: VecDeque<(K, Instant)>,
}

#[derive(Debug)]
struct Entry<V> {
    value: V,
    inserted: Instant,
    expires: Instant,
}

impl<K: Eq + Hash + Clone, V: Clone> Cache<K, V> {
    pub(super) fn new(capacity: usize) -> Self {
        Self { capacity, entries: HashMap::new(), order: VecDeque::new() }
    }

    /// The value, unless it has expired.
    pub(super) fn get(&self, key: &K) -> Option<V> {
        let entry = self.entries.get(key)?;
        (Instant::now() < entry.expires).then(|| entry.value.clone())
    }

    /// Remembers a value for so long.
    pub(super) fn insert(&mut self, key: K, value: V, ttl: Duration) {
        let now = Instant::now();
        self.order.push_back((key.clone(), now));
        self.entries.insert(key, Entry { value, inserted: now, expires: now + ttl });
        while self.order.len() > self.capacity {
            let Some((key, inserted)) = self.order.pop_front() else { break };
            if self.entries.get(&key).is_some_and(|entry| entry.inserted == inserted) {
                self.entries.remove(&key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_mins(1);

    #[tokio::test(start_paused = true)]
    async fn an_entry_expires() {
        let mut cache = Cache::new(4);
        cache.insert("a", 1, MINUTE);
        tokio::time::advance(Duration::from_millis(59_999)).await;
        assert_eq!(cache.get(&"a"), Some(1));
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(cache.get(&"a"), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_cache_forgets_its_oldest_entry_and_never_grows() {
        let mut cache = Cache::new(2);
        for (key, value) in [("a", 1), ("b", 2), ("c", 3)] {
            cache.insert(key, value, MINUTE);
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        assert_eq!((cache.get(&"a"), cache.get(&"b"), cache.get(&"c")), (None, Some(2), Some(3)));
        for value in 0..100 {
            cache.insert("c", value, MINUTE);
            tokio::time::advance(Duration::from_millis(1)).await;
        }
        assert_eq!(cache.get(&"c"), Some(99));
        assert!(cache.entries.len() <= 2 && cache.order.len() <= 2);
    }
}
