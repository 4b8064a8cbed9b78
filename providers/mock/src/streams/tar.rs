//! `tar cf - PATH…` and `tar xf - [-C FOLDER]`: what `kubectl cp` runs. Regular files, in ustar with the long
//! names of GNU and pax.

use std::io::Result;

use bytes::Bytes;

use super::files::plain;
use super::shell::Shell;

const BLOCK: usize = 512;
/// Written at a time.
const CHUNK: usize = 32 * 1024;

pub(super) async fn run(shell: &mut Shell, arguments: &[String]) -> Result<i32> {
    let (mut folder, mut paths) = (String::from("/"), Vec::new());
    let mut flags = String::new();
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        match argument.as_str() {
            "-C" => folder = rest.next().cloned().unwrap_or_default(),
            "-" | "--" => {}
            flag if flags.is_empty() => flags = flag.trim_start_matches('-').to_owned(),
            path => paths.push(path.to_owned()),
        }
    }
    let done = if flags.contains('c') {
        create(shell, &folder, &paths).await?
    } else if flags.contains('x') {
        extract(shell, &folder).await?
    } else {
        Err("only c and x are understood".to_owned())
    };
    match done {
        Ok(()) => Ok(0),
        Err(reason) => {
            shell.io.err(format!("tar: {reason}\n").as_bytes()).await?;
            Ok(2)
        }
    }
}

type Done = std::result::Result<(), String>;

async fn create(shell: &mut Shell, folder: &str, paths: &[String]) -> Result<Done> {
    let mut done = Ok(());
    for path in paths {
        let found = shell.files.below(&format!("{folder}/{path}"));
        if found.is_empty() {
            done = Err(format!("{path}: Cannot stat: No such file or directory"));
        }
        for (name, bytes) in found {
            if name.len() > 100 {
                let long = format!("{name}\0");
                shell.out(&header("././@LongLink", long.len(), b'L')).await?;
                shell.out(&padded(long.as_bytes())).await?;
            }
            shell.out(&header(&name, bytes.len(), b'0')).await?;
            for chunk in bytes.chunks(CHUNK) {
                shell.out(chunk).await?;
            }
            shell.out(&vec![0; padding(bytes.len())]).await?;
        }
    }
    shell.out(&[0; BLOCK * 2]).await?;
    Ok(done)
}

fn header(name: &str, length: usize, kind: u8) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &name.as_bytes()[..name.len().min(100)]);
    put(100, b"0000644\0");
    put(108, b"0000000\0");
    put(116, b"0000000\0");
    put(124, format!("{length:011o}\0").as_bytes());
    put(136, b"00000000000\0");
    put(148, b"        ");
    put(156, &[kind]);
    put(257, b"ustar\x0000");
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}

fn padding(length: usize) -> usize {
    length.next_multiple_of(BLOCK) - length
}

fn padded(bytes: &[u8]) -> Vec<u8> {
    let mut padded = bytes.to_vec();
    padded.resize(bytes.len() + padding(bytes.len()), 0);
    padded
}

async fn extract(shell: &mut Shell, folder: &str) -> Result<Done> {
    let mut long: Option<String> = None;
    loop {
        let mut block = [0; BLOCK];
        let read = shell.io.fill(&mut block).await?;
        if read == 0 || (read == BLOCK && block.iter().all(|byte| *byte == 0)) {
            // The client's own end: what follows the archive is padding.
            while !shell.io.read().await?.is_empty() {}
            return Ok(Ok(()));
        }
        if read < BLOCK {
            return Ok(Err("Unexpected EOF in archive".to_owned()));
        }
        let Some((name, length, kind)) = entry(&block) else {
            return Ok(Err("This does not look like a tar archive".to_owned()));
        };
        if !shell.files.has_room(length) {
            return Ok(Err(format!("{name}: Cannot write: No space left on device")));
        }
        let mut content = Vec::new();
        let mut left = length + padding(length);
        // The length is believed as its bytes come.
        while left > 0 {
            let begin = content.len();
            content.resize(begin + left.min(CHUNK), 0);
            let wanted = content.len() - begin;
            if shell.io.fill(&mut content[begin..]).await? < wanted {
                return Ok(Err("Unexpected EOF in archive".to_owned()));
            }
            left -= wanted;
        }
        content.truncate(length);
        match kind {
            b'L' => long = Some(String::from_utf8_lossy(&content).trim_end_matches('\0').to_owned()),
            b'x' => long = pax_path(&content).or(long),
            b'0' | 0 => {
                let name = long.take().unwrap_or(name);
                content.shrink_to_fit();
                let path = format!("{folder}/{}", plain(&name));
                if let Err(error) = shell.files.write(&path, Bytes::from(content)) {
                    return Ok(Err(format!("{name}: Cannot write: {error}")));
                }
            }
            // Folders are what files lie in; links are left out.
            _ => long = None,
        }
    }
}

fn entry(block: &[u8; BLOCK]) -> Option<(String, usize, u8)> {
    let text = |from: usize, to: usize| {
        let field = &block[from..to];
        let end = field.iter().position(|byte| *byte == 0).unwrap_or(field.len());
        std::str::from_utf8(&field[..end]).ok()
    };
    let sum = u32::from_str_radix(text(148, 156)?.trim(), 8).ok()?;
    let plain: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    let of_field: u32 = block[148..156].iter().map(|byte| u32::from(*byte)).sum();
    if plain - of_field + 8 * u32::from(b' ') != sum {
        return None;
    }
    let length = usize::from_str_radix(text(124, 136)?.trim(), 8).ok()?;
    let (prefix, name) = (if &block[257..262] == b"ustar" { text(345, 500)? } else { "" }, text(0, 100)?);
    let name = if prefix.is_empty() { name.to_owned() } else { format!("{prefix}/{name}") };
    Some((name, length, block[156]))
}

/// The name in a pax header: lines of `LENGTH KEY=VALUE`.
fn pax_path(content: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(content).ok()?;
    text.lines().find_map(|line| line.split_once(' ')?.1.strip_prefix("path=").map(str::to_owned))
}
