//! Thirty broken configurations and what the daemon says to each: kept in a golden file, which
//! `VK_UPDATE=1 cargo test -p vk-node --test broken_configs` writes again.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

/// What is wrong, the file, and what stands on the command line or (`NAME=value`) in the environment.
const CASES: &[(&str, &str, &[&str])] = &[
    ("an unknown key at the top", "provider: mock\nnode:\n- name: a\n", &[]),
    ("an unknown key in a section", "provider: mock\ncluster:\n  kubconfig: /k\n", &[]),
    ("an unknown key of a node", "provider: mock\nnodes:\n- name: a\n- name: b\n  lables: {a: b}\n", &[]),
    ("an unknown key with no neighbour", "provider: mock\nlog:\n  colour: red\n", &[]),
    ("several unknown keys", "provider: mock\nlog:\n  levle: info\nadmin:\n  lisen: 127.0.0.1:1\n", &[]),
    ("an unknown key of the provider", "provider:\n  mock:\n    capactiy: {cpu: 4}\n", &[]),
    ("a bad quantity", "provider: mock\nnodeDefaults:\n  capacity:\n    memory: 16GB\n", &[]),
    ("a negative quantity", "provider: mock\nnodeDefaults:\n  capacity: {cpu: -1}\n", &[]),
    ("a bad quantity of the provider", "provider:\n  mock:\n    capacity: {cpu: four}\n", &[]),
    ("a duration without a unit", "provider: mock\nnodeDefaults:\n  pingInterval: 10\n", &[]),
    ("a bad duration", "provider: mock\nnodeDefaults:\n  maxBackoff: five minutes\n", &[]),
    ("a duration of nothing", "provider: mock\nnodeDefaults: {pingTimeout: 0s}\n", &[]),
    ("a taint without an effect", "provider: mock\nnodeDefaults:\n  taints: ['gpu=yes']\n", &[]),
    (
        "a taint with an effect that is none",
        "provider: mock\nnodes:\n- {name: a, taints: ['gpu=yes:Never']}\n",
        &[],
    ),
    (
        "a taint with a key twice",
        "provider: mock\nnodeDefaults:\n  taints: [{key: a, key: b, effect: NoSchedule}]\n",
        &[],
    ),
    ("a bad label value", "provider: mock\nnodeDefaults:\n  labels:\n    example.com/zone: -a\n", &[]),
    ("a bad label key", "provider: mock\nnodeDefaults:\n  labels:\n    'Example Zone': a\n", &[]),
    ("a port that is none", "provider: mock\nkubeletApi:\n  port: 70000\n", &[]),
    ("a port of text", "provider: mock\nkubeletApi:\n  port: http\n", &[]),
    ("an address that is none", "provider: mock\nkubeletApi:\n  listen: here\n", &[]),
    ("an admin port without an address", "provider: mock\nadmin:\n  listen: ':10248'\n", &[]),
    ("a bad URL", "provider: mock\ncluster:\n  server: 192.0.2.1:6443\n", &[]),
    ("a bad log level", "provider: mock\nlog: {level: loud}\n", &[]),
    ("a bad log format", "provider: mock\nlog: {format: xml}\n", &[]),
    (
        "a share above one",
        "provider: mock\ntracing: {endpoint: 'http://192.0.2.1:4318', sampleRatio: 10}\n",
        &[],
    ),
    ("a bad node name", "provider: mock\nnodes:\n- name: Node_1\n", &[]),
    ("a node without a name", "provider: mock\nnodes:\n- port: 10250\n", &[]),
    ("two nodes of one name", "provider: mock\nnodes: [{name: a}, {name: a}]\n", &[]),
    ("two nodes of one port", "provider: mock\nnodes: [{name: a}, {name: b, port: 10250}]\n", &[]),
    ("the admin port on a node's port", "provider: mock\nadmin: {listen: '127.0.0.1:10250'}\n", &[]),
    ("a certificate without its key", "provider: mock\nkubeletApi: {certFile: tls.crt}\n", &[]),
    (
        "a certificate of one's own and of the cluster",
        "provider: mock\nkubeletApi: {certFile: tls.crt, keyFile: tls.key, serverTLSBootstrap: true}\n",
        &[],
    ),
    (
        "a certificate that is not there",
        "provider: mock\nkubeletApi: {certFile: tls.crt, keyFile: tls.key}\n",
        &[],
    ),
    ("a client CA that is not there", "provider: mock\nkubeletApi: {clientCaFile: ca.crt}\n", &[]),
    ("a provider's file that is not there", "provider: mock\nproviderConfig: mock.json\n", &[]),
    ("a provider's settings twice", "provider: {mock: {seed: 1}}\nproviderConfig: mock.json\n", &[]),
    ("no provider", "nodes: [{name: a}]\n", &[]),
    ("a provider that this build has not", "provider: mokc\n", &[]),
    ("two providers", "provider: {mock: {}, aci: {}}\n", &[]),
    ("a first pause longer than the longest", "provider: mock\nnodeDefaults: {minBackoff: 10m}\n", &[]),
    ("a lease of half seconds", "provider: mock\nnodeDefaults: {leaseDuration: 1500ms}\n", &[]),
    ("a share above a hundred", "provider: mock\nnodeDefaults: {massAbsencePercent: 120}\n", &[]),
    (
        "a field to pass over that is none",
        "provider: mock\nnodeDefaults: {ignoredFields: [spec.hostUser]}\n",
        &["--ignored-fields=spec.containers[].securityContext.priviledged"],
    ),
    ("no workers", "provider: mock\nnodeDefaults: {podWorkers: 0}\n", &[]),
    (
        "a node identity for two nodes",
        "provider: mock\ncluster: {kubeconfig: k, bootstrapKubeconfig: b}\nnodes: [{name: a}, {name: b}]\n",
        &[],
    ),
    ("a bootstrap kubeconfig alone", "provider: mock\ncluster: {bootstrapKubeconfig: b}\n", &[]),
    ("a list where a map is due", "provider: mock\nnodeDefaults:\n  labels: [a, b]\n", &[]),
    ("text where true or false is due", "provider: mock\nkubeletApi: {anonymousMetrics: maybe}\n", &[]),
    ("a key twice", "provider: mock\nlog: {level: info, level: debug}\n", &[]),
    ("text that is not YAML", "cluster: {kubeconfig: [\n", &[]),
    ("one name for two nodes", "provider: mock\nnodes: [{name: a}, {name: b}]\n", &["--nodename=c"]),
    ("a list of words for a section", "provider: mock\nlog: [debug, json]\n", &[]),
    ("a list of sections for a section", "provider: mock\nkubeletApi:\n- port: 10250\n", &[]),
    ("a list for a node", "provider: mock\nnodes:\n- [a, 10250]\n", &[]),
    ("a map for the nodes", "provider: mock\nnodes: {name: a}\n", &[]),
    ("words for the nodes", "provider: mock\nnodes: [a, b]\n", &[]),
    ("one address for a list", "provider: mock\nnodeDefaults:\n  addresses: 192.0.2.1\n", &[]),
    ("a list at the top", "- provider: mock\n", &[]),
    ("a list for the provider's settings", "provider:\n  mock: [1]\n", &[]),
    (
        "two taints of one key and effect",
        "provider: mock\nnodes:\n- name: a\n  taints:\n  - a=b:NoSchedule\n  - {key: a, value: c, effect: NoSchedule}\n",
        &[],
    ),
    ("the same on the command line", "provider: mock\n", &["--taint=a=b:NoSchedule,a=c:NoSchedule"]),
    ("the same in a variable", "provider: mock\n", &["VK_TAINT=a:NoExecute,a=c:NoExecute"]),
    ("a switch that is none", "provider: mock\n", &["--drain=yes", "VK_DEREGISTER=on"]),
    ("a negative duration", "provider: mock\nnodeDefaults: {pingInterval: -10s}\n", &[]),
    ("a duration of centuries", "provider: mock\nnodeDefaults: {leaseDuration: 99999999999h}\n", &[]),
    ("a duration of next to nothing", "provider: mock\nnodeDefaults: {pingInterval: 1ns}\n", &[]),
    ("more workers than memory", "provider: mock\nnodeDefaults: {podWorkers: 1000000000000}\n", &[]),
    ("no address of a machine", "provider: mock\nnodeDefaults: {addresses: [0.0.0.0]}\n", &[]),
    ("an address twice", "provider: mock\nnodeDefaults: {addresses: [192.0.2.1, 192.0.2.1]}\n", &[]),
    ("half a pod", "provider: mock\nnodeDefaults: {capacity: {pods: 1.5, example.com/gpu: 500m}}\n", &[]),
    ("a port of a URL that is none", "provider: mock\ncluster: {server: 'https://192.0.2.1:99999'}\n", &[]),
    ("an empty name that is trusted", "provider: mock\nkubeletApi: {trustedClients: ['']}\n", &[]),
    ("an empty version", "provider: mock\nnodeDefaults: {kubeletVersion: ''}\n", &[]),
    ("an empty node name", "provider: mock\n", &["--nodename="]),
    ("two documents", "provider: mock\n---\nprovider: mock\n", &[]),
    ("a tab", "provider: mock\nlog:\n\tlevel: info\n", &[]),
    ("an alias of nothing", "provider: mock\nlog: *nope\n", &[]),
    ("a key that is a list", "provider: mock\n? [a]\n: b\n", &[]),
    ("a word alone", "hello\n", &[]),
    ("a bad value of a flag", "provider: mock\n", &["--drain-timeout=20"]),
    ("an unknown flag", "provider: mock\n", &["--nodenam=a"]),
    ("bad values of variables", "provider: mock\n", &["VK_PORT=http", "VK_PING_TIMEOUT=1"]),
    (
        "everything at once",
        "provider: mock\nlog: {level: loud, levle: info}\nnodes:\n- {name: A, prot: 1}\n- {name: b, port: x}\n",
        &[],
    ),
];

/// The lines on standard error of a check that ended with 2.
fn complaint(yaml: &str, words: &[&str]) -> String {
    let home = tempfile::tempdir().unwrap();
    std::fs::write(home.path().join("vk.yaml"), yaml).unwrap();
    let (flags, variables): (Vec<&str>, Vec<&str>) = words.iter().partition(|word| word.starts_with("--"));
    let output = Command::new(env!("CARGO_BIN_EXE_vk-node"))
        .args(["check", "--offline", "--config=vk.yaml"])
        .args(flags)
        .env_clear()
        .env("RUST_BACKTRACE", "1")
        .envs(variables.into_iter().filter_map(|pair| pair.split_once('=')))
        .current_dir(home.path())
        .output()
        .unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{yaml} {words:?}: {stderr}");
    assert!(!stderr.contains("panicked") && !stderr.is_empty(), "{yaml}: {stderr}");
    for line in stderr.lines() {
        assert!(line.starts_with("vk-node: ") && line.contains(": "), "{line}");
    }
    stderr
}

#[test]
fn what_is_no_text_is_not_read_to_its_end() {
    let home = tempfile::tempdir().unwrap();
    let place = |name: &str| home.path().join(name);
    std::fs::write(place("latin1.yaml"), b"provider: mock\ninstance: caf\xe9\n").unwrap();
    std::fs::write(place("binary.yaml"), b"\xff\xfep\x00").unwrap();
    std::fs::write(place("large.yaml"), vec![b'#'; 5 << 20]).unwrap();
    for (path, end) in [
        (place("latin1.yaml"), "line 2 is not text in UTF-8; save it as UTF-8"),
        (place("binary.yaml"), "it is not text in UTF-8; is it the right file?"),
        (place("large.yaml"), "it has more than the 4194304 bytes that are read; is it the right file?"),
        ("/dev/zero".into(), "it has more than the 4194304 bytes that are read; is it the right file?"),
        (home.path().to_owned(), "Is a directory (os error 21)"),
        (place("none.yaml"), "there is no such file; check the path"),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_vk-node"))
            .args(["check", "--offline", "--config"])
            .arg(&path)
            .env_clear()
            .output()
            .unwrap();
        let expected = format!("vk-node: cannot read the configuration file {}: {end}\n", path.display());
        assert_eq!(String::from_utf8(output.stderr).unwrap(), expected);
        assert_eq!(output.status.code(), Some(2));
    }
}

#[test]
fn each_broken_configuration_is_told_apart_by_its_message() {
    let mut all = String::new();
    for (title, yaml, words) in CASES {
        let _ = writeln!(all, "## {title}");
        for line in yaml.lines() {
            let _ = writeln!(all, "    {line}");
        }
        for word in *words {
            let _ = writeln!(all, "$ {word}");
        }
        all.push_str(&complaint(yaml, words));
        all.push('\n');
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/broken_configs.golden");
    if std::env::var_os("VK_UPDATE").is_some() {
        std::fs::write(&path, &all).unwrap();
    }
    let golden = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(golden, all, "VK_UPDATE=1 cargo test -p vk-node --test broken_configs");
}
