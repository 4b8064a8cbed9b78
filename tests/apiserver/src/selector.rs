//! Label and field selectors.
//!
//! Source: apimachinery `pkg/labels/selector.go`, `pkg/fields/selector.go`.

use serde_json::Value;

use crate::error::ApiError;
use crate::resources::Resource;

/// What a list or watch asks for: both selectors.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Selector {
    labels: Vec<Requirement>,
    fields: Vec<FieldRequirement>,
}

#[derive(Clone, Debug, PartialEq)]
struct Requirement {
    key: String,
    operator: Operator,
}

#[derive(Clone, Debug, PartialEq)]
enum Operator {
    In(Vec<String>),
    NotIn(Vec<String>),
    Exists,
    DoesNotExist,
    GreaterThan(i64),
    LessThan(i64),
}

#[derive(Clone, Debug, PartialEq)]
struct FieldRequirement {
    pointer: &'static str,
    value: String,
    equal: bool,
}

impl Selector {
    /// Reads `labelSelector` and `fieldSelector` of a query.
    pub(crate) fn parse(resource: &Resource, labels: &str, fields: &str) -> Result<Self, ApiError> {
        Ok(Self { labels: parse_labels(labels)?, fields: parse_fields(resource, fields)? })
    }

    #[cfg(test)]
    fn labels(text: &str) -> Result<Self, ApiError> {
        Ok(Self { labels: parse_labels(text)?, fields: Vec::new() })
    }

    /// The selector of a workload: `metav1.LabelSelector`. `None` selects nothing.
    #[must_use]
    pub(crate) fn of_workload(selector: &Value) -> Option<Self> {
        let mut labels = Vec::new();
        for (key, value) in selector["matchLabels"].as_object().into_iter().flatten() {
            let value = value.as_str().unwrap_or_default().to_owned();
            labels.push(Requirement { key: key.clone(), operator: Operator::In(vec![value]) });
        }
        for expression in selector["matchExpressions"].as_array().into_iter().flatten() {
            labels.push(requirement_of(expression)?);
        }
        selector.is_object().then_some(Self { labels, fields: Vec::new() })
    }

    /// Whether nothing is asked for, so that everything matches.
    #[must_use]
    pub(crate) fn is_empty(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty()
    }

    /// Whether an object matches.
    #[must_use]
    pub(crate) fn matches(&self, object: &Value) -> bool {
        self.matches_labels(&object["metadata"]["labels"]) && self.fields.iter().all(|f| f.matches(object))
    }

    /// Whether a map of labels matches the label half.
    #[must_use]
    pub(crate) fn matches_labels(&self, labels: &Value) -> bool {
        self.labels.iter().all(|r| r.matches(labels.get(&r.key).and_then(Value::as_str)))
    }

    /// The exact value asked of a field, for the store's indices.
    #[must_use]
    pub(crate) fn exact(&self, pointer: &str) -> Option<&str> {
        self.fields.iter().find(|f| f.equal && f.pointer == pointer).map(|f| f.value.as_str())
    }
}

impl Requirement {
    fn matches(&self, value: Option<&str>) -> bool {
        match (&self.operator, value) {
            (Operator::In(values), Some(value)) => values.iter().any(|v| v == value),
            (Operator::NotIn(values), Some(value)) => !values.iter().any(|v| v == value),
            (Operator::Exists, Some(_)) | (Operator::NotIn(_) | Operator::DoesNotExist, None) => true,
            (Operator::GreaterThan(bound), Some(value)) => value.parse::<i64>().is_ok_and(|v| v > *bound),
            (Operator::LessThan(bound), Some(value)) => value.parse::<i64>().is_ok_and(|v| v < *bound),
            (Operator::DoesNotExist, Some(_)) | (_, None) => false,
        }
    }
}

impl FieldRequirement {
    fn matches(&self, object: &Value) -> bool {
        let actual = match object.pointer(self.pointer) {
            Some(Value::String(text)) => text.clone(),
            Some(Value::Null) | None => match self.pointer {
                "/spec/unschedulable" | "/spec/hostNetwork" => "false".to_owned(),
                "/status/replicas" | "/status/succeeded" => "0".to_owned(),
                _ => String::new(),
            },
            Some(other) => other.to_string(),
        };
        (actual == self.value) == self.equal
    }
}

/// A requirement in its object form, of a workload's selector or of node affinity.
fn requirement_of(expression: &Value) -> Option<Requirement> {
    let key = expression["key"].as_str()?.to_owned();
    let values: Vec<String> = expression["values"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect();
    let operator = match expression["operator"].as_str()? {
        "In" => Operator::In(values),
        "NotIn" => Operator::NotIn(values),
        "Exists" => Operator::Exists,
        "DoesNotExist" => Operator::DoesNotExist,
        "Gt" => Operator::GreaterThan(values.first()?.parse().ok()?),
        "Lt" => Operator::LessThan(values.first()?.parse().ok()?),
        _ => return None,
    };
    Some(Requirement { key, operator })
}

/// Whether labels satisfy a list of expressions in object form (node affinity). An expression that
/// can't be read is not satisfied.
#[must_use]
pub(crate) fn expressions_match(expressions: &Value, labels: &Value) -> bool {
    expressions.as_array().into_iter().flatten().all(|expression| {
        requirement_of(expression).is_some_and(|r| r.matches(labels.get(&r.key).and_then(Value::as_str)))
    })
}

fn parse_labels(text: &str) -> Result<Vec<Requirement>, ApiError> {
    let mut requirements = Vec::new();
    for term in split_outside_parentheses(text) {
        let term = term.trim();
        if term.is_empty() {
            if text.trim().is_empty() {
                continue;
            }
            return Err(unparsable(text, "found ',', expected: identifier"));
        }
        requirements.push(parse_label_term(text, term)?);
    }
    Ok(requirements)
}

fn parse_label_term(whole: &str, term: &str) -> Result<Requirement, ApiError> {
    if let Some(key) = term.strip_prefix('!') {
        return Ok(Requirement { key: valid_key(whole, key.trim())?, operator: Operator::DoesNotExist });
    }
    if let Some((key, value)) = term.split_once("!=") {
        let operator = Operator::NotIn(vec![valid_value(whole, value.trim())?]);
        return Ok(Requirement { key: valid_key(whole, key.trim())?, operator });
    }
    if let Some((key, value)) = term.split_once("==").or_else(|| term.split_once('=')) {
        let operator = Operator::In(vec![valid_value(whole, value.trim())?]);
        return Ok(Requirement { key: valid_key(whole, key.trim())?, operator });
    }
    for (sign, make) in [('>', Operator::GreaterThan as fn(i64) -> Operator), ('<', Operator::LessThan)] {
        if let Some((key, value)) = term.split_once(sign) {
            let bound = value
                .trim()
                .parse()
                .map_err(|_| unparsable(whole, "for 'Gt', 'Lt' operators, the value must be an integer"))?;
            return Ok(Requirement { key: valid_key(whole, key.trim())?, operator: make(bound) });
        }
    }
    if let Some((head, rest)) = term.split_once('(') {
        let values = rest.strip_suffix(')').ok_or_else(|| unparsable(whole, "expected: ',' or ')'"))?;
        let mut words = head.split_whitespace();
        let key = valid_key(whole, words.next().unwrap_or_default())?;
        let values = values.split(',').map(|v| valid_value(whole, v.trim())).collect::<Result<_, _>>()?;
        let operator = match (words.next(), words.next()) {
            (Some("in"), None) => Operator::In(values),
            (Some("notin"), None) => Operator::NotIn(values),
            _ => return Err(unparsable(whole, "expected: in, notin, =, ==, !=, gt, lt")),
        };
        return Ok(Requirement { key, operator });
    }
    Ok(Requirement { key: valid_key(whole, term)?, operator: Operator::Exists })
}

fn split_outside_parentheses(text: &str) -> Vec<&str> {
    let (mut depth, mut start, mut terms) = (0_i32, 0, Vec::new());
    for (at, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            ',' if depth == 0 => {
                terms.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    terms.push(&text[start..]);
    terms
}

fn valid_key(whole: &str, key: &str) -> Result<String, ApiError> {
    let name = key.rsplit_once('/').map_or(key, |(_, name)| name);
    let good = !name.is_empty() && name.len() <= 63 && key.chars().all(is_label_char_or_slash);
    if good { Ok(key.to_owned()) } else { Err(unparsable(whole, "key: Invalid value")) }
}

fn valid_value(whole: &str, value: &str) -> Result<String, ApiError> {
    let ends = |c: char| c.is_ascii_alphanumeric();
    let good = value.is_empty()
        || (value.len() <= 63
            && value.chars().all(is_label_char)
            && value.starts_with(ends)
            && value.ends_with(ends));
    if good { Ok(value.to_owned()) } else { Err(unparsable(whole, "values: Invalid value")) }
}

fn is_label_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.')
}

fn is_label_char_or_slash(c: char) -> bool {
    is_label_char(c) || c == '/'
}

fn unparsable(whole: &str, why: &str) -> ApiError {
    ApiError::bad_request(format!("unable to parse requirement: {why} (in {whole:?})"))
}

fn parse_fields(resource: &Resource, text: &str) -> Result<Vec<FieldRequirement>, ApiError> {
    let mut requirements = Vec::new();
    for term in text.split(',').map(str::trim).filter(|t| !t.is_empty()) {
        let (key, value, equal) = if let Some((key, value)) = term.split_once("!=") {
            (key, value, false)
        } else if let Some((key, value)) = term.split_once("==").or_else(|| term.split_once('=')) {
            (key, value, true)
        } else {
            return Err(ApiError::bad_request(format!(
                "invalid selector: '{text}'; can't understand '{term}'"
            )));
        };
        let pointer = field_pointer(resource, key)?;
        requirements.push(FieldRequirement { pointer, value: value.to_owned(), equal });
    }
    Ok(requirements)
}

fn field_pointer(resource: &Resource, key: &str) -> Result<&'static str, ApiError> {
    match key {
        "metadata.name" => return Ok("/metadata/name"),
        "metadata.namespace" if resource.namespaced => return Ok("/metadata/namespace"),
        _ => {}
    }
    if let Some((_, pointer)) = resource.fields.iter().find(|(name, _)| *name == key) {
        return Ok(pointer);
    }
    Err(ApiError::bad_request(if resource.fields.is_empty() {
        format!("\"{key}\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\"")
    } else {
        format!("field label not supported: {key}")
    }))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::resources;

    fn labels_match(selector: &str, labels: &Value) -> bool {
        Selector::labels(selector).unwrap().matches_labels(labels)
    }

    #[test]
    fn the_whole_label_syntax_is_understood() {
        let labels = json!({"app": "web", "tier": "front", "n": "7"});
        for yes in [
            "",
            "app=web",
            "app==web",
            "app!=db",
            "app",
            "!canary",
            "app in (db, web)",
            "app notin (db)",
            "canary notin (yes)",
            "canary!=yes",
            "n>6",
            "n<8",
            "app=web,tier in (front,back),!canary",
        ] {
            assert!(labels_match(yes, &labels), "{yes}");
        }
        for no in
            ["app=db", "app!=web", "canary", "!app", "app in (db)", "app notin (web)", "n>7", "app=web,n<7"]
        {
            assert!(!labels_match(no, &labels), "{no}");
        }
        for bad in ["app=web,,n", "app in web)(", "app inside (a)", "a b", "n>many", "=x", "a=b=c"] {
            assert!(Selector::labels(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn field_selectors_are_those_of_the_resource() {
        let pods = resources::pods();
        let selector = Selector::parse(pods, "", "spec.nodeName=n1,status.phase!=Failed").unwrap();
        assert_eq!(selector.exact("/spec/nodeName"), Some("n1"));
        assert!(selector.matches(&json!({"spec": {"nodeName": "n1"}, "status": {"phase": "Running"}})));
        assert!(!selector.matches(&json!({"spec": {"nodeName": "n1"}, "status": {"phase": "Failed"}})));
        assert!(!selector.matches(&json!({"spec": {}, "status": {"phase": "Running"}})));
        let unassigned = Selector::parse(pods, "", "spec.nodeName=").unwrap();
        assert!(unassigned.matches(&json!({"spec": {}})));
        let error = Selector::parse(pods, "", "spec.colour=red").unwrap_err();
        assert_eq!(error.message, "field label not supported: spec.colour");
        let error = Selector::parse(resources::config_maps(), "", "data=x").unwrap_err();
        assert!(error.message.starts_with("\"data\" is not a known field selector"));
    }
}
