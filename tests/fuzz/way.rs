//! The ways through the program: how a run is made, what is done to it, and how it is restored.

use std::fmt;
use std::str::FromStr;

use crate::words::Dice;

/// What becomes of the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Goal {
    /// `restore --create`.
    Create,
    /// `restore` into an empty database.
    Empty,
    /// `restore --schema-only`, then `restore --data-only`.
    Halves,
    /// `restore --schema` of one schema into an empty database.
    Schema,
    /// `restore --table` of one table into an empty database.
    Table,
    /// `restore --data-only --truncate` into the same definitions with other rows.
    Rows,
    /// The `.sql` objects of all tables through psql.
    Files,
    /// The script of RESTORE.md.
    Script,
    /// `drill`.
    Drill,
    /// Something is damaged first; `verify` or `drill` must say so.
    Damage,
    /// `restore --create`, killed midway and begun again.
    Kill,
    /// `restore` by the owner of the target, no superuser.
    Owner,
    /// `restore --create --roles` after database and roles are gone.
    Roles,
}

const GOALS: [(Goal, &str, usize); 13] = [
    (Goal::Create, "create", 30),
    (Goal::Empty, "empty", 12),
    (Goal::Halves, "halves", 10),
    (Goal::Schema, "schema", 6),
    (Goal::Table, "table", 6),
    (Goal::Rows, "rows", 5),
    (Goal::Files, "files", 6),
    (Goal::Script, "script", 5),
    (Goal::Drill, "drill", 8),
    (Goal::Damage, "damage", 8),
    (Goal::Kill, "kill", 4),
    (Goal::Owner, "owner", 4),
    (Goal::Roles, "roles", 4),
];

/// One way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Way {
    pub goal: Goal,
    pub jobs: usize,
    pub compression: String,
    pub sealed: bool,
    pub volumes: bool,
    /// Other sessions change definitions while the run is made.
    pub changes: bool,
    /// Decides what is damaged, which table is taken, when the kill comes.
    pub draw: usize,
}

impl Way {
    /// A way drawn at random, the plain ones more often.
    pub fn random(dice: &mut Dice<'_>) -> Self {
        let mut at = dice.below(GOALS.iter().map(|(_, _, weight)| weight).sum());
        let mut goal = Goal::Create;
        for (other, _, weight) in GOALS {
            if at < weight {
                goal = other;
                break;
            }
            at -= weight;
        }
        Self {
            goal,
            jobs: 1 + dice.below(4),
            compression: dice.word(&["zstd:1", "zstd:1", "zstd:3", "gzip", "none"]).to_owned(),
            sealed: dice.chance(15),
            volumes: dice.chance(12),
            changes: dice.chance(6),
            draw: dice.below(1 << 20),
        }
    }
}

impl fmt::Display for Way {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        let goal = GOALS.iter().find(|(goal, _, _)| *goal == self.goal).map_or("create", |(_, name, _)| name);
        write!(
            to,
            "{goal} jobs={} compression={} sealed={} volumes={} changes={} draw={}",
            self.jobs, self.compression, self.sealed, self.volumes, self.changes, self.draw
        )
    }
}

impl FromStr for Way {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("no way: {text}");
        let mut words = text.split_whitespace();
        let goal = words.next().ok_or_else(wrong)?;
        let goal = GOALS.iter().find(|(_, name, _)| *name == goal).ok_or_else(wrong)?.0;
        let mut way = Self {
            goal,
            jobs: 1,
            compression: "zstd:1".to_owned(),
            sealed: false,
            volumes: false,
            changes: false,
            draw: 0,
        };
        for word in words {
            let (name, value) = word.split_once('=').ok_or_else(wrong)?;
            match name {
                "jobs" => way.jobs = value.parse().map_err(|_digits| wrong())?,
                "compression" => value.clone_into(&mut way.compression),
                "sealed" => way.sealed = value == "true",
                "volumes" => way.volumes = value == "true",
                "changes" => way.changes = value == "true",
                "draw" => way.draw = value.parse().map_err(|_digits| wrong())?,
                _ => return Err(wrong()),
            }
        }
        Ok(way)
    }
}
