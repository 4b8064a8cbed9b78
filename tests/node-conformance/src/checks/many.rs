//! Several pods at once.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::future::try_join_all;

use crate::bed::Bed;
use crate::stop::{Checked, demand};
use crate::workload::{GRACE, Script};

const PODS: usize = 20;

/// Twenty pods run at once, and go.
pub async fn twenty_pods_run_at_once(bed: &Bed) -> Checked {
    let workload = bed.workload().running("app", &Script::forever());
    let names: Vec<String> = (0..PODS).map(|number| format!("one-of-many-{number}")).collect();
    try_join_all(names.iter().map(|name| bed.create(name, &workload))).await?;
    let within = bed.patience() * 2;
    let ready =
        names.iter().map(|name| bed.until_within(name, "Running and Ready", within, crate::pod::Seen::ready));
    let pods = try_join_all(ready).await?;
    let addresses: BTreeSet<&str> = pods.iter().map(|pod| pod.text("/status/podIP")).collect();
    demand!(addresses.len() == PODS, "{PODS} pods have {} addresses", addresses.len());
    let ids: BTreeSet<String> = pods
        .iter()
        .filter_map(|pod| pod.container("app")?["containerID"].as_str().map(str::to_owned))
        .collect();
    demand!(ids.len() == PODS, "{PODS} containers have {} ids", ids.len());
    try_join_all(pods.iter().map(|pod| bed.delete(pod, None))).await?;
    let going = Duration::from_secs(GRACE) + bed.patience();
    try_join_all(pods.iter().map(|pod| bed.until_gone(pod, going))).await.map(drop)
}
