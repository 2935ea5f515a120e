//! A proxy in front of an S3 server that breaks requests as a test says. Bytes are passed on as they are (the signature
//! covers the host as the client knows it, which is the proxy's); only `connection: close` is added, so that each
//! request has a connection of its own and an answer ends with it.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::{CancellationToken, DropGuard};

/// One request as a script sees it.
#[derive(Debug, Clone)]
pub struct Asked {
    /// `GET`, `PUT`, ...
    pub method: String,
    /// Path and query, as sent.
    pub target: String,
    /// All headers in lower case, one a line.
    pub headers: String,
    /// From 1: how often this method and target were asked for, this time included.
    pub time: usize,
    /// From 1: which request of the proxy it is.
    pub number: usize,
}

impl Asked {
    /// Whether the query has that name.
    pub fn has(&self, name: &str) -> bool {
        let query = self.target.split_once('?').map_or("", |(_, query)| query);
        query.split('&').any(|pair| pair.split('=').next() == Some(name))
    }

    /// Begins an upload in parts.
    pub fn creates(&self) -> bool {
        self.method == "POST" && self.has("uploads")
    }

    /// Sends a part.
    pub fn sends_part(&self) -> bool {
        self.method == "PUT" && self.has("partNumber")
    }

    /// Ends an upload in parts.
    pub fn completes(&self) -> bool {
        self.method == "POST" && self.has("uploadId")
    }
}

/// What happens to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The connection is reset when so many bytes of the request's body have passed.
    Reset(u64),
    /// The proxy answers itself with that status and error code; the server sees nothing.
    Answer(u16, &'static str),
    /// From so many bytes of the request's body on nothing moves any more.
    Stall(u64),
    /// The server does what was asked; the connection is reset instead of its answer.
    LoseAnswer,
    /// The answer's `ETag` is another one.
    WrongEtag,
    /// The answer says it is that date.
    Date(&'static str),
    /// The answer's connection is closed after so many bytes, head included.
    CutAnswer(u64),
    /// From so many bytes of the answer on nothing moves any more.
    StallAnswer(u64),
}

impl Fault {
    /// Its name in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Reset(_) => "store: reset",
            Self::Answer(200, _) => "store: 200 with an error inside",
            Self::Answer(429, _) => "store: 429 throttled",
            Self::Answer(503, _) => "store: 503 SlowDown",
            Self::Answer(500..=599, _) => "store: 500 InternalError",
            Self::Answer(_, _) => "store: refused",
            Self::Stall(_) => "store: stall within a request",
            Self::StallAnswer(_) => "store: stall before the answer",
            Self::LoseAnswer => "store: answer lost",
            Self::CutAnswer(_) => "store: answer cut",
            Self::WrongEtag => "store: wrong ETag",
            Self::Date(_) => "store: clock",
        }
    }
}

type Script = Box<dyn FnMut(&Asked) -> Option<Fault> + Send>;

struct Shared {
    script: Mutex<Script>,
    times: Mutex<HashMap<(String, String), usize>>,
    log: Mutex<Vec<(Asked, Option<Fault>)>>,
    /// How long each request is held before it goes on, as a long way would.
    away: Mutex<Duration>,
    /// By method: requests under way, and the most there were.
    under_way: Mutex<HashMap<String, (usize, usize)>>,
    upstream: u16,
}

/// A running proxy; stops when dropped.
pub struct Proxy {
    /// `http://127.0.0.1:PORT`.
    pub endpoint: String,
    shared: Arc<Shared>,
    _stop: DropGuard,
}

impl Proxy {
    /// Stands in front of a server on that port of this machine; the script is asked about each request.
    pub async fn start(upstream: u16, script: impl FnMut(&Asked) -> Option<Fault> + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let shared = Arc::new(Shared {
            script: Mutex::new(Box::new(script)),
            times: Mutex::default(),
            log: Mutex::default(),
            away: Mutex::default(),
            under_way: Mutex::default(),
            upstream,
        });
        let stop = CancellationToken::new();
        let (stopped, serving) = (stop.clone(), Arc::clone(&shared));
        tokio::spawn(stopped.clone().run_until_cancelled_owned(async move {
            loop {
                let Ok((client, _peer)) = listener.accept().await else { continue };
                client.set_nodelay(true).unwrap();
                let serving = Arc::clone(&serving);
                tokio::spawn(stopped.clone().run_until_cancelled_owned(async move {
                    // Broken connections are what this proxy is for.
                    let _ended = serve(&serving, client).await;
                }));
            }
        }));
        Self { endpoint, shared, _stop: stop.drop_guard() }
    }

    /// Holds each request so long before it goes on.
    pub fn moves_away(&self, by: Duration) {
        *self.shared.away.lock().unwrap() = by;
    }

    /// The most requests of a method that were under way at once.
    pub fn most_at_once(&self, method: &str) -> usize {
        self.shared.under_way.lock().unwrap().get(method).map_or(0, |(_, most)| *most)
    }

    /// Another script from now on.
    pub fn follow(&self, script: impl FnMut(&Asked) -> Option<Fault> + Send + 'static) {
        *self.shared.script.lock().unwrap() = Box::new(script);
    }

    /// What was asked, in order, and what became of it.
    pub fn log(&self) -> Vec<(Asked, Option<Fault>)> {
        self.shared.log.lock().unwrap().clone()
    }

    /// Counts what was broken for the report, and how the work that met it ended.
    pub fn tally(&self, outcome: super::tally::Outcome, how: &str) {
        self.log().iter().filter_map(|(_, fault)| *fault).for_each(|fault| super::tally::injected(fault.name(), 1));
        super::tally::ended(outcome, how);
    }

    /// How many requests were broken.
    pub fn faults(&self) -> usize {
        self.log().iter().filter(|(_, fault)| fault.is_some()).count()
    }
}

/// A request under way.
struct UnderWay<'a>(&'a Shared, String);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.under_way.lock().unwrap().entry(self.1.clone()).or_default().0 -= 1;
    }
}

impl Shared {
    fn count(&self, method: &str) -> UnderWay<'_> {
        let mut all = self.under_way.lock().unwrap();
        let (now, most) = all.entry(method.to_owned()).or_default();
        *now += 1;
        *most = (*most).max(*now);
        UnderWay(self, method.to_owned())
    }

    fn decide(&self, head: &str) -> (Asked, Option<Fault>) {
        let mut words = head.split(' ');
        let mut word = || words.next().unwrap_or_default().to_owned();
        let (method, target) = (word(), word());
        let time = {
            let mut times = self.times.lock().unwrap();
            let time = times.entry((method.clone(), target.clone())).or_default();
            *time += 1;
            *time
        };
        let mut log = self.log.lock().unwrap();
        let number = log.len() + 1;
        let asked = Asked { method, target, headers: head.to_lowercase(), time, number };
        let fault = (self.script.lock().unwrap())(&asked);
        log.push((asked.clone(), fault));
        (asked, fault)
    }
}

async fn serve(shared: &Shared, mut client: TcpStream) -> io::Result<()> {
    let head = read_head(&mut client).await?;
    let (asked, fault) = shared.decide(&head);
    let _counted = shared.count(&asked.method);
    let away = *shared.away.lock().unwrap();
    if !away.is_zero() {
        tokio::time::sleep(away).await;
    }
    let length = field(&head, "content-length").and_then(|length| length.parse().ok()).unwrap_or(0_u64);
    match fault {
        Some(Fault::Reset(after)) => {
            discard(&mut client, after.min(length)).await?;
            return reset(&client);
        }
        Some(Fault::Stall(after)) => {
            discard(&mut client, after.min(length)).await?;
            return std::future::pending().await;
        }
        Some(Fault::Answer(status, code)) => {
            discard(&mut client, length).await?;
            let message = "the proxy says so";
            let body = format!(
                "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{code}</Code><Message>{message}</Message></Error>"
            );
            let length = body.len();
            let answer = format!(
                "HTTP/1.1 {status} X\r\ncontent-type: application/xml\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
            );
            return client.write_all(answer.as_bytes()).await;
        }
        _ => {}
    }
    let mut server = TcpStream::connect(("127.0.0.1", shared.upstream)).await?;
    if head.starts_with("CONNECT ") {
        client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await?;
        tokio::io::copy_bidirectional(&mut client, &mut server).await?;
        return Ok(());
    }
    let (line, rest) = head.split_once("\r\n").unwrap();
    server.write_all(format!("{line}\r\nconnection: close\r\n{rest}").as_bytes()).await?;
    let (mut from_client, mut to_client) = client.split();
    let (mut from_server, mut to_server) = server.split();
    let mut body = (&mut from_client).take(length);
    let (_sent, answered) =
        tokio::join!(tokio::io::copy(&mut body, &mut to_server), answer(fault, &mut from_server, &mut to_client));
    answered?;
    if fault == Some(Fault::LoseAnswer) { reset(&client) } else { client.shutdown().await }
}

async fn answer(
    fault: Option<Fault>,
    server: &mut (impl AsyncRead + Unpin),
    client: &mut tokio::net::tcp::WriteHalf<'_>,
) -> io::Result<()> {
    match fault {
        Some(Fault::LoseAnswer) => {
            tokio::io::copy(server, &mut tokio::io::sink()).await?;
        }
        Some(Fault::CutAnswer(after)) => {
            tokio::io::copy(&mut server.take(after), client).await?;
        }
        Some(Fault::StallAnswer(after)) => {
            tokio::io::copy(&mut server.take(after), client).await?;
            std::future::pending::<()>().await;
        }
        Some(Fault::Date(date)) => {
            let mut answer = Vec::new();
            server.read_to_end(&mut answer).await?;
            let text = String::from_utf8(answer).unwrap();
            let (head, body) = text.split_once("\r\n\r\n").unwrap();
            let lines = head.split("\r\n").filter(|line| !line.to_lowercase().starts_with("date:"));
            let head = lines.collect::<Vec<_>>().join("\r\n");
            client.write_all(format!("{head}\r\ndate: {date}\r\n\r\n{body}").as_bytes()).await?;
        }
        Some(Fault::WrongEtag) => {
            let mut answer = Vec::new();
            server.read_to_end(&mut answer).await?;
            let text = String::from_utf8(answer).unwrap();
            let at = text.to_lowercase().find("etag: \"").unwrap() + "etag: \"".len();
            let wrong = if text[at..].starts_with('0') { "1" } else { "0" };
            client.write_all(format!("{}{wrong}{}", &text[..at], &text[at + 1..]).as_bytes()).await?;
        }
        _ => {
            tokio::io::copy(server, client).await?;
        }
    }
    Ok(())
}

async fn read_head(client: &mut TcpStream) -> io::Result<String> {
    let mut head = Vec::new();
    loop {
        // Not a byte beyond the head is taken: the body's way is another one.
        let mut buffer = [0; 4096];
        let ahead = client.peek(&mut buffer).await?;
        if ahead == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let from = head.len();
        head.extend_from_slice(&buffer[..ahead]);
        let end = head.windows(4).position(|four| four == b"\r\n\r\n").map(|at| at + 4);
        head.truncate(end.unwrap_or(head.len()));
        client.read_exact(&mut buffer[..head.len() - from]).await?;
        if end.is_some() {
            return Ok(String::from_utf8(head).unwrap());
        }
    }
}

fn field<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let lines = head.lines().filter_map(|line| line.split_once(':'));
    lines.filter(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim()).next()
}

async fn discard(client: &mut TcpStream, bytes: u64) -> io::Result<()> {
    tokio::io::copy(&mut client.take(bytes), &mut tokio::io::sink()).await?;
    Ok(())
}

/// Closes with RST once the stream is dropped.
#[allow(deprecated, reason = "no time is waited: lingering for zero seconds does not block")]
pub(super) fn reset(client: &TcpStream) -> io::Result<()> {
    client.set_linger(Some(Duration::ZERO))
}
