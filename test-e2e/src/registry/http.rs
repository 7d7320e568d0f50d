//! One HTTP/1.1 request over a connection of its own: enough for a registry's upload API, and no more.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use crate::image::Format;

/// An answer.
#[derive(Debug)]
pub struct Response {
    /// The status code.
    pub status: u16,
    headers: Vec<(String, String)>,
    /// The body, as far as the server sent one.
    pub body: Vec<u8>,
}

impl Response {
    /// A header's value; `name` in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The answer itself if it has this status, else an error with the server's words.
    pub fn expect(self, status: u16) -> io::Result<Response> {
        if self.status == status {
            return Ok(self);
        }
        Err(io::Error::other(format!("HTTP {}: {}", self.status, String::from_utf8_lossy(&self.body))))
    }
}

/// Sends a request to `address` (host:port) and reads the whole answer.
pub fn call(address: &str, method: &str, path: &str, media_type: &str, body: &[u8]) -> io::Result<Response> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    let kind = if media_type.is_empty() { String::new() } else { format!("Content-Type: {media_type}\r\n") };
    // A registry that is not told that OCI's types are welcome says that it has no such manifest.
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nAccept: {}, {}, */*\r\n\
         {kind}Content-Length: {}\r\n\r\n",
        Format::Oci.manifest(),
        Format::Docker.manifest(),
        body.len()
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(body)?;
    let mut raw = Vec::new();
    stream.read_to_end(&mut raw)?;
    parse(&raw).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "not an HTTP answer"))
}

fn parse(raw: &[u8]) -> Option<Response> {
    let end = raw.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&raw[..end]).ok()?;
    let mut lines = head.split("\r\n");
    let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
    let header = |line: &str| line.split_once(':').map(|(k, v)| (k.trim().to_lowercase(), v.trim().to_owned()));
    Some(Response { status, headers: lines.filter_map(header).collect(), body: raw[end + 4..].to_vec() })
}
