//! The conditions' heartbeats.

use jiff::{SignedDuration, Timestamp};

use super::lease::lease_of;
use crate::bed::Bed;
use crate::stop::{Checked, demand};

/// A kubelet reports an unchanged status every five minutes; it may be under way.
const OLDEST: SignedDuration = SignedDuration::from_secs(5 * 60 + 40);

/// The conditions of a kubelet are not old.
pub async fn conditions_are_fresh(bed: &Bed) -> Checked {
    let node = bed.node().await?;
    let time = |value: &serde_json::Value| value.as_str().and_then(|text| text.parse::<Timestamp>().ok());
    // Both by the node's clock, which may not be ours.
    let now = match lease_of(bed).await {
        Ok(lease) => time(&lease["spec"]["renewTime"]).unwrap_or_else(Timestamp::now),
        Err(_) => Timestamp::now(),
    };
    let kinds = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];
    let conditions = node["status"]["conditions"].as_array().map_or(&[][..], Vec::as_slice);
    let own = conditions.iter().filter(|entry| kinds.iter().any(|kind| entry["type"] == *kind));
    let mut any = false;
    for condition in own {
        any = true;
        let kind = &condition["type"];
        let age = time(&condition["lastHeartbeatTime"]).map(|beat| now.duration_since(beat));
        demand!(age.is_some(), "condition {kind} has no lastHeartbeatTime");
        demand!(age.is_some_and(|age| age < OLDEST), "the last heartbeat of condition {kind} is {age:?} old");
    }
    demand!(any, "the node has none of a kubelet's conditions");
    Ok(())
}
