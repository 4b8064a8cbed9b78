//! Logs and usage figures.

use std::time::Duration;

use futures::StreamExt;
use vk_core::provider::{
    EnvVar, Error, LogEntry, LogOptions, LogOutput, LogSelection, LogStart, Origin, PodRef, Provider,
    ResolvedContainer, Value,
};

use crate::support::{Bench, GRACE, epoch, pod, seconds};

async fn read(bench: &Bench, pod: &PodRef, options: LogOptions) -> Vec<LogEntry> {
    let logs = bench.provider.logs().expect("the mock has logs");
    let stream = logs.container_logs(&pod.container("a"), &options).await.expect("the container has a log");
    stream.map(|entry| entry.expect("no failure")).collect().await
}

fn lines(entries: &[LogEntry]) -> Vec<String> {
    entries
        .iter()
        .map(|entry| {
            let second = entry.time.duration_since(epoch()).as_secs_f64();
            format!("{second:.1} {}", String::from_utf8_lossy(&entry.line).trim_end())
        })
        .collect()
}

fn all() -> LogOptions {
    LogOptions::default()
}

#[tokio::test(start_paused = true)]
async fn every_container_says_something_and_hello_world_greets() {
    let bench = Bench::new().await;
    let web = bench.create(&pod("web", "u1", &[])).await;
    assert_eq!(lines(&read(&bench, &web, all()).await), ["0.0 mock: container a of default/web started"]);
    let image = serde_json::json!([{"name": "a", "image": "registry.test:5000/hello-world:1"}]);
    let hello = bench.create(&pod("hello", "u2", &[]).spec("containers", image)).await;
    assert_eq!(lines(&read(&bench, &hello, all()).await)[1], "0.0 Hello from Virtual Kubelet!");
}

#[tokio::test(start_paused = true)]
async fn the_command_line_and_the_number_of_variables_are_told_but_no_secret() {
    let bench = Bench::new().await;
    let mut web = pod("web", "u1", &[]).build();
    let variable = |name: &str, value| EnvVar { name: name.into(), value, origin: Origin::Literal };
    let env = vec![variable("USER", Value::plain("app")), variable("PASSWORD", Value::secret("hunter2"))];
    let args = vec![Value::plain("--password"), Value::secret("hunter2")];
    let kind = web.containers[0].kind;
    web.containers = vec![ResolvedContainer::new("a", kind, "web:1", vec![Value::plain("serve")], args, env)];
    bench.provider.create_pod(&web).await.unwrap();
    let said = lines(&read(&bench, &web.pod, all()).await);
    assert_eq!(
        said[1..],
        ["0.0 mock: command serve --password [redacted]", "0.0 mock: 2 environment variables"]
    );
}

#[tokio::test(start_paused = true)]
async fn lines_come_at_their_rate_and_the_end_is_told() {
    let bench = Bench::new().await;
    let script = [("log", "one\ntwo"), ("log-rate", "2"), ("run-duration", "1500ms"), ("exit-code", "3")];
    let job = bench.create(&pod("job", "u1", &script).restart("Never")).await;
    tokio::time::sleep(seconds(1.2)).await;
    let expected = ["0.0 one", "0.0 two", "0.5 mock: container a line 1", "1.0 mock: container a line 2"];
    assert_eq!(lines(&read(&bench, &job, all()).await), expected);
    tokio::time::sleep(seconds(60.0)).await;
    let whole = lines(&read(&bench, &job, all()).await);
    assert_eq!(whole[..4], expected);
    assert_eq!(whole[4..], ["1.5 mock: container a line 3", "1.5 mock: container a exited with code 3"]);
}

#[tokio::test(start_paused = true)]
async fn start_and_tail_select_as_they_would_in_a_stored_log() {
    let bench = Bench::new().await;
    let script = [("log", "one\ntwo\nthree"), ("log-rate", "3"), ("run-duration", "10s")];
    let job = bench.create(&pod("job", "u1", &script).restart("Never")).await;
    for passed in [5.0, 5.0, 5.0] {
        tokio::time::sleep(seconds(passed)).await;
        let whole = read(&bench, &job, all()).await;
        let starts = [
            None,
            Some(LogStart::At(epoch())),
            Some(LogStart::At(epoch() + jiff::SignedDuration::from_millis(2500))),
            Some(LogStart::At(epoch() + jiff::SignedDuration::from_hours(1))),
            Some(LogStart::Ago(seconds(2.0))),
            Some(LogStart::Ago(Duration::MAX)),
        ];
        for start in starts {
            for tail in [None, Some(0), Some(1), Some(4), Some(1000), Some(u64::MAX)] {
                let options = LogOptions { start, tail, ..all() };
                let mut selection = LogSelection::new(&options, bench.now());
                whole.iter().cloned().for_each(|entry| selection.push(entry));
                assert_eq!(read(&bench, &job, options).await, selection.into_entries(), "{start:?} {tail:?}");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_followed_log_goes_on_until_the_container_ends() {
    let bench = Bench::new().await;
    let script = [("log", "one"), ("log-rate", "1"), ("run-duration", "3500ms")];
    let job = bench.create(&pod("job", "u1", &script).restart("Never")).await;
    let followed = read(&bench, &job, LogOptions { follow: true, tail: Some(0), ..all() }).await;
    let expected = [
        "1.0 mock: container a line 1",
        "2.0 mock: container a line 2",
        "3.0 mock: container a line 3",
        "3.5 mock: container a exited with code 0",
    ];
    assert_eq!(lines(&followed), expected);
}

#[tokio::test(start_paused = true)]
async fn following_ends_when_the_pod_is_deleted_vanishes_or_restarts() {
    #[derive(Clone, Copy, Debug)]
    enum End {
        Vanish,
        Restart,
        Delete,
    }
    let bench = Bench::new().await;
    for end in [End::Vanish, End::Restart, End::Delete] {
        let web = bench.create(&pod("web", &format!("{end:?}"), &[("log-rate", "1")])).await;
        let ending = async {
            tokio::time::sleep(seconds(2.5)).await;
            match end {
                End::Vanish => assert!(bench.backend.vanish(&web.uid)),
                End::Restart => assert!(bench.backend.exit(&web.uid, "a", 1)),
                End::Delete => bench.provider.delete_pod(&web, GRACE).await.unwrap(),
            }
        };
        let follow = LogOptions { follow: true, ..all() };
        let both = async { tokio::join!(read(&bench, &web, follow), ending).0 };
        let read = tokio::time::timeout(seconds(60.0), both).await;
        let read = read.unwrap_or_else(|_| panic!("{end:?}: the stream goes on for ever"));
        assert!(read.len() >= 3, "{end:?}: {:?}", lines(&read));
    }
}

#[tokio::test(start_paused = true)]
async fn a_silent_log_is_followed_without_a_timer_until_something_happens() {
    let bench = Bench::new().await;
    let web = bench.create(&pod("web", "u1", &[])).await;
    let logs = bench.provider.logs().unwrap();
    let mut stream =
        logs.container_logs(&web.container("a"), &LogOptions { follow: true, ..all() }).await.unwrap();
    assert!(stream.next().await.is_some());
    assert!(tokio::time::timeout(Duration::from_hours(100), stream.next()).await.is_err());
    assert!(bench.backend.exit(&web.uid, "a", 2));
    let last = stream.next().await.unwrap().unwrap();
    assert_eq!(last.line, "mock: container a exited with code 2\n");
    assert!(stream.next().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn the_previous_run_has_a_log_of_its_own() {
    let bench = Bench::new().await;
    let script = [("run-duration", "1s"), ("exit-code", "1,0")];
    let job = bench.create(&pod("job", "u1", &script).restart("OnFailure")).await;
    let previous = LogOptions { previous: true, follow: true, ..all() };
    let logs = bench.provider.logs().unwrap();
    let none = logs.container_logs(&job.container("a"), &previous).await;
    assert!(matches!(none, Err(Error::NotFound { .. })));
    tokio::time::sleep(seconds(1.5)).await;
    let said = lines(&read(&bench, &job, previous).await);
    assert_eq!(
        said,
        ["0.0 mock: container a of default/job started", "1.0 mock: container a exited with code 1"]
    );
    assert_eq!(lines(&read(&bench, &job, all()).await), ["1.0 mock: container a of default/job started"]);
}

#[tokio::test(start_paused = true)]
async fn unknown_pods_containers_and_what_has_not_started_have_no_log() {
    let bench = Bench::new().await;
    let web = bench.create(&pod("web", "u1", &[("start-latency", "9s")])).await;
    let logs = bench.provider.logs().unwrap();
    let other = PodRef::new("default", "web", "other");
    for container in [web.container("a"), web.container("b"), other.container("a")] {
        let answer = logs.container_logs(&container, &all()).await;
        assert!(matches!(answer, Err(Error::NotFound { .. })), "{container}");
    }
}

#[tokio::test(start_paused = true)]
async fn lines_are_filled_up_and_some_go_to_standard_error() {
    let bench = Bench::new().await;
    let script = [("log-rate", "1"), ("log-line-bytes", "100"), ("log-stderr-every", "3")];
    let web = bench.create(&pod("web", "u1", &script)).await;
    tokio::time::sleep(seconds(9.0)).await;
    let entries = read(&bench, &web, all()).await;
    assert!(entries.iter().all(|entry| entry.line.len() == 100 && entry.line.ends_with(b"\n")));
    let errors = entries.iter().filter(|entry| entry.output == LogOutput::Stderr).count();
    assert_eq!((entries.len(), errors), (10, 3));
}

#[tokio::test(start_paused = true)]
async fn the_last_lines_of_an_endless_log_come_without_reading_it_through() {
    let bench = Bench::new().await;
    let web = bench.create(&pod("web", "u1", &[("log-rate", "1000000")])).await;
    tokio::time::sleep(Duration::from_hours(24 * 365)).await;
    let last = read(&bench, &web, LogOptions { tail: Some(2), ..all() }).await;
    assert_eq!(last[1].line, "mock: container a line 31536000000000\n");
    assert_eq!(last.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn usage_is_never_zero_never_goes_back_and_follows_the_script() {
    let bench = Bench::new().await;
    bench.create(&pod("web", "u1", &[("cpu-usage", "250m"), ("memory-usage", "64Mi")])).await;
    let gone = bench.create(&pod("web", "u2", &[])).await;
    bench.create(&pod("job", "u3", &[("run-duration", "10s"), ("exit-code", "1")])).await;
    bench.create(&pod("late", "u4", &[("start-latency", "10h")])).await;
    let stats = bench.provider.stats().expect("the mock measures");
    let node_nanos = async || {
        let node = stats.usage().await.unwrap().node.expect("the node is measured");
        node.cpu.unwrap().usage_core_nano_seconds.unwrap()
    };
    let mut before = node_nanos().await;
    assert!(before > 0);
    for step in 0..20 {
        tokio::time::sleep(seconds(15.0)).await;
        if step == 3 {
            bench.provider.delete_pod(&gone, GRACE).await.unwrap();
        }
        let now = node_nanos().await;
        assert!(now > before, "step {step}: {now} after {before}");
        before = now;
    }
    let usage = stats.usage().await.unwrap();
    let web = usage.pods.iter().find(|pod| pod.pod.uid.as_str() == "u1").unwrap();
    let (cpu, memory) = (web.containers[0].cpu.unwrap(), web.containers[0].memory.unwrap());
    assert_eq!(cpu.usage_nano_cores, Some(250_000_000));
    assert_eq!(cpu.usage_core_nano_seconds, Some(300 * 250_000_000 + 20_000_000));
    assert_eq!(memory.working_set_bytes, Some(64 << 20));
    assert!(usage.pods.iter().all(|pod| pod.pod.uid.as_str() != "u4"), "what does not run uses nothing");
}
