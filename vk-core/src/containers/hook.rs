//! `lifecycle.postStart` and `lifecycle.preStop` (`pkg/kubelet/lifecycle/handlers.go`).

use std::time::Duration;

use k8s_openapi::api::core::v1::LifecycleHandler;

use super::command;
use super::dial::Target;
use super::probing::{Prober, http};
use super::words::whose;
use crate::provider::ExitStatus;

impl Prober {
    /// Runs a hook to its end, or until time is up.
    ///
    /// # Errors
    /// What a kubelet says of a hook that failed, for the container's status.
    pub(super) async fn hook(&self, hook: &LifecycleHandler, within: Duration) -> Result<(), String> {
        let name = &self.container.name;
        let pod = whose(&self.container.pod);
        if let Some(exec) = &hook.exec {
            let words = exec.command.clone().unwrap_or_default();
            let line = words.join(" ");
            let whose = format!("Exec lifecycle hook ([{line}]) for Container \"{name}\" in Pod \"{pod}\"");
            return match command::run(self.backend.exec(), &self.container, &words, within).await {
                Ok(Some(ended)) if ended.status == ExitStatus::Code(0) => Ok(()),
                Ok(Some(ended)) => {
                    let code = match ended.status {
                        ExitStatus::Code(code) => code.to_string(),
                        ExitStatus::Unknown => "an unknown code".to_owned(),
                    };
                    let error = String::from_utf8_lossy(&ended.stderr);
                    let said = [ended.stdout.as_slice(), ended.stderr.as_slice()].concat();
                    let said = String::from_utf8_lossy(&said);
                    Err(format!(
                        "{whose} failed - error: command '{line}' exited with {code}: {error}, message: {said:?}"
                    ))
                }
                Ok(None) => Err(format!("{whose} failed - error: command '{line}' timed out, message: \"\"")),
                Err(error) => Err(format!("{whose} failed - error: {}, message: \"\"", error.chain())),
            };
        }
        if let Some(get) = &hook.http_get {
            let path = get.path.as_deref().unwrap_or_default();
            let whose = format!("HTTP lifecycle hook ({path}) for Container \"{name}\" in Pod \"{pod}\"");
            let pod = &self.container.pod;
            let target = Target::new(pod, &self.spec, get.host.as_deref(), &get.port, &self.ips);
            let called = match target {
                Ok(target) => {
                    let request = http::Request::of(get, "kube-lifecycle/1.37");
                    let call = http::call(&self.backend, self.dial, &target, &request);
                    match tokio::time::timeout(within, call).await {
                        Ok(called) => called,
                        Err(_) => Err("context deadline exceeded".to_owned()),
                    }
                }
                Err(why) => Err(why),
            };
            return called.map_err(|why| format!("{whose} failed - error: {why}"));
        }
        if let Some(sleep) = &hook.sleep {
            let seconds = Duration::from_secs(sleep.seconds.max(0).unsigned_abs());
            tokio::time::sleep(seconds.min(within)).await;
            return if seconds > within {
                Err(format!("container {name} terminated before sleep hook finished"))
            } else {
                Ok(())
            };
        }
        Err(format!("Invalid handler: {hook:?}"))
    }
}
