//! What the README promises of exec, attach and port-forward, asked of the provider itself.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::sync::mpsc;
use vk_core::clock::Clock;
use vk_core::provider::{
    ContainerAttach as _, ContainerExec as _, ContainerRef, ContainerState, ExecIo, ExitStatus, PodRef,
    PodUpdate as _, PortForward as _, ResolvedPod, TerminalSize,
};

use crate::{MockBackend, MockConfig, MockProvider};

/// A provider with a pod `web`, whose container `a` declares port 80.
fn provider() -> (MockProvider, ContainerRef) {
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {"namespace": "default", "name": "web", "uid": "u1"},
        "spec": {"containers": [{
            "name": "a", "image": "web:1", "ports": [{"containerPort": 80}], "env": [{"name": "COLOUR", "value": "blue"}],
        }]},
    }))
    .unwrap();
    let pod = ResolvedPod::literal(pod).unwrap();
    let clock = Clock::virtual_from("2026-11-23T10:00:00Z".parse().unwrap());
    let backend = MockBackend::new(MockConfig::default(), clock).unwrap();
    backend.create(&pod).unwrap();
    (MockProvider::new(backend, "node-1"), pod.pod.container("a"))
}

/// Runs a command to its end.
async fn run(
    provider: &MockProvider,
    container: &ContainerRef,
    command: &[&str],
    input: &[u8],
) -> (i32, String, String) {
    let (mut to_stdin, stdin) = tokio::io::duplex(1 << 20);
    let (stdout, mut from_stdout) = tokio::io::duplex(1 << 20);
    let (stderr, mut from_stderr) = tokio::io::duplex(1 << 20);
    to_stdin.write_all(input).await.unwrap();
    drop(to_stdin);
    let io = ExecIo::Pipes {
        stdin: Some(Box::new(stdin)),
        stdout: Some(Box::new(stdout)),
        stderr: Some(Box::new(stderr)),
    };
    let command: Vec<String> = command.iter().map(|word| (*word).to_owned()).collect();
    let status = provider.exec(container, &command, io).await.unwrap();
    let (mut out, mut err) = (Vec::new(), Vec::new());
    from_stdout.read_to_end(&mut out).await.unwrap();
    from_stderr.read_to_end(&mut err).await.unwrap();
    let ExitStatus::Code(code) = status else { panic!("a command has an exit code") };
    (code, String::from_utf8_lossy(&out).into_owned(), String::from_utf8_lossy(&err).into_owned())
}

#[tokio::test(start_paused = true)]
async fn commands_have_their_output_and_their_exit_code() {
    let (provider, a) = provider();
    for (command, input, code, out, err) in [
        (&["echo", "hello", "world"][..], "", 0, "hello world\n", ""),
        (&["cat"], "abc", 0, "abc", ""),
        (&["sh", "-c", "echo out; echo err >&2; exit 7"], "", 7, "out\n", "err\n"),
        (&["sh", "-c", "nosuch"], "", 127, "", "sh: nosuch: not found\n"),
        (&["sh", "-c", "false && echo no || echo $COLOUR $?"], "", 0, "blue 0\n", ""),
        (&["sh"], "echo one\nexit 3\necho two\n", 3, "one\n", ""),
        (
            &["sh", "-c", "sh -c 'exit 5'; echo $?; cat | cat"],
            "",
            2,
            "",
            "sh: syntax error: '|' is not understood here\n",
        ),
        (&["cat", "/nosuch"], "", 1, "", "cat: /nosuch: No such file or directory\n"),
        (&["stty", "size"], "", 1, "", "stty: standard input: not a tty\n"),
        (&["wc", "-c"], "12345", 0, "5\n", ""),
        (&["/bin/true"], "", 0, "", ""),
    ] {
        let ran = run(&provider, &a, command, input.as_bytes()).await;
        assert_eq!(ran, (code, out.to_owned(), err.to_owned()), "{command:?}");
    }
    let (_, env, _) = run(&provider, &a, &["env"], b"").await;
    assert!(env.contains("COLOUR=blue\n") && env.contains("HOSTNAME=web\n"), "{env}");
    let (_, bytes, _) = run(&provider, &a, &["bytes", "300"], b"").await;
    assert!(bytes.len() > 300, "300 bytes, some of which are no text");
}

#[tokio::test(start_paused = true)]
async fn a_program_that_is_not_there_is_an_error_of_the_exec() {
    let (provider, a) = provider();
    let io = || ExecIo::Pipes { stdin: None, stdout: None, stderr: None };
    let error = provider.exec(&a, &["nosuch".to_owned()], io()).await.unwrap_err();
    assert_eq!(error.to_string(), "exec: \"nosuch\": executable file not found in $PATH");
    assert_eq!(provider.exec(&a, &[], io()).await.unwrap_err().to_string(), "args must not be empty");
    let other = a.pod.container("nobody");
    assert!(provider.exec(&other, &["true".to_owned()], io()).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_command_ends_with_its_container() {
    let (provider, a) = provider();
    let backend = provider.backend().clone();
    let pod = a.pod.clone();
    let sleep = tokio::spawn(async move { run(&provider, &a, &["sleep", "1000"], b"").await });
    // Paused time: it passes once the command waits, and not before.
    tokio::time::sleep(Duration::from_secs(1)).await;
    backend.delete(&pod, Duration::ZERO).unwrap();
    assert_eq!(sleep.await.unwrap().0, 137);
}

#[tokio::test(start_paused = true)]
async fn what_tar_takes_in_it_gives_out() {
    let (provider, a) = provider();
    let long = format!("folder/{}", "x".repeat(120));
    let (code, archive, _) = run(&provider, &a, &["tar", "cf", "-", "none"], b"").await;
    assert_eq!((code, archive.len()), (2, 1024));
    // Its own archive is what it reads: first made from files that came in.
    let files = provider.backend().0.files.of(&a);
    files.write("/in/a.txt", "hello".into()).unwrap();
    files.write(&format!("/in/{long}"), vec![7_u8; 70_000].into()).unwrap();
    let (code, archive, _) = run(&provider, &a, &["tar", "cf", "-", "/in"], b"").await;
    assert_eq!((code, archive.len() % 512), (0, 0));
    let ran = run(&provider, &a, &["tar", "-xmf", "-", "-C", "/tmp"], archive.as_bytes()).await;
    assert_eq!(ran.0, 0, "{}", ran.2);
    assert_eq!(files.read("/tmp/in/a.txt").as_deref(), Some(&b"hello"[..]));
    assert_eq!(files.read(&format!("/tmp/in/{long}")).unwrap().len(), 70_000);
    let ran = run(&provider, &a, &["tar", "-xmf", "-"], &[1; 512]).await;
    assert_eq!((ran.0, ran.2.as_str()), (2, "tar: This does not look like a tar archive\n"));
    // Files go with their pod.
    drop(files);
    provider.backend().delete(&a.pod, Duration::ZERO).unwrap();
    // Paused time: the backend's own task has had its turn by then.
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(provider.backend().0.files.of(&a).list("/").is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_terminal_has_a_size_and_ends_lines_its_own_way() {
    let (provider, a) = provider();
    let (output, mut screen) = tokio::io::duplex(1 << 16);
    let (sizes, resize) = mpsc::channel(1);
    sizes.send(TerminalSize { width: 101, height: 33 }).await.unwrap();
    let io = ExecIo::Tty { stdin: None, output: Box::new(output), resize };
    let status = provider.exec(&a, &["stty".to_owned(), "size".to_owned()], io).await.unwrap();
    let mut seen = String::new();
    screen.read_to_string(&mut seen).await.unwrap();
    assert_eq!((status, seen.as_str()), (ExitStatus::Code(0), "33 101\r\n"));
}

#[tokio::test(start_paused = true)]
async fn an_attached_client_hears_its_own_words_until_the_container_ends() {
    let (provider, a) = provider();
    let (mut to_stdin, stdin) = tokio::io::duplex(1000);
    let (stdout, mut from_stdout) = tokio::io::duplex(1000);
    let io = ExecIo::Pipes { stdin: Some(Box::new(stdin)), stdout: Some(Box::new(stdout)), stderr: None };
    let (backend, pod) = (provider.backend().clone(), a.pod.clone());
    let attached = tokio::spawn(async move { provider.attach(&a, io).await });
    to_stdin.write_all(b"echo?\n").await.unwrap();
    let mut heard = [0; 6];
    from_stdout.read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"echo?\n");
    backend.delete(&pod, Duration::ZERO).unwrap();
    attached.await.unwrap().unwrap();
}

/// `kubectl debug -i web --image=busybox -- sh`
#[tokio::test(start_paused = true)]
async fn a_container_for_debugging_is_added_and_its_shell_runs_for_whoever_attaches() {
    let (provider, a) = provider();
    let spec = json!({
        "containers": [{"name": "a", "image": "web:1"}],
        "ephemeralContainers": [{"name": "debugger", "image": "busybox", "command": ["sh"], "stdin": true}],
    });
    let metadata = json!({"namespace": "default", "name": "web", "uid": "u1"});
    let object: Pod = serde_json::from_value(json!({"metadata": metadata, "spec": spec})).unwrap();
    let mut pod = ResolvedPod::literal(object).unwrap();
    // Once, however often it is said.
    provider.update_pod(&pod).await.unwrap();
    provider.update_pod(&pod).await.unwrap();
    let debugger = a.pod.container("debugger");
    let state = || {
        let runtime = provider.backend().observe(&a.pod.uid).unwrap().runtime.unwrap();
        runtime.container("debugger").unwrap().state.clone()
    };
    assert!(matches!(state(), ContainerState::Running { .. }));
    assert_eq!(run(&provider, &debugger, &["echo", "hi"], b"").await.1, "hi\n");

    let (mut to_stdin, stdin) = tokio::io::duplex(1000);
    let (stdout, mut from_stdout) = tokio::io::duplex(1000);
    let io = ExecIo::Pipes { stdin: Some(Box::new(stdin)), stdout: Some(Box::new(stdout)), stderr: None };
    to_stdin.write_all(b"echo $HOSTNAME\nexit 3\n").await.unwrap();
    assert_eq!(provider.attach(&debugger, io).await.unwrap(), ExitStatus::Code(3));
    let mut seen = String::new();
    from_stdout.read_to_string(&mut seen).await.unwrap();
    assert_eq!(seen, "web\n");
    let ContainerState::Terminated(end) = state() else { panic!("its shell has ended") };
    assert_eq!(end.exit, ExitStatus::Code(3));

    // The others run on as they were, and another image is refused.
    assert_eq!(run(&provider, &a, &["true"], b"").await.0, 0);
    pod.containers[0].image = "web:2".to_owned();
    let refused = provider.update_pod(&pod).await.unwrap_err().to_string();
    assert!(refused.contains("spec.containers{a}.image"), "{refused}");
}

async fn type_into(
    provider: &MockProvider,
    a: &ContainerRef,
    command: &str,
    keys: &[u8],
) -> (ExitStatus, String) {
    let (mut keyboard, stdin) = tokio::io::duplex(1000);
    let (output, mut screen) = tokio::io::duplex(1000);
    let (_sizes, resize) = mpsc::channel(1);
    let io = ExecIo::Tty { stdin: Some(Box::new(stdin)), output: Box::new(output), resize };
    keyboard.write_all(keys).await.unwrap();
    let status = provider.exec(a, &[command.to_owned()], io).await.unwrap();
    let mut seen = String::new();
    screen.read_to_string(&mut seen).await.unwrap();
    (status, seen)
}

#[tokio::test(start_paused = true)]
async fn a_terminal_shows_what_is_typed_and_knows_some_keys() {
    let (provider, a) = provider();
    let code = ExitStatus::Code;
    let shown = type_into(&provider, &a, "sh", b"echo hu\x7fi\rexit 7\r").await;
    assert_eq!(shown, (code(7), "$ echo hu\u{8} \u{8}i\r\nhi\r\n$ exit 7\r\n".to_owned()));
    assert_eq!(type_into(&provider, &a, "cat", b"abc\r\x04").await, (code(0), "abc\r\nabc\r\n".to_owned()));
    assert_eq!(type_into(&provider, &a, "cat", b"abc\x03").await, (code(130), "abc^C\r\n".to_owned()));
    assert_eq!(type_into(&provider, &a, "sh", b"abc\x03\x04").await, (code(130), "$ abc^C\r\n$ ".to_owned()));
}

async fn ask(socket: &mut DuplexStream, request: &str, answer: &str) {
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut seen = vec![0; answer.len()];
    socket.read_exact(&mut seen).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&seen), answer);
}

#[tokio::test(start_paused = true)]
async fn a_declared_port_answers_http_and_others_refuse() {
    let (provider, a) = provider();
    let mut socket = super::connect(provider.backend(), &a.pod, 80).unwrap();
    let body = "GET /x HTTP/1.1\nHello from port 80 of default/web\n";
    let answer = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    ask(&mut socket, "GET /x HTTP/1.1\r\nHost: x\r\n\r\n", &answer).await;
    ask(
        &mut socket,
        "POST / HTTP/1.1\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello",
    )
    .await;
    assert_eq!(socket.read(&mut [0]).await.unwrap(), 0);
    let refused = provider.connect(&a.pod, 81).await.err().unwrap().to_string();
    assert!(refused.contains("connection refused"), "{refused}");
    assert!(provider.connect(&PodRef::new("default", "web", "u2"), 80).await.is_err());
}
