//! One running control plane: up, down, and each component by itself.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;

use crate::cache::Cache;
use crate::component::{
    AUDIT, AUDIT_LOG, AUDIT_POLICY, CONTROLLER_MANAGER_KUBECONFIG, Component, SCHEDULER_KUBECONFIG,
};
use crate::module::{Module, Version};
use crate::namespace::Namespace;
use crate::pki::{KUBELET_CLIENT_GROUP, Pair, Pki};
use crate::state::{Folder, Record};
use crate::wait::{Stopwatch, until};
use crate::{
    CURRENT_DIR, SERVING_CERT, SERVING_KEY, TEST_KUBECONFIG, TEST_NODE_ADDRESS, addresses, binaries,
    kubeconfig,
};

/// How long a component may take to be ready. Seconds on an idle machine; a busy two-core one is slower.
const READY: Duration = Duration::from_mins(2);

/// How long a component may take to end by itself.
const GRACE: Duration = Duration::from_secs(15);

/// How to bring an instance up.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// The Kubernetes release. Default 1.37.2.
    pub version: Version,
    /// Let etcd wait for the disk at each write, as a real one does. Default no: tests don't survive power cuts.
    /// Benchmarks want yes.
    pub durable: bool,
}

/// A control plane: one of ours, or the cluster of a given kubeconfig.
#[derive(Debug, Clone)]
pub struct ControlPlane {
    kind: Kind,
}

#[derive(Debug, Clone)]
enum Kind {
    Own { cache: Cache, folder: Folder, record: Record },
    Given { kubeconfig: PathBuf, node_address: Option<IpAddr> },
}

/// One line of a status report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The component.
    pub component: Component,
    /// Its process id, while it runs.
    pub pid: Option<i32>,
    /// Whether it was frozen by [`ControlPlane::freeze`].
    pub frozen: bool,
    /// Resident memory in bytes, while it runs.
    pub resident: Option<u64>,
}

/// The cluster named by [`TEST_KUBECONFIG`], if any.
fn given() -> Result<Option<ControlPlane>> {
    let Some(path) = env::var_os(TEST_KUBECONFIG).filter(|value| !value.is_empty()) else { return Ok(None) };
    let kubeconfig = fs::canonicalize(&path)
        .with_context(|| format!("{TEST_KUBECONFIG}={} can't be opened", path.display()))?;
    let node_address = match env::var(TEST_NODE_ADDRESS) {
        Ok(text) => {
            Some(text.parse().with_context(|| format!("{TEST_NODE_ADDRESS}={text} is not an IP address"))?)
        }
        Err(_) => None,
    };
    Ok(Some(ControlPlane { kind: Kind::Given { kubeconfig, node_address } }))
}

fn folder_of(cache: &Cache, instance: &str) -> Result<Folder> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    if instance.is_empty() || instance.len() > 60 || !instance.chars().all(plain) {
        bail!("{instance:?} can't name an instance: use up to 60 letters, digits, - and _");
    }
    Ok(Folder(cache.instances().join(instance)))
}

/// Holds the instance's lock while it is brought up or down.
fn lock(folder: &Folder) -> Result<File> {
    fs::create_dir_all(&folder.0).with_context(|| format!("making {}", folder.0.display()))?;
    let path = folder.0.with_extension("lock");
    let file = File::create(&path).with_context(|| format!("making {}", path.display()))?;
    file.lock().with_context(|| format!("locking {}", path.display()))?;
    Ok(file)
}

impl ControlPlane {
    /// Brings an instance up, or back to full strength: builds what was never built, makes what is missing,
    /// starts what doesn't run, and returns once all of it is ready. An instance of another version or
    /// durability is taken down first, and its data with it.
    ///
    /// With [`TEST_KUBECONFIG`] set it is that cluster instead, and nothing is done.
    pub fn up(cache: &Cache, instance: &str, options: &Options) -> Result<Self> {
        if let Some(given) = given()? {
            return Ok(given);
        }
        let folder = folder_of(cache, instance)?;
        for module in [Module::Etcd, Module::Kubernetes(options.version)] {
            binaries::ensure(cache, module)?;
        }
        let _lock = lock(&folder)?;
        let started = Stopwatch::start();
        let version = options.version.release();
        if let Some(old) = folder.record()?
            && (old.version != version || old.durable != options.durable)
        {
            eprintln!("instance {instance} runs {} now: taking it down first", old.version);
            remove(&folder, Some(&old))?;
        }
        let record = if let Some(record) = folder.record()? {
            let namespace = if record.namespace.exists() {
                record.namespace
            } else {
                // What still runs does so where nobody can reach it any more.
                stop_all(&folder)?;
                Namespace::create(&folder.0)?
            };
            Record { namespace, ..record }
        } else {
            remove(&folder, None)?;
            prepare(&folder)?;
            let namespace = Namespace::create(&folder.0)?;
            Record { version: version.to_owned(), durable: options.durable, namespace }
        };
        folder.write_record(&record)?;
        let policy = folder.0.join(AUDIT_POLICY);
        fs::write(&policy, AUDIT).with_context(|| format!("writing {}", policy.display()))?;
        let plane = Self { kind: Kind::Own { cache: cache.clone(), folder, record } };
        plane.bring_up(version)?;
        eprintln!(
            "control plane {version} ({instance}) is up after {:.1} s",
            started.elapsed().as_secs_f64()
        );
        Ok(plane)
    }

    /// [`ControlPlane::up`] with the environment's cache: what a test calls.
    pub fn ensure_up(instance: &str, version: Version) -> Result<Self> {
        Self::up(&Cache::from_env()?, instance, &Options { version, durable: false })
    }

    /// The instance of this name if it was brought up, running or not.
    pub fn find(cache: &Cache, instance: &str) -> Result<Option<Self>> {
        if let Some(given) = given()? {
            return Ok(Some(given));
        }
        Self::at(cache, folder_of(cache, instance)?)
    }

    fn at(cache: &Cache, folder: Folder) -> Result<Option<Self>> {
        let record = folder.record()?;
        Ok(record.map(|record| Self { kind: Kind::Own { cache: cache.clone(), folder, record } }))
    }

    /// The control plane in whose namespace this process was started by `control-plane run`, or the given cluster.
    pub fn current() -> Result<Self> {
        if let Some(given) = given()? {
            return Ok(given);
        }
        let Some(folder) = env::var_os(CURRENT_DIR) else {
            bail!(
                "this must run inside a control plane's namespace: \
                 cargo xtask control-plane run -- COMMAND… (or set {TEST_KUBECONFIG})"
            );
        };
        let folder = Folder(PathBuf::from(folder));
        let path = folder.0.display().to_string();
        Self::at(&Cache::from_env()?, folder)?
            .with_context(|| format!("no control plane was brought up in {path}"))
    }

    /// Stops an instance and removes all of it but its logs. Returns whether there was one. With
    /// [`TEST_KUBECONFIG`] set nothing is done.
    pub fn down(cache: &Cache, instance: &str) -> Result<bool> {
        if given()?.is_some() {
            return Ok(false);
        }
        let folder = folder_of(cache, instance)?;
        let _lock = lock(&folder)?;
        let record = folder.record()?;
        remove(&folder, record.as_ref())?;
        Ok(record.is_some())
    }

    fn bring_up(&self, version: &str) -> Result<()> {
        // The API server waits for etcd by itself, so the two start together.
        for component in [Component::Etcd, Component::ApiServer] {
            if !self.is_running(component)? {
                eprintln!("starting {component} {}", if component == Component::Etcd { "" } else { version });
                self.start(component)?;
            }
        }
        self.wait_ready(Component::ApiServer)?;
        self.bind_kubelet_client()?;
        if !self.has_controllers() {
            return Ok(());
        }
        for component in [Component::ControllerManager, Component::Scheduler] {
            if !self.is_running(component)? {
                eprintln!("starting {component} {version}");
                self.start(component)?;
            }
        }
        self.wait_ready(Component::ControllerManager)?;
        self.wait_ready(Component::Scheduler)?;
        until("the default service account", READY, || {
            self.kubectl_says(&["get", "serviceaccount", "default", "--namespace=default"])
        })
    }

    /// Lets the API server's kubelet client do what `system:kubelet-api-admin` may, at nodes that ask the API server.
    fn bind_kubelet_client(&self) -> Result<()> {
        let name = "vk-test:kubelet-api";
        if self.kubectl_says(&["get", "clusterrolebinding", name])?.is_none() {
            return Ok(());
        }
        until("the role binding of the kubelet client", READY, || {
            let group = format!("--group={KUBELET_CLIENT_GROUP}");
            self.kubectl_says(&[
                "create",
                "clusterrolebinding",
                name,
                "--clusterrole=system:kubelet-api-admin",
                &group,
            ])
        })
    }

    /// Runs kubectl as the admin; what it complained about, if it failed.
    fn kubectl_says(&self, arguments: &[&str]) -> Result<Option<String>> {
        let mut command = self.enter("kubectl")?;
        let output = command
            .args(arguments)
            .arg("--request-timeout=5s")
            .stdin(Stdio::null())
            .output()
            .context("starting kubectl")?;
        if output.status.success() {
            return Ok(None);
        }
        let text = String::from_utf8_lossy(&output.stderr);
        Ok(Some(text.trim().lines().last().unwrap_or("kubectl failed without a word").to_owned()))
    }

    fn own(&self) -> Result<(&Cache, &Folder, &Record)> {
        match &self.kind {
            Kind::Own { cache, folder, record } => Ok((cache, folder, record)),
            Kind::Given { .. } => {
                bail!(
                    "the cluster of {TEST_KUBECONFIG} is not ours: its components can't be started or stopped"
                )
            }
        }
    }

    /// Whether it is the cluster of [`TEST_KUBECONFIG`], whose components can't be touched.
    #[must_use]
    pub const fn is_given(&self) -> bool {
        matches!(self.kind, Kind::Given { .. })
    }

    /// The admin's kubeconfig.
    #[must_use]
    pub fn kubeconfig(&self) -> PathBuf {
        match &self.kind {
            Kind::Own { folder, .. } => folder.kubeconfig(),
            Kind::Given { kubeconfig, .. } => kubeconfig.clone(),
        }
    }

    /// The address a node under test should report; `None` on a given cluster without [`TEST_NODE_ADDRESS`].
    #[must_use]
    pub const fn node_address(&self) -> Option<IpAddr> {
        match &self.kind {
            Kind::Own { .. } => Some(IpAddr::V4(addresses::NODE)),
            Kind::Given { node_address, .. } => *node_address,
        }
    }

    /// The namespace it runs in; `None` on a given cluster.
    #[must_use]
    pub const fn namespace(&self) -> Option<&Namespace> {
        match &self.kind {
            Kind::Own { record, .. } => Some(&record.namespace),
            Kind::Given { .. } => None,
        }
    }

    /// Its certificates. An error on a given cluster, whose authority's key we don't have.
    pub fn pki(&self) -> Result<Pki> {
        let (_, folder, _) = self.own()?;
        Ok(Pki::at(&folder.pki()))
    }

    /// What nodes and service accounts asked the API server for, and whether they were allowed: its audit log, one
    /// JSON object per line (`audit.k8s.io/v1` `Event`, level `Metadata`). An error on a given cluster.
    pub fn audit_log(&self) -> Result<PathBuf> {
        let (_, folder, _) = self.own()?;
        Ok(folder.0.join(AUDIT_LOG))
    }

    /// The certificate a node at an address serves its kubelet API with. See [`Pki::serving_cert`].
    pub fn serving_cert(&self, node: &str, address: IpAddr) -> Result<Pair> {
        self.pki()?.serving_cert(node, address)
    }

    /// A kubeconfig for a user and its group, authenticated by a client certificate. `file` names the files.
    pub fn client_kubeconfig(&self, file: &str, user: &str, group: Option<&str>) -> Result<PathBuf> {
        let (_, folder, _) = self.own()?;
        let pki = self.pki()?;
        let pair = pki.client_cert(file, user, group)?;
        let path = folder.0.join(format!("{file}.kubeconfig"));
        kubeconfig::write(&path, &server(), &pki.authority(), &pair)?;
        Ok(path)
    }

    /// A certificate of a node's own identity: see [`node_kubeconfig`](Self::node_kubeconfig).
    pub fn node_certificate(&self, node: &str) -> Result<Pair> {
        self.pki()?.client_cert(&format!("node-{node}"), &format!("system:node:{node}"), Some("system:nodes"))
    }

    /// A kubeconfig with a node's own identity, `system:node:NODE` of `system:nodes`: what the Node authorizer and
    /// NodeRestriction allow a kubelet.
    pub fn node_kubeconfig(&self, node: &str) -> Result<PathBuf> {
        self.client_kubeconfig(&format!("node-{node}"), &format!("system:node:{node}"), Some("system:nodes"))
    }

    /// A command that will run where the plane is reachable, with the environment the crate's documentation lists.
    /// A program named without a slash is looked up with the built kubectl's folder first.
    pub fn enter(&self, program: impl AsRef<OsStr>) -> Result<Command> {
        let mut command = match &self.kind {
            Kind::Own { cache, folder, record } => {
                if !record.namespace.exists() {
                    bail!("the control plane's network namespace is gone: run cargo xtask control-plane up");
                }
                let version: Version = record.version.parse()?;
                let tools = binaries::ensure(cache, Module::Kubernetes(version))?;
                let mut command = record.namespace.command(program);
                command
                    .env("PATH", prepend(&tools, env::var_os("PATH").as_deref())?)
                    .env(CURRENT_DIR, &folder.0);
                let pair = Pki::at(&folder.pki()).nodes_pair();
                // An instance that an earlier version of this crate brought up has none.
                if pair.certificate.is_file() {
                    command.env(SERVING_CERT, pair.certificate).env(SERVING_KEY, pair.key);
                }
                command
            }
            Kind::Given { .. } => Command::new(program),
        };
        command.env("KUBECONFIG", self.kubeconfig());
        if let Some(address) = self.node_address() {
            command.env("NODE_ADDRESS", address.to_string());
        }
        Ok(command)
    }

    /// Whether a component runs. A frozen one does.
    pub fn is_running(&self, component: Component) -> Result<bool> {
        let (_, folder, _) = self.own()?;
        Ok(folder.process(component)?.is_some_and(crate::process::Process::is_alive))
    }

    /// Starts a component that doesn't run, and does not wait for it ([`ControlPlane::wait_ready`] does).
    pub fn start(&self, component: Component) -> Result<()> {
        let (cache, folder, record) = self.own()?;
        if self.is_running(component)? {
            return Ok(());
        }
        let version: Version = record.version.parse()?;
        let binary = binaries::ensure(cache, component.module(version))?.join(component.name());
        let mut command = record.namespace.command(binary);
        command
            .args(component.arguments(&folder.0, &Pki::at(&folder.pki()), record.durable))
            .current_dir(&folder.0);
        let process = crate::process::Process::spawn(&mut command, &folder.log(component))?;
        folder.write_process(component, process)
    }

    /// Waits until a component answers its health endpoint; fails early, with its log's end, when it has exited.
    pub fn wait_ready(&self, component: Component) -> Result<()> {
        let (_, folder, _) = self.own()?;
        let url = component.health();
        let waited = until(&component.to_string(), READY, || {
            if !self.is_running(component)? {
                bail!("{component} has exited");
            }
            // kubectl brings TLS and the admin's certificate; the loopback servers' certificates are self-signed.
            let (server, path) = split_url(&url);
            let mut arguments = vec!["get", "--raw", path];
            let server = format!("--server={server}");
            if matches!(component, Component::ControllerManager | Component::Scheduler) {
                arguments.extend([
                    server.as_str(),
                    "--insecure-skip-tls-verify=true",
                    "--certificate-authority=",
                ]);
            }
            self.kubectl_says(&arguments)
        });
        waited.with_context(|| {
            format!("{component} is not ready; its log ends with\n{}", tail(&folder.log(component)))
        })
    }

    /// Stops a component in good order (SIGTERM, then SIGKILL after 15 s).
    pub fn stop(&self, component: Component) -> Result<()> {
        self.on_process(component, |process| process.terminate(GRACE))
    }

    /// Kills a component (SIGKILL).
    pub fn kill(&self, component: Component) -> Result<()> {
        self.on_process(component, crate::process::Process::kill)
    }

    /// Freezes a component (SIGSTOP): its connections stay open and nothing answers.
    pub fn freeze(&self, component: Component) -> Result<()> {
        self.on_process(component, |process| process.signal(Signal::SIGSTOP))
    }

    /// Thaws a frozen component (SIGCONT).
    pub fn thaw(&self, component: Component) -> Result<()> {
        self.on_process(component, |process| process.signal(Signal::SIGCONT))
    }

    fn on_process(
        &self,
        component: Component,
        action: impl FnOnce(crate::process::Process) -> Result<()>,
    ) -> Result<()> {
        let (_, folder, _) = self.own()?;
        folder.process(component)?.map_or(Ok(()), action)
    }

    /// What runs, and how much memory it holds.
    pub fn report(&self) -> Result<Vec<Report>> {
        let (_, folder, record) = self.own()?;
        let mut lines = Vec::new();
        let version: Version = record.version.parse()?;
        for component in Component::ALL.into_iter().filter(|component| component.runs(version)) {
            let process = folder.process(component)?.filter(|process| process.is_alive());
            lines.push(Report {
                component,
                pid: process.map(|process| process.pid),
                frozen: process.is_some_and(crate::process::Process::is_stopped),
                resident: process.and_then(crate::process::Process::resident),
            });
        }
        Ok(lines)
    }

    /// Whether controllers and a scheduler run. See [`Version::has_controllers`].
    #[must_use]
    pub fn has_controllers(&self) -> bool {
        let version = self.version().and_then(|version| version.parse::<Version>().ok());
        version.is_none_or(Version::has_controllers)
    }

    /// The Kubernetes release it runs; `None` on a given cluster.
    #[must_use]
    pub fn version(&self) -> Option<&str> {
        match &self.kind {
            Kind::Own { record, .. } => Some(&record.version),
            Kind::Given { .. } => None,
        }
    }
}

fn server() -> String {
    format!("https://{}:{}", addresses::API_SERVER, addresses::API_SERVER_PORT)
}

/// Certificates and kubeconfigs of a new instance.
fn prepare(folder: &Folder) -> Result<()> {
    let pki = Pki::create(&folder.pki())?;
    let authority = pki.authority();
    for (path, pair) in [
        (folder.kubeconfig(), "admin"),
        (folder.0.join(CONTROLLER_MANAGER_KUBECONFIG), "controller-manager"),
        (folder.0.join(SCHEDULER_KUBECONFIG), "scheduler"),
    ] {
        kubeconfig::write(&path, &server(), &authority, &pki.pair(pair))?;
    }
    Ok(())
}

/// Stops whatever runs, the API server's clients first.
fn stop_all(folder: &Folder) -> Result<()> {
    for component in Component::ALL.into_iter().rev() {
        if let Some(process) = folder.process(component)? {
            process.terminate(GRACE).with_context(|| format!("stopping {component}"))?;
        }
    }
    Ok(())
}

/// Stops what runs and removes everything but the logs; the record goes last, so that an interrupted removal is
/// taken up again.
fn remove(folder: &Folder, record: Option<&Record>) -> Result<()> {
    stop_all(folder)?;
    if let Some(record) = record {
        record.namespace.remove()?;
    }
    let entries = fs::read_dir(&folder.0).with_context(|| format!("reading {}", folder.0.display()))?;
    let mut last = None;
    for entry in entries {
        let path = entry.with_context(|| format!("reading {}", folder.0.display()))?.path();
        if path.extension().is_some_and(|extension| extension == "log") && record.is_some() {
            continue;
        }
        if path.file_name().is_some_and(|name| name == "instance.json") {
            last = Some(path);
        } else if path.is_dir() {
            fs::remove_dir_all(&path).with_context(|| format!("removing {}", path.display()))?;
        } else {
            fs::remove_file(&path).with_context(|| format!("removing {}", path.display()))?;
        }
    }
    if let Some(path) = last {
        fs::remove_file(&path).with_context(|| format!("removing {}", path.display()))?;
    }
    Ok(())
}

fn prepend(folder: &Path, path: Option<&OsStr>) -> Result<OsString> {
    let rest = path.map(env::split_paths).into_iter().flatten();
    env::join_paths(std::iter::once(folder.to_owned()).chain(rest))
        .with_context(|| format!("{} can't be part of PATH", folder.display()))
}

/// A URL's server and path.
fn split_url(url: &str) -> (&str, &str) {
    let host = url.find("://").map_or(0, |at| at + 3);
    url[host..].find('/').map_or((url, "/"), |slash| url.split_at(host + slash))
}

/// The last lines of a log.
fn tail(log: &Path) -> String {
    const LINES: usize = 20;
    let bytes = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    let last = &lines[lines.len().saturating_sub(LINES)..];
    if last.is_empty() { format!("  ({} is empty)", log.display()) } else { last.join("\n") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instance_name_can_not_leave_the_cache() {
        let cache = Cache::at(Path::new("/cache"));
        for bad in ["", "..", "a/b", "a b", "a.lock"] {
            assert!(folder_of(&cache, bad).is_err(), "{bad:?}");
        }
        assert_eq!(folder_of(&cache, "test-1_a").expect("plain").0, Path::new("/cache/instances/test-1_a"));
    }

    #[test]
    fn a_url_splits_into_server_and_path() {
        assert_eq!(split_url("https://h:1/readyz"), ("https://h:1", "/readyz"));
        assert_eq!(split_url("https://h:1"), ("https://h:1", "/"));
    }

    #[test]
    fn down_of_what_was_never_up_finds_nothing() {
        let temporary = tempfile::tempdir().expect("a temporary folder");
        let cache = Cache::at(temporary.path());
        assert!(!ControlPlane::down(&cache, "none").expect("nothing to do"));
        assert!(ControlPlane::find(&cache, "none").expect("readable").is_none());
    }

    #[test]
    fn a_new_instance_has_a_certificate_for_everyone() {
        let temporary = tempfile::tempdir().expect("a temporary folder");
        let folder = Folder(temporary.path().to_owned());
        prepare(&folder).expect("certificates");
        let pki = Pki::at(&folder.pki());
        let text = fs::read_to_string(folder.kubeconfig()).expect("the admin's kubeconfig");
        assert!(text.contains("https://192.0.2.1:6443") && text.contains("admin.crt"), "{text}");
        let pair = pki.serving_cert("node-1", IpAddr::V4(addresses::NODE)).expect("a serving certificate");
        assert!(pair.certificate.is_file());
        assert!(pki.nodes_pair().certificate.is_file() && pki.nodes_pair().key.is_file());
        let mode =
            std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&pair.key).expect("a key").permissions());
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn the_built_tools_come_first_on_the_path() {
        let path = prepend(Path::new("/tools"), Some(OsStr::new("/bin:/usr/bin"))).expect("a PATH");
        assert_eq!(path, "/tools:/bin:/usr/bin");
        assert_eq!(prepend(Path::new("/tools"), None).expect("a PATH"), "/tools");
    }
}
