//! A look at a pod as the API server has it.

use serde_json::Value;

/// A version of a pod.
#[derive(Clone, Debug)]
pub(crate) struct Seen(pub(crate) Value);

impl Seen {
    pub(crate) fn text(&self, pointer: &str) -> &str {
        self.0.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
    }

    pub(crate) fn name(&self) -> &str {
        self.text("/metadata/name")
    }

    pub(crate) fn uid(&self) -> &str {
        self.text("/metadata/uid")
    }

    pub(crate) fn version(&self) -> &str {
        self.text("/metadata/resourceVersion")
    }

    pub(crate) fn phase(&self) -> &str {
        self.text("/status/phase")
    }

    pub(crate) fn reason(&self) -> &str {
        self.text("/status/reason")
    }

    pub(crate) fn status(&self) -> &Value {
        &self.0["status"]
    }

    pub(crate) fn is_terminal(&self) -> bool {
        matches!(self.phase(), "Succeeded" | "Failed")
    }

    /// A condition's whole entry.
    pub(crate) fn condition(&self, kind: &str) -> Option<&Value> {
        self.conditions().iter().find(|condition| condition["type"] == kind)
    }

    pub(crate) fn conditions(&self) -> &[Value] {
        self.0["status"]["conditions"].as_array().map_or(&[], Vec::as_slice)
    }

    pub(crate) fn is_true(&self, kind: &str) -> bool {
        self.condition(kind).is_some_and(|condition| condition["status"] == "True")
    }

    /// The status of a container, of whichever kind.
    pub(crate) fn container(&self, name: &str) -> Option<&Value> {
        ["containerStatuses", "initContainerStatuses", "ephemeralContainerStatuses"]
            .iter()
            .filter_map(|list| self.0["status"][*list].as_array())
            .flatten()
            .find(|status| status["name"] == name)
    }

    /// How a container ended, once it has.
    pub(crate) fn terminated(&self, name: &str) -> Option<&Value> {
        self.container(name).map(|status| &status["state"]["terminated"]).filter(|state| state.is_object())
    }

    pub(crate) fn waiting_reason(&self, name: &str) -> &str {
        let waiting = self.container(name).map(|status| &status["state"]["waiting"]["reason"]);
        waiting.and_then(Value::as_str).unwrap_or_default()
    }

    pub(crate) fn restarts(&self, name: &str) -> i64 {
        self.container(name).and_then(|status| status["restartCount"].as_i64()).unwrap_or(0)
    }

    /// `Ok` when it runs and is ready.
    pub(crate) fn ready(&self) -> Result<(), String> {
        if self.phase() == "Running" && self.is_true("Ready") { Ok(()) } else { Err(self.in_short()) }
    }

    /// Where it stands, in a line.
    pub(crate) fn in_short(&self) -> String {
        let mut line = match self.phase() {
            "" => "it has no phase".to_owned(),
            phase => format!("it is {phase}"),
        };
        if !self.reason().is_empty() {
            line = format!("{line} ({}: {})", self.reason(), self.text("/status/message"));
        }
        for list in ["initContainerStatuses", "containerStatuses"] {
            for status in self.0["status"][list].as_array().into_iter().flatten() {
                let (name, state) = (status["name"].as_str().unwrap_or_default(), &status["state"]);
                line = format!("{line}, {name} {}", state_in_short(state));
            }
        }
        if !self.text("/metadata/deletionTimestamp").is_empty() {
            line.push_str(", being deleted");
        }
        line
    }
}

fn state_in_short(state: &Value) -> String {
    let reason = |kind: &str| state[kind]["reason"].as_str().unwrap_or("no reason").to_owned();
    if state["waiting"].is_object() {
        format!("waits ({})", reason("waiting"))
    } else if state["running"].is_object() {
        "runs".to_owned()
    } else if state["terminated"].is_object() {
        format!("ended with {} ({})", state["terminated"]["exitCode"], reason("terminated"))
    } else {
        "has no state".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pod_is_told_in_a_line() {
        let seen = Seen(json!({"metadata": {"deletionTimestamp": "x"}, "status": {
            "phase": "Pending", "reason": "Why", "message": "so",
            "initContainerStatuses": [{"name": "i", "state": {"terminated": {"exitCode": 3, "reason": "Error"}}}],
            "containerStatuses": [{"name": "a", "state": {"waiting": {"reason": "PodInitializing"}}}, {"name": "b"}],
        }}));
        let line = "it is Pending (Why: so), i ended with 3 (Error), a waits (PodInitializing), b has no state, being deleted";
        assert_eq!(seen.in_short(), line);
        assert_eq!(Seen(json!({})).in_short(), "it has no phase");
        assert!(seen.ready().is_err());
    }
}
