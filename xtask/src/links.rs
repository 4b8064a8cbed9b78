//! Relative links in the Markdown files lead to files that exist.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// Folders that hold no prose of ours.
const PASSED_OVER: [&str; 4] = ["target", "node_modules", ".git", ".cache"];

/// Every broken link below a folder, as `FILE: TARGET`.
pub(crate) fn broken(root: &Path) -> Result<Vec<String>> {
    let mut found = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        let entries = fs::read_dir(&folder).with_context(|| format!("reading {}", folder.display()))?;
        for entry in entries {
            let path = entry.with_context(|| format!("reading {}", folder.display()))?.path();
            let name = path.file_name().unwrap_or_default();
            if path.is_dir() && !path.is_symlink() {
                if !PASSED_OVER.iter().any(|passed| name == *passed) {
                    folders.push(path);
                }
            } else if path.extension().is_some_and(|extension| extension == "md") {
                let text =
                    fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
                let shown = path.strip_prefix(root).unwrap_or(&path).display();
                found.extend(broken_in(&text, &path).into_iter().map(|target| format!("{shown}: {target}")));
            }
        }
    }
    found.sort();
    Ok(found)
}

fn broken_in(text: &str, file: &Path) -> Vec<String> {
    let folder = file.parent().unwrap_or(Path::new("."));
    targets(text).into_iter().filter(|target| !exists(target, folder)).collect()
}

fn exists(target: &str, folder: &Path) -> bool {
    let path = target.split(['#', '?']).next().unwrap_or_default();
    // An anchor of the same file.
    path.is_empty() || PathBuf::from(folder).join(path).exists()
}

/// Targets of inline links and images that are neither URLs nor absolute, outside code.
fn targets(text: &str) -> Vec<String> {
    let mut targets = Vec::new();
    let mut fenced = false;
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        }
        if fenced {
            continue;
        }
        // Code spans: every other piece between backticks.
        let prose: String = line.split('`').step_by(2).collect::<Vec<_>>().join("`");
        let mut rest = prose.as_str();
        while let Some(at) = rest.find("](") {
            rest = &rest[at + 2..];
            let Some(end) = rest.find(')') else { break };
            let target = rest[..end].split_ascii_whitespace().next().unwrap_or_default();
            if !target.is_empty()
                && !target.contains("://")
                && !target.starts_with(['/', '<'])
                && !target.starts_with("mailto:")
            {
                targets.push(target.to_owned());
            }
            rest = &rest[end..];
        }
    }
    targets
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_in_prose_are_found_and_those_in_code_are_not() {
        let text = "See [a](a.md#x) and ![b](img/b.png \"title\"), `[c](c.md)`.\n```\n[d](d.md)\n```\n[e](https://e) [f](#f)";
        assert_eq!(targets(text), ["a.md#x", "img/b.png", "#f"]);
    }

    #[test]
    fn a_link_to_a_missing_file_is_broken() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        fs::create_dir(folder.path().join("docs")).expect("a folder");
        fs::write(folder.path().join("README.md"), "[good](docs/a.md#part) [bad](docs/b.md)")
            .expect("a file");
        fs::write(folder.path().join("docs/a.md"), "[up](../README.md) [here](#part) [bad](../none)")
            .expect("a file");
        let broken = broken(folder.path()).expect("readable");
        assert_eq!(broken, ["README.md: docs/b.md", "docs/a.md: ../none"]);
    }
}
