//! A whole cluster in one process: the in-memory API server, a node with the mock provider, and hello-world.
//!
//! The node is started as `vk-node run` starts one, through a kubeconfig and over HTTPS.

mod check;
mod demo;
mod progress;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use vk_apiserver::{ApiServer, Controller, Running, Serving};
use vk_core::Shutdown;

use self::demo::Demo;
use self::progress::Progress;
use crate::args::Flags;
use crate::config::scalar::{Address, NodeName};
use crate::config::settings::{LogSettings, Settings};
use crate::config::{File, LogFormat};
use crate::env::Environment;
use crate::fault::{Fault, Faults, chain};
use crate::nodes::Nodes;
use crate::signals::Signals;
use crate::{backends, cluster};

/// What `quickstart` takes.
#[derive(Args, Clone, Debug)]
pub(crate) struct QuickstartArgs {
    /// Try everything unattended, clean up, and end with 0 or 1
    #[arg(long)]
    check: bool,
    /// Port of the API server; 0 is any free one
    #[arg(long, value_name = "PORT", default_value_t = 0)]
    port: u16,
    /// Where to write the kubeconfig [default: a new directory, removed at the end]
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// What of the log to show beside the steps
    #[arg(long, value_name = "LEVEL", default_value = "warn")]
    log_level: String,
}

/// The node's name.
const NODE: &str = "virtual-1";

/// Runs the quickstart.
pub(crate) async fn run(args: QuickstartArgs) -> Result<ExitCode, Faults> {
    let mut signals = Signals::take()?;
    let progress = Progress::start();
    let mut stage = Stage::default();
    // Cancel-safe: what the stage holds is struck below, whichever ends first.
    let outcome = tokio::select! {
        outcome = play(&args, &progress, &mut stage) => outcome,
        (name, code) = signals.next() => Ok(Some((name, code))),
    };
    // Cancel-safe: the process ends.
    tokio::select! {
        () = stage.strike(&progress) => {}
        (_, code) = signals.next() => return Ok(ExitCode::from(code)),
    }
    Ok(match outcome {
        Ok(None) => {
            progress.end("passed");
            ExitCode::SUCCESS
        }
        // Ctrl-C is how a demonstration ends; a check that was interrupted has not passed.
        Ok(Some((name, code))) if args.check => {
            progress.end(&format!("failed: interrupted by {name}"));
            ExitCode::from(code)
        }
        Ok(Some(_)) => ExitCode::SUCCESS,
        Err(error) => {
            progress.end(&format!("failed: {error}"));
            ExitCode::FAILURE
        }
    })
}

/// Everything that has to be ended again.
#[derive(Default)]
struct Stage {
    serving: Option<Serving>,
    controllers: Option<Running>,
    nodes: Option<(Nodes, Shutdown)>,
    directory: Option<tempfile::TempDir>,
    kubeconfig: Option<PathBuf>,
}

impl Stage {
    async fn strike(&mut self, progress: &Progress) {
        if let Some((nodes, shutdown)) = self.nodes.take() {
            progress.step("draining the node");
            shutdown.drain();
            if let Err(error) = nodes.finished().await {
                progress.step(&format!("the node did not end well: {error}"));
            }
        }
        self.controllers = None;
        if let Some(serving) = self.serving.take() {
            serving.stop().await;
        }
        match self.directory.take().map(tempfile::TempDir::close) {
            Some(Err(error)) => progress.step(&format!("temporary files stay behind: {error}")),
            Some(Ok(())) => {}
            // A kubeconfig of a server that is gone helps nobody.
            None => {
                if let Some(Err(error)) = self.kubeconfig.take().map(std::fs::remove_file) {
                    progress.step(&format!("the kubeconfig stays behind: {error}"));
                }
            }
        }
    }
}

/// The play itself. Without `--check` it goes on until a signal ends it; the exit code is not its own then.
async fn play(
    args: &QuickstartArgs,
    progress: &Progress,
    stage: &mut Stage,
) -> Result<Option<(&'static str, u8)>, String> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, args.port));
    let server = ApiServer::new().map_err(|error| chain(&error))?;
    let serving = server.serve_tls(address).await.map_err(|error| chain(&error))?;
    stage.controllers = Some(server.start(Controller::ALL));
    progress.step(&format!("in-memory API server at https://{}", serving.address()));

    let kubeconfig = if let Some(path) = &args.kubeconfig {
        path.clone()
    } else {
        let directory = tempfile::Builder::new()
            .prefix("vk-quickstart-")
            .tempdir()
            .map_err(|error| format!("no temporary directory: {error}"))?;
        let path = directory.path().join("kubeconfig");
        stage.directory = Some(directory);
        path
    };
    serving.write_kubeconfig(&kubeconfig).map_err(|error| chain(&error))?;
    stage.kubeconfig = Some(kubeconfig.clone());
    stage.serving = Some(serving);

    let settings = settings(&kubeconfig, &args.log_level).map_err(|fault| fault.to_string())?;
    let providers = backends::all(&settings).map_err(|faults| faults.to_string())?;
    let cluster = cluster::connect(&settings.cluster, NODE).await.map_err(|fault| fault.to_string())?;
    let shutdown = Shutdown::new();
    let nodes =
        Nodes::start(&settings, providers, &cluster, &shutdown).await.map_err(|fault| fault.to_string())?;
    stage.nodes = Some((nodes, shutdown));
    progress.step(&format!("node {NODE} started, provider mock"));

    let demo = Demo::new(&cluster, NODE, progress);
    demo.node_is_ready().await?;
    demo.apply().await?;
    demo.pods_are_running(1).await?;
    demo.show_log().await?;
    if args.check {
        check::run(&demo, &kubeconfig).await?;
        return Ok(None);
    }
    invite(progress, &kubeconfig);
    std::future::pending().await
}

/// What `vk-node run` would be told on a command line.
fn settings(kubeconfig: &Path, log_level: &str) -> Result<Settings, Faults> {
    let node_name = NODE.parse::<NodeName>().map_err(|error| Fault::new(error, "", ""))?;
    let loopback = Address(Ipv4Addr::LOCALHOST.into());
    let flags = Flags {
        kubeconfig: Some(kubeconfig.to_owned()),
        provider: Some("mock".to_owned()),
        nodename: Some(node_name),
        // Nobody but the API server in this process is to reach the node.
        listen: Some(loopback),
        node_ip: vec![loopback],
        port: Some(0),
        log_level: Some(log_level.to_owned()),
        ..Flags::default()
    };
    Settings::merge(File::default(), "the quickstart".to_owned(), flags, Environment::default())
}

/// The log of the quickstart: what is worth a warning, between the steps.
pub(crate) fn log(args: &QuickstartArgs) -> LogSettings {
    LogSettings { level: args.log_level.clone(), format: LogFormat::Text }
}

fn invite(progress: &Progress, kubeconfig: &Path) {
    progress.step("all is running; Ctrl-C ends it");
    progress.say(&format!(
        "\nTry it from another terminal:\n\n  export KUBECONFIG={}\n  \
         kubectl get nodes,pods -o wide\n  \
         kubectl describe node {NODE}\n  \
         kubectl describe pod -l app=hello-world\n  \
         kubectl logs -f deployment/hello-world\n  \
         kubectl scale deployment/hello-world --replicas=5\n  \
         kubectl rollout restart deployment/hello-world\n  \
         kubectl delete deployment/hello-world\n",
        kubeconfig.display()
    ));
}
