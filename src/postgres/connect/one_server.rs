//! The server that all connections of one command must reach. An endpoint may stand for several (a reader endpoint, a
//! balancer, a name with several addresses): a snapshot of one is unknown to another, locks taken there hold nobody back
//! here, and rows of two would be mixed. The first session says which server it is; whoever reaches another one is refused.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

/// The hint of every error about two servers.
pub(crate) const NAME_ONE: &str = "the sessions of one command must all reach the same server: name one server, not an endpoint that \
     gives each session another one (a reader endpoint, a load balancer, a name with several addresses)";

/// The server of a connection's first session, shared by all copies of its parameters.
#[derive(Debug, Clone, Default)]
pub(crate) struct OneServer(Arc<Seen>);

#[derive(Debug, Default)]
struct Seen {
    /// The moment when it was started, which no two servers share.
    started: OnceLock<String>,
    strays: AtomicUsize,
}

impl OneServer {
    /// True when a session reached the server of the first one; the first one is right.
    pub(crate) fn is_same(&self, started: &str) -> bool {
        let is_same = self.0.started.get_or_init(|| started.to_owned()) == started;
        if !is_same {
            self.0.strays.fetch_add(1, Ordering::SeqCst);
        }
        is_same
    }

    /// True once a session has said which server it is.
    #[must_use]
    pub(crate) fn is_known(&self) -> bool {
        self.0.started.get().is_some()
    }

    /// True once a session reached another server.
    #[must_use]
    pub(crate) fn has_strayed(&self) -> bool {
        self.0.strays.load(Ordering::SeqCst) > 0
    }
}

/// Parameters are compared by what they say, not by where they led.
impl PartialEq for OneServer {
    fn eq(&self, _other: &Self) -> bool {
        true
    }
}

impl Eq for OneServer {}
