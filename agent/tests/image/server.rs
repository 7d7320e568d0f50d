//! A registry of a few lines, which can be told to misbehave. It answers from memory and remembers what it was asked.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::build::{Image, MANIFEST, digest};

/// What came in.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) path: String,
    headers: HashMap<String, String>,
}

impl Request {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }
}

/// What goes out.
#[derive(Clone)]
pub(crate) struct Answer {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    /// The length told, if it is not the body's.
    length: Option<usize>,
    end: End,
}

#[derive(Clone, Copy, PartialEq)]
enum End {
    Proper,
    /// The connection breaks behind the body, whatever length was told.
    Break,
    /// Nothing more comes, and the connection stays.
    Stall,
}

impl Answer {
    pub(crate) fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self { status, headers: Vec::new(), body: body.into(), length: None, end: End::Proper }
    }

    pub(crate) fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    pub(crate) fn told_length(mut self, length: usize) -> Self {
        self.length = Some(length);
        self
    }

    pub(crate) fn breaking(mut self, after: usize) -> Self {
        self.length = Some(self.body.len());
        self.body.truncate(after);
        self.end = End::Break;
        self
    }

    pub(crate) fn stalling(mut self, after: usize) -> Self {
        self.length = Some(self.body.len());
        self.body.truncate(after);
        self.end = End::Stall;
        self
    }
}

type Hook = Box<dyn Fn(&Request, usize) -> Option<Answer> + Send + Sync>;

#[derive(Default)]
struct Shared {
    content: Mutex<HashMap<String, Answer>>,
    requests: Mutex<Vec<Request>>,
    hook: Mutex<Option<Hook>>,
}

/// See the module's head.
pub(crate) struct Server {
    pub(crate) address: String,
    shared: Arc<Shared>,
}

impl Server {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let shared = Arc::new(Shared::default());
        let serving = shared.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let shared = serving.clone();
                std::thread::spawn(move || serve(stream, &shared));
            }
        });
        Self { address, shared }
    }

    /// Serves an image and answers its reference.
    pub(crate) fn push(&self, name: &str, tag: &str, image: &Image) -> String {
        for (digest, blob) in &image.blobs {
            self.set(&format!("/v2/{name}/blobs/{digest}"), Answer::new(200, blob.clone()));
        }
        let manifest = Answer::new(200, image.manifest.clone()).header("content-type", MANIFEST);
        self.set(&format!("/v2/{name}/manifests/{tag}"), manifest.clone());
        self.set(&format!("/v2/{name}/manifests/{}", digest(&image.manifest)), manifest);
        format!("{}/{name}:{tag}", self.address)
    }

    pub(crate) fn set(&self, path: &str, answer: Answer) {
        self.shared.content.lock().unwrap().insert(path.to_owned(), answer);
    }

    /// Asked first, with the number of earlier requests for the same path.
    pub(crate) fn hook(&self, hook: impl Fn(&Request, usize) -> Option<Answer> + Send + Sync + 'static) {
        *self.shared.hook.lock().unwrap() = Some(Box::new(hook));
    }

    pub(crate) fn requests(&self) -> Vec<Request> {
        self.shared.requests.lock().unwrap().clone()
    }

    pub(crate) fn count(&self, part: &str) -> usize {
        self.requests().iter().filter(|request| request.path.contains(part)).count()
    }
}

fn serve(stream: TcpStream, shared: &Shared) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    while let Some(request) = read_request(&mut reader) {
        let earlier = {
            let mut requests = shared.requests.lock().unwrap();
            let earlier = requests.iter().filter(|other| other.path == request.path).count();
            requests.push(request.clone());
            earlier
        };
        let hooked = shared.hook.lock().unwrap().as_ref().and_then(|hook| hook(&request, earlier));
        let path = request.path.split('?').next().unwrap_or_default();
        let answer = hooked.or_else(|| shared.content.lock().unwrap().get(path).map(|answer| ranged(answer, &request)));
        let answer = answer
            .unwrap_or_else(|| Answer::new(404, r#"{"errors":[{"code":"NAME_UNKNOWN","message":"no such thing"}]}"#));
        if !write_answer(&stream, &answer) {
            return;
        }
    }
}

fn read_request(reader: &mut BufReader<TcpStream>) -> Option<Request> {
    let mut line = String::new();
    let mut next = |reader: &mut BufReader<TcpStream>| {
        line.clear();
        reader.read_line(&mut line).ok().filter(|read| *read > 0).map(|_| line.trim_end().to_owned())
    };
    let first = next(reader)?;
    let mut words = first.split(' ');
    let path = words.nth(1)?.to_owned();
    let mut headers = HashMap::new();
    loop {
        let header = next(reader)?;
        if header.is_empty() {
            break;
        }
        let (name, value) = header.split_once(':')?;
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let length: usize = headers.get("content-length").and_then(|l| l.parse().ok()).unwrap_or(0);
    std::io::copy(&mut std::io::Read::take(reader, length as u64), &mut std::io::sink()).ok()?;
    Some(Request { path, headers })
}

/// A part, if one is asked for, as every real registry can.
fn ranged(answer: &Answer, request: &Request) -> Answer {
    let start =
        request.header("range").and_then(|r| r.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<usize>().ok());
    match start {
        Some(start) if answer.status == 200 => {
            let total = answer.body.len();
            let part = Answer { status: 206, body: answer.body[start..].to_vec(), ..answer.clone() };
            part.header("content-range", format!("bytes {start}-{}/{total}", total - 1))
        }
        _ => answer.clone(),
    }
}

fn write_answer(mut stream: &TcpStream, answer: &Answer) -> bool {
    let length = answer.length.unwrap_or(answer.body.len());
    let mut head = format!("HTTP/1.1 {} X\r\ncontent-length: {length}\r\n", answer.status);
    for (name, value) in &answer.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    let written = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&answer.body)).is_ok();
    match answer.end {
        End::Proper => written && length == answer.body.len(),
        End::Break => {
            let _ = stream.shutdown(std::net::Shutdown::Both);
            false
        }
        End::Stall => {
            std::thread::sleep(Duration::from_secs(60));
            false
        }
    }
}
