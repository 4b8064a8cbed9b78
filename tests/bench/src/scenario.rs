//! What is measured.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use anyhow::Result;
use clap::ValueEnum;
use tokio::time::Instant;

use crate::Sizes;
use crate::agent::{Agent, Contestant};
use crate::counters::Calls;
use crate::driver::{Driver, Life, Lives};

/// A scenario.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Scenario {
    /// Closed loop: pods created as fast as the API server takes them, then deleted with the default grace;
    /// rates, calls and the agent's processor time per pod life.
    Churn,
    /// Open loop at 20 pods a second: how much later than the POST a watcher sees `Running`, and how much later
    /// than the DELETE it sees the pod gone.
    Latency,
    /// The agent's memory without pods and with ten thousand, and its processor time while nothing happens.
    Scale,
}

/// Named figures of one trial; the unit is in the name.
pub(crate) type Trial = BTreeMap<String, f64>;

impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Churn => "churn",
            Self::Latency => "latency",
            Self::Scale => "scale",
        })
    }
}

/// How long a whole scenario's pods may take.
const PATIENCE: Duration = Duration::from_mins(15);

impl Scenario {
    pub(crate) const ALL: [Self; 3] = [Self::Churn, Self::Latency, Self::Scale];

    pub(crate) async fn run(
        self,
        driver: &Driver,
        contestant: &Contestant,
        round: u32,
        sizes: &Sizes,
    ) -> Result<Trial> {
        // A name of its own for every trial: nobody waits for a predecessor's lease.
        let run = format!("{self}-{}-{round}", contestant.name);
        if contestant.needs_node {
            driver.make_node(&run).await?;
        }
        let mut agent = contestant.start(&run)?;
        if contestant.runs_pods() {
            driver.node_ready(&run, Duration::from_mins(2)).await?;
        }
        let measured = match self {
            Self::Churn => churn(driver, contestant, &mut agent, &run, sizes.churn).await,
            Self::Latency => latency(driver, contestant, &run).await,
            Self::Scale => scale(driver, contestant, &mut agent, &run, sizes.scale).await,
        };
        agent.stop().await?;
        driver.delete_node(&run).await?;
        measured
    }
}

async fn churn(
    driver: &Driver,
    contestant: &Contestant,
    agent: &mut Agent,
    run: &str,
    count: usize,
) -> Result<Trial> {
    let (lives, watch) = driver.watch(run).await?;
    let (calls, used) = (Calls::read(&driver.client).await?, agent.used()?);
    let start = Instant::now();
    driver.create_all(&lives, run, run, count).await?;
    if contestant.runs_pods() {
        lives.until("running", count, PATIENCE, |life| life.running.is_some()).await?;
    }
    let created = start.elapsed();
    let start = Instant::now();
    // Without an agent nobody confirms the end.
    driver.delete_all(&lives, run, count, !contestant.runs_pods()).await?;
    lives.until("gone", count, PATIENCE, |life| life.gone.is_some()).await?;
    let deleted = start.elapsed();
    let cpu = agent.used()?.cpu.saturating_sub(used.cpu);
    drop(watch);
    let own = count as u64;
    let calls = Calls::read(&driver.client).await?.since(&calls, &[("POST pods", own), ("DELETE pods", own)]);

    let pods = count as f64;
    let mut trial = Trial::new();
    trial.insert("create rate (pods/s)".into(), pods / created.as_secs_f64());
    trial.insert("delete rate (pods/s)".into(), pods / deleted.as_secs_f64());
    if contestant.runs_pods() {
        trial.insert("agent CPU per pod life (ms)".into(), cpu.as_secs_f64() * 1e3 / pods);
        trial.insert("API calls per pod life".into(), calls.values().sum::<u64>() as f64 / pods);
        for (call, n) in &calls {
            trial.insert(format!("  {call} per pod life"), *n as f64 / pods);
        }
    }
    Ok(trial)
}

async fn latency(driver: &Driver, contestant: &Contestant, run: &str) -> Result<Trial> {
    const COUNT: usize = 400;
    const PER_SECOND: u32 = 20;
    let mut trial = Trial::new();
    if !contestant.runs_pods() {
        return Ok(trial);
    }
    let (lives, _watch) = driver.watch(run).await?;
    driver.create_at_rate(&lives, run, run, COUNT, PER_SECOND).await?;
    lives.until("running", COUNT, PATIENCE, |life| life.running.is_some()).await?;
    quantiles(&mut trial, "POST to Running", &lives, |life| Some(life.running? - life.created?));
    driver.delete_at_rate(&lives, run, COUNT, PER_SECOND).await?;
    lives.until("gone", COUNT, PATIENCE, |life| life.gone.is_some()).await?;
    quantiles(&mut trial, "DELETE to gone, default grace", &lives, |life| Some(life.gone? - life.deleted?));
    Ok(trial)
}

async fn scale(
    driver: &Driver,
    contestant: &Contestant,
    agent: &mut Agent,
    run: &str,
    count: usize,
) -> Result<Trial> {
    const IDLE: Duration = Duration::from_secs(20);
    const MIB: f64 = 1024.0 * 1024.0;
    let mut trial = Trial::new();
    if !contestant.runs_pods() {
        return Ok(trial);
    }
    trial.insert("RSS without pods (MiB)".into(), agent.used()?.rss as f64 / MIB);
    let (lives, _watch) = driver.watch(run).await?;
    driver.create_all(&lives, run, run, count).await?;
    lives.until("running", count, PATIENCE, |life| life.running.is_some()).await?;
    // Let what was under way come to rest before the idle figure is taken.
    tokio::time::sleep(Duration::from_secs(5)).await;
    let before = agent.used()?;
    tokio::time::sleep(IDLE).await;
    let after = agent.used()?;
    trial.insert(format!("RSS with {count} pods (MiB)"), after.rss as f64 / MIB);
    let idle = after.cpu.saturating_sub(before.cpu).as_secs_f64() / IDLE.as_secs_f64();
    trial.insert(format!("idle CPU with {count} pods (% of a core)"), idle * 100.0);
    driver.delete_all(&lives, run, count, false).await?;
    lives.until("gone", count, PATIENCE, |life| life.gone.is_some()).await?;
    Ok(trial)
}

fn quantiles(trial: &mut Trial, name: &str, lives: &Lives, of: impl Fn(&Life) -> Option<Duration>) {
    let mut times: Vec<f64> =
        lives.all().iter().filter_map(of).map(|time| time.as_secs_f64() * 1e3).collect();
    times.sort_by(f64::total_cmp);
    for (label, q) in [("p50", 0.50), ("p99", 0.99)] {
        let index = ((times.len().max(1) - 1) as f64 * q).round() as usize;
        if let Some(time) = times.get(index) {
            trial.insert(format!("{name}, {label} (ms)"), *time);
        }
    }
}
