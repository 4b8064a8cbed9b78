//! How an answer differs from a recorded one: each difference with a name for its place, which is the same in every
//! run, and with words for whoever reads a failed test.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use super::super::testing::Answer;
use super::Case;

/// Place and details.
pub(super) type Found = Vec<(String, String)>;

/// All of them.
pub(super) fn differences(case: &Case, answer: &Answer) -> Found {
    let recorded = &case.recorded;
    let mut found = Found::new();
    let mut expect = |place: String, ours: &str, theirs: &str| {
        if ours != theirs {
            found.push((place, format!("{ours:?}, not {theirs:?}")));
        }
    };
    expect("code".to_owned(), answer.status.as_str(), &recorded["code"].to_string());
    for (name, value) in recorded["headers"].as_object().unwrap() {
        let value = value.as_str().unwrap();
        let ours = answer.header(name).unwrap_or("");
        match &**name {
            // Framing is the server's, which is not asked here.
            "Transfer-Encoding" => {}
            _ if value.starts_with('<') => {
                expect(name.clone(), if ours.is_empty() { "" } else { value }, value);
            }
            _ => expect(name.clone(), ours, value),
        }
    }
    match &recorded["body"] {
        Value::Null => {}
        Value::String(text) => {
            expect("body".to_owned(), &answer.body, &text.replace("<namespace>", "default"));
        }
        json => {
            let ours = serde_json::from_str(&answer.body).unwrap_or(Value::String(answer.body.clone()));
            expect("body".to_owned(), &ours.to_string(), &json.to_string());
        }
    }
    let mut body = |what: String| found.push(("body".to_owned(), what));
    match &recorded["shape"] {
        Value::Null => {}
        Value::String(beginning) if beginning == "binary" => {
            if answer.body.starts_with('#') {
                body("text, not binary".to_owned());
            }
        }
        // The tail of a metrics document.
        Value::String(end) if end.ends_with(" 0\n") => {
            if !answer.body.ends_with(end.as_str()) {
                body(format!("does not end with {end:?}"));
            }
        }
        Value::String(beginning) => {
            if !answer.body.starts_with(beginning.as_str()) {
                body(format!("does not begin with {beginning:?}"));
            }
        }
        Value::Object(families) if case.file.starts_with("metrics-") => {
            families_differ(families, &answer.body, &mut found);
        }
        shape => match serde_json::from_str::<Value>(&answer.body) {
            Ok(document) => shapes_differ("", shape, &merged(&document), &mut found),
            Err(error) => body(error.to_string()),
        },
    }
    found
}

/// A document with the items of each list put together, as the recorder does it with the kubelet's.
fn merged(value: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            fields.iter().map(|(name, value)| (name.clone(), merged(value))).collect::<Map<_, _>>().into()
        }
        Value::Array(items) => {
            let together = items.iter().map(merged).reduce(|mut all, next| {
                join(&mut all, next);
                all
            });
            together.into_iter().collect()
        }
        other => other.clone(),
    }
}

fn join(all: &mut Value, next: Value) {
    match (all, next) {
        (Value::Object(all), Value::Object(next)) => {
            for (name, value) in next {
                match all.get_mut(&name) {
                    Some(known) => join(known, value),
                    None => drop(all.insert(name, value)),
                }
            }
        }
        (Value::Array(all), Value::Array(next)) => match (all.first_mut(), next.into_iter().next()) {
            (Some(known), Some(item)) => join(known, item),
            (None, Some(item)) => all.push(item),
            _ => {}
        },
        _ => {}
    }
}

/// Fields that one side has and the other has not, and fields of another kind.
fn shapes_differ(place: &str, shape: &Value, ours: &Value, found: &mut Found) {
    match (shape, ours) {
        (Value::Object(shape), Value::Object(ours)) => {
            for (name, value) in ours {
                let place = format!("{place}.{name}");
                match shape.get(name) {
                    Some(shape) => shapes_differ(&place, shape, value, found),
                    None => found.push((format!("also {place}"), "not with the kubelet".to_owned())),
                }
            }
            for name in shape.keys().filter(|name| !ours.contains_key(*name)) {
                found.push((format!("no {place}.{name}"), "the kubelet has it".to_owned()));
            }
        }
        (Value::Array(shape), Value::Array(ours)) => match (shape.first(), ours.first()) {
            (Some(shape), Some(ours)) => shapes_differ(&format!("{place}[]"), shape, ours, found),
            (Some(_), None) => found.push((format!("no {place}[]"), "the kubelet has some".to_owned())),
            (None, Some(_)) => found.push((format!("also {place}[]"), "the kubelet has none".to_owned())),
            (None, None) => {}
        },
        (Value::String(kind), value) => {
            let fits = match kind.as_str() {
                "string" => value.is_string(),
                "number" => value.is_number(),
                "bool" => value.is_boolean(),
                "time" => value
                    .as_str()
                    .is_some_and(|text| text.parse::<jiff::Timestamp>().is_ok() && text.ends_with('Z')),
                _ => false,
            };
            if !fits {
                found.push((place.to_owned(), format!("{value}, not a {kind}")));
            }
        }
        (shape, value) => {
            if shape != value {
                found.push((place.to_owned(), format!("{value}, not {shape}")));
            }
        }
    }
}

/// A family of ours: type, help, and the sets of labels that its samples have.
type Family = (String, String, BTreeSet<String>);

/// Families and labels that one side has and the other has not, and families of another type or with other words.
/// Families outside the kubelet's space are ours to have.
fn families_differ(families: &Map<String, Value>, text: &str, found: &mut Found) {
    let ours = families_of(text);
    let detailed = families.values().any(Value::is_object);
    for name in families.keys().filter(|name| !ours.contains_key(name.as_str())) {
        found.push((format!("no {name}"), "the kubelet has it".to_owned()));
    }
    for (name, (kind, help, labelled)) in ours {
        let Some(theirs) = families.get(name) else {
            if detailed || name.starts_with("kubelet_") {
                found.push((format!("also {name}"), "not with the kubelet".to_owned()));
            }
            continue;
        };
        let theirs_kind = theirs["type"].as_str().or(theirs.as_str()).unwrap();
        if kind != theirs_kind {
            found.push((format!("type of {name}"), format!("{kind}, not {theirs_kind}")));
        }
        if !detailed {
            continue;
        }
        if theirs["help"] != help {
            found.push((format!("help of {name}"), format!("{help:?}, not {}", theirs["help"])));
        }
        let samples = theirs["samples"].as_array().unwrap();
        let theirs: BTreeSet<_> = samples.iter().map(|sample| labels(sample.as_str().unwrap())).collect();
        if labelled != theirs {
            found.push((format!("labels of {name}"), format!("{labelled:?}, not {theirs:?}")));
        }
    }
}

fn families_of(text: &str) -> BTreeMap<&str, Family> {
    let mut families: BTreeMap<&str, Family> = BTreeMap::new();
    let mut family = "";
    for line in text.lines() {
        if let Some((name, help)) = line.strip_prefix("# HELP ").and_then(|rest| rest.split_once(' ')) {
            families.entry(name).or_default().1 = help.to_owned();
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' '))
        {
            families.entry(name).or_default().0 = kind.to_owned();
            family = name;
        } else if let Some(family) = families.get_mut(family) {
            family.2.insert(labels(line));
        }
    }
    families
}

/// The names of a sample's labels, sorted: their order is free, and ours differs (`api`'s documentation says why).
fn labels(sample: &str) -> String {
    let Some((_, rest)) = sample.split_once('{') else { return String::new() };
    let inside = rest.rsplit_once('}').map_or(rest, |(inside, _)| inside);
    let mut names: Vec<_> = inside.split("\",").filter_map(|pair| Some(pair.split_once('=')?.0)).collect();
    names.sort_unstable();
    names.join(",")
}

#[test]
fn what_one_side_has_and_the_other_has_not_is_found_both_ways() {
    let shape = serde_json::json!({"a": "number", "b": [{"c": "string", "d": "time"}], "e": {"f": "bool"}});
    let ours = serde_json::json!({"a": "x", "b": [{"c": "1"}, {"z": 1}], "y": 1});
    let mut found = Found::new();
    shapes_differ("", &shape, &merged(&ours), &mut found);
    let mut places: Vec<_> = found.iter().map(|(place, _)| place.as_str()).collect();
    places.sort_unstable();
    assert_eq!(places, [".a", "also .b[].z", "also .y", "no .b[].d", "no .e"]);

    let families = serde_json::json!({
        "a": {"type": "gauge", "help": "A", "samples": ["a{x=\"1\"} <value>"]},
        "b": {"type": "gauge", "help": "B", "samples": ["b <value>"]},
    });
    let text = "# HELP a A!\n# TYPE a counter\na{y=\"1\"} 1\n# HELP c C\n# TYPE c gauge\nc 1\n";
    let mut found = Found::new();
    families_differ(families.as_object().unwrap(), text, &mut found);
    let places: Vec<_> = found.iter().map(|(place, _)| place.as_str()).collect();
    assert_eq!(places, ["no b", "type of a", "help of a", "labels of a", "also c"]);
}
