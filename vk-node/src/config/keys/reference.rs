//! The key list's own tests, and the reference page that is made from it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;

use clap::CommandFactory as _;

use super::{Effect, KEYS, Key, Takes, effect_of};
use crate::args::{Cli, Parsed, parse};
use crate::config::File;
use crate::config::document::Document;
use crate::config::flags;
use crate::config::settings::Settings;
use crate::env::{Environment, flag_names, variable_of};
use crate::fault::Faults;

/// Flags that say where the settings are, and are none.
const NO_KEY: [&str; 1] = ["config"];

impl Takes {
    /// Type, unit, and a value that is no default: as YAML, and as the text of a flag or a variable.
    fn describe(self) -> (&'static str, &'static str, &'static str, &'static str) {
        match self {
            Self::File => ("file", "", "/tmp/sample", "/tmp/sample"),
            Self::Directory => ("directory", "", "/tmp/sample", "/tmp/sample"),
            Self::Text => ("text", "", "sample", "sample"),
            Self::Texts => ("list of texts", "", "[one, two]", "one,two"),
            Self::Url => ("URL", "", "https://192.0.2.7:6443", "https://192.0.2.7:6443"),
            Self::Bool(false) => ("true or false", "", "true", "true"),
            Self::Bool(true) => ("true or false", "", "false", "false"),
            Self::Period => ("duration", "`ms`, `s`, `m`, `h`", "3s", "3s"),
            Self::Count(unit) => ("whole number", unit, "3", "3"),
            Self::Ratio => ("number, 0 to 1", "share", "0.25", "0.25"),
            Self::Percent => ("whole number, 0 to 100", "%", "7", "7"),
            Self::Port => ("port, 0 is any free one", "", "10999", "10999"),
            Self::Address => ("IP address", "", "192.0.2.7", "192.0.2.7"),
            Self::Addresses => {
                ("list of IP addresses", "", "[192.0.2.7, 2001:db8::7]", "192.0.2.7,2001:db8::7")
            }
            Self::Socket => ("IP address and port", "", "127.0.0.1:10248", "127.0.0.1:10248"),
            Self::Name => ("node name", "", "sample", "sample"),
            Self::Labels => ("map of labels", "", "{a: b, example.com/c: d}", "a=b,example.com/c=d"),
            Self::Annotations => ("map of texts", "", "{a: b, c: d e}", "a=b,c=d e"),
            Self::Taints => ("list of taints", "", "['a=b:NoExecute']", "a=b:NoExecute"),
            Self::NoTaints => ("empty list", "", "[]", "true"),
            Self::Quantities => ("map of quantities", "by resource", "{cpu: 7}", "cpu=7"),
            Self::OperatingSystem => ("`linux` or `windows`", "", "windows", "windows"),
            Self::LogLevel => ("level or directives", "", "debug", "debug"),
            Self::LogFormat => ("`text` or `json`", "", "json", "json"),
            Self::LateBound => ("`fail`, `empty` or `node-ip`", "", "empty", "empty"),
            Self::Fields => ("list of fields", "", "[spec.hostUsers, '*.stdin']", "spec.hostUsers,*.stdin"),
            Self::Provider => ("provider, with its settings below", "", "other", "other"),
        }
    }
}

impl Key {
    /// A file with this key alone.
    fn yaml(&self) -> String {
        let (_, _, sample, _) = self.takes.describe();
        match self.path.strip_prefix("nodes[].") {
            Some("name") => format!("nodes: [{{name: {sample}}}]"),
            Some(key) => format!("nodes: [{{name: virtual-kubelet, {key}: {sample}}}]"),
            None => match self.path.split_once('.') {
                Some((section, key)) => format!("{section}: {{{key}: {sample}}}"),
                None => format!("{}: {sample}", self.path),
            },
        }
    }

    /// What the key cannot be without.
    fn company(&self) -> &'static [&'static str] {
        match self.path {
            "kubeletApi.certFile" => &["--tls-private-key-file=/k"],
            "kubeletApi.keyFile" => &["--tls-cert-file=/c"],
            "cluster.bootstrapKubeconfig" => &["--kubeconfig=/k"],
            "cluster.certDir" => &["--bootstrap-kubeconfig=/b", "--kubeconfig=/k"],
            path if path.starts_with("tracing.") && path != "tracing.endpoint" => {
                &["--otlp-endpoint=http://192.0.2.1:4318"]
            }
            _ => &[],
        }
    }

    /// The flag's help: what it means, and the default.
    fn help(&self) -> (String, String) {
        let command = Cli::command();
        let argument = command.get_arguments().find(|argument| argument.get_long() == Some(self.flag));
        let help = argument.and_then(clap::Arg::get_help).map(ToString::to_string).unwrap_or_default();
        match help.split_once(" [default: ") {
            Some((meaning, default)) => (meaning.to_owned(), default.trim_end_matches(']').to_owned()),
            None => (help, String::new()),
        }
    }
}

/// The settings as text, without where they come from; or what is wrong with them.
fn effective(yaml: &str, words: &[&str], variables: &[(String, &str)]) -> Result<String, Faults> {
    let file = Document::parse(yaml, "f").unwrap().read::<File>()?;
    let provider = if yaml.contains("provider: ") { &[][..] } else { &["--provider=mock"] };
    let line = std::iter::once(&"vk-node").chain(provider).chain(words).map(|word| (*word).to_owned());
    let Parsed::Run(cli, _) = parse(line)? else { panic!("{words:?}") };
    let variables = variables.iter().map(|(name, value)| (name.clone(), (*value).to_owned()));
    let environment = Environment::read(variables)?;
    let mut settings = Settings::merge(file, "f".to_owned(), cli.run.flags, environment)?;
    settings.notes.clear();
    for node in &mut settings.nodes {
        node.provider_path.clear();
    }
    Ok(format!("{settings:#?}"))
}

#[test]
fn every_key_is_set_alike_by_file_flag_and_variable() {
    for key in KEYS {
        let (_, _, _, text) = key.takes.describe();
        let flag = format!("--{}={text}", key.flag);
        let company = key.company();
        let file = effective(&key.yaml(), company, &[]);
        let flags = effective("", &[company, &[flag.as_str()]].concat(), &[]);
        let variable = effective("", company, &[(variable_of(key.flag), text)]);
        assert!(file.is_ok(), "{}: {}", key.path, file.unwrap_err());
        assert_ne!(effective("", company, &[]), file, "{} does nothing", key.path);
        assert_eq!(file, flags, "{} and --{}", key.path, key.flag);
        assert_eq!(file, variable, "{} and its variable", key.path);
    }
}

/// What `/flagz` shows for these settings.
fn shown(words: &[&str]) -> BTreeMap<String, String> {
    let named = words.iter().any(|word| word.starts_with("--provider="));
    let provider = if named { &[][..] } else { &["--provider=mock"] };
    let line = std::iter::once(&"vk-node").chain(provider).chain(words).map(|word| (*word).to_owned());
    let Parsed::Run(cli, _) = parse(line).unwrap() else { panic!("{words:?}") };
    let settings =
        Settings::merge(File::default(), "f".to_owned(), cli.run.flags, Environment::default()).unwrap();
    let flags = flags::of(&settings, &settings.nodes[0]);
    let count = flags.len();
    let flags: BTreeMap<String, String> = flags.into_iter().collect();
    assert_eq!(flags.len(), count, "a flag that is shown twice");
    flags
}

#[test]
fn flagz_shows_every_flag_with_the_value_that_holds() {
    let names: BTreeSet<String> =
        flag_names().into_iter().filter(|flag| !NO_KEY.contains(&flag.as_str())).collect();
    assert_eq!(shown(&[]).into_keys().collect::<BTreeSet<_>>(), names);
    for key in KEYS {
        let (_, _, _, text) = key.takes.describe();
        let set = shown(&[key.company(), &[&format!("--{}={text}", key.flag)]].concat());
        assert_eq!(set[key.flag].trim_end_matches('/'), text, "--{}", key.flag);
    }
}

#[test]
fn flagz_shows_no_password_of_a_url() {
    let set = shown(&[
        "--otlp-endpoint=http://user:hunter2@192.0.2.1:4318",
        "--server=https://u:hunter2@192.0.2.1",
    ]);
    assert_eq!((&*set["otlp-endpoint"], &*set["server"]), ("http://192.0.2.1:4318/", "https://192.0.2.1/"));
}

#[test]
fn the_defaults_that_are_told_are_those_that_hold() {
    use Takes::{
        Address, Bool, Count, Directory, LateBound, LogFormat, LogLevel, Percent, Period, Port, Ratio,
    };
    for key in KEYS {
        let (_, default) = key.help();
        let literal = matches!(
            key.takes,
            Address
                | Bool(_)
                | Count(_)
                | Directory
                | LateBound
                | LogFormat
                | LogLevel
                | Percent
                | Period
                | Port
                | Ratio
        );
        if literal {
            assert!(!default.is_empty(), "--{} tells no default", key.flag);
            let said = effective("", &[key.company(), &[&format!("--{}={default}", key.flag)]].concat(), &[]);
            assert_eq!(said, effective("", key.company(), &[]), "--{}", key.flag);
        }
    }
}

/// The keys that a section knows, as it tells them who asks for another.
fn known(section: &str) -> Vec<String> {
    let yaml = match section {
        "" => "zzzzzzzzzzzz: 1".to_owned(),
        "nodes[]" => "nodes: [{name: a, zzzzzzzzzzzz: 1}]".to_owned(),
        section => format!("{section}: {{zzzzzzzzzzzz: 1}}"),
    };
    let line = Document::parse(&yaml, "f").unwrap().read::<File>().unwrap_err().to_string();
    let list = line.split("known keys are ").nth(1).unwrap_or_else(|| panic!("{line}"));
    list.split(", ").map(str::to_owned).collect()
}

#[test]
fn the_list_has_every_key_of_the_file_and_no_other() {
    const SECTIONS: [&str; 7] =
        ["cluster", "kubeletApi", "admin", "log", "tracing", "nodeDefaults", "nodes[]"];
    let mut paths: BTreeSet<String> =
        known("").into_iter().filter(|key| !SECTIONS.contains(&key.as_str()) && key != "nodes").collect();
    for section in SECTIONS {
        paths.extend(known(section).into_iter().map(|key| format!("{section}.{key}")));
    }
    let listed: BTreeSet<String> = KEYS.iter().map(|key| key.path.to_owned()).collect();
    assert_eq!(paths, listed);
}

#[test]
fn every_flag_is_of_a_key_and_every_key_has_a_flag() {
    let flags: BTreeSet<String> =
        flag_names().into_iter().filter(|flag| !NO_KEY.contains(&flag.as_str())).collect();
    let listed: BTreeSet<String> = KEYS.iter().map(|key| key.flag.to_owned()).collect();
    assert_eq!(flags, listed);
}

#[test]
fn a_change_below_a_key_needs_what_the_key_needs() {
    assert_eq!(effect_of("nodes[12].labels.example.com/zone"), Effect::Reload);
    assert_eq!(effect_of("nodeDefaults.taints[0]"), Effect::Reload);
    assert_eq!(effect_of("log.level"), Effect::Reload);
    assert_eq!(effect_of("nodes[0].port"), Effect::Restart);
    assert_eq!(effect_of("nodes[0]"), Effect::Restart);
    assert_eq!(effect_of("provider.mock.seed"), Effect::Restart);
}

fn page() -> String {
    let mut page = String::from(
        "# Configuration reference\n\n\
         Made from the daemon's own list of keys; `VK_UPDATE=1 cargo test -p vk-node reference` writes it again.\n\n\
         A setting comes from the file, a flag or a variable; the later one wins. Lists and maps are separated by\n\
         commas in flags and variables (`--label a=b,c=d`). Maps of several layers are merged key by key. Keys of\n\
         `nodes[]` win over those of `nodeDefaults`, and a flag wins over both, for every node. A key without a value\n\
         says nothing. Keys below a provider's name belong to the provider; see its own documentation.\n\n\
         *Change*: `reload` is taken over on SIGHUP and when the file changes; `restart` needs a new process, and the\n\
         daemon says so, naming the key.\n",
    );
    let mut section = "";
    for key in KEYS {
        let (begin, name) = key.path.split_once('.').unwrap_or(("", key.path));
        if begin != section || key.path == "cluster.kubeconfig" || key.path == "instance" {
            section = begin;
            let title = if begin.is_empty() { "The file's top" } else { begin };
            let _ = write!(
                page,
                "\n## {title}\n\n\
                 | key | type | unit | default | flag | variable | change | meaning |\n|---|---|---|---|---|---|---|---|\n"
            );
        }
        let (kind, unit, _, _) = key.takes.describe();
        let (meaning, default) = key.help();
        let dash = |text: &str| if text.is_empty() { "—".to_owned() } else { text.to_owned() };
        let effect = match key.effect {
            Effect::Reload => "reload",
            Effect::Restart => "restart",
        };
        let _ = writeln!(
            page,
            "| `{name}` | {kind} | {} | {} | `--{}` | `{}` | {effect} | {meaning} |",
            dash(unit),
            dash(&default),
            key.flag,
            variable_of(key.flag),
        );
    }
    page
}

#[test]
fn the_reference_page_is_up_to_date() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/configuration.md");
    let page = page();
    if std::env::var_os("VK_UPDATE").is_some() {
        std::fs::write(&path, &page).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(written, page, "VK_UPDATE=1 cargo test -p vk-node reference");
}
