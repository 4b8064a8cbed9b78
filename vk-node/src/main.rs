//! The virtual node daemon: configuration, telemetry, signals.

mod about;
mod admin;
mod args;
mod backends;
mod check;
mod cluster;
mod config;
#[cfg(feature = "conformance")]
mod conformance;
mod credentials;
mod env;
mod fault;
mod identity;
mod kubelet_api;
mod nodes;
mod open_files;
mod preflight;
#[cfg(feature = "quickstart")]
mod quickstart;
mod reload;
mod signals;
mod telemetry;

use std::cell::Cell;
use std::convert::Infallible;
use std::io::Write;
use std::process::ExitCode;

#[cfg(feature = "otlp")]
use tokio_util::sync::CancellationToken;
use vk_core::Shutdown;

use crate::args::{Cli, Command, Parsed, RunArgs};
use crate::cluster::Cluster;
use crate::config::settings::Settings;
use crate::env::Environment;
use crate::fault::{Fault, Faults};
use crate::nodes::Nodes;
use crate::reload::Reload;
use crate::signals::{Hangup, Signals};

fn main() -> ExitCode {
    #[cfg(feature = "process")]
    if let Some(done) = vk_process::helper() {
        return done;
    }
    match start() {
        Ok(code) => code,
        Err(faults) => {
            faults.iter().for_each(|fault| complain(fault));
            ExitCode::from(fault::EXIT_CODE)
        }
    }
}

fn start() -> Result<ExitCode, Faults> {
    // Arguments that are not Unicode cannot be one of ours.
    let line = std::env::args_os().map(|word| word.to_string_lossy().into_owned());
    match args::parse(line)? {
        Parsed::Print(text) => say(&text),
        Parsed::Run(cli, notes) => return dispatch(*cli, notes),
    }
    Ok(ExitCode::SUCCESS)
}

fn dispatch(cli: Cli, notes: Vec<String>) -> Result<ExitCode, Faults> {
    match cli.command {
        None => run(&cli.run, notes),
        Some(Command::Run(run_args)) => run(&run_args, notes),
        Some(Command::Check(check_args)) => {
            let settings = Settings::read(&check_args.run, Environment::of_process()?)?;
            on_runtime(check(settings, notes, check_args.offline))
        }
        #[cfg(feature = "quickstart")]
        Some(Command::Quickstart(quickstart_args)) => {
            telemetry::start(&quickstart::log(&quickstart_args), None)?;
            on_runtime(quickstart::run(quickstart_args))
        }
        #[cfg(feature = "conformance")]
        Some(Command::Conformance(conformance_args)) => on_runtime(conformance::run(*conformance_args)),
        Some(Command::Providers { name, fields }) => on_runtime(async move {
            say(&about::providers(name.as_deref(), fields)?);
            Ok(ExitCode::SUCCESS)
        }),
        Some(Command::Version) => Ok(told(&about::version())),
        Some(Command::Completions { shell }) => Ok(told(&about::completions(shell))),
        Some(Command::Man { command }) => Ok(told(&about::manual(command.as_deref())?)),
        Some(Command::Debug) => Err(about::debug().into()),
    }
}

fn told(text: &str) -> ExitCode {
    say(text);
    ExitCode::SUCCESS
}

fn run(args: &RunArgs, mut notes: Vec<String>) -> Result<ExitCode, Faults> {
    let environment = Environment::of_process()?;
    let mut settings = Settings::read(args, environment.clone())?;
    notes.append(&mut settings.notes);
    let telemetry = telemetry::start(&settings.log, settings.tracing.as_ref())?;
    notes.extend(open_files::raise());
    for note in notes {
        tracing::warn!("{note}");
    }
    let reload = Reload::new(args, &environment, telemetry.level)?;
    on_runtime(async move {
        #[cfg(feature = "otlp")]
        let (stop, traces) = (CancellationToken::new(), telemetry.exporter);
        #[cfg(feature = "otlp")]
        let traces = traces.map(|exporter| tokio::spawn(exporter.run(stop.clone())));
        let outcome = Box::pin(daemon(settings, reload)).await;
        #[cfg(feature = "otlp")]
        if let Some(traces) = traces {
            stop.cancel();
            if let Err(error) = traces.await {
                tracing::error!(%error, "traces were not exported to the end");
            }
        }
        outcome
    })
}

/// Runs the nodes until they are told to end, or one fails.
async fn daemon(settings: Settings, reload: Reload) -> Result<ExitCode, Faults> {
    let signals = Signals::take()?;
    let hangup = Hangup::take()?;
    let shutdown = Shutdown::new();
    let providers = backends::all(&settings)?;
    let work = async {
        let started = async {
            let cluster = cluster::connect(&settings.cluster, &settings.nodes[0].config.name).await?;
            tracing::info!(server = %cluster.server, version = cluster.version, "connected");
            Nodes::start(&settings, providers, &cluster, &shutdown).await.map(|nodes| (cluster, nodes))
        };
        // Cancel-safe: nothing that runs on has been started before it returns.
        let (cluster, mut nodes) = tokio::select! {
            started = started => started?,
            () = shutdown.draining() => return Ok(ExitCode::SUCCESS),
        };
        let late = watch_start(&settings, &cluster, &shutdown);
        let adjustable = nodes.take_adjustable();
        let ended = async { tokio::join!(late, nodes.finished()) };
        // Cancel-safe: the reload never ends by itself, and is not needed once the nodes have.
        let (late, finished) = tokio::select! {
            ended = ended => ended,
            never = reload.run(hangup, adjustable) => match never {},
            never = keep_identity(&cluster) => match never {},
            never = cluster.follow() => match never {},
        };
        Ok(match finished.and(late) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                complain(&error);
                ExitCode::FAILURE
            }
        })
    };
    let aborted = Cell::new(None);
    // Cancel-safe: `steer` ends only when everything is to be dropped.
    let outcome = tokio::select! {
        outcome = work => outcome,
        () = signals.steer(shutdown.clone(), &aborted) => Ok(ExitCode::SUCCESS),
    };
    aborted.get().map_or(outcome, |code| Ok(ExitCode::from(code)))
}

/// Renews the node's own identity, if it has one.
async fn keep_identity(cluster: &Cluster) -> Infallible {
    match &cluster.identity {
        Some(identity) => identity.keep(&cluster.client).await,
        None => std::future::pending().await,
    }
}

/// Ends the process when its nodes do not become Ready within the time it was given, if it was given any.
async fn watch_start(settings: &Settings, cluster: &Cluster, shutdown: &Shutdown) -> Result<(), String> {
    let Some(patience) = settings.cluster.startup_timeout else { return Ok(()) };
    let names: Vec<String> = settings.nodes.iter().map(|node| node.config.name.clone()).collect();
    // Cancel-safe: waiting changes nothing.
    tokio::select! {
        ready = nodes::wait_until_ready(cluster, &names, patience) => {
            if ready.is_err() {
                shutdown.drain();
            }
            ready
        }
        () = shutdown.draining() => Ok(()),
    }
}

/// Runs to its end on a runtime of its own.
fn on_runtime(work: impl Future<Output = Result<ExitCode, Faults>>) -> Result<ExitCode, Faults> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Fault::new("cannot start threads", "in this process", error.to_string()))?;
    let outcome = runtime.block_on(work);
    // A blocking read of a terminal or a slow name look-up must not hold the process.
    runtime.shutdown_background();
    outcome
}

/// Says what is in order on standard output, and what is not on standard error.
async fn check(mut settings: Settings, mut notes: Vec<String>, offline: bool) -> Result<ExitCode, Faults> {
    notes.append(&mut settings.notes);
    settings.notes = notes;
    let report = check::check(&settings, offline).await;
    for good in &report.good {
        say(&format!("ok: {good}\n"));
    }
    for note in &report.notes {
        say(&format!("note: {note}\n"));
    }
    report.faults.or(ExitCode::SUCCESS)
}

/// To standard output; a closed pipe is the reader's wish.
fn say(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
}

/// One line to standard error.
fn complain(line: &dyn std::fmt::Display) {
    let _ = writeln!(std::io::stderr(), "vk-node: {line}");
}
