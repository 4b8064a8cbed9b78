//! Node: what it offers, and that it can be had.

use std::collections::BTreeMap;

use futures::future::join_all;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::bench::Bench;
use crate::check::{Check, demand, fail};
use crate::pods::Plan;
use crate::subject::Work;

/// At most so many pods are created to see whether there is room for them.
const ROOM: usize = 6;

/// The backend's name is the same every time, and fit to be a label's value.
pub async fn the_name_is_a_label(bench: &Bench) -> Check {
    let name = bench.provider().name();
    let fits = !name.is_empty()
        && name.len() <= 63
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !name.starts_with('-')
        && !name.ends_with('-');
    demand!(fits, "{name:?} is not lower-case letters, digits and dashes, 1 to 63 of them");
    bench.restart().await?;
    let after = bench.provider().name();
    demand!(name == after, "it was {name:?}, and after a restart of the daemon it is {after:?}");
    Ok(())
}

/// The node's capacity names processors, memory and pods, and there are some of each.
pub async fn capacity_is_complete(bench: &Bench) -> Check {
    let provider = bench.provider();
    let info = bench.call("node_info", || provider.node_info()).await?;
    for name in ["cpu", "memory", "pods"] {
        match amount(&info.capacity, name) {
            Some(amount) if amount > 0.0 => {}
            _ => return fail(format!("capacity[{name}] is {:?}", info.capacity.get(name))),
        }
    }
    Ok(())
}

/// No more may be asked for than there is.
pub async fn allocatable_is_within_capacity(bench: &Bench) -> Check {
    let provider = bench.provider();
    let info = bench.call("node_info", || provider.node_info()).await?;
    for (name, allocatable) in info.allocatable.iter().flatten() {
        let (most, wanted) = (amount(&info.capacity, name), quantity(&allocatable.0));
        let fits = matches!((most, wanted), (Some(most), Some(wanted)) if wanted <= most);
        demand!(
            fits,
            "allocatable[{name}] is {allocatable:?}, capacity[{name}] is {:?}",
            info.capacity.get(name)
        );
    }
    Ok(())
}

/// As many pods as the node says it has room for can be created, as far as this is tried.
pub async fn capacity_can_be_used(bench: &Bench) -> Check {
    let provider = bench.provider();
    let info = bench.call("node_info", || provider.node_info()).await?;
    let room = amount(info.allocatable.as_ref().unwrap_or(&info.capacity), "pods");
    // Without the figure, which another clause asks for, the trial stands for it.
    let count = room.map_or(ROOM, |room| (room as usize).min(ROOM));
    let pods: Vec<_> = (0..count).map(|_| bench.draft(&Plan::of(Work::Forever))).collect::<Check<_>>()?;
    for (n, created) in join_all(pods.iter().map(|pod| bench.create(pod))).await.into_iter().enumerate() {
        if let Err(crate::check::Stop::Failed(why)) = created {
            return fail(format!("there is room for {count} and more pods, and number {} {why}", n + 1));
        }
    }
    Ok(())
}

fn amount(resources: &BTreeMap<String, Quantity>, name: &str) -> Option<f64> {
    quantity(&resources.get(name)?.0)
}

/// A Kubernetes quantity as a number.
fn quantity(text: &str) -> Option<f64> {
    const UNITS: [(&str, f64); 13] = [
        ("Ki", 1024.0),
        ("Mi", 1_048_576.0),
        ("Gi", 1_073_741_824.0),
        ("Ti", 1_099_511_627_776.0),
        ("Pi", 1_125_899_906_842_624.0),
        ("Ei", 1_152_921_504_606_846_976.0),
        ("m", 1e-3),
        ("k", 1e3),
        ("M", 1e6),
        ("G", 1e9),
        ("T", 1e12),
        ("P", 1e15),
        ("E", 1e18),
    ];
    let unit = UNITS.iter().find(|(unit, _)| text.ends_with(unit));
    let (number, factor) =
        unit.map_or((text, 1.0), |(unit, factor)| (&text[..text.len() - unit.len()], *factor));
    number.parse::<f64>().ok().map(|number| number * factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_compared_as_numbers() {
        for (text, expected) in
            [("110", 110.0), ("500m", 0.5), ("2Gi", 2_147_483_648.0), ("1e3", 1000.0), ("3k", 3e3)]
        {
            assert_eq!(quantity(text), Some(expected), "{text}");
        }
        assert_eq!(quantity("much"), None);
    }
}
