//! What the tests of the mock provider share.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::BoxStream;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};
use tokio::time::Instant;
use vk_core::clock::Clock;
use vk_core::provider::{
    ContainerState, ExitStatus, ObservedPod, PodEvent, PodRef, PodRuntime, Provider, ResolvedPod, Result,
    Sandbox,
};
use vk_mock::{MockBackend, MockConfig, MockProvider, PREFIX};

pub(crate) const GRACE: Duration = Duration::from_secs(30);

/// A moment for virtual clocks to begin at.
pub(crate) fn epoch() -> Timestamp {
    "2026-11-23T10:00:00Z".parse().expect("a timestamp")
}

pub(crate) fn seconds(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

/// A pod in the making.
#[derive(Clone)]
pub(crate) struct Template(Value);

/// A pod with one container, `a`, and the script lines given.
pub(crate) fn pod(name: &str, uid: &str, script: &[(&str, &str)]) -> Template {
    let annotations: serde_json::Map<String, Value> =
        script.iter().map(|(key, value)| (format!("{PREFIX}{key}"), json!(value))).collect();
    Template(json!({
        "metadata": {"namespace": "default", "name": name, "uid": uid, "annotations": annotations},
        "spec": {"containers": [{"name": "a", "image": "registry.test/web:1"}]},
    }))
}

impl Template {
    pub(crate) fn spec(mut self, key: &str, value: Value) -> Self {
        self.0["spec"][key] = value;
        self
    }

    pub(crate) fn containers(self, names: &[&str]) -> Self {
        let containers =
            names.iter().map(|name| json!({"name": name, "image": "registry.test/web:1"})).collect();
        self.spec("containers", Value::Array(containers))
    }

    /// Init containers; those whose name begins with `side` are sidecars.
    pub(crate) fn init(self, names: &[&str]) -> Self {
        let containers = names.iter().map(|name| {
            let mut container = json!({"name": name, "image": "registry.test/init:1"});
            if name.starts_with("side") {
                container["restartPolicy"] = json!("Always");
            }
            container
        });
        let containers = containers.collect();
        self.spec("initContainers", Value::Array(containers))
    }

    pub(crate) fn restart(self, policy: &str) -> Self {
        self.spec("restartPolicy", json!(policy))
    }

    pub(crate) fn build(&self) -> ResolvedPod {
        let pod: Pod = serde_json::from_value(self.0.clone()).expect("a pod");
        ResolvedPod::literal(pod).expect("a pod with names and UID")
    }
}

/// A provider under paused time, with its backend and a watch.
pub(crate) struct Bench {
    pub(crate) backend: MockBackend,
    pub(crate) provider: Arc<MockProvider>,
    /// When the bench was set up: [`epoch`] for a backend of its own.
    begun: Instant,
    pub(crate) watch: BoxStream<'static, Result<PodEvent>>,
}

impl Bench {
    pub(crate) async fn new() -> Self {
        Self::with(MockConfig::default()).await
    }

    pub(crate) async fn with(config: MockConfig) -> Self {
        let backend = MockBackend::new(config, Clock::virtual_from(epoch())).expect("a good configuration");
        Self::on(backend).await
    }

    /// Connects to a backend, and takes the first listing off the watch.
    pub(crate) async fn on(backend: MockBackend) -> Self {
        let provider = Arc::new(MockProvider::new(backend.clone(), "virtual-1"));
        let mut watch = Arc::clone(&provider).watch_pods();
        match watch.next().await {
            Some(Ok(PodEvent::Listed(_))) => {}
            other => panic!("a watch begins with a listing, not with {other:?}"),
        }
        Self { backend, provider, begun: Instant::now(), watch }
    }

    /// The time of day at the backend, if it was made with the bench.
    pub(crate) fn now(&self) -> Timestamp {
        epoch() + SignedDuration::try_from(self.begun.elapsed()).expect("a test takes less than an age")
    }

    pub(crate) async fn create(&self, template: &Template) -> PodRef {
        let pod = template.build();
        self.provider.create_pod(&pod).await.expect("the pod is accepted");
        pod.pod
    }

    /// The next event, however long it takes.
    pub(crate) async fn event(&mut self) -> PodEvent {
        let event = tokio::time::timeout(Duration::from_hours(24 * 30), self.watch.next()).await;
        event.expect("an event within a month").expect("the watch goes on").expect("no failure")
    }

    pub(crate) async fn changed(&mut self) -> PodRuntime {
        match self.event().await {
            PodEvent::Changed(pod) => runtime(pod),
            other => panic!("expected a change, not {other:?}"),
        }
    }

    pub(crate) async fn gone(&mut self) -> PodRuntime {
        match self.event().await {
            PodEvent::Gone { last: Some(last), .. } => last,
            other => panic!("expected the end of a pod, not {other:?}"),
        }
    }

    /// The end of a pod of whose end nothing is scripted: there is nothing to tell of it.
    pub(crate) async fn gone_without_a_word(&mut self) {
        match self.event().await {
            PodEvent::Gone { last: None, .. } => {}
            other => panic!("expected the end of a pod without a word, not {other:?}"),
        }
    }

    /// Nothing more is reported for an hour.
    pub(crate) async fn quiet(&mut self) {
        if let Ok(event) = tokio::time::timeout(Duration::from_hours(1), self.watch.next()).await {
            panic!("unexpected: {event:?}");
        }
    }

    /// Nothing more is reported now.
    pub(crate) async fn nothing_now(&mut self) {
        if let Ok(event) = tokio::time::timeout(Duration::ZERO, self.watch.next()).await {
            panic!("unexpected: {event:?}");
        }
    }

    pub(crate) async fn listed(&self) -> Vec<ObservedPod> {
        self.provider.list_pods().await.expect("a listing")
    }
}

pub(crate) fn runtime(pod: ObservedPod) -> PodRuntime {
    pod.runtime.expect("the mock always knows what a pod is doing")
}

/// A line for each container, as `name=state`, with the sandbox before it.
pub(crate) fn summary(runtime: &PodRuntime) -> String {
    let sandbox = match runtime.sandbox {
        Sandbox::Pending => "pending",
        Sandbox::Ready => "ready",
        Sandbox::Gone => "gone",
    };
    let mut words = vec![sandbox.to_owned()];
    for container in &runtime.containers {
        let state = match &container.state {
            ContainerState::Waiting { reason, .. } => reason.clone(),
            ContainerState::Running { .. } if container.ready == Some(true) => "ready".to_owned(),
            ContainerState::Running { .. } => "running".to_owned(),
            ContainerState::Terminated(end) => {
                let code = match end.exit {
                    ExitStatus::Code(code) => code.to_string(),
                    ExitStatus::Unknown => "?".to_owned(),
                };
                end.reason.as_ref().map_or(code.clone(), |reason| format!("{reason}:{code}"))
            }
        };
        let restarts = match container.restart_count {
            0 => String::new(),
            count => format!("×{count}"),
        };
        words.push(format!("{}={state}{restarts}", container.name));
    }
    words.join(" ")
}
