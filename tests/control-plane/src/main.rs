//! `control-plane`: what `cargo xtask control-plane` runs.

#![expect(clippy::print_stdout, reason = "a command line tool: its results go to stdout, progress to stderr")]

use std::ffi::OsString;
use std::net::IpAddr;
use std::os::unix::process::CommandExt;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::{Args, Parser, Subcommand, ValueEnum};
use vk_control_plane::cache::Cache;
use vk_control_plane::namespace::Namespace;
use vk_control_plane::{
    Component, ControlPlane, Module, Options, TEST_KUBECONFIG, Version, addresses, binaries, go,
};

/// A real Kubernetes control plane in a private network namespace
#[derive(Debug, Parser)]
#[command(name = "cargo xtask control-plane", bin_name = "cargo xtask control-plane")]
struct Cli {
    #[command(subcommand)]
    command: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Build the pinned Go modules into the cache (once; minutes)
    Build {
        /// Kubernetes release: 1.37 or 1.35
        #[arg(long, default_value_t)]
        version: Version,
        /// What to build; prints its folders
        #[arg(long, value_enum, default_value_t = Part::ControlPlane)]
        part: Part,
    },
    /// Bring it up; prints KUBECONFIG=… and NODE_ADDRESS=…
    Up {
        #[command(flatten)]
        instance: Instance,
        #[command(flatten)]
        options: UpOptions,
    },
    /// Stop it and remove its data; logs stay
    Down {
        #[command(flatten)]
        instance: Instance,
    },
    /// Show what runs; exit code 1 unless everything does
    Status {
        #[command(flatten)]
        instance: Instance,
    },
    /// Run a command inside, with KUBECONFIG and NODE_ADDRESS set; its exit code is the exit code
    Run {
        #[command(flatten)]
        instance: Instance,
        /// Bring the plane up first where it isn't
        #[arg(long)]
        up: bool,
        /// The command and its arguments
        #[arg(last = true, required = true, value_name = "COMMAND")]
        command: Vec<OsString>,
    },
    /// Say whether a control plane can run on this machine; exit code 1 and the reason if not
    Check,
    /// Issue the certificate a node serves its kubelet API with; prints TLS_CERT=… and TLS_KEY=…
    ServingCert {
        /// The node's name
        node: String,
        /// The address the API server reaches it at
        #[arg(long, default_value_t = IpAddr::V4(addresses::NODE))]
        address: IpAddr,
        #[command(flatten)]
        instance: Instance,
    },
    /// Write a kubeconfig with a node's own identity (system:node:NODE); prints KUBECONFIG=…
    NodeKubeconfig {
        /// The node's name
        node: String,
        #[command(flatten)]
        instance: Instance,
    },
    /// Stop a component in good order (SIGTERM)
    Stop(One),
    /// Kill a component (SIGKILL)
    Kill(One),
    /// Start a component again, and wait until it is ready
    Start(One),
    /// Freeze a component (SIGSTOP)
    Freeze(One),
    /// Thaw a frozen component (SIGCONT)
    Thaw(One),
}

#[derive(Debug, Args)]
struct Instance {
    /// Name of the instance; instances run side by side
    #[arg(long, default_value = "default", value_name = "NAME")]
    instance: String,
}

#[derive(Debug, Args)]
struct UpOptions {
    /// Kubernetes release: 1.37 or 1.35
    #[arg(long, default_value_t)]
    version: Version,
    /// Let etcd wait for the disk at each write (for benchmarks)
    #[arg(long)]
    durable: bool,
}

#[derive(Debug, Args)]
struct One {
    /// etcd, kube-apiserver, kube-controller-manager or kube-scheduler
    component: Component,
    #[command(flatten)]
    instance: Instance,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Part {
    /// etcd and Kubernetes
    ControlPlane,
    /// KWOK, a peer in the benchmarks
    Kwok,
    /// metrics-server, which reads nodes' metrics
    MetricsServer,
    /// Helm, which renders and installs the chart
    Helm,
    /// The program in the images of the kubelet recordings
    OracleTool,
    /// stream-clients, which asks a node for everything that client-go can stream
    StreamClients,
}

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("control-plane: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(verb: Verb) -> Result<ExitCode> {
    let cache = Cache::from_env()?;
    match verb {
        Verb::Build { version, part } => build(&cache, version, part)?,
        Verb::Up { instance, options } => {
            let options = Options { version: options.version, durable: options.durable };
            print_access(&ControlPlane::up(&cache, &instance.instance, &options)?);
        }
        Verb::Down { instance } => down(&cache, &instance.instance)?,
        Verb::Status { instance } => return status(&cache, &instance.instance),
        Verb::Run { instance, up, command } => return Err(enter(&cache, &instance.instance, up, command)?),
        Verb::ServingCert { node, address, instance } => {
            let pair = find(&cache, &instance.instance)?.serving_cert(&node, address)?;
            println!("TLS_CERT={}\nTLS_KEY={}", pair.certificate.display(), pair.key.display());
        }
        Verb::NodeKubeconfig { node, instance } => {
            let kubeconfig = find(&cache, &instance.instance)?.node_kubeconfig(&node)?;
            println!("KUBECONFIG={}", kubeconfig.display());
        }
        Verb::Check => check(&cache)?,
        Verb::Stop(one) => find(&cache, &one.instance.instance)?.stop(one.component)?,
        Verb::Kill(one) => find(&cache, &one.instance.instance)?.kill(one.component)?,
        Verb::Freeze(one) => find(&cache, &one.instance.instance)?.freeze(one.component)?,
        Verb::Thaw(one) => find(&cache, &one.instance.instance)?.thaw(one.component)?,
        Verb::Start(one) => {
            let plane = find(&cache, &one.instance.instance)?;
            plane.start(one.component)?;
            plane.wait_ready(one.component)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn build(cache: &Cache, version: Version, part: Part) -> Result<()> {
    let modules = match part {
        Part::ControlPlane => vec![Module::Etcd, Module::Kubernetes(version)],
        Part::Kwok => vec![Module::Kwok],
        Part::MetricsServer => vec![Module::MetricsServer],
        Part::Helm => vec![Module::Helm],
        Part::OracleTool => vec![Module::OracleTool],
        Part::StreamClients => vec![Module::StreamClients],
    };
    for module in modules {
        println!("{}", binaries::ensure(cache, module)?.display());
    }
    Ok(())
}

fn check(cache: &Cache) -> Result<()> {
    if ControlPlane::find(cache, "default")?.is_some_and(|plane| plane.is_given()) {
        return Ok(());
    }
    Namespace::probe()?;
    let built = [Module::Etcd, Module::Kubernetes(Version::default())]
        .map(|module| binaries::is_built(cache, module));
    if built != [true, true] {
        go::find(cache)?;
    }
    Ok(())
}

fn print_access(plane: &ControlPlane) {
    if plane.is_given() {
        eprintln!("{TEST_KUBECONFIG} is set: using that cluster, nothing to bring up");
    }
    println!("KUBECONFIG={}", plane.kubeconfig().display());
    if let Some(address) = plane.node_address() {
        println!("NODE_ADDRESS={address}");
    }
}

fn down(cache: &Cache, instance: &str) -> Result<()> {
    if ControlPlane::find(cache, instance)?.is_some_and(|plane| plane.is_given()) {
        eprintln!("{TEST_KUBECONFIG} is set: that cluster is not ours to take down");
    } else if ControlPlane::down(cache, instance)? {
        eprintln!("control plane ({instance}) is down");
    } else {
        eprintln!("control plane ({instance}) was not up");
    }
    Ok(())
}

fn find(cache: &Cache, instance: &str) -> Result<ControlPlane> {
    let Some(plane) = ControlPlane::find(cache, instance)? else {
        bail!("the control plane ({instance}) is not up: run cargo xtask control-plane up");
    };
    Ok(plane)
}

fn status(cache: &Cache, instance: &str) -> Result<ExitCode> {
    let Some(plane) = ControlPlane::find(cache, instance)? else {
        println!("control plane ({instance}) is down");
        return Ok(ExitCode::FAILURE);
    };
    if plane.is_given() {
        println!("the cluster of {TEST_KUBECONFIG}: {}", plane.kubeconfig().display());
        return Ok(ExitCode::SUCCESS);
    }
    let report = plane.report()?;
    println!("control plane ({instance}) {}", plane.version().unwrap_or_default());
    for line in &report {
        let state = match (line.pid, line.frozen) {
            (None, _) => "stopped".to_owned(),
            (Some(pid), true) => format!("frozen   pid {pid}"),
            (Some(pid), false) => format!("running  pid {pid}"),
        };
        let memory = line.resident.map(|bytes| format!("{} MiB", bytes >> 20)).unwrap_or_default();
        println!("  {:<24} {state:<20} {memory}", line.component.name());
    }
    let whole = report.iter().all(|line| line.pid.is_some() && !line.frozen);
    Ok(if whole { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Becomes the command; returns only the error that kept it from starting.
fn enter(cache: &Cache, instance: &str, up: bool, command: Vec<OsString>) -> Result<anyhow::Error> {
    let plane = if up && ControlPlane::find(cache, instance)?.is_none() {
        ControlPlane::up(cache, instance, &Options::default())?
    } else {
        find(cache, instance)?
    };
    let mut arguments = command.into_iter();
    let program = arguments.next().context("no command was given")?;
    let error = plane.enter(&program)?.args(arguments).exec();
    Ok(anyhow::Error::new(error).context(format!("starting {}", program.display())))
}
