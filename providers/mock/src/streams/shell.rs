//! The shell: runs words, scripts, and lines as they come.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Result};

use super::commands;
use super::files::Files;
use super::io::Io;
use super::script::{self, After};

/// A process that was killed for writing where nobody reads: 128 + SIGPIPE.
const BROKEN_PIPE: i32 = 141;
/// One that was ended by ^C: 128 + SIGINT.
const INTERRUPTED: i32 = 130;

/// A shell in a container.
pub(super) struct Shell {
    pub(super) io: Io,
    pub(super) env: BTreeMap<String, String>,
    pub(super) files: Files,
    /// How the last command ended.
    last: i32,
    /// Standard output goes to standard error.
    pub(super) to_stderr: bool,
    ended: bool,
}

impl Shell {
    pub(super) fn new(io: Io, env: BTreeMap<String, String>, files: Files) -> Self {
        Self { io, env, files, last: 0, to_stderr: false, ended: false }
    }

    /// Runs a command and returns its exit code.
    pub(super) async fn run(&mut self, words: &[String]) -> i32 {
        self.try_run(words).await.unwrap_or_else(|error| match error.kind() {
            ErrorKind::Interrupted => INTERRUPTED,
            _ => BROKEN_PIPE,
        })
    }

    pub(super) async fn out(&mut self, bytes: &[u8]) -> Result<()> {
        if self.to_stderr { self.io.err(bytes).await } else { self.io.out(bytes).await }
    }

    async fn try_run(&mut self, words: &[String]) -> Result<i32> {
        let Some((program, arguments)) = words.split_first() else { return Ok(0) };
        let name = program.rsplit('/').next().unwrap_or(program);
        match name {
            "sh" | "bash" => match arguments {
                [flag, script, ..] if flag == "-c" => self.script(&script.clone()).await,
                [] => self.interactive().await,
                _ => {
                    self.io.err(b"sh: only -c is understood\n").await?;
                    Ok(2)
                }
            },
            "exit" => {
                self.ended = true;
                Ok(arguments.first().and_then(|code| code.parse::<u8>().ok()).map_or(self.last, i32::from))
            }
            _ if commands::exists(program) => commands::run(self, name, arguments).await,
            _ => {
                self.io.err(format!("sh: {program}: not found\n").as_bytes()).await?;
                Ok(127)
            }
        }
    }

    async fn script(&mut self, script: &str) -> Result<i32> {
        let steps = match script::parse(script, &self.env, self.last) {
            Ok(steps) => steps,
            Err(reason) => {
                self.io.err(format!("sh: {reason}\n").as_bytes()).await?;
                return Ok(2);
            }
        };
        for step in steps {
            let due = match step.after {
                After::Anything => true,
                After::Success => self.last == 0,
                After::Failure => self.last != 0,
            };
            if due {
                self.to_stderr = step.to_stderr;
                // A shell in a shell is as large as the first.
                self.last = Box::pin(self.try_run(&step.words)).await?;
                self.to_stderr = false;
            }
            if self.ended {
                break;
            }
        }
        Ok(self.last)
    }

    /// The next line of input, and no more than that: the rest is for the commands in it.
    async fn line(&mut self) -> Result<Vec<u8>> {
        if self.io.tty {
            return self.io.read().await;
        }
        let (mut line, mut byte) = (Vec::new(), [0]);
        while self.io.fill(&mut byte).await? == 1 {
            line.push(byte[0]);
            if byte[0] == b'\n' {
                break;
            }
        }
        Ok(line)
    }

    /// Line by line until the input ends, or `exit`.
    async fn interactive(&mut self) -> Result<i32> {
        loop {
            if self.io.tty {
                self.io.out(b"$ ").await?;
            }
            let line = match self.line().await {
                Ok(line) if line.is_empty() => return Ok(self.last),
                Ok(line) => line,
                Err(error) if error.kind() == ErrorKind::Interrupted => {
                    self.last = INTERRUPTED;
                    continue;
                }
                Err(error) => return Err(error),
            };
            self.last = match self.script(&String::from_utf8_lossy(&line)).await {
                Err(error) if error.kind() == ErrorKind::Interrupted => INTERRUPTED,
                ended => ended?,
            };
            if self.ended {
                return Ok(self.last);
            }
        }
    }
}
