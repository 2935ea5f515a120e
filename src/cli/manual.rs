//! `pgstow manual`: prints the pages of the manual, which are compiled into the program: an operator who has to restore
//! at night has the binary at hand, not the repository.
//!
//! The pages are the Markdown files of `src/manual`. Two of them end with a part that is generated: the list of pages of
//! `index`, and the list of flags of `settings`, which is made from the clap definitions and therefore cannot drift.

use std::io::{ErrorKind, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use clap::builder::{PossibleValue, PossibleValuesParser};
use clap::{Arg, ArgAction, Args};
use serde::Serialize;

use crate::cli::output;
use crate::error::{Context as _, Result};

/// Prints a page of the manual; without a topic, the list of pages.
///
/// On a terminal the page is shown by the program that PAGER names (default: less).
#[derive(Debug, Clone, Args)]
pub struct Manual {
    /// Page of the manual. Without it, the list of pages is printed.
    #[arg(default_value = INDEX, hide_default_value = true, value_parser = topics())]
    pub topic: String,
    /// Write man pages into this folder instead: pgstow.1, and one of each command.
    #[arg(long, value_name = "DIR", conflicts_with = "topic")]
    pub man: Option<PathBuf>,
}

/// One page.
struct Page {
    topic: &'static str,
    /// One line for the list of pages.
    summary: &'static str,
    text: &'static str,
}

const INDEX: &str = "index";
const SETTINGS: &str = "settings";

/// Characters of a line of the generated list of settings; the pages are about as wide.
const WIDTH: usize = 108;

macro_rules! page {
    ($topic:literal, $summary:literal) => {
        Page { topic: $topic, summary: $summary, text: include_str!(concat!("../manual/", $topic, ".md")) }
    };
}

/// In the order in which the list shows them: what is needed in a hurry comes first.
const PAGES: &[Page] = &[
    page!("restore", "from a lost server back to a running database; parts of a run; stock tools"),
    page!("rescue", "after a wrong DELETE or UPDATE: single rows back; rows of a run on the screen"),
    page!("export", "rows of a run as Parquet files, for DuckDB, Athena, Spark"),
    page!("tour", "the first steps, with the output of each"),
    page!("supabase", "back a Supabase project up, and restore into one"),
    page!("drill", "prove that a run can be restored"),
    page!("doctor", "check now what could stop the next backup"),
    page!("backup", "what a backup saves, and how it behaves towards your production database"),
    page!("deploy", "install; where it runs; containers, functions with a time limit, monitoring"),
    page!("server", "a plain server: systemd timers or cron"),
    page!("github-actions", "GitHub Actions: action and workflow"),
    page!("gitlab", "GitLab CI: jobs and schedules"),
    page!("kubernetes", "Kubernetes: Helm chart, kustomize, operators"),
    page!("aws", "AWS: Lambda or Fargate by Terraform"),
    page!("google-cloud", "Google Cloud: Cloud Run jobs"),
    page!("platforms", "Fly, Render, Railway, Docker"),
    page!("fleet", "one file for many databases; tasks of a scheduler"),
    page!("alarms", "notifications, metrics, what changed since the last run"),
    page!("copies", "a run in a second store"),
    page!("retention", "list, prune, pin, promote, compare and report runs"),
    page!("encryption", "encrypt runs to age keys; keep the keys"),
    page!("trust", "who do you trust: what a writer of the bucket can do"),
    page!("stores", "S3-compatible servers and directories; limits of providers"),
    page!("settings", "every flag, environment variable and default"),
    page!("exit-codes", "the exit codes, and what goes to stdout and stderr"),
    page!("format", "what a run leaves in the store, byte by byte"),
    page!("internals", "how a backup and a restore work"),
    page!("performance", "measured speed and memory, and how to tune"),
    page!("limits", "what pgstow cannot do, and what it was tried with"),
    page!("index", "the list of pages"),
];

#[derive(Debug, Serialize)]
struct Document {
    topic: String,
    text: String,
}

fn topics() -> PossibleValuesParser {
    PossibleValuesParser::new(PAGES.iter().map(|page| PossibleValue::new(page.topic).help(page.summary)))
}

/// Prints a page.
///
/// # Errors
/// When stdout cannot be written.
pub(crate) fn run(arguments: &Manual, json: bool, program: &clap::Command) -> Result<()> {
    if let Some(folder) = &arguments.man {
        return man_pages(folder, program.clone());
    }
    let text = text(&arguments.topic, program);
    if json {
        return output::print_json(&Document { topic: arguments.topic.clone(), text });
    }
    if std::io::stdout().is_terminal() && paged(&text)? {
        return Ok(());
    }
    output::print(&text)
}

/// Writes the man pages of the program and of each command.
fn man_pages(folder: &Path, program: clap::Command) -> Result<()> {
    let operation = || format!("write man pages into {}", folder.display());
    std::fs::create_dir_all(folder).with_context(operation)?;
    clap_mangen::generate_to(program.disable_help_subcommand(true), folder).with_context(operation)
}

/// The Markdown text of a page.
fn text(topic: &str, program: &clap::Command) -> String {
    let written = PAGES.iter().find(|page| page.topic == topic).map(|page| page.text).unwrap_or_default();
    let generated = match topic {
        INDEX => list(),
        SETTINGS => settings(program),
        _ => String::new(),
    };
    format!("{written}{generated}")
}

fn list() -> String {
    let width = PAGES.iter().map(|page| page.topic.len()).max().unwrap_or_default();
    let listed = PAGES.iter().filter(|page| page.topic != INDEX);
    let lines: Vec<String> =
        listed.map(|page| format!("    pgstow manual {:<width$}  {}\n", page.topic, page.summary)).collect();
    lines.concat()
}

/// Shows the text by the program that `PAGER` names, started directly and not by a shell, its words separated by spaces.
/// Returns false where there is none, or `PAGER` is empty, and nothing was shown.
fn paged(text: &str) -> Result<bool> {
    let pager = std::env::var("PAGER").unwrap_or_else(|_unset| "less -R".to_owned());
    let mut words = pager.split_ascii_whitespace();
    let Some(program) = words.next() else { return Ok(false) };
    let mut command = Command::new(program);
    command.args(words).stdin(Stdio::piped());
    if std::env::var_os("LESS").is_none() {
        // A page that fits on the screen is printed at once.
        command.env("LESS", "FRX");
    }
    let Ok(mut child) = command.spawn() else { return Ok(false) };
    if let Some(mut input) = child.stdin.take() {
        match input.write_all(text.as_bytes()) {
            Err(error) if error.kind() != ErrorKind::BrokenPipe => return Err(error).context("write to the pager"),
            _ => {}
        }
    }
    child.wait().context("wait for the pager")?;
    Ok(true)
}

/// One flag.
struct Setting {
    /// The heading of a setting of all commands; `None` for one of some commands.
    heading: Option<String>,
    text: String,
    commands: Vec<String>,
}

impl Setting {
    fn heading(&self) -> String {
        match (&self.heading, self.commands.as_slice()) {
            (Some(heading), _) => heading.clone(),
            (None, [command]) => format!("pgstow {command}"),
            (None, _) => "Several commands".to_owned(),
        }
    }
}

/// Every setting of the command line, made from the clap definitions, the ones of all commands first.
fn settings(program: &clap::Command) -> String {
    let mut found: Vec<Setting> = Vec::new();
    for argument in program.get_arguments() {
        let heading = argument.get_help_heading().unwrap_or("All commands").to_owned();
        found.push(Setting { heading: Some(heading), text: described(argument), commands: Vec::new() });
    }
    for command in program.get_subcommands() {
        for argument in command.get_arguments().filter(|argument| argument.get_long().is_some()) {
            let (text, command) = (described(argument), command.get_name().to_owned());
            match found.iter_mut().find(|setting| setting.text == text) {
                Some(setting) => setting.commands.push(command),
                None => found.push(Setting { heading: None, text, commands: vec![command] }),
            }
        }
    }
    written(&found)
}

/// The settings under their headings, in the order in which the headings appear first.
fn written(found: &[Setting]) -> String {
    let mut headings: Vec<String> = Vec::new();
    for heading in found.iter().map(Setting::heading) {
        if !headings.contains(&heading) {
            headings.push(heading);
        }
    }
    let mut text = String::new();
    for heading in headings {
        text.push_str(&format!("\n## {heading}\n\n"));
        for setting in found.iter().filter(|setting| setting.heading() == heading) {
            text.push_str(&setting.text);
            if setting.commands.len() > 1 {
                text.push_str(&wrapped(&format!("Commands: {}.", setting.commands.join(", "))));
            }
        }
    }
    text
}

/// A setting as an item of a Markdown list: names, default, values, help.
fn described(argument: &Arg) -> String {
    let mut names: Vec<String> = argument.get_short().map(|short| format!("`-{short}`")).into_iter().collect();
    let value = match (argument.get_action(), argument.get_value_names()) {
        (ArgAction::Set | ArgAction::Append, Some([name]))
            if !argument.get_id().as_str().eq_ignore_ascii_case(name) =>
        {
            format!(" {name}")
        }
        (ArgAction::Set | ArgAction::Append, _) => " VALUE".to_owned(),
        _ => String::new(),
    };
    names.push(format!("`--{}{value}`", argument.get_long().unwrap_or_default()));
    names.extend(argument.get_env().map(|name| format!("`{}`", name.to_string_lossy())));
    let mut text = format!("- {}", names.join(", "));
    let defaults: Vec<_> = argument.get_default_values().iter().map(|value| value.to_string_lossy()).collect();
    if !defaults.is_empty() {
        text.push_str(&format!("; default `{}`", defaults.join(" ")));
    }
    text.push('\n');
    let help = argument.get_long_help().or_else(|| argument.get_help()).map(ToString::to_string).unwrap_or_default();
    let mut help = help.trim().to_owned();
    if !help.is_empty() && !help.ends_with('.') {
        help.push('.');
    }
    let values = argument.get_possible_values();
    let values: Vec<String> =
        values.iter().filter(|value| !value.is_hide_set()).map(|value| format!("`{}`", value.get_name())).collect();
    if !values.is_empty() && argument.get_action().takes_values() {
        help.push_str(&format!(" One of {}.", values.join(", ")));
    }
    text + &wrapped(&help)
}

/// The text in lines of at most [`WIDTH`] characters, indented as the rest of an item of a list.
fn wrapped(text: &str) -> String {
    let (mut lines, mut line) = (String::new(), String::new());
    for word in text.split_whitespace() {
        if !line.is_empty() && line.chars().count() + word.chars().count() >= WIDTH {
            lines.push_str(&format!("  {line}\n"));
            line.clear();
        }
        line.push_str(if line.is_empty() { "" } else { " " });
        line.push_str(word);
    }
    if !line.is_empty() {
        lines.push_str(&format!("  {line}\n"));
    }
    lines
}
