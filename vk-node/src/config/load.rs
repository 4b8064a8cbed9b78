//! Reads a YAML file into a type, and tells what is wrong with it where it stands.

use std::io::Read as _;
use std::path::Path;

use serde::de::DeserializeOwned;

use crate::config::document::Lines;
use crate::config::strict::Strict;
use crate::fault::{Fault, nearest, one_line};

/// A configuration larger than this is somebody's mistake.
const MAX_BYTES: u64 = 4 * 1024 * 1024;

/// Reads a file as text.
pub(crate) fn read(path: &Path, role: &str) -> Result<String, Fault> {
    let place = path.display().to_string();
    let failed = |error: std::io::Error| {
        let remedy = match error.kind() {
            std::io::ErrorKind::NotFound => "there is no such file; check the path".to_owned(),
            std::io::ErrorKind::PermissionDenied => {
                "this user may not read it; change its owner or mode".to_owned()
            }
            _ => one_line(&error.to_string()),
        };
        Fault::new(format!("cannot read {role}"), place.clone(), remedy)
    };
    // What has no size, such as a pipe or a device, is read no further than that either.
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(failed)?;
    file.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(Fault::new(
            format!("cannot read {role}"),
            place,
            format!("it has more than the {MAX_BYTES} bytes that are read; is it the right file?"),
        ));
    }
    String::from_utf8(bytes).map_err(|error| {
        let remedy = match error.utf8_error().valid_up_to() {
            0 => "it is not text in UTF-8; is it the right file?".to_owned(),
            good => {
                let line = error.as_bytes()[..good].split(|byte| *byte == b'\n').count();
                format!("line {line} is not text in UTF-8; save it as UTF-8")
            }
        };
        Fault::new(format!("cannot read {role}"), path.display().to_string(), remedy)
    })
}

/// The same for the configuration file of a process that runs, whose threads must not wait for a disk.
pub(crate) async fn read_later(path: &Path) -> Result<String, Fault> {
    let owned = path.to_owned();
    tokio::task::spawn_blocking(move || read(&owned, "the configuration file")).await.unwrap_or_else(
        |error| {
            Err(Fault::new(
                "cannot read the configuration file",
                path.display().to_string(),
                error.to_string(),
            ))
        },
    )
}

/// Reads YAML (or JSON, which is YAML) into `T`. `source` names the text in faults.
pub(crate) fn parse<T: DeserializeOwned + Default>(text: &str, source: &str) -> Result<T, Fault> {
    let nothing = |line: &str| {
        let line = line.trim_start();
        line.is_empty() || line.starts_with('#') || line == "---"
    };
    if text.lines().all(nothing) {
        return Ok(T::default());
    }
    // Kubernetes' own YAML readers take `0644` for octal; a file mode must mean the same here.
    let options = serde_saphyr::options! { legacy_octal_numbers: true, with_snippet: false };
    let mut path = String::new();
    serde_saphyr::with_deserializer_from_str_with_options(text, options, |deserializer| {
        serde_path_to_error::deserialize::<_, T>(deserializer).map_err(|error| {
            path = error.path().to_string();
            error.into_inner()
        })
    })
    .map_err(|error| explain(error.without_snippet(), &path, source))
}

/// Reads a section that was kept as a value into the type of whoever it belongs to. `path` is where the
/// section stands.
#[cfg_attr(not(feature = "mock"), allow(dead_code, reason = "for backends, and none is built in"))]
pub(crate) fn parse_section<T: DeserializeOwned>(
    value: serde_json::Value,
    lines: &Lines,
    source: &str,
    path: &str,
) -> Result<T, Fault> {
    serde_path_to_error::deserialize::<_, T>(Strict(value)).map_err(|error| {
        let below = error.path().to_string();
        // The tracker's signs for the section itself, and for a key it did not get to see.
        let below = below.trim_matches('.').trim_end_matches('?').trim_end_matches('.');
        let whole = match below {
            "" => path.to_owned(),
            below if below.starts_with('[') => format!("{path}{below}"),
            below => format!("{path}.{below}"),
        };
        explain_value(&error.into_inner().to_string(), lines.place(&whole, source))
    })
}

/// What serde says about a value of any format, which is the same text in all of them, as a fault.
pub(crate) fn explain_value(message: &str, place: String) -> Fault {
    let message = one_line(message);
    if let Some((field, rest)) = message.strip_prefix("unknown field `").and_then(|rest| rest.split_once('`'))
    {
        let known: Vec<&str> = rest.split('`').skip(1).step_by(2).collect();
        return unknown_key(field, &known, place);
    }
    if let Some((variant, rest)) =
        message.strip_prefix("unknown variant `").and_then(|rest| rest.split_once('`'))
    {
        let known: Vec<&str> = rest.split('`').skip(1).step_by(2).collect();
        return Fault::new(
            format!("unknown value {variant:?}"),
            place,
            format!("it is {}", known.join(" or ")),
        );
    }
    if let Some(field) = message.strip_prefix("missing field `").and_then(|rest| rest.strip_suffix('`')) {
        return Fault::new(format!("missing key {field:?}"), place, "add it");
    }
    for kind in ["invalid type: ", "invalid value: "] {
        if let Some((unexpected, expected)) =
            message.strip_prefix(kind).and_then(|rest| rest.rsplit_once(", expected "))
        {
            return Fault::new(
                format!("wrong value, {},", found_in_words(&unexpected.replace('`', ""))),
                place,
                format!("expected {}", in_words(expected)),
            );
        }
    }
    split_message(&message, place)
}

/// The same for what a key has.
fn found_in_words(found: &str) -> &str {
    match found {
        "map" => "keys with values",
        "sequence" => "a list",
        other => other,
    }
}

/// Rust's names of what a key takes, as a reader of YAML knows them.
fn in_words(expected: &str) -> &str {
    match expected {
        "u8" => "a whole number, 0 to 255",
        "u16" => "a whole number, 0 to 65535",
        "u32" | "u64" | "usize" => "a whole number, 0 or more",
        "f64" => "a number",
        "a boolean" => "true or false",
        "a sequence" => "a list, in brackets or with a '-' before each item",
        "a map" => "keys with their values",
        other if other.starts_with("struct ") => "keys with their values",
        other => other,
    }
}

fn explain(error: &serde_saphyr::Error, path: &str, source: &str) -> Fault {
    let line = error
        .location()
        .map(|at| at.line())
        .filter(|line| *line > 0)
        .map_or(String::new(), |l| format!(":{l}"));
    // The tracker's sign for a key it did not get to see.
    let path = path.trim_end_matches('?').trim_end_matches('.');
    // Below a key that it did not see, the rest of the path leads nowhere.
    let path = if path.contains('?') { "" } else { path };
    let place = match path {
        "" => format!("in {source}{line}"),
        path => format!("in {source}{line} ({path})"),
    };
    match error {
        serde_saphyr::Error::SerdeUnknownField { field, expected, .. } => unknown_key(field, expected, place),
        serde_saphyr::Error::SerdeMissingField { field, .. } => {
            Fault::new(format!("missing key {field:?}"), place, "add it")
        }
        serde_saphyr::Error::SerdeUnknownVariant { variant, expected, .. } => Fault::new(
            format!("unknown value {variant:?}"),
            place,
            format!("it is {}", expected.join(" or ")),
        ),
        serde_saphyr::Error::SerdeInvalidType { unexpected, expected, .. }
        | serde_saphyr::Error::SerdeInvalidValue { unexpected, expected, .. } => {
            Fault::new(format!("wrong value, {unexpected}"), place, format!("expected {expected}"))
        }
        serde_saphyr::Error::InvalidScalar { ty, .. } => {
            Fault::new("wrong value", place, format!("expected {ty}"))
        }
        serde_saphyr::Error::DuplicateMappingKey { key, .. } => Fault::new(
            format!("key {} twice", key.as_ref().map_or_else(String::new, |key| format!("{key:?}"))),
            place,
            "keep one",
        ),
        serde_saphyr::Error::Message { msg, .. } => split_message(msg, place),
        other => {
            // The location is in `place` already.
            let text = one_line(&other.to_string());
            let text = match text.split(" at line ").next().unwrap_or_default() {
                several if several.starts_with("multiple YAML documents") => {
                    "one document is read: remove the others"
                }
                "expected string scalar" => "a key is a word, not a list or a map",
                text => text,
            };
            Fault::new("bad YAML", place, text)
        }
    }
}

/// Our own scalars say `what: remedy`.
fn split_message(message: &str, place: String) -> Fault {
    match message.split_once("\": ") {
        Some((what, remedy)) => Fault::new(format!("{what}\""), place, remedy),
        None => match message.split_once(": ") {
            Some((what, remedy)) => Fault::new(what, place, remedy),
            None => Fault::new(message, place, "correct it"),
        },
    }
}

fn unknown_key(key: &str, known: &[&str], place: String) -> Fault {
    let remedy = match nearest(key, known.iter().copied()) {
        Some(near) => format!("did you mean {near:?}?"),
        None => format!("known keys are {}", known.join(", ")),
    };
    Fault::new(format!("unknown key {key:?}"), place, remedy)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{File, ProviderSection};

    fn fault(text: &str) -> String {
        parse::<File>(text, "vk.yaml").expect_err(text).to_string()
    }

    #[test]
    fn every_bad_file_gets_one_line_with_place_and_remedy() {
        let cases: &[(&str, &str)] = &[
            (
                "cluster:\n  kubconfig: x\n",
                "unknown key \"kubconfig\" in vk.yaml:2 (cluster.kubconfig): did you mean \"kubeconfig\"?",
            ),
            (
                "nodes:\n- name: a\n  prot: 1\n",
                "unknown key \"prot\" in vk.yaml:3 (nodes[0].prot): did you mean \"port\"?",
            ),
            ("nodes:\n- port: 1\n", "missing key \"name\" in vk.yaml:2 (nodes[0]): add it"),
            (
                "nodes:\n- name: a\n- name: b\n  capacity:\n    cpu: 4 cores\n",
                "bad quantity \"4 cores\" in vk.yaml:5 (nodes[1].capacity.cpu): write it like 4, 500m, 16Gi or 1e3",
            ),
            (
                "nodeDefaults:\n  pingInterval: 10\n",
                "bad duration \"10\" in vk.yaml:2 (nodeDefaults.pingInterval): it has no unit; write 10s, 10m or 10ms",
            ),
            (
                "nodes:\n- name: Node_1\n",
                "bad node name \"Node_1\" in vk.yaml:2 (nodes[0].name): use lower-case letters, digits, '-' and '.', at most 253 characters, letter or digit at both ends",
            ),
            (
                "nodeDefaults:\n  taints: [\"a=b:Never\"]\n",
                "bad taint effect \"Never\" in vk.yaml:2 (nodeDefaults.taints[0]): it is NoSchedule, PreferNoSchedule or NoExecute",
            ),
            ("log:\n  format: xml\n", "unknown value \"xml\" in vk.yaml:2 (log.format): it is text or json"),
            ("kubeletApi:\n  port: 70000\n", "wrong value in vk.yaml:2 (kubeletApi.port): expected u16"),
            (
                "kubeletApi:\n  listen: here\n",
                "bad address \"here\" in vk.yaml:2 (kubeletApi.listen): write it like 192.0.2.10 or 2001:db8::10",
            ),
            ("log: {level: info, level: debug}\n", "key \"level\" twice in vk.yaml:1 (log): keep one"),
            (
                "provider: {mock: {}, aci: {}}\n",
                "two providers, \"mock\" and \"aci\" in vk.yaml:1 (provider): name one, or give a node its own provider",
            ),
        ];
        for (text, expected) in cases {
            assert_eq!(fault(text), *expected, "for:\n{text}");
        }
    }

    #[test]
    fn text_that_is_not_yaml_says_where_it_breaks() {
        let line = fault("cluster: {kubeconfig: [\n");
        assert!(line.starts_with("bad YAML in vk.yaml:"), "{line}");
    }

    #[test]
    fn an_empty_file_is_all_defaults() {
        let file: File = parse("# nothing\n---\n", "vk.yaml").unwrap();
        assert!(file.nodes.is_empty());
        assert!(file.provider.is_none());
    }

    #[test]
    fn the_readmes_configuration_is_valid() {
        let readme = include_str!("../../../README.md");
        let blocks: Vec<&str> = readme
            .split("```yaml\n")
            .skip(1)
            .filter_map(|rest| rest.split("```").next())
            .filter(|block| block.starts_with("cluster:"))
            .collect();
        assert_eq!(blocks.len(), 1);
        let file: File = parse(blocks[0], "README.md").unwrap_or_else(|fault| panic!("{fault}"));
        assert_eq!(file.nodes.len(), 2);
    }

    #[test]
    fn a_provider_is_a_name_or_a_name_with_settings() {
        let file: File = parse("provider: mock\n", "vk.yaml").unwrap();
        assert_eq!(file.provider.map(|p| p.name), Some("mock".to_owned()));
        let file: File = parse("provider:\n  mock:\n    startLatency: 1s\n", "vk.yaml").unwrap();
        let provider = file.provider.unwrap();
        assert_eq!(provider.settings["startLatency"], "1s");
        let file: File = parse("provider:\n  mock:\n", "vk.yaml").unwrap();
        assert_eq!(file.provider, Some(ProviderSection::named("mock")));
    }

    #[test]
    fn a_section_of_a_backend_is_told_apart_by_its_path() {
        #[derive(Debug, serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        #[allow(dead_code, reason = "read by serde alone")]
        struct Backend {
            size: Option<u8>,
            colour: Option<String>,
        }
        let fault = |value| {
            parse_section::<Backend>(value, &Lines::default(), "vk.yaml", "provider.mock")
                .unwrap_err()
                .to_string()
        };
        assert_eq!(
            fault(serde_json::json!({"color": "red"})),
            "unknown key \"color\" in vk.yaml (provider.mock.color): did you mean \"colour\"?"
        );
        assert!(
            fault(serde_json::json!({"size": 300})).contains("in vk.yaml (provider.mock.size)"),
            "the path is there"
        );
        assert_eq!(
            fault(serde_json::json!([1, "red"])),
            "wrong value, a list, in vk.yaml (provider.mock): expected keys with their values"
        );
    }
}
