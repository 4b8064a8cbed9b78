//! A node over containers in memory: our engines (order, restarts, probes, hooks) on the mock's containers.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::Api;
use serde_json::{Value, json};
use tokio::io::AsyncReadExt as _;
use tokio::task::JoinHandle;
use vk_core::containers::{Dial, PodRunner};
use vk_core::provider::{ExecIo, ExitStatus, LogOptions, PodRef, Provider};
use vk_core::{NodeError, Shutdown};
use vk_mock::MockContainers;

use crate::virtual_node::{condition, config};
use crate::wait::{eventually, holds};
use crate::world::World;

/// The image of every container that [`container`] makes.
pub const IMAGE: &str = "tool:1";

/// See the module. Dropping it kills the node.
#[derive(Debug)]
pub struct ContainerNode {
    /// Its name.
    pub name: String,
    /// Its provider.
    pub runner: Arc<PodRunner<MockContainers>>,
    task: JoinHandle<Result<(), NodeError>>,
}

impl Drop for ContainerNode {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl ContainerNode {
    /// A ready node without taints, with [`IMAGE`].
    pub async fn ready(world: &World) -> Self {
        Self::over(world, |runner| runner).await
    }

    /// The same, whose provider is wrapped in another.
    pub async fn over(world: &World, wrap: impl FnOnce(Arc<dyn Provider>) -> Arc<dyn Provider>) -> Self {
        let clock = world.clock();
        let backend = MockContainers::new(clock.clone()).with_image(IMAGE);
        let runner = Arc::new(PodRunner::dialing(Arc::new(backend), clock.clone(), Dial::PortForward));
        let mut config = config(world);
        config.taints = Some(Vec::new());
        let name = config.name.clone();
        let provider = wrap(Arc::clone(&runner) as Arc<dyn Provider>);
        let node = vk_core::Node::builder(config, provider, world.node_client(&name)).clock(clock).build();
        let task = tokio::spawn(node.run(Shutdown::new()));
        let nodes: Api<Node> = Api::all(world.client());
        eventually("the node is ready", async || {
            let node = nodes.get_opt(&name).await.map_err(|error| error.to_string())?;
            let ready = node.as_ref().and_then(|node| condition(node, "Ready"));
            holds(ready.is_some_and(|ready| ready.status == "True"), || format!("{node:?}"))
        })
        .await;
        Self { name, runner, task }
    }

    /// What a container has written, or with `follow` what it will have written when it ends; `None` without a log.
    ///
    /// # Panics
    /// When it is no text.
    pub async fn log(&self, pod: &Pod, container: &str, follow: bool) -> Option<String> {
        read(&self.runner, pod, container, follow).await
    }

    /// Reads a container's log from now on, until the container ends.
    ///
    /// # Panics
    /// When it has none.
    #[must_use]
    pub fn follow(&self, pod: &Pod, container: &str) -> JoinHandle<String> {
        let (runner, pod, container) = (Arc::clone(&self.runner), pod.clone(), container.to_owned());
        tokio::spawn(async move { read(&runner, &pod, &container, true).await.expect("a log") })
    }

    /// Runs a script in a container: its exit code, and its output.
    ///
    /// # Panics
    /// When it cannot be run.
    pub async fn exec(&self, pod: &Pod, container: &str, script: &str) -> (i32, String) {
        let container = PodRef::of(pod).expect("a stored pod").container(container);
        let (mut ours, theirs) = tokio::io::duplex(1 << 20);
        let io = ExecIo::Pipes { stdin: None, stdout: Some(Box::new(theirs)), stderr: None };
        let command = ["sh", "-c", script].map(str::to_owned);
        let ended = self.runner.exec().expect("exec").exec(&container, &command, io).await;
        let mut output = String::new();
        ours.read_to_string(&mut output).await.expect("text");
        match ended.expect("it runs") {
            ExitStatus::Code(code) => (code, output),
            ExitStatus::Unknown => panic!("its exit code is not known"),
        }
    }

    /// Waits until a container has written something, and returns all that it has.
    pub async fn until_logged(&self, pod: &Pod, container: &str, what: &str) -> String {
        eventually(&format!("{container} writes {what:?}"), async || {
            let log = self.log(pod, container, false).await.ok_or_else(|| "no log".to_owned())?;
            if log.contains(what) { Ok(log) } else { Err(log) }
        })
        .await
    }
}

async fn read(
    runner: &PodRunner<MockContainers>,
    pod: &Pod,
    container: &str,
    follow: bool,
) -> Option<String> {
    let container = PodRef::of(pod).expect("a stored pod").container(container);
    let options = LogOptions { follow, ..LogOptions::default() };
    let mut lines = runner.logs().expect("logs").container_logs(&container, &options).await.ok()?;
    let mut text = Vec::new();
    while let Some(line) = lines.next().await {
        text.extend_from_slice(&line.expect("a line").line);
    }
    Some(String::from_utf8(text).expect("text"))
}

/// A pod for that node.
///
/// # Panics
/// When that is no specification of a pod.
#[must_use]
pub fn pod_of(name: &str, node: &str, mut spec: Value) -> Pod {
    spec["nodeName"] = json!(node);
    spec.as_object_mut().expect("an object").entry("automountServiceAccountToken").or_insert(json!(false));
    let metadata = json!({"name": name, "labels": {"app": name}});
    serde_json::from_value(json!({"metadata": metadata, "spec": spec})).expect("a pod")
}

/// A container that runs a script.
#[must_use]
pub fn container(name: &str, script: &str) -> Value {
    json!({"name": name, "image": IMAGE, "imagePullPolicy": "IfNotPresent", "command": ["sh", "-c", script]})
}

/// A container that serves HTTP on port 8080 until it is told to stop.
#[must_use]
pub fn server(name: &str) -> Value {
    json!({"name": name, "image": IMAGE, "imagePullPolicy": "IfNotPresent", "command": ["tool", "serve"]})
}

/// Puts fields into an object.
///
/// # Panics
/// When one of the two is none.
#[must_use]
pub fn with(mut object: Value, more: Value) -> Value {
    let Value::Object(more) = more else { panic!("{more} is no object") };
    object.as_object_mut().expect("an object").extend(more);
    object
}

/// Longer than a grace period, and shorter than anything that hangs.
pub const DRAINED: Duration = Duration::from_mins(1);
