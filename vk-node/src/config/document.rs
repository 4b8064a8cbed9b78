//! A YAML file as a tree whose places are known, so that every wrong key of it can be named at once.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::de::{Deserialize, DeserializeOwned, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use serde_saphyr::Spanned;

use crate::config::load;
use crate::config::strict::Strict;
use crate::fault::{Fault, Faults};

/// Nobody reads further; and a file that is something else altogether must not fill the terminal.
const MOST_FAULTS: usize = 20;

/// A file's content, and the line of each of its keys.
#[derive(Clone, Debug, Default)]
pub(crate) struct Document {
    value: Value,
    lines: BTreeMap<String, u64>,
    source: String,
}

/// The line of each key of a file, by the key's path.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Lines(Arc<BTreeMap<String, u64>>);

impl Lines {
    /// Where a key stands: `in vk.yaml:3 (log.level)`.
    pub(crate) fn place(&self, path: &str, source: &str) -> String {
        let line = self.0.get(path).copied().unwrap_or_default();
        Place { path: path.to_owned(), line }.within(source)
    }
}

impl Document {
    /// Reads YAML (or JSON, which is YAML). `source` names the text in faults.
    pub(crate) fn parse(text: &str, source: &str) -> Result<Self, Fault> {
        let mut document = Self { source: source.to_owned(), value: empty(), ..Self::default() };
        let root: Option<Tree> = load::parse(text, source)?;
        if let Some(root) = root {
            document.value = document.settle(root, "");
        }
        Ok(document)
    }

    /// The content. Keys without a value are not in it: they say nothing.
    pub(crate) fn value(&self) -> &Value {
        &self.value
    }

    /// The lines of its keys.
    pub(crate) fn lines(&self) -> Lines {
        Lines(Arc::new(self.lines.clone()))
    }

    /// Turns the content into a `T`. Every key that is wrong has its line.
    pub(crate) fn read<T: DeserializeOwned>(&self) -> Result<T, Faults> {
        let mut rest = Rest::of(self);
        let mut found: Vec<(u64, Fault)> = Vec::new();
        while found.len() < MOST_FAULTS {
            let error = match serde_path_to_error::deserialize::<_, T>(Strict(rest.value.clone())) {
                Ok(read) if found.is_empty() => return Ok(read),
                Ok(_) => break,
                Err(error) => error,
            };
            let path = error.path().to_string();
            // The tracker's sign for a key it did not get to see.
            let path = path.trim_end_matches('?').trim_end_matches('.');
            let message = error.into_inner().to_string();
            // What was taken out below is missing, which is no fault of the file's author.
            if found.is_empty() || !message.starts_with("missing field") {
                let place = rest.places.get(path).cloned().unwrap_or_default();
                found.push((place.line, load::explain_value(&message, place.within(&self.source))));
            }
            if !rest.remove(path) {
                break;
            }
        }
        found.sort_by_key(|(line, _)| *line);
        let mut faults = Faults::default();
        for (_, fault) in found {
            faults.push(fault);
        }
        Err(faults)
    }

    fn settle(&mut self, tree: Tree, path: &str) -> Value {
        match tree {
            Tree::Scalar(value) => value,
            Tree::List(items) => items
                .into_iter()
                .enumerate()
                .map(|(index, item)| {
                    let path = format!("{path}[{index}]");
                    self.lines.insert(path.clone(), item.referenced.line());
                    self.settle(item.value, &path)
                })
                .collect(),
            Tree::Map(entries) => {
                let mut map = serde_json::Map::new();
                // A provider without settings is a key without a value.
                let keep = path == "provider" || path.ends_with(".provider");
                for (key, value) in entries {
                    let name = key.value;
                    let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                    self.lines.insert(path.clone(), key.referenced.line());
                    let value = self.settle(value, &path);
                    if keep || !value.is_null() {
                        map.insert(name, value);
                    }
                }
                Value::Object(map)
            }
        }
    }
}

/// Where a key stands in the file.
#[derive(Clone, Debug, Default)]
struct Place {
    path: String,
    line: u64,
}

impl Place {
    fn within(&self, source: &str) -> String {
        let Self { path, line } = self;
        match (path.as_str(), line) {
            ("", 0) => format!("in {source}"),
            (path, 0) => format!("in {source} ({path})"),
            (path, line) => format!("in {source}:{line} ({path})"),
        }
    }
}

/// What is left of a document when the keys that are known to be wrong are taken out.
struct Rest {
    value: Value,
    /// By the path that a key has now: what comes after an item of a list moves up when that is taken out.
    places: BTreeMap<String, Place>,
}

impl Rest {
    fn of(document: &Document) -> Self {
        let place = |(path, line): (&String, &u64)| (path.clone(), Place { path: path.clone(), line: *line });
        Self { value: document.value.clone(), places: document.lines.iter().map(place).collect() }
    }

    fn remove(&mut self, path: &str) -> bool {
        if !remove(&mut self.value, path) {
            return false;
        }
        let index = path.strip_suffix(']').and_then(|path| path.rsplit_once('['));
        if let Some((list, index)) = index.and_then(|(list, n)| Some((list, n.parse::<usize>().ok()?))) {
            let moved = |key: &String| {
                let (n, below) = key.strip_prefix(list)?.strip_prefix('[')?.split_once(']')?;
                let n = n.parse::<usize>().ok().filter(|n| *n >= index)?;
                Some((n > index).then(|| format!("{list}[{}]{below}", n - 1)))
            };
            let places = std::mem::take(&mut self.places).into_iter();
            self.places = places
                .filter_map(|(key, place)| match moved(&key) {
                    None => Some((key, place)),
                    Some(new) => new.map(|new| (new, place)),
                })
                .collect();
        }
        true
    }
}

fn empty() -> Value {
    Value::Object(serde_json::Map::new())
}

/// A path's steps: `nodes[0].labels` is `nodes`, `0`, `labels`. Keys with dots in them are found by trying.
fn remove(value: &mut Value, path: &str) -> bool {
    match value {
        Value::Object(map) => {
            if map.remove(path).is_some() {
                return true;
            }
            let next = map
                .iter_mut()
                .filter_map(|(key, below)| Some((path.strip_prefix(key.as_str())?, below)))
                .filter(|(rest, _)| rest.starts_with(['.', '[']))
                .max_by_key(|(rest, _)| usize::MAX - rest.len());
            next.is_some_and(|(rest, below)| remove(below, rest.strip_prefix('.').unwrap_or(rest)))
        }
        Value::Array(items) => {
            let Some((index, rest)) = path.strip_prefix('[').and_then(|rest| rest.split_once(']')) else {
                return false;
            };
            let Some(index) = index.parse::<usize>().ok().filter(|index| *index < items.len()) else {
                return false;
            };
            if rest.is_empty() {
                items.remove(index);
                return true;
            }
            remove(&mut items[index], rest.strip_prefix('.').unwrap_or(rest))
        }
        _ => false,
    }
}

/// YAML with its places.
enum Tree {
    Scalar(Value),
    List(Vec<Spanned<Self>>),
    Map(Vec<(Spanned<String>, Self)>),
}

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;

        impl<'de> Visitor<'de> for Any {
            type Value = Tree;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("YAML")
            }
            fn visit_bool<E>(self, value: bool) -> Result<Tree, E> {
                Ok(Tree::Scalar(value.into()))
            }
            fn visit_i64<E>(self, value: i64) -> Result<Tree, E> {
                Ok(Tree::Scalar(value.into()))
            }
            fn visit_u64<E>(self, value: u64) -> Result<Tree, E> {
                Ok(Tree::Scalar(value.into()))
            }
            fn visit_f64<E>(self, value: f64) -> Result<Tree, E> {
                Ok(Tree::Scalar(value.into()))
            }
            fn visit_str<E>(self, value: &str) -> Result<Tree, E> {
                Ok(Tree::Scalar(value.into()))
            }
            fn visit_unit<E>(self) -> Result<Tree, E> {
                Ok(Tree::Scalar(Value::Null))
            }
            fn visit_none<E>(self) -> Result<Tree, E> {
                Ok(Tree::Scalar(Value::Null))
            }
            fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Tree, D::Error> {
                Tree::deserialize(deserializer)
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Tree, A::Error> {
                let mut list = Vec::new();
                while let Some(item) = items.next_element()? {
                    list.push(item);
                }
                Ok(Tree::List(list))
            }
            fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Tree, A::Error> {
                let mut map = Vec::new();
                while let Some(entry) = entries.next_entry()? {
                    map.push(entry);
                }
                Ok(Tree::Map(map))
            }
        }

        deserializer.deserialize_any(Any)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::File;

    fn lines(text: &str) -> Vec<String> {
        let document = Document::parse(text, "vk.yaml").unwrap_or_else(|fault| panic!("{fault}"));
        document.read::<File>().expect_err(text).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn every_wrong_key_of_a_file_is_named_not_the_first_alone() {
        assert_eq!(
            lines(
                "log: {levle: info}\nnodes:\n- name: a\n  prot: 1\n  labels:\n    example.com/zone: '-'\n\
                 - name: B\nkubeletApi:\n  port: http\n"
            ),
            [
                "unknown key \"levle\" in vk.yaml:1 (log.levle): did you mean \"level\"?",
                "unknown key \"prot\" in vk.yaml:4 (nodes[0].prot): did you mean \"port\"?",
                "bad label value \"-\" in vk.yaml:6 (nodes[0].labels.example.com/zone): use letters, digits, '-', \
                 '_' and '.', at most 63 characters, letter or digit at both ends",
                "bad node name \"B\" in vk.yaml:7 (nodes[1].name): use lower-case letters, digits, '-' and '.', at \
                 most 253 characters, letter or digit at both ends",
                "wrong value, string \"http\", in vk.yaml:9 (kubeletApi.port): expected a whole number, 0 to 65535",
            ]
            .map(str::to_owned)
        );
    }

    #[test]
    fn a_list_is_not_taken_for_a_section() {
        for (text, place) in [
            ("- name: a\n", "in vk.yaml"),
            ("log: [debug, json]\n", "in vk.yaml:1 (log)"),
            ("log:\n- level: debug\n", "in vk.yaml:1 (log)"),
            ("nodes:\n- name: a\n- [b, 10250]\n", "in vk.yaml:3 (nodes[1])"),
            ("nodeDefaults:\n- addresses: []\n", "in vk.yaml:1 (nodeDefaults)"),
        ] {
            let expected = format!("wrong value, a list, {place}: expected keys with their values");
            assert_eq!(lines(text), [expected], "{text}");
        }
        for (text, place) in [
            ("nodes:\n  name: a\n", "keys with values, in vk.yaml:1 (nodes)"),
            ("nodes: a\n", "string \"a\", in vk.yaml:1 (nodes)"),
            (
                "nodeDefaults:\n  addresses: 192.0.2.1\n",
                "string \"192.0.2.1\", in vk.yaml:2 (nodeDefaults.addresses)",
            ),
            ("nodeDefaults:\n  taints: {a: b}\n", "keys with values, in vk.yaml:2 (nodeDefaults.taints)"),
        ] {
            let expected =
                format!("wrong value, {place}: expected a list, in brackets or with a '-' before each item");
            assert_eq!(lines(text), [expected], "{text}");
        }
    }

    #[test]
    fn keys_without_a_value_say_nothing_but_a_provider_is_named_by_its_key() {
        let document = Document::parse("nodeDefaults:\n  labels:\nprovider:\n  mock:\n", "vk.yaml").unwrap();
        assert_eq!(*document.value(), serde_json::json!({"nodeDefaults": {}, "provider": {"mock": null}}));
        assert!(document.read::<File>().is_ok());
    }
}
