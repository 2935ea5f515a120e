//! The keys of `pgstow.toml`, made from the clap definitions: the long name of each flag of the steps is a key. What clap
//! would refuse on the command line is refused in the file, by clap itself.

use std::any::TypeId;

use clap::ArgAction;

use crate::error::{Error, Result};
use crate::fleet::file::File;
use crate::fleet::keys::{Key, Keys, Step, Takes};
use crate::fleet::plan::Plan;
use crate::fleet::roster::Roster;

/// Flags that are no keys, each with the reason.
pub(crate) const NO_KEYS: &[(&str, &str)] = &[
    ("json", "of the caller: the form of what is printed"),
    ("log", "of the caller"),
    ("log-format", "of the caller"),
    ("progress", "of the caller"),
    ("config", "names the file itself"),
    ("database-url", "is the key `url`"),
    ("metrics-file", "of the caller: one file holds the metrics of all databases"),
    ("prometheus", "of the caller: the form of what is printed"),
    ("dry-run", "a night that prunes nothing is one without prune"),
    ("round", "of the caller: the same for all tasks of one start"),
    ("at", "of a person: nothing can be written while a store is read as it was"),
];

/// The keys that the file knows.
pub(crate) fn keys(program: &clap::Command) -> Keys {
    let mut keys: Vec<Key> = Vec::new();
    let mut add = |argument: &clap::Arg, steps: &[Step]| {
        let Some(name) = argument.get_long() else { return };
        if NO_KEYS.iter().any(|(no, _)| *no == name) || name == "help" || name == "version" {
            return;
        }
        match keys.iter_mut().find(|key| key.name == name) {
            Some(key) => key.steps.extend_from_slice(steps),
            None => keys.push(key(name, argument, steps)),
        }
    };
    program.get_arguments().for_each(|argument| add(argument, &Step::ALL));
    for step in Step::ALL {
        let arguments = program.find_subcommand(step.verb()).into_iter().flat_map(clap::Command::get_arguments);
        arguments.for_each(|argument| add(argument, &[step]));
    }
    Keys(keys)
}

fn key(name: &str, argument: &clap::Arg, steps: &[Step]) -> Key {
    let takes = match argument.get_action() {
        ArgAction::SetTrue | ArgAction::SetFalse => Takes::Nothing,
        ArgAction::Append => Takes::Many,
        _ => Takes::One,
    };
    let kind = argument.get_value_parser().type_id();
    let numbers = [TypeId::of::<u16>(), TypeId::of::<u32>(), TypeId::of::<u64>()];
    let values = argument.get_possible_values();
    let values = values.iter().filter(|value| !value.is_hide_set()).map(|value| value.get_name().to_owned());
    Key {
        name: name.to_owned(),
        steps: steps.to_vec(),
        variable: argument.get_env().map(|name| name.to_string_lossy().into_owned()),
        takes,
        is_number: numbers.iter().any(|number| kind == *number),
        values: if takes == Takes::Nothing { Vec::new() } else { values.collect() },
        help: argument.get_help().map(ToString::to_string).unwrap_or_default(),
    }
}

/// Finds the databases of a file and lets clap look at every value that stands in it.
///
/// # Errors
/// Kind `Usage`.
pub(crate) async fn roster(file: &File, names: &[String], keys: &Keys, program: &clap::Command) -> Result<Roster> {
    let roster = Roster::find(file, names, keys).await?;
    for plan in &roster.plans {
        check(plan, keys, program).map_err(|error| error.context(file.path.display()))?;
    }
    Ok(roster)
}

fn check(plan: &Plan, keys: &Keys, program: &clap::Command) -> Result<()> {
    for planned in &plan.steps {
        let mut words = vec!["pgstow".to_owned()];
        words.extend(Plan::words(planned, keys));
        if planned.step == Step::Copy && !planned.settings.contains_key("to") {
            return Err(Error::usage(format!("{}, copy: no key \"to\"", plan.name))
                .hint("to = \"s3://other-bucket/{name}\" names the second store"));
        }
        if planned.step == Step::Drill {
            if !planned.settings.contains_key("on") {
                return Err(Error::usage(format!("{}, drill: no key \"on\"", plan.name))
                    .hint("on = { env = \"DRILL_URL\" } names a database of the server where drills are made"));
            }
            words.push("--on=postgresql://by-reference/x".to_owned());
            words.retain(|word| !word.starts_with("--on=") || word.ends_with("//by-reference/x"));
        }
        if let Err(error) = program.clone().try_get_matches_from(&words) {
            let text = error.to_string();
            let line = text.lines().next().unwrap_or_default();
            let line = crate::error::without_secrets(line.strip_prefix("error: ").unwrap_or(line));
            return Err(Error::usage(format!("{}, {}: {line}", plan.name, planned.step.verb()))
                .hint(format!("`pgstow {} --help` explains the settings", planned.step.verb())));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;
    use crate::cli::Cli;

    #[test]
    fn every_flag_of_a_step_has_its_key() {
        let program = Cli::command();
        let keys = keys(&program);
        let mut tried = 0;
        for step in Step::ALL {
            let command = program.find_subcommand(step.verb()).unwrap();
            for argument in program.get_arguments().chain(command.get_arguments()) {
                let Some(name) = argument.get_long() else {
                    assert!(argument.is_positional(), "{argument:?}");
                    continue;
                };
                if NO_KEYS.iter().any(|(no, _)| *no == name) {
                    continue;
                }
                tried += 1;
                let key = keys.named(name).unwrap_or_else(|| panic!("--{name} of {} has no key", step.verb()));
                assert!(key.steps.contains(&step), "{name} {step:?}");
                assert!(
                    keys.of_step(step).contains(&name) && (!Keys::is_shared(key) || keys.of_sections().contains(&name))
                );
                // What is given by reference reaches the process by a variable.
                assert!(key.takes == Takes::Nothing || key.variable.is_some(), "--{name} has no variable");
            }
        }
        assert!(tried > 100, "{tried}");
        assert!(NO_KEYS.iter().all(|(name, _)| keys.named(name).is_none()));
    }
}
