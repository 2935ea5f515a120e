//! The password file (`~/.pgpass`, `PGPASSFILE`): one `host:port:database:user:password` a line.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use crate::sql::letters::Letters;

/// The connection that a line of the file has to match.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted<'a> {
    /// Host name, address or socket folder.
    pub(crate) host: &'a str,
    pub(crate) port: u16,
    pub(crate) database: &'a str,
    pub(crate) user: &'a str,
}

/// Finds the password of the first line that matches, by libpq's rules: `*` matches all, a backslash takes the next
/// character as it is, a socket counts as `localhost`, a file that others may read is ignored with a warning.
pub(crate) fn password(file: &Path, wanted: Wanted<'_>) -> Option<String> {
    if !file.is_file() {
        return None;
    }
    // None of the six bits for group and others.
    let private = std::fs::metadata(file).is_ok_and(|meta| meta.permissions().mode().trailing_zeros() >= 6);
    if !private {
        tracing::warn!("{} is ignored: others may read it (chmod 600 cures that)", file.display());
        return None;
    }
    let Ok(text) = std::fs::read(file) else {
        tracing::warn!("{} cannot be read and is ignored", file.display());
        return None;
    };
    find(&Letters::default().decode(&text), wanted)
}

fn find(text: &str, wanted: Wanted<'_>) -> Option<String> {
    let host = if wanted.host.starts_with('/') { "localhost" } else { wanted.host };
    let port = wanted.port.to_string();
    let wanted = [host, &port, wanted.database, wanted.user];
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
