//! `kubectl attach`.

use kube::api::AttachParams;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

use crate::bed::Bed;
use crate::calls::{CALL, lacks};
use crate::stop::{Checked, Stop};
use crate::workload::Script;

/// An attached client talks to the container's process.
pub async fn an_attached_client_talks_to_the_process(bed: &Bed) -> Checked {
    let script = Script::reads().with("env", json!([{"name": "WORD", "value": "it"}]));
    bed.start("listens", &bed.workload().running("app", &script)).await?;
    let params = AttachParams { stdin: true, stdout: true, stderr: true, ..AttachParams::default() };
    let mut session = match timeout(CALL, bed.pods().attach("listens", &params)).await {
        Ok(session) => session.map_err(|error| lacks("attach", error))?,
        Err(_) => return Err(Stop::failed(format!("the session did not begin within {CALL:?}"))),
    };
    let (Some(mut input), Some(mut output)) = (session.stdin(), session.stdout()) else {
        return Err(Stop::failed("the session has no streams"));
    };
    let mut read = String::new();
    let talk = async {
        // What the process makes of the line, and not an echo of it.
        input.write_all(b"echo heard-$WORD\n").await.map_err(|error| error.to_string())?;
        let mut bytes = [0; 1024];
        loop {
            let count = output.read(&mut bytes).await.map_err(|error| error.to_string())?;
            if count == 0 {
                return Err("the session ended".to_owned());
            }
            read.push_str(&String::from_utf8_lossy(&bytes[..count]));
            if read.contains("heard-it") {
                return Ok(());
            }
        }
    };
    match timeout(CALL, talk).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(why)) => Err(Stop::failed(format!("{why}; the output was {read:?}"))),
        Err(_) => {
            Err(Stop::failed(format!("the shell did not answer within {CALL:?}; the output was {read:?}")))
        }
    }
}
