//! `cargo xtask public-api [--update]`: `vk-core/public-api.txt` is the library's public API, item by item.
//!
//! A change of the API shows as a change of that file, so that nothing becomes public, or stops being so, by
//! accident. One rule is checked besides: the provider-facing half ([`FACING_PROVIDERS`]) names no crate but those that
//! a provider's author needs anyway ([`KNOWN_TO_PROVIDERS`]); no HTTP, TLS or Kubernetes client library.
//!
//! rustdoc writes its JSON for a nightly compiler only, or for one that is told to pass for it. That is said to rustdoc
//! alone, through this program as its wrapper: said to cargo, it would have every dependency built a second time.

#![expect(clippy::print_stdout, reason = "a command line tool: its results go to stdout")]

mod listing;

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, bail};

use self::listing::{compare, foreign};

/// Modules that somebody writes a provider against.
const FACING_PROVIDERS: [&str; 2] = ["vk_core::provider", "vk_core::containers"];

/// Crates whose types may appear there, beside the standard library's.
const KNOWN_TO_PROVIDERS: [&str; 6] = ["vk_core", "k8s_openapi", "jiff", "bytes", "tokio", "futures_core"];

/// Names the program to run in our place, when cargo calls us as rustdoc.
const RUSTDOC: &str = "VK_PUBLIC_API_RUSTDOC";

fn main() -> ExitCode {
    let result = match env::var_os(RUSTDOC) {
        Some(rustdoc) => be_rustdoc(Path::new(&rustdoc)),
        None => run(),
    };
    result.unwrap_or_else(|error| {
        eprintln!("public-api: {error:#}");
        ExitCode::FAILURE
    })
}

/// Runs rustdoc with what it was called with, as one that knows unstable options.
fn be_rustdoc(rustdoc: &Path) -> Result<ExitCode> {
    let mut command = Command::new(rustdoc);
    command.args(env::args_os().skip(1)).env("RUSTC_BOOTSTRAP", "1").env_remove(RUSTDOC);
    let status = command.status().context("starting rustdoc")?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn run() -> Result<ExitCode> {
    let update = match env::args().skip(1).collect::<Vec<_>>().as_slice() {
        [] => false,
        [flag] if flag == "--update" => true,
        other => bail!("unknown arguments {other:?}: give none, or --update"),
    };
    let root = root();
    let items = items(&root)?;
    let text: String = items.iter().flat_map(|item| [item.as_str(), "\n"]).collect();
    let file = root.join("vk-core/public-api.txt");
    let mut faults: Vec<String> = foreign(&items, &FACING_PROVIDERS, &KNOWN_TO_PROVIDERS)
        .into_iter()
        .map(|(name, item)| format!("the provider-facing API names the crate {name}: {item}"))
        .collect();
    if update {
        fs::write(&file, text).with_context(|| format!("writing {}", file.display()))?;
        println!("public-api: {} items written to vk-core/public-api.txt", items.len());
    } else {
        let kept = fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))?;
        let kept: Vec<String> = kept.lines().map(str::to_owned).collect();
        let changes = compare(&kept, &items);
        if !changes.is_empty() {
            for change in &changes {
                println!("{change}");
            }
            faults.push(
                "vk-core's public API is not what vk-core/public-api.txt says: if the change is meant, run \
                 `cargo xtask public-api --update` and say it in CHANGELOG.md"
                    .to_owned(),
            );
        }
    }
    if faults.is_empty() {
        println!("public-api: {} items, as they should be", items.len());
        return Ok(ExitCode::SUCCESS);
    }
    for fault in &faults {
        eprintln!("public-api: {fault}");
    }
    Ok(ExitCode::FAILURE)
}

/// The library's public items, one a line, sorted.
fn items(root: &Path) -> Result<Vec<String>> {
    let json = target_folder(root)?.join("doc/vk_core.json");
    let rustdoc = env::var_os("RUSTDOC").unwrap_or_else(|| "rustdoc".into());
    let status = cargo(root)
        .args(["doc", "--package", "vk-core", "--no-deps", "--lib"])
        .env("RUSTDOC", env::current_exe().context("finding this program")?)
        .env(RUSTDOC, rustdoc)
        .env("RUSTDOCFLAGS", "-Z unstable-options --output-format json")
        .status()
        .context("starting cargo")?;
    if !status.success() {
        bail!("rustdoc could not describe vk-core ({status})");
    }
    let api = public_api::Builder::from_rustdoc_json(&json)
        .omit_blanket_impls(true)
        .omit_auto_trait_impls(true)
        .omit_auto_derived_impls(true)
        .include_function_parameter_names(true)
        .build()
        .with_context(|| {
            format!(
                "reading {}: this program reads what the rustdoc of Rust 1.95 writes; with another one, pin \
                 another release of the crate public-api in tests/public-api/Cargo.toml",
                json.display()
            )
        })?;
    Ok(api.items().map(ToString::to_string).collect())
}

fn cargo(root: &Path) -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root).stdin(Stdio::null());
    command
}

/// The workspace's root.
fn root() -> PathBuf {
    // Set by `cargo run`; the compiled-in value would name another clone where a target folder is shared.
    let manifest = env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    Path::new(&manifest).join("../..")
}

/// Where cargo puts what it makes.
fn target_folder(root: &Path) -> Result<PathBuf> {
    let mut metadata = cargo(root);
    metadata.args(["metadata", "--format-version=1", "--no-deps"]).stderr(Stdio::inherit());
    let output = metadata.output().context("starting cargo")?;
    let metadata: serde_json::Value =
        serde_json::from_slice(&output.stdout).context("reading cargo's metadata")?;
    let folder = metadata["target_directory"].as_str().context("cargo's metadata names no target folder")?;
    Ok(PathBuf::from(folder))
}
