//! Logs: which lines, and when they end.

use std::time::Duration;

use futures::StreamExt as _;
use tokio::time::{Instant, timeout_at};
use vk_core::provider::{
    ContainerLogs, ContainerRef, Error, Feature, LogEntry, LogOptions, LogOutput, LogStart, Provider,
    ResolvedPod,
};

use crate::bench::Bench;
use crate::check::{Check, demand, fail, skip};
use crate::journal::{MAIN, Sights};
use crate::pods::Plan;
use crate::subject::Work;

fn capability(provider: &dyn Provider) -> Check<&dyn ContainerLogs> {
    provider.logs().map_or_else(|| skip("the provider reads no logs (Provider::logs)"), Ok)
}

/// What was read of a log, and whether it came to an end.
struct Read {
    entries: Vec<LogEntry>,
    ended: bool,
}

impl Read {
    fn lines(&self) -> Vec<String> {
        self.entries.iter().map(|entry| String::from_utf8_lossy(&entry.line).trim_end().to_owned()).collect()
    }
}

/// Reads until the log ends, as many lines were read, or the time is up.
async fn read(
    bench: &Bench,
    what: &ContainerRef,
    options: &LogOptions,
    most: usize,
    within: Duration,
) -> Check<Read> {
    let provider = bench.provider();
    let logs = capability(&*provider)?;
    let mut log = bench.call("container_logs", || logs.container_logs(what, options)).await?;
    let deadline = Instant::now() + within;
    let mut entries = Vec::new();
    while entries.len() < most {
        match timeout_at(deadline, log.next()).await {
            Ok(Some(Ok(entry))) => entries.push(entry),
            Ok(Some(Err(error))) => return fail(format!("the log ended with an error: {}", error.chain())),
            Ok(None) => return Ok(Read { entries, ended: true }),
            Err(_) => break,
        }
    }
    Ok(Read { entries, ended: false })
}

/// Reads a log as it is now; whether it ends is one clause's only.
async fn read_all(bench: &Bench, what: &ContainerRef, options: &LogOptions) -> Check<Read> {
    read(bench, what, options, usize::MAX, bench.patience().tell).await
}

/// A pod that has printed these lines, and runs.
async fn printed(bench: &Bench, lines: &[&str]) -> Check<ResolvedPod> {
    capability(&*bench.provider())?;
    let work = Work::Print(lines.iter().map(|&line| line.to_owned()).collect());
    let pod = bench.running(work).await?;
    // A process needs a moment to print, and a backend one to have it.
    let deadline = Instant::now() + bench.patience().tell;
    while Instant::now() < deadline {
        let has = read(bench, &bench.main(&pod), &LogOptions::default(), lines.len(), bench.patience().poll)
            .await?;
        if has.lines().last().map(String::as_str) == lines.last().copied() {
            break;
        }
        tokio::time::sleep(bench.patience().poll).await;
    }
    Ok(pod)
}

/// A log has the lines that were printed, in order, each whole.
pub async fn a_log_has_what_was_printed(bench: &Bench) -> Check {
    let lines = ["one", "two", "three"];
    let pod = printed(bench, &lines).await?;
    let has = read_all(bench, &bench.main(&pod), &LogOptions::default()).await?.lines();
    demand!(has == lines, "printed {lines:?}, and the log has {has:?}");
    Ok(())
}

/// A log that is not followed ends, though its container runs.
pub async fn a_log_that_is_not_followed_ends(bench: &Bench) -> Check {
    let pod = printed(bench, &["one", "two"]).await?;
    let read = read_all(bench, &bench.main(&pod), &LogOptions::default()).await?;
    demand!(read.ended, "it did not end within {:?}", bench.patience().tell);
    Ok(())
}

/// `tail` is the last so many lines, and none for zero.
pub async fn a_tail_is_the_last_lines(bench: &Bench) -> Check {
    let pod = printed(bench, &["one", "two", "three"]).await?;
    for (tail, expected) in [(2, &["two", "three"][..]), (0, &[]), (9, &["one", "two", "three"])] {
        let options = LogOptions { tail: Some(tail), ..LogOptions::default() };
        let has = read_all(bench, &bench.main(&pod), &options).await?.lines();
        // How the whole log looks is another clause's.
        let agrees = if tail == 9 { has.ends_with(&["three".to_owned()]) } else { has == expected };
        demand!(agrees, "a tail of {tail} of one, two, three is {has:?}");
    }
    Ok(())
}

/// A log that begins at a moment has the lines from that moment on, and no others.
pub async fn a_start_leaves_out_what_is_older(bench: &Bench) -> Check {
    capability(&*bench.provider())?;
    let pod = bench.running(Work::Ticks(60)).await?;
    let deadline = Instant::now() + Duration::from_secs(5) + bench.patience().tell;
    let mut whole = Vec::new();
    while whole.len() < 4 && Instant::now() < deadline {
        tokio::time::sleep(bench.patience().poll).await;
        whole =
            read(bench, &bench.main(&pod), &LogOptions::default(), 4, bench.patience().poll).await?.entries;
    }
    let (Some(first), Some(last)) = (whole.first(), whole.last()) else { return fail("the log is empty") };
    demand!(first.time < last.time, "lines printed a second apart have one time, {}", last.time);
    let options = LogOptions { start: Some(LogStart::At(last.time)), ..LogOptions::default() };
    let has = read_all(bench, &bench.main(&pod), &options).await?.entries;
    demand!(
        has.first().is_some_and(|entry| entry.time == last.time)
            && has.iter().all(|entry| entry.time >= last.time),
        "from {} on there are {} lines, the first of {:?}",
        last.time,
        has.len(),
        has.first().map(|entry| entry.time)
    );
    Ok(())
}

/// A log that begins some time ago has the lines that are no older, and no others.
pub async fn a_start_may_be_an_age(bench: &Bench) -> Check {
    let lines = ["one", "two"];
    let pod = printed(bench, &lines).await?;
    // So that what was printed at the start is well older than the second of the one and younger than the hour.
    tokio::time::sleep(Duration::from_secs(5)).await;
    let from = |ago| LogOptions { start: Some(LogStart::Ago(ago)), ..LogOptions::default() };
    let recent = read_all(bench, &bench.main(&pod), &from(Duration::from_secs(1))).await?.lines();
    demand!(recent.is_empty(), "it has printed nothing for 5 s, and in its last second {recent:?}");
    let all = read_all(bench, &bench.main(&pod), &from(Duration::from_hours(1))).await?.lines();
    // How the whole log looks is another clause's.
    let has = all.last().map(String::as_str) == lines.last().copied();
    demand!(has, "it printed {lines:?} within the hour, and the log of that hour has {all:?}");
    Ok(())
}

/// Lines that were printed on standard output are told to be of it.
pub async fn what_was_printed_is_on_standard_output(bench: &Bench) -> Check {
    let pod = printed(bench, &["one", "two"]).await?;
    let entries = read_all(bench, &bench.main(&pod), &LogOptions::default()).await?.entries;
    let strange = entries.iter().find(|entry| entry.output != LogOutput::Stdout);
    demand!(strange.is_none(), "all was printed on standard output, and the log has {strange:?}");
    Ok(())
}

/// A followed log has lines that were printed after it was opened.
pub async fn a_followed_log_goes_on(bench: &Bench) -> Check {
    let provider = bench.provider();
    capability(&*provider)?;
    let pod = bench.running(Work::Ticks(30)).await?;
    let main = bench.main(&pod);
    let before = read(bench, &main, &LogOptions::default(), 20, bench.patience().poll).await?.entries.len();
    let options = LogOptions { follow: true, ..LogOptions::default() };
    let within = Duration::from_secs(5) + bench.patience().tell;
    let has = read(bench, &main, &options, before + 2, within).await?.entries.len();
    demand!(has >= before + 2, "{before} lines at first; followed for {within:?}, there are {has}");
    Ok(())
}

/// A followed log ends when its container has.
pub async fn a_followed_log_ends_with_its_container(bench: &Bench) -> Check {
    capability(&*bench.provider())?;
    let pod = bench.running(Work::Ticks(3)).await?;
    let options = LogOptions { follow: true, ..LogOptions::default() };
    let within = Duration::from_secs(3) + bench.patience().tell;
    let read = read(bench, &bench.main(&pod), &options, usize::MAX, within).await?;
    demand!(read.ended, "its container ends after 3 s, and the log has not ended after {within:?}");
    Ok(())
}

/// The log of a container that has ended can be read for as long as its pod is there.
pub async fn a_log_outlives_its_container(bench: &Bench) -> Check {
    capability(&*bench.provider())?;
    let pod = bench.draft(&Plan::of(Work::Last(0)))?;
    bench.create(&pod).await?;
    bench.until_ended(&pod.pod, 0).await?;
    let has = read_all(bench, &bench.main(&pod), &LogOptions::default()).await?.entries;
    demand!(!has.is_empty(), "a line was printed, and after the container's end the log is empty");
    Ok(())
}

/// `previous` is the log of the run before the present one.
pub async fn a_previous_log_is_that_of_the_run_before(bench: &Bench) -> Check {
    capability(&*bench.provider())?;
    bench.needs(Feature::Restarts)?;
    let pod = bench.run(&Plan::of(Work::Last(3)).restarted("Always")).await?;
    let again = |sights: &Sights| {
        sights.running().any(|runtime| {
            runtime.container(MAIN).is_some_and(|main| main.restart_count > 0 || main.last.is_some())
        })
    };
    bench.until(&pod.pod, 0, bench.patience().start, "a second run", again).await?;
    let main = bench.main(&pod);
    let options = LogOptions { previous: true, ..LogOptions::default() };
    let before = read_all(bench, &main, &options).await?.entries;
    let present = first_line(bench, &main).await?;
    let Some(first) = before.first() else { return fail("the log of the run before is empty") };
    demand!(
        first.time < present.time,
        "the log of the run before begins at {}, and so does that of the present one: {}",
        first.time,
        present.time
    );
    Ok(())
}

/// The first line of a log, once there is one.
async fn first_line(bench: &Bench, main: &ContainerRef) -> Check<LogEntry> {
    let options = LogOptions { follow: true, ..LogOptions::default() };
    let read = read(bench, main, &options, 1, bench.patience().tell).await?;
    read.entries.into_iter().next().map_or_else(|| fail("the log is empty"), Ok)
}

/// `previous` is `NotFound` for a container that has not been restarted.
pub async fn a_previous_log_needs_a_run_before(bench: &Bench) -> Check {
    let pod = printed(bench, &["one"]).await?;
    let options = LogOptions { previous: true, ..LogOptions::default() };
    expect_not_found(bench, &bench.main(&pod), &options, "the container was never restarted").await
}

/// The log of a container that the pod does not have is `NotFound`.
pub async fn a_log_of_an_unknown_container_is_not_found(bench: &Bench) -> Check {
    let pod = printed(bench, &["one"]).await?;
    let nobody = pod.pod.container("nobody");
    expect_not_found(bench, &nobody, &LogOptions::default(), "the pod has no such container").await
}

async fn expect_not_found(bench: &Bench, what: &ContainerRef, options: &LogOptions, why: &str) -> Check {
    let provider = bench.provider();
    let logs = capability(&*provider)?;
    match bench.attempt("container_logs", logs.container_logs(what, options)).await? {
        Err(Error::NotFound { .. }) => Ok(()),
        Err(error) => fail(format!("{why}, and the error is {}: {}", error.reason(), error.chain())),
        Ok(_) => fail(format!("{why}, and there is a log")),
    }
}
