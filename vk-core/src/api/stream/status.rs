//! How an exec or attach ended, as its client is told.

use serde_json::{Value, json};

use crate::provider::{Error, ExitStatus};

/// The end of a session.
#[derive(Debug)]
pub(super) enum Outcome {
    /// The command ended.
    Exited { command: Vec<String>, status: ExitStatus },
    /// An attached client was detached, or the process ended: attach tells no exit codes.
    Detached,
    /// It could not be done.
    Failed {
        /// `error executing command in container`, or its like.
        what: &'static str,
        reason: String,
    },
}

impl Outcome {
    pub(super) fn failed(what: &'static str, error: &Error) -> Self {
        Self::Failed { what, reason: error.chain() }
    }

    /// What is written to the error stream: a `metav1.Status` from version 4 on, and before that the text of
    /// a failure.
    pub(super) fn to_wire(&self, with_status: bool) -> Vec<u8> {
        let status = self.status();
        if with_status {
            return status.to_string().into_bytes();
        }
        match status["status"].as_str() {
            Some("Success") => Vec::new(),
            _ => status["message"].as_str().unwrap_or_default().as_bytes().to_vec(),
        }
    }

    fn status(&self) -> Value {
        match self {
            // A backend that can't tell is not accused: its users see what the command said.
            Self::Detached | Self::Exited { status: ExitStatus::Unknown | ExitStatus::Code(0), .. } => {
                json!({ "metadata": {}, "status": "Success" })
            }
            Self::Exited { command, status: ExitStatus::Code(code) } => {
                // Clients read 8 bits, and take what they can't read for success.
                let code = u8::try_from(*code).unwrap_or(u8::MAX);
                let command = command.join(" ");
                json!({
                    "metadata": {},
                    "status": "Failure",
                    "message": format!(
                        "command terminated with non-zero exit code: error executing command [{command}], exit code {code}"
                    ),
                    "reason": "NonZeroExitCode",
                    "details": { "causes": [{ "reason": "ExitCode", "message": code.to_string() }] },
                })
            }
            Self::Failed { what, reason } => {
                let message = format!("{what}: {reason}");
                json!({
                    "metadata": {},
                    "status": "Failure",
                    "message": format!("Internal error occurred: {message}"),
                    "reason": "InternalError",
                    "details": { "causes": [{ "message": message }] },
                    "code": 500,
                })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exited(code: i32) -> Outcome {
        let command = ["sh", "-c", "exit 7"].map(str::to_owned).into();
        Outcome::Exited { command, status: ExitStatus::Code(code) }
    }

    /// Bodies as recorded from Kubernetes 1.37.
    #[test]
    fn a_status_is_what_a_kubelet_writes() {
        assert_eq!(exited(0).status(), json!({"metadata": {}, "status": "Success"}));
        let message =
            "command terminated with non-zero exit code: error executing command [sh -c exit 7], exit code 7";
        let seven = json!({
            "metadata": {}, "status": "Failure", "reason": "NonZeroExitCode", "message": message,
            "details": {"causes": [{"reason": "ExitCode", "message": "7"}]},
        });
        assert_eq!(exited(7).status(), seven);
        assert_eq!(exited(7).to_wire(false), message.as_bytes());
        assert!(exited(0).to_wire(false).is_empty());
        let error = Error::unavailable("the backend is down");
        let failed = Outcome::failed("error executing command in container", &error).status();
        let text = "error executing command in container: the backend is down";
        assert_eq!(failed["message"], format!("Internal error occurred: {text}"));
        assert_eq!(
            (&failed["code"], &failed["details"]["causes"][0]["message"]),
            (&json!(500), &json!(text))
        );
    }

    #[test]
    fn an_exit_code_is_eight_bits_and_never_zero_for_a_failure() {
        for (code, told) in [(1, "1"), (255, "255"), (256, "255"), (-1, "255"), (137, "137")] {
            assert_eq!(exited(code).status()["details"]["causes"][0]["message"], told, "{code}");
        }
    }
}
