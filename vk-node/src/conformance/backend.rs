//! The configured provider, judged by the contract.

use std::fmt;
use std::process::ExitCode;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use vk_conformance::{CLAUSES, Patience, Recipe, Subject, Suite, Work, async_trait};
use vk_core::provider::{Error, Provider, Result};

use super::{ConformanceArgs, deliver, interruptible, progress, tell, try_reports};
use crate::backends::{self, Connect};
use crate::config::scalar::Period;
use crate::config::settings::Settings;
use crate::env::Environment;
use crate::fault::{Fault, Faults};
use crate::say;

/// What the mock's annotations begin with.
const MOCK: &str = "mock.virtual-kubelet.io/";
/// Where the server of a pod listens.
const PORT: u16 = 8080;

pub(super) async fn run(args: ConformanceArgs) -> std::result::Result<ExitCode, Faults> {
    let fits = |name: &str, group: &str| {
        args.only.is_empty()
            || args.only.iter().any(|glob| glob.fits(name) || glob.fits(&format!("{group}/{name}")))
    };
    let names: Vec<&str> =
        CLAUSES.iter().filter(|clause| fits(clause.name, clause.group)).map(|clause| clause.name).collect();
    if names.is_empty() {
        return Err(Fault::new("no clause has such a name", "in --only", "see --list").into());
    }
    if args.list {
        for clause in CLAUSES.iter().filter(|clause| names.contains(&clause.name)) {
            say(&format!(
                "{}/{}  (pods: {})\n    {}\n",
                clause.group, clause.name, clause.pods, clause.demand
            ));
        }
        return Ok(ExitCode::SUCCESS);
    }
    let settings = Settings::read(&args.run, Environment::of_process()?)?;
    // Each node has a backend of its own kind; the first one's is judged.
    let node = &settings.nodes[0];
    let subject = Configured {
        name: node.provider.name.clone(),
        connect: backends::connector(node, &settings.source)?,
        image: args.image.clone(),
        patience: patience(&node.provider.name, args.timeout),
    };
    try_reports(&args)?;
    let suite = Suite::new(Arc::new(subject))
        .only(&names)
        .map_err(|why| Fault::new(why, "in --only", "see --list"))?;
    progress(&format!("provider {}: {}", node.provider.name, suite.cost()));
    let (report, code) = interruptible(async |stop| Ok(suite.run_until(stop, tell).await)).await?;
    deliver(&args, report.as_ref(), code)
}

fn patience(provider: &str, timeout: Option<Period>) -> Patience {
    let local = matches!(provider, "mock" | "process");
    let mut patience = if local { Patience::local() } else { Patience::cloud() };
    if let Some(Period(timeout)) = timeout {
        patience.start = timeout;
        patience.stop = timeout;
    }
    patience
}

/// The provider of the settings.
struct Configured {
    name: String,
    connect: Connect,
    image: String,
    patience: Patience,
}

impl fmt::Debug for Configured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Configured").field("name", &self.name).finish_non_exhaustive()
    }
}

#[async_trait]
impl Subject for Configured {
    fn name(&self) -> String {
        self.name.clone()
    }

    async fn connect(&self) -> Result<Arc<dyn Provider>> {
        (self.connect)().map_err(|fault| Error::unexpected(fault.to_string()))
    }

    fn recipe(&self, container: &str, work: &Work) -> Option<Recipe> {
        if self.name == "mock" {
            let mut recipe = Recipe::image(&self.image);
            for (key, value) in for_mock(work)? {
                recipe = recipe.annotated(format!("{MOCK}{key}.{container}"), value);
            }
            recipe.stdin = *work == Work::Repeat;
            return Some(if *work == Work::Serve { recipe.serving_http(PORT) } else { recipe });
        }
        if *work == Work::Serve {
            let mut recipe = Recipe::image(&self.image).serving_http(PORT);
            let script = format!("trap 'exit 0' TERM; httpd -f -p {PORT} & wait");
            recipe.command = ["sh".to_owned(), "-c".to_owned(), script].into();
            return Some(recipe);
        }
        Recipe::shell(&self.image, work)
    }

    fn patience(&self) -> Patience {
        self.patience
    }

    fn spoil(&self, pod: &mut Pod) -> Option<String> {
        if self.name != "mock" {
            return None;
        }
        let field = "spec.hostPID";
        let annotations = pod.metadata.annotations.get_or_insert_default();
        annotations.insert(format!("{MOCK}reject-create"), field.to_owned());
        Some(field.to_owned())
    }
}

/// What the mock, which runs no command, has to be told instead.
fn for_mock(work: &Work) -> Option<Vec<(&'static str, String)>> {
    Some(match work {
        Work::Forever | Work::Repeat | Work::Serve => Vec::new(),
        Work::Exit(code) => vec![("exit-code", code.to_string())],
        Work::Print(lines) => vec![("log", lines.join("\n"))],
        Work::Last(code) => {
            vec![
                ("log", "once".to_owned()),
                ("run-duration", "2s".to_owned()),
                ("exit-code", code.to_string()),
            ]
        }
        Work::Ticks(count) => {
            vec![
                ("log-rate", "1".to_owned()),
                ("run-duration", format!("{count}s")),
                ("exit-code", "0".to_owned()),
            ]
        }
        Work::Farewell { seconds, code } => {
            vec![("termination-latency", format!("{seconds}s")), ("termination-exit-code", code.to_string())]
        }
        Work::Deaf => vec![("termination-latency", "never".to_owned())],
        _ => return None,
    })
}
