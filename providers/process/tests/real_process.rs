//! Containers that run. Root, namespaces and busybox are needed: `cargo xtask test real` has them.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::AsyncReadExt;
use vk_core::containers::{BackendEvent, ContainerBackend, ContainerRun, ContainerSpec, RunExit, RunState};
use vk_core::provider::{
    ContainerKind, ExecIo, ExitStatus, File, LogOptions, ResolvedMount, ResolvedPod, ResolvedVolume, Result,
    Value as Text, VolumeContent,
};
use vk_process::{ImageConfig, Network, ProcessBackend, ProcessConfig, busybox_folder, find_busybox};

struct Bed {
    backend: Arc<ProcessBackend>,
    pod: ResolvedPod,
    events: BoxStream<'static, Result<BackendEvent>>,
    _folder: TempDir,
}

impl Bed {
    /// A backend with one pod of this specification, in its sandbox.
    async fn with(spec: Value, volumes: Vec<ResolvedVolume>) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let image = folder.path().join("image");
        let busybox = find_busybox().expect("busybox on the PATH (Debian: busybox-static)");
        busybox_folder(&image, &busybox, &[]).expect("an image");
        let image =
            ImageConfig { folder: image, env: vec!["PATH=/bin".to_owned()], ..ImageConfig::default() };
        let config = ProcessConfig {
            not_for_production: true,
            folder: folder.path().join("state"),
            program: Path::new(env!("CARGO_BIN_EXE_vk-process-helper")).to_owned(),
            images: [("busybox:1".to_owned(), image)].into(),
            ..ProcessConfig::default()
        };
        let network = Network::new("vk-test", "10.90.0.0/24").expect("a range");
        let backend = Arc::new(ProcessBackend::new(config, Arc::new(network)).expect("a backend"));
        let mut spec = spec;
        spec["containers"] = json!([]);
        let uid = format!("uid-{}", fastrand_free());
        let object = json!({"metadata": {"name": "pod", "namespace": "ns", "uid": uid}, "spec": spec});
        let object: Pod = serde_json::from_value(object).expect("a pod");
        let mut pod = ResolvedPod::literal(object).expect("a pod with an identity");
        pod.volumes = volumes;
        let events = Arc::clone(&backend).watch();
        backend.create_sandbox(&pod).await.expect("a sandbox");
        Self { backend, pod, events, _folder: folder }
    }

    async fn new() -> Self {
        Self::with(json!({}), Vec::new()).await
    }

    fn spec(&self, name: &str, script: &str) -> ContainerSpec {
        let run = ContainerRun::new(self.pod.pod.container(name), 0);
        let mut spec = ContainerSpec::new(run, ContainerKind::App, "busybox:1");
        spec.command = ["sh", "-c", script].map(Text::plain).into();
        spec
    }

    async fn start(&self, spec: &ContainerSpec) -> Result<()> {
        self.backend.create_container(spec).await?;
        self.backend.start_container(&spec.run).await
    }

    /// Waits for a run's end.
    async fn end(&mut self, name: &str) -> RunExit {
        while let Some(event) = self.events.next().await {
            if let BackendEvent::Run(record) = event.expect("the watch goes on")
                && record.run.name() == name
                && let RunState::Exited(exit) = record.state
            {
                return exit;
            }
        }
        panic!("the watch ended");
    }

    async fn run(&mut self, name: &str, script: &str) -> (RunExit, String) {
        self.start(&self.spec(name, script)).await.expect("it starts");
        let exit = self.end(name).await;
        (exit, self.log(name).await)
    }

    async fn log(&self, name: &str) -> String {
        let container = self.pod.pod.container(name);
        let options = LogOptions { follow: true, ..LogOptions::default() };
        let logs = self.backend.logs().expect("logs").container_logs(&container, &options).await;
        let lines: Vec<Bytes> = logs.expect("a log").map(|entry| entry.expect("a line").line).collect().await;
        String::from_utf8(lines.concat()).expect("text")
    }

    async fn exec(&self, name: &str, command: &[&str]) -> (ExitStatus, String) {
        let (ours, theirs) = tokio::io::duplex(1 << 16);
        let io = ExecIo::Pipes { stdin: None, stdout: Some(Box::new(theirs)), stderr: None };
        let command: Vec<String> = command.iter().map(|&word| word.to_owned()).collect();
        let container = self.pod.pod.container(name);
        let status =
            self.backend.exec().expect("exec").exec(&container, &command, io).await.expect("it runs");
        let mut text = String::new();
        let mut ours = ours;
        ours.read_to_string(&mut text).await.expect("text");
        (status, text)
    }

    async fn remove(self) {
        self.backend.remove_sandbox(&self.pod.pod).await.expect("removed");
        assert!(self.backend.list().await.expect("a listing").is_empty());
    }
}

/// A number that no other test of this process has.
fn fastrand_free() -> u32 {
    static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed)
}

#[tokio::test]
async fn a_container_has_its_output_exit_code_and_last_words() {
    let mut bed = Bed::new().await;
    let (exit, log) =
        bed.run("a", "echo out; echo err >&2; echo $$; echo bye > /dev/termination-log; exit 7").await;
    assert_eq!(exit.status, ExitStatus::Code(7));
    assert_eq!(&exit.message[..], b"bye\n");
    let mut lines: Vec<&str> = log.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["1", "err", "out"], "it is process 1");
    bed.remove().await;
}

#[tokio::test]
async fn a_container_is_in_its_pods_network_and_named_after_it() {
    let mut bed = Bed::new().await;
    let (_, log) =
        bed.run("a", "hostname; ip -o -4 addr show eth0 | awk '{print $4}'; cat /etc/hosts | tail -1").await;
    let address = bed.backend.list().await.unwrap()[0].ips[0];
    assert_eq!(log, format!("pod\n{address}/24\n{address}\tpod\n"));
    bed.remove().await;
}

#[tokio::test]
async fn what_cannot_be_started_says_why() {
    let mut bed = Bed::new().await;
    let mut spec = bed.spec("a", "");
    spec.command = vec![Text::plain("nosuch")];
    let error = bed.start(&spec).await.expect_err("no such command").to_string();
    assert!(error.ends_with("exec: \"nosuch\": executable file not found in $PATH"), "{error}");
    assert_eq!(bed.end("a").await.status, ExitStatus::Code(128));
    bed.remove().await;
}

#[tokio::test]
async fn a_stopped_container_may_end_by_itself_and_is_killed_if_it_does_not() {
    let mut bed = Bed::new().await;
    let polite = bed.spec("polite", "trap 'echo stopping; exit 3' TERM; echo up; sleep 600 & wait");
    let deaf = bed.spec("deaf", "echo up; while true; do sleep 1; done");
    for spec in [&polite, &deaf] {
        bed.start(spec).await.expect("it starts");
    }
    // Both have said that they are up, or the trap may not be set yet.
    let (status, _) =
        bed.exec("polite", &["sh", "-c", "until [ -n \"$(pidof sleep)\" ]; do sleep 0.1; done"]).await;
    assert_eq!(status, ExitStatus::Code(0));
    bed.backend.stop_container(&polite.run, Duration::from_mins(1)).await.unwrap();
    assert_eq!(bed.end("polite").await.status, ExitStatus::Code(3));
    bed.backend.stop_container(&deaf.run, Duration::from_secs(1)).await.unwrap();
    assert_eq!(bed.end("deaf").await.status, ExitStatus::Code(137), "process 1 has no default for SIGTERM");
    assert_eq!(bed.log("polite").await, "up\nstopping\n");
    bed.remove().await;
}

#[tokio::test]
async fn commands_run_beside_the_main_process() {
    let bed = Bed::new().await;
    bed.start(&bed.spec("a", "touch /tmp/here; sleep 600")).await.expect("it starts");
    let (status, text) =
        bed.exec("a", &["sh", "-c", "until ls /tmp/here; do sleep 0.1; done 2>/dev/null; exit 5"]).await;
    assert_eq!((status, text.as_str()), (ExitStatus::Code(5), "/tmp/here\n"));
    assert_eq!(bed.exec("a", &["nosuch"]).await.0, ExitStatus::Code(127));
    bed.remove().await;
}

#[tokio::test]
async fn volumes_are_shared_and_files_are_replaced() {
    let file = |text: &'static str| File {
        path: "k".into(),
        mode: 0o644,
        content: Bytes::from_static(text.as_bytes()),
        secret: true,
    };
    let content = |text| ResolvedVolume::new("files", VolumeContent::Files(vec![file(text)]));
    let empty = ResolvedVolume::new("empty", VolumeContent::EmptyDir(vk_core::provider::EmptyDir::default()));
    let spec = json!({"volumes": [{"name": "files", "secret": {"secretName": "s"}}, {"name": "empty", "emptyDir": {}}]});
    let mut bed = Bed::with(spec, vec![content("old"), empty]).await;
    let mounts = vec![ResolvedMount::new("files", "/files"), ResolvedMount::new("empty", "/empty")];
    let mut first = bed.spec(
        "a",
        "cat /files/k > /empty/copy; touch /files/x || until grep new /files/k; do sleep 0.1; done",
    );
    first.mounts = mounts.clone();
    bed.start(&first).await.expect("it starts");
    bed.backend.publish_files(&bed.pod.pod, &[content("new")]).await.expect("published");
    assert_eq!(bed.end("a").await.status, ExitStatus::Code(0));
    let mut second = bed.spec("b", "cat /empty/copy");
    second.mounts = mounts;
    bed.start(&second).await.expect("it starts");
    bed.end("b").await;
    let copied = bed.log("b").await;
    assert!(copied == "old" || copied == "new", "{copied}");
    let read = bed.backend.read_volume_file(&bed.pod.pod, "empty", "copy", 99).await.unwrap();
    assert_eq!(read.as_deref(), Some(copied.as_bytes()));
    bed.remove().await;
}

#[tokio::test]
async fn a_container_that_takes_too_much_memory_is_killed_for_it() {
    let mut bed = Bed::new().await;
    let mut spec = bed.spec("a", "tail /dev/zero");
    let quantity = k8s_openapi::apimachinery::pkg::api::resource::Quantity("16Mi".to_owned());
    spec.resources.limits = Some([("memory".to_owned(), quantity)].into());
    bed.start(&spec).await.expect("it starts");
    let exit = bed.end("a").await;
    assert_eq!((exit.status, exit.oom_killed), (ExitStatus::Code(137), true));
    bed.remove().await;
}

#[tokio::test]
async fn a_terminal_is_the_containers_own() {
    let mut bed = Bed::new().await;
    let mut spec = bed.spec("a", "tty; echo hello");
    spec.tty = true;
    spec.stdin = true;
    bed.start(&spec).await.expect("it starts");
    bed.end("a").await;
    assert_eq!(bed.log("a").await, "/dev/pts/0\nhello\n");
    bed.remove().await;
}
