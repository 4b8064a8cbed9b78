//! Variables from files of volumes (`fileKeyRef`), which are there when a container starts and not before.
//!
//! The format is that of KEP-3721: `NAME='value'`, where the value may go over several lines; empty lines and
//! lines that begin with `#` are passed over.

use std::collections::HashMap;

use k8s_openapi::api::core::v1::EnvVar as EnvVarSpec;

use super::expand::expand;
use crate::provider::{EnvVar, Origin, ResolvedContainer, ResolvedPod, Value};

/// The most that a file may hold, in bytes (KEP-3721).
const LONGEST: usize = 64 << 10;
/// The most that an expanded text may hold, in bytes.
const BUDGET: usize = 16 << 20;

impl ResolvedPod {
    /// A container with the variables that come from files of volumes, and with what refers to them. `read` gives
    /// a file by its volume and its path below that; `None` is a file that is not there.
    ///
    /// # Errors
    /// What is missing or cannot be read, in one sentence: the message of a `CreateContainerConfigError`.
    pub fn with_env_files(
        &self,
        container: &ResolvedContainer,
        mut read: impl FnMut(&str, &str) -> Option<Vec<u8>>,
    ) -> Result<ResolvedContainer, String> {
        let from_file = |var: &EnvVar| matches!(var.origin, Origin::File { .. });
        if !container.env.iter().any(from_file) {
            return Ok(container.clone());
        }
        let mut done = container.clone();
        done.env.retain(|var| !from_file(var));
        for var in container.env.iter().filter(|var| from_file(var)) {
            let Origin::File { volume, path, key, optional } = &var.origin else { continue };
            let value = match read(volume, path) {
                Some(bytes) => variable(&bytes, key)
                    .map_err(|why| format!("file {path:?} of volume {volume:?}: {why}"))?,
                None if *optional => None,
                None => return Err(format!("file {path:?} not found in volume {volume:?}")),
            };
            match value {
                // It may be anything; the pod wrote it itself, so it is no secret of the cluster's.
                Some(text) => done.env.push(EnvVar { value: Value::plain(text), ..var.clone() }),
                None if *optional => {}
                None => return Err(format!("key {key:?} not found in file {path:?} of volume {volume:?}")),
            }
        }
        self.expand_again(&mut done);
        Ok(done)
    }

    /// Expands what is written in the pod once more, with the variables that have come to be known.
    fn expand_again(&self, container: &mut ResolvedContainer) {
        let written = self.container_spec(&container.name);
        let texts = |list: Option<&Vec<String>>| list.cloned().unwrap_or_default();
        let variables: &[EnvVarSpec] = written.and_then(|c| c.env.as_deref()).unwrap_or_default();
        for variable in variables {
            let Some(text) = variable.value.as_deref().filter(|text| text.contains("$(")) else { continue };
            let known: HashMap<_, _> =
                container.env.iter().map(|var| (var.name.as_str(), &var.value)).collect();
            let Ok(value) =
                expand(text, BUDGET, |name| known.get(name).copied().filter(|_| name != variable.name))
            else {
                continue;
            };
            if let Some(own) = container.env.iter_mut().find(|var| var.name == variable.name)
                && own.origin == Origin::Literal
            {
                own.value = value;
            }
        }
        let known: HashMap<_, _> = container.env.iter().map(|var| (var.name.as_str(), &var.value)).collect();
        let line = |words: Vec<String>| {
            let words = words.iter().map(|word| expand(word, BUDGET, |name| known.get(name).copied()).ok());
            words.collect::<Option<Vec<_>>>()
        };
        let command = line(texts(written.and_then(|c| c.command.as_ref())));
        let args = line(texts(written.and_then(|c| c.args.as_ref())));
        if let (Some(command), Some(args)) = (command, args) {
            (container.command, container.args) = (command, args);
        }
    }
}

/// The variable's value in the file.
fn variable(file: &[u8], wanted: &str) -> Result<Option<String>, String> {
    if file.len() > LONGEST {
        return Err(format!("it is longer than {} KiB", LONGEST >> 10));
    }
    let text = std::str::from_utf8(file).map_err(|_| "it is not UTF-8 text".to_owned())?;
    let mut rest = text;
    let line_of = |rest: &str| text[..text.len() - rest.len()].matches('\n').count() + 1;
    loop {
        rest = rest.trim_start();
        if rest.is_empty() {
            return Ok(None);
        }
        if rest.starts_with('#') {
            rest = rest.split_once('\n').map_or("", |(_, next)| next);
            continue;
        }
        let wrong = || format!("line {} is not of the form NAME='value'", line_of(rest));
        let (name, value) = rest.split_once('=').ok_or_else(wrong)?;
        let (value, next) = value.strip_prefix('\'').and_then(|v| v.split_once('\'')).ok_or_else(wrong)?;
        let (tail, next) = next.split_once('\n').unwrap_or((next, ""));
        if name.is_empty() || name.contains(char::is_whitespace) || !tail.trim().is_empty() {
            return Err(wrong());
        }
        if name == wanted {
            return Ok(Some(value.to_owned()));
        }
        rest = next;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_read_from_lines_in_single_quotes() {
        let file = b"# a comment\n\nA='one'\n  B='two words'\nC='over\nlines'\nE=''";
        for (name, expected) in [
            ("A", Some("one")),
            ("B", Some("two words")),
            ("C", Some("over\nlines")),
            ("E", Some("")),
            ("Z", None),
        ] {
            assert_eq!(variable(file, name), Ok(expected.map(str::to_owned)), "{name}");
        }
    }

    #[test]
    fn what_is_no_such_file_says_where_it_goes_wrong() {
        for (file, why) in [
            (&b"A=one"[..], "line 1"),
            (b"A='one'\nB=\"two\"", "line 2"),
            (b"A='one' x", "line 1"),
            (b"A='one", "line 1"),
            (b"\xff", "UTF-8"),
        ] {
            let answer = variable(file, "Z");
            assert!(answer.as_ref().is_err_and(|text| text.contains(why)), "{answer:?}");
        }
    }
}
