//! How many events went where.

use std::sync::atomic::{AtomicU64, Ordering};

/// What became of the events of one recorder, since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct EventCounts {
    /// Calls to the API server that took effect: new events, and counts raised.
    pub written: u64,
    /// Dropped because the queue was full.
    pub dropped_full: u64,
    /// Dropped because this pod had more than its share.
    pub dropped_spam: u64,
    /// Dropped because the node had used up its budget for this severity.
    pub dropped_budget: u64,
    /// Given up after the API server refused them or failed repeatedly.
    pub failed: u64,
}

#[derive(Debug, Default)]
pub(super) struct Counters {
    written: AtomicU64,
    full: AtomicU64,
    spam: AtomicU64,
    budget: AtomicU64,
    failed: AtomicU64,
}

impl Counters {
    pub(super) fn written(&self) {
        self.written.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn dropped_full(&self) {
        self.full.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn dropped_spam(&self) {
        self.spam.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn dropped_budget(&self) {
        self.budget.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn failed(&self) {
        self.failed.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn snapshot(&self) -> EventCounts {
        EventCounts {
            written: self.written.load(Ordering::Relaxed),
            dropped_full: self.full.load(Ordering::Relaxed),
            dropped_spam: self.spam.load(Ordering::Relaxed),
            dropped_budget: self.budget.load(Ordering::Relaxed),
            failed: self.failed.load(Ordering::Relaxed),
        }
    }
}
