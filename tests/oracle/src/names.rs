//! The names and addresses of one live run, replaced as the recorder replaced those of its own.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::LazyLock;

use jiff::Timestamp;
use regex::Regex;
use serde_json::Value;

/// What is particular to a run: replaced by the recordings' placeholders.
#[derive(Clone, Debug, Default)]
pub struct Names {
    /// The namespace.
    pub namespace: String,
    /// The node.
    pub node: String,
    /// The node's address.
    pub host_ip: String,
    /// The pod's UID.
    pub pod_uid: String,
    /// The pod's name, if somebody made it up; `None` where the case gives it.
    pub pod_name: Option<String>,
    /// The pod's addresses, all there ever were.
    pub pod_ips: Vec<IpAddr>,
    /// When the pod was created.
    pub created: Option<Timestamp>,
}

static UID: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b").expect("a pattern")
});
static CONTAINER: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"\b[a-z]+://[0-9a-zA-Z._-]{12,}").expect("a pattern"));
static DIGEST: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"sha256:[0-9a-f]{64}").expect("a pattern"));
static ID: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"\b[0-9a-f]{64}\b").expect("a pattern"));
static TOKEN_VOLUME: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"kube-api-access-[a-z0-9]{5}\b").expect("a pattern"));
static STAMP: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"\.\.20\d\d(_\d\d){5}\.\d+").expect("a pattern"));
static TIME: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z$").expect("a pattern"));

impl Names {
    /// A time in seconds since the pod's creation.
    pub(crate) fn seconds(&self, time: &str) -> Option<f64> {
        let time: Timestamp = time.parse().ok()?;
        Some(time.duration_since(self.created?).as_secs_f64())
    }

    /// A text as the recorder would have written it.
    #[must_use]
    pub fn text(&self, text: &str) -> String {
        let mut text = Cow::Borrowed(text);
        let mut replace = |from: &str, to: &str| {
            if !from.is_empty() && text.contains(from) {
                text = Cow::Owned(text.replace(from, to));
            }
        };
        replace(&self.pod_uid, "<podUID>");
        if let Some(name) = &self.pod_name {
            replace(name, "<podName>");
        }
        replace(&self.namespace, "<namespace>");
        replace(&self.node, "<node>");
        for ip in &self.pod_ips {
            let ip = ip.to_string();
            // A pod on the node's network has the node's address.
            if ip != self.host_ip {
                replace(&ip, "<podIP>");
            }
        }
        replace(&self.host_ip, "<hostIP>");
        let text = UID.replace_all(&text, "<uid>");
        let text = TOKEN_VOLUME.replace_all(&text, "<kube-api-access>");
        let text = DIGEST.replace_all(&text, "<imageID>");
        let text = ID.replace_all(&text, "<id>");
        STAMP.replace_all(&text, "..TIMESTAMP").into_owned()
    }

    /// A JSON value as the recorder would have written it; of times only the epoch is told from the others.
    #[must_use]
    pub fn value(&self, value: &Value) -> Value {
        match value {
            Value::String(text) if TIME.is_match(text) => {
                Value::from(if text.starts_with("1970-") { "<epoch>" } else { "<time>" })
            }
            // Kept as it is: the comparison numbers a container's runs by it.
            Value::String(text) if CONTAINER.find(text).is_some_and(|found| found.len() == text.len()) => {
                Value::from(text.as_str())
            }
            Value::String(text) => Value::from(self.text(text)),
            Value::Array(items) => items.iter().map(|item| self.value(item)).collect(),
            Value::Object(fields) => {
                Value::Object(fields.iter().map(|(key, value)| (key.clone(), self.value(value))).collect())
            }
            other => other.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn names() -> Names {
        Names {
            namespace: "c-x".to_owned(),
            node: "oracle-1".to_owned(),
            host_ip: "192.0.2.10".to_owned(),
            pod_uid: "01234567-89ab-cdef-0123-456789abcdef".to_owned(),
            pod_name: None,
            pod_ips: vec!["10.88.0.7".parse().unwrap()],
            created: None,
        }
    }

    #[test]
    fn names_and_addresses_become_placeholders() {
        let table = [
            ("pod=pod_c-x(01234567-89ab-cdef-0123-456789abcdef)", "pod=pod_<namespace>(<podUID>)"),
            (
                "dial tcp 10.88.0.7:80 from 192.0.2.10 on oracle-1",
                "dial tcp <podIP>:80 from <hostIP> on <node>",
            ),
            ("11111111-89ab-cdef-0123-456789abcdef", "<uid>"),
            ("..2026_11_25_10_00_00.123", "..TIMESTAMP"),
        ];
        for (text, expected) in table {
            assert_eq!(names().text(text), expected);
        }
    }

    #[test]
    fn times_lose_their_value_but_the_epoch() {
        let value = json!({"a": "2026-11-25T10:00:00Z", "b": ["1970-01-01T00:00:00Z"], "c": 1});
        assert_eq!(names().value(&value), json!({"a": "<time>", "b": ["<epoch>"], "c": 1}));
    }
}
