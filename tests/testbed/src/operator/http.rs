//! One GET of a page of the operator's own server.

use anyhow::{Context as _, Result};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// The status and the body of `path` on a port of the loopback address. By HTTP/1.0, whose answers end with the
/// connection and are never in chunks.
pub(super) async fn get(port: u16, path: &str) -> Result<(u16, String)> {
    let what = || format!("GET http://127.0.0.1:{port}{path}");
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.with_context(what)?;
    let request = format!("GET {path} HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n");
    stream.write_all(request.as_bytes()).await.with_context(what)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.with_context(what)?;
    let (head, body) = answer.split_once("\r\n\r\n").with_context(what)?;
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    Ok((status.with_context(what)?, body.to_owned()))
}
