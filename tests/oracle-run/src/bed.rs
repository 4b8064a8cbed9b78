//! What all cases share: the recorder's images, the network of pods, the plane.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::Client;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use vk_control_plane::{ControlPlane, SERVING_CERT, SERVING_KEY};
use vk_core::api::tls::Serving;
use vk_core::api::{Access, Limits};
use vk_core::clock::Clock;
use vk_core::config::NodeConfig;
use vk_core::containers::{ContainerBackend, PodRunner};
use vk_core::node::Instance;
use vk_core::{ApiServer, Node, Shutdown};
use vk_process::{ImageConfig, Network, ProcessBackend, ProcessConfig, busybox_folder, find_busybox};

/// Names the recorder's test program, built; set by `cargo xtask oracle`.
pub(crate) const TOOL: &str = "VK_ORACLE_TOOL";

/// Addresses of pods, as in the recordings.
const PODS: &str = "10.88.0.0/16";

/// The recording machine's resolver and hosts file.
const RESOLVER: &str = "search example.test\nnameserver 198.51.100.53\noptions timeout:1\n";
const HOSTS: &str = "127.0.0.1\tlocalhost\n127.0.0.1 <host's own hosts file>\n";

/// What all cases share.
pub(crate) struct Bed {
    pub client: Client,
    pub address: IpAddr,
    /// Files of images and pods; gone with us.
    folder: TempDir,
    images: BTreeMap<String, ImageConfig>,
    network: Arc<Network>,
    serial: AtomicU32,
}

/// A case's node: our library, and a backend that lives on when the node is stopped.
pub(crate) struct OurNode {
    pub name: String,
    backend: Arc<ProcessBackend>,
    running: Option<JoinHandle<()>>,
}

impl Bed {
    /// Makes the images and the network, in the namespace of the plane that this process was started in.
    pub(crate) async fn open() -> Result<Self> {
        // The first one wins, and they are all the same.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let plane = ControlPlane::current()?;
        let address = plane.node_address().context("the plane has an address for nodes")?;
        let mut config = kube::Config::infer().await.context("KUBECONFIG")?;
        config.default_retry = false;
        let client = Client::try_from(config)?;
        let tool = env::var_os(TOOL).with_context(|| format!("{TOOL}: run by cargo xtask oracle"))?;
        let folder = tempfile::Builder::new().prefix("vko-").tempdir()?;
        let images = images(folder.path(), Path::new(&tool))?;
        fs::write(folder.path().join("resolv.conf"), RESOLVER)?;
        fs::write(folder.path().join("hosts"), HOSTS)?;
        let network = Network::new("vk-oracle", PODS)?;
        let serial = AtomicU32::new(0);
        Ok(Self { client, address, folder, images, network: Arc::new(network), serial })
    }

    /// A node that nobody has had, not started yet.
    pub(crate) fn node(&self) -> Result<OurNode> {
        let number = self.serial.fetch_add(1, Ordering::Relaxed);
        let amounts = [
            ("cpu", "2"),
            // The recording machine's: what containers without a limit see.
            ("memory", "25171652608"),
            ("ephemeral-storage", "32Gi"),
            ("pods", "110"),
        ];
        let config = ProcessConfig {
            not_for_production: true,
            folder: self.folder.path().join(format!("n{number}")),
            images: self.images.clone(),
            capacity: amounts.map(|(name, amount)| (name.to_owned(), Quantity(amount.to_owned()))).into(),
            cluster_dns: vec![IpAddr::from([10, 96, 0, 10])],
            resolv_conf: self.folder.path().join("resolv.conf"),
            hosts_file: self.folder.path().join("hosts"),
            ..ProcessConfig::default()
        };
        let backend = Arc::new(ProcessBackend::new(config, Arc::clone(&self.network))?);
        let name = format!("oracle-{}-{number}", std::process::id());
        Ok(OurNode { name, backend, running: None })
    }
}

impl OurNode {
    /// Starts it, also again.
    pub(crate) async fn start(&mut self, bed: &Bed) -> Result<()> {
        let listener = TcpListener::bind((bed.address, 0)).await.context("a port for the kubelet API")?;
        let mut config =
            NodeConfig::new(&self.name).with_address(bed.address).with_port(listener.local_addr()?.port());
        // Any pod may come, and a kubelet's first write is not held back.
        config.taints = Some(Vec::new());
        config.pending_status_delay = Duration::ZERO;
        let variable = |name: &str| env::var_os(name).map(PathBuf::from).with_context(|| name.to_owned());
        let tls = Serving::files(&variable(SERVING_CERT)?, &variable(SERVING_KEY)?)?;
        let api =
            ApiServer { listener, tls, access: Access::insecure_allow_all(), limits: Limits::default() };
        let provider = Arc::new(PodRunner::new(Arc::clone(&self.backend), Clock::system()));
        let node = Node::builder(config, provider, bed.client.clone())
            .instance(Instance::named(self.name.clone()))
            .serve_api(api)
            .build();
        let name = self.name.clone();
        self.running = Some(tokio::spawn(async move {
            if let Err(error) = Box::pin(node.run(Shutdown::new())).await {
                eprintln!("node {name} ended: {error}");
            }
        }));
        Ok(())
    }

    /// Kills it where it stands. Its containers run on.
    pub(crate) async fn stop(&mut self) {
        if let Some(running) = self.running.take() {
            running.abort();
            // Cancelled; nothing else is to be learnt from it.
            let _ = running.await;
        }
    }

    /// Stops it for good, with its containers.
    pub(crate) async fn remove(mut self) {
        self.stop().await;
        for sandbox in self.backend.list().await.unwrap_or_default() {
            if let Err(error) = self.backend.remove_sandbox(&sandbox.pod).await {
                eprintln!("node {}: {}: {error}", self.name, sandbox.pod);
            }
        }
    }
}

/// The recorder's images (`mkimages.py`), from busybox and its test program.
fn images(folder: &Path, tool: &Path) -> Result<BTreeMap<String, ImageConfig>> {
    let busybox = find_busybox().context("busybox is not on the PATH: install busybox-static")?;
    let base = folder.join("image");
    busybox_folder(&base, &busybox, &[("tool", tool)])?;
    let small = folder.join("small");
    busybox_folder(&small, &busybox, &[])?;
    let words = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect::<Vec<_>>();
    let of_base = ImageConfig {
        folder: base,
        env: words(&["PATH=/bin", "IMAGE_VAR=from-image"]),
        cmd: words(&["/bin/sh"]),
        ..ImageConfig::default()
    };
    let user = |user: &str| ImageConfig { user: user.to_owned(), ..of_base.clone() };
    let entry = ImageConfig {
        entrypoint: words(&["/bin/echo", "entry"]),
        cmd: words(&["cmd"]),
        working_dir: "/data".to_owned(),
        ..of_base.clone()
    };
    let signal = ImageConfig {
        entrypoint: words(&["/bin/tool", "serve"]),
        cmd: Vec::new(),
        stop_signal: "SIGUSR1".to_owned(),
        ..of_base.clone()
    };
    let pulled = ImageConfig {
        folder: small,
        env: words(&["PATH=/bin"]),
        cmd: words(&["/bin/sh"]),
        remote: true,
        ..ImageConfig::default()
    };
    Ok([
        ("oracle.test/user:1", user("1000")),
        ("oracle.test/named:1", user("appuser")),
        ("oracle.test/entry:1", entry),
        ("oracle.test/stopsig:1", signal),
        ("oracle.test/tool:1", of_base),
        ("registry.test/pulled:1", pulled),
    ]
    .map(|(name, image)| (name.to_owned(), image))
    .into())
}
