//! Status: what is said of a pod that runs, or has run.

use std::time::Duration;

use tokio::time::Instant;
use vk_core::provider::{ContainerState, ExitStatus, Feature, PodRuntime, Sandbox};

use crate::bench::Bench;
use crate::check::{Check, demand, fail, skip};
use crate::journal::{MAIN, Sight, Sights};
use crate::pods::{INIT, OTHER, Plan};
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
    bench.until(&pod.pod, 0, within, "that its sandbox is gone", is_gone).await.map(drop)
}

/// Whether the sandbox was told to be gone. That a listing lacks the pod would be no word on it.
fn is_gone(sights: &Sights) -> bool {
    sights.runtimes().any(|runtime| runtime.sandbox == Sandbox::Gone)
        || sights.0.iter().any(|(_, sight)| matches!(sight, Sight::Gone(_)))
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

/// An init container that fails for good is the end of its pod: the others are not started.
pub async fn a_failed_init_container_ends_the_pod(bench: &Bench) -> Check {
    bench.needs(Feature::InitOrder)?;
    let pod = bench.draft(&Plan::of(Work::Forever).after(Work::Exit(3)))?;
    bench.create(&pod).await?;
    let patience = bench.patience();
    let within = patience.start + patience.stop + patience.tell;
    let over = |sights: &Sights| is_gone(sights) || sights.running().next().is_some();
    let sights =
        bench.until(&pod.pod, 0, within, "its end, for its init container exits with 3", over).await?;
    demand!(sights.running().next().is_none(), "its init container failed, and the container runs");
    Ok(())
}

/// A container that runs and has no probes is ready and started, if there is a word on that.
pub async fn a_container_that_runs_is_ready(bench: &Bench) -> Check {
    let pod = bench.running(Work::Forever).await?;
    let ready = |sights: &Sights| {
        let mut mains = sights.running().filter_map(|runtime| runtime.container(MAIN));
        mains.any(|main| main.ready != Some(false) && main.started != Some(false))
    };
    let within = bench.patience().tell;
    bench.until(&pod.pod, 0, within, "that its container, which has no probes, is ready", ready).await?;
    Ok(())
}

/// The times that are told of a run that has ended are those at which it began and ended.
pub async fn a_run_has_its_own_times(bench: &Bench) -> Check {
    // It runs for two seconds.
    let pod = bench.draft(&Plan::of(Work::Last(0)))?;
    bench.create(&pod).await?;
    let sights = bench.until_ended(&pod.pod, 0).await?;
    let times = sights.ends().find_map(|end| Some((end.started_at?, end.finished_at?)));
    let Some((began, ended)) = times else { return skip("no times of runs are told") };
    let took = ended.duration_since(began);
    demand!(took.as_secs() >= 1, "it ran for 2 s, and is told to have run from {began} to {ended}");
    Ok(())
}

/// With the policy `OnFailure`, a container that ends well is not started again.
pub async fn a_success_is_not_restarted(bench: &Bench) -> Check {
    bench.needs(Feature::Restarts)?;
    let pod = bench.draft(&Plan::of(Work::Exit(0)).restarted("OnFailure"))?;
    bench.create(&pod).await?;
    bench.until_ended(&pod.pod, 0).await?;
    bench.quiet().await;
    let sights = bench.sights(&pod.pod, 0);
    let mut mains = sights.runtimes().filter_map(|runtime| runtime.container(MAIN));
    demand!(
        mains.all(|main| main.restart_count == 0),
        "it ended with 0 under OnFailure, and was started again: {}",
        sights.last()
    );
    Ok(())
}

/// With the policy `OnFailure`, a container that fails is started again.
pub async fn a_failure_is_restarted(bench: &Bench) -> Check {
    bench.needs(Feature::Restarts)?;
    let pod = bench.run(&Plan::of(Work::Last(3)).restarted("OnFailure")).await?;
    // By the starts, for the count is another clause's.
    let again = |sights: &Sights| sights.starts().len() > 1;
    let within = bench.patience().start + bench.patience().tell;
    let what = "a restart of its container, which exits with 3 under OnFailure";
    bench.until(&pod.pod, 0, within, what, again).await.map(drop)
}

/// A container that ends again is started again.
pub async fn a_second_end_is_restarted_too(bench: &Bench) -> Check {
    bench.needs(Feature::Restarts)?;
    let pod = bench.run(&Plan::of(Work::Last(3)).restarted("Always")).await?;
    let again = |sights: &Sights| sights.starts().len() > 2;
    // A kubelet waits for ten seconds before it does.
    let within = bench.patience().start + bench.patience().tell + Duration::from_secs(30);
    bench
        .until(&pod.pod, 0, within, "a third run of its container, which exits with 3", again)
        .await
        .map(drop)
}

/// A pod with two containers lasts until both have ended.
pub async fn a_pod_lasts_until_all_have_ended(bench: &Bench) -> Check {
    let seconds = 8;
    let pod = bench.draft(&Plan::of(Work::Last(0)).and(Work::Ticks(seconds)))?;
    let began = Instant::now();
    bench.create(&pod).await?;
    let patience = bench.patience();
    let within = Duration::from_secs(seconds.into()) + patience.start + patience.stop + patience.tell;
    let sights = bench.until(&pod.pod, 0, within, "that its sandbox is gone", is_gone).await?;
    let took = began.elapsed();
    let other = |runtime: &PodRuntime| runtime.container(OTHER).map(|other| other.state.clone());
    let early = sights
        .runtimes()
        .filter(|runtime| runtime.sandbox == Sandbox::Gone)
        .map(other)
        .find(|state| !matches!(state, Some(ContainerState::Terminated(_))));
    demand!(early.is_none(), "its sandbox was told to be gone when {OTHER} was {early:?}");
    demand!(took.as_secs() >= 6, "{OTHER} runs for {seconds} s, and the pod was gone after {took:?}");
    Ok(())
}

/// A pod comes to its end when its app containers have ended; its sidecars are stopped then.
pub async fn a_sidecar_does_not_keep_its_pod(bench: &Bench) -> Check {
    bench.needs(Feature::Sidecars)?;
    let pod = bench.draft(&Plan::of(Work::Last(0)).beside(Work::Forever))?;
    bench.create(&pod).await?;
    bench.until_ended(&pod.pod, 0).await?;
    let within = bench.patience().stop + bench.patience().tell;
    let what = "that its sandbox is gone, of which only a sidecar was left";
    bench.until(&pod.pod, 0, within, what, is_gone).await.map(drop)
}

/// A pod is stopped when its `activeDeadlineSeconds` are over and no sooner, and is told to have been ended so. Its processes
/// have their grace period.
pub async fn a_deadline_ends_the_pod(bench: &Bench) -> Check {
    bench.needs(Feature::ActiveDeadline)?;
    let seconds = 5;
    let pod = bench.draft(&Plan::of(Work::Farewell { seconds: 3, code: 0 }).for_seconds(seconds))?;
    let began = Instant::now();
    bench.create(&pod).await?;
    let patience = bench.patience();
    let within = Duration::from_secs(seconds.into()) + patience.start + patience.stop + patience.tell;
    let ended =
        |sights: &Sights| is_gone(sights) && sights.runtimes().any(|runtime| runtime.outcome.is_some());
    let what = format!("that its {seconds} s were over, and its sandbox gone for that");
    let sights = bench.until(&pod.pod, 0, within, &what, ended).await?;
    let took = began.elapsed();
    demand!(took >= Duration::from_secs(4), "it had {seconds} s, and was gone after {took:?}");
    let killed = sights.ends().any(|end| end.exit == ExitStatus::Code(137));
    demand!(!killed, "it takes 3 s of its minute to end, and was killed at its deadline");
    let disrupted =
        sights.runtimes().filter_map(|runtime| runtime.outcome.as_ref()).any(|end| end.disruption);
    demand!(!disrupted, "its own deadline was told as a disruption");
    Ok(())
}
