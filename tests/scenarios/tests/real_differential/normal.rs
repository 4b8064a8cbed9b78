//! What no two servers can have in common gets a name: the first UID of a conversation is `<uid 1>` on both.
//!
//! Names keep what matters: whether a value is the same as before, and whether it is there at all.
//!
//! Left out on both sides is what says nothing to a client, or only in the real server's own words:
//!
//! * `managedFields`: the in-memory server keeps them for managers that apply, and nobody else;
//! * details of a refusal that are empty;
//! * nulls, which Go writes for times that are not set: to every client they are absent;
//! * the descriptions of a table's columns, prose from the API reference that `kubectl explain` has too, and the
//!   hashes of storage versions;
//! * `node.alpha.kubernetes.io/ttl` and the taints of `node.kubernetes.io/`, which controllers set in their own time;
//! * the difference that the real server appends to the refusal of a pod's change, in the names of Go's fields;
//! * what a decoder has to say about text that is no JSON, no YAML, or of other types than the kind's ([`DECODERS`]).

use std::collections::HashMap;
use std::fmt::Write as _;

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use crate::conversation::Answer;

/// The values seen so far, in order.
#[derive(Debug, Default)]
pub(crate) struct Names {
    uids: Vec<String>,
    versions: HashMap<String, usize>,
    /// Generated names, and what stands for them.
    generated: Vec<(String, String)>,
}

/// Fields that are left out wherever they are.
const LEFT_OUT: [&str; 3] = ["managedFields", "storageVersionHash", "node.alpha.kubernetes.io/ttl"];

/// Taints that controllers set and remove in their own time.
const CONTROLLERS_TAINTS: &str = "node.kubernetes.io/";

/// What comes before the words of a decoder in a message.
const DECODERS: [&str; 9] = [
    "json parse error: ",
    "(must be of type ConfigMap): yaml: ",
    "patch: Invalid value: ",
    "json: cannot unmarshal ",
    "error decoding patch: ",
    "error encoding patch: ",
    "continue key is not valid",
    " in scheme ",
    "(allow it to be set to 1 if it was previously negative)",
];

/// Words about a patched object that is none of its kind; the real server shows all of it, or the patch.
const PATCHED: [&str; 12] = [
    "json: cannot unmarshal",
    "invalid type",
    "invalid value",
    "cannot restore",
    "cannot convert",
    "cannot be handled",
    "parsing time",
    "is not a quantity",
    "failed to parse",
    "quantities must match",
    "no kind",
    "illegal base64",
];

/// Random names that end in five characters of the API server's alphabet.
const TOKEN_VOLUME: &str = "kube-api-access-";
const SUFFIX: usize = 5;

/// More of the base of a generated name is cut off.
const LONGEST_BASE: usize = 58;

impl Names {
    /// Names the values of an answer.
    pub(crate) fn normalise(&mut self, mut answer: Answer) -> Answer {
        self.learn(&answer.body);
        self.name(&mut answer.body, "");
        self.name(&mut answer.headers, "");
        answer
    }

    /// Notes generated names, wherever an object tells its own.
    fn learn(&mut self, value: &Value) {
        match value {
            Value::Object(fields) => {
                if let (Some(Value::String(base)), Some(Value::String(name))) =
                    (fields.get("generateName"), fields.get("name"))
                    && let base = base.get(..LONGEST_BASE).unwrap_or(base)
                    && name.strip_prefix(base).is_some_and(|suffix| suffix.len() == SUFFIX)
                    && !self.generated.iter().any(|(known, _)| known == name)
                {
                    let stand_in = format!("{base}<suffix {}>", self.generated.len() + 1);
                    self.generated.push((name.clone(), stand_in));
                }
                fields.values().for_each(|value| self.learn(value));
            }
            Value::Array(items) => items.iter().for_each(|item| self.learn(item)),
            _ => {}
        }
    }

    fn name(&mut self, value: &mut Value, key: &str) {
        match value {
            Value::Object(fields) => {
                fields.retain(|key, value| !value.is_null() && !LEFT_OUT.contains(&key.as_str()));
                if let Some(Value::Array(taints)) = fields.get_mut("taints") {
                    taints
                        .retain(|taint| !taint["key"].as_str().unwrap_or("").starts_with(CONTROLLERS_TAINTS));
                }
                if fields.contains_key("columnDefinitions") {
                    let columns = fields["columnDefinitions"].as_array_mut().into_iter().flatten();
                    columns
                        .filter_map(Value::as_object_mut)
                        .for_each(|column| drop(column.remove("description")));
                }
                // Both are true at a moment that is not that of any object.
                let is_list = fields.contains_key("items") || fields.contains_key("rows") || is_mark(fields);
                if let Some(Value::Object(metadata)) = fields.get_mut("metadata") {
                    self.name_version(metadata, is_list);
                }
                // In order of their keys: a map has no order of its own to go by.
                let mut sorted: Vec<_> = fields.iter_mut().collect();
                sorted.sort_by(|a, b| a.0.cmp(b.0));
                for (key, value) in sorted {
                    self.name(value, key);
                }
                for emptied in ["annotations", "details"] {
                    if fields.get(emptied).and_then(Value::as_object).is_some_and(serde_json::Map::is_empty) {
                        fields.remove(emptied);
                    }
                }
            }
            Value::Array(items) => items.iter_mut().for_each(|item| self.name(item, key)),
            Value::String(text) => *text = self.named(text, key),
            _ => {}
        }
    }

    /// An object's version is told by when it was first seen; a list's says nothing but that it is there.
    fn name_version(&mut self, metadata: &mut serde_json::Map<String, Value>, is_list: bool) {
        let Some(Value::String(version)) = metadata.get_mut("resourceVersion") else { return };
        if version.is_empty() {
            return;
        }
        *version = if is_list {
            "<a list's version>".to_owned()
        } else {
            let next = self.versions.len() + 1;
            format!("<version {}>", self.versions.entry(version.clone()).or_insert(next))
        };
    }

    fn named(&mut self, text: &str, key: &str) -> String {
        match key {
            "continue" | "token" if !text.is_empty() => return format!("<{key}>"),
            "clusterIP" | "clusterIPs" if text.starts_with("10.96.") => return "<address>".to_owned(),
            _ => {}
        }
        if let Some(time) = time(text) {
            return time.to_owned();
        }
        if is_age(text) {
            return "<age>".to_owned();
        }
        let mut text = self.without_uids(without_decoders_words(text));
        for (name, stand_in) in &self.generated {
            text = text.replace(name, stand_in);
        }
        if let Some(at) = text.find(TOKEN_VOLUME)
            && let Some(suffix) = text.get(at + TOKEN_VOLUME.len()..at + TOKEN_VOLUME.len() + SUFFIX)
            && suffix.chars().all(|c| c.is_ascii_alphanumeric())
        {
            let suffix = suffix.to_owned();
            text = text.replace(&format!("{TOKEN_VOLUME}{suffix}"), &format!("{TOKEN_VOLUME}<suffix>"));
        }
        self.without_versions(&text)
    }

    fn without_uids(&mut self, text: &str) -> String {
        const LENGTH: usize = 36;
        let mut out = String::new();
        let mut rest = text;
        while let Some(first) = rest.chars().next() {
            if let Some(word) = rest.get(..LENGTH).filter(|word| is_uid(word)) {
                let known = self.uids.iter().position(|uid| uid == word);
                let at = known.unwrap_or_else(|| {
                    self.uids.push(word.to_owned());
                    self.uids.len() - 1
                });
                // Writing to a string cannot fail.
                let _ = write!(out, "<uid {}>", at + 1);
                rest = &rest[LENGTH..];
            } else {
                out.push(first);
                rest = &rest[first.len_utf8()..];
            }
        }
        out
    }

    /// Versions in messages: in parentheses where a precondition failed, anywhere where a version was no good.
    fn without_versions(&self, text: &str) -> String {
        let lower = text.to_lowercase();
        if lower.starts_with("timeout: too large resource version")
            || lower.starts_with("too old resource version")
        {
            let digits: Vec<&str> =
                text.split(|c: char| !c.is_ascii_digit()).filter(|d| !d.is_empty()).collect();
            return digits.iter().fold(text.to_owned(), |text, digits| text.replacen(digits, "<n>", 1));
        }
        self.versions.iter().fold(text.to_owned(), |text, (version, at)| {
            text.replace(&format!("({version})"), &format!("(<version {at}>)"))
        })
    }
}

/// A message up to where a decoder speaks. Of fields that no kind has, both servers tell in the same words.
fn without_decoders_words(text: &str) -> &str {
    const HANDLED: &str = " cannot be handled as a ";
    let strict = text.contains("strict decoding error");
    if let Some(at) = text.find(HANDLED).filter(|_| !strict)
        && let Some(colon) = text[at + HANDLED.len()..].find(':')
    {
        return &text[..at + HANDLED.len() + colon];
    }
    if strict && text.starts_with("Invalid value: ") {
        return &text[text.find("strict decoding error").unwrap_or(0)..];
    }
    if !strict && text.starts_with("Invalid value: ") && PATCHED.iter().any(|words| text.contains(words)) {
        return "Invalid value";
    }
    let words = DECODERS.iter().filter_map(|before| text.find(before).map(|at| at + before.len()));
    words.min().map_or(text, |at| text[..at].trim_end())
}

/// Whether an object only marks the end of what there was when a watch began.
fn is_mark(object: &serde_json::Map<String, Value>) -> bool {
    object
        .get("metadata")
        .is_some_and(|metadata| metadata["annotations"]["k8s.io/initial-events-end"] == "true")
}

fn is_uid(word: &str) -> bool {
    word.char_indices().all(|(at, c)| match at {
        8 | 13 | 18 | 23 => c == '-',
        _ => c.is_ascii_digit() || ('a'..='f').contains(&c),
    })
}

/// A time of today, by its precision; the times that cases send are years away, and stay.
fn time(text: &str) -> Option<&'static str> {
    if !text.ends_with('Z') {
        return None;
    }
    let time: Timestamp = text.parse().ok()?;
    let distance = time.duration_since(Timestamp::now()).abs();
    (distance < SignedDuration::from_hours(48)).then_some(if text.contains('.') {
        "<microtime>"
    } else {
        "<time>"
    })
}

/// How long ago, as tables say it.
fn is_age(text: &str) -> bool {
    text.strip_suffix('s')
        .is_some_and(|digits| !digits.is_empty() && digits.chars().all(|c| c.is_ascii_digit()))
}

#[test]
fn values_keep_their_identity_under_another_name() {
    let mut names = Names::default();
    let now = Timestamp::now().to_string();
    let (a, b) = ("0c2fbc1e-3f5d-4e2a-9a31-1c2d3e4f5a6b", "1c2fbc1e-3f5d-4e2a-9a31-1c2d3e4f5a6b");
    let mut say =
        |body: Value| names.normalise(Answer { code: 200, body, headers: serde_json::json!({}) }).body;
    let object = |uid: &str, version: &str| {
        serde_json::json!({"metadata": {"name": "web-abcde", "generateName": "web-", "uid": uid,
                                        "resourceVersion": version, "creationTimestamp": now}})
    };
    let named = |uid: &str, version: &str| {
        serde_json::json!({"metadata": {"name": "web-<suffix 1>", "generateName": "web-", "uid": uid,
                                        "resourceVersion": version, "creationTimestamp": "<microtime>"}})
    };
    assert_eq!(say(object(a, "7")), named("<uid 1>", "<version 1>"));
    assert_eq!(say(object(b, "9")), named("<uid 2>", "<version 2>"));
    assert_eq!(say(object(a, "7")), named("<uid 1>", "<version 1>"));
    assert_eq!(
        say(serde_json::json!({"message": format!("web-abcde ({a}) is not at (9), since 10 (12)")})),
        serde_json::json!({"message": "web-<suffix 1> (<uid 1>) is not at (<version 2>), since 10 (12)"})
    );
    assert_eq!(
        say(serde_json::json!({"message": "Pod in version \"v1\" cannot be handled as a Pod: invalid type"})),
        serde_json::json!({"message": "Pod in version \"v1\" cannot be handled as a Pod"})
    );
    assert_eq!(say(serde_json::json!("2020-01-01T00:00:00Z")), "2020-01-01T00:00:00Z");
}
