//! `test`: the README's second command.

mod docs;
mod examples;
mod lint;
mod newcomer;
mod peers;
mod real;
mod runner;
mod suites;

use std::env;
use std::process::{ExitCode, ExitStatus};
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::ValueEnum;

use crate::tally::{self, Tally};

/// A tier of tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Tier {
    /// Format, clippy, dependencies
    Lint,
    /// Each crate's own tests
    Unit,
    /// Scenarios on the in-memory API server, and the library's examples
    Scenarios,
    /// Scenarios on a real control plane
    Real,
    /// Independent clients and tools
    Peers,
    /// Documentation: rustdoc, its examples, the public API, the book, links
    Docs,
}

impl Tier {
    const ALL: [Self; 6] = [Self::Lint, Self::Unit, Self::Scenarios, Self::Real, Self::Peers, Self::Docs];

    const fn name(self) -> &'static str {
        match self {
            Self::Lint => "lint",
            Self::Unit => "unit",
            Self::Scenarios => "scenarios",
            Self::Real => "real",
            Self::Peers => "peers",
            Self::Docs => "docs",
        }
    }

    fn run(self, in_ci: bool) -> Result<Tally> {
        match self {
            Self::Lint => lint::run(in_ci),
            Self::Unit => suites::unit(),
            Self::Scenarios => {
                let mut tally = suites::scenarios()?;
                tally.add(examples::run()?);
                Ok(tally)
            }
            Self::Real => real::run(in_ci),
            Self::Peers => peers::run(in_ci),
            Self::Docs => docs::run(),
        }
    }
}

/// Runs tiers, all if none is named, and prints the table and the closing line. Exit code 0 only if none failed.
pub(crate) fn run(named: &[Tier]) -> ExitCode {
    let in_ci = env::var_os("CI").is_some_and(|value| !value.is_empty() && value != "false");
    let tiers = if named.is_empty() { &Tier::ALL[..] } else { named };
    let mut lines = Vec::new();
    for tier in tiers {
        println!("\n=== {}", tier.name());
        let (tally, spent) = timed(|| tier.run(in_ci));
        // A tier that broke off is a failure like any other; the others still run.
        let tally = tally.unwrap_or_else(|error| Tally::fail(format!("{error:#}")));
        println!("--- {}: {} in {} s", tier.name(), tally.line(), spent.as_secs());
        lines.push((tier.name(), tally, spent));
    }
    println!("{}", tally::report(&lines));
    let failed = lines.iter().any(|(_, tally, _)| tally.failed > 0);
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

#[expect(clippy::disallowed_methods, reason = "how long a tier takes on the wall; no paused clock here")]
fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let started = Instant::now();
    let done = work();
    (done, started.elapsed())
}

/// A child's exit status as our own exit code.
pub(crate) fn exit_code(status: ExitStatus) -> ExitCode {
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    code.map_or(ExitCode::FAILURE, ExitCode::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_tier_is_run_under_the_name_it_is_asked_for_by() {
        assert_eq!(Tier::ALL.len(), Tier::value_variants().len());
        for tier in Tier::value_variants() {
            assert_eq!(Tier::from_str(tier.name(), false), Ok(*tier));
        }
    }
}
