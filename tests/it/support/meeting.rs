//! Brings PUTs of `latest.json` together: they wait until so many have come and are then let through one by one, the one
//! that finished last first, so that the oldest overwrites all others. Later PUTs pass at once.
//!
//! A store that ignores conditions allows every order; this one is the worst, and it happens each time.

use std::sync::{Arc, Mutex};

use tokio::sync::Notify;

/// See the module.
#[derive(Debug)]
pub(crate) struct Meeting {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    wanted: usize,
    /// When the runs finished whose PUTs have come and are not stored yet.
    waiting: Vec<String>,
    open: bool,
    met: usize,
}

/// The turn of one PUT; ends when dropped, also where its request was given up.
pub(crate) struct Turn<'m> {
    meeting: &'m Meeting,
    finished: String,
}

impl Meeting {
    /// Lets everything pass, until told otherwise.
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { state: Mutex::new(State { open: true, ..State::default() }), changed: Notify::new() })
    }

    /// From now on the next so many PUTs meet.
    pub(crate) fn wait_for(&self, wanted: usize) {
        let mut state = self.state.lock().unwrap();
        assert!(state.open, "those of the round before did not meet");
        *state = State { wanted, met: state.met, ..State::default() };
    }

    /// How often all came together.
    pub(crate) fn met(&self) -> usize {
        self.state.lock().unwrap().met
    }

    /// Waits for the turn of the PUT with that body.
    pub(crate) async fn turn(&self, body: &str) -> Option<Turn<'_>> {
        let finished = body.split_once("\"finished_at\"").expect("a pointer says when its run finished").1.to_owned();
        {
            let mut state = self.state.lock().unwrap();
            if state.open {
                return None;
            }
            state.waiting.push(finished.clone());
            if state.waiting.len() == state.wanted {
                state.open = true;
                state.met += 1;
            }
        }
        let turn = Turn { meeting: self, finished };
        self.changed.notify_waiters();
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            {
                let state = self.state.lock().unwrap();
                if state.open && state.waiting.iter().max() == Some(&turn.finished) {
                    return Some(turn);
                }
            }
            changed.await;
        }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.meeting.state.lock().unwrap().waiting.retain(|waiting| *waiting != self.finished);
        self.meeting.changed.notify_waiters();
    }
}
