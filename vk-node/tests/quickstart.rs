//! The README's first command, as a process.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;

/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_mins(2);

fn quickstart(home: &tempfile::TempDir, words: &[&str]) -> Child {
    Command::new(env!("CARGO_BIN_EXE_vk-node"))
        .arg("quickstart")
        .args(words)
        // kubectl keeps its caches at home.
        .env("HOME", home.path())
        .env("TMPDIR", home.path())
        // Neither is to be used: the quickstart has a cluster of its own.
        .env("KUBECONFIG", "/nowhere/kubeconfig")
        .env("VK_PROVIDER", "nothing")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("the daemon starts")
}

#[tokio::test]
async fn check_tries_everything_and_passes() {
    let home = tempfile::tempdir().unwrap();
    let output =
        timeout(PATIENCE, quickstart(&home, &["--check"]).wait_with_output()).await.unwrap().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}");
    let steps = [
        "is Ready",
        "is Running on virtual-1",
        "| hello, world",
        "3 pods are Running",
        "pods are new and Running",
        "no pods are left",
    ];
    for step in steps {
        assert!(text.contains(step), "{step:?} is missing in:\n{text}");
    }
    let last = text.lines().last().unwrap_or_default();
    assert!(last.starts_with("quickstart passed ("), "{last}");
}

#[tokio::test]
async fn it_goes_on_until_it_is_interrupted_and_leaves_nothing_behind() {
    let home = tempfile::tempdir().unwrap();
    let mut child = quickstart(&home, &[]);
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let kubeconfig = timeout(PATIENCE, async {
        while let Some(line) = lines.next_line().await.unwrap() {
            if let Some(path) = line.trim().strip_prefix("export KUBECONFIG=") {
                return PathBuf::from(path);
            }
        }
        panic!("the quickstart ended without an invitation");
    })
    .await
    .expect("the quickstart gets there");
    assert!(kubeconfig.exists());

    let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).expect("it runs");
    kill(Pid::from_raw(pid), Signal::SIGINT).unwrap();
    let rest = tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    let status = timeout(PATIENCE, child.wait()).await.expect("it ends").unwrap();
    rest.await.unwrap();
    assert_eq!(status.code(), Some(0));
    let left: Vec<_> = std::fs::read_dir(home.path()).unwrap().filter_map(Result::ok).collect();
    let left: Vec<_> = left.into_iter().filter(|entry| entry.file_name() != ".kube").collect();
    assert!(left.is_empty(), "{left:?}");
}
