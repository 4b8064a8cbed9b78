//! A command's streams.

use std::io::{Error, ErrorKind, Result};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::mpsc;
use vk_core::provider::{ExecIo, Reader, TerminalSize, Writer};

/// Read at a time.
const READ: usize = 32 * 1024;

/// Input, outputs and window of a command.
pub(super) struct Io {
    stdin: Option<Reader>,
    keys: Keys,
    out: Option<Writer>,
    err: Option<Writer>,
    /// There is a terminal, which has one output.
    pub(super) tty: bool,
    resize: Option<mpsc::Receiver<TerminalSize>>,
    size: TerminalSize,
}

impl Io {
    pub(super) fn new(io: ExecIo) -> Self {
        let size = TerminalSize { width: 80, height: 24 };
        match io {
            ExecIo::Tty { stdin, output, resize } => Self {
                stdin,
                keys: Keys::default(),
                out: Some(output),
                err: None,
                tty: true,
                resize: Some(resize),
                size,
            },
            ExecIo::Pipes { stdin, stdout, stderr } => Self {
                stdin,
                keys: Keys::default(),
                out: stdout,
                err: stderr,
                tty: false,
                resize: None,
                size,
            },
        }
    }

    /// Up to [`READ`] bytes of input; none at its end. Of a terminal, a line.
    pub(super) async fn read(&mut self) -> Result<Vec<u8>> {
        if self.tty {
            return self.line().await;
        }
        self.receive().await
    }

    async fn receive(&mut self) -> Result<Vec<u8>> {
        let Some(stdin) = &mut self.stdin else { return Ok(Vec::new()) };
        let mut bytes = Vec::with_capacity(READ);
        stdin.read_buf(&mut bytes).await?;
        Ok(bytes)
    }

    /// Exactly so many bytes of input, or as many as there are. Not of a terminal.
    pub(super) async fn fill(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let Some(stdin) = &mut self.stdin else { return Ok(0) };
        let mut filled = 0;
        while filled < buffer.len() {
            match stdin.read(&mut buffer[filled..]).await? {
                0 => break,
                read => filled += read,
            }
        }
        Ok(filled)
    }

    /// A line that was typed, with its end; what there is of it at the end of the input. [`ErrorKind::Interrupted`]
    /// after ^C.
    async fn line(&mut self) -> Result<Vec<u8>> {
        let mut line = Vec::new();
        loop {
            if self.keys.next == self.keys.typed.len() {
                self.keys = Keys { typed: self.receive().await?, next: 0 };
                if self.keys.typed.is_empty() {
                    return Ok(line);
                }
            }
            let (mut shown, mut done) = (Vec::new(), None);
            while done.is_none()
                && let Some(key) = self.keys.typed.get(self.keys.next)
            {
                self.keys.next += 1;
                match key {
                    b'\r' | b'\n' => {
                        line.push(b'\n');
                        shown.push(b'\n');
                        done = Some(Ok(()));
                    }
                    0x03 => {
                        shown.extend_from_slice(b"^C\n");
                        done = Some(Err(ErrorKind::Interrupted));
                    }
                    0x04 => done = Some(Ok(())),
                    0x7f | 0x08 => {
                        if line.pop().is_some() {
                            shown.extend_from_slice(b"\x08 \x08");
                        }
                    }
                    key => {
                        line.push(*key);
                        shown.push(*key);
                    }
                }
            }
            self.out(&shown).await?;
            match done {
                Some(Ok(())) => return Ok(line),
                Some(Err(kind)) => return Err(kind.into()),
                // A line longer than that is nobody's.
                None if line.len() > READ => return Ok(line),
                None => {}
            }
        }
    }

    pub(super) async fn out(&mut self, bytes: &[u8]) -> Result<()> {
        write(&mut self.out, bytes, self.tty).await
    }

    pub(super) async fn err(&mut self, bytes: &[u8]) -> Result<()> {
        let stream = if self.tty { &mut self.out } else { &mut self.err };
        write(stream, bytes, self.tty).await
    }

    /// The window's size, after waiting for the first.
    pub(super) async fn size(&mut self) -> Result<TerminalSize> {
        let resize = self.resize.as_mut();
        let resize = resize.ok_or_else(|| Error::new(ErrorKind::Unsupported, "standard input: not a tty"))?;
        if let Ok(Some(size)) = tokio::time::timeout(std::time::Duration::from_secs(1), resize.recv()).await {
            self.size = size;
        }
        while let Ok(size) = resize.try_recv() {
            self.size = size;
        }
        Ok(self.size)
    }

    /// The next size of the window; `None` once the client sends no more.
    pub(super) async fn resized(&mut self) -> Option<TerminalSize> {
        self.resize.as_mut()?.recv().await
    }
}

/// What was typed and not yet taken.
#[derive(Default)]
struct Keys {
    typed: Vec<u8>,
    next: usize,
}

async fn write(stream: &mut Option<Writer>, bytes: &[u8], tty: bool) -> Result<()> {
    let Some(stream) = stream else { return Ok(()) };
    if !tty {
        return stream.write_all(bytes).await;
    }
    // What a terminal's driver does with the end of a line.
    for line in bytes.split_inclusive(|byte| *byte == b'\n') {
        match line.strip_suffix(b"\n") {
            Some(line) => {
                stream.write_all(line).await?;
                stream.write_all(b"\r\n").await?;
            }
            None => stream.write_all(line).await?,
        }
    }
    Ok(())
}
