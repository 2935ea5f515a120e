//! A task's share of the databases: which task does a database follows from its name alone (the highest of one hash for each
//! task wins), so that a task that is started again does the same ones, and others that come and go move nothing.
//!
//! Schedulers say by variables of their own which task this is of how many, and most of them which round it belongs to: all
//! tasks of one start, and each of them started again, have the same. By the round a task finds out what it has done already.

use crate::error::{Error, Result};

/// One task of several; the first is 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Task {
    pub(crate) index: u32,
    pub(crate) count: u32,
}

/// The answer of a scheduler.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Scheduled {
    pub(crate) task: Task,
    pub(crate) round: Option<String>,
}

/// As people count: `2/8`.
impl std::fmt::Display for Task {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.index + 1, self.count)
    }
}

impl Task {
    /// Reads `2/8`: the second of eight.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (number, count) = text.split_once('/')?;
        Self::new(number.trim().parse::<u32>().ok()?.checked_sub(1)?, count.trim().parse().ok()?)
    }

    fn new(index: u32, count: u32) -> Option<Self> {
        (index < count).then_some(Self { index, count })
    }

    /// True for a database that this task does.
    pub(crate) fn takes(self, name: &str) -> bool {
        let weight = |task: u32| xxhash_rust::xxh3::xxh3_64_with_seed(name.as_bytes(), u64::from(task) + 1);
        (0..self.count).max_by_key(|task| (weight(*task), *task)) == Some(self.index)
    }
}

/// A scheduler: the variables that hold the number of the task (from 0, or from what the offset says), how many there
/// are, and the round.
struct Scheduler {
    name: &'static str,
    index: &'static str,
    /// Subtracted from the number: its own variable, or a number.
    first: First,
    counts: &'static [&'static str],
    rounds: &'static [&'static str],
}

enum First {
    Is(u32),
    In(&'static str),
}

/// The manuals of these schedulers name the variables. An Indexed Job of Kubernetes says how many there are only where the
/// pod's template sets JOB_COMPLETIONS; its host name is that of the Job and the index.
const SCHEDULERS: [Scheduler; 6] = [
    Scheduler {
        name: "Kubernetes",
        index: "JOB_COMPLETION_INDEX",
        first: First::Is(0),
        counts: &["JOB_COMPLETIONS", "PGSTOW_TASKS"],
        rounds: &["HOSTNAME"],
    },
    Scheduler {
        name: "Cloud Run",
        index: "CLOUD_RUN_TASK_INDEX",
        first: First::Is(0),
        counts: &["CLOUD_RUN_TASK_COUNT"],
        rounds: &["CLOUD_RUN_EXECUTION"],
    },
    Scheduler {
        name: "AWS Batch",
        index: "AWS_BATCH_JOB_ARRAY_INDEX",
        first: First::Is(0),
        counts: &["AWS_BATCH_JOB_ARRAY_SIZE", "PGSTOW_TASKS"],
        rounds: &["AWS_BATCH_JOB_ID"],
    },
    Scheduler {
        name: "GitLab",
        index: "CI_NODE_INDEX",
        first: First::Is(1),
        counts: &["CI_NODE_TOTAL"],
        rounds: &["CI_PIPELINE_ID"],
    },
    Scheduler {
        name: "Slurm",
        index: "SLURM_ARRAY_TASK_ID",
        first: First::In("SLURM_ARRAY_TASK_MIN"),
        counts: &["SLURM_ARRAY_TASK_COUNT"],
        rounds: &["SLURM_ARRAY_JOB_ID"],
    },
    Scheduler {
        name: "Nomad",
        index: "NOMAD_ALLOC_INDEX",
        first: First::Is(0),
        counts: &["NOMAD_META_COUNT", "PGSTOW_TASKS"],
        rounds: &["NOMAD_JOB_ID"],
    },
];

/// Reads what the scheduler says that started this process; `tasks` is the number of tasks, for those that do not say it.
///
/// # Errors
/// Kind `Usage` where no scheduler's variables are there, or they make no sense.
pub(crate) fn scheduled(variable: impl Fn(&str) -> Option<String>, tasks: Option<u32>) -> Result<Scheduled> {
    let known = || SCHEDULERS.iter().map(|one| one.index).collect::<Vec<_>>().join(", ");
    let Some(found) = SCHEDULERS.iter().find(|one| variable(one.index).is_some()) else {
        return Err(Error::usage("--task auto: no scheduler says which task this is")
            .hint(format!("none of {} is set; --task 2/8 names the second of eight tasks", known())));
    };
    let number = |name: &str| -> Result<Option<u32>> {
        let Some(text) = variable(name).filter(|text| !text.is_empty()) else { return Ok(None) };
        text.trim().parse().map(Some).map_err(|_number| {
            Error::usage(format!("--task auto: {name} of {} is {text:?}, which is no number", found.name))
        })
    };
    let counted = match tasks {
        Some(tasks) => Some(tasks),
        None => found.counts.iter().find_map(|name| number(name).transpose()).transpose()?,
    };
    let Some(count) = counted else {
        return Err(Error::usage(format!("--task auto: {} does not say how many tasks there are", found.name))
            .hint("set PGSTOW_TASKS, or give --tasks, the number of tasks"));
    };
    let first = match found.first {
        First::Is(first) => first,
        First::In(name) => number(name)?.unwrap_or_default(),
    };
    let given = number(found.index)?.unwrap_or_default();
    let task = given.checked_sub(first).and_then(|index| Task::new(index, count)).ok_or_else(|| {
        Error::usage(format!("--task auto: {} says task {given} of {count} (the first is {first})", found.name))
    })?;
    let round = found.rounds.iter().find_map(|name| variable(name)).filter(|round| !round.is_empty());
    // `job:3` of AWS Batch, `job-3` of Kubernetes: what all tasks have is before the number.
    let cut = |round: String| {
        let tail = |sign| round.strip_suffix(&format!("{sign}{given}")).map(str::to_owned);
        tail(':').or_else(|| tail('-').filter(|_| found.index == "JOB_COMPLETION_INDEX")).unwrap_or(round)
    };
    // A host's name that is not that of the Job would be another one at each start.
    let is_round = |round: &String| found.index != "JOB_COMPLETION_INDEX" || round.ends_with(&format!("-{given}"));
    // Nomad's periodic and dispatched jobs have a name for each start; the others one for ever.
    let is_once = |round: &String| found.index != "NOMAD_ALLOC_INDEX" || round.contains('/');
    Ok(Scheduled { task, round: round.filter(is_round).filter(is_once).map(cut) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(count: u32) -> Vec<String> {
        (0..count).map(|number| format!("prod/customer_{number}")).collect()
    }

    #[test]
    fn every_database_has_one_task_and_keeps_it() {
        let all = names(200);
        for count in [1, 2, 8, 13] {
            let mut sizes = vec![0; count as usize];
            for name in &all {
                let takers: Vec<u32> = (0..count).filter(|index| Task { index: *index, count }.takes(name)).collect();
                assert_eq!(takers.len(), 1, "{name}");
                sizes[takers[0] as usize] += 1;
            }
            assert!(sizes.iter().all(|size| *size > 200 / count / 4), "{sizes:?}");
        }
        // One task more takes names away from the others, and gives none of them another one.
        let task = |count: u32, name: &str| (0..count).find(|index| Task { index: *index, count }.takes(name)).unwrap();
        let moved: Vec<u32> =
            all.iter().filter(|name| task(8, name) != task(9, name)).map(|name| task(9, name)).collect();
        assert!(moved.iter().all(|index| *index == 8) && (5..60).contains(&moved.len()), "{moved:?}");
    }

    #[test]
    fn each_scheduler_is_understood() {
        let ask = |pairs: &[(&str, &str)], tasks| {
            let pairs: Vec<(String, String)> =
                pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            scheduled(|name| pairs.iter().find(|(one, _)| one == name).map(|(_, value)| value.clone()), tasks)
        };
        let said = |pairs: &[(&str, &str)], tasks| {
            let found = ask(pairs, tasks).unwrap();
            (found.task.to_string(), found.round)
        };
        let round = |text: &str| Some(text.to_owned());
        let kubernetes = [("JOB_COMPLETION_INDEX", "3"), ("HOSTNAME", "nightly-29384-3")];
        assert_eq!(said(&kubernetes, Some(8)), ("4/8".to_owned(), round("nightly-29384")));
        assert_eq!(said(&[kubernetes[0], ("HOSTNAME", "pod-x")], Some(8)), ("4/8".to_owned(), None));
        assert!(ask(&kubernetes, None).unwrap_err().hints().iter().any(|hint| hint.contains("--tasks")));
        let cloud =
            [("CLOUD_RUN_TASK_INDEX", "0"), ("CLOUD_RUN_TASK_COUNT", "2"), ("CLOUD_RUN_EXECUTION", "nightly-x7")];
        assert_eq!(said(&cloud, None), ("1/2".to_owned(), round("nightly-x7")));
        let batch =
            [("AWS_BATCH_JOB_ARRAY_INDEX", "7"), ("AWS_BATCH_JOB_ARRAY_SIZE", "8"), ("AWS_BATCH_JOB_ID", "a-b:7")];
        assert_eq!(said(&batch, None), ("8/8".to_owned(), round("a-b")));
        let gitlab = [("CI_NODE_INDEX", "1"), ("CI_NODE_TOTAL", "4"), ("CI_PIPELINE_ID", "99")];
        assert_eq!(said(&gitlab, None), ("1/4".to_owned(), round("99")));
        let slurm = [
            ("SLURM_ARRAY_TASK_ID", "12"),
            ("SLURM_ARRAY_TASK_MIN", "10"),
            ("SLURM_ARRAY_TASK_COUNT", "4"),
            ("SLURM_ARRAY_JOB_ID", "5"),
        ];
        assert_eq!(said(&slurm, None), ("3/4".to_owned(), round("5")));
        let nomad = [("NOMAD_ALLOC_INDEX", "1"), ("PGSTOW_TASKS", "3"), ("NOMAD_JOB_ID", "nightly/periodic-17")];
        assert_eq!(said(&nomad, None), ("2/3".to_owned(), round("nightly/periodic-17")));
        for wrong in [&[][..], &[("CI_NODE_INDEX", "5"), ("CI_NODE_TOTAL", "4")], &[("CI_NODE_INDEX", "x")]] {
            assert!(ask(wrong, None).is_err(), "{wrong:?}");
        }
        assert_eq!(Task::parse("2/8"), Some(Task { index: 1, count: 8 }));
        assert!([("0/8"), ("9/8"), ("1"), ("a/b"), ("1/0")].iter().all(|text| Task::parse(text).is_none()));
    }
}
