//! Finding differences, and judging them.

use std::fmt::Write as _;

use serde_json::Value;

use crate::case::Case;

/// A difference that has a reason.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Argued {
    /// The subject it is in.
    pub(crate) subject: &'static str,
    /// The case; `*` is any of the subject.
    pub(crate) case: &'static str,
    /// Where: the number of the step and a JSON pointer into its answer, such as `2/body/spec/priority`; the number
    /// alone where the codes differ. A segment that is `*` stands for any one, a last segment `**` for any number.
    pub(crate) at: &'static str,
    /// Why the in-memory server need not do as the real one.
    pub(crate) why: &'static str,
    /// It depends on what the real server has been through: no difference is no mistake either.
    pub(crate) now_and_then: bool,
}

/// What was found in the cases of a subject.
#[derive(Debug)]
pub(crate) struct Report {
    subject: &'static str,
    requests: usize,
    differences: Vec<Difference>,
}

#[derive(Debug)]
struct Difference {
    case: &'static str,
    request: String,
    at: String,
    /// `None` where there is nothing.
    ours: Option<Value>,
    real: Option<Value>,
}

impl Report {
    pub(crate) fn new(subject: &'static str) -> Self {
        Self { subject, requests: 0, differences: Vec::new() }
    }

    /// Compares the answers of both servers in a case.
    pub(crate) fn compare(&mut self, case: &Case, ours: &[Value], real: &[Value]) {
        for (number, ((step, ours), real)) in case.steps.iter().zip(ours).zip(real).enumerate() {
            self.requests += 1;
            let (mut found, mut at) = (Vec::new(), (number + 1).to_string());
            if ours["code"] == real["code"] {
                walk(Some(ours), Some(real), &mut at, &mut found);
            } else {
                // The rest differs then too, and says no more.
                found.push((at, Some(gist(ours)), Some(gist(real))));
            }
            let request = format!("{} {:.100}", step.method, step.path);
            self.differences.extend(found.into_iter().map(|(at, ours, real)| Difference {
                case: case.name,
                request: request.clone(),
                at,
                ours,
                real,
            }));
        }
    }

    /// Fails unless every difference is argued and every argument is about a difference.
    ///
    /// # Panics
    /// When one is not.
    pub(crate) fn judge(self, argued: &[Argued]) {
        let argued: Vec<&Argued> = argued.iter().filter(|entry| entry.subject == self.subject).collect();
        let mut text = String::new();
        for difference in &self.differences {
            if !argued.iter().any(|entry| entry.is_about(difference)) {
                let Difference { case, request, at, ours, real } = difference;
                let show =
                    |value: &Option<Value>| value.as_ref().map_or("nothing".to_owned(), Value::to_string);
                // Writing to a string cannot fail.
                let _ = writeln!(
                    text,
                    "- {case} ({request})\n    at   {at}\n    ours {}\n    real {}",
                    show(ours),
                    show(real)
                );
            }
        }
        for entry in argued {
            assert!(!entry.why.is_empty(), "{entry:?}: a difference needs a reason");
            if !entry.now_and_then && !self.differences.iter().any(|difference| entry.is_about(difference)) {
                let _ = writeln!(text, "- no longer a difference, to be removed from the table: {entry:?}");
            }
        }
        let (subject, requests) = (self.subject, self.requests);
        assert!(text.is_empty(), "{subject}: {requests} requests, and these answers differ:\n{text}");
        eprintln!(
            "{subject}: {requests} requests answered alike, {} differences argued",
            self.differences.len()
        );
    }
}

impl Argued {
    fn is_about(&self, difference: &Difference) -> bool {
        (self.case == "*" || self.case == difference.case) && fits(self.at, &difference.at)
    }
}

fn fits(pattern: &str, at: &str) -> bool {
    let (mut pattern, mut at) = (pattern.split('/'), at.split('/'));
    loop {
        match (pattern.next(), at.next()) {
            (None, None) | (Some("**"), _) => return true,
            (Some(wanted), Some(segment)) if wanted == "*" || wanted == segment => {}
            _ => return false,
        }
    }
}

/// What is worth saying of an answer whose code is another than expected.
fn gist(answer: &Value) -> Value {
    let body = &answer["body"];
    serde_json::json!([answer["code"], body["reason"], body["message"]])
}

type Found = (String, Option<Value>, Option<Value>);

fn walk(ours: Option<&Value>, real: Option<&Value>, at: &mut String, found: &mut Vec<Found>) {
    if ours == real {
        return;
    }
    let length = at.len();
    match (ours, real) {
        (Some(Value::Object(ours)), Some(Value::Object(real))) => {
            let mut keys: Vec<&String> = ours.keys().chain(real.keys()).collect();
            keys.sort();
            keys.dedup();
            for key in keys {
                at.push('/');
                at.push_str(&key.replace('~', "~0").replace('/', "~1"));
                walk(ours.get(key), real.get(key), at, found);
                at.truncate(length);
            }
        }
        (Some(Value::Array(ours)), Some(Value::Array(real))) => {
            for position in 0..ours.len().max(real.len()) {
                at.push('/');
                at.push_str(&position.to_string());
                walk(ours.get(position), real.get(position), at, found);
                at.truncate(length);
            }
        }
        (ours, real) => found.push((at.clone(), ours.cloned(), real.cloned())),
    }
}

#[test]
fn every_difference_is_found_where_it_is() {
    let (ours, real) = (
        serde_json::json!({"a": 1, "b": [1, 2], "c/d": {"e": 1}, "same": {}}),
        serde_json::json!({"a": 2, "b": [1], "c/d": {"e": 1, "f": null}, "same": {}}),
    );
    let mut found = Vec::new();
    walk(Some(&ours), Some(&real), &mut "1".to_owned(), &mut found);
    let places: Vec<&str> = found.iter().map(|(at, _, _)| at.as_str()).collect();
    assert_eq!(places, ["1/a", "1/b/1", "1/c~1d/f"]);
}

#[test]
fn a_pattern_names_a_place_or_any_of_its_kind() {
    assert!(fits("2/body/items/*/spec", "2/body/items/0/spec"));
    assert!(fits("*/body/**", "1/body/a/b"));
    assert!(!fits("2/body/spec", "2/body/spec/priority"));
    assert!(!fits("2/body/spec/priority", "2/body/spec"));
}
