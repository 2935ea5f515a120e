//! The password file (`~/.pgpass`, `PGPASSFILE`): one `host:port:database:user:password` a line.

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use crate::postgres::connect::conninfo::{ConnInfo, Environment};

/// Gives a connection without a password the first one of the file that matches, by libpq's rules: `*` matches all,
/// a backslash takes the next character as it is, a socket counts as `localhost`, a file that others may read is
/// ignored with a warning.
pub(crate) fn complete(info: &mut ConnInfo, environment: &Environment) {
    if info.password().is_some() {
        return;
    }
    let file = match info.get("passfile").map(PathBuf::from).or_else(|| Some(environment.home()?.join(".pgpass"))) {
        Some(file) if file.is_file() => file,
        _ => return,
    };
    // None of the six bits for group and others.
    let private = std::fs::metadata(&file).is_ok_and(|meta| meta.permissions().mode().trailing_zeros() >= 6);
    if !private {
        tracing::warn!("{} is ignored: others may read it (chmod 600 cures that)", file.display());
        return;
    }
    let Ok(text) = std::fs::read_to_string(&file) else {
        tracing::warn!("{} cannot be read and is ignored", file.display());
        return;
    };
    if let Some(password) = find(&text, info) {
        info.set("password", &password);
    }
}

fn find(text: &str, info: &ConnInfo) -> Option<String> {
    let host = if info.host().starts_with('/') { "localhost" } else { info.host() };
    let port = info.port().to_string();
    let wanted = [host, &port, info.database(), info.user()];
    text.lines().filter(|line| !line.starts_with('#')).find_map(|line| {
        let fields = split(line);
        let matches = wanted.iter().zip(&fields).all(|(want, (field, star))| *star || want == field);
        (fields.len() == 5 && matches).then(|| fields.into_iter().nth(4).map(|(password, _)| password)).flatten()
    })
}

/// The fields of a line, at most five, unescaped; `true` marks a bare `*`.
fn split(line: &str) -> Vec<(String, bool)> {
    let mut fields = vec![String::new()];
    let mut stars = Vec::new();
    let mut chars = line.chars();
    let mut raw = String::new();
    while let Some(c) = chars.next() {
        match c {
            ':' if fields.len() < 5 => {
                stars.push(raw == "*");
                raw.clear();
                fields.push(String::new());
            }
            _ => {
                raw.push(c);
                let kept = if c == '\\' { chars.next() } else { Some(c) };
                if let (Some(field), Some(kept)) = (fields.last_mut(), kept) {
                    field.push(kept);
                }
            }
        }
    }
    stars.push(false);
    fields.into_iter().zip(stars).collect()
}
