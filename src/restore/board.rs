//! The order in which several sessions make indexes, constraints, triggers and policies at once: each when what it needs
//! exists, and never two at once on one table unless both are indexes, so that no two wait for each other's locks
//! (`pg_restore -j` does the same).

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, PoisonError};

use libpgdump::{Entry, ObjectType};
use tokio::sync::Notify;

/// Most entries that one session takes at once.
const TOGETHER: usize = 100;

/// One entry that waits for its turn.
pub(crate) struct Item<'a> {
    pub(crate) entry: &'a Entry,
    /// Numbers of entries of this list that come first.
    needs: HashSet<i32>,
    tables: HashSet<i32>,
    shared: bool,
}

/// The answer to a session that asks for work.
enum Turn<'b, 'a> {
    /// This entry can begin.
    Begin(&'b Item<'a>),
    /// Something must end first.
    Wait,
    /// All have begun.
    Over,
}

#[derive(Default)]
struct State {
    /// Not begun, in the archive's order.
    waiting: Vec<usize>,
    done: HashSet<i32>,
    /// Tables in use: how many indexes, or `None` for one user alone.
    used: HashMap<i32, Option<u32>>,
}

/// The entries of one step, shared by the sessions that make them.
pub(crate) struct Board<'a> {
    items: Vec<Item<'a>>,
    state: Mutex<State>,
    freed: Notify,
}

impl<'a> Board<'a> {
    pub(crate) fn new(entries: &[&'a Entry], by_id: impl Fn(i32) -> Option<&'a Entry>) -> Self {
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
                by_id(**id).is_some_and(|e| matches!(e.desc, ObjectType::Table | ObjectType::MaterializedView))
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

    /// The next entry that can begin.
    fn take(&self, fits: impl Fn(&Entry) -> bool) -> Turn<'_, 'a> {
        let mut state = self.state();
        let free = |item: &Item<'_>, state: &State| {
            item.needs.iter().all(|id| state.done.contains(id))
                && item.tables.iter().all(|table| match state.used.get(table) {
                    None => true,
                    Some(Some(_)) => item.shared,
                    Some(None) => false,
                })
        };
        let can = |item: &Item<'_>| fits(item.entry) && free(item, &state);
        let found = state.waiting.iter().position(|at| self.items.get(*at).is_some_and(can));
        let Some(position) = found else { return if state.waiting.is_empty() { Turn::Over } else { Turn::Wait } };
        let at = state.waiting.remove(position);
        let Some(item) = self.items.get(at) else { return Turn::Over };
        for table in &item.tables {
            let users = state.used.get(table).copied().flatten().unwrap_or(0);
            state.used.insert(*table, item.shared.then_some(users + 1));
        }
        Turn::Begin(item)
    }

    /// Waits for the next entry that can begin; `None` when all have begun.
    pub(crate) async fn next(&self) -> Option<&Item<'a>> {
        loop {
            let freed = self.freed.notified();
            let mut freed = std::pin::pin!(freed);
            // From here on nothing that ends is missed.
            freed.as_mut().enable();
            match self.take(|_any| true) {
                Turn::Begin(item) => return Some(item),
                Turn::Over => return None,
                Turn::Wait => freed.await,
            }
        }
    }

    /// Further entries that can begin now, in the archive's order, of those for which `fits`: not more than leave as many
    /// to each of the other sessions.
    pub(crate) fn more(&self, sessions: usize, fits: impl Fn(&Entry) -> bool) -> Vec<&Item<'a>> {
        let share = self.state().waiting.len() / (2 * sessions.max(1));
        let mut more = Vec::new();
        while more.len() < share.min(TOGETHER) {
            match self.take(&fits) {
                Turn::Begin(item) => more.push(item),
                Turn::Wait | Turn::Over => break,
            }
        }
        more
    }

    /// Notes that an entry is made, or refused: what waits for it may begin.
    pub(crate) fn end(&self, item: &Item<'_>) {
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
