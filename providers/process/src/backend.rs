//! The backend: pods and their runs, and what is told of them.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io::Read;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use k8s_openapi::api::core::v1::ResourceRequirements;
use nix::sys::signal::Signal;
use nix::unistd::geteuid;
use tokio::sync::broadcast;
use vk_core::containers::{
    BackendEvent, ContainerBackend, ContainerResize, ContainerRun, ContainerSpec, Image, SandboxRecord,
};
use vk_core::provider::{
    ContainerAttach, ContainerExec, ContainerLogs, ContainerRef, Duplex, Error, ExecIo, ExitStatus,
    FieldSupport, LogOptions, LogStream, NodeInfo, PodRef, PodStats, PodUid, PortForward, PullCredential,
    ResolvedPod, ResolvedVolume, Result,
};

use crate::config::{ConfigError, ImageConfig, ProcessConfig};
use crate::helper::{Bind, Launch, Process};
use crate::images::Images;
use crate::network::Network;
use crate::pod::{Pod, volume_path};
use crate::run::{Notify, Run, hex};
use crate::user::User;
use crate::volumes::{self, Place};
use crate::{exec, fields, log};

/// Where a kubelet looks for seccomp profiles.
const SECCOMP: &str = "/var/lib/kubelet/seccomp";

/// The search path of an image that sets none.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Runs containers as processes of this machine. See the [crate](crate) for what that is not.
#[derive(Debug)]
pub struct ProcessBackend {
    config: ProcessConfig,
    images: Images,
    network: Arc<Network>,
    shared: Arc<Shared>,
    serial: AtomicU64,
    opened: OnceLock<std::result::Result<(), String>>,
}

#[derive(Debug)]
struct Shared {
    pods: Mutex<HashMap<PodUid, Pod>>,
    changes: broadcast::Sender<BackendEvent>,
}

impl Shared {
    fn pods(&self) -> MutexGuard<'_, HashMap<PodUid, Pod>> {
        self.pods.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Told while the pods are locked, so that it agrees with every listing. Nobody listening is no error.
    fn tell(&self, event: BackendEvent) {
        let _ = self.changes.send(event);
    }
}

impl ProcessBackend {
    /// A backend with its own files, on a network that others may share. Nothing is made before the first pod.
    ///
    /// # Errors
    /// A setting that cannot be; not being root.
    pub fn new(config: ProcessConfig, network: Arc<Network>) -> Result<Self, ConfigError> {
        config.validate()?;
        if !geteuid().is_root() {
            return Err(ConfigError::new("folder", "the process provider makes namespaces: run as root"));
        }
        let images = Images::new(config.images.clone());
        let shared = Shared { pods: Mutex::default(), changes: broadcast::Sender::new(1024) };
        let (opened, serial) = (OnceLock::new(), AtomicU64::new(0));
        Ok(Self { config, images, network, shared: Arc::new(shared), serial, opened })
    }

    /// Empties and makes the folder, once, when the first pod comes: whoever only asks about the node must not
    /// take another process's files away.
    fn open(&self) -> Result<()> {
        let folder = &self.config.folder;
        let make = || -> std::io::Result<()> {
            if folder.exists() {
                fs::remove_dir_all(folder)?;
            }
            fs::create_dir_all(folder.join("pods"))?;
            fs::create_dir_all(folder.join("s"))
        };
        let opened = self.opened.get_or_init(|| make().map_err(|error| error.to_string()));
        opened.clone().map_err(|error| Error::unavailable(format!("{}: {error}", folder.display())))
    }

    fn next(&self) -> u64 {
        self.serial.fetch_add(1, Ordering::Relaxed)
    }

    fn run(&self, run: &ContainerRun) -> Option<Arc<Run>> {
        let pods = self.shared.pods();
        pods.get(&run.container.pod.uid)?.runs.iter().find(|known| known.spec.run == *run).cloned()
    }

    /// The last run of a container, or the one before.
    fn last_run(&self, container: &ContainerRef, previous: bool) -> Result<Arc<Run>> {
        let pods = self.shared.pods();
        let mut runs: Vec<_> = pods
            .get(&container.pod.uid)
            .into_iter()
            .flat_map(|pod| &pod.runs)
            .filter(|run| run.spec.run.container.name == container.name)
            .collect();
        runs.sort_by_key(|run| std::cmp::Reverse(run.spec.run.attempt));
        let found = runs.get(usize::from(previous)).copied().map(Arc::clone);
        found.ok_or_else(|| Error::not_found(format!("container {container}")))
    }

    /// The launch of a run, and where the pod's volumes are in it.
    fn launch(&self, run: &Run) -> Result<Launch> {
        let pods = self.shared.pods();
        let gone = || Error::not_found(format!("the sandbox of {}", run.spec.run.container.pod));
        let pod = pods.get(&run.spec.run.container.pod.uid).ok_or_else(gone)?;
        let holder = pod.holder.as_ref().ok_or_else(gone)?;
        let image = self.images.get(&run.spec.image).ok_or_else(|| Error::not_found("its image"))?;
        let mut binds = Vec::new();
        for file in ["hosts", "resolv.conf", "hostname"] {
            let (source, target) = (pod.folder.join("etc").join(file), PathBuf::from("/etc").join(file));
            binds.push(Bind { source, target, read_only: false });
        }
        binds.push(Bind {
            source: run.last_words(),
            target: PathBuf::from(&run.spec.termination_message_path),
            read_only: false,
        });
        let mut mounts: Vec<_> = run.spec.mounts.iter().collect();
        // What is mounted below another mount comes after it.
        mounts.sort_by_key(|mount| mount.path.matches('/').count());
        for mount in mounts {
            let (source, read_only) = self.source(pod, &mount.volume)?;
            let source = match &mount.sub_path {
                Some(path) => source.join(path),
                None => source,
            };
            let read_only = read_only || mount.read_only;
            binds.retain(|bind| bind.target != std::path::Path::new(&mount.path));
            binds.push(Bind { source, target: PathBuf::from(&mount.path), read_only });
        }
        let security = run.spec.security.as_ref();
        Ok(Launch {
            sandbox: holder.pid,
            socket: self.config.folder.join("s").join(self.next().to_string()),
            image: image.folder.clone(),
            read_only: security.is_some_and(|security| security.read_only_root_filesystem == Some(true)),
            mount_point: run.folder.join("root"),
            binds,
            process: run.process.clone(),
        })
    }

    /// Where the sandbox sees a volume, and whether it may only be read.
    fn source(&self, pod: &Pod, volume: &str) -> Result<(PathBuf, bool)> {
        match pod.places.get(volume) {
            Some(Place::Disk | Place::Memory(_)) => {
                let is_content = pod.read_only.contains(volume);
                Ok((volume_path(&pod.folder, volume), is_content))
            }
            Some(Place::Host(path)) => Ok((path.clone(), false)),
            Some(Place::Image(name)) => {
                let image = self.images.get(name).ok_or_else(|| Error::not_found(format!("image {name}")))?;
                Ok((image.folder.clone(), true))
            }
            None => Err(Error::not_found(format!("volume {volume}"))),
        }
    }
}

/// Makes the folders of sub-paths, and refuses those that lead out of their volumes.
fn prepare_sub_paths(pod: &Pod, spec: &ContainerSpec) -> Result<()> {
    for mount in &spec.mounts {
        let (Some(path), Some(folder)) = (&mount.sub_path, pod.seen(&mount.volume)) else { continue };
        volumes::below(&folder, path).map_err(|error| {
            tracing::debug!(container = %spec.run, %error, "sub-path");
            // The kubelet's words, which keep the cause for its log.
            let reason = format!(
                "failed to prepare subPath for volumeMount {:?} of container {:?}",
                mount.volume,
                spec.run.name()
            );
            Error::rejected("volumeMounts.subPath", reason)
        })?;
    }
    Ok(())
}

/// The command line of a container on its image.
fn command_line(spec: &ContainerSpec, image: &ImageConfig) -> Vec<String> {
    let exposed = |values: &[vk_core::provider::Value]| -> Vec<String> {
        values.iter().map(|value| value.expose().to_owned()).collect()
    };
    let (command, args) = (exposed(&spec.command), exposed(&spec.args));
    match (command.is_empty(), args.is_empty()) {
        (true, true) => [image.entrypoint.clone(), image.cmd.clone()].concat(),
        (true, false) => [image.entrypoint.clone(), args].concat(),
        (false, _) => [command, args].concat(),
    }
}

/// The environment: the image's, the pod's over it, each at the place where its name first stood.
fn environment(
    spec: &ContainerSpec,
    image: &ImageConfig,
    hostname: &str,
    home: &str,
) -> Vec<(String, String)> {
    let mut env: Vec<(String, String)> = Vec::new();
    let mut set = |name: &str, value: &str| match env.iter_mut().find(|(known, _)| known == name) {
        Some((_, known)) => value.clone_into(known),
        None => env.push((name.to_owned(), value.to_owned())),
    };
    set("PATH", PATH);
    set("HOSTNAME", hostname);
    if spec.tty {
        set("TERM", "xterm");
    }
    for variable in &image.env {
        let (name, value) = variable.split_once('=').unwrap_or((variable, ""));
        set(name, value);
    }
    for variable in &spec.env {
        set(&variable.name, variable.value.expose());
    }
    if !env.iter().any(|(name, _)| name == "HOME") {
        env.push(("HOME".to_owned(), home.to_owned()));
    }
    env
}

/// The signal that a container is stopped by.
fn stop_signal(spec: &ContainerSpec, image: &ImageConfig) -> Signal {
    let wanted = spec.stop_signal.as_deref().unwrap_or(&image.stop_signal);
    let name = if wanted.starts_with("SIG") { wanted.to_owned() } else { format!("SIG{wanted}") };
    Signal::from_str(&name).unwrap_or(Signal::SIGTERM)
}

/// Refuses a profile that is not there, as a runtime does; there is none that could be applied.
fn check_profile(spec: &ContainerSpec) -> Result<()> {
    let profile = spec.security.as_ref().and_then(|security| security.seccomp_profile.as_ref());
    let Some(profile) = profile.filter(|profile| profile.type_ == "Localhost") else { return Ok(()) };
    let path = format!("{SECCOMP}/{}", profile.localhost_profile.as_deref().unwrap_or_default());
    let why = match fs::metadata(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => "no such file or directory",
        _ => "the process provider applies no seccomp profiles",
    };
    Err(Error::unexpected(format!(
        "failed to create the container: cannot load seccomp profile {path:?}: open {path}: {why}"
    )))
}

#[async_trait]
impl ContainerBackend for ProcessBackend {
    fn name(&self) -> &'static str {
        "process"
    }

    fn fields(&self) -> &FieldSupport {
        fields()
    }

    async fn node_info(&self) -> Result<NodeInfo> {
        let mut info = NodeInfo::new(self.config.capacity.clone());
        if cfg!(target_arch = "aarch64") {
            "arm64".clone_into(&mut info.architecture);
        }
        "processes of this machine, not for production".clone_into(&mut info.os_image);
        let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        release.trim().clone_into(&mut info.kernel_version);
        concat!("process://", env!("CARGO_PKG_VERSION")).clone_into(&mut info.container_runtime_version);
        Ok(info)
    }

    async fn reserve_addresses(&self, pod: &PodRef) -> Result<Vec<IpAddr>> {
        self.network.reserve(&pod.uid).map(|address| vec![address])
    }

    async fn create_sandbox(&self, pod: &ResolvedPod) -> Result<Vec<IpAddr>> {
        if let Some(known) = self.shared.pods().get(&pod.pod.uid) {
            return Ok(known.ips.clone());
        }
        self.open()?;
        let class = pod.object.spec.as_ref().and_then(|spec| spec.runtime_class_name.as_deref());
        if let Some(class) = class {
            return Err(Error::unavailable(format!(
                "no runtime for RuntimeClass {class:?} is configured: the process provider has none"
            )));
        }
        let folder = self.config.folder.join("pods").join(pod.pod.uid.as_str());
        let mut made = Pod::make(pod, folder, &self.config).await?;
        let on_host = pod.object.spec.as_ref().is_some_and(|spec| spec.host_network == Some(true));
        if let (false, Some(holder)) = (on_host, &made.holder) {
            let address = self.network.reserve(&pod.pod.uid)?;
            self.network.connect(address, holder.pid).await?;
            made.ips = vec![address];
        }
        made.write_etc(pod, &self.config)?;
        let ips = made.ips.clone();
        let mut pods = self.shared.pods();
        pods.insert(pod.pod.uid.clone(), made);
        self.shared.tell(BackendEvent::Sandbox { pod: pod.pod.clone(), ips: ips.clone(), stopped: false });
        Ok(ips)
    }

    async fn remove_sandbox(&self, pod: &PodRef) -> Result<()> {
        self.stop_sandbox(pod).await?;
        let removed = {
            let mut pods = self.shared.pods();
            let removed = pods.remove(&pod.uid);
            if removed.is_some() {
                self.shared.tell(BackendEvent::Removed(pod.clone()));
            }
            removed
        };
        self.network.free(&pod.uid);
        if let Some(pod) = removed
            && let Err(error) = fs::remove_dir_all(&pod.folder)
        {
            tracing::warn!(pod = %pod.id, folder = %pod.folder.display(), %error, "a pod's files are left");
        }
        Ok(())
    }

    async fn stop_sandbox(&self, pod: &PodRef) -> Result<()> {
        let runs = self.shared.pods().get(&pod.uid).map(|pod| pod.runs.clone()).unwrap_or_default();
        for run in &runs {
            run.stop(Duration::ZERO);
        }
        for run in &runs {
            run.ended().await;
        }
        let holder = self.shared.pods().get_mut(&pod.uid).and_then(|pod| pod.holder.take());
        if let Some(holder) = holder {
            holder.end().await;
            let ips = self.shared.pods().get(&pod.uid).map(|pod| pod.ips.clone()).unwrap_or_default();
            for address in &ips {
                Network::disconnect(*address).await;
            }
            let _pods = self.shared.pods();
            self.shared.tell(BackendEvent::Sandbox { pod: pod.clone(), ips, stopped: true });
        }
        Ok(())
    }

    async fn publish_files(&self, pod: &PodRef, volumes: &[ResolvedVolume]) -> Result<()> {
        let pods = self.shared.pods();
        let pod = pods.get(&pod.uid).ok_or_else(|| Error::not_found(format!("the sandbox of {pod}")))?;
        volumes.iter().try_for_each(|volume| pod.publish(volume))
    }

    async fn read_volume_file(
        &self,
        pod: &PodRef,
        volume: &str,
        path: &str,
        limit: usize,
    ) -> Result<Option<Bytes>> {
        let folder = self.shared.pods().get(&pod.uid).and_then(|pod| pod.seen(volume));
        let Some(folder) = folder else { return Ok(None) };
        let fail = |error: std::io::Error| Error::unavailable(format!("reading volume {volume}: {error}"));
        let file = match fs::canonicalize(folder.join(path)) {
            Ok(file) if file.starts_with(fs::canonicalize(&folder).map_err(fail)?) => file,
            Ok(_) => return Ok(None),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(fail(error)),
        };
        let mut content = Vec::new();
        let file = fs::File::open(file).map_err(fail)?;
        file.take(limit as u64).read_to_end(&mut content).map_err(fail)?;
        Ok(Some(content.into()))
    }

    async fn volume_usage(&self, pod: &PodRef) -> Result<BTreeMap<String, u64>> {
        let pods = self.shared.pods();
        let Some(pod) = pods.get(&pod.uid) else { return Ok(BTreeMap::new()) };
        let measured = pod.places.keys().filter(|name| !pod.read_only.contains(*name));
        Ok(measured.filter_map(|name| Some((name.clone(), volumes::usage(&pod.seen(name)?)))).collect())
    }

    async fn find_image(&self, image: &str) -> Result<Option<Image>> {
        self.images.find(image)
    }

    async fn pull_image(&self, image: &str, _: &[PullCredential]) -> Result<Image> {
        self.images.pull(image)
    }

    async fn create_container(&self, spec: &ContainerSpec) -> Result<()> {
        if self.run(&spec.run).is_some() {
            return Ok(());
        }
        let missing =
            || Error::unexpected(format!("failed to create the container: no image {}", spec.image));
        let image = self.images.get(&spec.image).ok_or_else(missing)?;
        check_profile(spec)?;
        let user = User::of(spec, image)?;
        let command = command_line(spec, image);
        let mut pods = self.shared.pods();
        let gone = || Error::not_found(format!("the sandbox of {}", spec.run.container.pod));
        let pod = pods.get_mut(&spec.run.container.pod.uid).ok_or_else(gone)?;
        prepare_sub_paths(pod, spec)?;
        let serial = self.next();
        let folder = pod.folder.join("runs").join(serial.to_string());
        let process = Process {
            command,
            env: environment(spec, image, &pod.hostname, &user.home),
            folder: match (&spec.working_dir, image.working_dir.as_str()) {
                (Some(folder), _) => folder.into(),
                (None, "") => "/".into(),
                (None, folder) => folder.into(),
            },
            user: user.uid,
            group: user.gid,
            groups: user.groups,
        };
        let id = hex(&[spec.run.uid(), spec.run.name(), &serial.to_string(), &fastrand::u64(..).to_string()]);
        let run =
            Run::new(spec.clone(), format!("process://{id}"), folder, process, stop_signal(spec, image));
        let prepare = || -> std::io::Result<()> {
            fs::create_dir_all(run.folder.join("root"))?;
            fs::write(run.last_words(), [])?;
            fs::set_permissions(run.last_words(), std::os::unix::fs::PermissionsExt::from_mode(0o666))
        };
        prepare().map_err(|error| Error::unavailable(format!("failed to create the container: {error}")))?;
        self.shared.tell(BackendEvent::Run(run.record()));
        pod.runs.push(Arc::new(run));
        Ok(())
    }

    async fn start_container(&self, run: &ContainerRun) -> Result<()> {
        let found = self.run(run).ok_or_else(|| Error::not_found(format!("container {run}")))?;
        if !found.is_created() {
            return Ok(());
        }
        let launch = self.launch(&found)?;
        let shared = Arc::clone(&self.shared);
        let notify: Notify = Arc::new(move |run| {
            let _pods = shared.pods();
            shared.tell(BackendEvent::Run(run.record()));
        });
        found.start(&self.config.program, &launch, notify).await
    }

    async fn stop_container(&self, run: &ContainerRun, grace: Duration) -> Result<()> {
        if let Some(run) = self.run(run) {
            run.stop(grace);
        }
        Ok(())
    }

    async fn remove_container(&self, run: &ContainerRun) -> Result<()> {
        let mut pods = self.shared.pods();
        let Some(pod) = pods.get_mut(&run.container.pod.uid) else { return Ok(()) };
        let Some(index) = pod.runs.iter().position(|known| known.spec.run == *run) else { return Ok(()) };
        if pod.runs[index].pid().is_some() {
            return Err(Error::unexpected(format!("{run} runs")));
        }
        let removed = pod.runs.remove(index);
        if let Err(error) = fs::remove_dir_all(&removed.folder) {
            tracing::warn!(%run, folder = %removed.folder.display(), %error, "a container's files are left");
        }
        Ok(())
    }

    async fn list(&self) -> Result<Vec<SandboxRecord>> {
        Ok(self.shared.pods().values().map(Pod::record).collect())
    }

    fn watch(self: Arc<Self>) -> BoxStream<'static, Result<BackendEvent>> {
        let start = {
            let pods = self.shared.pods();
            (self.shared.changes.subscribe(), pods.values().map(Pod::record).collect())
        };
        let listed = stream::once(std::future::ready(Ok(BackendEvent::Listed(start.1))));
        let changes =
            stream::unfold((start.0, Arc::clone(&self.shared)), |(mut changes, shared)| async move {
                let event = match changes.recv().await {
                    Ok(event) => event,
                    Err(broadcast::error::RecvError::Lagged(_)) => {
                        let pods = shared.pods();
                        changes = changes.resubscribe();
                        let all = pods.values().map(Pod::record).collect();
                        drop(pods);
                        BackendEvent::Listed(all)
                    }
                    Err(broadcast::error::RecvError::Closed) => return None,
                };
                Some((Ok(event), (changes, shared)))
            });
        listed.chain(changes).boxed()
    }

    fn resize(&self) -> Option<&dyn ContainerResize> {
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
        None
    }
}

#[async_trait]
impl ContainerResize for ProcessBackend {
    async fn resize_container(&self, run: &ContainerRun, resources: &ResourceRequirements) -> Result<()> {
        // Memory is all that is limited here.
        self.run(run).ok_or_else(|| Error::not_found(format!("container {run}")))?.resize(resources);
        Ok(())
    }
}

#[async_trait]
impl ContainerLogs for ProcessBackend {
    async fn container_logs(&self, container: &ContainerRef, options: &LogOptions) -> Result<LogStream> {
        let run = self.last_run(container, options.previous)?;
        Ok(log::open(&run.log, options))
    }
}

#[async_trait]
impl ContainerExec for ProcessBackend {
    async fn exec(&self, container: &ContainerRef, command: &[String], io: ExecIo) -> Result<ExitStatus> {
        let run = self.last_run(container, false)?;
        let file = run.folder.join(format!("exec-{}.json", self.next()));
        exec::exec(&self.config.program, &run, file, command, io).await
    }
}

#[async_trait]
impl ContainerAttach for ProcessBackend {
    async fn attach(&self, container: &ContainerRef, io: ExecIo) -> Result<ExitStatus> {
        let run = self.last_run(container, false)?;
        exec::attach(&run, io).await
    }
}

#[async_trait]
impl PortForward for ProcessBackend {
    async fn connect(&self, pod: &PodRef, port: u16) -> Result<Box<dyn Duplex>> {
        let address = self.shared.pods().get(&pod.uid).map(|pod| pod.ips.first().copied());
        let Some(address) = address else { return Err(Error::not_found(format!("pod {pod}"))) };
        // A pod on the machine's network has no address of its own.
        let address = address.unwrap_or_else(|| IpAddr::from([127, 0, 0, 1]));
        let stream = tokio::net::TcpStream::connect((address, port)).await;
        match stream {
            Ok(stream) => Ok(Box::new(stream)),
            Err(error) => Err(Error::unavailable(format!("port {port} of {pod}: {error}"))),
        }
    }
}
