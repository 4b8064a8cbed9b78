//! A case as it stands in its file: what to do, and what came of it.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::text;

/// A recorded case.
#[derive(Clone, Debug)]
pub struct Case {
    /// Its name, also its file's.
    pub name: String,
    /// What it shows, in a sentence.
    pub what: String,
    /// What in it hangs on time, if anything does.
    pub timing: Option<String>,
    /// The pod to create; `None` where one of the objects makes it.
    pub pod: Option<Value>,
    /// Objects to create before the pod; Jobs in its place.
    pub objects: Vec<Value>,
    /// What is done afterwards.
    pub actions: Vec<Action>,
    /// What came of it.
    pub recording: Recording,
}

/// What came of a case.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Recording {
    /// Every version of the pod that a watch delivered.
    pub transitions: Vec<Transition>,
    /// The events, oldest first.
    pub events: Vec<Event>,
    /// Logs by container.
    pub logs: BTreeMap<String, String>,
}

/// A version of the pod.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Transition {
    /// Seconds since the pod's creation.
    pub at: f64,
    /// Whose fields changed.
    pub by: String,
    /// `ADDED`, `MODIFIED` or `DELETED`.
    #[serde(rename = "type")]
    pub kind: String,
    /// `metadata.generation`.
    pub generation: Option<i64>,
    /// `metadata.deletionTimestamp`, relative.
    pub deletion_timestamp: Option<String>,
    /// `metadata.deletionGracePeriodSeconds`.
    pub deletion_grace_period_seconds: Option<i64>,
    /// `metadata.finalizers`.
    pub finalizers: Vec<String>,
    /// The whole status.
    pub status: Value,
}

/// An event.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Event {
    /// `Normal` or `Warning`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The reason.
    pub reason: String,
    /// The text.
    pub message: String,
    /// How often; absent in new-style events.
    pub count: Option<i64>,
    /// Who told it.
    pub reporting_component: String,
    /// Of what: `Pod`, or kind and name of another object.
    pub object: String,
    /// Of which part of it, such as `spec.containers{a}`.
    pub field_path: Option<String>,
    /// When first, in seconds since the pod's creation; known of live ones.
    #[serde(skip)]
    pub at: Option<f64>,
}

/// Something done to the case's pod or beside it.
#[derive(Clone, Debug, PartialEq)]
pub struct Action {
    /// When, in seconds since the pod's creation.
    pub at: f64,
    /// What the API server answered, where it was asked.
    pub code: Option<u16>,
    /// What.
    pub act: Act,
}

/// What is done.
#[derive(Clone, Debug, PartialEq)]
pub enum Act {
    /// An object is deleted with these `DeleteOptions`.
    Delete(Target, Value),
    /// An object is given a strategic merge patch.
    Patch(Target, Value),
    /// An object is created.
    Create(Value),
    /// The pod is evicted with this `Eviction`, less what every one has.
    Evict(Value),
    /// The pod is bound to the node.
    Bind,
    /// A path on port 8080 of the pod is asked for.
    Http(String),
    /// A shell script is run in a container of the pod.
    Exec(String),
    /// The kubelet is stopped.
    StopNode,
    /// The kubelet is started again.
    StartNode,
    /// The kubelet is stopped and started again.
    RestartNode,
}

/// An object that something is done to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Its kind.
    pub kind: String,
    /// Its name, where the recording has it; otherwise it is the case's pod, the node, or the one object of its kind.
    pub name: Option<String>,
    /// Which part of it.
    pub subresource: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    name: String,
    #[serde(default)]
    what: String,
    #[serde(default, rename = "area")]
    _area: Value,
    timing: Option<String>,
    pod: Option<Value>,
    #[serde(default)]
    objects: Vec<Value>,
    #[serde(default)]
    actions: Vec<Map<String, Value>>,
    /// Bodies that the recorder read besides, for people.
    #[serde(default, rename = "answers")]
    _answers: Value,
    #[serde(default)]
    transitions: Vec<Transition>,
    #[serde(default)]
    events: Vec<Event>,
    #[serde(default)]
    logs: BTreeMap<String, String>,
}

impl Case {
    /// The cases of a folder, or of its folder `cases`, by name.
    ///
    /// # Errors
    /// A file that cannot be read, or that says what this version does not know: nothing is passed over.
    pub fn read_folder(folder: &Path) -> Result<Vec<Self>> {
        Self::read_each(folder)?.into_iter().map(|(_, case)| case).collect()
    }

    /// The same, each file on its own, by the file's name: one that cannot be read keeps nobody from the others.
    ///
    /// # Errors
    /// A folder that cannot be read, or holds no cases.
    pub fn read_each(folder: &Path) -> Result<Vec<(String, Result<Self>)>> {
        let inner = folder.join("cases");
        let folder = if inner.is_dir() { inner } else { folder.to_owned() };
        let mut cases = Vec::new();
        for entry in fs::read_dir(&folder).with_context(|| format!("reading {}", folder.display()))? {
            let path = entry.with_context(|| format!("reading {}", folder.display()))?.path();
            if path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml") {
                let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
                let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()));
                let case =
                    text.and_then(|text| Self::parse(&text).with_context(|| path.display().to_string()));
                cases.push((name, case));
            }
        }
        if cases.is_empty() {
            bail!("{} holds no cases (files that end in .yaml)", folder.display());
        }
        cases.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(cases)
    }

    /// A case from its file's text.
    ///
    /// # Errors
    /// As [`read_folder`](Self::read_folder).
    pub fn parse(text: &str) -> Result<Self> {
        let file: File = serde_saphyr::from_str(text).context("not a case")?;
        if file.pod.is_none() && file.objects.is_empty() {
            bail!("{}: there is neither a pod nor an object that makes one", file.name);
        }
        let actions = file.actions.iter().map(Action::parse).collect::<Result<Vec<_>>>()?;
        Ok(Self {
            name: file.name,
            what: file.what,
            timing: file.timing,
            pod: file.pod,
            objects: file.objects,
            // What the recorder noted about itself is nothing to be done.
            actions: actions.into_iter().flatten().collect(),
            recording: Recording { transitions: file.transitions, events: file.events, logs: file.logs },
        })
    }

    /// Whether the node itself is stopped, started, changed or deleted in it.
    #[must_use]
    pub fn touches_node(&self) -> bool {
        self.actions.iter().any(|action| match &action.act {
            Act::StopNode | Act::StartNode | Act::RestartNode => true,
            Act::Delete(target, _) | Act::Patch(target, _) => target.kind == "Node",
            _ => false,
        })
    }

    /// How many of the actions come before the pod: the recorder wrote them down with the moment of its creation.
    /// What is done to the pod itself comes after it.
    #[must_use]
    pub fn preparations(&self) -> usize {
        let prepares = |action: &&Action| {
            let on_others = match &action.act {
                Act::Delete(target, _) | Act::Patch(target, _) => {
                    target.kind != "Pod" || target.name.is_some()
                }
                Act::Create(_) | Act::StopNode | Act::StartNode | Act::RestartNode => true,
                Act::Bind | Act::Evict(_) | Act::Http(_) | Act::Exec(_) => false,
            };
            on_others && action.at <= 0.0
        };
        self.actions.iter().take_while(prepares).count()
    }

    /// What the recorder's other pods had of the node when the case's own was told that there is no room beside them: a
    /// resource and its amount as a kubelet counts it (thousandths of a processor), less what the case's other pods ask
    /// for. `None` where a pod asked for more than the whole node, or nobody was told so.
    #[must_use]
    pub fn crowd(&self) -> Option<(String, i64)> {
        let mut statuses = self.recording.transitions.iter().map(|transition| transition.status.to_string());
        let (resource, used) = statuses.find_map(|status| text::shortage(&status))?;
        let of_pod = |pod: &Value| -> i64 {
            let containers = pod["spec"]["containers"].as_array().into_iter().flatten();
            let amounts = containers.filter_map(|each| each["resources"]["requests"][&resource].as_str());
            amounts.filter_map(|amount| text::amount(&resource, amount)).sum()
        };
        let own = self.objects.iter().filter(|object| object["kind"] == "Pod").map(of_pod).sum::<i64>();
        Some((resource, used - own)).filter(|(_, others)| *others > 0)
    }

    /// The names of the pod's containers, those that are put into it later too; none where an object makes the pod.
    #[must_use]
    pub fn containers(&self) -> Vec<String> {
        fn named(spec: &Value) -> impl Iterator<Item = String> {
            let lists = ["initContainers", "containers", "ephemeralContainers"];
            let all = lists.into_iter().flat_map(|list| spec[list].as_array().into_iter().flatten());
            all.filter_map(|container| container["name"].as_str().map(str::to_owned))
        }
        let mut names: Vec<String> = self.pod.iter().flat_map(|pod| named(&pod["spec"])).collect();
        for action in &self.actions {
            if let Act::Patch(_, patch) = &action.act {
                names.extend(named(&patch["spec"]));
            }
        }
        names
    }

    /// When the recording ends, in seconds since the pod's creation.
    #[must_use]
    pub fn length(&self) -> f64 {
        let last = self.recording.transitions.last().map_or(0.0, |last| last.at);
        self.actions.iter().map(|action| action.at).fold(last, f64::max)
    }
}

impl Action {
    /// An action from its entry; `None` for a note of the recorder.
    fn parse(entry: &Map<String, Value>) -> Result<Option<Self>> {
        let at = entry.get("at").and_then(Value::as_f64).context("an action without `at`")?;
        let code = entry.get("code").and_then(Value::as_u64).and_then(|code| u16::try_from(code).ok());
        let text = |key: &str| entry.get(key).and_then(Value::as_str).map(str::to_owned);
        let act = if let Some(options) = entry.get("delete") {
            let mut options = options.clone();
            let fields = options.as_object_mut().context("`delete` is a DeleteOptions")?;
            let take = |value: Option<Value>| value.and_then(|value| value.as_str().map(str::to_owned));
            let kind = take(fields.remove("kind")).unwrap_or_else(|| "Pod".to_owned());
            let name = take(fields.remove("name"));
            Act::Delete(Target { kind, name, subresource: None }, options)
        } else if let Some(patch) = entry.get("patch") {
            let kind = text("kind").unwrap_or_else(|| "Pod".to_owned());
            Act::Patch(Target { kind, name: text("name"), subresource: text("subresource") }, patch.clone())
        } else if let Some(object) = entry.get("create") {
            Act::Create(object.clone())
        } else if let Some(eviction) = entry.get("evict") {
            Act::Evict(if eviction.is_null() { json!({}) } else { eviction.clone() })
        } else if entry.contains_key("binding") {
            Act::Bind
        } else if let Some(path) = text("http") {
            Act::Http(path)
        } else if let Some(script) = text("exec") {
            Act::Exec(script)
        } else if let Some(said) = text("node") {
            match said.as_str() {
                "the kubelet is stopped" => Act::StopNode,
                "the kubelet is started" => Act::StartNode,
                "the kubelet is restarted" => Act::RestartNode,
                _ => bail!("the action `node: {said}` is not known here"),
            }
        } else if entry.contains_key("note") {
            return Ok(None);
        } else {
            let keys = entry.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
            bail!("an action with {keys} is not known here");
        };
        Ok(Some(Self { at, code, act }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_cannot_be_read_is_an_error_of_its_own() {
        let folder = std::env::temp_dir().join(format!("vk-oracle-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("good.yaml"), "{name: good, what: y, pod: {}}").unwrap();
        fs::write(folder.join("bad.yaml"), "{name: bad, pod: {}, actions: [{at: 1, reboot: now}]}").unwrap();
        let read = Case::read_each(&folder).unwrap();
        let strict = Case::read_folder(&folder);
        fs::remove_dir_all(&folder).unwrap();
        let told: Vec<_> = read.iter().map(|(name, case)| (name.as_str(), case.is_ok())).collect();
        assert_eq!(told, [("bad", false), ("good", true)]);
        assert!(strict.is_err());
    }

    #[test]
    fn what_is_done_to_the_node_at_the_beginning_comes_before_the_pod() {
        let of = |actions: &str| {
            Case::parse(&format!("{{name: x, what: y, pod: {{}}, actions: [{actions}]}}"))
                .unwrap()
                .preparations()
        };
        let (taint, later) = ("{at: 0.0, patch: {}, kind: Node}", "{at: 0.1, patch: {}, kind: Node}");
        assert_eq!(of(&format!("{taint}, {later}")), 1);
        assert_eq!(of(later), 0);
        assert_eq!(of("{at: 0.0, delete: {kind: Pod}}"), 0);
        assert_eq!(of(&format!("{{at: 0.0, create: {{kind: Pod}}}}, {taint}")), 2);
    }

    #[test]
    fn every_kind_of_action_is_read() {
        let text = "
name: x
what: y
pod: {metadata: {name: pod}}
actions:
- {at: 1.5, delete: {kind: Pod, gracePeriodSeconds: 2}, code: 200}
- {at: 2, patch: {spec: {a: 1}}, kind: Pod, subresource: resize, code: 403, message: no}
- {at: 3, http: /set?http=0}
- {at: 4, node: the kubelet is stopped}
- {at: 4.5, binding: <node>}
- {at: 5, note: the recorder stopped waiting, for: x}
transitions:
- {at: 0.5, by: '-', type: ADDED, generation: 1, status: {phase: Pending}}
";
        let case = Case::parse(text).unwrap();
        let target = |subresource: Option<&str>| Target {
            kind: "Pod".to_owned(),
            name: None,
            subresource: subresource.map(str::to_owned),
        };
        assert_eq!(case.actions[0].act, Act::Delete(target(None), json!({"gracePeriodSeconds": 2})));
        assert_eq!(case.actions[1].act, Act::Patch(target(Some("resize")), json!({"spec": {"a": 1}})));
        assert_eq!(case.actions[1].code, Some(403));
        assert_eq!(case.actions[2].act, Act::Http("/set?http=0".to_owned()));
        assert_eq!(case.actions[3].act, Act::StopNode);
        assert_eq!(case.actions[4].act, Act::Bind);
        assert_eq!(case.actions.len(), 5);
        assert!(case.touches_node());
        assert!((case.length() - 4.5).abs() < 1e-9);
    }

    #[test]
    fn what_is_not_known_is_refused_by_name() {
        let case = |action: &str| {
            let text = format!("{{name: x, what: y, pod: {{}}, actions: [{action}]}}");
            format!("{:#}", Case::parse(&text).unwrap_err())
        };
        assert!(case("{at: 1, reboot: now}").contains("at, reboot"));
        assert!(case("{at: 1, node: the kubelet is eaten}").contains("eaten"));
        assert!(case("{http: /}").contains("without `at`"));
        assert!(Case::parse("{name: x, what: y, pods: {}}").is_err(), "an unknown key");
    }
}
