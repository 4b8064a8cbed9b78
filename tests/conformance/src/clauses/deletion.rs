//! Deletion: the grace period, the last exit code, and what comes after the end.

use std::time::Duration;

use tokio::time::Instant;
use vk_core::provider::{ContainerState, ExitStatus, Feature, PodRef, PodRuntime, Sandbox};

use crate::bench::Bench;
use crate::check::{Check, demand, fail};
use crate::journal::{MAIN, Sight, Sights, Source, is_running};
use crate::pods::{INIT, OTHER, Plan};
use crate::subject::Work;

/// Longer than anything in a test pod takes.
const AMPLE: Duration = Duration::from_mins(1);

/// Lets the watch say what a listing may have said before it. Returns where in the journal the time after begins.
async fn agreed(bench: &Bench, pod: &PodRef, since: usize) -> usize {
    // That it says so at all is another clause's.
    let _ = bench.until_watched(pod, since, bench.patience().tell, "its end", Sights::is_over).await;
    bench.mark()
}

/// A process that takes a part of its grace period to end is let.
pub async fn the_grace_period_is_granted(bench: &Bench) -> Check {
    let pod = bench.running(Work::Farewell { seconds: 3, code: 5 }).await?;
    let began = Instant::now();
    let since = bench.delete(&pod.pod, AMPLE).await?;
    // Seconded by a listing, for that an end is told too early is another clause's.
    let gone = |sights: &Sights| {
        let listed = sights.by(Source::List);
        let runs = |sight: &Sight| matches!(sight, Sight::Is(runtime) if is_running(runtime));
        sights.is_over() && listed.0.last().is_some_and(|(_, sight)| !runs(sight))
    };
    bench.until(&pod.pod, since, AMPLE + bench.patience().stop, "its end", gone).await?;
    let took = began.elapsed();
    let sights = bench.sights(&pod.pod, since);
    let killed = sights.ends().any(|end| end.exit == ExitStatus::Code(137));
    demand!(!killed, "it takes 3 s of its minute to end, and was killed after {took:?}");
    demand!(took >= Duration::from_secs(2), "it takes 3 s of its minute to end, and was gone after {took:?}");
    Ok(())
}

/// A process that does not end is killed when its grace period is over.
pub async fn the_grace_period_ends(bench: &Bench) -> Check {
    let pod = bench.running(Work::Deaf).await?;
    let grace = Duration::from_secs(2);
    let since = bench.delete(&pod.pod, grace).await?;
    let within = grace + bench.patience().stop;
    bench.until_over(&pod.pod, since, within).await.map(drop).or_else(|_| {
        fail(format!("a process that heeds no signal had 2 s of grace, and runs after {within:?}"))
    })
}

/// A grace period of zero kills at once.
pub async fn no_grace_kills_at_once(bench: &Bench) -> Check {
    let pod = bench.running(Work::Deaf).await?;
    let since = bench.delete(&pod.pod, Duration::ZERO).await?;
    let within = bench.patience().stop;
    bench
        .until_over(&pod.pod, since, within)
        .await
        .map(drop)
        .or_else(|_| fail(format!("deleted with no grace, it is there after {within:?}")))
}

/// A second deletion with a shorter grace period shortens the first.
pub async fn a_shorter_grace_is_heeded(bench: &Bench) -> Check {
    let pod = bench.running(Work::Deaf).await?;
    bench.delete(&pod.pod, Duration::from_hours(1)).await?;
    let since = bench.delete(&pod.pod, Duration::from_secs(1)).await?;
    let within = Duration::from_secs(1) + bench.patience().stop;
    bench
        .until_over(&pod.pod, since, within)
        .await
        .map(drop)
        .or_else(|_| fail(format!("its hour of grace was cut to 1 s, and it is there after {within:?}")))
}

/// The exit code of a process that was asked to end, and took its time, is told.
pub async fn the_last_exit_code_is_told(bench: &Bench) -> Check {
    let pod = bench.running(Work::Farewell { seconds: 3, code: 5 }).await?;
    let since = bench.mark();
    bench.delete(&pod.pod, AMPLE).await?;
    let told = |sights: &Sights| sights.ends().any(|end| matches!(end.exit, ExitStatus::Code(_)));
    let within = Duration::from_secs(3) + bench.patience().stop + bench.patience().tell;
    bench.until(&pod.pod, since, within, "how its container ended when it was stopped", told).await.map(drop)
}

/// Once a pod is told to be gone, nothing of it runs.
pub async fn nothing_runs_after_the_end(bench: &Bench) -> Check {
    let pod = bench.running(Work::Farewell { seconds: 5, code: 0 }).await?;
    let since = bench.mark();
    bench.delete(&pod.pod, AMPLE).await?;
    let sights = bench.until_over(&pod.pod, since, AMPLE + bench.patience().stop).await?;
    let end = agreed(bench, &pod.pod, since).await;
    bench.quiet().await;
    let later = bench.sights(&pod.pod, end);
    demand!(
        later.running().next().is_none(),
        "it was told to be gone ({}), and runs: {}",
        sights.last(),
        later.last()
    );
    Ok(())
}

/// A deleted pod does not come back, whatever its restart policy.
pub async fn a_deleted_pod_does_not_come_back(bench: &Bench) -> Check {
    if bench.needs(Feature::Restarts).is_err() {
        return crate::check::skip("the provider restarts nothing (Feature::Restarts)");
    }
    let pod = bench.run(&Plan::of(Work::Forever).restarted("Always")).await?;
    let since = bench.mark();
    bench.delete(&pod.pod, AMPLE).await?;
    let over = bench.mark();
    bench.until_over(&pod.pod, over, AMPLE + bench.patience().stop).await?;
    let end = agreed(bench, &pod.pod, since).await;
    bench.quiet().await;
    bench.quiet().await;
    let later = bench.sights(&pod.pod, end);
    demand!(!later.runtimes().any(is_running), "it was deleted and gone, and runs again: {}", later.last());
    Ok(())
}

/// A pod whose container waits to be started again is gone at once when it is deleted, and nothing is started.
pub async fn a_pod_between_two_runs_can_be_deleted(bench: &Bench) -> Check {
    bench.needs(Feature::Restarts)?;
    let pod = bench.run(&Plan::of(Work::Last(3)).restarted("Always")).await?;
    let patience = bench.patience();
    // The first restart may come at once; before the second a kubelet waits for ten seconds.
    let waits = |sights: &Sights| {
        sights.starts().len() > 1 && sights.runtimes().next_back().is_some_and(|runtime| !is_running(runtime))
    };
    if bench.until(&pod.pod, 0, patience.start + patience.tell, "a pause", waits).await.is_err() {
        return crate::check::skip("its container was not seen to wait before it was started again");
    }
    let since = bench.delete(&pod.pod, AMPLE).await?;
    bench.until_over(&pod.pod, since, patience.stop + patience.tell).await?;
    let end = agreed(bench, &pod.pod, since).await;
    bench.quiet().await;
    let later = bench.sights(&pod.pod, end);
    demand!(
        !later.runtimes().any(is_running),
        "it was deleted between two runs, and ran again: {}",
        later.last()
    );
    Ok(())
}

/// When a pod is stopped, its sidecars outlast the others.
pub async fn sidecars_end_last(bench: &Bench) -> Check {
    bench.needs(Feature::Sidecars)?;
    let pod = bench.run(&Plan::of(Work::Farewell { seconds: 4, code: 0 }).beside(Work::Forever)).await?;
    let since = bench.delete(&pod.pod, AMPLE).await?;
    bench.until_over(&pod.pod, since, AMPLE + bench.patience().stop).await?;
    let ended = |runtime: &PodRuntime| {
        let sidecar = runtime.container(INIT);
        sidecar.is_some_and(|sidecar| matches!(sidecar.state, ContainerState::Terminated(_)))
    };
    let sights = bench.sights(&pod.pod, since);
    let early = sights.running().any(ended);
    demand!(!early, "its sidecar was stopped while its container was still ending");
    let late = sights.runtimes().filter(|runtime| runtime.sandbox == Sandbox::Gone).any(|runtime| {
        let sidecar = runtime.container(INIT);
        sidecar.is_some_and(|sidecar| matches!(sidecar.state, ContainerState::Running { .. }))
    });
    demand!(!late, "its sandbox was told to be gone when its sidecar was still running");
    Ok(())
}

/// The containers of a pod are asked to end at the same time, not one after the other.
pub async fn containers_end_side_by_side(bench: &Bench) -> Check {
    let farewell = Work::Farewell { seconds: 4, code: 0 };
    let pod = bench.run(&Plan::of(farewell.clone()).and(farewell)).await?;
    let since = bench.delete(&pod.pod, AMPLE).await?;
    bench.until_over(&pod.pod, since, AMPLE + bench.patience().stop).await?;
    agreed(bench, &pod.pod, since).await;
    let sights = bench.sights(&pod.pod, since);
    let end = |name: &str| {
        sights.runtimes().rev().find_map(|runtime| match &runtime.container(name)?.state {
            ContainerState::Terminated(end) => end.finished_at,
            ContainerState::Waiting { .. } | ContainerState::Running { .. } => None,
        })
    };
    let (Some(one), Some(other)) = (end(MAIN), end(OTHER)) else {
        return crate::check::skip("when its containers ended is not told");
    };
    let apart = one.duration_since(other).abs();
    demand!(apart.as_secs() < 3, "both take 4 s to end, and one ended at {one}, the other at {other}");
    Ok(())
}
