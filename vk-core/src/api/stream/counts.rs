//! How many sessions there are: what metrics show, and what returns to zero.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Sessions under way at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct StreamCounts {
    /// Commands that run.
    pub exec: usize,
    /// Clients attached.
    pub attach: usize,
    /// Clients that forward ports.
    pub port_forward: usize,
    /// Connections that they forward.
    pub forwarded_connections: usize,
}

/// Counts what is under way.
#[derive(Clone, Debug, Default)]
pub(super) struct Gauge(Arc<AtomicUsize>);

/// Counted until it is dropped.
#[derive(Debug)]
pub(super) struct Counted(Gauge);

impl Gauge {
    pub(super) fn enter(&self) -> Counted {
        self.0.fetch_add(1, Ordering::Relaxed);
        Counted(self.clone())
    }

    pub(super) fn now(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}
