//! A provider over a backend that only runs containers.
//!
//! ```text
//!  node ──▶ PodRunner ──mail──▶ one task per pod ──jobs──▶ ContainerBackend
//!   ▲          │                  machines decide               │
//!   └──events──┴──────────────────────◀─────────────────────────┘ watch
//! ```
//!
//! A pod's task is level-triggered: on any news it looks at what is wanted, what the backend says, and what time it
//! is, and starts the jobs that are due. A job is one call or one short row of calls; its end is news. Nothing is kept
//! on disk: after a restart the backend's listing and the node's pods are put together again.

mod evict;
mod launch;
mod pod;
mod probes;
mod progress;
mod shared;
mod stop;
mod unit;

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};
use tokio::sync::broadcast;
use tokio::time::Instant;

use self::pod::PodTask;
use self::shared::{Claim, Shared};
use super::backend::{ContainerBackend, SandboxRecord};
use super::dial::Dial;
use crate::clock::Clock;
use crate::provider::{
    ContainerAttach, ContainerExec, ContainerLogs, Error, Feature, Features, FieldSupport, NodeInfo,
    ObservedPod, PodEvent, PodPrepare, PodRef, PodStats, PodUid, PodUpdate, PortForward, Provider,
    ResolvedPod, Result,
};

/// Runs pods on a backend that runs containers. See the [module](super).
///
/// Dropping it leaves the containers running.
pub struct PodRunner<B> {
    backend: Arc<B>,
    shared: Arc<Shared>,
    fields: FieldSupport,
}

impl<B: ContainerBackend> PodRunner<B> {
    /// Runs pods on that backend, whose pods the node reaches at their addresses. Needs a tokio runtime.
    #[must_use]
    pub fn new(backend: Arc<B>, clock: Clock) -> Self {
        Self::dialing(backend, clock, Dial::Address)
    }

    /// The same, for a backend whose pods the node reaches in that way.
    #[must_use]
    pub fn dialing(backend: Arc<B>, clock: Clock, dial: Dial) -> Self {
        let shared = Arc::new(Shared::new(Arc::clone(&backend) as Arc<dyn ContainerBackend>, clock, dial));
        tokio::spawn(listen(Arc::clone(&shared)));
        let fields = match backend.exec() {
            Some(_) => backend.fields().clone(),
            None => backend.fields().clone().without_exec(),
        };
        Self { backend, shared, fields }
    }

    /// The backend.
    #[must_use]
    pub fn backend(&self) -> &Arc<B> {
        &self.backend
    }

    /// Whether the pod exists at the backend.
    async fn is_there(&self, uid: &PodUid) -> Result<bool> {
        if !self.shared.knows(uid) && !self.shared.has_listed() {
            let began = Instant::now();
            self.shared.listed(self.backend.list().await?, began);
        }
        Ok(self.shared.knows(uid))
    }

    /// Puts a task to work on the pod, unless there is one.
    fn run(&self, pod: &Arc<ResolvedPod>) -> Arc<shared::Mailbox> {
        match self.shared.claim(&pod.pod) {
            Claim::Running(mail) => mail,
            Claim::Yours(mail, found) => {
                let task = PodTask::new(Arc::clone(&self.shared), Arc::clone(&mail), Arc::clone(pod), found);
                let stop = self.shared.stop.clone();
                tokio::spawn(async move {
                    // Cancel-safe: whatever was begun is found again by the next process.
                    tokio::select! {
                        () = stop.cancelled() => {}
                        () = task.run() => {}
                    }
                });
                mail
            }
        }
    }
}

impl<B> fmt::Debug for PodRunner<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PodRunner").field("shared", &self.shared).finish_non_exhaustive()
    }
}

impl<B> Drop for PodRunner<B> {
    fn drop(&mut self) {
        self.shared.stop.cancel();
    }
}

/// Passes on what the backend tells, for as long as the runner is there.
async fn listen(shared: Arc<Shared>) {
    let heard = async {
        let mut pause = Duration::from_secs(1);
        loop {
            let began = Instant::now();
            let mut events = Arc::clone(&shared.backend).watch();
            while let Some(item) = events.next().await {
                match item {
                    Ok(event) => {
                        pause = Duration::from_secs(1);
                        shared.heard(event, began);
                    }
                    Err(error) => {
                        tracing::warn!(error = error.chain(), "watching the backend's containers");
                        tokio::time::sleep(pause).await;
                        pause = (pause * 2).min(Duration::from_mins(1));
                    }
                }
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_mins(1));
        }
    };
    tokio::select! {
        () = shared.stop.cancelled() => {}
        () = heard => {}
    }
}

/// A stand-in for a pod whose object is gone: its containers, and nothing else of it.
fn orphan(pod: &PodRef, found: Option<&SandboxRecord>) -> Option<Arc<ResolvedPod>> {
    let mut names: Vec<_> = found?.runs.iter().map(|record| record.run.name().to_owned()).collect();
    names.sort();
    names.dedup();
    let containers = names.into_iter().map(|name| Container { name, ..Container::default() }).collect();
    let mut object = Pod::default();
    object.metadata.namespace = Some(pod.namespace.to_string());
    object.metadata.name = Some(pod.name.to_string());
    object.metadata.uid = Some(pod.uid.to_string());
    // Nothing of it is ever started again.
    let restart_policy = Some("Never".to_owned());
    object.spec = Some(PodSpec { containers, restart_policy, ..PodSpec::default() });
    ResolvedPod::literal(object).map(Arc::new)
}

#[async_trait]
impl<B: ContainerBackend> Provider for PodRunner<B> {
    fn name(&self) -> &'static str {
        self.backend.name()
    }

    fn native(&self) -> Features {
        // As the node sees it: this side of the contract does it all.
        let mut all = vec![
            Feature::Restarts,
            Feature::InitOrder,
            Feature::Sidecars,
            Feature::LivenessProbes,
            Feature::ReadinessProbes,
            Feature::StartupProbes,
            Feature::PostStart,
            Feature::PreStop,
            Feature::ActiveDeadline,
            Feature::TerminationMessages,
            Feature::PartialPods,
            Feature::Files,
            Feature::FileUpdates,
            Feature::Adoption,
            Feature::Events,
        ];
        all.extend(self.backend.resize().map(|_| Feature::Resize));
        Features::of(&all)
    }

    fn fields(&self) -> &FieldSupport {
        &self.fields
    }

    async fn node_info(&self) -> Result<NodeInfo> {
        let mut info = self.backend.node_info().await?;
        // What this side of the contract does.
        info.declared_features.push("RestartAllContainersOnContainerExits".to_owned());
        if self.backend.resize().is_some() {
            let resizes =
                ["InPlacePodLevelResourcesVerticalScaling", "InPlacePodVerticalScalingInitContainers"];
            info.declared_features.extend(resizes.map(str::to_owned));
        }
        Ok(info)
    }

    async fn create_pod(&self, pod: &ResolvedPod) -> Result<()> {
        let pod = Arc::new(pod.clone());
        let mail = self.run(&pod);
        // A second creation of one UID starts nothing; it may know more of what was missing before.
        mail.post(|letters| letters.pod = Some(pod));
        Ok(())
    }

    async fn delete_pod(&self, pod: &PodRef, grace: Duration) -> Result<()> {
        if !self.is_there(&pod.uid).await? {
            // Its addresses may have been reserved.
            return self.backend.remove_sandbox(pod).await;
        }
        let mail = if let Some(mail) = self.shared.mailbox(&pod.uid) {
            mail
        } else {
            let sandboxes = self.backend.list().await?;
            let found = sandboxes.iter().find(|sandbox| sandbox.pod.uid == pod.uid);
            let Some(stand_in) = orphan(pod, found) else { return Ok(()) };
            self.run(&stand_in)
        };
        mail.post(|letters| {
            letters.delete = Some(letters.delete.map_or(grace, |before| before.min(grace)));
        });
        Ok(())
    }

    async fn list_pods(&self) -> Result<Vec<ObservedPod>> {
        let began = Instant::now();
        let sandboxes = self.backend.list().await?;
        self.shared.listed(sandboxes, began);
        Ok(self.shared.snapshot().0)
    }

    fn watch_pods(self: Arc<Self>) -> BoxStream<'static, Result<PodEvent>> {
        stream::unfold((self, None), |(runner, follow)| async move {
            let mut follow: Option<(broadcast::Receiver<_>, u64)> = follow;
            loop {
                let Some((events, included)) = &mut follow else {
                    // Before the listing, so that nothing falls between the two.
                    let events = runner.shared.subscribe();
                    let began = Instant::now();
                    return match runner.backend.list().await {
                        Ok(sandboxes) => {
                            runner.shared.listed(sandboxes, began);
                            let (pods, included) = runner.shared.snapshot();
                            Some((Ok(PodEvent::Listed(pods)), (runner, Some((events, included)))))
                        }
                        Err(error) => Some((Err(error), (runner, None))),
                    };
                };
                match events.recv().await {
                    Ok((number, event)) if number > *included => {
                        return Some((Ok(event), (runner, follow)));
                    }
                    Ok(_) => {}
                    // It fell behind: a listing says how things are.
                    Err(broadcast::error::RecvError::Lagged(_)) => follow = None,
                    Err(broadcast::error::RecvError::Closed) => return None,
                }
            }
        })
        .boxed()
    }

    fn prepare(&self) -> Option<&dyn PodPrepare> {
        Some(self)
    }
    fn update(&self) -> Option<&dyn PodUpdate> {
        Some(self)
    }
    fn logs(&self) -> Option<&dyn ContainerLogs> {
        self.backend.logs()
    }
    fn exec(&self) -> Option<&dyn ContainerExec> {
        self.backend.exec()
    }
    fn attach(&self) -> Option<&dyn ContainerAttach> {
        self.backend.attach()
    }
    fn port_forward(&self) -> Option<&dyn PortForward> {
        self.backend.port_forward()
    }
    fn stats(&self) -> Option<&dyn PodStats> {
        self.backend.stats()
    }
}

#[async_trait]
impl<B: ContainerBackend> PodPrepare for PodRunner<B> {
    async fn prepare_pod(&self, pod: &PodRef) -> Result<Vec<IpAddr>> {
        self.backend.reserve_addresses(pod).await
    }
}

#[async_trait]
impl<B: ContainerBackend> PodUpdate for PodRunner<B> {
    async fn update_pod(&self, pod: &ResolvedPod) -> Result<()> {
        if !self.is_there(&pod.pod.uid).await? {
            return Err(Error::not_found(format!("pod {}", pod.pod)));
        }
        let pod = Arc::new(pod.clone());
        let mail = self.run(&pod);
        mail.post(|letters| letters.pod = Some(pod));
        Ok(())
    }
}
