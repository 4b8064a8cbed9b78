//! The project's chores: `cargo xtask quickstart | test | control-plane | oracle | bench | book | public-api`.
//!
//! Each prints what it does while it works (to stderr where stdout is a result), and ends in one plain result.
//!
//! # What the tests and benchmarks find in their environment
//!
//! | variable | tiers | meaning |
//! |---|---|---|
//! | `VK_NODE_BIN` | scenarios, real, peers, bench | the daemon's binary, just built |
//! | `VK_KUBECTL` | peers | a pinned kubectl |
//! | `VK_METRICS_SERVER` | peers | metrics-server's binary |
//! | `VK_HELM` | peers | Helm's binary |
//! | `VK_CONTROL_PLANE=real` | real | the scenarios run against the control plane whose namespace they are in |
//! | `VK_KWOK` | bench | KWOK's binary |
//!
//! What is set inside the control plane's namespace besides: the documentation of `vk_control_plane`.

#![expect(clippy::print_stdout, reason = "a command line tool: its results go to stdout")]

mod bench;
mod book;
mod cache;
mod cargo;
mod control_plane;
mod links;
mod oracle;
mod public_api;
mod quickstart;
mod tally;
mod tiers;
mod tools;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::tiers::Tier;

/// The project's chores
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Debug, Subcommand)]
enum Chore {
    /// See a node and a Deployment on it in minutes, no cluster needed: in-memory API server, mock provider
    Quickstart {
        /// Do all of it unattended, clean up, and exit 0 or 1
        #[arg(long)]
        check: bool,
    },
    /// Run every tier of tests, or those named; installs what is missing
    Test {
        /// Tiers, in the order to run them; all by default
        #[arg(value_enum)]
        tiers: Vec<Tier>,
    },
    /// The real control plane in its network namespace: build | up | down | status | run -- COMMAND… (see --help)
    #[command(disable_help_flag = true)]
    ControlPlane {
        /// Passed on as they are
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Run a kubelet's recorded cases on our node, on the real control plane, and compare (see --help)
    #[command(disable_help_flag = true)]
    Oracle {
        /// Passed on as they are: DIR [--only NAME,…] [--jobs N] [--verbose]
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Benchmark contestants against each other on the real control plane (see --help)
    #[command(disable_help_flag = true)]
    Bench {
        /// Passed on as they are: [SCENARIO…] [--contestant NAME='COMMAND']… [--json FILE] [--plots DIR]
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Check the book in docs/ and build it into target/book; installs mdbook into the cache
    Book,
    /// Compare vk-core's public API with vk-core/public-api.txt
    PublicApi {
        /// Write the file anew
        #[arg(long)]
        update: bool,
    },
}

fn main() -> ExitCode {
    let result = match Cli::parse().chore {
        Chore::Quickstart { check } => quickstart::run(check),
        Chore::Test { tiers } => Ok(tiers::run(&tiers)),
        Chore::ControlPlane { arguments } => control_plane::run(&arguments),
        Chore::Oracle { arguments } => oracle::run(&arguments),
        Chore::Bench { arguments } => bench::run(&arguments),
        Chore::Book => book::run(),
        Chore::PublicApi { update } => public_api::run(update),
    };
    result.unwrap_or_else(|error| {
        eprintln!("xtask: {error:#}");
        ExitCode::FAILURE
    })
}
