//! What a node cannot run.

use serde_json::json;

use super::registration::amount_of;
use crate::bed::Bed;
use crate::stop::{Checked, Stop, demand};
use crate::workload::Script;

/// A pod beyond the node is failed, with a reason.
///
/// It is bound to the node past the scheduler, and asks for twice the processors that the node says it has.
pub async fn what_it_cannot_run_is_failed_aloud(bed: &Bed) -> Checked {
    let node = bed.node().await?;
    let has = amount_of(node["status"]["allocatable"]["cpu"].as_str().unwrap_or_default());
    let Some(has) = has else {
        return Err(Stop::not_applicable("the node does not say how many processors it has"));
    };
    let asks = (has * 2.0).ceil() + 1.0;
    let script = Script::forever()
        .with("resources", json!({"requests": {"cpu": format!("{asks:.0}"), "memory": "16Mi"}}));
    bed.create("too-large", &bed.workload().running("app", &script)).await?;
    let pod = bed
        .until("too-large", "refused", |pod| {
            if pod.is_terminal() || pod.phase() == "Running" { Ok(()) } else { Err(pod.in_short()) }
        })
        .await?;
    demand!(
        pod.phase() == "Failed",
        "a node with {has} processors took a pod that asks for {asks}: {}",
        pod.in_short()
    );
    demand!(!pod.reason().is_empty(), "the refused pod has no status.reason");
    demand!(!pod.text("/status/message").is_empty(), "the refused pod has no status.message");
    Ok(())
}
