//! Probes that were run, by container: what `/metrics/probes` shows.
//!
//! The one place where labels hold pods, as a kubelet's do; a pod's figures go with the pod.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::containers::ProbeKind;
use crate::provider::{ContainerRef, PodUid};

/// Upper ends of the histogram's buckets, in seconds; the last one is open.
pub(crate) const BUCKETS: [f64; 11] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// Counts of probes. Clones count together.
#[derive(Clone, Debug, Default)]
pub(crate) struct ProbeCounts(Arc<Mutex<Counts>>);

type Counts = BTreeMap<(ContainerRef, ProbeKind), ProbeCount>;

/// The runs of one probe of one container.
#[derive(Clone, Debug, Default)]
pub(crate) struct ProbeCount {
    /// How often, by result.
    pub(crate) results: BTreeMap<&'static str, u64>,
    /// How many took no longer than each of [`BUCKETS`].
    pub(crate) buckets: [u64; BUCKETS.len()],
    /// How long all of them took.
    pub(crate) took: Duration,
}

impl ProbeCount {
    /// How many there were.
    pub(crate) fn total(&self) -> u64 {
        self.results.values().sum()
    }
}

impl ProbeCounts {
    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A probe was run.
    pub(crate) fn count(
        &self,
        container: ContainerRef,
        kind: ProbeKind,
        result: &'static str,
        took: Duration,
    ) {
        let mut counts = self.lock();
        let count = counts.entry((container, kind)).or_default();
        *count.results.entry(result).or_default() += 1;
        count.took += took;
        for (bucket, end) in count.buckets.iter_mut().zip(BUCKETS) {
            *bucket += u64::from(took.as_secs_f64() <= end);
        }
    }

    /// The pod is gone, and nobody asks for its figures any more.
    pub(crate) fn forget(&self, pod: &PodUid) {
        self.lock().retain(|(container, _), _| container.pod.uid != *pod);
    }

    /// All there are.
    pub(crate) fn all(&self) -> Counts {
        self.lock().clone()
    }
}
