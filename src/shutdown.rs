//! The way in which a run is stopped: one token that every task watches, and the signal that caused it. What computes for
//! long does so aside, since a thread that computes hears of nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use tokio_util::sync::CancellationToken;

use crate::error::{Error, Kind, Result};

/// Asks every task of the program to stop; clones share the state.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    token: CancellationToken,
    signal: Arc<AtomicU8>,
}

impl Shutdown {
    /// A token that SIGINT and SIGTERM trip. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// When the handlers cannot be installed.
    pub fn on_signals() -> std::io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        let shutdown = Self::default();
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let shared = shutdown.clone();
        tokio::spawn(async move {
            let which = tokio::select! {
                _ = interrupt.recv() => 2,
                _ = terminate.recv() => 15,
            };
            shared.signal.store(which, Ordering::SeqCst);
            shared.token.cancel();
        });
        Ok(shutdown)
    }

    /// Stops the program, as SIGTERM does, when its input ends: that of a step ends with the program that started it.
    pub fn when_input_ends(&self) {
        let shared = self.clone();
        // A thread, not a task: a read of stdin cannot be cancelled.
        std::thread::spawn(move || {
            let ended = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
            tracing::debug!("the input ended: {ended:?}");
            if !shared.token.is_cancelled() {
                shared.signal.store(15, Ordering::SeqCst);
                shared.token.cancel();
            }
        });
    }

    /// The token; cancelled by a signal, or the end of a supervised input.
    #[must_use]
    pub const fn token(&self) -> &CancellationToken {
        &self.token
    }

    /// Waits until the program is asked to stop and returns the error to end with.
    pub async fn requested(&self) -> Error {
        self.token.cancelled().await;
        self.error()
    }

    /// The error to end with once the program was asked to stop.
    #[must_use]
    pub fn error(&self) -> Error {
        if self.signal.load(Ordering::SeqCst) == 15 {
            Error::new(Kind::Terminated, "terminated by SIGTERM")
        } else {
            Error::new(Kind::Interrupted, "interrupted")
        }
    }
}

/// Runs a computation that takes long with many tables aside of the threads that wait for signals, sockets and clocks.
/// Dropping the future ends the wait; the computation then ends by itself, or with the process.
pub(crate) async fn aside<T: Send + 'static>(computation: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    let computed = tokio::task::spawn_blocking(computation).await;
    computed.map_err(|error| Error::failed(format!("a computation broke: {error}")))
}
