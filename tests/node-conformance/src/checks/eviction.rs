//! The eviction API, by which `kubectl drain` and autoscalers move pods.

use std::time::Duration;

use kube::api::EvictParams;

use crate::bed::Bed;
use crate::stop::Checked;
use crate::workload::{GRACE, Script};

/// An evicted pod goes.
pub async fn an_evicted_pod_goes(bed: &Bed) -> Checked {
    let pod = bed.start("evicted", &bed.workload().running("app", &Script::forever())).await?;
    bed.pods().evict("evicted", &EvictParams::default()).await?;
    bed.until_gone(&pod, Duration::from_secs(GRACE) + bed.patience()).await.map(drop)
}
