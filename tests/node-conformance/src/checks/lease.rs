//! The node's lease.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use kube::api::Api;
use serde_json::Value;

use crate::bed::Bed;
use crate::stop::{Checked, Stop, demand};

/// Where leases of nodes are.
const NAMESPACE: &str = "kube-node-lease";
/// A longer lease is not waited for.
const LONGEST: i64 = 100;

/// The node's lease, if it has one.
pub(super) async fn lease_of(bed: &Bed) -> Checked<Value> {
    let leases: Api<Lease> = Api::namespaced(bed.client().clone(), NAMESPACE);
    match leases.get_opt(bed.node_name()).await? {
        Some(lease) => {
            serde_json::to_value(lease).map_err(|error| Stop::failed(format!("the lease: {error}")))
        }
        None => Err(Stop::failed(format!("there is no Lease {NAMESPACE}/{}", bed.node_name()))),
    }
}

/// The lease has a holder, and goes with the Node.
pub async fn the_lease_is_the_nodes(bed: &Bed) -> Checked {
    let (node, lease) = (bed.node().await?, lease_of(bed).await?);
    let holder = lease["spec"]["holderIdentity"].as_str().unwrap_or_default();
    demand!(holder == bed.node_name(), "the lease's holder is {holder:?}, not the node's name");
    let owners = lease["metadata"]["ownerReferences"].as_array().map_or(&[][..], Vec::as_slice);
    let owned = owners.iter().any(|owner| owner["kind"] == "Node" && owner["uid"] == node["metadata"]["uid"]);
    demand!(owned, "the lease is not owned by the Node of this UID, and would outlive it");
    Ok(())
}

/// The lease is renewed before it runs out.
pub async fn the_lease_is_renewed_in_time(bed: &Bed) -> Checked {
    let first = lease_of(bed).await?;
    let seconds = first["spec"]["leaseDurationSeconds"].as_i64().unwrap_or(0);
    demand!(seconds > 0, "leaseDurationSeconds is {seconds}");
    if seconds > LONGEST {
        return Err(Stop::not_applicable(format!(
            "the lease lasts {seconds} s, longer than this check waits"
        )));
    }
    let within = Duration::from_secs(seconds.unsigned_abs());
    let renewed = bed
        .poll("renewTime did not move on", within, async || {
            let lease = lease_of(bed).await.map_err(|stop| stop.to_string())?;
            if lease["spec"]["renewTime"] == first["spec"]["renewTime"] {
                return Err(format!("it is {}", lease["spec"]["renewTime"]));
            }
            Ok(lease)
        })
        .await?;
    let (before, now) = (&first["spec"]["holderIdentity"], &renewed["spec"]["holderIdentity"]);
    demand!(before == now, "the holder was {before} and is {now}");
    Ok(())
}
