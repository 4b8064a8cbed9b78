//! Events about pods, as `kubectl describe` shows them.

use k8s_openapi::api::core::v1::Event;
use kube::api::{Api, ListParams};
use serde_json::json;

use crate::bed::Bed;
use crate::pod::Seen;
use crate::stop::Checked;
use crate::workload::{GRACE, Script};

/// Waits until there is an event with each of these reasons about a pod.
async fn told(bed: &Bed, pod: &Seen, kind: &str, reasons: &[&str]) -> Checked {
    let events: Api<Event> = bed.api();
    let of_pod = ListParams::default().fields(&format!("involvedObject.uid={}", pod.uid()));
    let complaint = format!("there are no events {} {}", kind, reasons.join(", "));
    bed.poll(&complaint, bed.patience(), async || {
        let all = events.list(&of_pod).await.map_err(|error| error.to_string())?.items;
        let fits = |event: &Event, reason: &str| {
            let source = event.source.as_ref().and_then(|source| source.host.as_deref());
            let from = source.or(event.reporting_instance.as_deref()).unwrap_or_default();
            event.reason.as_deref() == Some(reason)
                && event.type_.as_deref() == Some(kind)
                && from == bed.node_name()
        };
        if reasons.iter().all(|reason| all.iter().any(|event| fits(event, reason))) {
            return Ok(());
        }
        let seen = all.iter().map(|event| {
            let source = event.source.clone().unwrap_or_default();
            format!(
                "{} {} by {} on {:?}",
                event.type_.as_deref().unwrap_or_default(),
                event.reason.as_deref().unwrap_or_default(),
                source.component.or_else(|| event.reporting_component.clone()).unwrap_or_default(),
                source.host.or_else(|| event.reporting_instance.clone()).unwrap_or_default(),
            )
        });
        Err(format!("there are [{}]", seen.collect::<Vec<_>>().join("; ")))
    })
    .await
}

/// A start is told.
pub async fn a_start_is_told(bed: &Bed) -> Checked {
    let pod = bed.start("starts", &bed.workload().running("app", &Script::forever())).await?;
    told(bed, &pod, "Normal", &["Created", "Started"]).await
}

/// A deletion is told.
pub async fn a_deletion_is_told(bed: &Bed) -> Checked {
    let pod = bed.start("stops", &bed.workload().running("app", &Script::forever())).await?;
    bed.delete(&pod, None).await?;
    bed.until_gone(&pod, std::time::Duration::from_secs(GRACE) + bed.patience()).await?;
    told(bed, &pod, "Normal", &["Killing"]).await
}

/// A back-off is told.
pub async fn a_back_off_is_told(bed: &Bed) -> Checked {
    let workload = bed.workload().running("app", &Script::exits(1, 0)).with("restartPolicy", json!("Always"));
    let pod = bed.create("fails", &workload).await?;
    bed.until("fails", "restarted", |pod| if pod.restarts("app") > 0 { Ok(()) } else { Err(pod.in_short()) })
        .await?;
    told(bed, &pod, "Warning", &["BackOff"]).await
}
