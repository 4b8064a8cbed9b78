//! A contestant, and its running process.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::process::{Child, Command};

/// Who runs the pods.
#[derive(Clone, Debug)]
pub(crate) struct Contestant {
    /// Its name in the table.
    pub(crate) name: String,
    /// The command that starts it; `None` is nobody, the price of the control plane and the driver alone.
    command: Option<String>,
    /// It serves a node that somebody else makes.
    pub(crate) needs_node: bool,
}

/// The built-in contestants and those of the command line, ours first.
pub(crate) fn line_up(external: &[String], without: &[String]) -> Result<Vec<Contestant>> {
    let mut contestants = Vec::new();
    if let Ok(binary) = std::env::var("VK_NODE_BIN") {
        let command = format!(
            "{binary} --provider mock --nodename {{node}} --kubeconfig {{kubeconfig}} --node-ip {{address}} --log-level warn --capacity cpu=1k,memory=1Ti,pods=20k"
        );
        contestants.push(Contestant { name: "ours".into(), command: Some(command), needs_node: false });
    }
    contestants.push(Contestant { name: "none".into(), command: None, needs_node: true });
    if let Ok(folder) = std::env::var("VK_KWOK") {
        // Each stage file lies beside the binary; KWOK has none built in.
        let command = format!(
            "{folder}/kwok --kubeconfig {{kubeconfig}} --manage-single-node {{node}} --v ERROR \
             $(printf -- '--config %s ' {folder}/stage-*.yaml)"
        );
        contestants.push(Contestant { name: "kwok".into(), command: Some(command), needs_node: true });
    }
    for text in external {
        let Some((name, command)) = text.split_once('=') else {
            bail!("--contestant {text}: expected NAME=COMMAND");
        };
        contestants.push(Contestant {
            name: name.to_owned(),
            command: Some(command.to_owned()),
            needs_node: false,
        });
    }
    contestants.retain(|contestant| !without.contains(&contestant.name));
    if contestants.is_empty() {
        bail!("nobody is left to measure");
    }
    Ok(contestants)
}

/// A running agent. Dropping it kills the process.
#[derive(Debug)]
pub(crate) struct Agent(Option<Child>);

/// What a process has used so far.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Used {
    /// Processor time, user and system.
    pub(crate) cpu: Duration,
    /// Resident memory, in bytes.
    pub(crate) rss: u64,
}

impl Contestant {
    /// Whether there is an agent at all.
    pub(crate) fn runs_pods(&self) -> bool {
        self.command.is_some()
    }

    /// Starts it for a node.
    pub(crate) fn start(&self, node: &str) -> Result<Agent> {
        let Some(command) = &self.command else { return Ok(Agent(None)) };
        let kubeconfig = std::env::var("KUBECONFIG").context("KUBECONFIG is not set")?;
        let address = std::env::var("NODE_ADDRESS").unwrap_or_else(|_| "127.0.0.1".to_owned());
        let command = command
            .replace("{kubeconfig}", &kubeconfig)
            .replace("{node}", node)
            .replace("{address}", &address);
        let child = Command::new("sh")
            // `exec`: the process we measure is the agent, not a shell around it.
            .args(["-c", &format!("exec {command}")])
            // The driver's own; to the daemon everything that begins so is a setting.
            .env_remove("VK_NODE_BIN")
            .env_remove("VK_KWOK")
            .env_remove("VK_CONTROL_PLANE_DIR")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("starting {}: {command}", self.name))?;
        Ok(Agent(Some(child)))
    }
}

impl Agent {
    /// What it has used; nothing for nobody.
    pub(crate) fn used(&mut self) -> Result<Used> {
        let Some(child) = &mut self.0 else { return Ok(Used::default()) };
        if let Some(status) = child.try_wait()? {
            bail!("the agent has ended: {status}");
        }
        let pid = child.id().context("the agent has ended")?;
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        Ok(Used { cpu: cpu_of(&stat)?, rss: rss_of(&status)? })
    }

    /// Ends it and waits for that.
    pub(crate) async fn stop(mut self) -> Result<()> {
        if let Some(child) = &mut self.0 {
            child.kill().await.context("ending the agent")?;
        }
        Ok(())
    }
}

/// User and system time from `/proc/PID/stat`; fields 14 and 15, in ticks of 10 ms.
fn cpu_of(stat: &str) -> Result<Duration> {
    // The second field is the command in parentheses, and may hold anything.
    let rest = stat.rsplit_once(')').context("an unreadable /proc/PID/stat")?.1;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let ticks = |index: usize| -> Result<u64> {
        Ok(fields.get(index).context("an unreadable /proc/PID/stat")?.parse()?)
    };
    Ok(Duration::from_millis((ticks(11)? + ticks(12)?) * 10))
}

/// `VmRSS` from `/proc/PID/status`.
fn rss_of(status: &str) -> Result<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    let kibibytes: u64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kibibytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_is_read_behind_a_command_with_spaces_and_parentheses() {
        let stat = "42 (a (b) c) S 1 1 1 0 -1 0 1 2 3 4 120 30 0 0 20 0 1 0";
        assert_eq!(cpu_of(stat).expect("readable"), Duration::from_millis(1500));
    }

    #[test]
    fn resident_memory_is_in_bytes() {
        assert_eq!(rss_of("Name:\tx\nVmRSS:\t    2048 kB\n").expect("readable"), 2048 * 1024);
    }

    #[test]
    fn a_contestant_without_a_command_is_an_error_that_shows_it() {
        let error = line_up(&["go".to_owned()], &[]).expect_err("no command");
        assert_eq!(error.to_string(), "--contestant go: expected NAME=COMMAND");
    }
}
