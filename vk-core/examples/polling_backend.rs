//! A backend behind a remote API that can only be asked: jobs, a listing in pages, and throttling.
//!
//! What to look at: a job carries the pod's UID; the listing is complete or an error; a finished job stays listed with
//! its exit code until it is deleted; and the API's errors become [`Error`]s by what the node is to do next.

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::BoxStream;
use jiff::Timestamp;
use serde_json::{Value, json};
use vk_apiserver::{ApiServer, Controller};
use vk_core::config::NodeConfig;
use vk_core::provider::{
    Error, ExitStatus, Feature, Features, FieldSupport, NodeInfo, ObservedContainer, ObservedPod, PodEvent,
    PodRef, PodRuntime, Provider, ResolvedPod, Result, Sandbox, Termination, watch_by_polling,
};
use vk_core::{Node, Shutdown};

/// A job as the remote API has it. Its name is the pod's UID: two pods of one name are two jobs.
#[derive(Clone, Debug)]
struct Job {
    pod: PodRef,
    container: String,
    started_at: Timestamp,
    runs_for: Duration,
}

/// What the remote API answers instead of what was asked for.
#[derive(Debug)]
enum Refusal {
    Exists,
    TooManyRequests { retry_after: Duration },
    ServerError,
}

/// The remote API, pretended. Every fifth request is throttled, and now and then it fails.
#[derive(Debug, Default)]
struct RemoteApi(Mutex<Remote>);

#[derive(Debug, Default)]
struct Remote {
    jobs: BTreeMap<String, Job>,
    requests: u64,
}

/// Jobs in one answer.
const PAGE: usize = 2;

impl RemoteApi {
    fn request(&self) -> Result<MutexGuard<'_, Remote>, Refusal> {
        let mut remote = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        remote.requests += 1;
        match remote.requests {
            n if n.is_multiple_of(5) => {
                Err(Refusal::TooManyRequests { retry_after: Duration::from_millis(100) })
            }
            n if n.is_multiple_of(13) => Err(Refusal::ServerError),
            _ => Ok(remote),
        }
    }

    fn submit(&self, name: &str, job: Job) -> Result<(), Refusal> {
        let mut remote = self.request()?;
        if remote.jobs.contains_key(name) {
            return Err(Refusal::Exists);
        }
        remote.jobs.insert(name.to_owned(), job);
        Ok(())
    }

    fn delete(&self, name: &str) -> Result<(), Refusal> {
        self.request()?.jobs.remove(name);
        Ok(())
    }

    fn page(&self, after: &str) -> Result<Vec<(String, Job)>, Refusal> {
        let remote = self.request()?;
        let later = remote.jobs.iter().filter(|(name, _)| name.as_str() > after);
        Ok(later.take(PAGE).map(|(name, job)| (name.clone(), job.clone())).collect())
    }
}

/// The one place where the API's answers become errors of the contract.
fn explain(call: &str, refusal: &Refusal) -> Error {
    match refusal {
        Refusal::TooManyRequests { retry_after } => Error::throttled(Some(*retry_after)),
        Refusal::ServerError => Error::unavailable(format!("{call}: the jobs API failed")),
        Refusal::Exists => Error::unexpected(format!("{call}: a job of that name exists")),
    }
}

#[derive(Debug, Default)]
struct Jobs {
    api: RemoteApi,
}

/// What it does itself. A job runs once and tells its exit code: that a pod is restarted, it cannot promise.
const NATIVE: &[Feature] = &[Feature::TerminationMessages];

/// A pod that asks for more is refused, field by field, before it comes to `create_pod`.
static FIELDS: LazyLock<FieldSupport> = LazyLock::new(|| {
    FieldSupport::of_pods("jobs", Features::of(NATIVE))
        .all_native(&["spec.containers[].image", "spec.containers[].args"])
        .only("spec.restartPolicy", &["Never"], "jobs are not restarted; say Never")
});

#[async_trait]
impl Provider for Jobs {
    fn name(&self) -> &'static str {
        "jobs"
    }

    fn native(&self) -> Features {
        Features::of(NATIVE)
    }

    fn fields(&self) -> &FieldSupport {
        &FIELDS
    }

    async fn node_info(&self) -> Result<NodeInfo> {
        let node = NodeInfo::default().with_capacity("cpu", "64").with_capacity("memory", "256Gi");
        Ok(node.with_capacity("pods", "500"))
    }

    async fn create_pod(&self, pod: &ResolvedPod) -> Result<()> {
        // What can never run is refused for good, with the field's path; the pod fails and says why.
        let [container] = pod.containers.as_slice() else {
            return Err(Error::rejected("spec.containers", "a job has exactly one container"));
        };
        if pod.object.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref()) != Some("Never") {
            return Err(Error::rejected("spec.restartPolicy", "jobs are not restarted; say Never"));
        }
        let seconds = container.args.first().and_then(|arg| arg.expose().parse().ok()).unwrap_or(0.0);
        let job = Job {
            pod: pod.pod.clone(),
            container: container.name.clone(),
            started_at: Timestamp::now(),
            runs_for: Duration::from_secs_f64(seconds),
        };
        match self.api.submit(pod.pod.uid.as_str(), job) {
            // Our own earlier call, whose answer was lost.
            Ok(()) | Err(Refusal::Exists) => Ok(()),
            Err(refusal) => Err(explain("submit", &refusal)),
        }
    }

    async fn delete_pod(&self, pod: &PodRef, _grace: Duration) -> Result<()> {
        self.api.delete(pod.uid.as_str()).map_err(|refusal| explain("delete", &refusal))
    }

    async fn list_pods(&self) -> Result<Vec<ObservedPod>> {
        let (mut pods, mut last) = (Vec::new(), String::new());
        loop {
            // A page that fails fails the listing: half of it would say that the other half is gone.
            let page = self.api.page(&last).map_err(|refusal| explain("list", &refusal))?;
            let Some((name, _)) = page.last() else { return Ok(pods) };
            last.clone_from(name);
            pods.extend(page.into_iter().map(|(_, job)| observe(job)));
        }
    }

    fn watch_pods(self: Arc<Self>) -> BoxStream<'static, Result<PodEvent>> {
        watch_by_polling(self, Duration::from_millis(300))
    }

    vk_core::lacks!(prepare, update, logs, exec, attach, port_forward, stats);
}

/// A job as a pod: it runs, or it has ended and nothing of it can run any more.
fn observe(job: Job) -> ObservedPod {
    let end = job.started_at.saturating_add(job.runs_for).unwrap_or(Timestamp::MAX);
    let runtime = if Timestamp::now() < end {
        PodRuntime::new(Sandbox::Ready)
            .with_container(ObservedContainer::running(job.container, job.started_at))
    } else {
        let ended = Termination::new(ExitStatus::Code(0)).with_times(job.started_at, end);
        PodRuntime::new(Sandbox::Gone).with_container(ObservedContainer::terminated(job.container, ended))
    };
    ObservedPod::new(job.pod, runtime.with_started_at(job.started_at))
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let cluster = ApiServer::new()?;
    let _controllers = cluster.start(Controller::ALL);
    let mut config = NodeConfig::new("jobs-1");
    config.min_backoff = Duration::from_millis(100);
    let shutdown = Shutdown::new();
    let node = Node::builder(config, Arc::new(Jobs::default()), cluster.client()).build();
    let node = tokio::spawn(node.run(shutdown.clone()));

    for index in 0..5 {
        cluster.create(pod(&format!("job-{index}"), "Never"))?;
    }
    cluster.create(pod("web", "Always"))?;
    for index in 0..5 {
        let name = format!("job-{index}");
        let done = until(&cluster, &name, "Succeeded").await?;
        let state = &done["status"]["containerStatuses"][0]["state"]["terminated"];
        println!("{name} Succeeded, exit code {}", state["exitCode"]);
    }
    let refused = until(&cluster, "web", "Failed").await?;
    println!("web Failed: {} ({})", refused["status"]["message"], refused["status"]["reason"]);

    shutdown.drain();
    node.await??;
    Ok(())
}

fn pod(name: &str, restart_policy: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {
            "nodeName": "jobs-1", "restartPolicy": restart_policy,
            "containers": [{"name": "job", "image": "registry.example/job:1", "args": ["0.5"]}],
        },
    })
}

/// Looks until a pod is in that phase, for half a minute at most.
async fn until(cluster: &ApiServer, name: &str, phase: &str) -> anyhow::Result<Value> {
    for _ in 0..600 {
        match cluster.object("pods", "default", name) {
            Some(pod) if pod["status"]["phase"] == phase => return Ok(pod),
            _ => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
    anyhow::bail!("pod {name} is not {phase} within 30 s")
}
