//! Objects read at the same time: so many large ones, or many small ones in the place of each. A small object is all
//! latency, a large one all bandwidth and memory; with one bound for both, ten thousand small objects far away take as
//! long as their round trips one after the other.

use std::sync::Arc;

use futures::Stream;
use futures::stream::{self, StreamExt as _};
use tokio::sync::Semaphore;

/// Small objects in the place of a large one.
const SMALL: usize = 32;
/// Small objects at once, with however many jobs: each is a connection.
const MOST: usize = 256;
/// Stored bytes up to which an object counts by its size; a larger one takes a whole place.
const LARGE: u64 = 1 << 20;

/// Runs one future for each item, at most `jobs` large ones at once, in the order given; yields results as they come.
/// `bytes` says how large the item's object is as it is stored.
pub(crate) fn side_by_side<I, T, F, R>(
    items: Vec<I>,
    jobs: usize,
    bytes: impl Fn(&I) -> u64,
    run: F,
) -> impl Stream<Item = R>
where
    F: Fn(I) -> T,
    T: Future<Output = R>,
{
    let places = places(jobs);
    let each = places / jobs.max(1);
    let turns = Arc::new(Semaphore::new(places));
    let running = items.into_iter().map(|item| {
        let (turns, weight, future) = (Arc::clone(&turns), weight(bytes(&item), each), run(item));
        async move {
            // Never closed: without a permit nothing is lost but the bound.
            let _turn = turns.acquire_many(weight).await.ok();
            future.await
        }
    });
    stream::iter(running.collect::<Vec<_>>()).buffer_unordered(places)
}

/// Small objects that so many jobs read at once.
pub(crate) fn places(jobs: usize) -> usize {
    jobs.max(1) * SMALL.min(MOST / jobs.max(1)).max(1)
}

/// Places that an object of so many stored bytes takes.
fn weight(bytes: u64, each: usize) -> u32 {
    let share = bytes.saturating_mul(each as u64).div_ceil(LARGE);
    u32::try_from(share.clamp(1, each as u64)).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use super::*;

    async fn most(sizes: Vec<u64>, jobs: usize) -> usize {
        let (now, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let one = |_size| async {
            most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(1)).await;
            now.fetch_sub(1, Ordering::SeqCst);
        };
        side_by_side(sizes, jobs, |size| *size, one).collect::<Vec<()>>().await;
        most.load(Ordering::SeqCst)
    }

    #[tokio::test]
    async fn many_small_objects_take_the_place_of_a_large_one() {
        assert_eq!(most(vec![100 << 20; 20], 4).await, 4);
        assert_eq!(most(vec![1000; 200], 4).await, 128);
        assert_eq!(most(vec![1000; 400], 64).await, 256);
        assert_eq!(most(vec![1 << 19; 20], 1).await, 2);
        assert_eq!(most(Vec::new(), 4).await, 0);
    }
}
