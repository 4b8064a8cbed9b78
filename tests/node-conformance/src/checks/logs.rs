//! `kubectl logs`.

use std::time::Duration;

use jiff::Timestamp;
use kube::api::LogParams;
use serde_json::json;
use tokio::time::sleep;

use crate::bed::Bed;
use crate::calls::{CALL, follow, lacks};
use crate::stop::{Checked, Stop, code, demand};
use crate::workload::Script;

const LINES: [&str; 3] = ["one", "two", "three"];

/// A running pod that has written three lines.
async fn written(bed: &Bed) -> Checked<&'static str> {
    bed.start("writes", &bed.workload().running("app", &Script::says(&LINES))).await?;
    bed.log_with("writes", &LogParams::default(), "three").await?;
    Ok("writes")
}

/// The log is what was written.
pub async fn a_log_is_whole(bed: &Bed) -> Checked {
    let pod = written(bed).await?;
    let log = bed.log(pod, &LogParams::default()).await?;
    demand!(log == "one\ntwo\nthree\n", "the log is {log:?}");
    Ok(())
}

/// The last lines.
pub async fn the_tail_is_the_tail(bed: &Bed) -> Checked {
    let pod = written(bed).await?;
    for (lines, expected) in [(1, "three\n"), (2, "two\nthree\n"), (0, "")] {
        let log = bed.log(pod, &LogParams { tail_lines: Some(lines), ..LogParams::default() }).await?;
        demand!(log == expected, "with tailLines={lines} the log is {log:?}");
    }
    Ok(())
}

/// The first bytes.
pub async fn bytes_are_limited(bed: &Bed) -> Checked {
    let pod = written(bed).await?;
    let log = bed.log(pod, &LogParams { limit_bytes: Some(6), ..LogParams::default() }).await?;
    demand!(log == "one\ntw", "with limitBytes=6 the log is {log:?}");
    Ok(())
}

/// Each line has its time.
pub async fn timestamps_are_added(bed: &Bed) -> Checked {
    let pod = written(bed).await?;
    let log = bed.log(pod, &LogParams { timestamps: true, ..LogParams::default() }).await?;
    let mut rest = Vec::new();
    for line in log.lines() {
        let (time, text) = line.split_once(' ').unwrap_or((line, ""));
        demand!(time.parse::<Timestamp>().is_ok(), "line {line:?} does not begin with a time");
        rest.push(text);
    }
    demand!(rest == LINES, "behind the times the log is {rest:?}");
    Ok(())
}

/// Older lines are left out.
pub async fn since_leaves_out_what_is_older(bed: &Bed) -> Checked {
    let pod = written(bed).await?;
    let all = bed.log(pod, &LogParams { since_seconds: Some(3600), ..LogParams::default() }).await?;
    demand!(all == "one\ntwo\nthree\n", "with sinceSeconds=3600 the log is {all:?}");
    // Seconds are whole ones on the way.
    sleep(Duration::from_secs(5)).await;
    let none = bed.log(pod, &LogParams { since_seconds: Some(2), ..LogParams::default() }).await?;
    demand!(none.is_empty(), "five seconds later, with sinceSeconds=2, the log is {none:?}");
    Ok(())
}

/// The log of the run before is there.
pub async fn the_previous_log_is_kept(bed: &Bed) -> Checked {
    let script = Script::says_and_exits(&["a run"], 1, 0);
    let workload = bed.workload().running("app", &script).with("restartPolicy", json!("Always"));
    bed.create("restarts", &workload).await?;
    bed.until(
        "restarts",
        "restarted",
        |pod| if pod.restarts("app") > 0 { Ok(()) } else { Err(pod.in_short()) },
    )
    .await?;
    bed.log_with("restarts", &LogParams { previous: true, ..LogParams::default() }, "a run").await.map(drop)
}

/// There is no log of a run that never was.
pub async fn a_previous_log_that_is_not_there_is_an_error(bed: &Bed) -> Checked {
    let pod = written(bed).await?;
    let params = LogParams { previous: true, ..LogParams::default() };
    match tokio::time::timeout(CALL, bed.pods().logs(pod, &params)).await {
        Ok(Ok(log)) => {
            Err(Stop::failed(format!("a container that was never restarted has the previous log {log:?}")))
        }
        Ok(Err(error)) if code(&error) == Some(400) => Ok(()),
        Ok(Err(error)) => Err(lacks("the previous log", error)),
        Err(_) => Err(Stop::failed(format!("no answer within {CALL:?}"))),
    }
}

/// A followed log ends by itself.
pub async fn a_followed_log_ends(bed: &Bed) -> Checked {
    let script = Script::says_and_exits(&["begun"], 0, 8);
    bed.create("ends", &bed.workload().running("app", &script)).await?;
    bed.until("ends", "begun", |pod| if pod.phase() == "Pending" { Err(pod.in_short()) } else { Ok(()) })
        .await?;
    bed.log_with("ends", &LogParams::default(), "begun").await?;
    let log = follow(bed, "ends", bed.patience()).await?;
    demand!(log.starts_with("begun\n"), "the followed log is {log:?}");
    let pod = bed.until_ended("ends").await?;
    demand!(pod.phase() == "Succeeded", "{}", pod.in_short());
    Ok(())
}
