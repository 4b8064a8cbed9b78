//! What the checks' pods do: a shell's words, and the same for the mock provider.

use serde_json::{Map, Value, json};

/// What the mock provider's annotations begin with.
const MOCK: &str = "mock.virtual-kubelet.io/";
/// The label of everything that a run makes.
pub(crate) const MANAGED_BY: (&str, &str) = ("app.kubernetes.io/managed-by", "vk-node-conformance");
/// How long a pod has to end when it is deleted, in seconds.
pub(crate) const GRACE: u64 = 5;

/// What a container does.
#[derive(Clone, Debug)]
pub(crate) struct Script {
    command: Vec<String>,
    /// The same for the mock: keys without their prefix.
    mock: Vec<(&'static str, String)>,
    /// What else is in the container's specification.
    more: Map<String, Value>,
}

impl Script {
    fn shell(line: impl Into<String>) -> Self {
        Self { command: vec!["sh".into(), "-c".into(), line.into()], mock: Vec::new(), more: Map::new() }
    }

    fn mock(mut self, key: &'static str, value: &impl ToString) -> Self {
        self.mock.push((key, value.to_string()));
        self
    }

    /// Runs until it is told to end, and then ends with 0.
    pub(crate) fn forever() -> Self {
        // A shell that is process 1 would not hear SIGTERM by itself.
        Self::shell("trap 'exit 0' TERM; sleep 3600 & wait").mock("termination-exit-code", &0)
    }

    /// Runs until it is killed.
    pub(crate) fn stubborn() -> Self {
        Self::shell("trap '' TERM; while true; do sleep 1; done").mock("termination-latency", &"never")
    }

    /// Ends with a code after some seconds.
    pub(crate) fn exits(code: u8, after: u64) -> Self {
        let line = format!("sleep {after}; exit {code}");
        Self::shell(line).mock("exit-code", &code).mock("run-duration", &format!("{after}s"))
    }

    /// Writes lines and goes on.
    pub(crate) fn says(lines: &[&str]) -> Self {
        let line = format!("{}trap 'exit 0' TERM; sleep 3600 & wait", echo(lines));
        Self::shell(line).mock("log", &lines.join("\n")).mock("termination-exit-code", &0)
    }

    /// Writes lines and ends with a code after some seconds.
    pub(crate) fn says_and_exits(lines: &[&str], code: u8, after: u64) -> Self {
        Self::shell(format!("{}sleep {after}; exit {code}", echo(lines)))
            .mock("log", &lines.join("\n"))
            .mock("exit-code", &code)
            .mock("run-duration", &format!("{after}s"))
    }

    /// A shell that reads what it is to do.
    pub(crate) fn reads() -> Self {
        let mut script = Self::forever();
        script.command = vec!["sh".into()];
        script.with("stdin", json!(true))
    }

    /// Serves HTTP on a port.
    pub(crate) fn serves(port: u16) -> Self {
        let line =
            format!("echo hello > /tmp/index.html; trap 'exit 0' TERM; httpd -f -h /tmp -p {port} & wait");
        Self::shell(line)
            .mock("termination-exit-code", &0)
            .with("ports", json!([{"containerPort": port, "protocol": "TCP"}]))
    }

    /// With a further field in the container's specification.
    pub(crate) fn with(mut self, field: &str, value: Value) -> Self {
        self.more.insert(field.to_owned(), value);
        self
    }

    fn container(&self, name: &str, image: &str) -> Value {
        let mut container = json!({
            "name": name, "image": image, "command": self.command,
            "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}},
        });
        for (field, value) in &self.more {
            container[field] = value.clone();
        }
        container
    }

    /// The mock's annotations for a container of this name. Keys about the whole pod have no name.
    fn annotate(&self, name: &str, annotations: &mut Map<String, Value>) {
        for (key, value) in &self.mock {
            let key =
                if *key == "reject-create" { format!("{MOCK}{key}") } else { format!("{MOCK}{key}.{name}") };
            annotations.insert(key, json!(value));
        }
    }
}

fn echo(lines: &[&str]) -> String {
    lines.iter().fold(String::new(), |all, line| all + "echo '" + line + "'; ")
}

/// A pod's specification under construction.
#[derive(Clone, Debug)]
pub(crate) struct Workload {
    annotations: Map<String, Value>,
    spec: Value,
    metadata: Map<String, Value>,
    image: String,
}

impl Workload {
    /// A pod without containers yet, bound to a node; it is never restarted.
    pub(crate) fn on(node: &str, image: &str) -> Self {
        let spec = json!({
            "nodeName": node, "restartPolicy": "Never", "terminationGracePeriodSeconds": GRACE,
            "automountServiceAccountToken": false, "enableServiceLinks": false,
            "tolerations": [{"operator": "Exists"}], "containers": [],
        });
        Self { annotations: Map::new(), spec, metadata: Map::new(), image: image.to_owned() }
    }

    /// With a container.
    pub(crate) fn running(self, name: &str, script: &Script) -> Self {
        self.add("containers", name, script)
    }

    /// With an init container, behind those that are there.
    pub(crate) fn after(self, name: &str, script: &Script) -> Self {
        self.add("initContainers", name, script)
    }

    fn add(mut self, list: &str, name: &str, script: &Script) -> Self {
        script.annotate(name, &mut self.annotations);
        let container = script.container(name, &self.image);
        match &mut self.spec[list] {
            Value::Array(containers) => containers.push(container),
            other => *other = json!([container]),
        }
        self
    }

    /// With a field of the specification.
    pub(crate) fn with(mut self, field: &str, value: Value) -> Self {
        self.spec[field] = value;
        self
    }

    /// With a field of the metadata.
    pub(crate) fn marked(mut self, field: &str, value: Value) -> Self {
        self.metadata.insert(field.to_owned(), value);
        self
    }

    /// The pod.
    pub(crate) fn pod(&self, name: &str) -> Value {
        let mut pod = self.template();
        pod["apiVersion"] = json!("v1");
        pod["kind"] = json!("Pod");
        pod["metadata"]["name"] = json!(name);
        pod
    }

    /// The same for a controller's template.
    pub(crate) fn template(&self) -> Value {
        let (key, value) = MANAGED_BY;
        let mut metadata = self.metadata.clone();
        metadata.insert("labels".into(), json!({key: value}));
        metadata.insert("annotations".into(), Value::Object(self.annotations.clone()));
        json!({"metadata": metadata, "spec": self.spec})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mock_is_told_container_by_container_what_the_commands_do() {
        let workload = Workload::on("n", "i")
            .after("first", &Script::exits(0, 1))
            .running("app", &Script::says_and_exits(&["one", "two"], 3, 2));
        let pod = workload.pod("p");
        assert_eq!(
            pod["spec"]["containers"][0]["command"],
            json!(["sh", "-c", "echo 'one'; echo 'two'; sleep 2; exit 3"])
        );
        let annotations = &pod["metadata"]["annotations"];
        assert_eq!(annotations["mock.virtual-kubelet.io/exit-code.app"], "3");
        assert_eq!(annotations["mock.virtual-kubelet.io/run-duration.first"], "1s");
        assert_eq!(annotations["mock.virtual-kubelet.io/log.app"], "one\ntwo");
        assert_eq!(pod["spec"]["initContainers"][0]["name"], "first");
    }
}
