//! Runs a real kubelet's recorded cases on our node, on the real control plane, over the process backend, and says of
//! each whether it came out the same.
//!
//! Every case has a node, a namespace and containers of its own, so that many run at once: most of their time is
//! waiting. What was done to the recorded pod is done to ours at the recorded moment, but not before the pod has come
//! to where the recorded one was.

#![expect(clippy::print_stdout, reason = "a command line tool: its results go to stdout")]

mod api;
mod bed;
mod play;
mod watch;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use futures::StreamExt;
use futures::stream;
use vk_oracle::{Case, EXPLANATIONS, Verdict, judge};

use crate::bed::Bed;

/// Runs recorded cases on our node and compares
#[derive(Debug, Parser)]
#[command(name = "cargo xtask oracle", bin_name = "cargo xtask oracle")]
struct Cli {
    /// The folder with the recordings, or the one that holds it as `cases`
    folder: PathBuf,
    /// Only these cases: names, or parts of them with a `*` at either end
    #[arg(long, value_delimiter = ',', value_name = "NAME")]
    only: Vec<String>,
    /// How many cases run at once
    #[arg(long, default_value_t = 12)]
    jobs: usize,
    /// Every difference, not only the first of each case
    #[arg(long, short)]
    verbose: bool,
    /// Print versions and logs of each pod whose case differs
    #[arg(long)]
    versions: bool,
}

fn main() -> ExitCode {
    if let Some(done) = vk_process::helper() {
        return done;
    }
    let cli = Cli::parse();
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_env_filter(tracing_subscriber::EnvFilter::try_from_env("VK_ORACLE_LOG").unwrap_or_default())
        .init();
    let run = || -> Result<bool> {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        runtime.block_on(run(&cli))
    };
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("oracle: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// What the cases came to.
#[derive(Debug, Default)]
struct Counts {
    equal: usize,
    explained: usize,
    differ: usize,
}

async fn run(cli: &Cli) -> Result<bool> {
    let mut read = Case::read_each(&cli.folder)?;
    if !cli.only.is_empty() {
        read.retain(|(name, _)| cli.only.iter().any(|pattern| matches(pattern, name)));
        anyhow::ensure!(!read.is_empty(), "no case is named {}", cli.only.join(" or "));
    }
    let mut counts = Counts::default();
    let mut cases = Vec::new();
    for (name, case) in read {
        match case {
            Ok(case) => cases.push(case),
            Err(error) => {
                counts.differ += 1;
                println!("{name}: differs: it could not be read: {error:#}");
            }
        }
    }
    // The longest first: the last to end is what everybody waits for.
    cases.sort_by(|a, b| b.length().total_cmp(&a.length()));
    let bed = Bed::open().await.context("preparing images and network")?;
    let mut used: BTreeSet<&str> = BTreeSet::new();
    let mut running = stream::iter(cases)
        .map(|case| {
            let bed = &bed;
            async move {
                let run = Box::pin(play::play(bed, &case)).await;
                (case, run)
            }
        })
        .buffer_unordered(cli.jobs.max(1));
    while let Some((case, run)) = running.next().await {
        let run = match run {
            Ok(run) => run,
            Err(error) => {
                counts.differ += 1;
                println!("{}: differs: it could not be run: {error:#}", case.name);
                continue;
            }
        };
        match judge(&case, &run) {
            Verdict::Equal => {
                counts.equal += 1;
                println!("{}: equal", case.name);
            }
            Verdict::Explained(by) => {
                counts.explained += 1;
                let names: Vec<&str> = by.iter().map(|explanation| explanation.name).collect();
                println!("{}: explained: {}", case.name, names.join(", "));
                used.extend(names);
            }
            Verdict::Differs(differences) => {
                counts.differ += 1;
                let more = differences.len() - 1;
                let and = if more == 0 { String::new() } else { format!(" (and {more} more)") };
                println!("{}: differs: {}{and}", case.name, differences[0]);
                if cli.verbose {
                    for difference in &differences[1..] {
                        println!("    {difference}");
                    }
                }
                if cli.versions {
                    for version in &run.transitions {
                        println!("    {}", watch::line(version));
                    }
                    for (container, log) in &run.logs {
                        println!("    log {container}: {log:?}");
                    }
                }
            }
        }
    }
    for explanation in EXPLANATIONS.iter().filter(|explanation| used.contains(explanation.name)) {
        println!("{}: {}", explanation.name, explanation.why);
    }
    let Counts { equal, explained, differ } = counts;
    println!("{} cases: {equal} equal, {explained} explained, {differ} differ", equal + explained + differ);
    Ok(differ == 0)
}

/// Whether a name is meant by a pattern: equal to it, or with `*` at its beginning or end.
fn matches(pattern: &str, name: &str) -> bool {
    match (pattern.strip_prefix('*'), pattern.strip_suffix('*')) {
        (Some(rest), _) if rest.ends_with('*') => name.contains(rest.trim_end_matches('*')),
        (Some(end), _) => name.ends_with(end),
        (_, Some(start)) => name.starts_with(start),
        _ => name == pattern,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cases_are_chosen_by_name_or_part_of_it() {
        assert!(matches("init-fails-never", "init-fails-never"));
        assert!(!matches("init", "init-fails-never"));
        assert!(matches("init-*", "init-fails-never"));
        assert!(matches("*-never", "init-fails-never"));
        assert!(matches("*fails*", "init-fails-never"));
        assert!(!matches("*-always", "init-fails-never"));
    }
}
