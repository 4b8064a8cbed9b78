//! `conformance`: judges a running node from outside, or the configured provider by the provider contract.

mod backend;
mod node;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use vk_conformance::report::{Outcome, Report, Verdict};
use vk_node_conformance::Glob;

use crate::args::RunArgs;
use crate::complain;
use crate::config::scalar::Period;
use crate::fault::{Fault, Faults};
use crate::say;
use crate::signals::Signals;

/// What `conformance` takes.
#[derive(Args, Clone, Debug)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct ConformanceArgs {
    /// Check this running node from outside, whatever its make; without it, the configured provider is checked
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
    /// Image of the pods; it needs busybox' shell and applets [default: busybox:1.37]
    #[arg(long, value_name = "IMAGE", default_value = "busybox:1.37", hide_default_value = true)]
    image: String,
    /// Only these checks, by NAME or GROUP/NAME; * is any text
    #[arg(long, value_name = "GLOB", value_delimiter = ',')]
    only: Vec<Glob>,
    /// Say which checks there are and what each costs, and run none
    #[arg(long)]
    list: bool,
    /// How long one change of a pod may take: to start, to end, to go [default: 2m; of a provider, 10m for a start, or 30s if it is in memory]
    #[arg(long, value_name = "DURATION")]
    timeout: Option<Period>,
    /// Also write the report as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Also write the report as JUnit's XML
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
    /// Where the cluster is, or which provider: what `run` would be given.
    #[command(flatten)]
    run: RunArgs,
}

const AFTER_HELP: &str = "\
With --node, pods are made on that node of the kubeconfig's cluster, each check's in a namespace of its own. Without it, \
pods are made at the configured provider's backend, and no cluster is asked for anything. Either way what a check has \
made is deleted at its end, also after Ctrl-C; a second Ctrl-C ends at once and leaves what there is. What a run costs is \
said before it begins. A backend that bills, bills.

The report goes to standard output, progress to standard error.

Exit codes: 0 when something passed and nothing failed, 1 when a check failed or none applied, 2 when the run could \
not begin, 130 and 143 after SIGINT or SIGTERM.";

/// Runs the checks, or lists them.
pub(crate) async fn run(args: ConformanceArgs) -> Result<ExitCode, Faults> {
    if args.timeout.is_some_and(|Period(timeout)| timeout.is_zero()) {
        return Err(Fault::new("a timeout of 0", "in --timeout", "give it some time, such as 2m").into());
    }
    match args.node.clone() {
        Some(name) => node::run(args, name).await,
        None => backend::run(args).await,
    }
}

/// Before anything is made: a report that cannot be written is found out now.
fn try_reports(args: &ConformanceArgs) -> Result<(), Fault> {
    args.json.iter().chain(&args.junit).try_for_each(|path| write(path, ""))
}

fn write(path: &Path, text: &str) -> Result<(), Fault> {
    std::fs::write(path, text).map_err(|error| {
        let place = format!("to {}", path.display());
        Fault::new("cannot write the report", place, error.to_string())
    })
}

/// Runs a suite until it ends or is interrupted. Once interrupted, it cleans up; interrupted again, it is dropped.
async fn interruptible<T>(
    suite: impl AsyncFnOnce(futures::future::BoxFuture<'static, ()>) -> Result<T, Faults>,
) -> Result<(Option<T>, Option<u8>), Faults> {
    let mut signals = Signals::take()?;
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let stopped = async {
        // Never sent is never stopped.
        if stopped.await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    let mut running = std::pin::pin!(suite(Box::pin(stopped)));
    // Cancel-safe: a signal that was not received stays pending; the suite is polled on.
    let code = tokio::select! {
        done = &mut running => return Ok((Some(done?), None)),
        (name, code) = signals.next() => {
            complain(&format!("{name}: removing what this check has made; once more ends at once"));
            code
        }
    };
    // The suite may have ended this very moment.
    let _ = stop.send(());
    // Cancel-safe: the process ends.
    tokio::select! {
        done = &mut running => Ok((Some(done?), Some(code))),
        (_, code) = signals.next() => Ok((None, Some(code))),
    }
}

/// Writes the report, everywhere it is wanted.
fn deliver(args: &ConformanceArgs, report: Option<&Report>, code: Option<u8>) -> Result<ExitCode, Faults> {
    if let Some(report) = report {
        say(&report.to_text());
        let mut faults = Faults::default();
        for (path, text) in [(&args.json, report.to_json()), (&args.junit, report.to_junit())] {
            if let Some(path) = path {
                faults.keep(write(path, &text));
            }
        }
        faults.or(())?;
    }
    Ok(match (code, report) {
        (Some(code), _) => ExitCode::from(code),
        (None, Some(report)) if report.passed() => ExitCode::SUCCESS,
        (None, _) => ExitCode::FAILURE,
    })
}

/// A line about a check that has ended.
fn tell(outcome: &Outcome) {
    let (word, reason) = match &outcome.verdict {
        Verdict::Passed => ("passed", ""),
        Verdict::Failed { reason } => ("FAILED", reason.as_str()),
        Verdict::NotApplicable { reason } => ("n/a", reason.as_str()),
    };
    let reason = reason.lines().next().unwrap_or_default();
    let dash = if reason.is_empty() { "" } else { ": " };
    progress(&format!("{word} {}/{}{dash}{reason}", outcome.group, outcome.clause));
}

/// A line to standard error.
fn progress(line: &str) {
    use std::io::Write as _;
    // Who closed it does not want to know.
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// A length of time in minutes, or in seconds if it is short.
fn rounded(time: Duration) -> String {
    if time < Duration::from_mins(2) {
        format!("{} s", time.as_secs())
    } else {
        format!("{} min", time.as_secs().div_ceil(60))
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::args::{Cli, Command};

    fn parse(words: &[&str]) -> ConformanceArgs {
        let line = ["vk-node", "conformance"].iter().chain(words);
        match Cli::try_parse_from(line).unwrap().command {
            Some(Command::Conformance(args)) => *args,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn flags_are_read_beside_those_of_run() {
        let args = parse(&["--node", "n", "--only", "logs/*,exec/*", "--kubeconfig", "k", "--timeout=5m"]);
        assert_eq!(args.node.as_deref(), Some("n"));
        assert_eq!(args.only, [Glob::new("logs/*"), Glob::new("exec/*")]);
        assert_eq!(args.timeout, Some(Period(Duration::from_mins(5))));
        assert_eq!(args.run.flags.kubeconfig, Some("k".into()));
        assert_eq!(args.image, "busybox:1.37");
    }

    #[tokio::test]
    async fn what_cannot_begin_is_a_fault() {
        for (words, said) in [
            (&["--node=n", "--timeout=0"][..], "a timeout of 0 in --timeout"),
            (&["--node=n", "--only=nothing", "--list"], "no check"),
            (&["--provider=mock", "--only=nothing"], "no clause"),
            (&["--provider=mock", "--json=/nowhere/at/all"], "cannot write the report"),
        ] {
            let fault = Box::pin(run(parse(words))).await.unwrap_err().to_string();
            assert!(fault.contains(said), "{words:?}: {fault}");
        }
    }

    #[test]
    fn times_are_told_in_seconds_or_minutes() {
        assert_eq!(rounded(Duration::from_secs(90)), "90 s");
        assert_eq!(rounded(Duration::from_secs(121)), "3 min");
    }
}
