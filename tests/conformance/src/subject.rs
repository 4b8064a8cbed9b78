//! What the suite has to know of a backend before it can judge a provider for it.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::Pod;
use vk_core::provider::{Faults, Provider, Result};

/// A provider under test: how to connect to its backend, and what to run there.
///
/// Only the first three methods have to be written, and for a backend that runs images with a shell in them
/// [`Recipe::shell`] is the third. What else is left out makes clauses *not applicable*, and the report says so.
#[async_trait]
pub trait Subject: fmt::Debug + Send + Sync + 'static {
    /// What the report calls it.
    fn name(&self) -> String;

    /// What a daemon does when it starts: a new provider for the same node, account and backend. The suite
    /// calls it at the start of every clause, and again for a daemon that was restarted, after it has dropped
    /// the provider before. Nothing but the backend may carry anything over.
    async fn connect(&self) -> Result<Arc<dyn Provider>>;

    /// How the backend is made to run this in the container of that name; `None` if it can't.
    fn recipe(&self, container: &str, work: &Work) -> Option<Recipe>;

    /// The command that does this in a container made by [`recipe`](Self::recipe); `None` if there is none.
    /// By default as a POSIX shell does it.
    fn errand(&self, errand: &Errand) -> Option<Vec<String>> {
        Some(errand.in_shell())
    }

    /// How long things take. By default those of a backend on the other side of a network.
    fn patience(&self) -> Patience {
        Patience::cloud()
    }

    /// Switches that make the *backend* fail: below the provider, so that what is judged is what the provider
    /// makes of it. By default there are none.
    fn faults(&self) -> Option<Faults> {
        None
    }

    /// A connection of somebody else to the same backend: another node's, best of another cluster in the same
    /// account. By default there is nobody else.
    async fn neighbour(&self) -> Option<Result<Arc<dyn Provider>>> {
        None
    }

    /// Makes a good pod one that this backend refuses for good, and returns the path of the field that is to
    /// blame. By default there is none.
    fn spoil(&self, pod: &mut Pod) -> Option<String> {
        let _ = pod;
        None
    }

    /// The last word on every pod: resource requests, annotations, whatever the backend wants to see. By default
    /// none.
    fn dress(&self, pod: &mut Pod) {
        let _ = pod;
    }
}

/// What the one container of a test pod does.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Work {
    /// Runs until it is told to stop, and ends then at once.
    Forever,
    /// Ends at once with this code.
    Exit(i32),
    /// Prints these lines at once and nothing else, then runs until it is told to stop.
    Print(Vec<String>),
    /// Prints a line, runs two seconds, and ends with this code.
    Last(i32),
    /// Prints a line each second, so many, and ends with 0. What else it prints does not matter.
    Ticks(u32),
    /// Runs until it is told to stop, takes so many seconds then, and ends with this code.
    Farewell {
        /// How long it takes to end.
        seconds: u32,
        /// The code that it ends with if it is let.
        code: i32,
    },
    /// Does not end before it is killed.
    Deaf,
    /// Prints every line that it reads from its standard input.
    Repeat,
    /// Answers on a port as [`Recipe::answers`] says.
    Serve,
}

/// How a backend is made to do some [`Work`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recipe {
    /// The image.
    pub image: String,
    /// The container's `command`; empty means the image's own.
    pub command: Vec<String>,
    /// Annotations of the pod.
    pub annotations: BTreeMap<String, String>,
    /// Whether the container has a standard input.
    pub stdin: bool,
    /// Of [`Work::Serve`]: where it listens, and what it says.
    pub answers: Option<Answers>,
}

/// A server's manners.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answers {
    /// Where it listens. One of the next port's on which nothing does.
    pub port: u16,
    /// What to send it, as a whole.
    pub request: Vec<u8>,
    /// What is in its answer to that.
    pub contains: String,
}

/// What a command in a container does.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Errand {
    /// Ends with this code.
    Exit(i32),
    /// Prints one line on each output, `out` and `err`, and ends with 0.
    Say,
    /// Prints its arguments on a line, with a space between two, each as it is.
    Echo(Vec<String>),
    /// Prints the value of this environment variable.
    Tell(String),
    /// Prints what it reads, as it comes, and ends with 0 when the input ends.
    Copy,
    /// Makes this file after so many seconds.
    Leave {
        /// How long it takes.
        seconds: u32,
        /// An absolute path.
        file: String,
    },
    /// Prints `found` if there is such a file, and nothing if not.
    Find(String),
}

/// How long the suite waits, and how often it looks.
///
/// All of it is of tokio's time: in paused time nothing takes long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// For a call to return. Retries of calls that fail for now are in it.
    pub call: Duration,
    /// For an accepted pod to run: image and all.
    pub start: Duration,
    /// For what has happened to be told, by watch and by listing.
    pub tell: Duration,
    /// For a pod to be gone once its processes have ended.
    pub stop: Duration,
    /// How long to look before it is believed that something does not happen.
    pub quiet: Duration,
    /// Between two looks.
    pub poll: Duration,
    /// How long the thread of a call may be held up at a time: of the wall's clock, and the shortest of three
    /// tries, so that a busy machine is not taken for a blocking call.
    pub block: Duration,
}

impl Patience {
    /// For a backend on the other side of a network: a minute for a call, ten for a start.
    #[must_use]
    pub fn cloud() -> Self {
        Self {
            call: Duration::from_mins(1),
            start: Duration::from_mins(10),
            tell: Duration::from_mins(2),
            stop: Duration::from_mins(3),
            quiet: Duration::from_secs(15),
            poll: Duration::from_secs(5),
            block: Duration::from_millis(200),
        }
    }

    /// For a backend on this machine, or in memory.
    #[must_use]
    pub fn local() -> Self {
        Self {
            call: Duration::from_secs(20),
            start: Duration::from_secs(30),
            tell: Duration::from_secs(10),
            stop: Duration::from_secs(15),
            quiet: Duration::from_secs(3),
            poll: Duration::from_millis(500),
            block: Duration::from_millis(200),
        }
    }

    /// What no clause takes longer than: starting, ending and starting again, with everything told in between.
    #[must_use]
    pub fn clause(&self) -> Duration {
        (self.call + self.tell) * 4 + (self.start + self.stop + self.quiet) * 2 + Duration::from_secs(30)
    }

    /// What cleaning up after a clause takes at most.
    #[must_use]
    pub fn cleanup(&self) -> Duration {
        self.call * 3 + self.stop * 2
    }
}

impl Recipe {
    /// An image's own command.
    #[must_use]
    pub fn image(image: impl Into<String>) -> Self {
        Self { image: image.into(), ..Self::default() }
    }

    /// As a POSIX shell in that image does it. `None` for [`Work::Serve`], for which there is no common command.
    #[must_use]
    pub fn shell(image: impl Into<String>, work: &Work) -> Option<Self> {
        const WAIT: &str = "sleep 100000 & wait";
        let script = match work {
            Work::Forever => format!("trap 'exit 0' TERM; {WAIT}"),
            Work::Exit(code) => format!("exit {code}"),
            Work::Print(lines) => {
                let said: Vec<String> = lines.iter().map(|line| format!("echo '{line}'; ")).collect();
                let said = said.concat();
                format!("trap 'exit 0' TERM; {said}{WAIT}")
            }
            Work::Last(code) => format!("echo once; sleep 2; exit {code}"),
            // Without a loop, which is more than some small shells know.
            Work::Ticks(count) => {
                let ticks: Vec<String> = (1..=*count).map(|n| format!("sleep 1; echo tick {n}; ")).collect();
                ticks.concat()
            }
            Work::Farewell { seconds, code } => format!("trap 'sleep {seconds}; exit {code}' TERM; {WAIT}"),
            Work::Deaf => "trap '' TERM; sleep 100000".to_owned(),
            Work::Repeat => "cat".to_owned(),
            Work::Serve => return None,
        };
        let mut recipe = Self::image(image);
        recipe.command = ["sh".to_owned(), "-c".to_owned(), script].into();
        recipe.stdin = *work == Work::Repeat;
        Some(recipe)
    }

    /// Adds an annotation.
    #[must_use]
    pub fn annotated(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.annotations.insert(key.into(), value.into());
        self
    }

    /// A server on this port that answers HTTP.
    #[must_use]
    pub fn serving_http(mut self, port: u16) -> Self {
        self.answers = Some(Answers {
            port,
            request: b"GET / HTTP/1.1\r\nHost: conformance\r\n\r\n".to_vec(),
            contains: "HTTP/1.".to_owned(),
        });
        self
    }
}

impl Errand {
    /// The command, where there is a POSIX shell.
    #[must_use]
    pub fn in_shell(&self) -> Vec<String> {
        let shell = |script: String| vec!["sh".to_owned(), "-c".to_owned(), script];
        match self {
            Self::Exit(code) => shell(format!("exit {code}")),
            Self::Say => shell("echo out; echo err >&2".to_owned()),
            Self::Echo(words) => std::iter::once("echo".to_owned()).chain(words.iter().cloned()).collect(),
            Self::Tell(name) => shell(format!("echo \"${name}\"")),
            Self::Copy => vec!["cat".to_owned()],
            Self::Leave { seconds, file } => shell(format!("sleep {seconds}; touch {file}")),
            Self::Find(file) => shell(format!("test -f {file} && echo found")),
        }
    }
}
