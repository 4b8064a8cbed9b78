//! Measures agents that run pods on a node, side by side on one control plane.
//!
//! An agent is a command; the driver stands outside, creates and deletes pods, and watches them like
//! anybody else. Contestants take turns in every round (A B C, then C B A), each with a fresh process and a
//! node of its own, and what is reported is the median over rounds, and the median of each round's ratio to
//! the first contestant: neighbours on a shared machine disturb neighbours in time, not one contestant.

mod agent;
mod counters;
mod driver;
mod plot;
mod report;
mod scenario;

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::Parser;

use crate::agent::Contestant;
use crate::driver::Driver;
use crate::report::Report;
use crate::scenario::Scenario;

/// Benchmarks agents against the control plane that `KUBECONFIG` names. `cargo xtask bench` runs it inside a
/// control plane of its own.
#[derive(Debug, Parser)]
#[command(name = "vk-bench")]
struct Args {
    /// What to measure; all of it by default.
    #[arg(value_enum)]
    scenarios: Vec<Scenario>,
    /// Another contestant, as NAME=COMMAND. `{kubeconfig}`, `{node}` and `{address}` are filled in.
    #[arg(long = "contestant", value_name = "NAME=COMMAND")]
    contestants: Vec<String>,
    /// Leave out a built-in contestant: ours, none or kwok.
    #[arg(long = "without", value_name = "NAME")]
    without: Vec<String>,
    /// How often every contestant takes its turn.
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// Pods of the `churn` scenario.
    #[arg(long, default_value_t = 1000)]
    churn_pods: usize,
    /// Pods of the `scale` scenario.
    #[arg(long, default_value_t = 10_000)]
    scale_pods: usize,
    /// Writes every trial as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Writes bar charts as SVG.
    #[arg(long, value_name = "DIR")]
    plots: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> Result<()> {
    let args = Args::parse();
    if rustls::crypto::aws_lc_rs::default_provider().install_default().is_err() {
        bail!("another TLS provider is installed already");
    }
    let contestants = agent::line_up(&args.contestants, &args.without)?;
    let scenarios = if args.scenarios.is_empty() { Scenario::ALL.to_vec() } else { args.scenarios.clone() };
    let driver = Driver::connect().await?;
    let mut report = Report::default();
    for scenario in scenarios {
        for round in 0..args.rounds {
            for contestant in order(&contestants, round) {
                eprintln!("{scenario} round {}/{}: {}", round + 1, args.rounds, contestant.name);
                let trial = scenario
                    .run(&driver, contestant, round, &args.sizes())
                    .await
                    .with_context(|| format!("{scenario}, {}, round {}", contestant.name, round + 1))?;
                report.add(scenario, &contestant.name, round, trial);
            }
        }
    }
    let summary = report.summary(&contestants[0].name);
    print(&summary.table());
    if let Some(file) = &args.json {
        let json = serde_json::to_vec_pretty(&report)?;
        std::fs::write(file, json).with_context(|| format!("writing {}", file.display()))?;
    }
    if let Some(folder) = &args.plots {
        plot::write(folder, &summary)?;
    }
    Ok(())
}

/// How large the scenarios are.
#[derive(Clone, Copy, Debug)]
struct Sizes {
    churn: usize,
    scale: usize,
}

impl Args {
    fn sizes(&self) -> Sizes {
        Sizes { churn: self.churn_pods, scale: self.scale_pods }
    }
}

/// The turns of a round: forwards in even rounds, backwards in odd ones.
fn order(contestants: &[Contestant], round: u32) -> Vec<&Contestant> {
    let mut turns: Vec<_> = contestants.iter().collect();
    if round % 2 == 1 {
        turns.reverse();
    }
    turns
}

#[expect(clippy::print_stdout, reason = "the table is what the command is for")]
fn print(text: &str) {
    println!("{text}");
}
