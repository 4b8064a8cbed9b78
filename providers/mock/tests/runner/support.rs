//! A runner over the mock's containers, and what it told.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};
use vk_core::clock::Clock;
use vk_core::containers::{Dial, PodRunner};
use vk_core::provider::{
    ContainerState, ExitStatus, ObservedContainer, PodEvent, PodRef, PodRuntime, Provider, ResolvedPod,
    Sandbox,
};
use vk_mock::MockContainers;

/// See the module.
pub(crate) struct Bench {
    pub(crate) runner: Arc<PodRunner<MockContainers>>,
    told: Arc<Mutex<Vec<PodEvent>>>,
}

impl Bench {
    pub(crate) async fn new() -> Self {
        let clock = Clock::virtual_from("2026-11-23T11:00:00Z".parse().unwrap());
        let backend = MockContainers::new(clock.clone())
            .with_image("tool:1")
            .with_image_of("named:1", "appuser")
            .with_image_of("user:1", "1000:1000")
            .with_registry_image("pulled:1");
        let runner = Arc::new(PodRunner::dialing(Arc::new(backend), clock, Dial::PortForward));
        let told = Arc::<Mutex<Vec<_>>>::default();
        let mut events = Arc::clone(&runner).watch_pods();
        let kept = Arc::clone(&told);
        tokio::spawn(async move {
            while let Some(event) = events.next().await {
                kept.lock().unwrap().push(event.unwrap());
            }
        });
        tokio::task::yield_now().await;
        Self { runner, told }
    }

    pub(crate) async fn create(&self, spec: Value) -> PodRef {
        let pod = resolved(spec);
        self.runner.create_pod(&pod).await.unwrap();
        pod.pod
    }

    /// How the pod was told to be, one line for each change.
    pub(crate) fn states(&self) -> Vec<String> {
        let told = self.told.lock().unwrap();
        told.iter().filter(|event| !matches!(event, PodEvent::Told { .. })).filter_map(line).collect()
    }

    pub(crate) fn events(&self) -> Vec<String> {
        let told = self.told.lock().unwrap();
        told.iter().filter(|event| matches!(event, PodEvent::Told { .. })).filter_map(line).collect()
    }
}

pub(crate) fn resolved(spec: Value) -> ResolvedPod {
    let mut spec = spec;
    for list in ["initContainers", "containers"] {
        for container in spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            let defaults = json!({"image": "tool:1", "imagePullPolicy": "IfNotPresent"});
            for (key, value) in defaults.as_object().unwrap() {
                container.as_object_mut().unwrap().entry(key).or_insert(value.clone());
            }
        }
    }
    let object: Pod = serde_json::from_value(json!({
        "metadata": {"namespace": "default", "name": "pod", "uid": "uid-1"}, "spec": spec,
    }))
    .unwrap();
    ResolvedPod::literal(object).unwrap()
}

/// Lets paused time pass.
pub(crate) async fn seconds(seconds: f64) {
    tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
}

fn line(event: &PodEvent) -> Option<String> {
    match event {
        PodEvent::Listed(_) | PodEvent::Probed { .. } => None,
        PodEvent::Changed(pod) => pod.runtime.as_ref().map(show),
        PodEvent::Gone { .. } => Some("gone".to_owned()),
        PodEvent::Told { event, .. } => {
            let container = event.container.as_deref().unwrap_or("-");
            Some(format!("{} {container}: {}", event.reason.as_str(), event.message))
        }
        other => panic!("an event that these tests do not know: {other:?}"),
    }
}

pub(crate) fn show(runtime: &PodRuntime) -> String {
    let mut text = match runtime.sandbox {
        Sandbox::Pending => "pending",
        Sandbox::Ready => "ready",
        Sandbox::Gone => "ended",
    }
    .to_owned();
    if let Some(outcome) = &runtime.outcome {
        text = format!("{text} ({})", outcome.reason);
    }
    for container in &runtime.containers {
        text = format!("{text} {}", container_line(container));
    }
    text
}

fn container_line(container: &ObservedContainer) -> String {
    let end = |end: &vk_core::provider::Termination| {
        let code = match end.exit {
            ExitStatus::Code(code) => code.to_string(),
            ExitStatus::Unknown => "?".to_owned(),
        };
        let reason = end.reason.as_deref().map_or(String::new(), |reason| format!("/{reason}"));
        format!("{code}{reason}")
    };
    let state = match &container.state {
        ContainerState::Waiting { reason, .. } => reason.clone(),
        ContainerState::Running { .. } => "runs".to_owned(),
        ContainerState::Terminated(t) => format!("exit {}", end(t)),
    };
    let ready = if container.ready == Some(true) { "+" } else { "" };
    let last = container.last.as_ref().map_or(String::new(), |last| format!(" after {}", end(last)));
    format!("{}#{}:{state}{ready}{last}", container.name, container.restart_count)
}
