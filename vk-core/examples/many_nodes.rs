//! Many nodes with many pods in one process, and what one of them takes.
//!
//! ```text
//! cargo run --release -p vk-core --example many_nodes -- --nodes 1000 --pods 100 --rest 60
//! ```
//!
//! Nodes share the connection to the API server and the thread of the leases; an idle pod is a record, without a task or
//! a timer. The API server is in this process too, and keeps more of a pod than its node does, so the nodes' memory is
//! what is given back when they end: the API server has all objects before and after.

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use cap::Cap;
use serde_json::json;
use tokio::runtime::Handle;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use vk_apiserver::{ApiServer, Verb};
use vk_core::clock::Clock;
use vk_core::config::NodeConfig;
use vk_core::node::LeaseRuntime;
use vk_core::{Node, NodeError, Shutdown};
use vk_mock::{MockConfig, MockProvider};

/// Counts what is allocated and not freed.
#[global_allocator]
static ALLOCATOR: Cap<std::alloc::System> = Cap::new(std::alloc::System, usize::MAX);

/// Nodes that start at once. Each registers, which is an error when it takes more than 25 s, and then works on
/// all of its pods.
const STARTING: usize = 50;

/// How long any one step may take.
const PATIENCE: Duration = Duration::from_mins(20);

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let (nodes, pods, rest) = (flag("--nodes", 20)?, flag("--pods", 10)?, flag("--rest", 5)?);
    println!("{nodes} nodes x {pods} pods");
    // No controllers: the pods are bound by us, and their number is what it is.
    let cluster = ApiServer::new()?;
    let begin = Instant::now();

    let names: Vec<String> = (0..nodes).map(|index| format!("node-{index:04}")).collect();
    for node in &names {
        for index in 0..pods {
            cluster.create(json!({
                "apiVersion": "v1", "kind": "Pod", "metadata": {"name": format!("{node}-pod-{index:04}")},
                "spec": {
                    "nodeName": node, "automountServiceAccountToken": false,
                    "containers": [{"name": "app", "image": "registry.example/web:1"}],
                },
            }))?;
        }
        tokio::task::yield_now().await;
    }
    let stored = Usage::now()?;
    println!("{:>6.1} s  pods created     {stored}", begin.elapsed().as_secs_f64());

    let client = cluster.client();
    let lease_client = client.clone();
    let lease = LeaseRuntime::start(move || Ok(lease_client)).await?;
    let shutdown = Shutdown::new();
    let mut running = JoinSet::new();
    let mut started = 0;
    for some in names.chunks(STARTING) {
        for name in some {
            let provider = Arc::new(MockProvider::start(MockConfig::default(), name, Clock::system())?);
            let node = Node::builder(NodeConfig::new(name.as_str()), provider, client.clone())
                .lease_runtime(lease.clone())
                .build();
            running.spawn(node.run(shutdown.clone()));
        }
        started += some.len();
        until("every node Ready", &mut running, || started - count(&cluster, "nodes", is_ready)).await?;
    }
    println!("{:>6.1} s  all nodes Ready  {}", begin.elapsed().as_secs_f64(), Usage::now()?);
    // To look at every pod again and again would be most of the work.
    let statuses = || cluster.requests().of(Verb::Patch, "pods", "status") as usize;
    until("a status of every pod", &mut running, || (nodes * pods).saturating_sub(statuses())).await?;
    until("every pod Running", &mut running, || nodes * pods - count(&cluster, "pods", is_running)).await?;
    let full = Usage::now()?;
    println!("{:>6.1} s  all pods Running {full}", begin.elapsed().as_secs_f64());

    // At rest: heartbeats only.
    let cpu = cpu_seconds()?;
    sleep(Duration::from_secs(rest as u64)).await;
    let idle = Usage::now()?;
    let busy = (cpu_seconds()? - cpu) / rest as f64 * 100.0;
    println!("{:>6.1} s  at rest          {idle}, {busy:.1} % of a CPU", begin.elapsed().as_secs_f64());
    until("nothing ended", &mut running, || 0).await?;

    shutdown.drain();
    while let Some(ended) = running.join_next().await {
        ended??;
    }
    drop((lease, client));
    let left = Usage::now()?;
    println!("{:>6.1} s  all nodes ended  {left}", begin.elapsed().as_secs_f64());
    println!(
        "per node with its {pods} pods, at rest: {:.1} tasks, {:.0} KiB allocated",
        (idle.tasks - left.tasks) as f64 / nodes.max(1) as f64,
        idle.allocated.saturating_sub(left.allocated) as f64 / nodes.max(1) as f64 / 1024.0,
    );
    Ok(())
}

/// What this process takes.
struct Usage {
    /// Bytes, as the kernel counts them: with what the allocator keeps after a peak.
    resident: u64,
    /// Bytes.
    allocated: usize,
    tasks: usize,
}

impl Usage {
    fn now() -> anyhow::Result<Self> {
        let status = std::fs::read_to_string("/proc/self/status").context("reading /proc/self/status")?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        let kilobytes: u64 = line.trim().trim_end_matches(" kB").parse().context("reading VmRSS")?;
        Ok(Self {
            resident: kilobytes * 1024,
            allocated: ALLOCATOR.allocated(),
            tasks: Handle::current().metrics().num_alive_tasks(),
        })
    }
}

impl std::fmt::Display for Usage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mebibytes = |bytes: f64| bytes / 1024.0 / 1024.0;
        let (resident, allocated) = (mebibytes(self.resident as f64), mebibytes(self.allocated as f64));
        write!(f, "{resident:.0} MiB resident, {allocated:.0} MiB allocated, {} tasks", self.tasks)
    }
}

/// Processor time of this process so far.
fn cpu_seconds() -> anyhow::Result<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").context("reading /proc/self/stat")?;
    let (_, rest) = stat.rsplit_once(')').context("/proc/self/stat has a name")?;
    // utime and stime, fields 14 and 15, in hundredths of a second (USER_HZ).
    let ticks = rest.split_ascii_whitespace().skip(11).take(2).map(str::parse::<u64>);
    Ok(ticks.sum::<Result<u64, _>>().context("reading /proc/self/stat")? as f64 / 100.0)
}

fn flag(name: &str, default: usize) -> anyhow::Result<usize> {
    let mut arguments = std::env::args().skip_while(|argument| argument != name).skip(1);
    let given = arguments.next().map(|value| value.parse().with_context(|| format!("{name} {value}")));
    given.unwrap_or(Ok(default))
}

fn count(cluster: &ApiServer, resource: &str, which: impl Fn(&serde_json::Value) -> bool) -> usize {
    cluster.objects(resource).iter().filter(|object| which(object)).count()
}

fn is_ready(node: &serde_json::Value) -> bool {
    let conditions = node["status"]["conditions"].as_array();
    conditions.is_some_and(|all| all.iter().any(|one| one["type"] == "Ready" && one["status"] == "True"))
}

fn is_running(pod: &serde_json::Value) -> bool {
    pod["status"]["phase"] == "Running"
}

/// Waits until nothing is left of what is looked for, as long as all nodes run.
async fn until(
    what: &str,
    running: &mut JoinSet<Result<(), NodeError>>,
    mut left: impl FnMut() -> usize,
) -> anyhow::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(ended) = running.try_join_next() {
            ended??;
            bail!("a node has ended by itself");
        }
        let left = left();
        if left == 0 {
            break;
        }
        if Instant::now() > deadline {
            bail!("not within {} min: {what}, {left} are left", PATIENCE.as_secs() / 60);
        }
        sleep(Duration::from_millis(500)).await;
    }
    Ok(())
}
