//! Building the pinned modules, once each.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::cache::Cache;
use crate::go;
use crate::module::{Module, Pin};
use crate::wait::{Stopwatch, pause};

/// How often a running build says where it is.
const REPORT: Duration = Duration::from_secs(5);

/// How many of a failed build's last lines its error shows.
const LAST_LINES: usize = 30;

/// The folder with a module's binaries; builds them if this pin was never built.
///
/// The folder appears whole, by a rename: an interrupted build leaves nothing that looks finished. Two processes
/// that want the same pin build it once; the second waits for the first. A cold build of Kubernetes takes about
/// 12 minutes on two cores, etcd 80 seconds, and needs Go's module proxy; progress goes to stderr.
pub fn ensure(cache: &Cache, module: Module) -> Result<PathBuf> {
    let pin = module.pin();
    let folder = cache.components().join(pin.folder());
    if is_complete(&folder, &pin) {
        return Ok(folder);
    }
    fs::create_dir_all(cache.components())
        .with_context(|| format!("making the cache folder {}", cache.components().display()))?;
    let lock_path = beside(&folder, "lock");
    let lock = File::create(&lock_path).with_context(|| format!("making {}", lock_path.display()))?;
    if lock.try_lock().is_err() {
        eprintln!("  another process is building {} {}: waiting for it", pin.name, pin.version);
        lock.lock().with_context(|| format!("locking {}", lock_path.display()))?;
    }
    if !is_complete(&folder, &pin) {
        build(cache, &pin, &folder)?;
    }
    Ok(folder)
}

/// Whether a pin was built already.
#[must_use]
pub fn is_built(cache: &Cache, module: Module) -> bool {
    let pin = module.pin();
    is_complete(&cache.components().join(pin.folder()), &pin)
}

fn is_complete(folder: &Path, pin: &Pin) -> bool {
    let binaries = pin.binaries.iter().map(|(name, _)| name);
    let resources = pin.resources.iter().map(|(name, _)| name);
    binaries.chain(resources).all(|name| folder.join(name).is_file())
}

fn beside(folder: &Path, suffix: &str) -> PathBuf {
    let mut name = folder.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    PathBuf::from(name)
}

fn build(cache: &Cache, pin: &Pin, folder: &Path) -> Result<()> {
    let go = go::find(cache)?;
    let work = beside(folder, "work");
    let (source, out) = (work.join("source"), work.join("out"));
    if work.exists() {
        fs::remove_dir_all(&work).with_context(|| format!("clearing {}", work.display()))?;
    }
    fs::create_dir_all(&source).with_context(|| format!("making {}", source.display()))?;
    fs::create_dir_all(&out).with_context(|| format!("making {}", out.display()))?;
    for (name, content) in pin.files {
        fs::write(source.join(name), content)
            .with_context(|| format!("writing {name} in {}", source.display()))?;
    }
    let started = Stopwatch::start();
    eprintln!("building {} {} from Go modules (once; kept in {})", pin.name, pin.version, folder.display());
    let mut command = Command::new(&go);
    command.args(["build", "-v", "-ldflags", &pin.ldflags(), "-o"]);
    if let [(name, _)] = pin.binaries {
        command.arg(out.join(name));
    } else {
        // All at once, so that one links while another compiles; each is then named after its package.
        command.arg(out.join(""));
    }
    command
        .args(pin.binaries.iter().map(|(_, package)| package))
        .current_dir(&source)
        .env("GOFLAGS", "-mod=readonly -buildvcs=false")
        .env("GOWORK", "off")
        // One file that runs anywhere, also where there is no C library.
        .env("CGO_ENABLED", "0")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let child = command.spawn().with_context(|| format!("starting {}", go.display()))?;
    follow(child, &format!("{} {}", pin.name, pin.version), started, &beside(folder, "log"))?;
    copy_resources(&go, pin, &source, &out)?;
    if !is_complete(&out, pin) {
        bail!("go build of {} {} left a file out: see {}", pin.name, pin.version, out.display());
    }
    if folder.exists() {
        fs::remove_dir_all(folder).with_context(|| format!("clearing {}", folder.display()))?;
    }
    fs::rename(&out, folder).with_context(|| format!("moving the build to {}", folder.display()))?;
    fs::remove_dir_all(&work).with_context(|| format!("clearing {}", work.display()))?;
    eprintln!("built {} {} in {} s", pin.name, pin.version, started.elapsed().as_secs());
    Ok(())
}

/// Puts the files that a binary wants beside it there, out of the module's folder in Go's cache.
fn copy_resources(go: &Path, pin: &Pin, source: &Path, out: &Path) -> Result<()> {
    let (Some((_, package)), false) = (pin.binaries.first(), pin.resources.is_empty()) else { return Ok(()) };
    let listed = Command::new(go)
        .args(["list", "-f", "{{.Module.Dir}}", package])
        .current_dir(source)
        .env("GOFLAGS", "-mod=readonly -buildvcs=false")
        .env("GOWORK", "off")
        .output()
        .with_context(|| format!("starting {}", go.display()))?;
    if !listed.status.success() {
        bail!("go list {package} failed: {}", String::from_utf8_lossy(&listed.stderr).trim());
    }
    let module = PathBuf::from(String::from_utf8_lossy(&listed.stdout).trim());
    for (name, path) in pin.resources {
        // Read and written, not copied: in Go's cache everything is read-only.
        let content = fs::read(module.join(path)).with_context(|| format!("reading {path} of {package}"))?;
        fs::write(out.join(name), content).with_context(|| format!("writing {name} beside {package}"))?;
    }
    Ok(())
}

/// What a running build has said so far.
#[derive(Default)]
struct Output {
    lines: usize,
    last: VecDeque<String>,
}

/// Waits for a build, telling every few seconds how far it is; on failure the error ends with its last lines.
fn follow(mut child: Child, what: &str, started: Stopwatch, log: &Path) -> Result<()> {
    let output = Arc::new(Mutex::new(Output::default()));
    let stderr = child.stderr.take().context("a build's output was not piped")?;
    let mut log_file = File::create(log).with_context(|| format!("making {}", log.display()))?;
    let reader = thread::spawn({
        let output = Arc::clone(&output);
        move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                // The log is a courtesy to whoever looks at a failure; the build itself doesn't need it.
                let _ = writeln!(log_file, "{line}");
                let mut output = output.lock().unwrap_or_else(PoisonError::into_inner);
                output.lines += 1;
                if output.last.len() == LAST_LINES {
                    output.last.pop_front();
                }
                output.last.push_back(line);
            }
        }
    });
    let mut next = started.elapsed() + REPORT;
    let status = loop {
        if let Some(status) = child.try_wait().context("waiting for go build")? {
            break status;
        }
        let spent = started.elapsed();
        if spent >= next {
            next = spent + REPORT;
            let output = output.lock().unwrap_or_else(PoisonError::into_inner);
            let now = output.last.back().map_or("looking what is in Go's cache", String::as_str);
            eprintln!("  {what}: {} s, {} packages, now {now}", spent.as_secs(), output.lines);
        }
        pause();
    };
    // The reader ends with the pipe; it can't have panicked on anything but memory.
    let _ = reader.join();
    if !status.success() {
        let output = output.lock().unwrap_or_else(PoisonError::into_inner);
        let last = output.last.iter().map(String::as_str).collect::<Vec<_>>().join("\n  ");
        bail!("go build of {what} failed ({status}); the whole output is in {}\n  {last}", log.display());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_without_every_file_is_not_a_build() {
        for pin in [Module::Kubernetes(crate::Version::V1_37).pin(), Module::Kwok.pin()] {
            let folder = tempfile::tempdir().expect("a temporary folder");
            for (name, _) in pin.binaries.iter().chain(pin.resources) {
                assert!(!is_complete(folder.path(), &pin), "complete before {name}");
                fs::write(folder.path().join(name), "").expect("a file");
            }
            assert!(is_complete(folder.path(), &pin));
        }
    }

    #[test]
    fn a_failed_build_shows_the_last_lines_it_wrote() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let child = Command::new("sh")
            .args(["-c", "for i in $(seq 100); do echo line $i >&2; done; exit 3"])
            .stderr(Stdio::piped())
            .spawn()
            .expect("a shell");
        let error = follow(child, "it", Stopwatch::start(), &folder.path().join("log")).expect_err("exit 3");
        let text = error.to_string();
        assert!(text.contains("go build of it failed") && text.ends_with("line 100"), "{text}");
        assert!(text.contains("line 71") && !text.contains("line 70\n"), "{text}");
    }
}
