//! The bytes that a server sends, on their way into the driver. The driver holds a message whole, in a buffer of up to
//! twice its size that lives as long as the connection does, and reads some messages ahead: four sessions with rows of
//! 200 MiB held gibibytes before anybody could say stop.
//!
//! So a large message of COPY data is passed on as many small ones (where they are cut means nothing to COPY), and
//! before the first byte of a giant row moves, whoever reads must grant it: the reader finds room first, the server waits.
//! Everything else passes unchanged. Memory: twice [`HELD`] a connection.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::{Buf as _, BytesMut};
use futures::task::AtomicWaker;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::watch;
use tokio_postgres::tls::{ChannelBinding, MakeTlsConnect, TlsConnect, TlsStream};
use tokio_postgres_rustls::MakeRustlsConnect;
use tokio_util::io::poll_read_buf;

use crate::sql::letters::{Letters, has_raw};

/// Rows from this size on wait for a grant.
pub(crate) const GIANT: usize = 2 << 20;
/// Messages above this size are passed on in pieces of [`PIECE`].
const LARGE: usize = 512 << 10;
const PIECE: usize = 256 << 10;
/// Read at once from the server, at least.
const HELD: usize = 16 << 10;
/// Tag and length of a message.
const HEADER: usize = 5;

/// A row that waits for its grant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Parked {
    /// Number of the COPY, from 1, among those that this connection began.
    copy: u64,
    /// Bytes of that COPY that were passed on before.
    after: u64,
    bytes: usize,
}

/// The reader's side of a connection's gate.
#[derive(Debug)]
pub(crate) struct Gate {
    is_watched: AtomicBool,
    parked: watch::Sender<Option<Parked>>,
    driver: AtomicWaker,
    /// COPYs whose streams were taken by [`Gate::taken`].
    taken: AtomicU64,
    /// A request was sent, and its last answer has not come.
    is_asked: AtomicBool,
    /// The server takes rows (`COPY ... FROM STDIN`) and has not been sent their end: it owes nothing.
    is_taking: AtomicBool,
    /// Since when the driver has waited for bytes that do not come.
    waits: Mutex<Option<Instant>>,
    /// Since when the driver could not send what it has.
    is_blocked: Mutex<Option<Instant>>,
}

impl Gate {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            is_watched: AtomicBool::new(false),
            parked: watch::channel(None).0,
            driver: AtomicWaker::new(),
            taken: AtomicU64::new(0),
            is_asked: AtomicBool::new(false),
            is_taking: AtomicBool::new(false),
            waits: Mutex::default(),
            is_blocked: Mutex::default(),
        })
    }

    /// From now on giant rows wait for [`Gate::grant`].
    pub(crate) fn watch(&self) {
        self.is_watched.store(true, Ordering::SeqCst);
    }

    /// Notes that the stream of the next COPY was taken, in the order of the COPYs, and returns its number.
    pub(crate) fn taken(&self) -> u64 {
        self.taken.fetch_add(1, Ordering::SeqCst) + 1
    }

    /// Waits until a row of that COPY asks for its grant, the next one after so many bytes, and returns its size: not
    /// before everything ahead of it was received, so that whoever grants it holds nothing any more. Safe to cancel.
    pub(crate) async fn asks(&self, copy: u64, after: u64) -> usize {
        let mut parked = self.parked.subscribe();
        let asked =
            parked.wait_for(|parked| parked.is_some_and(|parked| (parked.copy, parked.after) == (copy, after))).await;
        let bytes = asked.ok().and_then(|parked| parked.map(|parked| parked.bytes));
        match bytes {
            Some(bytes) => bytes,
            None => std::future::pending().await,
        }
    }

    /// Lets the row that asks through.
    pub(crate) fn grant(&self) {
        self.parked.send_replace(None);
        self.driver.wake();
    }

    /// The time that an answer has been awaited while not a byte came, or that rows were not taken; `None` where neither
    /// is, or nobody would take the answer now.
    pub(crate) fn silence(&self) -> Option<Duration> {
        let since = if self.is_taking.load(Ordering::SeqCst) {
            *self.is_blocked.lock().unwrap_or_else(PoisonError::into_inner)
        } else {
            let waits = *self.waits.lock().unwrap_or_else(PoisonError::into_inner);
            waits.filter(|_| self.is_asked.load(Ordering::SeqCst))
        };
        since.map(|since| since.elapsed())
    }

    fn note(&self, waits: bool) {
        note(&self.waits, waits);
    }

    /// Notes that a request is on its way: the silence before it was nobody's fault.
    fn asked(&self) {
        self.note(false);
        self.note(true);
    }

    fn park(&self, parked: Parked) {
        if self.is_watched.load(Ordering::SeqCst) {
            self.parked.send_replace(Some(parked));
        }
    }

    fn poll(&self, context: &Context<'_>) -> Poll<()> {
        let is_parked = || self.parked.borrow().is_some();
        if !is_parked() {
            return Poll::Ready(());
        }
        self.driver.register(context.waker());
        if is_parked() { Poll::Pending } else { Poll::Ready(()) }
    }
}

/// Notes the beginning of a wait, or its end.
fn note(since: &Mutex<Option<Instant>>, waits: bool) {
    let mut since = since.lock().unwrap_or_else(PoisonError::into_inner);
    if waits {
        since.get_or_insert_with(Instant::now);
    } else {
        *since = None;
    }
}

/// The last bytes of a COPY that loads: `CopyDone` or `CopyFail` (whose length is not known), then `Sync`.
const ENDS: [u8; 5] = *b"S\0\0\0\x04";

type Tls<S> = <MakeRustlsConnect as MakeTlsConnect<S>>::Stream;

/// The way to the server.
enum Wire<S>
where
    MakeRustlsConnect: MakeTlsConnect<S>,
{
    Plain(S),
    Tls(Tls<S>),
}

/// A connection with its gate. Sees the server's messages from the first one on, so it stands above TLS.
pub(crate) struct Gated<S>
where
    MakeRustlsConnect: MakeTlsConnect<S>,
{
    wire: Wire<S>,
    gate: Arc<Gate>,
    /// The bytes that were read and not passed on.
    held: BytesMut,
    /// A header of our own on its way.
    lead: BytesMut,
    /// The bytes left of the present message, or piece.
    body: usize,
    /// The bytes left of a large message beyond that.
    rest: usize,
    copies: u64,
    /// Bytes of the present COPY whose messages have begun.
    begun: u64,
    is_over: bool,
    /// The last bytes that were sent while the server took rows.
    tail: BytesMut,
    first: First,
}

/// The first message, which names role and database. The driver takes them as UTF-8; the server takes any bytes.
enum First {
    Expected,
    /// What is left to send of it, instead of so many bytes of the driver's.
    Sending(BytesMut, usize),
    Sent,
}

/// The first message with the bytes that were given; `None` where the driver's is the same, or not whole.
fn as_given(message: &[u8]) -> Option<BytesMut> {
    let length = u32::from_be_bytes(*message.first_chunk()?) as usize;
    let (_, body) = message.split_at_checked(HEADER - 1).filter(|_| length == message.len())?;
    let text = std::str::from_utf8(body).ok().filter(|text| has_raw(text))?;
    let body = Letters::default().encode(text).ok()?;
    let mut given = BytesMut::from(&u32::try_from(body.len() + HEADER - 1).ok()?.to_be_bytes()[..]);
    given.extend_from_slice(&body);
    Some(given)
}

impl<S> Gated<S>
where
    MakeRustlsConnect: MakeTlsConnect<S>,
{
    fn new(wire: Wire<S>, gate: Arc<Gate>) -> Self {
        let (held, lead, tail) = (BytesMut::new(), BytesMut::new(), BytesMut::new());
        Self {
            wire,
            gate,
            held,
            lead,
            body: 0,
            rest: 0,
            copies: 0,
            begun: 0,
            is_over: false,
            tail,
            first: First::Expected,
        }
    }

    /// Passes bytes on as far as there is room.
    fn pass(from: &mut BytesMut, most: usize, to: &mut ReadBuf<'_>) -> usize {
        let bytes = from.len().min(most).min(to.remaining());
        to.put_slice(&from.split_to(bytes));
        bytes
    }

    /// Passes on whole small messages, or begins a message that is not here whole, or that is large.
    fn messages(&mut self, to: &mut ReadBuf<'_>) {
        let mut whole = 0;
        while let Some(&[tag, a, b, c, d]) = self.held.get(whole..whole + HEADER) {
            let body = (u32::from_be_bytes([a, b, c, d]) as usize).saturating_sub(4);
            let ends = whole + HEADER + body;
            let is_large = tag == b'd' && body > LARGE;
            if whole > 0 && (is_large || ends > self.held.len().min(to.remaining())) {
                break;
            }
            if tag == b'H' {
                self.copies += 1;
                self.begun = 0;
            }
            match tag {
                b'G' => self.gate.is_taking.store(true, Ordering::SeqCst),
                b'E' => self.gate.is_taking.store(false, Ordering::SeqCst),
                b'Z' => {
                    self.gate.is_taking.store(false, Ordering::SeqCst);
                    self.gate.is_asked.store(false, Ordering::SeqCst);
                }
                _ => {}
            }
            let after = self.begun;
            if tag == b'd' {
                self.begun += body as u64;
            }
            if is_large {
                self.held.advance(HEADER);
                self.rest = body;
                if body >= GIANT {
                    self.gate.park(Parked { copy: self.copies, after, bytes: body });
                }
                return;
            }
            if ends > self.held.len().min(to.remaining()) {
                self.lead.extend_from_slice(&self.held.split_to(HEADER));
                self.body = body;
                return;
            }
            whole = ends;
        }
        to.put_slice(&self.held.split_to(whole));
    }

    /// Begins the next piece of a large message.
    fn piece(&mut self) {
        let piece = self.rest.min(PIECE);
        self.rest -= piece;
        self.body = piece;
        self.lead.extend_from_slice(b"d");
        self.lead.extend_from_slice(&u32::try_from(piece + 4).unwrap_or(u32::MAX).to_be_bytes());
    }
}

impl<S> Gated<S>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    /// Sends these bytes, or what stands for them.
    fn write(&mut self, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if matches!(self.first, First::Expected) {
            self.first = as_given(bytes).map_or(First::Sent, |given| First::Sending(given, bytes.len()));
        }
        let wire = &mut self.wire;
        let mut send = |bytes: &[u8]| match wire {
            Wire::Plain(wire) => Pin::new(wire).poll_write(context, bytes),
            Wire::Tls(wire) => Pin::new(wire).poll_write(context, bytes),
        };
        let First::Sending(given, count) = &mut self.first else { return send(bytes) };
        while !given.is_empty() {
            let sent = ready!(send(given))?;
            given.advance(sent);
        }
        let count = *count;
        self.first = First::Sent;
        Poll::Ready(Ok(count))
    }

    /// Reads more into what is held.
    fn fill(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.held.reserve(HELD);
        let read = match &mut self.wire {
            Wire::Plain(wire) => poll_read_buf(Pin::new(wire), context, &mut self.held),
            Wire::Tls(wire) => poll_read_buf(Pin::new(wire), context, &mut self.held),
        };
        self.gate.note(read.is_pending());
        self.is_over = ready!(read)? == 0;
        Poll::Ready(Ok(()))
    }
}

impl<S> AsyncRead for Gated<S>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, to: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = to.filled().len();
        loop {
            if to.remaining() == 0 || this.is_over && this.held.is_empty() && this.lead.is_empty() {
                return Poll::Ready(Ok(()));
            }
            let blocked = if this.gate.poll(context).is_pending() {
                true
            } else if !this.lead.is_empty() {
                Self::pass(&mut this.lead, HEADER, to);
                false
            } else if this.body == 0 && this.rest > 0 {
                this.piece();
                false
            } else if this.held.is_empty() || this.body == 0 && this.held.len() < HEADER && !this.is_over {
                match this.fill(context) {
                    Poll::Ready(result) => {
                        result?;
                        false
                    }
                    Poll::Pending => true,
                }
            } else if this.body > 0 || this.is_over && this.held.len() < HEADER {
                let most = if this.body > 0 { this.body } else { HEADER };
                let passed = Self::pass(&mut this.held, most, to);
                this.body = this.body.saturating_sub(passed);
                false
            } else {
                this.messages(to);
                false
            };
            if blocked {
                return if to.filled().len() > before { Poll::Ready(Ok(())) } else { Poll::Pending };
            }
        }
    }
}

impl<S> AsyncWrite for Gated<S>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if !this.gate.is_asked.swap(true, Ordering::SeqCst) {
            this.gate.asked();
        }
        let written = this.write(context, bytes);
        note(&this.gate.is_blocked, written.is_pending());
        if let Poll::Ready(Ok(count)) = &written
            && this.gate.is_taking.load(Ordering::SeqCst)
        {
            // A write may end within a message.
            let sent = bytes.get(..*count).unwrap_or_default();
            this.tail.extend_from_slice(sent.get(count.saturating_sub(ENDS.len())..).unwrap_or_default());
            this.tail.advance(this.tail.len().saturating_sub(ENDS.len()));
            if *this.tail == ENDS[..] {
                this.gate.is_taking.store(false, Ordering::SeqCst);
                this.gate.asked();
            }
        }
        written
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().wire {
            Wire::Plain(wire) => Pin::new(wire).poll_flush(context),
            Wire::Tls(wire) => Pin::new(wire).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().wire {
            Wire::Plain(wire) => Pin::new(wire).poll_shutdown(context),
            Wire::Tls(wire) => Pin::new(wire).poll_shutdown(context),
        }
    }
}

impl<S> TlsStream for Gated<S>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    fn channel_binding(&self) -> ChannelBinding {
        match &self.wire {
            Wire::Plain(_) => ChannelBinding::none(),
            Wire::Tls(wire) => wire.channel_binding(),
        }
    }
}

/// Puts the gate on a connection, above TLS where `tls` is given. Without it the driver must be told that TLS begins at
/// once (`SslNegotiation::Direct`), so that it asks the server for none.
#[derive(Clone)]
pub(crate) struct Connector {
    pub(crate) tls: Option<MakeRustlsConnect>,
    pub(crate) gate: Arc<Gate>,
}

/// The same for one host.
pub(crate) struct ToHost<T> {
    tls: Option<T>,
    gate: Arc<Gate>,
}

impl<S> MakeTlsConnect<S> for Connector
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    type Stream = Gated<S>;
    type TlsConnect = ToHost<<MakeRustlsConnect as MakeTlsConnect<S>>::TlsConnect>;
    type Error = <MakeRustlsConnect as MakeTlsConnect<S>>::Error;

    fn make_tls_connect(&mut self, host: &str) -> Result<Self::TlsConnect, Self::Error> {
        let tls = match &mut self.tls {
            Some(tls) => Some(MakeTlsConnect::<S>::make_tls_connect(tls, host)?),
            None => None,
        };
        Ok(ToHost { tls, gate: Arc::clone(&self.gate) })
    }
}

impl<S, T> TlsConnect<S> for ToHost<T>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    T: TlsConnect<S, Stream = Tls<S>, Error = io::Error>,
    T::Future: Send + 'static,
{
    type Stream = Gated<S>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Gated<S>>> + Send>>;

    fn connect(self, stream: S) -> Self::Future {
        let Self { tls, gate } = self;
        match tls {
            None => Box::pin(std::future::ready(Ok(Gated::new(Wire::Plain(stream), gate)))),
            Some(tls) => {
                let handshake = tls.connect(stream);
                Box::pin(async move { Ok(Gated::new(Wire::Tls(handshake.await?), gate)) })
            }
        }
    }
}
