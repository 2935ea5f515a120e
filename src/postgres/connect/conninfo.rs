//! Connection parameters as libpq reads them: URL, `key=value` words, environment, service file, password file.
//!
//! Passwords live in [`Secret`], whose `Debug` and `Display` show nothing, so that no log line or error can hold one
//! by accident. Errors about a connection string never quote it: what looks like a host may be half a password.
//!
//! One file, since the order in which the sources overrule each other is the thing to read here: libpq's, word by word.
//! Each source has a small parser; the files that they read are parsed in `environment` and `passfile`.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::PathBuf;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::postgres::connect::environment::Environment;
use crate::postgres::connect::one_server::OneServer;
use crate::postgres::connect::secret::Secret;
use crate::postgres::connect::{passfile, password};
use crate::sql::letters::{Letters, has_raw};

/// Environment variables that may hold a whole connection string, in the order of preference.
const URL_VARIABLES: [&str; 2] = ["DATABASE_URL", "SUPABASE_DB_URL"];

/// Parameters libpq knows, each with its environment variable (empty: none).
const PARAMETERS: [(&str, &str); 46] = [
    ("application_name", "PGAPPNAME"),
    ("channel_binding", "PGCHANNELBINDING"),
    ("client_encoding", "PGCLIENTENCODING"),
    ("connect_timeout", "PGCONNECT_TIMEOUT"),
    ("dbname", "PGDATABASE"),
    ("fallback_application_name", ""),
    ("gssdelegation", "PGGSSDELEGATION"),
    ("gssencmode", "PGGSSENCMODE"),
    ("gsslib", "PGGSSLIB"),
    ("host", "PGHOST"),
    ("hostaddr", "PGHOSTADDR"),
    ("keepalives", ""),
    ("keepalives_count", ""),
    ("keepalives_idle", ""),
    ("keepalives_interval", ""),
    ("krbsrvname", "PGKRBSRVNAME"),
    ("load_balance_hosts", "PGLOADBALANCEHOSTS"),
    ("max_protocol_version", "PGMAXPROTOCOLVERSION"),
    ("min_protocol_version", "PGMINPROTOCOLVERSION"),
    ("options", "PGOPTIONS"),
    ("passfile", "PGPASSFILE"),
    ("password", "PGPASSWORD"),
    ("port", "PGPORT"),
    ("replication", ""),
    ("require_auth", "PGREQUIREAUTH"),
    ("requirepeer", "PGREQUIREPEER"),
    ("requiressl", "PGREQUIRESSL"),
    ("service", "PGSERVICE"),
    ("ssl_max_protocol_version", "PGSSLMAXPROTOCOLVERSION"),
    ("ssl_min_protocol_version", "PGSSLMINPROTOCOLVERSION"),
    ("sslcert", "PGSSLCERT"),
    ("sslcertmode", "PGSSLCERTMODE"),
    ("sslcompression", "PGSSLCOMPRESSION"),
    ("sslcrl", "PGSSLCRL"),
    ("sslcrldir", "PGSSLCRLDIR"),
    ("sslkey", "PGSSLKEY"),
    ("sslkeylogfile", ""),
    ("sslmode", "PGSSLMODE"),
    ("sslnegotiation", "PGSSLNEGOTIATION"),
    ("sslpassword", ""),
    ("sslrootcert", "PGSSLROOTCERT"),
    ("sslsni", "PGSSLSNI"),
    ("target_session_attrs", "PGTARGETSESSIONATTRS"),
    ("tcp_user_timeout", ""),
    ("tty", ""),
    ("user", "PGUSER"),
];

/// Query parameters of other programs (Prisma, Supabase's dashboard) that are often found in a `DATABASE_URL`.
const FOREIGN: [&str; 9] = [
    "connection_limit",
    "pgbouncer",
    "pool_timeout",
    "schema",
    "socket_timeout",
    "statement_cache_size",
    "supa",
    "uselibpqcompat",
    "workaround",
];

/// Parameters of a connection, complete: host, port, user and database are always known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ConnInfo {
    words: BTreeMap<String, String>,
    secrets: BTreeMap<String, Secret>,
    /// Makes the password of each session.
    passwords: Option<password::Source>,
    own_money: bool,
    /// Its sessions evaluate what users wrote, with the database's own settings.
    restores: bool,
    server: OneServer,
    /// Silence of a session that owes an answer after which its backend is looked at.
    silence: Option<Duration>,
    /// True where nobody named a database: libpq then takes the role's name.
    is_database_assumed: bool,
}

/// True for a connection string with a password in it.
pub(crate) fn holds_secret(text: &str) -> bool {
    let mut info = ConnInfo {
        words: BTreeMap::new(),
        secrets: BTreeMap::new(),
        passwords: None,
        own_money: false,
        restores: false,
        server: OneServer::default(),
        silence: None,
        is_database_assumed: false,
    };
    let is_url = text.contains("://") || text.contains("password");
    is_url && (info.parse(text).is_err() && crate::error::without_secrets(text) != text || !info.secrets.is_empty())
}

/// `user@host:port/database`: what an error may say.
impl fmt::Display for ConnInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host = self.host();
        let (user, database) = (shown(self.user()), shown(self.database()));
        if host.contains(':') {
            write!(f, "{user}@[{host}]:{}/{database}", self.port())
        } else {
            write!(f, "{user}@{host}:{}/{database}", self.port())
        }
    }
}

impl ConnInfo {
    /// The parameters of `url` (a URL or `key=value` words), else of `DATABASE_URL`, else of `SUPABASE_DB_URL`; what
    /// these leave open comes from the service file, then from `PGHOST` and its siblings, then from `~/.pgpass`, then
    /// from libpq's defaults.
    ///
    /// # Errors
    /// A usage error for a string that is malformed, for an unknown parameter, or when no database is named anywhere.
    /// The string is never quoted.
    pub(crate) fn resolve(url: Option<&str>) -> Result<Self> {
        Self::resolve_with(url, &Environment::of_process())
    }

    fn resolve_with(url: Option<&str>, environment: &Environment) -> Result<Self> {
        let mut info = Self {
            words: BTreeMap::new(),
            secrets: BTreeMap::new(),
            passwords: None,
            own_money: false,
            restores: false,
            server: OneServer::default(),
            silence: None,
            is_database_assumed: false,
        };
        // An option with a variable that is not set must not lead to another database than was meant.
        if url.is_some_and(|text| text.trim().is_empty()) {
            return Err(Error::usage("the connection string is empty")
                .hint("is the variable set that it should come from? Leave the option out to use the environment"));
        }
        let from_variable = URL_VARIABLES.iter().find_map(|name| environment.get(name).map(|text| (*name, text)));
        match (url, from_variable) {
            (Some(text), _) => info.parse(text)?,
            (None, Some((name, text))) => info.parse(text).map_err(|error| error.context(name))?,
            (None, None)
                if ["PGHOST", "PGHOSTADDR", "PGSERVICE", "PGDATABASE"].iter().all(|n| environment.get(n).is_none()) =>
            {
                return Err(Error::usage("no database given").hint(
                    "set DATABASE_URL (or --database-url), for example postgres://user:password@host:5432/database",
                ));
            }
            (None, None) => {}
        }
        info.add_service(environment)?;
        for (key, variable) in PARAMETERS {
            if let Some(value) = environment.get(variable) {
                info.add(key, value);
            }
        }
        info.add_defaults(environment)?;
        info.add_password(environment);
        info.check()?;
        Ok(info)
    }

    /// Host name, address or socket folder; the first where several are given.
    #[must_use]
    pub(crate) fn host(&self) -> &str {
        self.first("host").or_else(|| self.first("hostaddr")).unwrap_or_default()
    }

    /// Port; the first where several are given.
    #[must_use]
    pub(crate) fn port(&self) -> u16 {
        self.first("port").and_then(|port| port.parse().ok()).unwrap_or(5432)
    }

    /// Role to connect as.
    #[must_use]
    pub(crate) fn user(&self) -> &str {
        self.get("user").unwrap_or_default()
    }

    /// Database to connect to.
    #[must_use]
    pub(crate) fn database(&self) -> &str {
        self.get("dbname").unwrap_or_default()
    }

    /// True where neither the connection string nor the environment names a database.
    #[must_use]
    pub(crate) const fn is_database_assumed(&self) -> bool {
        self.is_database_assumed
    }

    /// The same connection to another database of the server.
    #[must_use]
    pub(crate) fn with_database(&self, name: &str) -> Self {
        let mut other = self.clone();
        other.set("dbname", name);
        other.is_database_assumed = false;
        other
    }

    /// The same connection, whose sessions read and write amounts of `money` as database and role say, where `own`.
    #[must_use]
    pub(crate) fn with_own_money(&self, own: bool) -> Self {
        Self { own_money: own, ..self.clone() }
    }

    /// The same connection, whose sessions restore: what users of the database wrote is evaluated with its own settings.
    #[must_use]
    pub(crate) fn for_restoring(&self) -> Self {
        Self { restores: true, ..self.clone() }
    }

    /// True where sessions keep what the database's own settings decide in a restore.
    #[must_use]
    pub(crate) const fn restores(&self) -> bool {
        self.restores
    }

    /// True where amounts of `money` are written as database and role say.
    #[must_use]
    pub(crate) const fn own_money(&self) -> bool {
        self.own_money
    }

    /// The server that all sessions of this connection must reach.
    #[must_use]
    pub(crate) const fn server(&self) -> &OneServer {
        &self.server
    }

    /// The same connection, free to reach any server.
    #[must_use]
    pub(crate) fn to_any_server(&self) -> Self {
        Self { server: OneServer::default(), ..self.clone() }
    }

    /// The same connection, all of whose sessions are watched: after so long a silence of one that owes an answer, its
    /// backend is looked at.
    #[must_use]
    pub(crate) fn with_silence(&self, silence: Option<Duration>) -> Self {
        Self { silence, ..self.clone() }
    }

    /// The silence after which a session is looked at; `None` where its user does that, or nobody.
    #[must_use]
    pub(crate) const fn silence(&self) -> Option<Duration> {
        self.silence
    }

    /// The same connection with more startup options (`-c name=value`), which win over those that it has.
    #[must_use]
    pub(crate) fn with_options(&self, more: &str) -> Self {
        let mut other = self.clone();
        if !more.is_empty() {
            let own = self.get("options").map(|own| format!("{own} ")).unwrap_or_default();
            other.set("options", &format!("{own}{more}"));
        }
        other
    }

    /// A parameter by libpq's name; `None` when it is absent or a secret.
    #[must_use]
    pub(crate) fn get(&self, key: &str) -> Option<&str> {
        self.words.get(key).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// The password, if one is known.
    #[must_use]
    pub(crate) fn password(&self) -> Option<&Secret> {
        self.secrets.get("password")
    }

    /// The same connection, whose passwords come from there, again for each session and each program.
    ///
    /// # Errors
    /// Kind `Usage` where a token would go to a server at a distance in the clear.
    pub(crate) fn with_passwords(mut self, source: Option<password::Source>) -> Result<Self> {
        let is_token = matches!(source, Some(password::Source::Token(_))) && !self.host().starts_with('/');
        match self.get("sslmode") {
            Some("prefer") if is_token => self.set("sslmode", "require"),
            Some(mode @ ("allow" | "disable")) if is_token => {
                return Err(Error::usage(format!("sslmode={mode} would send a token in the clear"))
                    .hint("leave sslmode out, or say require, verify-ca or verify-full"));
            }
            _ => {}
        }
        self.passwords = source;
        Ok(self)
    }

    /// The same connection with the password of this moment, where one is made.
    ///
    /// # Errors
    /// A command that fails, or prints nothing; a token that cannot be made.
    pub(crate) async fn fresh(&self) -> Result<Self> {
        let mut fresh = self.clone();
        let (host, port, user) = (self.host().to_owned(), self.port(), self.user().to_owned());
        let made = match &self.passwords {
            None => return Ok(fresh),
            Some(password::Source::Command(line)) => {
                let database = self.database().to_owned();
                let variables =
                    [("PGHOST", host), ("PGPORT", port.to_string()), ("PGUSER", user), ("PGDATABASE", database)];
                password::ask(line, variables).await
            }
            Some(password::Source::Token(make)) => make(host, port, user).await,
        };
        fresh.set("password", &made.map_err(|error| error.context(format!("connect to {self}")))?);
        Ok(fresh)
    }

    /// One `ConnInfo` a host, in the order given: libpq tries each in turn.
    #[must_use]
    pub(crate) fn each_host(&self) -> Vec<Self> {
        let list = |key| self.get(key).map(|text| text.split(',').collect::<Vec<_>>()).unwrap_or_default();
        let (hosts, addresses, ports) = (list("host"), list("hostaddr"), list("port"));
        let count = hosts.len().max(addresses.len()).max(1);
        let one = |index: usize| {
            let mut info = self.clone();
            for (key, values) in [("host", &hosts), ("hostaddr", &addresses), ("port", &ports)] {
                let value = values.get(index).or_else(|| values.first().filter(|_| values.len() == 1));
                match value.filter(|value| !value.is_empty()) {
                    Some(value) => info.set(key, value),
                    None => _ = info.words.remove(key),
                }
            }
            info
        };
        (0..count).map(one).collect()
    }

    /// Environment for `pg_dump`, `pg_dumpall`, `pg_restore` and `psql`: every parameter, so that nothing secret
    /// stands in argv. To be set after the variables of [`Self::child_env_unset`] were removed.
    #[must_use]
    pub(crate) fn child_env(&self) -> Vec<(String, String)> {
        let mut variables: Vec<(String, String)> = Vec::new();
        for (key, variable) in PARAMETERS {
            // The service file was read already, and wins over the environment in libpq; encodings are arguments.
            if variable.is_empty() || ["service", "passfile", "client_encoding"].contains(&key) {
                continue;
            }
            let value = self.get(key).or_else(|| self.secrets.get(key).map(Secret::reveal));
            if let Some(value) = value {
                variables.push((variable.to_owned(), value.to_owned()));
            }
        }
        let missing = |variables: &[(String, String)], name: &str| !variables.iter().any(|(key, _)| key == name);
        for (name, value) in [("PGAPPNAME", "pgstow"), ("PGCONNECT_TIMEOUT", "15"), ("PGGSSENCMODE", "disable")] {
            if missing(&variables, name) {
                variables.push((name.to_owned(), value.to_owned()));
            }
        }
        variables
    }

    /// libpq's variables (and PGTZ and the like), to be removed from a child's environment before
    /// [`Self::child_env`] is added: one left over would change what the child connects to or prints.
    pub(crate) fn child_env_unset() -> impl Iterator<Item = &'static str> {
        let more = [
            "PGSERVICEFILE",
            "PGDATESTYLE",
            "PGTZ",
            "PGGEQO",
            "PG_COLOR",
            "DATABASE_URL",
            "SUPABASE_DB_URL",
            "PGSTOW_DATABASE_URL",
        ];
        PARAMETERS.into_iter().map(|(_, variable)| variable).filter(|variable| !variable.is_empty()).chain(more)
    }

    /// Gives a child process this connection: removes libpq's variables, then sets ours.
    pub(crate) fn apply(&self, command: &mut tokio::process::Command) {
        for name in Self::child_env_unset() {
            command.env_remove(name);
        }
        command.envs(self.child_env().into_iter().map(|(name, value)| (name, as_given(&value))));
    }

    /// The whole connection as `key=value` words, passwords included: for the environment of a process of our own.
    #[must_use]
    pub(crate) fn words(&self) -> Secret {
        let secrets = self.secrets.iter().map(|(key, secret)| (key, secret.reveal()));
        let all = self.words.iter().map(|(key, value)| (key, value.as_str())).chain(secrets);
        let quoted = |value: &str| value.replace('\\', "\\\\").replace('\'', "\\'");
        Secret(all.map(|(key, value)| format!("{key}='{}'", quoted(value))).collect::<Vec<_>>().join(" "))
    }

    fn first(&self, key: &str) -> Option<&str> {
        self.get(key).and_then(|text| text.split(',').next()).filter(|value| !value.is_empty())
    }

    pub(crate) fn set(&mut self, key: &str, value: &str) {
        if ["password", "sslpassword"].contains(&key) {
            self.secrets.insert(key.to_owned(), Secret(value.to_owned()));
        } else {
            self.words.insert(key.to_owned(), value.to_owned());
        }
    }

    /// Sets what was not set before.
    fn add(&mut self, key: &str, value: &str) {
        if !self.words.contains_key(key) && !self.secrets.contains_key(key) {
            self.set(key, value);
        }
    }

    fn parse(&mut self, text: &str) -> Result<()> {
        let text = text.trim();
        if let Some(rest) = text.strip_prefix("postgres://").or_else(|| text.strip_prefix("postgresql://")) {
            return self.parse_url(rest);
        }
        let scheme = text.split_once("://").map(|(scheme, _)| scheme);
        if scheme.is_some_and(|scheme| scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))) {
            return Err(Error::usage("the database URL does not begin with postgres:// or postgresql://")
                .hint("write it like postgres://user:password@host:5432/database"));
        }
        if !text.contains('=') {
            return Err(Error::usage("the connection string is neither a URL nor key=value words")
                .hint("write it like postgres://user:password@host:5432/database"));
        }
        self.parse_words(text)
    }

    /// Parses the text behind `postgres://`, by libpq's rules: the first `@` before a `/` ends the user and password.
    fn parse_url(&mut self, rest: &str) -> Result<()> {
        let (rest, fragment_free) = match rest.find(['@', '/']) {
            Some(at) if rest.get(at..=at) == Some("@") => {
                let (login, rest) = (rest.get(..at).unwrap_or_default(), rest.get(at + 1..).unwrap_or_default());
                match login.split_once(':') {
                    Some((user, password)) => {
                        self.set_decoded("user", user)?;
                        self.set_decoded("password", password)?;
                    }
                    None => self.set_decoded("user", login)?,
                }
                (rest, true)
            }
            _ => (rest, false),
        };
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (hosts, rest) = rest.split_at(end);
        if hosts.contains('@') {
            return Err(malformed("the database URL has more than one @ before the host"));
        }
        self.parse_hosts(hosts)?;
        let (path, query) = rest.split_once('?').map_or((rest, None), |(path, query)| (path, Some(query)));
        let name = path.strip_prefix('/').unwrap_or_default();
        if name.contains('@') {
            // Half a password, most likely: it had a slash in it.
            let what = if fragment_free { "the database name" } else { "what follows the first slash" };
            return Err(malformed(&format!("{what} of the database URL contains an @")));
        }
        if !name.is_empty() {
            self.set_decoded("dbname", name)?;
        }
        query.map_or(Ok(()), |query| self.parse_query(query))
    }

    fn parse_hosts(&mut self, text: &str) -> Result<()> {
        if text.is_empty() {
            return Ok(());
        }
        let (mut hosts, mut ports) = (Vec::new(), Vec::new());
        for part in text.split(',') {
            let (host, port) = if let Some(v6) = part.strip_prefix('[') {
                let (host, rest) =
                    v6.split_once(']').ok_or_else(|| malformed("an IPv6 host of the database URL lacks its ]"))?;
                match rest.strip_prefix(':') {
                    Some(port) => (host, port),
                    None if rest.is_empty() => (host, ""),
                    None => return Err(malformed("something follows the ] of the database URL's host")),
                }
            } else {
                part.split_once(':').unwrap_or((part, ""))
            };
            hosts.push(decode(host)?);
            ports.push(decode(port)?);
        }
        if hosts.iter().any(|host| !host.is_empty()) {
            self.set("host", &hosts.join(","));
        }
        if ports.iter().any(|port| !port.is_empty()) {
            let all = ports.iter().map(|port| if port.is_empty() { "5432" } else { port }).collect::<Vec<_>>();
            self.set("port", &all.join(","));
        }
        Ok(())
    }

    fn parse_query(&mut self, query: &str) -> Result<()> {
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let Some((key, value)) = pair.split_once('=') else {
                return Err(malformed("a query parameter of the database URL has no ="));
            };
            let (key, value) = (decode(key)?, decode(value)?);
            if key == "ssl" && value == "true" {
                self.set("sslmode", "require");
            } else if FOREIGN.contains(&key.as_str()) {
                tracing::debug!("query parameter {key} of the database URL is another program's and is ignored");
            } else {
                self.set_known(&key, &value)?;
            }
        }
        Ok(())
    }

    /// `key=value` words: values may stand in single quotes; a backslash takes the next character as it is.
    fn parse_words(&mut self, text: &str) -> Result<()> {
        let mut rest = text.chars().peekable();
        loop {
            while rest.next_if(|c| c.is_whitespace()).is_some() {}
            if rest.peek().is_none() {
                return Ok(());
            }
            let mut key = String::new();
            while let Some(c) = rest.next_if(|c| *c != '=' && !c.is_whitespace()) {
                key.push(c);
            }
            while rest.next_if(|c| c.is_whitespace()).is_some() {}
            if rest.next() != Some('=') {
                return Err(Error::usage("a word of the connection string has no =")
                    .hint("quote a value that has spaces: password='two words'"));
            }
            while rest.next_if(|c| c.is_whitespace()).is_some() {}
            let quoted = rest.next_if_eq(&'\'').is_some();
            let mut value = String::new();
            loop {
                match rest.next() {
                    Some('\\') => value.extend(rest.next()),
                    Some('\'') if quoted => break,
                    Some(c) if !quoted && c.is_whitespace() => break,
                    Some(c) => value.push(c),
                    None if quoted => {
                        return Err(Error::usage("a quoted value of the connection string is not closed"));
                    }
                    None => break,
                }
            }
            self.set_known(&key, &value)?;
        }
    }

    fn set_decoded(&mut self, key: &str, value: &str) -> Result<()> {
        self.set(key, &decode(value)?);
        Ok(())
    }

    fn set_known(&mut self, key: &str, value: &str) -> Result<()> {
        if PARAMETERS.iter().all(|(known, _)| *known != key) {
            // Not named: an unquoted password with a space and a = in it makes just such a "parameter".
            return Err(Error::usage("unknown parameter in the connection string")
                .hint("parameters are libpq's: host, port, user, password, dbname, sslmode, sslrootcert, ...")
                .hint("quote a value that has spaces: password='two words'")
                .hint(PERCENT));
        }
        self.set(key, value);
        Ok(())
    }

    fn add_service(&mut self, environment: &Environment) -> Result<()> {
        let Some(name) = self.get("service").or_else(|| environment.get("PGSERVICE")).map(str::to_owned) else {
            return Ok(());
        };
        let mut files: Vec<PathBuf> = environment.get("PGSERVICEFILE").map(PathBuf::from).into_iter().collect();
        if files.is_empty() {
            files.extend(environment.home().map(|home| home.join(".pg_service.conf")));
        }
        let system = environment.get("PGSYSCONFDIR").unwrap_or("/etc/postgresql-common");
        files.push(PathBuf::from(system).join("pg_service.conf"));
        for file in files {
            let Ok(text) = std::fs::read(&file) else { continue };
            let text = Letters::default().decode(&text);
            let mut lines = text.lines().map(str::trim);
            if !lines.any(|line| line == format!("[{name}]")) {
                continue;
            }
            for line in lines.take_while(|line| !line.starts_with('[')) {
                if line.is_empty() || line.starts_with('#') {
                    continue;
                }
                if let Some((key, value)) = line.split_once('=') {
                    self.add(key.trim(), value.trim());
                }
            }
            return Ok(());
        }
        Err(Error::usage(format!("no service {name:?} in the service files"))
            .hint("service files are PGSERVICEFILE, ~/.pg_service.conf and pg_service.conf of PGSYSCONFDIR"))
    }

    fn add_defaults(&mut self, environment: &Environment) -> Result<()> {
        if self.get("port").is_none() {
            self.set("port", "5432");
        }
        if self.get("host").is_none() && self.get("hostaddr").is_none() {
            let socket = format!(".s.PGSQL.{}", self.port());
            let folders = ["/var/run/postgresql", "/tmp"];
            let host = folders.into_iter().find(|folder| PathBuf::from(folder).join(&socket).exists());
            self.set("host", host.unwrap_or("localhost"));
        }
        if self.get("user").is_none() {
            let user = environment.user().ok_or_else(|| {
                Error::usage("no role to connect as").hint("name it in the database URL, or set PGUSER")
            })?;
            self.set("user", &user);
        }
        if self.get("dbname").is_none() {
            let user = self.user().to_owned();
            self.set("dbname", &user);
            self.is_database_assumed = true;
        }
        if self.get("sslmode").is_none() {
            let mode = match (self.get("requiressl"), self.get("sslrootcert")) {
                (Some("1"), _) => "require",
                (_, Some("system")) => "verify-full",
                _ => "prefer",
            };
            self.set("sslmode", mode);
        }
        self.words.remove("requiressl");
        Ok(())
    }

    /// Takes the password from the password file where none was given.
    fn add_password(&mut self, environment: &Environment) {
        let default = || environment.home().map(|home| home.join(".pgpass"));
        if self.password().is_none()
            && let Some(file) = self.get("passfile").map(PathBuf::from).or_else(default)
        {
            let (host, port, database, user) = (self.host(), self.port(), self.database(), self.user());
            if let Some(password) = passfile::password(&file, passfile::Wanted { host, port, database, user }) {
                self.set("password", &password);
            }
        }
    }

    fn check(&self) -> Result<()> {
        for port in self.get("port").unwrap_or_default().split(',').filter(|port| !port.is_empty()) {
            if !port.parse::<u16>().is_ok_and(|port| port > 0) {
                return Err(malformed("the port of the connection string is not a number from 1 to 65535"));
            }
        }
        let hosts = self.get("host").unwrap_or_default();
        if hosts.contains(['@', ' ']) && !hosts.starts_with('/') {
            return Err(malformed("the host of the connection string is not a host name"));
        }
        for (key, allowed) in [
            ("sslmode", &["disable", "allow", "prefer", "require", "verify-ca", "verify-full"][..]),
            ("sslnegotiation", &["postgres", "direct"][..]),
            ("channel_binding", &["disable", "prefer", "require"][..]),
            ("gssencmode", &["disable", "prefer", "require"][..]),
            ("sslcertmode", &["disable", "allow", "require"][..]),
            ("ssl_min_protocol_version", &TLS_VERSIONS[..]),
            ("ssl_max_protocol_version", &TLS_VERSIONS[..]),
            ("load_balance_hosts", &["disable", "random"][..]),
            ("target_session_attrs", &["any", "read-write", "read-only", "primary", "standby", "prefer-standby"][..]),
        ] {
            if let Some(value) = self.get(key)
                && !allowed.contains(&value)
            {
                return Err(Error::usage(format!("{key} of the connection is none of {}", allowed.join(", "))));
            }
        }
        if self.get("sslrootcert") == Some("system") && self.get("sslmode") != Some("verify-full") {
            return Err(Error::usage("sslrootcert=system needs sslmode=verify-full"));
        }
        self.check_guards()
    }

    /// Refuses words that guard a connection in a way that sessions of ours cannot: they must not be ignored.
    fn check_guards(&self) -> Result<()> {
        let refused = |what: &str, hint: &str| Err(Error::usage(what).hint(hint));
        // With channel binding the driver itself takes nothing but SCRAM.
        let bound = self.get("channel_binding") == Some("require");
        if let Some(methods) = self.get("require_auth")
            && !(bound && methods == "scram-sha-256")
        {
            return refused(
                "require_auth of the connection cannot be enforced in this form",
                "the form that can: require_auth=scram-sha-256 with channel_binding=require and sslmode=require or stronger; or verify the server by sslmode=verify-full and leave require_auth out",
            );
        }
        if self.get("gssencmode") == Some("require") {
            return refused(
                "gssencmode=require: GSSAPI is not supported",
                "encrypt the connection by TLS: sslmode=verify-full",
            );
        }
        if self.get("sslcertmode") == Some("require") {
            return refused(
                "sslcertmode=require cannot be enforced",
                "use sslcertmode=allow: a certificate that the server asks for is sent",
            );
        }
        if matches!(self.get("ssl_max_protocol_version"), Some("TLSv1" | "TLSv1.1")) {
            return refused("TLS below 1.2 is not supported", "raise ssl_max_protocol_version, or leave it out");
        }
        if self.get("min_protocol_version").is_some_and(|version| version != "3.0") {
            return refused(
                "min_protocol_version: sessions speak protocol 3.0",
                "leave min_protocol_version out, or say 3.0",
            );
        }
        if self.get("replication").is_some_and(|value| !["false", "off", "no", "0"].contains(&value)) {
            return refused("replication of the connection: a backup needs ordinary sessions", "leave replication out");
        }
        Ok(())
    }
}

/// A word of a connection as it was given, byte for byte.
pub(crate) fn as_given(word: &str) -> OsString {
    OsString::from_vec(Letters::default().encode(word).unwrap_or_else(|_never| word.as_bytes().to_vec()))
}

/// A word of a connection as a message can show it: bytes that are no UTF-8 in percent signs, as in a URL.
fn shown(word: &str) -> Cow<'_, str> {
    if !has_raw(word) {
        return Cow::Borrowed(word);
    }
    let percent =
        |bytes: &[u8]| percent_encoding::percent_encode(bytes, percent_encoding::NON_ALPHANUMERIC).to_string();
    Cow::Owned(percent(as_given(word).as_bytes()))
}

/// Versions of TLS by libpq's names.
const TLS_VERSIONS: [&str; 4] = ["TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3"];

const PERCENT: &str =
    "a password with special characters (@ / : ? # % &) must be percent-encoded in a URL: @ is %40, / is %2F, % is %25";

fn malformed(what: &str) -> Error {
    Error::usage(what).hint(PERCENT)
}

/// Percent-decodes; every `%` must begin two hex digits, the result must be without a NUL.
fn decode(text: &str) -> Result<String> {
    let bytes = text.as_bytes();
    let whole = bytes
        .iter()
        .enumerate()
        .filter(|(_, byte)| **byte == b'%')
        .all(|(at, _)| bytes.get(at + 1..at + 3).is_some_and(|hex| hex.iter().all(u8::is_ascii_hexdigit)));
    if !whole {
        return Err(malformed("the database URL has a % that does not begin two hex digits"));
    }
    // Names are bytes to the server: those that are not UTF-8 travel as they were given.
    let decoded = Letters::default().decode(&percent_encoding::percent_decode_str(text).collect::<Vec<u8>>());
    if decoded.contains('\0') {
        return Err(malformed("the database URL contains %00"));
    }
    Ok(decoded)
}

#[cfg(test)]
mod tests;
