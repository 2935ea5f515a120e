//! `pgstow.toml`: what may stand in it, and where. A key that is not known is an error with the nearest name: a misspelt
//! `encrypt` must not make backups that anybody can read.
//!
//! A section (`[defaults]`, a `[[server]]`, a `[[database]]`) holds settings of `backup` and of several steps; the settings
//! of one step alone stand in a table of its name (`[defaults.prune]`, `[database.drill]`). A database takes each setting
//! from its own section, else from that of its server, else from the defaults.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::error::{Error, Result};
use crate::fleet::keys::{ENV, EVERY, Keys, PER_SERVER, STORE, Step, Takes, URL, unknown};
use crate::fleet::value::Item;
use crate::postgres::connect::conninfo;

/// The file's name where none is given.
pub(crate) const NAME: &str = "pgstow.toml";

/// Settings, each with its values in the order of the file.
pub(crate) type Settings = BTreeMap<String, Vec<Item>>;

/// The contents of a step's table.
#[derive(Debug, Clone, Default)]
pub(crate) struct Wish {
    /// False for `verify = false`.
    pub(crate) wanted: bool,
    pub(crate) settings: Settings,
    pub(crate) every: Option<Duration>,
}

/// The settings of one section.
#[derive(Debug, Clone, Default)]
pub(crate) struct Section {
    pub(crate) settings: Settings,
    pub(crate) steps: BTreeMap<Step, Wish>,
    /// Variables for the processes of the database.
    pub(crate) env: BTreeMap<String, Item>,
    pub(crate) per_server: Option<u16>,
}

/// A `[[server]]`.
#[derive(Debug, Clone)]
pub(crate) struct Server {
    pub(crate) name: String,
    pub(crate) url: Item,
    pub(crate) all_databases: bool,
    /// Databases of it that are not saved, by their exact names.
    pub(crate) exclude: Vec<String>,
    pub(crate) section: Section,
}

/// A `[[database]]`.
#[derive(Debug, Clone)]
pub(crate) struct Database {
    pub(crate) name: String,
    /// `None`: the database of this name, on the server.
    pub(crate) url: Option<Item>,
    pub(crate) server: Option<String>,
    pub(crate) section: Section,
}

/// The whole file.
#[derive(Debug, Clone)]
pub(crate) struct File {
    pub(crate) path: PathBuf,
    pub(crate) defaults: Section,
    pub(crate) servers: Vec<Server>,
    pub(crate) databases: Vec<Database>,
}

impl File {
    /// Reads the file and checks every key of it.
    ///
    /// # Errors
    /// Kind `Usage`.
    pub(crate) fn read(path: &Path, keys: &Keys) -> Result<Self> {
        let shown = path.display();
        let text = std::fs::read_to_string(path).map_err(|error| {
            Error::usage(format!("read {shown}: {error}"))
                .hint("--config or PGSTOW_CONFIG names the file; `pgstow manual fleet` shows one")
        })?;
        // It names programs to run.
        if std::fs::metadata(path).is_ok_and(|meta| meta.permissions().mode() & 0o002 != 0) {
            return Err(Error::usage(format!("{shown} is not read: everybody can write to it"))
                .hint(format!("chmod o-w {shown}")));
        }
        Self::parse(path, &text, keys).map_err(|error| error.context(shown))
    }

    fn parse(path: &Path, text: &str, keys: &Keys) -> Result<Self> {
        let table: toml::Table = text.parse().map_err(|error: toml::de::Error| syntax(text, &error))?;
        let mut file = Self { path: path.to_owned(), defaults: Section::default(), servers: vec![], databases: vec![] };
        for (name, value) in &table {
            match (name.as_str(), value) {
                ("defaults", toml::Value::Table(table)) => {
                    file.defaults = section("[defaults]", table, keys, &[])?;
                }
                ("server", toml::Value::Array(list)) => {
                    file.servers = list.iter().map(|one| server(one, keys)).collect::<Result<_>>()?;
                }
                ("database", toml::Value::Array(list)) => {
                    file.databases = list.iter().map(|one| database(one, keys)).collect::<Result<_>>()?;
                }
                ("server" | "database", _) => {
                    return Err(Error::usage(format!("{name} stands in two brackets: [[{name}]]")));
                }
                ("defaults", _) => return Err(Error::usage("[defaults] is a table")),
                _ => return Err(unknown("at the top of the file", name, &["defaults", "server", "database"])),
            }
        }
        file.check()?;
        Ok(file)
    }

    /// Names that stand for two things, or for nothing.
    fn check(&self) -> Result<()> {
        let mut seen = std::collections::BTreeSet::new();
        let names = self.servers.iter().map(|one| &one.name).chain(self.databases.iter().map(|one| &one.name));
        for name in names {
            if !seen.insert(name) {
                return Err(Error::usage(format!("the name {name:?} stands twice")));
            }
        }
        for database in &self.databases {
            if let Some(server) = &database.server
                && !self.servers.iter().any(|one| one.name == *server)
            {
                let known: Vec<&str> = self.servers.iter().map(|one| one.name.as_str()).collect();
                return Err(unknown(&format!("[[database]] {}, server", database.name), server, &known));
            }
        }
        if self.servers.is_empty() && self.databases.is_empty() {
            return Err(Error::usage("the file names no [[database]] and no [[server]]"));
        }
        Ok(())
    }
}

/// A syntax error with its line, without the line's text: it may hold half a secret.
fn syntax(text: &str, error: &toml::de::Error) -> Error {
    let line = error.span().map(|span| text.bytes().take(span.start).filter(|byte| *byte == b'\n').count() + 1);
    let place = line.map(|line| format!("line {line}: ")).unwrap_or_default();
    Error::usage(format!("{place}{}", error.message().replace('\n', ", ")))
}

fn server(value: &toml::Value, keys: &Keys) -> Result<Server> {
    let table = value.as_table().ok_or_else(|| Error::usage("[[server]] is a table"))?;
    let name = name("[[server]]", table)?;
    let place = format!("[[server]] {name}");
    let section = section(&place, table, keys, &["name", URL, "all-databases", "exclude"])?;
    let texts = |key: &str| -> Result<Vec<String>> {
        let wrong = || Error::usage(format!("{place}, {key}: a list of names in quotes is wanted"));
        let Some(value) = table.get(key) else { return Ok(Vec::new()) };
        let list = value.as_array().ok_or_else(wrong)?;
        list.iter().map(|one| one.as_str().map(str::to_owned).ok_or_else(wrong)).collect()
    };
    let all_databases = match table.get("all-databases") {
        None => false,
        Some(value) => {
            value.as_bool().ok_or_else(|| Error::usage(format!("{place}, all-databases: true or false is wanted")))?
        }
    };
    let url = url(&place, table)?.ok_or_else(|| {
        Error::usage(format!("{place}: no url")).hint("url = { env = \"NAME\" } says how the server is reached")
    })?;
    Ok(Server { exclude: texts("exclude")?, name, url, all_databases, section })
}

fn database(value: &toml::Value, keys: &Keys) -> Result<Database> {
    let table = value.as_table().ok_or_else(|| Error::usage("[[database]] is a table"))?;
    let name = name("[[database]]", table)?;
    let place = format!("[[database]] {name}");
    let section = section(&place, table, keys, &["name", URL, "server"])?;
    let server = match table.get("server") {
        None => None,
        Some(toml::Value::String(server)) => Some(server.clone()),
        Some(_) => return Err(Error::usage(format!("{place}, server: a name in quotes is wanted"))),
    };
    let url = url(&place, table)?;
    if url.is_none() && server.is_none() {
        return Err(Error::usage(format!("{place}: no url"))
            .hint("url = { env = \"NAME\" } says how the database is reached; or name its [[server]]"));
    }
    Ok(Database { name, url, server, section })
}

fn name(place: &str, table: &toml::Table) -> Result<String> {
    let name = table.get("name").and_then(toml::Value::as_str).filter(|name| !name.trim().is_empty());
    let name = name.ok_or_else(|| Error::usage(format!("{place}: a name is wanted: name = \"...\"")))?;
    if name.starts_with('-') || name.chars().any(char::is_control) {
        return Err(Error::usage(format!("{place}: {name:?} cannot be a name")));
    }
    Ok(name.to_owned())
}

fn url(place: &str, table: &toml::Table) -> Result<Option<Item>> {
    let Some(value) = table.get(URL) else { return Ok(None) };
    let place = format!("{place}, {URL}");
    let item = Item::read(&place, value)?;
    refuse_secret(&place, &item)?;
    Ok(Some(item))
}

/// Refuses a connection string with a password in it.
fn refuse_secret(place: &str, item: &Item) -> Result<()> {
    match item {
        Item::Plain(text) if conninfo::holds_secret(text) => Err(Error::usage(format!(
            "{place}: a password stands in the file"
        ))
        .hint("secrets stand here by reference: { env = \"NAME\" }, { file = \"/path\" } or { command = [...] }")),
        _ => Ok(()),
    }
}

/// Reads a section; `own` are the keys that its kind has besides settings.
fn section(place: &str, table: &toml::Table, keys: &Keys, own: &[&str]) -> Result<Section> {
    let mut section = Section::default();
    for (name, value) in table {
        let place = || format!("{place}, {name}");
        if own.contains(&name.as_str()) {
            continue;
        }
        if name == ENV {
            section.env = variables(&place(), value, keys)?;
        } else if name == PER_SERVER {
            let number = value.as_integer().and_then(|number| u16::try_from(number).ok()).filter(|number| *number > 0);
            section.per_server =
                Some(number.ok_or_else(|| Error::usage(format!("{}: a number from 1 is wanted", place())))?);
        } else if let Some(step) = Step::of_table(name) {
            section.steps.insert(step, wish(&place(), step, value, keys)?);
        } else {
            let key = keys.named(name);
            if let Some(key) = key.filter(|key| !Keys::is_shared(key))
                && let Some(step) = key.steps.first()
            {
                return Err(Error::usage(format!("{}: it is a setting of {} alone", place(), step.verb()))
                    .hint(format!("put it into the table of that step, [defaults.{}] for example", step.verb())));
            }
            if key.is_none() {
                let mut known: Vec<&str> = keys.of_sections();
                known.extend(own);
                known.extend(Step::ALL.iter().filter(|step| **step != Step::Backup).map(|step| step.verb()));
                known.extend([ENV, PER_SERVER]);
                return Err(unknown(place().rsplit_once(", ").map_or("", |(place, _)| place), name, &known));
            }
            section.settings.insert(name.clone(), setting(&place(), name, value, keys)?);
        }
    }
    Ok(section)
}

fn wish(place: &str, step: Step, value: &toml::Value, keys: &Keys) -> Result<Wish> {
    let table = match value {
        toml::Value::Boolean(wanted) => return Ok(Wish { wanted: *wanted, ..Wish::default() }),
        toml::Value::Table(table) => table,
        _ => return Err(Error::usage(format!("{place}: true, false or a table of settings is wanted"))),
    };
    let mut wish = Wish { wanted: true, ..Wish::default() };
    for (name, value) in table {
        let here = format!("{place}.{name}");
        if name == EVERY && step.recurs() {
            let every = value.as_str().and_then(|text| humantime::parse_duration(text).ok());
            wish.every = Some(
                every.ok_or_else(|| Error::usage(format!("{here}: a duration like \"7d\" or \"12h\" is wanted")))?,
            );
        } else if keys.named(name).is_some_and(|key| key.steps.contains(&step)) && name != STORE {
            wish.settings.insert(name.clone(), setting(&here, name, value, keys)?);
        } else {
            return Err(unknown(place, name, &keys.of_step(step)));
        }
    }
    Ok(wish)
}

/// The values of a setting.
fn setting(place: &str, name: &str, value: &toml::Value, keys: &Keys) -> Result<Vec<Item>> {
    let takes = keys.named(name).map_or(Takes::One, |key| key.takes);
    let values = match (takes, value) {
        (Takes::Many, toml::Value::Array(list)) => {
            list.iter().map(|one| Item::read(place, one)).collect::<Result<Vec<_>>>()?
        }
        (Takes::Nothing, toml::Value::Boolean(_)) => vec![Item::read(place, value)?],
        (Takes::Nothing, _) => return Err(Error::usage(format!("{place}: true or false is wanted"))),
        (_, value) => vec![Item::read(place, value)?],
    };
    for item in &values {
        refuse_secret(place, item)?;
        let chats = ["hooks.slack.com", "discord.com", "discordapp.com"];
        if let Item::Plain(text) = item
            && name == "notify"
            && chats.iter().any(|chat| text.contains(chat))
        {
            return Err(Error::usage(format!("{place}: the address of a chat is a secret"))
                .hint("write { env = \"NAME\" } or { file = \"/path\" }"));
        }
    }
    Ok(values)
}

fn variables(place: &str, value: &toml::Value, keys: &Keys) -> Result<BTreeMap<String, Item>> {
    let table = value.as_table().ok_or_else(|| {
        Error::usage(format!("{place}: a table of variables is wanted"))
            .hint("[defaults.env] AWS_PROFILE = \"backups\"")
    })?;
    let mut variables = BTreeMap::new();
    for (name, value) in table {
        let item = Item::read(&format!("{place}.{name}"), value)?;
        let secret = ["SECRET", "PASSWORD", "TOKEN"].iter().any(|word| name.to_ascii_uppercase().contains(word));
        if secret && !item.is_reference() {
            return Err(Error::usage(format!("{place}.{name}: a secret stands in the file"))
                .hint(format!("write {name} = {{ env = \"NAME\" }} or {{ file = \"/path\" }}")));
        }
        let is_key = keys.0.iter().any(|key| key.variable.as_ref() == Some(name));
        if name.contains('=') || name.is_empty() || is_key {
            return Err(Error::usage(format!("{place}: {name:?} is no variable to set here"))
                .hint("settings of pgstow are keys of the section"));
        }
        variables.insert(name.clone(), item);
    }
    Ok(variables)
}
