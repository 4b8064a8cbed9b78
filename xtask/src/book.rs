//! `book`: the documentation in `docs/`, checked and built.
//!
//! mdbook builds what it can and says nothing of the rest: a chapter that is in no table of contents, or an include of
//! a file or an anchor that is not there, leaves a hole. So those are looked for here, in a moment and without mdbook.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, bail};

use crate::{cargo, tools};

/// Checks and builds.
pub(crate) fn run() -> Result<ExitCode> {
    let root = cargo::root();
    let faults = faults(&root.join("docs"))?;
    if !faults.is_empty() {
        bail!("{}", faults.join("; "));
    }
    let status = command(&root)?.status().context("starting mdbook")?;
    if !status.success() {
        bail!("mdbook could not build the book ({status})");
    }
    eprintln!("the book is in {}", root.join("target/book/index.html").display());
    Ok(ExitCode::SUCCESS)
}

/// mdbook at work on the book of that workspace.
pub(crate) fn command(root: &Path) -> Result<Command> {
    let mut command = Command::new(tools::mdbook()?);
    command.arg("build").arg(root.join("docs")).arg("--dest-dir").arg(root.join("target/book"));
    command.stdin(Stdio::null());
    Ok(command)
}

/// What mdbook would pass over: chapters missing on either side, and includes of what is not there.
pub(crate) fn faults(docs: &Path) -> Result<Vec<String>> {
    let read = |path: &Path| fs::read_to_string(path).with_context(|| format!("reading {}", path.display()));
    let listed: BTreeSet<String> = chapters(&read(&docs.join("SUMMARY.md"))?);
    let mut there = BTreeSet::new();
    let mut faults = Vec::new();
    for entry in fs::read_dir(docs).with_context(|| format!("reading {}", docs.display()))? {
        let path = entry.with_context(|| format!("reading {}", docs.display()))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.extension().is_none_or(|extension| extension != "md") || name == "SUMMARY.md" {
            continue;
        }
        faults.extend(bad_includes(&read(&path)?, docs).into_iter().map(|why| format!("docs/{name}: {why}")));
        there.insert(name);
    }
    faults.extend(there.difference(&listed).map(|name| format!("docs/SUMMARY.md does not list {name}")));
    faults.extend(
        listed.difference(&there).map(|name| format!("docs/SUMMARY.md lists {name}, which is not there")),
    );
    Ok(faults)
}

/// The files that a table of contents names.
fn chapters(summary: &str) -> BTreeSet<String> {
    let targets = summary.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    targets.map(str::to_owned).collect()
}

/// What is wrong with the includes of a chapter.
fn bad_includes(chapter: &str, docs: &Path) -> Vec<String> {
    let mut faults = Vec::new();
    for piece in chapter.split("{{#include ").skip(1) {
        let target = piece.split("}}").next().unwrap_or_default().trim();
        let (file, anchor) =
            target.split_once(':').map_or((target, None), |(file, anchor)| (file, Some(anchor)));
        let Ok(text) = fs::read_to_string(docs.join(file)) else {
            faults.push(format!("it includes {file}, which is not there"));
            continue;
        };
        let has = |mark: &str, anchor: &str| {
            text.lines().any(|line| line.split_once(mark).is_some_and(|(_, name)| name.trim() == anchor))
        };
        if let Some(anchor) = anchor.filter(|anchor| !(has("ANCHOR:", anchor) && has("ANCHOR_END:", anchor)))
        {
            faults.push(format!("it includes {anchor} of {file}, which has no such anchor"));
        }
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_mdbook_would_pass_over_is_a_fault() {
        let folder = tempfile::tempdir().expect("a folder");
        let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).expect("a file");
        write("SUMMARY.md", "- [A](a.md)\n- [Gone](gone.md)\n");
        write("a.md", "{{#include code.rs:part}} {{#include code.rs:other}} {{#include none.rs}}");
        write("b.md", "");
        write("code.rs", "// ANCHOR: part\n// ANCHOR_END: part\n");
        let found = faults(folder.path()).expect("readable");
        assert_eq!(
            found,
            [
                "docs/a.md: it includes other of code.rs, which has no such anchor",
                "docs/a.md: it includes none.rs, which is not there",
                "docs/SUMMARY.md does not list b.md",
                "docs/SUMMARY.md lists gone.md, which is not there",
            ]
        );
    }

    #[test]
    fn the_books_own_chapters_are_whole() {
        assert_eq!(faults(&cargo::root().join("docs")).expect("readable"), [""; 0]);
    }
}
