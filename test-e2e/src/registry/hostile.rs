//! A registry that answers as it is told to, however wrong: the other end of the tests of hostile input.

use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::host::Host;
use crate::image::Image;

/// How one path is answered.
#[derive(Clone, Debug)]
pub enum Answer {
    /// 200 with this body, told as `media_type`.
    Body {
        /// The Content-Type.
        media_type: String,
        /// The body.
        bytes: Vec<u8>,
    },
    /// 200 with the whole body's length and only its first bytes; then silence, the connection open.
    Stall {
        /// The Content-Type.
        media_type: String,
        /// The length that is promised.
        length: usize,
        /// What is sent of it.
        sent: Vec<u8>,
    },
    /// 200 with the whole body's length, its first bytes, and the end of the connection; from the second request on
    /// the whole body, or the range that is asked for.
    BreakOnce {
        /// The body.
        bytes: Vec<u8>,
        /// How much of it the first request gets.
        first: usize,
    },
    /// 200 with so many blanks.
    Flood {
        /// The Content-Type.
        media_type: String,
        /// How many bytes come.
        length: usize,
    },
    /// Another status.
    Status(u16),
}

/// A running hostile registry; it ends with the process.
#[derive(Debug)]
pub struct HostileRegistry {
    /// `127.0.0.1:port`.
    pub address: String,
    routes: Arc<Mutex<HashMap<String, Answer>>>,
    requests: Arc<AtomicUsize>,
}

impl HostileRegistry {
    /// Starts one that knows no path yet.
    pub fn start(host: &Host) -> io::Result<HostileRegistry> {
        let listener = host.run(|| TcpListener::bind("127.0.0.1:0"))?;
        let address = listener.local_addr()?.to_string();
        let routes: Arc<Mutex<HashMap<String, Answer>>> = Arc::default();
        let requests: Arc<AtomicUsize> = Arc::default();
        let (table, count) = (routes.clone(), requests.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (table, count) = (table.clone(), count.clone());
                std::thread::spawn(move || serve(stream, &table, &count));
            }
        });
        Ok(HostileRegistry { address, routes, requests })
    }

    /// Sets the answer of a path.
    pub fn answer(&self, path: &str, answer: Answer) {
        self.routes.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).insert(path.to_owned(), answer);
    }

    /// Serves an image honestly, to be spoilt by a later [`HostileRegistry::answer`]; answers its reference.
    pub fn serve_image(&self, name: &str, image: &Image) -> String {
        let body =
            |media_type: &str, bytes: &[u8]| Answer::Body { media_type: media_type.to_owned(), bytes: bytes.to_vec() };
        for reference in ["1".to_owned(), image.manifest_digest()] {
            let path = format!("/v2/{name}/manifests/{reference}");
            self.answer(&path, body(image.format.manifest(), &image.manifest));
        }
        let blob = |digest: &str| format!("/v2/{name}/blobs/{digest}");
        self.answer(&blob(&image.id()), body("application/octet-stream", &image.config));
        for layer in &image.layers {
            self.answer(&blob(&layer.digest), body("application/octet-stream", &layer.bytes));
        }
        format!("{}/{name}:1", self.address)
    }

    /// How many requests came.
    pub fn requests(&self) -> usize {
        self.requests.load(Ordering::Relaxed)
    }
}

/// One connection: a request, its answer, the end.
fn serve(stream: TcpStream, routes: &Mutex<HashMap<String, Answer>>, requests: &AtomicUsize) {
    let _ = answer(stream, routes, requests);
}

fn answer(mut stream: TcpStream, routes: &Mutex<HashMap<String, Answer>>, requests: &AtomicUsize) -> io::Result<()> {
    let (method, path, range) = read_request(&stream)?;
    requests.fetch_add(1, Ordering::Relaxed);
    if path == "/v2/" {
        return head(&mut stream, 200, "application/json", 0, "");
    }
    let mut table = routes.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let found = table.get(&path).cloned().unwrap_or(Answer::Status(404));
    if let (Answer::BreakOnce { bytes, .. }, "GET") = (&found, method.as_str()) {
        let whole = Answer::Body { media_type: "application/octet-stream".into(), bytes: bytes.clone() };
        table.insert(path.clone(), whole);
    }
    drop(table);
    let with_body = method != "HEAD";
    match found {
        Answer::Status(status) => head(&mut stream, status, "application/json", 0, ""),
        Answer::Body { media_type, bytes } => {
            let from = range.filter(|&from| from < bytes.len());
            let extra = from.map(|from| format!("Content-Range: bytes {from}-{}/{}\r\n", bytes.len() - 1, bytes.len()));
            let rest = &bytes[from.unwrap_or(0)..];
            let status = if from.is_some() { 206 } else { 200 };
            head(&mut stream, status, &media_type, rest.len(), extra.as_deref().unwrap_or_default())?;
            if with_body { stream.write_all(rest) } else { Ok(()) }
        }
        Answer::BreakOnce { bytes, first } => {
            head(&mut stream, 200, "application/octet-stream", bytes.len(), "Accept-Ranges: bytes\r\n")?;
            if with_body { stream.write_all(&bytes[..first]) } else { Ok(()) }
        }
        Answer::Stall { media_type, length, sent } => {
            head(&mut stream, 200, &media_type, length, "")?;
            if with_body {
                stream.write_all(&sent)?;
                std::thread::sleep(Duration::from_secs(600));
            }
            Ok(())
        }
        Answer::Flood { media_type, length } => {
            head(&mut stream, 200, &media_type, length, "")?;
            let blanks = vec![b' '; 1 << 20];
            let mut left = if with_body { length } else { 0 };
            while left > 0 {
                let now = left.min(blanks.len());
                stream.write_all(&blanks[..now])?;
                left -= now;
            }
            Ok(())
        }
    }
}

/// Method, path, and where an open range begins.
fn read_request(stream: &TcpStream) -> io::Result<(String, String, Option<usize>)> {
    let mut lines = BufReader::new(stream).lines();
    let first = lines.next().unwrap_or_else(|| Ok(String::new()))?;
    let mut words = first.split(' ').map(str::to_owned);
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let mut range = None;
    for line in lines {
        let line = line?.to_lowercase();
        if line.is_empty() {
            break;
        }
        if let Some(from) = line.strip_prefix("range: bytes=") {
            range = from.split('-').next().and_then(|from| from.parse().ok());
        }
    }
    Ok((method, path.split('?').next().unwrap_or_default().to_owned(), range))
}

fn head(stream: &mut TcpStream, status: u16, media_type: &str, length: usize, extra: &str) -> io::Result<()> {
    let text = format!(
        "HTTP/1.1 {status} .\r\nContent-Type: {media_type}\r\nContent-Length: {length}\r\n{extra}Connection: close\r\n\r\n"
    );
    stream.write_all(text.as_bytes())
}
