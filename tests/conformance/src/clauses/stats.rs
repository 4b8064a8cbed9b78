//! Stats: figures that only grow, and none that are made up.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use vk_core::provider::{PodStats, PodUsage, Provider, ResolvedPod, Usage};

use crate::bench::Bench;
use crate::check::{Check, demand, fail, skip};
use crate::journal::MAIN;
use crate::subject::Work;

fn capability(provider: &dyn Provider) -> Check<&dyn PodStats> {
    provider.stats().map_or_else(|| skip("the provider measures nothing (Provider::stats)"), Ok)
}

async fn usage(bench: &Bench) -> Check<Usage> {
    let provider = bench.provider();
    let stats = capability(&*provider)?;
    bench.call("usage", || stats.usage()).await
}

/// A pod that runs, and its first figures.
async fn measured(bench: &Bench) -> Check<(ResolvedPod, PodUsage)> {
    capability(&*bench.provider())?;
    let pod = bench.running(Work::Forever).await?;
    let deadline = Instant::now() + bench.patience().tell;
    loop {
        let found = usage(bench).await?.pods.into_iter().find(|found| found.pod.uid == pod.pod.uid);
        if let Some(found) = found {
            return Ok((pod, found));
        }
        if Instant::now() >= deadline {
            return fail(format!("a pod runs, and has no figures within {:?}", bench.patience().tell));
        }
        sleep(bench.patience().poll).await;
    }
}

/// Counters by name, and the times at which they were read, in nanoseconds.
fn counters(usage: &PodUsage) -> BTreeMap<String, i128> {
    let mut all = BTreeMap::new();
    let mut note = |name: String, value: Option<u64>| {
        if let Some(value) = value {
            all.insert(name, i128::from(value));
        }
    };
    let cpu = |usage: Option<&vk_core::provider::CpuUsage>| usage.and_then(|cpu| cpu.usage_core_nano_seconds);
    note("cpu of the pod".to_owned(), cpu(usage.cpu.as_ref()));
    for container in &usage.containers {
        note(format!("cpu of container {}", container.name), cpu(container.cpu.as_ref()));
    }
    if let Some(network) = &usage.network {
        note("bytes received".to_owned(), network.rx_bytes);
        note("bytes sent".to_owned(), network.tx_bytes);
    }
    for container in &usage.containers {
        if let Some(cpu) = &container.cpu {
            all.insert(format!("time of container {}'s figures", container.name), cpu.time.as_nanosecond());
        }
    }
    all
}

/// What is counted never goes back while a container runs, and neither do the times of the samples.
pub async fn counters_never_go_back(bench: &Bench) -> Check {
    let (pod, first) = measured(bench).await?;
    let mut before = counters(&first);
    for _ in 0..3 {
        sleep(bench.patience().poll).await;
        let found = usage(bench).await?.pods.into_iter().find(|found| found.pod.uid == pod.pod.uid);
        let Some(found) = found else { return fail("a pod that runs has no figures any more") };
        let now = counters(&found);
        for (name, value) in &now {
            let went_back = before.get(name).is_some_and(|before| value < before);
            demand!(!went_back, "{name}: {} at first, {value} later", before[name]);
        }
        before = now;
    }
    Ok(())
}

/// A figure that is not known is absent: nothing that runs has zero bytes of memory or has used no processor time.
pub async fn what_is_unknown_is_not_zero(bench: &Bench) -> Check {
    let (_, usage) = measured(bench).await?;
    for container in &usage.containers {
        let memory = container.memory.as_ref();
        let figures = [
            ("workingSetBytes", memory.and_then(|memory| memory.working_set_bytes)),
            ("usageBytes", memory.and_then(|memory| memory.usage_bytes)),
            ("rssBytes", memory.and_then(|memory| memory.rss_bytes)),
            ("usageCoreNanoSeconds", container.cpu.as_ref().and_then(|cpu| cpu.usage_core_nano_seconds)),
        ];
        for (name, value) in figures {
            demand!(value != Some(0), "container {} runs, and its {name} is 0", container.name);
        }
    }
    Ok(())
}

/// What cannot be reclaimed, and what is anonymous, are parts of the memory in use.
pub async fn no_part_of_memory_is_more_than_all(bench: &Bench) -> Check {
    let (_, usage) = measured(bench).await?;
    let mut compared = false;
    for memory in usage.containers.iter().filter_map(|container| container.memory.as_ref()) {
        let parts = [("workingSetBytes", memory.working_set_bytes), ("rssBytes", memory.rss_bytes)];
        for (part, bytes) in parts {
            let (Some(bytes), Some(all)) = (bytes, memory.usage_bytes) else { continue };
            compared = true;
            demand!(bytes <= all, "{part} is {bytes}, and usageBytes is {all}");
        }
    }
    if compared { Ok(()) } else { skip("no part of memory is told beside all of it") }
}

/// Figures are of this node's pods only, each of them once.
pub async fn each_pod_is_measured_once(bench: &Bench) -> Check {
    let (pod, _) = measured(bench).await?;
    let usage = usage(bench).await?;
    let times = usage.pods.iter().filter(|found| found.pod.uid == pod.pod.uid).count();
    demand!(times == 1, "the pod is measured {times} times");
    Ok(())
}

/// Every container that runs has figures, under its name.
pub async fn a_container_that_runs_is_measured(bench: &Bench) -> Check {
    let (pod, usage) = measured(bench).await?;
    let names: Vec<&str> = usage.containers.iter().map(|container| container.name.as_str()).collect();
    let main = usage.containers.iter().find(|container| container.name == MAIN);
    let has = main.is_some_and(|main| main.cpu.is_some() || main.memory.is_some());
    demand!(has, "container {MAIN} runs, and there are no figures of it, but of {names:?}");
    let began = bench.sights(&pod.pod, 0).starts();
    let since = [usage.started_at, main.and_then(|main| main.started_at)].into_iter().flatten();
    for (began, since) in began.first().into_iter().flat_map(|began| since.clone().map(move |at| (began, at)))
    {
        let apart = began.duration_since(since).abs();
        demand!(
            apart.as_secs() < 3600,
            "it is told to run since {began}, and its figures are those of something that runs since {since}"
        );
    }
    Ok(())
}

/// The node's own counter does not go back when a pod goes.
pub async fn a_nodes_counter_outlives_its_pods(bench: &Bench) -> Check {
    let (pod, _) = measured(bench).await?;
    let counter = |usage: Usage| usage.node?.cpu?.usage_core_nano_seconds;
    let Some(before) = counter(usage(bench).await?) else {
        return skip("the provider counts no processor time of the node (Usage::node)");
    };
    let since = bench.delete(&pod.pod, Duration::ZERO).await?;
    bench.until_over(&pod.pod, since, bench.patience().stop).await?;
    let after = counter(usage(bench).await?);
    demand!(
        after.is_none_or(|after| after >= before),
        "{before} ns of processor time before a pod went, and {after:?} after"
    );
    Ok(())
}
