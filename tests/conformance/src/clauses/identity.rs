//! Identity: a pod is its UID.

use vk_core::provider::ResolvedPod;

use crate::bench::Bench;
use crate::check::{Check, demand, skip};
use crate::journal::{MAIN, Sights, is_running};
use crate::pods::{Plan, unique};
use crate::subject::Work;

/// Two incarnations of one name run side by side.
pub async fn two_pods_of_one_name_run_side_by_side(bench: &Bench) -> Check {
    let plan = Plan::of(Work::Forever).named(&unique("twins"));
    let old = bench.run(&plan).await?;
    let new = bench.run(&plan).await?;
    bench.look().await;
    for pod in [&old, &new] {
        let sights = bench.sights(&pod.pod, 0);
        let runs = sights.runtimes().next_back().is_some_and(is_running);
        demand!(runs, "of two pods named {}, {} does not run: {}", pod.pod, pod.pod.uid, sights.last());
    }
    Ok(())
}

/// The two incarnations have addresses and containers of their own.
pub async fn two_pods_of_one_name_share_nothing(bench: &Bench) -> Check {
    let (old, new) = twins(bench).await?;
    let [a, b] = [&old, &new].map(|pod| traits(&bench.sights(&pod.pod, 0)));
    let shared: Vec<&String> = a.iter().filter(|one| b.contains(one)).collect();
    demand!(shared.is_empty(), "two pods named {} share {shared:?}", old.pod);
    Ok(())
}

/// Two pods of one name that run. That they do is one clause's.
async fn twins(bench: &Bench) -> Check<(ResolvedPod, ResolvedPod)> {
    let plan = Plan::of(Work::Forever).named(&unique("twins"));
    let old = bench.run(&plan).await?;
    let Ok(new) = bench.run(&plan).await else {
        return skip("a second pod of one name does not run, which another clause is about");
    };
    Ok((old, new))
}

/// Addresses and container ids of a pod that runs.
fn traits(sights: &Sights) -> Vec<String> {
    let Some(runtime) = sights.running().next_back() else { return Vec::new() };
    let id = runtime.container(MAIN).and_then(|main| main.container_id.clone());
    runtime.ips.iter().map(ToString::to_string).chain(id).collect()
}

/// Deleting one incarnation leaves the other running.
pub async fn deleting_a_pod_leaves_its_namesake(bench: &Bench) -> Check {
    let (old, new) = twins(bench).await?;
    let since = bench.delete(&old.pod, std::time::Duration::ZERO).await?;
    bench.until_over(&old.pod, since, bench.patience().stop).await?;
    bench.quiet().await;
    let sights = bench.sights(&new.pod, since);
    demand!(
        !sights.is_over() && sights.runtimes().next_back().is_none_or(is_running),
        "{} was deleted, and so was {}, which has the same name: {}",
        old.pod.uid,
        new.pod.uid,
        sights.last()
    );
    Ok(())
}

/// Observations name a pod as it was created: UID, namespace and name.
pub async fn a_pod_is_listed_under_its_own_names(bench: &Bench) -> Check {
    let pod = bench.running(Work::Forever).await?;
    let listed = bench.list().await?;
    let Some(found) = listed.iter().find(|found| found.pod.uid == pod.pod.uid) else {
        return skip("the listing does not have the pod, which another clause is about");
    };
    demand!(found.pod == pod.pod, "created as {:?}, listed as {:?}", pod.pod, found.pod);
    Ok(())
}
