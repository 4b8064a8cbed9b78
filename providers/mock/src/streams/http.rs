//! An HTTP/1.1 server on a forwarded port: answers a request with what it was, and a body with itself.

use std::io::Result;

use tokio::io::{
    AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader,
};
use vk_core::provider::PodRef;

/// Bytes of a request's head.
const HEAD: u64 = 16 * 1024;

/// Answers requests until the client has no more.
pub(super) async fn serve<S: AsyncRead + AsyncWrite + Unpin>(socket: S, pod: PodRef, port: u16) {
    let mut socket = BufReader::new(socket);
    while let Ok(true) = answer(&mut socket, &pod, port).await {}
    let _ = socket.shutdown().await;
}

/// Answers a request; whether there may be another.
async fn answer<S: AsyncRead + AsyncWrite + Unpin>(
    socket: &mut BufReader<S>,
    pod: &PodRef,
    port: u16,
) -> Result<bool> {
    let (mut line, mut length, mut close) = (String::new(), None, false);
    let mut head = socket.take(HEAD);
    head.read_line(&mut line).await?;
    let request = line.trim_end().to_owned();
    if request.is_empty() {
        return Ok(false);
    }
    loop {
        line.clear();
        head.read_line(&mut line).await?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.trim().parse::<u64>().ok(),
            "connection" => close = value.trim().eq_ignore_ascii_case("close"),
            _ => {}
        }
    }
    let end = if close { "Connection: close\r\n" } else { "" };
    let Some(length) = length.filter(|length| *length > 0) else {
        let body = format!("{request}\nHello from port {port} of {pod}\n");
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n{end}\r\n",
            body.len()
        );
        socket.write_all(head.as_bytes()).await?;
        socket.write_all(body.as_bytes()).await?;
        socket.flush().await?;
        return Ok(!close);
    };
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n{end}\r\n");
    socket.write_all(head.as_bytes()).await?;
    let (mut left, mut chunk) = (length, vec![0; 32 * 1024]);
    while left > 0 {
        let wanted = usize::try_from(left).unwrap_or(usize::MAX).min(chunk.len());
        let read = socket.read(&mut chunk[..wanted]).await?;
        if read == 0 {
            return Ok(false);
        }
        socket.write_all(&chunk[..read]).await?;
        left -= read as u64;
    }
    socket.flush().await?;
    Ok(!close)
}
