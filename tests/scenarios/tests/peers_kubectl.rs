//! kubectl against the quickstart: what the README promises a newcomer, typed by the real tool.
//!
//! Run by `cargo xtask test peers`, which names the daemon in `VK_NODE_BIN` and kubectl in `VK_KUBECTL`.

use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// How long any one command may take to show what it should.
const PATIENCE: Duration = Duration::from_secs(30);

/// A running quickstart. Dropping it ends the process.
struct Quickstart {
    process: Child,
    folder: tempfile::TempDir,
}

impl Drop for Quickstart {
    fn drop(&mut self) {
        // It may have ended already; then there is nothing to kill.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn named(variable: &str) -> PathBuf {
    std::env::var_os(variable)
        .unwrap_or_else(|| panic!("{variable} is not set; run `cargo xtask test peers`"))
        .into()
}

#[expect(clippy::disallowed_methods, reason = "processes are waited for in real time")]
fn now() -> Instant {
    Instant::now()
}

#[expect(clippy::disallowed_methods, reason = "no runtime here; a poll between looks at another process")]
fn pause() {
    std::thread::sleep(Duration::from_millis(100));
}

impl Quickstart {
    /// Starts one and waits until hello-world runs.
    fn start() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut process = Command::new(named("VK_NODE_BIN"))
            .arg("quickstart")
            .arg("--kubeconfig")
            .arg(folder.path().join("kubeconfig"))
            // Ours; to the daemon everything that begins so is a setting.
            .env_remove("VK_NODE_BIN")
            .env_remove("VK_KUBECTL")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .expect("the daemon starts");
        let stdout = process.stdout.take().expect("it is piped");
        let quickstart = Self { process, folder };
        // Keep the pipe empty, whatever it prints.
        std::thread::spawn(move || BufReader::new(stdout).lines().for_each(drop));
        quickstart
            .until(&["get", "deployment", "hello-world", "-o", "jsonpath={.status.readyReplicas}"], "1");
        quickstart
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(named("VK_KUBECTL"));
        command
            .arg("--kubeconfig")
            .arg(self.folder.path().join("kubeconfig"))
            .arg("--cache-dir")
            .arg(self.folder.path().join("cache"))
            .args(arguments)
            .stdin(Stdio::null());
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("kubectl runs")
    }

    /// Runs a command that must succeed, and returns what it printed.
    #[track_caller]
    fn kubectl(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        assert!(output.status.success(), "kubectl {}: {}\n{out}{err}", arguments.join(" "), output.status);
        out
    }

    /// Repeats a command until it prints exactly this.
    #[track_caller]
    fn until(&self, arguments: &[&str], wanted: &str) {
        let deadline = now() + PATIENCE;
        loop {
            let output = self.run(arguments);
            let out = text(&output.stdout);
            if output.status.success() && out.trim() == wanted {
                return;
            }
            let line = arguments.join(" ");
            assert!(now() < deadline, "kubectl {line}: {out:?}, not {wanted:?}\n{}", text(&output.stderr));
            pause();
        }
    }

    fn pod_names(&self) -> Vec<String> {
        let out = self.kubectl(&["get", "pods", "-l", "app=hello-world", "-o", "name"]);
        out.lines().map(str::to_owned).collect()
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn get_shows_nodes_and_pods_with_the_columns_people_know() {
    let cluster = Quickstart::start();
    let nodes = cluster.kubectl(&["get", "nodes", "-o", "wide"]);
    let header: Vec<_> = nodes.lines().next().expect("a header").split_whitespace().collect();
    for column in ["NAME", "STATUS", "ROLES", "AGE", "VERSION", "INTERNAL-IP"] {
        assert!(header.contains(&column), "{nodes}");
    }
    let node = nodes.lines().nth(1).expect("a node");
    assert!(node.contains(" Ready ") && node.contains("agent"), "{nodes}");

    let pods = cluster.kubectl(&["get", "pods", "-o", "wide"]);
    let pod: Vec<_> = pods.lines().nth(1).expect("a pod").split_whitespace().collect();
    assert_eq!(pod[1..3], ["1/1", "Running"], "{pods}");
}

#[test]
fn describe_shows_a_pods_conditions_and_its_events() {
    let cluster = Quickstart::start();
    let pod = cluster.pod_names().pop().expect("a pod");
    let deadline = now() + PATIENCE;
    loop {
        let described = cluster.kubectl(&["describe", &pod]);
        let told = ["Scheduled", "Started", "ContainersReady", "State:          Running"];
        if told.iter().all(|word| described.contains(word)) {
            break;
        }
        assert!(now() < deadline, "{described}");
        pause();
    }
    let node = cluster.kubectl(&["describe", "nodes"]);
    assert!(node.contains("virtual-kubelet.io/provider=mock:NoSchedule"), "{node}");
    assert!(node.contains("hello-world-"), "the node's pods are listed: {node}");
}

#[test]
fn logs_follow_until_the_pod_is_deleted() {
    let cluster = Quickstart::start();
    let pod = cluster.pod_names().pop().expect("a pod");
    assert!(cluster.kubectl(&["logs", &pod]).contains("hello, world"));
    assert_eq!(cluster.kubectl(&["logs", &pod, "--tail=0"]), "");

    let mut follow =
        cluster.command(&["logs", "-f", &pod]).stdout(Stdio::piped()).spawn().expect("kubectl runs");
    let mut log = BufReader::new(follow.stdout.take().expect("it is piped"));
    let mut first = String::new();
    log.read_line(&mut first).expect("a first line");
    assert!(!first.is_empty());
    cluster.kubectl(&["delete", &pod]);
    let mut rest = String::new();
    // The end of the log is the test: a follow that never ends hangs here until the harness's own limit.
    log.read_to_string(&mut rest).expect("the rest of the log");
    assert!(follow.wait().expect("it ends").success());
}

#[test]
fn a_deployment_is_scaled_restarted_and_deleted() {
    let cluster = Quickstart::start();
    let ready = ["get", "deployment", "hello-world", "-o", "jsonpath={.status.readyReplicas}"];
    cluster.kubectl(&["scale", "deployment/hello-world", "--replicas=5"]);
    cluster.until(&ready, "5");

    let before = cluster.pod_names();
    cluster.kubectl(&["rollout", "restart", "deployment/hello-world"]);
    cluster.kubectl(&["rollout", "status", "deployment/hello-world", "--timeout=30s"]);
    cluster.until(&ready, "5");
    let old_are_gone = now() + PATIENCE;
    while cluster.pod_names().iter().any(|pod| before.contains(pod)) {
        assert!(now() < old_are_gone, "pods of before the restart: {:?}", cluster.pod_names());
        pause();
    }

    cluster.kubectl(&["delete", "deployment/hello-world"]);
    cluster.until(&["get", "pods", "-o", "name"], "");
}

#[test]
fn what_a_backend_lacks_is_an_error_that_says_so() {
    let cluster = Quickstart::start();
    let pod = cluster.pod_names().pop().expect("a pod");
    let output = cluster.run(&["exec", &pod, "--", "nosuch"]);
    assert!(!output.status.success());
    assert!(text(&output.stderr).contains("executable file not found"), "{}", text(&output.stderr));
    let output = cluster.run(&["logs", &pod, "-c", "nobody"]);
    assert!(!output.status.success());
    assert!(text(&output.stderr).contains("nobody"), "{}", text(&output.stderr));
}
