//! A pod's sandbox.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;

use jiff::Timestamp;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::{Child, Command};
use vk_core::containers::SandboxRecord;
use vk_core::provider::{Error, PodRef, ResolvedPod, ResolvedVolume, Result, VolumeContent};

use crate::config::ProcessConfig;
use crate::etc::{self, Name};
use crate::helper::{Sandbox, Scratch};
use crate::run::{Run, helper_command, write_private};
use crate::volumes::{self, Place};

/// A pod.
#[derive(Debug)]
pub(crate) struct Pod {
    pub id: PodRef,
    pub ips: Vec<IpAddr>,
    pub created_at: Timestamp,
    pub folder: PathBuf,
    /// What containers see as `HOSTNAME`.
    pub hostname: String,
    /// `fsGroup`.
    pub group: Option<u32>,
    pub places: BTreeMap<String, Place>,
    /// Volumes with files from the API: containers may not write to them.
    pub read_only: BTreeSet<String>,
    /// `None` once it was stopped.
    pub holder: Option<Holder>,
    pub runs: Vec<Arc<Run>>,
}

/// The process that holds the sandbox. Dropping it ends the sandbox.
#[derive(Debug)]
pub(crate) struct Holder {
    pub pid: i32,
    child: Child,
}

impl Holder {
    async fn start(program: &Path, folder: &Path, sandbox: &Sandbox) -> Result<Self> {
        let fail = |what: String| Error::unavailable(format!("making the sandbox: {what}"));
        let file = folder.join("sandbox.json");
        let text = serde_json::to_vec(sandbox).map_err(|error| fail(error.to_string()))?;
        write_private(&file, &text).map_err(|error| fail(error.to_string()))?;
        let mut command: Command = helper_command(program, "sandbox", &file);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|error| fail(error.to_string()))?;
        let (Some(out), Some(mut err), Some(pid)) = (child.stdout.take(), child.stderr.take(), child.id())
        else {
            return Err(fail("its helper has no output".to_owned()));
        };
        let mut line = String::new();
        BufReader::new(out).read_line(&mut line).await.map_err(|error| fail(error.to_string()))?;
        if line != "ready\n" {
            let mut said = String::new();
            // It has ended; what it said is all there is.
            let _ = err.read_to_string(&mut said).await;
            return Err(fail(said.trim().to_owned()));
        }
        Ok(Self { pid: pid.cast_signed(), child })
    }

    /// Ends the sandbox, and returns when its namespaces are let go of.
    pub(crate) async fn end(mut self) {
        // It is our child and waits for nothing; if it is gone already, so much the better.
        let _ = self.child.kill().await;
    }
}

impl Pod {
    /// Makes the sandbox's folders, volumes and network.
    pub(crate) async fn make(pod: &ResolvedPod, folder: PathBuf, config: &ProcessConfig) -> Result<Self> {
        let fail = |what: &str, error: std::io::Error| Error::unavailable(format!("{what}: {error}"));
        if folder.exists() {
            fs::remove_dir_all(&folder).map_err(|error| fail("clearing the pod's folder", error))?;
        }
        let spec = pod.object.spec.clone().unwrap_or_default();
        let group = spec.security_context.as_ref().and_then(|context| context.fs_group);
        let group = group.and_then(|group| u32::try_from(group).ok());
        let (mut places, mut memory) = (BTreeMap::new(), Vec::new());
        for volume in &pod.volumes {
            let place = volumes::place(pod, volume)?;
            let path = volume_path(&folder, &volume.name);
            if matches!(place, Place::Disk | Place::Memory(_)) {
                fs::create_dir_all(&path).map_err(|error| fail("making a volume", error))?;
            }
            if let Place::Memory(size) = place {
                // As a kubelet: what the node has is the limit of what has none.
                let all = config.capacity.get("memory").and_then(|all| crate::memory::bytes(&all.0));
                memory.push(Scratch { path, size: size.or(all) });
            }
            places.insert(volume.name.clone(), place);
        }
        fs::create_dir_all(folder.join("etc")).map_err(|error| fail("making the pod's folder", error))?;
        let name = Name::of(pod, &config.cluster_domain);
        let on_host = spec.host_network == Some(true);
        let hostname = if on_host {
            fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned()
        } else {
            name.kernel.clone()
        };
        let sandbox = Sandbox { hostname: (!on_host).then(|| name.kernel.clone()), memory };
        let holder = Holder::start(&config.program, &folder, &sandbox).await?;
        let contents = pod.volumes.iter().filter(|volume| matches!(volume.content, VolumeContent::Files(_)));
        let made = Self {
            id: pod.pod.clone(),
            ips: Vec::new(),
            created_at: Timestamp::now(),
            folder,
            hostname,
            group,
            places,
            read_only: contents.map(|volume| volume.name.clone()).collect(),
            holder: Some(holder),
            runs: Vec::new(),
        };
        for volume in &pod.volumes {
            made.open(volume)?;
        }
        Ok(made)
    }

    /// Writes what containers have in `/etc`.
    pub(crate) fn write_etc(&self, pod: &ResolvedPod, config: &ProcessConfig) -> Result<()> {
        let fail = |error: std::io::Error| Error::unavailable(format!("writing the pod's /etc: {error}"));
        let on_host = pod.object.spec.as_ref().is_some_and(|spec| spec.host_network == Some(true));
        // A machine without these files has nothing to pass on.
        let own = |path: &Path| fs::read_to_string(path).unwrap_or_default();
        let name = Name::of(pod, &config.cluster_domain);
        let machine = on_host.then(|| own(&config.hosts_file));
        let hosts = etc::hosts(pod, &name, self.ips.first().copied(), machine.as_deref());
        let resolver = etc::resolv_conf(pod, config, &own(&config.resolv_conf));
        for (file, text) in
            [("hosts", hosts), ("resolv.conf", resolver), ("hostname", format!("{}\n", self.hostname))]
        {
            fs::write(self.folder.join("etc").join(file), text).map_err(fail)?;
        }
        Ok(())
    }

    fn open(&self, volume: &ResolvedVolume) -> Result<()> {
        let Some(path) = self.seen(&volume.name) else { return Ok(()) };
        let fail =
            |error: std::io::Error| Error::unavailable(format!("preparing volume {}: {error}", volume.name));
        volumes::open(&path, self.group).map_err(fail)?;
        self.publish(volume)
    }

    /// Puts new files into a volume.
    pub(crate) fn publish(&self, volume: &ResolvedVolume) -> Result<()> {
        let (Some(path), VolumeContent::Files(files)) = (self.seen(&volume.name), &volume.content) else {
            return Ok(());
        };
        volumes::publish(&path, files, self.group)
            .map_err(|error| Error::unavailable(format!("writing volume {}: {error}", volume.name)))
    }

    /// A volume's folder as this process sees it; `None` if it has none of the sandbox's own, or the sandbox is gone.
    pub(crate) fn seen(&self, volume: &str) -> Option<PathBuf> {
        let path = volume_path(&self.folder, volume);
        match self.places.get(volume)? {
            Place::Disk => Some(path),
            // Memory is mounted where only the sandbox sees it.
            Place::Memory(_) => {
                let root = format!("/proc/{}/root", self.holder.as_ref()?.pid);
                Some(Path::new(&root).join(path.strip_prefix("/").unwrap_or(&path)))
            }
            Place::Host(_) | Place::Image(_) => None,
        }
    }

    /// The pod as a listing has it.
    pub(crate) fn record(&self) -> SandboxRecord {
        let mut record = SandboxRecord::new(self.id.clone(), self.ips.clone(), self.created_at);
        record.stopped = self.holder.is_none();
        record.runs = self.runs.iter().map(|run| run.record()).collect();
        record
    }
}

/// A volume's folder, as the sandbox sees it.
pub(crate) fn volume_path(folder: &Path, volume: &str) -> PathBuf {
    folder.join("volumes").join(volume)
}
