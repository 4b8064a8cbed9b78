//! How many events may be written.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::Duration;

use tokio::time::Instant;

/// Tokens that come back at a steady rate, up to a burst.
#[derive(Clone, Debug)]
pub(crate) struct TokenBucket {
    per_second: f64,
    burst: f64,
    tokens: f64,
    at: Instant,
}

impl TokenBucket {
    /// A full bucket. No tokens ever, if the burst is zero.
    pub(crate) fn new(per_second: f64, burst: u32, now: Instant) -> Self {
        Self { per_second, burst: f64::from(burst), tokens: f64::from(burst), at: now }
    }

    fn refill(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.tokens = passed.mul_add(self.per_second, self.tokens).min(self.burst);
        self.at = now;
    }

    /// How long until there is a token; `None` if there is one.
    pub(crate) fn wait(&mut self, now: Instant) -> Option<Duration> {
        self.refill(now);
        let missing = 1.0 - self.tokens;
        // Rounded up to what a timer can tell apart: a wait that rounds to nothing would be no wait.
        let wait = || {
            let seconds = Duration::try_from_secs_f64(missing / self.per_second);
            seconds.unwrap_or(Duration::MAX).saturating_add(Duration::from_millis(1))
        };
        (missing > 0.0).then(wait)
    }

    /// Takes a token, if there is one.
    pub(crate) fn take(&mut self, now: Instant) -> bool {
        self.refill(now);
        if self.tokens < 1.0 {
            return false;
        }
        self.tokens -= 1.0;
        true
    }

    fn is_full(&self, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        passed.mul_add(self.per_second, self.tokens) >= self.burst
    }
}

/// A bucket per object, so that one noisy pod does not use up the node's budget: 25 events, then one every
/// five minutes, the figures of client-go's `EventSourceObjectSpamFilter`.
#[derive(Debug)]
pub(super) struct SpamFilter<K> {
    buckets: HashMap<K, TokenBucket>,
}

const SPAM_BURST: u32 = 25;
const SPAM_PER_SECOND: f64 = 1.0 / 300.0;
/// Objects remembered. Beyond it the buckets that are full again are forgotten, and if there are none all are.
const SPAM_OBJECTS: usize = 8192;

impl<K: Hash + Eq> SpamFilter<K> {
    pub(super) fn new() -> Self {
        Self { buckets: HashMap::new() }
    }

    /// Whether an event about this object may pass.
    pub(super) fn admit(&mut self, object: K, now: Instant) -> bool {
        if self.buckets.len() >= SPAM_OBJECTS && !self.buckets.contains_key(&object) {
            self.buckets.retain(|_, bucket| !bucket.is_full(now));
            if self.buckets.len() >= SPAM_OBJECTS {
                self.buckets.clear();
            }
        }
        self.buckets
            .entry(object)
            .or_insert_with(|| TokenBucket::new(SPAM_PER_SECOND, SPAM_BURST, now))
            .take(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_bucket_gives_its_burst_and_then_its_rate() {
        let start = Instant::now();
        let mut bucket = TokenBucket::new(2.0, 5, start);
        assert_eq!((0..10).filter(|_| bucket.take(start)).count(), 5);
        assert_eq!(bucket.wait(start), Some(Duration::from_millis(501)));
        let later = start + Duration::from_secs(1);
        assert_eq!(bucket.wait(later), None);
        assert_eq!((0..10).filter(|_| bucket.take(later)).count(), 2);
        let long_after = start + Duration::from_hours(1);
        assert_eq!((0..10).filter(|_| bucket.take(long_after)).count(), 5);
    }

    #[tokio::test(start_paused = true)]
    async fn an_empty_bucket_without_rate_never_gives() {
        let mut bucket = TokenBucket::new(0.0, 0, Instant::now());
        assert!(!bucket.take(Instant::now() + Duration::from_hours(9)));
    }

    #[tokio::test(start_paused = true)]
    async fn one_noisy_object_leaves_the_others_their_share() {
        let now = Instant::now();
        let mut filter = SpamFilter::new();
        assert_eq!((0..100).filter(|_| filter.admit("noisy", now)).count(), 25);
        assert!(filter.admit("quiet", now));
        assert!(filter.admit("noisy", now + Duration::from_mins(5)));
        assert!(!filter.admit("noisy", now + Duration::from_mins(5)));
    }

    #[tokio::test(start_paused = true)]
    async fn the_filter_forgets_before_it_grows_without_bound() {
        let now = Instant::now();
        let mut filter = SpamFilter::new();
        for object in 0..3 * SPAM_OBJECTS {
            assert!(filter.admit(object, now));
        }
        assert!(filter.buckets.len() <= SPAM_OBJECTS);
    }
}
