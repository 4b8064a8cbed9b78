//! A backend of puppets: containers that do what a script says of each of their runs, and a journal of what was done.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use tokio::sync::{broadcast, watch};
use tokio::time::{Instant, sleep};
use vk_core::clock::Clock;
use vk_core::containers::{
    BackendEvent, ContainerBackend, ContainerResize, ContainerRun, ContainerSpec, Image, RunExit, RunRecord,
    RunState, SandboxRecord,
};
use vk_core::provider::{
    ContainerAttach, ContainerExec, ContainerLogs, ContainerRef, Error, ExecIo, ExitStatus, FieldSupport,
    NodeInfo, PodRef, PodStats, PortForward, PullCredential, ResolvedPod, ResolvedVolume, Result,
};

/// What one run does.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Act {
    /// It ends by itself after so long; `None` is never.
    pub(crate) lasts: Option<Duration>,
    /// Its exit code then.
    pub(crate) code: i32,
    /// How long after SIGTERM it ends, and with which code; `None` hears no signal.
    pub(crate) term: Option<(Duration, i32)>,
    /// Whether it can be started.
    pub(crate) starts: bool,
}

/// What a container does: run after run, and from then on.
#[derive(Clone, Debug)]
pub(crate) struct Role {
    pub(crate) runs: Vec<Act>,
    pub(crate) then: Act,
    /// What its probes answer, by kind, in every run anew; the last answer stays.
    pub(crate) answers: BTreeMap<&'static str, Vec<bool>>,
}

/// Something that was done.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Deed {
    Started {
        name: String,
        attempt: u32,
    },
    StartFailed {
        name: String,
        attempt: u32,
    },
    Term {
        name: String,
        grace: Duration,
    },
    Ended {
        name: String,
        code: i32,
    },
    Probed {
        name: String,
        kind: String,
        well: bool,
    },
    SandboxStopped,
    SandboxRemoved,
    /// The test has deleted the pod.
    Deleted {
        grace: Duration,
    },
    /// The test has added an ephemeral container.
    Added {
        name: String,
    },
}

/// See the module. Clones are one backend, which knows one pod.
#[derive(Clone, Debug)]
pub(crate) struct Puppets(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    clock: Clock,
    roles: Mutex<BTreeMap<String, Role>>,
    /// How long a listing is on its way: it is as old as that when it arrives.
    listing: Duration,
    state: Mutex<State>,
    told: broadcast::Sender<BackendEvent>,
}

#[derive(Debug, Default)]
struct State {
    sandbox: Option<SandboxRecord>,
    puppets: Vec<Arc<Puppet>>,
    images_missing: bool,
    blocked: bool,
    journal: Vec<(Instant, Deed)>,
}

/// One run.
#[derive(Debug)]
struct Puppet {
    run: ContainerRun,
    act: Act,
    state: watch::Sender<RunState>,
    term: watch::Sender<bool>,
    kill: watch::Sender<bool>,
    probed: Mutex<BTreeMap<String, usize>>,
}

impl Puppet {
    fn is_live(&self) -> bool {
        matches!(*self.state.borrow(), RunState::Running { .. })
    }

    fn record(&self) -> RunRecord {
        let id = format!("puppet://{}-{}", self.run.name(), self.run.attempt);
        RunRecord::new(self.run.clone(), id, self.state.borrow().clone())
    }

    async fn play(&self) -> i32 {
        let by_itself = async {
            match self.act.lasts {
                Some(lasts) => sleep(lasts).await,
                None => std::future::pending().await,
            }
            self.act.code
        };
        let (mut term, mut kill) = (self.term.subscribe(), self.kill.subscribe());
        let told = async {
            let _ = term.wait_for(|told| *told).await;
            let Some((after, code)) = self.act.term else { return std::future::pending().await };
            sleep(after).await;
            code
        };
        tokio::select! {
            code = by_itself => code,
            code = told => code,
            _ = kill.wait_for(|killed| *killed) => 137,
        }
    }
}

impl Puppets {
    pub(crate) fn new(clock: Clock, roles: BTreeMap<String, Role>, listing: Duration) -> Self {
        let told = broadcast::Sender::new(1024);
        let (roles, state) = (Mutex::new(roles), Mutex::default());
        Self(Arc::new(Inner { clock, roles, listing, state, told }))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn note(&self, deed: Deed) {
        self.lock().journal.push((Instant::now(), deed));
    }

    pub(crate) fn journal(&self) -> Vec<(Instant, Deed)> {
        self.lock().journal.clone()
    }

    /// Whether pulls of images fail.
    pub(crate) fn lack_images(&self, lack: bool) {
        self.lock().images_missing = lack;
    }

    /// Whether containers cannot be created for what is wrong with their configuration.
    pub(crate) fn block(&self, block: bool) {
        self.lock().blocked = block;
    }

    pub(crate) fn cast(&self, name: &str, role: Role) {
        self.0.roles.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), role);
    }

    fn role(&self, name: &str) -> Role {
        self.0.roles.lock().unwrap_or_else(PoisonError::into_inner)[name].clone()
    }

    /// Ends the container's run, if there is one, as something outside does.
    pub(crate) fn crash(&self, name: &str) {
        let state = self.lock();
        for puppet in state.puppets.iter().filter(|puppet| puppet.run.name() == name) {
            puppet.kill.send_replace(true);
        }
    }

    fn find(&self, run: &ContainerRun) -> Option<Arc<Puppet>> {
        self.lock().puppets.iter().find(|puppet| puppet.run == *run).cloned()
    }

    fn tell(&self, puppet: &Puppet) {
        let _ = self.0.told.send(BackendEvent::Run(puppet.record()));
    }

    async fn drive(self, puppet: Arc<Puppet>, started_at: jiff::Timestamp) {
        let code = puppet.play().await;
        self.note(Deed::Ended { name: puppet.run.name().to_owned(), code });
        let exit = RunExit::new(ExitStatus::Code(code), started_at, self.0.clock.now());
        puppet.state.send_replace(RunState::Exited(exit));
        self.tell(&puppet);
    }

    fn snapshot(&self) -> Vec<SandboxRecord> {
        let state = self.lock();
        let sandbox = state.sandbox.clone().map(|mut sandbox| {
            sandbox.runs = state.puppets.iter().map(|puppet| puppet.record()).collect();
            sandbox
        });
        sandbox.into_iter().collect()
    }
}

/// Whatever a plot asks for.
static FIELDS: LazyLock<FieldSupport> =
    LazyLock::new(|| FieldSupport::of_containers("puppets").native("spec"));

#[async_trait]
impl ContainerBackend for Puppets {
    fn name(&self) -> &'static str {
        "puppets"
    }

    fn fields(&self) -> &FieldSupport {
        &FIELDS
    }

    async fn node_info(&self) -> Result<NodeInfo> {
        Ok(NodeInfo::new(BTreeMap::new()))
    }

    async fn reserve_addresses(&self, _: &PodRef) -> Result<Vec<IpAddr>> {
        Ok(vec![IpAddr::V4(Ipv4Addr::new(10, 0, 0, 7))])
    }

    async fn create_sandbox(&self, pod: &ResolvedPod) -> Result<Vec<IpAddr>> {
        let ips = self.reserve_addresses(&pod.pod).await?;
        self.lock().sandbox = Some(SandboxRecord::new(pod.pod.clone(), ips.clone(), self.0.clock.now()));
        Ok(ips)
    }

    async fn remove_sandbox(&self, pod: &PodRef) -> Result<()> {
        self.stop_sandbox(pod).await?;
        self.note(Deed::SandboxRemoved);
        let mut state = self.lock();
        state.sandbox = None;
        state.puppets.clear();
        drop(state);
        let _ = self.0.told.send(BackendEvent::Removed(pod.clone()));
        Ok(())
    }

    async fn stop_sandbox(&self, _: &PodRef) -> Result<()> {
        self.note(Deed::SandboxStopped);
        let puppets = {
            let mut state = self.lock();
            if let Some(sandbox) = &mut state.sandbox {
                sandbox.stopped = true;
            }
            state.puppets.clone()
        };
        for puppet in puppets {
            puppet.kill.send_replace(true);
            let mut state = puppet.state.subscribe();
            let _ = state.wait_for(|state| !matches!(state, RunState::Running { .. })).await;
        }
        Ok(())
    }

    async fn publish_files(&self, _: &PodRef, _: &[ResolvedVolume]) -> Result<()> {
        Ok(())
    }

    async fn read_volume_file(&self, _: &PodRef, _: &str, _: &str, _: usize) -> Result<Option<Bytes>> {
        Ok(None)
    }

    async fn volume_usage(&self, _: &PodRef) -> Result<BTreeMap<String, u64>> {
        Ok(BTreeMap::new())
    }

    async fn find_image(&self, image: &str) -> Result<Option<Image>> {
        Ok((!self.lock().images_missing).then(|| Image::new(image)))
    }

    async fn pull_image(&self, image: &str, _: &[PullCredential]) -> Result<Image> {
        if self.lock().images_missing {
            return Err(Error::unavailable(format!("no registry has {image}")));
        }
        Ok(Image::new(image))
    }

    async fn create_container(&self, spec: &ContainerSpec) -> Result<()> {
        if self.lock().blocked {
            return Err(Error::rejected("env", "secret \"late\" not found"));
        }
        if self.find(&spec.run).is_some() {
            return Ok(());
        }
        let role = self.role(spec.run.name());
        let act = role.runs.get(spec.run.attempt as usize).copied().unwrap_or(role.then);
        let puppet = Arc::new(Puppet {
            run: spec.run.clone(),
            act,
            state: watch::Sender::new(RunState::Created),
            term: watch::Sender::new(false),
            kill: watch::Sender::new(false),
            probed: Mutex::default(),
        });
        self.lock().puppets.push(Arc::clone(&puppet));
        self.tell(&puppet);
        Ok(())
    }

    async fn start_container(&self, run: &ContainerRun) -> Result<()> {
        let puppet = self.find(run).ok_or_else(|| Error::not_found(run.to_string()))?;
        let (name, attempt) = (run.name().to_owned(), run.attempt);
        if !puppet.act.starts {
            self.note(Deed::StartFailed { name, attempt });
            return Err(Error::unexpected("no such program"));
        }
        self.note(Deed::Started { name, attempt });
        let started_at = self.0.clock.now();
        puppet.state.send_replace(RunState::Running { started_at });
        self.tell(&puppet);
        tokio::spawn(self.clone().drive(puppet, started_at));
        Ok(())
    }

    async fn stop_container(&self, run: &ContainerRun, grace: Duration) -> Result<()> {
        let Some(puppet) = self.find(run).filter(|puppet| puppet.is_live()) else { return Ok(()) };
        self.note(Deed::Term { name: run.name().to_owned(), grace });
        if grace.is_zero() {
            puppet.kill.send_replace(true);
            return Ok(());
        }
        puppet.term.send_replace(true);
        tokio::spawn(async move {
            sleep(grace).await;
            puppet.kill.send_replace(true);
        });
        Ok(())
    }

    async fn remove_container(&self, run: &ContainerRun) -> Result<()> {
        self.lock().puppets.retain(|puppet| puppet.run != *run || puppet.is_live());
        Ok(())
    }

    async fn list(&self) -> Result<Vec<SandboxRecord>> {
        let listed = self.snapshot();
        sleep(self.0.listing).await;
        Ok(listed)
    }

    fn watch(self: Arc<Self>) -> BoxStream<'static, Result<BackendEvent>> {
        let events = self.0.told.subscribe();
        let first = stream::iter([Ok(BackendEvent::Listed(self.snapshot()))]);
        let rest = stream::unfold(events, |mut events| async move {
            let event = events.recv().await.ok()?;
            Some((Ok(event), events))
        });
        first.chain(rest).boxed()
    }

    fn resize(&self) -> Option<&dyn ContainerResize> {
        None
    }
    fn logs(&self) -> Option<&dyn ContainerLogs> {
        None
    }
    fn exec(&self) -> Option<&dyn ContainerExec> {
        Some(self)
    }
    fn attach(&self) -> Option<&dyn ContainerAttach> {
        None
    }
    fn port_forward(&self) -> Option<&dyn PortForward> {
        None
    }
    fn stats(&self) -> Option<&dyn PodStats> {
        None
    }
}

/// The commands are probes, by kind, and `sleep SECONDS`.
#[async_trait]
impl ContainerExec for Puppets {
    async fn exec(&self, container: &ContainerRef, command: &[String], _: ExecIo) -> Result<ExitStatus> {
        if let [program, seconds] = command
            && program == "sleep"
        {
            sleep(Duration::from_secs_f64(seconds.parse().expect("seconds"))).await;
            return Ok(ExitStatus::Code(0));
        }
        let live = |puppet: &&Arc<Puppet>| puppet.run.name() == &*container.name && puppet.is_live();
        let puppet = self.lock().puppets.iter().find(live).cloned();
        let puppet = puppet.ok_or_else(|| Error::not_found(container.to_string()))?;
        let kind = command.first().cloned().unwrap_or_default();
        let role = self.role(&container.name);
        let answers = role.answers.get(kind.as_str()).cloned().unwrap_or_default();
        let mut probed = puppet.probed.lock().unwrap_or_else(PoisonError::into_inner);
        let count = probed.entry(kind.clone()).or_default();
        let well = answers.get(*count).or(answers.last()).copied().unwrap_or(true);
        *count += 1;
        drop(probed);
        self.note(Deed::Probed { name: container.name.to_string(), kind, well });
        Ok(ExitStatus::Code(i32::from(!well)))
    }
}
