//! The programs of the container.

use std::io::Result;
use std::time::Duration;

use super::shell::Shell;
use super::tar;

const NAMES: [&str; 20] = [
    "touch", "sh", "bash", "echo", "cat", "env", "printenv", "true", "false", "sleep", "stty", "resize",
    "bytes", "tar", "test", "ls", "rm", "wc", "hostname", "exit",
];
/// Written at a time by the generator.
const CHUNK: usize = 32 * 1024;

/// Whether there is a program of that name.
pub(super) fn exists(program: &str) -> bool {
    let name = program.strip_prefix("/bin/").or(program.strip_prefix("/usr/bin/")).unwrap_or(program);
    NAMES.contains(&name)
}

/// Runs a program that is not the shell's own.
pub(super) async fn run(shell: &mut Shell, name: &str, arguments: &[String]) -> Result<i32> {
    match name {
        "echo" => {
            let (bare, words) = match arguments {
                [flag, words @ ..] if flag == "-n" => (true, words),
                words => (false, words),
            };
            let line = format!("{}{}", words.join(" "), if bare { "" } else { "\n" });
            shell.out(line.as_bytes()).await?;
        }
        "cat" if arguments.is_empty() => loop {
            let bytes = shell.io.read().await?;
            if bytes.is_empty() {
                break;
            }
            shell.out(&bytes).await?;
        },
        "cat" => return cat(shell, arguments).await,
        "env" | "printenv" => {
            let all = lines(shell.env.iter().map(|(name, value)| format!("{name}={value}")));
            shell.out(all.as_bytes()).await?;
        }
        "false" => return Ok(1),
        "hostname" => {
            let name = shell.env.get("HOSTNAME").cloned().unwrap_or_default();
            shell.out(format!("{name}\n").as_bytes()).await?;
        }
        "sleep" => {
            let seconds = arguments.first().and_then(|seconds| seconds.parse::<f64>().ok());
            let Some(time) = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()) else {
                return complain(shell, "sleep: invalid time interval").await;
            };
            tokio::time::sleep(time).await;
        }
        "stty" => match shell.io.size().await {
            Ok(size) => shell.out(format!("{} {}\n", size.height, size.width).as_bytes()).await?,
            Err(error) => return complain(shell, &format!("stty: {error}")).await,
        },
        // Every size of the window, until the client sends no more.
        "resize" => {
            while let Some(size) = shell.io.resized().await {
                shell.out(format!("{}x{}\n", size.width, size.height).as_bytes()).await?;
            }
        }
        "bytes" => return bytes(shell, arguments).await,
        "tar" => return tar::run(shell, arguments).await,
        "test" => return Ok(test(shell, arguments)),
        "ls" => {
            let names = shell.files.list(arguments.first().map_or("/", String::as_str));
            shell.out(lines(names).as_bytes()).await?;
        }
        "rm" => {
            for path in arguments.iter().filter(|path| !path.starts_with('-')) {
                shell.files.remove(path);
            }
        }
        "touch" => {
            for path in arguments.iter().filter(|path| shell.files.read(path).is_none()) {
                if let Err(error) = shell.files.write(path, bytes::Bytes::new()) {
                    return complain(shell, &format!("touch: {path}: {error}")).await;
                }
            }
        }
        "wc" => {
            let mut count = 0;
            loop {
                match shell.io.read().await?.len() {
                    0 => break,
                    read => count += read,
                }
            }
            shell.out(format!("{count}\n").as_bytes()).await?;
        }
        _ => {}
    }
    Ok(0)
}

/// Each text on a line of its own.
fn lines(texts: impl IntoIterator<Item = String>) -> String {
    texts.into_iter().fold(String::new(), |all, text| all + &text + "\n")
}

async fn complain(shell: &mut Shell, text: &str) -> Result<i32> {
    shell.io.err(format!("{text}\n").as_bytes()).await?;
    Ok(1)
}

async fn cat(shell: &mut Shell, paths: &[String]) -> Result<i32> {
    let mut code = 0;
    for path in paths {
        match shell.files.read(path) {
            Some(bytes) => {
                for chunk in bytes.chunks(CHUNK) {
                    shell.out(chunk).await?;
                }
            }
            None => code = complain(shell, &format!("cat: {path}: No such file or directory")).await?,
        }
    }
    Ok(code)
}

/// `bytes N`: so many bytes, of which byte i is i mod 251, so that a lost piece shows.
async fn bytes(shell: &mut Shell, arguments: &[String]) -> Result<i32> {
    let Some(count) = arguments.first().and_then(|count| count.parse::<u64>().ok()) else {
        return complain(shell, "bytes: how many?").await;
    };
    let pattern: Vec<u8> = (0..CHUNK + 251).map(|at| (at % 251) as u8).collect();
    let mut sent = 0;
    while sent < count {
        let length = usize::try_from(count - sent).unwrap_or(CHUNK).min(CHUNK);
        let start = (sent % 251) as usize;
        shell.out(&pattern[start..start + length]).await?;
        sent += length as u64;
    }
    Ok(0)
}

/// `-d`, `-e` and `-f`.
fn test(shell: &Shell, arguments: &[String]) -> i32 {
    let holds = match arguments {
        [flag, path] if flag == "-d" => shell.files.is_folder(path),
        [flag, path] if flag == "-f" => shell.files.read(path).is_some(),
        [flag, path] if flag == "-e" => shell.files.is_folder(path) || shell.files.read(path).is_some(),
        _ => return 2,
    };
    i32::from(!holds)
}
