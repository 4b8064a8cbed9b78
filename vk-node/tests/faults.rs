//! What the process says, and how it ends, when it was given something it cannot work with: one line that
//! names what and where, exit code 2, and no backtrace.

use std::path::Path;
use std::process::{Command, Output};

/// The daemon with a clean environment, as in a container.
fn vk_node(home: &Path, words: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_vk-node"))
        .args(words)
        .env_clear()
        .env("HOME", home)
        .env("RUST_BACKTRACE", "1")
        .output()
        .expect("the daemon starts")
}

/// The one line on standard error of a process that ended with 2.
fn complaint(home: &Path, words: &[&str]) -> String {
    let output = vk_node(home, words);
    let stderr = String::from_utf8(output.stderr).expect("text");
    assert_eq!(output.status.code(), Some(2), "{words:?}: {stderr}");
    let lines: Vec<&str> = stderr.lines().filter(|line| line.starts_with("vk-node: ")).collect();
    assert_eq!(lines.len(), 1, "{words:?}: {stderr}");
    assert!(!stderr.contains("backtrace") && !stderr.contains("panicked"), "{stderr}");
    assert_eq!(stderr.lines().last(), Some(lines[0]), "the complaint is the last word");
    lines[0].to_owned()
}

fn kubeconfig(directory: &Path, server: &str) -> String {
    let path = directory.join("kubeconfig");
    let text = format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: c\n\
         clusters: [{{name: c, cluster: {{server: '{server}'}}}}]\n\
         users: [{{name: u, user: {{token: not-a-secret}}}}]\n\
         contexts: [{{name: c, context: {{cluster: c, user: u}}}}]\n"
    );
    std::fs::write(&path, text).expect("a writable directory");
    path.to_str().expect("a path of text").to_owned()
}

#[test]
fn an_unknown_key_is_named_with_its_place_and_its_neighbour() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("vk.yaml");
    std::fs::write(&file, "provider: mock\nnodes:\n- name: a\n  lables: {a: b}\n").unwrap();
    let file = file.to_str().unwrap();
    assert_eq!(
        complaint(home.path(), &["--config", file]),
        format!("vk-node: unknown key \"lables\" in {file}:4 (nodes[0].lables): did you mean \"labels\"?")
    );
    // `run` and `check` read the same way.
    for command in ["run", "check"] {
        assert!(complaint(home.path(), &[command, "--config", file]).contains("nodes[0].lables"));
    }
}

#[test]
fn a_bad_quantity_is_named_with_its_place() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("vk.yaml");
    std::fs::write(&file, "provider: mock\nnodeDefaults:\n  capacity:\n    memory: 16GB\n").unwrap();
    let file = file.to_str().unwrap();
    assert_eq!(
        complaint(home.path(), &["--config", file]),
        format!(
            "vk-node: bad quantity \"16GB\" in {file}:4 (nodeDefaults.capacity.memory): write it like 4, 500m, \
             16Gi or 1e3"
        )
    );
}

#[test]
fn a_missing_file_is_named() {
    let home = tempfile::tempdir().unwrap();
    assert_eq!(
        complaint(home.path(), &["--config", "/nowhere/vk.yaml"]),
        "vk-node: cannot read the configuration file /nowhere/vk.yaml: there is no such file; check the path"
    );
    assert_eq!(
        complaint(home.path(), &["--provider", "mock", "--kubeconfig", "/nowhere/kubeconfig"]),
        "vk-node: cannot read the kubeconfig /nowhere/kubeconfig: there is no such file; check the path"
    );
}

#[test]
fn a_process_without_a_cluster_says_where_it_looked() {
    let home = tempfile::tempdir().unwrap();
    let line = complaint(home.path(), &["--provider", "mock"]);
    assert!(line.starts_with("vk-node: no cluster in the settings"), "{line}");
}

#[test]
fn an_unreachable_cluster_is_named() {
    let home = tempfile::tempdir().unwrap();
    // A port that was free a moment ago, and that nobody listens on.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let file = kubeconfig(home.path(), &format!("https://127.0.0.1:{port}"));
    let words = ["--provider", "mock", "--kubeconfig", &file, "--connect-timeout", "300ms"];
    let line = complaint(home.path(), &words);
    let start = format!(
        "vk-node: cannot reach the API server at https://127.0.0.1:{port}/: check that it runs and that this \
         address is right ("
    );
    assert!(line.starts_with(&start), "{line}");
    assert!(line.contains("refused"), "{line}");
}

#[test]
fn a_silent_cluster_is_given_up_in_time() {
    let home = tempfile::tempdir().unwrap();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let file = kubeconfig(home.path(), &format!("https://{}", listener.local_addr().unwrap()));
    let words = ["--provider", "mock", "--kubeconfig", &file, "--connect-timeout", "300ms"];
    let line = complaint(home.path(), &words);
    assert!(line.contains("cannot reach the API server"), "{line}");
}

#[test]
fn what_is_wrong_with_the_settings_is_said_before_the_cluster_is_asked() {
    let home = tempfile::tempdir().unwrap();
    let cluster = kubeconfig(home.path(), "https://127.0.0.1:1");
    let file = home.path().join("vk.yaml");
    let text = "provider: {mock: {capacity: {cpu: four}}}\nnodes: [{name: a}, {name: b, provider: mok}]\n";
    std::fs::write(&file, text).unwrap();
    let words = ["--config", file.to_str().unwrap(), "--kubeconfig", &cluster, "--connect-timeout", "300ms"];
    let output = vk_node(home.path(), &words);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    let lines: Vec<&str> = stderr.lines().filter(|line| line.starts_with("vk-node: ")).collect();
    let [quantity, provider] = lines[..] else { panic!("{stderr}") };
    assert!(
        quantity.contains("\"capacity.cpu\"") && quantity.contains("\"four\" is not a quantity"),
        "{quantity}"
    );
    assert!(
        provider.contains("unknown provider \"mok\"") && provider.contains("did you mean \"mock\"?"),
        "{provider}"
    );
}

#[test]
fn a_kubeconfig_without_its_context_is_named() {
    let home = tempfile::tempdir().unwrap();
    let file = kubeconfig(home.path(), "https://127.0.0.1:1");
    let line = complaint(home.path(), &["--provider", "mock", "--kubeconfig", &file, "--context", "prod"]);
    assert_eq!(
        line,
        format!("vk-node: no context \"prod\" in the kubeconfig {file}: see kubectl config get-contexts")
    );
}

#[test]
fn bad_flags_are_one_line_too() {
    let home = tempfile::tempdir().unwrap();
    let table: &[(&[&str], &str)] = &[
        (
            &["--nodenam", "a"],
            "vk-node: unexpected argument '--nodenam' found on the command line: did you mean --nodename?",
        ),
        (
            &["--drain-timeout", "20"],
            "vk-node: bad duration \"20\" in --drain-timeout: it has no unit; write 20s, 20m or 20ms",
        ),
        (
            &["--capacity", "cpu=many"],
            "vk-node: bad quantity \"many\" in --capacity: write it like 4, 500m, 16Gi or 1e3",
        ),
        (
            &["--provider", "mock", "--log-level", "loud"],
            "vk-node: bad log level \"loud\" in the settings (log.level): it is error, warn, info, debug, trace, \
             or directives such as info,vk_core=debug",
        ),
    ];
    for (words, line) in table {
        assert_eq!(complaint(home.path(), words), *line);
    }
}

#[test]
fn help_and_version_are_no_fault() {
    let home = tempfile::tempdir().unwrap();
    for (words, text) in [
        (&["--help"][..], "VK_LOG_LEVEL"),
        (&["run", "--help"], "--nodename"),
        (&["version"], "vk-node 0."),
        (&["providers"], "mock"),
    ] {
        let output = vk_node(home.path(), words);
        assert!(output.status.success());
        assert!(String::from_utf8_lossy(&output.stdout).contains(text), "{words:?}");
    }
}
