//! Exec: the command, its streams, its exit code, and its end.

use std::future::Future;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::time::timeout;
use vk_core::provider::{
    ContainerExec, ContainerRef, Error, ExecIo, ExitStatus, Provider, ResolvedPod, Result as Told,
};

use crate::bench::Bench;
use crate::check::{Check, demand, fail, skip};
use crate::pods::{CANARY, Plan, unique};
use crate::subject::{Errand, Work};

/// Bytes under way in each stream.
const PIPE: usize = 64 << 10;

fn capability(provider: &dyn Provider) -> Check<&dyn ContainerExec> {
    provider.exec().map_or_else(|| skip("the provider runs no commands (Provider::exec)"), Ok)
}

/// A pod to run commands in.
async fn place(bench: &Bench) -> Check<ResolvedPod> {
    capability(&*bench.provider())?;
    bench.running(Work::Forever).await
}

/// What a command came to.
struct Ended {
    status: ExitStatus,
    out: String,
    err: String,
}

/// Runs a command to its end with nothing on its standard input.
async fn run(bench: &Bench, at: &ContainerRef, errand: &Errand) -> Check<Ended> {
    let command = bench.errand(errand)?;
    let provider = bench.provider();
    let exec = capability(&*provider)?;
    let ((out, stdout), (err, stderr)) = (tokio::io::duplex(PIPE), tokio::io::duplex(PIPE));
    let io = ExecIo::Pipes { stdin: None, stdout: Some(Box::new(stdout)), stderr: Some(Box::new(stderr)) };
    let running = exec.exec(at, &command, io);
    let session = futures::future::join3(running, text(out), text(err));
    let within = bench.patience().call + bench.patience().tell;
    match timeout(within, session).await {
        Ok((Ok(status), out, err)) => Ok(Ended { status, out, err }),
        Ok((Err(error), ..)) => fail(format!("exec of {command:?} failed: {}", error.chain())),
        Err(_) => fail(format!("exec of {command:?} and its outputs have not ended within {within:?}")),
    }
}

async fn text(mut stream: DuplexStream) -> String {
    let mut bytes = Vec::new();
    // What came before a failure is what there is.
    let _ = stream.read_to_end(&mut bytes).await;
    String::from_utf8_lossy(&bytes).into_owned()
}

/// A command's exit code is its own, also if it is not zero.
pub async fn a_commands_exit_code_is_its_own(bench: &Bench) -> Check {
    let pod = place(bench).await?;
    for code in [0, 7] {
        let ended = run(bench, &bench.main(&pod), &Errand::Exit(code)).await?;
        demand!(
            ended.status == ExitStatus::Code(code),
            "it ended with {code}, and exec says {:?}",
            ended.status
        );
    }
    Ok(())
}

/// A command's output has arrived when exec says that it has ended.
pub async fn a_commands_output_arrives(bench: &Bench) -> Check {
    let pod = place(bench).await?;
    let ended = run(bench, &bench.main(&pod), &Errand::Say).await?;
    let all = format!("{}{}", ended.out, ended.err);
    demand!(all.contains("out"), "it printed `out`, and {all:?} arrived");
    Ok(())
}

/// Standard output and standard error are kept apart.
pub async fn a_commands_outputs_are_kept_apart(bench: &Bench) -> Check {
    let pod = place(bench).await?;
    let ended = run(bench, &bench.main(&pod), &Errand::Say).await?;
    demand!(
        !ended.out.contains("err") && ended.err.trim_end() == "err",
        "it printed `err` on its standard error; there is {:?} on that, and {:?} on the other",
        ended.err,
        ended.out
    );
    Ok(())
}

/// A command's arguments reach it as they are.
pub async fn a_commands_arguments_are_kept(bench: &Bench) -> Check {
    let pod = place(bench).await?;
    let words = ["a  b", "'c'", "$HOME", ""].map(str::to_owned).to_vec();
    let expected = words.join(" ");
    let ended = run(bench, &bench.main(&pod), &Errand::Echo(words)).await?;
    let has = ended.out.trim_end_matches(['\r', '\n']);
    demand!(has.trim_end() == expected.trim_end(), "its arguments were {expected:?}, and it had {has:?}");
    Ok(())
}

/// A command has the environment of its container, secrets among it.
pub async fn a_command_has_its_containers_environment(bench: &Bench) -> Check {
    capability(&*bench.provider())?;
    let value = unique("value");
    let pod = bench.run(&Plan::of(Work::Forever).knowing(&value)).await?;
    let ended = run(bench, &bench.main(&pod), &Errand::Tell(CANARY.to_owned())).await?;
    demand!(
        ended.out.trim() == value,
        "{CANARY} is {value} in its container, and it printed {:?}",
        ended.out
    );
    Ok(())
}

/// Starts a copying command, and hands its input, its output and its end to a test.
async fn copying<F, T>(
    bench: &Bench,
    test: impl FnOnce(DuplexStream, DuplexStream) -> F,
) -> Check<(Option<Told<ExitStatus>>, T)>
where
    F: Future<Output = Check<T>>,
{
    let pod = place(bench).await?;
    let command = bench.errand(&Errand::Copy)?;
    let provider = bench.provider();
    let exec = capability(&*provider)?;
    let ((input, stdin), (output, stdout)) = (tokio::io::duplex(PIPE), tokio::io::duplex(PIPE));
    let io = ExecIo::Pipes { stdin: Some(Box::new(stdin)), stdout: Some(Box::new(stdout)), stderr: None };
    let main = bench.main(&pod);
    let mut running = std::pin::pin!(exec.exec(&main, &command, io));
    let mut test = std::pin::pin!(test(input, output));
    let mut ended = None;
    loop {
        tokio::select! {
            status = &mut running, if ended.is_none() => ended = Some(status),
            tested = &mut test => return Ok((ended, tested?)),
        }
    }
}

/// What is written to a command's input reaches it at once, before the input ends.
pub async fn a_commands_input_reaches_it(bench: &Bench) -> Check {
    let within = bench.patience().tell;
    copying(bench, |mut input, mut output| async move {
        let mut had = [0; 5];
        let session = async {
            input.write_all(b"ping\n").await.ok()?;
            output.read_exact(&mut had).await.ok()
        };
        let came = timeout(within, session).await.is_ok_and(|read| read.is_some()) && &had == b"ping\n";
        demand!(came, "`ping` was written to a command that copies, and has not come back within {within:?}");
        drop(input);
        Ok(())
    })
    .await?;
    Ok(())
}

/// The end of a command's input reaches it, and its output is whole all the same.
pub async fn the_end_of_a_commands_input_reaches_it(bench: &Bench) -> Check {
    let within = bench.patience().tell;
    copying(bench, |mut input, output| async move {
        // A command that takes no input is another clause's.
        let _ = input.write_all(b"ping\n").await;
        drop(input);
        let ended = timeout(within, text(output)).await.is_ok();
        demand!(ended, "its input has ended, and the command that reads it has not within {within:?}");
        Ok(())
    })
    .await?;
    Ok(())
}

/// A command in a container that the pod does not have is `NotFound`.
pub async fn a_command_in_an_unknown_container_is_not_found(bench: &Bench) -> Check {
    let pod = place(bench).await?;
    let command = bench.errand(&Errand::Exit(0))?;
    let provider = bench.provider();
    let exec = capability(&*provider)?;
    let io = ExecIo::Pipes { stdin: None, stdout: None, stderr: None };
    let nobody = pod.pod.container("nobody");
    match bench.attempt("exec", exec.exec(&nobody, &command, io)).await? {
        Err(Error::NotFound { .. }) => Ok(()),
        Err(error) => fail(format!("the error is {}: {}", error.reason(), error.chain())),
        Ok(status) => fail(format!("the pod has no such container, and the command ended with {status:?}")),
    }
}

/// A command whose exec was dropped ends.
pub async fn a_dropped_exec_ends_its_command(bench: &Bench) -> Check {
    let pod = place(bench).await?;
    let file = format!("/tmp/{}", unique("left"));
    let seconds = 3;
    let command = bench.errand(&Errand::Leave { seconds, file: file.clone() })?;
    let finds = Errand::Find(file);
    bench.errand(&finds)?;
    // A file that is never there would show nothing.
    let left = format!("/tmp/{}", unique("kept"));
    run(bench, &bench.main(&pod), &Errand::Leave { seconds: 1, file: left.clone() }).await?;
    let found = run(bench, &bench.main(&pod), &Errand::Find(left)).await?.out;
    demand!(found.contains("found"), "a command made a file, and the next one in its container finds none");
    let provider = bench.provider();
    let exec = capability(&*provider)?;
    let io = ExecIo::Pipes { stdin: None, stdout: None, stderr: None };
    let main = bench.main(&pod);
    let ended = timeout(Duration::from_secs(1), exec.exec(&main, &command, io)).await;
    demand!(ended.is_err(), "a command that takes {seconds} s ended at once: {ended:?}");
    tokio::time::sleep(Duration::from_secs(u64::from(seconds) * 2)).await;
    // By its output rather than its exit code, which is another clause's.
    let found = run(bench, &main, &finds).await?.out;
    demand!(!found.contains("found"), "its exec was dropped, and the command went on to its end");
    Ok(())
}

/// A command ends with its container.
pub async fn a_command_ends_with_its_container(bench: &Bench) -> Check {
    let pod = place(bench).await?;
    let file = format!("/tmp/{}", unique("never"));
    let command = bench.errand(&Errand::Leave { seconds: 3600, file })?;
    let provider = bench.provider();
    let exec = capability(&*provider)?;
    let io = ExecIo::Pipes { stdin: None, stdout: None, stderr: None };
    let main = bench.main(&pod);
    let within = bench.patience().stop + bench.patience().tell;
    let running = timeout(within + Duration::from_secs(1), exec.exec(&main, &command, io));
    let stopping = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        bench.delete(&pod.pod, Duration::ZERO).await
    };
    let (ended, deleted) = futures::future::join(running, stopping).await;
    deleted?;
    demand!(ended.is_ok(), "its container was stopped, and exec has not returned within {within:?}");
    Ok(())
}
