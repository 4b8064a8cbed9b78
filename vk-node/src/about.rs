//! What the program tells about itself: version, backends, completions, manual page.

mod matrix;

use std::fmt::Write as _;

use clap::CommandFactory as _;
use clap_complete::Shell;
use vk_core::provider::{Feature, Provider};

use crate::args::Cli;
use crate::backends;
use crate::config::ProviderSection;
use crate::config::settings::NodeSettings;
use crate::fault::{Fault, nearest};

/// `version`: ours first, then what it was made with.
pub(crate) fn version() -> String {
    let features: Vec<&str> = [
        ("conformance", cfg!(feature = "conformance")),
        ("otlp", cfg!(feature = "otlp")),
        ("quickstart", cfg!(feature = "quickstart")),
    ]
    .into_iter()
    .filter_map(|(name, built_in)| built_in.then_some(name))
    .collect();
    format!(
        "vk-node {}\nproviders: {}\nfeatures: {}\nplatform: {}/{}\n",
        env!("CARGO_PKG_VERSION"),
        backends::NAMES.join(", "),
        features.join(", "),
        std::env::consts::OS,
        std::env::consts::ARCH,
    )
}

/// `providers`: what each backend of this build can do, or one of them. `all` has every field of a pod, and not only
/// those that are not honoured fully.
pub(crate) fn providers(only: Option<&str>, all: bool) -> Result<String, Fault> {
    if let Some(name) = only
        && !backends::NAMES.contains(&name)
    {
        let near = nearest(name, backends::NAMES.iter().copied());
        let remedy = near.map_or_else(
            || format!("this build has {}", backends::NAMES.join(", ")),
            |near| format!("did you mean {near:?}?"),
        );
        return Err(Fault::new(format!("unknown provider {name:?}"), "on the command line", remedy));
    }
    let mut text = String::new();
    for name in backends::NAMES.iter().filter(|name| only.is_none_or(|only| only == **name)) {
        let node = NodeSettings {
            config: vk_core::config::NodeConfig::new("virtual-kubelet"),
            provider: ProviderSection::named(*name),
            os: None,
            provider_file: None,
            provider_path: format!("provider.{name}"),
        };
        let provider = backends::example(&node)?;
        if !text.is_empty() {
            text.push('\n');
        }
        describe(&mut text, name, provider.as_ref(), all);
    }
    Ok(text)
}

fn describe(text: &mut String, name: &str, provider: &dyn Provider, all: bool) {
    let yes = |has: bool| if has { "yes" } else { "no" };
    let native = provider.native();
    let capabilities = [
        ("logs", provider.logs().is_some(), "kubectl logs"),
        ("exec", provider.exec().is_some(), "kubectl exec, kubectl cp, exec probes and hooks"),
        ("attach", provider.attach().is_some(), "kubectl attach, kubectl run -i"),
        ("port-forward", provider.port_forward().is_some(), "kubectl port-forward"),
        ("stats", provider.stats().is_some(), "kubectl top, autoscaling"),
        ("update", provider.update().is_some(), "in-place resize, image changes, ephemeral containers"),
        (
            "prepare",
            provider.prepare().is_some(),
            "status.podIP in the environment before a container starts",
        ),
        (
            "file updates",
            native.contains(Feature::FileUpdates),
            "changed ConfigMaps and Secrets in the files of running pods",
        ),
    ];
    let _ = writeln!(text, "{name}\n  {:<13} {:<4} needed for", "capability", "has");
    for (capability, has, purpose) in capabilities {
        let _ = writeln!(text, "  {capability:<13} {:<4} {purpose}", yes(has));
    }
    let _ = writeln!(text);
    let fields = matrix::of(provider.fields(), all);
    let title = if all { "fields of pods" } else { "fields of pods that are not honoured, or not fully" };
    let none = if fields.is_empty() { ": none" } else { "" };
    let _ = write!(text, "  {title}{none}\n{fields}");
}

/// `completions SHELL`
pub(crate) fn completions(shell: Shell) -> String {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "vk-node", &mut text);
    String::from_utf8_lossy(&text).into_owned()
}

/// `man`: the manual page of the program, or of one of its commands, as roff.
pub(crate) fn manual(of: Option<&str>) -> Result<String, Fault> {
    let mut command = Cli::command();
    command.build();
    let page = match of {
        None => command,
        Some(name) => {
            let known: Vec<String> = command.get_subcommands().map(|c| c.get_name().to_owned()).collect();
            let Some(found) = command.find_subcommand(name) else {
                let place = "on the command line";
                return Err(Fault::new(
                    format!("no command {name:?}"),
                    place,
                    format!("it is {}", known.join(", ")),
                ));
            };
            found.clone().name(format!("vk-node-{name}"))
        }
    };
    let mut text = Vec::new();
    clap_mangen::Man::new(page)
        .render(&mut text)
        .map_err(|error| Fault::new("cannot write the manual page", "in memory", error.to_string()))?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// `debug`: not there yet, and says so.
pub(crate) fn debug() -> Fault {
    Fault::new(
        "the support bundle is not built yet",
        "in this version",
        "it will pack settings without secrets, the pods' states, the last log lines, metrics and the provider's \
         answers into one file; until then see the log, /metrics and /readyz at --admin-listen, and vk-node check",
    )
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum as _;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_shell_has_completions_with_our_flags() {
        for shell in Shell::value_variants() {
            let text = completions(*shell);
            assert!(text.contains("admin-listen"), "{shell}");
        }
    }

    #[test]
    fn every_command_has_a_manual_page() {
        assert!(manual(None).unwrap().contains("lease\\-duration"));
        for command in Cli::command().get_subcommands() {
            let page = manual(Some(command.get_name())).unwrap();
            assert!(page.contains(".TH"), "{page}");
        }
        let line = manual(Some("rum")).unwrap_err().to_string();
        assert!(line.starts_with("no command \"rum\""), "{line}");
    }

    #[cfg(feature = "mock")]
    #[tokio::test]
    async fn a_backends_answers_are_its_own() {
        let text = providers(Some("mock"), false).unwrap();
        assert!(text.starts_with("mock\n"), "{text}");
        for line in ["  logs          yes  kubectl logs", "  update        yes  in-place resize"] {
            assert!(text.lines().any(|said| said.starts_with(line)), "{line} in\n{text}");
        }
        let told = |line: &str| line.starts_with("  spec.volumes[].secret ") && line.contains(" partly: ");
        assert!(text.lines().any(told), "{text}");
        assert!(!text.contains("native"), "{text}");
        let text = providers(Some("mock"), true).unwrap();
        let mut lines = text.lines().filter(|line| line.starts_with("  spec.hostNetwork "));
        assert!(lines.next().is_some_and(|line| line.ends_with(" native")), "{text}");
        assert!(text.lines().any(|line| line.ends_with(" control plane")), "{text}");
        let line = providers(Some("mokc"), false).unwrap_err().to_string();
        assert_eq!(line, "unknown provider \"mokc\" on the command line: did you mean \"mock\"?");
    }
}
