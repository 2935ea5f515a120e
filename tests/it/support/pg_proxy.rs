//! A proxy in front of a PostgreSQL server that breaks connections as a test says. It reads the protocol (version 3,
//! without TLS) as far as it must to know who a connection belongs to and which COPY its rows are of; what it passes on
//! it passes on unchanged.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::pg::Cluster;

/// Read at once where there is so much: a link with latency is slow, not narrow.
const READ_BYTES: usize = 256 << 10;
const SSL_REQUEST: u32 = 80_877_103;
const GSS_REQUEST: u32 = 80_877_104;
const CANCEL_REQUEST: u32 = 80_877_102;

/// One connection as a script sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// The application name of its startup packet: `pgstow leader`, `pgstow reader`, `pgstow pg_dump`... without the run's name.
    pub application: String,
    /// From 1: which connection of the proxy it is.
    pub number: usize,
    /// From 1: which connection of this application it is.
    pub time: usize,
}

/// What just happened in a connection; the bytes of it have not been passed on yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event<'a> {
    /// The client said who it is.
    Begins,
    /// The client sends a statement, to be run or to be prepared.
    Asks(&'a str),
    /// The server begins to send the rows of this COPY.
    Copies(&'a str),
    /// A row of this COPY; so many bytes of rows have come, it included.
    Rows(&'a str, u64),
    /// The server has sent all rows of this COPY.
    Copied(&'a str),
    /// The client sends rows of a COPY that loads; so many bytes of rows have come, these included.
    Loads(u64),
    /// The client has sent all rows of a COPY that loads.
    Loaded,
}

/// What happens to a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Reset before what just happened is passed on.
    Reset,
    /// Closed in good order before what just happened is passed on.
    Close,
    /// Reset when so many more bytes of the server's have passed, be it within a message.
    ResetAfter(u64),
    /// From now on nothing moves any more, and nothing is closed.
    Stall,
    /// Whatever is sent from now on, in either direction, is passed on so much later.
    Latency(Duration),
    /// This connection goes on; all those of that application are reset.
    ResetOf(&'static str),
}

type Script = Box<dyn FnMut(&Session, Event<'_>) -> Option<Fault> + Send>;

struct Shared {
    script: Mutex<Script>,
    times: Mutex<HashMap<String, usize>>,
    log: Mutex<Vec<(Session, String, Fault)>>,
    cuts: Mutex<Vec<(String, CancellationToken)>>,
    upstream: u16,
}

/// A running proxy; stops when dropped, and cuts its connections.
pub struct PgProxy {
    /// Port on 127.0.0.1.
    pub port: u16,
    shared: Arc<Shared>,
    _stop: DropGuard,
}

impl PgProxy {
    /// Stands in front of a cluster; the script is asked about each event.
    pub async fn start(
        cluster: &Cluster,
        script: impl FnMut(&Session, Event<'_>) -> Option<Fault> + Send + 'static,
    ) -> Self {
        let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared {
            script: Mutex::new(Box::new(script)),
            times: Mutex::default(),
            log: Mutex::default(),
            cuts: Mutex::default(),
            upstream: cluster.port(),
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
        Self { port, shared, _stop: stop.drop_guard() }
    }

    /// Another script from now on.
    pub fn follow(&self, script: impl FnMut(&Session, Event<'_>) -> Option<Fault> + Send + 'static) {
        *self.shared.script.lock().unwrap() = Box::new(script);
    }

    /// The same database, through this proxy.
    pub fn url(&self, url: &str) -> String {
        let (real, ours) = (format!("@127.0.0.1:{}/", self.shared.upstream), format!("@127.0.0.1:{}/", self.port));
        assert!(url.contains(&real), "{url} is of another server");
        url.replace(&real, &ours)
    }

    /// What was broken so far: whose connection, at which event, how.
    pub fn log(&self) -> Vec<(Session, String, Fault)> {
        self.shared.log.lock().unwrap().clone()
    }

    /// How many connections were broken or slowed down.
    pub fn faults(&self) -> usize {
        self.log().len()
    }
}

impl Shared {
    fn session(&self, application: String) -> Session {
        let mut times = self.times.lock().unwrap();
        let number = times.values().sum::<usize>() + 1;
        let time = times.entry(application.clone()).or_default();
        *time += 1;
        Session { application, number, time: *time }
    }
}

/// Why a connection ends.
enum End {
    Closed,
    Reset,
    Stalled,
}

impl From<io::Error> for End {
    fn from(_broken: io::Error) -> Self {
        Self::Closed
    }
}

/// One connection, shared by its two directions.
struct Link<'a> {
    shared: &'a Shared,
    session: Session,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Prepared statements by name.
    prepared: HashMap<Vec<u8>, String>,
    /// What the client asked for and the server has not answered: COPYs, and the ends of exchanges.
    asked: VecDeque<Asked>,
    latency: Duration,
    reset_after: Option<u64>,
}

enum Asked {
    Copy(String),
    Sync,
}

impl Link<'_> {
    /// Asks the script and notes what it says.
    fn decide(&self, event: Event<'_>) -> Result<(), End> {
        // Kept until the fault is noted: whoever gives another script then finds all that the last one did.
        let mut script = self.shared.script.lock().unwrap();
        let Some(fault) = script(&self.session, event) else { return Ok(()) };
        self.shared.log.lock().unwrap().push((self.session.clone(), format!("{event:?}"), fault));
        drop(script);
        let mut state = self.state.lock().unwrap();
        match fault {
            Fault::Reset => return Err(End::Reset),
            Fault::Close => return Err(End::Closed),
            Fault::Stall => return Err(End::Stalled),
            Fault::ResetAfter(bytes) => state.reset_after = Some(bytes),
            Fault::Latency(latency) => state.latency = latency,
            Fault::ResetOf(application) => {
                let cuts = self.shared.cuts.lock().unwrap();
                cuts.iter().filter(|(name, _)| name == application).for_each(|(_, cut)| cut.cancel());
            }
        }
        Ok(())
    }

    /// Passes bytes on, as late as the link's latency says.
    async fn pass(&self, to: &mut WriteHalf<'_>, bytes: &mut BytesMut) -> Result<(), End> {
        if bytes.is_empty() {
            return Ok(());
        }
        let latency = self.state.lock().unwrap().latency;
        if !latency.is_zero() {
            tokio::time::sleep(latency).await;
        }
        to.write_all_buf(bytes).await?;
        Ok(())
    }

    /// As [`Self::pass`], no further than the reset that was asked for.
    async fn pass_down(&self, to: &mut WriteHalf<'_>, bytes: &mut BytesMut) -> Result<(), End> {
        let left = self.state.lock().unwrap().reset_after;
        if let Some(left) = left {
            let whole = bytes.len() as u64;
            bytes.truncate(usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len()));
            self.state.lock().unwrap().reset_after = Some(left.saturating_sub(whole));
            self.pass(to, bytes).await?;
            return if whole > left { Err(End::Reset) } else { Ok(()) };
        }
        self.pass(to, bytes).await
    }

    /// From the client to the server.
    async fn up(&self, mut from: ReadHalf<'_>, mut to: WriteHalf<'_>) -> Result<(), End> {
        let (mut unread, mut ready) = (BytesMut::new(), BytesMut::new());
        let mut bytes = 0;
        loop {
            while let Some(message) = next_message(&mut unread) {
                let said = self.note_request(message[0], &message[5..]);
                let decided = match (message[0], said) {
                    (_, Some(statement)) => {
                        bytes = 0;
                        self.decide(Event::Asks(&statement))
                    }
                    (b'd', None) => {
                        bytes += message.len() as u64 - 5;
                        self.decide(Event::Loads(bytes))
                    }
                    (b'c', None) => self.decide(Event::Loaded),
                    _ => Ok(()),
                };
                if let Err(end) = decided {
                    self.pass(&mut to, &mut ready).await?;
                    return Err(end);
                }
                ready.extend_from_slice(&message);
            }
            self.pass(&mut to, &mut ready).await?;
            unread.reserve(READ_BYTES);
            if from.read_buf(&mut unread).await? == 0 {
                return Err(End::Closed);
            }
        }
    }

    /// Keeps count of what is asked for; returns a statement's text.
    fn note_request(&self, kind: u8, body: &[u8]) -> Option<String> {
        let mut state = self.state.lock().unwrap();
        let (first, rest) = c_string(body);
        match kind {
            b'Q' => {
                let text = String::from_utf8_lossy(first).into_owned();
                if text.starts_with("COPY ") {
                    state.asked.push_back(Asked::Copy(text.clone()));
                }
                state.asked.push_back(Asked::Sync);
                return Some(text);
            }
            b'P' => {
                let text = String::from_utf8_lossy(c_string(rest).0).into_owned();
                state.prepared.insert(first.to_vec(), text.clone());
                return Some(text);
            }
            b'B' => {
                let copy = state.prepared.get(c_string(rest).0).filter(|text| text.starts_with("COPY ")).cloned();
                state.asked.extend(copy.map(Asked::Copy));
            }
            b'S' => state.asked.push_back(Asked::Sync),
            _ => {}
        }
        None
    }

    /// From the server to the client.
    async fn down(&self, mut from: ReadHalf<'_>, mut to: WriteHalf<'_>) -> Result<(), End> {
        let (mut unread, mut ready) = (BytesMut::new(), BytesMut::new());
        let (mut copy, mut bytes) = (String::new(), 0);
        loop {
            while let Some(message) = next_message(&mut unread) {
                let decided = match message[0] {
                    b'H' => {
                        (copy, bytes) = (self.begun(), 0);
                        self.decide(Event::Copies(&copy))
                    }
                    b'G' => {
                        self.takes();
                        Ok(())
                    }
                    b'd' => {
                        bytes += message.len() as u64 - 5;
                        self.decide(Event::Rows(&copy, bytes))
                    }
                    b'c' => self.decide(Event::Copied(&copy)),
                    b'Z' => {
                        self.answered();
                        Ok(())
                    }
                    _ => Ok(()),
                };
                if let Err(end) = decided {
                    self.pass_down(&mut to, &mut ready).await?;
                    return Err(end);
                }
                ready.extend_from_slice(&message);
            }
            self.pass_down(&mut to, &mut ready).await?;
            unread.reserve(READ_BYTES);
            if from.read_buf(&mut unread).await? == 0 {
                return Err(End::Closed);
            }
        }
    }

    /// The COPY that the server begins now.
    fn begun(&self) -> String {
        let mut state = self.state.lock().unwrap();
        match state.asked.pop_front() {
            Some(Asked::Copy(text)) => text,
            _ => panic!("a COPY that nobody asked for"),
        }
    }

    /// The server begins to take rows: the end of that exchange, sent with the request, is not answered.
    fn takes(&self) {
        let mut state = self.state.lock().unwrap();
        state.asked.pop_front();
        if matches!(state.asked.front(), Some(Asked::Sync)) {
            state.asked.pop_front();
        }
    }

    /// The server is through with an exchange, COPYs that failed in it included.
    fn answered(&self) {
        let mut state = self.state.lock().unwrap();
        while let Some(Asked::Copy(_)) = state.asked.pop_front() {}
    }
}

async fn serve(shared: &Shared, mut client: TcpStream) -> io::Result<()> {
    let startup = loop {
        let length = client.read_u32().await?;
        let mut body = vec![0; length as usize - 4];
        client.read_exact(&mut body).await?;
        match u32::from_be_bytes(body[..4].try_into().unwrap()) {
            SSL_REQUEST | GSS_REQUEST => client.write_all(b"N").await?,
            code => break (code, [&length.to_be_bytes()[..], &body].concat()),
        }
    };
    let mut server = TcpStream::connect((Ipv4Addr::LOCALHOST, shared.upstream)).await?;
    server.set_nodelay(true)?;
    let (code, packet) = startup;
    if code == CANCEL_REQUEST {
        server.write_all(&packet).await?;
        server.read_to_end(&mut Vec::new()).await?;
        return Ok(());
    }
    let (application, cut) = (application(&packet[8..]), CancellationToken::new());
    shared.cuts.lock().unwrap().push((application.clone(), cut.clone()));
    let link = Link { shared, session: shared.session(application), state: Mutex::default() };
    let end = if let Err(end) = link.decide(Event::Begins) {
        end
    } else {
        server.write_all(&packet).await?;
        let ((from_client, to_client), (from_server, to_server)) = (client.split(), server.split());
        let ended = tokio::select! {
            ended = link.up(from_client, to_server) => ended,
            ended = link.down(from_server, to_client) => ended,
            () = cut.cancelled() => Err(End::Reset),
        };
        ended.err().unwrap_or(End::Closed)
    };
    match end {
        End::Closed => client.shutdown().await,
        End::Reset => super::proxy::reset(&client),
        End::Stalled => std::future::pending().await,
    }
}

/// The next whole message, taken out of the buffer: a byte for its kind, its length without that byte, its body.
fn next_message(unread: &mut BytesMut) -> Option<Bytes> {
    let header = unread.get(..5)?;
    let length = 1 + u32::from_be_bytes(header[1..].try_into().unwrap()) as usize;
    if unread.len() < length {
        unread.reserve(length - unread.len());
        return None;
    }
    Some(unread.split_to(length).freeze())
}

/// A text up to its zero byte, and what follows.
fn c_string(body: &[u8]) -> (&[u8], &[u8]) {
    let end = body.iter().position(|byte| *byte == 0).unwrap_or(body.len());
    (&body[..end], body.get(end + 1..).unwrap_or_default())
}

/// `application_name` among a startup packet's parameters; libpq's programs may send it as the fallback name.
fn application(mut parameters: &[u8]) -> String {
    while parameters.has_remaining() {
        let (name, rest) = c_string(parameters);
        let (value, rest) = c_string(rest);
        if name == b"application_name" {
            // What follows the first two words is the run's name.
            let value = String::from_utf8_lossy(value);
            return value.split(' ').take(2).collect::<Vec<_>>().join(" ");
        }
        parameters = rest;
    }
    String::new()
}
