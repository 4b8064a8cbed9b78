//! Prepare: addresses that are known before the pod is there.

use vk_core::provider::{PodPrepare, Provider};

use crate::bench::Bench;
use crate::check::{Check, demand, skip};
use crate::pods::Plan;
use crate::subject::Work;

fn capability(provider: &dyn Provider) -> Check<&dyn PodPrepare> {
    provider.prepare().map_or_else(|| skip("the provider prepares nothing (Provider::prepare)"), Ok)
}

/// A pod that is prepared again gets the same addresses.
pub async fn preparing_again_gives_the_same_addresses(bench: &Bench) -> Check {
    let provider = bench.provider();
    let prepare = capability(&*provider)?;
    let pod = bench.draft(&Plan::of(Work::Forever))?;
    bench.remember(&pod);
    let first = bench.call("prepare_pod", || prepare.prepare_pod(&pod.pod)).await?;
    let second = bench.call("prepare_pod", || prepare.prepare_pod(&pod.pod)).await?;
    demand!(first == second, "{first:?} at first, {second:?} later");
    Ok(())
}

/// A pod has the addresses that it was promised.
pub async fn a_promised_address_is_kept(bench: &Bench) -> Check {
    let provider = bench.provider();
    let prepare = capability(&*provider)?;
    let pod = bench.draft(&Plan::of(Work::Forever))?;
    bench.remember(&pod);
    let promised = bench.call("prepare_pod", || prepare.prepare_pod(&pod.pod)).await?;
    bench.create_again(&pod).await?;
    let sights = bench.until_running(&pod.pod).await?;
    let has: Vec<_> = sights.running().next_back().map(|runtime| runtime.ips.clone()).unwrap_or_default();
    demand!(has == promised, "{promised:?} was promised, and the pod has {has:?}");
    Ok(())
}

/// Two pods are not promised one address.
pub async fn two_pods_are_promised_two_addresses(bench: &Bench) -> Check {
    let provider = bench.provider();
    let prepare = capability(&*provider)?;
    let (one, other) = (bench.draft(&Plan::of(Work::Forever))?, bench.draft(&Plan::of(Work::Forever))?);
    let mut promised = Vec::new();
    for pod in [&one, &other] {
        bench.remember(pod);
        promised.push(bench.call("prepare_pod", || prepare.prepare_pod(&pod.pod)).await?);
    }
    let shared = promised[0].iter().any(|address| promised[1].contains(address));
    demand!(!shared, "both are promised {:?}", promised[0]);
    Ok(())
}
