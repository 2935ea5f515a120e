//! The plan of one database: its steps, each with the settings that count for it, and the command line of each.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::fleet::file::{Section, Settings};
use crate::fleet::keys::{Keys, STORE, Step, Takes};
use crate::fleet::passwords;
use crate::fleet::value::Item;
use crate::format::layout;
use crate::notify::Notifier;
use crate::notify::target::When;
use crate::postgres::connect::conninfo::ConnInfo;
use crate::runs::select;

/// Flags whose value may hold a password, and so is never an argument.
const SECRET: [&str; 2] = ["database-url", "on"];
/// Variables of this program that would make something else of a step.
const BLANK: [&str; 7] = [
    "PGSTOW_CONFIG",
    "PGSTOW_JSON",
    "PGSTOW_DRY_RUN",
    "PGSTOW_ADOPT_PREFIX",
    "PGSTOW_NOTIFY",
    "PGSTOW_METRICS_FILE",
    "PGSTOW_PROMETHEUS",
];
/// The receivers of a database's notifications: once for all its steps, so it is no setting of a step.
const NOTIFY: &str = "notify";
/// The names that `{...}` may hold.
const PLACES: [&str; 3] = ["name", "server", "database"];

/// The way to a database.
#[derive(Debug, Clone)]
pub(crate) enum Url {
    Given(Item),
    /// As the server, but to this database of it.
    OnServer {
        server: Item,
        database: String,
    },
}

impl Url {
    /// The connection, its password included.
    ///
    /// # Errors
    /// A reference that leads nowhere, a connection string that makes no sense.
    async fn resolve(&self, settings: &[&Settings]) -> Result<ConnInfo> {
        match self {
            Self::Given(item) => connection(item, settings).await,
            Self::OnServer { server, database } => Ok(connection(server, settings).await?.with_database(database)),
        }
    }
}

/// The settings that name where passwords come from.
const PASSWORD_COMMAND: &str = "password-command";
const RDS_IAM: &str = "rds-iam";

/// The connection behind a connection string of the file; of the settings the nearest come first.
///
/// # Errors
/// A reference that leads nowhere, a connection string that makes no sense.
pub(crate) async fn connection(url: &Item, settings: &[&Settings]) -> Result<ConnInfo> {
    let named = |name: &str| settings.iter().find_map(|settings| settings.get(name)?.first());
    let variable = |name: &str| std::env::var(name).ok();
    let command = match named(PASSWORD_COMMAND) {
        Some(command) => Some(command.resolve().await?),
        None => variable("PGSTOW_PASSWORD_COMMAND"),
    };
    let rds_iam = match named(RDS_IAM) {
        Some(wanted) => *wanted == Item::Plain("true".to_owned()),
        None => variable("PGSTOW_RDS_IAM").is_some_and(|value| matches!(value.as_str(), "1" | "true" | "yes" | "on")),
    };
    let source = passwords::source(command.as_deref(), rds_iam)?;
    ConnInfo::resolve(Some(&url.resolve().await?))?.with_passwords(source)
}

/// One step, with its settings.
#[derive(Debug, Clone)]
pub(crate) struct Planned {
    pub(crate) step: Step,
    pub(crate) settings: Settings,
    pub(crate) every: Option<Duration>,
}

/// The steps and settings of one database.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    /// `billing`, or `server/database`.
    pub(crate) name: String,
    pub(crate) server: Option<String>,
    pub(crate) url: Url,
    /// The connection string of its server, where it has one: places for backups are taken there.
    pub(crate) server_url: Option<Item>,
    pub(crate) per_server: Option<u16>,
    pub(crate) store: String,
    pub(crate) steps: Vec<Planned>,
    env: BTreeMap<String, Item>,
}

/// A database of the file, or of a server.
pub(crate) struct Subject<'a> {
    pub(crate) name: &'a str,
    pub(crate) server: Option<&'a str>,
    pub(crate) database: &'a str,
    pub(crate) url: Url,
    pub(crate) server_url: Option<Item>,
    /// The sections that count, the nearest first.
    pub(crate) sections: Vec<&'a Section>,
}

impl Plan {
    /// Puts the settings of a database together.
    ///
    /// # Errors
    /// Kind `Usage`: no store; a rule that is missing.
    pub(crate) fn new(subject: Subject<'_>, keys: &Keys) -> Result<Self> {
        let sections = &subject.sections;
        let mut steps = Vec::new();
        for step in Step::ALL {
            let wish = sections.iter().find_map(|section| section.steps.get(&step));
            if step != Step::Backup && step != Step::Status && wish.is_none_or(|wish| !wish.wanted) {
                continue;
            }
            let mut settings = Settings::new();
            for section in sections.iter().rev() {
                let own = section.steps.get(&step).map(|wish| &wish.settings);
                let shared = section
                    .settings
                    .iter()
                    .filter(|(name, _)| keys.named(name).is_some_and(|key| key.steps.contains(&step)));
                for (name, values) in shared.chain(own.into_iter().flatten()) {
                    settings
                        .insert(name.clone(), values.iter().map(|item| placed(item, &subject)).collect::<Result<_>>()?);
                }
            }
            let every = sections.iter().find_map(|section| section.steps.get(&step)?.every);
            steps.push(Planned { step, settings, every });
        }
        let name = subject.name;
        let store = steps.first().and_then(|backup| backup.settings.get(STORE)?.first());
        let Some(Item::Plain(store)) = store.cloned() else {
            return Err(Error::usage(format!("{name}: no store")).hint(
                "store = \"s3://bucket/{name}\" in [defaults] says where the runs are kept, one prefix for each database",
            ));
        };
        if let Some(prune) = steps.iter().find(|planned| planned.step == Step::Prune)
            && !prune.settings.keys().any(|key| key.starts_with("keep-"))
        {
            return Err(Error::usage(format!("{name}, prune: no rule says what to keep"))
                .hint("set keep-daily, keep-weekly and keep-monthly, for example"));
        }
        let env = sections.iter().rev().flat_map(|section| section.env.clone()).collect();
        let per_server = sections.iter().find_map(|section| section.per_server);
        Ok(Self {
            name: name.to_owned(),
            server: subject.server.map(str::to_owned),
            url: subject.url,
            server_url: subject.server_url,
            per_server,
            store,
            steps,
            env,
        })
    }

    fn settings(&self) -> Vec<&Settings> {
        self.planned(Step::Backup).map(|planned| &planned.settings).into_iter().collect()
    }

    /// The connection of the database.
    ///
    /// # Errors
    /// A reference that leads nowhere, a connection string that makes no sense.
    pub(crate) async fn connection(&self) -> Result<ConnInfo> {
        self.url.resolve(&self.settings()).await
    }

    /// The connection of its server, where it has one.
    ///
    /// # Errors
    /// As [`Plan::connection`].
    pub(crate) async fn server_connection(&self) -> Result<Option<ConnInfo>> {
        match &self.server_url {
            Some(url) => connection(url, &self.settings()).await.map(Some),
            None => Ok(None),
        }
    }

    pub(crate) fn planned(&self, step: Step) -> Option<&Planned> {
        self.steps.iter().find(|planned| planned.step == step)
    }

    /// The receivers of this database's notifications.
    ///
    /// # Errors
    /// A reference that leads nowhere, an address that makes no sense.
    pub(crate) async fn notifier(&self) -> Result<Notifier> {
        let settings = self.planned(Step::Backup).map(|backup| &backup.settings);
        let values = |name: &str| settings.and_then(|settings| settings.get(name)).into_iter().flatten();
        let mut addresses = Vec::new();
        for item in values(NOTIFY) {
            addresses.push(item.resolve().await.map_err(|error| error.context(NOTIFY))?);
        }
        let all = values("notify-on").any(|item| *item == Item::Plain("all".to_owned()));
        Notifier::new(&addresses, if all { When::All } else { When::Problems })
    }

    /// The arguments of a step as far as they stand in the file; what is given by reference is left out.
    pub(crate) fn words(planned: &Planned, keys: &Keys) -> Vec<String> {
        let mut words = vec![planned.step.verb().to_owned()];
        for (name, items) in &planned.settings {
            let takes = keys.named(name).map_or(Takes::One, |key| key.takes);
            for item in items {
                match item {
                    Item::Plain(switch) if takes == Takes::Nothing => {
                        words.extend((switch == "true").then(|| format!("--{name}")));
                    }
                    Item::Plain(value) => words.push(format!("--{name}={value}")),
                    _ => {}
                }
            }
        }
        words
    }

    /// The arguments of a verb that has the settings of `step`, and the variables of its process, every reference
    /// resolved. Without a step of its own (`list`), the verb gets the settings of the store.
    ///
    /// # Errors
    /// A reference that leads nowhere.
    pub(crate) async fn call(&self, verb: &'static str, keys: &Keys) -> Result<Call> {
        let step = Step::ALL.into_iter().find(|step| step.verb() == verb);
        let planned = self.planned(step.unwrap_or(Step::Status));
        let mut call = Call { words: vec![verb.to_owned()], env: Vec::new() };
        call.env.extend(BLANK.map(|name| (name.to_owned(), String::new())));
        for (name, items) in planned.map(|planned| &planned.settings).into_iter().flatten() {
            let Some(key) = keys.named(name) else { continue };
            let of_all = key.steps.len() == Step::ALL.len();
            if (step.is_none() && !of_all) || name == NOTIFY {
                continue;
            }
            let mut values = Vec::new();
            for item in items {
                values.push(item.resolve().await.map_err(|error| error.context(format!("{}, {name}", self.name)))?);
            }
            let hidden = SECRET.contains(&name.as_str()) || items.iter().any(Item::is_reference);
            match (&key.variable, key.takes) {
                (variable, Takes::Nothing) => {
                    if values.iter().any(|value| value == "true") {
                        call.words.push(format!("--{name}"));
                    } else if let Some(variable) = variable {
                        call.env.push((variable.clone(), String::new()));
                    }
                }
                (Some(variable), _) if hidden => call.env.push((variable.clone(), values.join(","))),
                _ => call.words.extend(values.iter().map(|value| format!("--{name}={value}"))),
            }
        }
        if step == Some(Step::Backup) || verb == "doctor" {
            let info = self.connection().await.map_err(|error| error.context(&self.name))?;
            call.env.push(("PGSTOW_DATABASE_URL".to_owned(), info.words().reveal().to_owned()));
        }
        for (name, item) in &self.env {
            call.env.push((name.clone(), item.resolve().await.map_err(|error| error.context(&self.name))?));
        }
        Ok(call)
    }
}

/// The command line of a step.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) words: Vec<String>,
    /// May hold secrets.
    pub(crate) env: Vec<(String, String)>,
}

/// A value with the names of the database in the place of `{name}`, `{server}` and `{database}`, written so that they can
/// be part of a key.
fn placed(item: &Item, subject: &Subject<'_>) -> Result<Item> {
    let Item::Plain(text) = item else { return Ok(item.clone()) };
    let mut out = String::new();
    let mut rest = text.as_str();
    while let Some((before, after)) = rest.split_once('{') {
        out.push_str(before);
        let (name, behind) = after.split_once('}').unwrap_or((after, ""));
        let value = match name {
            "name" => match subject.name.split_once('/').filter(|_| subject.server.is_some()) {
                Some((server, database)) => format!("{}/{}", layout::segment(server), layout::segment(database)),
                None => layout::segment(subject.name),
            },
            "server" => layout::segment(subject.server.unwrap_or(subject.name)),
            "database" => layout::segment(subject.database),
            _ => {
                let near = select::nearest(name, &PLACES).join(" or ").replace('"', "");
                let error = Error::usage(format!("{}: {{{name}}} stands for nothing", subject.name));
                return Err(error.hint(if near.is_empty() {
                    "{name}, {server} and {database} stand for the names of the database".to_owned()
                } else {
                    format!("did you mean {{{near}}}?")
                }));
            }
        };
        out.push_str(&value);
        rest = behind;
    }
    out.push_str(rest);
    Ok(Item::Plain(out))
}
