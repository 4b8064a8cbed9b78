//! What "Write a provider" tells its reader to type, typed: a crate of its own, outside this workspace.
//!
//! Its main file is the example that the chapter shows, its manifest and its test are the chapter's listings; only the
//! path to this clone is put in.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use super::runner::{check, tests};
use crate::cargo;
use crate::tally::Tally;

/// Where the chapter says that the reader's clone of this project is.
const CLONE: &str = "../rust-virtual-kubelet";

/// Writes the crate, runs it and its tests.
pub(crate) fn run() -> Result<Tally> {
    let root = cargo::root();
    let krate = root.join("target/newcomer/my-provider");
    write(&root, &krate)?;
    let mut tally =
        check("the crate of \"Write a provider\" runs", &mut in_crate(&krate, &["run", "--quiet"]))?;
    tally.add(tests("the tests of \"Write a provider\"", &mut in_crate(&krate, &["test", "--quiet"]))?);
    Ok(tally)
}

/// Lays the crate out as the chapter says.
fn write(root: &Path, krate: &Path) -> Result<()> {
    let read = |path: &str| fs::read_to_string(root.join(path)).with_context(|| format!("reading {path}"));
    let manifest = read("docs/listings/Cargo.toml.txt")?;
    anyhow::ensure!(manifest.contains(CLONE), "docs/listings/Cargo.toml.txt names the clone as {CLONE}");
    let manifest = manifest.replace(CLONE, &root.display().to_string());
    // It is below this workspace's folder, to share what was compiled, and yet no member.
    let manifest = format!("{manifest}\n[workspace]\n");
    let main = format!("{}\n#[cfg(test)]\nmod tests;\n", read("vk-core/examples/hello_provider.rs")?);
    fs::create_dir_all(krate.join("src")).with_context(|| format!("creating {}", krate.display()))?;
    let files = [
        ("Cargo.toml", manifest),
        ("src/main.rs", main),
        ("src/tests.rs", read("docs/listings/tests.rs")?),
        // The versions that the rest is tested with.
        ("Cargo.lock", read("Cargo.lock")?),
    ];
    for (name, text) in files {
        let path = krate.join(name);
        // What has not changed keeps its time, and is not compiled again.
        if fs::read_to_string(&path).ok().as_ref() != Some(&text) {
            fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
        }
    }
    Ok(())
}

/// cargo in the crate, with this workspace's target folder and its profile, so that third-party crates are there already.
fn in_crate(krate: &Path, arguments: &[&str]) -> Command {
    let mut command = cargo::command();
    command.current_dir(krate).args(arguments).args([
        "--config",
        "profile.dev.debug=\"line-tables-only\"",
        "--config",
        "profile.dev.package.\"*\".debug=false",
    ]);
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| cargo::root().join("target"), Into::into);
    command.env("CARGO_TARGET_DIR", target);
    command
}
