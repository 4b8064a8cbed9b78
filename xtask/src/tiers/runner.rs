//! Running one check or one test command, and counting it.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, IsTerminal};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use crate::tally::Tally;

/// How long one command may take before it counts as hung: a cold build and its tests fit twice.
const LIMIT_SECONDS: u32 = 30 * 60;

/// The exit code of `timeout` when the limit passed.
const TIMED_OUT: i32 = 124;

/// Runs a command as one item: its exit code decides.
pub(crate) fn check(name: &str, command: &mut Command) -> Result<Tally> {
    println!("--- {name}");
    let mut command = limited(command);
    let status = command.stdin(Stdio::null()).status().with_context(|| format!("starting {name}"))?;
    Ok(if status.success() { Tally::pass() } else { Tally::fail(format!("{name} ({status})")) })
}

/// Runs a test command, passing its output on, and counts by the runner's own summary lines.
///
/// A command that fails without a failed test (it doesn't compile, it crashed, it hung) counts as one failure, and
/// so does one that ran no test at all: nothing was shown then.
pub(crate) fn tests(name: &str, command: &mut Command) -> Result<Tally> {
    println!("--- {name}");
    let mut child = limited(command)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("starting {name}"))?;
    let stdout = child.stdout.take().context("the tests' output was not piped")?;
    let mut tally = Tally::default();
    for line in BufReader::new(stdout).split(b'\n') {
        let line = line.with_context(|| format!("reading the output of {name}"))?;
        let line = String::from_utf8_lossy(&line);
        println!("{line}");
        tally.add_summary(&line);
    }
    let status = child.wait().with_context(|| format!("waiting for {name}"))?;
    if status.code() == Some(TIMED_OUT) {
        tally.add(Tally::fail(format!("{name} was ended after {} minutes", LIMIT_SECONDS / 60)));
    } else if tally.failed > 0 {
        tally.notes.push(format!("failed: {} in {name}", tally.failed));
    } else if !status.success() {
        tally.add(Tally::fail(format!("{name} ended with {status} and no failed test")));
    } else if tally.passed + tally.skipped == 0 {
        tally.add(Tally::fail(format!("{name} ran no test")));
    }
    Ok(tally)
}

/// The same command under `timeout`, so that one hung test doesn't take everything else's verdict with it. Not at
/// a terminal: there a person watches, and `timeout` would keep the interrupt key from the tests.
fn limited(command: &Command) -> Command {
    if std::io::stdin().is_terminal() {
        return wrapped(command, None);
    }
    wrapped(command, Some(LIMIT_SECONDS))
}

fn wrapped(command: &Command, limit: Option<u32>) -> Command {
    let mut outer = match limit {
        None => Command::new(command.get_program()),
        Some(seconds) => {
            let mut outer = Command::new("timeout");
            outer.args([
                OsStr::new("--kill-after=10"),
                OsStr::new(&seconds.to_string()),
                command.get_program(),
            ]);
            outer
        }
    };
    outer.args(command.get_args());
    if let Some(folder) = command.get_current_dir() {
        outer.current_dir(folder);
    }
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => outer.env(name, value),
            None => outer.env_remove(name),
        };
    }
    outer
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn tests_are_counted_by_their_summaries() {
        let script = "echo 'test result: ok. 2 passed; 0 failed; 1 ignored;'";
        let tally = tests("it", &mut shell(script)).expect("it ran");
        assert_eq!((tally.passed, tally.failed, tally.skipped), (2, 0, 1));
    }

    #[test]
    fn a_crash_without_a_failed_test_is_a_failure() {
        let script = "echo 'test result: ok. 2 passed; 0 failed; 0 ignored;'; exit 101";
        let tally = tests("it", &mut shell(script)).expect("it ran");
        assert_eq!((tally.passed, tally.failed), (2, 1));
    }

    #[test]
    fn no_test_at_all_is_a_failure() {
        let tally = tests("it", &mut shell("echo 'test result: ok. 0 passed; 0 failed; 0 ignored;'"));
        assert_eq!(tally.expect("it ran").failed, 1);
    }

    #[test]
    fn output_that_is_no_utf8_does_not_end_the_count() {
        let script = "printf '\\377\\n'; echo 'test result: ok. 1 passed; 0 failed; 0 ignored;'";
        assert_eq!(tests("it", &mut shell(script)).expect("it ran").passed, 1);
    }

    #[test]
    fn a_limit_keeps_arguments_environment_and_folder() {
        let mut command = shell("echo $A; pwd; exit 3");
        command.env("A", "b").current_dir("/");
        let output = wrapped(&command, Some(60)).output().expect("timeout runs");
        assert_eq!(String::from_utf8_lossy(&output.stdout), "b\n/\n");
        assert_eq!(output.status.code(), Some(3));
    }

    #[test]
    fn a_hung_command_is_ended() {
        let output = wrapped(&shell("exec sleep 600"), Some(1)).output().expect("timeout runs");
        assert_eq!(output.status.code(), Some(TIMED_OUT));
    }
}
