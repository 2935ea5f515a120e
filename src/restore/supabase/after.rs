//! Indexes, constraints, triggers and policies, made by several sessions at once: each when what it needs is there,
//! and never two at once on one table unless both are indexes, so that no two wait for each other's locks
//! (`pg_restore -j` does the same).

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, PoisonError};

use libpgdump::{Entry, ObjectType};
use tokio::sync::Notify;

use crate::error::{Error, Result};
use crate::postgres::connect::session::Session;
use crate::postgres::target;
use crate::restore::supabase::apply::{Applier, SETTINGS};
use crate::restore::supabase::places::Map;
use crate::restore::work::Work;

/// One entry that waits for its turn.
struct Item<'a> {
    entry: &'a Entry,
    /// Numbers of entries of this list that come first.
    needs: HashSet<i32>,
    tables: HashSet<i32>,
    shared: bool,
}

#[derive(Default)]
struct State {
    /// Not begun, in the archive's order.
    waiting: Vec<usize>,
    done: HashSet<i32>,
    /// Tables in use: how many indexes, or `None` for one user alone.
    used: HashMap<i32, Option<u32>>,
}

struct Board<'a> {
    items: Vec<Item<'a>>,
    state: Mutex<State>,
    freed: Notify,
}

impl<'a> Board<'a> {
    fn new(entries: &[&'a Entry], map: &Map<'a>) -> Self {
        let ids: HashSet<i32> = entries.iter().map(|e| e.dump_id).collect();
        let mut attached = None;
        let item = |entry: &&'a Entry| {
            let mut needs: HashSet<i32> =
                entry.dependencies.iter().filter(|id| ids.contains(id) && **id != entry.dump_id).copied().collect();
            if entry.desc == ObjectType::IndexAttach {
                // Two at once may not see each other and leave an index invalid.
                needs.extend(attached.replace(entry.dump_id));
            }
            let is_table = |id: &&i32| {
                map.entry(**id).is_some_and(|e| matches!(e.desc, ObjectType::Table | ObjectType::MaterializedView))
            };
            Item {
                entry,
                needs,
                tables: entry.dependencies.iter().filter(is_table).copied().collect(),
                shared: entry.desc == ObjectType::Index,
            }
        };
        let items: Vec<Item<'a>> = entries.iter().map(item).collect();
        let state = State { waiting: (0..items.len()).collect(), ..State::default() };
        Self { items, state: Mutex::new(state), freed: Notify::new() }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next that can begin; `Err(true)` when there is none left, `Err(false)` when one must be waited for.
    fn take(&self) -> std::result::Result<&Item<'a>, bool> {
        let mut state = self.state();
        let free = |item: &Item<'_>, state: &State| {
            item.needs.iter().all(|id| state.done.contains(id))
                && item.tables.iter().all(|table| match state.used.get(table) {
                    None => true,
                    Some(Some(_)) => item.shared,
                    Some(None) => false,
                })
        };
        let found = state.waiting.iter().position(|at| self.items.get(*at).is_some_and(|item| free(item, &state)));
        let Some(position) = found else { return Err(state.waiting.is_empty()) };
        let at = state.waiting.remove(position);
        let item = self.items.get(at).ok_or(true)?;
        for table in &item.tables {
            let users = state.used.get(table).copied().flatten().unwrap_or(0);
            state.used.insert(*table, item.shared.then_some(users + 1));
        }
        Ok(item)
    }

    fn end(&self, item: &Item<'_>) {
        let mut state = self.state();
        state.done.insert(item.entry.dump_id);
        for table in &item.tables {
            match state.used.get(table).copied().flatten() {
                Some(users) if users > 1 => state.used.insert(*table, Some(users - 1)),
                _ => state.used.remove(table),
            };
        }
        drop(state);
        self.freed.notify_waiters();
    }
}

/// Makes these entries, in an order that fits their dependencies.
///
/// # Errors
/// A lost connection; what the server refuses is noted by the applier.
pub(crate) async fn all(work: &Work<'_>, like: &Applier<'_>, entries: &[&Entry]) -> Result<()> {
    let board = Board::new(entries, like.map);
    let worker = || async {
        let session = Session::connect(&work.info, work.options.connect_timeout, "restore").await?;
        target::execute(&session, SETTINGS, "set up a session").await?;
        let applier = Applier { session: &session, ..*like };
        loop {
            let freed = board.freed.notified();
            let mut freed = std::pin::pin!(freed);
            // From here on nothing that ends is missed.
            freed.as_mut().enable();
            match board.take() {
                Ok(item) => {
                    applier.make(item.entry).await?;
                    board.end(item);
                }
                Err(true) => break,
                Err(false) => freed.await,
            }
        }
        session.close().await;
        Ok::<(), Error>(())
    };
    let workers = usize::from(work.options.jobs).min(entries.len());
    futures::future::try_join_all((0..workers).map(|_| worker())).await.map(drop)
}
