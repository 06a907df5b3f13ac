//! An HTTP server for tests: answers as it is told and keeps what it was asked. It speaks real HTTP/1.1 on
//! loopback, one request a connection.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

/// What was asked, read to its end.
#[derive(Clone, Debug, Default)]
pub(super) struct Request {
    pub method: String,
    pub target: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Request {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// What to answer.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    early: bool,
}

impl Answer {
    pub(super) fn new(status: u16, body: impl AsRef<[u8]>) -> Self {
        Self { status, headers: Vec::new(), body: body.as_ref().to_vec(), early: false }
    }

    pub(super) fn with_header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Answers after the head of the request, without reading its body.
    pub(super) fn early(mut self) -> Self {
        self.early = true;
        self
    }
}

/// The server; its thread ends with the test's process.
pub(super) struct Server {
    url: String,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl Server {
    /// Gives the answers in their order, then closes connections unanswered.
    pub(super) fn start(answers: Vec<Answer>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let requests = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&requests);
        thread::spawn(move || {
            let mut answers = VecDeque::from(answers);
            for stream in listener.incoming().flatten() {
                // A request that breaks off costs no answer.
                serve(&stream, &mut answers, &kept);
            }
        });
        Self { url, requests }
    }

    pub(super) fn url(&self) -> String {
        self.url.clone()
    }

    pub(super) fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }
}

fn serve(stream: &TcpStream, answers: &mut VecDeque<Answer>, kept: &Mutex<Vec<Request>>) -> Option<()> {
    let mut reader = BufReader::new(stream);
    let mut request = head(&mut reader)?;
    let answer = answers.front()?.clone();
    if !answer.early {
        read_body(&mut reader, &mut request)?;
    }
    answers.pop_front();
    let is_head = request.method == "HEAD";
    kept.lock().unwrap().push(request);
    let mut text =
        format!("HTTP/1.1 {} Any\r\nConnection: close\r\nContent-Length: {}\r\n", answer.status, answer.body.len());
    text.extend(answer.headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")));
    text += "\r\n";
    let mut stream = stream;
    stream.write_all(text.as_bytes()).ok()?;
    if !is_head {
        stream.write_all(&answer.body).ok()?;
    }
    Some(())
}

fn line(reader: &mut impl BufRead) -> Option<String> {
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|count| *count > 0)?;
    Some(line.trim_end().to_owned())
}

fn head(reader: &mut impl BufRead) -> Option<Request> {
    let first = line(reader)?;
    let mut words = first.split(' ');
    let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut headers = Vec::new();
    loop {
        let line = line(reader)?;
        let Some((name, value)) = line.split_once(": ") else { break };
        headers.push((name.to_lowercase(), value.to_owned()));
    }
    Some(Request { method, target, headers, body: Vec::new() })
}

fn read_body(reader: &mut impl BufRead, request: &mut Request) -> Option<()> {
    if request.header("transfer-encoding").is_none() {
        let length = request.header("content-length").map_or(0, |length| length.parse().unwrap());
        request.body.resize(length, 0);
        return reader.read_exact(&mut request.body).ok();
    }
    loop {
        let length = usize::from_str_radix(&line(reader)?, 16).ok()?;
        let start = request.body.len();
        request.body.resize(start + length, 0);
        reader.read_exact(&mut request.body[start..]).ok()?;
        line(reader)?;
        if length == 0 {
            return Some(());
        }
    }
}
