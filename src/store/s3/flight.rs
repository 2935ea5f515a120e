//! Requests with a body that may be under way at once: their number follows the measured round trip, and falls when the
//! server asks for less.
//!
//! A small PUT costs one round trip, so a thousand objects a second need as many requests under way as the round trip
//! has milliseconds. Beside the store 8 are enough (Supabase Storage was seen to take 8 well). A server that answers with
//! `SlowDown`, 429 or 503 gets half of them, and slowly more again.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::error::{Error, Result};
use crate::store::traffic::InFlight;

/// Requests at once, whatever the round trip.
const LEAST: usize = 8;
/// Requests at once at most: each is a connection.
const MOST: usize = 64;
/// Requests at once under a server that keeps asking for less.
const THROTTLED: usize = 2;
/// One request more for so much of the shortest round trip.
const EACH: Duration = Duration::from_millis(1);
/// Answers without complaint after which a throttled store gets one request more.
const CALM: usize = 50;

/// The requests of one store.
#[derive(Debug)]
pub(super) struct Flight {
    turns: Arc<Semaphore>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Requests allowed at once.
    allowed: usize,
    /// Turns to be taken away as soon as they are given back.
    surplus: usize,
    /// The most that the server has not complained about.
    ceiling: usize,
    /// Answers since the last complaint.
    calm: usize,
    complained: Option<Instant>,
    shortest: Duration,
}

/// The right to send one request with a body.
pub(super) struct Turn<'a> {
    flight: &'a Flight,
    permit: Option<OwnedSemaphorePermit>,
    begun: Instant,
}

impl Flight {
    pub(super) fn new() -> Self {
        let state =
            State { allowed: LEAST, surplus: 0, ceiling: MOST, calm: 0, complained: None, shortest: Duration::MAX };
        Self { turns: Arc::new(Semaphore::new(LEAST)), state: Mutex::new(state) }
    }

    /// Waits for a turn.
    pub(super) async fn turn(&self) -> Result<Turn<'_>> {
        let permit = Arc::clone(&self.turns).acquire_owned().await.map_err(|error| Error::failed(error.to_string()))?;
        Ok(Turn { flight: self, permit: Some(permit), begun: Instant::now() })
    }

    /// The number that is allowed now, and what it follows.
    pub(super) fn now(&self) -> InFlight {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let shortest_ms = (state.shortest != Duration::MAX).then(|| state.shortest.as_secs_f64() * 1000.0);
        InFlight { allowed: state.allowed, shortest_ms, is_throttled: state.complained.is_some() }
    }

    fn give_back(&self, permit: OwnedSemaphorePermit) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.surplus > 0 {
            state.surplus -= 1;
            permit.forget();
        }
    }

    fn learn(&self, begun: Instant, took: Duration, is_throttled: bool) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let before = state.allowed;
        if is_throttled {
            state.complaint(begun);
        } else {
            state.answer(took);
        }
        if state.allowed > before {
            let taken_back = state.surplus.min(state.allowed - before);
            state.surplus -= taken_back;
            self.turns.add_permits(state.allowed - before - taken_back);
        } else {
            state.surplus += before - state.allowed;
        }
    }
}

impl State {
    /// Allows half as many. Requests that were under way at the last complaint say nothing new.
    fn complaint(&mut self, begun: Instant) {
        if self.complained.is_some_and(|at| begun < at) {
            return;
        }
        self.complained = Some(Instant::now());
        self.ceiling = (self.allowed / 2).max(THROTTLED);
        self.allowed = self.ceiling;
        self.calm = 0;
    }

    fn answer(&mut self, took: Duration) {
        self.shortest = self.shortest.min(took);
        self.calm += 1;
        if self.calm >= CALM && self.ceiling < MOST {
            self.ceiling += 1;
            self.calm = 0;
        }
        let round_trips = usize::try_from(self.shortest.as_micros() / EACH.as_micros()).unwrap_or(MOST);
        let wanted = round_trips.clamp(LEAST, MOST).min(self.ceiling);
        // One more for each answer: a first answer alone proves little.
        self.allowed = if wanted > self.allowed { self.allowed + 1 } else { wanted.max(THROTTLED) };
    }
}

impl Turn<'_> {
    /// Ends the turn of a request that was answered well, or by the server's wish for fewer requests.
    pub(super) fn answered(self, is_throttled: bool) {
        self.flight.learn(self.begun, self.begun.elapsed(), is_throttled);
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if let Some(permit) = self.permit.take() {
            self.flight.give_back(permit);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Flight {
        fn allowed(&self) -> usize {
            self.state.lock().unwrap().allowed
        }
    }

    async fn answer(flight: &Flight, took: Duration, is_throttled: bool) {
        let turn = flight.turn().await.unwrap();
        flight.learn(turn.begun, took, is_throttled);
        drop(turn);
    }

    #[tokio::test]
    async fn requests_follow_the_round_trip_and_fall_when_the_server_asks() {
        let flight = Flight::new();
        for _ in 0..100 {
            answer(&flight, Duration::from_millis(2), false).await;
        }
        assert_eq!((flight.allowed(), flight.turns.available_permits()), (8, 8));

        let far = Flight::new();
        for _ in 0..100 {
            answer(&far, Duration::from_millis(40), false).await;
        }
        assert_eq!((far.allowed(), far.turns.available_permits()), (40, 40));

        let held: Vec<Turn<'_>> =
            futures::future::join_all((0..40).map(|_| far.turn())).await.into_iter().flatten().collect();
        for turn in &held {
            far.learn(turn.begun, Duration::from_millis(40), true);
        }
        assert_eq!((held.len(), far.allowed()), (40, 20));
        drop(held);
        assert_eq!(far.turns.available_permits(), 20);
        for _ in 0..CALM {
            answer(&far, Duration::from_millis(40), false).await;
        }
        assert_eq!((far.allowed(), far.turns.available_permits()), (21, 21));
        for _ in 0..20 {
            answer(&far, Duration::from_millis(40), true).await;
        }
        assert_eq!((far.allowed(), far.turns.available_permits()), (2, 2));
    }
}
