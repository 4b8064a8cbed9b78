//! `control-plane`: hands over to the `control-plane` binary of `tests/control-plane`.

use std::ffi::{OsStr, OsString};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};

use crate::{cache, cargo, tools};

/// Becomes `control-plane ARGUMENTS`.
pub(crate) fn run(arguments: &[OsString]) -> Result<ExitCode> {
    let tool = Tool::build()?;
    if matches!(arguments.first().and_then(|verb| verb.to_str()), Some("up" | "run")) {
        // Its own check says it better if this can't be done here.
        let _ = tools::ensure_command("ip", "iproute2");
    }
    Err(Command::new(&tool.0).args(arguments).exec())
        .with_context(|| format!("starting {}", tool.0.display()))
}

/// The built binary.
#[derive(Debug, Clone)]
pub(crate) struct Tool(PathBuf);

impl Tool {
    /// Builds it.
    pub(crate) fn build() -> Result<Self> {
        cargo::binary("the control plane's tool", "vk-control-plane", "control-plane", &[]).map(Self)
    }

    /// Why no control plane can run on this machine, if so.
    pub(crate) fn obstacle(&self) -> Result<Option<String>> {
        if let Err(error) = tools::ensure_command("ip", "iproute2") {
            return Ok(Some(format!("{error:#}")));
        }
        let output =
            Command::new(&self.0).arg("check").output().context("starting the control plane's tool")?;
        if output.status.success() {
            return Ok(None);
        }
        Ok(Some(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
    }

    /// A verb on this clone's own instance of a name, without its arguments.
    pub(crate) fn verb(&self, verb: &str, instance: &str) -> Command {
        let mut command = Command::new(&self.0);
        command.args([verb, "--instance", instance]);
        command
    }

    /// Takes an instance down and brings it up anew, with nothing left of what was in it.
    pub(crate) fn fresh(&self, instance: &str, arguments: &[&str]) -> Result<()> {
        self.down(instance)?;
        let status = self
            .verb("up", instance)
            .args(arguments)
            .status()
            .context("starting the control plane's tool")?;
        if !status.success() {
            bail!("the control plane did not come up");
        }
        Ok(())
    }

    /// Takes an instance down.
    pub(crate) fn down(&self, instance: &str) -> Result<()> {
        let status = self.verb("down", instance).status().context("starting the control plane's tool")?;
        if !status.success() {
            bail!("the control plane ({instance}) could not be taken down");
        }
        Ok(())
    }

    /// A command inside an instance's namespace.
    pub(crate) fn inside(&self, instance: &str, program: impl AsRef<OsStr>) -> Command {
        let mut command = self.verb("run", instance);
        command.arg("--").arg(program);
        command
    }

    /// Builds a part that is no component of the plane; its folder.
    pub(crate) fn part(&self, part: &str) -> Result<PathBuf> {
        self.folder(&["--part", part])
    }

    /// Builds what is run of a version of Kubernetes; its folder.
    pub(crate) fn kubernetes(&self, version: &str) -> Result<PathBuf> {
        self.folder(&["--version", version])
    }

    /// Builds what `control-plane build` is told to; the folder of the last of it.
    fn folder(&self, what: &[&str]) -> Result<PathBuf> {
        let output = Command::new(&self.0)
            .arg("build")
            .args(what)
            .stderr(std::process::Stdio::inherit())
            .output()
            .context("starting the control plane's tool")?;
        let text = String::from_utf8(output.stdout).context("reading the tool's answer")?;
        if !output.status.success() {
            bail!("{} could not be built", what.join(" "));
        }
        Ok(PathBuf::from(text.lines().last().unwrap_or_default()))
    }
}

/// The name of this clone's instance for a purpose.
pub(crate) fn instance(purpose: &str) -> String {
    format!("{purpose}-{}", cache::name_of(&cargo::root()))
}
