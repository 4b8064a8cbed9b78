//! Running programs and scripts, on tokio's clock.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::io::AsyncReadExt;
use tokio::sync::mpsc::UnboundedSender;
use tokio::time::Instant;
use vk_core::provider::Reader;

use super::process::{Ended, Output, Process};
use super::program::{After, Command, Redirect, Step, parse};
use super::serve;

/// What it knows.
const PROGRAMS: [&str; 20] = [
    "sh", "tool", "echo", "printf", "sleep", "exit", "true", "false", "touch", "rm", "cat", "test", "[",
    "env", "hostname", "trap", "wait", "exec", "dd", "id",
];

/// A shell, or a program that is run without one.
pub(super) struct Shell {
    process: Arc<Process>,
    /// Of a command beside the container's own program: where its output goes.
    aside: Option<UnboundedSender<(Output, Vec<u8>)>>,
    /// Of such a command: its standard input. Locked only so that a shell can be shared.
    input: Mutex<Option<Reader>>,
    /// What `trap … TERM` has set.
    trap: Option<String>,
    /// When what runs beside has ended.
    beside: Option<Instant>,
    last: i32,
    ended: Option<Ended>,
}

impl Shell {
    pub(super) fn new(process: Arc<Process>, aside: Option<UnboundedSender<(Output, Vec<u8>)>>) -> Self {
        Self { process, aside, input: Mutex::default(), trap: None, beside: None, last: 0, ended: None }
    }

    /// With a standard input.
    pub(super) fn reading(mut self, input: Option<Reader>) -> Self {
        self.input = Mutex::new(input);
        self
    }

    pub(super) fn knows(program: &str) -> bool {
        PROGRAMS.contains(&program)
    }

    /// Runs a program to its end.
    pub(super) async fn program(&mut self, words: &[String]) -> Ended {
        let code = self.simple(words, None).await;
        self.ended.unwrap_or(Ended { code, oom: false })
    }

    fn look(&self, name: &str) -> String {
        if name == "?" {
            return self.last.to_string();
        }
        let variable = self.process.spec.env.iter().find(|variable| variable.name == name);
        variable.map(|variable| variable.value.expose().to_owned()).unwrap_or_default()
    }

    fn write(&self, out: Option<&Redirect>, to: Output, bytes: &[u8]) {
        let to = match out {
            Some(Redirect::Write(file)) if to == Output::Stdout => {
                return self.process.files.write(file, bytes);
            }
            Some(Redirect::Append(file)) if to == Output::Stdout => {
                return self.process.files.append(file, bytes);
            }
            Some(Redirect::Stderr) => Output::Stderr,
            _ => to,
        };
        match &self.aside {
            Some(sender) => drop(sender.send((to, bytes.to_vec()))),
            None => self.process.write(to, bytes),
        }
    }

    async fn script(&mut self, script: &str) -> i32 {
        let look = |name: &str| self.look(name);
        let steps = match parse(script, &look) {
            Ok(steps) => steps,
            Err(why) => {
                self.write(None, Output::Stderr, format!("sh: {why}\n").as_bytes());
                return 2;
            }
        };
        self.steps(&steps).await
    }

    /// Boxed: a list may have lists in it.
    fn steps<'a>(&'a mut self, steps: &'a [Step]) -> BoxFuture<'a, i32> {
        Box::pin(async move {
            for step in steps {
                let due = match step.after {
                    After::Anything => true,
                    After::Success => self.last == 0,
                    After::Failure => self.last != 0,
                };
                if due {
                    self.last = match &step.command {
                        Command::If { test, then, otherwise } => {
                            let passed = self.steps(test).await == 0;
                            if self.ended.is_some() {
                                self.last
                            } else {
                                self.last = 0;
                                self.steps(if passed { then } else { otherwise }).await
                            }
                        }
                        Command::Simple { words, .. } if step.beside => {
                            self.beside = Some(Instant::now() + length(words));
                            0
                        }
                        Command::Simple { words, out } => self.simple(words, out.as_ref()).await,
                    };
                }
                self.heed_term().await;
                if self.ended.is_some() {
                    break;
                }
            }
            self.last
        })
    }

    /// SIGTERM is heeded between two commands, as a shell does.
    async fn heed_term(&mut self) {
        if self.aside.is_none()
            && *self.process.term.borrow()
            && let Some(trap) = self.trap.take()
        {
            self.last = Box::pin(self.script(&trap)).await;
        }
    }

    async fn simple(&mut self, words: &[String], out: Option<&Redirect>) -> i32 {
        let Some((program, arguments)) = words.split_first() else { return 0 };
        let name = program.rsplit('/').next().unwrap_or(program);
        let first = arguments.first().map_or("", String::as_str);
        match name {
            "sh" => match arguments {
                [flag, script, ..] if flag == "-c" => Box::pin(self.script(&script.clone())).await,
                _ => 2,
            },
            "exec" => {
                let code = Box::pin(self.simple(arguments, out)).await;
                self.ended.get_or_insert(Ended { code, oom: false });
                code
            }
            "exit" => {
                let code = first.parse().unwrap_or(self.last);
                self.ended = Some(Ended { code, oom: false });
                code
            }
            "trap" => {
                self.trap = Some(first.to_owned());
                0
            }
            "wait" => {
                let until = self.beside.unwrap_or_else(Instant::now);
                let mut term = self.process.term.subscribe();
                let heard = self.trap.is_some();
                tokio::select! {
                    () = tokio::time::sleep_until(until) => 0,
                    _ = term.wait_for(|term| *term), if heard => 143,
                }
            }
            "sleep" => {
                tokio::time::sleep(length(words)).await;
                0
            }
            "true" | "id" | "dd" => 0,
            "false" => 1,
            "echo" => {
                self.write(out, Output::Stdout, (arguments.join(" ") + "\n").as_bytes());
                0
            }
            "printf" => {
                self.write(out, Output::Stdout, first.replace("\\n", "\n").as_bytes());
                0
            }
            "hostname" => {
                let host = format!("{}\n", self.process.spec.run.container.pod.name);
                self.write(out, Output::Stdout, host.as_bytes());
                0
            }
            "env" => {
                let lines = self.process.spec.env.iter();
                let text =
                    lines.fold(String::new(), |text, v| text + &v.name + "=" + v.value.expose() + "\n");
                self.write(out, Output::Stdout, text.as_bytes());
                0
            }
            "touch" => {
                for file in arguments {
                    self.process.files.append(file, b"");
                }
                0
            }
            "rm" => i32::from(!arguments.iter().all(|file| self.process.files.remove(file))),
            "cat" if arguments.is_empty() => self.copy(out).await,
            "cat" => self.cat(arguments, out),
            "test" | "[" => i32::from(!match arguments {
                [flag, file, ..] if flag == "-f" => self.process.files.read(file).is_some(),
                _ => false,
            }),
            "tool" => self.tool(arguments, out).await,
            _ => {
                self.write(None, Output::Stderr, format!("sh: {program}: not found\n").as_bytes());
                127
            }
        }
    }

    /// Prints what it reads, as it comes.
    async fn copy(&mut self, out: Option<&Redirect>) -> i32 {
        let input = self.input.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        let Some(mut input) = input else { return 0 };
        let mut part = vec![0; 8 << 10];
        while let Ok(read @ 1..) = input.read(&mut part).await {
            self.write(out, Output::Stdout, &part[..read]);
        }
        0
    }

    fn cat(&self, names: &[String], out: Option<&Redirect>) -> i32 {
        let mut code = 0;
        for name in names {
            if let Some(content) = self.process.files.read(name) {
                self.write(out, Output::Stdout, &content);
            } else {
                let why = format!("cat: can't open '{name}': No such file or directory\n");
                self.write(None, Output::Stderr, why.as_bytes());
                code = 1;
            }
        }
        code
    }

    async fn tool(&mut self, arguments: &[String], out: Option<&Redirect>) -> i32 {
        match arguments.first().map(String::as_str) {
            Some("serve") | None => {
                let flags = arguments.get(1..).unwrap_or_default();
                let ended = serve::serve(&self.process, flags).await;
                self.process.listen(false);
                ended.code
            }
            Some("oom") => {
                // It takes a moment to use up the memory.
                tokio::time::sleep(Duration::from_millis(500)).await;
                self.ended = Some(Ended { code: super::process::KILLED, oom: true });
                super::process::KILLED
            }
            Some("fill") => {
                let length = arguments.get(1).and_then(|n| n.parse::<usize>().ok()).unwrap_or(0).min(1 << 20);
                let text: Vec<u8> = (b'a'..=b'z').cycle().take(length).collect();
                self.write(out, Output::Stdout, &text);
                0
            }
            Some(_) => 2,
        }
    }
}

/// How long a `sleep` takes.
fn length(words: &[String]) -> Duration {
    let number = words.get(1).and_then(|word| word.parse::<f64>().ok()).unwrap_or(0.0);
    Duration::try_from_secs_f64(number).unwrap_or(Duration::ZERO)
}
