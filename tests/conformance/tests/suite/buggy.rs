//! A provider with one mistake: pods, listing and watch. Its capabilities are in a module of their own.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt as _;
use futures::stream::{self, BoxStream};
use tokio::sync::{RwLock, broadcast};
use vk_conformance::journal::{MAIN, is_running};
use vk_conformance::pods::INIT;
use vk_core::provider::{
    ContainerAttach, ContainerExec, ContainerKind, ContainerLogs, Error, Features, FieldSupport, NodeInfo,
    ObservedPod, PodEvent, PodPrepare, PodRef, PodStats, PodUid, PodUpdate, PortForward, Provider,
    ResolvedPod, Result,
};
use vk_mock::{MockBackend, PREFIX};

use crate::bug::Bug;

/// See the module.
pub(crate) struct Buggy {
    pub(crate) inner: Arc<dyn Provider>,
    pub(crate) bug: Bug,
    pub(crate) backend: MockBackend,
    others: Arc<dyn Provider>,
    pub(crate) memory: Mutex<Memory>,
    gate: RwLock<()>,
    injected: broadcast::Sender<PodEvent>,
}

/// What it has in memory, for one mistake or the other.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    pub(crate) created: HashMap<PodUid, ResolvedPod>,
    pub(crate) listed: HashSet<PodUid>,
    pub(crate) deleted: HashMap<PodUid, PodRef>,
    under_way: HashSet<PodUid>,
    attempted: HashSet<PodUid>,
    pub(crate) twins: HashMap<PodUid, PodUid>,
    pub(crate) ran: HashMap<PodUid, ObservedPod>,
    pub(crate) seen: HashMap<PodUid, u32>,
    watches: u32,
    node: Option<NodeInfo>,
    pub(crate) calls: u32,
    creating: bool,
    /// The first pod that was promised an address, and which.
    pub(crate) promised: Option<(PodUid, Vec<IpAddr>)>,
}

/// A call that does harm when it is dropped.
struct Dropped<F: FnMut()>(F);

impl<F: FnMut()> Drop for Dropped<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

impl fmt::Debug for Buggy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let memory = self.lock();
        let secrets = memory.created.values().flat_map(|pod| &pod.containers).flat_map(|c| &c.env);
        let shown: Vec<&str> = match self.bug {
            Bug::SecretInDebug => secrets.map(|variable| variable.value.expose()).collect(),
            _ => Vec::new(),
        };
        f.debug_struct("Buggy").field("bug", &self.bug).field("env", &shown).finish_non_exhaustive()
    }
}

impl Buggy {
    pub(crate) fn new(
        inner: Arc<dyn Provider>,
        bug: Bug,
        backend: MockBackend,
        others: Arc<dyn Provider>,
    ) -> Self {
        let injected = broadcast::Sender::new(64);
        Self { inner, bug, backend, others, memory: Mutex::default(), gate: RwLock::default(), injected }
    }

    pub(crate) fn is(&self, bug: Bug) -> bool {
        self.bug == bug
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether nothing of the pod runs, for now.
    fn waits(&self, uid: &PodUid) -> bool {
        let runtime = self.backend.observe(uid).and_then(|pod| pod.runtime);
        runtime.is_some_and(|runtime| runtime.may_run() && !is_running(&runtime))
    }

    fn has(&self, uid: &PodUid) -> bool {
        self.backend.observe(uid).is_some()
    }

    /// A second pod at the backend that is told as the first.
    async fn twin(&self, pod: &ResolvedPod) -> Result<()> {
        let mut twin = pod.clone();
        twin.pod.uid = PodUid::new(format!("{}-2", pod.pod.uid));
        self.inner.create_pod(&twin).await?;
        self.lock().twins.insert(pod.pod.uid.clone(), twin.pod.uid);
        Ok(())
    }

    /// Of pods that are created at the same time, only the first is.
    async fn create_unless_busy(&self, pod: &ResolvedPod) -> Result<()> {
        let busy = std::mem::replace(&mut self.lock().creating, true);
        if busy {
            return Ok(());
        }
        let _done = Dropped(|| self.lock().creating = false);
        tokio::task::yield_now().await;
        self.inner.create_pod(pod).await
    }

    /// A deletion that takes the pods of all others with it when it is dropped.
    async fn delete_or_else(&self, pod: &PodRef, grace: Duration) -> Result<()> {
        let others = || self.backend.running().into_iter().filter(|other| other.uid != pod.uid);
        let fallout = Dropped(|| {
            for other in others() {
                let _ = self.backend.exit(&other.uid, MAIN, 0);
            }
        });
        tokio::task::yield_now().await;
        let deleted = self.inner.delete_pod(pod, grace).await;
        std::mem::forget(fallout);
        deleted
    }

    async fn try_create(&self, pod: &ResolvedPod) -> Result<()> {
        let uid = &pod.pod.uid;
        let known = self.lock().created.contains_key(uid);
        let attempted = !self.lock().attempted.insert(uid.clone());
        match self.bug {
            Bug::CreatesByName
                if self.lock().created.values().any(|other| other.pod.name == pod.pod.name) =>
            {
                return Ok(());
            }
            Bug::RefusesASecondCreate if known => return Err(Error::unexpected("409: it exists already")),
            Bug::CreatesTwice if known => return self.twin(pod).await,
            Bug::StartsAgainAfterRestart if !attempted && self.has(uid) => {
                self.inner.delete_pod(&pod.pod, Duration::ZERO).await?;
            }
            Bug::CapacityLies if self.backend.pod_count() >= 5 && !self.has(uid) => {
                return Err(Error::Exhausted { resource: "places".to_owned(), source: None });
            }
            Bug::ForgetsAllButOne => return self.create_unless_busy(pod).await,
            Bug::RestartsSuccesses => return self.inner.create_pod(&on_failure_becomes(pod, "Always")).await,
            Bug::RestartsNoFailures => return self.inner.create_pod(&on_failure_becomes(pod, "Never")).await,
            // Each of the two leaves the other's pods alone.
            Bug::FailedInitIsForgiven if init_fails(pod) => {
                return self.inner.create_pod(&without_init(pod)).await;
            }
            Bug::SkipsInitContainers if !init_fails(pod) => {
                return self.inner.create_pod(&without_init(pod)).await;
            }
            Bug::RetriesUnderAnotherName => {
                return match self.inner.create_pod(pod).await {
                    Err(_) => self.twin(pod).await,
                    created => created,
                };
            }
            _ => {}
        }
        self.inner.create_pod(pod).await
    }
}

pub(crate) fn secrets(pod: &ResolvedPod) -> String {
    pod.containers.iter().flat_map(|c| &c.env).map(|variable| variable.value.expose()).collect()
}

fn init_fails(pod: &ResolvedPod) -> bool {
    pod.annotation(&format!("{PREFIX}exit-code.{INIT}")) == Some("3")
}

fn without_init(pod: &ResolvedPod) -> ResolvedPod {
    let mut pod = pod.clone();
    pod.containers.retain(|container| container.kind != ContainerKind::Init);
    let mut object = k8s_openapi::api::core::v1::Pod::clone(&pod.object);
    if let Some(spec) = &mut object.spec {
        spec.init_containers = None;
    }
    if let Some(annotations) = &mut object.metadata.annotations {
        annotations.retain(|key, _| key.rsplit('.').next() != Some("init"));
    }
    pod.object = Arc::new(object);
    pod
}

fn is_restarted(pod: &ResolvedPod) -> bool {
    let policy = pod.object.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref());
    policy == Some("Always")
}

fn on_failure_becomes(pod: &ResolvedPod, policy: &str) -> ResolvedPod {
    let mut pod = pod.clone();
    let mut object = k8s_openapi::api::core::v1::Pod::clone(&pod.object);
    if let Some(spec) = &mut object.spec
        && spec.restart_policy.as_deref() == Some("OnFailure")
    {
        spec.restart_policy = Some(policy.to_owned());
    }
    pod.object = Arc::new(object);
    pod
}

fn spoil_error(bug: Bug, error: Error, pod: &ResolvedPod) -> Error {
    match (bug, error) {
        (Bug::PassingFailureIsFinal, Error::Unavailable { message, .. }) => Error::rejected("spec", message),
        (Bug::RefusalLooksPassing, Error::Rejected { reason, .. }) => Error::unavailable(reason),
        (Bug::SecretInErrors, Error::Rejected { field, reason }) => {
            Error::rejected(field, format!("{reason}, in {}", secrets(pod)))
        }
        (Bug::SecretInErrors, error) => Error::unavailable(format!("{error}, for {}", secrets(pod))),
        (_, error) => error,
    }
}

#[async_trait]
impl Provider for Buggy {
    fn name(&self) -> &'static str {
        if self.is(Bug::NameIsATitle) { "The Mock" } else { self.inner.name() }
    }

    fn native(&self) -> Features {
        self.inner.native()
    }

    fn fields(&self) -> &FieldSupport {
        self.inner.fields()
    }

    async fn node_info(&self) -> Result<NodeInfo> {
        if self.is(Bug::OneCallAtATime) {
            let _alone = self.gate.write().await;
        }
        if self.is(Bug::BlocksTheThread) {
            #[expect(clippy::disallowed_methods, reason = "it is the mistake")]
            std::thread::sleep(Duration::from_millis(250));
        }
        let answer = self.inner.node_info().await;
        if self.is(Bug::SwallowsNodeErrors) && answer.is_err() {
            return Ok(self.lock().node.clone().unwrap_or_default());
        }
        let mut info = answer?;
        self.lock().node = Some(info.clone());
        match self.bug {
            Bug::CapacityLacksPods => drop(info.capacity.remove("pods")),
            Bug::AllocatesMoreThanThereIs => {
                let mut more = info.capacity.clone();
                more.entry("pods".to_owned()).and_modify(|pods| "1M".clone_into(&mut pods.0));
                info.allocatable = Some(more);
            }
            _ => {}
        }
        Ok(info)
    }

    async fn create_pod(&self, pod: &ResolvedPod) -> Result<()> {
        let uid = pod.pod.uid.clone();
        let _shared = if self.is(Bug::OneCallAtATime) { Some(self.gate.read().await) } else { None };
        let _alone = if self.is(Bug::OneCreateAtATime) { Some(self.gate.write().await) } else { None };
        if self.is(Bug::DroppedCreateLeaks) && !self.lock().under_way.insert(uid.clone()) {
            return Err(Error::unavailable("it is being created"));
        }
        let created = self.try_create(pod).await;
        let mut memory = self.lock();
        memory.under_way.remove(&uid);
        if created.is_ok() {
            memory.created.insert(uid, pod.clone());
        }
        created.map_err(|error| spoil_error(self.bug, error, pod))
    }

    async fn delete_pod(&self, pod: &PodRef, grace: Duration) -> Result<()> {
        let uid = &pod.uid;
        let again = self.lock().deleted.contains_key(uid);
        let waits = self.waits(uid);
        let mut wanted = grace;
        match self.bug {
            Bug::DeletesByName => {
                for other in self.inner.list_pods().await? {
                    if other.pod.name == pod.name {
                        self.inner.delete_pod(&other.pod, grace).await?;
                    }
                }
            }
            Bug::UnknownCannotBeDeleted if !self.has(uid) => return Err(Error::not_found("the pod")),
            // With a shorter one it is no second deletion but a change of the first.
            Bug::RefusesASecondDelete if again && self.has(uid) && grace >= Duration::from_mins(1) => {
                return Err(Error::unexpected("409: it is being deleted"));
            }
            Bug::DroppedDeleteLeaks if !self.lock().under_way.insert(uid.clone()) => return Ok(()),
            Bug::IgnoresGrace => wanted = Duration::ZERO,
            Bug::NeverKills if !again && !grace.is_zero() => wanted = grace * 3600,
            Bug::ZeroGraceIsTheDefault if grace.is_zero() => wanted = Duration::from_secs(30),
            Bug::IgnoresAShorterGrace if again && !grace.is_zero() => return Ok(()),
            Bug::DeletesOnlyWhatItKnows => {
                let memory = self.lock();
                if !memory.created.contains_key(uid) && !memory.listed.contains(uid) {
                    return Ok(());
                }
            }
            Bug::BackOffOutlivesDeletion if !again && waits => {
                self.lock().deleted.insert(uid.clone(), pod.clone());
                return Ok(());
            }
            Bug::DroppedDeleteEndsOthers => return self.delete_or_else(pod, grace).await,
            Bug::DeletesOthers => self.others.delete_pod(pod, grace).await?,
            _ => {}
        }
        let twin = self.lock().twins.get(uid).cloned();
        if let Some(twin) = twin {
            let twin = PodRef { uid: twin, ..pod.clone() };
            self.inner.delete_pod(&twin, wanted).await?;
        }
        let deleted = self.inner.delete_pod(pod, wanted).await;
        let revived = {
            let mut memory = self.lock();
            memory.under_way.remove(uid);
            if deleted.is_ok() {
                memory.deleted.insert(uid.clone(), pod.clone());
            }
            memory.created.get(uid).cloned()
        };
        if self.is(Bug::GoneTooEarly) && self.has(uid) {
            let _ = self.injected.send(PodEvent::Gone { pod: pod.clone(), last: None });
        }
        // Those that wait for a restart, and those that would not be restarted, are other clauses'.
        if self.is(Bug::RevivesTheDeleted)
            && !again
            && !waits
            && let Some(pod) = revived.filter(is_restarted)
        {
            let inner = Arc::clone(&self.inner);
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_secs(2)).await;
                let _ = inner.create_pod(&pod).await;
            });
        }
        if self.is(Bug::SwallowsDeleteErrors) { Ok(()) } else { deleted }
    }

    async fn list_pods(&self) -> Result<Vec<ObservedPod>> {
        let answer = self.inner.list_pods().await;
        if self.is(Bug::ListErrorIsAbsence) && answer.is_err() {
            return Ok(Vec::new());
        }
        let mut pods = answer?;
        for pod in &mut pods {
            self.tell(pod);
        }
        self.tell_list(&mut pods);
        if self.is(Bug::ListsOthers) {
            pods.extend(self.others.list_pods().await?);
        }
        Ok(pods)
    }

    fn watch_pods(self: Arc<Self>) -> BoxStream<'static, Result<PodEvent>> {
        let injected = stream::unfold(self.injected.subscribe(), |mut injected| async move {
            let event = injected.recv().await.ok()?;
            Some((Ok(event), injected))
        });
        let watches = {
            let mut memory = self.lock();
            memory.watches += 1;
            memory.watches
        };
        let mut watch = Arc::clone(&self.inner).watch_pods();
        match self.bug {
            Bug::WatchWithoutListing => watch = watch.skip(1).boxed(),
            Bug::WatchesOnce if watches > 1 => watch = watch.take(1).chain(stream::pending()).boxed(),
            Bug::WatchErrorIsAbsence => {
                let empty =
                    |item: Result<PodEvent>| Ok(item.unwrap_or_else(|_| PodEvent::Listed(Vec::new())));
                watch = watch.map(empty).boxed();
            }
            Bug::WatchesOthers => {
                let changes =
                    |item: &Result<PodEvent>| std::future::ready(matches!(item, Ok(PodEvent::Changed(_))));
                let others = Arc::clone(&self.others).watch_pods().filter(changes);
                watch = stream::select(watch, others).boxed();
            }
            _ => {}
        }
        let told = watch.flat_map(move |item| {
            stream::iter(match item {
                Ok(event) => self.tell_event(event).into_iter().map(Ok).collect(),
                Err(error) => vec![Err(error)],
            })
        });
        stream::select(told, injected).boxed()
    }

    fn prepare(&self) -> Option<&dyn PodPrepare> {
        Some(self)
    }
    fn update(&self) -> Option<&dyn PodUpdate> {
        Some(self)
    }
    fn logs(&self) -> Option<&dyn ContainerLogs> {
        Some(self)
    }
    fn exec(&self) -> Option<&dyn ContainerExec> {
        Some(self)
    }
    fn attach(&self) -> Option<&dyn ContainerAttach> {
        Some(self)
    }
    fn port_forward(&self) -> Option<&dyn PortForward> {
        Some(self)
    }
    fn stats(&self) -> Option<&dyn PodStats> {
        Some(self)
    }
}
