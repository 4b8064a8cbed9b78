//! Serves the in-memory API server over HTTPS until interrupted.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Context;
use clap::Parser;
use tracing_subscriber::EnvFilter;
use vk_apiserver::{ApiServer, Config, Controller};

/// An in-memory Kubernetes API server for tests and demos. Nothing is kept when it ends.
#[derive(Debug, Parser)]
#[command(version)]
struct Flags {
    /// Address to listen on; port 0 chooses a free one.
    #[arg(long, default_value = "127.0.0.1:6443")]
    listen: SocketAddr,
    /// Where to write the administrator's kubeconfig.
    #[arg(long, value_name = "FILE")]
    kubeconfig_out: PathBuf,
    /// Kubelets must serve certificates signed by this server's authority.
    #[arg(long)]
    verify_kubelets: bool,
    /// Store objects only: no scheduler, no controllers.
    #[arg(long)]
    no_controllers: bool,
    /// Enforce roles for callers other than the administrator.
    #[arg(long)]
    rbac: bool,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let flags = Flags::parse();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let config = Config { verify_kubelets: flags.verify_kubelets, rbac: flags.rbac, ..Config::default() };
    let server = ApiServer::with(config).context("make the server's certificates")?;
    let controllers = if flags.no_controllers { &[][..] } else { &Controller::ALL };
    let _running = server.start(controllers.iter().copied());
    let serving = server.serve_tls(flags.listen).await?;
    serving.write_kubeconfig(&flags.kubeconfig_out)?;
    tracing::info!(address = %serving.address(), kubeconfig = %flags.kubeconfig_out.display(), "serving");
    tokio::signal::ctrl_c().await.context("wait for the interrupt")?;
    serving.stop().await;
    Ok(())
}
