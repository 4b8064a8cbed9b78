//! A run: check after check, each in a namespace of its own.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;
use kube::Client;
use kube::api::Api;
use tokio::time::{Instant, timeout};
use vk_conformance::report::{Outcome, Report, Verdict};

use crate::bed::{Bed, until_removed};
use crate::settings::Settings;
use crate::stop::{Checked, Stop, describe};
use crate::suite::{Check, selected};

/// A namespace controller takes at least five seconds for a namespace, whatever the node does.
const REMOVAL: Duration = Duration::from_mins(1);

/// Why a run cannot begin.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refused {
    /// No check has such a name.
    NothingSelected,
    /// The node is not there, or cannot be looked at.
    Node(String),
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NothingSelected => f.write_str("no check has such a name"),
            Self::Node(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for Refused {}

/// What a run tells while it goes on.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Progress<'a> {
    /// It is about to begin with these checks.
    Plan(&'a [Check]),
    /// A check begins, which takes this long at most.
    Begins(&'a Check, Duration),
    /// A check has ended.
    Ended(&'a Outcome),
}

/// Looks whether the node is there; its kubelet's version.
///
/// # Errors
/// It is not, or the caller may not look.
pub async fn preflight(client: &Client, settings: &Settings) -> Result<String, Refused> {
    let name = &settings.node;
    match Api::<Node>::all(client.clone()).get_opt(name).await {
        Ok(Some(node)) => {
            let info = node.status.and_then(|status| status.node_info);
            Ok(info.map(|info| info.kubelet_version).unwrap_or_default())
        }
        Ok(None) => Err(Refused::Node(format!("there is no node {name:?} in the cluster"))),
        Err(error) => Err(Refused::Node(format!("cannot look at node {name:?}: {}", describe(&error)))),
    }
}

/// Runs the selected checks, one after the other. When `stop` ends, the check under way is left, what it made is
/// removed, and the remaining ones are reported as not run.
///
/// # Errors
/// Nothing was selected, or there is no such node.
pub async fn run(
    client: Client,
    settings: Settings,
    mut tell: impl FnMut(Progress<'_>),
    stop: impl Future<Output = ()>,
) -> Result<Report, Refused> {
    let checks = selected(&settings.only);
    if checks.is_empty() {
        return Err(Refused::NothingSelected);
    }
    let version = preflight(&client, &settings).await?;
    tell(Progress::Plan(&checks));
    let mut report = Report::new("node", &settings.node, Timestamp::now())
        .with_fact("kubelet version", version)
        .with_fact("image", &settings.image)
        .with_fact("patience", format!("{:?}", settings.patience));
    if let Ok(info) = client.apiserver_version().await {
        report = report.with_fact("API server", info.git_version);
    }
    let began = Instant::now();
    let mut stop = std::pin::pin!(stop);
    let mut stopped = false;
    let mut made = Vec::new();
    for check in &checks {
        if stopped {
            report.outcomes.push(outcome(
                check,
                Err(Stop::not_applicable("not run: interrupted")),
                Duration::ZERO,
            ));
            continue;
        }
        tell(Progress::Begins(check, check.cost.at_most(&settings)));
        let began = Instant::now();
        let verdict = one(&client, &settings, check, stop.as_mut(), &mut stopped, &mut made).await;
        let outcome = outcome(check, verdict, began.elapsed());
        tell(Progress::Ended(&outcome));
        report.outcomes.push(outcome);
    }
    // A namespace that stays is its check's fault, or that of the pods in it.
    let names = made.iter().map(|(_, namespace)| namespace.clone()).collect();
    for left in until_removed(&client, names, settings.patience.max(REMOVAL)).await {
        let check = made.iter().find(|(_, namespace)| *namespace == left).map(|(name, _)| *name);
        let outcome = report.outcomes.iter_mut().find(|outcome| Some(outcome.clause.as_str()) == check);
        if let Some(outcome) = outcome {
            let reason = outcome.failure().map_or_else(String::new, |reason| format!("{reason}\nand "));
            outcome.verdict = Verdict::failed(format!("{reason}namespace {left} could not be removed"));
        }
    }
    report.seconds = began.elapsed().as_secs_f64();
    Ok(report)
}

/// Runs a check in a bed of its own, and cleans up however it ends.
async fn one(
    client: &Client,
    settings: &Settings,
    check: &Check,
    stop: std::pin::Pin<&mut impl Future<Output = ()>>,
    stopped: &mut bool,
    made: &mut Vec<(&'static str, String)>,
) -> Checked {
    // Not to be interrupted: what is made has to be known to be removed. It takes seconds.
    let bed = if check.makes_something() {
        let bed = Bed::open(client.clone(), settings.clone()).await?;
        made.push((check.name, bed.namespace().to_owned()));
        bed
    } else {
        Bed::looking(client.clone(), settings.clone())
    };
    let limit = check.cost.at_most(settings);
    // Cancel-safe: everything a check leaves is in its namespace.
    let verdict = tokio::select! {
        verdict = timeout(limit, check.run(&bed)) => {
            verdict.unwrap_or_else(|_| Err(Stop::failed(format!("no end within {limit:?}"))))
        }
        () = stop => {
            *stopped = true;
            Err(Stop::failed("interrupted"))
        }
    };
    match (verdict, bed.close().await) {
        (verdict, Ok(())) => verdict,
        (Err(Stop::Failed(seen)), Err(left)) => Err(Stop::Failed(format!("{seen}\nand {left}"))),
        (_, Err(left)) => Err(Stop::Failed(left)),
    }
}

fn outcome(check: &Check, verdict: Checked, took: Duration) -> Outcome {
    let verdict = match verdict {
        Ok(()) => Verdict::Passed,
        Err(Stop::Failed(seen)) => Verdict::failed(seen),
        Err(Stop::NotApplicable(why)) => Verdict::not_applicable(why),
    };
    Outcome::new(check.name, check.group, check.demand, verdict, took)
}
