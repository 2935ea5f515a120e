//! A probe's findings, judged for backups.

use crate::doctor::findings::Report;
use crate::error::Error;
use crate::human;
use crate::store::Store;
use crate::store::config::{Checksums, Config};
use crate::store::probe::{Ability, Probe, Seen};

const AREA: &str = "store";

/// Room below which a directory store is called full, whatever the database's size.
const LEAST_FREE: u64 = 64 << 20;

/// S3 refuses requests whose clock is off by more than 15 minutes.
const REFUSED_AHEAD: i64 = 15 * 60;
/// Worth a look long before.
const NOTED_AHEAD: i64 = 60;

/// Judges a probe. `size`: bytes of the database's tables, where they are known.
pub(crate) fn judge(store: &Store, config: &Config, probe: &Probe, size: Option<u64>, report: &mut Report) {
    transport(store, probe, report);
    clock(probe, report);
    for ability in &probe.abilities {
        judge_ability(ability, probe, config, report);
    }
    if let Some(disk) = probe.disk {
        let room = format!("{} free of {}", human::size(disk.free_bytes), human::size(disk.total_bytes));
        let cure = || ["free some space there, or choose another --store".to_owned()];
        match size {
            _ if disk.free_bytes < LEAST_FREE => report.error(AREA, "disk", room, cure()),
            Some(size) if disk.free_bytes < size => {
                let text = format!(
                    "{room}; the database's tables have {}, and both forms of a backup together are often half of that",
                    human::size(size)
                );
                report.warn(AREA, "disk", text, cure());
            }
            _ => report.ok(AREA, "disk", room),
        }
    }
}

fn transport(store: &Store, probe: &Probe, report: &mut Report) {
    let Some(endpoint) = store.endpoint() else { return };
    let server = probe.server.as_deref().map(|server| format!(", server {server}")).unwrap_or_default();
    let text = format!("{endpoint}{server}");
    let host = endpoint.split("://").nth(1).unwrap_or_default();
    let local = ["127.", "localhost", "[::1]"].iter().any(|sign| host.starts_with(sign)) || host.contains(".localhost");
    if endpoint.starts_with("http://") && !local {
        let cure = "use an https:// endpoint, unless the network is trusted".to_owned();
        report.warn(AREA, "endpoint", format!("{text}: not encrypted"), [cure]);
    } else {
        report.ok(AREA, "endpoint", text);
    }
}

fn clock(probe: &Probe, report: &mut Report) {
    let Some(ahead) = probe.clock_ahead_seconds else { return };
    let text = match ahead {
        -2..=2 => "this machine's clock and the store's agree".to_owned(),
        ahead if ahead > 0 => format!("this machine's clock is {ahead} s behind the store's"),
        ahead => format!("this machine's clock is {} s ahead of the store's", -ahead),
    };
    let cure = "set this machine's clock by NTP; stores refuse requests that are 15 minutes off".to_owned();
    match ahead.abs() {
        off if off >= REFUSED_AHEAD => report.error(AREA, "clock", text, [cure]),
        off if off >= NOTED_AHEAD => report.warn(AREA, "clock", text, [cure]),
        _ => report.ok(AREA, "clock", text),
    }
}

/// One ability: what a backup cannot do without is an error, what costs comfort is a warning, the rest is only
/// reported.
fn judge_ability(ability: &Ability, probe: &Probe, config: &Config, report: &mut Report) {
    let (name, detail) = (ability.name, ability.detail.clone());
    let hints = ability.error.iter().flat_map(Error::hints).cloned();
    if ability.seen != Seen::No {
        let detail = if ability.seen == Seen::Unknown { format!("not known: {detail}") } else { detail };
        return report.ok(AREA, name, detail);
    }
    if ability.denied {
        let good = match name {
            "read" => "whoever steals it reads no backup; `verify` and `restore` need another key".to_owned(),
            "delete" => format!("whoever steals it can't delete backups{}; `prune` needs another key", replaced(probe)),
            _ => "a backup needs it only after a lost connection; `prune` needs another key".to_owned(),
        };
        return report.ok(AREA, name, format!("{detail}: {good}"));
    }
    match name {
        "reach" | "put" | "read" | "range" | "list" | "key-characters" | "multipart" => {
            report.error(AREA, name, detail, hints);
        }
        "object-lock" if config.lock_mode.is_some() => {
            let cure = "make the bucket with Object Lock, or leave --s3-object-lock-mode out: it would protect nothing";
            report.error(AREA, name, detail, hints.chain([cure.to_owned()]));
        }
        "encryption" => {
            let cure = "the store does not say that it encrypts: ask its provider, or leave --s3-sse out";
            report.warn(AREA, name, detail, [cure.to_owned()]);
        }
        "checksum-headers" if config.checksums == Checksums::WhenSupported => {
            report.error(AREA, name, detail, ["leave --s3-checksums out".to_owned()]);
        }
        "content-md5" if config.content_md5 => {
            report.error(AREA, name, detail, ["leave --s3-content-md5 out".to_owned()]);
        }
        "max-parts" if config.max_parts > 1_000 => {
            let text = format!("{detail}, one numbered 10000 is not");
            report.warn(AREA, name, text, ["set --s3-max-parts 1000, or what the provider says".to_owned()]);
        }
        "abort" => {
            report.warn(AREA, name, detail, hints.chain([lifecycle("an upload that fails stays and costs money")]));
        }
        "list-uploads" => report.warn(
            AREA,
            name,
            detail,
            hints.chain([lifecycle("`prune` can't find uploads that a killed run left")]),
        ),
        "delete" => report.warn(AREA, name, detail, hints),
        "if-none-match" | "if-match" => {
            let text = format!("{detail}; `latest` is compared before and checked after it moves instead");
            report.ok(AREA, name, text);
        }
        _ => report.ok(AREA, name, detail),
    }
}

/// The harm that a key that writes can do to objects that are there, though it may not delete.
fn replaced(probe: &Probe) -> &'static str {
    if probe.seen("object-lock") == Seen::Yes {
        ", but it can put other objects before them: the old versions stay, and locked ones cannot be deleted by anybody"
    } else if probe.seen("versioning") == Seen::Yes {
        ", but it can put other objects before them: the old versions stay"
    } else if probe.seen("if-none-match") == Seen::Yes {
        ", but it can overwrite them, unless its policy demands If-None-Match of whatever it writes below runs/"
    } else {
        ", but it can overwrite them: this store knows no condition that would prevent that"
    }
}

fn lifecycle(why: &str) -> String {
    format!("{why}: have the bucket abort unfinished uploads after a week (a lifecycle rule)")
}
