//! Memory of rows on their way: bytes that readers may hold, compressed or not, until they are drained.
//!
//! Room is asked for before a row is read. A giant row does not fit into any budget: there is one at a time, in the task
//! that is being drained, since what a later task holds is let go after that one only.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use crate::error::{Error, Result};

/// Permits are counted in KiB: a `Semaphore` counts to 2^29 on 32-bit machines, and `acquire_many` takes a `u32`.
const UNIT: usize = 1024;

/// Rows, or segments with them, from this size on pass one at a time.
const GIANT: usize = 8 << 20;

/// Bytes for all tasks, and a reserve that only the task being drained may use.
#[derive(Debug, Clone)]
pub(crate) struct Budget {
    shared: Arc<Semaphore>,
    shared_units: u32,
    reserve: Arc<Semaphore>,
    reserve_units: u32,
    giant: Arc<Semaphore>,
    head: watch::Receiver<u64>,
}

/// A part of the budget; given back when dropped.
#[derive(Debug)]
pub(crate) struct Permit(OwnedSemaphorePermit);

impl Permit {
    /// Gives back what is not needed for `bytes` any more.
    pub(crate) fn shrink_to(&mut self, bytes: usize) {
        let surplus = self.0.num_permits().saturating_sub(bytes.div_ceil(UNIT).max(1));
        drop(self.0.split(surplus));
    }
}

fn units(bytes: usize, most: u32) -> u32 {
    // A row larger than everything takes everything: it passes alone.
    u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX).clamp(1, most)
}

impl Budget {
    /// A budget of `shared` bytes for all and `reserve` bytes for the task whose number `head` says.
    #[must_use]
    pub(crate) fn new(shared: usize, reserve: usize, head: watch::Receiver<u64>) -> Self {
        let (shared_units, reserve_units) = (units(shared, u32::MAX / 4), units(reserve, u32::MAX / 4));
        Self {
            shared: Arc::new(Semaphore::new(shared_units as usize)),
            shared_units,
            reserve: Arc::new(Semaphore::new(reserve_units as usize)),
            reserve_units,
            giant: Arc::new(Semaphore::new(1)),
            head,
        }
    }

    /// Waits for room for `bytes` of task number `task`. Tasks wait in order of asking, but the task being drained
    /// never waits for another one's bytes.
    pub(crate) async fn acquire(&self, task: u64, bytes: usize) -> Result<Permit> {
        let mut head = self.head.clone();
        let mut reached = async || {
            if head.wait_for(|now| *now >= task).await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        if bytes > GIANT {
            reached().await;
            let permit = Arc::clone(&self.giant).acquire_owned().await;
            return permit.map(Permit).map_err(|closed| Error::failed(format!("wait for memory: {closed}")));
        }
        let from_reserve = async {
            reached().await;
            Arc::clone(&self.reserve).acquire_many_owned(units(bytes, self.reserve_units)).await
        };
        let permit = tokio::select! {
            biased;
            permit = Arc::clone(&self.shared).acquire_many_owned(units(bytes, self.shared_units)) => permit,
            permit = from_reserve => permit,
        };
        permit.map(Permit).map_err(|closed| Error::failed(format!("wait for memory: {closed}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_task_being_drained_is_never_starved() {
        let (head, watching) = watch::channel(0);
        let budget = Budget::new(8 * UNIT, 4 * UNIT, watching);
        let _ahead = budget.acquire(5, 8 * UNIT).await.unwrap();
        let second = budget.clone();
        let waiting = tokio::spawn(async move { second.acquire(1, 2 * UNIT).await });
        let first = budget.acquire(0, 100 * UNIT).await.unwrap();
        assert!(!waiting.is_finished());
        drop(first);
        head.send(1).unwrap();
        waiting.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn giant_rows_pass_one_at_a_time_in_the_task_being_drained() {
        let (head, watching) = watch::channel(0);
        let budget = Budget::new(8 * UNIT, 4 * UNIT, watching);
        let later = budget.clone();
        let later = tokio::spawn(async move { later.acquire(1, 2 * GIANT).await });
        let first = budget.acquire(0, 2 * GIANT).await.unwrap();
        let second = budget.clone();
        let second = tokio::spawn(async move { second.acquire(0, 2 * GIANT).await });
        tokio::task::yield_now().await;
        assert!(!second.is_finished() && !later.is_finished());
        drop(first);
        drop(second.await.unwrap().unwrap());
        assert!(!later.is_finished());
        head.send(1).unwrap();
        later.await.unwrap().unwrap();
    }
}
