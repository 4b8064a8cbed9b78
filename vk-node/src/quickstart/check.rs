//! `--check`: what the README invites to, unattended.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

use super::demo::Demo;
use crate::fault::one_line;

/// How long one call of kubectl may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// Logs, scale, restart and deletion; by kubectl too where there is one.
pub(crate) async fn run(demo: &Demo<'_>, kubeconfig: &Path) -> Result<(), String> {
    demo.follow_log().await?;
    demo.scale(3).await?;
    demo.restart().await?;
    demo.scale(1).await?;
    by_kubectl(demo, kubeconfig).await?;
    demo.delete().await
}

/// The commands of the README, by kubectl itself, each with what its answer has to contain.
async fn by_kubectl(demo: &Demo<'_>, kubeconfig: &Path) -> Result<(), String> {
    let node = demo.node();
    let commands: [(&[&str], &[&str]); 9] = [
        (&["get", "nodes,pods", "-o", "wide"], &[node, "Ready", "hello-world-", "Running"]),
        (&["describe", "node", node], &["type=virtual-kubelet", "hello-world-"]),
        (&["describe", "pod", "-l", "app=hello-world"], &["Node-Selectors", "Running"]),
        (&["logs", "deployment/hello-world"], &["hello, world"]),
        (&["scale", "deployment/hello-world", "--replicas=2"], &["scaled"]),
        (&["rollout", "restart", "deployment/hello-world"], &["restarted"]),
        (&["rollout", "status", "deployment/hello-world", "--timeout=20s"], &["successfully rolled out"]),
        // Comes back when the pods are gone.
        (&["delete", "pod", "-l", "app=hello-world", "--timeout=20s"], &["deleted"]),
        (
            &["wait", "deployment/hello-world", "--for=condition=Available", "--timeout=20s"],
            &["condition met"],
        ),
    ];
    for (words, expected) in commands {
        let line = format!("kubectl {}", words.join(" "));
        let Some(answer) = kubectl(kubeconfig, words).await.map_err(|error| format!("{line}: {error}"))?
        else {
            demo.progress().step("there is no kubectl on this machine; its commands are NOT checked");
            return Ok(());
        };
        if let Some(missing) = expected.iter().find(|part| !answer.contains(**part)) {
            return Err(format!("{line}: its answer lacks {missing:?}: {}", one_line(&answer)));
        }
        demo.progress().step(&line);
    }
    demo.pods_are_running(2).await.map(|_| ())
}

/// What kubectl answers; `None` where there is none.
async fn kubectl(kubeconfig: &Path, words: &[&str]) -> Result<Option<String>, String> {
    let call = Command::new("kubectl")
        .arg("--kubeconfig")
        .arg(kubeconfig)
        .args(words)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    match tokio::time::timeout(PATIENCE, call).await {
        Ok(Ok(output)) if output.status.success() => {
            Ok(Some(String::from_utf8_lossy(&output.stdout).into_owned()))
        }
        Ok(Ok(output)) => {
            Err(format!("{}: {}", output.status, one_line(&String::from_utf8_lossy(&output.stderr))))
        }
        Ok(Err(error)) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no end within {PATIENCE:?}")),
    }
}
