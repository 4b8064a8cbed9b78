//! A running node, checked from outside.

use std::process::ExitCode;

use vk_node_conformance::{Check, Progress, Settings, selected};

use super::{ConformanceArgs, deliver, interruptible, progress, rounded, tell, try_reports};
use crate::config::scalar::Period;
use crate::config::settings::ClusterSettings;
use crate::env::Environment;
use crate::fault::{Fault, Faults};
use crate::{backends, cluster, config, say};

pub(super) async fn run(args: ConformanceArgs, name: String) -> Result<ExitCode, Faults> {
    let mut settings = Settings::new(name).with_only(args.only.iter().cloned()).with_image(&args.image);
    if let Some(Period(patience)) = args.timeout {
        settings = settings.with_patience(patience);
    }
    if selected(&settings.only).is_empty() {
        return Err(Fault::new("no check has such a name", "in --only", "see --list").into());
    }
    if args.list {
        say(&list(&settings));
        return Ok(ExitCode::SUCCESS);
    }
    try_reports(&args)?;
    let cluster = cluster::connect(&cluster_settings(&args)?, &settings.node).await?;
    let server = cluster.server.clone();
    let (report, code) = interruptible(async |stop| {
        let said = settings.clone();
        let tell = |event: Progress<'_>| match event {
            Progress::Plan(checks) => progress(&plan(checks, &said)),
            Progress::Ended(outcome) => tell(outcome),
            _ => {}
        };
        vk_node_conformance::run(cluster.client, settings, tell, stop).await.map_err(|refused| {
            Fault::new(refused.to_string(), format!("at {server}"), "see kubectl get nodes").into()
        })
    })
    .await?;
    deliver(&args, report.as_ref(), code)
}

/// Where the cluster is, from the same places as for `run`. The node is there already: no provider is needed.
fn cluster_settings(args: &ConformanceArgs) -> Result<ClusterSettings, Faults> {
    let mut run = args.run.clone();
    if run.flags.provider.is_none() {
        run.flags.provider = backends::NAMES.first().map(|name| (*name).to_owned());
    }
    Ok(config::settings::Settings::read(&run, Environment::of_process()?)?.cluster)
}

/// What the run costs, in a line.
fn plan(checks: &[Check], settings: &Settings) -> String {
    let pods: u32 = checks.iter().map(|check| check.cost.pods).sum();
    let at_once = checks.iter().map(|check| check.cost.pods).max().unwrap_or(0);
    let time = checks.iter().map(|check| check.cost.at_most(settings)).sum();
    format!(
        "{} checks on node {}: at most {pods} pods in all and {at_once} at once, at most {}, removal left out",
        checks.len(),
        settings.node,
        rounded(time)
    )
}

fn list(settings: &Settings) -> String {
    let checks = selected(&settings.only);
    let lines = checks.iter().map(|check| {
        let cost = check.cost;
        let time = rounded(cost.at_most(settings));
        format!("{}  (pods: {}, at most {time})\n    {}\n", check.path(), cost.pods, check.demand)
    });
    format!("{}{}\n", lines.collect::<String>(), plan(&checks, settings))
}

#[cfg(test)]
mod tests {
    use vk_node_conformance::Glob;

    use super::*;

    #[test]
    fn a_list_has_each_check_with_its_cost_and_the_sum() {
        let settings = Settings::new("n").with_only([Glob::new("many/*"), Glob::new("eviction/*")]);
        let text = list(&settings);
        assert!(text.contains("many/twenty_pods_run_at_once  (pods: 20, at most 7 min)\n"), "{text}");
        assert!(
            text.ends_with(
                "2 checks on node n: at most 21 pods in all and 20 at once, at most 12 min, removal left out\n"
            ),
            "{text}"
        );
    }
}
