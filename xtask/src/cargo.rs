//! Calling cargo, and finding what it built.

use std::env;
use std::ffi::OsString;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// The workspace's root.
pub(crate) fn root() -> PathBuf {
    // Set by `cargo run`; the compiled-in value would name another clone where a target folder is shared.
    let manifest =
        env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| OsString::from(env!("CARGO_MANIFEST_DIR")));
    let manifest = PathBuf::from(manifest);
    manifest.parent().map_or_else(|| manifest.clone(), Path::to_owned)
}

/// A cargo command in the workspace's root, with the cargo that runs us.
pub(crate) fn command() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo")));
    command.current_dir(root());
    command
}

/// Something cargo built that can be run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Executable {
    /// The target's name.
    pub name: String,
    /// `bin`, `test`, …
    pub kind: String,
    /// The file.
    pub path: PathBuf,
    /// The folder of its package: where cargo runs tests.
    pub package: PathBuf,
}

/// Runs `cargo ARGUMENTS` and returns what it built; cargo's own progress goes to stderr. `None` when the build
/// failed: cargo has said why.
pub(crate) fn build(arguments: &[&str]) -> Result<Option<Vec<Executable>>> {
    let (verb, rest) = arguments.split_first().context("a cargo command has a name")?;
    let mut child = command()
        .arg(verb)
        .arg("--message-format=json-render-diagnostics")
        .args(rest)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("starting cargo")?;
    let stdout = child.stdout.take().context("cargo's output was not piped")?;
    let mut built = Vec::new();
    for line in BufReader::new(stdout).lines() {
        let line = line.context("reading cargo's messages")?;
        built.extend(parse(&line)?);
    }
    let status = child.wait().context("waiting for cargo")?;
    Ok(status.success().then_some(built))
}

/// Builds a package's binary and returns its path. `what` is said first: a first build takes minutes.
pub(crate) fn binary(what: &str, package: &str, name: &str, more: &[&str]) -> Result<PathBuf> {
    eprintln!("building {what} (cargo build --package {package})");
    let mut arguments = vec!["build", "--package", package, "--bin", name];
    arguments.extend(more);
    let Some(built) = build(&arguments)? else { bail!("{package} does not build") };
    let found = built.into_iter().find(|executable| executable.kind == "bin" && executable.name == name);
    Ok(found.with_context(|| format!("cargo built no binary {name}"))?.path)
}

/// The executable a message of cargo's tells of, if it does.
fn parse(line: &str) -> Result<Option<Executable>> {
    // Whatever is not JSON is the output of a build script or a wrapper.
    if !line.starts_with('{') {
        return Ok(None);
    }
    let message: Value = serde_json::from_str(line).context("reading a message of cargo's")?;
    let text = |pointer: &str| message.pointer(pointer).and_then(Value::as_str);
    let (Some("compiler-artifact"), Some(path)) = (text("/reason"), text("/executable")) else {
        return Ok(None);
    };
    let (Some(name), Some(kind), Some(manifest)) =
        (text("/target/name"), text("/target/kind/0"), text("/manifest_path"))
    else {
        bail!("cargo told of an executable without its target: {line}");
    };
    let package = Path::new(manifest).parent().unwrap_or(Path::new("/"));
    Ok(Some(Executable {
        name: name.to_owned(),
        kind: kind.to_owned(),
        path: PathBuf::from(path),
        package: package.to_owned(),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_executable_is_read_from_cargos_message() {
        let line = r#"{"reason":"compiler-artifact","package_id":"x","manifest_path":"/w/tests/scenarios/Cargo.toml","target":{"kind":["test"],"crate_types":["bin"],"name":"real_pods","src_path":"/w/x.rs"},"executable":"/t/debug/deps/real_pods-1f","fresh":true}"#;
        let executable = parse(line).expect("a message").expect("an executable");
        assert_eq!(executable.name, "real_pods");
        assert_eq!(executable.kind, "test");
        assert_eq!(executable.path, Path::new("/t/debug/deps/real_pods-1f"));
        assert_eq!(executable.package, Path::new("/w/tests/scenarios"));
    }

    #[test]
    fn other_messages_tell_of_none() {
        for line in [
            "",
            "Compiling",
            r#"{"reason":"build-finished","success":true}"#,
            r#"{"reason":"compiler-artifact","target":{"kind":["lib"],"name":"a"},"executable":null}"#,
        ] {
            assert_eq!(parse(line).expect(line), None, "{line}");
        }
        assert!(parse("{").is_err());
    }
}
