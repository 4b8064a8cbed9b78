//! One case, from its namespace to its verdict's evidence.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;
use tokio::time::Instant;
use vk_oracle::{
    Act, Action, Case, Difference, Names, Run, Snapshot, Target, Transition, Verdict, has_come_to_the_end,
    judge,
};

use crate::api::{Api, MERGE, STRATEGIC};
use crate::bed::{Bed, OurNode};
use crate::watch::Watched;

/// How often is looked whether a case has come to its end.
const LOOK: Duration = Duration::from_millis(250);

/// How much longer than the recorded one a case may take: back-offs are stretched by chance, and machines are slow.
const PATIENCE: Duration = Duration::from_secs(15);

/// How long events and logs may come after the last version.
const REST: Duration = Duration::from_secs(5);

/// How long an action waits for the pod to come to where the recorded one was.
const CATCH_UP: Duration = Duration::from_secs(15);

/// How exactly the recorder wrote down when it did something: what it brought about is not to be waited for.
const ROUNDING: f64 = 0.06;

/// How long the recorder looked on after its last step.
const LINGER: Duration = Duration::from_millis(1500);

/// A case being run.
struct Play<'a> {
    bed: &'a Bed,
    case: &'a Case,
    api: Api,
    node: OurNode,
    watched: Watched,
    /// When the pod was created.
    start: Instant,
    logs: BTreeMap<String, String>,
    /// What scripts printed.
    outputs: Vec<String>,
    answers: Vec<Difference>,
}

/// Runs a case and returns what came of it.
pub(crate) async fn play(bed: &Bed, case: &Case) -> Result<Run> {
    let mut node = bed.node()?;
    // The recorder's names: some containers print theirs.
    let namespace = format!("c-{}", case.name.chars().take(50).collect::<String>());
    let api = Api { client: bed.client.clone(), namespace };
    let namespace = json!({"metadata": {"name": api.namespace}});
    let code = api.post("/api/v1/namespaces", &namespace).await?;
    if code != 201 {
        bail!("creating namespace {}: {code}; is it left from an earlier run?", api.namespace);
    }
    node.start(bed).await?;
    let outcome = async {
        ready(&api, &node).await?;
        let name = case.pod.as_ref().map(|pod| pod["metadata"]["name"].as_str().unwrap_or("pod").to_owned());
        let watched = Watched::start(bed.client.clone(), &api.namespace, name).await?;
        let (logs, outputs, answers) = (BTreeMap::new(), Vec::new(), Vec::new());
        let start = Instant::now();
        let mut play = Play { bed, case, api: api.clone(), node, watched, start, logs, outputs, answers };
        let run = play.run().await;
        let pod = play.pod().map(|pod| pod["metadata"]["name"].as_str().unwrap_or_default().to_owned());
        Ok((run, play.node, pod))
    }
    .await;
    let (run, node, pod) = match outcome {
        Ok(done) => done,
        Err(error) => return Err(error),
    };
    clean_up(&api, node, pod.as_deref(), case).await?;
    run
}

/// Waits until pods can be created and scheduled.
async fn ready(api: &Api, node: &OurNode) -> Result<()> {
    let deadline = Instant::now() + Duration::from_mins(1);
    let accounts = [("ServiceAccount", "default")];
    let root = format!("/api/v1/namespaces/{}/configmaps/kube-root-ca.crt", api.namespace);
    loop {
        let mut missing = Vec::new();
        for (kind, name) in accounts {
            if api.get(&api.path(kind, Some(name))?).await?.is_none() {
                missing.push(name);
            }
        }
        if api.get(&root).await?.is_none() {
            missing.push("kube-root-ca.crt");
        }
        let object = api.get(&api.path("Node", Some(&node.name))?).await?.unwrap_or_default();
        let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let is_ready = conditions.iter().any(|each| each["type"] == "Ready" && each["status"] == "True");
        if !is_ready || object["spec"]["taints"].as_array().is_some_and(|taints| !taints.is_empty()) {
            missing.push("a node that is ready");
        }
        if missing.is_empty() {
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!("still missing: {}", missing.join(", "));
        }
        tokio::time::sleep(LOOK).await;
    }
}

async fn clean_up(api: &Api, node: OurNode, pod: Option<&str>, case: &Case) -> Result<()> {
    if let Some(pod) = pod {
        let path = api.path("Pod", Some(pod))?;
        api.patch(&path, MERGE, &json!({"metadata": {"finalizers": null}})).await?;
    }
    api.delete(&format!("/api/v1/namespaces/{}", api.namespace), &json!({})).await?;
    for object in case.objects.iter().filter(|object| object["kind"] == "RuntimeClass") {
        api.delete(&api.path("RuntimeClass", object["metadata"]["name"].as_str())?, &json!({})).await?;
    }
    let name = node.name.clone();
    node.remove().await;
    // Pods that are left go with their node.
    api.delete(&api.path("Node", Some(&name))?, &json!({})).await?;
    if let Some(pod) = pod {
        api.delete(&api.path("Pod", Some(pod))?, &json!({"gracePeriodSeconds": 0})).await?;
    }
    if case.crowd().is_some() {
        let path = format!("/api/v1/namespaces/default/pods/others-{name}");
        api.delete(&path, &json!({"gracePeriodSeconds": 0})).await?;
    }
    Ok(())
}

impl Play<'_> {
    async fn run(&mut self) -> Result<Run> {
        let is_job = |object: &&Value| object["kind"] == "Job";
        if let Some((resource, amount)) = self.case.crowd() {
            self.crowd(&resource, amount).await?;
        }
        for object in self.case.objects.iter().filter(|object| !is_job(object)) {
            let object = self.placed(object);
            self.api.must_create(&object).await?;
        }
        let (before, after) = self.case.actions.split_at(self.case.preparations());
        self.start = Instant::now();
        for action in before {
            self.act(action).await.context("an action before the pod")?;
        }
        self.start = Instant::now();
        if let Some(pod) = &self.case.pod {
            let pod = self.scheduled(&self.placed(pod));
            self.api.must_create(&pod).await?;
        }
        for job in self.case.objects.iter().filter(is_job) {
            let mut job = self.placed(job);
            job["spec"]["template"] = self.scheduled(&job["spec"]["template"]);
            self.api.must_create(&job).await?;
        }
        let mut before: Option<(f64, Instant)> = None;
        for action in after {
            self.until(action.at).await;
            // One that came late makes the next late, too: what lies between the two is part of the case.
            if let Some((at, done)) = before {
                tokio::time::sleep_until(done + Duration::from_secs_f64((action.at - at).max(0.0))).await;
            }
            // What is done inside the container changes no version by itself, so that all before it count.
            let inside = matches!(action.act, Act::Http(_) | Act::Exec(_));
            self.catch_up(if inside { action.at + ROUNDING } else { action.at - ROUNDING }).await;
            let began = Instant::now();
            self.act(action).await.with_context(|| format!("the action at {} s", action.at))?;
            before = Some((action.at, began));
        }
        self.watch_the_end().await
    }

    /// Has so much of the node taken by a pod of no case, as the recorder's node had others. It goes with its node.
    async fn crowd(&self, resource: &str, amount: i64) -> Result<()> {
        let amount = if resource == "cpu" { format!("{amount}m") } else { amount.to_string() };
        let name = format!("others-{}", self.node.name);
        let container = json!({
            "name": "a", "image": "oracle.test/tool:1", "imagePullPolicy": "Never", "command": ["tool", "serve"],
            "resources": {"requests": {resource: amount}},
        });
        let pod = json!({
            "kind": "Pod",
            "metadata": {"name": name, "namespace": "default"},
            "spec": {"nodeName": self.node.name, "automountServiceAccountToken": false, "containers": [container]},
        });
        let api = Api { client: self.api.client.clone(), namespace: "default".to_owned() };
        api.must_create(&pod).await?;
        let path = api.path("Pod", Some(&name))?;
        let deadline = Instant::now() + CATCH_UP;
        while api.get(&path).await?.is_none_or(|pod| pod["status"]["startTime"].is_null()) {
            if Instant::now() > deadline {
                bail!("pod {name} was not taken up");
            }
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }

    /// The object with our node's name where the recording has a placeholder.
    fn placed(&self, object: &Value) -> Value {
        match object {
            Value::String(text) => json!(text.replace("<node>", &self.node.name)),
            Value::Array(items) => items.iter().map(|item| self.placed(item)).collect(),
            Value::Object(fields) => {
                Value::Object(fields.iter().map(|(key, value)| (key.clone(), self.placed(value))).collect())
            }
            other => other.clone(),
        }
    }

    /// A pod that the scheduler gives to the case's node: there is one for each case.
    fn scheduled(&self, pod: &Value) -> Value {
        let mut pod = pod.clone();
        if pod["spec"]["nodeName"].is_null() {
            pod["spec"]["nodeSelector"]["kubernetes.io/hostname"] = json!(self.node.name);
        }
        pod
    }

    fn pod(&self) -> Option<Value> {
        self.watched.versions().pop().map(|version| version.pod)
    }

    fn pod_name(&self) -> String {
        let pod = self.pod().or_else(|| self.case.pod.clone()).unwrap_or_default();
        pod["metadata"]["name"].as_str().unwrap_or("pod").to_owned()
    }

    async fn until(&self, at: f64) {
        tokio::time::sleep_until(self.start + Duration::from_secs_f64(at.max(0.0))).await;
    }

    /// Waits until the pod has come to where the recorded one was, as far as containers go.
    async fn catch_up(&mut self, at: f64) {
        let before = self.case.recording.transitions.iter().rfind(|transition| transition.at <= at);
        let Some(wanted) = before.map(stage) else { return };
        let deadline = Instant::now() + CATCH_UP;
        while !self.transitions().iter().any(|transition| stage(transition) == wanted) {
            // Cancel-safe: only looking.
            tokio::select! {
                _ = self.watched.count.changed() => {}
                () = tokio::time::sleep_until(deadline) => return,
            }
        }
    }

    async fn act(&mut self, action: &Action) -> Result<()> {
        let pod = self.pod_name();
        let code = match &action.act {
            Act::Delete(target, options) => {
                // What is gone afterwards can be read only now.
                self.read_logs().await?;
                Some(self.api.delete(&self.path(target)?, options).await?)
            }
            Act::Patch(target, patch) => {
                let mut path = self.path(target)?;
                if let Some(part) = &target.subresource {
                    path = format!("{path}/{part}");
                }
                Some(self.api.patch(&path, STRATEGIC, &self.placed(patch)).await?)
            }
            Act::Create(object) => {
                self.api.must_create(&self.placed(object)).await?;
                None
            }
            Act::Evict(body) => {
                self.read_logs().await?;
                let path = format!("{}/eviction", self.api.path("Pod", Some(&pod))?);
                let mut eviction = body.clone();
                eviction["apiVersion"] = json!("policy/v1");
                eviction["kind"] = json!("Eviction");
                eviction["metadata"]["name"] = json!(pod);
                Some(self.api.post(&path, &eviction).await?)
            }
            Act::Bind => {
                let path = format!("{}/binding", self.api.path("Pod", Some(&pod))?);
                let target = json!({"apiVersion": "v1", "kind": "Node", "name": self.node.name});
                let binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": pod},
                    "target": target});
                Some(self.api.post(&path, &binding).await?)
            }
            Act::Http(path) => {
                self.ask(path).await?;
                None
            }
            Act::Exec(script) => {
                let output = self.exec(script).await?;
                self.outputs.push(output);
                None
            }
            Act::StopNode => {
                self.node.stop().await;
                None
            }
            Act::StartNode => {
                self.node.start(self.bed).await?;
                None
            }
            Act::RestartNode => {
                self.node.stop().await;
                self.node.start(self.bed).await?;
                None
            }
        };
        if let (Some(recorded), Some(ours)) = (action.code, code)
            && recorded != ours
        {
            let place = format!("answer at {} s", action.at);
            self.answers.push(Difference::new(place, recorded.to_string(), ours.to_string()));
        }
        Ok(())
    }

    /// The path of what an action is about.
    fn path(&self, target: &Target) -> Result<String> {
        let name = match (&target.name, target.kind.as_str()) {
            (Some(name), _) => name.replace("<node>", &self.node.name),
            (None, "Pod") => self.pod_name(),
            (None, "Node") => self.node.name.clone(),
            // The recorder did not write down names: there is one object of the kind.
            (None, kind) => {
                let mut of_kind = self
                    .case
                    .objects
                    .iter()
                    .filter(|object| object["kind"].as_str().unwrap_or("ConfigMap") == kind);
                let name = of_kind.next().and_then(|object| object["metadata"]["name"].as_str());
                name.with_context(|| format!("which {kind}?"))?.to_owned()
            }
        };
        self.api.path(&target.kind, Some(&name))
    }

    /// Asks the test program in the pod to change its ways.
    async fn ask(&self, path: &str) -> Result<()> {
        let pod = self.pod().unwrap_or_default();
        let address = pod["status"]["podIP"].as_str().context("the pod has no address")?.to_owned();
        let ask = async {
            let mut stream = tokio::net::TcpStream::connect((address.as_str(), 8080)).await?;
            let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).await?;
            stream.read_to_end(&mut Vec::new()).await
        };
        // The recorder went on too when nobody answered.
        match tokio::time::timeout(Duration::from_secs(5), ask).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => eprintln!("{}: http {path}: {error}", self.case.name),
            Err(_) => eprintln!("{}: http {path}: no answer", self.case.name),
        }
        Ok(())
    }

    /// Runs a script by kubectl. The recording does not say in which container: it is the one whose probe looks at what
    /// scripts change, or else the first.
    async fn exec(&self, script: &str) -> Result<String> {
        let spec = &self.case.pod.as_ref().context("exec needs a pod")?["spec"];
        let lists = ["initContainers", "containers"];
        let all: Vec<&Value> =
            lists.iter().flat_map(|list| spec[*list].as_array().into_iter().flatten()).collect();
        let probes = ["readinessProbe", "livenessProbe", "startupProbe"];
        let probed = all.iter().find(|each| probes.iter().any(|probe| each[*probe]["exec"].is_object()));
        let first = spec["containers"].as_array().and_then(|list| list.first());
        let container = probed.copied().or(first).and_then(|each| each["name"].as_str()).unwrap_or("a");
        let output = Command::new("kubectl")
            .args(["--namespace", &self.api.namespace, "exec", &self.pod_name(), "-c", container, "--"])
            .args(["sh", "-c", script])
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output()
            .await
            .context("starting kubectl")?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if !output.status.success() {
            // The recorder went on, too.
            eprintln!("{}: kubectl exec: {}", self.case.name, text(&output.stderr).trim());
        }
        Ok(text(&output.stdout) + &text(&output.stderr))
    }

    /// What the watch delivered, as the recorder would have written it.
    fn transitions(&self) -> Vec<Transition> {
        let names = self.names();
        let versions = self.watched.versions();
        let at = |when: Instant| when.saturating_duration_since(self.start).as_secs_f64();
        versions
            .iter()
            .map(|version| names.transition(at(version.when), version.kind, &version.pod))
            .collect()
    }

    fn names(&self) -> Names {
        let pod = self.pod().unwrap_or_default();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        Names {
            namespace: self.api.namespace.clone(),
            node: self.node.name.clone(),
            host_ip: self.bed.address.to_string(),
            pod_uid: text(&pod["metadata"]["uid"]),
            pod_name: self.case.pod.is_none().then(|| text(&pod["metadata"]["name"])),
            pod_ips: self.watched.addresses(),
            created: pod["metadata"]["creationTimestamp"].as_str().and_then(|time| time.parse().ok()),
        }
    }

    /// Reads the logs that the recording has; what cannot be read any more stays as it was.
    async fn read_logs(&mut self) -> Result<()> {
        let (names, pod) = (self.names(), self.pod_name());
        let containers = self.case.containers();
        for (key, recorded) in &self.case.recording.logs {
            if self.case.pod.is_none() || containers.contains(key) {
                if let Some(log) = self.api.log(&pod, key, false).await? {
                    self.logs.insert(key.clone(), names.text(&log));
                }
                continue;
            }
            // A text under a name of the recorder's own: what a script printed, or the log of a run before the last.
            let mut found: Vec<String> = self.outputs.iter().map(|output| names.text(output)).collect();
            for container in &containers {
                found.extend(self.api.log(&pod, container, true).await?.map(|log| names.text(&log)));
            }
            let same = found.iter().find(|text| *text == recorded).or(found.last());
            if let Some(text) = same {
                self.logs.insert(key.clone(), text.clone());
            }
        }
        Ok(())
    }

    async fn evidence(&mut self) -> Result<Run> {
        if self.watched.versions().last().is_some_and(|last| last.kind != "DELETED") {
            self.read_logs().await?;
        }
        let (names, pod) = (self.names(), self.pod_name());
        let events = self.api.events().await?;
        Ok(Run {
            transitions: self.transitions(),
            events: events.iter().map(|event| names.event(event, &pod)).collect(),
            logs: self.logs.clone(),
            answers: self.answers.clone(),
        })
    }

    /// Looks on as long as the recorder did, and then until all is as recorded, or there is no more patience.
    async fn watch_the_end(&mut self) -> Result<Run> {
        let length = Duration::from_secs_f64(self.case.length());
        tokio::time::sleep_until(self.start + length + LINGER).await;
        let mut deadline = self.start + length.mul_f64(1.5) + PATIENCE;
        let mut has_ended = false;
        loop {
            let run = self.evidence().await?;
            if !matches!(judge(self.case, &run), Verdict::Differs(_)) || Instant::now() > deadline {
                return Ok(run);
            }
            if !has_ended && has_come_to_the_end(self.case, &run.transitions) {
                has_ended = true;
                deadline = deadline.min(Instant::now() + REST);
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

/// How far a pod is: what an action may rely on.
fn stage(transition: &Transition) -> Value {
    let series = Snapshot::series(std::slice::from_ref(transition));
    let Some(snapshot) = series.first() else { return Value::Null };
    let lists = ["initContainerStatuses", "containerStatuses", "ephemeralContainerStatuses"];
    let containers = lists.iter().flat_map(|list| transition.status[*list].as_array().into_iter().flatten());
    let containers: Vec<Value> = containers
        .map(|each| {
            let state = each["state"].as_object().and_then(|state| state.keys().next());
            json!([each["name"], state, each["ready"], each["restartCount"]])
        })
        .collect();
    json!([snapshot.get("phase"), snapshot.get("deleted"), snapshot.get("finalizers"), containers])
}
