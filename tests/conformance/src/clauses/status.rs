//! Status: what is said of a pod that runs, or has run.

use vk_core::provider::{ContainerState, ExitStatus, Feature, Sandbox};

use crate::bench::Bench;
use crate::check::{Check, demand, fail, skip};
use crate::journal::{MAIN, Sight, Sights};
use crate::pods::{INIT, Plan};
use crate::subject::Work;

/// An accepted pod runs: its container is told to, and its sandbox to be ready.
pub async fn an_accepted_pod_runs(bench: &Bench) -> Check {
    let pod = bench.running(Work::Forever).await?;
    let sights = bench.sights(&pod.pod, 0);
    let ready = sights.running().any(|runtime| runtime.sandbox == Sandbox::Ready);
    demand!(ready, "its container runs, and its sandbox was never told to be ready: {}", sights.last());
    Ok(())
}

/// The exit code of a container is kept, whatever it is.
pub async fn an_exit_code_is_kept(bench: &Bench) -> Check {
    let pod = bench.draft(&Plan::of(Work::Exit(7)))?;
    bench.create(&pod).await?;
    let sights = bench.until_ended(&pod.pod, 0).await?;
    let told: Vec<ExitStatus> = sights.ends().map(|end| end.exit).collect();
    demand!(
        told.iter().all(|exit| *exit == ExitStatus::Code(7)),
        "it exited with 7, and what was told is {told:?}"
    );
    Ok(())
}

/// Once every container of a pod that is not restarted has ended, its sandbox is told to be gone.
pub async fn a_finished_pod_is_gone(bench: &Bench) -> Check {
    let pod = bench.draft(&Plan::of(Work::Exit(0)))?;
    bench.create(&pod).await?;
    bench.until_ended(&pod.pod, 0).await?;
    let within = bench.patience().stop + bench.patience().tell;
    // That a listing lacks it would be no word on its sandbox.
    let gone = |sights: &Sights| {
        sights.runtimes().any(|runtime| runtime.sandbox == Sandbox::Gone)
            || sights.0.iter().any(|(_, sight)| matches!(sight, Sight::Gone(_)))
    };
    bench.until(&pod.pod, 0, within, "that its sandbox is gone", gone).await.map(drop)
}

/// A pod that runs keeps its addresses: once told, they are in everything that is told of it.
pub async fn an_address_is_kept(bench: &Bench) -> Check {
    let pod = bench.running(Work::Forever).await?;
    bench.quiet().await;
    for _ in 0..3 {
        bench.look().await;
    }
    let sights = bench.sights(&pod.pod, 0);
    let mut told = sights.running().skip_while(|runtime| runtime.ips.is_empty()).peekable();
    if told.peek().is_none() {
        return skip("the pod has no address");
    }
    demand!(told.all(|runtime| !runtime.ips.is_empty()), "an address that was told is missing later");
    Ok(())
}

/// A container that ends and may be restarted is, and the restart is counted.
pub async fn a_restart_is_counted(bench: &Bench) -> Check {
    restarted(bench).await?;
    Ok(())
}

/// How the run before a restart ended is kept.
pub async fn the_end_before_a_restart_is_kept(bench: &Bench) -> Check {
    bench.needs(Feature::Restarts)?;
    let plan = Plan::of(Work::Last(3)).restarted("Always");
    let pod = bench.run(&plan).await?;
    let kept = |sights: &Sights| {
        sights.running().any(|runtime| {
            let last = runtime.container(MAIN).and_then(|main| main.last.as_ref());
            last.is_some_and(|last| last.exit == ExitStatus::Code(3))
        })
    };
    let within = bench.patience().start + bench.patience().tell;
    bench.until(&pod.pod, 0, within, "a second run, and that the one before it ended with 3", kept).await?;
    Ok(())
}

/// A pod whose container was restarted.
async fn restarted(bench: &Bench) -> Check<vk_core::provider::ResolvedPod> {
    bench.needs(Feature::Restarts)?;
    let pod = bench.run(&Plan::of(Work::Last(3)).restarted("Always")).await?;
    let counted = |sights: &Sights| {
        sights.runtimes().any(|runtime| runtime.container(MAIN).is_some_and(|main| main.restart_count > 0))
    };
    let within = bench.patience().start + bench.patience().tell;
    bench.until(&pod.pod, 0, within, "a restart of its container, which exits with 3", counted).await?;
    Ok(pod)
}

/// Init containers run to their ends before the others are started.
pub async fn init_containers_come_first(bench: &Bench) -> Check {
    bench.needs(Feature::InitOrder)?;
    let pod = bench.run(&Plan::of(Work::Forever).after(Work::Last(0))).await?;
    let sights = bench.sights(&pod.pod, 0);
    let Some(runtime) = sights.running().next_back() else { return fail("it runs no more") };
    let init = runtime.container(INIT).map(|init| &init.state);
    let Some(ContainerState::Terminated(end)) = init else {
        return fail(format!("the container runs, and the init container's state is {init:?}"));
    };
    let main = runtime.container(MAIN).map(|main| &main.state);
    if let (Some(ContainerState::Running { started_at }), Some(finished)) = (main, end.finished_at) {
        demand!(
            *started_at >= finished,
            "the container began at {started_at}, its init container ended at {finished}"
        );
    }
    Ok(())
}
